"""Writes rows to .npy files."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from ...errors import InputError
from ..positional_io import write_at
from ..sources.mapped import header
from .base import FileSink


class NpySink(FileSink):
    """Writes rows to an .npy file; their number may be known only at the end. The format has no attributes."""

    def _header(self, samples: int) -> bytes:
        from io import BytesIO

        header_bytes = BytesIO()
        shape = (samples, *self._shape[1:])
        fields = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header_bytes, fields)  # leaves room for more samples
        return header_bytes.getvalue()

    def _check_room(self) -> None:
        """Do nothing: no library writes the file, so a full disk is an ordinary OSError."""

    def _create(self, path: str, chunks: Mapping[str, int] | None = None) -> None:
        with open(path, "xb") as file:
            file.write(self._header(self._shape[0] or 0))
            file.truncate(file.tell() + (self._shape[0] or 0) * self._row)

    def _find(self) -> list[tuple[int, int]]:
        with open(self.partial, "rb") as file:
            shape, dtype, fortran, offset = header(file, self.partial, os.path.getsize(self.partial))
        if (shape, dtype, fortran) != ((self._shape[0] or 0, *self._shape[1:]), self._dtype, False):
            raise InputError(f"{self.partial}: holds {dtype} of shape {shape}, not {self._dtype} of {self._shape}")
        return [(offset, self._row)]

    def _complete(self) -> None:
        if self._shape[0] is None:
            header_bytes = self._header(self._end)
            ((offset, _),) = self._parts
            if len(header_bytes) != offset:
                raise InputError(f"{self.name}: {self._end} rows are more than an .npy file's header has room for")
            assert self._file is not None
            write_at(self._file, memoryview(header_bytes), 0)
            # a killed run may have written more rows than it recorded
            os.ftruncate(self._file, offset + self._end * self._row)
