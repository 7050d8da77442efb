"""Gradients and what is made of them: beside the oracle, central differences, and PyTorch's autograd where it is."""

import copy
import pickle
import warnings

import numpy as np
import pytest

import cases
import lrpfast
import oracle_gradients
import oracle_layers
from lrpfast import InputError, RuleError, ShapeError, composites
from lrpfast import layers as L
from oracle_layers import Layer
from tolerances import Expected

W = cases.Weights(5)

#: (f(x + h) − f(x − h)) / 2h is off by h² times third derivatives, and by rounding over h: of values near one, less
#: than this
STEP, OFF = 1e-5, 1e-8


def build(*steps, shape):
    return lrpfast.from_layers([cases.layer(step) for step in steps], input_shape=shape)


def activated(function, **parameters):
    return Layer("Activation", {"function": function, "parameters": parameters})


COS, SIN = (f(np.outer(np.arange(3) + 0.5, [1.0, 0.4, 1.0, 0.4])).astype(np.float32) for f in (np.cos, np.sin))

#: networks of one input, whose layers are all that have a derivative
NETS = {
    "dense": ((5,), [W.dense(5, 7, activation="relu"), W.dense(7, 6, activation="tanh"), W.dense(6, 3)]),
    "one value": ((1,), [W.dense(1, 1, activation="gelu"), W.dense(1, 1)]),
    "convolutions": (
        (6, 5, 2),
        [
            W.conv((3, 2), 2, 4, padding="same", activation="elu"),
            Layer("MaxPool", {"size": (2, 2)}),
            W.depthwise((2, 2), 4, 2),
            activated("softplus"),
            Layer("GlobalAveragePool", {}),
            W.dense(8, 3),
        ],
    ),
    "transposed": ((3, 2), [W.conv_transpose((2,), 2, 3, strides=2), activated("silu"), Layer("Flatten", {})]),
    "batch norm": ((4, 3), [W.batch_norm(3), activated("sigmoid"), W.conv((2,), 3, 2), W.batch_norm(2)]),
    "normalized": (
        (3, 4),
        [W.dense(4, 6), Layer("LayerNorm", {"gamma": 1 + W.bias(6), "beta": W.bias(6)}), Layer("RMSNorm", {})],
    ),
    "rotated": (
        (3, 8),
        [W.dense(8, 8), Layer("Rotary", {"cos": COS, "sin": SIN, "size": 4}), Layer("Softmax", {}), W.dense(8, 2)],
    ),
    "moved": (
        (4, 3),
        [
            Layer("ZeroPad", {"pairs": ((1, 2),)}),
            Layer("UpSample", {"size": 2}),
            Layer("Permute", {"axes": (1, 0)}),
            W.dense(14, 3, activation="softmax"),
            W.dense(3, 2),
        ],
    ),
}


@pytest.fixture(params=NETS)
def case(request):
    """(network of the oracle, model, inputs)"""
    shape, steps = NETS[request.param]
    x = np.float64(cases.values(shape, count=3)) + 0.01  # not at kinks
    return oracle_layers.chain(shape, *steps), build(*steps, shape=shape), x


def differences(function, x, step=STEP):
    """Central differences of a function that returns one value for each sample."""
    result = np.empty_like(x)
    for position in np.ndindex(x.shape[1:]):
        moved = np.zeros(x.shape[1:])
        moved[position] = step
        result[(slice(None), *position)] = (function(x + moved) - function(x - moved)) / (2 * step)
    return result


def values(model, target):
    """One output of each sample, as `Analyzer` explains it: before a final softmax."""
    bare = model.without_output_activation(("softmax", "log_softmax", "sigmoid"))
    return lambda x: bare.predict(x, precision="float64").reshape(len(x), -1)[:, target]


