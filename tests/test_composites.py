"""Composites: which layer gets which rule."""

import pickle

import numpy as np
import pytest

import lrpfast
from lrpfast import composites as C
from lrpfast import layers as L
from lrpfast import rules as R
from lrpfast.errors import RuleError
from lrpfast.rules.innvestigate import ANALYZERS, STABILIZER, composite, keywords


def ones(*shape):
    return np.ones(shape)


def network():
    """Every role: convolutions, norms, sums, pooling, activations within layers and as layers."""
    g = lrpfast.Graph()
    x = g.input((8, 8, 2), name="in")
    a = g.add(L.Conv(ones(3, 3, 2, 4), activation="relu", padding="same", name="conv_a"), x)
    b = g.add(L.Conv(ones(1, 1, 2, 4), name="conv_b"), x)
    b = g.add(L.Activation("relu", name="act"), g.add(L.BatchNorm(ones(4), ones(4), name="bn"), b))
    y = g.add(L.Add(name="add"), a, b)
    y = g.add(L.DepthwiseConv(ones(3, 3, 4, 1), name="dw"), y)
    y = g.add(L.MaxPool((2, 2), name="max"), y)
    y = g.add(L.AveragePool((3, 3), name="mean"), y)
    y = g.add(L.Identity("Dropout", name="drop"), g.add(L.Flatten(name="flat"), y))
    y = g.add(L.Dense(ones(4, 3), activation="tanh", name="fc"), y)
    y = g.add(L.Concat(name="concat"), y, y)
    y = g.add(L.Multiply(name="mul"), y, y)
    return g.model(g.add(L.Dense(ones(6, 2), activation="softmax", name="out"), y))


MODEL = network()


def names(assignment, model=MODEL):
    return {model.nodes[i].name: rule.name for i, rule in assignment.rules.items()}


def functions(assignment):
    return {MODEL.nodes[i].name: rule.name for i, rule in assignment.activations.items()}


#: what stays the same under all of these
REST = {
    **dict.fromkeys(("act", "max", "flat", "concat"), "pass"),
    "add": "norm",
    "mean": "norm",
    "mul": "split",
}


def expected(conv_a, conv_b, dw, fc, out, bn, **rest):
    return {**REST, "conv_a": conv_a, "conv_b": conv_b, "dw": dw, "fc": fc, "out": out, "bn": bn, **rest}


Z, E, A, G, F, B = "z_plus", "epsilon", "alpha_beta", "gamma", "flat", "z_box"
TABLE = [
    (C.Uniform("gamma"), expected(G, G, G, G, G, G)),
    (C.Uniform(R.Gamma(), first="flat", last=R.Zero()), expected(F, G, G, G, "zero", G)),
    (C.EpsilonPlus(), expected(Z, Z, Z, E, E, E)),
    (C.EpsilonPlusFlat(), expected(F, Z, Z, E, E, E)),
    (C.EpsilonAlpha2Beta1(), expected(A, A, A, E, E, E)),
    (C.EpsilonAlpha2Beta1Flat(), expected(F, A, A, E, E, E)),
    (C.EpsilonGammaBox(-1, 1), expected(B, G, G, E, E, E)),
    (C.ExcitationBackprop(), expected(Z, Z, Z, Z, Z, Z, act="gradient")),
    (C.ByType({L.Conv: G, (L.Dense, L.DepthwiseConv): E}), expected(G, G, E, E, E, E)),
    (C.ByType({L.Conv: G}, first=F, last="zero", default=Z), expected(F, G, Z, Z, "zero", Z)),
    (C.ByType({L.BatchNorm: "pass", L.MaxPool: E}, default=G), expected(G, G, G, G, G, "pass", max=E)),
    (
        C.ByName({"conv_a": F, "conv_*": Z, "add": "gradient"}) | C.Uniform(E),
        expected(F, Z, E, E, E, E, add="gradient"),
    ),
    (C.Uniform(E) | C.ByName({"?c": Z, "bn": "gradient"}), expected(E, E, E, Z, E, "gradient")),
    (C.ByIndex({0: F, -1: "zero", 2: Z}) | C.Uniform(E), expected(F, E, Z, E, "zero", E)),
    (C.ByIndex({5: "gradient"}, among=L.Layer) | C.Uniform(E), expected(E, E, E, E, E, E, add="gradient")),
    (C.ByIndex({1: F}, among=L.Conv) | C.EpsilonPlus(), expected(Z, F, Z, E, E, E)),
    # the order of specificity, however they are written
    (
        C.ByType({L.Conv: G}, first=F, default=E) | C.ByName({"conv_*": Z, "fc": Z}) | C.ByIndex({1: A}),
        expected(F, A, E, Z, E, E),
    ),
    (C.when(lambda layer: "conv" in layer.name, G) | C.EpsilonPlus(), expected(G, G, Z, E, E, E)),
    (C.when(lambda layer: layer.name == "max", E, among=L.Layer) | C.Uniform(Z), expected(Z, Z, Z, Z, Z, Z, max=E)),
    (C.from_name("epsilon_plus"), expected(Z, Z, Z, E, E, E)),
    (C.from_name("gamma", gamma=0.5), expected(G, G, G, G, G, G)),
]


