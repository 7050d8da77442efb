"""Every layer under every rule it takes, alone, against the oracle; and what every layer predicts.

Geometry: 1 to 3 dimensions, odd and even sizes, strides larger than the window, dilation, groups, all paddings, windows
that see nothing. Inputs of both signs and without negatives, in every precision.
"""

import numpy as np
import pytest

import cases
import lrpfast
import oracle_layers
from oracle_layers import Layer
from tolerances import Expected

PRECISIONS = ("float32", "float64", "tf32")
W = cases.Weights()


def dtype(precision):
    return np.float64 if precision == "float64" else np.float32


def local(shape, size, out, bias="channel", **more):
    """A locally connected layer for an input of a shape."""
    windows, sizes = oracle_layers.all_windows(
        shape[:-1], size, more.get("strides", 1), 1, more.get("padding", "valid")
    )
    taps = int(np.prod(oracle_layers.per_axis(size, len(shape) - 1)))
    kernel = W.kernel(len(windows), taps * shape[-1], out) * np.float32(np.sqrt(len(windows)))
    bias = W.bias(*sizes, out) if bias == "position" else W.bias(out)
    return Layer("LocallyConnected", {"kernel": kernel, "bias": bias, "size": size, **more})


#: (name, input shape, layer): the layers with weights in each number of dimensions, for every rule and convention
PLAIN = [
    ("dense", (7,), W.dense(7, 5)),
    ("dense on rows", (3, 4), W.dense(4, 5)),
    ("conv1d", (9, 3), W.conv((3,), 3, 4)),
    ("conv2d same", (4, 5, 2), W.conv((3, 2), 2, 3, padding="same")),
    ("conv3d same", (3, 2, 3, 2), W.conv((2, 3, 2), 2, 2, padding="same")),
    ("transposed 1d", (4, 3), W.conv_transpose((3,), 3, 2, strides=2)),
    ("transposed 2d", (3, 2, 2), W.conv_transpose((3, 2), 2, 3, strides=(2, 1), padding="same")),
    ("transposed 3d", (2, 2, 2, 2), W.conv_transpose((2, 2, 2), 2, 2, padding="same")),
    ("depthwise 1d", (8, 3), W.depthwise((3,), 3, 2)),
    ("depthwise 2d", (5, 4, 3), W.depthwise((3, 3), 3, padding="same")),
    ("depthwise 3d", (3, 3, 2, 2), W.depthwise((2, 2, 2), 2, 2, padding="same")),
    ("local 1d", (6, 3), local((6, 3), 2, 4)),
    ("local 2d", (4, 4, 2), local((4, 4, 2), (2, 3), 3, bias="position")),
]

