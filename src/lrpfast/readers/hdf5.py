"""HDF5 read with distrust: no links, no data outside the file, sizes checked before memory is taken."""

from __future__ import annotations

import contextlib
import io
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelFormatError
from .guard import unpacks_honestly

if TYPE_CHECKING:
    import h5py

#: What a global heap begins with: its signature, version and zeros.
_HEAP = b"GCOL\x01\0\0\0"


@contextlib.contextmanager
def opened(source: Path | bytes) -> Iterator[h5py.File]:
    """An HDF5 file, or the bytes of one, for reading; ModelFormatError where the library would never come back."""
    import h5py

    if isinstance(source, bytes):
        _check_heaps(source)
        with h5py.File(io.BytesIO(source), "r") as file:
            yield file
        return
    with open(source, "rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _check_heaps(data)
    with h5py.File(source, "r") as file:
        yield file


def _check_heaps(data: bytes | mmap.mmap) -> None:
    """Refuse a heap of strings with a free space of no bytes: HDF5 2.0 reads on at its end, which it is itself.

    Format: HDF5 file format specification, III.E (disk format, level 1E: global heap).
    """
    at = data.find(_HEAP)
    while at >= 0:
        end = at + int.from_bytes(data[at + 8 : at + 16], "little")
        place = at + 16
        while place + 16 <= min(end, len(data)):
            index, _, _, size = struct.unpack("<HHIQ", data[place : place + 16])
            if not index and not size:
                raise ModelFormatError("damaged: a heap of strings that never ends")
            place += size if not index else 16 + -(-size // 8) * 8
        at = data.find(_HEAP, at + len(_HEAP))


def child(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset | None:
    """The group or dataset at ``path`` below ``group``; None when it is not there.

    Goes step by step through the low-level interface: h5py's own ``in`` and
    ``[]`` would follow soft and external links, and open the files they name.
    """
    import h5py

    node = group
    for part in filter(None, path.split("/")):
        key = part.encode()
        if not isinstance(node, h5py.Group) or not node.id.links.exists(key):
            return None
        if node.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
            raise ModelFormatError(f"{node.name.rstrip('/')}/{part} is a link to another place; links are not followed")
        node = node[part]
    return node


def subgroup(group: h5py.Group, path: str) -> h5py.Group | None:
    """As `child`, for groups only."""
    import h5py

    node = child(group, path)
    return node if isinstance(node, h5py.Group) else None


def text(group: h5py.Group, name: str) -> str | None:
    """A string attribute, however it was stored; None when it is not there."""
    found = _strings(group, name)
    if found is not None and len(found) != 1:
        raise ModelFormatError(f"attribute {name!r} should be one string, it holds {len(found)}")
    return found[0] if found else None


def strings(group: h5py.Group, name: str) -> list[str] | None:
    """A list of strings; Keras splits long ones into attributes name0, name1 and so on."""
    found = _strings(group, name)
    if found is not None:
        return found
    chunks: list[str] = []
    count = 0
    while (chunk := _strings(group, f"{name}{count}")) is not None:
        chunks += chunk
        count += 1
    return chunks if count else None


def _strings(group: h5py.Group, name: str) -> list[str] | None:
    if name not in group.attrs:
        return None
    value = group.attrs[name]
    items = [value] if isinstance(value, (str, bytes)) else np.asarray(value).ravel().tolist()
    if not all(isinstance(item, (str, bytes)) for item in items):
        raise ModelFormatError(f"attribute {name!r} of {group.name} should hold text")
    return [item.decode() if isinstance(item, bytes) else item for item in items]


def shape(dataset: h5py.Dataset) -> tuple[int, ...]:
    """The declared shape; ModelFormatError for a dataset that holds nothing."""
    if dataset.shape is None:
        raise ModelFormatError(f"{dataset.name} holds no data")
    return tuple(dataset.shape)


def read(dataset: h5py.Dataset) -> np.ndarray:
    """The dataset's values, after a check that the file really holds that many."""
    if dataset.is_virtual or dataset.external:
        raise ModelFormatError(f"{dataset.name} keeps its data in another file; such data is not read")
    if dataset.dtype.kind not in "fV":
        raise ModelFormatError(f"{dataset.name} holds {dataset.dtype}, where weights are floating-point numbers")
    stored, size = dataset.id.get_storage_size(), int(dataset.nbytes)
    packed = dataset.chunks is not None  # only chunked data can be compressed
    if (
        (size and not stored)
        or stored > dataset.file.id.get_filesize()
        or not (unpacks_honestly(size, stored) if packed else size <= stored)
    ):
        raise ModelFormatError(f"{dataset.name} declares {size:,} bytes of data, the file stores {stored:,}")
    return as_float(dataset[()], dataset.name)


def as_float(given: Any, what: str) -> np.ndarray:
    """The array as floats that NumPy computes with; bfloat16 is widened to float32."""
    array: np.ndarray = np.asarray(given)
    if array.dtype.kind == "f":
        return array
    if array.dtype.kind == "V" and array.dtype.itemsize == 2 and array.dtype.names is None:
        # bfloat16 is the upper half of a float32; h5py, which does not know it, stores two opaque bytes
        halves = np.ascontiguousarray(array).view(np.uint16).reshape(array.shape)
        return (halves.astype(np.uint32) << 16).view(np.float32)
    raise ModelFormatError(f"{what} holds {array.dtype}, where weights are floating-point numbers")
