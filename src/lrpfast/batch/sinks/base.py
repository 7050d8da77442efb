"""What every sink offers, and the file that most of them write."""

from __future__ import annotations

import contextlib
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError, LrpfastError, ShapeError
from ...output import beside, check_target, on_disk, replace_file, sync
from ..metadata import ArrayMetadata, Coord, encoded, for_relevance
from ..positional_io import read_at, write_at
from .names import check_names

if TYPE_CHECKING:
    from ..metadata import RowsShape

#: Bytes of rows from which on their checksum is computed while they are written: it takes about as long.
LONG = 1 << 20


class Sink:
    """Where rows of relevance go, along the first axis; a context manager that closes it.

    Attributes
    ----------
    name : str
        For messages.
    path : str or None
        None where rows go to a function.
    array : str or None
        What the rows are called in the output, where it has names.
    partial : str or None
        Where rows are until the output is whole.
    resumable : bool
        Whether another run can go on with what this one leaves.
    """

    name: str
    path: str | None = None
    array: str | None = None
    partial: str | None = None
    resumable: bool = False
    _checksum_thread: ThreadPoolExecutor | None = None

    def check(self, shape: RowsShape, dtype: np.dtype, labels: ArrayMetadata | None = None) -> None:  # noqa: B027
        """Before anything is created: InputError or OSError unless an array of this shape can be written.

        With the input's names and coordinates, where the format has room for them.
        """

    def begin(
        self,
        shape: RowsShape,
        dtype: np.dtype,
        attributes: dict[str, str],
        labels: ArrayMetadata | None = None,
        done: int = 0,
        rows: int = 1,
        existing: bool = False,
    ) -> None:
        """Create the partial output, or open an existing one to continue at row ``done``.

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
        existing : bool
            Open the existing partial output even where no row is done: another process created it.

        Raises
        ------
        InputError
            When the partial output is missing or belongs to another run.
        OSError
            When it cannot be written.
        """
        self._shape, self._dtype = shape, little(dtype)
        self._attributes, self._labels = attributes, labels
        self._end, self._rows = done, max(1, rows)
        self._open(bool(done) or existing)

    def _open(self, existing: bool) -> None:
        """`begin`, with its arguments as attributes; ``existing`` means that the partial output is continued."""
        raise NotImplementedError

    def _described_array(self, samples: int | None) -> tuple[Coord, dict[str, Coord]]:
        """The relevance of as many samples as files describe it, without its values, and its coordinates."""
        shape = (samples, *self._shape[1:])
        labels = for_relevance(self._labels, shape)
        placeholder = np.broadcast_to(np.zeros((), self._dtype), shape)  # type: ignore[arg-type]
        return Coord(labels.dims, placeholder, {**labels.attrs, **self._attributes}), labels.coords

    def _check_names(self, kind: str, shape: RowsShape, labels: ArrayMetadata | None) -> None:
        """InputError unless files of this format hold the array with these labels."""
        described = for_relevance(labels, shape)
        arrays = {self.array or "": Coord(described.dims, np.empty(0), described.attrs)}
        check_names(self.name, kind, arrays, described.coords)
        for key, coord in described.coords.items():
            encoded(key, coord)

    def _missing_partial(self) -> InputError:
        """The error where a run is to go on with a partial output that is not there."""
        return InputError(f"{self.name}: there is no partial output {self.partial} to go on with")

    def write(self, first: int, rows: np.ndarray) -> int:
        """Rows from ``first`` on; returns the checksum of their bytes in the output.

        Raises
        ------
        OSError
            Naming the output, when the disk is full, with the rows so far kept.
        """
        raise NotImplementedError

    def _write_with_checksum(self, data: memoryview, write: Callable[[], None]) -> int:
        """Write these bytes, and compute their checksum meanwhile."""
        if len(data) < LONG:
            write()
            return zlib.crc32(data)
        if self._checksum_thread is None:
            self._checksum_thread = ThreadPoolExecutor(1, "lrpfast-checksum")
        value = self._checksum_thread.submit(zlib.crc32, data)
        write()
        return value.result()

    def checksum(self, first: int, stop: int) -> int | None:
        """The checksum of these rows as the partial output has them now; None where it does not have them all."""
        raise NotImplementedError

    def frame(self) -> int:
        """The checksum of all that the partial output has besides rows."""
        raise NotImplementedError

    def flush(self) -> None:  # noqa: B027
        """Return when the rows written are on the disk."""

    def take_finished(self) -> None:
        """Look at the output that has its name already, in place of the partial one."""
        self.partial = self.path

    def finish(self) -> None:
        """All rows are written: the output takes its name, in one step."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop where it is; a partial output stays."""
        if self._checksum_thread is not None:
            self._checksum_thread.shutdown()
            self._checksum_thread = None

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

    def _open(self, existing: bool) -> None:
        if existing:
            raise InputError(f"{self.name}: rows given to a function cannot be resumed")

    def write(self, first: int, rows: np.ndarray) -> int:
        self._function(first, rows.copy())  # which it may keep: the rows' own place is used again
        return 0

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
        self.path, self.array = path, dataset
        self.name = path if dataset is None else f"{path}:{dataset}"
        self.partial = beside(path, "part")
        self._file: int | None = None

    def check(self, shape: RowsShape, dtype: np.dtype, labels: ArrayMetadata | None = None) -> None:
        existing_bytes = 0  # by a partial output, which a resumed run goes on with and another one replaces
        with contextlib.suppress(OSError):
            existing_bytes = on_disk(os.stat(self.partial))
        check_target(self.path, max(0, math.prod(shape[1:], start=shape[0] or 0) * dtype.itemsize - existing_bytes))

    def _open(self, existing: bool) -> None:
        self._row = math.prod(self._shape[1:]) * self._dtype.itemsize
        with self._naming():
            if not existing:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.partial)
                with storing(self.name):
                    self._check_room()
                    self._create()
            elif not os.path.isfile(self.partial):
                raise self._missing_partial()
            self._offset = self._find()
            self._file = os.open(self.partial, os.O_RDWR | getattr(os, "O_BINARY", 0))
            if not existing:
                os.fsync(self._file)
                sync(os.path.dirname(self.partial))

    def _check_room(self) -> None:
        variable, coords = self._described_array(self._shape[0])
        described = variable._replace(values=np.empty(0))  # its rows are counted apart
        check_room(self.partial, [described, *coords.values()], (self._shape[0] or 0) * self._row)

    def _create(self) -> None:
        """Make the partial file with everything but the rows."""
        raise NotImplementedError

    def _find(self) -> int:
        """Where in the partial file the rows begin; InputError where it is another file."""
        raise NotImplementedError

    def write(self, first: int, rows: np.ndarray) -> int:
        check_rows(self.name, self._shape, first, rows)
        data = memoryview(np.ascontiguousarray(rows, self._dtype).reshape(-1).view(np.uint8))
        assert self._file is not None
        file, offset = self._file, self._offset + first * self._row
        with self._naming():
            value = self._write_with_checksum(data, lambda: write_at(file, data, offset))
        self._end = max(self._end, first + len(rows))
        return value

    def checksum(self, first: int, stop: int) -> int | None:
        return self._checksum(self._offset + first * self._row, (stop - first) * self._row)

    def frame(self) -> int:
        """The checksum of all that the partial output has besides rows."""
        end = self._offset + (self._shape[0] or 0) * self._row
        rest = self._checksum(0, self._offset)
        return self._checksum(end, max(0, os.stat(self.partial).st_size - end), rest or 0) or 0

    def _checksum(self, offset: int, size: int, value: int = 0) -> int | None:
        """That of bytes of the partial file, after others; None where the file ends before them."""
        with self._naming(), open(self.partial, "rb", buffering=0) as file:
            buffer = memoryview(bytearray(min(size, 1 << 20)))
            while size:
                count = read_at(file, buffer[: min(size, len(buffer))], offset)
                if not count:
                    return None
                value = zlib.crc32(buffer[:count], value)
                offset, size = offset + count, size - count
        return value

    def flush(self) -> None:
        assert self._file is not None
        with self._naming():
            getattr(os, "fdatasync", os.fsync)(self._file)

    def finish(self) -> None:
        assert self._file is not None
        with self._naming():
            self._complete()
            os.fsync(self._file)  # network disks report a full disk only here
            self.close()
            check_target(self.path)
            replace_file(self.partial, os.path.realpath(self.path))  # which syncs the folder too

    def _complete(self) -> None:  # noqa: B027
        """What is known only at the end."""

    def close(self) -> None:
        super().close()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def discard(self) -> None:
        self.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.partial)

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """An OSError names the output."""
        with naming(self.path, self.partial):
            yield


