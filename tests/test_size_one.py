"""Every layer with sizes of one: channels, positions, windows, units, inputs; one at a time and several at once.

A shape of one says nothing about a layer: the weight of one channel is not a weight of all, one position is not none.
Predictions and relevance against the oracle, under a rule of each kind, in both precisions.
"""

import itertools

import numpy as np
import pytest

import cases
import lrpfast
import oracle_layers
from oracle_layers import Layer
from test_layers import alone, inputs, local
from tolerances import Expected

#: Of the rules, each layer takes so many-th in turn: what goes wrong by a size does so under all, or for all sizes.
TURNS = 3
PRECISIONS = {"float32": np.float32, "float64": np.float64}
W = cases.Weights(18)

WEIGHTS_RULES = [
    ("epsilon", {"epsilon": 0.1}),
    ("z_plus", {"bias": "full"}),
    ("alpha_beta", {}),
    ("flat", {}),
    ("w_square", {"bias": "absorb"}),
    ("z_box", {"low": -3.0, "high": 4.0}),
]
SUM_RULES = [*WEIGHTS_RULES, ("norm", {})]
ROUTE_RULES = [("pass", {}), ("epsilon", {"epsilon": 0.1})]


def sizes(*choices):
    """All ways to choose that have a one among them."""
    return [chosen for chosen in itertools.product(*choices) if 1 in chosen]


def bare(layer):
    return Layer(layer.kind, {**layer.parameters, "bias": None})


def dense():
    for rows, n, m in sizes((1, 3), (1, 4), (1, 3)):
        yield [(rows, n)], W.dense(n, m)
    yield [(1,)], W.dense(1, 1)
    yield [(1,)], bare(W.dense(1, 3))
    yield [(4,)], bare(W.dense(4, 1))


def windows(make):
    """Layers with windows, in one to three dimensions: ``make(shape, window, channels, out, **more)``."""
    for n, k, c, m in sizes((1, 4), (1, 2), (1, 2), (1, 3)):
        yield make((n,), (k,), c, m, padding="same")
        if k <= n:
            yield make((n,), (k,), c, m, strides=2)
    for h, w, k, c, m in sizes((1, 3), (1, 4), (1, 2), (1, 2), (1, 2)):
        if c == 1 or m == 1:
            yield make((h, w), (k, 3), c, m, padding="same")
    yield make((4, 3), (3, 1), 1, 1, padding=((1, 0), (0, 0)))
    yield make((4, 3), (1, 1), 1, 1)
    yield make((1, 1), (1, 1), 1, 1)
    yield make((1, 3, 2), (1, 2, 1), 1, 1)
    yield make((2, 1, 2), (2, 1, 2), 1, 2, padding="same")


def conv():
    for shape, layer in windows(lambda n, k, c, m, **more: ((*n, c), W.conv(k, c, m, **more))):
        yield [shape], layer
    yield [(4, 2)], W.conv((2,), 1, 2, groups=2)
    yield [(1, 4)], W.conv((1,), 2, 2, groups=2)
    yield [(4, 1)], bare(W.conv((3,), 1, 1, dilation=(1,)))


def conv_transpose():
    for shape, layer in windows(lambda n, k, c, m, **more: ((*n, c), W.conv_transpose(k, c, m, **more))):
        yield [shape], layer
    yield [(3, 2)], W.conv_transpose((2,), 2, 1, groups=2)


def depthwise():
    for shape, layer in windows(lambda n, k, c, m, **more: ((*n, c), W.depthwise(k, c, m, **more))):
        yield [shape], layer
    yield [(6, 1)], bare(W.depthwise((2,), 1, 1, dilation=3))


