"""Light operations as launches: each one's record, and how many threads it has work for."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ..check import check_divide, check_light, require
from ..place import BUFFERS
from ..program import FUNCTIONS, OF_ROWS, Divide, Operation, Program, function_parameters
from .contractions import Place
from .records import BUFFER, INT, LIGHT, Held

#: kernels whose rows are made by a warp each
BY_ROWS = {"softmax", "softmax_back", "normalize", "normalize_back"}


def kernel_name(operation: type) -> str:
    """``SoftmaxBack`` is ``softmax_back``, in light.cu ``light_softmax_back``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", operation.__name__).lower()


class Light:
    """A light operation, compiled for one device; ``check``: its output must be finite."""

    def __init__(self, operation: Operation, program: Program, held: Held, place: Place, check: bool) -> None:
        self.name = kernel_name(type(operation))
        made = np.zeros((), LIGHT)
        made["check"] = check
        made["columns"] = getattr(operation, "columns", 1)
        made["count"] = made["run"] = 1
        if isinstance(operation, Divide):
            self._divide(operation, made, program, held, place)
        else:
            reads, writes = ([getattr(operation, f) for f in fields] for fields in BUFFERS[type(operation).__name__])
            sources = getattr(operation, "sources", ())
            given = [b for b in (*reads, *sources) if b is not None], [b for b in writes if b is not None]
            check_light(operation, program.sizes, *given)
            for i, b in enumerate(reads):
                made["reads"][i] = (0, 0) if b is None else place(b)
            for i, b in enumerate(writes):
                made["writes"][i] = (0, 0) if b is None else place(b)
            if sources:
                made["sources_count"] = len(sources)
                made["sources"] = held.put(np.array([place(b) for b in sources], BUFFER))
            fill = getattr(self, f"_{self.name}", None)
            if fill is not None:
                fill(operation, made, held, program.sizes)
        self.size = int(made["writes"][0]["size"])
        if self.name == "strided":
            self.size = operation.count * operation.length  # type: ignore[union-attr]
        self.columns = int(made["columns"])
        self.record = held.record(made)

    def launch(self, chunk: Any) -> None:
        """Queue the kernel for a chunk on the current stream."""
        work = chunk.samples * self.size
        if self.name in BY_ROWS:
            work = work // self.columns * 32
        chunk.launch("light", f"light_{self.name}", work, (self.record,))

    def _divide(self, operation: Divide, made: np.ndarray, program: Program, held: Held, place: Place) -> None:
        check_divide(operation, program.sizes, program.sizes[operation.out])
        made["reads"][0], made["writes"][0] = place(operation.relevance), place(operation.out)
        if isinstance(operation.z, int):
            made["reads"][1] = place(operation.z)
        else:
            made["values"] = held.vector(operation.z)
        if operation.mask_z is not None:
            made["reads"][2] = place(operation.mask_z)
        made["p"][0], made["kind"], made["flag"] = operation.stabilizer, operation.kind == "zero", operation.mask

    def _function(self, operation: Any, made: np.ndarray, held: Held) -> None:
        made["function"] = FUNCTIONS.index(operation.function)
        for i, value in enumerate(function_parameters(operation)):
            made["p"][i] = value
        if operation.function == "prelu":
            made["values"] = held.vector(operation.parameters["negative_slope"])

    def _activate(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        self._function(operation, made, held)
        if operation.function in OF_ROWS:
            self.name = "softmax"
        elif operation.function == "relu" and tuple(made["p"]) == (np.inf, 0, 0):
            self.name = "relu"

    def _slope(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        self._function(operation, made, held)

    def _softmax_back(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        made["flag"] = operation.x is not None

    def _scale(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        made["values"] = held.vector(operation.values)

    def _gather(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        made["index"] = held.indices(operation.index)

    def _scatter(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        index = np.asarray(operation.index)
        order = np.argsort(index, kind="stable")
        order = order[index[order] >= 0]
        made["index"] = held.put(order.astype(INT))
        made["starts"] = held.put(np.searchsorted(index[order], np.arange(sizes[operation.out] + 1)).astype(INT))

    def _strided(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        made["count"], made["run"] = operation.count, operation.length
        for name in ("source_offset", "source_step", "out_offset", "out_step"):
            made[name] = getattr(operation, name)

    def _pool(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        made["geometry"], made["kind"] = held.geometry(operation.geometry, operation), operation.winner is not None

    def _unpool(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        made["geometry"] = held.geometry(operation.geometry, operation)
        source, pairs = seen_by(operation.geometry)
        made["index"] = held.put(pairs.astype(INT))
        rows = int(np.prod(operation.geometry.source))
        made["starts"] = held.put(np.searchsorted(source, np.arange(rows + 1)).astype(INT))

    def _extremum(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        made["flag"], made["kind"] = operation.sign, operation.winner is not None

    def _select(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        made["flag"] = operation.place

    def _normalize(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        made["flag"], made["length"], made["p"][0] = operation.centered, operation.length, operation.epsilon
        made["values"], made["more_values"] = held.vector(operation.gamma), held.vector(operation.beta)

    def _normalize_back(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        made["flag"], made["detached"], made["p"][0] = operation.centered, operation.detached, operation.epsilon
        made["values"] = held.vector(operation.gamma)

    def _local_normalize(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        made["p"][:] = operation.alpha / operation.size, operation.beta, operation.k
        made["run"] = operation.size

    def _dot(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        made["m"], made["n"], made["k"] = operation.m, operation.n, operation.k

    def _dot_back(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        self._dot(operation, made, held, sizes)
        made["p"][0], made["flag"] = operation.coefficient, operation.transposed

    def _lookup(self, operation: Any, made: np.ndarray, held: Held, sizes: Any) -> None:
        made["count"], made["columns"] = operation.table.shape
        made["values"] = held.vector(operation.table)


def seen_by(geometry: Any) -> tuple[np.ndarray, np.ndarray]:
    """(source rows in order, (output row, tap) that sees each), a source row's in order of output rows."""
    require(len(geometry.regions) == 1, geometry, "one region")
    a, b, c = (axis.index for axis in geometry.regions[0].axes)
    rows = np.stack(
        np.meshgrid(*(np.arange(len(axis.positions)) for axis in geometry.regions[0].axes), indexing="ij"), -1
    ).reshape(-1, 3)
    taps = np.stack(np.meshgrid(*(np.arange(i.shape[1]) for i in (a, b, c)), indexing="ij"), -1).reshape(-1, 3)
    at = [i[rows[:, None, d], taps[None, :, d]] for d, i in enumerate((a, b, c))]
    source = (at[0] * geometry.source[1] + at[1]) * geometry.source[2] + at[2]
    inside = (at[0] >= 0) & (at[1] >= 0) & (at[2] >= 0)
    row, tap = np.nonzero(inside)
    order = np.argsort(source[inside], kind="stable")
    return source[inside][order], np.stack([row[order], tap[order]], -1)
