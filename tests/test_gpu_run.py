"""Batches on GPUs, on the stand-in for CuPy: chunks, streams, memory, several devices, arrays there, graphs."""

import inspect
import multiprocessing
import os
import pickle
import threading
import warnings

import numpy as np
import pytest

import cases
import lrpfast
import oracle
from lrpfast.engine.core import AnalyzerCore
from lrpfast.kernels import cpu
from lrpfast.kernels import cuda as gpu_backend
from lrpfast.kernels.cuda import run as gpu_run
from tolerances import Expected

SIZES = (9, 20, 6, 3)
LAYERS = cases.network(SIZES)
CASE = ("alpha_beta", {})


def analyzer(**options):
    return lrpfast.Analyzer(cases.model(LAYERS), cases.rule(CASE), **{"device": "gpu", **options})


def expected(x, target="max"):
    return Expected(lambda ar: oracle.explain(LAYERS, [CASE] * 3, np.float64(x), target, ar=ar))


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of some 16 samples, so that a batch has many."""
    from lrpfast.kernels.cuda import replay, run

    monkeypatch.setattr(run, "WORKSPACE_BYTES", 1)
    monkeypatch.setattr(replay, "REPLAY_FLOPS", 0)


def test_both_backends_have_the_same_names_and_signatures(standin):
    for one, other in (
        (cpu.CpuBackend, gpu_backend.CudaBackend),
        (cpu.CompiledProgram, gpu_run.CompiledProgram),
    ):
        ours, theirs = ({n: v for n, v in vars(c).items() if not n.startswith("_")} for c in (one, other))
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            if callable(value):
                mine, yours = inspect.signature(value), inspect.signature(theirs[name])
                assert [str(p) for p in mine.parameters.values()] == [str(p) for p in yours.parameters.values()], name


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["float32", "float64", "uint8"])
def test_many_chunks_from_the_host(kind, seed, standin, small_chunks):
    """Copies in and out beside the computing: whatever runs first, nothing is read too early or overwritten."""
    standin.CONFIG["seed"], standin.CONFIG["eager"] = seed, 0.7 * (seed % 2)
    x = np.abs(cases.inputs(101, 9, seed=seed) * 3).astype(kind)
    got = analyzer().analyze(x)
    expected(x).check(got)
    from lrpfast.kernels.cuda import run

    assert len([name for name, *_ in standin.LOG if name == "init_relevance_max"]) >= 101 // (2 * run.FEWEST)


@pytest.mark.parametrize("on_gpu", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("k", [1, 3])
def test_several_targets_in_many_chunks(k, on_gpu, standin, small_chunks):
    import cupy

    x = cases.inputs(70, 9)
    targets = (np.arange(70)[:, None] + np.arange(k)) % 3
    got = analyzer().analyze(cupy.asarray(x) if on_gpu else x, targets)
    got = got.get() if on_gpu else got
    assert got.shape == (70, k, 9)
    for i in range(k):
        expected(x, list(targets[:, i])).check(got[:, i])


def test_chunk_sizes_agree(standin, small_chunks):
    x = cases.inputs(70, 9)
    one = analyzer()
    first, again = one.analyze(x), one.analyze(x)
    np.testing.assert_array_equal(first, again)
    need = one._core._programs.main._executables[0].workspace_bytes(3)
    expected(x).check(analyzer(memory=4 * need).analyze(x))


def test_memory_too_small_for_one_sample(standin):
    with pytest.raises(lrpfast.InputError, match=r"memory=100 bytes is too little: one sample needs [\d,]+"):
        analyzer(memory=100).analyze(cases.inputs(2, 9))


@pytest.mark.parametrize("on_gpu", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("failures", [1, 3])
def test_out_of_memory_halves_the_chunk(failures, on_gpu, standin, small_chunks):
    import cupy

    x = cases.inputs(64, 9)
    one = analyzer()
    given = cupy.asarray(x) if on_gpu else x
    left = [failures]

    def fail(nbytes):
        if nbytes < 4096 or not left[0]:
            return False
        left[0] -= 1
        return True

    standin.CONFIG["fail_allocation"] = fail
    got = one.analyze(given)
    standin.CONFIG["fail_allocation"] = None
    assert left == [0]
    expected(x).check(got.get() if on_gpu else got)


def test_no_memory_for_one_sample(standin):
    one = analyzer()
    standin.CONFIG["fail_allocation"] = lambda nbytes: nbytes > 1024
    with pytest.raises(MemoryError, match=r"one sample needs [\d,]+ bytes on stand-in"):
        one.analyze(cases.inputs(40, 9))
    standin.CONFIG["fail_allocation"] = None
    expected(cases.inputs(40, 9)).check(one.analyze(cases.inputs(40, 9)))


# Several GPUs.


def test_a_batch_is_shared_by_all_gpus(standin):
    standin.CONFIG["devices"] = 2
    x = cases.inputs(150, 9)
    x[140] = 5
    one = analyzer()
    assert one.device == "gpu:0, gpu:1"
    expected(x).check(one.analyze(x))
    assert set(one._core._programs.main._executables) == {0, 1}
    targets = np.stack([np.arange(150) % 3, np.arange(150) % 2], 1)
    got = one.analyze(x, targets)
    for k in range(2):
        expected(x, list(targets[:, k])).check(got[:, k])
    explanation = one.explain(x)
    expected(x).check(explanation.relevance)
    x[140, 3] = np.nan
    with pytest.raises(lrpfast.InputError, match=r"x\[140, 3\] is nan"):
        one.analyze(x)


def test_runs_on_several_gpus_keep_their_handles(standin, monkeypatch):
    """Every run has threads of its own; handles, and the memory that they hold, outlive these."""
    from cupy_backends.cuda.libs import cublas

    from lrpfast.kernels.cuda import contractions

    monkeypatch.setattr(contractions, "LIBRARY_FLOPS", 1)
    monkeypatch.setattr(contractions, "NARROW", 0)
    standin.CONFIG["devices"] = 2
    x, one, counts = cases.inputs(150, 9), analyzer(), []
    for _ in range(3):
        expected(x).check(one.analyze(x))
        counts.append(len(cublas._handles))
    assert counts[0] >= 2 and counts[-1] == counts[0]


def test_one_gpu_of_several(standin):
    standin.CONFIG["devices"] = 3
    one = analyzer(device="gpu:2")
    assert one.device == "gpu:2"
    expected(cases.inputs(200, 9)).check(one.analyze(cases.inputs(200, 9)))
    assert set(one._core._programs.main._executables) == {2}


# Arrays that lie on a GPU.


class Tensor:
    """What PyTorch's tensors show of themselves."""

    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)


