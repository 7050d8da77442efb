"""The interface of all sources, and sources in files."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ...errors import InputError, LrpfastError
from ...readers.untrusted import unpacks_honestly
from ..metadata import ArrayMetadata
from .paths import absolute, split

if TYPE_CHECKING:
    from ..metadata import RowsShape

#: The largest number of axes: NumPy 1 has 32, NumPy 2 has 64.
MOST_AXES = 32 if np.lib.NumpyVersion(np.__version__) < "2.0.0" else 64


class Source:
    """Samples along the first axis, read a few rows at a time; a context manager that closes it.

    Attributes
    ----------
    name : str
        For messages: a path, ``file.h5:dataset``, or the kind of object.
    shape : tuple of int
        Samples first; None for the number of samples of an iterator.
    dtype : numpy.dtype
        Of the rows that are read: real numbers, in any byte order.
    labels : ArrayMetadata or None
    step : int
        The number of rows that are stored together; 1 if any range is equally fast to read.
    is_part_of_grid : bool
        Whether ``select`` left points of a sample's axes out.
    """

    name: str
    shape: RowsShape
    dtype: np.dtype
    labels: ArrayMetadata | None = None
    step: int = 1
    is_part_of_grid: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        """The files and folders that are read; none for an array in memory."""
        return ()

    @property
    def provenance(self) -> dict[str, str]:
        """What was done to the samples on the way, for the attributes of outputs."""
        return {}

    @property
    def recipe(self) -> Any:
        """What another process opens the same source by, with `reopened`; None if it cannot.

        The name of a file, a list of names, or a tuple: a class that wraps a source, the recipe of that source, and the
        class's other arguments.
        """
        return None

    @property
    def fingerprint(self) -> dict[str, Any] | None:
        """A JSON value by which another run recognises the same input; None if the input can be read only once."""
        return None

    def read(self, first: int, stop: int) -> np.ndarray:
        """The rows from ``first`` up to ``stop``.

        Raises
        ------
        InputError, OSError
            When the input has vanished, was truncated or changed, or is damaged; the message names the rows.
        """
        raise NotImplementedError

    def read_into(self, first: int, stop: int, out: np.ndarray) -> np.ndarray:
        """As `read`, into the first rows of ``out``, a C-contiguous array of the source's dtype; returns these rows."""
        rows = self.read(first, stop)
        out[: len(rows)] = rows
        return out[: len(rows)]

    def select_rows(self, values: np.ndarray) -> np.ndarray:
        """The entries of the samples that are left, of an array with an entry for each sample of the whole data."""
        return values

    def unchanged(self) -> None:  # noqa: B027
        """Raise InputError or OSError if the input has changed since it was opened, as far as can be detected."""

    def done(self, stop: int) -> None:  # noqa: B027
        """Release the rows before ``stop``, which are not needed again."""

    def ahead(self, first: int, stop: int) -> None:  # noqa: B027
        """Announce the rows that are needed next, which may be read in the background."""

    def close(self) -> None:  # noqa: B027
        """Close the input."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        """Raise InputError unless the samples are real numbers with a first axis."""
        if self.dtype.kind not in "fiub" and self.dtype.name != "bfloat16":
            raise InputError(f"{self.name}: holds {self.dtype}, which are no real numbers")
        if not self.shape:
            raise InputError(f"{self.name}: holds a single number; samples lie along the first axis of an array")
        if len(self.shape) > MOST_AXES:
            raise InputError(f"{self.name}: an array of {len(self.shape)} axes, and NumPy makes at most {MOST_AXES}")
        if math.prod(filter(None, self.shape)) * self.dtype.itemsize > sys.maxsize:  # NumPy ignores sizes of 0
            raise InputError(f"{self.name}: no array has the shape {self.shape}")


class FileSource(Source):
    """Rows of a file. Every read checks that the file has not changed since it was opened."""

    def __init__(self, path: str, name: str, shape: tuple[int, ...], dtype: np.dtype, state: tuple[int, ...]) -> None:
        self.path, self.name, self.dtype, self._state = path, name, dtype, state
        self.shape = cast("RowsShape", tuple(map(int, shape)))  # a single number is refused below
        self._check()

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,)

    @property
    def recipe(self) -> Any:
        return absolute(*split(self.name))

    @property
    def fingerprint(self) -> dict[str, Any]:
        _, size, changed = self._state
        dataset = self.name.partition(f"{self.path}:")[2]
        identity = {"path": os.path.abspath(self.path), "dataset": dataset, "size": size, "mtime_ns": changed}
        return {**identity, "shape": list(self.shape), "dtype": self.dtype.str}

    def read(self, first: int, stop: int) -> np.ndarray:
        with self.reading(first, stop):
            return self._read(first, stop)

    def _read(self, first: int, stop: int) -> np.ndarray:
        raise NotImplementedError

    @contextlib.contextmanager
    def reading(self, first: int, stop: int) -> Iterator[None]:
        """Check the file before and after a read, and name the file and rows in its errors.

        Libraries read zeros beyond the end of a file, hence both checks.
        """
        rows = f"{self.name}: rows {first} to {stop - 1} cannot be read"
        self._unchanged(rows)
        try:
            yield
        except (LrpfastError, MemoryError):
            raise
        except Exception as error:  # any exception of a library that reads a damaged file
            self._unchanged(rows)
            raise InputError(f"{rows} ({type(error).__name__}: {error})") from error
        self._unchanged(rows)

    def unchanged(self) -> None:
        self._unchanged(f"{self.name}: what was read is of no use")

    def _unchanged(self, name: str) -> None:
        try:
            state = state_of(self.path)
        except OSError as error:
            raise OSError(error.errno, f"{name}: {error.strerror}", self.path) from None
        if state[1] < self._state[1]:
            raise InputError(f"{name}: the file was cut from {self._state[1]:,} to {state[1]:,} bytes")
        if state != self._state:
            raise InputError(f"{name}: the file was changed or replaced since it was opened")


def check_unpacked(name: str, size: int, stored: int) -> None:
    """Raise InputError if ``stored`` bytes of data unpack to an implausible ``size`` of bytes in memory."""
    if not unpacks_honestly(size, stored):
        raise InputError(
            f"{name}: unpacks to {size:,} bytes at a time from {stored:,} in the file, more than any real data does; "
            "np.save writes an array that can be read whatever it holds"
        )


def state_of(path: str) -> tuple[int, int, int]:
    """The state by which a change of a file is detected: its inode, size and modification time."""
    state = os.stat(path)
    return state.st_ino, state.st_size, state.st_mtime_ns


def row_bytes(shape: RowsShape, dtype: np.dtype) -> int:
    """The number of bytes of one sample."""
    return math.prod(shape[1:]) * dtype.itemsize


class Wrapped(Source):
    """Another source, with something done to its rows; the base class of those that do it.

    Parameters
    ----------
    source : Source
        Closed together with this object.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name, self.shape, self.dtype = source.name, source.shape, source.dtype
        self.labels, self.step = source.labels, source.step
        self.is_part_of_grid = source.is_part_of_grid

    @property
    def paths(self) -> tuple[str, ...]:
        return self._source.paths

    @property
    def provenance(self) -> dict[str, str]:
        return self._source.provenance

    @property
    def fingerprint(self) -> dict[str, Any] | None:
        return self._source.fingerprint

    def select_rows(self, values: np.ndarray) -> np.ndarray:
        return self._source.select_rows(values)

    def unchanged(self) -> None:
        self._source.unchanged()

    def done(self, stop: int) -> None:
        self._source.done(stop)

    def ahead(self, first: int, stop: int) -> None:
        self._source.ahead(first, stop)

    def close(self) -> None:
        self._source.close()
