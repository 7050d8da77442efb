"""ONNX operators that move, drop, repeat or sum up values, as layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import ModelFormatError, ShapeError
from ...model import layers as L
from ..axis_ops import pad, take
from ..channels_first import Tensor, Value
from .context import NodeContext
from .fold import FoldedValue, axes_of, reshaped, slices, split_sizes, squeezed, unsqueezed

#: Numbers that stand for axes the file leaves open, where shapes are computed.
_OPEN = ((6007, 6011), (5003, 5009), (4001, 4003), (3001, 3011))


def whole_shape(ctx: NodeContext, shape: Any, which: int) -> tuple[int, ...]:
    """A tensor's shape with its batch axis, for the first or the second size of a batch."""
    opened = [_OPEN[i % len(_OPEN)][which] if n is None else n for i, n in enumerate(shape)]
    return (ctx.batches[which], *opened)


def sample_shape(ctx: NodeContext, pair: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of one sample, of the two shapes that two batches would have."""
    first, second = map(tuple, pair)
    if not first or (first[0], second[0]) != ctx.batches or first[1:] != second[1:]:
        shown = tuple("batch" if a == ctx.batches[0] != b else a for a, b in zip(first, second, strict=False))
        raise ctx.unsupported(
            f"makes a tensor of shape {shown}, whose first axis is not the batch's alone",
            "Keep the batch axis first and samples apart",
        )
    return first[1:]


# -- shapes -----------------------------------------------------------------------


def _shape(ctx: NodeContext) -> FoldedValue:
    rank = len(ctx.value().shape) + 1
    start, end = ctx.attr("start", 0), ctx.attr("end", rank)
    return FoldedValue(*(np.array(whole_shape(ctx, ctx.value().shape, i)[start:end], np.int64) for i in (0, 1)))


def _size(ctx: NodeContext) -> FoldedValue:
    return FoldedValue(*(np.array(math.prod(whole_shape(ctx, ctx.value().shape, i)), np.int64) for i in (0, 1)))


def _to(ctx: NodeContext, target: Callable[[int], tuple[int, ...]]) -> Value:
    x = ctx.value()
    pair = [target(which) for which in (0, 1)]
    if None in x.shape:
        wholes = [whole_shape(ctx, x.shape, i) for i in (0, 1)]
        if pair == wholes:
            return x
        flat = [(whole[0], math.prod(whole[1:])) for whole in wholes]
        if pair == flat:
            return ctx.builder.reshape(x, (-1,))
        raise ctx.unsupported(f"gives {x.shape}, with sizes that the file leaves open, another shape", "Fix the sizes")
    return ctx.builder.reshape(x, sample_shape(ctx, pair))


def _reshape(ctx: NodeContext) -> Value:
    known, zero = ctx.known(1, "shape"), ctx.attr("allowzero", 0)
    shape = ctx.value().shape
    return _to(ctx, lambda i: reshaped(whole_shape(ctx, shape, i), (known.first, known.second)[i], zero))


def _flatten(ctx: NodeContext) -> Value:
    axis = ctx.attr("axis", 1)
    shape = ctx.value().shape

    def target(i: int) -> tuple[int, ...]:
        whole = whole_shape(ctx, shape, i)
        at = axis + len(whole) if axis < 0 else axis
        return math.prod(whole[:at]), math.prod(whole[at:])

    return _to(ctx, target)


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
    made = unsqueezed((0, *x.shape), axes or ())
    if made[0] != 0:
        raise ctx.unsupported("puts an axis before the batch's", "Keep the batch axis first")
    return _reshape_to(ctx, made[1:])


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
    raise ctx.unsupported(f"gives {x.shape}, with sizes that the file leaves open, another shape", "Fix the sizes")


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
            raise ctx.unsupported("cuts an axis whose size the file leaves open", "Fix the size")
        value = take(ctx.builder, value, axis - 1, range(n)[cut])
    return value


def _split(ctx: NodeContext) -> list[Value | None]:
    """The parts; what is empty is None, as no layer makes it."""
    x = ctx.value()
    axis = ctx.axis(ctx.attr("axis", 0))
    for key in ("split", "num_outputs"):
        ctx.attr(key)
    made: list[Value | None] = []
    start = 0
    for size in split_sizes(ctx.node, [None, ctx.maybe(1, "split")], (0, *x.shape)):
        made.append(take(ctx.builder, x, axis, range(start, start + size)) if size else None)
        start += size
    return made


def _gather(ctx: NodeContext) -> Value:
    if isinstance(ctx.args[0], FoldedValue):  # rows of a table, for the indices that the model is given
        table = ctx.const(0, "table")
        if ctx.attr("axis", 0) != 0 or table.ndim != 2:
            raise ctx.unsupported(f"looks up axis {ctx.attr('axis', 0)} of a constant of shape {table.shape}")
        t = ctx.builder.tensor(ctx.value(1))
        at = ctx.builder.add(L.Embedding(table), t.node)
        return Tensor(at, (*t.shape, table.shape[1]), (*t.order, len(t.shape)))
    x = ctx.value()
    axis, indices = ctx.axis(ctx.attr("axis", 0)), ctx.const(1, "indices")
    n = x.shape[axis]
    if n is None or indices.ndim > 1:
        raise ctx.unsupported(f"gathers {indices.shape} places of an axis of {n or 'open size'}")
    made = take(ctx.builder, x, axis, indices.ravel())
    if indices.ndim:
        return made
    shape = tuple(m for i, m in enumerate(made.shape) if i != axis)
    return ctx.builder.reshape(made, shape)  # type: ignore[arg-type]


def _pad(ctx: NodeContext) -> Value:
    x, mode = ctx.value(), ctx.attr("mode", "constant")
    rank = len(x.shape) + 1
    pads = ctx.ints("pads", 1)
    value: Any = ctx.maybe(2, "value") if ctx.has(2) else ctx.attr("value", 0.0)
    given = ctx.maybe(3, "axes")
    axes = list(range(rank)) if given is None else [int(a) % rank for a in given]
    if pads is None or len(pads) != 2 * len(axes):
        raise ModelFormatError(f"its pads {pads} do not fit {len(axes)} axes")
    pairs = {a: (pads[i], pads[i + len(axes)]) for i, a in enumerate(axes)}
    if any(pairs.get(0, ())):
        raise ctx.unsupported("pads the batch axis")
    constant = float(np.ravel(value)[0])
    return pad(ctx.builder, x, {a - 1: pair for a, pair in sorted(pairs.items()) if a}, mode, constant)


# -- sums over axes -------------------------------------------------------------------


def _reduce(kind: Any, total: bool = False) -> Callable[[NodeContext], Value]:
    def build(ctx: NodeContext) -> Value:
        x = ctx.value()
        rank = len(x.shape) + 1
        axes = axes_of(ctx.node, [None, ctx.maybe(1, "axes")])
        ctx.attr("axes")
        keep, nothing = bool(ctx.attr("keepdims", 1)), ctx.attr("noop_with_empty_axes", 0)
        if not axes:
            if nothing:
                return x
            raise ctx.unsupported("sums over all axes, the batch's too", "Name the axes")
        places = [ctx.axis(a, rank) for a in axes]
        made = ctx.builder.pool_all(x, places, kind, keep)
        if not total:
            return made
        if None in x.shape:
            raise ctx.unsupported("sums over axes whose size the file leaves open", "Fix the size")
        count = math.prod(x.shape[a] for a in places)  # type: ignore[misc]
        return ctx.builder.affine(made, np.array(float(count)), np.array(0.0))

    return build


#: How each operator is built.
MOVES: dict[str, Callable[[NodeContext], Any]] = {
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "ReduceMax": _reduce(L.GlobalMaxPool),
    "ReduceMean": _reduce(L.GlobalAveragePool),
    "ReduceSum": _reduce(L.GlobalAveragePool, total=True),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
