"""Datasets in HDF5 files."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...budget import FREE_BYTES
from ...errors import InputError, MissingPackageError, ModelFormatError
from ...readers import hdf5
from ..cf import PACKED, Packing
from ..compression import hdf5_plugins
from ..metadata import words
from .base import FileSource, check_unpacked, row_bytes, state_of
from .hdf5_chunks import ChunkCheck, FileChunks, filters_of
from .mapped import MappedSource
from .netcdf import NetcdfSource

if TYPE_CHECKING:
    import h5py

#: Filters that only unpack data: HDF5's own, and the registered compressions and checksums. Other plug-ins can run
#: code from the file (HDF5-UDF).
FILTERS = {*range(1, 7), 305, 307, *range(32000, 32031)}
#: The filter whose code netCDF4 and hdf5plugin both have.
BLOSC = 32001


def open_hdf5(path: str, dataset: str | None) -> FileSource:
    """The dataset at a path in groups, or the only one with an axis.

    Raises
    ------
    InputError
        When there is no such dataset or more than one, and for a dataset that is in other files or was never written.
    """
    state = state_of(path)
    with _checked_heaps(path):
        file = _open(path)
        try:
            source = _source(file, _find(file, path, dataset), path, state)
        except BaseException:
            file.close()
            raise
    if isinstance(source, MappedSource):
        file.close()
    return source


def _checked_heaps(path: str) -> contextlib.AbstractContextManager[None]:
    # looking for heaps in a large file takes as long as reading it
    small = os.path.getsize(path) <= FREE_BYTES
    return hdf5.checked_heaps(Path(path)) if small else contextlib.nullcontext()


def is_hdf5(path: str) -> bool:
    """Whether a path is an HDF5 file; false for a folder."""
    import h5py

    return not os.path.isdir(path) and bool(h5py.is_hdf5(path))


def open_netcdf4(path: str, variable: str | None) -> NetcdfSource:
    """Open a variable of a NetCDF-4 file with the NetCDF library, after a check that no link leaves the file."""
    with _checked_heaps(path):
        check_netcdf(path)
    chunks = FileChunks(_open(path))
    try:
        return NetcdfSource(path, variable, chunks)
    except BaseException:
        chunks.close()
        raise


def is_netcdf(path: str) -> bool:
    """Whether the NetCDF library wrote an HDF5 file."""
    import h5py

    with _open(path) as file:
        if "_NCProperties" in file.attrs or "_nc3_strict" in file.attrs:
            return True
        links = file.id.links
        names = [name for name in file if links.get_info(name.encode()).type == h5py.h5l.TYPE_HARD]
        nodes = (hdf5.child(file, name) for name in names)
        return any("_Netcdf4Dimid" in node.attrs or "_Netcdf4Coordinates" in node.attrs for node in nodes if node)


def check_netcdf(path: str) -> None:
    """Raise InputError for external or circular links, which the NetCDF library would follow without end."""
    import h5py

    with _open(path) as file:
        visited, waiting = {h5py.h5o.get_info(file["/"].id).addr}, [file["/"]]
        while waiting:
            group = waiting.pop()
            for name in group:
                node = hdf5.child(group, name)
                if isinstance(node, h5py.Dataset):
                    _check_dataset(node, f"{path}:{node.name.strip('/')}")
                elif isinstance(node, h5py.Group):
                    address = h5py.h5o.get_info(node.id).addr
                    if address in visited:
                        raise InputError(f"{path}: damaged NetCDF file, its group {node.name} lies in two places")
                    visited.add(address)
                    waiting.append(node)


def _check_dataset(dataset: h5py.Dataset, name: str) -> None:
    """Raise InputError for values in other files, and for filters that are not known to be safe."""
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{name}: keeps its data in other files; such data is not read")
    from h5py import h5z

    plan = dataset.id.get_create_plist()
    for number, _, _, filter_name in map(plan.get_filter, range(plan.get_nfilters())):
        if number not in FILTERS:
            filter_text = filter_name.decode("utf-8", "replace")
            raise InputError(
                f"{name}: is packed by the filter {number} ({filter_text}), which is not known to unpack data alone "
                "and could run code; h5repack -f GZIP=4 writes a file that can be read"
            )
        if number == BLOSC or not h5z.filter_avail(number):
            hdf5_plugins(f"{name}: the filter {number} ({filter_name.decode('utf-8', 'replace')})")
    filters = filters_of(dataset)
    if len(set(filters)) < len(filters):  # each filter may enlarge the data a thousandfold
        raise InputError(f"{name}: is packed twice by one filter ({filters}); h5repack -f GZIP=4 packs it once")


def _open(path: str) -> h5py.File:
    import h5py

    with contextlib.suppress(MissingPackageError):
        hdf5_plugins(path)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path}: damaged, truncated or locked HDF5 file ({error})") from None


def _source(file: h5py.File, dataset: h5py.Dataset, path: str, state: tuple[Any, ...]) -> FileSource:
    import h5py

    name = f"{path}:{dataset.name.strip('/')}"
    _check_dataset(dataset, name)
    if dataset.shape is None or (dataset.nbytes and not dataset.id.get_storage_size()):
        raise InputError(f"{name}: holds no data, it was never written")
    dtype, offset, stored = dataset.dtype, dataset.id.get_offset(), dataset.id.get_storage_size()
    packing = Packing(dtype, _attributes(dataset, PACKED))
    # chunks, filters and unusual numbers are left to HDF5
    same_type = dtype.kind in "fiu" and dataset.id.get_type() == h5py.h5t.py_create(dtype)
    if same_type and packing.nothing and offset is not None and stored == dataset.nbytes:
        return MappedSource(path, name, dataset.shape, dtype, offset, False, state)
    return _Hdf5Source(file, dataset, path, name, packing, state)


def _attributes(node: h5py.Dataset, names: Iterable[str]) -> dict[str, Any]:
    """A node's attributes with these names; None for an attribute whose type cannot be read.

    Raises
    ------
    InputError
        For text that takes far more memory than the file has bytes.
    """
    values: dict[str, Any] = {}
    for name in names:
        if name in node.attrs:
            try:
                values[name] = node.attrs[name] if _is_readable(node, name) else None
            except (OSError, TypeError, ValueError, KeyError) as error:
                if isinstance(error, InputError):
                    raise
                values[name] = None
    return values


def _is_readable(node: h5py.Dataset, name: str) -> bool:
    """Whether an attribute holds numbers or text, which libhdf5 reads safely from any file."""
    import h5py

    kind = node.attrs.get_id(name).get_type().get_class()
    if kind != h5py.h5t.STRING:
        return kind in (h5py.h5t.INTEGER, h5py.h5t.FLOAT, h5py.h5t.ENUM)
    size, end = hdf5.text_bytes(node, name), node.file.id.get_filesize()
    check_unpacked(f"attribute {name!r} of {node.name}", size or 0, end)
    return True


def _find(file: h5py.File, path: str, dataset: str | None) -> h5py.Dataset:
    import h5py

    if dataset is None:
        datasets: dict[str, h5py.Dataset] = {}

        def note(name: str, node: h5py.Group | h5py.Dataset) -> None:
            numbers = isinstance(node, h5py.Dataset) and node.ndim and node.dtype.kind in "fiub"
            if numbers and not h5py.h5ds.is_scale(node.id):
                datasets[name] = node

        file.visititems(note)  # follows no links
        beside: set[str] = set()  # coordinates, and arrays that describe another one
        for name, node in datasets.items():
            attrs = _attributes(node, {"coordinates", "ancillary_variables"})
            folder = name[: name.rfind("/") + 1]
            beside.update(words(attrs.get("coordinates")))
            beside.update(f"{folder}{word}" for word in words(attrs.get("ancillary_variables")))
        datasets = {name: node for name, node in datasets.items() if name not in beside}
        if len(datasets) == 1:
            return next(iter(datasets.values()))
        listing = ", ".join(f"{name} {node.shape}" for name, node in datasets.items())
        raise InputError(
            f"{path}: holds {len(datasets)} datasets of numbers; name one as {path}:NAME of: {listing or '-'}"
        )
    try:
        node = hdf5.child(file, dataset)
    except ModelFormatError as error:
        raise InputError(f"{path}: {error}") from None
    if node is None:
        raise InputError(f"{path}: there is no dataset {dataset!r}; at the top there are: {', '.join(file) or 'none'}")
    if not isinstance(node, h5py.Dataset):
        members = ", ".join(node) or "nothing"
        raise InputError(f"{path}: {dataset!r} is a group, with {members} inside; name a dataset")
    return node


class _Hdf5Source(FileSource):
    """Rows that the HDF5 library unpacks."""

    def __init__(
        self, file: h5py.File, dataset: h5py.Dataset, path: str, name: str, packing: Packing, state: tuple[Any, ...]
    ) -> None:
        super().__init__(path, name, dataset.shape, packing.dtype, state)
        at_once = max(row_bytes(dataset.shape, dataset.dtype), math.prod(dataset.chunks or ()) * dataset.dtype.itemsize)
        check_unpacked(name, at_once, dataset.id.get_storage_size())
        self._file, self._dataset, self._packing = file, dataset, packing
        self.step = dataset.chunks[0] if dataset.chunks else 1
        self._chunks = ChunkCheck(dataset, name)

    def _read(self, first: int, stop: int) -> np.ndarray:
        self._chunks.check(first, stop)
        return self._packing.apply(self._dataset[first:stop])

    def close(self) -> None:
        self._file.close()


def texts_of(path: str, name: str) -> np.ndarray | None:
    """The texts of a dataset, which are strings or rows of characters; None if it holds numbers.

    h5py reads those of NetCDF files too: the NetCDF library crashes where the file is open already.
    """
    with _checked_heaps(path), _open(path) as file:
        dataset = _find(file, path, name)
        if dataset.dtype.kind not in "OS" or dataset.shape is None:
            return None
        _check_dataset(dataset, f"{path}:{name}")
        check_unpacked(f"{path}:{name}", dataset.nbytes, os.path.getsize(path))
        ChunkCheck(dataset, f"{path}:{name}").check(0, len(dataset))
        return np.asarray(dataset[...])


def dimension_of(path: str, name: str) -> str | None:
    """The dataset of the coordinate along a dataset's first axis; None if it has none."""
    with _checked_heaps(path), _open(path) as file:
        scales = _find(file, path, name).dims[0].values()
        return str(scales[0].name).lstrip("/") if scales else None
