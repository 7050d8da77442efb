"""ONNX operators that move, drop, repeat or sum up values, as layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import ModelFormatError, ShapeError
from ...model import layers as L
from ..channels_first import Tensor, Value
from ..places import pad, take
from .fold import Known, axes_of, reshaped, slices, split_sizes, squeezed, unsqueezed
from .use import Use

#: Numbers that stand for axes the file leaves open, where shapes are computed.
_OPEN = ((6007, 6011), (5003, 5009), (4001, 4003), (3001, 3011))


def whole_shape(use: Use, shape: Any, which: int) -> tuple[int, ...]:
    """A tensor's shape with its batch axis, for the first or the second size of a batch."""
    opened = [_OPEN[i % len(_OPEN)][which] if n is None else n for i, n in enumerate(shape)]
    return (use.batches[which], *opened)


def sample_shape(use: Use, pair: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of one sample, of the two shapes that two batches would have."""
    first, second = map(tuple, pair)
    if not first or (first[0], second[0]) != use.batches or first[1:] != second[1:]:
        shown = tuple("batch" if a == use.batches[0] != b else a for a, b in zip(first, second, strict=False))
        raise use.unsupported(
            f"makes a tensor of shape {shown}, whose first axis is not the batch's alone",
            "Keep the batch axis first and samples apart",
        )
    return first[1:]


# -- shapes -----------------------------------------------------------------------


def _shape(use: Use) -> Known:
    rank = len(use.value().shape) + 1
    start, end = use.attr("start", 0), use.attr("end", rank)
    return Known(*(np.array(whole_shape(use, use.value().shape, i)[start:end], np.int64) for i in (0, 1)))


def _size(use: Use) -> Known:
    return Known(*(np.array(math.prod(whole_shape(use, use.value().shape, i)), np.int64) for i in (0, 1)))


def _to(use: Use, target: Callable[[int], tuple[int, ...]]) -> Value:
    x = use.value()
    pair = [target(which) for which in (0, 1)]
    if None in x.shape:
        wholes = [whole_shape(use, x.shape, i) for i in (0, 1)]
        if pair == wholes:
            return x
        flat = [(whole[0], math.prod(whole[1:])) for whole in wholes]
        if pair == flat:
            return use.builder.reshape(x, (-1,))
        raise use.unsupported(f"gives {x.shape}, with sizes that the file leaves open, another shape", "Fix the sizes")
    return use.builder.reshape(x, sample_shape(use, pair))


def _reshape(use: Use) -> Value:
    known, zero = use.known(1, "shape"), use.attr("allowzero", 0)
    shape = use.value().shape
    return _to(use, lambda i: reshaped(whole_shape(use, shape, i), (known.first, known.second)[i], zero))


def _flatten(use: Use) -> Value:
    axis = use.attr("axis", 1)
    shape = use.value().shape

    def target(i: int) -> tuple[int, ...]:
        whole = whole_shape(use, shape, i)
        at = axis + len(whole) if axis < 0 else axis
        return math.prod(whole[:at]), math.prod(whole[at:])

    return _to(use, target)


def _squeeze(use: Use) -> Value:
    axes, x = use.ints("axes", 1), use.value()
    whole = (2, *x.shape)  # whatever the batch is, its axis stays
    if axes is None and use.batches == (1, 1):
        raise use.unsupported("takes away every axis of one value, the batch's too", "Name the axes")
    if any(a in (0, -len(whole)) for a in axes or ()):
        raise use.unsupported("takes away the batch axis", "Keep the batch axis first")
    gone = squeezed(whole, axes)
    return _reshape_to(use, tuple(n for i, n in enumerate(whole) if i not in gone)[1:])


def _unsqueeze(use: Use) -> Value:
    axes, x = use.ints("axes", 1), use.value()
    made = unsqueezed((0, *x.shape), axes or ())
    if made[0] != 0:
        raise use.unsupported("puts an axis before the batch's", "Keep the batch axis first")
    return _reshape_to(use, made[1:])


def _reshape_to(use: Use, shape: tuple[Any, ...]) -> Value:
    x = use.value()
    if None not in x.shape or shape == x.shape:
        return use.builder.reshape(x, shape)
    t = use.builder.tensor(x)
    sizes = [n for n in shape if n != 1]
    if shape.count(None) == 1 and sizes == [n for n in t.shape if n != 1]:
        t = use.builder.plain(t)
        at = use.builder.place(L.Reshape(tuple(-1 if n is None else n for n in shape)), t.at)
        return Tensor(at, shape, tuple(range(len(shape))))
    raise use.unsupported(f"gives {x.shape}, with sizes that the file leaves open, another shape", "Fix the sizes")


def _transpose(use: Use) -> Value:
    rank = len(use.value().shape) + 1
    axes = use.attr("perm") or tuple(reversed(range(rank)))
    if sorted(axes) != list(range(rank)):
        raise ShapeError(f"perm {axes} does not fit an input of {rank} axes")
    if axes[0] != 0:
        raise use.unsupported(f"moves the batch axis (perm {axes})", "Keep the batch axis first")
    return use.builder.transpose(use.value(), [a - 1 for a in axes[1:]])


# -- cutting and joining --------------------------------------------------------------


def _slice(use: Use) -> Value:
    x = use.value()
    args = [None, *(use.maybe(i, "slice") for i in range(1, len(use.args)))]
    for key in ("starts", "ends", "axes"):
        use.attr(key)
    value: Value = x
    for axis, cut in slices(use.node, args, len(x.shape) + 1).items():
        if axis == 0:
            whole = cut.indices(1 << 30)
            if whole != (0, 1 << 30, 1) and not (use.batches == (1, 1) and cut.indices(1) == (0, 1, 1)):
                raise use.unsupported("cuts the batch axis", "Samples must not mix")
            continue
        n = x.shape[axis - 1]
        if n is None:
            if (cut.start, cut.step) == (0, 1) and cut.stop is not None and cut.stop >= 1 << 30:
                continue
            raise use.unsupported("cuts an axis whose size the file leaves open", "Fix the size")
        value = take(use.builder, value, axis - 1, range(n)[cut])
    return value


def _split(use: Use) -> list[Value | None]:
    """The parts; what is empty is None, as no layer makes it."""
    x = use.value()
    axis = use.axis(use.attr("axis", 0))
    for key in ("split", "num_outputs"):
        use.attr(key)
    made: list[Value | None] = []
    start = 0
    for size in split_sizes(use.node, [None, use.maybe(1, "split")], (0, *x.shape)):
        made.append(take(use.builder, x, axis, range(start, start + size)) if size else None)
        start += size
    return made


def _gather(use: Use) -> Value:
    if isinstance(use.args[0], Known):  # rows of a table, for the indices that the model is given
        table = use.const(0, "table")
        if use.attr("axis", 0) != 0 or table.ndim != 2:
            raise use.unsupported(f"looks up axis {use.attr('axis', 0)} of a constant of shape {table.shape}")
        t = use.builder.tensor(use.value(1))
        at = use.builder.place(L.Embedding(table), t.at)
        return Tensor(at, (*t.shape, table.shape[1]), (*t.order, len(t.shape)))
    x = use.value()
    axis, indices = use.axis(use.attr("axis", 0)), use.const(1, "indices")
    n = x.shape[axis]
    if n is None or indices.ndim > 1:
        raise use.unsupported(f"gathers {indices.shape} places of an axis of {n or 'open size'}")
    made = take(use.builder, x, axis, indices.ravel())
    if indices.ndim:
        return made
    shape = tuple(m for i, m in enumerate(made.shape) if i != axis)
    return use.builder.reshape(made, shape)  # type: ignore[arg-type]


def _pad(use: Use) -> Value:
    x, mode = use.value(), use.attr("mode", "constant")
    rank = len(x.shape) + 1
    pads = use.ints("pads", 1)
    value: Any = use.maybe(2, "value") if use.has(2) else use.attr("value", 0.0)
    given = use.maybe(3, "axes")
    axes = list(range(rank)) if given is None else [int(a) % rank for a in given]
    if pads is None or len(pads) != 2 * len(axes):
        raise ModelFormatError(f"its pads {pads} do not fit {len(axes)} axes")
    pairs = {a: (pads[i], pads[i + len(axes)]) for i, a in enumerate(axes)}
    if any(pairs.get(0, ())):
        raise use.unsupported("pads the batch axis")
    constant = float(np.ravel(value)[0])
    return pad(use.builder, x, {a - 1: pair for a, pair in sorted(pairs.items()) if a}, mode, constant)


# -- sums over axes -------------------------------------------------------------------


def _reduce(kind: Any, total: bool = False) -> Callable[[Use], Value]:
    def build(use: Use) -> Value:
        x = use.value()
        rank = len(x.shape) + 1
        axes = axes_of(use.node, [None, use.maybe(1, "axes")])
        use.attr("axes")
        keep, nothing = bool(use.attr("keepdims", 1)), use.attr("noop_with_empty_axes", 0)
        if not axes:
            if nothing:
                return x
            raise use.unsupported("sums over all axes, the batch's too", "Name the axes")
        places = [use.axis(a, rank) for a in axes]
        made = use.builder.pool_all(x, places, kind, keep)
        if not total:
            return made
        if None in x.shape:
            raise use.unsupported("sums over axes whose size the file leaves open", "Fix the size")
        count = math.prod(x.shape[a] for a in places)  # type: ignore[misc]
        return use.builder.affine(made, np.array(float(count)), np.array(0.0))

    return build


#: How each operator is built.
MOVES: dict[str, Callable[[Use], Any]] = {
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