def locally_connected():
    def make(n, k, c, m, **more):
        return (*n, c), local((*n, c), k, m, bias="position" if c == 1 else "channel", **more)

    for shape, layer in windows(make):
        yield [shape], layer
    alike = local((3, 1), 2, 1, bias="position")  # the same kernel at every position, other biases
    kernel = np.broadcast_to(alike.parameters["kernel"][:1], alike.parameters["kernel"].shape).copy()
    yield [(3, 1)], Layer(alike.kind, {**alike.parameters, "kernel": kernel})


def means():
    for h, w, k, c in sizes((1, 4), (1, 3), (1, 2), (1, 2)):
        for more in ({}, {"strides": 1}, {"count_include_pad": True}):
            yield [(h, w, c)], Layer("AveragePool", {"size": (k, 3), "padding": "same", **more})
        yield [(h, w, c)], Layer("AdaptiveAveragePool", {"size": (k, 2)})
        yield [(h, w, c)], Layer("GlobalAveragePool", {"keepdims": k == 1})
        yield [(h, w, c)], Layer("UpSample", {"size": (k, 2), "interpolation": "bilinear"})
        matrices = (None, np.abs(W.kernel(k, w)) + 0.1)
        yield [(h, w, c)], Layer("Interpolate", {"matrices": matrices})
    yield [(1, 1)], Layer("AveragePool", {"size": 1})
    yield [(3, 1, 2, 1)], Layer("AveragePool", {"size": (2, 1, 2), "strides": 1})


def sums():
    for rows, n in ((1, 3), (3, 1), (1, 1)):
        yield [(rows, n)], W.batch_norm(n)
        yield [(rows, n)], W.batch_norm(n, gamma=None, beta=None)
        for kind in ("Add", "Subtract", "Average"):
            yield [(rows, n), (rows, n)], Layer(kind)
        for other in ((1, 1), (1,), (3, 1), (1, 3), (3, 3)):
            yield [(rows, n), other], Layer("Add")
            yield [other, (rows, n)], Layer("Subtract")
        yield [(rows, n)], Layer("Add")
    yield [(1,)], W.batch_norm(1)


def routes():
    for h, w, c in [(1, 3, 2), (3, 1, 2), (3, 2, 1), (1, 3, 1), (1, 1, 2), (3, 1, 1), (1, 1, 1)]:
        shape = [(h, w, c)]
        yield shape, Layer("Flatten")
        yield shape, Layer("Reshape", {"shape": (-1, 1)})
        yield shape, Layer("Reshape", {"shape": (1, -1)})
        yield shape, Layer("Permute", {"axes": (2, 0, 1)})
        yield shape, Layer("ZeroPad", {"pairs": ((1, 0), (0, 1))})
        yield shape, Layer("ReflectPad", {"pairs": ((0, h - 1), (w - 1, 0))})
        yield shape, Layer("Crop", {"pairs": ((h - 1, 0), (0, w - 1))})
        yield shape, Layer("Take", {"places": ([h - 1, 0], [0])})
        yield shape, Layer("UpSample", {"size": (2, 1)})
        for window in ((1, 2), (2, 1), (1, 1), (3, 3)):
            yield shape, Layer("MaxPool", {"size": window, "padding": "same"})
        yield shape, Layer("GlobalMaxPool", {"keepdims": h == 1})
        for axis in (0, 1, 2):
            yield shape * 2, Layer("Concat", {"axis": axis})
        yield shape, Layer("Concat")
        for other in ((h, w, c), (1, 1, 1), (c,), (1, 3, 1)):
            if all(1 in pair or pair[0] == pair[1] for pair in zip((h, w, c), (1, 1, 1, *other)[-3:], strict=True)):
                yield [shape[0], other], Layer("Maximum")
                yield [other, shape[0]], Layer("Minimum")
                yield [other, shape[0], other], Layer("Where")
    for n in (1, 3):
        yield [(n,)], Layer("RepeatVector", {"count": 3})
        yield [(n,)], Layer("RepeatVector", {"count": 1})
        yield [(n,)], Layer("Embedding", {"table": W.kernel(3, 1)})
        yield [(n,)], Layer("Embedding", {"table": W.kernel(1, n)})


