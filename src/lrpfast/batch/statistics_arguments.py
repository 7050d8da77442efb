"""Checks of the arguments of statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError


def check_quantiles(name: str, value: float | Sequence[float]) -> np.ndarray:
    """Numbers between 0 and 1 as a one-dimensional array; InputError for anything else."""
    try:
        shares = np.atleast_1d(np.asarray(value))
    except ValueError:  # rows of different lengths
        shares = np.array([None])
    if shares.ndim != 1 or shares.dtype.kind not in "fiu" or not ((shares >= 0) & (shares <= 1)).all():
        raise InputError(f"{name} must be numbers between 0 and 1, not {value!r}")
    return shares.astype(np.float64)


def check_groups(groups: int | Sequence[Any]) -> tuple[Any, ...]:
    """The labels of groups: how many, or names, all different; InputError for anything else."""
    if isinstance(groups, (int, np.integer)) and not isinstance(groups, bool) and groups > 0:
        return tuple(range(int(groups)))
    labels = np.array([] if isinstance(groups, (int, str)) else list(groups))
    mixed = labels.dtype.kind == "U" and not all(isinstance(label, str) for label in groups)  # type: ignore[union-attr]
    if labels.ndim != 1 or labels.dtype.kind not in "iuU" or mixed or len(set(labels.tolist())) != len(labels):
        raise InputError(f"groups must be how many, or labels all different, all text or whole numbers; not {groups!r}")
    if len(labels) == 0:
        raise InputError(f"groups must be at least one, not {groups!r}")
    return tuple(labels.tolist())
