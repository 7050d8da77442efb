"""ONNX operators that move, drop or repeat values, as layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import ModelFormatError, ShapeError
from ...model import layers as L
from ..axis_ops import pad, take
from ..channels_first import Tensor, Value
from ..input_shape import FIX_SIZE
from .context import NodeContext
from .fold import FoldedValue, integers, reshaped, slices, split_sizes, squeezed, unsqueezed
from .values import Integers, Rows

#: Numbers that stand for axes the file leaves open, where shapes are computed.
_OPEN = ((6007, 6011), (5003, 5009), (4001, 4003), (3001, 3011))
_GIVES = "gives {}, with sizes that the file leaves open, another shape"


def file_shape(ctx: NodeContext, which: int) -> tuple[int, ...]:
    """The shape of the node's input in the file, for the first or the second size of a batch."""
    x = ctx.args[0]
    if isinstance(x, Rows):
        return (ctx.batches[which] * x.count, *whole_shape(ctx, x.rest, which)[1:])
    return whole_shape(ctx, ctx.value().shape, which)


def whole_shape(ctx: NodeContext, shape: Any, which: int) -> tuple[int, ...]:
    """A tensor's shape with its batch axis, for the first or the second size of a batch."""
    opened = [_OPEN[i % len(_OPEN)][which] if n is None else n for i, n in enumerate(shape)]
    return (ctx.batches[which], *opened)


