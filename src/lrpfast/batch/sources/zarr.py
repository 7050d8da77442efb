"""Arrays in Zarr stores of the formats 2 and 3: folders and zip archives."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import InputError, LrpfastError
from ...lazy import lazy_property
from ...readers.untrusted import MAX_RATIO, unpacks_honestly
from ..cf import PACKED, Packing
from ..metadata import ArrayMetadata, Coord, collect, of_file, words
from ..optional_import import import_optional
from .base import FileSource, check_unpacked, row_bytes, state_of
from .zarr_store import METADATA, check_store, files

#: An array that declares more chunks than this, and 100 times as many as are stored, counts as damaged.
_FREE_CHUNKS = 10_000


def is_store(names: Any) -> bool:
    """Whether the names of files at a folder's top are those of a Zarr store."""
    return any(name in names for name in METADATA)


class ZarrSource(FileSource):
    """Rows of an array in a Zarr store, decoded by its attributes: NaN where a value is missing."""

    def __init__(self, path: str, array: str | None) -> None:
        zarr = import_optional("zarr", path)
        self._folder, members = os.path.isdir(path), check_store(path)
        try:
            self._store = _open(zarr, path, self._folder)
            root = zarr.open(self._store, mode="r")
        except LrpfastError:
            raise
        except Exception as error:  # any exception of zarr for damaged metadata
            raise InputError(f"{path}: damaged Zarr store ({type(error).__name__}: {error})") from None
        self._name, self._array, group = _find(zarr, root, path, array)
        name = self._name
        self._array_path = os.path.join(path, name) if self._folder else path
        # a folder may have many chunks; its metadata file shows whether it exists
        candidates = [os.path.join(self._array_path, meta) for meta in METADATA] if self._folder else [path]
        metadata_path = next(metadata_path for metadata_path in candidates if os.path.exists(metadata_path))
        attrs = dict(self._array.attrs)
        dims = _dims(self._array, attrs)
        if dims and _of_xarray(self._array):
            attrs.setdefault("_FillValue", self._array.fill_value)
        self._packing = _packing(self._array, attrs)
        shown_name = f"{path}:{name}" if name else path
        super().__init__(metadata_path, shown_name, self._array.shape, self._packing.dtype, state_of(metadata_path))
        self.step = self._array.chunks[0]
        size = max(row_bytes(self.shape, self._array.dtype), math.prod(self._array.chunks) * self._array.dtype.itemsize)
        if not unpacks_honestly(size, 0):  # adding up the sizes of a store's files may take long
            stored_files = files(self._array_path) if self._folder else [path]
            check_unpacked(shown_name, size, sum(map(os.path.getsize, stored_files)))
        self._check_chunks(shown_name, members)
        if dims:
            self.labels = _labels(self._array, name, dims, attrs, group)

    def _check_chunks(self, name: str, members: int) -> None:
        blocks = getattr(self._array, "shards", None) or self._array.chunks
        expected_count = math.prod(-(-n // max(1, block)) for n, block in zip(self._array.shape, blocks, strict=True))
        if expected_count > _FREE_CHUNKS:
            stored_count = sum(1 for _ in files(self._array_path)) if self._folder else members
            if expected_count > MAX_RATIO * stored_count:
                raise InputError(
                    f"{name}: damaged Zarr store ({stored_count:,} of {expected_count:,} chunks are there)"
                )

    @lazy_property
    def fingerprint(self) -> dict[str, Any]:
        identity = {"path": os.path.abspath(self._array_path), "dataset": self._name, "files": self._digest()}
        return {**identity, "shape": list(self.shape), "dtype": self.dtype.str}

    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=20)
        for metadata_path in files(self._array_path) if self._folder else [self.path]:
            digest.update(
                repr((os.path.relpath(metadata_path, self._array_path), *state_of(metadata_path)[1:])).encode()
            )
        return digest.hexdigest()

    def unchanged(self) -> None:
        # zarr reads a missing chunk as fill values, without an error
        if self._digest() != self.fingerprint["files"]:
            raise InputError(f"{self.name}: chunks were changed, added or removed while it was read")

    def _read(self, first: int, stop: int) -> np.ndarray:
        return self._packing.apply(np.asarray(self._array[first:stop]))

    def close(self) -> None:
        self._store.close()


def _open(zarr: Any, path: str, folder: bool) -> Any:
    """Open the store in the format that was checked: from a path alone, zarr may choose another one."""
    if not folder:
        return zarr.storage.ZipStore(path, mode="r")
    local = getattr(zarr.storage, "LocalStore", None)
    return zarr.storage.DirectoryStore(path) if local is None else local(path, read_only=True)


def _find(zarr: Any, root: Any, path: str, name: str | None) -> tuple[str, Any, Any]:
    """The path in the store, the array, and its group."""
    if isinstance(root, zarr.Array):
        if name is not None:
            raise InputError(f"{path}: is one array, without {name!r} in it")
        return "", root, None
    arrays = dict(_arrays(root, ""))
    if name is None:
        keys = ("coordinates", "ancillary_variables")
        coordinate_names = {
            word for array, _ in arrays.values() for key in keys for word in words(array.attrs.get(key))
        }
        coordinate_names.update(
            key for key, (array, _) in arrays.items() if key.split("/")[-1] in _dims(array, array.attrs)
        )
        data = [
            key
            for key, (array, _) in arrays.items()
            if array.ndim and array.dtype.kind in "fiub" and not {key, key.split("/")[-1]} & coordinate_names
        ]
        if len(data) != 1:
            listing = ", ".join(f"{key} {arrays[key][0].shape}" for key in data)
            raise InputError(
                f"{path}: holds {len(data)} arrays beside coordinates; name one as {path}:NAME of: {listing or '-'}"
            )
        name = data[0]
    name = name.strip("/")
    if name not in arrays:
        raise InputError(f"{path}: there is no array {name!r}; there are: {', '.join(arrays) or 'none'}")
    return name, *arrays[name]


def _arrays(group: Any, path: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for key, array in sorted(group.arrays()):
        yield path + key, (array, group)
    for key, inner in sorted(group.groups()):
        yield from _arrays(inner, f"{path}{key}/")


def _dims(array: Any, attrs: Any) -> tuple[str, ...]:
    """The names of the dimensions, as xarray stores them; none if they have no names."""
    names = attrs.get("_ARRAY_DIMENSIONS") or getattr(getattr(array, "metadata", None), "dimension_names", None) or ()
    valid = isinstance(names, (list, tuple)) and all(isinstance(name, str) and name for name in names)
    return tuple(names) if valid and len(names) == array.ndim else ()


def _packing(array: Any, attrs: dict[str, Any]) -> Packing:
    # xarray writes a missing float to JSON as a double in base 64
    return Packing(array.dtype, {**attrs, **{key: _number(attrs[key]) for key in PACKED & set(attrs)}})


def _number(value: Any) -> Any:
    if isinstance(value, str) and len(value) == 12 and value.endswith("="):
        with contextlib.suppress(binascii.Error, ValueError):
            return float(np.frombuffer(base64.b64decode(value, validate=True), "<f8")[0])
    return value


def _of_xarray(array: Any) -> bool:
    # for missing values, xarray uses the format's own fill value in format 2, and an attribute in format 3;
    # every other writer sets the fill value to 0
    metadata = getattr(array, "metadata", None)
    return getattr(metadata, "zarr_format", 2) == 2 and array.fill_value is not None and array.fill_value != 0


def _labels(array: Any, name: str, dims: tuple[str, ...], attrs: dict[str, Any], group: Any) -> ArrayMetadata:
    arrays = {} if group is None else dict(group.arrays())

    def read(key: str) -> Coord:
        notes = dict(arrays[key].attrs)
        values = np.asarray(arrays[key][...])
        values = _packing(arrays[key], notes).apply(values) if values.dtype.kind in "iuf" else values
        return Coord(_dims(arrays[key], notes), values, _other_attrs(notes))

    def dims_of(key: str) -> tuple[str, ...] | None:
        return _dims(arrays[key], arrays[key].attrs) if key in arrays else None

    return of_file(dims, collect(dims, attrs, dims_of, read), _other_attrs(attrs), name.split("/")[-1] or None)


def _other_attrs(attrs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in attrs.items() if key not in PACKED | {"_ARRAY_DIMENSIONS"}}
