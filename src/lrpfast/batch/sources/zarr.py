"""Arrays in Zarr stores of the formats 2 and 3: folders and zip archives."""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import InputError, LrpfastError
from ...once import once
from ...readers.guard import MAX_RATIO, check_size, unpacks_honestly
from ..cf import Packing
from ..labels import Coord, Labels, collect
from ..optional import needed
from .base import FileSource, check_unpacked, row_bytes, state_of

#: An array of more chunks than this, 100 times as many as are stored, is damaged: to look for each takes for ever.
_FREE_CHUNKS = 10_000
_METADATA = ("zarr.json", ".zarray", ".zgroup")


def is_store(names: Any) -> bool:
    """Whether the names of files at a folder's top are those of a Zarr store."""
    return any(name in names for name in _METADATA)


class ZarrSource(FileSource):
    """Rows of an array in a Zarr store: by its attributes unpacked, NaN where a value is missing."""

    def __init__(self, path: str, array: str | None) -> None:
        zarr = needed("zarr", path)
        self._store, self._folder, members = None, os.path.isdir(path), 0
        try:
            if not self._folder:
                members = _check_members(path)
                self._store = zarr.storage.ZipStore(path, mode="r")
            root = zarr.open(path if self._store is None else self._store, mode="r")
        except LrpfastError:
            raise
        except Exception as error:  # whatever damaged metadata provoke in zarr
            raise InputError(f"{path}: damaged Zarr store ({type(error).__name__}: {error})") from None
        self._name, self._array, group = _find(zarr, root, path, array)
        name = self._name
        self._inside = os.path.join(path, name) if self._folder else path
        # a folder's chunks may be many; that it is there at all is seen by what describes them
        places = [os.path.join(self._inside, meta) for meta in _METADATA] if self._folder else [path]
        place = next(place for place in places if os.path.exists(place))
        attrs = dict(self._array.attrs)
        dims = _dims(self._array, attrs)
        if dims and _of_xarray(self._array):
            attrs.setdefault("_FillValue", self._array.fill_value)
        self._packing = Packing(self._array.dtype, attrs)
        shown = f"{path}:{name}" if name else path
        super().__init__(place, shown, self._array.shape, self._packing.dtype, state_of(place))
        self.step = self._array.chunks[0]
        size = max(row_bytes(self.shape, self._array.dtype), math.prod(self._array.chunks) * self._array.dtype.itemsize)
        if not unpacks_honestly(size, 0):  # to sum up a store's files may take long
            files = _files(self._inside) if self._folder else [path]
            check_unpacked(shown, size, sum(map(os.path.getsize, files)))
        self._check_chunks(shown, members)
        if dims:
            self.labels = _labels(self._array, name, dims, attrs, group)

    def _check_chunks(self, shown: str, members: int) -> None:
        blocks = getattr(self._array, "shards", None) or self._array.chunks
        declared = math.prod(-(-n // max(1, block)) for n, block in zip(self._array.shape, blocks, strict=True))
        if declared > _FREE_CHUNKS:
            stored = sum(1 for _ in _files(self._inside)) if self._folder else members
            if declared > MAX_RATIO * stored:
                raise InputError(f"{shown}: damaged Zarr store ({stored:,} of {declared:,} chunks are there)")

    @once
    def fingerprint(self) -> dict[str, Any]:
        what = {"path": os.path.abspath(self._inside), "dataset": self._name, "files": self._digest()}
        return {**what, "shape": list(self.shape), "dtype": self.dtype.str}

    def _digest(self) -> str:
        made = hashlib.blake2b(digest_size=20)
        for place in _files(self._inside) if self._folder else [self.path]:
            made.update(repr((os.path.relpath(place, self._inside), *state_of(place)[1:])).encode())
        return made.hexdigest()

    def unchanged(self) -> None:
        # a chunk that is gone reads as fill values, without an error
        if self._digest() != self.fingerprint["files"]:
            raise InputError(f"{self.name}: chunks were changed, added or removed while it was read")

    def _read(self, first: int, stop: int) -> np.ndarray:
        return self._packing.apply(np.asarray(self._array[first:stop]))

    def close(self) -> None:
        if self._store is not None:
            self._store.close()


def _check_members(path: str) -> int:
    """How many members a zip archive has; refuses those that zarr looks for without end, or takes any memory for."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if {"", ".."} & set(info.filename.rstrip("/").split("/")):
                raise InputError(f"{path}: damaged Zarr store (its member {info.filename!r} lies outside it)")
            check_size(archive, info)
        return len(archive.infolist())


def _files(folder: str) -> Iterator[str]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _files(entry.path)
        else:
            yield entry.path


def _find(zarr: Any, root: Any, path: str, name: str | None) -> tuple[str, Any, Any]:
    """The path in the store, the array, and the group around it."""
    if isinstance(root, zarr.Array):
        if name is not None:
            raise InputError(f"{path}: is one array, without {name!r} in it")
        return "", root, None
    every = dict(_arrays(root, ""))
    if name is None:
        beside = {word for array, _ in every.values() for word in str(array.attrs.get("coordinates", "")).split()}
        beside.update(key for key, (array, _) in every.items() if key.split("/")[-1] in _dims(array, array.attrs))
        data = [
            key
            for key, (array, _) in every.items()
            if array.ndim and array.dtype.kind in "fiub" and not {key, key.split("/")[-1]} & beside
        ]
        if len(data) != 1:
            listed = ", ".join(f"{key} {every[key][0].shape}" for key in data)
            raise InputError(
                f"{path}: holds {len(data)} arrays beside coordinates; name one as {path}:NAME of: {listed or '-'}"
            )
        name = data[0]
    name = name.strip("/")
    if name not in every:
        raise InputError(f"{path}: there is no array {name!r}; there are: {', '.join(every) or 'none'}")
    return name, *every[name]


def _arrays(group: Any, path: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for key, array in sorted(group.arrays()):
        yield path + key, (array, group)
    for key, inner in sorted(group.groups()):
        yield from _arrays(inner, f"{path}{key}/")


def _dims(array: Any, attrs: Any) -> tuple[str, ...]:
    """The names of its dimensions, as xarray stores them; none where they have no names."""
    names = attrs.get("_ARRAY_DIMENSIONS") or getattr(getattr(array, "metadata", None), "dimension_names", None) or ()
    return tuple(names) if len(names) == array.ndim and all(names) else ()


def _of_xarray(array: Any) -> bool:
    # xarray has the format's own fill value stand for missing values in format 2, an attribute in format 3;
    # 0 is what every other writer puts there
    metadata = getattr(array, "metadata", None)
    return getattr(metadata, "zarr_format", 2) == 2 and array.fill_value is not None and array.fill_value != 0


def _labels(array: Any, name: str, dims: tuple[str, ...], attrs: dict[str, Any], group: Any) -> Labels:
    near = {} if group is None else dict(group.arrays())

    def read(key: str) -> Coord:
        notes = dict(near[key].attrs)
        packing = Packing(near[key].dtype, notes)
        return Coord(_dims(near[key], notes), packing.apply(np.asarray(near[key][...])), _noted(notes))

    def dims_of(key: str) -> tuple[str, ...] | None:
        return _dims(near[key], near[key].attrs) if key in near else None

    return Labels(dims, collect(dims, attrs, dims_of, read), _noted(attrs), name.split("/")[-1] or None)


def _noted(attrs: dict[str, Any]) -> dict[str, Any]:
    hidden = {"_ARRAY_DIMENSIONS", "scale_factor", "add_offset", "_FillValue", "missing_value"}
    return {key: value for key, value in attrs.items() if key not in hidden}
