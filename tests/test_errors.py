"""Bad input: an error of lrpfast's own that says which argument, what was expected and what came."""

import numpy as np
import pytest

import cases
import lrpfast

LAYERS = cases.network((6, 9, 4), "relu", last="softmax")
MODEL = cases.model(LAYERS)
X = cases.inputs(5, 6)
RULES = lrpfast.rules


@pytest.fixture(scope="module")
def analyzer():
    return lrpfast.Analyzer(MODEL, "epsilon")


def says(error, function, *parts):
    """function raises the error, and its message has every part."""
    with pytest.raises(error) as caught:
        function()
    message = str(caught.value)
    assert isinstance(caught.value, lrpfast.LrpfastError)
    for part in parts:
        assert part in message, f"{part!r} is not in {message!r}"
    assert "\n" not in message.strip() and len(message) < 500


def spoiled(value, *at):
    x = X.copy()
    x[at] = value
    return x


# Inputs.


@pytest.mark.parametrize(
    "x, error, parts",
    [
        (X[0], lrpfast.ShapeError, ["(samples, 6)", "(6,)"]),
        (X[None], lrpfast.ShapeError, ["(samples, 6)", "(1, 5, 6)"]),
        (X[:, :5], lrpfast.ShapeError, ["(samples, 6)", "(5, 5)"]),
        (np.float32(1), lrpfast.ShapeError, ["(samples, 6)", "()"]),
        (1.5, lrpfast.ShapeError, ["(samples, 6)"]),
        ([], lrpfast.ShapeError, ["(samples, 6)", "(0,)"]),
        (X + 1j, lrpfast.InputError, ["complex"]),
        (X.astype(str), lrpfast.InputError, ["real numbers"]),
        ("x.npy", lrpfast.InputError, ["real numbers, not 'x.npy'", "np.load", "Analyzer.stream"]),
        (X.astype(object), lrpfast.InputError, ["object"]),
        (None, lrpfast.InputError, ["object"]),
        ([[1.0, 2.0], [1.0]], lrpfast.ShapeError, ["(6,)", "sample 0", "(2,)", "dynamic_axes"]),
        ({"x": X}, lrpfast.InputError, ["'input'", "not 'x'"]),
        (X.astype("M8[s]"), lrpfast.InputError, ["datetime64"]),
        (spoiled(np.nan, 3, 2), lrpfast.InputError, ["3", "2", "nan"]),
        (spoiled(np.inf, 0, 5), lrpfast.InputError, ["0", "5", "inf"]),
        (spoiled(-np.inf, 4, 0), lrpfast.InputError, ["4", "0", "inf"]),
        (np.float64(X) * 1e300, lrpfast.InputError, ["float32"]),
    ],
    ids=["one sample", "rank", "width", "scalar", "float", "empty list", "complex", "strings", "string", "objects",
         "None", "ragged", "dict", "dates", "nan", "inf", "-inf", "beyond float32"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["analyze", "explain", "predict"])
def test_inputs(analyzer, method, x, error, parts):
    function = MODEL.predict if method == "predict" else getattr(analyzer, method)
    says(error, lambda: function(x), *parts)


def test_the_first_bad_value_is_named_in_a_large_batch():
    many = np.tile(X, (500, 1))
    many[[1234, 2000], [4, 1]] = np.nan
    for threads in (1, 3):
        analyzer = lrpfast.Analyzer(MODEL, "epsilon", threads=threads)
        says(lrpfast.InputError, lambda analyzer=analyzer: analyzer.analyze(many), "1234", "4", "nan")


def test_infinity_is_no_mask():
    analyzer = lrpfast.Analyzer(MODEL, "epsilon", mask_nan=True)
    says(lrpfast.InputError, lambda: analyzer.analyze(spoiled(np.inf, 2, 1)), "2", "1", "inf")


def test_inputs_outside_the_declared_range():
    analyzer = lrpfast.Analyzer(MODEL, "z_plus", input_range=(-3, 3))
    assert analyzer.analyze(X).shape == X.shape
    says(lrpfast.InputError, lambda: analyzer.analyze(spoiled(3.5, 2, 1)), "3.5", "-3", "3")
    says(lrpfast.InputError, lambda: analyzer.analyze(spoiled(-4, 2, 1)), "-4")


# Rules.


@pytest.mark.parametrize(
    "make, parts",
    [
        (lambda: lrpfast.Analyzer(MODEL, "epsilom"), ["epsilom", "epsilon"]),
        (lambda: lrpfast.Analyzer(MODEL, "lrp.epsilon"), ["create_analyzer"]),
        (lambda: lrpfast.Analyzer(MODEL, RULES.Epsilon), ["Epsilon"]),
        (lambda: lrpfast.Analyzer(MODEL, 3), ["int"]),
        (lambda: lrpfast.Analyzer(MODEL, None), ["None"]),
        (lambda: lrpfast.Analyzer(MODEL, RULES.Pass()), ["pass"]),
        (lambda: RULES.Epsilon(0), ["epsilon", "0"]),
        (lambda: RULES.Epsilon(-1e-3), ["epsilon", "-0.001"]),
        (lambda: RULES.Epsilon(np.nan), ["epsilon", "nan"]),
        (lambda: RULES.Epsilon(np.inf), ["epsilon", "inf"]),
        (lambda: RULES.Epsilon("0.1"), ["epsilon", "0.1"]),
        (lambda: RULES.Epsilon(True), ["epsilon", "True"]),
        (lambda: RULES.Epsilon(None), ["epsilon", "None"]),
        (lambda: RULES.AlphaBeta(1, 1), ["alpha", "beta", "1"]),
        (lambda: RULES.AlphaBeta(2, 0.5), ["alpha", "beta", "1.5"]),
        (lambda: RULES.AlphaBeta(0.5, -0.5), ["beta", "-0.5"]),
        (lambda: RULES.AlphaBeta(split_input=1), ["split_input", "1"]),
        (lambda: RULES.AlphaBetaX(alpha=1), ["alpha", "pair"]),
        (lambda: RULES.AlphaBetaX(beta=(1, 2, 3)), ["beta", "pair"]),
        (lambda: RULES.AlphaBetaX(alpha=("a", 1)), ["alpha", "a"]),
        (lambda: RULES.Gamma(-0.1), ["gamma", "-0.1"]),
        (lambda: RULES.Gamma(generalized="yes"), ["generalized", "yes"]),
        (lambda: RULES.Zero(stabilizer=0), ["stabilizer", "0"]),
        (lambda: RULES.Zero(stabilizer=-1.0), ["stabilizer", "-1"]),
        (lambda: RULES.Zero(stabilizer="tiny"), ["stabilizer", "tiny"]),
        (lambda: RULES.Stabilizer(1e-7, "both"), ["kind", "both"]),
        (lambda: RULES.ZBox(), ["low"]),
        (lambda: RULES.ZBox(0), ["high"]),
        (lambda: RULES.ZBox(1, 0), ["low", "high"]),
        (lambda: RULES.ZBox(np.nan, 1), ["low", "finite"]),
        (lambda: RULES.ZBox("a", 1), ["low"]),
        (lambda: RULES.ZBox([0, 0, 0], [1, 1]), ["low", "high"]),
        (lambda: lrpfast.Analyzer(MODEL, RULES.ZBox([0, 0, 0], 1)), ["low", "(3,)", "(6,)"]),
        (lambda: RULES.from_name("flat", epsilon=1), ["flat", "epsilon"]),
        (lambda: lrpfast.composites.Uniform("epsylon"), ["epsylon", "epsilon"]),
        (lambda: lrpfast.composites.Uniform(RULES.Epsilon(), first=3), []),
    ],
)
def test_rules(make, parts):
    says(lrpfast.RuleError, make, *parts)


@pytest.mark.parametrize(
    "arguments",
    [{"epsilom": 1}, {"bias": "absorb", "alpha": 2}],
)
def test_unknown_keywords_are_python_s_own_error(arguments):
    with pytest.raises(TypeError):
        RULES.Epsilon(**arguments)


@pytest.mark.parametrize(
    "make, parts",
    [
        (lambda: lrpfast.Analyzer(MODEL, "EPSILON"), ["did you mean 'epsilon'?"]),
        (lambda: lrpfast.Analyzer(MODEL, "EpsilonPlus"), ["did you mean 'epsilon_plus'?"]),
        (lambda: lrpfast.Analyzer(MODEL, "epsylon-plus"), ["did you mean 'epsilon_plus'?"]),
        (lambda: lrpfast.Analyzer(MODEL, "something"), ["unknown rule 'something'; the rules are zero"]),
        (lambda: lrpfast.Analyzer(MODEL, "LRP.z"), ["create_analyzer"]),
        (lambda: RULES.from_name("alphabeta"), ["did you mean 'alpha_beta'?"]),
        (lambda: lrpfast.composites.EpsilonGammaBox(), ["z_box needs low"]),
        (lambda: lrpfast.Analyzer(MODEL, lrpfast.composites.EpsilonGammaBox), ["write EpsilonGammaBox(…)"]),
        (lambda: lrpfast.composites.from_name("epsilon_gamma_box", low=0), ["z_box needs high"]),
    ],
)
def test_what_was_probably_meant(make, parts):
    with pytest.raises(lrpfast.RuleError) as caught:
        make()
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize("name", ["lrp.alpha_1_beta_0_ib", "LRP.Alpha1Beta0IB", "lrp.alpha_1_beta0_iB"])
def test_what_was_probably_meant_of_innvestigate_s_names(name):
    with pytest.raises(lrpfast.RuleError, match=r"did you mean 'lrp\.alpha_1_beta_0_IB'\?"):
        lrpfast.create_analyzer(name, MODEL)


@pytest.mark.parametrize(
    "make, part",
    [
        (lambda: lrpfast.Analyzer("epsilon", MODEL), "Analyzer(model, rule)"),
        (lambda: lrpfast.Analyzer(RULES.Epsilon(), MODEL), "Analyzer(model, rule)"),
        (lambda: lrpfast.create_analyzer(MODEL, "lrp.z"), "create_analyzer(name, model)"),
        (lambda: lrpfast.load(X), "load takes a path, not ndarray"),
    ],
)
def test_swapped_arguments(make, part):
    says(lrpfast.InputError, make, part)


# Layouts.


@pytest.mark.parametrize(
    "wanted, came, axes",
    [
        ((8, 7, 3), (2, 3, 8, 7), (0, 2, 3, 1)),
        ((3, 8, 7), (2, 8, 7, 3), (0, 3, 1, 2)),
        ((9, 4), (2, 4, 9), (0, 2, 1)),
        ((5, 6, 7, 2), (1, 2, 5, 6, 7), (0, 2, 3, 4, 1)),
    ],
)
def test_another_layout(wanted, came, axes):
    layers = [lrpfast.layers.Flatten(), lrpfast.layers.Dense(np.ones((int(np.prod(wanted)), 2)))]
    model = lrpfast.from_layers(layers, input_shape=wanted)
    x = np.ones(came)
    for function in (model.predict, lrpfast.Analyzer(model, "epsilon").analyze):
        says(lrpfast.ShapeError, lambda function=function: function(x), f"x.transpose{axes}")
        function(x.transpose(axes))


# Targets and starts.


@pytest.mark.parametrize(
    "target, error, parts",
    [
        (4, lrpfast.InputError, ["4", "0 to 3"]),
        (-1, lrpfast.InputError, ["-1", "0 to 3"]),
        (10**20, lrpfast.InputError, ["0 to 3"]),
        ("min", lrpfast.InputError, ["min", "max"]),
        (True, lrpfast.InputError, ["True"]),
        (1.5, lrpfast.InputError, ["target must be 'max', 'all', an index", "1.5"]),
        (np.array(1.5), lrpfast.InputError, ["target must be 'max', 'all', an index", "1.5"]),
        (np.array(4), lrpfast.InputError, ["4", "0 to 3"]),
        ([[0], [1, 2]], lrpfast.InputError, ["target cannot be made an array"]),
        ([0, 1], lrpfast.ShapeError, ["(5,)", "(2,)"]),
        ([0, 1, 2, 3, 4], lrpfast.InputError, ["4", "0 to 3"]),
        ([0, 1, 2, 3, -1], lrpfast.InputError, ["-1", "0 to 3"]),
        (np.zeros((5, 2, 1), int), lrpfast.ShapeError, ["(5,)"]),
        (np.zeros((4, 2), int), lrpfast.ShapeError, ["(5,)", "(4, 2)"]),
        (np.zeros((5, 3)), lrpfast.ShapeError, ["(5, 4)", "(5, 3)"]),
        (np.zeros(5), lrpfast.ShapeError, ["(5, 4)", "(5,)"]),
        (np.full((5, 4), np.nan), lrpfast.InputError, ["finite", "(0, 0)"]),
        (np.full((5, 4), 1j), lrpfast.InputError, ["complex"]),
        ((0, 4), lrpfast.InputError, ["4", "0 to 3"]),
        ((0, 1, 2), lrpfast.InputError, ["pair"]),
        ((0, 1.5), lrpfast.InputError, ["pair"]),
        ((1, 1), lrpfast.InputError, ["1"]),
        ([0.0, 1.0, 2.0, 3.0, 0.0], lrpfast.ShapeError, ["(5, 4)", "target.astype(int)"]),
        (["a"] * 5, lrpfast.InputError, []),
        ({}, lrpfast.InputError, []),
        (lambda y: y[:, :2], lrpfast.ShapeError, ["(5, 4)", "(5, 2)"]),
        (lambda y: None, lrpfast.InputError, ["makes of the output", "object"]),
        (lambda y: "text", lrpfast.InputError, ["makes of the output", "U4"]),
        (lambda y: [[1], [2, 3]], lrpfast.InputError, ["makes of the output", "array"]),
        (lambda y: y * np.nan, lrpfast.InputError, ["finite"]),
        (lambda y: [0, 9, 0, 0, 0], lrpfast.LrpfastError, []),
    ],
    ids=lambda v: None if isinstance(v, (type, list)) or callable(v) else repr(v)[:30],
)
def test_targets(analyzer, target, error, parts):
    says(error, lambda: analyzer.analyze(X, target), *parts)


@pytest.mark.parametrize("target", [4, -1, "min", True, (0, 4), (0, 1, 2), 1.5], ids=str)
def test_targets_are_checked_when_the_analyzer_is_made(target):
    says(lrpfast.LrpfastError, lambda: lrpfast.Analyzer(MODEL, "epsilon", target=target))


@pytest.mark.parametrize(
    "start, parts",
    [
        ("no such layer", ["no such layer", "dense"]),
        (17, ["17"]),
        (("dense", 9), ["9", "0 to 8"]),
        (("dense", 1, 2), ["pair"]),
        (1.5, ["1.5"]),
        (True, ["True"]),
        (["dense"], ["dense"]),
    ],
    ids=str,
)
def test_starts(start, parts):
    says(lrpfast.InputError, lambda: lrpfast.Analyzer(MODEL, "epsilon", start=start), *parts)


@pytest.mark.parametrize("target", [2, "max", np.zeros(5, int)], ids=str)
def test_a_neuron_is_named_once(target):
    says(
        lrpfast.InputError,
        lambda: lrpfast.Analyzer(MODEL, "epsilon", start=("dense", 1), target=target),
        "start=('dense', 1)",
        "target=",
    )


@pytest.mark.parametrize(
    "y_ref, parts",
    [([1, 2], ["(2,)", "4"]), ("a", ["y_ref"]), (np.nan, ["y_ref", "nan"]), (1j, ["y_ref"])],
    ids=["shape", "string", "nan", "complex"],
)
def test_reference_values(y_ref, parts):
    model = cases.model(cases.network((6, 9, 4), "relu"))
    says(lrpfast.LrpfastError, lambda: lrpfast.Analyzer(model, "epsilon", y_ref=y_ref), *parts)


def test_a_reference_value_needs_a_linear_output():
    model = cases.model(cases.network((6, 9, 4), "relu", last="tanh"))
    says(lrpfast.InputError, lambda: lrpfast.Analyzer(model, "epsilon", y_ref=1.0), "y_ref", "tanh")


# Options.


@pytest.mark.parametrize(
    "options, error, parts",
    [
        ({"precision": "float16"}, lrpfast.InputError, ["float16", "float32", "float64", "tf32"]),
        ({"precision": np.float32}, lrpfast.InputError, ["precision"]),
        ({"precision": None}, lrpfast.InputError, ["precision"]),
        ({"precision": ["tf32"]}, lrpfast.InputError, ["precision"]),
        ({"threads": 0}, lrpfast.InputError, ["threads", "0"]),
        ({"threads": -2}, lrpfast.InputError, ["threads", "-2"]),
        ({"threads": 1.0}, lrpfast.InputError, ["threads", "1.0"]),
        ({"threads": "2"}, lrpfast.InputError, ["threads", "2"]),
        ({"threads": "all"}, lrpfast.InputError, ["threads", "all"]),
        ({"threads": True}, lrpfast.InputError, ["threads", "True"]),
        ({"memory": 0}, lrpfast.InputError, ["memory", "0"]),
        ({"memory": "1 GiB"}, lrpfast.InputError, ["memory", "1 GiB"]),
        ({"device": "gpu:77"}, lrpfast.DeviceError, ["gpu:77"]),
        ({"device": "cuda"}, lrpfast.InputError, ["not 'cuda', did you mean 'gpu'?", "cpu", "gpu:1"]),
        ({"device": "CUDA:1"}, lrpfast.InputError, ["did you mean 'gpu:1'?"]),
        ({"device": None}, lrpfast.InputError, ["None", "cpu"]),
        ({"device": "tpu"}, lrpfast.InputError, ["tpu", "auto", "cpu", "gpu"]),
        ({"input_range": (1, 0)}, lrpfast.InputError, ["input_range", "1", "0"]),
        ({"input_range": 1}, lrpfast.InputError, ["input_range", "1"]),
        ({"input_range": (0, np.nan)}, lrpfast.InputError, ["input_range", "nan"]),
        ({"input_range": ("a", "b")}, lrpfast.InputError, ["input_range"]),
        ({"input_range": (0, 1, 2)}, lrpfast.InputError, ["input_range"]),
    ],
    ids=str,
)
def test_options(options, error, parts):
    says(error, lambda: lrpfast.Analyzer(MODEL, "epsilon", **options), *parts)


def test_memory_that_is_too_little_says_how_much_is_needed():
    analyzer = lrpfast.Analyzer(MODEL, "epsilon", memory=1)
    says(lrpfast.LrpfastError, lambda: analyzer.analyze(X), "memory", "bytes")


@pytest.mark.parametrize("model", [None, LAYERS, 3, np.eye(2)], ids=lambda m: type(m).__name__)
def test_models(model):
    says(lrpfast.InputError, lambda: lrpfast.Analyzer(model, "epsilon"), "model", type(model).__name__)


def test_several_targets_cannot_be_explained_at_once(analyzer):
    says(lrpfast.InputError, lambda: analyzer.explain(X, np.zeros((5, 2), int)), "one target")


# Layers.

L = lrpfast.layers


@pytest.mark.parametrize(
    "make, parts",
    [
        (lambda: L.Dense(np.zeros(3)), ["kernel", "(3,)"]),
        (lambda: L.Dense(np.zeros((2, 3, 4))), ["kernel", "(2, 3, 4)"]),
        (lambda: L.Dense(np.zeros((0, 3))), ["kernel", "(0, 3)"]),
        (lambda: L.Dense(np.zeros((2, 3)), np.zeros(2)), ["bias", "(2,)", "(3,)"]),
        (lambda: L.Dense(np.full((2, 3), np.nan)), ["kernel", "finite", "(0, 0)"]),
        (lambda: L.Dense(np.zeros((2, 3)), [0, np.inf, 0]), ["bias", "finite"]),
        (lambda: L.Dense(np.zeros((2, 3), complex)), ["kernel", "complex"]),
        (lambda: L.Dense([["a"]]), ["kernel"]),
        (lambda: L.Dense(np.eye(2), activation="rolu"), ["rolu", "relu"]),
        (lambda: L.Dense(np.eye(2), activation=3), ["activation", "int"]),
        (lambda: L.Activation("rolu"), ["rolu", "relu"]),
        (lambda: L.MaxPool(2, dilation=0), ["dilation", "0"]),
        (lambda: L.MaxPool(2, padding=3, dilation=2), ["padding", "(3,)"]),
        (lambda: L.Activation("relu", {"slope": 1}), ["relu", "slope"]),
        (lambda: L.Activation("elu", {"alpha": "a"}), ["alpha", "a"]),
        (lambda: L.Activation("prelu"), ["negative_slope"]),
        (lambda: L.Activation("clip", {"low": 2, "high": 1}), ["low", "high", "2", "1"]),
        (lambda: L.Activation("clip", {"low": np.nan}), ["low", "nan"]),
        (lambda: L.Activation("clip", {"low": np.inf}), ["low", "inf"]),
        (lambda: L.Activation("celu", {"alpha": 0}), ["alpha", "above 0"]),
        (lambda: L.Activation("shrink", {"threshold": -1}), ["threshold", "-1"]),
        (lambda: L.Interpolate(np.eye(2)), ["matrices", "1 to 3"]),
        (lambda: L.Interpolate((np.ones(2),)), ["matrices", "(2,)"]),
        (lambda: L.Interpolate((np.full((2, 2), np.nan),)), ["matrices", "finite"]),
        (lambda: lrpfast.from_layers([L.Interpolate((np.eye(3),))], (4, 2)), ["axis 0", "3 values", "(4, 2)"]),
        (lambda: L.Take([]), ["places", "1 to 3"]),
        (lambda: L.Take(([0.5],)), ["places", "whole numbers"]),
        (lambda: L.Take(([-1],)), ["places", "-1"]),
        (lambda: lrpfast.from_layers([L.Take(([0, 4],))], (4, 2)), ["place 4", "axis 0", "(4, 2)"]),
        (lambda: L.Reshape((0, 2)), ["(0, 2)"]),
        (lambda: L.Reshape((-1, -1)), ["(-1, -1)"]),
        (lambda: L.Reshape((2.5,)), ["Reshape", "shape", "(2.5,)"]),
        (lambda: L.Reshape((True, 2)), ["Reshape", "shape", "(True, 2)"]),
        (lambda: L.Reshape("23"), ["Reshape", "shape", "'23'"]),
        (lambda: L.Reshape(None), ["Reshape", "shape", "None"]),
        (lambda: L.RepeatVector(2.0), ["RepeatVector", "count", "2.0"]),
        (lambda: L.AdaptiveAveragePool((2, 0.5)), ["AdaptiveAveragePool", "size", "0.5"]),
        (lambda: L.UpSample((2, 2, 2, 2)), ["UpSample", "size", "(2, 2, 2, 2)"]),
        (lambda: L.LocallyConnected(np.ones((1, 1, 1)), size=()), ["LocallyConnected", "size", "()"]),
        (lambda: L.Permute((0, "a")), ["Permute", "axes", "'a'"]),
        (lambda: L.Permute((1.0, 0.0)), ["Permute", "axes", "1.0"]),
        (lambda: L.Concat(0.5), ["Concat", "axis", "0.5"]),
        (lambda: L.RMSNorm(epsilon=-1), ["RMSNorm", "epsilon", "-1"]),
        (lambda: L.LayerNorm(epsilon=1j), ["LayerNorm", "epsilon", "1j"]),
        (lambda: L.LocalResponseNorm(2, k=np.nan), ["LocalResponseNorm", "k", "nan"]),
        (lambda: L.Dot((0, "b")), ["Dot", "axes", "'b'"]),
        (lambda: lrpfast.from_layers([]), ["at least one layer"]),
        (lambda: lrpfast.from_layers([np.eye(2)]), ["ndarray"]),
        (lambda: lrpfast.from_layers([L.Flatten()]), ["input_shape"]),
        (lambda: lrpfast.from_layers([L.Dense(np.eye(2)), L.Dense(np.eye(3))]), ["3", "(2,)"]),
        (lambda: lrpfast.from_layers([L.Dense(np.eye(2))], input_shape=(3,)), ["2", "(3,)"]),
        (lambda: lrpfast.from_layers([L.Reshape((2, 2))], input_shape=(3,)), ["(2, 2)", "(3,)"]),
        (lambda: lrpfast.from_layers([L.Dense(np.eye(2), name="a"), L.Dense(np.eye(2), name="a")]), ["'a'"]),
    ],
)
def test_layers(make, parts):
    says(lrpfast.LrpfastError, make, *parts)


CHAIN = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2), name="fc")])
OPEN = lrpfast.from_layers([lrpfast.layers.GlobalMaxPool()], (None, 2))