@pytest.mark.parametrize("at", range(len(TABLE)), ids=lambda at: f"{at} {TABLE[at][0].name}")
def test_assignment(at):
    made, wanted = TABLE[at]
    assignment = made.assign(MODEL)
    assert names(assignment) == wanted
    gradient = made.name == "excitation_backprop"
    assert functions(assignment) == {
        "conv_a": "gradient" if gradient else "pass",
        "fc": "gradient" if gradient else "pass",
        "out": "gradient" if gradient else "taylor",
    }
    assert made.canonize
    assert made.name in str(made)


def test_parameters_arrive():
    rules = C.EpsilonGammaBox(0, 2, epsilon=0.5, gamma=2, stabilizer=1e-3).assign(MODEL).rules
    by_name = {MODEL.nodes[i].name: rule for i, rule in rules.items()}
    assert by_name["conv_b"] == R.Gamma(2, stabilizer=1e-3) and by_name["fc"] == R.Epsilon(0.5)
    assert by_name["add"] == by_name["mean"] == R.Norm(stabilizer=1e-3)
    assert by_name["conv_a"].low == 0 and by_name["conv_a"].high == 2
    assert by_name["conv_a"].stabilizer == R.Stabilizer(1e-3)


def test_every_name_makes_a_composite():
    for name, make in C.COMPOSITES.items():
        bounds = {"low": -1, "high": 1} if "box" in name else {}
        assert C.from_name(name, **bounds) == make(**bounds)
        assert pickle.loads(pickle.dumps(C.from_name(name, **bounds))).name == name


def test_captum():
    rule = R.ZPlus(split_input=False, bias="full", stabilizer=1e-9)
    made = C.Captum(rule)
    assert not made.canonize
    by_name = {MODEL.nodes[i].name: r for i, r in made.assign(MODEL).rules.items()}
    assert all(by_name[n] == R.Epsilon(1e-9) for n in ("bn", "max", "mean", "flat", "add"))
    assert all(by_name[n] == rule for n in ("conv_a", "dw", "fc"))
    assert C.Captum().assign(MODEL).rules[1] == R.Epsilon(1e-9)
    assert C.from_name("captum") == C.Captum() and C.from_name("captum", rule=rule) == made


def test_a_shared_layer_is_found_by_its_name():
    g = lrpfast.Graph()
    x, layer = g.input((3,)), L.Dense(ones(3, 3), name="shared")
    model = g.model(g.add(layer, g.add(layer, x)))
    made = C.ByName({"shared": "flat"}) | C.Uniform("zero")
    assert [r.name for r in made.assign(model).rules.values()] == ["flat", "flat"]
    made = C.ByName({"shared:1": "flat"}) | C.Uniform("zero")
    assert [r.name for r in made.assign(model).rules.values()] == ["zero", "flat"]


# z-box bounds in the shape of the layer's input

IMAGE = lrpfast.from_layers([L.Identity("Dropout"), L.Conv(ones(2, 2, 3, 2))], (4, 5, 3))
FLAT = lrpfast.from_layers([L.Flatten(), L.Identity("Dropout"), L.Dense(ones(60, 2))], (4, 5, 3))


@pytest.mark.parametrize("shape", [(), (3,), (1, 1, 3), (4, 5, 1), (4, 5, 3)])
def test_bounds_that_fit(shape):
    low = np.arange(float(np.prod(shape))).reshape(shape)
    box = R.ZBox(low, low + 1)
    (rule,) = C.Uniform(box).assign(IMAGE).rules.values()
    np.testing.assert_array_equal(rule.low, low)
    rule = C.Uniform(box).assign(FLAT).rules[3]
    np.testing.assert_array_equal(np.broadcast_to(rule.low, 60), np.broadcast_to(low, (4, 5, 3)).ravel())


@pytest.mark.parametrize("shape", [(2,), (5, 4, 3), (4,)])
def test_bounds_that_do_not(shape):
    with pytest.raises(RuleError, match="does not fit its input"):
        C.Uniform(R.ZBox(np.zeros(shape), np.ones(shape))).assign(IMAGE)


