"""Operations that move, join and select values; part of the table in `ops`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ShapeError
from ...model import layers as L
from ..axis_ops import MOST, fixed, pad, repeat
from ..channels_first import MAX_NODES, Value
from .operation import BATCH, Batch, Operation, is_sizes, is_value, sample_axes, select


def _shape(op: Operation, a: Any, out_type: Any = None) -> Any:
    t = op.tensor(a)
    return [BATCH, *(fixed(t, axis) for axis in range(len(t.shape)))]


def _concatenate(op: Operation, a: Any, axis: Any = 0) -> Any:
    if not any(map(is_value, a)):
        return [n for part in a for n in (part if isinstance(part, list) else np.ravel(part).tolist())]
    values = [op.tensor(value) for value in a]
    position = op.axis(axis, len(values[0].shape))
    return values[0] if len(values) == 1 else op.builder.merge(L.Concat(0), values, position)


def _stack(op: Operation, a: Any, axis: Any = 0) -> Any:
    if is_sizes(a):
        return a
    values = [op.tensor(value) for value in a]
    at = op.axis(axis, len(values[0].shape) + 1)
    return _concatenate(op, [_with_one(op, value, at) for value in values], at + 1)


def _with_one(op: Operation, value: Any, at: int) -> Value:
    return op.builder.reshape(value, (*value.shape[:at], 1, *value.shape[at:]))


def _reshape(op: Operation, a: Any, shape: Any) -> Any:
    t, sizes = op.tensor(a), list(shape) if isinstance(shape, (list, tuple, np.ndarray)) else [shape]
    sizes = [int(n) if isinstance(n, np.integer) else n for n in sizes]
    count = math.prod(fixed(t, axis) for axis in range(len(t.shape)))
    batch, sizes = sizes[0], sizes[1:]
    batch = None if isinstance(batch, Batch) else batch
    if sizes.count(-1) == 1 and batch is None:
        known = math.prod(n for n in sizes if n != -1)
        sizes[sizes.index(-1)] = count // known if known else 0
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in sizes)
    if batch not in (None, -1) or not sizes or not whole or math.prod(sizes) != count:
        raise op.unsupported(
            f"reshapes samples of shape {t.shape} to {shape}, which mixes samples or fixes their number",
            "Use a Reshape layer, or -1 for the batch axis alone",
        )
    return op.builder.reshape(t, tuple(sizes))


def _transpose(op: Operation, a: Any, axes: Any = None) -> Any:
    t = op.tensor(a)
    axes = list(axes) if axes is not None else list(range(len(t.shape), -1, -1))
    if sorted(n % len(axes) for n in axes) != list(range(len(t.shape) + 1)) or axes[0] != 0:
        raise op.unsupported(f"transposes samples of shape {t.shape} to the axes {axes}", "Keep the batch axis first")
    return op.builder.transpose(t, [n % len(axes) - 1 for n in axes[1:]])


def _swapaxes(op: Operation, a: Any, axis1: Any, axis2: Any) -> Any:
    order = list(range(len(op.tensor(a).shape)))
    i, j = (op.axis(axis, len(order)) for axis in (axis1, axis2))
    order[i], order[j] = order[j], order[i]
    return op.builder.transpose(a, order)


def _moveaxis(op: Operation, a: Any, source: Any, destination: Any) -> Any:
    rank = len(op.tensor(a).shape)
    if isinstance(source, list) or isinstance(destination, list):
        raise op.unsupported("moves several axes at once", "Use a Permute layer")
    order = [i for i in range(rank) if i != op.axis(source, rank)]
    order.insert(op.axis(destination, rank), op.axis(source, rank))
    return op.builder.transpose(a, order)


def _expand_dims(op: Operation, a: Any, axis: Any) -> Any:
    t = op.tensor(a)
    for at in sorted(op.axis(i, len(t.shape) + 1) for i in (axis if isinstance(axis, list) else [axis])):
        t = op.builder.plain(_with_one(op, t, at))
    return t


def _squeeze(op: Operation, a: Any, axis: Any = None) -> Any:
    t = op.tensor(a)
    ones = [i for i, n in enumerate(t.shape) if n == 1]
    axes = ones if axis is None else sample_axes(op, axis, len(t.shape))
    if not set(axes) <= set(ones):
        raise ShapeError(f"{op.layer}: it squeezes axes of samples of shape {t.shape} that are not 1")
    return op.builder.reshape(t, tuple(fixed(t, i) for i in range(len(t.shape)) if i not in axes))


def _get_item(op: Operation, a: Any, key: Any) -> Any:
    """a[key], as NumPy reads the key; the batch axis must stay whole."""
    if is_sizes(a):
        (index,) = key if isinstance(key, (list, tuple)) else (key,)
        return a[index]
    t = op.tensor(a)
    keys = list(key) if isinstance(key, (list, tuple)) else [key]
    used = sum(k is not None and k is not Ellipsis for k in keys)
    if Ellipsis not in keys:
        keys.append(Ellipsis)
    at = keys.index(Ellipsis)
    keys[at : at + 1] = [slice(None)] * (len(t.shape) + 1 - used)
    if used > len(t.shape) + 1 or not keys or keys[0] != slice(None):
        raise op.unsupported(f"takes {key!r:.60} of a batch of samples of shape {t.shape}", "Keep the batch axis whole")
    axis, value = 0, t
    shape: list[int | None] = []
    for k in keys[1:]:
        if k is None:
            shape.append(1)
            continue
        if isinstance(k, slice):
            n = value.shape[axis]
            if k != slice(None):
                value = op.builder.plain(select(op.builder, value, axis, range(*k.indices(fixed(value, axis)))))
                n = value.shape[axis]
            shape.append(n)
        elif isinstance(k, int) and not isinstance(k, bool):
            value = op.builder.plain(select(op.builder, value, axis, [k]))
        else:
            raise op.unsupported(f"takes {key!r:.60} of its input", "Whole numbers and slices work")
        axis += 1
    return op.builder.reshape(value, tuple(shape))


def _split(op: Operation, a: Any, sections: Any, axis: Any = 0) -> Any:
    t = op.tensor(a)
    at = op.axis(axis, len(t.shape))
    n = fixed(t, at)
    if isinstance(sections, int):
        if not 1 <= sections <= MAX_NODES or n % sections:
            raise ShapeError(f"{op.layer}: it splits an axis of {n} into {sections} equal parts")
        ends = [n // sections * (i + 1) for i in range(sections)]
    elif op.layer.keras >= 3:  # where each part ends
        ends = [*(int(i) for i in sections), n]
    else:  # the parts' sizes, of which one may be left open
        sizes = [int(i) for i in sections]
        sizes = [n - sum(sizes) - 1 if size == -1 else size for size in sizes]
        ends = [int(end) for end in np.cumsum(sizes)]
    starts = [0, *ends[:-1]]
    if ends[-1] != n or any(end <= start for start, end in zip(starts, ends, strict=True)):
        raise ShapeError(f"{op.layer}: it splits an axis of {n} at {ends[:-1]}")
    return [select(op.builder, t, at, range(start, end)) for start, end in zip(starts, ends, strict=True)]


def _unstack(op: Operation, a: Any, axis: Any = 0, num: Any = None) -> Any:
    t = op.tensor(a)
    at = op.axis(axis, len(t.shape))
    return [_squeeze(op, select(op.builder, t, at, [i]), at + 1) for i in range(fixed(t, at))]


def _take(op: Operation, a: Any, indices: Any, axis: Any = None) -> Any:
    at = sample_axes(op, axis, len(op.tensor(a).shape))[0]
    index = np.asarray(indices)
    if index.ndim > 1 or index.dtype.kind not in "iu":
        raise op.unsupported("takes indices that are not a row of whole numbers")
    value = select(op.builder, a, at, index.reshape(-1).tolist())
    return _squeeze(op, value, at + 1) if index.ndim == 0 else value


def _flip(op: Operation, a: Any, axis: Any = None) -> Any:
    for at in sample_axes(op, axis, len(op.tensor(a).shape)):
        a = select(op.builder, a, at, range(fixed(a, at))[::-1])
    return a


def _repeat(op: Operation, a: Any, repeats: Any, axis: Any = None) -> Any:
    if not isinstance(repeats, int):
        raise op.unsupported("repeats each value another number of times", "One number for all works")
    return repeat(op.builder, a, sample_axes(op, axis, len(op.tensor(a).shape))[0], repeats)


def _tile(op: Operation, a: Any, repeats: Any) -> Any:
    t, counts = op.tensor(a), list(repeats) if isinstance(repeats, list) else [repeats]
    counts = [1] * (len(t.shape) + 1 - len(counts)) + counts
    if len(counts) > len(t.shape) + 1 or counts[0] != 1 or not all(isinstance(n, int) and n > 0 for n in counts):
        raise op.unsupported(f"tiles samples of shape {t.shape} by {repeats}", "The batch axis must stay as it is")
    value: Value = t
    for axis, count in enumerate(counts[1:]):
        n = fixed(t, axis)
        if count * n > MOST:
            raise op.unsupported(f"tiles an axis of {n} {count} times", f"The most is {MOST:,} values")
        if count > 1:
            value = select(op.builder, value, axis, [*range(n)] * count)
    return value


def _pad(op: Operation, a: Any, pairs: Any, mode: Any = "constant", constant_values: Any = None) -> Any:
    t, pairs = op.tensor(a), np.asarray(pairs).tolist()
    pairs = [pairs] * (len(t.shape) + 1) if isinstance(pairs, list) and pairs and isinstance(pairs[0], int) else pairs
    if not isinstance(pairs, list) or len(pairs) != len(t.shape) + 1 or any(pairs[0]):
        raise op.unsupported(
            f"pads samples of shape {t.shape} by {pairs}", "Give a pair for each axis, 0 for the batch"
        )
    edges = {axis: (before, after) for axis, (before, after) in enumerate(pairs[1:])}
    return pad(op.builder, t, edges, str(mode).lower(), float(constant_values or 0.0))


#: Operations of this file.
MOVES: dict[str, Callable[..., Any]] = {
    "shape": _shape,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "split": _split,
    "reshape": _reshape,
    "transpose": _transpose,
    "swapaxes": _swapaxes,
    "moveaxis": _moveaxis,
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "get_item": _get_item,
    "take": _take,
    "flip": _flip,
    "repeat": _repeat,
    "tile": _tile,
    "pad": _pad,
}
