"""ATen operators that move, cut, repeat and pad values; part of the table in `torch_nodes`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..model import layers as L
from .channels_first import MAX_NODES
from .torch_graph import Call
from .torch_records import Batch

Converter = Callable[[Call], Any]


# -- shapes -------------------------------------------------------------------


def _view(call: Call) -> Any:
    x = call.tensor()
    return call.builder.reshape(x, call.sample_sizes(call.get("size", call.get("shape")), x.shape))


def _flatten(call: Call) -> Any:
    x = call.tensor()
    rank = len(x.shape)
    first, last = (call.axis(call.get(k, d), rank) for k, d in (("start_dim", 0), ("end_dim", -1)))
    middle = x.shape[first : last + 1]
    if None in middle and len(middle) < rank:
        raise ShapeError(f"the program leaves the size of its input open: {x.shape}")
    joined = -1 if None in middle else math.prod(middle)
    return call.builder.reshape(x, (*x.shape[:first], joined, *x.shape[last + 1 :]))


def _unflatten(call: Call) -> Any:
    x, sizes = call.tensor(), list(call.get("sizes"))
    at = call.axis(call.get("dim"), len(x.shape))
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = x.shape[at] // -math.prod(sizes)
    return call.builder.reshape(x, (*x.shape[:at], *sizes, *x.shape[at + 1 :]))


def _squeeze(call: Call) -> Any:
    x, dim = call.tensor(), call.get("dim")
    if dim is None:
        raise call.unsupported("drops the batch axis of a single sample", "Name the axes to squeeze")
    rank = len(x.shape)
    dims = dim if isinstance(dim, list) else [dim]
    gone = {call.axis(d, rank) for d in dims}
    shape = tuple(n for a, n in enumerate(x.shape) if a not in gone or n != 1)
    return _reshaped(call, x, shape)


def _unsqueeze(call: Call) -> Any:
    x = call.tensor()
    at = call.axis(call.get("dim"), len(x.shape) + 1)
    return _reshaped(call, x, (*x.shape[:at], 1, *x.shape[at:]))


def _reshaped(call: Call, x: Any, shape: tuple[int | None, ...]) -> Any:
    return call.builder.reshape(x, shape)  # type: ignore[arg-type]


def _permute(call: Call) -> Any:
    x, dims = call.tensor(), call.get("dims")
    rank = len(x.shape)
    if not dims or dims[0] % (rank + 1):
        raise call.unsupported("moves the batch axis")
    return call.builder.transpose(x, [call.axis(d, rank) for d in dims[1:]])


def _transpose(call: Call) -> Any:
    x = call.tensor()
    rank = len(x.shape)
    a, b = (call.axis(call.get(k, call.get(f"axis{k[-1]}")), rank) for k in ("dim0", "dim1"))
    axes = list(range(rank))
    axes[a], axes[b] = b, a
    return call.builder.transpose(x, axes)


def _movedim(call: Call) -> Any:
    x = call.tensor()
    rank = len(x.shape)
    given = [call.get(k) for k in ("source", "destination")]
    source, target = ([call.axis(d, rank) for d in (g if isinstance(g, list) else [g])] for g in given)
    axes = [a for a in range(rank) if a not in source]
    for to, a in sorted(zip(target, source, strict=True)):
        axes.insert(to, a)
    return call.builder.transpose(x, axes)


def _view_as(call: Call) -> Any:
    return _reshaped(call, call.tensor(), call.tensor("other").shape)


def _shuffled(call: Call, x: Any, inner: tuple[int, ...], axes: Sequence[int], shape: tuple[int, ...]) -> Any:
    """Axes taken apart, put in another order, and joined again."""
    return call.builder.reshape(call.builder.transpose(call.builder.reshape(x, inner), axes), shape)


def _channel_shuffle(call: Call) -> Any:
    x, groups = call.tensor(), call.get("groups")
    channels, *rest = (fixed(x, a) for a in range(len(x.shape)))
    inner = (groups, channels // groups, *rest)
    return _shuffled(call, x, inner, [1, 0, *range(2, len(inner))], x.shape)


def _pixel_shuffle(call: Call) -> Any:
    x, r = call.tensor(), call.get("upscale_factor")
    c, h, w = (fixed(x, a) for a in range(3))
    return _shuffled(call, x, (c // r**2, r, r, h, w), (0, 3, 1, 4, 2), (c // r**2, h * r, w * r))


def _pixel_unshuffle(call: Call) -> Any:
    x, r = call.tensor(), call.get("downscale_factor")
    c, h, w = (fixed(x, a) for a in range(3))
    return _shuffled(call, x, (c, h // r, r, w // r, r), (0, 2, 4, 1, 3), (c * r**2, h // r, w // r))


def _expand(call: Call) -> Any:
    x, sizes = call.tensor(), call.get("size")
    if len(sizes) != len(x.shape) + 1:
        raise call.unsupported("adds axes before the batch axis")
    return stretched(call, x, sizes[1:])


def stretched(call: Call, x: Any, sizes: Sequence[Any]) -> Any:
    """Axes of size 1 repeated."""
    for axis, n in enumerate(sizes):
        if isinstance(n, Batch):
            raise call.unsupported("stretches an axis to the batch's size")
        if n in (-1, x.shape[axis]):
            continue
        if x.shape[axis] != 1:
            raise ShapeError(f"it cannot stretch {x.shape} to {tuple(sizes)}")

        def up(rank: int, i: int, n: int = n) -> L.Layer:
            return L.UpSample(tuple(n if a == i else 1 for a in range(rank)))

        x = call.builder.along(x, axis, up)
    return x


def _repeat(call: Call) -> Any:
    x, times = call.tensor(), call.get("repeats", call.get("dims"))
    if len(times) != len(x.shape) + 1 or times[0] != 1:
        raise call.unsupported("repeats samples, or adds axes before the batch axis")
    for axis, n in enumerate(times[1:]):
        if n != 1:
            x = call.builder.merge(L.Concat(0), [x] * _few(n), axis)
    return x


# -- parts --------------------------------------------------------------------


def _cut(call: Call, x: Any, axis: int, start: int, end: int) -> Any:
    """The values from start to end along an axis."""
    n = x.shape[axis]
    if (start, end) == (0, n):
        return x

    def crop(rank: int, i: int) -> L.Layer:
        return L.Crop([(start, n - end) if a == i else (0, 0) for a in range(rank)])

    return call.builder.along(x, axis, crop)


def fixed(x: Any, axis: int) -> int:
    n = x.shape[axis]
    if n is None:
        raise ShapeError(f"the program leaves the size of its input open: {x.shape}")
    return n


def _slice(call: Call) -> Any:
    x, step = call.tensor(), call.get("step", 1)
    if call.get("dim", 0) % (len(x.shape) + 1) == 0 and not call.get("start") and (call.get("end") or 0) >= 2**62:
        return x  # x[:]
    axis = call.axis(call.get("dim", 0), len(x.shape))
    start, end, _ = slice(call.get("start"), call.get("end"), 1).indices(fixed(x, axis))
    if end <= start:
        raise call.unsupported("leaves nothing of its input")
    x = _cut(call, x, axis, start, end)
    if step == 1:
        return x
    # the largest of one value, every so many values: relevance goes where the value came from

    def every(rank: int, i: int) -> L.Layer:
        return L.MaxPool((1,) * rank, tuple(step if a == i else 1 for a in range(rank)))

    return call.builder.along(x, axis, every)


def _few(n: int) -> int:
    """A number of pieces to cut; a small file could ask for any."""
    if n > MAX_NODES:
        raise ShapeError(f"it takes an axis into {n:,} pieces, at most {MAX_NODES:,} are read")
    return n


def _picked(call: Call, x: Any, axis: int, indices: Sequence[int]) -> Any:
    """Values at indices along an axis: runs of neighbours are cut out and joined."""
    n = fixed(x, axis)
    if any(not -n <= i < n for i in indices) or not len(indices):
        raise ShapeError(f"it picks {list(indices)[:8]} of an axis of {n}")
    runs: list[list[int]] = []
    for i in (int(i) % n for i in indices):
        if runs and runs[-1][1] == i:
            runs[-1][1] += 1
        else:
            runs.append([i, i + 1])
    pieces = [_cut(call, x, axis, *run) for run in runs]
    return pieces[0] if len(pieces) == 1 else call.builder.merge(L.Concat(0), pieces, axis)


def _narrow(call: Call) -> Any:
    x = call.tensor()
    axis = call.axis(call.get("dim"), len(x.shape))
    n, start = fixed(x, axis), call.get("start")
    start %= n
    return _cut(call, x, axis, start, start + call.get("length"))


def _roll(call: Call) -> Any:
    x = call.tensor()
    shifts, dims = (v if isinstance(v, list) else [v] for v in (call.get("shifts"), call.get("dims", [])))
    if not dims:
        raise call.unsupported("rolls over all axes, the batch's too", "Name the axes")
    for shift, dim in zip(shifts, dims, strict=True):
        axis = call.axis(dim, len(x.shape))
        n = _few(fixed(x, axis))
        x = _picked(call, x, axis, [(i - shift) % n for i in range(n)])
    return x


def _select(call: Call) -> Any:
    x = call.tensor()
    axis = call.axis(call.get("dim"), len(x.shape))
    return _at(call, x, axis, call.get("index"))


def _at(call: Call, x: Any, axis: int, index: int) -> Any:
    one = _picked(call, x, axis, [index])
    return _reshaped(call, one, (*x.shape[:axis], *x.shape[axis + 1 :]))


def _index_select(call: Call) -> Any:
    x, index = call.tensor(), call.constant("index")
    assert index is not None
    return _picked(call, x, call.axis(call.get("dim"), len(x.shape)), [int(i) for i in np.ravel(index)])


def _index(call: Call) -> Any:
    x, given = call.tensor(), call.get("indices")
    used = [i for i, index in enumerate(given) if index is not None]
    if len(used) != 1 or not isinstance(given[used[0]], np.ndarray) or given[used[0]].ndim != 1:
        raise call.unsupported("indexes by other than one constant vector")
    index = given[used[0]]
    places = np.flatnonzero(index) if index.dtype == bool else index
    return _picked(call, x, call.axis(used[0], len(x.shape)), [int(i) for i in places])


def _flip(call: Call) -> Any:
    x = call.tensor()
    for dim in call.get("dims"):
        axis = call.axis(dim, len(x.shape))
        x = _picked(call, x, axis, range(_few(fixed(x, axis)))[::-1])
    return x


def _split(call: Call) -> list[Any]:
    x = call.tensor()
    axis = call.axis(call.get("dim", 0), len(x.shape))
    n = fixed(x, axis)
    sizes = call.get("split_sizes", call.get("split_size"))
    if call.op.base == "aten.chunk":
        sizes = -(-n // call.get("chunks"))
    if isinstance(sizes, int):
        _few(n // max(sizes, 1))
        sizes = [min(sizes, n - i) for i in range(0, n, sizes)]
    ends = np.cumsum(sizes).tolist()
    return [_cut(call, x, axis, end - size, end) for size, end in zip(sizes, ends, strict=True)]


def _unbind(call: Call) -> list[Any]:
    x = call.tensor()
    axis = call.axis(call.get("dim", 0), len(x.shape))
    return [_at(call, x, axis, i) for i in range(_few(fixed(x, axis)))]


def _pad(call: Call) -> Any:
    x, pads, mode = call.tensor(), list(call.get("pad", call.get("padding"))), call.get("mode", "constant")
    for kind, name in (("reflect", "reflection_pad"), ("replicate", "replication_pad")):
        mode = kind if name in call.op.base else mode
    value, rank = call.get("value") or 0, len(x.shape)
    pairs = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)]  # from the last axis
    if len(pairs) > rank:
        raise call.unsupported("pads the batch axis")
    if value and mode == "constant":  # zeros around what is shifted, and shifted back
        x = call.builder.affine(x, np.float64(1), np.float64(-value))
    for back, (before, after) in enumerate(pairs):
        axis = rank - 1 - back
        n = fixed(x, axis) if min(before, after) < 0 or mode not in ("constant", "reflect") else x.shape[axis]
        x = _cut(call, x, axis, max(0, -before), n - max(0, -after)) if min(before, after) < 0 else x
        pair = (max(0, before), max(0, after))
        if pair != (0, 0):
            x = _padded(call, x, axis, pair, mode)
    if value and mode == "constant":
        x = call.builder.affine(x, np.float64(1), np.float64(value))
    return x


def _padded(call: Call, x: Any, axis: int, pair: tuple[int, int], mode: str) -> Any:
    if mode in ("constant", "reflect"):
        kind = L.ZeroPad if mode == "constant" else L.ReflectPad

        def edges(rank: int, i: int) -> L.Layer:
            return kind([pair if a == i else (0, 0) for a in range(rank)])

        return call.builder.along(x, axis, edges)
    n = fixed(x, axis)
    _few(n + sum(pair) if mode == "circular" else sum(pair))
    if mode == "circular":
        indices = [i % n for i in range(-pair[0], n + pair[1])]
        parts = [indices[: pair[0]], indices[pair[0] + n :]]
    else:
        parts = [[0] * pair[0], [n - 1] * pair[1]]
    ends = [[_picked(call, x, axis, part)] if part else [] for part in parts]
    return call.builder.merge(L.Concat(0), [*ends[0], x, *ends[1]], axis)


def _upsample(interpolation: str) -> Converter:
    def convert(call: Call) -> Any:
        x = call.tensor("self") if call.get("self") is not None else call.tensor("input")
        if call.get("align_corners", False):
            raise call.unsupported("has align_corners=True", "These work: align_corners=False")
        rank, sizes = len(x.shape) - 1, call.get("output_size")
        if sizes is None:
            factors = call.get("scale_factors")
        else:
            factors = [m / n if n else 0.5 for m, n in zip(sizes, x.shape[1:], strict=True)]
        if len(factors) != rank or any(f < 1 or f != int(f) for f in factors):
            raise call.unsupported(f"scales by {factors}", "These work: whole numbers")
        return call.builder.window(L.UpSample(tuple(int(f) for f in factors), interpolation), x)

    return convert


#: Operators of this file, without their overloads.
MOVES: dict[str, Converter] = {
    "aten.view": _view,
    "aten._unsafe_view": _view,
    "aten.reshape": _view,
    "aten.flatten": _flatten,
    "aten.unflatten": _unflatten,
    "aten.squeeze": _squeeze,
    "aten.unsqueeze": _unsqueeze,
    "aten.permute": _permute,
    "aten.transpose": _transpose,
    "aten.swapaxes": _transpose,
    "aten.movedim": _movedim,
    "aten.view_as": _view_as,
    "aten.reshape_as": _view_as,
    "aten.channel_shuffle": _channel_shuffle,
    "aten.pixel_shuffle": _pixel_shuffle,
    "aten.pixel_unshuffle": _pixel_unshuffle,
    "aten.expand": _expand,
    "aten.repeat": _repeat,
    "aten.tile": _repeat,
    "aten.slice": _slice,
    "aten.narrow": _narrow,
    "aten.roll": _roll,
    "aten.select": _select,
    "aten.index_select": _index_select,
    "aten.index": _index,
    "aten.flip": _flip,
    "aten.split": _split,
    "aten.split_with_sizes": _split,
    "aten.chunk": _split,
    "aten.unbind": _unbind,
    "aten.pad": _pad,
    "aten.constant_pad_nd": _pad,
    **{f"aten.reflection_pad{rank}d": _pad for rank in (1, 2, 3)},
    **{f"aten.replication_pad{rank}d": _pad for rank in (1, 2, 3)},
    **{f"aten.upsample_nearest{rank}d": _upsample("nearest") for rank in (1, 2, 3)},
    "aten.upsample_linear1d": _upsample("bilinear"),
    "aten.upsample_bilinear2d": _upsample("bilinear"),
}
