"""ATen operators that are activations or pooling; part of the table in `nodes`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ShapeError
from ...model import layers as L
from ...model.layers.window import extent
from ..arithmetic import clipped, gated
from ..channels_first import rounded_up
from ..input_shape import FIX_SIZE
from .graph import TorchNode

Converter = Callable[[TorchNode], Any]

# -- activations --------------------------------------------------------------


def _plain(function: str, **parameters: Any) -> Converter:
    return lambda node: node.builder.each(L.Activation(function, parameters), node.tensor())


def _with(function: str, **parameters: tuple[str, float]) -> Converter:
    """A function whose parameters are arguments of the call, by their names there and their defaults."""

    def convert(node: TorchNode) -> Any:
        settings = {key: node.get(*argument) for key, argument in parameters.items()}
        return node.builder.each(L.Activation(function, settings), node.tensor())

    return convert


def _rrelu(node: TorchNode) -> Any:
    """In evaluation the slope is the mean of those it is drawn from."""
    if node.get("training", False):
        raise node.unsupported("draws its slopes at random", "Call eval() on the module")
    slope = (node.get("lower", 1 / 8) + node.get("upper", 1 / 3)) / 2
    return node.builder.each(L.Activation("leaky_relu", {"negative_slope": slope}), node.tensor())


def _prelu(node: TorchNode) -> Any:
    slope, x = node.constant("weight"), node.tensor()
    assert slope is not None
    if slope.size == 1:
        return node.builder.each(L.Activation("leaky_relu", {"negative_slope": float(slope.ravel()[0])}), x)
    t = node.builder.last(x, x.axis(1))
    return node.builder.each(L.Activation("prelu", {"negative_slope": slope.ravel()}), t)


def _elu(node: TorchNode) -> Any:
    """ELU, and SELU and CELU as programs write them that are taken apart."""
    alpha, scale, inner = (float(node.get(key, 1.0)) for key in ("alpha", "scale", "input_scale"))
    if (alpha, scale, inner) == (1.6732632423543772848170429916717, 1.0507009873554804934193349852946, 1.0):
        return _plain("selu")(node)
    if inner != 1 and (scale != 1 or alpha * inner != 1):
        raise node.unsupported(f"is an ELU whose input is scaled by {inner}", "F.elu, F.celu and F.selu work")
    result = node.builder.each(L.Activation("elu" if inner == 1 else "celu", {"alpha": alpha}), node.tensor())
    return result if scale == 1 else node.builder.affine(result, np.float64(scale), np.float64(0))


def _celu(node: TorchNode) -> Any:
    alpha = node.get("alpha", 1.0)
    if alpha <= 0:
        raise node.unsupported(f"is a CELU with alpha {alpha}", "Those above 0 work")
    return node.builder.each(L.Activation("celu", {"alpha": alpha}), node.tensor())


def _gelu(node: TorchNode) -> Any:
    kind = node.get("approximate", "none")
    if kind not in ("none", "tanh"):
        raise node.unsupported(f"has the approximation {kind!r}, which lrpfast does not know", "'none' and 'tanh' work")
    return node.builder.each(L.Activation("gelu", {"approximate": kind == "tanh"}), node.tensor())


def _softplus(node: TorchNode) -> Any:
    beta, x = node.get("beta", 1), node.tensor()
    if node.get("threshold", 20) < 20:  # above it PyTorch gives x, from 20 on to 2e-9 / beta
        raise node.unsupported(f"has the threshold {node.get('threshold')}", "These work: 20 or more")
    if not beta:
        raise node.unsupported("divides by beta, which is 0")
    if beta == 1:
        return node.builder.each(L.Activation("softplus"), x)
    scaled = node.builder.affine(x, np.float64(beta), np.float64(0))
    result = node.builder.each(L.Activation("softplus"), scaled)
    return node.builder.affine(result, np.float64(1 / beta), np.float64(0))


def _shrink(soft: bool) -> Converter:
    def convert(node: TorchNode) -> Any:
        threshold = node.get("lambd", 0.5)
        if threshold < 0:
            raise node.unsupported(f"has the threshold {threshold}", "Those of at least 0 work")
        shift = threshold if soft else 0.0
        return node.builder.each(L.Activation("shrink", {"threshold": threshold, "shift": shift}), node.tensor())

    return convert


def _hardtanh(node: TorchNode) -> Any:
    return clipped(node.builder, node.tensor(), node.get("min_val", -1.0), node.get("max_val", 1.0))


def _clamp(node: TorchNode) -> Any:
    for name in ("min", "max"):
        if not isinstance(node.get(name), (int, float, type(None))):
            raise node.unsupported("clamps to a tensor", "torch.maximum and torch.minimum work")
    return clipped(node.builder, node.tensor(), node.get("min"), node.get("max"))


def _threshold(node: TorchNode) -> Any:
    threshold, value = float(node.get("threshold", 0.0)), node.get("value", 0)
    if value == threshold:
        return clipped(node.builder, node.tensor(), threshold, None)
    if value != 0:
        raise node.unsupported(
            f"sets what is not above its threshold {threshold} to {value}", "0 and the threshold itself work"
        )
    return node.builder.each(L.Activation("relu", {"threshold": threshold}), node.tensor())


def _glu(node: TorchNode) -> Any:
    """The first half of an axis times the sigmoid of the second."""
    x = node.tensor()
    return gated(node.builder, x, x.axis(node.get("dim", -1)))


# -- pooling ------------------------------------------------------------------


def _windows(node: TorchNode, rank: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], Any, list[int]]:
    """(size, strides, padding, dilation, what ceil_mode adds after each axis)."""
    x = node.tensor("self")
    size = node.sizes("kernel_size", rank)
    strides = node.sizes("stride", rank, size)
    padding, dilation = node.sizes("padding", rank, 0), node.sizes("dilation", rank)
    if len(x.shape) != rank + 1:
        raise ShapeError(f"it pools over {rank} axes, its input has shape {x.shape}")
    extra = [0] * rank
    if node.get("ceil_mode", False):
        for i, (n, k, s, p, d) in enumerate(zip(x.shape[1:], size, strides, padding, dilation, strict=True)):
            if n is None:
                raise node.unsupported("has ceil_mode for an input whose size is open", FIX_SIZE)
            extra[i] = rounded_up(n, (p, p), extent(k, d), s)
    return size, strides, padding, dilation, extra


def _max_pool(rank: int, indices: bool = False) -> Converter:
    def convert(node: TorchNode) -> Any:
        size, strides, padding, dilation, extra = _windows(node, rank)
        pairs = [(p, p + e) for p, e in zip(padding, extra, strict=True)]
        result = node.builder.window(L.MaxPool(size, strides, pairs, dilation), node.tensor("self"))
        return (result, None) if indices else result

    return convert


def _avg_pool(rank: int) -> Converter:
    def convert(node: TorchNode) -> Any:
        size, strides, padding, _, extra = _windows(node, rank)
        x, divisor = node.tensor("self"), node.get("divisor_override")
        if divisor is not None and (any(extra) or (any(padding) and not node.get("count_include_pad", True))):
            raise node.unsupported("has a divisor of its own where windows reach over the edge")
        if node.get("count_include_pad", True) and any(padding):
            if any(extra):  # padding counts, what ceil_mode adds after it does not
                x = node.builder.window(L.ZeroPad([(p, p) for p in padding]), x, part="pad")
                layer = L.AveragePool(size, strides, [(0, e) for e in extra])
            else:
                layer = L.AveragePool(size, strides, [(p, p) for p in padding], count_include_pad=True)
        else:
            layer = L.AveragePool(size, strides, [(p, p + e) for p, e in zip(padding, extra, strict=True)])
        result: Any = node.builder.window(layer, x)
        if divisor is not None:
            result = node.builder.affine(result, np.float64(math.prod(size) / divisor), np.float64(0))
        return result

    return convert


def _adaptive_avg_pool(rank: int) -> Converter:
    def convert(node: TorchNode) -> Any:
        size = node.get("output_size")
        return node.builder.window(L.AdaptiveAveragePool(tuple(size)), node.tensor("self"))

    return convert


def _adaptive_max_pool(rank: int) -> Converter:
    def convert(node: TorchNode) -> Any:
        x, sizes = node.tensor("self"), node.get("output_size")
        if list(sizes) == [1] * rank:
            return node.builder.window(L.GlobalMaxPool(keepdims=True), x), None
        if any(n is None or n % m for n, m in zip(x.shape[1:], sizes, strict=True)):
            raise node.unsupported(f"cuts {x.shape[1:]} into {tuple(sizes)} windows of different sizes")
        window = tuple(n // m for n, m in zip(x.shape[1:], sizes, strict=True))
        return node.builder.window(L.MaxPool(window), x), None

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
    "aten.log": _plain("log"),
    "aten.glu": _glu,
    **{f"aten.max_pool{rank}d": _max_pool(rank) for rank in (1, 2, 3)},
    **{f"aten.max_pool{rank}d_with_indices": _max_pool(rank, True) for rank in (1, 2, 3)},
    **{f"aten.avg_pool{rank}d": _avg_pool(rank) for rank in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{rank}d": _adaptive_avg_pool(rank) for rank in (1, 2, 3)},
    **{f"aten._adaptive_avg_pool{rank}d": _adaptive_avg_pool(rank) for rank in (2, 3)},
    **{f"aten.adaptive_max_pool{rank}d": _adaptive_max_pool(rank) for rank in (1, 2, 3)},
}