#: geometries of every kind, for one rule of each kind
GEOMETRIES = [
    ("same, even window, even size", (8, 2), W.conv((4,), 2, 3, padding="same")),
    ("same, even window, odd size, stride 2", (9, 2), W.conv((2,), 2, 3, padding="same", strides=2)),
    ("same, stride larger than the window", (10, 2), W.conv((2,), 2, 3, padding="same", strides=3)),
    ("same, window larger than the input", (2, 2), W.conv((5,), 2, 3, padding="same")),
    ("same, dilation", (7, 2), W.conv((3,), 2, 3, padding="same", dilation=2)),
    ("causal", (6, 2), W.conv((3,), 2, 3, padding="causal")),
    ("causal, dilation", (8, 2), W.conv((3,), 2, 2, padding="causal", dilation=3)),
    ("causal, stride", (7, 2), W.conv((2,), 2, 2, padding="causal", strides=2)),
    ("stride larger than the window", (11, 2), W.conv((2,), 2, 3, strides=4)),
    ("pads on one side", (5, 2), W.conv((3,), 2, 3, padding=(2, 0))),
    ("window of one", (5, 3), W.conv((1,), 3, 4)),
    ("window of one, stride", (7, 3), W.conv((1,), 3, 4, strides=3)),
    ("many channels", (5, 17), W.conv((3,), 17, 19, padding="same")),
    ("groups", (6, 6), W.conv((3,), 2, 6, groups=3, padding="same")),
    ("2d, strides", (7, 6, 2), W.conv((3, 2), 2, 3, strides=(2, 3))),
    ("2d, stride larger than the window", (7, 8, 1), W.conv((2, 2), 1, 3, strides=(3, 4))),
    ("2d, dilation", (6, 5, 2), W.conv((3, 2), 2, 2, dilation=(2, 3), padding="same")),
    ("2d, dilation and stride", (8, 7, 1), W.conv((2, 3), 1, 3, dilation=(3, 2), strides=(2, 1))),
    ("2d, groups, stride", (5, 4, 4), W.conv((2, 3), 2, 6, groups=2, strides=2, padding="same")),
    ("2d, as many groups as channels", (4, 4, 3), W.conv((3, 3), 1, 6, groups=3, padding="same")),
    ("2d, pads that differ", (4, 3, 2), W.conv((3, 2), 2, 3, padding=((2, 0), (0, 1)))),
    ("2d, windows that see nothing", (3, 3, 2), W.conv((2, 1), 2, 2, padding=((3, 0), (1, 2)))),
    ("2d, window of one", (3, 4, 3), W.conv((1, 1), 3, 5)),
    ("2d, window of one, strides", (4, 5, 2), W.conv((1, 1), 2, 3, strides=(2, 3))),
    ("2d, the whole input", (3, 4, 2), W.conv((3, 4), 2, 5)),
    ("2d, even sizes, even windows", (6, 4, 1), W.conv((2, 4), 1, 4, padding="same", strides=(1, 2))),
    ("3d, strides", (5, 3, 4, 1), W.conv((2, 2, 3), 1, 3, strides=(3, 1, 2))),
    ("3d, dilation", (4, 3, 3, 1), W.conv((2, 2, 1), 1, 3, dilation=(2, 1, 2), padding="same")),
    ("3d, groups", (2, 3, 2, 4), W.conv((2, 1, 2), 2, 4, groups=2)),
    ("transposed, stride larger than the window", (4, 2), W.conv_transpose((2,), 2, 3, strides=3)),
    ("transposed, same, odd window", (3, 2), W.conv_transpose((3,), 2, 3, strides=2, padding="same")),
    ("transposed, same, even window", (3, 2), W.conv_transpose((4,), 2, 3, strides=2, padding="same")),
    ("transposed, same, stride larger", (3, 2), W.conv_transpose((2,), 2, 2, strides=3, padding="same")),
    ("transposed, output padding", (4, 2), W.conv_transpose((3,), 2, 2, strides=2, padding="same", output_padding=1)),
    ("transposed, valid, output padding", (3, 2), W.conv_transpose((2,), 2, 2, strides=3, output_padding=2)),
    ("transposed, cut", (4, 2), W.conv_transpose((4,), 2, 3, strides=2, padding=(1, 2), output_padding=1)),
    ("transposed, dilation", (4, 2), W.conv_transpose((3,), 2, 2, dilation=2, padding=(2, 1))),
    ("transposed, groups", (4, 6), W.conv_transpose((3,), 6, 1, strides=2, groups=3)),
    ("transposed 2d, strides", (3, 2, 2), W.conv_transpose((2, 3), 2, 2, strides=(3, 2))),
    (
        "transposed 2d, cut, output padding",
        (3, 3, 1),
        W.conv_transpose((3, 2), 1, 3, strides=2, padding=((1, 1), (0, 1)), output_padding=(1, 0)),
    ),
    ("transposed 2d, groups", (2, 3, 4), W.conv_transpose((2, 2), 4, 2, groups=2, padding="same")),
    ("transposed 3d, strides", (2, 1, 2, 2), W.conv_transpose((2, 3, 2), 2, 2, strides=(2, 1, 3))),
    ("depthwise, stride larger than the window", (9, 3), W.depthwise((2,), 3, strides=3)),
    ("depthwise, same, even, stride", (7, 2), W.depthwise((4,), 2, 3, padding="same", strides=2)),
    ("depthwise, causal, dilation", (7, 2), W.depthwise((2,), 2, padding="causal", dilation=2)),
    ("depthwise 2d, multiplier", (4, 5, 2), W.depthwise((3, 2), 2, 3, padding="same")),
    ("depthwise 2d, strides, pads", (5, 4, 3), W.depthwise((2, 3), 3, strides=2, padding=((0, 1), (2, 0)))),
    ("depthwise 2d, dilation", (5, 5, 2), W.depthwise((3, 2), 2, dilation=2)),
    ("depthwise 2d, many channels", (3, 3, 19), W.depthwise((3, 3), 19, padding="same")),
    ("depthwise 3d, strides", (3, 4, 2, 2), W.depthwise((2, 2, 2), 2, strides=2, padding="same")),
    ("local, same", (6, 2), local((6, 2), 3, 2, padding="same")),
    ("local, stride larger than the window", (9, 2), local((9, 2), 2, 3, strides=3, bias="position")),
    ("local 2d, strides", (5, 4, 2), local((5, 4, 2), (3, 2), 2, strides=(2, 1))),
    ("local 2d, same, even", (3, 4, 2), local((3, 4, 2), (2, 2), 2, padding="same", strides=2)),
    ("local 3d", (3, 2, 3, 1), local((3, 2, 3, 1), (2, 2, 2), 2)),
]

#: weights of means over neighbours, some of them none
STEPS = np.array([[1, 0, 0, 0], [0.3, 0.7, 0, 0], [0, 0.6, 0.3, 0.1], [0, 0, 0.25, 0.75], [0.5, 0, 0, 0.5]])

