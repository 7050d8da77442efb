"""Writes rows to NetCDF files, and arrays with their coordinates as NetCDF's variables."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ..compression import check_compression, netcdf_options
from ..metadata import CONVENTIONS, Coord, encoded, plain, with_coordinates
from ..optional_import import import_optional, open_netcdf
from .base import FileSink
from .hdf5 import check_same, find_datasets, need_samples, new_attributes
from .libraries import from_library
from .names import array_name, check_names

if TYPE_CHECKING:
    from ..metadata import ArrayMetadata, RowsShape


class NetcdfSink(FileSink):
    """Writes rows to a variable, in a NetCDF-4 file of its own."""

    array: str
    holds_sample_arrays = True

    def __init__(self, path: str, variable: str | None) -> None:
        super().__init__(path, array_name(path, variable, "nc"))
        self.may_add = variable is not None

    def check(self, shape: RowsShape, dtype: np.dtype, labels: ArrayMetadata | None = None) -> None:
        import_optional("netCDF4", self.name)
        need_samples(self.name, shape)
        _check_type(self.name, dtype)
        self._check_names("nc", shape, labels)
        super().check(shape, dtype)

    def compress(self, compression: str) -> None:
        check_compression(self.path, compression)
        self._compression = compression

    def _create(self, path: str, chunks: Mapping[str, int] | None = None) -> None:
        arrays, coords = self._contents(self._shape[0])
        with dataset(path, self.name, "a" if self._copied(path) else "w") as file:
            write_netcdf(
                file, arrays, coords, self._attributes, self.name, self._written(arrays), self._compression, chunks
            )

    def _find(self) -> list[tuple[int, int]]:
        arrays, _ = self._contents(self._shape[0])
        return find_datasets(self.partial, arrays, self._written(arrays))


@contextlib.contextmanager
def dataset(file_path: str, name: str, mode: str = "w") -> Iterator[Any]:
    """Create a NetCDF file, or open it with mode "a"; OSError when it cannot be written."""
    with from_library(file_path, name), open_netcdf(file_path, name, mode, format="NETCDF4") as file:
        yield file


def _check_type(name: str, dtype: np.dtype) -> None:
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        raise InputError(f"{name}: NetCDF has no type for {dtype}; it has float32 and float64")


def write_netcdf(
    file: Any,
    arrays: Mapping[str, Coord],
    coords: Mapping[str, Coord],
    attributes: Mapping[str, str],
    name: str,
    deferred: Collection[str] = (),
    compression: str | None = None,
    chunks: Mapping[str, int] | None = None,
) -> None:
    """Write variables, their coordinates and global attributes by the CF conventions.

    Parameters
    ----------
    file : netCDF4.Dataset
    arrays, coords, attributes, name, deferred, compression, chunks
        As in `write_hdf5`.

    Raises
    ------
    InputError
        For names and values that NetCDF cannot hold, and for a dimension with two sizes.
    """
    check_names(name, "nc", arrays, coords)
    file.set_fill_off()  # nothing is written twice
    file.setncatts(new_attributes(file.__dict__, {"Conventions": CONVENTIONS, **attributes}))
    encoded_coords = {key: encoded(key, coord) for key, coord in coords.items()}
    for key in arrays:
        if any(key in array.dims for array in arrays.values()):
            raise InputError(f"{name}: {key!r} is a dimension of the input; give the output another name")
    for key, (dims, values, _) in (*encoded_coords.items(), *arrays.items()):
        for dim, size in zip(dims, values.shape, strict=True):
            if dim not in file.dimensions:
                file.createDimension(dim, size)  # in NetCDF, the size 0 means an unlimited dimension
            elif len(file.dimensions[dim]) != size:
                raise InputError(f"{name}: {key} has {size} values along {dim}, others {len(file.dimensions[dim])}")
            elif file.dimensions[dim].isunlimited() and key in deferred:
                raise InputError(f"{name}: {dim} is an unlimited dimension there, which allows no rows in one piece")
    for key, coord in encoded_coords.items():
        if key in file.variables:  # of arrays that were there before
            file[key].set_auto_maskandscale(False)
            check_same(name, key, np.asarray(file[key][...]), coord.values)
        else:
            _write(file, key, coord, name)
    for key, array in arrays.items():
        dims, values, attrs = array._replace(attrs=with_coordinates(array, encoded_coords))
        if key in deferred:
            fill = _nan(values.dtype) if values.dtype.kind == "f" else None
            own = None if chunks is None or key not in chunks else (chunks[key], *values.shape[1:])
            if own is not None:
                fixed = {**netcdf_options(compression), "chunksizes": own, "contiguous": False, "fill_value": fill}
            else:
                fixed = {"contiguous": math.prod(values.shape) > 0, "fill_value": fill}
            variable = file.createVariable(key, values.dtype, dims, **fixed)
            variable.setncatts(plain(attrs))
            if fixed["contiguous"]:
                variable[(-1,) * values.ndim] = 0  # HDF5 allocates a variable when its first value is written
        else:
            _write(file, key, Coord(dims, values, attrs), name, compression)


def _write(file: Any, key: str, coord: Coord, name: str, compression: str | None = None) -> None:
    dims, values, attrs = coord
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "backslashreplace")
    _check_type(name, values.dtype)
    if values.dtype.kind == "b":
        values = values.astype(np.int8)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    kind = str if values.dtype.kind == "U" else values.dtype
    fill = attrs.get("_FillValue", _nan(values.dtype) if values.dtype.kind == "f" else None)
    options = netcdf_options(compression) if values.size > 1 and kind is not str else {}
    variable = file.createVariable(key, kind, dims, fill_value=fill, **options)
    variable.set_auto_maskandscale(False)
    variable.setncatts(plain({note: value for note, value in attrs.items() if note != "_FillValue"}))
    variable[...] = values.astype(object) if kind is str else values


def _nan(dtype: np.dtype) -> Any:
    return dtype.type(np.nan)
