"""Relevance through chosen neurons of hidden layers, beside zennit-crp's figures and the oracle."""

import json
from pathlib import Path

import numpy as np
import pytest

import lrpfast
import oracle
import torch_peers
from lrpfast import InputError, ShapeError
from lrpfast.layers import Add, Conv, Dense, Flatten

DATA = Path(__file__).parent / "data"
RECORDED = np.load(DATA / "concepts.npz")
pytestmark = pytest.mark.filterwarnings("ignore::lrpfast.errors.RelevanceWarning")


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.mark.parametrize("key", RECORDED.files)
def test_figures_of_zennit_crp(key):
    """zennit-crp 0.6.0 under EpsilonPlusFlat; zennit folds batch norm in another way (from_zennit.md)."""
    network, settings = key.split("|", 1)
    settings = json.loads(settings)
    conditions = settings["conditions"]
    if "neuron" in str(conditions):  # zennit-crp's [layer, channel, flat position]
        neuron = np.zeros((8, 36), bool)
        neuron[3, 14] = True
        conditions = {"conv2d_1": neuron.reshape(8, 6, 6).transpose(1, 2, 0)}
    model = lrpfast.load(DATA / f"torch_{network}.pt2")
    recorded = RECORDED[key]
    x = np.load(DATA / f"torch_{network}.npz")["x"][: len(recorded)].astype(np.float64)
    cases = {5e-5: (model, lrpfast.composites.EpsilonPlusFlat())}
    # what zennit 0.4.6 leaves of a batch norm has no rule, and so its gradient
    cases[1e-14] = torch_peers.as_zennit_merges(model), torch_peers.beside_merged(cases[5e-5][1], "excitation")
    for bound, (own, composite) in cases.items():
        analyzer = lrpfast.Analyzer(own, composite, precision="float64")
        relevance = analyzer.analyze(x, settings["target"], conditions=conditions, parallel=settings["parallel"])
        whole = np.abs(analyzer.analyze(x, settings["target"])).max()
        assert np.abs(relevance - recorded).max() < bound * max(whole, np.abs(recorded).max())