def little(dtype: np.dtype) -> np.dtype:
    """The type in the byte order of files, which is the same on every machine."""
    return np.dtype(np.dtype(dtype).newbyteorder("<").str)  # by its name: else "<" and "=" differ for netCDF4


def check_rows(name: str, shape: RowsShape, first: int, rows: np.ndarray) -> None:
    """ShapeError unless rows from ``first`` on are part of an array of this shape."""
    if rows.shape[1:] != tuple(shape[1:]) or (shape[0] is not None and first + len(rows) > shape[0]):
        raise ShapeError(f"{name}: rows from {first} on of shape {rows.shape} do not fit {shape}")


@contextlib.contextmanager
def storing(name: str) -> Iterator[None]:
    """InputError where a format's library refuses a coordinate or an attribute of the input."""
    try:
        yield
    except (LrpfastError, OSError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{name}: coordinates or attributes of the input cannot be written ({error})") from error


def check_room(file_path: str, arrays: Iterable[Coord], rows: int) -> None:
    """OSError of the disk unless a new file can be written there, of a format's metadata and so many bytes of rows.

    HDF5 crashes the process, at its next use, where a file cannot be closed since the disk is full: so what it is
    to write is tried before. The rows are not written, but the file is made as long.
    """
    size = 1 << 16
    for _, values, attrs in arrays:
        if values.dtype.kind in "OUT":
            size += sum(64 + len(str(value).encode("utf-8", "replace")) for value in values.ravel().tolist())
        else:
            size += values.nbytes
        size += 4096 + sum(256 + 2 * len(str(value)) for value in attrs.values())
    try:
        with open(file_path, "xb") as file:
            while file.tell() < size:
                file.write(bytes(min(1 << 20, size - file.tell())))
            file.flush()
            file.truncate(size + rows)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file_path)


@contextlib.contextmanager
def from_library(file_path: str, name: str) -> Iterator[None]:
    """Around what HDF5 writes into a file: OSError where it fails, in the disk's words where that is the reason.

    HDF5 and NetCDF have one RuntimeError for whatever they meet.
    """
    try:
        yield
    except RuntimeError as error:
        try:
            with open(file_path, "ab") as probe:
                probe.write(bytes(1 << 20))
        except OSError as full:
            raise OSError(full.errno, full.strerror, name) from error
        raise OSError(f"{name}: cannot be written ({error})") from error


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
