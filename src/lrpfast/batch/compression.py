"""Compression of output files."""

from __future__ import annotations

import functools
import os
import zlib
from typing import Any

import numpy as np

from ..errors import InputError
from .optional_import import import_optional

#: The values of ``compression``: "auto" compresses files of statistics, which costs little, and no relevances.
COMPRESSIONS = ("auto", "zlib", "blosc", "none")
#: The level of zlib: higher ones take several times as long, and save little.
LEVEL = 4


def of_statistics(compression: str) -> str | None:
    """The compression of a file of statistics."""
    return None if compression == "none" else "blosc" if compression == "blosc" else "zlib"


def of_relevance(compression: str) -> str | None:
    """The compression of a file of relevances."""
    return compression if compression in ("zlib", "blosc") else None


def hdf5_plugins(purpose: str) -> Any:
    """The package hdf5plugin, whose blosc h5py uses from now on.

    Otherwise h5py may find that of netCDF4, which is linked to another HDF5 library: it fails, or the process crashes.

    Raises
    ------
    InputError
        When h5py is reading a file by netCDF4's blosc.
    MissingPackageError
    """
    package = import_optional("hdf5plugin", purpose)
    try:
        _use_blosc_of(package)
    except RuntimeError as error:
        raise InputError(f"{purpose}: close the files that h5py reads by another blosc first ({error})") from None
    return package


@functools.lru_cache
def _use_blosc_of(package: Any) -> None:
    library = package.get_config().registered_filters.get("blosc", "")
    if not library.startswith(os.path.dirname(package.__file__)):
        package.register("blosc", force=True)


def hdf5_options(compression: str | None) -> dict[str, Any]:
    """Keywords of h5py's ``create_dataset``.

    Raises
    ------
    MissingPackageError
        For "blosc" without hdf5plugin, which has HDF5's filter.
    """
    if compression == "zlib":
        return {"compression": "gzip", "compression_opts": LEVEL, "shuffle": True}
    if compression == "blosc":
        blosc = hdf5_plugins("compression='blosc' in HDF5 and NetCDF").Blosc
        return dict(blosc(cname="zstd", clevel=LEVEL, shuffle=blosc.SHUFFLE))
    return {}


def netcdf_options(compression: str | None) -> dict[str, Any]:
    """Keywords of netCDF4's ``createVariable``."""
    if compression == "zlib":
        return {"zlib": True, "complevel": LEVEL}
    return {"compression": "blosc_zstd", "complevel": LEVEL, "blosc_shuffle": 1} if compression == "blosc" else {}


def check_compression(path: str, compression: str | None) -> None:
    """Raise, before any work, the error of a compression that HDF5 or NetCDF does not have on this computer.

    Raises
    ------
    InputError, MissingPackageError
    """
    kind = os.path.splitext(path)[1].lower()
    if compression == "blosc" and kind in (".h5", ".hdf5", ".nc", ".nc4"):
        hdf5_options(compression)
        if kind.startswith(".nc"):
            dataset = import_optional("netCDF4", path).Dataset
            with dataset("blosc.nc", "w", diskless=True, persist=False) as file:
                if not (hasattr(file, "has_blosc_filter") and file.has_blosc_filter()):
                    raise InputError(
                        f"{path}: this NetCDF library has no blosc filter; netCDF4's wheels have it, from 1.6 on, "
                        "and compression='zlib' needs none"
                    )


def zarr_codec(compression: str | None, dtype: np.dtype) -> dict[str, Any] | None:
    """The description of a compressor in a Zarr array of format 2."""
    if compression == "zlib":
        return {"id": "zlib", "level": LEVEL}
    if compression == "blosc":
        return {"id": "blosc", "cname": "zstd", "clevel": LEVEL, "shuffle": int(dtype.itemsize > 1), "blocksize": 0}
    return None


def encode_chunk(values: np.ndarray, codec: dict[str, Any] | None) -> bytes | memoryview:
    """The bytes of a chunk's file."""
    data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    if codec is None:
        return data
    if codec["id"] == "zlib":
        return zlib.compress(data, codec["level"])
    encoded: bytes = _blosc(codec).encode(np.ascontiguousarray(values))
    return encoded


def decode_chunk(data: bytes, dtype: np.dtype, codec: dict[str, Any] | None) -> np.ndarray:
    """The values in a chunk's file; ValueError where it is damaged."""
    try:
        if codec is not None:
            data = zlib.decompress(data) if codec["id"] == "zlib" else _blosc(codec).decode(data)
    except (zlib.error, RuntimeError) as error:
        raise ValueError(str(error)) from None
    return np.frombuffer(data, dtype).copy()


def _blosc(codec: dict[str, Any]) -> Any:
    numcodecs = import_optional("numcodecs", "compression='blosc'")
    return numcodecs.get_codec(codec)
