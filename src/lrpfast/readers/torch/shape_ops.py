"""ATen operators that move, cut, repeat and pad values; part of the table in `nodes`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...budget import check_layers
from ...budget import take as count
from ...errors import ShapeError
from ..axis_ops import MOST, Resize, fixed, interpolate, nearest, pad, stretched, take
from .graph import TorchNode
from .records import PerBatch

Converter = Callable[[TorchNode], Any]


# -- shapes -------------------------------------------------------------------


def _view(node: TorchNode) -> Any:
    x = node.tensor()
    return node.builder.reshape(x, node.sample_sizes(node.get("size", node.get("shape")), x.shape))


def _flatten(node: TorchNode) -> Any:
    x = node.tensor()
    rank = len(x.shape)
    first, last = (node.axis(node.get(k, d), rank) for k, d in (("start_dim", 0), ("end_dim", -1)))
    middle = x.shape[first : last + 1]
    if None in middle and len(middle) < rank:
        raise ShapeError(f"the program leaves the size of its input open: {x.shape}")
    joined = -1 if None in middle else math.prod(middle)
    return node.builder.reshape(x, (*x.shape[:first], joined, *x.shape[last + 1 :]))


def _unflatten(node: TorchNode) -> Any:
    x, sizes = node.tensor(), list(node.get("sizes"))
    axis = node.axis(node.get("dim"), len(x.shape))
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = x.shape[axis] // -math.prod(sizes)
    return node.builder.reshape(x, (*x.shape[:axis], *sizes, *x.shape[axis + 1 :]))


def _squeeze(node: TorchNode) -> Any:
    x, dim = node.tensor(), node.get("dim")
    if dim is None:
        raise node.unsupported("drops the batch axis of a single sample", "Name the axes to squeeze")
    rank = len(x.shape)
    dims = dim if isinstance(dim, list) else [dim]
    gone = {node.axis(d, rank) for d in dims}
    shape = tuple(n for a, n in enumerate(x.shape) if a not in gone or n != 1)
    return _reshaped(node, x, shape)


def _unsqueeze(node: TorchNode) -> Any:
    x = node.tensor()
    axis = node.axis(node.get("dim"), len(x.shape) + 1)
    return _reshaped(node, x, (*x.shape[:axis], 1, *x.shape[axis:]))


def _reshaped(node: TorchNode, x: Any, shape: tuple[int | None, ...]) -> Any:
    return node.builder.reshape(x, shape)  # type: ignore[arg-type]


def _permute(node: TorchNode) -> Any:
    x, dims = node.tensor(), node.get("dims")
    rank = len(x.shape)
    if not dims or dims[0] % (rank + 1):
        raise node.unsupported("moves the batch axis")
    return node.builder.transpose(x, [node.axis(d, rank) for d in dims[1:]])


def _transpose(node: TorchNode) -> Any:
    x = node.tensor()
    rank = len(x.shape)
    a, b = (node.axis(node.get(k, node.get(f"axis{k[-1]}")), rank) for k in ("dim0", "dim1"))
    axes = list(range(rank))
    axes[a], axes[b] = b, a
    return node.builder.transpose(x, axes)


def _movedim(node: TorchNode) -> Any:
    x = node.tensor()
    rank = len(x.shape)
    pair = [node.get(k) for k in ("source", "destination")]
    source, target = ([node.axis(d, rank) for d in (g if isinstance(g, list) else [g])] for g in pair)
    axes = [a for a in range(rank) if a not in source]
    for to, a in sorted(zip(target, source, strict=True)):
        axes.insert(to, a)
    return node.builder.transpose(x, axes)


def _view_as(node: TorchNode) -> Any:
    return _reshaped(node, node.tensor(), node.tensor("other").shape)


def _shuffled(node: TorchNode, x: Any, inner: tuple[int, ...], axes: Sequence[int], shape: tuple[int, ...]) -> Any:
    """Axes taken apart, put in another order, and joined again."""
    return node.builder.reshape(node.builder.transpose(node.builder.reshape(x, inner), axes), shape)


def _channel_shuffle(node: TorchNode) -> Any:
    x, groups = node.tensor(), node.get("groups")
    channels, *rest = (fixed(x, a) for a in range(len(x.shape)))
    inner = (groups, channels // groups, *rest)
    return _shuffled(node, x, inner, [1, 0, *range(2, len(inner))], x.shape)


def _pixel_shuffle(node: TorchNode) -> Any:
    x, r = node.tensor(), node.get("upscale_factor")
    c, h, w = (fixed(x, a) for a in range(3))
    return _shuffled(node, x, (c // r**2, r, r, h, w), (0, 3, 1, 4, 2), (c // r**2, h * r, w * r))


def _pixel_unshuffle(node: TorchNode) -> Any:
    x, r = node.tensor(), node.get("downscale_factor")
    c, h, w = (fixed(x, a) for a in range(3))
    return _shuffled(node, x, (c, h // r, r, w // r, r), (0, 2, 4, 1, 3), (c * r**2, h // r, w // r))


def _expand(node: TorchNode) -> Any:
    x, sizes = node.tensor(), node.get("size")
    if len(sizes) != len(x.shape) + 1:
        raise node.unsupported("adds axes before the batch axis")
    if any(isinstance(n, PerBatch) for n in sizes[1:]):
        raise node.unsupported("stretches an axis to the batch's size")
    return stretched(node.builder, x, [None if n == -1 else n for n in sizes[1:]])


def _expand_as(node: TorchNode) -> Any:
    return stretched(node.builder, node.tensor(), node.tensor("other").shape)


def _repeat(node: TorchNode) -> Any:
    x, times = node.tensor(), node.get("repeats", node.get("dims"))
    if len(times) != len(x.shape) + 1 or times[0] != 1:
        raise node.unsupported("repeats samples, or adds axes before the batch axis")
    for axis, n in enumerate(times[1:]):
        if n != 1:
            size = fixed(x, axis)
            if not 0 < n * size <= MOST:
                raise node.unsupported(f"repeats an axis of {size} values {n:,} times")
            count(3 * 8 * n * size, f"to repeat an axis {n:,} times")
            x = take(node.builder, x, axis, np.tile(np.arange(size), n))
    return x


# -- parts --------------------------------------------------------------------


def _slice(node: TorchNode) -> Any:
    x, step = node.tensor(), node.get("step", 1)
    if node.get("dim", 0) % (len(x.shape) + 1) == 0 and not node.get("start") and (node.get("end") or 0) >= 2**62:
        return x  # x[:]
    axis = node.axis(node.get("dim", 0), len(x.shape))
    start, end, _ = slice(node.get("start"), node.get("end"), 1).indices(fixed(x, axis))
    if end <= start:
        raise node.unsupported("leaves nothing of its input")
    return take(node.builder, x, axis, range(start, end, step))


def _few(node: TorchNode, n: int) -> int:
    """A number of pieces to cut; a small file could ask for any."""
    check_layers(n, len(node.program.ops))
    return n


def _narrow(node: TorchNode) -> Any:
    x = node.tensor()
    axis = node.axis(node.get("dim"), len(x.shape))
    n, start = fixed(x, axis), node.get("start")
    start %= n
    return take(node.builder, x, axis, range(start, start + node.get("length")))


def _roll(node: TorchNode) -> Any:
    x = node.tensor()
    shifts, dims = (v if isinstance(v, list) else [v] for v in (node.get("shifts"), node.get("dims", [])))
    if not dims:
        raise node.unsupported("rolls over all axes, the batch's too", "Name the axes")
    for shift, dim in zip(shifts, dims, strict=True):
        axis = node.axis(dim, len(x.shape))
        n = fixed(x, axis)
        x = take(node.builder, x, axis, (np.arange(n) - shift) % n)
    return x


def _select(node: TorchNode) -> Any:
    x = node.tensor()
    axis = node.axis(node.get("dim"), len(x.shape))
    return _at(node, x, axis, node.get("index"))


def _at(node: TorchNode, x: Any, axis: int, index: int) -> Any:
    one = take(node.builder, x, axis, [index])
    return _reshaped(node, one, (*x.shape[:axis], *x.shape[axis + 1 :]))


def _index_select(node: TorchNode) -> Any:
    x, index = node.tensor(), node.constant("index")
    assert index is not None
    return take(node.builder, x, node.axis(node.get("dim"), len(x.shape)), np.ravel(index))


def _index(node: TorchNode) -> Any:
    """Constant indices on one axis or several side by side; each result axis is one of the indices'."""
    x, indices = node.tensor(), node.get("indices")
    used = [i for i, index in enumerate(indices) if index is not None]
    arrays = [indices[i] for i in used]
    if (
        not used
        or used != list(range(used[0], used[0] + len(used)))
        or any(not isinstance(a, np.ndarray) or (a.dtype == bool and a.ndim != 1) for a in arrays)
    ):
        raise node.unsupported("indexes by other than constants on axes side by side")
    arrays = [np.flatnonzero(a) if a.dtype == bool else a for a in arrays]
    axis = node.axis(used[0], len(x.shape))
    sizes = [fixed(x, axis + i) for i in range(len(used))]
    wrapped = [np.where(a < 0, a + n, a) for a, n in zip(arrays, sizes, strict=True)]
    flat = np.asarray(np.ravel_multi_index(np.broadcast_arrays(*wrapped), sizes))
    head, tail = x.shape[:axis], x.shape[axis + len(used) :]
    if len(used) > 1:
        x = _reshaped(node, x, (*head, math.prod(sizes), *tail))
    x = take(node.builder, x, axis, flat.ravel())
    return x if flat.ndim == 1 else _reshaped(node, x, (*head, *flat.shape, *tail))