def test_gradient(case):
    net, model, x = case
    outputs = int(np.prod(model.output_shape))
    target = min(1, outputs - 1)
    start = oracle_gradients.one_hot([target] * len(x), outputs)
    expected = Expected(lambda ar: oracle_gradients.gradient(net, x.astype(np.float32), start, ar), together=False)
    for precision in ("float32", "float64"):
        got = lrpfast.Analyzer(model, "gradient", precision=precision).analyze(x.astype(np.float32), target)
        expected.check(cases.flat(got, len(x)), precision)
    exact = lrpfast.Analyzer(model, "gradient", precision="float64").analyze(x, target)
    assert np.abs(exact - differences(values(model, target), x)).max() <= OFF * max(1, np.abs(exact).max())
    product = lrpfast.Analyzer(model, "input_t_gradient", precision="float64").analyze(x, target)
    assert np.array_equal(product, x * exact)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_devices(device, standin):
    for shape, steps in (NETS["normalized"], NETS["rotated"]):
        net, model = oracle_layers.chain(shape, *steps), build(*steps, shape=shape)
        x = cases.values(shape, count=3)
        y = net.predict(x).reshape(3, -1)
        start = oracle_gradients.one_hot(y.argmax(1), y.shape[1])
        expected = Expected(lambda ar, net=net, x=x, start=start: oracle_gradients.gradient(net, x, start, ar), False)
        for target in ("max", y.argmax(1)):
            got = lrpfast.Analyzer(model, "gradient", precision="float64", device=device).analyze(x, target)
            expected.check(cases.flat(got, 3), "float64")


def test_targets(case):
    """A difference, all outputs, a starting relevance, several: each is the gradient of what it names."""
    _, model, x = case
    outputs = int(np.prod(model.output_shape))
    analyzer = lrpfast.Analyzer(model, "gradient", precision="float64")
    each = np.stack([analyzer.analyze(x, k) for k in range(outputs)], 1)
    close = {"rtol": 0, "atol": 1e-13 * max(1, np.abs(each).max())}
    np.testing.assert_allclose(analyzer.analyze(x, "all"), each.sum(1), **close)
    weights = np.random.default_rng(0).normal(size=(len(x), *np.ravel(model.output_shape)))
    summed = np.einsum("so,so...->s...", weights.reshape(len(x), -1), each)
    np.testing.assert_allclose(analyzer.analyze(x, weights), summed, rtol=0, atol=1e-12 * np.abs(each).max())
    assert np.array_equal(analyzer.analyze(x, np.tile(np.arange(outputs), (len(x), 1))), each)
    if outputs > 1 and len(model.output_shape) == 1:
        np.testing.assert_allclose(analyzer.analyze(x, (1, 0)), each[:, 1] - each[:, 0], **close)


@pytest.mark.parametrize("quadrature", ["gausslegendre", "midpoint", "trapezoid", "mean"])
def test_integrated_gradients(quadrature):
    shape, steps = NETS["dense"]
    net, model = oracle_layers.chain(shape, *steps), build(*steps, shape=shape)
    x, baseline = np.float64(cases.values(shape, count=3)), np.linspace(-1, 1, 5)
    composite = composites.IntegratedGradients(6, baseline, quadrature)
    analyzer = lrpfast.Analyzer(model, composite, precision="float64")
    start = oracle_gradients.one_hot([0, 2, 1], 3)
    expected = oracle_gradients.integrated(net, x, start, baseline, 6, quadrature)
    got = analyzer.analyze(x, [0, 2, 1])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    explanation = analyzer.explain(x, [0, 2, 1])
    assert np.array_equal(explanation.relevance, got)
    y, begin = net.predict(x), net.predict(baseline[None])
    np.testing.assert_allclose(explanation.completeness, got.sum(1) - ((y - begin) * start).sum(1), rtol=0, atol=1e-12)
    assert "f(baseline)" in str(explanation)


def test_a_worked_number():
    """docs/conventions.md: x³ between 0 and 1, at 4 points."""
    cube = lrpfast.from_layers([L.Activation("power", {"exponent": 3.0})], input_shape=(1,))
    for quadrature, expected in (("mean", 7 / 6), ("trapezoid", 19 / 18), ("gausslegendre", 1)):
        analyzer = lrpfast.Analyzer(cube, composites.IntegratedGradients(4, quadrature=quadrature), precision="float64")
        assert analyzer.analyze(np.ones((1, 1))).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("quadrature, least", [("gausslegendre", 1e-9), ("midpoint", 1e-4), ("trapezoid", 2e-4)])
def test_completeness(quadrature, least):
    """Relevance adds up to f(x) − f(baseline), for a smooth function, with enough steps."""
    model = build(W.dense(5, 6, activation="tanh"), W.dense(6, 2), shape=(5,))
    composite = composites.IntegratedGradients(64, 0.5, quadrature)
    explanation = lrpfast.Analyzer(model, composite, precision="float64").explain(cases.values((5,), count=4))
    assert np.abs(explanation.completeness).max() < least


