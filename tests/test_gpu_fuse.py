"""Light operations within the contractions before them (cuda/fuse.py): the same bits by fewer launches."""

import numpy as np
import pytest

import cases
import lrpfast
import oracle_layers
from lrpfast.kernels.contraction_ops import Contract, Redistribute
from oracle_layers import Layer
from tolerances import Expected

W = cases.Weights()


@pytest.fixture
def fused(standin, monkeypatch):
    """Returns a function that computes with and without fusing, and the kernels that each launched."""
    from lrpfast.kernels.cuda import fuse

    def both(compute):
        results, launches = [], []
        for choice in ("0", "1"):
            monkeypatch.setattr(fuse, "FUSE", choice)
            standin.LOG.clear()
            results.append(compute())
            launches.append([name for name, *_ in standin.LOG])
        return results, launches

    return both


def conv(depth, width, stride=1, size=3, relu=False):
    layer = W.conv((size, size), depth, width, strides=stride, padding=((size // 2, size // 2),) * 2)
    return Layer("Conv", layer.parameters | ({"activation": "relu"} if relu else {}))


def resnet18(widths=(4, 6, 8, 10), size=16, blocks=2):
    """ResNet18's graph, narrow: two blocks of two convolutions in each of four stages."""
    nodes = [(Layer("Input", {"shape": (size, size, 3)}),)]

    def add(layer, *inputs):
        nodes.append((layer, *(inputs or (len(nodes) - 1,))))
        return len(nodes) - 1

    add(conv(3, widths[0], 2, 7, relu=True))
    depth, last = widths[0], add(Layer("MaxPool", {"size": (2, 2)}))
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            add(conv(depth, width, stride, relu=True), last)
            out = add(conv(width, width))
            skip = last if stride == 1 and depth == width else add(conv(depth, width, stride, 1), last)
            add(Layer("Add"), out, skip)
            last, depth = add(Layer("Activation", {"function": "relu"})), width
    add(Layer("GlobalAveragePool"))
    add(W.dense(depth, 5))
    return oracle_layers.Net(nodes)


NET = resnet18()
SMALL = resnet18((4, 6), 12, 1)


def launched(names):
    """The launches of an explanation, without the bookkeeping of a run."""
    return [name for name in names if name not in ("no_faults", "examine") and not name.startswith("cast_")]


def test_launches_of_resnet18(fused):
    """Of 63 launches that go value by value 8 are left."""
    x = cases.values((16, 16, 3), 2)
    (apart, together), (before, after) = fused(
        lambda: lrpfast.Analyzer(cases.graph(NET), "epsilon_plus", device="gpu").analyze(x)
    )
    np.testing.assert_array_equal(together, apart)

    light = [[n for n in launched(names) if "light" in n or "channelwise" in n] for names in (before, after)]
    assert [len(names) for names in light] == [63, 8]
    assert len(launched(before)) - len(launched(after)) == 55
    # what is left: pools and means, and divisions of what comes from the output and from a pool
    assert sorted(set(light[1])) == ["channelwise_1", "light_divide", "light_pool", "light_pool_back"]


RULES = [
    ("epsilon", {}),
    ("z_plus", {}),
    ("alpha_beta", {}),
    ("gamma", {"gamma": 0.3}),
    ("gradient", {}),
    ("w_square", {}),
]


@pytest.mark.parametrize("rule", RULES, ids=cases.case_id)
@pytest.mark.parametrize("precision", ["float32", "float64", "tf32", "3xtf32"])
def test_the_same_bits(rule, precision, fused):
    x = cases.values((12, 12, 3), 3)
    kind = np.float64 if precision == "float64" else np.float32

    def explain():
        analyzer = lrpfast.Analyzer(cases.graph(SMALL), cases.rule(rule), precision=precision, device="gpu")
        return analyzer.analyze(x.astype(kind)), analyzer.analyze(x.astype(kind), [[0, 1]] * 3)

    (apart, together), (before, after) = fused(explain)
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(after) < len(before)
    if rule[0] in ("epsilon", "alpha_beta"):
        expected = Expected(lambda ar: SMALL.explain(SMALL.rules(rule), [x], "max", ar))
        expected.check(cases.flat(together[0], 3), precision)


def test_outputs_layers_and_balances_stay(fused):
    """What is asked for besides the relevance of the input is still written."""
    x = cases.values((12, 12, 3), 2)

    def explain():
        analyzer = lrpfast.Analyzer(cases.graph(SMALL), "epsilon_plus", device="gpu")
        explanation = analyzer.explain(x, layers=True)
        hidden = lrpfast.Analyzer(cases.graph(SMALL), "epsilon_plus", device="gpu", start=("n6", 2)).analyze(x)
        return explanation, hidden, cases.graph(SMALL).predict(x, device="gpu")

    (apart, together), _ = fused(explain)
    np.testing.assert_array_equal(apart[0].relevance, together[0].relevance)
    np.testing.assert_array_equal(apart[0].output, together[0].output)
    assert apart[0].layers.keys() == together[0].layers.keys()
    for name, relevance in apart[0].layers.items():
        np.testing.assert_array_equal(relevance, together[0].layers[name])
    np.testing.assert_array_equal(apart[1], together[1])
    np.testing.assert_array_equal(apart[2], together[2])


def branched(*layers):
    """Two dense layers on one input, whose outputs some further layers take."""
    inputs = [(Layer("Input", {"shape": (12,)}),), (W.dense(12, 9), 0), (W.dense(12, 9), 0)]
    return oracle_layers.Net([*inputs, *layers])


#: what looks much like a residual sum, and where only a part can be fused, or nothing
OTHERS = {
    "three summands": branched((W.dense(12, 9), 0), (Layer("Add"), 1, 2, 3), (W.dense(9, 3), 4)),
    "a difference": branched((Layer("Subtract"), 1, 2), (W.dense(9, 3), 3)),
    "a mean": branched((Layer("Average"), 1, 2), (W.dense(9, 3), 3)),
    "the same twice": branched((Layer("Add"), 1, 1), (Layer("Add"), 3, 2), (W.dense(9, 3), 4)),
    "a sum of a sum": branched((Layer("Add"), 1, 2), (Layer("Add"), 3, 1), (W.dense(9, 3), 4)),
    "the input is a summand": oracle_layers.Net(
        [(Layer("Input", {"shape": (9,)}),), (W.dense(9, 9), 0), (Layer("Add"), 1, 0), (W.dense(9, 3), 2)]
    ),
    "the sum is the output": branched((Layer("Add"), 1, 2)),
    "a sum that three layers read": branched(
        (Layer("Add"), 1, 2),
        (W.dense(9, 4), 3),
        (W.dense(9, 4), 3),
        (W.dense(9, 4), 3),
        (Layer("Concat"), 4, 5, 6),
    ),
}


@pytest.mark.parametrize("rule", ["epsilon", "alpha_beta", "z_plus"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_sums(name, rule, fused):
    net = OTHERS[name]
    x = cases.values(net.nodes[0][0].parameters["shape"], 4)
    (apart, together), _ = fused(lambda: lrpfast.Analyzer(cases.graph(net), rule, device="gpu").analyze(x))
    np.testing.assert_array_equal(apart, together)
    Expected(lambda ar: net.explain(net.rules((rule, {})), [x], "max", ar)).check(cases.flat(together, 4))


# What compute-sanitizer would look for in a fused program: reads and writes beyond a buffer, and races between blocks.

#: values between two buffers
GAP = 64


@pytest.fixture
def spread(standin, monkeypatch):
    """Buffers with gaps between them and no memory in common; returns the executables and workspaces that were used."""
    from lrpfast.kernels.cuda import execute, run

    used = []

    def plan_memory(program, align):
        widths = [-(-(size + GAP) // align) * align for size in program.sizes]
        ends = np.cumsum(widths)
        return [int(end - width) for end, width in zip(ends, widths, strict=True)], int(ends[-1])

    chunk = run._Batch._chunk

    def noted(self, work, x, outs):
        used.append((self.executable, self.capacity, work))
        return chunk(self, work, x, outs)

    monkeypatch.setattr(execute, "plan_memory", plan_memory)
    monkeypatch.setattr(run._Batch, "_chunk", noted)
    return used


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("rule", ["epsilon", "alpha_beta", "gamma"])
def test_nothing_beyond_a_buffer(rule, order, spread, standin, monkeypatch):
    """Gaps, which hold NaN, are neither read nor written, whatever the order of threads and blocks."""
    from lrpfast.kernels.cuda import execute
    from lrpfast.kernels.memory_plan import plan_memory

    standin.CONFIG["order"] = order
    x = cases.values((12, 12, 3), 3)
    apart = lrpfast.Analyzer(cases.graph(SMALL), rule, device="gpu").analyze(x)
    assert spread
    for executable, capacity, work in spread:
        bits = work.get().view(np.uint32)
        for buffer, size in enumerate(executable.program.sizes):
            end = executable.offsets[buffer] + size
            gap = bits[end * capacity : (end + GAP) * capacity]
            assert (gap == np.uint32(0xFFFFFFFF)).all(), f"a write behind buffer {buffer}"
    monkeypatch.setattr(execute, "plan_memory", plan_memory)
    standin.CONFIG["order"] = 0
    together = lrpfast.Analyzer(cases.graph(SMALL), rule, device="gpu").analyze(x)
    np.testing.assert_array_equal(apart, together)


@pytest.mark.parametrize("rule", ["epsilon", "alpha_beta", "gamma"])
@pytest.mark.parametrize("name", ["resnet18", *OTHERS])
def test_no_contraction_writes_what_it_reads(name, rule, standin):
    """Its blocks run in any order, so that what one writes must not be what another reads, or writes too."""
    from lrpfast.kernels.memory_plan import touched

    net = OTHERS.get(name, NET)
    analyzer = lrpfast.Analyzer(cases.graph(net), rule, device="gpu")
    analyzer.analyze(cases.values(net.nodes[0][0].parameters["shape"], 1))
    (executable,) = analyzer._core._programs.main._executables.values()
    program, inside = executable.program, lambda b: b not in (0, executable.result)
    for operation in (*program.forward, *program.backward):
        if not isinstance(operation, Contract | Redistribute):
            continue
        reads, writes = touched(operation)
        assert not reads & writes
        spans = {
            b: (executable.offsets[b], executable.offsets[b] + program.sizes[b]) for b in filter(inside, reads | writes)
        }
        for one in filter(inside, writes):
            for other in spans.keys() - {one}:
                assert spans[one][1] <= spans[other][0] or spans[other][1] <= spans[one][0], (operation, one, other)


def test_an_unknown_choice(standin, monkeypatch):
    from lrpfast.kernels.cuda import fuse

    monkeypatch.setattr(fuse, "FUSE", "yes")
    with pytest.raises(lrpfast.DeviceError, match="LRPFAST_GPU_FUSE='yes' must be '1' or '0'"):
        lrpfast.Analyzer(cases.graph(SMALL), "epsilon", device="gpu")


def test_the_cpu_refuses_what_is_fused(standin):
    from lrpfast.kernels import cpu
    from lrpfast.kernels.cuda.fuse import fuse

    program = fuse(lrpfast.Analyzer(cases.graph(SMALL), "epsilon", device="gpu")._core._programs.main._program)
    with pytest.raises(ValueError, match="the CPU's kernels take no fused operations"):
        cpu.CpuBackend().compile(program)
