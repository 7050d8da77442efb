"""How work is cut up: micro-batches, threads, pieces, packing. It must change nothing but the time and the memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cases
import lrpfast
import seeds
from lrpfast import layers as L  # noqa: N812
from lrpfast import rules
from lrpfast.kernels import _cpu, cpu

RNG = seeds.generator(7)
DATA = Path(__file__).parent / "data"

memory = pytest.mark.skipif("LRPFAST_SANITIZED" in os.environ, reason="a sanitizer keeps memory of its own")


def w(*shape):
    return (RNG.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)


def images():
    """A network whose samples need more than a megabyte each, so that threads share its micro-batches."""
    graph = lrpfast.Graph()
    x = graph.input((72, 72, 3))
    a = graph.add(L.Conv(w(5, 5, 3, 16), w(16), strides=2, padding="same", activation="relu"), x)
    b = graph.add(L.DepthwiseConv(w(3, 3, 16, 1), w(16), padding="same", activation="relu"), a)
    b = graph.add(L.Conv(w(3, 3, 16, 40), w(40), padding="same", activation="relu"), b)
    c = graph.add(L.Conv(w(1, 1, 16, 40), w(40)), a)
    d = graph.add(L.Activation("relu"), graph.add(L.Add(), b, c))
    d = graph.add(L.MaxPool((3, 3), strides=2), d)
    d = graph.add(L.Conv(w(3, 3, 20, 70), w(70), groups=2, activation="relu"), d)
    d = graph.add(L.GlobalAveragePool(), d)
    return graph.model(graph.add(L.Dense(w(70, 5), w(5)), d))


IMAGES = images()
PIXELS = RNG.uniform(-1, 1, size=(5, 72, 72, 3)).astype(np.float32)


@pytest.fixture
def shared(monkeypatch):
    """Every program, however small, is shared by all threads operation by operation."""
    monkeypatch.setattr(cpu, "CACHE_BYTES", 1)
    monkeypatch.setattr(cpu, "WORKSPACE_BYTES", 1)
    monkeypatch.setattr(cpu, "FLOPS_PER_THREAD", 1)


@pytest.mark.parametrize("precision", ["float32", "float64", "tf32"])
@pytest.mark.parametrize("rule", ["epsilon", "alpha_beta", "gamma", "w_square", rules.ZBox(-1, 1)], ids=str)
def test_large_samples_in_any_batch_and_with_any_threads(rule, precision):
    composite = rule if isinstance(rule, str) else lrpfast.composites.Uniform(rules.ZPlus(), rule)
    whole = lrpfast.Analyzer(IMAGES, composite, precision=precision, threads=1).analyze(PIXELS)
    for threads in (2, 3, 7):
        analyzer = lrpfast.Analyzer(IMAGES, composite, precision=precision, threads=threads)
        assert analyzer.analyze(PIXELS).tobytes() == whole.tobytes(), threads
        for i in (0, 4):
            assert analyzer.analyze(PIXELS[i : i + 1]).tobytes() == whole[i : i + 1].tobytes(), (threads, i)
    several = lrpfast.Analyzer(IMAGES, composite, precision=precision, threads=2).analyze(
        PIXELS[:2], target=np.array([[0, 3], [1, 1]])
    )
    one = lrpfast.Analyzer(IMAGES, composite, precision=precision, threads=1).analyze(PIXELS[:2], target=[3, 1])
    assert np.ascontiguousarray(several[:, 1]).tobytes() == one.tobytes()


@pytest.mark.parametrize("size", [(30_000,), (22, 26, 24)], ids=str)
def test_threads_share_every_pass_over_one_sample(size):
    """Overlapping windows and passes value by value are cut into parts of a sample."""
    n = len(size)
    graph = lrpfast.Graph()
    a = graph.add(L.Conv(w(*(3,) * n, 2, 8), w(8), strides=2), graph.input((*size, 2)))
    b = graph.add(L.Activation("elu"), graph.add(L.MaxPool((3,) * n, strides=1), a))
    c = graph.add(L.Activation("relu"), graph.add(L.Add(), b, graph.add(L.DepthwiseConv(w(*(1,) * n, 8, 1)), b)))
    model = graph.model(graph.add(L.Dense(w(8, 3)), graph.add(L.GlobalAveragePool(), c)))
    x = RNG.uniform(-1, 1, size=(1, *size, 2)).astype(np.float32)
    one, *others = (lrpfast.Analyzer(model, "epsilon", threads=t).analyze(x).tobytes() for t in (1, 2, 3, 16))
    assert all(other == one for other in others)


@pytest.mark.parametrize("name", ["cnn", "cnn_bn_avg", "conv1d", "branch_concat", "resnet_add", "mlp_tanh"])
def test_every_operation_can_be_shared(name, shared):
    model = lrpfast.load(DATA / f"{name}.h5")
    shapes = model.input_shape if isinstance(model.input_shape, list) else [model.input_shape]
    xs = [RNG.normal(size=(5, *shape)).astype(np.float32) for shape in shapes]
    x = xs if len(xs) > 1 else xs[0]
    for rule in ("epsilon", "epsilon_alpha2_beta1", "gamma"):
        results = [lrpfast.Analyzer(model, rule, threads=n).analyze(x) for n in (1, 2, 3)]
        for other in results[1:]:
            assert np.asarray(other).tobytes() == np.asarray(results[0]).tobytes(), rule


@pytest.mark.parametrize("kv_heads, lead", [(6, ()), (2, ()), (1, ()), (3, (2,))])
@pytest.mark.parametrize("rule", ["attn_lrp", "cp_lrp"])
def test_threads_share_the_heads_of_one_sample(rule, kv_heads, lead, shared):
    graph, rows = lrpfast.Graph(), (*lead, 50, 12)
    x = graph.input(rows)
    q, k, v = (graph.add(L.Dense(w(12, n), w(n)), x) for n in (24, kv_heads * 4, kv_heads * 4))
    attention = L.Attention(6, kv_heads=kv_heads, window=(None, 0))
    model = graph.model(graph.add(L.Dense(w(24, 3)), graph.add(attention, q, k, v)))
    x = RNG.normal(size=(2, *rows)).astype(np.float32)
    for precision in ("float32", "float64"):
        results = [
            lrpfast.Analyzer(model, rule, target=0, threads=n, precision=precision, device="cpu").analyze(x[:samples])
            for n, samples in ((1, 1), (2, 1), (3, 1), (5, 2))
        ]
        for other in results[1:]:
            assert other[:1].tobytes() == results[0].tobytes()
    with np.errstate(over="ignore"), pytest.raises(lrpfast.InputError, match="overflows"):
        lrpfast.Analyzer(model, rule, target=0, threads=3, device="cpu").analyze(x[:1] * np.float32(1e30))


def test_a_fault_is_found_when_threads_share(shared):
    model = lrpfast.load(DATA / "cnn.h5")
    x = RNG.normal(size=(6, *model.input_shape)).astype(np.float32)
    x[4].flat[3] = np.inf
    with pytest.raises(lrpfast.InputError, match=r"x\[4, 0, 1, 0\] is inf"):
        lrpfast.Analyzer(model, "epsilon", threads=3).analyze(x)


# With more outputs than `many_k` takes, whose sums have another order.
@pytest.mark.parametrize("precision", ["float32", "float64", "tf32"])
@pytest.mark.parametrize("sizes", [(300, 260, 19), (700, 70, 40, 17), (65, 1025, 18)], ids=str)
def test_weights_packed_while_in_use_give_the_same_bits(sizes, precision, monkeypatch):
    model = cases.model(cases.network(sizes, "relu"))
    x = cases.inputs(201, sizes[0])
    monkeypatch.setitem(_cpu.PRODUCTS_FROM, "weights", 1 << 40)  # layers that large are not done on tile registers
    monkeypatch.setitem(_cpu.PRODUCTS_FROM, "weights_of_one_row", 1 << 40)
    monkeypatch.setitem(_cpu.SPARSE_FROM, "depth", 1 << 40)  # nor by the kernels for rows of zeros
    found = []
    for limit in (1 << 40, 0):
        monkeypatch.setattr(_cpu, "LAZY_BYTES", limit)
        for rule in ("epsilon", "alpha_beta", "gamma"):
            found.append(lrpfast.Analyzer(model, rule, precision=precision, threads=2).analyze(x).tobytes())
    assert found[:3] == found[3:]


@memory
def test_large_weights_are_not_kept_twice():
    """One copy, the model's own, serves both directions and both signs."""
    script = """
import numpy as np, lrpfast
def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
kernel = np.zeros((6000, 2000), np.float32)
kernel += np.float32(0.01)
model = lrpfast.from_layers([lrpfast.layers.Dense(kernel), lrpfast.layers.Dense(np.ones((2000, 2), np.float32))])
before = anonymous()
analyzer = lrpfast.Analyzer(model, "alpha_beta", device="cpu", threads=1)
analyzer.analyze(np.ones((2, 6000), np.float32))
print(anonymous() - before)
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's /proc to see memory")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 24_000  # KiB; the kernel has 47,000


def test_memory_budgets_change_nothing():
    whole = lrpfast.Analyzer(IMAGES, "alpha_beta", threads=2).analyze(PIXELS)
    for memory in (8 << 20, 20 << 20, 1 << 30):
        analyzer = lrpfast.Analyzer(IMAGES, "alpha_beta", threads=2, memory=memory)
        assert analyzer.analyze(PIXELS).tobytes() == whole.tobytes(), memory
    with pytest.raises(lrpfast.InputError, match="memory=100,000 bytes is too little"):
        lrpfast.Analyzer(IMAGES, "alpha_beta", memory=100_000).analyze(PIXELS)


@memory
def test_many_calls_allocate_nothing_that_stays():
    """Neither Python's memory nor the process's grows once an analyzer has run."""
    script = """
