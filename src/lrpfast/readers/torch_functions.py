"""ATen operators that are activations or pooling; part of the table in `torch_nodes`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..model import layers as L
from .torch_graph import Call

Converter = Callable[[Call], Any]

# -- activations --------------------------------------------------------------


def _plain(function: str, **parameters: Any) -> Converter:
    return lambda call: call.builder.each(L.Activation(function, parameters), call.tensor())


def _leaky_relu(call: Call) -> Any:
    return call.builder.each(
        L.Activation("leaky_relu", {"negative_slope": call.get("negative_slope", 0.01)}), call.tensor()
    )


def _prelu(call: Call) -> Any:
    slope, x = call.constant("weight"), call.tensor()
    assert slope is not None
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
    if call.get("threshold", 20) < 20:  # above it PyTorch gives x, from 20 on to 2e-9 / beta
        raise call.unsupported(f"has the threshold {call.get('threshold')}", "These work: 20 or more")
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


#: Operators of this file, without their overloads.
FUNCTIONS: dict[str, Converter] = {
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
}
