"""Variables in NetCDF files, with their names and coordinates."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from ...errors import InputError
from ..cf import PACKED, Packing
from ..metadata import ArrayMetadata, Coord, collect, of_file, words
from ..optional_import import import_optional, open_netcdf
from .base import FileSource, check_unpacked, row_bytes, state_of
from .hdf5_chunks import FileChunks
from .netcdf_classic import check_size


class NetcdfSource(FileSource):
    """Rows of a variable, decoded by `Packing`: NaN where a value is missing.

    Parameters
    ----------
    path : str
    variable : str or None
    chunks : FileChunks, optional
        Checks the chunks of a NetCDF-4 file; closed together with this source.
    """

    def __init__(self, path: str, variable: str | None, chunks: FileChunks | None = None) -> None:
        import_optional("netCDF4", path)
        state = state_of(path)
        check_size(path)
        try:
            self._file = open_netcdf(path, path)
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path}: damaged, truncated or locked NetCDF file ({error})") from None
        try:
            self._variable = nc_variable = _find(self._file, path, variable)
            name = f"{path}:{nc_variable.group().path.strip('/')}/{nc_variable.name}".replace(":/", ":")
            self._packing, self._chunks = _packing(nc_variable), chunks
            super().__init__(path, name, tuple(nc_variable.shape), self._packing.dtype, state)
            self.labels = _labels(nc_variable, path, chunks)
            nc_variable.set_auto_maskandscale(False)
            chunking = nc_variable.chunking()
            chunking = chunking if isinstance(chunking, list) else [1]
            self.step = chunking[0]
            at_once = max(row_bytes(self.shape, nc_variable.dtype), math.prod(chunking) * nc_variable.dtype.itemsize)
            check_unpacked(name, at_once, state[1])
        except BaseException:
            self._file.close()
            raise

    def _read(self, first: int, stop: int) -> np.ndarray:
        _check_chunks(self._chunks, self._variable, self.name, first, stop)
        rows = self._variable[first:stop]
        unwritten = self._packing.unwritten
        if unwritten is not None and (rows == unwritten).any():
            raise InputError(f"{self.name}: rows {first} to {stop - 1} hold values that were never written")
        return self._packing.apply(rows)

    def close(self) -> None:
        if self._file.isopen():
            self._file.close()
        if self._chunks is not None:
            self._chunks.close()


def _check_chunks(chunks: FileChunks | None, variable: Any, name: str, first: int, stop: int) -> None:
    if chunks is not None:
        chunks.check(variable.group().path.rstrip("/"), variable.name, name, first, stop)


def _packing(variable: Any) -> Packing:
    """The decoding of a variable; its dtype is object if the values are not single numbers, such as text."""
    kind = variable.datatype if isinstance(variable.datatype, np.dtype) else getattr(variable.datatype, "dtype", None)
    if not isinstance(kind, np.dtype) or isinstance(
        variable.datatype, import_optional("netCDF4", variable.name).VLType
    ):
        return Packing(np.dtype(object), {})
    # bytes have no fill value: all 256 are in use
    usual = import_optional("netCDF4", variable.name).default_fillvals.get(kind.str[1:]) if kind.itemsize > 1 else None
    return Packing(kind, {key: _attribute(variable, key) for key in PACKED & set(variable.ncattrs())}, usual)


def _attribute(variable: Any, key: str) -> Any:
    """An attribute; None if the library cannot read its type."""
    try:
        return variable.getncattr(key)
    except (KeyError, AttributeError, ValueError, RuntimeError):
        return None


def _find(file: Any, path: str, name: str | None) -> Any:
    variables = _variables(file)
    if name is not None:
        if name.strip("/") in variables:
            return variables[name.strip("/")]
        raise InputError(f"{path}: there is no variable {name!r}; there are: {', '.join(variables) or 'none'}")
    coordinate_names: set[str] = set()  # variables that describe others
    for variable in variables.values():
        for key in ("coordinates", "bounds", "climatology", "grid_mapping", "ancillary_variables"):
            coordinate_names.update(words(_attribute(variable, key)))
    data = {
        key: variable
        for key, variable in variables.items()
        if variable.ndim
        and variable.name not in coordinate_names
        and variable.name not in variable.dimensions
        and isinstance(variable.dtype, np.dtype)
        and variable.dtype.kind in "fiu"
    }
    if len(data) == 1:
        return next(iter(data.values()))
    listing = ", ".join(f"{key} {variable.shape}" for key, variable in data.items())
    text = f"{len(data)} variables beside coordinates"
    raise InputError(f"{path}: holds {text}; name one as {path}:NAME of: {listing or '-'}")


def _variables(group: Any, path: str = "") -> dict[str, Any]:
    variables = {path + name: variable for name, variable in group.variables.items()}
    for name, inner in group.groups.items():
        variables.update(_variables(inner, f"{path}{name}/"))
    return variables


def _labels(variable: Any, path: str, chunks: FileChunks | None) -> ArrayMetadata:
    variables: dict[str, Any] = {}  # including the variables of enclosing groups; the nearest counts
    group = variable.group()
    while group is not None:
        variables = {**group.variables, **variables}
        group = group.parent

    def read(name: str) -> Coord:
        variable = variables[name]
        itemsize = variable.dtype.itemsize if isinstance(variable.dtype, np.dtype) else 1  # text of any length
        check_unpacked(f"{path}:{name}", math.prod(variable.shape) * itemsize, os.path.getsize(path))
        _check_chunks(chunks, variable, f"{path}:{name}", 0, variable.shape[0] if variable.shape else 0)
        packing = _packing(variable)
        variable.set_auto_maskandscale(False)
        values = np.asarray(variable[...])
        values = packing.apply(values) if values.dtype.kind in "iuf" else values
        return Coord(tuple(variable.dimensions), values, _attrs(variable))

    def dims_of(name: str) -> tuple[str, ...] | None:
        return tuple(variables[name].dimensions) if name in variables else None

    attrs = _attrs(variable)
    return of_file(tuple(variable.dimensions), collect(variable.dimensions, attrs, dims_of, read), attrs, variable.name)


def _attrs(variable: Any) -> dict[str, Any]:
    # packing has been undone; attributes that cannot be read cannot be written either
    attrs = {key: _attribute(variable, key) for key in variable.ncattrs() if key not in PACKED}
    return {key: value for key, value in attrs.items() if value is not None}


def classic_texts(path: str, name: str) -> np.ndarray | None:
    """The rows of characters in a variable of a NetCDF-3 file, as texts; None if it holds numbers."""
    check_size(path)
    with open_netcdf(path, path) as file:
        variable = _find(file, path, name)
        if variable.dtype != np.dtype("S1") or variable.ndim != 2:
            return None
        check_unpacked(f"{path}:{name}", math.prod(variable.shape), os.path.getsize(path))
        variable.set_auto_mask(False)
        variable.set_auto_chartostring(False)
        return np.asarray(variable[...])


def classic_dimension(path: str, name: str) -> str:
    """The first dimension of a variable in a NetCDF-3 file."""
    with open_netcdf(path, path) as file:
        return str(_find(file, path, name).dimensions[0])
