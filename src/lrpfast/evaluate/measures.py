"""Numbers of a single map: how sparse it is, and how its relevance is spread."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.explanation import Explanation
from ..engine.inputs import as_real
from ..errors import InputError, ShapeError
from ..kernels.arrays import to_host


def gini(relevance: Any) -> np.ndarray:
    """The Gini index of |R|: 0 where all features have as much, near 1 where one has all.

    G = Σ_i (2i − n − 1) |R|_(i) / (n Σ|R|), with |R|_(i) in ascending order; NaN features do not count.

    Parameters
    ----------
    relevance : array, shape (samples, …), or Explanation

    Returns
    -------
    float64 array, shape (samples,)
        NaN for a map that is zero everywhere.

    Raises
    ------
    InputError, ShapeError

    References
    ----------
    Chalasani et al. (2020), "Concise explanations of neural networks using adversarial training";
    Quantus's ``Sparseness``.

    Examples
    --------
    >>> lrpfast.evaluate.gini(np.array([[0.0, 0.0, 0.0, 1.0], [1.0, -1.0, 1.0, 1.0]])).tolist()
    [0.75, 0.0]
    """
    sizes, count = _sizes(relevance)
    ordered = np.sort(sizes, axis=1)  # features without a value come last, as NaN
    n = count[:, None]
    weights = 2 * np.arange(1, sizes.shape[1] + 1) - n - 1
    total = np.nansum(ordered, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(total > 0, np.nansum(weights * ordered, 1) / (count * total), np.nan)


def entropy(relevance: Any) -> np.ndarray:
    """The entropy of the shares of |R|, in nats: 0 where one feature has all, log n where all have as much.

    H = −Σ p log p with p = |R| / Σ|R|; NaN features do not count.

    Parameters
    ----------
    relevance : array, shape (samples, …), or Explanation

    Returns
    -------
    float64 array, shape (samples,)
        NaN for a map that is zero everywhere.

    Raises
    ------
    InputError, ShapeError

    References
    ----------
    Bhatt et al. (2020), "Evaluating and aggregating feature-based model explanations"; Quantus's ``Complexity``.

    Examples
    --------
    >>> lrpfast.evaluate.entropy(np.array([[0.0, 3.0], [2.0, -2.0]])).round(4).tolist()
    [0.0, 0.6931]
    """
    sizes, _ = _sizes(relevance)
    total = np.nansum(sizes, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = sizes / total[:, None]
        terms = np.where(shares > 0, -shares * np.log(np.where(shares > 0, shares, 1.0)), 0.0)
    return np.where(total > 0, terms.sum(1), np.nan)


def _sizes(relevance: Any) -> tuple[np.ndarray, np.ndarray]:
    """|R| as (samples, features), and how many features of each have a value."""
    values = maps(relevance)
    values = values.reshape(len(values), -1)
    if np.isinf(values).any():
        raise InputError(f"relevance is infinite in sample {int(np.argwhere(np.isinf(values))[0][0])}")
    return np.abs(values), (~np.isnan(values)).sum(1)


def maps(relevance: Any, name: str = "relevance") -> np.ndarray:
    """Relevances on the host in float64, samples first."""
    if isinstance(relevance, Explanation):
        relevance = relevance.relevance
    if isinstance(relevance, list) and relevance and getattr(relevance[0], "ndim", 0) > 1:
        raise InputError(f"{name} is of a model with {len(relevance)} inputs; evaluate one of them: {name}[0]")
    values = np.asarray(to_host(as_real(relevance, name)), np.float64)
    if values.ndim < 2:
        raise ShapeError(f"{name} must have shape (samples, …), not {values.shape}; for one sample: {name}[None]")
    return values
