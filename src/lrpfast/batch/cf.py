"""Packed and missing values by the CF conventions, for formats whose library leaves them packed."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError


class Packing:
    """How stored values become numbers: value · scale_factor + add_offset, NaN where a value is missing.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the stored values.
    attrs : mapping
        ``scale_factor``, ``add_offset``, ``missing_value`` and ``_FillValue`` among others.

    Attributes
    ----------
    dtype : numpy.dtype
        Of the numbers: a float where anything is packed or may be missing.
    nothing : bool
        Whether stored values are the numbers already.
    """

    def __init__(self, dtype: np.dtype, attrs: Mapping[str, Any]) -> None:
        self._scale, self._offset = _factor(attrs, "scale_factor", 1), _factor(attrs, "add_offset", 0)
        fills = [
            _number(value)
            for key in ("missing_value", "_FillValue")
            if key in attrs
            for value in np.ravel(attrs[key]).tolist()
        ]
        self._missing = [found for value in fills if (found := _stored(value, dtype)) is not None]
        self._packed = (self._scale, self._offset) != (1, 0)
        self.nothing = not self._packed and not self._missing
        self.dtype = dtype
        if not self.nothing and not (dtype.kind == "f" and dtype.itemsize >= 4):
            self.dtype = np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Rows as stored to rows of numbers; in place where they are floats already."""
        if self.nothing:
            return rows
        out = rows.astype(self.dtype, copy=False)
        if self._packed:
            with np.errstate(over="ignore", invalid="ignore"):  # infinity is told of with its sample
                out = (rows * np.float64(self._scale) + self._offset).astype(self.dtype)
        for value in self._missing:
            out[rows == value] = np.nan
        return out


def _factor(attrs: Mapping[str, Any], key: str, usual: float) -> float:
    value = float(np.ravel(attrs.get(key, usual))[0])
    if not math.isfinite(value):
        raise InputError(f"{key} is {value}, which makes no number of any value")
    return value


def _stored(value: float, dtype: np.dtype) -> np.ndarray | None:
    """A missing value as it is stored; None for NaN, and for what the dtype cannot hold: no value equals that."""
    if value != value:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        stored = np.asarray(value).astype(dtype)
    same = bool(stored == value) if dtype.kind in "iub" else math.isfinite(stored) == math.isfinite(value)
    return stored if same else None


def _number(value: Any) -> float:
    # xarray writes it so into Zarr's JSON: a double in base 64
    return float(np.frombuffer(base64.b64decode(value), "<f8")[0]) if isinstance(value, str) else value