def _flip(node: TorchNode) -> Any:
    x = node.tensor()
    for dim in node.get("dims"):
        axis = node.axis(dim, len(x.shape))
        x = take(node.builder, x, axis, range(fixed(x, axis))[::-1])
    return x


def _split(node: TorchNode) -> list[Any]:
    x = node.tensor()
    axis = node.axis(node.get("dim", 0), len(x.shape))
    n = fixed(x, axis)
    sizes = node.get("split_sizes", node.get("split_size"))
    if node.op.base == "aten.chunk":
        sizes = -(-n // node.get("chunks"))
    if isinstance(sizes, int):
        _few(node, n // max(sizes, 1))
        sizes = [min(sizes, n - i) for i in range(0, n, sizes)]
    ends = np.cumsum(sizes).tolist()
    return [take(node.builder, x, axis, range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]


def _unbind(node: TorchNode) -> list[Any]:
    x = node.tensor()
    axis = node.axis(node.get("dim", 0), len(x.shape))
    return [_at(node, x, axis, i) for i in range(_few(node, fixed(x, axis)))]


#: PyTorch's names of the ways to pad, and NumPy's.
_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _pad(node: TorchNode) -> Any:
    x, pads, mode = node.tensor(), list(node.get("pad", node.get("padding"))), node.get("mode", "constant")
    for kind, name in (("reflect", "reflection_pad"), ("replicate", "replication_pad")):
        mode = kind if name in node.op.base else mode
    rank = len(x.shape)
    if len(pads) > 2 * rank:
        raise node.unsupported("pads the batch axis")
    pairs = {rank - 1 - i // 2: (pads[i], pads[i + 1]) for i in range(0, len(pads), 2)}  # from the last axis
    return pad(node.builder, x, dict(sorted(pairs.items())), _MODES.get(mode, mode), float(node.get("value") or 0))


def _upsample(kind: str) -> Converter:
    def convert(node: TorchNode) -> Any:
        x = node.tensor("self") if node.get("self") is not None else node.tensor("input")
        rank, sizes = len(x.shape) - 1, node.get("output_size")
        scales = node.get("scale_factors", [node.get(f"scales{s}") for s in ("_d", "_h", "_w")[-rank:]])
        scales = [node.get("scales")] if node.get("scales") is not None else scales or [None] * rank
        old = [fixed(x, a) for a in range(1, rank + 1)]
        sizes = [math.floor(n * s) for n, s in zip(old, scales, strict=True)] if sizes is None else sizes
        corners = bool(node.get("align_corners", False))
        where = "align_corners" if corners else "asymmetric" if kind == "nearest" else "half_pixel"
        axes = {}
        for i, (n, m, s) in enumerate(zip(old, sizes, scales, strict=True)):
            axes[i + 1] = Resize(m, m / n if corners or not s else s, where)
        if kind.startswith("nearest"):
            return nearest(node.builder, x, axes, "floor" if kind == "nearest" else "round_prefer_ceil")
        smooth = node.op.base.endswith("_aa")
        # PyTorch's cubic weights have this parameter where they smooth, and another where not
        a, outside = (-0.5, "none") if smooth else (-0.75, "edge")
        return interpolate(node.builder, x, axes, kind, a, outside, smooth)

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
    "aten.expand_as": _expand_as,
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
