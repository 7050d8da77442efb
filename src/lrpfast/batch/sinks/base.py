"""The interface of all sinks, and the file that most of them write."""

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

#: The least number of bytes whose checksum is computed while they are written, which takes about as long.
LONG = 1 << 20


class Sink:
    """A destination of rows of relevance, along the first axis; a context manager that closes it.

    Attributes
    ----------
    name : str
        For messages.
    path : str or None
        None for a function.
    array : str or None
        The name of the rows' array in the output; None in formats without names.
    partial : str or None
        The path of the rows until the output is complete.
    resumable : bool
        Whether a later run can continue the partial output.
    """

    name: str
    path: str | None = None
    array: str | None = None
    partial: str | None = None
    resumable: bool = False
    _checksum_thread: ThreadPoolExecutor | None = None

    @property
    def arrays(self) -> tuple[str, ...]:
        """The names of all arrays that the output is to hold."""
        return () if self.array is None else (self.array,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The paths of all files or stores of the output."""
        return () if self.path is None else (self.path,)

    @property
    def partials(self) -> tuple[str, ...]:
        """The paths of their rows until the output is complete."""
        return () if self.partial is None else (self.partial,)

    def finished(self) -> frozenset[str]:
        """Those of `outputs` that have their name and no partial output: a run was killed as it finished, or after."""
        pairs = zip(self.outputs, self.partials, strict=True)
        return frozenset(path for path, part in pairs if not os.path.exists(part) and os.path.exists(path))

    def check(self, shape: RowsShape, dtype: np.dtype, labels: ArrayMetadata | None = None) -> None:  # noqa: B027
        """Raise InputError or OSError, before anything is created, unless an array of this shape can be written.

        The array has the input's names and coordinates if the format holds them.
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
            The shape of all rows; the number of samples may be None in formats that allow it.
        dtype : numpy.dtype
        attributes : dict of str
            The provenance of the relevance.
        labels : ArrayMetadata, optional
            The input's.
        done : int
            The number of rows that the partial output has.
        rows : int
            The number of rows that are written together, for formats that store chunks.
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
        """The array as files describe it, with placeholders for its values, and its coordinates."""
        shape = (samples, *self._shape[1:])
        labels = for_relevance(self._labels, shape)
        placeholder = np.broadcast_to(np.zeros((), self._dtype), shape)  # type: ignore[arg-type]
        return Coord(labels.dims, placeholder, {**labels.attrs, **self._attributes}), labels.coords

    def _check_names(self, kind: str, shape: RowsShape, labels: ArrayMetadata | None) -> None:
        """Raise InputError unless this format can hold an array with these names."""
        described = for_relevance(labels, shape)
        arrays = {self.array or "": Coord(described.dims, np.empty(0), described.attrs)}
        check_names(self.name, kind, arrays, described.coords)
        for key, coord in described.coords.items():
            encoded(key, coord)

    def _missing_partial(self) -> InputError:
        """The error for a missing partial output."""
        return InputError(f"{self.name}: there is no partial output {self.partial} to go on with")

    def write(self, first: int, rows: np.ndarray) -> int:
        """Write rows from ``first`` on; returns the checksum of their bytes in the output.

        Raises
        ------
        OSError
            With the output's name, when the disk is full; the rows so far are kept.
        """
        raise NotImplementedError

    def _write_with_checksum(self, data: memoryview, write: Callable[[], None], before: int = 0) -> int:
        """Write bytes, and compute their checksum at the same time; it continues that of bytes ``before``."""
        if len(data) < LONG:
            write()
            return zlib.crc32(data, before)
        if self._checksum_thread is None:
            self._checksum_thread = ThreadPoolExecutor(1, "lrpfast-checksum")
        value = self._checksum_thread.submit(zlib.crc32, data, before)
        write()
        return value.result()

    def checksum(self, first: int, stop: int) -> int | None:
        """The checksum of these rows in the partial output; None if it lacks some of them."""
        raise NotImplementedError

    def frame(self) -> int:
        """The checksum of everything in the partial output but its rows."""
        raise NotImplementedError

    def flush(self) -> None:  # noqa: B027
        """Wait until the written rows are on the disk."""

    def take_finished(self) -> None:
        """Use the finished output in place of the partial one."""
        self.partial = self.path

    def finish_rest(self) -> None:  # noqa: B027
        """Finish what `finished` lacks, of an output of several files."""

    def finish(self) -> None:
        """Give the complete output its name, in one step."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop; a partial output remains."""
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
        self._function(first, rows.copy())  # a copy, which the function may keep: the buffer is reused
        return 0

    def finish(self) -> None:
        """Do nothing: the function has received every row."""


class FileSink(Sink):
    """Rows that have the same layout in a file as in memory, and are written at their offset.

    The format's library creates the file without the rows, and is not used
    afterwards: when a run is killed, the file remains valid.
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
        existing_bytes = 0  # of a partial output, which a resumed run continues and another one replaces
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
        described = variable._replace(values=np.empty(0))  # its rows are counted separately
        check_room(self.partial, [described, *coords.values()], (self._shape[0] or 0) * self._row)

    def _create(self) -> None:
        """Create the partial file with everything but the rows."""
        raise NotImplementedError

    def _find(self) -> int:
        """The offset of the rows in the partial file; InputError if it is another file."""
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
        """The checksum of everything in the partial output but its rows."""
        end = self._offset + (self._shape[0] or 0) * self._row
        rest = self._checksum(0, self._offset)
        return self._checksum(end, max(0, os.stat(self.partial).st_size - end), rest or 0) or 0

    def _checksum(self, offset: int, size: int, value: int = 0) -> int | None:
        """The checksum of bytes of the partial file, continuing ``value``; None if the file ends before them."""
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
        """Write what is known only at the end."""

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
        """Name the output in every OSError."""
        with naming(self.path, self.partial):
            yield


def little(dtype: np.dtype) -> np.dtype:
    """The type in little-endian byte order, which files have on every machine."""
    return np.dtype(np.dtype(dtype).newbyteorder("<").str)  # by its name, because netCDF4 distinguishes "<" and "="


def check_rows(name: str, shape: RowsShape, first: int, rows: np.ndarray) -> None:
    """Raise ShapeError unless rows from ``first`` on fit into an array of this shape."""
    if rows.shape[1:] != tuple(shape[1:]) or (shape[0] is not None and first + len(rows) > shape[0]):
        raise ShapeError(f"{name}: rows from {first} on of shape {rows.shape} do not fit {shape}")


@contextlib.contextmanager
def storing(name: str) -> Iterator[None]:
    """Raise InputError when a format's library refuses a coordinate or an attribute of the input."""
    try:
        yield
    except (LrpfastError, OSError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{name}: coordinates or attributes of the input cannot be written ({error})") from error


def check_room(file_path: str, arrays: Iterable[Coord], rows: int) -> None:
    """Raise the disk's OSError unless a new file with these arrays and this many bytes of rows can be written there.

    If HDF5 cannot close a file because the disk is full, its next use crashes the process. So a file of
    the metadata's size is written first, extended by the length of the rows, and removed.
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
    """Raise OSError when HDF5 cannot write, with the disk's message if the disk is the reason.

    HDF5 and NetCDF raise RuntimeError for any failure.
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
    """Name the output in an OSError that has no file name, or that of the partial file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(partial):
            raise
        if error.errno is None:  # raised by a library
            raise OSError(f"{path}: cannot be written ({error})") from error
        raise OSError(error.errno, os.strerror(error.errno), path) from error  # HDF5's messages are very long
