"""Rows of several inputs into an .npz file: an uncompressed zip archive whose arrays are written in place."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError
from ..positional_io import write_at
from .base import FileSink
from .hdf5 import need_samples
from .several import SeveralSink

if TYPE_CHECKING:
    from ..inputs import InputRows
    from ..metadata import ArrayMetadata, RowsShape

#: Zip archives' version with sizes of 64 bits, names in UTF-8, and the first day that they know.
_VERSION, _UTF8, _DATE = 45, 0x800, 33
#: A size or offset that stands in the extra field of 64 bits.
_LONG = 0xFFFFFFFF
#: Where the checksum lies in a member's own header, and in its entry of the archive's index.
_CRC_LOCAL, _CRC_INDEX = 14, 16


@dataclass(frozen=True)
class _Member:
    """One array in the archive: its headers, where they lie, and the bytes of its rows."""

    local: bytes
    header: bytes
    begin: int
    rows: int

    @property
    def first(self) -> int:
        """Where the array's own header begins."""
        return self.begin + len(self.local)

    @property
    def offset(self) -> int:
        """Where its rows begin."""
        return self.first + len(self.header)

    @property
    def end(self) -> int:
        return self.offset + self.rows


class NpzSink(SeveralSink):
    """An array for each input, by its name, in an .npz file. It has no place for attributes and coordinates."""

    def __init__(self, path: str, inputs: InputRows) -> None:
        super().__init__(path, "npz", inputs)
        self._members: list[_Member] = []
        self._index = b""
        self._checksums: list[int] = []  # offsets of all that is known only at the end

    def check(self, shape: RowsShape, dtype: np.dtype, labels: ArrayMetadata | None = None) -> None:
        need_samples(self.name, shape)
        self._check_names("npz", shape, labels)
        FileSink.check(self, shape, dtype)

    def compress(self, compression: str) -> None:
        FileSink.compress(self, compression)

    def _lay_out(self) -> None:
        """Decide where everything lies."""
        self._members, entries, position = [], [], 0
        for name, array in self._contents(self._shape[0])[0].items():
            shape, dtype = array.values.shape, array.values.dtype
            buffer = BytesIO()
            fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(buffer, fields)
            header, key = buffer.getvalue(), f"{name}.npy".encode()
            rows = math.prod(shape) * dtype.itemsize
            size = len(header) + rows
            common = (_VERSION, _UTF8, 0, 0, _DATE, 0, _LONG, _LONG, len(key))
            local = struct.pack("<4s5H3L2H", b"PK\3\4", *common, 20) + key + struct.pack("<HHQQ", 1, 16, size, size)
            entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", _VERSION, *common, 28, 0, 0, 0, 0o600 << 16, _LONG)
            entries.append(entry + key + struct.pack("<HHQQQ", 1, 24, size, size, position))
            self._members.append(_Member(local, header, position, rows))
            position = self._members[-1].end
        self._checksums = [m.begin + _CRC_LOCAL for m in self._members]
        at = position
        for entry in entries:
            self._checksums.append(at + _CRC_INDEX)
            at += len(entry)
        index, count = b"".join(entries), len(entries)
        end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, _VERSION, _VERSION, 0, 0, count, count, len(index), position)
        end += struct.pack("<4sLQL", b"PK\6\7", 0, position + len(index), 1)
        self._index = index + end + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, _LONG, _LONG, 0)

    def _create(self, path: str, chunks: Mapping[str, int] | None = None) -> None:
        self._lay_out()
        with open(path, "xb") as file:
            for member in self._members:
                file.seek(member.begin)
                file.write(member.local + member.header)
            file.seek(self._members[-1].end)
            file.write(self._index)

    def _find(self) -> list[tuple[int, int]]:
        self._lay_out()
        with open(self.partial, "rb") as file:
            for member in self._members:
                file.seek(member.first)
                if file.read(len(member.header)) != member.header:
                    raise InputError(f"{self.partial}: is not the partial output of a run like this")
        samples = self._shape[0] or 1
        return [(member.offset, member.rows // samples) for member in self._members]

    def frame(self) -> int:
        holes = [*((m.offset, m.rows) for m in self._members), *((offset, 4) for offset in self._checksums)]
        return self._checksum_between(holes)

    def _complete(self) -> None:
        """The archive's checksums, for which the file is read once more."""
        assert self._file is not None
        count = len(self._members)
        for i, member in enumerate(self._members):
            value = struct.pack("<L", self._checksum(member.first, member.end - member.first) or 0)
            for offset in (self._checksums[i], self._checksums[count + i]):
                write_at(self._file, memoryview(value), offset)
