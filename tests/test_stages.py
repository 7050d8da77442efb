"""Stages: operations in a row for some samples of a micro-batch at a time. They change the time and nothing else."""

import itertools

import numpy as np
import pytest

import cases
import lrpfast
import seeds
from lrpfast import layers as L  # noqa: N812
from lrpfast.kernels import cpu
from lrpfast.kernels.contraction_ops import Contract, Redistribute
from lrpfast.kernels.memory_plan import Stage, plan_memory, plan_stages, touched
from lrpfast.kernels.stages import stages_of

RNG = seeds.generator(11)
X = RNG.uniform(-1, 1, size=(13, 10, 9, 2)).astype(np.float32)


def w(*shape):
    return (RNG.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)


def network():
    """Convolutions with branches and a pooling, then dense layers."""
    graph = lrpfast.Graph()
    a = graph.add(L.Conv(w(3, 3, 2, 8), w(8), padding="same", activation="relu"), graph.input(X.shape[1:]))
    b = graph.add(L.DepthwiseConv(w(3, 3, 8, 1), w(8), padding="same"), a)
    a = graph.add(L.Activation("relu"), graph.add(L.Add(), a, b))
    a = graph.add(L.MaxPool((2, 2)), graph.add(L.Conv(w(3, 3, 8, 12), w(12), activation="relu"), a))
    a = graph.add(L.Dense(w(144, 20), w(20), activation="relu"), graph.add(L.Flatten(), a))
    return graph.model(graph.add(L.Dense(w(20, 3), w(3)), a))


NET = network()


def program_of(analyzer):
    return analyzer._core._programs._lowered().program


def cuts(program, samples, lengths):
    """Stages of some lengths, in turn, wherever a pass or a segment allows."""
    forward, stages = len(program.forward), []
    ranges = [(0, forward), *((forward + a, forward + b) for a, b in program.parts)]
    for low, high in ranges:
        turns = itertools.cycle(lengths)
        while low < high:
            end = min(high, low + next(turns))
            stages.append(Stage(low, end, samples))
            low = end
    return tuple(stages)


@pytest.fixture
def staged(monkeypatch):
    """Every program has these stages."""

    def use(samples, lengths):
        monkeypatch.setattr(cpu, "stages_of", lambda program, *_: cuts(program, samples, lengths))

    return use


STAGES = [(1, (99,)), (1, (2, 1, 3)), (2, (99,)), (3, (4,)), (5, (1, 7))]


@pytest.mark.parametrize("samples, lengths", STAGES)
@pytest.mark.parametrize("rule", ["epsilon", "alpha_beta", "z_plus", "gamma", "w_square", "gradient"])
def test_the_same_bits(rule, samples, lengths, staged):
    def results(threads):
        for precision in ("float32", "float64"):
            analyzer = lrpfast.Analyzer(NET, rule, threads=threads, precision=precision, target=0)
            x = X.astype(precision)
            yield analyzer.analyze(x)
            yield analyzer.analyze(x[:1])
            yield analyzer.analyze(x, target=[[0, 2]] * len(x))  # the backward pass runs twice
            yield analyzer.explain(x, layers=True).relevance
            if rule != "gradient":
                yield analyzer.analyze(x, conditions=[{"conv_1": 3}, {"conv_1": 5, "dense": 4}])

    whole = list(results(1))
    staged(samples, lengths)
    for threads in (1, 3):
        for found, expected in zip(results(threads), whole, strict=True):
            assert found.tobytes() == expected.tobytes()


def test_a_fault_is_found(staged):
    staged(2, (3,))
    x = X.copy()
    x[7, 1, 2, 0] = np.inf
    with pytest.raises(lrpfast.InputError, match=r"x\[7, 1, 2, 0\] is inf"):
        lrpfast.Analyzer(NET, "epsilon", threads=2).analyze(x)
    x = X.copy()
    x[5] = np.float32(3e38)
    with pytest.raises(lrpfast.InputError, match="sample 5: an activation or relevance overflows"):
        lrpfast.Analyzer(NET, "alpha_beta", threads=1).analyze(x)


@pytest.mark.parametrize("samples, lengths", STAGES)
@pytest.mark.parametrize("rule", ["epsilon", "alpha_beta"])
def test_no_buffer_is_overwritten(rule, samples, lengths):
    """A run by hand, which writes into every cell of the workspace whose value it is, for two targets."""
    program, micro_batch = program_of(lrpfast.Analyzer(NET, rule, target=0)), 5
    stages = cuts(program, samples, lengths)
    layout, room = plan_stages(program, stages), min(samples, micro_batch)
    width = layout.width * micro_batch
    cells = np.full(width + layout.inner_width * room, -1)

    def where(b, first, count, stage_first):
        size = program.sizes[b]
        if layout.inner[b]:
            begin = width + layout.offsets[b] * room + (first - stage_first) * size
        else:
            begin = layout.offsets[b] * micro_batch + first * size
        return cells[begin : begin + count * size], np.repeat(b * micro_batch + np.arange(first, first + count), size)

    def run(operation, first, count, stage_first):
        reads, writes = touched(operation)
        for b in reads:
            if layout.offsets[b] >= 0:
                found, own = where(b, first, count, stage_first)
                np.testing.assert_array_equal(found, own)
        for b in writes:
            if layout.offsets[b] >= 0:
                found, own = where(b, first, count, stage_first)
                found[:] = own

    operations = (*program.forward, *program.backward)
    forward = [stage for stage in stages if stage.begin < len(program.forward)]
    for stage in (*forward, *2 * stages[len(forward) :]):
        for first in range(0, micro_batch, stage.samples):
            for at in range(stage.begin, stage.end):
                run(operations[at], first, min(stage.samples, micro_batch - first), first)


def test_without_stages_memory_is_that_of_plan_memory():
    program = program_of(lrpfast.Analyzer(NET, "alpha_beta", target=0))
    layout = plan_stages(program, ())
    assert (layout.offsets, layout.width) == plan_memory(program)
    assert not any(layout.inner) and layout.inner_width == 0


def test_which_operations_take_few_samples():
    """Convolutions, and what is light between them; not dense layers, nor what fits the cache."""
    program = program_of(lrpfast.Analyzer(NET, "epsilon", target=0))
    operations = (*program.forward, *program.backward)
    stages = stages_of(program, 40_000, 48)
    within = {at for stage in stages for at in range(stage.begin, stage.end)}
    assert len(stages) == 2 and all(1 <= stage.samples < 10 for stage in stages)
    for at, operation in enumerate(operations):
        heavy = isinstance(operation, (Contract, Redistribute)) and not operation.diagonal
        if heavy:
            assert (at in within) == (operation.terms[0].geometry is not None)
    assert stages_of(program, 1 << 30, 48) == ()
    dense = program_of(lrpfast.Analyzer(cases.model(cases.network((300, 200, 10), "relu")), "epsilon", target=0))
    operations = (*dense.forward, *dense.backward)
    light = [o for stage in stages_of(dense, 1000, 48) for o in operations[stage.begin : stage.end]]
    assert not any(isinstance(o, (Contract, Redistribute)) for o in light)


def test_stages_end_with_segments():
    """The backward pass under conditions is in segments, which run in any order."""
    analyzer = lrpfast.Analyzer(NET, "epsilon", target=0)
    program = program_of(analyzer)
    ends = (3, 6, len(program.backward))
    cut = type(program)(**{**program.__dict__, "segments": ends})
    edges = {len(program.forward) + end for end in ends}
    for stage in stages_of(cut, 40_000, 48):
        assert not any(stage.begin < edge < stage.end for edge in edges)
