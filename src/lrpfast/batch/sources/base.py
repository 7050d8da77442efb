"""What every source offers."""

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

if TYPE_CHECKING:
    from ..metadata import RowsShape

#: Axes of an array: NumPy 1 makes 32, NumPy 2 makes 64.
MOST_AXES = 32 if np.lib.NumpyVersion(np.__version__) < "2.0.0" else 64


class Source:
    """Samples along the first axis, read a few rows at a time; a context manager that closes it.

    Attributes
    ----------
    name : str
        For messages: a path, ``file.h5:dataset``, or the kind of object.
    shape : tuple of int
        Samples first; None for their number where an iterator's length is unknown.
    dtype : numpy.dtype
        Of the rows that are read: real numbers, in any byte order.
    labels : Labels or None
    step : int
        Rows that are stored together; 1 where any cut is as cheap.
    """

    name: str
    shape: RowsShape
    dtype: np.dtype
    labels: ArrayMetadata | None = None
    step: int = 1

    @property
    def fingerprint(self) -> dict[str, Any] | None:
        """What another run can compare, as JSON, to see that the input is the same; None if it is read only once."""
        return None

    def read(self, first: int, stop: int) -> np.ndarray:
        """The rows from ``first`` up to ``stop``.

        Raises
        ------
        InputError, OSError
            When the input has vanished, was cut or changed, or is damaged; names it and the rows.
        """
        raise NotImplementedError

    def read_into(self, first: int, stop: int, out: np.ndarray) -> np.ndarray:
        """As `read`, into the first rows of ``out``, a C-contiguous array of the source's dtype; returns those rows."""
        rows = self.read(first, stop)
        out[: len(rows)] = rows
        return out[: len(rows)]

    def unchanged(self) -> None:  # noqa: B027
        """InputError or OSError when the input is no longer what was opened, as far as can be told."""

    def done(self, stop: int) -> None:  # noqa: B027
        """Rows before ``stop`` are not needed again."""

    def ahead(self, first: int, stop: int) -> None:  # noqa: B027
        """Rows that are needed next may be read in the background."""

    def close(self) -> None:  # noqa: B027
        """Nothing more is read."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check(self) -> None:
        """InputError unless the samples are real numbers with a first axis."""
        if self.dtype.kind not in "fiub" and self.dtype.name != "bfloat16":
            raise InputError(f"{self.name}: holds {self.dtype}, which are no real numbers")
        if not self.shape:
            raise InputError(f"{self.name}: holds a single number; samples lie along the first axis of an array")
        if len(self.shape) > MOST_AXES:
            raise InputError(f"{self.name}: an array of {len(self.shape)} axes, and NumPy makes at most {MOST_AXES}")
        if math.prod(filter(None, self.shape)) * self.dtype.itemsize > sys.maxsize:  # NumPy counts it without the zeros
            raise InputError(f"{self.name}: no array has the shape {self.shape}")


class FileSource(Source):
    """Rows of a file. Every read makes sure that the file is still as it was when it was opened."""

    def __init__(self, path: str, name: str, shape: tuple[int, ...], dtype: np.dtype, state: tuple[int, ...]) -> None:
        self.path, self.name, self.dtype, self._state = path, name, dtype, state
        self.shape = cast("RowsShape", tuple(map(int, shape)))  # a single number is refused below
        self._check()

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
        """Around a read: errors that name the file and rows, also of a file that changed before or meanwhile.

        Libraries read zeros behind a file's end: so both before and after.
        """
        rows = f"{self.name}: rows {first} to {stop - 1} cannot be read"
        self._unchanged(rows)
        try:
            yield
        except (LrpfastError, MemoryError):
            raise
        except Exception as error:  # whatever a damaged file provokes in the library that reads it
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
    """InputError where ``size`` bytes, that are needed in memory at once, cannot come from ``stored`` bytes of data."""
    if not unpacks_honestly(size, stored):
        raise InputError(
            f"{name}: unpacks to {size:,} bytes at a time from {stored:,} in the file, more than any real data does; "
            "np.save writes an array that can be read whatever it holds"
        )


def state_of(path: str) -> tuple[int, int, int]:
    """What changes when a file does: its inode, size and time of change."""
    state = os.stat(path)
    return state.st_ino, state.st_size, state.st_mtime_ns


def row_bytes(shape: RowsShape, dtype: np.dtype) -> int:
    """Bytes of one sample."""
    return math.prod(shape[1:]) * dtype.itemsize
