"""ONNX operators that move, drop or repeat values, as layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ModelFormatError, ShapeError
from ..axis_ops import pad, take
from ..channels_first import Value
from ..file_axes import file_sizes, permute, shown, squeeze, unsqueeze, view
from ..input_shape import FIX_SIZE
from .context import NodeContext
from .fold import FoldedValue, integers, reshaped, slices, split_sizes, squeezed, unsqueezed
from .values import Integers

_GIVES = "gives {}, with sizes that the file leaves open, another shape"

# -- shapes -----------------------------------------------------------------------


def _shape(ctx: NodeContext) -> FoldedValue:
    sizes = [file_sizes(ctx.value(), ctx.batches, i) for i in (0, 1)]
    start, end = ctx.attr("start", 0), ctx.attr("end", len(sizes[0]))
    return FoldedValue(*(np.array(s[start:end], np.int64) for s in sizes))


def _size(ctx: NodeContext) -> FoldedValue:
    return FoldedValue(*(np.array(math.prod(file_sizes(ctx.value(), ctx.batches, i)), np.int64) for i in (0, 1)))


def _reshape(ctx: NodeContext) -> Value:
    x, known, zero = ctx.value(), ctx.known(1, "shape"), ctx.attr("allowzero", 0)
    sizes = [file_sizes(x, ctx.batches, i) for i in (0, 1)]
    shapes = (known.first, known.second)
    try:
        target = [reshaped(s, new, zero) for s, new in zip(sizes, shapes, strict=True)]
    except ModelFormatError:
        if None in x.shape:
            raise ctx.unsupported(_GIVES.format(shown(x)), FIX_SIZE) from None
        names = ", ".join("batch" if n in ctx.batches else str(n) for n in integers(known.first, "shape"))
        raise ModelFormatError(f"it cannot make ({names}) of {shown(x)}") from None
    return _viewed(ctx, x, target)


def _viewed(ctx: NodeContext, x: Value, target: list[tuple[int, ...]]) -> Value:
    if None in x.shape and all(
        list(t) == [s[0], math.prod(s[1:])]
        for t, s in zip(target, (file_sizes(x, ctx.batches, i) for i in (0, 1)), strict=True)
    ):
        return ctx.builder.reshape(x, (-1,), x.batch)
    return view(ctx.builder, x, (target[0], target[1]), ctx.batches)


def _flatten(ctx: NodeContext) -> Value:
    x, axis = ctx.value(), ctx.attr("axis", 1)
    at = axis + x.rank if axis < 0 else axis
    sizes = [file_sizes(x, ctx.batches, i) for i in (0, 1)]
    return _viewed(ctx, x, [(math.prod(s[:at]), math.prod(s[at:])) for s in sizes])


def _squeeze(ctx: NodeContext) -> Value:
    axes, x = ctx.ints("axes", 1), ctx.value()
    if axes is None and ctx.batches == (1, 1):
        raise ctx.unsupported("takes away every axis of one value, the batch's too", "Name the axes")
    whole = x.sizes(2)  # whatever the batch is, its axis stays
    return squeeze(ctx.builder, x, squeezed(whole, None) if axes is None else axes)


def _unsqueeze(ctx: NodeContext) -> Value:
    axes, x = ctx.ints("axes", 1), ctx.value()
    rank = x.rank + len(axes or ())
    unsqueezed(x.sizes(2), axes or ())  # which must fit
    for dim in sorted(a % rank for a in axes or ()):
        x = unsqueeze(ctx.builder, x, dim)
    return x


def _transpose(ctx: NodeContext) -> Value:
    x = ctx.value()
    axes = ctx.attr("perm") or tuple(reversed(range(x.rank)))
    if sorted(axes) != list(range(x.rank)):
        raise ShapeError(f"perm {axes} does not fit an input of {x.rank} axes")
    return permute(ctx.builder, x, axes)


# -- cutting and joining --------------------------------------------------------------


#: No axis is longer; tf2onnx ends slices of everything here.
EVERYTHING = 10**9


def _slice(ctx: NodeContext) -> Value:
    x = ctx.value()
    args = [None, *(ctx.maybe(i, "slice") for i in range(1, len(ctx.args)))]
    for key in ("starts", "ends", "axes"):
        ctx.attr(key)
    value: Value = x
    for dim, cut in slices(ctx.node, args, x.rank).items():
        if cut.indices(EVERYTHING) == (0, EVERYTHING, 1):
            continue
        if ctx.batches == (1, 1) and dim == x.batch.position and x.batch.whole and cut.indices(1) == (0, 1, 1):
            continue
        axis = x.axis(dim)
        n = x.shape[axis]
        if n is None:
            raise ctx.unsupported("cuts an axis whose size the file leaves open", FIX_SIZE)
        value = take(ctx.builder, value, axis, range(n)[cut])
    return value


def _split(ctx: NodeContext) -> list[Value | None]:
    """The parts; what is empty is None, as no layer makes it."""
    x = ctx.value()
    axis = x.axis(ctx.attr("axis", 0))
    for key in ("split", "num_outputs"):
        ctx.attr(key)
    result: list[Value | None] = []
    start = 0
    for size in split_sizes(ctx.node, [None, ctx.maybe(1, "split")], x.sizes(0)):
        result.append(take(ctx.builder, x, axis, range(start, start + size)) if size else None)
        start += size
    return result


def _gather(ctx: NodeContext) -> Value:
    if isinstance(ctx.args[0], FoldedValue):  # rows of a table, for the indices that the model is given
        table = ctx.const(0, "table")
        if ctx.attr("axis", 0) != 0 or table.ndim != 2:
            raise ctx.unsupported(f"looks up axis {ctx.attr('axis', 0)} of a constant of shape {table.shape}")
        indices = ctx.args[1]
        return ctx.builder.embedding(table, indices.value if isinstance(indices, Integers) else ctx.value(1))
    x, dim, known = ctx.value(), ctx.attr("axis", 0), ctx.known(1, "indices")
    if (
        x.rank == 1
        and not known.fixed
        and all(
            np.array_equal(a.ravel(), np.arange(math.prod(file_sizes(x, ctx.batches, i))))
            for i, a in enumerate((known.first, known.second))
        )
    ):  # every value once, in order: as_strided
        return _viewed(ctx, x, [known.first.shape, known.second.shape])
    indices = ctx.const(1, "indices")
    axis, dim = x.axis(dim), dim % x.rank
    if x.shape[axis] is None:
        raise ctx.unsupported("gathers positions of an axis whose size the file leaves open", FIX_SIZE)
    result = take(ctx.builder, x, axis, indices.ravel())
    if indices.ndim == 0:
        return squeeze(ctx.builder, result, [dim])
    sizes = [file_sizes(result, ctx.batches, i) for i in (0, 1)]
    return _viewed(ctx, result, [(*s[:dim], *indices.shape, *s[dim + 1 :]) for s in sizes])


def _pad(ctx: NodeContext) -> Value:
    x, mode = ctx.value(), ctx.attr("mode", "constant")
    pads = ctx.ints("pads", 1)
    value: Any = ctx.maybe(2, "value") if ctx.has(2) else ctx.attr("value", 0.0)
    axes_input = ctx.maybe(3, "axes")
    axes = list(range(x.rank)) if axes_input is None else [int(a) % x.rank for a in axes_input]
    if pads is None or len(pads) != 2 * len(axes):
        raise ModelFormatError(f"its pads {pads} do not fit {len(axes)} axes")
    pairs = {a: (pads[i], pads[i + len(axes)]) for i, a in enumerate(axes)}
    constant = float(np.ravel(value)[0])
    return pad(ctx.builder, x, {x.axis(a): pair for a, pair in sorted(pairs.items()) if any(pair)}, mode, constant)


#: How each operator is built.
MOVES: dict[str, Callable[[NodeContext], Any]] = {
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
