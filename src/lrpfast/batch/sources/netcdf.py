"""Variables in NetCDF files, with their names and coordinates."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from ...errors import InputError
from ..cf import Packing
from ..labels import Coord, Labels, collect
from ..optional import needed, open_netcdf
from .base import FileSource, check_unpacked, row_bytes, state_of
from .netcdf_classic import check_size

#: Attributes by which a stored value is missing or packed.
_PACKED = {"scale_factor", "add_offset", "_FillValue", "missing_value", "valid_min", "valid_max", "valid_range"}


class NetcdfSource(FileSource):
    """Rows of a variable: unpacked, NaN where a value is missing.

    Integers without attributes for missing or packed values stay integers; others become float32 from 8 and
    16 bits, else float64.
    """

    def __init__(self, path: str, variable: str | None) -> None:
        needed("netCDF4", path)
        state = state_of(path)
        check_size(path)
        try:
            self._file = open_netcdf(path, path)
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path}: damaged, truncated or locked NetCDF file ({error})") from None
        try:
            self._variable = found = _find(self._file, path, variable)
            name = f"{path}:{found.group().path.strip('/')}/{found.name}".replace(":/", ":")
            dtype = found.dtype if isinstance(found.dtype, np.dtype) else np.dtype(object)
            if dtype.kind in "iu" and _PACKED & set(found.ncattrs()):
                dtype = np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)
            super().__init__(path, name, tuple(found.shape), dtype, state)
            self.labels = _labels(found, path)
            self._packing = _floats(found)
            found.set_auto_maskandscale(self._packing is None)
            chunks = found.chunking()
            chunks = chunks if isinstance(chunks, list) else [1]
            self.step = chunks[0]
            at_once = max(row_bytes(self.shape, found.dtype), math.prod(chunks) * found.dtype.itemsize)
            check_unpacked(name, at_once, state[1])
        except BaseException:
            self._file.close()
            raise

    def _read(self, first: int, stop: int) -> np.ndarray:
        rows = self._variable[first:stop]
        if self._packing is not None:
            return self._packing.apply(np.ma.getdata(rows))
        if self.dtype.kind == "f":
            rows = np.ma.asarray(rows).astype(self.dtype, copy=False)
            return np.ma.filled(rows, np.nan)
        if np.ma.is_masked(rows):
            raise InputError(f"{self.name}: rows {first} to {stop - 1} hold values that were never written")
        return np.ma.getdata(rows)

    def close(self) -> None:
        if self._file.isopen():
            self._file.close()


def _floats(variable: Any) -> Packing | None:
    """What netCDF4's masking does to plain floats, at thrice its speed; None for any other variable."""
    attrs = {key: variable.getncattr(key) for key in variable.ncattrs() if key in _PACKED}
    if variable.dtype not in (np.float32, np.float64) or not set(attrs) <= {"_FillValue", "missing_value"}:
        return None
    usual = needed("netCDF4", variable.name).default_fillvals[variable.dtype.str[1:]]
    return Packing(variable.dtype, {"_FillValue": usual, **attrs})


def _find(file: Any, path: str, name: str | None) -> Any:
    every = _variables(file)
    if name is not None:
        if name.strip("/") in every:
            return every[name.strip("/")]
        raise InputError(f"{path}: there is no variable {name!r}; there are: {', '.join(every) or 'none'}")
    beside: set[str] = set()  # what describes other variables
    for variable in every.values():
        for key in ("coordinates", "bounds", "climatology", "grid_mapping"):
            beside.update(str(getattr(variable, key, "")).split())
    data = {
        key: variable
        for key, variable in every.items()
        if variable.ndim
        and variable.name not in beside
        and variable.name not in variable.dimensions
        and isinstance(variable.dtype, np.dtype)
        and variable.dtype.kind in "fiu"
    }
    if len(data) == 1:
        return next(iter(data.values()))
    listed = ", ".join(f"{key} {variable.shape}" for key, variable in data.items())
    text = f"{len(data)} variables beside coordinates"
    raise InputError(f"{path}: holds {text}; name one as {path}:NAME of: {listed or '-'}")


def _variables(group: Any, path: str = "") -> dict[str, Any]:
    found = {path + name: variable for name, variable in group.variables.items()}
    for name, inner in group.groups.items():
        found.update(_variables(inner, f"{path}{name}/"))
    return found


def _labels(found: Any, path: str) -> Labels:
    near: dict[str, Any] = {}  # also variables of the groups around it, the nearest first
    group = found.group()
    while group is not None:
        near = {**group.variables, **near}
        group = group.parent

    def read(name: str) -> Coord:
        variable = near[name]
        itemsize = variable.dtype.itemsize if isinstance(variable.dtype, np.dtype) else 1  # text of any length
        check_unpacked(f"{path}:{name}", math.prod(variable.shape) * itemsize, os.path.getsize(path))
        values = np.ma.asarray(variable[...])
        missing = np.nan if values.dtype.kind == "f" else None  # None: what the file itself has there
        return Coord(tuple(variable.dimensions), np.ma.filled(values, missing), _attrs(variable))

    def dims_of(name: str) -> tuple[str, ...] | None:
        return tuple(near[name].dimensions) if name in near else None

    attrs = _attrs(found)
    return Labels(tuple(found.dimensions), collect(found.dimensions, attrs, dims_of, read), attrs, found.name)


def _attrs(variable: Any) -> dict[str, Any]:
    # what is packed or missing has been undone
    return {key: variable.getncattr(key) for key in variable.ncattrs() if key not in _PACKED}
