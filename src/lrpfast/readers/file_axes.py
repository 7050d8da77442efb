"""Moves of a file's axes, the batch among them: what is permuted, split, joined, added or dropped.

Axes here are the file's, which count the batch; see `batch_axis`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..budget import take as count
from ..errors import ShapeError, UnsupportedLayerError
from .axis_ops import fixed, repeat, take
from .batch_axis import BATCH, FIRST, BatchAxis, of_axes, reshaped
from .channels_first import Builder, Value, open_size
from .input_shape import OPEN

#: Two sizes of the batch, for which shapes are computed; twice the same where the file fixes it.
Batches = tuple[int, int]
Sizes = Sequence[int]


def shown(value: Value) -> str:
    """The file's shape of a value, for a message."""
    names = []
    for axis in value.batch.axes(len(value.shape)):
        atoms = ["batch" if a == BATCH else "?" if value.shape[a] is None else str(value.shape[a]) for a in axis]
        names.append(" * ".join(atoms))
    return f"({', '.join(names)})"


def permute(builder: Builder, value: Value, dims: Sequence[int]) -> Value:
    """The axes in another order; nothing moves."""
    rank = value.rank
    dims = [d % rank if -rank <= d < rank else d for d in dims]
    if sorted(dims) != list(range(rank)):
        raise ShapeError(f"it reorders the axes {tuple(dims)} of a tensor of {rank}")
    if dims == list(range(rank)):
        return value
    axes = value.batch.axes(len(value.shape))
    batch, order = of_axes([axes[d] for d in dims])
    return builder.transpose(value, order, batch)


def file_sizes(value: Value, batches: Batches, which: int) -> tuple[int, ...]:
    """The file's shape for the first or the second size of the batch; numbers stand for sizes that are left open."""
    opened = tuple(OPEN[i % len(OPEN)][which] if n is None else n for i, n in enumerate(value.shape))
    sizes = value.batch.sizes(opened, batches[which])
    return sizes  # type: ignore[return-value]


def view(builder: Builder, value: Value, target: tuple[Sizes, Sizes], batches: Batches) -> Value:
    """The values in another shape, given for two sizes of the batch."""
    before = [file_sizes(value, batches, i) for i in (0, 1)]
    if [tuple(sizes) for sizes in target] == before:
        return value
    if [math.prod(sizes) for sizes in target] != [math.prod(sizes) for sizes in before] or 0 in target[0]:
        if None in value.shape:
            raise open_size(value.shape)
        raise ShapeError(f"it cannot make ({', '.join(_symbolic(target, batches))}) of {shown(value)}")
    shape = tuple(OPEN[i % len(OPEN)][0] if n is None else n for i, n in enumerate(value.shape))
    pairs = [(a, a) if (a, b) in OPEN and None in value.shape else (a, b) for a, b in zip(*target, strict=True)]
    result = reshaped(value.batch, shape, (*zip(*pairs, strict=True),) if pairs else ((), ()), batches)  # type: ignore[arg-type]
    if result is None and None in value.shape:
        raise open_size(value.shape)
    if result is None:
        raise UnsupportedLayerError(
            f"cuts the batch axis, or joins samples: a tensor of shape {shown(value)} becomes "
            f"({', '.join(_symbolic(target, batches))}). Keep samples apart"
        )
    batch, sizes = result
    opened = {number for i, n in enumerate(value.shape) if n is None for number in OPEN[i % len(OPEN)][:1]}
    return builder.reshape(value, [None if n in opened else n for n in sizes], batch)


def _symbolic(target: tuple[Sizes, Sizes], batches: Batches) -> list[str]:
    """Sizes for a message."""
    names = []
    for a, b in zip(*target, strict=False):
        times = a // batches[0]
        varies = a != b and (a, b) == tuple(times * n for n in batches)
        names.append((f"{times} * batch" if times > 1 else "batch") if varies else str(a))
    return names


def squeeze(builder: Builder, value: Value, dims: Sequence[int]) -> Value:
    """The tensor without axes, which are of size 1."""
    gone = [value.axis(d) for d in dims]
    for axis in gone:
        if value.shape[axis] != 1:
            raise ShapeError(f"it takes away axis {axis} of samples of shape {value.shape}, which is not of size 1")
    shape = [n for a, n in enumerate(value.shape) if a not in gone]
    return builder.reshape(value, shape, value.batch.dropped(gone))


def unsqueeze(builder: Builder, value: Value, dim: int) -> Value:
    """The tensor with an axis of size 1 put in."""
    rank = value.rank + 1
    if not -rank <= dim < rank:
        raise ShapeError(f"it puts an axis at {dim} of {rank}")
    axes = value.batch.axes(len(value.shape))
    before = [atom for axis in axes[: dim % rank] for atom in axis]
    at = sum(atom != BATCH for atom in before)
    batch = value.batch if BATCH in before else replace(value.batch, at=value.batch.at + 1)
    return builder.reshape(value, (*value.shape[:at], 1, *value.shape[at:]), batch)


