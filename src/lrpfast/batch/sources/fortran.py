"""Arrays in Fortran order, in which the samples of each feature are adjacent; ``sst[:, ocean]`` makes such arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from .. import _moments
from ..parallel import ThreadedRange

#: A loop over the features from the first to the last of a range.
Step = Callable[[int, int], None]
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
    step = _compiled_step(features, order, rows)

    def plain_step(first: int, last: int) -> None:
        for begin in range(first, last, _FEATURES):
            part = slice(begin, min(last, begin + _FEATURES))
            rows[:, part] = features[part if order is None else order[part]].T

    with ThreadedRange(len(features), _FEATURES, out.size, None) as threads:
        threads.run([plain_step if step is None else step])


def _compiled_step(features: np.ndarray, order: np.ndarray | None, rows: np.ndarray) -> Step | None:
    """The loop in C, of items of 4 and 8 bytes whose samples are adjacent; None of others."""
    item = features.itemsize
    if item not in (4, 8) or features.strides[1] != item or features.strides[0] % item or not rows.flags.aligned:
        return None
    if not features.flags.aligned or not features.size or rows.dtype != features.dtype:
        return None
    unsigned = np.dtype(f"u{item}")
    return partial(_moments.transpose, features.view(unsigned), order, rows.view(unsigned))