@pytest.mark.parametrize(
    "make, error, parts",
    [
        (lambda: lrpfast.Graph().input(True), lrpfast.ShapeError, ["input", "True"]),
        (lambda: lrpfast.Graph().input("ab"), lrpfast.ShapeError, ["input", "'ab'"]),
        (lambda: lrpfast.layers.Input(None), lrpfast.ShapeError, ["Input", "positive integers", "None"]),
        (lambda: lrpfast.layers.Input((2.5,)), lrpfast.ShapeError, ["Input", "(2.5,)"]),
        (lambda: lrpfast.Graph().add(lrpfast.layers.Dense(np.eye(2)), 99), lrpfast.InputError, ["Dense", "99"]),
        (lambda: CHAIN.index(1.5), lrpfast.InputError, ["name or an index", "1.5"]),
        (lambda: CHAIN.index(True), lrpfast.InputError, ["name or an index", "True"]),
        (lambda: CHAIN.index(None), lrpfast.InputError, ["name or an index", "None"]),
        (lambda: OPEN.with_input_shape(4), lrpfast.ShapeError, ["(None, 2)", "(4,)"]),
        (lambda: OPEN.with_input_shape((4.0, 2)), lrpfast.ShapeError, ["Input", "(4.0, 2)"]),
        (lambda: CHAIN.save(None), lrpfast.InputError, ["path", "None"]),
        (lambda: CHAIN.without_output_activation("sigmoid"), lrpfast.InputError, ["functions", "not 'sigmoid'"]),
        (lambda: CHAIN.without_output_activation([None]), lrpfast.InputError, ["functions", "not [None]"]),
        (lambda: CHAIN.without_output_activation(None), lrpfast.InputError, ["functions", "not None"]),
        (lambda: CHAIN.save("m.h5"), lrpfast.InputError, ["m.h5", ".npz"]),
        (lambda: CHAIN.save("m"), lrpfast.InputError, ["m:", ".npz"]),
        (lambda: lrpfast.Model([1]), lrpfast.InputError, ["nodes", "not 1"]),
        (lambda: lrpfast.Model(1), lrpfast.InputError, ["nodes", "not 1"]),
        (lambda: lrpfast.Model([(CHAIN.layers[0], 1)]), lrpfast.InputError, ["nodes", "1"]),
        (lambda: lrpfast.Model([(n.layer, n.inputs) for n in CHAIN.nodes], outputs=[0.5]), lrpfast.ShapeError, ["0.5"]),
        (lambda: lrpfast.Model([(n.layer, n.inputs) for n in CHAIN.nodes], outputs=1), lrpfast.InputError, ["outputs"]),
        (lambda: lrpfast.from_layers(None), lrpfast.InputError, ["layers", "NoneType"]),
        (lambda: lrpfast.from_layers(CHAIN.layers[1]), lrpfast.InputError, ["layers", "Dense"]),
        (lambda: lrpfast.from_layers(CHAIN.layers, name=3), lrpfast.InputError, ["name", "3"]),
        (lambda: lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2), name=3)]), lrpfast.InputError, ["name", "3"]),
        (lambda: lrpfast.layers.Dense([[1, 2], [1]]), lrpfast.InputError, ["Dense", "kernel", "array of real numbers"]),
        (lambda: lrpfast.model_wo_softmax(3), lrpfast.InputError, ["model", "int", "lrpfast.load"]),
        (lambda: lrpfast.model_wo_softmax("model.h5"), lrpfast.ModelNotFoundError, ["model.h5", "no such file"]),
        (lambda: lrpfast.Analyzer(dict, "epsilon"), lrpfast.InputError, ["model must be", "from_keras"]),
        (lambda: lrpfast.create_analyzer("lrp.z", None), lrpfast.InputError, ["model must be", "NoneType"]),
    ],
)
def test_arguments_of_models(make, error, parts):
    says(error, make, *parts)


