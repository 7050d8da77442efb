"""Chunks of HDF5 datasets, checked before libhdf5 unpacks them.

libhdf5 unpacks a chunk to any size that its data have: a small file could take any amount of memory. If a chunk is
shorter than declared, the library reads beyond the end of its buffer, which crashes the process.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ...errors import InputError, ModelFormatError
from ...readers import hdf5

if TYPE_CHECKING:
    import h5py

#: The prefix, in NetCDF-4, of a variable that has a dimension's name but is not its coordinate.
_NOT_A_COORDINATE = "_nc4_non_coord_"


class ChunkCheck:
    """Checks each chunk of a dataset once, before its rows are read.

    Parameters
    ----------
    dataset : h5py.Dataset
    name : str
        For messages.

    Raises
    ------
    InputError
        When a chunk does not fit its declaration.
    """

    def __init__(self, dataset: h5py.Dataset, name: str) -> None:
        self._dataset, self._name = dataset, name
        self._filters = filters_of(dataset)
        self._unchecked: dict[int, list[tuple[int, ...]]] = defaultdict(list)  # by the chunks' index on the first axis
        if not dataset.chunks:
            return
        checkable, end = set(self._filters) <= set(hdf5.known_filters()), dataset.file.id.get_filesize()
        for chunk in _stored_chunks(dataset):
            if chunk.size > end:
                raise InputError(f"{name}: a chunk declares {chunk.size:,} bytes, more than the file has")
            if not self._filters:
                self._check(chunk.chunk_offset, chunk.size)
            elif checkable:
                self._unchecked[chunk.chunk_offset[0] // dataset.chunks[0]].append(chunk.chunk_offset)

    def check(self, first: int, stop: int) -> None:
        """Raise InputError if a chunk of these rows does not unpack to its declared size."""
        if not self._unchecked or stop <= first:
            return
        rows = self._dataset.chunks[0]
        for index in range(first // rows, -(-stop // rows)):
            for offsets in self._unchecked.pop(index, ()):
                self._check(offsets)

    def _check(self, offsets: tuple[int, ...], stored: int | None = None) -> None:
        try:
            hdf5.check_chunk(self._dataset, offsets, self._filters, stored)
        except ModelFormatError as error:
            raise InputError(f"{self._name}: {error}") from None


class FileChunks:
    """The chunk checks of a NetCDF-4 file's variables, which the NetCDF library reads."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._checks: dict[str, ChunkCheck] = {}

    def check(self, group: str, variable: str, name: str, first: int, stop: int) -> None:
        """As `ChunkCheck.check`, for a variable in a group."""
        key = f"{group}/{variable}"
        if key not in self._checks:
            # a dimension has a dataset of the same name
            dataset = hdf5.child(self._file, f"{group}/{_NOT_A_COORDINATE}{variable}") or hdf5.child(self._file, key)
            if dataset is None:
                raise InputError(f"{name}: damaged NetCDF file, it has no dataset {key}")
            self._checks[key] = ChunkCheck(dataset, name)
        self._checks[key].check(first, stop)

    def close(self) -> None:
        self._file.close()


def filters_of(dataset: h5py.Dataset) -> list[int]:
    """The numbers of the filters that pack a dataset's chunks, in order."""
    plan = dataset.id.get_create_plist()
    return [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]


def _stored_chunks(dataset: h5py.Dataset) -> list[Any]:
    """Offsets and sizes of the chunks that were written."""
    import h5py

    chunks: list[Any] = []
    # before HDF5 1.14.1 the iterator counted offsets in chunks
    if hasattr(dataset.id, "chunk_iter") and h5py.version.hdf5_version_tuple[:3] >= (1, 14, 1):
        dataset.id.chunk_iter(chunks.append)
    else:
        chunks += map(dataset.id.get_chunk_info, range(dataset.id.get_num_chunks()))
    return chunks
