"""Quantiles from counts in buckets of equal relative width, one row of buckets for each group and feature.

A bucket holds values of one sign, binary exponent and first four binary digits, so that its middle is at most 1/33
off any of them (the harmonic middle of [a, a·17/16); after DDSketch, Masson, Rim and Lee 2019). Counts are integers:
the sketch of a union is the sum of sketches, however samples were split. The window of exponents moves up with a
feature's largest |R|; what falls out of it at the lower end counts as 0, in any order of arrival the same values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ..errors import InputError
from . import _moments

#: Bounds of the error: relative, or absolute as a share of the feature's largest |R|.
RELATIVE_ERROR = 1 / 33
OCTAVES = 16
FLOOR = 2.0 ** (1 - OCTAVES)

_SIDE = OCTAVES * _moments.BUCKETS_PER_OCTAVE
BUCKETS = 2 * _SIDE + 1
_TINY = np.finfo(np.float64).tiny


class Sketch:
    """Counts of values in buckets of size, for every group and feature.

    Parameters
    ----------
    groups, features : int
    memory : int
        The largest number of bytes.

    Raises
    ------
    InputError
        When the counts would take more.
    """

    def __init__(self, groups: int, features: int, memory: int) -> None:
        needed = groups * features * (BUCKETS * 4 + 2)
        if needed > memory:
            raise InputError(
                f"quantiles of {groups} groups of {features:,} features take {needed / 2**20:,.0f} MiB, more than the "
                f"{memory / 2**20:,.0f} MiB of quantile_memory; take fewer groups or allow more"
            )
        self.counts = np.zeros((groups, features, BUCKETS), np.uint32)
        self.octaves = np.full((groups, features), _moments.NO_OCTAVE, np.int16)

    @classmethod
    def from_state(cls, counts: np.ndarray, octaves: np.ndarray) -> Sketch:
        """The sketch with these counts."""
        sketch = cls.__new__(cls)
        sketch.counts, sketch.octaves = counts.astype(np.uint32), octaves.copy()
        return sketch

    def steps(self, x: np.ndarray, members: dict[int, np.ndarray]) -> list[Callable[[int, int], None]]:
        """The steps that count rows of x, given by group in ``members``."""
        return [partial(_moments.tally, x, rows, self.counts[g], self.octaves[g]) for g, rows in members.items()]

    def merge(self, other: Sketch) -> None:
        """Add another's counts."""
        octaves = np.maximum(self.octaves, other.octaves)
        for g, target_octaves in enumerate(octaves):
            theirs = other.counts[g].copy()
            _moments.align(self.counts[g], self.octaves[g], target_octaves)
            _moments.align(theirs, other.octaves[g], target_octaves)
            self.counts[g] += theirs
        self.octaves = octaves

    def quantile(self, group: int, q: np.ndarray) -> np.ndarray:
        """Quantiles of one group by the nearest lower rank, shape (len(q), features); NaN without values."""
        total = self.counts[group].sum(1, dtype=np.int64)
        result, bucket = np.empty((len(q), len(total))), np.empty(len(total), np.int64)
        for i, share in enumerate(q):
            rank = np.floor(share * np.maximum(total - 1, 0)).astype(np.int64)
            _moments.locate(self.counts[group], rank, bucket)
            result[i] = np.where(total > 0, self._middle(group, bucket), np.nan)
        return result

    def _middle(self, group: int, bucket: np.ndarray) -> np.ndarray:
        """The value that represents a bucket."""
        below = _SIDE - np.abs(bucket - _SIDE)  # buckets from the largest |R|
        key = (self.octaves[group].astype(np.int64) + 1) * _moments.BUCKETS_PER_OCTAVE - 1 - below
        key = np.where((bucket == _SIDE) | (self.octaves[group] == _moments.NO_OCTAVE), 0, key)
        low, high = ((k.astype(np.uint64) << np.uint64(48)).view(np.float64) for k in (key, key + 1))
        high = np.minimum(high, np.finfo(np.float64).max)  # the last bucket ends at infinity
        middle: np.ndarray = np.sign(bucket - _SIDE) * low * (2 / (low / np.maximum(high, _TINY) + 1))
        return middle
