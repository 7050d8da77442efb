"""ATen operators in lrpfast's terms: layers with weights, activations, pooling, normalization; and the table of all.

A converter takes a `Call` and returns the value that the operator makes. To read another
operator, write its function and enter it in `CONVERTERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..model import layers as L
from .torch_graph import Call
from .torch_moves import MOVES

Converter = Callable[[Call], Any]

# -- layers with weights ------------------------------------------------------


def _weight(call: Call, name: str = "weight") -> np.ndarray:
    weight = call.constant(name)
    if weight is None:
        raise ShapeError(f"it has no {name}")
    return weight


def _linear(call: Call) -> Any:
    return call.builder.dense(call.tensor("input"), _weight(call).T, call.constant("bias"))


def _addmm(call: Call) -> Any:
    bias, kernel = _weight(call, "self"), _weight(call, "mat2")
    bias = np.broadcast_to(bias, (1, kernel.shape[1]))[0] if bias.ndim != 2 or bias.shape[0] == 1 else bias
    return call.builder.dense(call.tensor("mat1"), kernel * call.get("alpha", 1), bias * call.get("beta", 1))


def _matmul(call: Call) -> Any:
    a, b = call.get("self"), call.get("other", call.get("mat2"))
    if isinstance(b, np.ndarray):
        if b.ndim != 2:
            raise call.unsupported(f"multiplies with a constant of shape {b.shape}", "These work: matrices")
        return call.builder.dense(a, b, None)
    if isinstance(a, np.ndarray):
        if a.ndim != 2 or len(b.shape) < 2:
            raise call.unsupported(f"multiplies a constant of shape {a.shape} with samples of shape {b.shape}")
        rank = len(b.shape)
        swap = [*range(rank - 2), rank - 1, rank - 2]
        made = call.builder.dense(call.builder.transpose(b, swap), a.T, None)
        return call.builder.transpose(made, swap)
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise call.unsupported(f"multiplies samples of shapes {a.shape} and {b.shape}", "These work: two matrices")
    builder = call.builder
    a, b = builder.plain(a), builder.plain(b)
    at = builder.place(L.Dot((1, 0)), a.at, b.at)
    return type(a)(at, tuple(builder.shapes[at]), (0, 1))


def _convolution(call: Call) -> Any:
    """aten.convolution, and those of one to three axes by their own names."""
    x, weight = call.tensor("input"), _weight(call)
    rank = weight.ndim - 2
    if len(x.shape) != rank + 1:
        raise ShapeError(f"its kernel has {rank} spatial axes, its input has shape {x.shape}")
    strides, dilation = call.sizes("stride", rank), call.sizes("dilation", rank)
    groups = call.get("groups", 1)
    common: dict[str, Any] = {"strides": strides, "dilation": dilation}
    if call.get("transposed", "transpose" in call.op.base):
        cut = call.sizes("padding", rank, 0)
        kernel = weight.transpose(*range(2, rank + 2), 1, 0)
        extra = call.sizes("output_padding", rank, 0)
        layer: L.Layer = L.ConvTranspose(
            kernel, call.constant("bias"), padding=[(p, p) for p in cut], output_padding=extra, groups=groups, **common
        )
        return call.builder.window(layer, x)
    padding = call.get("padding", 0)
    if isinstance(padding, str):  # PyTorch's "same" puts the odd zero after, and knows no strides
        reach = [(k - 1) * d for k, d in zip(weight.shape[2:], dilation, strict=True)]
        pairs = [(r // 2, r - r // 2) if padding == "same" else (0, 0) for r in reach]
    else:
        pairs = [(p, p) for p in call.sizes("padding", rank, 0)]
    if groups == x.shape[0] and groups > 1 and weight.shape[1] == 1:
        kernel = weight.reshape(groups, -1, *weight.shape[2:]).transpose(*range(2, rank + 2), 0, 1)
        layer = L.DepthwiseConv(kernel, call.constant("bias"), padding=pairs, **common)
    else:
        kernel = weight.transpose(*range(2, rank + 2), 1, 0)
        layer = L.Conv(kernel, call.constant("bias"), padding=pairs, groups=groups, **common)
    return call.builder.window(layer, x)


def _embedding(call: Call) -> Any:
    if not isinstance(call.get("weight"), np.ndarray):
        raise call.unsupported("looks rows up in a table that the model computes")
    t = call.builder.plain(call.tensor("indices"))
    at = call.builder.place(L.Embedding(_weight(call)), t.at)
    shape = tuple(call.builder.shapes[at])
    return type(t)(at, shape, tuple(range(len(shape))))


# -- activations --------------------------------------------------------------


def _plain(function: str, **parameters: Any) -> Converter:
    return lambda call: call.builder.each(L.Activation(function, parameters), call.tensor())


def _leaky_relu(call: Call) -> Any:
    return call.builder.each(
        L.Activation("leaky_relu", {"negative_slope": call.get("negative_slope", 0.01)}), call.tensor()
    )


def _prelu(call: Call) -> Any:
    slope, x = _weight(call), call.tensor()
    if slope.size == 1:
        return call.builder.each(L.Activation("leaky_relu", {"negative_slope": float(slope.ravel()[0])}), x)
    t = call.builder.last(x, 0)
    return type(t)(call.builder.place(L.Activation("prelu", {"negative_slope": slope.ravel()}), t.at), t.shape, t.order)


def _elu(call: Call) -> Any:
    if call.get("scale", 1) != 1 or call.get("input_scale", 1) != 1:
        raise call.unsupported("is an ELU with scales")
    return call.builder.each(L.Activation("elu", {"alpha": call.get("alpha", 1.0)}), call.tensor())


def _celu(call: Call) -> Any:
    if call.get("alpha", 1.0) != 1:
        raise call.unsupported("is a CELU with alpha other than 1")
    return call.builder.each(L.Activation("elu"), call.tensor())


def _gelu(call: Call) -> Any:
    return call.builder.each(L.Activation("gelu", {"approximate": call.get("approximate") == "tanh"}), call.tensor())


def _softplus(call: Call) -> Any:
    beta, x = call.get("beta", 1), call.tensor()
    if beta == 1:
        return call.builder.each(L.Activation("softplus"), x)
    scaled = call.builder.affine(x, np.float64(beta), np.float64(0))
    made = call.builder.each(L.Activation("softplus"), scaled)
    return call.builder.affine(made, np.float64(1 / beta), np.float64(0))


def _hardswish(call: Call) -> Any:
    x = call.tensor()
    gate = call.builder.each(L.Activation("hard_sigmoid", {"slope": 1 / 6}), x)
    return call.builder.merge(L.Multiply(), [x, gate])


def _clamped(call: Call, x: Any, low: float | None, high: float | None) -> Any:
    """min(max(x, low), high), as ReLUs of values that are shifted where a bound is not 0."""
    if low is None and high is None:
        return x
    builder = call.builder
    if low is None:  # min(x, high) = high - max(high - x, 0)
        upside = builder.affine(x, np.float64(-1), np.float64(high))
        return builder.affine(builder.each(L.Activation("relu"), upside), np.float64(-1), np.float64(high))
    if high is not None and high < low:
        raise call.unsupported(f"clamps to {low} … {high}, which is empty")
    shifted = x if low == 0 else builder.affine(x, np.float64(1), np.float64(-low))
    ceiling = None if high is None else high - low
    made = builder.each(L.Activation("relu", {"max_value": ceiling}), shifted)
    return made if low == 0 else builder.affine(made, np.float64(1), np.float64(low))


def _hardtanh(call: Call) -> Any:
    return _clamped(call, call.tensor(), call.get("min_val", -1.0), call.get("max_val", 1.0))


def _clamp(call: Call) -> Any:
    for name in ("min", "max"):
        if not isinstance(call.get(name), (int, float, type(None))):
            raise call.unsupported("clamps to a tensor")
    return _clamped(call, call.tensor(), call.get("min"), call.get("max"))


def _threshold(call: Call) -> Any:
    if call.get("value", 0) != 0:
        raise call.unsupported("sets what is below its threshold to a value other than 0")
    return call.builder.each(L.Activation("relu", {"threshold": call.get("threshold", 0.0)}), call.tensor())


def _softmax(call: Call) -> Any:
    x = call.tensor()
    t = call.builder.last(x, call.axis(call.get("dim", -1), len(x.shape)))
    return type(t)(call.builder.place(L.Activation("softmax"), t.at), t.shape, t.order)


def _log_softmax(call: Call) -> Any:
    raise call.unsupported(
        "is a logarithm of probabilities, which lrpfast has no layer for",
        "Leave it out, or use softmax: relevance starts at its input anyway",
    )


# -- pooling ------------------------------------------------------------------


def _windows(call: Call, rank: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], list[int]]:
    """(size, strides, padding, what ceil_mode adds after each axis)."""
    x = call.tensor("self")
    size = call.sizes("kernel_size", rank)
    strides = call.sizes("stride", rank, size)
    padding = call.sizes("padding", rank, 0)
    if any(d != 1 for d in call.sizes("dilation", rank)):
        raise call.unsupported("pools windows with gaps", "These work: dilation=1")
    if len(x.shape) != rank + 1:
        raise ShapeError(f"it pools over {rank} axes, its input has shape {x.shape}")
    extra = [0] * rank
    if call.get("ceil_mode", False):
        for i, (n, k, s, p) in enumerate(zip(x.shape[1:], size, strides, padding, strict=True)):
            if n is None:
                raise call.unsupported("has ceil_mode for an input whose size is open")
            count = -(-(n + 2 * p - k) // s) + 1
            count -= (count - 1) * s >= n + p  # no window begins in the padding after
            extra[i] = max(0, (count - 1) * s + k - n - 2 * p)
    return size, strides, padding, extra


def _max_pool(rank: int, indices: bool = False) -> Converter:
    def convert(call: Call) -> Any:
        size, strides, padding, extra = _windows(call, rank)
        pairs = [(p, p + e) for p, e in zip(padding, extra, strict=True)]
        made = call.builder.window(L.MaxPool(size, strides, pairs), call.tensor("self"))
        return (made, None) if indices else made

    return convert


def _avg_pool(rank: int) -> Converter:
    def convert(call: Call) -> Any:
        size, strides, padding, extra = _windows(call, rank)
        x, divisor = call.tensor("self"), call.get("divisor_override")
        if divisor is not None and (any(extra) or (any(padding) and not call.get("count_include_pad", True))):
            raise call.unsupported("has a divisor of its own where windows reach over the edge")
        if call.get("count_include_pad", True) and any(padding):
            if any(extra):  # padding counts, what ceil_mode adds after it does not
                x = call.builder.window(L.ZeroPad([(p, p) for p in padding]), x, part="pad")
                layer = L.AveragePool(size, strides, [(0, e) for e in extra])
            else:
                layer = L.AveragePool(size, strides, [(p, p) for p in padding], count_include_pad=True)
        else:
            layer = L.AveragePool(size, strides, [(p, p + e) for p, e in zip(padding, extra, strict=True)])
        made = call.builder.window(layer, x)
        if divisor is not None:
            made = call.builder.affine(made, np.float64(math.prod(size) / divisor), np.float64(0))
        return made

    return convert


def _adaptive_avg_pool(rank: int) -> Converter:
    def convert(call: Call) -> Any:
        size = call.get("output_size")
        return call.builder.window(L.AdaptiveAveragePool(tuple(size)), call.tensor("self"))

    return convert


def _adaptive_max_pool(rank: int) -> Converter:
    def convert(call: Call) -> Any:
        x, sizes = call.tensor("self"), call.get("output_size")
        if list(sizes) == [1] * rank:
            return call.builder.window(L.GlobalMaxPool(keepdims=True), x), None
        if any(n is None or n % m for n, m in zip(x.shape[1:], sizes, strict=True)):
            raise call.unsupported(f"cuts {x.shape[1:]} into {tuple(sizes)} windows of different sizes")
        window = tuple(n // m for n, m in zip(x.shape[1:], sizes, strict=True))
        return call.builder.window(L.MaxPool(window), x), None

    return convert


# -- normalization ------------------------------------------------------------


def _batch_norm(call: Call) -> Any:
    mean, variance = call.constant("running_mean"), call.constant("running_var")
    if call.get("training", False) or mean is None or variance is None:
        raise call.unsupported("normalizes by the batch's own statistics", "Export the module in eval mode")
    layer = L.BatchNorm(mean, variance, call.constant("weight"), call.constant("bias"), call.get("eps", 1e-5))
    t = call.builder.last(call.tensor("input"), 0)
    return type(t)(call.builder.place(layer, t.at), t.shape, t.order)


def _first_of_three(convert: Converter) -> Converter:
    return lambda call: (convert(call), None, None)


def _sample_norm(kind: Any) -> Converter:
    def convert(call: Call) -> Any:
        x, shape = call.tensor("input"), call.get("normalized_shape")
        if list(x.shape[len(x.shape) - len(shape) :]) != list(shape):
            raise ShapeError(f"it normalizes axes of shape {tuple(shape)}, its input has shape {x.shape}")
        t = call.builder.plain(x)
        epsilon = call.get("eps")
        if epsilon is None:  # the spacing of the numbers that the module computes with
            weight = call.constant("weight")
            epsilon = float(np.finfo(np.float32 if weight is None else weight.dtype).eps)
        layer = kind(call.constant("weight"), call.constant("bias"), epsilon, len(shape))
        return type(t)(call.builder.place(layer, t.at), t.shape, t.order)

    return convert


def _grouped(call: Call, x: Any, groups: int) -> Any:
    """Each group of channels normalized by itself, then scaled and shifted channel by channel."""
    builder, shape = call.builder, tuple(x.shape)
    if None in shape:
        raise ShapeError(f"the program leaves the size of its input open: {shape}")
    parts = builder.plain(builder.reshape(x, (groups, math.prod(shape) // groups)))
    layer = L.LayerNorm(None, None, call.get("eps", 1e-5), 1)
    normed = type(parts)(builder.place(layer, parts.at), parts.shape, parts.order)
    made = builder.reshape(normed, shape)
    weight, bias = call.constant("weight"), call.constant("bias")
    if weight is None and bias is None:
        return made
    column = (shape[0],) + (1,) * (len(shape) - 1)
    scale = np.ones(1) if weight is None else weight.reshape(column)
    shift = np.zeros(1) if bias is None else bias.reshape(column)
    return builder.affine(made, scale, shift)


def _group_norm(call: Call) -> Any:
    x = call.tensor("input")
    return _grouped(call, x, call.get("num_groups"))


def _instance_norm(call: Call) -> Any:
    if not call.get("use_input_stats", True):
        return _batch_norm(call)
    x = call.tensor("input")
    return _grouped(call, x, x.shape[0])


def _local_response_norm(call: Call) -> Any:
    layer = L.LocalResponseNorm(*(call.get(k) for k in ("size", "alpha", "beta", "k")))
    t = call.builder.channels_last(call.tensor())
    return type(t)(call.builder.place(layer, t.at), t.shape, t.order)


def _attention(call: Call) -> Any:
    raise call.unsupported("is attention, which lrpfast has no rule for yet")


# -- what does nothing at inference ---------------------------------------------


def _same(call: Call) -> Any:
    if call.get("train", False) is True:
        raise call.unsupported("drops values at random", "Export the module in eval mode")
    value = call.get("self", call.get("input"))
    return value


def _native_dropout(call: Call) -> Any:
    return _same(call), None


#: Every operator that is read, without its overload, and how.
CONVERTERS: dict[str, Converter] = {
    "aten.linear": _linear,
    "aten.addmm": _addmm,
    "aten.mm": _matmul,
    "aten.bmm": _matmul,
    "aten.matmul": _matmul,
    "aten.convolution": _convolution,
    **{f"aten.conv{rank}d": _convolution for rank in (1, 2, 3)},
    **{f"aten.conv_transpose{rank}d": _convolution for rank in (1, 2, 3)},
    "aten.embedding": _embedding,
    "aten.relu": _plain("relu"),
    "aten.relu6": _plain("relu", max_value=6.0),
    "aten.leaky_relu": _leaky_relu,
    "aten.prelu": _prelu,
    "aten._prelu_kernel": _prelu,
    "aten.elu": _elu,
    "aten.selu": _plain("selu"),
    "aten.celu": _celu,
    "aten.gelu": _gelu,
    "aten.silu": _plain("silu"),
    "aten.tanh": _plain("tanh"),
    "aten.sigmoid": _plain("sigmoid"),
    "aten.hardsigmoid": _plain("hard_sigmoid", slope=1 / 6),
    "aten.hardswish": _hardswish,
    "aten.hardtanh": _hardtanh,
    "aten.clamp": _clamp,
    "aten.clamp_min": _clamp,
    "aten.clamp_max": _clamp,
    "aten.threshold": _threshold,
    "aten.softplus": _softplus,
    "lrpfast.softsign": _plain("softsign"),
    "aten.mish": _plain("mish"),
    "aten.exp": _plain("exponential"),
    "aten.softmax": _softmax,
    "aten._softmax": _softmax,
    "aten.log_softmax": _log_softmax,
    "aten._log_softmax": _log_softmax,
    **{f"aten.max_pool{rank}d": _max_pool(rank) for rank in (1, 2, 3)},
    **{f"aten.max_pool{rank}d_with_indices": _max_pool(rank, True) for rank in (1, 2, 3)},
    **{f"aten.avg_pool{rank}d": _avg_pool(rank) for rank in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{rank}d": _adaptive_avg_pool(rank) for rank in (1, 2, 3)},
    **{f"aten._adaptive_avg_pool{rank}d": _adaptive_avg_pool(rank) for rank in (2, 3)},
    **{f"aten.adaptive_max_pool{rank}d": _adaptive_max_pool(rank) for rank in (1, 2, 3)},
    "aten.batch_norm": _batch_norm,
    "aten._native_batch_norm_legit_no_training": _first_of_three(_batch_norm),
    "aten.layer_norm": _sample_norm(L.LayerNorm),
    "aten.native_layer_norm": _first_of_three(_sample_norm(L.LayerNorm)),
    "aten.rms_norm": _sample_norm(L.RMSNorm),
    "aten.group_norm": _group_norm,
    "aten.instance_norm": _instance_norm,
    "lrpfast.local_response_norm": _local_response_norm,
    "aten.scaled_dot_product_attention": _attention,
    "aten.native_dropout": _native_dropout,
    **{
        f"aten.{name}": _same
        for name in [
            "dropout",
            "feature_dropout",
            "alpha_dropout",
            "feature_alpha_dropout",
            "clone",
            "detach",
            "alias",
            "contiguous",
            "to",
            "_to_copy",
            "lift_fresh_copy",
            "type_as",
        ]
    },
    **MOVES,
}
