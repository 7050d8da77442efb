"""Every rule, convention and precision against the oracle: one layer, then networks."""

import numpy as np
import pytest

import cases
import lrpfast
import oracle
from tolerances import Expected

PRECISIONS = ("float32", "float64", "tf32")

#: inputs, outputs, samples: vector widths and their neighbours, blocks of K at 256 and 512, and the wide and shallow
SIZES = [
    (1, 1, 1),
    (2, 1, 13),
    (1, 3, 2),
    (3, 2, 13),
    (17, 64, 2),
    (65, 17, 3),
    (64, 130, 1),
    (130, 65, 2),
    (257, 9, 3),
    (300, 3, 2),
    (513, 33, 2),
    (2000, 8, 2),
]

ACTIVATIONS = ("relu", "tanh", "leaky_relu", "sigmoid")


def dtype(precision):
    return np.float64 if precision == "float64" else np.float32


@pytest.mark.share
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("case", cases.CASES, ids=cases.case_id)
def test_one_layer(case, size):
    n, m, count = size
    (layer,) = cases.network((n, m))
    if m >= 3:
        layer.w[:, 1], layer.b[1] = 0, 0  # an output that no input reaches
    rng = np.random.default_rng(m)
    r = rng.normal(size=(count, m)).astype(np.float32)
    dense = lrpfast.layers.Dense(layer.w, layer.b)
    for nonnegative in (False, True):
        x = cases.inputs(count, n, nonnegative=nonnegative)
        expected = Expected(lambda ar, x=x: oracle.redistribute(case, layer, x, r, ar))
        for precision in PRECISIONS:
            got = lrpfast.redistribute(
                cases.rule(case), dense, x.astype(dtype(precision)), r.astype(dtype(precision)), precision=precision
            )
            expected.check(got, precision, "x >= 0" if nonnegative else "mixed x")


@pytest.mark.share
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", cases.CASES, ids=cases.case_id)
def test_network(case, activation):
    for sizes in ((5, 7, 6, 3), (66, 17, 9, 2)):
        layers = cases.network(sizes, activation)
        model = cases.model(layers)
        for nonnegative in (False, True):
            x = cases.inputs(3, sizes[0], nonnegative=nonnegative)
            expected = Expected(lambda ar, x=x, layers=layers: oracle.explain(layers, [case] * 3, x, ar=ar))
            for precision in PRECISIONS:
                analyzer = lrpfast.Analyzer(
                    model, cases.rule(case), precision=precision, input_range=(0, 3) if nonnegative else None
                )
                expected.check(analyzer.analyze(x), precision, f"{sizes} {'x >= 0' if nonnegative else 'mixed x'}")


#: one or two of each kind the planner tells apart: with and without bias, with and without the factor x
KINDS = [
    ("zero", {}),
    ("zero", {"bias": "ignore"}),
    ("zero", {"stabilizer": (1e-7, "zero")}),
    ("epsilon", {"epsilon": 0.1}),
    ("epsilon", {"epsilon": 0.1, "bias": "ignore"}),
    ("epsilon", {"epsilon": 0.1, "bias": "distribute"}),
    ("epsilon", {"bias": "repeat"}),
    ("gamma", {}),
    ("gamma", {"bias": "distribute"}),
    ("gamma", {"generalized": False, "bias": "ignore"}),
    ("alpha_beta", {}),
    ("alpha_beta", {"bias": "full"}),
    ("z_plus", {}),
    ("w_square", {}),
    ("flat", {}),
    ("z_box", {"low": -3.0, "high": 4.0}),
]


@pytest.mark.parametrize("first", KINDS, ids=cases.case_id)
@pytest.mark.parametrize("rest", KINDS, ids=cases.case_id)
def test_every_rule_above_every_other(rest, first):
    layers = cases.network((6, 9, 7, 3), "relu", seed=3)
    x = cases.inputs(4, 6, seed=3)
    composite = lrpfast.composites.Uniform(cases.rule(rest), first=cases.rule(first))
    got = lrpfast.Analyzer(cases.model(layers), composite).analyze(x)
    Expected(lambda ar: oracle.explain(layers, [first, rest, rest], x, ar=ar)).check(got)


