"""Geometries: the source rows of each output row, by tap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a geometry: for each of some output positions, the source positions of its taps.

    Attributes
    ----------
    positions : int64 array, shape (n,)
        Output positions along the axis, ascending.
    index : int64 array, shape (n, taps)
        Source position of each tap, −1 outside.
    factor : float64 array, shape (n, taps), or None
        The factor of each tap's value; the factors of all axes are multiplied. For diagonal terms only.
    """

    positions: np.ndarray
    index: np.ndarray
    factor: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Region:
    """Output positions with the same pattern of taps and the same weights: the product of three axes.

    Taps are numbered in row-major order of the axes, and so are rows. There may be
    no taps at all: the sums are then zero.
    """

    axes: tuple[Axis, Axis, Axis]


@dataclass(frozen=True, eq=False)
class Geometry:
    """The source rows of each output row; an operand's rows are on a grid of three axes, channels last.

    Attributes
    ----------
    source, out : (int, int, int)
        Sizes of the two grids; unused axes are 1.
    regions : tuple of Region
        Together they cover every output row exactly once.
    """

    source: tuple[int, int, int]
    out: tuple[int, int, int]
    regions: tuple[Region, ...]

    @property
    def disjoint(self) -> bool:
        """Whether no source row is a tap of two output rows."""
        return self._taps(np.less_equal)

    @property
    def tiles(self) -> bool:
        """Whether every source row is a tap of exactly one output row."""
        return self._taps(np.equal)

    def _taps(self, compared: Callable[[np.ndarray, int], np.ndarray]) -> bool:
        """Whether the number of taps that take each position, axis by axis of the only region, compares so with 1."""
        axes = zip(self.regions[0].axes, self.source, strict=True)
        counts = (np.bincount(axis.index[axis.index >= 0], minlength=n) for axis, n in axes)
        return len(self.regions) == 1 and all(compared(count, 1).all() for count in counts)
