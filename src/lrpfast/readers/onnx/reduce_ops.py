"""ONNX operators that reduce axes to one value, or divide by what they reduce to, as layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import reductions
from ..arithmetic import absolute, logarithm, power, total
from ..channels_first import Value
from ..reductions import Reduction, divided
from .context import NodeContext
from .fold import axes_of


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


def _reduce(function: Reduction, single: Any = None) -> Any:
    """How a reduction is built; ``single`` is what it does with one value."""

    def build(ctx: NodeContext) -> Value:
        x = ctx.value()
        keepdims, axes = bool(ctx.attr("keepdims", 1)), _axes(ctx, x)
        if axes is None:
            return x if single is None else single(ctx.builder, x)
        return function(ctx.builder, x, axes, keepdims)

    return build


def _lp_normalization(ctx: NodeContext) -> Value:
    p = ctx.attr("p", 2)
    if p not in (1, 2):
        raise ctx.unsupported(f"has p {p}", "1 and 2 work")
    axis = ctx.value().axis(ctx.attr("axis", -1))
    return divided(ctx.builder, ctx.value(), axis, reductions.norm(p))


#: How each operator is built.
REDUCED: dict[str, Callable[[NodeContext], Any]] = {
    "LogSumExp*": _reduce(reductions.log_of_sum_of_exponentials),
    "LpNormalization": _lp_normalization,
    "ReduceL1": _reduce(reductions.sum_of_absolutes, absolute),
    "ReduceL2": _reduce(reductions.norm(2), absolute),
    "ReduceLogSum": _reduce(reductions.log_of_sum, logarithm),
    "ReduceLogSumExp": _reduce(reductions.log_of_sum_of_exponentials),
    "ReduceMax": _reduce(reductions.largest),
    "ReduceMean": _reduce(reductions.mean),
    "ReduceMin": _reduce(reductions.smallest),
    "ReduceProd": _reduce(reductions.product),
    "ReduceSum": _reduce(total),
    "ReduceSumSquare": _reduce(reductions.sum_of_squares, lambda b, x: power(b, x, 2.0)),
}