#: sums and means
SUMS = [
    ("mean", [(7, 2)], Layer("AveragePool", {"size": 2})),
    ("mean, overlapping", [(8, 2)], Layer("AveragePool", {"size": 3, "strides": 2})),
    ("mean, stride larger", [(9, 2)], Layer("AveragePool", {"size": 2, "strides": 4})),
    ("mean, same", [(7, 2)], Layer("AveragePool", {"size": 4, "strides": 3, "padding": "same"})),
    ("mean 2d, same", [(5, 4, 2)], Layer("AveragePool", {"size": (2, 3), "padding": "same"})),
    (
        "mean 2d, pads count",
        [(5, 4, 2)],
        Layer("AveragePool", {"size": (3, 2), "padding": ((1, 1), (0, 1)), "count_include_pad": True}),
    ),
    (
        "mean 2d, pads do not count",
        [(5, 4, 2)],
        Layer("AveragePool", {"size": (3, 3), "strides": 2, "padding": ((1, 2), (0, 1))}),
    ),
    ("mean, dilation", [(8, 2)], Layer("AveragePool", {"size": 3, "strides": 2, "padding": "same", "dilation": 2})),
    (
        "mean 2d, dilation, padding counts",
        [(5, 6, 2)],
        Layer(
            "AveragePool",
            {"size": (2, 3), "strides": 1, "padding": ((1, 2), 1), "dilation": (3, 2), "count_include_pad": True},
        ),
    ),
    ("mean 3d", [(3, 4, 2, 2)], Layer("AveragePool", {"size": (2, 2, 2), "strides": 1, "padding": "same"})),
    ("adaptive mean", [(7, 2)], Layer("AdaptiveAveragePool", {"size": 3})),
    ("adaptive mean to more", [(3, 2)], Layer("AdaptiveAveragePool", {"size": 5})),
    ("adaptive mean 2d", [(5, 6, 2)], Layer("AdaptiveAveragePool", {"size": (2, 4)})),
    ("adaptive mean 2d, one axis", [(3, 5, 2)], Layer("AdaptiveAveragePool", {"size": (None, 2)})),
    ("adaptive mean 3d", [(3, 2, 4, 1)], Layer("AdaptiveAveragePool", {"size": (2, 1, 3)})),
    ("global mean 1d", [(5, 3)], Layer("GlobalAveragePool")),
    ("global mean 2d", [(4, 3, 2)], Layer("GlobalAveragePool", {"keepdims": True})),
    ("global mean 3d", [(2, 3, 2, 2)], Layer("GlobalAveragePool")),
    ("bilinear 1d", [(4, 2)], Layer("UpSample", {"size": 3, "interpolation": "bilinear"})),
    ("bilinear 2d", [(3, 4, 2)], Layer("UpSample", {"size": (2, 3), "interpolation": "bilinear"})),
    ("bilinear 2d, one axis", [(1, 3, 2)], Layer("UpSample", {"size": (4, 1), "interpolation": "bilinear"})),
    ("interpolation 1d", [(4, 2)], Layer("Interpolate", {"matrices": (STEPS[:3, :4],)})),
    ("interpolation 2d", [(3, 4, 2)], Layer("Interpolate", {"matrices": (STEPS[:, :3], STEPS[1:4, :4])})),
    ("interpolation 2d, one axis", [(3, 4, 2)], Layer("Interpolate", {"matrices": (None, STEPS[:2, :4])})),
    ("interpolation 3d", [(2, 3, 2, 1)], Layer("Interpolate", {"matrices": (STEPS[1:, 2:4], None, STEPS[:2, :2])})),
    ("batch norm", [(5,)], W.batch_norm(5)),
    ("batch norm of maps", [(3, 4, 2)], W.batch_norm(2, epsilon=0.01)),
    ("batch norm without scale", [(4, 2)], W.batch_norm(2, gamma=None, beta=None)),
    ("sum", [(4, 3), (4, 3)], Layer("Add")),
    ("sum of three", [(5,), (5,), (5,)], Layer("Add")),
    ("sum of one", [(5,)], Layer("Add")),
    ("sum, stretched", [(3, 2, 4), (1, 4)], Layer("Add")),
    ("sum, all stretched", [(3, 1), (4,)], Layer("Add")),
    ("difference", [(4, 3), (4, 3)], Layer("Subtract")),
    ("difference, stretched", [(2,), (3, 2)], Layer("Subtract")),
    ("mean of inputs", [(4,), (4,), (4,)], Layer("Average")),
]

#: interpolation that has weights below zero, as cubic has
SIGNED = [
    ("cubic 1d", [(4, 2)], Layer("Interpolate", {"matrices": (STEPS[:, :4] - 0.2,)})),
    ("cubic 2d", [(3, 4, 2)], Layer("Interpolate", {"matrices": (STEPS[:3, :3] - 0.1, STEPS[:, :4] - 0.2)})),
    ("cubic 3d", [(2, 2, 3, 1)], Layer("Interpolate", {"matrices": (None, STEPS[:, :2] - 0.1, STEPS[:2, :3] - 0.3)})),
]

SIGNED_RULES = [
    ("zero", {}),
    ("epsilon", {"epsilon": 0.1}),
    ("norm", {}),
    ("norm", {"stabilizer": (0.25, "zero")}),
    ("gradient", {}),
]

SUM_RULES = [*cases.KINDS, ("norm", {}), ("norm", {"stabilizer": (0.25, "zero")}), ("gradient", {})]

