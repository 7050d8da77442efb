"""Bounds of the inputs, feature by feature, for rules that need them (z-box)."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import numpy as np

from ..errors import InputError
from . import _moments
from .chunks import rows_of
from .masks import Masked
from .parallel import ThreadedRange
from .sources import open_source
from .sources.base import row_bytes
from .statistics import Statistics

#: The number of standard deviations from the mean; None means the smallest and the largest value.
BOUNDS = {"minmax": None, "1sigma": 1, "3sigma": 3}


def data_bounds(
    source: Any, how: str = "minmax", *, mask: Any = None, mask_nan: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds of every input feature, for `rules.ZBox`: its minimum and maximum, or mean ∓ k·std.

    Parameters
    ----------
    source : path, array or iterator, shape (samples, *input_shape)
        As `Analyzer.stream` takes it; read once, a chunk at a time.
    how : {"minmax", "1sigma", "3sigma"}
    mask : bool array or path, optional
        As in `Analyzer.stream`.
    mask_nan : bool
        NaN marks a masked feature. A feature that is masked in all samples gets the bounds 0, which no rule uses.

    Returns
    -------
    low, high : array of one sample's shape, float64

    Raises
    ------
    InputError
        For another ``how``, no samples, an infinite value, or NaN without ``mask_nan``.

    Examples
    --------
    >>> low, high = lrpfast.data_bounds(np.array([[0.0, 5.0], [1.0, 3.0]]))
    >>> low, high
    (array([0., 3.]), array([1., 5.]))
    >>> lrpfast.rules.ZBox(low, high).name
    'z_box'
    """
    if how not in BOUNDS:
        raise InputError(f"bounds must be one of {', '.join(BOUNDS)}, not {how!r}")
    with open_source(source) as data, contextlib.ExitStack() as stack:
        if mask is not None:
            data = stack.enter_context(Masked(data, mask))
        statistics = Statistics(data.shape[1:])
        rows = rows_of(row_bytes(data.shape, data.dtype))
        first = 0
        while data.shape[0] is None or first < data.shape[0]:
            x = data.read(first, first + rows if data.shape[0] is None else min(data.shape[0], first + rows))
            if not len(x):
                break
            statistics.update(
                first, np.ascontiguousarray(x, x.dtype if x.dtype in (np.float32, np.float64) else np.float64)
            )
            first += len(x)
            data.done(first)
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


def out_of_bounds_message(count: int, values: int) -> str:
    """The text of the warning that ``count`` of the input's values lie outside a z-box."""
    return f"{count:,} of {values:,} input values lie outside the bounds of z_box: its relevance means little there"


def outside(x: np.ndarray, low: np.ndarray, high: np.ndarray, *, threads: int | None = None) -> int:
    """Count the values of ``x``, shape (samples, *shape), below ``low`` or above ``high``; NaN does not count."""
    rows = np.ascontiguousarray(x).reshape(len(x), low.size)
    if rows.size == 0:
        return 0
    below, above = (np.ascontiguousarray(bound, np.float64).reshape(-1) for bound in (low, high))
    with ThreadedRange(len(rows), 1, rows.size, threads) as shares:
        return shares.run([partial(_moments.outside, rows, below, above)])
