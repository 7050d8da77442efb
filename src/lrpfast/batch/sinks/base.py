"""The interface of all sinks, and the file that most of them write."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError, ShapeError
from ...output import beside, check_target, on_disk, replace_file, sync
from ..metadata import ArrayMetadata, Coord, encoded, for_relevance
from ..positional_io import read_at, write_at
from ..sample_arrays import Beside
from .libraries import check_room, storing
from .names import check_names
from .packing import chunk_rows, description_checksum, pack, rows_checksum

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
    holds_sample_arrays : bool
        Whether the format has room for arrays beside the rows.
    may_add : bool
        Whether the rows may be added to an existing file: the format allows it, and the caller has named their array.
    described_names : tuple of str
        The names of all arrays, once `check` was called.
    """

    name: str
    path: str | None = None
    array: str | None = None
    partial: str | None = None
    resumable: bool = False
    holds_sample_arrays: bool = False
    may_add: bool = False
    described_names: tuple[str, ...] = ()
    _adds: bool = False
    _beside: Beside = Beside()
    _feature_axes: int | None = None
    _compression: str | None = None
    _checksum_thread: ThreadPoolExecutor | None = None

    def put_beside(self, beside: Beside, feature_axes: int) -> None:
        """Say, first of all, what the output holds beside the rows, whose last axes are the features'."""
        self._beside, self._feature_axes = beside, feature_axes

    def compress(self, compression: str) -> None:
        """Say, before anything is checked, that the output is to be compressed by "zlib" or "blosc".

        Raises
        ------
        InputError
            When the format has no such compression.
        """
        raise InputError(f"{self.name}: this output is not compressed; write .nc, .h5 or .zarr")

    def add(self) -> None:
        """Say, before `begin`, that the arrays are added to the existing output, whose others stay."""
        self._adds = True

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

        The array has the input's dimensions and coordinates if the format holds them.
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

    def _described(
        self, shape: RowsShape, dtype: np.dtype, labels: ArrayMetadata | None, attributes: Mapping[str, Any]
    ) -> tuple[dict[str, Coord], dict[str, Coord]]:
        """All arrays as files describe them, with placeholders for the rows, and all coordinates.

        First come the arrays that `write` fills, in its order.
        """
        described = for_relevance(labels, shape)
        name = self.array or ""
        axes = len(shape) - 1 if self._feature_axes is None else self._feature_axes
        beside = self._beside.described(name, described.dims, shape[0], described.coords, axes)
        attrs = {**described.attrs, **{key: value for key, value in attributes.items() if key != "history"}}
        if beside:
            attrs["ancillary_variables"] = " ".join(key.rpartition("/")[2] for key in beside)
        placeholder = np.broadcast_to(np.zeros((), dtype), (shape[0] or 0, *shape[1:]))
        return {name: Coord(described.dims, placeholder, attrs), **beside}, described.coords

    def _contents(self, samples: int | None) -> tuple[dict[str, Coord], dict[str, Coord]]:
        """`_described`, of what `begin` was called with."""
        return self._described((samples, *self._shape[1:]), self._dtype, self._labels, self._attributes)

    def _written(self, arrays: Mapping[str, Coord]) -> list[str]:
        """The names of the arrays that `write` fills, in its order."""
        return list(arrays)[: len(arrays) - len(self._beside.maps)]

    def _check_names(self, kind: str, shape: RowsShape, labels: ArrayMetadata | None) -> None:
        """Raise InputError unless this format can hold all arrays under their names."""
        arrays, coords = self._described(shape, np.dtype(np.float32), labels, {})
        self.described_names = tuple(arrays)
        check_names(self.name, kind, arrays, coords)
        for key, coord in coords.items():
            encoded(key, coord)

    def _pieces(self, rows: np.ndarray) -> list[np.ndarray]:
        """The rows as the arrays that they are written to."""
        return [rows]

    def _missing_partial(self) -> InputError:
        """The error for a missing partial output."""
        return InputError(f"{self.name}: there is no partial output {self.partial} to go on with")

    def write(self, first: int, rows: np.ndarray, beside: Sequence[np.ndarray] = ()) -> int:
        """Write rows from ``first`` on, and the arrays beside them; returns the checksum of the bytes in the output.

        Raises
        ------
        OSError
            With the output's name, when the disk is full; the rows so far are kept.
        """
        raise NotImplementedError

    def _write_with_checksum(self, data: memoryview, write: Callable[[], None], value: int = 0) -> int:
        """Write bytes, and compute their checksum, continuing ``value``, at the same time."""
        if len(data) < LONG:
            write()
            return zlib.crc32(data, value)
        if self._checksum_thread is None:
            self._checksum_thread = ThreadPoolExecutor(1, "lrpfast-checksum")
        future = self._checksum_thread.submit(zlib.crc32, data, value)
        write()
        return future.result()

    def checksum(self, first: int, stop: int) -> int | None:
        """The checksum of these rows in the partial output; None if it lacks some of them."""
        raise NotImplementedError

    def frame(self) -> int:
        """The checksum of everything in the partial output but its rows."""
        raise NotImplementedError

    def flush(self) -> None:  # noqa: B027
        """Wait until the written rows are on the disk."""

    def recover(self) -> None:  # noqa: B027
        """Restore the partial output if a run was killed while it gave the finished one its name."""

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

    def write(self, first: int, rows: np.ndarray, beside: Sequence[np.ndarray] = ()) -> int:
        self._function(first, rows.copy())  # a copy, which the function may keep: the buffer is reused
        return 0

    def finish(self) -> None:
        """Do nothing: the function has received every row."""