def test_any_integer_type_is_an_integer():
    three = np.int64(3)
    graph = lrpfast.Graph()
    at = graph.add(lrpfast.layers.Add(), np.int64(graph.input(three)))
    assert graph.model(np.int64(at)).input_shape == lrpfast.layers.Input(three).shape == (3,)
    assert lrpfast.from_layers([lrpfast.layers.Flatten()], three).output_shape == (3,)
    assert CHAIN.index(np.int64(-1)) == 1
    vector = lrpfast.from_layers([lrpfast.layers.Flatten()], (None,))
    assert vector.with_input_shape(4).output_shape == (4,)


@pytest.mark.parametrize("number", [np.int64, np.uint8, np.array], ids=["int64", "uint8", "array"])
def test_layers_keep_any_integer_as_python_s(number, tmp_path):
    """A model of NumPy's integers is the model of Python's: it prints and saves the same."""

    def made(i):
        layers = [L.RepeatVector(i(4)), L.AdaptiveAveragePool((i(2),)), L.Permute((i(1), i(0))), L.Reshape((i(3), -1))]
        return lrpfast.from_layers([*layers, L.Reshape(i(6))], input_shape=3)

    model = made(number)
    assert [repr(layer) for layer in model.layers] == [repr(layer) for layer in made(int).layers]
    model.save(tmp_path / "model.npz")
    assert lrpfast.load(tmp_path / "model.npz").digest() == model.digest() == made(int).digest()
    assert repr(L.Concat(number(1))) == repr(L.Concat(1)) and repr(L.Dot(number(1))) == repr(L.Dot(1))
    assert L.Reshape([number(2), -1]).output_shape((None,)) == (2, None)


