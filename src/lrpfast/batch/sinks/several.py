"""The relevances of several inputs in one file: an array for each, by the input's name."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..metadata import ArrayMetadata, Coord, for_relevance
from ..optional_import import import_optional
from ..positional_io import write_at
from .base import FileSink, check_rows, from_library
from .hdf5 import find_dataset, need_samples, write_hdf5
from .names import array_name, check_names
from .netcdf import dataset, write_netcdf

if TYPE_CHECKING:
    from ..inputs import InputRows
    from ..metadata import RowsShape


class SeveralSink(FileSink):
    """Rows of several inputs' relevances one after the other, into an array for each of an HDF5 or NetCDF file.

    Parameters
    ----------
    path : str
    kind : {"h5", "nc"}
    inputs : InputRows
    """

    def __init__(self, path: str, kind: str, inputs: InputRows) -> None:
        super().__init__(path)
        self._kind, self._inputs = kind, inputs
        self._parts: list[tuple[int, int]] = []  # of each array: where it begins, and the bytes of a sample
        self._names = tuple(array_name(path, name, kind) for name in inputs.names)

    @property
    def arrays(self) -> tuple[str, ...]:
        return self._names

    def check(self, shape: RowsShape, dtype: np.dtype, labels: ArrayMetadata | None = None) -> None:
        need_samples(self.name, shape)
        if self._kind == "nc":
            import_optional("netCDF4", self.name)
        arrays, coords = described_arrays(self._names, self._inputs, shape, np.dtype(dtype))
        check_names(self.name, self._kind, arrays, coords)
        super().check(shape, dtype)

    def _check_room(self) -> None:
        """HDF5 and NetCDF say what fails; the rows' own file is made as long before."""

    def _create(self) -> None:
        arrays, coords = described_arrays(self._names, self._inputs, self._shape, self._dtype, self._attributes)
        if self._kind == "nc":
            with dataset(self.partial, self.name) as file:
                write_netcdf(file, arrays, coords, self._attributes, self.name, deferred=True)
            return
        import h5py

        with from_library(self.partial, self.name), h5py.File(self.partial, "x") as file:
            write_hdf5(file, arrays, coords, self._attributes, self.name, deferred=True)

    def _find(self) -> int:
        self._parts = []
        for name, shape in zip(self._names, self._inputs.arrays_of(self._shape), strict=True):
            offset = find_dataset(self.partial, name, shape, self._dtype)
            self._parts.append((offset, math.prod(shape[1:]) * self._dtype.itemsize))
        return min(offset for offset, _ in self._parts)

    def write(self, first: int, rows: np.ndarray) -> int:
        check_rows(self.name, self._shape, first, rows)
        assert self._file is not None
        value = 0
        with self._naming():
            for part, (offset, size) in zip(self._inputs.split(rows), self._parts, strict=True):
                data = memoryview(np.ascontiguousarray(part, self._dtype).reshape(-1).view(np.uint8))
                write_at(self._file, data, offset + first * size)
                value = zlib.crc32(data, value)
        self._end = max(self._end, first + len(rows))
        return value

    def checksum(self, first: int, stop: int) -> int | None:
        value: int | None = 0
        for offset, size in self._parts:
            if value is not None:
                value = self._checksum(offset + first * size, (stop - first) * size, value)
        return value

    def frame(self) -> int:
        samples = self._shape[0] or 0
        return self._checksum_between([(offset, samples * size) for offset, size in self._parts])

    def _checksum_between(self, holes: list[tuple[int, int]]) -> int:
        """The checksum of the partial file without these (offset, size)."""
        position, value = 0, 0
        for offset, size in sorted(holes):
            value = self._checksum(position, max(0, offset - position), value) or 0
            position = max(position, offset + size)
        return self._checksum(position, max(0, os.stat(self.partial).st_size - position), value) or 0


def described_arrays(
    names: Sequence[str],
    inputs: InputRows,
    shape: RowsShape,
    dtype: np.dtype,
    attributes: Mapping[str, str] | None = None,
) -> tuple[dict[str, Coord], dict[str, Coord]]:
    """Each input's array as files describe it, with placeholders for its values, and all coordinates."""
    arrays, coords = {}, {}
    for name, whole, labels in zip(names, inputs.arrays_of(shape), inputs.labels, strict=True):
        described = for_relevance(labels, whole)
        placeholder = np.broadcast_to(np.zeros((), dtype), whole)  # type: ignore[arg-type]
        arrays[name] = Coord(described.dims, placeholder, {**described.attrs, **(attributes or {})})
        coords.update(described.coords)
    return arrays, coords
