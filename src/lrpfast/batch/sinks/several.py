"""The relevances of several inputs in one file: an array for each, by the input's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..compression import check_compression
from ..metadata import ArrayMetadata, Coord, for_relevance
from ..optional_import import import_optional
from ..sample_arrays import RELEVANCE
from .base import FileSink, Sink
from .hdf5 import find_datasets, need_samples, write_hdf5
from .libraries import from_library
from .names import array_name
from .netcdf import dataset, write_netcdf

if TYPE_CHECKING:
    from ..inputs import InputRows
    from ..metadata import RowsShape


class SeveralArrays(Sink):
    """What sinks of several inputs' relevances share: an array for each input, by its name.

    Rows have the values of all inputs one after the other.
    """

    _inputs: InputRows
    _names: tuple[str, ...]
    _all: tuple[str, ...] = ()

    @property
    def arrays(self) -> tuple[str, ...]:
        return self._all or self._names

    def _described(
        self, shape: RowsShape, dtype: np.dtype, labels: ArrayMetadata | None, attributes: Mapping[str, Any]
    ) -> tuple[dict[str, Coord], dict[str, Coord]]:
        attributes = {key: value for key, value in attributes.items() if key != "history"}
        arrays: dict[str, Coord] = {}
        coords: dict[str, Coord] = {}
        shapes = self._inputs.arrays_of(shape)
        for name, whole, own in zip(self._names, shapes, self._inputs.labels, strict=True):
            described = for_relevance(own, whole)
            placeholder = np.broadcast_to(np.zeros((), dtype), (shape[0] or 0, *whole[1:]))
            arrays[name] = Coord(described.dims, placeholder, {**described.attrs, **attributes})
            coords.update(described.coords)
        dims = next(iter(arrays.values())).dims
        taken = {*coords, *arrays, *(dim for array in arrays.values() for dim in array.dims)}
        beside = self._beside.described(RELEVANCE, dims, shape[0], taken, 0)
        if beside:
            for array in arrays.values():
                array.attrs["ancillary_variables"] = " ".join(beside)
        self._all = (*arrays, *beside)
        return {**arrays, **beside}, coords

    def _pieces(self, rows: np.ndarray) -> list[np.ndarray]:
        return self._inputs.split(rows)


class SeveralSink(SeveralArrays, FileSink):
    """Rows of several inputs' relevances, into an array for each of an HDF5 or NetCDF file.

    Parameters
    ----------
    path : str
    kind : {"h5", "nc"}
    inputs : InputRows
    """

    holds_sample_arrays = True

    def __init__(self, path: str, kind: str, inputs: InputRows) -> None:
        super().__init__(path)
        self._kind, self._inputs = kind, inputs
        self._names = tuple(array_name(path, name, kind) for name in inputs.names)

    def check(self, shape: RowsShape, dtype: np.dtype, labels: ArrayMetadata | None = None) -> None:
        need_samples(self.name, shape)
        if self._kind == "nc":
            import_optional("netCDF4", self.name)
        self._check_names(self._kind, shape, labels)
        super().check(shape, dtype)

    def _check_room(self) -> None:
        """HDF5 and NetCDF say what fails; the rows' own file is made as long before."""

    def compress(self, compression: str) -> None:
        check_compression(self.path, compression)
        self._compression = compression

    def _create(self, path: str, chunks: Mapping[str, int] | None = None) -> None:
        arrays, coords = self._contents(self._shape[0])
        filled = self._written(arrays)
        if self._kind == "nc":
            with dataset(path, self.name) as file:
                write_netcdf(file, arrays, coords, self._attributes, self.name, filled, self._compression, chunks)
            return
        import h5py

        with from_library(path, self.name), h5py.File(path, "x") as file:
            write_hdf5(file, arrays, coords, self._attributes, self.name, filled, self._compression, chunks)

    def _find(self) -> list[tuple[int, int]]:
        arrays, _ = self._contents(self._shape[0])
        return find_datasets(self.partial, arrays, self._written(arrays))