#: layers that move or select values
ROUTES = [
    ("flatten", [(2, 3, 2)], Layer("Flatten")),
    ("reshape", [(2, 6)], Layer("Reshape", {"shape": (3, -1)})),
    ("permute", [(2, 3, 4)], Layer("Permute", {"axes": (2, 0, 1)})),
    ("repeat", [(4,)], Layer("RepeatVector", {"count": 3})),
    ("zero pad 1d", [(4, 2)], Layer("ZeroPad", {"pairs": (2, 1)})),
    ("zero pad 2d", [(2, 3, 2)], Layer("ZeroPad", {"pairs": ((0, 2), (1, 1))})),
    ("zero pad 3d", [(2, 1, 2, 1)], Layer("ZeroPad", {"pairs": ((1, 0), (2, 1), (0, 0))})),
    ("reflect pad 1d", [(4, 2)], Layer("ReflectPad", {"pairs": (3, 2)})),
    ("reflect pad 2d", [(3, 4, 1)], Layer("ReflectPad", {"pairs": ((1, 2), (0, 3))})),
    ("reflect pad 3d", [(2, 3, 2, 1)], Layer("ReflectPad", {"pairs": ((1, 0), (2, 1), (0, 1))})),
    ("crop 1d", [(6, 2)], Layer("Crop", {"pairs": (1, 2)})),
    ("crop 2d", [(4, 5, 2)], Layer("Crop", {"pairs": ((0, 1), (2, 1))})),
    ("crop 3d", [(3, 2, 4, 1)], Layer("Crop", {"pairs": ((1, 1), (0, 0), (2, 0))})),
    ("take 1d", [(4, 2)], Layer("Take", {"places": ([3, 0, 0, 2],)})),
    ("take 2d", [(3, 4, 2)], Layer("Take", {"places": ([0, 0, 0, 1, 2, 2], [1, 3])})),
    ("take 3d", [(2, 3, 2, 1)], Layer("Take", {"places": ([1, 0], None, [1])})),
    ("nearest 1d", [(4, 2)], Layer("UpSample", {"size": 3})),
    ("nearest 2d", [(2, 3, 2)], Layer("UpSample", {"size": (2, 3)})),
    ("nearest 3d", [(2, 1, 2, 2)], Layer("UpSample", {"size": (1, 3, 2)})),
    ("concat", [(2, 3), (2, 1), (2, 2)], Layer("Concat")),
    ("concat, first axis", [(1, 2, 3), (3, 2, 3)], Layer("Concat", {"axis": 0})),
    ("concat, middle axis", [(2, 1, 2), (2, 3, 2)], Layer("Concat", {"axis": -2})),
    ("max 1d", [(7, 3)], Layer("MaxPool", {"size": 2})),
    ("max 1d, overlapping", [(8, 2)], Layer("MaxPool", {"size": 3, "strides": 1})),
    ("max 1d, stride larger", [(9, 2)], Layer("MaxPool", {"size": 2, "strides": 4})),
    ("max 1d, same", [(7, 2)], Layer("MaxPool", {"size": 4, "strides": 3, "padding": "same"})),
    ("max 2d", [(4, 6, 2)], Layer("MaxPool", {"size": (2, 3)})),
    ("max 2d, pads", [(4, 5, 2)], Layer("MaxPool", {"size": (3, 2), "strides": 2, "padding": ((1, 2), (0, 1))})),
    ("max 1d, dilation", [(8, 2)], Layer("MaxPool", {"size": 3, "strides": 2, "padding": ((1, 2),), "dilation": 2})),
    ("max 1d, dilation, same", [(7, 2)], Layer("MaxPool", {"size": 3, "padding": "same", "dilation": 3})),
    (
        "max 2d, dilation",
        [(5, 6, 2)],
        Layer("MaxPool", {"size": (2, 3), "strides": (2, 1), "padding": ((2, 1), (0, 2)), "dilation": (3, 2)}),
    ),
    (
        "max 3d, dilation",
        [(4, 3, 5, 1)],
        Layer("MaxPool", {"size": 2 * (2,) + (3,), "strides": 1, "dilation": (2, 1, 2)}),
    ),
    ("max 3d", [(3, 4, 2, 2)], Layer("MaxPool", {"size": (2, 2, 2), "strides": 1, "padding": "same"})),
    ("global max 1d", [(5, 3)], Layer("GlobalMaxPool")),
    ("global max 2d", [(3, 4, 2)], Layer("GlobalMaxPool", {"keepdims": True})),
    ("global max 3d", [(2, 3, 2, 2)], Layer("GlobalMaxPool")),
    ("maximum", [(4, 3), (4, 3)], Layer("Maximum")),
    ("maximum of three", [(5,), (5,), (5,)], Layer("Maximum")),
    ("maximum, stretched", [(3, 1, 2), (4, 1)], Layer("Maximum")),
    ("minimum", [(4, 3), (4, 3), (4, 3)], Layer("Minimum")),
    ("minimum, stretched", [(3,), (2, 3)], Layer("Minimum")),
    ("where", [(4, 3), (4, 3), (4, 3)], Layer("Where")),
    ("where, or equal", [(4, 3), (4, 3), (4, 3)], Layer("Where", {"or_equal": True})),
    ("where, stretched", [(3,), (2, 1), (2, 3)], Layer("Where")),
    ("embedding", [(6,)], Layer("Embedding", {"table": W.kernel(4, 3)})),
    ("embedding of maps", [(2, 3)], Layer("Embedding", {"table": W.kernel(4, 2)})),
]

#: logarithms of sums of exponentials
LOG_SUMS = [
    ("log sum exp 1d", [(5, 3)], Layer("GlobalLogSumExp")),
    ("log sum exp 2d, one channel", [(3, 4, 1)], Layer("GlobalLogSumExp", {"keepdims": True})),
    ("log sum exp 3d", [(2, 3, 2, 2)], Layer("GlobalLogSumExp")),
]

ROUTE_RULES = [
    ("pass", {}),
    ("gradient", {}),
    ("zero", {}),
    ("zero", {"stabilizer": (0.25, "zero")}),
    ("epsilon", {"epsilon": 0.1}),
    ("norm", {}),
]

