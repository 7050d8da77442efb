"""The planner's facts: what a network of ReLUs costs, and when z must be kept."""

import numpy as np
import pytest

import cases
import lrpfast
import oracle
import seeds
from lrpfast import layers as L  # noqa: N812
from lrpfast import rules
from oracle_layers import Layer, Net
from tolerances import Expected

RNG = seeds.generator(3)


def w(*shape):
    return (0.5 * RNG.normal(size=shape)).astype(np.float32)


def network():
    """ReLUs, and what may lie between them and the next layer: pooling, joining, flattening, a folded batch norm."""
    graph = lrpfast.Graph()
    x = graph.input((12, 12, 3))
    a = graph.add(L.Conv(w(3, 3, 3, 4), w(4), padding="same", activation="relu", name="first"), x)
    a = graph.add(L.MaxPool((2, 2)), a)
    b = graph.add(L.Conv(w(3, 3, 4, 4), w(4), padding="same", name="folded"), a)
    b = graph.add(L.BatchNorm(w(4), np.abs(w(4)) + 0.5, w(4), w(4)), b)
    b = graph.add(L.Activation("relu"), b)
    c = graph.add(L.Conv(w(1, 1, 4, 5), w(5), activation="relu", name="side"), a)
    d = graph.add(L.Concat(), b, c)
    d = graph.add(L.ZeroPad(((0, 1), (1, 0))), d)
    d = graph.add(L.Conv(w(2, 2, 9, 6), w(6), strides=2, activation="relu", name="joined"), d)
    d = graph.add(L.AveragePool((2, 2)), d)
    d = graph.add(L.Flatten(), d)
    d = graph.add(L.Dense(w(6, 5), w(5), "relu", name="dense"), d)
    return graph.model(graph.add(L.Dense(w(5, 2), w(2), name="last"), d))


WEIGHTED = ("first", "folded", "side", "joined", "dense", "last")


@pytest.mark.parametrize(
    "rule, first, others",
    [
        (rules.Epsilon(), 2, 2),
        (rules.Zero(), 2, 2),
        (rules.ZPlus(), 5, 3),
        (rules.AlphaBeta(1, 0), 5, 3),
        (rules.AlphaBeta(2, 1), 9, 5),
        (rules.Gamma(generalized=False), 3, 3),
        (rules.WSquare(), 2, 2),
        (rules.Flat(), 2, 2),
    ],
    ids=lambda v: v.name if isinstance(v, rules.Rule) else str(v),
)
def test_contractions_of_a_relu_network(rule, first, others):
    plan = lrpfast.Analyzer(network(), rule).plan()
    steps = {step.name: step for step in plan.steps}
    counts = {name: steps[name].contractions for name in WEIGHTED}
    assert counts == {name: first if name == "first" else others for name in WEIGHTED}
    for name in WEIGHTED[1:]:
        assert {s.part for s in steps[name].sums} == {"x"}, name
        assert "x-" not in {share.part for share in steps[name].shares}
    assert str(plan).count("\n") >= len(WEIGHTED)


@pytest.mark.parametrize("rule", [rules.AlphaBeta(2, 1), rules.Gamma(), rules.ZPlus(), rules.AlphaBetaX()], ids=repr)
def test_outputs_are_no_difference_of_larger_sums(rule):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(20, 9000)).astype(np.float32)
    kernel = rng.normal(size=(9000, 12)).astype(np.float32)
    layers = [lrpfast.layers.Dense(kernel, activation="relu"), lrpfast.layers.Dense(np.ones((12, 1), np.float32))]
    model = lrpfast.from_layers(layers)
    for step in lrpfast.Analyzer(model, rule).plan().steps:
        if getattr(step, "sums", ()):
            own = [s for s in step.sums if step.forward[s.accumulator]]
            assert [(s.part, s.weight) for s in own] == [("x", "w")], step.name
    exact = lrpfast.Analyzer(model, rule, precision="float64").explain(x.astype(np.float64)).output
    output = lrpfast.Analyzer(model, rule).explain(x).output
    np.testing.assert_allclose(output, exact, rtol=2e-6)  # a sum of ReLU outputs: nothing cancels after them


def test_a_declared_range_drops_the_first_layers_products_too():
    plan = lrpfast.Analyzer(network(), rules.ZPlus(), input_range=(0, 1)).plan()
    assert {s.contractions for s in plan.steps if getattr(s, "name", "") in WEIGHTED and hasattr(s, "sums")} == {3}


def test_generalized_gamma_needs_one_group_below_a_relu():
    steps = {s.name: s for s in lrpfast.Analyzer(network(), rules.Gamma()).plan().steps}
    for name in ("folded", "side", "joined", "dense"):
        assert len(steps[name].groups) == 1, name
    assert len(steps["last"].groups) == 2  # an explanation may start there from any array