def test_bounds_behind_another_layer_are_its_own():
    model = lrpfast.from_layers([L.MaxPool((2, 2)), L.Flatten(), L.Dense(ones(12, 2))], (4, 5, 3))
    box = R.ZBox(np.zeros((4, 5, 3)), np.ones((4, 5, 3)))
    with pytest.raises(RuleError, match="does not fit"):
        C.Uniform("zero", first=box).assign(model)


# what is refused


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: C.Uniform("pass").assign(MODEL), ("conv_a", "'pass' is no rule for a layer with weights")),
        (lambda: C.ByName({"add": "split"}).assign(MODEL), ("conv_a",)),
        (lambda: (C.ByName({"add": "split"}) | C.Uniform("zero")).assign(MODEL), ("'add'", "sum or mean")),
        (lambda: (C.ByName({"cnv*": "flat"}) | C.Uniform("zero")).assign(MODEL), ("'cnv*'", "conv_a")),
        (lambda: (C.ByIndex({7: "flat"}) | C.Uniform("zero")).assign(MODEL), ("7", "5")),
        (lambda: C.ByType({L.Conv: "gamma"}).assign(MODEL), ("dw", "no entry")),
        (lambda: C.ByType({L.Activation: "flat"}, default="zero").assign(MODEL), ("conv_a", "activation")),
        (lambda: C.ByType({"Conv": "gamma"}), ("lrpfast.layers",)),
        (lambda: C.ByType([("Conv", "gamma")]), ("mapping",)),
        (lambda: C.ByName({3: "gamma"}), ("names",)),
        (lambda: C.ByIndex({"a": "gamma"}), ("whole numbers",)),
        (lambda: C.ByIndex({True: "gamma"}), ("whole numbers",)),
        (lambda: C.Uniform("gama"), ("gama", "gamma")),
        (lambda: C.Uniform(R.Gamma), ("Gamma()",)),
        (lambda: C.Uniform(3), ("rules or their names",)),
        (lambda: C.when("conv", "gamma"), ("function",)),
        (lambda: C.from_name("epsilon_minus"), ("epsilon_minus", "epsilon_plus")),
        (lambda: C.from_name("epsilon_gamma_box"), ("low",)),
        (lambda: C.from_name("epsilon_plus", delta=1), ("delta",)),
        (lambda: C.from_name([]), ("unknown rule []", "epsilon_plus")),
        (lambda: R.from_name([]), ("unknown rule []", "epsilon")),
        (lambda: C.Entry("fist", "zero"), ("'fist'", "first, ", "when")),
        (lambda: C.Entry(["first"], "zero"), ("['first']",)),
        (lambda: C.Entry("all", "gama"), ("gama",)),
        (lambda: C.Entry("all", R.Gamma), ("Gamma()",)),
        (lambda: C.Entry("all", "zero", 3), ("'all'", "left out", "3")),
        (lambda: C.Entry("nth", "zero"), ("'nth'", "whole number", "None")),
        (lambda: C.Entry("nth", "zero", True), ("'nth'", "whole number", "True")),
        (lambda: C.Entry("index", "zero", -1), ("'index'", "0 or above", "-1")),
        (lambda: C.Entry("name", "zero", 3), ("'name'", "pattern", "3")),
        (lambda: C.Entry("when", "zero", "conv"), ("'when'", "function", "'conv'")),
        (lambda: C.Entry("all", "zero", among="Conv"), ("lrpfast.layers", "'Conv'")),
        (lambda: C.Composite(3), ("tuple of entries", "int")),
        (lambda: C.Composite(C.Entry("all", "zero")), ("tuple of entries", "Entry")),
        (lambda: C.Composite((R.Flat(),)), ("tuple of entries", "Flat")),
        (lambda: C.Composite((), name=3), ("name", "3")),
        (lambda: C.Composite((), canonize=1), ("canonize", "1")),
        (lambda: R.Pass().groups(), ("Pass", "no rule for layers with weights")),
    ],
)
def test_errors(make, words):
    with pytest.raises(RuleError) as error:
        make()
    for word in words:
        assert word in str(error.value)


def test_what_is_no_model():
    with pytest.raises(lrpfast.InputError, match="epsilon_plus: assign takes an lrpfast Model, not int"):
        C.EpsilonPlus().assign(3)


def test_an_entry_takes_names_and_single_types():
    entry = C.Entry("all", "flat", among=L.Conv)
    assert entry == C.Entry("all", R.Flat(), None, (L.Conv,)) and C.Composite([entry]) == C.Composite((entry,))


def test_joining_something_else():
    with pytest.raises(TypeError):
        C.Uniform("zero") | R.Flat()


# iNNvestigate's names


def innvestigate(name, model=MODEL, **parameters):
    made = composite(name, **parameters)
    assert not made.canonize
    assignment = made.assign(model)
    return {model.nodes[i].name: rule for i, rule in assignment.rules.items()}, assignment.activations


