"""Writes a few named arrays with their coordinates, such as mean maps, to one file."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from ..output import SLASHES, beside, check_target, replacing
from .deflate import npz_parts
from .metadata import Coord, encoded
from .sinks.base import naming
from .sinks.libraries import check_room, storing
from .sinks.names import check_names
from .sinks.packing import chunk_rows, write_chunks
from .sinks.zarr import check_store, replace_store, write_zarr

#: The extensions of the formats that hold several arrays.
KINDS = (".nc", ".nc4", ".h5", ".hdf5", ".npz", ".zarr")
#: Bytes from which threads compress an array in chunks of its rows.
LARGE = 1 << 20


def write_maps(
    path: str | os.PathLike[str],
    arrays: Mapping[str, tuple[Any, ...]],
    coords: Mapping[str, Coord],
    attributes: Mapping[str, str],
    compression: str | None = None,
) -> None:
    """Write named arrays with dimensions to .nc, .h5, .npz or .zarr; the file is complete, or does not appear.

    Parameters
    ----------
    path : path
        The extension selects the format.
    arrays : mapping of str to (dims, array) or (dims, array, attributes)
        The whole file is built in memory before it is written (NetCDF: also in a temporary file).
    coords : mapping of str to Coord
        In an .npz file they are arrays too; dimensions and attributes are JSON text in its array "metadata".
    attributes : mapping of str to str
        The provenance of the arrays.
    compression : {"zlib", "blosc"}, optional
        Of the arrays; an .npz file has zlib for both.

    Raises
    ------
    InputError
        For another extension, names that clash, or content that the format cannot hold.
    OSError
        Naming ``path``, when it cannot be written.
    """
    path, kind = _kind(path)
    described_arrays = {
        key: Coord(tuple(dims), np.asarray(values), dict(*attrs)) for key, (dims, values, *attrs) in arrays.items()
    }
    for key, (dims, values, _) in described_arrays.items():
        if len(dims) != values.ndim:
            raise InputError(f"{path}: {key} has shape {values.shape}, but the dimensions {dims}")
    if kind == ".zarr":
        _to_zarr(path, described_arrays, coords, attributes, compression)
        return
    check_target(path)
    with storing(path):
        content: Any = _MAKERS[kind](path, described_arrays, coords, attributes, compression)
    with replacing(path) as file:
        file.writelines(content)


def check_maps(path: str, names: Collection[str], dims: Collection[str], coords: Mapping[str, Coord]) -> None:
    """Raise, before any work, the error that `write_maps` would raise for arrays of these names and dimensions.

    The coordinates are written to a temporary place, because the libraries may refuse them for many reasons.
    """
    path, kind = _kind(path)
    for key in (*coords, *dims):
        if key in names:
            raise InputError(f"{path}: the input has a coordinate or dimension {key!r}, as statistics do; rename it")
    described = {name: Coord(tuple(dims), np.empty(0), {}) for name in names}
    check_names(path, {".nc4": "nc", ".hdf5": "h5"}.get(kind, kind[1:]), described, coords)
    with tempfile.TemporaryDirectory() as folder, naming(path, folder), storing(path):
        if kind == ".zarr":
            check_store(path)
            write_zarr(folder, {}, coords, {}, path)
        else:
            _MAKERS[kind](path, {}, coords, {}, None)


def _kind(path: str | os.PathLike[str]) -> tuple[str, str]:
    """A path without trailing slashes, and its extension; InputError for an unknown extension."""
    path = os.fspath(path).rstrip(SLASHES)
    kind = os.path.splitext(path)[1].lower()
    if kind not in KINDS:
        raise InputError(f"{path}: maps are written to {', '.join(KINDS)}")
    return path, kind


def _chunks(arrays: Mapping[str, Coord], compression: str | None) -> dict[str, int]:
    """The rows in a chunk of each array that threads compress: large ones of numbers."""
    if compression != "zlib":
        return {}
    return {
        key: chunk_rows(array)
        for key, array in arrays.items()
        if array.values.nbytes >= LARGE and array.values.dtype.kind in "iuf"
    }


def _netcdf(
    path: str,
    arrays: dict[str, Coord],
    coords: Mapping[str, Coord],
    attributes: Mapping[str, str],
    compression: str | None,
) -> list[bytes]:
    from .sinks.netcdf import dataset, write_netcdf

    # the library writes only to named files; the gaps in the files that it builds in memory hold arbitrary bytes
    with tempfile.TemporaryDirectory() as folder:
        temporary = os.path.join(folder, "maps.nc")
        check_room(temporary, [*arrays.values(), *coords.values()], 0)
        chunks = _chunks(arrays, compression)
        with dataset(temporary, path) as file:
            write_netcdf(file, arrays, coords, attributes, path, chunks.keys(), compression, chunks)
        if chunks:
            import h5py

            with h5py.File(temporary, "r+") as packed:
                write_chunks(packed, {key: arrays[key].values for key in chunks})
        with open(temporary, "rb") as content:
            return [content.read()]


def _hdf5(
    path: str,
    arrays: dict[str, Coord],
    coords: Mapping[str, Coord],
    attributes: Mapping[str, str],
    compression: str | None,
) -> list[memoryview]:
    import h5py

    from .sinks.hdf5 import write_hdf5

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        chunks = _chunks(arrays, compression)
        write_hdf5(file, arrays, coords, attributes, path, chunks.keys(), compression, chunks)
        write_chunks(file, {key: arrays[key].values for key in chunks})
    return [content.getbuffer()]


def _npz(
    path: str,
    arrays: dict[str, Coord],
    coords: Mapping[str, Coord],
    attributes: Mapping[str, str],
    compression: str | None,
) -> Iterable[bytes | memoryview]:
    check_names(path, "npz", arrays, coords)
    members_by_name = {**{key: encoded(key, coord) for key, coord in coords.items()}, **arrays}
    notes = {
        "dims": {key: list(value.dims) for key, value in members_by_name.items()},
        "attrs": {
            key: {n: str(v) for n, v in value.attrs.items()} for key, value in members_by_name.items() if value.attrs
        },
        "attributes": dict(attributes),
    }
    members: dict[str, Any] = {key: value.values for key, value in members_by_name.items()}
    members = {"metadata": np.array(json.dumps(notes)), **members}
    if compression is not None and all(values.dtype.kind in "biufSU" for values in members.values()):
        return npz_parts(members)
    content = io.BytesIO()
    np.savez(content, **members)
    return [content.getbuffer()]


def _to_zarr(
    path: str,
    arrays: dict[str, Coord],
    coords: Mapping[str, Coord],
    attributes: Mapping[str, str],
    compression: str | None,
) -> None:
    check_store(path)
    partial = beside(path, "part")
    with naming(path, partial), storing(path):
        shutil.rmtree(partial, ignore_errors=True)
        os.mkdir(partial)
        try:
            write_zarr(partial, arrays, coords, attributes, path, compression=compression)
            replace_store(path, partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


_MAKERS = {".nc": _netcdf, ".nc4": _netcdf, ".h5": _hdf5, ".hdf5": _hdf5, ".npz": _npz}
