"""Deflate streams that threads compress in pieces, and .npz archives of them.

A piece ends at a byte and looks back at no other, so that pieces one after the other are one stream, which every reader
unpacks. Where pieces begin does not depend on the number of threads, nor do the bytes.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..engine.threads import get_num_threads
from .compression import LEVEL

#: Bytes of a piece: many times the 32 KiB that deflate looks back.
PIECE_BYTES = 1 << 20
#: Bytes of each quarter of a piece that are compressed in both ways, to choose the way …
SAMPLE_BYTES = 1 << 13
#: … and the share of the other's size below which the slower one is taken.
LEAST_GAIN = 0.9
#: Zip archives' versions without and with sizes of 64 bits, names in UTF-8, the first day that they know.
_VERSION, _VERSION_LONG, _UTF8, _DATE = 20, 45, 0x800, 33
#: A size or offset that stands in the extra field of 64 bits, and the largest that need not.
_LONG = 0xFFFFFFFF
_MOST = _LONG - 1


def deflated(data: bytes | memoryview, *, window: int = zlib.MAX_WBITS, last: bool = True) -> bytes:
    """Data, deflated; ``window`` below 0 is a stream without head and checksum, which goes on unless ``last``.

    Relevance has runs of equal bytes (NaN, zeros, the upper bytes) and otherwise noise. To look for runs alone takes a
    third of the time of looking for any repetition; samples of the bytes say whether it saves as much.
    """
    quarters = range(0, len(data), max(1, -(-len(data) // 4)))
    sample = b"".join(bytes(data[first : first + SAMPLE_BYTES]) for first in quarters)
    runs, any_repetition = (len(_compressed(sample, s)) for s in (zlib.Z_RLE, zlib.Z_DEFAULT_STRATEGY))
    repeats = any_repetition < LEAST_GAIN * runs
    return _compressed(data, zlib.Z_DEFAULT_STRATEGY if repeats else zlib.Z_RLE, window, last)


def _compressed(data: bytes | memoryview, strategy: int, window: int = zlib.MAX_WBITS, last: bool = True) -> bytes:
    deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, window, zlib.DEF_MEM_LEVEL, strategy)
    return deflate.compress(data) + deflate.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


def _bytes_of(values: np.ndarray) -> memoryview:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data


def _pieces(data: memoryview, pool: ThreadPoolExecutor) -> Iterator[bytes]:
    """A stream without head and checksum, piece by piece."""
    ends = [*range(PIECE_BYTES, len(data), PIECE_BYTES), len(data)]
    begins = [0, *ends[:-1]]

    def piece(begin: int, end: int) -> bytes:
        return deflated(data[begin:end], window=-zlib.MAX_WBITS, last=end == len(data))

    return pool.map(piece, begins, ends)


def zlib_stream(values: np.ndarray) -> bytes:
    """An array's values as a zlib stream, as `zlib.decompress` unpacks it."""
    data = _bytes_of(values)
    if len(data) <= PIECE_BYTES:
        return deflated(data)
    with ThreadPoolExecutor(get_num_threads(), "lrpfast-pack") as pool:
        stream = b"".join(_pieces(data, pool))
    return b"\x78\x5e" + stream + struct.pack(">L", zlib.adler32(data))


def npz_parts(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    """The bytes of an .npz file of compressed arrays, part by part."""
    position, index = 0, []
    with ThreadPoolExecutor(get_num_threads(), "lrpfast-pack") as pool:
        for name, values in arrays.items():
            head, data = _npy_header(values), _bytes_of(values)
            parts = [deflated(head, window=-zlib.MAX_WBITS, last=False), *_pieces(data, pool)]
            key, size = f"{name}.npy".encode(), len(head) + len(data)
            packed, checksum = sum(map(len, parts)), zlib.crc32(data, zlib.crc32(head))
            local, entry = _records(key, checksum, packed, size, position)
            index.append(entry)
            yield local
            yield from parts
            position += len(local) + packed
    entries = b"".join(index)
    yield entries
    yield _end(len(index), len(entries), position)


def _npy_header(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(values.dtype), "fortran_order": False, "shape": values.shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def _records(key: bytes, checksum: int, packed: int, size: int, position: int) -> tuple[bytes, bytes]:
    """A member's own header, and its entry in the archive's index."""
    long = max(packed, size, position) > _MOST
    version = _VERSION_LONG if long else _VERSION
    sizes = (_LONG, _LONG) if long else (packed, size)
    common = (version, _UTF8, zlib.DEFLATED, 0, _DATE, checksum, *sizes, len(key))
    extra = struct.pack("<HHQQ", 1, 16, size, packed) if long else b""
    local = struct.pack("<4s5H3L2H", b"PK\3\4", *common, len(extra)) + key + extra
    extra = struct.pack("<HHQQQ", 1, 24, size, packed, position) if long else b""
    places = (0, 0, 0, 0o600 << 16, _LONG if long else position)
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", version, *common, len(extra), *places) + key + extra
    return local, entry


def _end(count: int, size: int, position: int) -> bytes:
    """What stands after the index."""
    end = b""
    if max(size, position) > _MOST or count >= 0xFFFF:
        end = struct.pack(
            "<4sQ2H2L4Q", b"PK\6\6", 44, _VERSION_LONG, _VERSION_LONG, 0, 0, count, count, size, position
        ) + struct.pack("<4sLQL", b"PK\6\7", 0, position + size, 1)
    counts = min(count, 0xFFFF), min(count, 0xFFFF)
    return end + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *counts, min(size, _LONG), min(position, _LONG), 0)