def test_smoothgrad():
    """The mean of gradients at noisy points; of a linear model, the gradient; the same in any batch."""
    linear = lrpfast.from_layers([L.Dense(np.array([[1.0, 0.0], [-2.0, 1.0]]))])
    np.testing.assert_allclose(lrpfast.Analyzer(linear, "smoothgrad", target=0).analyze(np.ones((2, 2))), [[1, -2]] * 2)
    shape, steps = NETS["dense"]
    model, x = build(*steps, shape=shape), cases.values(shape, count=40)
    analyzer = lrpfast.Analyzer(model, composites.SmoothGrad(8, 0.5, seed=3), target=1)
    whole = analyzer.analyze(x)
    assert np.array_equal(whole, np.concatenate([analyzer.analyze(x[i : i + 7]) for i in range(0, 40, 7)]))
    assert np.array_equal(whole[::-1], analyzer.analyze(x[::-1]))
    assert np.array_equal(whole, lrpfast.Analyzer(model, analyzer.composite, target=1, threads=1).analyze(x))
    assert not np.array_equal(whole, lrpfast.Analyzer(model, composites.SmoothGrad(8, 0.5), target=1).analyze(x))
    still = lrpfast.Analyzer(model, composites.SmoothGrad(2, 0.0), target=1).analyze(x)
    np.testing.assert_allclose(still, lrpfast.Analyzer(model, "gradient", target=1).analyze(x), rtol=1e-6, atol=1e-7)
    # of many points, the mean is that of the smoothed function: E[f′(x + n)]
    many = lrpfast.Analyzer(build(activated("tanh"), shape=(1,)), composites.SmoothGrad(4000, 1.0), precision="float64")
    noise = np.random.default_rng(0).normal(size=100_000)
    assert abs(many.analyze(np.zeros((1, 1))).item() - (1 / np.cosh(noise) ** 2).mean()) < 0.03


def test_postprocess():
    model, x = build(*NETS["dense"][1], shape=(5,)), np.float64(cases.values((5,), count=3))
    gradient = lrpfast.Analyzer(model, "gradient", precision="float64").analyze(x)
    for name, function in (("abs", np.abs), ("square", np.square)):
        analyzer = lrpfast.create_analyzer("gradient", model, postprocess=name, precision="float64")
        assert np.array_equal(analyzer.analyze(x), function(gradient))
        analyzer = lrpfast.create_analyzer("input_t_gradient", model, postprocess=name, precision="float64")
        assert np.array_equal(analyzer.analyze(x), x * function(gradient))