class FileSink(Sink):
    """Rows that have the same layout in a file as in memory, and are written at their offset, as are arrays beside.

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
        self._parts: list[tuple[int, int]] = []  # of each array: where it begins, and the bytes of a sample
        self._is_finished = False

    def check(self, shape: RowsShape, dtype: np.dtype, labels: ArrayMetadata | None = None) -> None:
        existing_bytes = 0  # of a partial output, which a resumed run continues and another one replaces
        with contextlib.suppress(OSError):
            existing_bytes = on_disk(os.stat(self.partial))
        size = math.prod(shape[1:], start=shape[0] or 0) * dtype.itemsize
        copies = 1 if self._compression is None else 2  # the rows are compressed at the end
        check_target(self.path, max(0, copies * size - existing_bytes))

    def _open(self, existing: bool) -> None:
        self._row = math.prod(self._shape[1:]) * self._dtype.itemsize
        with self._naming():
            if not existing:
                self._remove_files()
                with storing(self.name):
                    self._check_room()
                    self._create(self.partial)
            elif not os.path.isfile(self.partial):
                raise self._missing_partial()
            if self._is_finished and self._compression is not None:
                return  # its rows have no place in the file
            self._parts = self._find()
            self._file = os.open(self.partial, os.O_RDWR | getattr(os, "O_BINARY", 0))
            if not existing:
                os.fsync(self._file)
                sync(os.path.dirname(self.partial))

    def _check_room(self) -> None:
        arrays, coords = self._contents(self._shape[0])
        filled = self._written(arrays)
        rows = sum(arrays[key].values.nbytes for key in filled)
        described = [array._replace(values=np.empty(0)) if key in filled else array for key, array in arrays.items()]
        check_room(self.partial, [*described, *coords.values()], rows)

    def _create(self, path: str, chunks: Mapping[str, int] | None = None) -> None:
        """Create a file with everything but the rows; with ``chunks``, samples in a chunk, for compressed rows."""
        raise NotImplementedError

    def _copied(self, path: str) -> bool:
        """Whether the arrays are added to the existing output, of which this file is then a copy."""
        if self._adds:
            shutil.copyfile(os.path.realpath(self.path), path)
        return self._adds

    def _find(self) -> list[tuple[int, int]]:
        """Where each array begins in the partial file, and the bytes of a sample; InputError if it is another file."""
        raise NotImplementedError

    def write(self, first: int, rows: np.ndarray, beside: Sequence[np.ndarray] = ()) -> int:
        check_rows(self.name, self._shape, first, rows)
        assert self._file is not None
        file, value = self._file, 0
        pieces = [*(np.ascontiguousarray(piece, self._dtype) for piece in self._pieces(rows)), *beside]
        with self._naming():
            for piece, (offset, size) in zip(pieces, self._parts, strict=True):
                data = memoryview(np.ascontiguousarray(piece).reshape(-1).view(np.uint8))
                write = partial(write_at, file, data, offset + first * size)
                value = self._write_with_checksum(data, write, value)
        self._end = max(self._end, first + len(rows))
        return value

    def take_finished(self) -> None:
        super().take_finished()
        self._is_finished = True

    def recover(self) -> None:
        raw, packed = beside(self.path, "raw"), beside(self.path, "packed")
        with self._naming():
            if os.path.exists(raw) and os.path.exists(packed):
                os.replace(raw, self.partial)
            elif os.path.exists(raw):
                os.unlink(raw)

    def checksum(self, first: int, stop: int) -> int | None:
        if self._is_finished and self._compression is not None:
            with self._naming():
                return rows_checksum(self.partial, self._written(self._contents(self._shape[0])[0]), first, stop)
        value: int | None = 0
        for offset, size in self._parts:
            if value is not None:
                value = self._checksum(offset + first * size, (stop - first) * size, value)
        return value

    def frame(self) -> int:
        if self._compression is not None:  # the same for the compressed file
            with self._naming():
                return description_checksum(self.partial, self._written(self._contents(self._shape[0])[0]))
        samples = self._shape[0] or 0
        return self._checksum_between([(offset, samples * size) for offset, size in self._parts])

    def _checksum_between(self, holes: list[tuple[int, int]]) -> int:
        """The checksum of the partial file without these (offset, size)."""
        position, value = 0, 0
        for offset, size in sorted(holes):
            value = self._checksum(position, max(0, offset - position), value) or 0
            position = max(position, offset + size)
        return self._checksum(position, max(0, os.stat(self.partial).st_size - position), value) or 0

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
            if self._compression is None:
                replace_file(self.partial, os.path.realpath(self.path))  # which syncs the folder too
            else:
                self._pack()

    def _pack(self) -> None:
        """Compress the complete partial file, and give the result its name; `recover` continues after a kill."""
        raw, packed = beside(self.path, "raw"), beside(self.path, "packed")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(packed)
        arrays, _ = self._contents(self._shape[0])
        written = self._written(arrays)
        self._create(packed, {name: chunk_rows(arrays[name]) for name in written if arrays[name].values.size})
        pack(self.partial, packed, dict(zip(written, self._parts, strict=True)))
        os.replace(self.partial, raw)
        replace_file(packed, os.path.realpath(self.path))
        os.unlink(raw)

    def _complete(self) -> None:  # noqa: B027
        """Write what is known only at the end."""

    def close(self) -> None:
        super().close()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def discard(self) -> None:
        self.close()
        self._remove_files()

    def _remove_files(self) -> None:
        for suffix in ("part", "packed", "raw"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside(self.path, suffix))

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