#: products
PRODUCTS = [
    ("product", [(4, 3), (4, 3)], Layer("Multiply")),
    ("product of three", [(5,), (5,), (5,)], Layer("Multiply")),
    ("product of one", [(5,)], Layer("Multiply")),
    ("product, stretched", [(3, 2, 4), (1, 4)], Layer("Multiply")),
    ("product, all stretched", [(3, 1), (4,)], Layer("Multiply")),
    ("dot", [(3, 4), (2, 4)], Layer("Dot")),
    ("dot of vectors", [(5,), (5,)], Layer("Dot", {"axes": 0})),
    ("dot, axes that differ", [(2, 4, 3), (4, 2)], Layer("Dot", {"axes": (1, 0)})),
    ("dot, lengths of one", [(3, 4), (4, 2)], Layer("Dot", {"axes": (-1, 0), "normalize": True})),
]

PRODUCTS += [
    ("matrices", [(3, 4), (4, 2)], Layer("MatMul")),
    ("matrices, both transposed", [(2, 4, 3), (2, 5, 4)], Layer("MatMul", {"transpose_a": True, "transpose_b": True})),
    ("matrices, stretched", [(3, 1, 2, 4), (2, 4, 3)], Layer("MatMul")),
    ("matrices of one value", [(1, 1), (1, 1)], Layer("MatMul", {"transpose_b": True})),
]

#: of elementwise products alone
SHARE_RULES = [("split", {"to": "prop", "stabilizer": (0.1, "sign")}), ("split", {"to": "abs"})]

PRODUCT_RULES = [
    ("split", {}),
    ("split", {"stabilizer": (0.25, "zero")}),
    ("split", {"to": "first"}),
    ("split", {"to": "last", "stabilizer": (0.1, "sign")}),
    ("gradient", {}),
]

