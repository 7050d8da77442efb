"""Bounds of the inputs, feature by feature, for rules that need them (z-box)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from ..errors import InputError
from . import _moments
from .shares import Shares
from .statistics import Statistics

#: How many standard deviations from the mean; None for the smallest and largest value.
BOUNDS = {"minmax": None, "1sigma": 1, "3sigma": 3}


def data_bounds(
    blocks: Iterable[tuple[int, np.ndarray]],
    how: str,
    shape: Sequence[int],
    mask_nan: bool = False,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of every feature: its smallest and largest value, or mean ± k·std.

    Parameters
    ----------
    blocks : iterable of (int, array of shape (samples, *shape))
        The inputs as `Statistics.update` takes them: the first sample's index, and float32 or float64 values.
    how : {"minmax", "1sigma", "3sigma"}
    shape : tuple of int
        One sample's.
    mask_nan : bool
        NaN means that a feature is masked. One masked in all samples gets bounds of 0: no rule uses them.

    Returns
    -------
    low, high : array of the given shape, float64

    Raises
    ------
    InputError
        For another ``how``, no samples, an infinite value, or NaN without ``mask_nan``.
    """
    if how not in BOUNDS:
        raise InputError(f"bounds must be one of {', '.join(BOUNDS)}, not {how!r}")
    statistics = Statistics(shape)
    for first, x in blocks:
        statistics.update(first, x, threads=threads)
    samples, valid = int(statistics.count[0]), statistics.valid[0]
    if samples == 0:
        raise InputError("bounds need at least one sample")
    if not mask_nan and (valid < samples).any():
        feature = tuple(np.argwhere(valid < samples)[0].tolist())
        raise InputError(f"feature {feature} is NaN in {samples - valid[feature]} samples; mask_nan=True allows it")
    sigmas = BOUNDS[how]
    if sigmas is None:
        low, high = statistics.minimum[0], statistics.maximum[0]
    else:
        mean, std = statistics.mean[0], statistics.std[0]
        low, high = mean - sigmas * std, mean + sigmas * std
    return np.where(valid > 0, low, 0.0), np.where(valid > 0, high, 0.0)


def outside(x: np.ndarray, low: np.ndarray, high: np.ndarray, threads: int | None = None) -> int:
    """How many values of ``x``, shape (samples, *shape), lie below ``low`` or above ``high``; NaN does not count."""
    rows = np.ascontiguousarray(x).reshape(len(x), low.size)
    if rows.size == 0:
        return 0
    flat = [np.ascontiguousarray(bound, np.float64).reshape(-1) for bound in (low, high)]
    with Shares(len(rows), 1, rows.size, threads) as shares:
        return shares.run([partial(_moments.outside, rows, *flat)])