def test_sizes_left_open_are_the_data_s():
    model = lrpfast.from_layers([L.Dense(np.eye(2))], input_shape=(None, 2))
    analyzer = lrpfast.Analyzer(model, "epsilon")
    for length in (1, 4, 3):
        x = np.ones((2, length, 2), np.float32)
        assert analyzer.analyze(x).shape == x.shape == analyzer.explain(x).relevance.shape == model.predict(x).shape
    says(lrpfast.ShapeError, lambda: analyzer.analyze(np.ones((2, 3, 3))), "(None, 2)", "(3, 3)")
    says(lrpfast.ShapeError, lambda: model.predict(np.ones((2, 2))), "(None, 2)", "(2,)")
    says(lrpfast.InputError, analyzer.plan, "open")
    assert "2→2" in str(analyzer.plan((5, 2)))


# graphs


def branched():
    graph = lrpfast.Graph()
    a, b = graph.input((4, 3), "a"), graph.input((3,), "b")
    both = graph.add(L.Multiply(), a, b)
    return graph.model(graph.add(L.Flatten(name="flat"), both), graph.add(L.Dense(np.eye(3), name="dense"), b))


def test_graphs():
    graph = lrpfast.Graph()
    x = graph.input((3,))
    says(lrpfast.InputError, lambda: graph.add(L.Add(), x, "x"), "Add", "'x'")
    says(lrpfast.InputError, lambda: graph.add("relu", x), "str")
    says(lrpfast.ShapeError, lambda: lrpfast.Graph().model(), "Input")
    graph.add(L.Dense(np.eye(3), name="unused"), x)
    y = graph.add(L.Dense(np.eye(3)), x)
    says(lrpfast.ShapeError, lambda: graph.model(y), "unused", "nothing uses")
    says(lrpfast.ShapeError, lambda: lrpfast.from_layers([L.Subtract()], input_shape=(3,)), "Subtract", "2")
    gaps = L.MaxPool(2, 1, ((2, 2),), 3)
    says(lrpfast.ShapeError, lambda: lrpfast.from_layers([gaps], (1, 1)), "MaxPool", "axis 0", "nothing but padding")
    says(lrpfast.ShapeError, lambda: lrpfast.from_layers([L.Conv(np.ones((3, 2, 4)))], input_shape=(9, 3)), "Conv", "2")
    says(lrpfast.ShapeError, lambda: lrpfast.from_layers([L.Conv(np.ones((3, 3, 4)))], input_shape=(2, 3)), "window")