@pytest.mark.parametrize("rule", KINDS, ids=cases.case_id)
@pytest.mark.parametrize(
    "function, parameters",
    [
        ("relu", {"max_value": 0.5}),
        ("relu", {"threshold": 0.2}),
        ("relu", {"threshold": -0.2}),
        ("relu", {"negative_slope": 0.1}),
        ("leaky_relu", {"negative_slope": 0.3}),
        ("elu", {"alpha": 0.7}),
        ("selu", {}),
        ("gelu", {}),
        ("gelu", {"approximate": True}),
        ("silu", {}),
        ("hard_sigmoid", {"slope": 1 / 6}),
        ("softplus", {}),
        ("softsign", {}),
        ("exponential", {}),
        ("mish", {}),
        ("clip", {"low": -0.3, "high": 0.5}),
        ("clip", {"low": 0.1}),
        ("clip", {"high": -0.1}),
        ("power", {"exponent": 2}),
        ("power", {"exponent": 3}),
        ("hard_silu", {}),
        ("log_sigmoid", {}),
        ("log_softmax", {}),
    ],
    ids=lambda v: "-".join(f"{k}={x:.3g}" for k, x in v.items()) if isinstance(v, dict) else v,
)
def test_activations(function, parameters, rule):
    layers = cases.network((6, 9, 7, 3), function, parameters=parameters)
    x = cases.inputs(3, 6)
    expected = Expected(lambda ar: oracle.explain(layers, [rule] * 3, x, ar=ar))
    for precision in ("float32", "float64"):
        got = lrpfast.Analyzer(cases.model(layers), cases.rule(rule), precision=precision).analyze(x)
        expected.check(got, precision)


def test_prelu():
    slope = np.linspace(-0.5, 0.5, 9).astype(np.float32)
    layers = cases.network((6, 9, 3), "prelu", parameters={"negative_slope": slope})
    x = cases.inputs(5, 6)
    got = lrpfast.Analyzer(cases.model(layers), "epsilon").analyze(x)
    Expected(lambda ar: oracle.explain(layers, [("epsilon", {})] * 2, x, ar=ar)).check(got)


@pytest.mark.parametrize("rule", KINDS, ids=cases.case_id)
def test_activation_layers_and_layers_that_do_nothing(rule):
    """ReLU as its own layer, Dropout, Flatten and Reshape between: the same numbers."""
    make = lrpfast.layers
    a, b, c = cases.network((6, 8, 5, 3), "relu")
    model = lrpfast.from_layers(
        [
            make.Flatten(),
            make.Identity("Dropout"),
            make.Dense(a.w, a.b),
            make.Activation("relu"),
            make.Reshape((2, 4)),
            make.Identity("Dropout"),
            make.Flatten(),
            make.Dense(b.w, b.b, activation="relu"),
            make.Identity("GaussianNoise"),
            make.Dense(c.w, c.b),
            make.Activation("softmax"),
        ],
        input_shape=(2, 3),
    )
    x = cases.inputs(4, 6)
    got = lrpfast.Analyzer(model, cases.rule(rule)).analyze(x.reshape(4, 2, 3))
    assert got.shape == (4, 2, 3)
    expected = Expected(lambda ar: oracle.explain([a, b, c], [rule] * 3, x, ar=ar))
    expected.check(got.reshape(4, 6))


