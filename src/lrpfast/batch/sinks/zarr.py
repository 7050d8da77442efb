"""Writes rows to Zarr stores, and arrays with their coordinates as Zarr's arrays.

The stores are of format 2, which the packages zarr 2 and 3 read: metadata in
JSON, and one file of plain little-endian numbers for each chunk.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ...output import SLASHES, beside, check_free, check_target, on_disk, sync
from ..compression import decode_chunk, encode_chunk, zarr_codec
from ..deflate import zlib_stream
from ..metadata import Coord, encoded, plain, with_coordinates
from .base import Sink, check_rows, little, naming
from .hdf5 import check_same, new_attributes
from .libraries import storing
from .names import array_name, check_names
from .several import SeveralArrays

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
    codec : dict or None
        The compressor.
    """

    folder: str
    shape: RowsShape
    dtype: np.dtype
    rows: int
    codec: dict[str, Any] | None = None

    def check(self) -> None:
        """Raise InputError unless the array's metadata describe these rows."""
        chunks = [max(1, n) for n in (self.rows, *self.shape[1:])]
        expected = _array_json((self.shape[0] or 0, *self.shape[1:]), self.dtype, chunks, self.codec)
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
            file.write(encode_chunk(rows_of_chunk, self.codec))
        os.replace(f"{file_path}.part", file_path)
        return file_path

    def _read_chunk(self, chunk: int) -> np.ndarray | None:
        """The rows in a chunk; None if it is missing or truncated."""
        shape = (self.rows, *self.shape[1:])
        try:
            with open(self._file(chunk), "rb") as file:
                stored = decode_chunk(file.read(), self.dtype, self.codec)
        except (FileNotFoundError, ValueError):
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

    resumable = holds_sample_arrays = True

    path: str
    array: str
    partial: str

    def __init__(self, path: str, array: str | None) -> None:
        self.path = path.rstrip(SLASHES)
        self.array = array_name(self.path, array, "zarr")
        self.name = f"{self.path}:{self.array}"
        self.may_add = array is not None
        self.partial = beside(self.path, "part")
        self._unsynced: list[str] = []
        self._known: list[ChunkedRows] | None = None

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

    def compress(self, compression: str) -> None:
        self._compression = compression

    @property
    def _folders(self) -> list[str]:
        """The folder of each array that the run fills."""
        return [os.path.join(self.partial, _folder(name)) for name in self.arrays]

    @property
    def _exists(self) -> bool:
        return all(map(os.path.isdir, self._folders))

    @property
    def _chunked(self) -> list[ChunkedRows]:
        """The rows of each array that the run fills."""
        if self._known is None:
            arrays, _ = self._contents(self._shape[0])
            self._known = [self._rows_of(name, arrays[name].values) for name in self._written(arrays)]
        return self._known

    def _rows_of(self, name: str, values: np.ndarray) -> ChunkedRows:
        shape: RowsShape = (self._shape[0], *values.shape[1:])
        codec = zarr_codec(self._compression, values.dtype)
        return ChunkedRows(os.path.join(self.partial, _folder(name)), shape, values.dtype, self._rows, codec)

    def _open(self, existing: bool) -> None:
        self._known = None
        with naming(self.path, self.partial):
            if not existing:
                if os.path.isdir(self.partial):
                    shutil.rmtree(self.partial)
                if self._adds:
                    shutil.copytree(os.path.realpath(self.path), self.partial)
                else:
                    os.mkdir(self.partial)
                self._describe(self._shape[0] or 0)
                sync(os.path.dirname(self.partial))
            elif not self._exists:
                raise self._missing_partial()
            else:
                self._check_partial()

    def _describe(self, samples: int) -> None:
        """The metadata and coordinates for this number of samples."""
        arrays, coords = self._contents(samples)
        with storing(self.name):
            rows = dict.fromkeys(self._written(arrays), self._rows)
            write_zarr(self.partial, arrays, coords, self._attributes, self.name, rows, self._compression)

    def _check_partial(self) -> None:
        try:
            for chunked in self._chunked:
                chunked.check()
        except (FileNotFoundError, UnicodeDecodeError, json.JSONDecodeError, LookupError, TypeError) as error:
            raise InputError(f"{self.partial}: is not the partial output of a run ({error})") from None

    def write(self, first: int, rows: np.ndarray, beside: Sequence[np.ndarray] = ()) -> int:
        check_rows(self.name, self._shape, first, rows)
        value = 0
        with naming(self.path, self.partial):
            for chunked, part in zip(self._chunked, [*self._pieces(rows), *beside], strict=True):
                data = np.ascontiguousarray(part, chunked.dtype)

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
        value, folders_of_rows = 0, {chunked.folder for chunked in self._chunked}
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
            for file_path in (*self._unsynced, *(chunked.folder for chunked in self._chunked)):
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