def test_several_inputs_and_outputs():
    model = branched()
    analyzer = lrpfast.Analyzer(model, "epsilon")
    x = [np.ones((2, 4, 3)), np.ones((2, 3))]
    says(lrpfast.InputError, lambda: analyzer.analyze(x), "2 outputs", "'flat'", "'dense'")
    says(lrpfast.InputError, lambda: analyzer.analyze(x, {"soft": "max"}), "soft", "'flat'")
    says(lrpfast.InputError, lambda: analyzer.analyze(x, {"flat": 12}), "12")
    says(lrpfast.InputError, lambda: analyzer.analyze(x[0], {"flat": 0}), "list of 2", "a, b")
    says(lrpfast.ShapeError, lambda: analyzer.analyze([x[0], x[1][:1]], {"flat": 0}), "a: 2", "b: 1")
    says(lrpfast.ShapeError, lambda: analyzer.analyze([x[1], x[0]], {"flat": 0}), "'a'", "(samples, 4, 3)")
    says(lrpfast.InputError, lambda: lrpfast.Analyzer(model, "epsilon", mask_nan=True), "mask_nan", "2")
    says(lrpfast.InputError, lambda: lrpfast.Analyzer(model, "epsilon", y_ref=1.0), "y_ref", "2")


def test_embedding_indices():
    model = lrpfast.from_layers([L.Embedding(np.ones((5, 2))), L.Flatten(), L.Dense(np.ones((6, 1)))], input_shape=(3,))
    analyzer = lrpfast.Analyzer(model, "epsilon")
    for wrong in (5, -1, 0.5):
        says(lrpfast.InputError, lambda w=wrong: analyzer.analyze([[0, 1, 2], [1, w, 0]]), "x[1, 1]", "5 entries")


