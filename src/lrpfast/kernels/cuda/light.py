"""Light operations as launches: each one's record, and how many threads it has work for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..codes import OF_ROWS
from ..operation import Operation, row_of
from ..ops import Activate, Normalize, NormalizeBack, PoolBack, Scatter, SoftmaxBack, Strided
from ..program import Program
from .contractions import Locate
from .device_arrays import DeviceArrays
from .structs import BUFFER, INT, LIGHT

#: operations whose rows are made by a warp each; so are activations of rows
BY_ROWS = (SoftmaxBack, Normalize, NormalizeBack)


def kernel_name(operation: Operation) -> str:
    """The kernel in light.cu; of an activation that of its kind."""
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
        self.by_rows = isinstance(operation, BY_ROWS) or self.kernel == "light_softmax"
        self.columns = int(record["columns"])
        self.record = arrays.record(record)

    def _fill(self, record: np.ndarray, field: str, value: Any, operation: Operation, arrays: DeviceArrays) -> None:
        """One of the arguments that an operation's row has for its kernel."""
        if field == "p":
            record["p"][: len(value)] = value
        elif field in ("values", "more_values"):
            record[field] = arrays.vector(value)
        elif field == "index":
            record[field] = arrays.indices(value)
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
    """The source values that go to each output value, in order, and where each one's begin."""
    index = np.asarray(operation.index)
    order = np.argsort(index, kind="stable")
    order = order[index[order] >= 0]
    return order, np.searchsorted(index[order], np.arange(sizes[operation.out] + 1))


def _pool_back_index(operation: PoolBack, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(output row, tap) of all that see each source row, and where each one's begin."""
    source, pairs = seen_by(operation.geometry)
    rows = int(np.prod(operation.geometry.source))
    return pairs, np.searchsorted(source, np.arange(rows + 1))


#: operations whose kernels go by the output's values, not by the source's: so no two threads add to one
BACKWARD_INDEX: dict[type[Operation], Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    Scatter: _scatter_index,
    PoolBack: _pool_back_index,
}


def seen_by(geometry: Any) -> tuple[np.ndarray, np.ndarray]:
    """(source rows in order, (output row, tap) that sees each), a source row's in order of output rows."""
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
