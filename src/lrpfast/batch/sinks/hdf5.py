"""Writes rows to HDF5 files, and arrays with their coordinates as HDF5's dimension scales."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ..compression import check_compression, hdf5_options
from ..metadata import Coord, encoded, plain, with_coordinates
from .base import FileSink
from .libraries import from_library
from .names import array_name, check_names

if TYPE_CHECKING:
    from ..metadata import ArrayMetadata, RowsShape


class Hdf5Sink(FileSink):
    """Writes rows to a dataset, in an HDF5 file of its own."""

    array: str
    holds_sample_arrays = True

    def __init__(self, path: str, dataset: str | None) -> None:
        super().__init__(path, array_name(path, dataset, "h5"))
        self.may_add = dataset is not None

    def check(self, shape: RowsShape, dtype: np.dtype, labels: ArrayMetadata | None = None) -> None:
        need_samples(self.name, shape)
        self._check_names("h5", shape, labels)
        super().check(shape, dtype)

    def compress(self, compression: str) -> None:
        check_compression(self.path, compression)
        self._compression = compression

    def _create(self, path: str, chunks: Mapping[str, int] | None = None) -> None:
        import h5py

        arrays, coords = self._contents(self._shape[0])
        with from_library(path, self.name), h5py.File(path, "r+" if self._copied(path) else "x") as file:
            write_hdf5(
                file, arrays, coords, self._attributes, self.name, self._written(arrays), self._compression, chunks
            )

    def _find(self) -> list[tuple[int, int]]:
        arrays, _ = self._contents(self._shape[0])
        return find_datasets(self.partial, arrays, self._written(arrays))


def new_attributes(existing: Mapping[str, Any], attributes: Mapping[str, str]) -> dict[str, str]:
    """The attributes that a file gets when an array is added: those that it lacks, and a line of its history."""
    new = {key: value for key, value in attributes.items() if key not in existing}
    if "history" in existing and not str(existing["history"]).startswith(attributes.get("history", "")):
        new["history"] = f"{attributes['history']}\n{existing['history']}"
    return new


def check_same(name: str, key: str, stored: np.ndarray, values: np.ndarray) -> None:
    """Raise InputError unless a coordinate that a file has is the input's."""
    if stored.dtype.kind == "O":
        stored = np.array([v.decode() if isinstance(v, bytes) else v for v in stored.ravel()], str).reshape(
            stored.shape
        )
    if stored.shape != values.shape or not np.array_equal(stored, values, equal_nan=values.dtype.kind == "f"):
        raise InputError(f"{name}: the file has another coordinate {key!r} than the input; name another file")


def need_samples(name: str, shape: RowsShape) -> None:
    """Raise InputError if the number of samples is not known."""
    if shape[0] is None:
        raise InputError(
            f"{name}: this format needs the number of samples before the first; write .npy or .zarr from an iterator"
        )


def find_datasets(path: str, arrays: Mapping[str, Coord], names: Iterable[str]) -> list[tuple[int, int]]:
    """Where datasets begin in an HDF5 file, and the bytes of a sample.

    InputError unless each has the described shape and type, and no chunks.
    """
    import h5py

    result = []
    for name in names:
        shape, dtype = arrays[name].values.shape, arrays[name].values.dtype
        try:
            with h5py.File(path, "r") as file:
                node = file[name]
                layout, offset = (tuple(node.shape), node.dtype), node.id.get_offset()
        except (OSError, KeyError) as error:
            raise InputError(f"{path}: is not the partial output of a run ({error})") from None
        if layout != (shape, dtype) or (offset is None and 0 not in layout[0]):
            raise InputError(f"{path}: holds {layout[1]} of shape {layout[0]}, not {dtype} of {shape}")
        result.append((offset or 0, math.prod(shape[1:]) * dtype.itemsize))
    return result


def write_hdf5(
    file: Any,
    arrays: Mapping[str, Coord],
    coords: Mapping[str, Coord],
    attributes: Mapping[str, str],
    name: str,
    deferred: Collection[str] = (),
    compression: str | None = None,
    chunks: Mapping[str, int] | None = None,
) -> None:
    """Write datasets, their coordinates as dimension scales, and the file's attributes.

    Parameters
    ----------
    file : h5py.File
    arrays, coords : mapping of str to Coord
    attributes : mapping of str
    name : str
        For messages.
    deferred : collection of str
        The arrays whose values are written later: they get contiguous space.
    compression : {"zlib", "blosc"}, optional
    chunks : mapping of str to int, optional
        The number of samples in a chunk of deferred arrays, which have no contiguous space then, but compressed chunks.

    Raises
    ------
    InputError
        For invalid names, and for names that an array and a coordinate share.
    """
    import h5py

    check_names(name, "h5", arrays, coords)
    file.attrs.update(new_attributes(dict(file.attrs), attributes))
    scales: dict[str, Any] = {}
    for key, coord in coords.items():
        dims, values, attrs = encoded(key, coord)
        if key in file:  # of arrays that were there before
            check_same(name, key, file[key][()], values)
            if h5py.h5ds.is_scale(file[key].id):
                scales[key] = file[key]
            continue
        text = h5py.string_dtype() if values.dtype.kind == "U" else None
        dataset = file.create_dataset(
            key, data=values.astype(object) if text else values, dtype=text, track_times=False
        )
        dataset.attrs.update(plain(attrs))
        if dims == (key,):
            dataset.make_scale(key)
            scales[key] = dataset
    for key, array in arrays.items():
        dims, values, attrs = array._replace(attrs=with_coordinates(array, coords))
        options = hdf5_options(compression)
        if key in deferred and chunks is not None and key in chunks:
            own = (chunks[key], *values.shape[1:])
            dataset = file.create_dataset(key, values.shape, values.dtype, chunks=own, track_times=False, **options)
        elif key in deferred:
            dataset = _reserve(file, key, values)
        else:
            options = options if values.ndim and values.size else {}
            dataset = file.create_dataset(key, data=values, track_times=False, **options)
        dataset.attrs.update(plain(attrs))
        for axis, dim in enumerate(dims):
            dataset.dims[axis].label = dim
            if dim in scales:
                dataset.dims[axis].attach_scale(scales[dim])


def _reserve(file: Any, key: str, values: np.ndarray) -> Any:
    import h5py

    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.CONTIGUOUS)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plan.set_obj_track_times(False)
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    kind = h5py.h5t.py_create(values.dtype, logical=True)
    h5py.h5d.create(file.id, key.encode(), kind, h5py.h5s.create_simple(values.shape), plan, links)
    return file[key]