#: the softmax over keys that are seen
SEEN = np.array([[1, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
SOFTMAXES = [
    ("softmax", [(2, 3, 4)], Layer("Softmax")),
    ("softmax of one row", [(5,)], Layer("Softmax", {"mask": np.array([True, False, True, True, False])})),
    ("softmax, mask", [(2, 3, 4)], Layer("Softmax", {"mask": SEEN})),
    ("softmax, mask of matrices", [(2, 3, 4)], Layer("Softmax", {"mask": SEEN[:2, None, :1]})),
    ("softmax, causal", [(3, 4)], Layer("Softmax", {"window": (None, 0)})),
    ("softmax, window", [(2, 5, 4)], Layer("Softmax", {"window": (1, 0), "mask": np.ones((1, 4), bool)})),
    ("softmax, mask as input", [(2, 3, 4), (4,)], Layer("Softmax", {"window": (2, 1)})),
]
SOFTMAX_RULES = [("taylor", {}), ("pass", {}), ("gradient", {})]

#: cos and sin of rotary positions
ANGLES = np.outer(np.arange(3) + 0.5, [1.0, 0.4])
COS, SIN = (np.float32(np.concatenate([f(ANGLES), f(ANGLES)], 1)) for f in (np.cos, np.sin))
ROTATIONS = [
    ("rotary", [(3, 8)], Layer("Rotary", {"cos": COS, "sin": SIN, "size": 4})),
    (
        "rotary, part, neighbours",
        [(2, 3, 5)],
        Layer("Rotary", {"cos": COS, "sin": SIN, "size": 5, "interleaved": True}),
    ),
]
ROTATION_RULES = [("norm", {}), ("zero", {}), ("epsilon", {"epsilon": 0.1}), ("pass", {}), ("gradient", {})]

#: attention
BIAS = W.bias(4, 3, 5)
ATTENTIONS = [
    ("attention", [(3, 4), (5, 4), (5, 6)], Layer("Attention", {"heads": 2})),
    ("attention of one", [(1, 1), (1, 1), (1, 1)], Layer("Attention")),
    ("attention, shared heads", [(3, 8), (3, 4), (3, 6)], Layer("Attention", {"heads": 4, "kv_heads": 2})),
    ("attention, causal", [(4, 2), (4, 2), (4, 2)], Layer("Attention", {"heads": 2, "window": (None, 0)})),
    (
        "attention, bias, mask, cap",
        [(3, 8), (5, 2), (5, 1)],
        Layer(
            "Attention",
            {"heads": 4, "kv_heads": 1, "bias": BIAS, "mask": np.arange(5) != 2, "softcap": 0.7, "scale": 0.9},
        ),
    ),
    (
        "attention of windows",
        [(2, 3, 4), (2, 4, 4), (2, 4, 2)],
        Layer("Attention", {"heads": 2, "mask": np.tri(4)[None, 1:, None].swapaxes(1, 2) > 0, "bias": BIAS[:2, :, :4]}),
    ),
    ("attention, mask as input", [(3, 4), (5, 4), (5, 4), (5,)], Layer("Attention", {"heads": 2, "window": (1, 2)})),
    (
        "attention, a mask for each head",
        [(2, 2, 4), (2, 3, 4), (2, 3, 4), (2, 1, 3)],
        Layer("Attention", {"heads": 2, "bias": W.bias(2, 1, 1, 3)}),
    ),
]
ATTENTION_RULES = [
    ("attn", {}),
    ("attn", {"stabilizer": (1e-6, "zero")}),
    ("attn", {"stabilizer": (0.25, "sign")}),
    ("attn", {"stabilizer": (0.25, "sign"), "scores": (7.0, "unsigned"), "sums": (6.0, "unsigned"), "masks": True}),
    ("cp", {}),
    ("cp", {"stabilizer": (0.25, "zero")}),
]

#: normalization by a sample's own statistics
NORMALIZATIONS = [
    ("layer norm", [(6,)], Layer("LayerNorm", {"gamma": 1 + W.bias(6), "beta": W.bias(6)})),
    ("layer norm of rows", [(3, 4)], Layer("LayerNorm", {"gamma": 1 + W.bias(4), "epsilon": 1e-5})),
    ("layer norm, two axes", [(2, 3, 2)], Layer("LayerNorm", {"beta": W.bias(3, 2), "axes": 2})),
    ("rms norm", [(6,)], Layer("RMSNorm", {"gamma": 1 + W.bias(6), "beta": W.bias(6)})),
    ("rms norm of rows", [(3, 2, 4)], Layer("RMSNorm", {"epsilon": 1e-6})),
]

NORMALIZATION_RULES = [
    ("detached", {}),
    ("detached", {"stabilizer": (0.25, "zero")}),
    ("pass", {}),
    ("gradient", {}),
    ("zero", {}),
    ("epsilon", {"epsilon": 0.1}),
    ("norm", {}),
]

LOCAL_RESPONSE = [
    ("local response, odd", [(2, 5)], Layer("LocalResponseNorm", {"size": 3, "alpha": 0.5, "k": 0.8})),
    ("local response, even", [(3, 2, 4)], Layer("LocalResponseNorm", {"size": 2, "alpha": 2.0, "beta": 0.5})),
]

ACTIVATIONS = [
    ("relu", {}),
    ("relu", {"max_value": 0.5}),
    ("relu", {"threshold": 0.25}),
    ("relu", {"threshold": -0.25, "negative_slope": 0.5, "max_value": 1.0}),
    ("leaky_relu", {"negative_slope": 0.3}),
    ("prelu", {"negative_slope": np.array([0.5, -0.25, 0.125], np.float32)}),
    ("elu", {"alpha": 0.7}),
    ("selu", {}),
    ("gelu", {}),
    ("gelu", {"approximate": True}),
    ("silu", {}),
    ("tanh", {}),
    ("sigmoid", {}),
    ("hard_sigmoid", {"slope": 0.25}),
    ("hard_sigmoid", {"slope": 0.5, "offset": 0.25}),
    ("softplus", {}),
    ("softsign", {}),
    ("exponential", {}),
    ("mish", {}),
    ("clip", {"low": -0.25, "high": 0.5}),
    ("clip", {"low": -0.25}),
    ("clip", {"high": -0.25}),
    ("celu", {"alpha": 0.7}),
    ("shrink", {"threshold": 0.25}),
    ("shrink", {"threshold": 0.25, "shift": 0.5}),
    ("log_sigmoid", {}),
    ("power", {"exponent": 2}),
    ("power", {"exponent": 3}),
    ("hard_silu", {}),
    ("log", {}),
    ("softmax", {}),
    ("log_softmax", {}),
    ("linear", {}),
]

SOME_PLAIN = [entry for entry in PLAIN if entry[0] in ("conv1d", "conv2d same", "transposed 2d", "depthwise 2d")]

FAMILIES = [
    ([(name, [shape], layer) for name, shape, layer in PLAIN], cases.PLAIN, PRECISIONS),
    ([(name, [shape], layer) for name, shape, layer in SOME_PLAIN], cases.OTHER, PRECISIONS),
    ([(name, [shape], layer) for name, shape, layer in GEOMETRIES], cases.KINDS, PRECISIONS),
    (SUMS, SUM_RULES, PRECISIONS),
    (SIGNED, SIGNED_RULES, PRECISIONS),
    (ROUTES, ROUTE_RULES, PRECISIONS[:2]),
    (PRODUCTS, PRODUCT_RULES, PRECISIONS[:2]),
    ([case for case in PRODUCTS if case[2].kind == "Multiply" and len(case[1]) > 1], SHARE_RULES, PRECISIONS[:2]),
    (NORMALIZATIONS, NORMALIZATION_RULES, PRECISIONS[:2]),
    (LOCAL_RESPONSE, [("pass", {})], PRECISIONS[:2]),
    (LOG_SUMS, [("pass", {}), ("gradient", {})], PRECISIONS[:2]),
    (SOFTMAXES, SOFTMAX_RULES, PRECISIONS[:2]),
    (ROTATIONS, ROTATION_RULES, PRECISIONS[:2]),
    (ATTENTIONS, ATTENTION_RULES, PRECISIONS[:2]),
]
SINGLE = [
    pytest.param(shapes, layer, rule, precisions, id=f"{name}-{cases.case_id(rule)}")
    for layers, rules, precisions in FAMILIES
    for name, shapes, layer in layers
    for rule in rules
]


def inputs(layer, shapes):
    """One array for each input: a sample of both signs, one of no negatives, with zeros.

    Whole numbers for an embedding; many equals in the second sample where the largest value is taken.
    """
    made = [cases.values(shape, seed=k) for k, shape in enumerate(shapes)]
    for x in made:
        x[1] = np.abs(x[1])
        if layer.kind in ("MaxPool", "GlobalMaxPool", "Maximum", "Minimum"):
            x[1] = np.round(x[1])
    if len(made) == {"Softmax": 2, "Attention": 4}.get(layer.kind):  # the last is a mask
        made[-1] = np.sign(made[-1]).clip(0, 1)
    if layer.kind == "Embedding":
        made = [np.abs(x * 10).astype(int) % len(layer.parameters["table"]) for x in made]
    return made


def alone(layer, shapes):
    """A net of one layer."""
    return oracle_layers.Net([(Layer("Input", {"shape": s}),) for s in shapes] + [(layer, *range(len(shapes)))])


def check(layer, rule, x, precisions):
    """lrpfast.redistribute gives what the oracle gives, and so does an analyzer that knows x >= 0."""
    net = alone(layer, [a.shape[1:] for a in x])
    r = cases.values(net.forward([a[0] for a in x]).shapes[-1], seed=9)
    expected = Expected(lambda ar: oracle_layers.redistribute(rule, layer, x, r, ar))
    made, model = cases.layer(layer), cases.graph(net)
    composite = cases.composite({net.names[-1]: rule}, ("epsilon", {}))
    for precision in precisions:
        arrays = [a if a.dtype.kind == "i" else a.astype(dtype(precision)) for a in x]
        start = r.astype(dtype(precision))
        given = arrays if len(arrays) > 1 else arrays[0]
        got = lrpfast.redistribute(cases.rule(rule), made, given, start, precision=precision)
        assert isinstance(got, list) == (len(x) > 1)
        for one, a in zip(got if len(x) > 1 else [got], x, strict=True):
            assert one.shape == a.shape
        got = cases.flat(got, 2)
        expected.check(got, precision, "mixed x")
        if layer.linear:
            above = [a[1:] for a in arrays]
            analyzer = lrpfast.Analyzer(model, composite, precision=precision, input_range=(0, 3))
            got[1:] = cases.flat(analyzer.analyze(above if len(above) > 1 else above[0], start[1:]), 1)
            expected.check(got, precision, "x >= 0")


@pytest.mark.share
@pytest.mark.parametrize("shapes, layer, rule, precisions", SINGLE)
def test_one_layer(shapes, layer, rule, precisions):
    check(layer, rule, inputs(layer, shapes), precisions)


@pytest.mark.parametrize("kind", ["w", "w and b"])
@pytest.mark.parametrize("sign", [1, -1], ids=["positive", "negative"])
@pytest.mark.parametrize("case", cases.PLAIN[::2], ids=cases.case_id)
def test_convolutions_of_one_sign(case, sign, kind):
    """Where products vanish because of the weights, the planner leaves them out."""
    layer = W.conv((2, 2), 2, 3, padding="same")
    parameters = dict(layer.parameters)
    for key, letter in (("kernel", "w"), ("bias", "b")):
        if letter in kind.split():
            parameters[key] = sign * np.abs(parameters[key])
    layer = Layer("Conv", parameters)
    check(layer, case, inputs(layer, [(3, 4, 2)]), PRECISIONS)


@pytest.mark.parametrize("layer", [layer for _, _, layer in PLAIN[2::3]], ids=lambda layer: layer.kind)
@pytest.mark.parametrize("case", cases.PLAIN, ids=cases.case_id)
def test_without_bias(case, layer):
    shape = next(shape for _, shape, other in PLAIN if other is layer)
    bare = Layer(layer.kind, {**layer.parameters, "bias": None})
    check(bare, case, inputs(bare, [shape]), PRECISIONS[:2])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bounds", [(2,), (1, 4, 1), (3, 4, 2)], ids=["channel", "column", "feature"])
@pytest.mark.parametrize(
    "layer",
    [
        W.conv((2, 2), 2, 3, padding="same"),
        W.conv((3, 2), 1, 4, groups=2),
        W.conv((1, 1), 2, 3),
        W.depthwise((2, 3), 2, 2),
        W.conv_transpose((2, 2), 2, 3, strides=2),
        local((3, 4, 2), (2, 2), 3),
    ],
    ids=["conv", "groups", "pointwise", "depthwise", "transposed", "local"],
)
def test_box_bounds_of_every_shape(layer, bounds, precision):
    rng = np.random.default_rng(0)
    low, high = -3 - rng.random(bounds).astype(np.float32), 3 + rng.random(bounds).astype(np.float32)
    x = cases.values((3, 4, 2))
    out = oracle_layers.chain((3, 4, 2), layer).forward([x[0]]).shapes[-1]
    r = cases.values(out, seed=9)
    expected = Expected(lambda ar: oracle_layers.redistribute(("z_box", {"low": low, "high": high}), layer, [x], r, ar))
    got = lrpfast.redistribute(
        lrpfast.rules.ZBox(low, high), cases.layer(layer), x.astype(dtype(precision)), r, precision=precision
    )
    expected.check(cases.flat(got, len(r)), precision)


@pytest.mark.parametrize("case", cases.PLAIN[::2], ids=cases.case_id)
def test_a_separable_convolution_is_two_layers(case):
    first, second = W.depthwise((3, 2), 2, 2, bias=None, strides=(2, 1), padding="same"), W.conv((1, 1), 4, 3)
    layer = lrpfast.layers.SeparableConv(
        first.parameters["kernel"],
        second.parameters["kernel"],
        second.parameters["bias"],
        strides=(2, 1),
        padding="same",
        activation="tanh",
    )
    model = lrpfast.from_layers([layer], input_shape=(5, 4, 2))
    tanh = Layer("Conv", {**second.parameters, "activation": "tanh"})
    net = oracle_layers.chain((5, 4, 2), first, tanh)
    x = cases.values((5, 4, 2))
    r = cases.values((3, 4, 3), seed=9)
    for precision in PRECISIONS:
        Expected(lambda ar: net.predict(x, ar)).check(model.predict(x, precision=precision), precision)
        expected = Expected(lambda ar: net.explain([None, case, case], x, list(np.float64(r).reshape(2, -1)), ar))
        got = lrpfast.Analyzer(model, cases.rule(case), precision=precision).analyze(x, r)
        expected.check(cases.flat(got, 2), precision)


@pytest.mark.parametrize(
    "function, parameters", ACTIVATIONS, ids=lambda v: v if isinstance(v, str) else "-".join(v) or "plain"
)
def test_activations(function, parameters):
    """As a layer, hidden between two others, and as an attribute; at kinks the derivative is that of the left side."""
    x = cases.values((4, 3), count=4)
    x[3] = np.resize(np.array([0, 0.25, -0.25, 0.5, 1, 2, -2], np.float32), (4, 3))  # kinks
    x = np.abs(x) + np.float32(0.25) if function == "log" else x
    eye = {"kernel": np.eye(3, dtype=np.float32)}
    as_layer = oracle_layers.chain(
        (4, 3), Layer("Activation", {"function": function, "parameters": parameters}), Layer("Dense", eye)
    )
    within = oracle_layers.chain(
        (4, 3), Layer("Dense", {**eye, "activation": (function, parameters)}), Layer("Dense", eye)
    )
    r = cases.values((4, 3), count=4, seed=9)
    start = list(np.float64(r).reshape(4, -1))
    names = {"softmax": ("taylor", "pass", "gradient"), "linear": ("pass",)}.get(function, ("pass", "gradient"))
    default = names[0]
    zero = ("zero", {})
    for name in names:
        own = (name, {})
        for net, rules, composite in (
            (as_layer, [None, own, zero], cases.composite({"n1": own}, zero) if function != "linear" else None),
            (as_layer, [None, own, zero], cases.composite({}, zero, activations=own)),
            (within, [None, zero, zero], cases.composite({}, zero, activations=own)),
            (within, [None, zero, zero], cases.composite({}, zero) if name == default else None),
        ):
            if composite is None:
                continue
            expected = Expected(
                lambda ar, net=net, rules=rules, own=own: net.explain(rules, x, start, ar, activations={1: own})
            )
            for precision in PRECISIONS[:2]:
                got = lrpfast.Analyzer(cases.graph(net), composite, precision=precision).analyze(x, r)
                expected.check(cases.flat(got, 4), precision, name)
                if net is as_layer:  # errors put in leave the kinks; the input itself lies on them
                    exact = expected.within(precision)[0][3]
                    np.testing.assert_allclose(got[3].ravel(), exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max())
    for net in (as_layer, within):
        expected = Expected(lambda ar, net=net: net.predict(x, ar))
        for precision in PRECISIONS[:2]:
            expected.check(cases.graph(net).predict(x, precision=precision), precision)


PREDICTED = [
    pytest.param(shapes, layer, precisions, id=name)
    for layers, _, precisions in (FAMILIES[0], *FAMILIES[2:])
    for name, shapes, layer in layers
]


@pytest.mark.parametrize("shapes, layer, precisions", PREDICTED)
def test_predictions(shapes, layer, precisions):
    net = alone(layer, shapes)
    model = cases.graph(net)
    x = inputs(layer, shapes)
    expected = Expected(lambda ar: net.predict(x, ar))
    for precision in precisions:
        got = model.predict(x if len(x) > 1 else x[0], precision=precision)
        expected.check(got, precision)
        assert got.shape[1:] == model.output_shape


# The oracle's own checks: what it is judged by where nothing else is.


def test_the_oracle_gives_whole_relevance_back():
    """Without bias and stabilizer, rules that conserve give all relevance to the inputs that an output sees."""
    for _, shape, layer in [*PLAIN, *GEOMETRIES]:
        bare = Layer(layer.kind, {**layer.parameters, "bias": None})
        x = np.float64(cases.values(shape, nonnegative=True)) + 1
        matrix = oracle_layers.matrix_of(bare, (shape,))
        r = np.where(matrix.seen.any(0), 1.0, 0.0)[None].repeat(2, 0).reshape(2, *matrix.shape)
        for rule in (("flat", {"stabilizer": (1e-9, "zero")}), ("w_square", {"stabilizer": (1e-9, "zero")})):
            got = oracle_layers.redistribute(rule, bare, [x], r)
            np.testing.assert_allclose(got.sum(1), r.reshape(2, -1).sum(1), rtol=1e-12)


def test_matrices_and_places_are_saved(tmp_path):
    layers = lrpfast.layers
    made = [layers.Interpolate((None, STEPS[:, :3])), layers.Take(([2, 0, 0], None)), layers.Flatten()]
    model = lrpfast.from_layers(made, (4, 3, 2))
    model.save(tmp_path / "model.npz")
    x = cases.values((4, 3, 2), 3)
    again = lrpfast.load(tmp_path / "model.npz")
    assert again.predict(x).tobytes() == model.predict(x).tobytes()
    assert "3→5" in model.summary() and "3 × all places" in model.summary()
