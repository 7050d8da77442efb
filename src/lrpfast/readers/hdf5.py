"""HDF5 read with distrust: no links, no data outside the file, sizes checked before memory is taken."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import mmap
import struct
import zlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..budget import left, take
from ..errors import ModelFormatError

if TYPE_CHECKING:
    import h5py

#: What a global heap begins with: its signature, version and zeros.
_HEAP = b"GCOL\x01\0\0\0"
#: What a heap of names begins with: its signature, version, and the length of its identifiers.
_NAMES = b"FRHP\0"
#: What one chunk costs beside its data: time, as bytes.
_CHUNK_BYTES = 256
#: Bytes of the longest string in the heaps of the file that is open.
_LONGEST: ContextVar[int] = ContextVar("longest", default=0)


@contextlib.contextmanager
def opened(source: Path | bytes) -> Iterator[h5py.File]:
    """An HDF5 file, or the bytes of one, for reading; ModelFormatError where the library would never come back."""
    import h5py

    with (
        checked_heaps(source),
        h5py.File(io.BytesIO(source) if isinstance(source, bytes) else source, "r") as file,
    ):
        yield file


@contextlib.contextmanager
def checked_heaps(source: Path | bytes) -> Iterator[None]:
    """Check the heaps of an HDF5 file or the bytes of one; inside, `text_bytes` knows their longest string."""
    if isinstance(source, bytes):
        longest = _check_heaps(source)
    else:
        with open(source, "rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data:
            longest = _check_heaps(data)
    token = _LONGEST.set(longest)
    try:
        yield
    finally:
        _LONGEST.reset(token)


def _check_heaps(data: bytes | mmap.mmap) -> int:
    """The bytes of the longest string in a heap; refuses heaps that never end, or that unpack to any size.

    HDF5 2.0 reads on at a free space of no bytes, which it is itself; and names of a group may be packed, by any number
    of filters. Format: HDF5 file format specification, III.E (global heap) and III.G (fractal heap).
    """
    at, steps, longest = data.find(_HEAP), 0, 0
    while at >= 0:
        end = at + int.from_bytes(data[at + 8 : at + 16], "little")
        position = at + 16
        while position + 16 <= min(end, len(data)):
            steps += 1
            index, _, _, size = struct.unpack("<HHIQ", data[position : position + 16])
            if not index and not size:
                raise ModelFormatError("damaged: a heap of strings that never ends")
            position += size if not index else 16 + -(-size // 8) * 8
            longest = max(longest, min(size, len(data)) if index else 0)
            if steps > 1000 + len(data) // 16:  # each string is in one heap, and takes 16 bytes at least
                raise ModelFormatError("damaged: heaps of strings that overlap")
        at = data.find(_HEAP, at + len(_HEAP))
    at = data.find(_NAMES)
    while at >= 0:
        if data[at + 7 : at + 9] not in (b"\0\0", b"") and data[at + 6] == 0:
            raise ModelFormatError("a group's names are compressed, which no Keras does; such files are not read")
        at = data.find(_NAMES, at + len(_NAMES))
    return longest


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
    values = _strings(group, name)
    if values is not None and len(values) != 1:
        raise ModelFormatError(f"attribute {name!r} should be one string, it holds {len(values)}")
    return values[0] if values else None


def strings(group: h5py.Group, name: str) -> list[str] | None:
    """A list of strings; Keras splits long ones into attributes name0, name1 and so on."""
    values = _strings(group, name)
    if values is not None:
        return values
    chunks: list[str] = []
    count = 0
    while (chunk := _strings(group, f"{name}{count}")) is not None:
        chunks += chunk
        count += 1
    return chunks if count else None


def _strings(group: h5py.Group, name: str) -> list[str] | None:
    if name not in group.attrs:
        return None
    size, owner = text_bytes(group, name), f"attribute {name!r} of {group.name}"
    if size is None:
        return []
    if size > left():
        take(size, owner)
    value = group.attrs[name]
    items = [value] if isinstance(value, (str, bytes)) else np.asarray(value).ravel().tolist()
    texts = [item.decode() if isinstance(item, bytes) else str(item) for item in items]
    take(sum(map(len, texts)), owner)
    return texts


def text_bytes(node: h5py.Group | h5py.Dataset, name: str) -> int | None:
    """The most bytes that a text attribute can take in memory; None for an empty array of any type.

    Raises
    ------
    ModelFormatError
        For an attribute that holds no text, and for one that declares more bytes than the file has.
    """
    import h5py

    owner = f"attribute {name!r} of {node.name}"
    attribute = node.attrs.get_id(name)
    kind, shape = attribute.get_type(), attribute.shape
    if shape is not None and 0 in shape:  # of any kind: an empty list has none
        return None
    if shape is None or kind.get_class() != h5py.h5t.STRING:  # libhdf5 2.0 crashes on some other kinds
        raise ModelFormatError(f"{owner} should hold text")
    count, each = math.prod(shape), kind.get_size()
    if count * each > node.file.id.get_filesize():
        raise ModelFormatError(f"{owner} declares {count * each:,} bytes, more than the file has")
    # a variable-length string is somewhere in a heap, and several elements may be the same one
    return int(count * (_LONGEST.get() if kind.is_variable_str() else each))


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
    if (size and not stored) or stored > dataset.file.id.get_filesize() or (size > stored and not packed):
        raise ModelFormatError(f"{dataset.name} declares {size:,} bytes of data, the file stores {stored:,}")
    if packed:
        _check_chunks(dataset)
    else:
        take(size, dataset.name)
    return as_float(dataset[()], dataset.name)


def _check_chunks(dataset: h5py.Dataset) -> None:
    """Count what a dataset's chunks unpack to, and refuse those that unpack to another size.

    libhdf5 unpacks a chunk to whatever size it has, by all the filters that the file names, plug-ins of HDF5 included.
    """
    chunk = math.prod(dataset.chunks) * dataset.dtype.itemsize
    grid = [range(0, n, size) for n, size in zip(dataset.shape, dataset.chunks, strict=True)]
    take(math.prod(map(len, grid)) * (chunk + _CHUNK_BYTES), dataset.name)
    plan = dataset.id.get_create_plist()
    filters = [plan.get_filter(i)[0] for i in range(plan.get_nfilters())]
    if not set(filters) <= set(known_filters()) or len(set(filters)) < len(filters):
        raise ModelFormatError(
            f"{dataset.name} is packed by HDF5's filters {filters}; gzip, shuffle and fletcher32 are read, each once. "
            "`h5repack -f GZIP=4 old.h5 new.h5` packs it anew"
        )
    for offsets in itertools.product(*grid):
        if dataset.id.get_chunk_info_by_coord(offsets).byte_offset is not None:  # else it was never written
            check_chunk(dataset, offsets, filters)


def known_filters() -> tuple[int, ...]:
    """The filters whose chunks `check_chunk` can check."""
    import h5py

    return h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32


def check_chunk(dataset: h5py.Dataset, offsets: tuple[int, ...], filters: list[int], stored: int | None = None) -> None:
    """ModelFormatError where a chunk does not unpack to its declared size.

    Parameters
    ----------
    dataset : h5py.Dataset
    offsets : tuple of int
        The chunk's.
    filters : list of int
        Of `known_filters`, each once at most.
    stored : int, optional
        The chunk's bytes in the file where no filter packs them: the chunk is not read.
    """
    chunk = math.prod(dataset.chunks) * dataset.id.get_type().get_size()
    if stored is None:
        mask, data = dataset.id.read_direct_chunk(offsets)
        stored = _unpacked([f for i, f in enumerate(filters) if not mask >> i & 1], data, chunk)
    if stored != chunk:
        raise ModelFormatError(f"{dataset.name}: its chunk at {offsets} does not unpack to {chunk:,} bytes")


def _unpacked(filters: list[int], data: bytes, most: int) -> int:
    """The size of a chunk's data after its filters, none more than once; not exact above ``most``."""
    import h5py

    for code in reversed(filters):
        if code == h5py.h5z.FILTER_DEFLATE:
            data = zlib.decompressobj().decompress(data, most + 5)  # a checksum of 4 bytes may be inside
        elif code == h5py.h5z.FILTER_FLETCHER32:
            data = data[:-4]
    return len(data)


def as_float(values: Any, title: str) -> np.ndarray:
    """The array as floats that NumPy computes with; bfloat16 is widened to float32."""
    array: np.ndarray = np.asarray(values)
    if array.dtype.kind == "f":
        return array
    if array.dtype.kind == "V" and array.dtype.itemsize == 2 and array.dtype.names is None:
        # bfloat16 is the upper half of a float32; h5py, which does not know it, stores two opaque bytes
        halves = np.ascontiguousarray(array).view(np.uint16).reshape(array.shape)
        return (halves.astype(np.uint32) << 16).view(np.float32)
    raise ModelFormatError(f"{title} holds {array.dtype}, where weights are floating-point numbers")
