"""The few samples that a report shows: the best of a stream by some measure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Kept:
    """The samples with the largest keys so far; of equal keys, the first.

    Attributes
    ----------
    count : int
        How many are kept.
    keys : array, shape (kept,)
        In descending order.
    samples : int array
        Their indices in the data set.
    rows : dict of str to array
        What is kept of them: inputs, relevance, predictions, …
    """

    count: int
    keys: np.ndarray = field(default_factory=lambda: np.empty(0))
    samples: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    rows: dict[str, np.ndarray] = field(default_factory=dict)

    def update(self, keys: np.ndarray, eligible: np.ndarray, first: int, rows: dict[str, Any]) -> None:
        """Look at samples from ``first`` on; those that are not eligible, or whose key is NaN, do not count."""
        at = np.flatnonzero(eligible & ~np.isnan(keys))
        at = at[np.argsort(-keys[at], kind="stable")[: self.count]]
        if not len(at):
            return
        keys = np.concatenate([self.keys, keys[at]])
        samples = np.concatenate([self.samples, first + at])
        best = np.lexsort((samples, -keys))[: self.count]
        self.keys, self.samples = keys[best], samples[best]
        for name, array in rows.items():
            picked = np.asarray(array[at])
            self.rows[name] = np.concatenate([self.rows[name], picked])[best] if name in self.rows else picked[best]

    def __len__(self) -> int:
        return len(self.keys)
