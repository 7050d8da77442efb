"""Which source positions each output position sees, along one axis, and the same seen from the sources."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Taps:
    """One axis: which of ``n`` source positions each output position sees through each tap, −1 for none."""

    n: int
    index: np.ndarray
    factor: np.ndarray | None = None

    def transposed(self) -> Taps:
        """Which outputs each source position is seen by, through the same taps; for taps that see each source once."""
        back = np.full((self.n, self.index.shape[1]), -1, np.int64)
        q, t = np.nonzero(self.index >= 0)
        back[self.index[q, t], t] = q
        return Taps(len(self.index), back)

    def _by_source(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sources, outputs and taps of all that is seen, in the order of the sources."""
        q, t = np.nonzero(self.index >= 0)
        p = self.index[q, t]
        order = np.argsort(p, kind="stable")  # of one source, outputs and taps stay in order
        return p[order], q[order], t[order]

    def users(self) -> list[np.ndarray]:
        """For each source position, the outputs and taps that see it, shape (how many, 2)."""
        p, q, t = self._by_source()
        return np.split(np.stack([q, t], axis=1), np.cumsum(np.bincount(p, minlength=self.n))[:-1])

    def gathered(self) -> Taps:
        """As `transposed`, for taps that are all alike and may see a source more than once."""
        p, q, t = self._by_source()
        counts = np.bincount(p, minlength=self.n)
        slot = np.arange(len(p)) - (np.cumsum(counts) - counts)[p]
        back = np.full((self.n, counts.max()), -1, np.int64)
        back[p, slot] = q
        if self.factor is None:
            return Taps(len(self.index), back)
        factor = np.zeros(back.shape)
        factor[p, slot] = self.factor[q, t]
        return Taps(len(self.index), back, factor)

    def patterns(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Output positions that share taps, as (positions, taps): each position's taps are among its pattern's.

        Below a stride each residue sees taps of its own; a border only misses some of them.
        """
        present = self.index >= 0
        # the few different rows, in the order in which they first occur
        packed = np.packbits(present, axis=1)
        _, first, of_row = np.unique(packed.view(f"V{packed.shape[1]}"), return_index=True, return_inverse=True)
        of_row = of_row.ravel()
        sets = [frozenset(np.flatnonzero(present[q]).tolist()) for q in first]
        pattern_of = np.empty(len(sets), np.int64)
        patterns: list[frozenset[int]] = []
        for i in sorted(range(len(sets)), key=lambda i: (-len(sets[i]), first[i])):
            fitting = (k for k, taps in enumerate(patterns) if sets[i] <= taps and (sets[i] or not taps))
            pattern_of[i] = next(fitting, len(patterns))
            if pattern_of[i] == len(patterns):
                patterns.append(sets[i])
        rows = pattern_of[of_row]
        return [(np.flatnonzero(rows == k), np.array(sorted(taps), np.int64)) for k, taps in enumerate(patterns)]


def slide(n: int, out: int, size: int, stride: int, dilation: int, before: int) -> Taps:
    """The taps of a window of ``size`` that slides over ``n`` positions."""
    index = np.arange(out)[:, None] * stride + np.arange(size) * dilation - before
    return Taps(n, np.where((index >= 0) & (index < n), index, -1).astype(np.int64))