# redistribute


@pytest.mark.parametrize(
    "arguments, parts",
    [
        (("epsilon", L.Dense(np.eye(6)), X[0], X), ["(6,)"]),
        (("epsilon", L.Dense(np.eye(5)), X, X), ["5", "(6,)"]),
        (
            ("epsilon", L.Dense(np.eye(6)), X, X[:, :4]),
            ["shape (5, 6), the layer's output", "(5, 4)"],
        ),
        (("epsilon", L.Dense(np.eye(6)), X, X[:4]), ["(5, 6)", "(4, 6)"]),
        (("epsilon", L.Dense(np.eye(6)), X, X * np.nan), ["finite"]),
        (("epsilon", L.Dense(np.eye(6)), X, X + 1j), ["complex"]),
        (("epsilon", L.Dense(np.eye(6)), X, X.astype(str)), []),
        (("epsilon", L.Dense(np.eye(6)), X + 1j, X), ["complex"]),
        (("epsilon", L.Dense(np.eye(6)), spoiled(np.nan, 1, 1), X), ["nan"]),
        (("epsilon", MODEL, X, X), ["Model"]),
        (("epsilon", np.eye(6), X, X), ["ndarray"]),
        (("nothing", L.Dense(np.eye(6)), X, X), ["nothing"]),
        ((RULES.Zero, L.Dense(np.eye(6)), X, X), ["write Zero()"]),
        ((3, L.Dense(np.eye(6)), X, X), ["redistribute takes rules", "int"]),
        ((None, L.Dense(np.eye(6)), X, X), ["redistribute takes rules", "NoneType"]),
        ((lrpfast.composites.EpsilonPlus(), L.Dense(np.eye(6)), X, X), ["redistribute takes rules", "Composite"]),
    ],
)
def test_redistribute(arguments, parts):
    says(lrpfast.LrpfastError, lambda: lrpfast.redistribute(*arguments), *parts)