def alpha_beta(alpha, bias):
    return R.AlphaBeta(alpha, alpha - 1, stabilizer=STABILIZER, bias=bias)


def test_presets():
    for name, alpha in (("a", 1), ("b", 2)):
        rules, activations = innvestigate(f"lrp.sequential_preset_{name}")
        assert rules["conv_a"] == rules["conv_b"] == rules["dw"] == alpha_beta(alpha, "full")
        assert rules["fc"] == rules["out"] == R.Epsilon(0.1)
        assert rules["bn"] == R.AlphaBetaX((2, 0), (1, 0), stabilizer=STABILIZER)
        assert rules["add"] == rules["mean"] == R.Norm(stabilizer=STABILIZER)
        assert rules["act"] == R.Pass() and set(activations.values()) == {R.Pass(), R.Taylor()}
    rules, _ = innvestigate("lrp.sequential_preset_b_flat")
    assert rules["conv_a"] == rules["conv_b"] == R.Flat(stabilizer=STABILIZER)  # both see the input
    assert rules["dw"] == alpha_beta(2, "full")
    rules, _ = innvestigate("lrp.sequential_preset_b_flat_until_idx", until_layer_idx=6)
    assert rules["dw"] == R.Flat(stabilizer=STABILIZER) and rules["fc"] == R.Epsilon(0.1)


def test_batch_normalization_has_the_rule_of_the_name():
    for name in ANALYZERS:
        if name.startswith(("lrp.seq", "deep_taylor")) or name in ("lrp", "lrp.alpha_beta"):
            continue
        rules, _ = innvestigate(name)
        assert rules["bn"] == rules["fc"] == rules["conv_a"], name
    assert innvestigate("lrp", rule="Flat")[0]["bn"] == R.Zero(stabilizer=STABILIZER)
    assert innvestigate("lrp", rule="Flat", bn_layer_rule="WSquare")[0]["bn"] == R.WSquare(stabilizer=STABILIZER)
    assert innvestigate("lrp.sequential_preset_a", bn_layer_rule=R.Pass())[0]["bn"] == R.Pass()


def test_deep_taylor_goes_through_gradients():
    rules, activations = innvestigate("deep_taylor")
    assert all(rules[n] == R.Gradient() for n in ("bn", "act", "add", "mean"))
    assert rules["conv_a"] == rules["fc"] == alpha_beta(1, "ignore")
    assert activations[1] == R.Pass()  # within a layer it is handed through
    assert rules["mul"] == R.Split()
    rules, _ = innvestigate("deep_taylor.bounded", low=-1, high=1)
    assert rules["conv_a"].name == rules["conv_b"].name == "z_box" and rules["dw"].name == "alpha_beta"


def test_the_input_layers_of_a_graph():
    rules, _ = innvestigate("lrp.z", input_layer_rule="WSquare")
    assert [n for n, rule in rules.items() if rule.name == "w_square"] == ["conv_a", "conv_b"]
    padded = lrpfast.from_layers([L.ZeroPad((1, 1)), L.Conv(ones(3, 2, 2)), L.Conv(ones(3, 2, 2))], (8, 2))
    rules, _ = innvestigate("lrp.z", padded, input_layer_rule="WSquare")  # iNNvestigate would drop the rule here
    assert [rule.name for rule in rules.values()] == ["pass", "w_square", "zero"]
    assert innvestigate("lrp", rule=["Z"] * 4, input_layer_rule="Flat")[0]["conv_b"].name == "zero"


def test_up_sampling_and_average():
    g = lrpfast.Graph()
    x = g.input((4, 4, 2))
    y = g.add(L.Average(), g.add(L.UpSample((2, 2), "bilinear"), x), g.add(L.UpSample((2, 2)), x))
    model = g.model(g.add(L.Subtract(), y, y))
    rules, _ = innvestigate("lrp.z", model)
    assert list(rules.values()) == [R.Gradient(), R.Pass(), R.Gradient(), R.Norm(stabilizer=STABILIZER)]


def test_keywords():
    assert "bn_layer_rule" in keywords("lrp") and "bn_layer_rule" in keywords("lrp.sequential_preset_a")
    assert "bn_layer_rule" not in keywords("lrp.z") and "bn_layer_fuse_mode" in keywords("lrp.z")
    with pytest.raises(RuleError, match=r"write Gamma\(\)"):
        composite("lrp", rule=R.Gamma)
    with pytest.raises(RuleError, match="one_linear, two_linear"):
        composite("lrp.z", bn_layer_fuse_mode="three")
    with pytest.raises(RuleError, match="bn_layer_rule"):
        composite("lrp.z", bn_layer_rule="Z")