RULES = {
    "epsilon": lrpfast.rules.Epsilon(0.01),
    "z_plus": lrpfast.rules.ZPlus(),
    "alpha_beta": lrpfast.rules.AlphaBeta(2, 1),
    "gamma": lrpfast.rules.Gamma(0.5),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_chain_agrees_with_the_oracle(rule, rng):
    """Layer by layer: the oracle's relevance, times the masks."""
    weights = [rng.normal(size=shape) for shape in ((5, 7), (7, 6), (6, 3))]
    model = lrpfast.from_layers([Dense(w, activation="relu" if i < 2 else None) for i, w in enumerate(weights)])
    x, target = rng.normal(size=(4, 5)), np.array([0, 2, 1, 1])
    parameters = {"epsilon": {"epsilon": 0.01}, "alpha_beta": {"alpha": 2, "beta": 1}, "gamma": {"gamma": 0.5}}
    layers = [oracle.Dense(w, None, "relu" if i < 2 else None) for i, w in enumerate(weights)]
    inputs, output = oracle.forward(layers, x)
    masks = {0: rng.random(7) < 0.5, 1: rng.random(6) < 0.5}
    for chosen in ({0: masks[0]}, {1: masks[1]}, masks):
        relevance = oracle.starting_relevance(output, np.eye(3)[target] * output)
        for i in (2, 1, 0):
            if i in chosen:
                relevance = relevance * chosen[i]
            relevance = oracle.redistribute((rule, parameters.get(rule, {})), layers[i], inputs[i][0], relevance)
        conditions = {model.layers[i + 1].name: mask for i, mask in chosen.items()}
        analyzer = lrpfast.Analyzer(model, RULES[rule], precision="float64")
        ours = analyzer.analyze(x, target, conditions=conditions)
        np.testing.assert_allclose(ours, relevance, rtol=1e-9, atol=1e-12 * np.abs(relevance).max())


@pytest.fixture
def residual(rng):
    graph = lrpfast.Graph()
    x = graph.input((5, 4, 2))
    a = graph.add(Conv(rng.normal(size=(3, 3, 2, 3)), padding="same", activation="relu", name="a"), x)
    b = graph.add(Conv(rng.normal(size=(3, 3, 3, 3)), padding="same", activation="relu", name="b"), a)
    c = graph.add(Add(name="c"), a, b)
    return graph.model(graph.add(Dense(rng.normal(size=(60, 2)), name="d"), graph.add(Flatten(), c)))


def test_what_passes_and_what_passes_by_are_the_whole(residual, rng):
    x, analyzer = rng.normal(size=(3, 5, 4, 2)), lrpfast.Analyzer(residual, "epsilon", precision="float64")
    whole = analyzer.analyze(x, 1)

    def through(**conditions):
        return analyzer.analyze(x, 1, conditions=conditions)

    def past(**conditions):
        return analyzer.analyze(x, 1, conditions=conditions, parallel=True)

    close = {"rtol": 1e-9, "atol": 1e-12}
    for layer in ("a", "c"):  # every path leads through them
        np.testing.assert_allclose(sum(through(**{layer: i}) for i in range(3)), whole, **close)
        np.testing.assert_allclose(past(**{layer: {0, 2}}), through(**{layer: [0, 2]}), **close)
    skipped = whole - through(b=slice(None))
    assert np.abs(skipped).max() > 0.1
    np.testing.assert_allclose(past(b=1) - through(b=1), skipped, **close)
    np.testing.assert_allclose(past(b=[0, 1, 2]), whole, **close)
    np.testing.assert_allclose(through(a=1, b=2), through(b=2, a=[1]), **close)
    np.testing.assert_allclose(sum(through(a=i, b=2) for i in range(3)), through(b=2), **close)
    np.testing.assert_allclose(past(a=0, b=1), through(a=0, b=1) + through(a=0) - through(a=0, b=[0, 1, 2]), **close)


def test_several_conditions_at_once(residual, rng):
    x, analyzer = rng.normal(size=(3, 5, 4, 2)).astype(np.float32), lrpfast.Analyzer(residual, "epsilon_plus")
    place = rng.random((5, 4, 3)) < 0.5
    conditions = [{"b": 0}, {"a": -1}, {"b": place}, {"a": 1, "b": 2}, {"b": np.array([True, False, True])}]
    together = analyzer.analyze(x, conditions=conditions)
    assert together.shape == (3, 5, 5, 4, 2) and together.dtype == np.float32
    for i, condition in enumerate(conditions):
        np.testing.assert_array_equal(together[:, i], analyzer.analyze(x, conditions=condition))
        np.testing.assert_array_equal(together[1:2, i], analyzer.analyze(x[1:2], conditions=condition))


@pytest.mark.parametrize(
    ("error", "message", "conditions"),
    [
        (InputError, "conditions must map", 3),
        (InputError, "conditions must map", []),
        (InputError, "conditions must map", {}),
        (InputError, "unknown layer 'x'", {"x": 1}),
        (InputError, "'input' is the input", {"input": 0}),
        (InputError, "has channels 0 to 2", {"a": 3}),
        (InputError, "has 3 channels; choose", {"a": 1.5}),
        (InputError, "has 3 channels; choose", {"a": []}),
        (InputError, "has 3 channels; choose", {"a": np.ones(4, bool)}),
    ],
)
def test_wrong_conditions(residual, error, message, conditions):
    with pytest.raises(error, match=message):
        lrpfast.Analyzer(residual, "epsilon").analyze(np.ones((1, 5, 4, 2)), conditions=conditions)


def test_layers_without_a_common_path(rng):
    graph = lrpfast.Graph()
    x = graph.input(3)
    a, b = (graph.add(Dense(rng.normal(size=(3, 2)), name=name), x) for name in "ab")
    analyzer = lrpfast.Analyzer(graph.model(graph.add(Add(), a, b)), "epsilon")
    with pytest.raises(ShapeError, match="no path leads"):
        analyzer.analyze(np.ones((1, 3)), conditions={"a": 0, "b": 1})
    whole = analyzer.analyze(np.ones((1, 3)), conditions={"a": [0, 1], "b": [0, 1]}, parallel=True)
    np.testing.assert_allclose(whole, analyzer.analyze(np.ones((1, 3))), rtol=1e-5)


# Several starting relevances of one forward pass


def test_several_starting_relevances(residual, rng):
    x, starts = rng.normal(size=(4, 5, 4, 2)), rng.normal(size=(4, 3, 2))
    analyzer = lrpfast.Analyzer(residual, "epsilon")
    together = analyzer.analyze(x, starts)
    assert together.shape == (4, 3, 5, 4, 2)
    for k in range(3):
        np.testing.assert_array_equal(together[:, k], analyzer.analyze(x, np.ascontiguousarray(starts[:, k])))
    with pytest.raises(ShapeError, match=r"or \(4, k, 2\) for k explanations"):
        analyzer.analyze(x, rng.normal(size=(4, 3, 3)))


@pytest.fixture
def contractions(monkeypatch):
    """The contractions of every run: (forwards, backwards once for all relevances, backwards for all of these)."""
    from lrpfast.kernels import cpu
    from lrpfast.kernels.contraction_ops import Contract, Redistribute

    counts = []
    run = cpu.CompiledProgram.run

    def counted(self, x, out, *, start=lrpfast.kernels.DEFAULT_START, **options):
        def count(operations, *kinds):
            return sum(isinstance(o, kinds) for o in operations)

        program, passes = self._program, start.passes
        of_segment = [count(program.backward[low:high], Contract, Redistribute) for low, high in program.parts]
        each = start.count * of_segment[0] if passes is None else sum(of_segment[s] for s in passes.steps[:, 0])
        if len(x):
            counts.append((count(program.forward, Contract), count(program.forward, Redistribute), each))
        return run(self, x, out, start=start, **options)

    monkeypatch.setattr(cpu.CompiledProgram, "run", counted)
    return counts


@pytest.fixture
def chain(rng):
    sizes = [6, 7, 8, 7, 6, 3]
    shapes = list(zip(sizes, sizes[1:], strict=False))
    return lrpfast.from_layers(
        [Dense(rng.normal(size=s), activation="relu", name=f"d{i}") for i, s in enumerate(shapes)]
    )


def test_what_conditions_cost(contractions, chain, rng):
    """One forward pass, one backward pass down to the uppermost layer, and for each condition one from there on.

    Conditions that agree down to a layer share what is above it.
    """
    x = rng.normal(size=(4, 6))
    analyzer = lrpfast.Analyzer(chain, "epsilon", precision="float64", device="cpu")
    one = [{"d2": i} for i in range(5)]
    two = [{"d3": i % 2, "d1": i} for i in range(6)]
    for parallel in (False, True):
        analyzer.analyze(x, 0, conditions=one, parallel=parallel)
        # five layers forwards and two back, then from the third layer down for each of five
        assert contractions == [(5, 2, 5 * 3)]
        contractions.clear()
        analyzer.analyze(x, 0, conditions=two, parallel=parallel)
        # two choices from the fourth layer to the second, and six from there on
        assert contractions == [(5, 1, 2 * 2 + 6 * 2)]
        contractions.clear()
        analyzer.analyze(x, 0, conditions=one[0], parallel=parallel)
        assert contractions == [(5, 2, 3)]  # no more than without a condition
        contractions.clear()
        analyzer.analyze(x, 0, conditions=[{"d2": 1}, {"d2": [1]}, {"d2": 2}], parallel=parallel)
        assert contractions == [(5, 2, 2 * 3)]  # two say the same
        contractions.clear()
    analyzer.analyze(x, 0, conditions=[{"d3": 0}, {"d1": 1}, {"d3": 1, "d1": 1}, {"d1": 2}])
    # one forward pass for different layers too: down to d1 once, 4 from d3, 2 from d1 twice, 2 and 2 between and below
    assert contractions == [(5, 3, 4 + 2 + 2 + 2 + 2)]
    contractions.clear()
    analyzer.references(x, "d2", 2, progress=False)
    assert contractions == [(5, 0, 2)]
    contractions.clear()
    analyzer.references(x, "d2", 2, by="activation", progress=False)
    assert contractions == [(3, 0, 0)]


def test_what_an_attribution_graph_costs(contractions, chain, rng):
    """One forward pass, and between two layers a backward pass for each of the graph's channels."""
    analyzer = lrpfast.Analyzer(chain, "epsilon", precision="float64", device="cpu")
    channel = int(np.abs(analyzer.explain(np.ones((1, 6)), 0, layers=True).layers["d3"]).argmax())
    contractions.clear()
    graph = analyzer.attribution_graph(np.ones((1, 6)), "d3", channel, width=(3, 2, 2), target=0)
    nodes = [sum(node.layer == layer for node in graph.nodes) for layer in ("d3", "d2", "d1")]
    assert nodes[0] == 1 and min(nodes) > 0
    # five layers forwards and one back; then from layer to layer without a forward pass
    assert contractions == [(5, 0, 1), *((0, 0, count) for count in nodes)]


def test_other_masks_compile_nothing(chain, rng, monkeypatch):
    from lrpfast.kernels import cpu

    compiled = []
    compile_program = cpu.CpuBackend.compile
    monkeypatch.setattr(cpu.CpuBackend, "compile", lambda self, p: compiled.append(p) or compile_program(self, p))
    analyzer, x = lrpfast.Analyzer(chain, "epsilon", device="cpu"), rng.normal(size=(4, 6))
    analyzer.analyze(x, 0, conditions=[{"d2": 1}, {"d2": {0, 3}}])
    count = len(compiled)
    for conditions in ({"d2": 5}, [{"d2": i} for i in range(6)], {"d2": rng.random(7) < 0.5}):
        analyzer.analyze(x, 1, conditions=conditions)
    assert len(compiled) == count


def test_conditions_together_and_one_by_one(residual, rng):
    x, analyzer = rng.normal(size=(3, 5, 4, 2)), lrpfast.Analyzer(residual, "epsilon", precision="float64")
    conditions = [{"c": i % 2, "b": i, "a": [0, i]} for i in range(3)] + [{"c": 1, "b": 1, "a": [0, 2]}]
    for parallel in (False, True):
        together = analyzer.analyze(x, 1, conditions=conditions, parallel=parallel)
        for i, condition in enumerate(conditions):
            alone = analyzer.analyze(x, 1, conditions=condition, parallel=parallel)
            np.testing.assert_array_equal(together[:, i], alone)


def test_conditions_take_one_target_per_sample(residual, rng):
    x, analyzer = rng.normal(size=(3, 5, 4, 2)), lrpfast.Analyzer(residual, "epsilon")
    for parallel in (False, True):
        with pytest.raises(InputError, match="one target per sample"):
            analyzer.analyze(x, np.zeros((3, 2), int), conditions={"b": 0}, parallel=parallel)
