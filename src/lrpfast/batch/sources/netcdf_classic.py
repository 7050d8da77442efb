"""Checks the size of a classic NetCDF file by its header: the NetCDF library silently reads zeros beyond the end.

Format: NetCDF's file format specifications for CDF-1, CDF-2 and CDF-5.
"""

from __future__ import annotations

import math
import os
import struct
from typing import BinaryIO

from ...errors import InputError

#: Bytes of a value, by NetCDF's type number.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
_MOST = 1 << 20  # more dimensions, variables or attributes than any real file has


def check_size(path: str) -> None:
    """Raise InputError if a classic file is shorter than its variables; other files pass."""
    with open(path, "rb") as file:
        magic = file.read(4)
        if magic[:3] != b"CDF" or magic[3] not in (1, 2, 5):
            return
        try:
            end = _Header(file, magic[3]).end()
        except (struct.error, KeyError, ValueError, IndexError, OverflowError):
            raise InputError(f"{path}: damaged or truncated NetCDF file (its header cannot be read)") from None
    size = os.path.getsize(path)
    if size < end:
        raise InputError(f"{path}: truncated, it has {size:,} bytes where its variables need {end:,}")


class _Header:
    def __init__(self, file: BinaryIO, version: int) -> None:
        self._file = file
        self._count = ">q" if version == 5 else ">i"
        self._offset = ">i" if version == 1 else ">q"

    def end(self) -> int:
        """The offset at which the last variable ends."""
        records = self._number(self._count)
        if records < -1:
            raise ValueError(records)
        dims = [self._dimension() for _ in range(self._list())]
        self._attributes()
        ends, slots = [0], []
        for _ in range(self._list()):
            self._name()
            shape = [dims[self._number(self._count)] for _ in range(self._few())]
            self._attributes()
            size = _SIZES[self._number(">i")]
            self._number(self._count)  # the variable's size, which overflows for large ones
            begin = self._number(self._offset)
            if shape and shape[0] == 0:  # the record dimension
                slots.append((begin, math.prod(shape[1:]) * size))
            else:
                ends.append(begin + math.prod(shape) * size)
        # a record has a slot for every variable, padded to 4 bytes unless there is only one
        record = slots[0][1] if len(slots) == 1 else sum(-(-size // 4) * 4 for _, size in slots)
        if records > 0:  # -1: written as a stream, whose length is unknown
            ends += [begin + (records - 1) * record + size for begin, size in slots]
        return max(ends)

    def _number(self, kind: str) -> int:
        return int(struct.unpack(kind, self._file.read(struct.calcsize(kind)))[0])

    def _few(self) -> int:
        count = self._number(self._count)
        if not 0 <= count <= _MOST:
            raise ValueError(count)
        return count

    def _list(self) -> int:
        self._number(">i")  # its tag
        return self._few()

    def _name(self) -> None:
        self._skip(self._few())

    def _skip(self, count: int) -> None:
        self._file.seek(-(-count // 4) * 4, os.SEEK_CUR)

    def _dimension(self) -> int:
        self._name()
        return self._number(self._count)

    def _attributes(self) -> None:
        for _ in range(self._list()):
            self._name()
            size = _SIZES[self._number(">i")]
            self._skip(size * self._few())
