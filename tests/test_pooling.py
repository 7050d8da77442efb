"""Max pooling: rows side by side at once, and division before relevance goes to its winners."""

import itertools

import numpy as np
import pytest

import cases
import lrpfast
import oracle_layers
import seeds
from lrpfast import layers as L  # noqa: N812
from lrpfast import rules
from lrpfast.engine.operators import windows
from lrpfast.kernels import _cpu, cpu
from lrpfast.kernels.contraction_ops import Divide, Redistribute
from lrpfast.kernels.interface import Start
from lrpfast.kernels.ops import Pool, PoolBack
from lrpfast.kernels.program import Program
from oracle_layers import Layer
from tolerances import Expected

#: A grid and windows on it: tiling, with a rest, overlapping, with gaps, over the edge, dilated, over everything.
POOLS = [
    ((6, 8), {"size": (2, 2)}),
    ((7, 9), {"size": (2, 2)}),
    ((9,), {"size": 3}),
    ((9, 8), {"size": (3, 3), "strides": 2}),
    ((9, 10), {"size": (3, 3), "strides": 2, "padding": ((1, 1), (1, 1))}),
    ((5, 7), {"size": (2, 3), "strides": (1, 1), "padding": "same"}),
    ((11,), {"size": 2, "strides": 4}),
    ((8, 9), {"size": (2, 2), "strides": 3, "dilation": 2}),
    ((4, 6, 4), {"size": (2, 2, 2)}),
    ((17, 3), {"size": (17, 3)}),
    ((1,), {"size": 1}),
]


def names(case):
    return f"{'x'.join(map(str, case[0]))} {' '.join(f'{k}={v}' for k, v in case[1].items())}"


def output_shape(case, columns):
    graph = lrpfast.Graph()
    return graph.model(graph.add(L.MaxPool(**case[1]), graph.input((*case[0], columns)))).nodes[-1].shape


def by_hand(geometry, x, r):
    """The pooled values and where relevance goes, window by window."""
    (region,) = geometry.regions
    pooled, back = np.zeros((len(x), *geometry.out, x.shape[-1]), x.dtype), np.zeros_like(x)
    for at in itertools.product(*(range(len(a.positions)) for a in region.axes)):
        taps = list(itertools.product(*(a.index[i] for a, i in zip(region.axes, at, strict=True))))
        taps = [tap for tap in taps if min(tap) >= 0]
        for sample, c in np.ndindex(len(x), x.shape[-1]):
            if not taps:
                continue
            best = max(taps, key=lambda tap: x[(sample, *tap, c)])  # noqa: B023 - max takes the first of equals
            pooled[(sample, *at, c)] = x[(sample, *best, c)]
            back[(sample, *best, c)] += r[(sample, *at, c)]
    return pooled, back


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isa", _cpu.instruction_sets())
@pytest.mark.parametrize("columns", [1, 3, 16, 37])
@pytest.mark.parametrize("case", POOLS, ids=names)
def test_both_kernels(case, columns, isa, dtype, monkeypatch):
    monkeypatch.setenv("LRPFAST_ISA", isa)
    rng = seeds.generator(1)
    shape = (*case[0], columns)
    geometry = windows(L.MaxPool(**case[1]), shape, output_shape(case, columns))
    x = rng.integers(-2, 3, size=(3, *geometry.source, columns)).astype(dtype)  # with many equals
    r = rng.normal(size=(3, *geometry.out, columns)).astype(dtype)
    size, pooled_size = x[0].size, r[0].size
    sizes = (size, pooled_size, pooled_size, size)
    won = np.full((3, pooled_size), np.nan, dtype)
    for winner, keep in ((2, {2: won}), (None, {})):
        operations = (Pool(0, 1, winner, geometry, columns),)
        compiled = cpu.CpuBackend().compile(Program(sizes, operations, (), 1, None, dtype, keep=tuple(keep)))
        pooled = np.full((3, pooled_size), np.nan, dtype)
        assert compiled.run(x.reshape(3, -1), pooled, threads=1, start=Start(), keep=keep) is None
        np.testing.assert_array_equal(pooled, by_hand(geometry, x, r)[0].reshape(3, -1))
    operations = (PoolBack(1, 0, 2, geometry, columns),)
    back = Program((pooled_size, pooled_size, size), operations, (), 2, None, dtype, keep=(1,))
    found = np.full((3, size), np.nan, dtype)
    run = {1: np.ascontiguousarray(r.reshape(3, -1))}
    assert cpu.CpuBackend().compile(back).run(won, found, threads=1, start=Start(), keep=run) is None
    np.testing.assert_array_equal(found, by_hand(geometry, x, r)[1].reshape(3, -1))


W = cases.Weights()


