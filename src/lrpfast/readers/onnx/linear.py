"""ONNX operators with weights and windows, as layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import ModelFormatError, ShapeError
from ...model import layers as L
from ...model.layers.window import extent
from ..arithmetic import absolute, constant_product, matrix_product, power
from ..axis_ops import affine, fixed
from ..channels_first import Value, check_first, rounded_up
from ..file_axes import permute, shown, squeeze
from ..input_shape import FIX_SIZE
from ..reductions import norm
from .context import NodeContext
from .fold import FoldedValue

# -- layers with weights --------------------------------------------------------


def _biased(ctx: NodeContext, out: int, x: Value, axis: int, build: Callable[[np.ndarray | None], Value]) -> Value:
    """A layer with its bias: its own, or that of an Add after it, on the given of a sample's axes.

    The result has as many axes as ``x``, and the batch where that has it.
    """
    added = ctx.attr("added")
    if added is None:
        bias = ctx.maybe(2, "bias")
        if bias is not None and (bias.size not in (1, out) or any(n != 1 for n in bias.shape[:-1])):
            raise ctx.unsupported(f"has a bias of shape {bias.shape} for {out} outputs")
        return build(None if bias is None else np.broadcast_to(bias.ravel(), (out,)))
    if np.ndim(added) <= x.rank:
        whole = ctx.sample_array(added, x)
        if whole.shape[axis] in (1, out) and all(n == 1 for a, n in enumerate(whole.shape) if a != axis):
            return build(np.broadcast_to(whole.ravel(), (out,)))
    return ctx.affine(build(None), np.array(1.0), added)


def _matmul(ctx: NodeContext) -> Value:
    b = ctx.builder
    if not isinstance(ctx.args[1], FoldedValue):
        if isinstance(ctx.args[0], FoldedValue):
            return _matmul_left(ctx)
        result = matrix_product(b, ctx.value(0), ctx.value(1))
        added = ctx.attr("added")
        return result if added is None else ctx.affine(result, np.array(1.0), added)
    if _of_several(ctx.args[1]):
        return _product_with(ctx, ctx.value(), ctx.args[1], on_left=False)
    kernel = _without_ones(ctx, ctx.const(1, "weight"), ctx.value())
    if kernel.ndim == 1:
        column = b.dense(ctx.value(), kernel[:, None], None)
        return squeeze(b, column, [-1])
    x = ctx.value()
    return _biased(ctx, kernel.shape[1], x, x.axis(-1), lambda bias: b.dense(x, kernel, bias))


def _of_several(weight: FoldedValue) -> bool:
    """Whether a weight is several matrices, or one for each sample."""
    return not weight.fixed or (weight.first.ndim > 2 and math.prod(weight.first.shape[:-2]) != 1)


def _product_with(ctx: NodeContext, x: Value, weight: FoldedValue, on_left: bool) -> Value:
    """The product with matrices that differ by axes before theirs, and not by sample."""
    for dim in (-1, -2):
        x.axis(dim)  # which must not hold the batch
    result = constant_product(ctx.builder, x, ctx.sample_array(weight, x), on_left)
    added = ctx.attr("added")
    return result if added is None else ctx.affine(result, np.array(1.0), added)


def _without_ones(ctx: NodeContext, kernel: np.ndarray, x: Value) -> np.ndarray:
    """A weight without axes of 1 before its matrix, which meet axes of the tensor; they may add none before these."""
    if kernel.ndim > x.rank:
        raise ctx.unsupported(
            f"has a weight of shape {kernel.shape}, which puts axes before the batch's", "Keep the batch axis first"
        )
    while kernel.ndim > 2 and kernel.shape[0] == 1:
        kernel = kernel[0]
    return kernel


def _matmul_left(ctx: NodeContext) -> Value:
    """W x: a dense layer on the axis before the last."""
    b, x = ctx.builder, ctx.value(1)
    if _of_several(ctx.args[0]):
        return _product_with(ctx, x, ctx.args[0], on_left=True)
    kernel = _without_ones(ctx, ctx.const(0, "weight"), x)
    if kernel.ndim != 2 or len(x.shape) < 2:
        raise ctx.unsupported(
            f"multiplies a constant of shape {kernel.shape} with a tensor of shape {shown(x)}; lrpfast reads a matrix "
            "on its last axis but one"
        )
    swap = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    result = permute(b, b.dense(permute(b, x, swap), kernel.T, None), swap)
    added = ctx.attr("added")
    return result if added is None else ctx.affine(result, np.array(1.0), added)


def _gemm(ctx: NodeContext) -> Value:
    kernel, x = np.asarray(ctx.const(1, "weight")), ctx.value()
    if kernel.ndim != 2 or x.rank != 2:
        raise ShapeError(f"its weight has shape {kernel.shape}, its input {shown(x)}")
    if ctx.attr("transA", 0):
        x = permute(ctx.builder, x, [1, 0])
    if ctx.attr("transB", 0):
        kernel = kernel.T
    alpha, beta = ctx.attr("alpha", 1.0), ctx.attr("beta", 1.0)
    if alpha != 1:
        kernel = kernel.astype(np.float64) * alpha

    def build(bias: np.ndarray | None) -> Value:
        if bias is not None and "added" not in ctx.node.attributes and beta != 1:
            bias = bias.astype(np.float64) * beta
        return ctx.builder.dense(x, kernel, bias)

    return _biased(ctx, kernel.shape[1], x, x.axis(-1), build)


def _spatial(ctx: NodeContext, shape: tuple[Any, ...]) -> int:
    rank = len(shape) - 1
    if not 1 <= rank <= 3:
        raise ctx.unsupported(f"works on samples of shape {shape}; lrpfast has 1 to 3 spatial axes")
    return rank


def _tuple(value: Any, rank: int, name: str) -> tuple[int, ...]:
    values = (1,) * rank if value is None else tuple(value)
    if len(values) != rank:
        raise ModelFormatError(f"its {name} {values} does not fit {rank} spatial axes")
    return values


def _padding(ctx: NodeContext, spatial: Sequence[int | None], size: Any, strides: Any, dilation: Any) -> Any:
    """(before, after) for each spatial axis, or "same"."""
    auto, rank = ctx.attr("auto_pad", "NOTSET"), len(size)
    pads = ctx.attr("pads")
    if auto in ("NOTSET", ""):
        pads = (0,) * (2 * rank) if pads is None else tuple(pads)
        if len(pads) != 2 * rank:
            raise ModelFormatError(f"its pads {pads} do not fit {rank} spatial axes")
        if min(pads) < 0:
            raise ctx.unsupported(f"has negative pads {pads}", "Cut the tensor by Slice before it")
        return tuple(zip(pads[:rank], pads[rank:], strict=True))
    if auto == "VALID":
        return ((0, 0),) * rank
    if auto == "SAME_UPPER":
        return "same"
    if auto != "SAME_LOWER":
        raise ctx.unsupported(f"has auto_pad {auto!r}, which lrpfast does not know")
    if None in spatial:
        raise ctx.unsupported("pads by SAME_LOWER an input whose size the file leaves open", f"{FIX_SIZE}; or set pads")
    pairs = []
    for n, k, s, d in zip(spatial, size, strides, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)  # type: ignore[operator]
        pairs.append((total - total // 2, total // 2))
    return tuple(pairs)


def _weights(ctx: NodeContext) -> tuple[np.ndarray, int]:
    kernel = ctx.const(1, "weight")
    rank = _spatial(ctx, ctx.value().shape)
    shape = tuple(ctx.attr("kernel_shape") or kernel.shape[2:])
    if kernel.ndim != rank + 2 or shape != kernel.shape[2:]:
        raise ModelFormatError(
            f"its weight has shape {kernel.shape}, its kernel_shape is {shape}, its input has {rank} spatial axes"
        )
    return kernel, rank


def _conv(ctx: NodeContext) -> Value:
    kernel, rank = _weights(ctx)
    x = ctx.value()
    check_first(x)
    strides, dilation = (_tuple(ctx.attr(key), rank, key) for key in ("strides", "dilations"))
    groups, out = ctx.attr("group", 1), kernel.shape[0]
    padding = _padding(ctx, x.shape[1:], kernel.shape[2:], strides, dilation)
    if groups < 1 or out % groups or x.shape[0] != kernel.shape[1] * groups:
        raise ShapeError(f"its weight has shape {kernel.shape} and {groups} groups, its input {x.shape}")
    moved = kernel.transpose(*range(2, rank + 2), 1, 0)
    alone = groups > 1 and kernel.shape[1] == 1  # each channel by itself
    if alone:
        moved = moved.reshape(*kernel.shape[2:], groups, out // groups)

    def build(bias: np.ndarray | None) -> Value:
        if alone:
            return ctx.builder.window(L.DepthwiseConv(moved, bias, strides, padding, dilation), x)
        return ctx.builder.window(L.Conv(moved, bias, strides, padding, dilation, groups), x)

    return _biased(ctx, out, x, 0, build)


def _conv_transpose(ctx: NodeContext) -> Value:
    kernel, rank = _weights(ctx)
    x = ctx.value()
    check_first(x)
    strides, dilation = (_tuple(ctx.attr(key), rank, key) for key in ("strides", "dilations"))
    extra = tuple(ctx.attr("output_padding") or (0,) * rank)
    groups, size = ctx.attr("group", 1), kernel.shape[2:]
    output_shape, auto = ctx.attr("output_shape"), ctx.attr("auto_pad", "NOTSET")
    if output_shape is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
        ctx.attr("pads")
        if None in x.shape:
            raise ctx.unsupported("fits its output to an input whose size the file leaves open", FIX_SIZE)
        sizes = [n * s for n, s in zip(x.shape[1:], strides, strict=True)]  # type: ignore[operator]
        if output_shape is not None:
            sizes = list(output_shape[-rank:])
        pairs = []
        for n, s, k, d, e, m in zip(x.shape[1:], strides, size, dilation, extra, sizes, strict=True):
            total = s * (n - 1) + e + (k - 1) * d + 1 - m
            half = total // 2
            pairs.append((half, total - half) if auto == "SAME_UPPER" else (total - half, half))
        padding: Any = tuple(pairs)
        if any(min(pair) < 0 for pair in padding):
            raise ctx.unsupported(f"makes an output of {tuple(sizes)}, larger than its windows reach")
    else:
        padding = _padding(ctx, x.shape[1:], size, strides, dilation)
    moved = kernel.transpose(*range(2, rank + 2), 1, 0)

    def build(bias: np.ndarray | None) -> Value:
        return ctx.builder.window(L.ConvTranspose(moved, bias, strides, padding, extra, dilation, groups), x)

    return _biased(ctx, kernel.shape[1] * groups, x, 0, build)


# -- pooling ----------------------------------------------------------------------


def _pooling(ctx: NodeContext, kind: str) -> Value:
    x, b = ctx.value(), ctx.builder
    rank = _spatial(ctx, x.shape)
    size = tuple(ctx.attr("kernel_shape") or ())
    if len(size) != rank:
        raise ModelFormatError(f"its kernel_shape {size} does not fit {rank} spatial axes")
    strides, dilation = (_tuple(ctx.attr(key), rank, key) for key in ("strides", "dilations"))
    padding = _padding(ctx, x.shape[1:], size, strides, dilation)
    counted = bool(ctx.attr("count_include_pad", 0)) if kind == "average" else False
    reaches, extra = tuple(map(extent, size, dilation)), [0] * rank
    if ctx.attr("ceil_mode", 0) and padding != "same":
        if None in x.shape:
            raise ctx.unsupported("rounds up (ceil_mode) on an input whose size the file leaves open", FIX_SIZE)
        extra = [rounded_up(*axis) for axis in zip(x.shape[1:], padding, reaches, strides, strict=True)]  # type: ignore[arg-type]
    if any(extra) and counted and any(map(any, padding)):  # the file's padding counts, what rounding up adds does not
        x, padding, counted = b.window(L.ZeroPad(padding), x, "pad"), ((0, 0),) * rank, False
    if any(extra):
        padding = tuple((before, after + more) for (before, after), more in zip(padding, extra, strict=True))
        if counted:
            counted = False  # there is no padding but what rounding up adds
    if kind == "max":
        return b.window(L.MaxPool(size, strides, padding, dilation), x)
    if counted and padding != "same" and any(max(p) >= k for p, k in zip(padding, reaches, strict=True)):
        x, padding = b.window(L.ZeroPad(padding), x, "pad"), ((0, 0),) * rank
    return b.window(L.AveragePool(size, strides, padding, dilation, counted), x)


def _max_pool(ctx: NodeContext) -> Value:
    return _pooling(ctx, "max")


def _average_pool(ctx: NodeContext) -> Value:
    return _pooling(ctx, "average")


def _lp_pool(ctx: NodeContext) -> Value:
    """(Σ |x|^p)^(1/p) of each window: the mean, times how many values a window has; what pads is 0."""
    x, b, p = ctx.value(), ctx.builder, ctx.attr("p", 2)
    check_first(x)
    rank = _spatial(ctx, x.shape)
    size = _tuple(ctx.attr("kernel_shape") or (), rank, "kernel_shape")
    strides, dilation = (_tuple(ctx.attr(key), rank, key) for key in ("strides", "dilations"))
    spatial = [fixed(x, axis) for axis in range(1, rank + 1)]
    padding = _padding(ctx, spatial, size, strides, dilation)
    reaches = list(map(extent, size, dilation))
    if padding == "same":
        added = [max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in zip(spatial, strides, reaches, strict=True)]
        padding = tuple((n // 2, n - n // 2) for n in added)
    if ctx.attr("ceil_mode", 0):
        extra = [rounded_up(*axis) for axis in zip(spatial, padding, reaches, strides, strict=True)]
        padding = tuple((before, after + more) for (before, after), more in zip(padding, extra, strict=True))
    powers = _powers(ctx, x, p)
    if any(map(any, padding)):
        powers = b.window(L.ZeroPad(padding), powers, "pad")
    means = b.window(L.AveragePool(size, strides, "valid", dilation), powers)
    sums = affine(b, means, float(math.prod(size)), 0.0)
    return sums if p == 1 else power(b, sums, 1 / p)


def _powers(ctx: NodeContext, x: Value, p: int) -> Value:
    if p < 1:
        raise ctx.unsupported(f"has p {p}", "Those of at least 1 work")
    x = x if p % 2 == 0 else absolute(ctx.builder, x)
    return x if p == 1 else power(ctx.builder, x, float(p))


def _global_lp_pool(ctx: NodeContext) -> Value:
    x, p = ctx.value(), ctx.attr("p", 2)
    check_first(x)
    axes = list(range(1, _spatial(ctx, x.shape) + 1))
    if p < 1:
        raise ctx.unsupported(f"has p {p}", "Those of at least 1 work")
    return norm(p)(ctx.builder, x, axes, True)


def _global(kind: Any) -> Callable[[NodeContext], Value]:
    def build(ctx: NodeContext) -> Value:
        x = ctx.value()
        check_first(x)
        _spatial(ctx, x.shape)
        return ctx.builder.pool_all(x, list(range(1, len(x.shape))), kind, True)

    return build


#: How each operator is built.
LINEAR: dict[str, Callable[[NodeContext], Any]] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "GlobalAveragePool": _global(L.GlobalAveragePool),
    "GlobalLpPool": _global_lp_pool,
    "GlobalMaxPool": _global(L.GlobalMaxPool),
    "LpPool": _lp_pool,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
}
