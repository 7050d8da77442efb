"""Data made to fit a model: axes of length 1, missing values."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from ...errors import InputError
from ..metadata import ArrayMetadata
from .base import Source, Wrapped


class Reshaped(Wrapped):
    """Samples with other axes of length 1, but the same values.

    Parameters
    ----------
    source : Source
    shape : tuple of int
        One sample's.
    """

    def __init__(self, source: Source, shape: tuple[int, ...]) -> None:
        super().__init__(source)
        self._sample = source.shape[1:]
        self.shape = (source.shape[0], *shape)
        self.labels = None if source.labels is None else _relabelled(source.labels, source.shape[1:], shape)

    @property
    def recipe(self) -> Any:
        inner = self._source.recipe
        return None if inner is None else (Reshaped, inner, self.shape[1:])

    @property
    def fingerprint(self) -> dict[str, Any] | None:
        inner = self._source.fingerprint
        return None if inner is None else {**inner, "sample": list(self.shape[1:])}

    def read(self, first: int, stop: int) -> np.ndarray:
        rows = self._source.read(first, stop)
        return rows.reshape(len(rows), *self.shape[1:])

    def read_into(self, first: int, stop: int, out: np.ndarray) -> np.ndarray:
        rows = self._source.read_into(first, stop, out.reshape(len(out), *self._sample))
        return out[: len(rows)]


def _relabelled(labels: ArrayMetadata, before: tuple[int, ...], after: tuple[int, ...]) -> ArrayMetadata:
    """The labels without the dimensions of length 1, and with new ones where the shape has them."""
    grid = iter(dim for dim, n in zip(labels.dims[1:], before, strict=True) if n != 1)
    dims, new = [labels.dims[0]], 0
    singles = {dim for dim, n in zip(labels.dims[1:], before, strict=True) if n == 1}
    for n in after:
        if n != 1:
            dims.append(next(grid))
            continue
        name = "channel" if new == 0 else f"channel_{new}"
        new += 1
        dims.append(f"lrp_{name}" if name in labels.dims or name in labels.coords else name)
    coords = {name: coord for name, coord in labels.coords.items() if not singles & set(coord.dims)}
    return dataclasses.replace(labels, dims=tuple(dims), coords=coords)


def fitted(source: Source, expected: tuple[int | None, ...]) -> Source:
    """The source with the axes of length 1 that the model has, and without those that it has not.

    A source that already fits, or does not fit in this way, is returned unchanged.

    Parameters
    ----------
    source : Source
    expected : tuple
        The shape of one sample of the model; None for any size.
    """
    sample = tuple(map(int, source.shape[1:]))
    if _same(sample, expected):
        return source
    sizes = [n for n in sample if n != 1]
    expected_sizes = [n for n in expected if n != 1]
    if len(sizes) != len(expected_sizes) or not _same(tuple(sizes), tuple(expected_sizes)):
        return source
    rest = iter(sizes)
    return Reshaped(source, tuple(1 if n == 1 else next(rest) for n in expected))


def _same(sample: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(sample) == len(expected) and all(b in (None, a) for a, b in zip(sample, expected, strict=True))


class Filled(Wrapped):
    """Samples with a number in place of NaN.

    Parameters
    ----------
    source : Source
    value : float
    """

    def __init__(self, source: Source, value: float) -> None:
        super().__init__(source)
        self._value = value

    @property
    def recipe(self) -> Any:
        inner = self._source.recipe
        return None if inner is None else (Filled, inner, self._value)

    @property
    def provenance(self) -> dict[str, str]:
        return {**self._source.provenance, "fill_nan": repr(self._value)}

    @property
    def fingerprint(self) -> dict[str, Any] | None:
        inner = self._source.fingerprint
        return None if inner is None else {**inner, "fill_nan": self._value}

    def read(self, first: int, stop: int) -> np.ndarray:
        rows = self._source.read(first, stop)
        return self._fill(np.array(rows))

    def read_into(self, first: int, stop: int, out: np.ndarray) -> np.ndarray:
        return self._fill(self._source.read_into(first, stop, out))

    def _fill(self, rows: np.ndarray) -> np.ndarray:
        np.copyto(rows, rows.dtype.type(self._value), where=np.isnan(rows))
        return rows


def filled(source: Source, value: Any) -> Source:
    """The source with ``value`` in place of NaN; the source itself without a value, and for integers.

    Raises
    ------
    InputError
        When the value is no finite number.
    """
    if value is None:
        return source
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
        raise InputError(f"fill_nan must be a finite number, not {value!r}")
    return Filled(source, float(value)) if source.dtype.kind not in "iub" else source
