"""Light operations as launches: the record of each, and its number of threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..codes import OF_ROWS
from ..operation import Operation, row_of
from ..ops import (
    Activate,
    AttentionBack,
    AttentionOp,
    MaskedSoftmax,
    Normalize,
    NormalizeBack,
    PoolBack,
    Recur,
    RecurBack,
    Scatter,
    ShareRemainder,
    SoftmaxBack,
    Strided,
)
from ..program import Program
from .contractions import Locate
from .device_arrays import DeviceArrays
from .structs import BUFFER, INT, LIGHT

#: Operations with one warp for each row; activations of rows are the same.
BY_ROWS = (AttentionBack, AttentionOp, MaskedSoftmax, Normalize, NormalizeBack, ShareRemainder, SoftmaxBack)
#: Operations with one warp for each sample.
BY_SAMPLES = (Recur, RecurBack)


def kernel_name(operation: Operation) -> str:
    """The name of the kernel in light.cu; for an activation that of its kind."""
    name = row_of(operation).kernel
    if isinstance(operation, Activate):
        p = operation.parameters
        if operation.function in OF_ROWS:
            name = "softmax"
        elif operation.function == "relu" and p["max_value"] is None and not p["negative_slope"] and not p["threshold"]:
            name = "relu"
    return f"light_{name}"


class Light:
    """A light operation, compiled for one device; ``check``: its output must be finite."""

    def __init__(
        self, operation: Operation, program: Program, arrays: DeviceArrays, locate: Locate, check: bool
    ) -> None:
        row = row_of(operation)
        row.check(operation, program.sizes)
        self.kernel = kernel_name(operation)
        record = np.zeros((), LIGHT)
        record["check"], record["columns"] = check, getattr(operation, "columns", 1)
        record["count"] = record["run"] = 1
        reads, writes = row.buffers(operation)
        sources = getattr(operation, "sources", ())
        for field, buffers in (("reads", reads[: len(reads) - len(sources)]), ("writes", writes)):
            for i, b in enumerate(buffers):
                record[field][i] = (0, 0) if b is None else locate(b)
        record["has_winner"] = len(writes) > 1 and writes[1] is not None
        if sources:
            record["sources_count"] = len(sources)
            record["sources"] = arrays.put(np.array([locate(b) for b in sources], BUFFER))
        arguments = row.arguments(operation)
        if type(operation) in BACKWARD_INDEX:
            arguments.pop("index", None)
            index, starts = BACKWARD_INDEX[type(operation)](operation, program.sizes)
            record["index"], record["starts"] = arrays.put(index.astype(INT)), arrays.put(starts.astype(INT))
        for field, value in arguments.items():
            self._fill(record, field, value, operation, arrays)
        self.size = (
            operation.count * operation.length if isinstance(operation, Strided) else int(record["writes"][0]["size"])
        )
        self.by_rows = isinstance(operation, (*BY_ROWS, *BY_SAMPLES)) or self.kernel == "light_softmax"
        self.columns = self.size if isinstance(operation, BY_SAMPLES) else int(record["columns"])
        self.record = arrays.record(record)

    def _fill(self, record: np.ndarray, field: str, value: Any, operation: Operation, arrays: DeviceArrays) -> None:
        """Fill in one of the kernel's arguments from the operation's row."""
        if field == "p":
            record["p"][: len(value)] = value
        elif field in ("values", "more_values"):
            record[field] = arrays.vector(value)
        elif field == "index":
            record[field] = arrays.indices(value)
        elif field == "recurrence":
            record[field] = arrays.recurrence(value)
        elif field == "geometry":
            record[field] = arrays.geometry(value, operation)
        else:
            record[field] = value

    def launch(self, chunk: Any) -> None:
        """Queue the kernel for a chunk on the current stream."""
        work = chunk.samples * self.size
        if self.by_rows:
            work = work // self.columns * 32
        chunk.launch("light", self.kernel, work, (self.record,))


def _scatter_index(operation: Scatter, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The source values of each output value, in order, and the offset at which each output's begin."""
    index = np.asarray(operation.index)
    order = np.argsort(index, kind="stable")
    order = order[index[order] >= 0]
    return order, np.searchsorted(index[order], np.arange(sizes[operation.out] + 1))


def _pool_back_index(operation: PoolBack, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(output row, tap) of all windows that contain each source row, and the offset at which each row's begin."""
    source, pairs = seen_by(operation.geometry)
    rows = int(np.prod(operation.geometry.source))
    return pairs, np.searchsorted(source, np.arange(rows + 1))


#: Operations whose kernels iterate over the output's values, so that no two threads add to the same one.
BACKWARD_INDEX: dict[type[Operation], Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    Scatter: _scatter_index,
    PoolBack: _pool_back_index,
}


def seen_by(geometry: Any) -> tuple[np.ndarray, np.ndarray]:
    """(source rows in order, their (output row, tap)); those of a source row are in the order of output rows."""
    a, b, c = (axis.index for axis in geometry.regions[0].axes)
    rows = np.stack(
        np.meshgrid(*(np.arange(len(axis.positions)) for axis in geometry.regions[0].axes), indexing="ij"), -1
    ).reshape(-1, 3)
    taps = np.stack(np.meshgrid(*(np.arange(i.shape[1]) for i in (a, b, c)), indexing="ij"), -1).reshape(-1, 3)
    index = [i[rows[:, None, d], taps[None, :, d]] for d, i in enumerate((a, b, c))]
    source = (index[0] * geometry.source[1] + index[1]) * geometry.source[2] + index[2]
    inside = (index[0] >= 0) & (index[1] >= 0) & (index[2] >= 0)
    row, tap = np.nonzero(inside)
    order = np.argsort(source[inside], kind="stable")
    return source[inside][order], np.stack([row[order], tap[order]], -1)
