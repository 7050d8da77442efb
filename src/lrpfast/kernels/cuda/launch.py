"""The state of a run on a device: a chunk of samples, the starting relevance, faults."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..codes import START_MODES, FaultCode
from ..interface import Fault, Start
from . import modules
from .devices import Gpu
from .structs import INPUT, RESULT

#: The largest number of blocks of a grid-stride kernel for each multiprocessor.
BLOCKS = 32
#: The kernels' faults, in order: faults of the input come before their consequences.
FAULTS = tuple(code.name.lower() for code in FaultCode if code is not FaultCode.FINE)
NO_FAULT = np.iinfo(np.uint64).max


def as_fault(samples: np.ndarray, first: int) -> Fault | None:
    """The fault of the first faulty sample of a batch, whose first sample is ``first``; None without faults."""
    worst = samples.min()
    return None if worst == NO_FAULT else Fault(FAULTS[int(np.argmin(samples))], int(worst) + first)


def blocks_for(gpu: Gpu, threads: int) -> int:
    """The number of blocks of a grid-stride kernel with work for this number of threads."""
    return min(-(-threads // modules.THREADS), gpu.processors * BLOCKS)


def bits_of(dtype: np.dtype) -> np.dtype:
    """A dtype that every version of CuPy has, for the bits of a dtype that it may lack."""
    bits = {"bool": np.uint8, "bfloat16": np.uint16}.get(dtype.name, dtype)
    return np.dtype(bits)


class StartOnDevice:
    """A `Start` with its arrays on the device, in memory of its own."""

    def __init__(self, start: Start, dtype: np.dtype, size: int) -> None:
        import cupy

        self.mode, self.count, self.step = START_MODES[start.mode], start.count, start.step
        self.first, self.size = start.window or (0, size)
        if not 0 <= self.first < self.first + self.size <= size:
            raise ValueError(f"window {start.window} is not part of {size} outputs")
        self.passes, self.starts = start.passes, start.starts
        self.targets = self.array = self.masks = None
        if start.passes is not None:
            self.masks = cupy.empty(start.passes.masks.shape, np.uint8)
            self.masks.set(start.passes.masks)
        if start.targets is not None:
            self.targets = cupy.empty(start.targets.shape, np.int64)
        if start.array is not None:
            self.array = cupy.empty(start.array.shape, dtype)
        self.put(start)

    def passes_of(self, target: int) -> list[list[int]]:
        """The passes of one target, as `Passes.of`: without a choice, one of the only segment."""
        return [[0, 0, 1]] if self.passes is None else self.passes.of(target)

    def put(self, start: Start) -> None:
        """Copy the arrays of a start of the same kind to the device."""
        if self.targets is not None and start.targets is not None:
            self.targets.set(np.ascontiguousarray(start.targets, np.int64))
        if self.array is not None and start.array is not None:
            self.array.set(np.ascontiguousarray(start.array, self.array.dtype))

    @staticmethod
    def key(start: Start) -> tuple[Any, ...]:
        """The key of a start's kind: two starts with the same key differ only in the values of their arrays."""
        shapes = tuple(None if a is None else a.shape for a in (start.targets, start.array))
        return (start.mode, start.step, start.count, start.window, shapes)


class Chunk:
    """Some samples in a run of a program, with the addresses of their buffers."""

    def __init__(
        self, gpu: Gpu, dtype: np.dtype, work: Any, capacity: int, width: int, x: Any, out: Any, faults: Any
    ) -> None:
        self.gpu, self.dtype, self.work, self.capacity = gpu, dtype, work, capacity
        self.x, self.out, self.faults = x, out, faults
        self.kind = "float64" if dtype == np.float64 else "float32"
        self.scratch = work.data.ptr + width * capacity * dtype.itemsize
        self.samples = self.first = 0

    def select(self, samples: int, first: int, out: Any = None) -> None:
        """Set the chunk to ``samples`` samples, the first of which is the run's sample ``first``."""
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
        """Queue a grid-stride kernel with work for this number of threads."""
        blocks = blocks_for(self.gpu, threads)
        if blocks:
            self.launch_grid(module, self.kind, name, (blocks, y, 1), leading)

    def launch_grid(
        self, module: str, kind: str, name: str, grid: tuple[int, int, int], leading: tuple[Any, ...], shared: int = 0
    ) -> None:
        kernel = modules.function(self.gpu.index, module, kind, name)
        kernel(grid, (modules.THREADS,), (*leading, *self.arguments), shared_mem=shared)
