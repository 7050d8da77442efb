"""The sign test, and its adjustment for the number of tests."""

from __future__ import annotations

import math

import numpy as np


def sign_test(larger: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The two-sided probability that of ``count`` fair coins ``larger`` or more show the same side.

    Parameters
    ----------
    larger : int array
        The number of the more frequent sign: at least half of ``count``.
    count : int array
        The number of values of either sign; for 0 the probability is 1.

    Returns
    -------
    float64 array
        As ``scipy.stats.binomtest(larger, count).pvalue``.
    """
    result = np.ones(count.shape)
    most = int(count.max(initial=0))
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])
    for n in (np.flatnonzero(np.bincount(count.ravel())[1:]) + 1).tolist():
        where = count == n
        least = int(larger[where].min())
        most_likely = int(larger[where].max()) + 12 * math.isqrt(n) + 64  # beyond, terms are too small to count
        k = np.arange(least, min(n, most_likely) + 1)
        logs = log_factorials[n] - log_factorials[k] - log_factorials[n - k] - n * math.log(2)
        tails = np.cumsum(np.exp(logs)[::-1])[::-1]  # from the smallest terms on
        result[where] = np.minimum(1.0, 2 * tails[larger[where] - least])
    return result


def false_discovery(p: np.ndarray) -> np.ndarray:
    """Probabilities adjusted by the procedure of Benjamini and Hochberg (1995), as in ``scipy.stats``."""
    if not p.size:
        return p
    ordered = np.sort(p)
    # of each value, that of the last of equal ones
    ranks = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(p) - 1) + 1
    values = ordered[ranks - 1]
    scaled = np.minimum.accumulate((values * len(p) / ranks)[::-1])[::-1]
    return np.asarray(np.minimum(1.0, scaled)[np.searchsorted(values, p)])