@pytest.mark.parametrize("wrap", [lambda a: a, Tensor], ids=["cupy", "dlpack"])
def test_what_comes_in_on_the_gpu_goes_out_there(wrap, standin):
    import cupy

    x = cases.inputs(30, 9)
    for target in ("max", 1, list(np.arange(30) % 3), (0, 2)):
        for precision in ("float32", "float64"):
            one = analyzer(precision=precision)
            got = one.analyze(wrap(cupy.asarray(x)), target)
            assert isinstance(got, cupy.ndarray)
            expected(x, target).check(got.get(), precision)
    explanation = one.explain(wrap(cupy.asarray(x)))
    assert isinstance(explanation.relevance, cupy.ndarray) and isinstance(explanation.output, cupy.ndarray)
    assert len(explanation.conservation) == 3
    assert isinstance(cases.model(LAYERS).predict(wrap(cupy.asarray(x)), device="gpu"), cupy.ndarray)


def test_a_tensor_that_cannot_be_shared(standin):
    """As PyTorch's that require a gradient."""
    import cupy

    class Tracked(Tensor):
        def __dlpack__(self, **options):
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")

    with pytest.raises(lrpfast.InputError, match="inputs cannot be made an array: .*detach"):
        analyzer().analyze(Tracked(cupy.asarray(cases.inputs(3, 9))))


def test_device_arrays_of_other_types_and_orders(standin):
    import cupy

    x = cases.inputs(30, 9)
    turned = cupy.asarray(np.ascontiguousarray(x.T)).T
    expected(x).check(analyzer().analyze(turned).get())
    half = cupy.asarray(x.astype(np.float16))
    expected(x.astype(np.float16)).check(analyzer().analyze(half).get())
    np.testing.assert_array_equal(turned.get(), x)


def test_device_output_arrays(standin):
    import cupy

    x = cases.inputs(30, 9)
    out = cupy.empty((30, 9), np.float32)
    assert analyzer().analyze(cupy.asarray(x), out=out) is out
    expected(x).check(out.get())
    for wrong in (np.empty((30, 9), np.float32), cupy.empty((30, 9), np.float64), cupy.empty((9, 30), np.float32)):
        with pytest.raises((lrpfast.InputError, lrpfast.ShapeError), match="out must"):
            analyzer().analyze(cupy.asarray(x), out=wrong)
    with pytest.raises(lrpfast.InputError, match="out must be a NumPy array"):
        analyzer().analyze(x, out=out)


def test_device_targets_and_callables(standin):
    import cupy

    x = cases.inputs(30, 9)
    start = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    got = analyzer().analyze(cupy.asarray(x), cupy.asarray(start))
    expected(x, list(np.float64(start))).check(got.get())
    got = analyzer().analyze(cupy.asarray(x), lambda y: y * 2)
    assert isinstance(got, cupy.ndarray)


def test_arrays_on_the_wrong_device(standin):
    import cupy

    standin.CONFIG["devices"] = 2
    with cupy.cuda.Device(1):
        x = cupy.asarray(cases.inputs(30, 9))
    with pytest.raises(lrpfast.DeviceError, match="inputs are on gpu:1, but device is 'cpu': pass device='gpu'"):
        analyzer(device="cpu").analyze(x)
    with pytest.raises(lrpfast.InputError, match="inputs are on gpu:1, this program runs on gpu:0"):
        analyzer(device="gpu:0").analyze(x)
    got = analyzer(device="gpu").analyze(x)
    assert got.device.id == 1
    expected(cases.inputs(30, 9)).check(got.get())