@pytest.mark.parametrize("rule", KINDS, ids=cases.case_id)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_dense_on_the_last_axis(rule, precision):
    """A Dense layer on inputs of rank 2 acts on each row apart; so does its rule."""
    make = lrpfast.layers
    (a,), (b,) = cases.network((4, 5), last="relu"), cases.network((15, 2))
    model = lrpfast.from_layers(
        [make.Dense(a.w, a.b, activation="relu"), make.Flatten(), make.Dense(b.w, b.b)], input_shape=(3, 4)
    )
    x = cases.inputs(4, 12).reshape(4, 3, 4)

    def compute(ar):
        (a64,) = oracle.as_float64([a])
        relevance = []
        for sample in np.float64(x):
            seen = [oracle.forward([a64], row, ar)[1] for row in sample]
            r = oracle.explain([b], [rule], np.concatenate(seen)[None], ar=ar).reshape(3, 5)
            relevance.append(oracle.redistribute(rule, a, sample, r, ar))
        return np.array(relevance)

    got = lrpfast.Analyzer(model, cases.rule(rule), precision=precision).analyze(x)
    Expected(compute, together=False).check(got, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", [(), (4,), (3, 4)], ids=["scalar", "per-channel", "per-feature"])
def test_box_bounds(shape, precision):
    """One bound, one for every channel (the last axis), one for every feature; rows see their own."""
    make = lrpfast.layers
    (a,), (b,) = cases.network((4, 5), last="relu"), cases.network((15, 2))
    rng = np.random.default_rng(4)
    low = -3 - rng.random(shape).astype(np.float32)
    high = 3 + rng.random(shape).astype(np.float32)
    model = lrpfast.from_layers(
        [make.Dense(a.w, a.b, activation="relu"), make.Flatten(), make.Dense(b.w, b.b)], input_shape=(3, 4)
    )
    x = cases.inputs(4, 12).reshape(4, 3, 4)
    lows, highs = np.broadcast_to(low, (3, 4)), np.broadcast_to(high, (3, 4))

    def compute(ar):
        (a64,) = oracle.as_float64([a])
        relevance = np.empty(x.shape)
        for sample, into in zip(np.float64(x), relevance, strict=True):
            seen = np.concatenate([oracle.forward([a64], row, ar)[1] for row in sample])
            r = oracle.explain([b], [("epsilon", {})], seen[None], ar=ar).reshape(3, 5)
            for i in range(3):
                box = ("z_box", {"low": np.float64(lows[i]), "high": np.float64(highs[i])})
                into[i] = oracle.redistribute(box, a, sample[None, i], r[None, i], ar)[0]
        return relevance

    composite = lrpfast.composites.Uniform(lrpfast.rules.Epsilon(), first=lrpfast.rules.ZBox(low, high))
    got = lrpfast.Analyzer(model, composite, precision=precision).analyze(x)
    Expected(compute, together=False).check(got, precision)


def test_a_large_batch():
    layers = cases.network((17, 12, 4), "relu")
    x = cases.inputs(100, 17)
    for rule in KINDS[::4]:
        got = lrpfast.Analyzer(cases.model(layers), cases.rule(rule)).analyze(x)
        Expected(lambda ar, rule=rule: oracle.explain(layers, [rule] * 2, x, ar=ar)).check(got)


@pytest.mark.parametrize("case", cases.PLAIN, ids=cases.case_id)
def test_without_bias(case):
    """A layer that has no bias: every convention gives what a bias of zero gives."""
    layers = [layer._replace(b=None) for layer in cases.network((5, 8, 3), "relu")]
    x = cases.inputs(3, 5)
    got = lrpfast.Analyzer(cases.model(layers), cases.rule(case)).analyze(x)
    Expected(lambda ar: oracle.explain(layers, [case] * 2, x, ar=ar)).check(got)


@pytest.mark.parametrize("sign", [1, -1], ids=["positive", "negative"])
@pytest.mark.parametrize("case", cases.PLAIN, ids=cases.case_id)
def test_weights_of_one_sign(case, sign):
    """Where products vanish because of the weights, the planner leaves them out."""
    layers = [layer._replace(w=sign * np.abs(layer.w)) for layer in cases.network((5, 8, 3), "tanh")]
    x = cases.inputs(3, 5)
    expected = Expected(lambda ar: oracle.explain(layers, [case] * 2, x, ar=ar))
    for precision in PRECISIONS:
        got = lrpfast.Analyzer(cases.model(layers), cases.rule(case), precision=precision).analyze(x)
        expected.check(got, precision)


def test_float64_weights_stay_float64():
    layers = [
        n._replace(w=np.float64(n.w) * (1 + 1e-10), b=np.float64(n.b) * (1 - 1e-10)) for n in cases.network((5, 8, 3))
    ]
    x = np.random.default_rng(0).normal(size=(3, 5))
    got = lrpfast.Analyzer(cases.model(layers), "epsilon", precision="float64").analyze(x)
    Expected(lambda ar: oracle.explain(layers, [("epsilon", {})] * 2, x, ar=ar)).check(got, "float64")


@pytest.mark.parametrize("name", cases.CONVENTIONS)
def test_conventions_that_make_no_sense_are_errors(name):
    parameters = {"low": -1, "high": 1} if name == "z_box" else {}
    for bias in (*cases.FIVE, "none", "", None, True, 1):
        make = getattr(lrpfast.rules, cases.CLASSES[name])
        if bias in cases.CONVENTIONS[name] and isinstance(bias, str):
            assert make(bias=bias, **parameters).bias == bias
        else:
            with pytest.raises(lrpfast.RuleError, match="bias"):
                make(bias=bias, **parameters)