def network(case):
    """Convolutions around a pooling, of which each has a ReLU."""
    grid, options = case
    n = len(grid)
    first = W.conv((1,) * n, 2, 5, activation="relu")
    after = [] if min(output_shape(case, 5)[:-1]) < 2 else [W.conv((2,) * n, 5, 4, activation="relu")]
    return oracle_layers.chain(
        (*grid, 2), first, Layer("MaxPool", options), *after, Layer("GlobalAveragePool"), W.dense(4 if after else 5, 3)
    )


NETS = {names(case): network(case) for case in POOLS}
RULES = [
    ("epsilon", {"epsilon": 0.1}),
    ("z_plus", {}),
    ("alpha_beta", {}),
    ("gamma", {"gamma": 0.3}),
    ("w_square", {}),
]


@pytest.mark.share
@pytest.mark.parametrize("precision", ["float32", "float64", "tf32"])
@pytest.mark.parametrize("rule", RULES, ids=cases.case_id)
@pytest.mark.parametrize("name", NETS)
def test_relevance_is_that_of_layers_that_store_it(name, rule, precision):
    """`explain` stores the relevance of every layer, so that nothing is divided before it goes to its winners."""
    net = NETS[name]
    x = cases.values(net.nodes[0].layer.parameters["shape"], 3)
    x = x.astype(np.float64 if precision == "float64" else np.float32)
    analyzer = lrpfast.Analyzer(cases.graph(net), cases.rule(rule), target=0, precision=precision)
    found = analyzer.analyze(x)
    for stored in (analyzer.explain(x), analyzer.explain(x, layers=True)):
        np.testing.assert_array_equal(stored.relevance, found)
    expected = Expected(lambda ar: net.explain(net.rules(rule), x, 0, ar))
    expected.check(cases.flat(found, 3), precision, name)


def backward_of(analyzer):
    return analyzer._core._programs._lowered().program.backward


def pooled_network(case, *, activation="relu"):
    graph, n = lrpfast.Graph(), len(case[0])
    rng = seeds.generator(3)
    a = graph.add(L.Conv(rng.normal(size=(*(1,) * n, 2, 4)), activation=activation), graph.input((*case[0], 2)))
    a = graph.add(L.Flatten(), graph.add(L.MaxPool(**case[1]), a))
    columns = int(np.prod(output_shape(case, 4)))
    return graph.model(graph.add(L.Dense(rng.normal(size=(columns, 3))), a))


@pytest.mark.parametrize("case", POOLS, ids=names)
def test_what_is_divided_before_its_winners(case):
    """Where windows do not overlap, the layer above the pooling divides by the pooled values."""
    program = backward_of(lrpfast.Analyzer(pooled_network(case), "epsilon", target=0))
    at = next(i for i, o in enumerate(program) if isinstance(o, PoolBack))
    geometry = program[at].geometry
    taken = np.concatenate([np.ravel(pair) for pair in by_hand_sources(geometry)])
    overlap = len(np.unique(taken)) < len(taken)
    assert geometry.disjoint == (not overlap)
    assert geometry.tiles == (not overlap and len(taken) == np.prod(geometry.source))
    divided = isinstance(program[at - 1], Redistribute) and program[at - 1].divide is not None
    assert divided == (not overlap)
    assert any(isinstance(o, Divide) for o in program[at:]) == overlap


def by_hand_sources(geometry):
    """The source rows of every window."""
    (region,) = geometry.regions
    grid = np.arange(np.prod(geometry.source)).reshape(geometry.source)
    for at in itertools.product(*(range(len(a.positions)) for a in region.axes)):
        taps = itertools.product(*(a.index[i] for a, i in zip(region.axes, at, strict=True)))
        yield np.array([grid[tap] for tap in taps if min(tap) >= 0], int)


@pytest.mark.parametrize(
    "rule, activation",
    [
        (rules.AlphaBeta(2, 1), "relu"),  # denominators that are not pooled
        (rules.Epsilon(0.1), "tanh"),  # z is not what is pooled
        (rules.Epsilon(0.1), "linear"),  # or may be below zero
    ],
    ids=["alpha_beta", "tanh", "linear"],
)
def test_what_is_not(rule, activation):
    program = backward_of(lrpfast.Analyzer(pooled_network(POOLS[0], activation=activation), rule, target=0))
    at = next(i for i, o in enumerate(program) if isinstance(o, PoolBack))
    assert isinstance(program[at - 1], Redistribute) and program[at - 1].divide is None


def test_conditions_mask_the_relevance_that_is_divided():
    """Relevance of the pooling and of the layer below it adds up over channels, each masked before it is divided."""
    analyzer = lrpfast.Analyzer(pooled_network(POOLS[0]), "epsilon", target=0)
    x = cases.values((*POOLS[0][0], 2), 2).astype(np.float32)
    whole = analyzer.analyze(x)
    for layer in [node.name for node in analyzer.explained_model.nodes if node.shape[-1] == 4]:
        parts = [analyzer.analyze(x, conditions={layer: c}) for c in range(4)]
        np.testing.assert_allclose(sum(p.astype(np.float64) for p in parts), whole, rtol=1e-4, atol=1e-6)
