"""Writes rows to Zarr stores, and arrays with their coordinates as Zarr's arrays.

The stores are of format 2, which the packages zarr 2 and 3 read: metadata in
JSON, and one file of plain little-endian numbers for each chunk.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...output import SLASHES, beside, check_free, check_target, on_disk, sync
from ..metadata import Coord, encoded, plain, with_coordinates
from .base import Sink, check_rows, little, naming, storing
from .names import array_name, check_names
from .several import described_arrays

if TYPE_CHECKING:
    from ..inputs import InputRows
    from ..metadata import ArrayMetadata, RowsShape


@dataclass(frozen=True)
class ChunkedRows:
    """The rows of one array in a store, a file for each chunk.

    Attributes
    ----------
    folder : str
    shape : tuple
        Of the array; the number of samples may be None.
    dtype : dtype
    rows : int
        Of a chunk.
    """

    folder: str
    shape: RowsShape
    dtype: np.dtype
    rows: int

    def check(self) -> None:
        """Raise InputError unless the array's metadata describe these rows."""
        chunks = [max(1, n) for n in (self.rows, *self.shape[1:])]
        expected = _array_json((self.shape[0] or 0, *self.shape[1:]), self.dtype, chunks)
        with open(os.path.join(self.folder, ".zarray"), encoding="utf-8") as file:
            stored = json.load(file)
        if stored != expected:
            raise InputError(
                f"{os.path.dirname(self.folder)}: holds {stored['dtype']} of shape {stored['shape']} in other chunks"
            )

    def write(self, first: int, rows: np.ndarray) -> list[str]:
        """Write rows from ``first`` on; returns the files."""
        chunks = self._chunks(first, first + len(rows)) if rows.size else range(0)
        return [self._write_chunk(chunk, first - chunk * self.rows, rows) for chunk in chunks]

    def _chunks(self, first: int, stop: int) -> range:
        return range(first // self.rows, -(-stop // self.rows))

    def _file(self, chunk: int) -> str:
        return os.path.join(self.folder, ".".join([str(chunk), *"0" * (len(self.shape) - 1)]))

    def _write_chunk(self, chunk: int, offset: int, rows: np.ndarray) -> str:
        """Write the rows that belong to a chunk; ``offset`` is the chunk's row where they begin, perhaps below 0."""
        file_path = self._file(chunk)
        begin, end = max(0, offset), min(self.rows, offset + len(rows))
        part = rows[begin - offset : end - offset]
        if begin == 0 and end == self.rows:
            rows_of_chunk = part
        else:
            earlier_rows = self._read_chunk(chunk)  # rows of the chunk that an earlier call wrote
            shape, fill = (self.rows, *self.shape[1:]), _fill(self.dtype)
            rows_of_chunk = np.full(shape, fill, self.dtype) if earlier_rows is None else earlier_rows
            rows_of_chunk[begin:end] = part
        with open(f"{file_path}.part", "wb") as file:
            file.write(rows_of_chunk.reshape(-1).view(np.uint8).data)
        os.replace(f"{file_path}.part", file_path)
        return file_path

    def _read_chunk(self, chunk: int) -> np.ndarray | None:
        """The rows in a chunk; None if it is missing or truncated."""
        shape = (self.rows, *self.shape[1:])
        try:
            stored = np.fromfile(self._file(chunk), self.dtype)
        except FileNotFoundError:
            return None
        return stored.reshape(shape) if stored.size == math.prod(shape) else None

    def checksum(self, first: int, stop: int, value: int = 0) -> int | None:
        """The checksum of rows, continuing ``value``; None if some are missing."""
        if not math.prod(self.shape[1:]):
            return value  # rows without values have no chunks
        for chunk in self._chunks(first, stop):
            rows = self._read_chunk(chunk)
            if rows is None:
                return None
            chunk_first = chunk * self.rows
            rows = rows[max(0, first - chunk_first) : stop - chunk_first]
            value = zlib.crc32(rows.reshape(-1).view(np.uint8).data, value)
        return value

    def remove_rest(self, samples: int) -> None:
        """Remove chunks beyond the end and incomplete ones, which a killed run may have written."""
        last = -(-samples // self.rows)
        for name in os.listdir(self.folder):
            chunk = name.split(".")[0]
            if name.endswith(".part") or (chunk.isdigit() and int(chunk) >= last):
                os.unlink(os.path.join(self.folder, name))


class ZarrSink(Sink):
    """Writes rows to an array, in a Zarr store of its own; each chunk file appears when it is complete."""

    resumable = True

    path: str
    array: str
    partial: str

    def __init__(self, path: str, array: str | None) -> None:
        self.path = path.rstrip(SLASHES)
        self.array = array_name(self.path, array, "zarr")
        self.name = f"{self.path}:{self.array}"
        self.partial = beside(self.path, "part")
        self._unsynced: list[str] = []

    def check(self, shape: RowsShape, dtype: np.dtype, labels: ArrayMetadata | None = None) -> None:
        self._check_names("zarr", shape, labels)
        self._check_store(shape, dtype)

    def _check_store(self, shape: RowsShape, dtype: np.dtype) -> None:
        """Raise InputError unless rows of this shape can become a store here."""
        check_store(self.path)
        # a new run replaces a partial output, a resumed run continues it
        folders = self._folders if self._exists else []
        existing_bytes = sum(on_disk(entry.stat()) for folder in folders for entry in os.scandir(folder))
        size = math.prod(shape[1:], start=shape[0] or 0) * dtype.itemsize
        check_free(self.path, os.path.dirname(self.partial), max(0, size - existing_bytes))

    @property
    def _folders(self) -> list[str]:
        """The folder of each array."""
        return [os.path.join(self.partial, _folder(name)) for name in self.arrays]

    @property
    def _exists(self) -> bool:
        return all(map(os.path.isdir, self._folders))

    def _shapes(self) -> list[RowsShape]:
        """The shape of each array."""
        return [self._shape]

    def _split(self, rows: np.ndarray) -> list[np.ndarray]:
        """Each array's part of rows."""
        return [rows]

    def _described_arrays(self, samples: int) -> tuple[dict[str, Coord], dict[str, Coord]]:
        """The arrays as files describe them, and their coordinates."""
        variable, coords = self._described_array(samples)
        return {self.array: variable}, coords

    @property
    def _chunked(self) -> list[ChunkedRows]:
        """Each array's rows."""
        pairs = zip(self._folders, self._shapes(), strict=True)
        return [ChunkedRows(folder, shape, self._dtype, self._rows) for folder, shape in pairs]

    def _open(self, existing: bool) -> None:
        with naming(self.path, self.partial):
            if not existing:
                if os.path.isdir(self.partial):
                    shutil.rmtree(self.partial)
                os.mkdir(self.partial)
                self._describe(self._shape[0] or 0)
                sync(os.path.dirname(self.partial))
            elif not self._exists:
                raise self._missing_partial()
            else:
                self._check_partial()

    def _describe(self, samples: int) -> None:
        """The metadata and coordinates for this number of samples."""
        arrays, coords = self._described_arrays(samples)
        with storing(self.name):
            write_zarr(self.partial, arrays, coords, self._attributes, self.name, self._rows)

    def _check_partial(self) -> None:
        try:
            for chunked in self._chunked:
                chunked.check()
        except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError, LookupError, TypeError) as error:
            raise InputError(f"{self.partial}: is not the partial output of a run ({error})") from None

    def write(self, first: int, rows: np.ndarray) -> int:
        check_rows(self.name, self._shape, first, rows)
        value = 0
        with naming(self.path, self.partial):
            for chunked, part in zip(self._chunked, self._split(rows), strict=True):
                data = np.ascontiguousarray(part, self._dtype)

                def write(chunked: ChunkedRows = chunked, data: np.ndarray = data) -> None:
                    self._unsynced += chunked.write(first, data)

                value = self._write_with_checksum(data.reshape(-1).view(np.uint8).data, write, value)
        self._end = max(self._end, first + len(rows))
        return value

    def checksum(self, first: int, stop: int) -> int | None:
        value: int | None = 0
        with naming(self.path, self.partial):
            for chunked in self._chunked:
                if value is not None:
                    value = chunked.checksum(first, stop, value)
        return value

    def frame(self) -> int:
        """The checksum of all that the partial output has besides rows."""
        value, folders_of_rows = 0, set(self._folders)
        with naming(self.path, self.partial):
            for folder, folders, files in os.walk(self.partial):
                folders.sort()
                for name in sorted(files):
                    if folder in folders_of_rows and not name.startswith(".z"):
                        continue
                    with open(os.path.join(folder, name), "rb") as file:
                        value = zlib.crc32(file.read(), zlib.crc32(name.encode(), value))
        return value

    def flush(self) -> None:
        with naming(self.path, self.partial):
            for file_path in (*self._unsynced, *self._folders):
                sync(file_path)
        self._unsynced.clear()

    def finish(self) -> None:
        with naming(self.path, self.partial):
            if self._shape[0] is None:
                self._describe(self._end)
            for chunked in self._chunked:
                chunked.remove_rest(self._end if self._shape[0] is None else self._shape[0])
            self.flush()
            replace_store(self.path, self.partial)

    def discard(self) -> None:
        self.close()
        shutil.rmtree(self.partial, ignore_errors=True)


class SeveralZarrSink(ZarrSink):
    """Rows of several inputs' relevances, into an array for each, by its name, of one Zarr store."""

    def __init__(self, path: str, inputs: InputRows) -> None:
        self._inputs = inputs
        self._names = tuple(array_name(path, name, "zarr") for name in inputs.names)
        super().__init__(path, self._names[0])
        self.name = self.path

    @property
    def arrays(self) -> tuple[str, ...]:
        return self._names

    def check(self, shape: RowsShape, dtype: np.dtype, labels: ArrayMetadata | None = None) -> None:
        arrays, coords = described_arrays(self._names, self._inputs, (shape[0] or 0, *shape[1:]), np.dtype(dtype))
        check_names(self.name, "zarr", arrays, coords)
        self._check_store(shape, dtype)

    def _shapes(self) -> list[RowsShape]:
        return self._inputs.arrays_of(self._shape)

    def _split(self, rows: np.ndarray) -> list[np.ndarray]:
        return self._inputs.split(rows)

    def _described_arrays(self, samples: int) -> tuple[dict[str, Coord], dict[str, Coord]]:
        shape = (samples, *self._shape[1:])
        return described_arrays(self._names, self._inputs, shape, self._dtype, self._attributes)


def replace_store(path: str, partial: str) -> None:
    """Give a complete store its name, and remove an existing store first."""
    target, old = check_store(path), f"{partial}-old"
    if os.path.isdir(target):  # a folder cannot be replaced in one step; a run that is killed in between resumes here
        shutil.rmtree(old, ignore_errors=True)
        os.rename(target, old)
    os.rename(partial, target)
    sync(os.path.dirname(target))
    shutil.rmtree(old, ignore_errors=True)


def check_store(path: str) -> str:
    """The path of the store (a link's target); InputError unless it is free or a store, and writable."""
    target = os.path.realpath(path)
    if not os.path.isdir(target):
        if os.path.lexists(target):
            raise InputError(f"{path}: is a file; a Zarr store is a folder")
        check_target(path)
    elif (names := os.listdir(target)) and not {".zgroup", "zarr.json"} & set(names):
        raise InputError(f"{path}: is a folder, and no Zarr store that may be replaced")
    elif not os.access(os.path.dirname(target), os.W_OK | os.X_OK):
        raise InputError(f"{path}: the folder {os.path.dirname(target)} is not writeable")
    return target


def write_zarr(
    folder: str,
    arrays: Mapping[str, Coord],
    coords: Mapping[str, Coord],
    attributes: Mapping[str, str],
    name: str,
    rows: int | None = None,
) -> None:
    """Write arrays, their coordinates and the group's attributes in xarray's layout, and sync them to the disk.

    Parameters
    ----------
    folder : str
        An existing folder.
    arrays, coords : mapping of str to Coord
    attributes : mapping of str
    name : str
        For messages.
    rows : int, optional
        The rows of a chunk of the arrays, whose values are written later.

    Raises
    ------
    InputError
        For invalid names, and for names that an array and a coordinate share.
    """
    notes: dict[str, Any] = {".zgroup": {"zarr_format": 2}, ".zattrs": dict(attributes)}
    check_names(name, "zarr", arrays, coords)
    encoded_coords = {key: encoded(key, coord) for key, coord in coords.items()}
    for key, (dims, values, attrs) in (*encoded_coords.items(), *arrays.items()):
        deferred = rows is not None and key in arrays
        chunk_shape = [max(1, n) for n in ((rows, *values.shape[1:]) if deferred else values.shape)]
        if key in arrays:
            attrs = with_coordinates(arrays[key], encoded_coords)
        attrs = plain({note: value for note, value in attrs.items() if note != "_FillValue"})
        json_attrs = {note: value.tolist() if isinstance(value, np.ndarray) else value for note, value in attrs.items()}
        notes[f"{key}/.zarray"] = _array_json(values.shape, values.dtype, chunk_shape)
        notes[f"{key}/.zattrs"] = {**json_attrs, "_ARRAY_DIMENSIONS": list(dims)}
        os.makedirs(os.path.join(folder, _folder(key)), exist_ok=True)
        if not deferred and values.size:
            with open(os.path.join(folder, _folder(key), ".".join(["0"] * max(1, values.ndim))), "wb") as file:
                file.write(np.ascontiguousarray(values, little(values.dtype)).tobytes())
                _sync_open(file)
    for file_path, value in (*notes.items(), (".zmetadata", {"metadata": notes, "zarr_consolidated_format": 1})):
        with open(os.path.join(folder, _folder(file_path)), "w", encoding="utf-8", newline="\n") as file:
            json.dump(value, file, indent=1)
            _sync_open(file)
    for file_path in (*(os.path.join(folder, _folder(key)) for key in (*encoded_coords, *arrays)), folder):
        sync(file_path)


def _folder(name: str) -> str:
    """An array's folder, whose name is UTF-8 in any locale."""
    return os.fsdecode(name.encode())


def _sync_open(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _array_json(shape: tuple[int, ...], dtype: np.dtype, chunks: list[int]) -> dict[str, Any]:
    fill = "NaN" if dtype.kind == "f" else None
    layout = {"zarr_format": 2, "order": "C", "compressor": None, "filters": None, "fill_value": fill}
    return {**layout, "shape": list(shape), "chunks": chunks, "dtype": little(dtype).str}


def _fill(dtype: np.dtype) -> Any:
    return np.nan if dtype.kind == "f" else 0
