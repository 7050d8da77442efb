"""ONNX operators that reduce axes to one value, or divide by what they reduce to, as layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...budget import take as count
from ...model import layers as L
from ..axis_ops import INPUT_BYTES, fixed, take
from ..channels_first import Value
from .context import NodeContext
from .fold import axes_of

_NOTHING = np.array(0.0)


def _axes(ctx: NodeContext, x: Value) -> list[int] | None:
    """The sample's axes that are reduced; None where none are named and the node then does nothing."""
    axes = axes_of(ctx.node, [None, ctx.maybe(1, "axes")])
    ctx.attr("axes")
    nothing = ctx.attr("noop_with_empty_axes", 0)
    if not axes:
        if nothing:
            return None
        raise ctx.unsupported("reduces all axes, the batch's too", "Name the axes")
    return [x.axis(a) for a in axes]


def _power(ctx: NodeContext, x: Value, exponent: float) -> Value:
    return ctx.builder.each(L.Activation("power", {"exponent": exponent}), x)


def _absolute(ctx: NodeContext, x: Value) -> Value:
    return ctx.builder.each(L.Activation("relu", {"negative_slope": -1.0}), x)


def total(ctx: NodeContext, x: Value, axes: list[int], keepdims: bool) -> Value:
    """The sum over axes: their mean, times how many values they have."""
    if any(x.shape[a] is None for a in axes):
        raise ctx.unsupported("sums over axes whose size the file leaves open", "Fix the size")
    values = math.prod(fixed(x, a) for a in axes)
    mean = ctx.builder.pool_all(x, axes, L.GlobalAveragePool, keepdims)
    return ctx.builder.affine(mean, np.array(float(values)), _NOTHING)


def _mean(ctx: NodeContext, x: Value, axes: list[int], keepdims: bool) -> Value:
    return ctx.builder.pool_all(x, axes, L.GlobalAveragePool, keepdims)


def _max(ctx: NodeContext, x: Value, axes: list[int], keepdims: bool) -> Value:
    return ctx.builder.pool_all(x, axes, L.GlobalMaxPool, keepdims)


def _min(ctx: NodeContext, x: Value, axes: list[int], keepdims: bool) -> Value:
    """The largest of the negatives, negated."""
    negative = ctx.builder.affine(x, np.array(-1.0), _NOTHING)
    return ctx.builder.affine(_max(ctx, negative, axes, keepdims), np.array(-1.0), _NOTHING)


def _l1(ctx: NodeContext, x: Value, axes: list[int], keepdims: bool) -> Value:
    return total(ctx, _absolute(ctx, x), axes, keepdims)


def _sum_of_squares(ctx: NodeContext, x: Value, axes: list[int], keepdims: bool) -> Value:
    return total(ctx, _power(ctx, x, 2.0), axes, keepdims)


def _l2(ctx: NodeContext, x: Value, axes: list[int], keepdims: bool) -> Value:
    return _power(ctx, _sum_of_squares(ctx, x, axes, keepdims), 0.5)


def _product(ctx: NodeContext, x: Value, axes: list[int], keepdims: bool) -> Value:
    """One axis after the other: its slices multiplied."""
    for axis in axes:
        n = fixed(x, axis)
        count(INPUT_BYTES * n, f"to multiply {n:,} values")
        slices = [take(ctx.builder, x, axis, [i]) for i in range(n)]
        x = slices[0] if n == 1 else ctx.builder.merge(L.Multiply(), slices)
    if keepdims:
        return x
    return ctx.builder.reshape(x, [n for i, n in enumerate(x.shape) if i not in axes], x.batch.dropped(axes))


def _reduce(function: Callable[[NodeContext, Value, list[int], bool], Value], single: Any = None) -> Any:
    """How a reduction is built; ``single`` is what it does with one value."""

    def build(ctx: NodeContext) -> Value:
        x = ctx.value()
        keepdims, axes = bool(ctx.attr("keepdims", 1)), _axes(ctx, x)
        if axes is None:
            return x if single is None else single(ctx, x)
        return function(ctx, x, axes, keepdims)

    return build


def divided(ctx: NodeContext, x: Value, axis: int, norm: str) -> Value:
    """x divided by its largest value ("MAX"), its sum of absolute values ("L1") or its length ("L2") along an axis."""
    size = {"MAX": _max, "L1": _l1, "L2": _l2}[norm](ctx, x, [axis], True)
    return ctx.builder.merge(L.Multiply(), [x, _power(ctx, size, -1.0)])


def _lp_normalization(ctx: NodeContext) -> Value:
    p = ctx.attr("p", 2)
    if p not in (1, 2):
        raise ctx.unsupported(f"has p {p}", "1 and 2 work")
    return divided(ctx, ctx.value(), ctx.value().axis(ctx.attr("axis", -1)), f"L{p}")


#: How each operator is built.
REDUCED: dict[str, Callable[[NodeContext], Any]] = {
    "LpNormalization": _lp_normalization,
    "ReduceL1": _reduce(_l1, _absolute),
    "ReduceL2": _reduce(_l2, _absolute),
    "ReduceMax": _reduce(_max),
    "ReduceMean": _reduce(_mean),
    "ReduceMin": _reduce(_min),
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(total),
    "ReduceSumSquare": _reduce(_sum_of_squares, lambda ctx, x: _power(ctx, x, 2.0)),
}
