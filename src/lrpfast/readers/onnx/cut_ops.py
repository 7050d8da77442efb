"""ONNX operators that cut, pad, mask or add up along axes by constants, as layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...budget import take as count
from ...errors import ModelFormatError
from ..arithmetic import multiply
from ..axis_ops import cumulative, fixed, pad, take
from ..channels_first import Value
from .context import NodeContext
from .fold import whole


def _center_crop_pad(ctx: NodeContext) -> Value:
    """Axes cut, or padded with zeros, on both sides; the odd value is cut or added at the end."""
    x, known = ctx.value(), ctx.known(1, "shape")
    axes = ctx.attr("axes") or range(x.rank)
    sizes = [whole(array, "shape").ravel().tolist() for array in (known.first, known.second)]
    if len(sizes[0]) != len(axes):
        raise ModelFormatError(f"its shape {sizes[0]} does not fit {len(axes)} axes")
    for number, axis in enumerate(axes):
        pair = tuple(size[number] for size in sizes)
        if axis % x.rank == x.batch.position and x.batch.whole and pair == ctx.batches:
            continue
        if pair[0] != pair[1]:
            raise ctx.unsupported("cuts or pads to a size that depends on the batch's")
        at = x.axis(axis)
        n, size = fixed(x, at), pair[0]
        if size <= n:
            begin = (n - size) // 2
            x = take(ctx.builder, x, at, range(begin, begin + size))
        else:
            before = (size - n) // 2
            x = pad(ctx.builder, x, {at: (before, size - n - before)}, "constant")
    return x


def _compress(ctx: NodeContext) -> Value:
    if "axis" not in ctx.node.attributes:
        raise ctx.unsupported("picks values of all axes, the batch's too", "Name the axis")
    condition = np.asarray(ctx.const(1, "condition"), bool).ravel()
    return take(ctx.builder, ctx.value(), ctx.value().axis(ctx.attr("axis")), np.flatnonzero(condition))


def _triangle(ctx: NodeContext) -> Value:
    """Matrices with zeros below, or above, a diagonal."""
    x, k, upper = ctx.value(), ctx.const(1, "k", np.array(0)), ctx.attr("upper", 1)
    for dim in (-1, -2):
        x.axis(dim)  # which must not hold the batch
    rows, columns = (fixed(x, len(x.shape) - i) for i in (2, 1))
    count(8 * rows * columns, f"a triangle of {rows} x {columns} values")
    ones, diagonal = np.ones((rows, columns)), int(whole(k, "k").ravel()[0])
    return multiply(ctx.builder, x, np.triu(ones, diagonal) if upper else np.tril(ones, diagonal))


def _cumulative_sum(ctx: NodeContext) -> Value:
    """The sums up to each position."""
    x = ctx.value()
    axis = x.axis(int(whole(ctx.const(1, "axis"), "axis").ravel()[0]))
    return cumulative(ctx.builder, x, axis, bool(ctx.attr("reverse", 0)), bool(ctx.attr("exclusive", 0)))


#: How each operator is built.
CUT: dict[str, Callable[[NodeContext], Any]] = {
    "CenterCropPad": _center_crop_pad,
    "Compress": _compress,
    "CumSum": _cumulative_sum,
    "Trilu": _triangle,
}