def aligned(builder: Builder, values: Sequence[Value], rank: int = 0) -> list[Value]:
    """The values with as many axes each, ``rank`` at least, so that they meet as NumPy has it: from the last axis."""
    rank = max(rank, *(value.rank for value in values))
    result = []
    for value in values:
        for _ in range(rank - value.rank):
            value = unsqueeze(builder, value, 0)
        result.append(value)
    if len({_meeting(value) for value in result}) > 1:
        raise UnsupportedLayerError(
            f"combines tensors of shapes {', '.join(map(shown, values))}, whose batch axes do not meet. Give all the "
            "same number of axes"
        )
    return result


def _meeting(value: Value) -> tuple[Any, ...]:
    batch, shape = value.batch, value.shape
    return (batch, *(shape[a] for a in (batch.at - 1,) if batch.outer), *(shape[a] for a in (batch.at,) if batch.inner))


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether arrays hold the same numbers, but for the rounding of a product of matrices, which may differ by row."""
    if a.dtype.kind != "f" or np.array_equal(a, b):
        return np.array_equal(a, b)
    finite = np.isfinite(a)
    off = 64 * np.finfo(a.dtype).eps * np.abs(a[finite]).max(initial=0)
    return np.array_equal(finite, np.isfinite(b)) and bool(
        (np.abs(a - b, where=finite, out=np.zeros_like(a)) <= off).all()
    )


def sample_array(value: Value, arrays: tuple[np.ndarray, np.ndarray], batches: Batches) -> np.ndarray | None:
    """A constant that meets a tensor, without the batch axis; None where it differs between samples.

    Parameters
    ----------
    value : Value
        Of at least as many axes as the arrays.
    arrays : pair of array
        The constant for two sizes of the batch.
    batches : pair of int
    """
    first, second = (a.reshape((1,) * (value.rank - a.ndim) + a.shape) for a in arrays)
    at, batch = value.batch.position, value.batch
    outer = value.shape[batch.at - 1] if batch.outer else 1
    inner = value.shape[batch.at] if batch.inner else 1
    ones = (1,) * (batch.outer + batch.inner)
    head, tail = first.shape[:at], first.shape[at + 1 :]
    if second.shape[:at] != head or second.shape[at + 1 :] != tail:
        return None
    if first.shape[at] == second.shape[at] == 1:
        return first.reshape((*head, *ones, *tail)) if first is second or np.array_equal(first, second) else None
    if outer is None or inner is None:
        return None
    whole = [(outer, n, inner) for n in batches]
    if [a.shape[at] for a in (first, second)] != [math.prod(w) for w in whole]:
        return None
    parts = [a.reshape((*head, *w, *tail)) for a, w in zip((first, second), whole, strict=True)]
    row = np.take(parts[0], [0], at + 1)
    if not all(_same(part, np.broadcast_to(row, part.shape)) for part in parts):
        return None
    sizes = (*((outer,) if batch.outer else ()), *((inner,) if batch.inner else ()))
    return row.reshape((*head, *sizes, *tail))


def expand(builder: Builder, value: Value, target: tuple[Sizes, Sizes], batches: Batches) -> Value:
    """Axes of size 1 repeated, and axes put before the others; -1 leaves one as it is."""
    first, second = map(tuple, target)
    for _ in range(len(first) - value.rank):
        value = unsqueeze(builder, value, 0)
    if len(first) < value.rank:
        raise ShapeError(f"it cannot stretch {shown(value)} to {first}")
    before = [file_sizes(value, batches, i) for i in (0, 1)]
    for dim, axis in enumerate(value.batch.axes(len(value.shape))):
        size, sizes = (first[dim], second[dim]), (before[0][dim], before[1][dim])
        if size in ((-1, -1), (1, 1), sizes):
            continue
        if BATCH in axis or sizes != (1, 1):
            raise UnsupportedLayerError(f"stretches {shown(value)} to ({', '.join(_symbolic(target, batches))})")
        if size[0] != size[1]:
            raise UnsupportedLayerError("stretches an axis to a size that follows from the batch's")
        value = repeat(builder, value, axis[0], size[0])
    return value


def _batch_axis_of(pair: tuple[np.ndarray, ...], batches: Batches) -> int:
    """The axis along which indices name every sample once, in order."""
    for axis in range(pair[0].ndim):
        if [a.shape[axis] for a in pair] != list(batches):
            continue
        orders = [np.arange(n).reshape([n if i == axis else 1 for i in range(pair[0].ndim)]) for n in batches]
        if all(np.array_equal(a, np.broadcast_to(o, a.shape)) for a, o in zip(pair, orders, strict=True)):
            return axis
    raise UnsupportedLayerError("takes some samples of the batch, or mixes them")


def _without(index: np.ndarray, axis: int) -> np.ndarray:
    """Indices without an axis along which they do not vary."""
    row = index.take([0], axis)
    if not np.array_equal(index, np.broadcast_to(row, index.shape)):
        raise UnsupportedLayerError("takes other values of each sample")
    return np.asarray(row.squeeze(axis))


def gather(
    builder: Builder, value: Value, first: int, indices: Sequence[tuple[np.ndarray, np.ndarray]], batches: Batches
) -> Value:
    """Values at indices on axes side by side, from ``first`` on; the result's axes are the indices', as NumPy has it.

    Each index is a pair for the two sizes of the batch. On the batch's axis it must name every sample once, in order.
    """
    count = len(indices)
    pairs = [np.broadcast_arrays(*(index[which] for index in indices)) for which in (0, 1)]
    full = list(zip(*pairs, strict=True))
    at, result_at = value.batch.position - first, 0
    if 0 <= at < count and value.batch.whole:
        of_batch = full.pop(at)
        result_at = _batch_axis_of(of_batch, batches)
        full = [tuple(_without(a, result_at) for a in pair) for pair in full]
    elif 0 <= at < count:
        raise UnsupportedLayerError("indexes an axis that the batch is joined with")
    if any(not np.array_equal(a, b) for a, b in full):
        raise UnsupportedLayerError("indexes by constants that depend on the batch's size")
    # of the sample: head, the axes that are indexed, and the rest
    dims = [first + i for i in range(count) if first + i != value.batch.position]
    axes = [value.axis(dim) for dim in dims]
    sizes = [fixed(value, a) for a in axes]
    start = axes[0] if axes else sum(len(a) - (BATCH in a) for a in value.batch.axes(len(value.shape))[:first])
    shape = np.broadcast_shapes(*(pair[0].shape for pair in full)) if full else ()
    wrapped = [np.where(pair[0] < 0, pair[0] + n, pair[0]) for pair, n in zip(full, sizes, strict=True)]
    head, tail = value.shape[:start], value.shape[start + len(axes) :]
    batch = value.batch
    inside = 0 <= at < count
    moved = replace(builder.tensor(value), batch=FIRST)
    if axes:
        flat = np.asarray(np.ravel_multi_index(np.broadcast_arrays(*wrapped), sizes))
        joined: Value = builder.reshape(moved, (*head, math.prod(sizes), *tail))
        joined = take(builder, joined, start, flat.ravel())
        moved = builder.tensor(builder.reshape(joined, (*head, *shape, *tail)))
    if inside:
        batch = BatchAxis(start + result_at)
    elif batch.at > start:
        batch = replace(batch, at=batch.at - len(axes) + len(shape))
    return replace(moved, batch=batch)


def gather_along(
    builder: Builder, value: Value, dim: int, indices: tuple[np.ndarray, np.ndarray], batches: Batches
) -> Value:
    """Values at constant places of one axis, other ones at every place of the other axes (take_along_axis).

    ``dim`` is the file's axis; ``indices`` are the places for two sizes of the batch, the same for every sample.
    """
    axis, at, whole = value.axis(dim), value.batch.position, file_sizes(value, batches, 0)
    if indices[0].ndim != value.rank or any(
        n > m for i, (n, m) in enumerate(zip(indices[0].shape, whole, strict=True)) if i != dim % value.rank
    ):
        raise ShapeError(f"its indices of shape {indices[0].shape} do not fit {shown(value)}")
    row = sample_array(value, indices, batches)
    if row is None or indices[0].shape[at] != whole[at]:
        raise UnsupportedLayerError("takes other values of each sample, or of some samples alone")
    sizes = [fixed(value, a) for a in range(len(value.shape))]
    row = np.where(row < 0, row + sizes[axis], row).astype(np.int64)
    if not row.size or not 0 <= row.min() <= row.max() < sizes[axis]:
        raise ShapeError(f"its indices do not fit an axis of {sizes[axis]} values")
    count(8 * len(sizes) * row.size, f"{row.size:,} places")
    places = np.indices(row.shape)
    places[axis] = row
    flat = builder.reshape(replace(builder.tensor(value), batch=FIRST), (math.prod(sizes),))
    taken = take(builder, flat, 0, np.ravel_multi_index(tuple(places), sizes).ravel())
    return replace(builder.tensor(builder.reshape(taken, row.shape)), batch=value.batch)
