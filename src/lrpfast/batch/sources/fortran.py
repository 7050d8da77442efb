"""Arrays in Fortran order, in which the samples of each feature are adjacent; ``sst[:, ocean]`` makes such arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..parallel import ThreadedRange

#: Features that are transposed at a time, so that the rows' parts stay in the cache.
_FEATURES = 64


def feature_order(sample: Sequence[int]) -> np.ndarray | None:
    """The index in Fortran order of each feature in C order; None where the two orders are one."""
    if sum(n != 1 for n in sample) < 2:
        return None
    return np.arange(math.prod(sample)).reshape(tuple(sample), order="F").reshape(-1)


def copy_rows(features: np.ndarray, order: np.ndarray | None, out: np.ndarray) -> None:
    """Write samples to ``out`` in C order.

    Parameters
    ----------
    features : array, shape (features, samples)
        In Fortran order.
    order : array, optional
        From `feature_order`.
    out : array, shape (samples, *sample), C-contiguous
    """
    rows = out.reshape(features.shape[1], len(features))

    def step(first: int, last: int) -> None:
        for begin in range(first, last, _FEATURES):
            part = slice(begin, min(last, begin + _FEATURES))
            rows[:, part] = features[part if order is None else order[part]].T

    with ThreadedRange(len(features), _FEATURES, out.size, None) as threads:
        threads.run([step])
