"""Rows of several inputs into .npy files: one for each input, whose name ends in the input's."""

from __future__ import annotations

import contextlib
import math
import os
import struct
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError
from ...output import check_free, on_disk
from .base import Sink
from .names import trouble
from .npy import NpySink

if TYPE_CHECKING:
    from ..inputs import InputRows
    from ..metadata import ArrayMetadata, RowsShape


class SeveralNpySink(Sink):
    """Rows of several inputs' relevances, for ``out.npy`` into ``out_NAME.npy`` for each input.

    A name of a file may not have every character: an input's name that has others is an error.

    Attributes
    ----------
    path : str
        ``out.npy``, the name of the run: its journal and its lock lie beside it. No file has it.
    """

    resumable = True

    path: str

    def __init__(self, path: str, inputs: InputRows) -> None:
        self.path = self.name = path
        self._inputs, self._sinks = inputs, [NpySink(file) for file in file_names(path, inputs.names)]
        self.partial = self._sinks[0].partial

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(sink.path for sink in self._sinks)

    @property
    def partials(self) -> tuple[str, ...]:
        return tuple(sink.partial for sink in self._sinks)

    def check(self, shape: RowsShape, dtype: np.dtype, labels: ArrayMetadata | None = None) -> None:
        for sink, own in zip(self._sinks, self._inputs.arrays_of(shape), strict=True):
            sink.check(own, dtype)
        existing_bytes = 0
        for partial in self.partials:
            with contextlib.suppress(OSError):
                existing_bytes += on_disk(os.stat(partial))
        size = math.prod(shape[1:], start=shape[0] or 0) * dtype.itemsize
        check_free(self.path, os.path.dirname(self.partial or ""), max(0, size - existing_bytes))

    def _open(self, existing: bool) -> None:
        for sink, own in zip(self._sinks, self._inputs.arrays_of(self._shape), strict=True):
            sink.begin(own, self._dtype, self._attributes, None, self._end, self._rows, existing)

    def write(self, first: int, rows: np.ndarray, beside: Sequence[np.ndarray] = ()) -> int:
        parts = zip(self._sinks, self._inputs.split(rows), strict=True)
        return _joined([sink.write(first, part) for sink, part in parts])

    def checksum(self, first: int, stop: int) -> int | None:
        values = [sink.checksum(first, stop) for sink in self._sinks]
        return None if None in values else _joined(values)  # type: ignore[arg-type]

    def frame(self) -> int:
        return _joined([sink.frame() for sink in self._sinks])

    def flush(self) -> None:
        for sink in self._sinks:
            sink.flush()

    def take_finished(self) -> None:
        for sink in self._sinks:
            if sink.finished():
                sink.take_finished()

    def finish_rest(self) -> None:
        for sink in self._sinks:
            if sink.partial != sink.path:
                sink.finish()

    def finish(self) -> None:
        for sink in self._sinks:
            sink.finish()

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()

    def discard(self) -> None:
        for sink in self._sinks:
            sink.discard()


def file_names(path: str, names: Sequence[str]) -> list[str]:
    """The file of each input, for ``out.npy`` ``out_NAME.npy``."""
    stem, ending = os.path.splitext(path)
    for name in names:
        if (problem := trouble(name, "zarr")) is not None:
            raise InputError(
                f"{path}: one file is written for each input, but the name of input {name!r} {problem}; write an .h5 "
                "file, which has an array for each input"
            )
    return [f"{stem}_{os.fsdecode(name.encode())}{ending}" for name in names]


def _joined(values: Sequence[int]) -> int:
    """One checksum of several."""
    return zlib.crc32(struct.pack(f"<{len(values)}L", *values))
