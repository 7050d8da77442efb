"""What a run needs on a device beside the program: a chunk of samples, the starting relevance, faults."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..codes import START_MODES, FaultCode
from ..interface import Fault, Start
from . import modules
from .devices import Gpu
from .structs import INPUT, RESULT

#: Blocks of a grid-stride kernel to a multiprocessor, at most.
BLOCKS = 32
#: What kernels find, in their order: what is wrong with the input goes before what follows from it.
FAULTS = tuple(code.name.lower() for code in FaultCode if code is not FaultCode.FINE)
NO_FAULT = np.iinfo(np.uint64).max


def as_fault(samples: np.ndarray, first: int) -> Fault | None:
    """The fault of the first sample that has any, of a batch that begins at sample ``first``."""
    worst = samples.min()
    return None if worst == NO_FAULT else Fault(FAULTS[int(np.argmin(samples))], int(worst) + first)


def blocks_for(gpu: Gpu, threads: int) -> int:
    """Blocks of a grid-stride kernel with work for so many threads."""
    return min(-(-threads // modules.THREADS), gpu.processors * BLOCKS)


def bits_of(dtype: np.dtype) -> np.dtype:
    """A dtype that every CuPy has, for the bits of one that it may not have."""
    bits = {"bool": np.uint8, "bfloat16": np.uint16}.get(dtype.name, dtype)
    return np.dtype(bits)


class StartOnDevice:
    """The starting relevance as a kernel needs it: a `Start` with its arrays on the device, in memory of its own."""

    def __init__(self, start: Start, dtype: np.dtype, size: int) -> None:
        import cupy

        self.mode, self.count, self.step = START_MODES[start.mode], start.count, start.step
        self.first, self.size = start.window or (0, size)
        if not 0 <= self.first < self.first + self.size <= size:
            raise ValueError(f"window {start.window} is not part of {size} outputs")
        self.targets = self.array = None
        if start.targets is not None:
            self.targets = cupy.empty(start.targets.shape, np.int64)
        if start.array is not None:
            self.array = cupy.empty(start.array.shape, dtype)
        self.put(start)

    def put(self, start: Start) -> None:
        """Copy the arrays of a start of the same kind to the device."""
        if self.targets is not None and start.targets is not None:
            self.targets.set(np.ascontiguousarray(start.targets, np.int64))
        if self.array is not None and start.array is not None:
            self.array.set(np.ascontiguousarray(start.array, self.array.dtype))

    @staticmethod
    def key(start: Start) -> tuple[Any, ...]:
        """What two starts have in common that differ in their arrays' values only."""
        shapes = tuple(None if a is None else a.shape for a in (start.targets, start.array))
        return (start.mode, start.step, start.count, start.window, shapes)


class Chunk:
    """Some samples on their way through a program: where their buffers are."""

    def __init__(
        self, gpu: Gpu, dtype: np.dtype, work: Any, capacity: int, width: int, x: Any, out: Any, faults: Any
    ) -> None:
        self.gpu, self.dtype, self.work, self.capacity = gpu, dtype, work, capacity
        self.x, self.out, self.faults = x, out, faults
        self.kind = "float64" if dtype == np.float64 else "float32"
        self.scratch = work.data.ptr + width * capacity * dtype.itemsize
        self.samples = self.first = 0

    def select(self, samples: int, first: int, out: Any = None) -> None:
        """Stand for ``samples`` samples, of which the run's sample ``first`` is the first."""
        self.samples, self.first = samples, first
        self.out = self.out if out is None else out
        self.arguments = (
            self.work,
            self.x,
            self.out,
            np.int64(self.capacity),
            np.int64(samples),
            np.int64(first),
            self.faults,
        )

    def at(self, offset: int) -> int:
        """A buffer's address."""
        if offset == INPUT:
            return int(self.x.data.ptr)
        if offset == RESULT:
            return int(self.out.data.ptr)
        return int(self.work.data.ptr) + int(offset) * self.capacity * self.dtype.itemsize

    def launch(self, module: str, name: str, threads: int, leading: tuple[Any, ...], y: int = 1) -> None:
        """A grid-stride kernel with work for so many threads."""
        blocks = blocks_for(self.gpu, threads)
        if blocks:
            self.launch_grid(module, self.kind, name, (blocks, y, 1), leading)

    def launch_grid(
        self, module: str, kind: str, name: str, grid: tuple[int, int, int], leading: tuple[Any, ...], shared: int = 0
    ) -> None:
        kernel = modules.function(self.gpu.index, module, kind, name)
        kernel(grid, (modules.THREADS,), (*leading, *self.arguments), shared_mem=shared)