def sample_shape(ctx: NodeContext, pair: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of one sample, of the two shapes that two batches would have."""
    first, second = map(tuple, pair)
    if not first or (first[0], second[0]) != ctx.batches or first[1:] != second[1:]:
        raise ctx.unsupported(
            "makes a tensor whose first axis is not the batch's alone", "Keep the batch axis first and samples apart"
        )
    return first[1:]


# -- shapes -----------------------------------------------------------------------


def _shape(ctx: NodeContext) -> FoldedValue:
    rank = len(file_shape(ctx, 0))
    start, end = ctx.attr("start", 0), ctx.attr("end", rank)
    return FoldedValue(*(np.array(file_shape(ctx, i)[start:end], np.int64) for i in (0, 1)))


def _size(ctx: NodeContext) -> FoldedValue:
    return FoldedValue(*(np.array(math.prod(file_shape(ctx, i)), np.int64) for i in (0, 1)))


def _to(ctx: NodeContext, pair: list[tuple[int, ...]]) -> Value | Rows:
    """The input in another shape, which is given for both sizes of a batch."""
    x = ctx.args[0].value if isinstance(ctx.args[0], Rows) else ctx.value()
    files = [file_shape(ctx, i) for i in (0, 1)]
    if pair == files:
        return ctx.args[0]  # type: ignore[no-any-return]
    if None in x.shape:
        if pair == [(shape[0], math.prod(shape[1:])) for shape in files] and not isinstance(ctx.args[0], Rows):
            return ctx.builder.reshape(x, (-1,))
        raise ctx.unsupported(_GIVES.format(x.shape), FIX_SIZE)
    first, second = pair
    count = first[0] // ctx.batches[0] if first else 0
    if count > 1 and (first[0], second[0]) == tuple(n * count for n in ctx.batches) and first[1:] == second[1:]:
        rows = ctx.builder.tensor(ctx.builder.reshape(x, (count, *first[1:])))
        return Rows(rows, count)
    return ctx.builder.reshape(x, sample_shape(ctx, pair))


def _reshape(ctx: NodeContext) -> Value | Rows:
    known, zero = ctx.known(1, "shape"), ctx.attr("allowzero", 0)
    x = ctx.args[0].value if isinstance(ctx.args[0], Rows) else ctx.value()
    try:
        pair = [reshaped(file_shape(ctx, i), (known.first, known.second)[i], zero) for i in (0, 1)]
    except ModelFormatError:
        if None in x.shape:
            raise ctx.unsupported(_GIVES.format(x.shape), FIX_SIZE) from None
        sizes = ", ".join("batch" if n in ctx.batches else str(n) for n in integers(known.first, "shape"))
        raise ModelFormatError(f"it cannot make ({sizes}) of samples of shape {x.shape}") from None
    return _to(ctx, pair)


def _flatten(ctx: NodeContext) -> Value | Rows:
    axis = ctx.attr("axis", 1)

    def target(i: int) -> tuple[int, ...]:
        shape = file_shape(ctx, i)
        at = axis + len(shape) if axis < 0 else axis
        return math.prod(shape[:at]), math.prod(shape[at:])

    return _to(ctx, [target(i) for i in (0, 1)])


def _squeeze(ctx: NodeContext) -> Value:
    axes, x = ctx.ints("axes", 1), ctx.value()
    whole = (2, *x.shape)  # whatever the batch is, its axis stays
    if axes is None and ctx.batches == (1, 1):
        raise ctx.unsupported("takes away every axis of one value, the batch's too", "Name the axes")
    if any(a in (0, -len(whole)) for a in axes or ()):
        raise ctx.unsupported("takes away the batch axis", "Keep the batch axis first")
    gone = squeezed(whole, axes)
    return _reshape_to(ctx, tuple(n for i, n in enumerate(whole) if i not in gone)[1:])


def _unsqueeze(ctx: NodeContext) -> Value:
    axes, x = ctx.ints("axes", 1), ctx.value()
    result = unsqueezed((0, *x.shape), axes or ())
    if result[0] != 0:
        raise ctx.unsupported("puts an axis before the batch's", "Keep the batch axis first")
    return _reshape_to(ctx, result[1:])


def _reshape_to(ctx: NodeContext, shape: tuple[Any, ...]) -> Value:
    x = ctx.value()
    if None not in x.shape or shape == x.shape:
        return ctx.builder.reshape(x, shape)
    t = ctx.builder.tensor(x)
    sizes = [n for n in shape if n != 1]
    if shape.count(None) == 1 and sizes == [n for n in t.shape if n != 1]:
        t = ctx.builder.plain(t)
        at = ctx.builder.add(L.Reshape(tuple(-1 if n is None else n for n in shape)), t.node)
        return Tensor(at, shape, tuple(range(len(shape))))
    raise ctx.unsupported(_GIVES.format(x.shape), FIX_SIZE)


def _transpose(ctx: NodeContext) -> Value:
    rank = len(ctx.value().shape) + 1
    axes = ctx.attr("perm") or tuple(reversed(range(rank)))
    if sorted(axes) != list(range(rank)):
        raise ShapeError(f"perm {axes} does not fit an input of {rank} axes")
    if axes[0] != 0:
        raise ctx.unsupported(f"moves the batch axis (perm {axes})", "Keep the batch axis first")
    return ctx.builder.transpose(ctx.value(), [a - 1 for a in axes[1:]])


# -- cutting and joining --------------------------------------------------------------


def _slice(ctx: NodeContext) -> Value:
    x = ctx.value()
    args = [None, *(ctx.maybe(i, "slice") for i in range(1, len(ctx.args)))]
    for key in ("starts", "ends", "axes"):
        ctx.attr(key)
    value: Value = x
    for axis, cut in slices(ctx.node, args, len(x.shape) + 1).items():
        if axis == 0:
            whole = cut.indices(1 << 30)
            if whole != (0, 1 << 30, 1) and not (ctx.batches == (1, 1) and cut.indices(1) == (0, 1, 1)):
                raise ctx.unsupported("cuts the batch axis", "Samples must not mix")
            continue
        n = x.shape[axis - 1]
        if n is None:
            if (cut.start, cut.step) == (0, 1) and cut.stop is not None and cut.stop >= 1 << 30:
                continue
            raise ctx.unsupported("cuts an axis whose size the file leaves open", FIX_SIZE)
        value = take(ctx.builder, value, axis - 1, range(n)[cut])
    return value


def _split(ctx: NodeContext) -> list[Value | None]:
    """The parts; what is empty is None, as no layer makes it."""
    x = ctx.value()
    axis = ctx.axis(ctx.attr("axis", 0))
    for key in ("split", "num_outputs"):
        ctx.attr(key)
    result: list[Value | None] = []
    start = 0
    for size in split_sizes(ctx.node, [None, ctx.maybe(1, "split")], (0, *x.shape)):
        result.append(take(ctx.builder, x, axis, range(start, start + size)) if size else None)
        start += size
    return result


def _gather(ctx: NodeContext) -> Value:
    if isinstance(ctx.args[0], FoldedValue):  # rows of a table, for the indices that the model is given
        table = ctx.const(0, "table")
        if ctx.attr("axis", 0) != 0 or table.ndim != 2:
            raise ctx.unsupported(f"looks up axis {ctx.attr('axis', 0)} of a constant of shape {table.shape}")
        indices = ctx.args[1]
        t = ctx.builder.tensor(indices.value if isinstance(indices, Integers) else ctx.value(1))
        at = ctx.builder.add(L.Embedding(table), t.node)
        return Tensor(at, (*t.shape, table.shape[1]), (*t.order, len(t.shape)))
    x = ctx.value()
    axis, indices = ctx.axis(ctx.attr("axis", 0)), ctx.const(1, "indices")
    n = x.shape[axis]
    if n is None or indices.ndim > 1:
        raise ctx.unsupported(
            f"gathers {indices.shape} places of an axis of {n or 'open size'}", FIX_SIZE if n is None else ""
        )
    result = take(ctx.builder, x, axis, indices.ravel())
    if indices.ndim:
        return result
    shape = tuple(m for i, m in enumerate(result.shape) if i != axis)
    return ctx.builder.reshape(result, shape)  # type: ignore[arg-type]


def _pad(ctx: NodeContext) -> Value:
    x, mode = ctx.value(), ctx.attr("mode", "constant")
    rank = len(x.shape) + 1
    pads = ctx.ints("pads", 1)
    value: Any = ctx.maybe(2, "value") if ctx.has(2) else ctx.attr("value", 0.0)
    axes_input = ctx.maybe(3, "axes")
    axes = list(range(rank)) if axes_input is None else [int(a) % rank for a in axes_input]
    if pads is None or len(pads) != 2 * len(axes):
        raise ModelFormatError(f"its pads {pads} do not fit {len(axes)} axes")
    pairs = {a: (pads[i], pads[i + len(axes)]) for i, a in enumerate(axes)}
    if any(pairs.get(0, ())):
        raise ctx.unsupported("pads the batch axis")
    constant = float(np.ravel(value)[0])
    return pad(ctx.builder, x, {a - 1: pair for a, pair in sorted(pairs.items()) if a}, mode, constant)


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
