"""Values picked, padded and resized along axes, for the readers of ONNX and PyTorch alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..budget import take as count
from ..errors import ModelFormatError, ShapeError, UnsupportedLayerError
from ..model import layers as L
from ..model.layers.resize import interpolation
from .channels_first import Builder, Value, open_size

#: Values of one axis that are made of those of another, at most: a small file could ask for any number.
MOST = 1 << 24
#: What an input of a Concat takes, planned too.
INPUT_BYTES = 1024


def fixed(value: Value, axis: int) -> int:
    """The size of one of a sample's axes."""
    n = value.shape[axis]
    if n is None:
        raise open_size(value.shape)
    return n


def constant(builder: Builder, value: Value, array: np.ndarray) -> Value:
    """An array, the same for every sample, stretched to a tensor's shape: the tensor times 0, and the array."""
    return affine(builder, value, 0.0, array)


def stretched(builder: Builder, value: Value, shape: Sequence[int | None]) -> Value:
    """Axes of size 1 repeated, so that the sample has the shape; None and 1 leave an axis as it is."""
    for axis, n in enumerate(shape):
        if n not in (None, 1, value.shape[axis]):
            if value.shape[axis] != 1:
                raise ShapeError(f"it cannot stretch {value.shape} to {tuple(shape)}")
            value = repeat(builder, value, axis, n)
    return value


def affine(builder: Builder, value: Value, scale: Any, shift: Any) -> Value:
    """value · scale + shift, with arrays of no more axes than a sample; either side is stretched to the other."""
    scale, shift = np.asarray(scale), np.asarray(shift)
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        raise UnsupportedLayerError(
            "adds, or multiplies by, constants that are infinite or not a number, such as a mask of -inf. Use large "
            "numbers instead"
        )
    both = np.broadcast_shapes(scale.shape, shift.shape)
    sizes = (1,) * (len(value.shape) - len(both)) + both
    if any(n == 1 != m for n, m in zip(value.shape, sizes, strict=True)):
        if None in value.shape:
            raise open_size(value.shape)
        count = np.prod(np.broadcast_shapes(sizes, tuple(n or 1 for n in value.shape)), dtype=object)
        if count > MOST:
            raise UnsupportedLayerError(f"stretches samples of {value.shape} to {count:,} values; the most is {MOST:,}")
        value = stretched(builder, value, [m if n == 1 else None for n, m in zip(value.shape, sizes, strict=True)])
    return builder.affine(value, scale, shift)


def _spatially(
    builder: Builder, value: Value, items: Mapping[int, Any], none: Any, layer: Callable[[Sequence[Any]], L.Layer]
) -> Value:
    """One layer on the axes of an image, or one after the other; ``layer`` gets each axis's item, or ``none``."""
    spatial = len(value.shape) - 1
    if len(items) > 1 and 0 not in items and spatial <= 3:
        return builder.spatial(layer([items.get(a, none) for a in range(1, spatial + 1)]), value)
    for axis, item in items.items():

        def make(rank: int, position: int, item: Any = item) -> L.Layer:
            return layer([item if i == position else none for i in range(rank)])

        value = builder.along(value, axis, make)
    return value


def take(builder: Builder, value: Value, axis: int, positions: Sequence[int] | np.ndarray) -> Value:
    """Values at positions of an axis, in that order."""
    n, positions = fixed(value, axis), np.asarray(positions, np.int64)
    if not positions.size:
        raise UnsupportedLayerError(f"takes nothing of an axis of {n}, which leaves nothing to explain")
    if positions.min() < -n or positions.max() >= n:
        raise ShapeError(f"it takes the positions {positions[:8].tolist()} of an axis of {n}")
    positions = positions % n
    first, last = int(positions[0]), int(positions[-1])
    if np.array_equal(positions, np.arange(first, last + 1)):
        edges = {} if len(positions) == n else {axis: (first, n - 1 - last)}
        return _spatially(builder, value, edges, (0, 0), lambda pairs: L.Crop(tuple(pairs)))
    return _spatially(builder, value, {axis: positions}, None, lambda axes: L.Take(tuple(axes)))


def pad(
    builder: Builder, value: Value, pairs: Mapping[int, tuple[int, int]], mode: str, constant: float = 0.0
) -> Value:
    """Values added before and after axes, or cut off where a number is negative.

    ``mode`` is NumPy's: "constant", "reflect", "edge" or "wrap".
    """
    for axis, pair in pairs.items():
        if min(pair) < 0:
            n = fixed(value, axis)
            value = take(builder, value, axis, range(max(-pair[0], 0), n - max(-pair[1], 0)))
    added = {a: (max(before, 0), max(after, 0)) for a, (before, after) in pairs.items() if max(before, after) > 0}
    if mode in ("edge", "wrap"):
        takes = {}
        for axis, pair in added.items():
            count(3 * 8 * (fixed(value, axis) + sum(pair)), f"to pad an axis by {pair}")
            takes[axis] = np.pad(np.arange(fixed(value, axis)), pair, mode)  # type: ignore[call-overload]
        return _spatially(builder, value, takes, None, lambda axes: L.Take(tuple(axes)))
    if mode not in ("constant", "reflect"):
        raise UnsupportedLayerError(f"pads in the mode {mode!r}, which lrpfast does not know")
    kind = L.ZeroPad if mode == "constant" else L.ReflectPad
    result = _spatially(builder, value, added, (0, 0), lambda pairs: kind(tuple(pairs)))
    if mode == "reflect" or constant == 0 or not added:
        return result
    inner = [fixed(value, axis) for axis in range(len(value.shape))]
    size = math.prod(fixed(result, axis) for axis in range(len(result.shape)))
    count(8 * size, f"to pad {value.shape} to {result.shape}")
    edges = [added.get(axis, (0, 0)) for axis in range(len(inner))]
    border = np.pad(np.zeros(inner), edges, constant_values=constant)  # added where zeros are, and nothing else moves
    return affine(builder, result, 1.0, border)


