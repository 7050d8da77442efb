"""ATen operators that move, cut, repeat and pad values; part of the table in `nodes`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...budget import check_layers
from ...budget import take as count
from ...errors import ShapeError
from ..axis_ops import MOST, Resize, fixed, interpolate, nearest, pad, repeat, take
from ..channels_first import check_first
from ..file_axes import expand, file_sizes, gather, permute, squeeze, unsqueeze, view
from .graph import TorchNode
from .records import PerBatch

Converter = Callable[[TorchNode], Any]


# -- shapes -------------------------------------------------------------------


def _view(node: TorchNode) -> Any:
    return _viewed(node, node.tensor(), node.pair(node.get("size", node.get("shape"))))


def _viewed(node: TorchNode, x: Any, target: Sequence[Sequence[int]]) -> Any:
    """The values in a shape in which one size may be -1: what is left."""
    whole = [math.prod(file_sizes(x, node.batches, i)) for i in (0, 1)]
    first, second = (_with_rest(sizes, count) for sizes, count in zip(target, whole, strict=True))
    return view(node.builder, x, (first, second), node.batches)


def _with_rest(sizes: Sequence[int], whole: int) -> list[int]:
    """The sizes with a number in the place of -1."""
    rest = math.prod(n for n in sizes if n != -1)
    if sizes.count(-1) > 1 or (-1 in sizes and (rest == 0 or whole % rest)):
        raise ShapeError(f"it cannot make {tuple(sizes)} of {whole} values")
    return [whole // rest if n == -1 else n for n in sizes]


def _flatten(node: TorchNode) -> Any:
    x = node.tensor()
    first, last = (node.get(k, d) % x.rank for k, d in (("start_dim", 0), ("end_dim", -1)))
    before = [file_sizes(x, node.batches, i) for i in (0, 1)]
    if first == 1 and last == x.rank - 1 and None in x.shape:
        return node.builder.reshape(x, (-1,))
    return _viewed(node, x, [[*s[:first], math.prod(s[first : last + 1]), *s[last + 1 :]] for s in before])


def _unflatten(node: TorchNode) -> Any:
    x, sizes = node.tensor(), node.pair(node.get("sizes"))
    at = node.get("dim") % x.rank
    before = [file_sizes(x, node.batches, i) for i in (0, 1)]
    parts = [_with_rest(part, whole[at]) for part, whole in zip(sizes, before, strict=True)]
    return _viewed(node, x, [[*s[:at], *part, *s[at + 1 :]] for s, part in zip(before, parts, strict=True)])


def _squeeze(node: TorchNode) -> Any:
    x, dim = node.tensor(), node.get("dim")
    if dim is None:
        raise node.unsupported("drops the batch axis of a single sample", "Name the axes to squeeze")
    dims = dim if isinstance(dim, list) else [dim]
    return squeeze(node.builder, x, [d for d in dims if x.shape[x.axis(d)] == 1])


def _unsqueeze(node: TorchNode) -> Any:
    return unsqueeze(node.builder, node.tensor(), node.get("dim"))


def _permute(node: TorchNode) -> Any:
    return permute(node.builder, node.tensor(), node.get("dims"))


def _matrix_transpose(node: TorchNode) -> Any:
    x = node.tensor()
    return permute(node.builder, x, [*range(x.rank - 2), x.rank - 1, x.rank - 2])


def _transpose(node: TorchNode) -> Any:
    x = node.tensor()
    a, b = (node.get(k, node.get(f"axis{k[-1]}")) % x.rank for k in ("dim0", "dim1"))
    axes = list(range(x.rank))
    axes[a], axes[b] = b, a
    return permute(node.builder, x, axes)


def _t(node: TorchNode) -> Any:
    x = node.tensor()
    return permute(node.builder, x, range(x.rank)[::-1])


def _movedim(node: TorchNode) -> Any:
    x = node.tensor()
    pair = [node.get(k) for k in ("source", "destination")]
    source, target = ([d % x.rank for d in (g if isinstance(g, list) else [g])] for g in pair)
    axes = [a for a in range(x.rank) if a not in source]
    for to, a in sorted(zip(target, source, strict=True)):
        axes.insert(to, a)
    return permute(node.builder, x, axes)


def _view_as(node: TorchNode) -> Any:
    other = node.tensor("other")
    return _viewed(node, node.tensor(), [file_sizes(other, node.batches, i) for i in (0, 1)])


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
    return expand(node.builder, node.tensor(), node.pair(node.get("size")), node.batches)


def _expand_as(node: TorchNode) -> Any:
    other = node.tensor("other")
    sizes = tuple(file_sizes(other, node.batches, i) for i in (0, 1))
    known = node.known_pair(node.get("self"))
    if isinstance(known, tuple):  # positions, say, for as many samples as there are
        return PerBatch(*(np.broadcast_to(array, size) for array, size in zip(known, sizes, strict=True)))
    return expand(node.builder, node.tensor(), sizes, node.batches)  # type: ignore[arg-type]


def _repeat(node: TorchNode) -> Any:
    x, times = node.tensor(), node.get("repeats", node.get("dims"))
    for _ in range(len(times) - x.rank):
        x = unsqueeze(node.builder, x, 0)
    for dim, n in enumerate(times):
        if n != 1:
            axis = x.axis(dim)
            size = fixed(x, axis)
            if not 0 < n * size <= MOST:
                raise node.unsupported(f"repeats an axis of {size} values {n:,} times")
            count(3 * 8 * n * size, f"to repeat an axis {n:,} times")
            if size == 1:
                x = repeat(node.builder, x, axis, n)
            else:
                x = take(node.builder, x, axis, np.tile(np.arange(size), n))
    return x


def _repeat_interleave(node: TorchNode) -> Any:
    x, times, dim = node.tensor(), node.get("repeats"), node.get("dim")
    if not isinstance(times, int) or dim is None:
        raise node.unsupported(
            "repeats values different numbers of times, or over all axes; name one axis and one number"
        )
    axis = x.axis(dim)
    size = fixed(x, axis)
    if not 0 < times * size <= MOST:
        raise node.unsupported(f"repeats an axis of {size} values {times:,} times")
    return repeat(node.builder, x, axis, times)


# -- parts --------------------------------------------------------------------


def _slice(node: TorchNode) -> Any:
    x, step = node.tensor(), node.get("step", 1)
    if not node.get("start") and step == 1 and (node.get("end") is None or node.get("end") >= 2**62):
        return x  # x[:]
    axis = x.axis(node.get("dim", 0))
    start, end, _ = slice(node.get("start"), node.get("end"), 1).indices(fixed(x, axis))
    if end <= start:  # which a cat joins to the rest
        shapes = [list(file_sizes(x, node.batches, i)) for i in (0, 1)]
        for shape in shapes:
            shape[node.get("dim", 0) % x.rank] = 0
        return PerBatch(*map(np.zeros, shapes))
    return take(node.builder, x, axis, range(start, end, step))


def _few(node: TorchNode, n: int) -> int:
    """A number of pieces to cut; a small file could ask for any."""
    check_layers(n, len(node.program.ops))
    return n


def _narrow(node: TorchNode) -> Any:
    x = node.tensor()
    axis = x.axis(node.get("dim"))
    n, start = fixed(x, axis), node.get("start")
    start %= n
    return take(node.builder, x, axis, range(start, start + node.get("length")))


def _roll(node: TorchNode) -> Any:
    x = node.tensor()
    shifts, dims = (v if isinstance(v, list) else [v] for v in (node.get("shifts"), node.get("dims", [])))
    if not dims:
        raise node.unsupported("rolls over all axes, the batch's too", "Name the axes")
    for shift, dim in zip(shifts, dims, strict=True):
        axis = x.axis(dim)
        n = fixed(x, axis)
        x = take(node.builder, x, axis, (np.arange(n) - shift) % n)
    return x


def _select(node: TorchNode) -> Any:
    return _at(node, node.tensor(), node.get("dim"), node.get("index"))


def _at(node: TorchNode, x: Any, dim: int, index: int) -> Any:
    return squeeze(node.builder, take(node.builder, x, x.axis(dim), [index]), [dim])


def _index_select(node: TorchNode) -> Any:
    table = node.get("self")
    if isinstance(table, np.ndarray) and table.ndim == 2 and node.get("dim") in (0, -2):  # rows, as an embedding's
        return node.builder.embedding(table.astype(float), node.tensor("index"))
    x, index = node.tensor(), node.constant("index")
    assert index is not None
    return take(node.builder, x, x.axis(node.get("dim")), np.ravel(index))


def _index(node: TorchNode) -> Any:
    """Constant indices on axes side by side; each result axis is one of the indices'."""
    x, indices = node.tensor(), node.get("indices")
    used = [i for i, index in enumerate(indices) if index is not None]
    pairs = [node.known_pair(indices[i]) for i in used]
    if (
        not used
        or used != list(range(used[0], used[0] + len(used)))
        or any(not isinstance(p, tuple) or (p[0].dtype == bool and p[0].ndim != 1) for p in pairs)
    ):
        raise node.unsupported("indexes by other than constants on axes side by side")
    pairs = [tuple(np.flatnonzero(a) if a.dtype == bool else a for a in pair) for pair in pairs]
    return gather(node.builder, x, used[0], pairs, node.batches)


