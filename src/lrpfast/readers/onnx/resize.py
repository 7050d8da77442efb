"""ONNX operators that make a tensor larger or smaller by repeating or interpolating its values, as layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...budget import take
from ...errors import ModelFormatError
from ...model import layers as L
from ...model.layers import Shape
from ..axis_ops import INPUT_BYTES, MOST, Resize, interpolate, nearest, repeat
from ..channels_first import Value, check_first
from ..file_axes import expand, file_sizes
from ..input_shape import FIX_SIZE
from .context import NodeContext


def _expand(ctx: NodeContext) -> Value:
    x, known = ctx.value(), ctx.known(1, "shape")
    sizes = [file_sizes(x, ctx.batches, i) for i in (0, 1)]
    first, second = (
        np.broadcast_shapes(s, tuple(map(int, a))) for s, a in zip(sizes, (known.first, known.second), strict=True)
    )
    return expand(ctx.builder, x, (first, second), ctx.batches)


def _tile(ctx: NodeContext) -> Value:
    repeats = [int(n) for n in ctx.const(1, "repeats").ravel()]
    x = ctx.value()
    if len(repeats) != x.rank or min(repeats) < 1:
        raise ctx.unsupported(f"repeats {repeats} times")
    result: Value = x
    for dim, count in enumerate(repeats):
        if count == 1:
            continue
        axis = x.axis(dim)
        if x.shape[axis] == 1:
            result = repeat(ctx.builder, result, axis, count)
        else:
            take(INPUT_BYTES * count, f"to repeat an axis {count:,} times")
            result = ctx.builder.merge(L.Concat(), [result] * count, axis)
    return result


def _resize(ctx: NodeContext) -> Value:
    x, mode = ctx.value(), ctx.attr("mode", "nearest")
    old = ctx.node.op == "Upsample" or ctx.opset < 11  # Resize 10 and Upsample: x · scale, rounded down
    where = ctx.attr("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    rounding = ctx.attr("nearest_mode", "floor" if old else "round_prefer_floor")
    a, smooth = ctx.attr("cubic_coeff_a", -0.75), bool(ctx.attr("antialias", 0))
    outside = "none" if ctx.attr("exclude_outside", 0) else "edge"
    ctx.attr("extrapolation_value")  # of tf_crop_and_resize alone, which is refused
    axes = {axis - 1: Resize(m, scale, where) for axis, (m, scale) in _sizes(ctx, 1 if old else 2).items()}
    if mode == "nearest":
        return nearest(ctx.builder, x, axes, rounding)
    if mode not in ("linear", "cubic"):
        raise ctx.unsupported(f"interpolates by {mode!r}; lrpfast reads nearest, linear and cubic")
    return interpolate(ctx.builder, x, axes, mode, a, outside, smooth)


def _sizes(ctx: NodeContext, at: int) -> dict[int, tuple[int, float]]:
    """The size that each axis becomes, and its scale; the scales are input ``at`` or an attribute."""
    x = ctx.value()
    check_first(x)
    if None in x.shape:
        raise ctx.unsupported("resizes an input whose size the file leaves open", FIX_SIZE)
    whole = (1, *x.shape)
    rank = len(whole)
    axes = [a % rank for a in ctx.attr("axes") or range(rank)]
    policy = ctx.attr("keep_aspect_ratio_policy", "stretch")
    scales = ctx.attr("scales") if "scales" in ctx.node.attributes else ctx.maybe(at, "scales")
    if ctx.has(3) and ctx.args[3].first.size:
        known = ctx.known(3, "sizes")
        pairs = {a: pair for a, pair in zip(axes, zip(known.first, known.second, strict=True), strict=True)}
        if tuple(pairs.pop(0, ctx.batches)) != ctx.batches:
            raise ctx.unsupported("resizes the batch axis")
        if any(first != second for first, second in pairs.values()):
            raise ctx.unsupported("has sizes that depend on the batch size")
        sizes = {a: (int(n), int(n) / whole[a]) for a, (n, _) in pairs.items()}  # type: ignore[operator]
        if policy != "stretch":
            if policy not in ("not_larger", "not_smaller"):
                raise ctx.unsupported(f"has keep_aspect_ratio_policy {policy!r}, which lrpfast does not know")
            scale = (min if policy == "not_larger" else max)(s for _, s in sizes.values())
            sizes = {a: (math.floor(scale * whole[a] + 0.5), scale) for a in sizes}  # type: ignore[operator]
        return sizes
    if scales is None or len(scales) != len(axes):
        raise ModelFormatError("it has neither sizes nor scales that fit its input")
    factors = {a: float(s) for a, s in zip(axes, scales, strict=True)}
    if factors.pop(0, 1.0) != 1:
        raise ctx.unsupported("resizes the batch axis")
    if any(not 0 < s < MOST for s in factors.values()):
        raise ModelFormatError(f"its scales are {[float(s) for s in scales]}")
    return {a: (math.floor(whole[a] * s), s) for a, s in factors.items()}  # type: ignore[operator]


def _block(ctx: NodeContext, shape: Shape) -> tuple[int, int, int, int]:
    """A block's size, and the channels, height and width of a sample."""
    size: int = ctx.attr("blocksize", 0)
    sizes = [n for n in shape if n is not None]
    if len(shape) != 3 or len(sizes) != 3 or size < 1:
        raise ctx.unsupported(f"rearranges samples of shape {shape} by {size}; lrpfast needs images of fixed size")
    return size, sizes[0], sizes[1], sizes[2]


def _depth_to_space(ctx: NodeContext) -> Value:
    """Blocks of channels as blocks of pixels (PixelShuffle)."""
    b, x, mode = ctx.builder, ctx.value(), ctx.attr("mode", "DCR")
    n, c, h, w = _block(ctx, x.shape)
    if mode == "DCR":
        result = b.transpose(b.reshape(x, (n, n, c // n**2, h, w)), (2, 3, 0, 4, 1))
    elif mode == "CRD":
        result = b.transpose(b.reshape(x, (c // n**2, n, n, h, w)), (0, 3, 1, 4, 2))
    else:
        raise ctx.unsupported(f"has the mode {mode!r}, which lrpfast does not know")
    return b.reshape(result, (c // n**2, h * n, w * n))


def _space_to_depth(ctx: NodeContext) -> Value:
    """Blocks of pixels as blocks of channels."""
    b, x, mode = ctx.builder, ctx.value(), ctx.attr("mode", "DCR")
    n, c, h, w = _block(ctx, x.shape)
    orders = {"DCR": (2, 4, 0, 1, 3), "CRD": (0, 2, 4, 1, 3)}
    if mode not in orders:
        raise ctx.unsupported(f"has the mode {mode!r}, which lrpfast does not know")
    result = b.transpose(b.reshape(x, (c, h // n, n, w // n, n)), orders[mode])
    return b.reshape(result, (c * n**2, h // n, w // n))


#: How each operator is built.
RESIZED: dict[str, Callable[[NodeContext], Any]] = {
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Resize": _resize,
    "SpaceToDepth": _space_to_depth,
    "Tile": _tile,
    "Upsample": _resize,
}
