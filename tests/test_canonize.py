"""Batch normalization folded into its neighbours: the same function, in fewer layers."""

import numpy as np
import pytest

import lrpfast
import seeds
from lrpfast import layers as L
from lrpfast.model.canonize import canonize, file_indices, split_batch_norm

RNG = seeds.generator(3)


def array(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def norm(channels, name=None, **keywords):
    given = {"gamma": array(channels), "beta": array(channels), **keywords}
    return L.BatchNorm(array(channels), RNG.uniform(0.2, 3, channels), **given, name=name)


def same(model, folded, *shapes):
    """Both predict the same in float64, by the product's own forward pass."""
    shapes = shapes or (model.input_shape,)
    x = [RNG.normal(size=(3, *shape)) for shape in shapes]
    x = x if len(x) > 1 else x[0]
    a, b = (m.predict(x, precision="float64") for m in (model, folded))
    for p, q in zip(a if isinstance(a, list) else [a], b if isinstance(b, list) else [b], strict=True):
        np.testing.assert_allclose(p, q, rtol=0, atol=1e-12)
    assert [n.name for n in model.nodes] == [n.name for n in folded.nodes]
    assert [n.shape for n in model.nodes] == [n.shape for n in folded.nodes]
    assert [n.inputs for n in model.nodes] == [n.inputs for n in folded.nodes]


def norms(model):
    return [node.name for node in model.nodes if isinstance(node.layer, L.BatchNorm)]


BEFORE = {
    "dense": ((4,), L.Dense(array(4, 3), array(3))),
    "dense without bias": ((4,), L.Dense(array(4, 3))),
    "dense on the last axis": ((5, 4), L.Dense(array(4, 3), array(3))),
    "conv 1d, causal": ((9, 2), L.Conv(array(3, 2, 4), array(4), padding="causal", dilation=2)),
    "conv 2d, same": ((7, 6, 2), L.Conv(array(3, 2, 2, 4), None, 2, "same")),
    "conv 2d, groups": ((7, 6, 4), L.Conv(array(3, 2, 2, 6), array(6), groups=2)),
    "conv 3d": ((4, 5, 3, 2), L.Conv(array(2, 2, 2, 2, 3), array(3))),
    "transposed": ((5, 4, 3), L.ConvTranspose(array(3, 2, 4, 3), array(4), 2)),
    "transposed, groups": ((5, 4), L.ConvTranspose(array(3, 3, 4), array(6), 2, "same", groups=2)),
    "depthwise": ((6, 5, 3), L.DepthwiseConv(array(3, 3, 3, 2), array(6), padding="same")),
    "local": ((6, 2), L.LocallyConnected(array(4, 6, 3), array(3), size=3)),
    "local, bias at each place": ((6, 2), L.LocallyConnected(array(4, 6, 3), array(4, 3), size=3)),
}


@pytest.mark.parametrize("what", BEFORE)
def test_into_the_layer_before(what):
    shape, layer = BEFORE[what]
    model = lrpfast.from_layers([layer, L.Identity("Dropout"), norm(layer_width(layer, shape)), relu()], shape)
    folded = canonize(model)
    assert not norms(folded)
    same(model, folded)
    assert folded.nodes[1].layer.kernel.dtype == np.float64
    assert str(folded.nodes[3].layer.describe()).startswith("BatchNorm folded into")


def layer_width(layer, shape):
    return layer.output_shape(shape)[-1]


def relu():
    return L.Activation("relu")


AFTER = {
    "dense": ((4,), [L.Dense(array(4, 3), array(3), "relu")]),
    "dense without bias": ((4,), [L.Dense(array(4, 3))]),
    "dense, flattened": ((3, 2, 4), [L.Flatten(), L.Dense(array(24, 3), array(3))]),
    "dense, reshaped": ((6, 4), [L.Reshape((3, 8)), L.Dense(array(8, 3), array(3))]),
    "conv": ((7, 6, 2), [L.Conv(array(3, 2, 2, 4), array(4), 2)]),
    "conv, same without zeros": ((7, 6, 2), [L.Conv(array(1, 1, 2, 4), None, padding="same")]),
    "conv, groups": ((7, 6, 4), [L.Conv(array(3, 2, 2, 6), array(6), groups=2, dilation=2)]),
    "depthwise": ((6, 5, 3), [L.DepthwiseConv(array(3, 3, 3, 2), array(6))]),
    "local": ((6, 2), [L.LocallyConnected(array(4, 6, 3), array(3), size=3)]),
    "local without bias": ((5, 4, 2), [L.LocallyConnected(array(12, 8, 3), None, size=(2, 2))]),
}


@pytest.mark.parametrize("what", AFTER)
def test_into_the_layer_after(what):
    shape, layers = AFTER[what]
    model = lrpfast.from_layers([norm(shape[-1]), L.Identity("Dropout"), *layers], shape)
    folded = canonize(model)
    assert not norms(folded)
    same(model, folded)


STAYS = {
    "same padding after": ((7, 6, 2), [norm(2), L.Conv(array(3, 3, 2, 4), padding="same")]),
    "explicit padding after": ((7, 2), [norm(2), L.Conv(array(3, 2, 4), padding=(1, 0))]),
    "zeros between": ((7, 2), [norm(2), L.ZeroPad((1, 1)), L.Conv(array(3, 2, 4))]),
    "transposed after": ((5, 4), [norm(4), L.ConvTranspose(array(3, 3, 4))]),
    "activation between": ((4,), [L.Dense(array(4, 4), None, "relu"), norm(4), relu(), L.Dense(array(4, 3))]),
    "pooling between": ((6, 2), [norm(2), L.MaxPool(2), L.Flatten(), L.Dense(array(6, 3))]),
    "channels mixed": ((6, 4), [norm(4), L.Reshape((12, 2)), L.Dense(array(2, 3))]),
    "the output": ((4,), [L.Dense(array(4, 4), None, "relu"), norm(4)]),
}


@pytest.mark.parametrize("what", STAYS)
def test_stays(what):
    shape, layers = STAYS[what]
    model = lrpfast.from_layers(layers, shape)
    assert canonize(model) is model


def test_two_in_a_row():
    model = lrpfast.from_layers([L.Dense(array(4, 3)), norm(3), norm(3, gamma=None, beta=None), norm(3)], (4,))
    assert not norms(canonize(model))
    same(model, canonize(model))


def test_a_norm_after_an_activation_goes_forward():
    model = lrpfast.from_layers([L.Dense(array(4, 3), None, "relu"), norm(3), L.Dense(array(3, 2))])
    folded = canonize(model)
    assert not norms(folded)
    assert (folded.nodes[1].layer.kernel == model.nodes[1].layer.kernel).all()
    same(model, folded)


def graph(build):
    g = lrpfast.Graph()
    return g.model(*build(g, g.input((4,))))


def test_what_others_use_is_left_alone():
    def used_twice(g, x):
        d = g.add(L.Dense(array(4, 4), name="d"), x)
        return (g.add(L.Add(), g.add(norm(4, "n"), d), d),)

    model = graph(used_twice)
    assert canonize(model) is model

    def returned(g, x):
        d = g.add(L.Dense(array(4, 4), name="d"), x)
        return d, g.add(norm(4, "n"), d)

    model = graph(returned)
    assert canonize(model) is model


def test_layers_used_twice_are_left_alone():
    dense, shared = L.Dense(array(4, 4), name="d"), norm(4, "n")

    def twice(g, x):
        return (g.add(norm(4), g.add(dense, g.add(dense, x))),)

    model = graph(twice)
    assert canonize(model) is model

    def norm_twice(g, x):
        y = g.add(shared, g.add(L.Dense(array(4, 4)), x))
        return (g.add(shared, g.add(L.Dense(array(4, 4)), y)),)

    model = graph(norm_twice)
    assert canonize(model) is model


def test_branches():
    def residual(g, x):
        a = g.add(norm(4), g.add(L.Dense(array(4, 4)), x))
        b = g.add(norm(4), x)
        return (g.add(L.Dense(array(4, 2)), g.add(L.Add(), a, b)),)

    model = graph(residual)
    folded = canonize(model)
    assert len(norms(folded)) == 1  # the one on the input feeds a sum
    same(model, folded)


def test_by_hand():
    """A convolution of two taps over four values, its norm folded before and after."""
    kernel, x = np.array([1.0, -2.0]).reshape(2, 1, 1), np.array([1.0, 2.0, 4.0, 8.0])
    bn = L.BatchNorm(np.array([1.0]), np.array([4.0]), np.array([3.0]), np.array([0.5]), 0.0)  # 1.5 y - 1
    folded = canonize(lrpfast.from_layers([L.Conv(kernel, np.array([1.0])), bn], (4, 1))).nodes[1].layer
    np.testing.assert_allclose(folded.kernel.ravel(), [1.5, -3])
    np.testing.assert_allclose(folded.bias, [1.5 * 1 - 1])
    folded = canonize(lrpfast.from_layers([bn, L.Conv(kernel, np.array([1.0]))], (4, 1))).nodes[2].layer
    np.testing.assert_allclose(folded.kernel.ravel(), [1.5, -3])
    np.testing.assert_allclose(folded.bias, [1 + (1 - 2) * -1])
    y = 1.5 * x - 1
    np.testing.assert_allclose(y[:-1] - 2 * y[1:] + 1, 1.5 * x[:-1] - 3 * x[1:] + folded.bias)


def test_split_in_two():
    model = lrpfast.from_layers([L.Dense(array(4, 3)), norm(3, "n"), relu(), norm(3, gamma=None)], (4,))
    split = split_batch_norm(model)
    assert [n.name for n in split.nodes][2:4] == ["n/normalized", "n"]
    x = RNG.normal(size=(3, 4))
    np.testing.assert_allclose(
        split.predict(x, precision="float64"), model.predict(x, precision="float64"), rtol=0, atol=1e-12
    )
    assert file_indices(split) == [0, 1, 2, 2, 3, 4, 4]
    plain = lrpfast.from_layers([L.Dense(array(4, 3))])
    assert split_batch_norm(plain) is plain


def test_the_factors_of_a_separable_convolution_count_as_one_layer():
    layer = L.SeparableConv(array(3, 2, 1), array(1, 2, 3), name="s")
    model = lrpfast.from_layers([layer, L.Flatten(), L.Dense(array(12, 2))], (6, 2))
    assert file_indices(model) == [0, 1, 1, 2, 3]


def networks():
    """Every canonized shape, and those that stay, inside a network: something before, something after."""
    for what, (shape, layer) in BEFORE.items():
        width = layer_width(layer, shape)
        above = [L.Flatten(), L.Dense(array(int(np.prod(layer.output_shape(shape))), 3), array(3))]
        yield f"into {what}", shape, [layer, L.Identity("Dropout"), norm(width), relu(), *above]
        yield f"into {what}, the output", shape, [layer, norm(width)]
        if len(shape) > 1:
            yield f"into {what}, pooled", shape, [layer, norm(width), L.GlobalAveragePool(), L.Dense(array(width, 2))]
    for what, (shape, layers) in AFTER.items():
        yield f"on, {what}", shape, [norm(shape[-1]), L.Identity("Dropout"), *layers]
        first = L.Dense(array(shape[-1], shape[-1]), array(shape[-1]), "relu")
        yield f"on, {what}, after an activation", shape, [first, norm(shape[-1]), *layers, L.Flatten()]
    for what, (shape, layers) in STAYS.items():
        yield f"stays, {what}", shape, layers
    dense = [L.Dense(array(4, 4), array(4), name=name) for name in "abc"]
    yield "a sigmoid inside", (4,), [dense[0], norm(4), L.Activation("sigmoid"), norm(4), dense[1]]
    yield "a softmax inside", (4,), [L.Dense(array(4, 4), None, "softmax"), norm(4), dense[1], L.Activation("softmax")]
    yield "several", (4,), [norm(4), dense[0], norm(4), norm(4), relu(), norm(4), dense[1], norm(4), relu(), dense[2]]


NETWORKS = {what: (shape, layers) for what, shape, layers in networks()}
COMPOSITES = {
    "epsilon": lrpfast.composites.Uniform(lrpfast.rules.Epsilon(0.5)),
    "alpha_beta": lrpfast.composites.Uniform("alpha_beta"),
    "gradients": lrpfast.composites.ByType({L.Activation: "gradient"}) | lrpfast.composites.Uniform("flat"),
    "norms by a rule": lrpfast.composites.ByType({L.BatchNorm: "gamma"}) | lrpfast.composites.Uniform("w_square"),
}


def check_continued(model, composite):
    """Begun at a layer with the relevance that it has, an explanation goes on as the whole one does."""
    x = RNG.normal(size=(2, *model.input_shape))
    whole = lrpfast.Analyzer(model, composite, precision="float64").explain(x, layers=True)
    most = max(np.abs(relevance).max() for relevance in whole.layers.values())
    for node in model.nodes:
        rest = lrpfast.Analyzer(model, composite, precision="float64", start=node.name)
        rest = rest.explain(x, whole.layers[node.name], layers=True)
        for name, relevance in rest.layers.items():
            np.testing.assert_allclose(relevance, whole.layers[name], rtol=1e-9, atol=1e-9 * most, err_msg=node.name)


@pytest.mark.parametrize("rule", COMPOSITES)
@pytest.mark.filterwarnings("ignore::lrpfast.errors.AmplificationWarning")
def test_explanations_are_continued_at_any_layer(rule):
    for shape, layers in NETWORKS.values():
        check_continued(lrpfast.from_layers(layers, shape), COMPOSITES[rule])


@pytest.mark.filterwarnings("ignore::lrpfast.errors.AmplificationWarning")
def test_explanations_of_shared_layers_are_continued():
    """Used twice a layer stays as it is, also where the part up to the start uses it once."""
    d = L.Dense(array(4, 4), array(4), name="d")
    g = lrpfast.Graph()
    first = g.add(norm(4), g.add(d, g.input((4,), "x")))
    model = g.model(g.add(L.Dense(array(4, 2)), g.add(norm(4), g.add(d, first))))
    assert len(norms(canonize(model))) == 1
    check_continued(model, COMPOSITES["epsilon"])


def test_a_layer_that_a_norm_is_folded_into_hands_out_what_the_norm_makes():
    layers = [
        L.Conv(array(3, 2, 4), array(4), name="conv"),
        norm(4, "norm"),
        relu(),
        L.Flatten(),
        L.Dense(array(28, 2)),
    ]
    model = lrpfast.from_layers(layers, (9, 2))
    x = RNG.normal(size=(2, 9, 2))
    for rule, at in (("epsilon", "norm"), ("captum", "conv")):
        output = lrpfast.Analyzer(model, rule, start="conv", target=3, precision="float64").explain(x).output
        np.testing.assert_allclose(output, model.until(at).predict(x, precision="float64"), rtol=1e-12, atol=1e-12)


EXPRESS = {
    "by type": lambda rule: lrpfast.composites.ByType({L.BatchNorm: rule}),
    "by a tuple of types": lambda rule: lrpfast.composites.ByType({(L.BatchNorm, L.Add): rule}),
    "by name": lambda rule: lrpfast.composites.ByName({"norm": rule}),
    "by a pattern": lambda rule: lrpfast.composites.ByName({"nor*": rule}),
    "by index": lambda rule: lrpfast.composites.ByIndex({2: rule}, among=L.Layer),
    "by index among norms": lambda rule: lrpfast.composites.ByIndex({0: rule}, among=L.BatchNorm),
    "by a condition": lambda rule: lrpfast.composites.when(lambda layer: layer.name == "norm", rule, among=L.Layer),
    "the first": lambda rule: lrpfast.composites.Composite(
        (lrpfast.composites.Entry("first", rule, None, L.BatchNorm),)
    ),
}


@pytest.mark.parametrize("how", EXPRESS)
@pytest.mark.parametrize("rule", ["pass", "gamma"])
def test_a_rule_for_a_norm_keeps_it_from_being_folded(how, rule):
    layers = [L.Dense(array(4, 12), array(12), name="d"), norm(12, "norm"), relu(), L.Dense(array(12, 2), array(2))]
    model, x = lrpfast.from_layers(layers, (4,)), RNG.normal(size=(3, 4))
    uniform = lrpfast.composites.Uniform(lrpfast.rules.Epsilon(0.5))
    one_by_one = lrpfast.composites.Composite(
        (lrpfast.composites.Entry("all", rule, None, L.BatchNorm), *uniform.entries), canonize=False
    )
    wanted = lrpfast.Analyzer(model, one_by_one, precision="float64").analyze(x)
    for composite in (EXPRESS[how](rule) | uniform, uniform | EXPRESS[how](rule)):
        assert composite.assign(model).kept == {2}
        explanation = lrpfast.Analyzer(model, composite, precision="float64").explain(x)
        np.testing.assert_array_equal(explanation.relevance, wanted)
    assert not np.allclose(lrpfast.Analyzer(model, uniform, precision="float64").analyze(x), wanted)


def test_rules_for_all_layers_or_for_a_block_leave_norms_to_be_folded():
    layers = [L.Dense(array(4, 3), name="block_d"), norm(3, "block_norm"), relu(), L.Dense(array(3, 2))]
    model = lrpfast.from_layers(layers, (4,))
    composites = lrpfast.composites
    for composite in (
        composites.Uniform("gamma"),
        composites.EpsilonPlus(),
        composites.ByType({L.Dense: "gamma"}, default="epsilon"),
        composites.ByName({"block_*": "gamma"}) | composites.Uniform("epsilon"),
        composites.ByType({L.Activation: "pass", L.Layer: "epsilon"}),
    ):
        assert not composite.assign(model).kept


def test_a_rule_for_one_norm_leaves_the_others_to_be_folded():
    layers = [L.Dense(array(4, 3)), norm(3, "a"), relu(), L.Dense(array(3, 3)), norm(3, "b"), L.Dense(array(3, 2))]
    model = lrpfast.from_layers(layers, (4,))
    assert norms(canonize(model, {2})) == ["a"]
    same(model, canonize(model, {2}))