def _unfold(node: TorchNode) -> Any:
    """Windows of an axis, whose values are the last axis."""
    x, dim, size, step = node.tensor(), node.get("dimension"), node.get("size"), node.get("step")
    at, n = dim % x.rank, fixed(x, x.axis(dim))
    if not 0 < size <= n or step < 1:
        raise ShapeError(f"its windows of {size} values, {step} apart, do not fit an axis of {n}")
    starts = np.arange(0, n - size + 1, step)
    count(8 * len(starts) * size, f"{len(starts):,} windows of {size:,} values")
    places = starts[:, None] + np.arange(size)
    windows = gather(node.builder, x, at, [(places, places)], node.batches)
    return permute(node.builder, windows, [*range(at + 1), *range(at + 2, windows.rank), at + 1])


def _im2col(node: TorchNode) -> Any:
    """Windows of images (nn.Unfold): (samples, channels · window, windows)."""
    x, channels = node.tensor(), fixed(node.tensor(), 0)
    check_first(x)
    kernel, dilation, padding, stride = (node.sizes(k, 2, d) for k, d in _WINDOWS)
    x = pad(node.builder, x, {i + 1: (p, p) for i, p in enumerate(padding) if p}, "constant")
    places = []
    for i, (k, d, s) in enumerate(zip(kernel, dilation, stride, strict=True)):
        starts = np.arange(0, fixed(x, i + 1) - d * (k - 1), s)
        if not len(starts):
            raise ShapeError(f"its window of {kernel} does not fit an input of shape {x.shape}")
        count(8 * k * len(starts), "the places of its windows")
        places.append((np.arange(k) * d)[:, None] + starts)
    rows, columns = places[0][:, None, :, None], places[1][None, :, None]
    windows = gather(node.builder, x, 2, [(rows, rows), (columns, columns)], node.batches)
    return node.builder.reshape(windows, (channels * math.prod(kernel), rows.shape[2] * columns.shape[3]))


