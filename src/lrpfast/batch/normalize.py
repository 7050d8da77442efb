"""Normalization of explanations: each is divided by a number of its own."""

from __future__ import annotations

from functools import partial

import numpy as np

from ..errors import InputError
from . import _moments
from .parallel import ThreadedRange

#: The normalizations, and the names of their divisors.
NORMALIZATIONS = {"maxabs": "largest |R|", "sum": "sum", "max": "largest R", "l1": "sum of |R|"}


def check_normalization(name: object) -> None:
    """Raise InputError unless this is the name of a normalization."""
    if not isinstance(name, str) or name not in NORMALIZATIONS:
        raise InputError(f"normalize must be one of {', '.join(NORMALIZATIONS)}, not {name!r}")


def normalize_rows(relevance: np.ndarray, normalization: str, *, threads: int | None = None) -> int:
    """Divide every row by max|R|, ΣR, max R or Σ|R|, in place; masked features (NaN) do not count.

    Parameters
    ----------
    relevance : array, shape (rows, features), float32 or float64
        C-contiguous. Sums are float64; results do not depend on the threads.
    normalization : {"maxabs", "sum", "max", "l1"}
    threads : int, optional

    Returns
    -------
    int
        The number of unchanged rows, whose divisor is zero, or so near to zero that
        the result overflows; under "max" also rows without positive relevance.

    Raises
    ------
    InputError
        For any other ``normalization``.
    """
    check_normalization(normalization)
    if relevance.size == 0:
        return len(relevance)
    with ThreadedRange(len(relevance), 1, relevance.size, threads) as shares:
        return shares.run([partial(_moments.divide, relevance, _moments.NORMALIZERS[normalization])])