# Faults, graphs, threads.


@pytest.mark.parametrize("on_gpu", [False, True], ids=["host", "device"])
def test_faults_name_the_sample(on_gpu, standin, small_chunks):
    import cupy

    def run(x, **options):
        return analyzer(**options).analyze(cupy.asarray(x) if on_gpu else x)

    x = cases.inputs(60, 9)
    x[47, 2] = np.inf
    with pytest.raises(lrpfast.InputError, match=r"x\[47, 2\] is inf"):
        run(x)
    x[47, 2] = 7
    with pytest.raises(lrpfast.InputError, match=r"x\[47, 2\] = 7 is outside the declared input_range"):
        run(x, input_range=(-3, 3))
    x[47] = 3e38
    with pytest.raises(lrpfast.InputError, match=r"sample 47: an activation or relevance overflows float32"):
        run(x)
    x[47] = 1
    x[47, 2] = np.nan
    got = run(x, mask_nan=True)
    assert np.isnan((got.get() if on_gpu else got)[47, 2])


def test_a_graph_gives_the_same_bytes(standin):
    x = cases.inputs(8, 9)
    one = analyzer()
    one.analyze(x, 1)
    standin.LOG.clear()
    first = analyzer().analyze(x, 1)
    launched = list(standin.LOG)
    for _ in range(3):
        standin.LOG.clear()
        np.testing.assert_array_equal(one.analyze(x, 1), first)
        assert launched == standin.LOG
    assert len(one._core._programs.main._graphs[0]._graphs) == 1
    other = cases.inputs(8, 9, seed=5)
    expected(other, 2).check(one.analyze(other, 2))  # another target: the same graph with other values in its memory
    assert len(one._core._programs.main._graphs[0]._graphs) == 1
    bad = other.copy()
    bad[3, 1] = np.nan
    for _ in range(2):
        with pytest.raises(lrpfast.InputError, match=r"x\[3, 1\] is nan"):
            one.analyze(bad, 2)
    expected(other, 2).check(one.analyze(other, 2))


def test_several_threads_at_once(standin):
    one = analyzer()
    x = [cases.inputs(20 + i % 2, 9, seed=i) for i in range(6)]
    got = [None] * 6

    def work(i):
        for _ in range(3):
            got[i] = one.analyze(x[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(x, got, strict=True):
        expected(a).check(b)


def test_empty_batches_and_pickles(standin):
    one = analyzer()
    assert one.analyze(np.empty((0, 9), np.float32)).shape == (0, 9)
    x = cases.inputs(5, 9)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(one)).analyze(x), one.analyze(x))
    assert "gpu:0" in repr(one)


def test_auto_takes_the_gpu_and_says_so(standin):
    one = analyzer(device="auto")
    assert one.device == "gpu:0"
    assert analyzer(device="cpu").device == "cpu"


def _forked(ours, x, queue):
    """What a child can do with its parent's analyzer, and with one of its own."""
    try:
        ours.analyze(x)
        said = "it works?"
    except lrpfast.DeviceError as error:
        said = str(error)
    queue.put((said, analyzer(device="auto").device))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_is_told_that_it_has_no_gpu(standin):
    x = cases.inputs(5, 9)
    ours = analyzer()
    ours.analyze(x)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork with threads
        child = context.Process(target=_forked, args=(ours, x, queue))
        child.start()
    said, device = queue.get(timeout=60)
    child.join(10)
    assert "forked" in said and "'spawn'" in said and "device='cpu'" in said
    assert device == "cpu"


def test_an_explicit_start_is_judged_without_a_second_forward_pass(standin, monkeypatch):
    """The growth of relevance is measured against the starting relevance itself."""
    layer = lrpfast.layers.Dense(np.array([[1e-7, 1.0], [1.0, -1.0]]))
    x, relevance = np.ones((3, 2), np.float32), np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    calls = []
    monkeypatch.setattr(AnalyzerCore, "_outputs", lambda *_: calls.append(_))
    results, texts = {}, {}
    for device in ("cpu", "gpu"):
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            results[device] = lrpfast.redistribute("z_plus", layer, x, relevance, device=device)
        texts[device] = [str(warning.message) for warning in record]
    assert not calls
    np.testing.assert_array_equal(results["gpu"], results["cpu"])
    assert texts["gpu"] == texts["cpu"]
    analyzer = lrpfast.Analyzer(lrpfast.from_layers([layer]), "zero", device="gpu", target=1)
    with pytest.warns(lrpfast.errors.AmplificationWarning):
        analyzer.analyze(np.array([[1.0, 1.0 + 1e-6]], np.float32), target=np.array([[0.0, 1.0]]))
    assert not calls