import gc, tracemalloc, numpy as np, lrpfast
rng = np.random.default_rng(0)
w = lambda n, m: rng.normal(size=(n, m)).astype(np.float32)
D = lrpfast.layers.Dense
model = lrpfast.from_layers([D(w(20, 30), activation="relu"), D(w(30, 4))])
analyzer = lrpfast.Analyzer(model, "alpha_beta", threads=2)
x = [rng.normal(size=(n, 20)).astype(np.float32) for n in (1, 7, 300)]
def calls(n):
    for i in range(n):
        analyzer.analyze(x[i % 3])
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
calls(300)
before = resident()
calls(30_000)
grown = resident() - before
tracemalloc.start()
calls(30); gc.collect()
first = tracemalloc.get_traced_memory()[0]
calls(900); gc.collect()
print(grown, tracemalloc.get_traced_memory()[0] - first)
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's /proc to see memory")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    resident, traced = map(int, done.stdout.split())
    assert resident < 1024 and traced < 4096, (resident, traced)  # KiB, bytes


# How many threads.


@pytest.fixture
def default_threads():
    yield
    lrpfast.set_num_threads(None)


def test_set_num_threads(default_threads):
    lrpfast.set_num_threads(3)
    assert lrpfast.get_num_threads() == 3
    analyzer = lrpfast.Analyzer(IMAGES, "epsilon")
    three = analyzer.analyze(PIXELS).tobytes()
    lrpfast.set_num_threads(1)  # analyzers made before follow too
    assert analyzer.analyze(PIXELS).tobytes() == three
    lrpfast.set_num_threads(None)
    assert lrpfast.get_num_threads() >= 1


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_wrong_thread_counts(threads, default_threads):
    with pytest.raises(lrpfast.InputError, match="threads must be a whole number"):
        lrpfast.set_num_threads(threads)


@pytest.mark.parametrize("value, wanted", [("5", "5"), (" 2 ", "2"), ("", None), ("many", "error"), ("0", "error")])
def test_the_environment_variable(value, wanted):
    script = "import lrpfast\ntry: print(lrpfast.get_num_threads())\nexcept lrpfast.InputError as e: print('error', e)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "LRPFAST_NUM_THREADS": value},
        capture_output=True,
        text=True,
        timeout=60,
    )
    printed = done.stdout.strip()
    if wanted == "error":
        assert "LRPFAST_NUM_THREADS" in printed and repr(value) in printed
    else:
        assert printed == (wanted or str(lrpfast.get_num_threads())), done.stderr
