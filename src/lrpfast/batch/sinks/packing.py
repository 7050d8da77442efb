"""Chunks of HDF5 and NetCDF-4 files, compressed by threads; and compressed files from uncompressed ones.

Runs write their rows uncompressed, because such files survive a kill.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from ...engine.threads import get_num_threads
from ..deflate import deflated
from ..metadata import Coord

#: Bytes of a chunk: readers unpack a whole one for each sample.
CHUNK_BYTES = 1 << 20
#: Attributes that hold addresses in the file.
_ADDRESSES = ("DIMENSION_LIST", "REFERENCE_LIST")


def chunk_rows(array: Coord) -> int:
    """The number of rows in a chunk."""
    values = array.values
    return max(1, min(len(values), CHUNK_BYTES // max(1, values[:1].nbytes)))


def pack(source: str, target: str, parts: Mapping[str, tuple[int, int]]) -> None:
    """Compress the rows of arrays into a file that describes them and has no rows yet, and sync it.

    Parameters
    ----------
    source : str
        The uncompressed file.
    target : str
        As in `write_chunks`.
    parts : mapping of str to (offset, bytes of a sample)
        Of each array in ``source``.
    """
    import h5py

    with h5py.File(target, "r+") as file:
        rows = {}
        for name, (offset, _) in parts.items():
            if file[name].size:
                rows[name] = np.memmap(source, file[name].dtype, "r", offset, file[name].shape)
        write_chunks(file, rows)
    file_descriptor = os.open(target, os.O_RDWR)
    try:
        os.fsync(file_descriptor)
    finally:
        os.close(file_descriptor)


def write_chunks(file: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to datasets that have no values yet; threads compress their chunks.

    Parameters
    ----------
    file : h5py.File
        With datasets of these names and shapes in chunks of whole rows, packed by shuffle and deflate, or by one filter
        that HDF5 runs.
    arrays : mapping of str to array
    """
    threads = get_num_threads()
    with ThreadPoolExecutor(threads, "lrpfast-pack") as pool:
        waiting: list[tuple[Any, tuple[int, ...], Future[bytes]]] = []

        def write_oldest() -> None:
            dataset, position, data = waiting.pop(0)
            dataset.id.write_direct_chunk(position, data.result())

        for name, rows in arrays.items():
            dataset = file[name]
            step = dataset.chunks[0]
            for first in range(0, len(rows), step):
                if dataset.compression != "gzip":
                    dataset[first : first + step] = rows[first : first + step]
                    continue
                position = (first, *[0] * (rows.ndim - 1))
                waiting.append((dataset, position, pool.submit(_chunk_bytes, rows[first : first + step], step)))
                if len(waiting) > 2 * threads:
                    write_oldest()
        while waiting:
            write_oldest()


def _chunk_bytes(rows: np.ndarray, count: int) -> bytes:
    """A chunk of this number of rows as HDF5 stores it: bytes of equal significance together, then deflated."""
    chunk = np.zeros((count, *rows.shape[1:]), rows.dtype)
    chunk[: len(rows)] = rows
    shuffled = np.ascontiguousarray(chunk.reshape(-1).view(np.uint8).reshape(-1, rows.dtype.itemsize).T).reshape(-1)
    return deflated(shuffled.data)


def _values_text(values: np.ndarray) -> str:
    """Values as text, of numbers their checksum."""
    if values.dtype.kind in "fiub":
        return str(zlib.crc32(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data))
    return str(values.tolist())


def rows_checksum(path: str, names: Iterable[str], first: int, stop: int) -> int | None:
    """The checksum of samples of some arrays; None where the file lacks some of them."""
    import h5py

    value = 0
    with h5py.File(path, "r") as file:
        for name in names:
            if name not in file or len(file[name]) < stop:
                return None
            value = zlib.crc32(np.ascontiguousarray(file[name][first:stop]).reshape(-1).view(np.uint8).data, value)
    return value


def description_checksum(path: str, names: Collection[str]) -> int:
    """The checksum of everything in a file but the values of some arrays, whatever their layout."""
    import h5py

    texts: list[str] = []

    def note(name: str, node: Any) -> None:
        attrs = {key: np.asarray(value).tolist() for key, value in node.attrs.items() if key not in _ADDRESSES}
        texts.append(f"{name} {sorted(attrs.items())}")
        if isinstance(node, h5py.Dataset):
            texts.append(f"{node.shape} {node.dtype} {None if name in names else _values_text(np.asarray(node[()]))}")

    with h5py.File(path, "r") as file:
        note("/", file)
        file.visititems(note)
    return zlib.crc32("\n".join(texts).encode())
