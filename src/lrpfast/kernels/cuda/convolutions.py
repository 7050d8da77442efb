"""Which geometries are plain convolutions, forwards or with respect to data, as libraries compute them.

A `Geometry` says for every position which positions it sees, so it may hold anything. Here sizes, strides, dilations
and padding are read off it, and the tables that follow from them are compared with it: only where all are equal is
it that convolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..geometry import Axis, Geometry


class NotPlain(Exception):
    """A geometry is no plain convolution; the message says why."""


@dataclass(frozen=True)
class Window:
    """A window on one axis: output q sees position q · stride + tap · dilation − padding, ``padding`` at both ends."""

    size: int
    stride: int
    dilation: int
    padding: int

    def extent(self) -> int:
        """The number of positions from its first tap to its last."""
        return (self.size - 1) * self.dilation + 1

    def outputs(self, positions: int) -> int:
        """The number of windows over so many positions."""
        return (positions + 2 * self.padding - self.extent()) // self.stride + 1

    def table(self, positions: int, outputs: int) -> np.ndarray:
        """The position that each output sees through each tap, −1 outside, shape (outputs, size)."""
        index = np.arange(outputs)[:, None] * self.stride + np.arange(self.size) * self.dilation - self.padding
        return np.where((index >= 0) & (index < positions), index, -1)


@dataclass(frozen=True)
class Convolution:
    """A plain convolution on a grid of two or three axes.

    Attributes
    ----------
    transposed : bool
        Whether it is the convolution with respect to its data: sources are the windows, and outputs their positions.
    source, out : tuple of int
        Sizes of the two grids.
    groups, source_channels, out_channels : int
        Channels are those of all groups.
    windows : tuple of Window
        One for each axis.
    """

    transposed: bool
    source: tuple[int, ...]
    out: tuple[int, ...]
    groups: int
    source_channels: int
    out_channels: int
    windows: tuple[Window, ...]

    @property
    def filter_shape(self) -> tuple[int, ...]:
        """(Windows' channels, channels of the positions of one group, taps on each axis)."""
        channels = (self.out_channels, self.source_channels)
        windows, positions = reversed(channels) if self.transposed else channels
        return (windows, positions // self.groups, *(w.size for w in self.windows))

    def values(self, samples: int) -> int:
        """The number of values that it reads and writes, the filter aside."""
        return samples * (math.prod(self.source) * self.source_channels + math.prod(self.out) * self.out_channels)

    def __str__(self) -> str:
        size = "×".join(str(w.size) for w in self.windows)
        stride = max(w.stride for w in self.windows)
        text = f"{size}, {self.source_channels}→{self.out_channels}"
        return text + (f", stride {stride}" if stride > 1 else "") + (", transposed" if self.transposed else "")


class PlainConvolution:
    """A geometry that is a plain convolution, and where its weights stand in the filter.

    Parameters
    ----------
    geometry : Geometry
    weights : arrays, shape (groups, taps · K, N)
        Those of any term with this geometry, for their shapes.

    Raises
    ------
    NotPlain
    """

    def __init__(self, geometry: Geometry, weights: Sequence[np.ndarray]) -> None:
        if not geometry.regions or any(a.factor is not None for r in geometry.regions for a in r.axes):
            raise NotPlain("taps with factors")
        self._geometry = geometry
        by_axis = [self._axis(d) for d in range(3)]
        transposed = any(t for _, _, t in by_axis)
        windows = [w for w, _, _ in by_axis]
        if transposed and not all(t for _, _, t in by_axis):  # the other axes as seen from the other side too
            by_axis = [self._axis(d, transposed=True) for d in range(3)]
            windows = [w for w, _, _ in by_axis]
        #: for each region and axis, the filter's taps that its own taps are
        self._taps = [
            [by_axis[d][1][axis.positions.tobytes(), axis.index.tobytes()] for d, axis in enumerate(region.axes)]
            for region in geometry.regions
        ]
        groups, _, columns = weights[0].shape
        self._depth = max(
            w.shape[1] // math.prod(map(len, taps))
            for w, taps in zip(weights, self._taps, strict=True)
            if math.prod(map(len, taps))
        )
        source, out = geometry.source, geometry.out
        if (source[0], out[0], windows[0].size) == (1, 1, 1):  # libraries have images and volumes
            windows, source, out = windows[1:], source[1:], out[1:]  # type: ignore[assignment]
        depth, width = groups * self._depth, groups * columns
        self.convolution = Convolution(transposed, source, out, groups, depth, width, tuple(windows))
        self._sizes = tuple(w.size for w, _, _ in by_axis)
        #: what the filter's order depends on, beside the weights
        self.arrangement = (transposed, self._sizes, tuple(t.tobytes() for taps in self._taps for t in taps))

    def _patterns(self, d: int) -> list[Axis]:
        """The different tables of one axis."""
        axes = [region.axes[d] for region in self._geometry.regions]
        return list({(a.positions.tobytes(), a.index.tobytes()): a for a in axes}.values())

    def _axis(
        self, d: int, transposed: bool | None = None
    ) -> tuple[Window, dict[tuple[bytes, bytes], np.ndarray], bool]:
        """An axis' window, the taps of each of its tables, and whether its outputs are positions."""
        patterns = self._patterns(d)
        source, out = self._geometry.source[d], self._geometry.out[d]
        if transposed is None and len(patterns) == 1:
            return (*_direct(patterns[0], source, out), False)
        return (*_seen_from_windows(patterns, source, out), True)

    def filter(self, weights: Sequence[np.ndarray]) -> np.ndarray:
        """The filter of a term's weights, channels last: shape (windows' channels, taps, the others' of a group)."""
        groups, _, columns = weights[0].shape
        whole = np.zeros((groups, *self._sizes, self._depth, columns), weights[0].dtype)
        for taps, part in zip(self._taps, weights, strict=True):
            shape = (groups, *map(len, taps), self._depth, columns)
            whole[np.ix_(np.arange(groups), *taps)] = part.reshape(shape)
        for taps, part in zip(self._taps, weights, strict=True):  # tables of one axis may share taps
            if not np.array_equal(whole[np.ix_(np.arange(groups), *taps)].reshape(part.shape), part):
                raise NotPlain("weights that differ by position")
        order = (0, 4, 1, 2, 3, 5) if self.convolution.transposed else (0, 5, 1, 2, 3, 4)
        return np.ascontiguousarray(whole.transpose(order))


def _step(index: np.ndarray) -> int | None:
    """The difference of neighbours along the first axis, where both are inside; None if there are no such two."""
    both = (index[1:] >= 0) & (index[:-1] >= 0)
    return None if not both.any() else int((index[1:] - index[:-1])[both][0])


def _direct(axis: Axis, positions: int, outputs: int) -> tuple[Window, dict[tuple[bytes, bytes], np.ndarray]]:
    """The window of a table whose outputs are windows; its taps may be in the order of a flipped filter."""
    index = axis.index
    inside = index >= 0
    if not np.array_equal(axis.positions, np.arange(outputs)) or not inside.any():
        raise NotPlain("other taps by position")
    stride = _step(index) if outputs > 1 else 1
    dilation = _step(index.T) if index.shape[1] > 1 else 1
    if stride is None or dilation is None or stride < 1 or dilation == 0:
        raise NotPlain("positions that are not evenly apart")
    taps = np.arange(index.shape[1])
    if dilation < 0:
        taps = taps[::-1]
    q, t = (int(i[0]) for i in np.nonzero(inside))
    padding = q * stride + int(taps[t]) * abs(dilation) - int(index[q, t])
    window = _checked(Window(len(taps), stride, abs(dilation), padding), positions, outputs)
    if not np.array_equal(window.table(positions, outputs)[:, taps], index):
        raise NotPlain("positions that are not evenly apart")
    return window, {(axis.positions.tobytes(), index.tobytes()): taps}


def _seen_from_windows(
    patterns: Sequence[Axis], windows: int, positions: int
) -> tuple[Window, dict[tuple[bytes, bytes], np.ndarray]]:
    """The window of tables whose sources are windows.

    Position p sees window q through the tap for which p = q · stride + tap · dilation − padding.
    """
    stride = 1 if windows == 1 else next((s for a in patterns if (s := _stride_seen(a)) is not None), None)
    if stride is None or stride < 1:
        raise NotPlain("positions that are not evenly apart")
    offsets = []  # of each table's taps: tap · dilation − padding
    for a in patterns:
        inside = a.index >= 0
        if not inside.any(0).all():
            raise NotPlain("taps that see nothing")
        first = inside.argmax(0)
        offsets.append(a.positions[first] - stride * a.index[first, np.arange(a.index.shape[1])])
    every = np.unique(np.concatenate(offsets)) if offsets else np.zeros(0, np.int64)
    if not len(every):
        raise NotPlain("taps that see nothing")
    dilation = max(1, int(np.gcd.reduce(np.diff(every)))) if len(every) > 1 else 1
    padding = -int(every[0])
    size = int(every[-1] - every[0]) // dilation + 1
    window = _checked(Window(size, stride, dilation, padding), positions, windows)
    taps = [(o + padding) // dilation for o in offsets]
    found = np.full((positions, window.size), -1)
    for a, which in zip(patterns, taps, strict=True):
        found[np.ix_(a.positions, which)] = a.index
    seen = np.full((positions, window.size), -1)
    table = window.table(positions, windows)
    q, t = np.nonzero(table >= 0)
    seen[table[q, t], t] = q
    if not np.array_equal(found, seen):
        raise NotPlain("positions that are not evenly apart")
    return window, {(a.positions.tobytes(), a.index.tobytes()): which for a, which in zip(patterns, taps, strict=True)}


def _stride_seen(axis: Axis) -> int | None:
    """Positions apart for one window apart, through the same tap; None where no tap sees two windows."""
    for column in axis.index.T:
        rows = np.flatnonzero(column >= 0)
        if len(rows) > 1:
            p, q = axis.positions[rows[1]] - axis.positions[rows[0]], column[rows[1]] - column[rows[0]]
            return int(p // q) if q > 0 and p % q == 0 else 0
    return None


def _checked(window: Window, positions: int, outputs: int) -> Window:
    """The window, if there are as many of it over these positions as there are outputs."""
    if outputs == 1 and window.outputs(positions) != 1:  # of one window any stride will do
        window = replace(window, stride=max(1, positions + 2 * window.padding))
    if window.padding < 0 or window.outputs(positions) != outputs:
        raise NotPlain("padding that is not the same at both ends")
    return window