class SeveralZarrSink(SeveralArrays, ZarrSink):
    """Rows of several inputs' relevances, into an array for each, by its name, of one Zarr store."""

    def __init__(self, path: str, inputs: InputRows) -> None:
        self._inputs = inputs
        self._names = tuple(array_name(path, name, "zarr") for name in inputs.names)
        super().__init__(path, self._names[0])
        self.name, self.may_add = self.path, False


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
    deferred: Mapping[str, int] | None = None,
    compression: str | None = None,
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
    deferred : mapping of str to int, optional
        The arrays whose values are written later, with the number of samples in a chunk.
    compression : {"zlib", "blosc"}, optional
        Of the arrays.

    Raises
    ------
    InputError
        For invalid names, and for names that an array and a coordinate share.
    """
    earlier = _notes(folder)  # of arrays that were there before
    attrs_of_group = {**earlier.get(".zattrs", {}), **new_attributes(earlier.get(".zattrs", {}), attributes)}
    notes: dict[str, Any] = {**earlier, ".zgroup": {"zarr_format": 2}, ".zattrs": attrs_of_group}
    check_names(name, "zarr", arrays, coords)
    encoded_coords = {key: encoded(key, coord) for key, coord in coords.items()}
    for key, (dims, values, attrs) in (*encoded_coords.items(), *arrays.items()):
        later = deferred is not None and key in deferred and key in arrays
        chunk_shape = [max(1, n) for n in ((deferred[key], *values.shape[1:]) if later else values.shape)]  # type: ignore[index]
        if key in arrays:
            attrs = with_coordinates(arrays[key], encoded_coords)
        attrs = plain({note: value for note, value in attrs.items() if note != "_FillValue"})
        json_attrs = {note: value.tolist() if isinstance(value, np.ndarray) else value for note, value in attrs.items()}
        codec = zarr_codec(compression, values.dtype) if key in arrays else None
        if key in coords and f"{key}/.zarray" in earlier:
            _check_stored(folder, key, values, earlier[f"{key}/.zarray"], name)
            continue
        notes[f"{key}/.zarray"] = _array_json(values.shape, values.dtype, chunk_shape, codec)
        notes[f"{key}/.zattrs"] = {**json_attrs, "_ARRAY_DIMENSIONS": list(dims)}
        os.makedirs(os.path.join(folder, _folder(key)), exist_ok=True)
        if not later and values.size:
            with open(os.path.join(folder, _folder(key), ".".join(["0"] * max(1, values.ndim))), "wb") as file:
                own = np.ascontiguousarray(values, little(values.dtype))
                file.write(
                    zlib_stream(own) if codec is not None and codec["id"] == "zlib" else encode_chunk(own, codec)
                )
                _sync_open(file)
    for file_path, value in (
        *notes.items(),
        (".zmetadata", {"metadata": dict(sorted(notes.items())), "zarr_consolidated_format": 1}),
    ):
        with open(os.path.join(folder, _folder(file_path)), "w", encoding="utf-8", newline="\n") as file:
            json.dump(value, file, indent=1)
            _sync_open(file)
    for file_path in (*(os.path.join(folder, _folder(key)) for key in (*encoded_coords, *arrays)), folder):
        sync(file_path)


def _check_stored(folder: str, key: str, values: np.ndarray, layout: dict[str, Any], name: str) -> None:
    """Raise InputError unless a coordinate that a store has is the input's."""
    codec = layout.get("compressor")
    stored = np.empty(0, little(values.dtype))
    if layout["chunks"] == [max(1, n) for n in values.shape] and (codec is None or codec["id"] in ("zlib", "blosc")):
        chunk = os.path.join(folder, _folder(key), ".".join(["0"] * max(1, values.ndim)))
        with open(chunk, "rb") as file, contextlib.suppress(ValueError):
            stored = decode_chunk(file.read(), np.dtype(layout["dtype"]), codec)
    check_same(name, key, stored, values.reshape(-1))


def _notes(folder: str) -> dict[str, Any]:
    """The metadata of all arrays in a store, by the paths of their files."""
    notes: dict[str, Any] = {}
    for current, _, files in os.walk(folder):
        for file_name in files:
            if file_name in (".zarray", ".zattrs", ".zgroup"):
                with open(os.path.join(current, file_name), encoding="utf-8") as file:
                    path = os.path.relpath(os.path.join(current, file_name), folder).replace(os.sep, "/")
                    notes[path] = json.load(file)
    return notes


def _folder(name: str) -> str:
    """An array's folder, whose name is UTF-8 in any locale."""
    return os.fsdecode(name.encode())


def _sync_open(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _array_json(
    shape: tuple[int, ...], dtype: np.dtype, chunks: list[int], codec: dict[str, Any] | None
) -> dict[str, Any]:
    fill = "NaN" if dtype.kind == "f" else None
    layout = {"zarr_format": 2, "order": "C", "compressor": codec, "filters": None, "fill_value": fill}
    return {**layout, "shape": list(shape), "chunks": chunks, "dtype": little(dtype).str}


def _fill(dtype: np.dtype) -> Any:
    return np.nan if dtype.kind == "f" else 0
