"""Dask arrays and xarray.DataArrays, computed a few rows at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...engine.inputs import unmasked
from ...errors import InputError
from ...lazy import lazy_property
from ..metadata import from_xarray
from .base import Source
from .memory import digest


class LazySource(Source):
    """Rows of a dask.array.Array or of an xarray.DataArray, in memory or not."""

    def __init__(self, array: Any) -> None:
        self.name = type(array).__name__ if array.name is None else f"{type(array).__name__} {array.name}"
        self._array = array
        self.shape, self.dtype = tuple(array.shape), np.dtype(array.dtype)
        self._labelled = hasattr(array, "coords")
        self._check()
        if any(n != n for n in self.shape):  # Dask's NaN
            raise InputError(f"{self.name}: its shape is not known; compute_chunk_sizes() finds it out")
        self.labels = from_xarray(array) if self._labelled else None
        if array.chunks is not None:
            self.step = max(array.chunks[0], default=1) or 1

    @lazy_property
    def fingerprint(self) -> dict[str, Any]:
        if self._array.chunks is None:
            return digest(self)
        # Dask derives an array's name from its computation
        dask = self._array.data if self._labelled else self._array
        chunks = [list(sizes) for sizes in self._array.chunks]
        return {"dask": dask.name, "shape": list(self.shape), "dtype": self.dtype.str, "chunks": chunks}

    def read(self, first: int, stop: int) -> np.ndarray:
        rows = self._array[first:stop]
        try:
            values = np.asarray(rows.values if self._labelled else unmasked(rows.compute()))
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            text = f"{self.name}: rows {first} to {stop - 1} cannot be computed ({type(error).__name__}: {error})"
            raise InputError(text) from error
        if values.shape != (stop - first, *self.shape[1:]) or values.dtype != self.dtype:
            raise InputError(
                f"{self.name}: rows {first} to {stop - 1} came as {values.dtype} of shape {values.shape}, "
                f"where {self.dtype} of shape {(stop - first, *self.shape[1:])} was declared"
            )
        return values