@pytest.mark.parametrize("gamma, products", [(0.25, 4), (7.0, 4), (7.5, 9), (100.0, 9)])
def test_generalized_gamma_of_both_signs_takes_two_products_each_way(gamma, products):
    layers = cases.network((9, 8, 3), "tanh")
    case = ("gamma", {"gamma": gamma})
    analyzer = lrpfast.Analyzer(cases.model(layers), cases.rule(case))
    assert [s.contractions for s in analyzer.plan().steps if hasattr(s, "sums")] == [products, products]
    x = cases.inputs(5, 9)
    expected = Expected(lambda ar: oracle.explain(layers, [case] * 2, x, ar=ar))
    expected.check(analyzer.analyze(x))
    balance = analyzer.explain(x).conservation
    for layer in balance:
        np.testing.assert_allclose(layer.rounding, 0, atol=1e-4 * np.abs(layer.incoming).max())
    tf32 = lrpfast.Analyzer(cases.model(layers), cases.rule(case), precision="tf32")
    assert [s.contractions for s in tf32.plan().steps if hasattr(s, "sums")] == [9, 9]
    expected.check(tf32.analyze(x), "tf32")


def test_one_product_of_sizes_for_many_inputs_and_few_outputs():
    layers = cases.network((600, 5, 4), "tanh")
    case, x = ("gamma", {}), cases.inputs(3, 600)
    expected = Expected(lambda ar: oracle.explain(layers, [case] * 2, x, ar=ar))
    for precision in ("float32", "float64"):
        expected.check(lrpfast.Analyzer(cases.model(layers), "gamma", precision=precision).analyze(x), precision)


@pytest.mark.parametrize("columns", [1, 64])
@pytest.mark.parametrize("bias", [None, 0.0])
@pytest.mark.parametrize("precision", ["float32", "float64", "tf32"])
def test_a_sum_of_exactly_zero_passes_relevance_on(precision, bias, columns):
    # y = 3 (x1 - x2) + 1: at x1 = x2 relevance is that of a z close to 0, (3 x1, -3 x2)
    kernel, zeros = np.repeat([[1.0], [-1.0]], columns, 1), None if bias is None else np.full(columns, bias)
    first, second = L.Dense(kernel, zeros), L.Dense(np.full((columns, 1), 3.0 / columns), np.ones(1))
    model = lrpfast.from_layers([first, second])
    as_it_is = rules.Zero(stabilizer=rules.Stabilizer(1e-6, "zero"))
    x = np.array([[2.0, 2.0], [2.0, 1.0], [0.0, 0.0]])
    analyzer = lrpfast.Analyzer(model, as_it_is, precision=precision)
    np.testing.assert_allclose(analyzer.analyze(x), [[6, -6], [6, -3], [0, 0]], rtol=1e-6)
    explanation = analyzer.explain(x)
    assert np.array_equal(explanation.relevance, analyzer.analyze(x))
    assert all(not layer.lost.any() for layer in explanation.conservation)
    # nothing is known of an explicit relevance: there a zero stays a zero
    r = np.full((1, columns), 5.0 / columns)
    given = lrpfast.redistribute(as_it_is, first, x[:1], r, precision=precision)
    assert np.abs(given).max() == pytest.approx(5 * 2 / 1e-6, rel=1e-3)


