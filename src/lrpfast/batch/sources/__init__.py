"""Sources of samples: files, arrays, lazy arrays and iterators, all read a few rows at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import InputError, InputNotFoundError, LrpfastError, MissingPackageError
from ...output import in_utf8
from .base import Source
from .formats import open_file
from .lazy import LazySource
from .mapped import open_array
from .memory import ArraySource, IteratorSource

__all__ = ["Source", "open_array", "open_source"]


def open_source(x: Any) -> Source:
    """Open a source of samples, which are read a few at a time.

    Parameters
    ----------
    x : str, path-like, array or iterable
        A path to a file, whose format is recognised by content: .npy; .npz, as ``file.npz``
        with one array or ``file.npz:name``; HDF5, as ``file.h5:dataset``; NetCDF, as ``file.nc:variable``; Zarr,
        a folder or zip archive, as ``store.zarr:array``. The name is optional if there is only one array.
        Or a NumPy array, anything with ``__array__`` or DLPack, an xarray.DataArray, a dask.array.Array, or an
        iterable of arrays, which are batches of any size. An open source is returned unchanged.

    Returns
    -------
    Source

    Raises
    ------
    InputError
        For anything else, and for a file that is damaged or does not hold real numbers.
    InputNotFoundError
        When there is no such file.
    OSError
        When it may not be read.
    MissingPackageError
        When netCDF4 or zarr is needed and not installed.
    """
    if isinstance(x, Source):
        return x
    if isinstance(x, (str, os.PathLike)):
        return _open_path(os.fsdecode(x))
    if isinstance(x, np.ndarray):
        return ArraySource(x)
    xarray, dask = sys.modules.get("xarray"), sys.modules.get("dask.array")
    if xarray is not None and isinstance(x, xarray.Dataset):
        names = ", ".join(map(str, x.data_vars))
        raise InputError(f"an xarray.Dataset holds several variables; give one of them, as dataset[name]: {names}")
    if (xarray is not None and isinstance(x, xarray.DataArray)) or (dask is not None and isinstance(x, dask.Array)):
        return LazySource(x)
    if hasattr(x, "__array__") or hasattr(x, "__dlpack__"):
        return ArraySource(x)
    if isinstance(x, (list, tuple, dict, set, bytes)):
        raise InputError(
            f"samples came as a {type(x).__name__}; give numpy.asarray(samples), or iter(batches) for a list of batches"
        )
    if hasattr(x, "__iter__") or hasattr(x, "__next__"):
        return IteratorSource(x)
    raise InputError(f"samples cannot be read from a {type(x).__name__}; give a path, an array or an iterator")


def split(path: str) -> tuple[str, str | None]:
    """(the path of an existing file or folder, the name after a colon or None).

    A colon may also be part of the path: the longest existing path counts. The colon of a drive is part of it.
    """
    end, drive = len(path), len(os.path.splitdrive(path)[0])
    while end > drive:
        if os.path.lexists(path[:end]):
            return path[:end], path[end + 1 :] or None
        end = path.rfind(":", 0, end)
    return path, None


@contextlib.contextmanager
def _guarded(path: str) -> Iterator[None]:
    """Name the file in every error, and turn a library's exceptions for a damaged file into InputError."""
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


def _open_path(name: str) -> Source:
    path, array = split(name)
    with _guarded(path):
        return open_file(path, None if array is None else in_utf8(array))