@dataclass(frozen=True)
class Resize:
    """How one axis of n values is resized to m.

    Attributes
    ----------
    m : int
    scale : float
        m / n, or what the file says of it.
    where : str
        Where in the old axis the new values lie, by ONNX's name of it.
    """

    m: int
    scale: float
    where: str

    def positions(self, n: int, dtype: Any = np.float64) -> Any:
        """Where the new values lie among the old ones, in a precision."""
        i, scale = np.arange(self.m, dtype=dtype), dtype(self.scale)
        width = self.scale * n  # as the standard's examples have it: not rounded down to m
        if not 1 <= self.m <= MOST or self.m * n > MOST:
            raise ModelFormatError(f"it makes an axis of {self.m} values of one of {n}")
        count(3 * 8 * self.m, f"to make an axis of {self.m} values")
        if self.where == "asymmetric":
            return i / scale
        if self.where == "align_corners":
            return i * dtype(0 if width == 1 else (n - 1) / (width - 1))
        if self.where == "pytorch_half_pixel" and self.m == 1:
            return i
        if self.where == "tf_half_pixel_for_nn":
            return (i + dtype(0.5)) / scale
        half = (i + dtype(0.5)) / scale - dtype(0.5)
        if self.where in ("half_pixel", "pytorch_half_pixel"):
            return half
        if self.where == "half_pixel_symmetric":
            return half + dtype(n / 2 * (1 - self.m / width))
        raise UnsupportedLayerError(f"has the coordinates {self.where!r}, which lrpfast does not follow")


_ROUNDED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda v: np.ceil(v - 0.5),
    "round_prefer_ceil": lambda v: np.floor(v + 0.5),
}


def nearest(builder: Builder, value: Value, axes: Mapping[int, Resize], rounding: str) -> Value:
    """Axes resized by repeating values, or leaving some out; positions are computed in float32, as the runtimes do."""
    if rounding not in _ROUNDED:
        raise UnsupportedLayerError(f"rounds by {rounding!r}, which lrpfast does not know")
    repeats, takes = {}, {}
    for axis, resize in axes.items():
        n = fixed(value, axis)
        positions = np.clip(_ROUNDED[rounding](resize.positions(n, np.float32)), 0, n - 1).astype(np.int64)
        times = resize.m // n
        if np.array_equal(positions, np.arange(n).repeat(times)):
            repeats.update({axis: times} if times > 1 else {})
        else:
            takes[axis] = positions
    value = _spatially(builder, value, takes, None, lambda axes: L.Take(tuple(axes)))
    return _spatially(builder, value, repeats, 1, lambda sizes: L.UpSample(tuple(sizes)))


def cumulative(builder: Builder, value: Value, axis: int, reverse: bool = False, exclusive: bool = False) -> Value:
    """The sums of an axis up to each position: a matrix of 1 and 0."""
    n = fixed(value, axis)
    count(8 * n * n, f"to sum an axis of {n} values up to each")
    matrix = np.tri(n, n, -int(exclusive))
    matrices = {axis: matrix[::-1, ::-1] if reverse else matrix}
    return _spatially(builder, value, matrices, None, lambda axes: L.Interpolate(tuple(axes)))


def repeat(builder: Builder, value: Value, axis: int, count: int) -> Value:
    """Each value of an axis ``count`` times, one after the other."""
    times = {} if count == 1 else {axis: count}
    return _spatially(builder, value, times, 1, lambda sizes: L.UpSample(tuple(sizes)))


def interpolate(
    builder: Builder,
    value: Value,
    axes: Mapping[int, Resize],
    kind: str,
    a: float = -0.75,
    outside: str = "edge",
    smooth: bool = False,
) -> Value:
    """Axes resized by interpolation; see `lrpfast.model.layers.resize.interpolation`.

    With ``smooth``, weights reach further where an axis becomes shorter.
    """
    matrices = {}
    for axis, resize in axes.items():
        n = fixed(value, axis)
        positions = resize.positions(n)
        count(8 * n * resize.m, f"to resize an axis of {n} values to {resize.m}")
        shrink = min(resize.scale, 1.0) if smooth else 1.0
        matrix = interpolation(n, positions, kind, a, outside, shrink)
        if len(matrix) != n or not np.array_equal(matrix, np.eye(n)):
            matrices[axis] = matrix
    return _spatially(builder, value, matrices, None, lambda axes: L.Interpolate(tuple(axes)))
