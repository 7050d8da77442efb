"""What every sink offers, and the file that most of them write."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError, ShapeError
from ...output import beside, check_target, on_disk, take_place
from ..labels import Coord, Labels, for_relevance
from ..offsets import write_at

if TYPE_CHECKING:
    from ..labels import RowsShape


class Sink:
    """Where rows of relevance go, along the first axis; a context manager that closes it.

    Attributes
    ----------
    name : str
        For messages.
    path : str or None
        None where rows go to a function.
    partial : str or None
        Where rows are until the output is whole.
    resumable : bool
        Whether another run can go on with what this one leaves.
    """

    name: str
    path: str | None = None
    partial: str | None = None
    resumable: bool = False

    def check(self, shape: RowsShape, dtype: np.dtype) -> None:  # noqa: B027
        """Before any work: InputError or OSError unless an array of this shape can be written."""

    def begin(
        self,
        shape: RowsShape,
        dtype: np.dtype,
        attributes: dict[str, str],
        labels: Labels | None = None,
        done: int = 0,
        rows: int = 1,
        there: bool = False,
    ) -> None:
        """Make the partial output, or open one that is there to go on with row ``done``.

        Parameters
        ----------
        shape : tuple of int
            Of the whole; the number of samples may be None where the format can take it.
        dtype : numpy.dtype
        attributes : dict of str
            How the relevance was made.
        labels : Labels, optional
            The input's.
        done : int
            Rows of the partial output that are written.
        rows : int
            Rows that are written at a time, for formats that store them so.
        there : bool
            Open what is there also where no row is done: another process made it.

        Raises
        ------
        InputError
            When the partial output is not there or is another.
        OSError
            When it cannot be written.
        """
        self._shape, self._dtype = shape, little(dtype)
        self._attributes, self._labels = attributes, labels
        self._end, self._rows = done, max(1, rows)
        self._open(bool(done) or there)

    def _open(self, there: bool) -> None:
        """`begin`, of what it was given; ``there`` where the partial output is to be gone on with."""
        raise NotImplementedError

    def _described(self, samples: int | None) -> tuple[Coord, dict[str, Coord]]:
        """The relevance of as many samples as files describe it, without its values, and its coordinates."""
        shape = (samples, *self._shape[1:])
        labels = for_relevance(self._labels, shape)
        placeholder = np.broadcast_to(np.zeros((), self._dtype), shape)  # type: ignore[arg-type]
        return Coord(labels.dims, placeholder, {**labels.attrs, **self._attributes}), labels.coords

    def _gone(self) -> InputError:
        """The error where a run is to go on with a partial output that is not there."""
        return InputError(f"{self.name}: there is no partial output {self.partial} to go on with")

    def write(self, first: int, rows: np.ndarray) -> None:
        """Rows from ``first`` on; OSError that names the output when the disk is full, with the rows so far kept."""
        raise NotImplementedError

    def flush(self) -> None:  # noqa: B027
        """Return when the rows written are on the disk."""

    def finish(self) -> None:
        """All rows are written: the output takes its name, in one step."""
        raise NotImplementedError

    def close(self) -> None:  # noqa: B027
        """Stop where it is; a partial output stays."""

    def discard(self) -> None:  # noqa: B027
        """Stop, and remove the partial output."""

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CallbackSink(Sink):
    """Rows go to ``function(first, rows)``."""

    def __init__(self, function: Callable[[int, np.ndarray], Any]) -> None:
        self._function = function
        self.name = getattr(function, "__name__", type(function).__name__)

    def _open(self, there: bool) -> None:
        if there:
            raise InputError(f"{self.name}: rows given to a function cannot be resumed")

    def write(self, first: int, rows: np.ndarray) -> None:
        self._function(first, rows.copy())  # which it may keep: the rows' own place is used again

    def finish(self) -> None:
        """The function has had every row."""


class FileSink(Sink):
    """Rows that lie in a file as they lie in memory, written in place at their offset.

    The library of the format makes the file with all but the rows, and is not
    involved afterwards: a run that is killed leaves a file that is as good as
    its rows.
    """

    path: str
    partial: str
    resumable = True

    def __init__(self, path: str, dataset: str | None = None) -> None:
        self.path, self._dataset = path, dataset
        self.name = path if dataset is None else f"{path}:{dataset}"
        self.partial = beside(path, "part")
        self._file: int | None = None

    def check(self, shape: RowsShape, dtype: np.dtype) -> None:
        held = 0  # by a partial output, which a resumed run goes on with and another one replaces
        with contextlib.suppress(OSError):
            held = on_disk(os.stat(self.partial))
        check_target(self.path, max(0, math.prod(shape[1:], start=shape[0] or 0) * dtype.itemsize - held))

    def _open(self, there: bool) -> None:
        self._row = math.prod(self._shape[1:]) * self._dtype.itemsize
        with self._named():
            if not there:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.partial)
                self._create()
            elif not os.path.isfile(self.partial):
                raise self._gone()
            self._offset = self._find()
            self._file = os.open(self.partial, os.O_RDWR | getattr(os, "O_BINARY", 0))
            self._check_size(self._end)

    def _create(self) -> None:
        """Make the partial file with everything but the rows."""
        raise NotImplementedError

    def _find(self) -> int:
        """Where in the partial file the rows begin; InputError where it is another file."""
        raise NotImplementedError

    def _check_size(self, done: int) -> None:
        size, least = os.stat(self.partial).st_size, self._offset + done * self._row
        if size < least:
            raise InputError(f"{self.partial}: has {size:,} bytes, too few for the {done} rows that are done")

    def write(self, first: int, rows: np.ndarray) -> None:
        check_rows(self.name, self._shape, first, rows)
        if rows.size:
            assert self._file is not None
            data = memoryview(np.ascontiguousarray(rows, self._dtype).reshape(-1).view(np.uint8))
            with self._named():
                write_at(self._file, data, self._offset + first * self._row)
        self._end = max(self._end, first + len(rows))

    def flush(self) -> None:
        assert self._file is not None
        with self._named():
            getattr(os, "fdatasync", os.fsync)(self._file)

    def finish(self) -> None:
        assert self._file is not None
        with self._named():
            self._complete()
            os.fsync(self._file)  # network disks report a full disk only here
            self.close()
            check_target(self.path)
            take_place(self.partial, os.path.realpath(self.path))

    def _complete(self) -> None:  # noqa: B027
        """What is known only at the end."""

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def discard(self) -> None:
        self.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.partial)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """An OSError names the output."""
        with naming(self.path, self.partial):
            yield


def little(dtype: np.dtype) -> np.dtype:
    """The type in the byte order of files, which is the same on every machine."""
    return np.dtype(np.dtype(dtype).newbyteorder("<").str)  # by its name: else "<" and "=" differ for netCDF4


def check_names(name: str, arrays: Collection[str], coords: Collection[str]) -> None:
    """InputError where an array and a coordinate of the input have the same name."""
    for key in coords:
        if key in arrays:
            raise InputError(f"{name}: a coordinate of the input is called {key!r} too; give the output another name")


def check_rows(name: str, shape: RowsShape, first: int, rows: np.ndarray) -> None:
    """ShapeError unless rows from ``first`` on are part of an array of this shape."""
    if rows.shape[1:] != tuple(shape[1:]) or (shape[0] is not None and first + len(rows) > shape[0]):
        raise ShapeError(f"{name}: rows from {first} on of shape {rows.shape} do not fit {shape}")


@contextlib.contextmanager
def naming(path: str, partial: str) -> Iterator[None]:
    """An OSError of a file without a name, or of a partial one, names the output."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(partial):
            raise
        if error.errno is None:  # a library's own
            raise OSError(f"{path}: cannot be written ({error})") from error
        raise OSError(error.errno, os.strerror(error.errno), path) from error  # HDF5 says more than anyone reads