#: Of im2col: its arguments and what they are where they are left out.
_WINDOWS: tuple[tuple[str, Any], ...] = (("kernel_size", 1), ("dilation", 1), ("padding", 0), ("stride", 1))


def _flip(node: TorchNode) -> Any:
    x = node.tensor()
    for dim in node.get("dims"):
        axis = x.axis(dim)
        x = take(node.builder, x, axis, range(fixed(x, axis))[::-1])
    return x


def _split(node: TorchNode) -> list[Any]:
    x = node.tensor()
    axis = x.axis(node.get("dim", 0))
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
    x, dim = node.tensor(), node.get("dim", 0)
    return [_at(node, x, dim, i) for i in range(_few(node, fixed(x, x.axis(dim))))]


#: PyTorch's names of the ways to pad, and NumPy's.
_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _pad(node: TorchNode) -> Any:
    x, pads, mode = node.tensor(), list(node.get("pad", node.get("padding"))), node.get("mode", "constant")
    for kind, name in (("reflect", "reflection_pad"), ("replicate", "replication_pad")):
        mode = kind if name in node.op.base else mode
    pairs = {}
    for i in range(0, len(pads), 2):  # from the last axis
        if pads[i] or pads[i + 1]:
            pairs[x.axis(x.rank - 1 - i // 2)] = (pads[i], pads[i + 1])
    return pad(node.builder, x, dict(sorted(pairs.items())), _MODES.get(mode, mode), float(node.get("value") or 0))


def _upsample(kind: str) -> Converter:
    def convert(node: TorchNode) -> Any:
        x = node.tensor("self") if node.get("self") is not None else node.tensor("input")
        check_first(x)
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
    "aten.t": _t,
    "aten.mT": _matrix_transpose,
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
    "aten.repeat_interleave": _repeat_interleave,
    "aten.slice": _slice,
    "aten.narrow": _narrow,
    "aten.roll": _roll,
    "aten.select": _select,
    "aten.index_select": _index_select,
    "aten.index": _index,
    "aten.flip": _flip,
    "aten.unfold": _unfold,
    "aten.im2col": _im2col,
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
