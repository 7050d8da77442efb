"""Where samples come from: files, arrays, lazy arrays and iterators, all read a few rows at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import InputError, InputNotFoundError, LrpfastError, MissingPackageError
from ...output import in_utf8
from .base import Source
from .mapped import MAGIC, open_array, open_npy

__all__ = ["Source", "open_array", "open_source"]


def open_source(x: Any) -> Source:
    """Samples to be read a few at a time, from whatever holds them.

    Parameters
    ----------
    x : str, path-like, array or iterable
        A path to a file, whose kind is decided by its content: .npy; .npz, as ``file.npz``
        with one array or ``file.npz:name``; HDF5, as ``file.h5:dataset``; NetCDF, as ``file.nc:variable``; Zarr,
        a folder or zip archive, as ``store.zarr:array``. The name may be left out where there is one only.
        Or a NumPy array, anything with ``__array__`` or DLPack, an xarray.DataArray, a dask.array.Array, or an
        iterable of arrays, which are batches of any size. A source that is open already is returned as it is.

    Returns
    -------
    Source

    Raises
    ------
    InputError
        For what is none of these, is damaged, or does not hold real numbers; says what it is.
    InputNotFoundError
        When there is no such file.
    OSError
        When it must not be read.
    MissingPackageError
        When netCDF4 or zarr is needed and not installed.
    """
    if isinstance(x, Source):
        return x
    if isinstance(x, (str, os.PathLike)):
        return _open_path(os.fsdecode(x))
    if isinstance(x, np.ndarray):
        return _in_memory(x)
    xarray, dask = sys.modules.get("xarray"), sys.modules.get("dask.array")
    if xarray is not None and isinstance(x, xarray.Dataset):
        names = ", ".join(map(str, x.data_vars))
        raise InputError(f"an xarray.Dataset holds several variables; give one of them, as dataset[name]: {names}")
    if (xarray is not None and isinstance(x, xarray.DataArray)) or (dask is not None and isinstance(x, dask.Array)):
        from .lazy import LazySource

        return LazySource(x)
    if hasattr(x, "__array__") or hasattr(x, "__dlpack__"):
        return _in_memory(x)
    if isinstance(x, (list, tuple, dict, set, bytes)):
        raise InputError(
            f"samples came as a {type(x).__name__}; give numpy.asarray(samples), or iter(batches) for a list of batches"
        )
    if hasattr(x, "__iter__") or hasattr(x, "__next__"):
        from .memory import IteratorSource

        return IteratorSource(x)
    raise InputError(f"samples cannot be read from a {type(x).__name__}; give a path, an array or an iterator")


def _in_memory(x: Any) -> Source:
    from .memory import ArraySource

    return ArraySource(x)


def split(path: str) -> tuple[str, str | None]:
    """(the path of a file or folder that exists, what is named in it after a colon or None).

    A colon may also be part of the path: the longest that exists counts. That of a drive is no other.
    """
    end, drive = len(path), len(os.path.splitdrive(path)[0])
    while end > drive:
        if os.path.lexists(path[:end]):
            return path[:end], path[end + 1 :] or None
        end = path.rfind(":", 0, end)
    return path, None


@contextlib.contextmanager
def _guarded(path: str) -> Iterator[None]:
    """Name the file in every error, and make an InputError of whatever a damaged file provokes in its library."""
    try:
        yield
    except MissingPackageError:
        raise
    except LrpfastError as error:
        if path in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    except MemoryError as error:
        raise InputError(f"{path}: opening it takes more memory than there is ({error})") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not os.path.exists(path):
            raise InputNotFoundError(path) from None
        if error.filename is not None:
            raise
        if error.errno not in (None, errno.EINVAL):  # the disk's, not the file's
            raise OSError(error.errno, error.strerror, path) from error
        raise InputError(f"{path}: damaged or truncated ({error})") from error
    except Exception as error:
        raise InputError(f"{path}: damaged or truncated ({type(error).__name__}: {error})") from error


def _open_path(given: str) -> Source:
    path, inside = split(given)
    with _guarded(path):
        return _open_file(path, None if inside is None else in_utf8(inside))


def _open_file(path: str, inside: str | None) -> Source:
    if os.path.isdir(path):
        from .zarr import ZarrSource, is_store

        if is_store(os.listdir(path)):
            return ZarrSource(path, inside)
        raise InputError(f"{path}: is a folder, and no Zarr store")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path}: is no regular file, whose samples could be read anywhere and again")
    with open(path, "rb") as file:
        head = file.read(8)
    if head.startswith(MAGIC):
        if inside is not None:
            raise InputError(f"{path}: an .npy file holds one array, without a name such as {inside!r}")
        return open_npy(path)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _open_zip(path, inside)
    if head.startswith(b"CDF"):
        from .netcdf import NetcdfSource

        return NetcdfSource(path, inside)
    import h5py

    if h5py.is_hdf5(path):
        from .hdf5 import check_netcdf, is_netcdf, open_hdf5

        if not is_netcdf(path):
            return open_hdf5(path, inside)
        check_netcdf(path)
        from .netcdf import NetcdfSource

        return NetcdfSource(path, inside)
    if not head:
        raise InputError(f"{path}: an empty file")
    if head.startswith(b"\x80"):
        raise InputError(f"{path}: a Python pickle (never opened: it can run code); np.save writes an array")
    text = "; np.save('x.npy', np.loadtxt(PATH, delimiter=',')) makes one of a table of text" if _is_table(path) else ""
    raise InputError(f"{path}: not an .npy, .npz, HDF5, NetCDF or Zarr file{text}")


def _is_table(path: str) -> bool:
    return path.lower().endswith((".csv", ".tsv", ".txt", ".dat"))


def _open_zip(path: str, inside: str | None) -> Source:
    from .npz import open_npz
    from .zarr import ZarrSource, is_store

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: damaged or truncated zip archive ({error})") from None
    if is_store(names):
        return ZarrSource(path, inside)
    if any(name.endswith(".npy") for name in names):
        return open_npz(path, inside)
    raise InputError(f"{path}: a zip archive with neither NumPy's arrays nor a Zarr store in it (a .keras file?)")
