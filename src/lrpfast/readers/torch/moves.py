"""ATen operators that move, cut, repeat and pad values; part of the table in `nodes`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...budget import check_layers
from ...budget import take as count
from ...errors import ShapeError
from ...model import layers as L
from ..places import INPUT_BYTES, Resize, fixed, interpolate, nearest, pad, stretched, take
from .graph import Call
from .records import Batch

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
    if any(isinstance(n, Batch) for n in sizes[1:]):
        raise call.unsupported("stretches an axis to the batch's size")
    return stretched(call.builder, x, [None if n == -1 else n for n in sizes[1:]])


def _repeat(call: Call) -> Any:
    x, times = call.tensor(), call.get("repeats", call.get("dims"))
    if len(times) != len(x.shape) + 1 or times[0] != 1:
        raise call.unsupported("repeats samples, or adds axes before the batch axis")
    for axis, n in enumerate(times[1:]):
        if n != 1:
            count(INPUT_BYTES * n, f"to repeat an axis {n:,} times")
            x = call.builder.merge(L.Concat(0), [x] * n, axis)
    return x


# -- parts --------------------------------------------------------------------


def _slice(call: Call) -> Any:
    x, step = call.tensor(), call.get("step", 1)
    if call.get("dim", 0) % (len(x.shape) + 1) == 0 and not call.get("start") and (call.get("end") or 0) >= 2**62:
        return x  # x[:]
    axis = call.axis(call.get("dim", 0), len(x.shape))
    start, end, _ = slice(call.get("start"), call.get("end"), 1).indices(fixed(x, axis))
    if end <= start:
        raise call.unsupported("leaves nothing of its input")
    return take(call.builder, x, axis, range(start, end, step))


def _few(call: Call, n: int) -> int:
    """A number of pieces to cut; a small file could ask for any."""
    check_layers(n, len(call.program.ops))
    return n


def _narrow(call: Call) -> Any:
    x = call.tensor()
    axis = call.axis(call.get("dim"), len(x.shape))
    n, start = fixed(x, axis), call.get("start")
    start %= n
    return take(call.builder, x, axis, range(start, start + call.get("length")))


def _roll(call: Call) -> Any:
    x = call.tensor()
    shifts, dims = (v if isinstance(v, list) else [v] for v in (call.get("shifts"), call.get("dims", [])))
    if not dims:
        raise call.unsupported("rolls over all axes, the batch's too", "Name the axes")
    for shift, dim in zip(shifts, dims, strict=True):
        axis = call.axis(dim, len(x.shape))
        n = fixed(x, axis)
        x = take(call.builder, x, axis, (np.arange(n) - shift) % n)
    return x


def _select(call: Call) -> Any:
    x = call.tensor()
    axis = call.axis(call.get("dim"), len(x.shape))
    return _at(call, x, axis, call.get("index"))


def _at(call: Call, x: Any, axis: int, index: int) -> Any:
    one = take(call.builder, x, axis, [index])
    return _reshaped(call, one, (*x.shape[:axis], *x.shape[axis + 1 :]))


def _index_select(call: Call) -> Any:
    x, index = call.tensor(), call.constant("index")
    assert index is not None
    return take(call.builder, x, call.axis(call.get("dim"), len(x.shape)), np.ravel(index))


def _index(call: Call) -> Any:
    x, given = call.tensor(), call.get("indices")
    used = [i for i, index in enumerate(given) if index is not None]
    if len(used) != 1 or not isinstance(given[used[0]], np.ndarray) or given[used[0]].ndim != 1:
        raise call.unsupported("indexes by other than one constant vector")
    index = given[used[0]]
    places = np.flatnonzero(index) if index.dtype == bool else index
    return take(call.builder, x, call.axis(used[0], len(x.shape)), places)


def _flip(call: Call) -> Any:
    x = call.tensor()
    for dim in call.get("dims"):
        axis = call.axis(dim, len(x.shape))
        x = take(call.builder, x, axis, range(fixed(x, axis))[::-1])
    return x


def _split(call: Call) -> list[Any]:
    x = call.tensor()
    axis = call.axis(call.get("dim", 0), len(x.shape))
    n = fixed(x, axis)
    sizes = call.get("split_sizes", call.get("split_size"))
    if call.op.base == "aten.chunk":
        sizes = -(-n // call.get("chunks"))
    if isinstance(sizes, int):
        _few(call, n // max(sizes, 1))
        sizes = [min(sizes, n - i) for i in range(0, n, sizes)]
    ends = np.cumsum(sizes).tolist()
    return [take(call.builder, x, axis, range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]


def _unbind(call: Call) -> list[Any]:
    x = call.tensor()
    axis = call.axis(call.get("dim", 0), len(x.shape))
    return [_at(call, x, axis, i) for i in range(_few(call, fixed(x, axis)))]


#: PyTorch's names of the ways to pad, and NumPy's.
_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _pad(call: Call) -> Any:
    x, pads, mode = call.tensor(), list(call.get("pad", call.get("padding"))), call.get("mode", "constant")
    for kind, name in (("reflect", "reflection_pad"), ("replicate", "replication_pad")):
        mode = kind if name in call.op.base else mode
    rank = len(x.shape)
    if len(pads) > 2 * rank:
        raise call.unsupported("pads the batch axis")
    pairs = {rank - 1 - i // 2: (pads[i], pads[i + 1]) for i in range(0, len(pads), 2)}  # from the last axis
    return pad(call.builder, x, dict(sorted(pairs.items())), _MODES.get(mode, mode), float(call.get("value") or 0))


def _upsample(kind: str) -> Converter:
    def convert(call: Call) -> Any:
        x = call.tensor("self") if call.get("self") is not None else call.tensor("input")
        rank, sizes = len(x.shape) - 1, call.get("output_size")
        given = call.get("scale_factors", [call.get(f"scales{s}") for s in ("_d", "_h", "_w")[-rank:]])
        given = [call.get("scales")] if call.get("scales") is not None else given or [None] * rank
        old = [fixed(x, a) for a in range(1, rank + 1)]
        sizes = [math.floor(n * s) for n, s in zip(old, given, strict=True)] if sizes is None else sizes
        corners = bool(call.get("align_corners", False))
        where = "align_corners" if corners else "asymmetric" if kind == "nearest" else "half_pixel"
        axes = {}
        for i, (n, m, s) in enumerate(zip(old, sizes, given, strict=True)):
            axes[i + 1] = Resize(m, m / n if corners or not s else s, where)
        if kind.startswith("nearest"):
            return nearest(call.builder, x, axes, "floor" if kind == "nearest" else "round_prefer_ceil")
        smooth = call.op.base.endswith("_aa")
        # PyTorch's cubic weights have this parameter where they smooth, and another where not
        a, outside = (-0.5, "none") if smooth else (-0.75, "edge")
        return interpolate(call.builder, x, axes, kind, a, outside, smooth)

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
    **{f"aten._upsample_nearest_exact{rank}d": _upsample("nearest-exact") for rank in (1, 2, 3)},
    "aten.upsample_linear1d": _upsample("linear"),
    "aten.upsample_bilinear2d": _upsample("linear"),
    "aten.upsample_trilinear3d": _upsample("linear"),
    "aten.upsample_bicubic2d": _upsample("cubic"),
    "aten._upsample_bilinear2d_aa": _upsample("linear"),
    "aten._upsample_bicubic2d_aa": _upsample("cubic"),
}