@pytest.mark.parametrize("function", ["gelu", "silu", "tanh", "elu", "leaky_relu", "softsign", "mish", "linear"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_relevance_passes_an_activation_of_exactly_zero(precision, function):
    """R = c f(z) divided by z: at 0 it is that of a z close to 0, as on either side of it."""
    as_it_is = rules.Zero(stabilizer=rules.Stabilizer(1e-6, "zero"))
    model = lrpfast.from_layers([L.Dense(np.array([[1.0], [-1.0]]), activation=function), L.Dense([[3.0]], [1.0])])
    analyzer = lrpfast.Analyzer(model, as_it_is, precision=precision)
    got = analyzer.analyze(np.array([[2.0, 2.0], [0.0, 0.0]]))
    step = 1e-6
    near = lrpfast.Analyzer(model, as_it_is, precision="float64").analyze(np.array([[2.0 + step, 2.0]]))
    np.testing.assert_allclose(got, [near[0], [0, 0]], rtol=1e-5)
    assert got[0, 0] > 1 and not any(b.lost.any() for b in analyzer.explain(np.array([[2.0, 2.0]])).conservation)


@pytest.mark.parametrize("written_out", [False, True])
@pytest.mark.parametrize("rule", ["attn_lrp", "cp_lrp"])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_attention_whose_values_cancel_passes_relevance_on(precision, rule, written_out):
    """Two keys of equal weight and opposite values; LXT's gradients pass through such a zero, too."""

    def analyzed(x):
        graph = lrpfast.Graph()
        q, k, v = (graph.input(shape, name=name) for name, shape in (("q", (1, 1)), ("k", (2, 1)), ("v", (2, 1))))
        attended = graph.add(L.Attention(name="a"), q, k, v)
        model = graph.model(graph.add(L.Dense([[3.0]], [1.0]), attended))
        model = lrpfast.write_out_attention(model) if written_out else model
        return lrpfast.Analyzer(model, rule, precision=precision, target=0).analyze(x)

    def inputs(value):
        return [np.ones((1, 1, 1)), np.ones((1, 2, 1)), np.array([[[2.0], [value]]])]

    exact, near = analyzed(inputs(-2.0)), analyzed(inputs(-2.0 + 1e-5))
    share = 0.5 if rule == "attn_lrp" else 1.0
    np.testing.assert_allclose(exact[2].ravel(), [3 * share, -3 * share], rtol=1e-6)
    for a, b in zip(exact, near, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_no_z_is_kept_below_a_relu():
    steps = {s.name: s for s in lrpfast.Analyzer(network(), rules.Epsilon()).plan().steps}
    for name in ("first", "side", "joined", "dense"):
        assert [g.pre_activation for g in steps[name].groups] == ["activation"], name
    assert [g.pre_activation for g in steps["last"].groups] == ["output"]


def relu_and(*after, own=None, shape=(4, 4, 2)):
    """A convolution with a ReLU, what takes its output, and a head; compared with the oracle."""
    nodes = [
        (Layer("Input", {"shape": shape}),),
        (Layer("Conv", {"kernel": w(2, 2, 2, 3), "bias": w(3), "padding": "same", "activation": "relu"}), 0),
        *after,
        (Layer("Flatten"), len(after) + 1),
    ]
    bare = Net(nodes)
    width = len(bare.forward([np.zeros(shape)]).y[-1])
    return Net([*nodes, (Layer("Dense", {"kernel": w(width, 2), "bias": w(2)}), len(nodes) - 1)]), own or {}


CONV = ("Conv", lambda: {"kernel": w(1, 1, 3, 3), "bias": w(3)})


def layer(kind, parameters):
    return Layer(kind, parameters())


BREAKING = {
    "a sum that takes it too": relu_and((layer(*CONV), 1), (Layer("Add"), 1, 2)),
    "a product's equal shares": relu_and((layer(*CONV), 1), (Layer("Multiply"), 1, 2)),
    "flat after it": relu_and((layer(*CONV), 1), own={2: ("flat", {})}),
    "w-square after it": relu_and((layer(*CONV), 1), own={2: ("w_square", {})}),
    "a shared bias after it": relu_and((layer(*CONV), 1), own={2: ("epsilon", {"bias": "distribute"})}),
    "z-box after it": relu_and((layer(*CONV), 1), own={2: ("z_box", {"low": -1.0, "high": 9.0})}),
    "a normalization that passes": relu_and((Layer("LayerNorm", {"beta": w(3)}), 1), own={2: ("pass", {})}),
    "another activation": relu_and((Layer("Activation", {"function": "sigmoid"}), 1)),
    "flat behind pooling": relu_and((Layer("MaxPool", {"size": (2, 2)}), 1), (layer(*CONV), 2), own={3: ("flat", {})}),
    "flat on one of two": relu_and(
        (layer(*CONV), 1), (layer(*CONV), 1), (Layer("Concat"), 2, 3), own={2: ("flat", {})}
    ),
    "a gradient after it": relu_and((Layer("AveragePool", {"size": (2, 2)}), 1), own={2: ("gradient", {})}),
}


@pytest.mark.parametrize(
    "rule", [("epsilon", {"epsilon": 0.01}), ("gamma", {}), ("z_plus", {}), ("alpha_beta", {})], ids=cases.case_id
)
@pytest.mark.parametrize("name", BREAKING)
def test_where_relevance_does_not_follow_the_relu_z_is_kept(name, rule):
    net, own = BREAKING[name]
    x = cases.values(net.nodes[0].layer.parameters["shape"], 3)
    expected = Expected(lambda ar: net.explain(net.rules(rule, own), x, "max", ar))
    composite = cases.composite({f"n{i}": r for i, r in own.items()}, rule)
    analyzer = lrpfast.Analyzer(cases.graph(net), composite, precision="float64")
    expected.check(cases.flat(analyzer.analyze(x), 3), "float64", name)
    (step,) = [s for s in analyzer.plan().steps if s.name == "n1"]
    keeps = name == "a sum that takes it too"  # Norm multiplies by its input: relevance follows all the same
    assert keeps or "activation" not in {g.pre_activation for g in step.groups}, name


def test_an_explanation_that_starts_at_a_relu_from_an_array():
    model = lrpfast.from_layers([L.Dense(w(3, 4), w(4), "relu")])
    x, r = cases.values((3,), 2), np.ones((2, 4))
    z = np.float64(x) @ np.float64(model.layers[1].kernel) + model.layers[1].bias
    s = r / (z + np.where(z >= 0, 0.1, -0.1))
    got = lrpfast.Analyzer(model, rules.Epsilon(0.1), precision="float64").analyze(x, r)
    np.testing.assert_allclose(got, x * (s @ np.float64(model.layers[1].kernel).T), rtol=1e-10)
