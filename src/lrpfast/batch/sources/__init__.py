"""Sources of samples: files, arrays, lazy arrays and iterators, all read a few rows at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...errors import InputError, InputNotFoundError, LrpfastError, MissingPackageError, ShapeError
from ...output import in_utf8
from .base import Source
from .fit import filled
from .formats import coordinate_in, open_file, texts_in
from .joined import JoinedSource, order_of
from .lazy import LazySource
from .mapped import is_npy, open_array
from .memory import ArraySource, IteratorSource
from .paths import expanded_if_missing, is_files, is_paths, split
from .select import selected

__all__ = [
    "Source",
    "expanded_if_missing",
    "is_files",
    "is_paths",
    "open_array",
    "open_source",
    "read_labels",
    "reopened",
    "split",
]


def open_source(x: Any, *, select: Any = None, fill_nan: float | None = None) -> Source:
    """Open a source of samples, which are read a few at a time.

    Parameters
    ----------
    x : str, path-like, array or iterable
        A path to a file, whose format is recognised by content: .npy; .npz, as ``file.npz``
        with one array or ``file.npz:name``; HDF5, as ``file.h5:dataset``; NetCDF, as ``file.nc:variable``; Zarr,
        a folder or zip archive, as ``store.zarr:array``. The name is optional if there is only one array.
        A pattern, as ``"sst_*.nc:sst"``, or a list of paths: several files that are read as one, in the order of their
        coordinate along the samples.
        Or a NumPy array, anything with ``__array__`` or DLPack, an xarray.DataArray, a dask.array.Array, or an
        iterable of arrays, which are batches of any size. An open source is returned unchanged.
    select : mapping, optional
        A part of the data, by its coordinates: ``{"time": slice("1982-01", "1999-12"), "lat": (-60, 60)}`` is a window
        of time and a range of latitudes, ends included; a list are values, ``{"time.season": ["DJF"]}``. Or the texts
        of the command line's ``--select``.
    fill_nan : float, optional
        A number in place of NaN.

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

    Examples
    --------
    >>> for year in (1982, 1983):
    ...     np.save(f"sst_{year}.npy", np.full((365, 3), year))
    >>> with lrpfast.batch.open_source("sst_*.npy") as source:
    ...     source.shape, source.read(364, 366)[:, 0].tolist()
    ((730, 3), [1982, 1983])
    """
    source = _open(x)
    if select is None and fill_nan is None:
        return source
    try:
        return filled(selected(source, select), fill_nan)
    except LrpfastError:
        if source is not x:
            source.close()
        raise


def _open(x: Any) -> Source:
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
    if is_paths(x):
        paths = [name for item in x for name in expanded_if_missing(os.fsdecode(item))]
        return JoinedSource(paths, _open_path, sort=False)
    if isinstance(x, (list, tuple, dict, set, bytes)):
        raise InputError(
            f"samples came as a {type(x).__name__}; give numpy.asarray(samples), or iter(batches) for a list of batches"
        )
    if hasattr(x, "__iter__") or hasattr(x, "__next__"):
        return IteratorSource(x)
    raise InputError(f"samples cannot be read from a {type(x).__name__}; give a path, an array or an iterator")


def reopened(recipe: Any) -> Source:
    """The source that has this `Source.recipe`."""
    if isinstance(recipe, tuple):
        wrap, inner, *arguments = recipe
        source: Source = wrap(reopened(inner), *arguments)
        return source
    return open_source(recipe)


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
    names = expanded_if_missing(name)
    if len(names) > 1:
        return JoinedSource(names, _open_path)
    path, array = split(names[0])
    with _guarded(path):
        return open_file(path, None if array is None else in_utf8(array))


def read_labels(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> np.ndarray:
    """A value for each sample: numbers from what `open_source` takes, or texts in .npy, NetCDF or HDF5 files.

    Several files, or those of a pattern, are read as one.

    Raises
    ------
    InputError, InputNotFoundError, OSError, MissingPackageError
        As `open_source`.
    """
    listed = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    names = [name for item in listed for name in expanded_if_missing(os.fsdecode(item))]
    if len(names) == 1 and is_npy(names[0]):
        return np.array(open_array(names[0]))
    if all(map(is_npy, names)):
        arrays = [np.atleast_1d(np.array(open_array(name))) for name in names]
        if len({(array.shape[1:], array.dtype.kind in "US") for array in arrays}) > 1:
            each = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in zip(names, arrays, strict=True))
            raise ShapeError(f"files that are read as one must hold alike values, not {each}")
        return np.concatenate(arrays)
    texts = _texts([split(name) for name in names], sort=len(listed) == 1)
    if texts is not None:
        return texts
    with _open(path if len(listed) == 1 else names) as source:
        return np.array(source.read(0, source.shape[0] or 0))


def _texts(names: list[tuple[str, str | None]], sort: bool) -> np.ndarray | None:
    """The texts in one file or in several, in the order in which they are read as one; None if they hold no texts."""
    columns, coordinates = [], []
    for path, array in names:
        with _guarded(path):
            name = None if array is None else in_utf8(array)
            texts = texts_in(path, name)
            if texts is None or name is None:
                return None
            columns.append(texts)
            coordinates.append(coordinate_in(path, name) if len(names) > 1 else None)
    order = list(range(len(names)))
    if sort and None not in coordinates:
        order = order_of([f"{path}:{name}" for (path, _), name in zip(names, coordinates, strict=True)], _open_path)
    return np.concatenate([columns[i] for i in order])