@pytest.mark.parametrize("name", ["gradient", "input_t_gradient", "integrated_gradients", "smoothgrad"])
def test_streams_are_the_same(name, tmp_path):
    """Files, statistics by predicted class, copies and pickles; nothing is said of a balance that does not apply."""
    model, x = build(*NETS["dense"][1], shape=(5,)), cases.values((5,), count=30)
    analyzer = lrpfast.Analyzer(model, name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = analyzer.analyze(x)
        done = analyzer.stream(x, tmp_path / "r.npy", statistics=True, group_by="prediction", batch_size=7)
    assert np.array_equal(np.load(tmp_path / "r.npy"), whole)
    predicted = model.predict(x).argmax(1)
    for i, label in enumerate(done.statistics.groups):
        np.testing.assert_allclose(
            done.statistics.mean[i], whole[predicted == int(label)].mean(0), rtol=1e-5, atol=1e-7
        )
    assert done.record["method"].split(",")[0] == str(analyzer.composite).split(",")[0]
    assert not done.warnings and not done.amplified and not done.zero_maps
    for twin in (copy.copy(analyzer), pickle.loads(pickle.dumps(analyzer))):
        assert np.array_equal(twin.analyze(x), whole)
    text = str(analyzer.explain(x[:2]))
    assert "no balance" in text and len(analyzer.explain(x[:2]).conservation) == 0


def test_masked_features():
    model, x = build(*NETS["dense"][1], shape=(5,)), np.float64(cases.values((5,), count=3))
    x[0, 1] = np.nan
    present = ~np.isnan(x)
    gradient = lrpfast.Analyzer(model, "gradient", precision="float64").analyze(np.nan_to_num(x), 1)
    for name, factor in (("gradient", 1), ("input_t_gradient", x)):
        got = lrpfast.Analyzer(model, name, precision="float64", mask_nan=True).analyze(x, 1)
        assert np.array_equal(got, np.where(present, factor * gradient, np.nan), equal_nan=True)
    got = lrpfast.Analyzer(model, "integrated_gradients", mask_nan=True).analyze(x, 1)
    assert np.array_equal(np.isnan(got), ~present)


def test_masked_steps_have_no_derivative():
    """Masking sets steps to zero; what reaches them from above goes no further."""
    layers = [L.Masking(-9.0), L.Flatten(), L.Dense(np.arange(1.0, 7.0)[:, None])]
    model = lrpfast.from_layers(layers, input_shape=(3, 2))
    x = np.array([[[1.0, 2.0], [-9.0, -9.0], [3.0, 1.0]]])
    got = lrpfast.Analyzer(model, "gradient").analyze(x)
    assert got.tolist() == [[[1, 2], [0, 0], [5, 6]]]


def test_embeddings():
    """Of indices there is no gradient; times the input it is embedding times gradient."""
    table = np.array([[1.0, 2.0], [3.0, -1.0]])
    layers = [L.Embedding(table), L.Flatten(), L.Dense(np.array([[1.0], [10.0], [100.0], [1000.0]]))]
    model = lrpfast.from_layers(layers, input_shape=(2,))
    got = lrpfast.Analyzer(model, "input_t_gradient").analyze(np.array([[1, 0]]))
    assert got.tolist() == [[3 - 10, 100 + 2000]]
    for name in ("gradient", "integrated_gradients", "smoothgrad"):
        with pytest.raises(RuleError, match="embedding.*input_t_gradient"):
            lrpfast.Analyzer(model, name)


@pytest.mark.parametrize(
    "make, parts",
    [
        (lambda: L.LocalResponseNorm(2, name="local"), ["local", "local response"]),
    ],
)
def test_a_layer_without_derivative_is_named(make, parts):
    model = lrpfast.from_layers([make()], input_shape=(3, 2))
    with pytest.raises(RuleError) as error:
        lrpfast.Analyzer(model, "smoothgrad")
    assert all(part in str(error.value) for part in [*parts, "no derivative", "smoothgrad"])


ATTENTIONS = {
    "plain": {},
    "windowed": {"window": (None, 0), "softcap": 2.0},
    "shared keys": {"kv_heads": 1, "bias": np.float64(W.bias(2, 4, 4))},
    "one head": {"heads": 1, "mask": np.arange(16).reshape(4, 4) % 3 > 0},
}


def of_attention(heads=2, kv_heads=None, tokens=4, **options):
    """Queries, keys and values of one input, attention, a mean over tokens, two outputs; layers without names."""
    weights, graph = cases.Weights(5), lrpfast.Graph()
    x = graph.input((tokens, 6))
    sizes = [6, *[6 * (kv_heads or heads) // heads] * 2]
    parts = [graph.add(L.Dense(np.float64(weights.kernel(6, size))), x) for size in sizes]
    attention = graph.add(L.Attention(heads, kv_heads=kv_heads, **options), *parts)
    shifted = graph.add(L.Reshape((tokens * 6,)), graph.add(L.Permute((1, 0)), graph.add(L.Add(), x, attention)))
    return graph.model(graph.add(L.Dense(np.float64(weights.kernel(tokens * 6, 2)), activation="tanh"), shifted))


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention(name, device, standin):
    model = of_attention(**ATTENTIONS[name])
    x = np.float64(cases.values((4, 6), count=2))
    analyzer = lrpfast.Analyzer(model, "gradient", precision="float64", device=device)
    expected = differences(values(model, 1), x)
    assert np.abs(analyzer.analyze(x, 1) - expected).max() <= OFF * max(1, np.abs(expected).max())
    assert analyzer.model is model and analyzer.explain(x).relevance.shape == x.shape
    layers = analyzer.explain(x, 1, layers=True).layers
    assert {node.name for node in model.nodes} <= set(layers)
    by_hand = lrpfast.Analyzer(lrpfast.write_out_attention(model), "gradient", precision="float64", device=device)
    np.testing.assert_array_equal(by_hand.analyze(x, 1), analyzer.analyze(x, 1))


@pytest.mark.parametrize("tokens", [1, 2])
def test_attention_of_few_tokens_and_of_averages(tokens):
    model, x = of_attention(tokens=tokens), np.float64(cases.values((tokens, 6), count=1))
    expected = differences(values(model, 0), x)
    got = lrpfast.Analyzer(model, "input_t_gradient", precision="float64").analyze(x, 0)
    assert np.abs(got - x * expected).max() <= OFF * max(1, np.abs(expected).max())
    explanation = lrpfast.Analyzer(model, "integrated_gradients", precision="float64").explain(x, 0)
    assert np.abs(explanation.completeness).max() <= 1e-6
    smooth = lrpfast.Analyzer(model, lrpfast.composites.SmoothGrad(3, 0.0), precision="float64").analyze(x, 0)
    assert np.abs(smooth - expected).max() <= OFF * max(1, np.abs(expected).max())


def test_attention_below_a_start_and_of_conditions():
    model = of_attention()
    x = np.float64(cases.values((4, 6), count=2))
    permuted = next(i for i, node in enumerate(model.nodes) if isinstance(node.layer, L.Permute))
    below = lrpfast.Analyzer(model, "gradient", start=permuted, target=3, precision="float64").analyze(x)
    expected = differences(lambda x: model.until(permuted).predict(x, precision="float64").reshape(len(x), -1)[:, 3], x)
    assert np.abs(below - expected).max() <= OFF * max(1, np.abs(expected).max())
    analyzer, name = lrpfast.Analyzer(model, "gradient", precision="float64"), model.nodes[permuted].name
    parts = [analyzer.analyze(x, 1, conditions={name: channel}) for channel in range(4)]
    np.testing.assert_allclose(sum(parts), analyzer.analyze(x, 1), rtol=1e-9, atol=1e-12)


def test_one_attention_of_several_has_its_gradient():
    """A composite may give the rule to one layer alone, as LRP beside it has its own."""
    graph = lrpfast.Graph()
    x = graph.input((3, 4))
    first = graph.add(L.Attention(2, name="first"), x, x, x)
    model = graph.model(graph.add(L.Flatten(), graph.add(L.Attention(2, name="second"), first, first, first)))
    own = lrpfast.composites.ByName({"first": lrpfast.rules.Gradient()})
    analyzer = lrpfast.Analyzer(model, own | lrpfast.composites.from_name("attn_lrp"), precision="float64")
    names = list(analyzer.explain(np.float64(cases.values((3, 4))), 0, layers=True).layers)
    assert "first/weights" in names and "second/weights" not in names


def test_indices_that_are_moved_before_they_are_looked_up():
    table = np.array([[1.0], [3.0]])
    layers = [L.Reshape((2, 1)), L.Permute((1, 0)), L.Embedding(table), L.Flatten(), L.Dense(np.array([[2.0], [5.0]]))]
    model = lrpfast.from_layers(layers, input_shape=(2,))
    assert lrpfast.Analyzer(model, "input_t_gradient").analyze(np.array([[1, 0]])).tolist() == [[6, 5]]


MODEL = lrpfast.from_layers([L.Dense(np.ones((2, 2)))])


@pytest.mark.parametrize(
    "make, kind, parts",
    [
        (lambda: composites.IntegratedGradients(0), RuleError, ["steps", "0"]),
        (lambda: composites.IntegratedGradients(1, quadrature="trapezoid"), RuleError, ["steps", "2"]),
        (lambda: composites.IntegratedGradients(quadrature="simpson"), RuleError, ["simpson", "midpoint"]),
        (lambda: composites.IntegratedGradients(baseline="zero"), RuleError, ["baseline"]),
        (lambda: composites.IntegratedGradients(baseline=np.nan), RuleError, ["baseline", "finite"]),
        (lambda: composites.SmoothGrad(0), RuleError, ["samples"]),
        (lambda: composites.SmoothGrad(noise=-1), RuleError, ["noise"]),
        (lambda: composites.SmoothGrad(seed=-1), RuleError, ["seed"]),
        (lambda: composites.Gradients("cube"), RuleError, ["postprocess", "cube"]),
        (lambda: composites.Gradients() | composites.Uniform("flat"), RuleError, ["gradient", "every layer"]),
        (lambda: composites.ByName({"dense": "flat"}) | composites.Gradients(), RuleError, ["every layer"]),
        (lambda: composites.Uniform("gradient"), RuleError, ["Gradients()"]),
        (lambda: lrpfast.create_analyzer("guided_backprop", MODEL), RuleError, ["left out", "weights"]),
        (lambda: lrpfast.create_analyzer("pattern.net", MODEL), RuleError, ["left out", "patterns"]),
        (
            lambda: lrpfast.Analyzer(MODEL, composites.IntegratedGradients(baseline=np.ones(3))),
            ShapeError,
            ["baseline", "(2,)", "(3,)"],
        ),
        (
            lambda: lrpfast.Analyzer(MODEL, composites.IntegratedGradients(baseline=2), input_range=(0, 1)),
            InputError,
            ["baseline", "input_range"],
        ),
        (lambda: lrpfast.Analyzer(MODEL, "smoothgrad", input_range=(0, 1)), InputError, ["noise", "input_range"]),
        (
            lambda: lrpfast.Analyzer(MODEL, "smoothgrad").explain(np.ones((1, 2)), layers=True),
            InputError,
            ["smoothgrad", "hidden"],
        ),
        (
            lambda: lrpfast.Analyzer(MODEL, "integrated_gradients").analyze(np.array([[1, np.nan]])),
            InputError,
            ["nan"],
        ),
        (
            lambda: lrpfast.Analyzer(MODEL, "gradient").explain(np.ones((1, 2))).conservation["dense"],
            InputError,
            ["no"],
        ),
    ],
)
def test_errors(make, kind, parts):
    with pytest.raises(kind) as error:
        make()
    assert all(part in str(error.value) for part in parts), error.value


def test_composites_are_values():
    for name in ("gradient", "input_t_gradient", "integrated_gradients", "smoothgrad"):
        made = composites.from_name(name)
        assert made == composites.from_name(name) and hash(made) == hash(composites.from_name(name))
        assert pickle.loads(pickle.dumps(made)) == made
    assert composites.IntegratedGradients(baseline=[1, 2]) != composites.IntegratedGradients(baseline=[1, 3])
    assert lrpfast.Analyzer(MODEL, lrpfast.rules.Gradient()).composite == composites.Gradients()


def test_several_inputs():
    """Each has its own baseline; masks are neither interpolated nor noisy."""
    graph = lrpfast.Graph()
    a, b = graph.input((2,), "a"), graph.input((3,), "b")
    joined = graph.add(L.Concat(), a, b)
    hidden = graph.add(L.Dense(np.float64(W.kernel(5, 4)), activation="tanh"), joined)
    model = graph.model(graph.add(L.Dense(np.float64(W.kernel(4, 2))), hidden))
    x = [np.float64(cases.values((n,), count=3)) for n in (2, 3)]
    baseline = [np.array([1.0, 2.0]), np.full(3, -1.0)]
    analyzer = lrpfast.Analyzer(model, composites.IntegratedGradients(40, baseline), precision="float64")
    explanation = analyzer.explain(x, 1)
    assert np.abs(explanation.completeness).max() < 1e-9
    total = sum(r.reshape(3, -1).sum(1) for r in explanation.relevance)
    begin = model.predict([np.tile(b, (3, 1)) for b in baseline], precision="float64")
    np.testing.assert_allclose(total, (model.predict(x, precision="float64") - begin)[:, 1], atol=1e-9)


def test_hidden_layers_and_starts():
    """The gradient at a hidden layer, and the gradient of a hidden neuron."""
    shape, steps = NETS["dense"]
    model, x = build(*steps, shape=shape), np.float64(cases.values(shape, count=3)) + 0.01
    analyzer = lrpfast.Analyzer(model, "gradient", precision="float64")
    names = [node.name for node in model.nodes]
    gradient = analyzer.explain(x, 1, layers=True).layers[names[2]]
    rest = model.layers[-1]
    np.testing.assert_allclose(gradient, np.tile(np.float64(rest.kernel)[:, 1], (3, 1)), rtol=0, atol=1e-15)
    hidden = lrpfast.Analyzer(model, "gradient", start=(names[1], 2), precision="float64").analyze(x)
    first = model.layers[1]
    z = x @ np.float64(first.kernel) + np.float64(first.bias)
    np.testing.assert_allclose(hidden, (z[:, 2:3] > 0) * np.float64(first.kernel)[:, 2], rtol=0, atol=1e-15)


def test_torch():
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        *(torch.nn.Conv2d(2, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.GELU(), torch.nn.MaxPool2d(2)),
        *(torch.nn.Flatten(), torch.nn.Linear(36, 8), torch.nn.LayerNorm(8), torch.nn.SiLU(), torch.nn.Linear(8, 3)),
    )
    module = module.double().eval()
    x = torch.randn(4, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    module(x)[:, 1].sum().backward()
    model = lrpfast.from_torch(module, x.detach())
    got = lrpfast.Analyzer(model, "gradient", target=1, precision="float64").analyze(x.detach())
    assert (got - x.grad).abs().max() <= 1e-12 * x.grad.abs().max()
