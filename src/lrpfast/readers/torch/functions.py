"""ATen operators that are activations or pooling; part of the table in `nodes`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ShapeError
from ...model import layers as L
from ...model.layers.window import extent
from ..channels_first import clip, rounded_up
from .graph import Call

Converter = Callable[[Call], Any]

# -- activations --------------------------------------------------------------


def _plain(function: str, **parameters: Any) -> Converter:
    return lambda call: call.builder.each(L.Activation(function, parameters), call.tensor())


def _with(function: str, **parameters: tuple[str, float]) -> Converter:
    """A function whose parameters are arguments of the call, by their names there and their defaults."""

    def convert(call: Call) -> Any:
        found = {key: call.get(*argument) for key, argument in parameters.items()}
        return call.builder.each(L.Activation(function, found), call.tensor())

    return convert


def _rrelu(call: Call) -> Any:
    """In evaluation the slope is the mean of those it is drawn from."""
    if call.get("training", False):
        raise call.unsupported("draws its slopes at random", "Call eval() on the module")
    slope = (call.get("lower", 1 / 8) + call.get("upper", 1 / 3)) / 2
    return call.builder.each(L.Activation("leaky_relu", {"negative_slope": slope}), call.tensor())


def _prelu(call: Call) -> Any:
    slope, x = call.constant("weight"), call.tensor()
    assert slope is not None
    if slope.size == 1:
        return call.builder.each(L.Activation("leaky_relu", {"negative_slope": float(slope.ravel()[0])}), x)
    t = call.builder.last(x, 0)
    return type(t)(call.builder.place(L.Activation("prelu", {"negative_slope": slope.ravel()}), t.at), t.shape, t.order)


def _elu(call: Call) -> Any:
    """ELU, and SELU and CELU as programs write them that are taken apart."""
    alpha, scale, inner = (float(call.get(key, 1.0)) for key in ("alpha", "scale", "input_scale"))
    if (alpha, scale, inner) == (1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1.0):
        return _plain("selu")(call)
    if inner != 1 and (scale != 1 or alpha * inner != 1):
        raise call.unsupported(f"is an ELU whose input is scaled by {inner}", "F.elu, F.celu and F.selu work")
    made = call.builder.each(L.Activation("elu" if inner == 1 else "celu", {"alpha": alpha}), call.tensor())
    return made if scale == 1 else call.builder.affine(made, np.float64(scale), np.float64(0))


def _celu(call: Call) -> Any:
    alpha = call.get("alpha", 1.0)
    if alpha <= 0:
        raise call.unsupported(f"is a CELU with alpha {alpha}", "Those above 0 work")
    return call.builder.each(L.Activation("celu", {"alpha": alpha}), call.tensor())


def _gelu(call: Call) -> Any:
    kind = call.get("approximate", "none")
    if kind not in ("none", "tanh"):
        raise call.unsupported(f"has the approximation {kind!r}, which lrpfast does not know", "'none' and 'tanh' work")
    return call.builder.each(L.Activation("gelu", {"approximate": kind == "tanh"}), call.tensor())


def _softplus(call: Call) -> Any:
    beta, x = call.get("beta", 1), call.tensor()
    if call.get("threshold", 20) < 20:  # above it PyTorch gives x, from 20 on to 2e-9 / beta
        raise call.unsupported(f"has the threshold {call.get('threshold')}", "These work: 20 or more")
    if not beta:
        raise call.unsupported("divides by beta, which is 0")
    if beta == 1:
        return call.builder.each(L.Activation("softplus"), x)
    scaled = call.builder.affine(x, np.float64(beta), np.float64(0))
    made = call.builder.each(L.Activation("softplus"), scaled)
    return call.builder.affine(made, np.float64(1 / beta), np.float64(0))


def _shrink(soft: bool) -> Converter:
    def convert(call: Call) -> Any:
        threshold = call.get("lambd", 0.5)
        if threshold < 0:
            raise call.unsupported(f"has the threshold {threshold}", "Those of at least 0 work")
        shift = threshold if soft else 0.0
        return call.builder.each(L.Activation("shrink", {"threshold": threshold, "shift": shift}), call.tensor())

    return convert


def _clamped(call: Call, low: float | None, high: float | None) -> Any:
    """min(max(x, low), high), which is ``high`` everywhere where that is below ``low``."""
    if low is not None and high is not None:
        low = min(low, high)
    return call.builder.each(clip(low, high), call.tensor())


def _hardtanh(call: Call) -> Any:
    return _clamped(call, call.get("min_val", -1.0), call.get("max_val", 1.0))


def _clamp(call: Call) -> Any:
    for name in ("min", "max"):
        if not isinstance(call.get(name), (int, float, type(None))):
            raise call.unsupported("clamps to a tensor", "torch.maximum and torch.minimum work")
    return _clamped(call, call.get("min"), call.get("max"))


def _threshold(call: Call) -> Any:
    threshold, value = float(call.get("threshold", 0.0)), call.get("value", 0)
    if value == threshold:
        return _clamped(call, threshold, None)
    if value != 0:
        raise call.unsupported(
            f"sets what is not above its threshold {threshold} to {value}", "0 and the threshold itself work"
        )
    return call.builder.each(L.Activation("relu", {"threshold": threshold}), call.tensor())


def _softmax(name: str) -> Converter:
    def convert(call: Call) -> Any:
        x = call.tensor()
        t = call.builder.last(x, call.axis(call.get("dim", -1), len(x.shape)))
        return call.builder.each(L.Activation(name), t)

    return convert


# -- pooling ------------------------------------------------------------------


def _windows(call: Call, rank: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], Any, list[int]]:
    """(size, strides, padding, dilation, what ceil_mode adds after each axis)."""
    x = call.tensor("self")
    size = call.sizes("kernel_size", rank)
    strides = call.sizes("stride", rank, size)
    padding, dilation = call.sizes("padding", rank, 0), call.sizes("dilation", rank)
    if len(x.shape) != rank + 1:
        raise ShapeError(f"it pools over {rank} axes, its input has shape {x.shape}")
    extra = [0] * rank
    if call.get("ceil_mode", False):
        for i, (n, k, s, p, d) in enumerate(zip(x.shape[1:], size, strides, padding, dilation, strict=True)):
            if n is None:
                raise call.unsupported("has ceil_mode for an input whose size is open")
            extra[i] = rounded_up(n, (p, p), extent(k, d), s)
    return size, strides, padding, dilation, extra


def _max_pool(rank: int, indices: bool = False) -> Converter:
    def convert(call: Call) -> Any:
        size, strides, padding, dilation, extra = _windows(call, rank)
        pairs = [(p, p + e) for p, e in zip(padding, extra, strict=True)]
        made = call.builder.window(L.MaxPool(size, strides, pairs, dilation), call.tensor("self"))
        return (made, None) if indices else made

    return convert


def _avg_pool(rank: int) -> Converter:
    def convert(call: Call) -> Any:
        size, strides, padding, _, extra = _windows(call, rank)
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
        made: Any = call.builder.window(layer, x)
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
    "aten.leaky_relu": _with("leaky_relu", negative_slope=("negative_slope", 0.01)),
    "aten.rrelu": _rrelu,
    "aten.prelu": _prelu,
    "aten._prelu_kernel": _prelu,
    "aten.elu": _elu,
    "aten.selu": _plain("selu"),
    "aten.celu": _celu,
    "aten.softshrink": _shrink(True),
    "aten.hardshrink": _shrink(False),
    "aten.gelu": _gelu,
    "aten.silu": _plain("silu"),
    "aten.tanh": _plain("tanh"),
    "aten.sigmoid": _plain("sigmoid"),
    "aten.log_sigmoid": _plain("log_sigmoid"),
    "aten.hardsigmoid": _plain("hard_sigmoid", slope=1 / 6),
    "aten.hardswish": _plain("hard_silu"),
    "aten.hardtanh": _hardtanh,
    "aten.clamp": _clamp,
    "aten.clamp_min": _clamp,
    "aten.clamp_max": _clamp,
    "aten.threshold": _threshold,
    "aten.softplus": _softplus,
    "lrpfast.softsign": _plain("softsign"),
    "aten.mish": _plain("mish"),
    "aten.exp": _plain("exponential"),
    "aten.softmax": _softmax("softmax"),
    "aten._softmax": _softmax("softmax"),
    "aten.log_softmax": _softmax("log_softmax"),
    "aten._log_softmax": _softmax("log_softmax"),
    **{f"aten.max_pool{rank}d": _max_pool(rank) for rank in (1, 2, 3)},
    **{f"aten.max_pool{rank}d_with_indices": _max_pool(rank, True) for rank in (1, 2, 3)},
    **{f"aten.avg_pool{rank}d": _avg_pool(rank) for rank in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{rank}d": _adaptive_avg_pool(rank) for rank in (1, 2, 3)},
    **{f"aten._adaptive_avg_pool{rank}d": _adaptive_avg_pool(rank) for rank in (2, 3)},
    **{f"aten.adaptive_max_pool{rank}d": _adaptive_max_pool(rank) for rank in (1, 2, 3)},
}