def products():
    for rows, n in ((1, 3), (3, 1), (1, 1)):
        for other in ((rows, n), (1, 1), (1,), (3, 1), (1, 3)):
            yield [(rows, n), other], Layer("Multiply")
        yield [(rows, n)], Layer("Multiply")
        yield [(rows, n), (2, n)], Layer("Dot")
        yield [(2, n), (rows, n)], Layer("Dot", {"normalize": True})
        yield [(rows, n), (rows, n)], Layer("Dot", {"axes": 0})
    yield [(1,), (1,)], Layer("Dot")


def layer_norm():
    for rows, n in ((1, 3), (3, 1), (1, 1)):
        yield [(rows, n)], Layer("LayerNorm", {"gamma": 1 + W.bias(n), "beta": W.bias(n)})
        yield [(rows, n)], Layer("LayerNorm", {"beta": W.bias(rows, n), "axes": 2})


def rms_norm():
    for rows, n in ((1, 3), (3, 1), (1, 1)):
        yield [(rows, n)], Layer("RMSNorm", {"gamma": 1 + W.bias(n), "beta": W.bias(n)})


def local_response():
    for rows, n in ((1, 3), (3, 1), (1, 1)):
        for size in (1, 3):
            yield [(rows, n)], Layer("LocalResponseNorm", {"size": size, "alpha": 0.5, "k": 0.8})


def log_sums():
    for shape in ((1, 1), (1, 3), (3, 1), (1, 1, 2), (2, 1, 1)):
        yield [shape], Layer("GlobalLogSumExp", {"keepdims": len(shape) == 3})


def activations():
    for shape in ((1,), (1, 3), (3, 1), (1, 1, 1)):
        for function in ("relu", "tanh", "softmax", "log_softmax"):
            yield [shape], Layer("Activation", {"function": function})
        for slope in (W.bias(shape[-1]), W.bias(1)):
            yield [shape], Layer("Activation", {"function": "prelu", "parameters": {"negative_slope": slope}})


FAMILIES = {
    **dict.fromkeys((dense, conv, conv_transpose, depthwise, locally_connected), WEIGHTS_RULES),
    means: SUM_RULES,
    sums: SUM_RULES,
    routes: ROUTE_RULES,
    products: [("split", {}), ("gradient", {})],
    layer_norm: [("detached", {}), ("epsilon", {"epsilon": 0.1})],
    rms_norm: [("detached", {}), ("pass", {})],  # the derivative of one value over its own size is nothing but rounding
    local_response: [("pass", {})],
    log_sums: [("pass", {}), ("gradient", {})],
    activations: [("pass", {}), ("gradient", {})],
}


def rules(family, number):
    some = FAMILIES[family]
    return some if len(some) <= TURNS else some[number % TURNS :: TURNS]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_sizes_of_one(family):
    for number, (shapes, layer) in enumerate(family()):
        net, x = alone(layer, shapes), inputs(layer, shapes)
        given, what = x if len(x) > 1 else x[0], f"{layer.kind} of {shapes}, layer {number}"
        predicted = Expected(lambda ar, net=net, x=x: net.predict(x, ar))
        r = cases.values(net.forward([a[0] for a in x]).shapes[-1], seed=9)
        for precision in PRECISIONS:
            predicted.check(cases.graph(net).predict(given, precision=precision), precision, what)
        for rule in rules(family, number):
            explained = (rule, layer, x, r)
            expected = Expected(lambda ar, explained=explained: oracle_layers.redistribute(*explained, ar))
            for precision, dtype in PRECISIONS.items():
                own = cases.rule(rule), cases.layer(layer)
                got = lrpfast.redistribute(*own, given, r.astype(dtype), precision=precision)
                expected.check(cases.flat(got, len(r)), precision, f"{what}, {rule}")