# iNNvestigate's names


@pytest.mark.parametrize(
    "make, parts",
    [
        (lambda m: lrpfast.create_analyzer("lrp.epsilom", m), ["lrp.epsilom", "lrp.epsilon"]),
        (lambda m: lrpfast.create_analyzer("deconvnet", m), ["deconvnet", "left out", "gradient"]),
        (lambda m: lrpfast.create_analyzer(None, m), []),
        (lambda m: lrpfast.create_analyzer("lrp.epsilon", m, epsilon=0), ["epsilon", "0"]),
        (lambda m: lrpfast.create_analyzer("lrp.epsilon", m, epsilom=1), ["epsilom"]),
        (lambda m: lrpfast.create_analyzer("lrp.epsilon", m, bias="yes"), ["bias"]),
        (lambda m: lrpfast.create_analyzer("lrp.alpha_beta", m, alpha=2, beta=2), ["alpha", "beta"]),
        (lambda m: lrpfast.create_analyzer("lrp.z", m, input_layer_rule="Sqare"), ["Sqare", "WSquare"]),
        (lambda m: lrpfast.create_analyzer("lrp.z", m, input_layer_rule=(1, 0)), ["low", "high"]),
        (lambda m: lrpfast.create_analyzer("lrp.z", m, input_layer_rule=(0, 1, 2)), ["input_layer_rule"]),
        (lambda m: lrpfast.create_analyzer("lrp.z", m, neuron_selection_mode="min"), ["neuron_selection_mode", "min"]),
        (lambda m: lrpfast.create_analyzer("deep_taylor.bounded", m), ["low", "high"]),
        (lambda m: lrpfast.create_analyzer("lrp", m), ["rule"]),
        (lambda m: lrpfast.create_analyzer("lrp", m, rule="Nothing"), ["Nothing"]),
        (lambda m: lrpfast.create_analyzer("lrp.z", None), ["NoneType"]),
        (lambda m: lrpfast.create_analyzer("lrp.z", m).analyze(X, 1), ["neuron_selection"]),
        (lambda m: lrpfast.create_analyzer("lrp.z", m, neuron_selection_mode="index").analyze(X), ["neuron_selection"]),
        (lambda m: lrpfast.create_analyzer("lrp.z", m, neuron_selection_mode="index").analyze(X, 4), ["4", "0 to 3"]),
    ],
)
def test_create_analyzer(make, parts):
    says(lrpfast.LrpfastError, lambda: make(lrpfast.model_wo_softmax(MODEL)), *parts)


# The classes of errors.


def test_errors_are_also_what_callers_expect():
    assert issubclass(lrpfast.InputError, ValueError) and issubclass(lrpfast.ShapeError, ValueError)
    assert issubclass(lrpfast.RuleError, ValueError) and issubclass(lrpfast.DeviceError, RuntimeError)
    assert issubclass(lrpfast.ModelFormatError, ValueError)
    assert issubclass(lrpfast.UnsupportedLayerError, NotImplementedError)
    for name in ("InputError", "ShapeError", "RuleError", "DeviceError", "ModelFormatError", "UnsupportedLayerError"):
        assert issubclass(getattr(lrpfast, name), lrpfast.LrpfastError)
