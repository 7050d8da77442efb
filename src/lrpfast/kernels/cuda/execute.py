"""A program on one GPU: its kernels in order, for a chunk of samples in a workspace."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import InputError
from .. import Fault, Start
from ..place import OVERFLOWS, flops, place, touched
from ..program import Begin, Contract, Operation, Program, Redistribute, Remask
from . import modules
from .contractions import Contraction
from .devices import Gpu
from .light import Light
from .records import INPUT, RESULT, Held
from .replay import Replays

#: Places of buffers are multiples of this many values, so that rows of whole quads are aligned.
ALIGN = 32
#: Blocks of a grid-stride kernel to a multiprocessor, at most.
BLOCKS = 32
#: Values of one sample in one buffer: tables of positions are of 32 bits.
LARGEST = 2**31 - 1
MODES = {"max": 0, "index": 1, "pair": 2, "array": 3, "all": 4}
#: In the order of the kernels' codes: what is wrong with the input goes before what follows from it.
FAULTS = ("input_not_finite", "input_out_of_range", "not_finite")
#: Addresses go to kernels as numbers, as every CuPy takes them.
NULL = np.uint64(0)
NO_FAULT = np.iinfo(np.uint64).max


def as_fault(found: np.ndarray, first: int) -> Fault | None:
    """The fault of the first sample that has any, of a batch that begins at sample ``first``."""
    worst = found.min()
    return None if worst == NO_FAULT else Fault(FAULTS[int(np.argmin(found))], int(worst) + first)


def blocks_for(gpu: Gpu, threads: int) -> int:
    """Blocks of a grid-stride kernel with work for so many threads."""
    return min(-(-threads // modules.THREADS), gpu.processors * BLOCKS)


def bits_of(dtype: np.dtype) -> np.dtype:
    """A dtype that every CuPy has, for the bits of one that it may not have."""
    other = {"bool": np.uint8, "bfloat16": np.uint16}.get(dtype.name, dtype)
    return np.dtype(other)


class Began:
    """The starting relevance as a kernel needs it: a `Start` with its arrays on the device, in memory of its own."""

    def __init__(self, start: Start, dtype: np.dtype, size: int) -> None:
        import cupy

        self.mode, self.count, self.step = MODES[start.mode], start.count, start.step
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

    def take(self, samples: int, first: int, out: Any = None) -> None:
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

    def at(self, place: int) -> int:
        """A buffer's address."""
        if place == INPUT:
            return int(self.x.data.ptr)
        if place == RESULT:
            return int(self.out.data.ptr)
        return int(self.work.data.ptr) + int(place) * self.capacity * self.dtype.itemsize

    def launch(self, module: str, name: str, threads: int, before: tuple[Any, ...], y: int = 1) -> None:
        """A grid-stride kernel with work for so many threads."""
        blocks = blocks_for(self.gpu, threads)
        if blocks:
            self.launch_grid(module, self.kind, name, (blocks, y, 1), before)

    def launch_grid(
        self, module: str, kind: str, name: str, grid: tuple[int, int, int], before: tuple[Any, ...], shared: int = 0
    ) -> None:
        kernel = modules.function(self.gpu.index, module, kind, name)
        kernel(grid, (modules.THREADS,), (*before, *self.arguments), shared_mem=shared)


class Executable:
    """A compiled program on one GPU, which is current whenever it is used."""

    def __init__(self, program: Program, gpu: Gpu) -> None:
        self.program, self.gpu, self.dtype = program, gpu, np.dtype(program.dtype)
        self.offsets, self.width = place(program, ALIGN)
        self.result = program.output if program.result is None else program.result
        if max(program.sizes) > LARGEST:
            raise InputError(f"a layer has {max(program.sizes):,} values for each sample; a GPU takes {LARGEST:,}")
        self._scratch: dict[int, int] = {}
        self.held = Held(self.dtype)
        last = self._last_of_result()
        self.forward = [
            self._compiled(o, type(o).__name__ in OVERFLOWS or type(o).__name__ == "Activate" or o is last)
            for o in program.forward
        ]
        self.backward = [self._compiled(o, o is last) for o in program.backward]
        self.flops = flops(program)
        self.replays = Replays()
        first = program.forward[0] if program.forward else None
        # x · w is not finite for any w when x is not, so the sums tell. Not so for parts of x, nor after rounding.
        self.examined = not (
            isinstance(first, Contract)
            and not first.diagonal
            and all(t.geometry is None and t.part == "x" and t.source == 0 for t in first.terms)
            and not program.tf32
            and not program.allow_nan
            and program.input_range is None
        )

    def place(self, buffer: int) -> tuple[int, int]:
        """(where it lies, its size) of a buffer, per sample."""
        size = self.program.sizes[buffer]
        if buffer == 0:
            return INPUT, size
        return (RESULT if buffer == self.result else self.offsets[buffer]), size

    def _last_of_result(self) -> Operation | None:
        """What writes the relevance last: it must be finite, but for NaN where the input was masked."""
        for operation in reversed(self.program.backward):
            if not isinstance(operation, Remask) and self.result in touched(operation)[1]:
                return operation
        return None

    def _compiled(self, operation: Operation, check: bool) -> Contraction | Light | Begin:
        if isinstance(operation, (Contract, Redistribute)):
            return Contraction(operation, self.program, self.held, self.place, self.gpu, check)
        if isinstance(operation, Begin):
            return operation
        return Light(operation, self.program, self.held, self.place, check)

    def scratch(self, samples: int) -> int:
        """Elements of scratch memory beside the buffers of so many samples."""
        operations = (*self.forward, *self.backward)
        return max((o.scratch(samples) for o in operations if isinstance(o, Contraction)), default=0)

    def workspace_bytes(self, samples: int) -> int:
        """Bytes of a workspace for chunks of so many samples, and of smaller ones."""
        if samples not in self._scratch:
            # fewer samples may take more splits, and the last chunk of a batch can be of any size
            sizes = {samples, *(1 << i for i in range(samples.bit_length()))}
            self._scratch[samples] = max(self.scratch(n) for n in sizes)
        return (self.width * samples + self._scratch[samples] + ALIGN) * self.dtype.itemsize

    def by_library(self, samples: int) -> bool:
        """Whether any product of so many samples is a library's."""
        operations = (*self.forward, *self.backward)
        return any(o.by_library(samples) for o in operations if isinstance(o, Contraction))

    def cast(self, source: Any, given: np.dtype, into: Any, n: int) -> None:
        """Queue the cast of n values, of which ``source`` holds the bits, to the program's dtype."""
        name = "uint8" if given.kind == "b" else given.name
        kernel = modules.function(self.gpu.index, "input", self.dtype.name, f"cast_{name}")
        kernel((max(1, blocks_for(self.gpu, n)),), (modules.THREADS,), (source, into, np.int64(n)))

    def no_faults(self, faults: Any) -> None:
        """Queue the reset of what a run finds."""
        modules.function(self.gpu.index, "input", self.dtype.name, "no_faults")((1,), (32,), (faults,))

    def run(self, chunk: Chunk, began: Began, outs: list[Any]) -> None:
        """Queue all kernels on the current stream: once forward, backward for every target into its own ``out``."""
        if self.examined:
            low, high = self.program.input_range or (0.0, 0.0)
            size = self.program.sizes[0]
            ranged = self.program.input_range is not None
            flags = (np.int32(self.program.allow_nan), np.int32(ranged))
            before = (np.int64(size), *flags, np.float64(low), np.float64(high))
            chunk.launch("input", "examine", chunk.samples * size, before)
        for operation in self.forward:
            operation.launch(chunk)  # type: ignore[union-attr]
        for which, out in enumerate(outs):
            chunk.take(chunk.samples, chunk.first, out)
            for operation in self.backward:
                if isinstance(operation, Begin):
                    self._begin(chunk, operation, began, which)
                else:
                    operation.launch(chunk)

    def _begin(self, chunk: Chunk, operation: Begin, began: Began, which: int) -> None:
        size = self.program.sizes[operation.output]
        places = (np.int64(self.place(operation.output)[0]), np.int64(self.place(operation.out)[0]), np.int64(size))
        rectify, window = np.int32(operation.rectify), (np.int64(began.first), np.int64(began.size))
        if began.mode == MODES["max"]:
            chunk.launch("input", "begin_max", chunk.samples * 32, (*places, rectify, *window))
            return
        before = (
            *places,
            rectify,
            np.int32(began.mode),
            NULL if began.targets is None else began.targets,
            np.int32(began.step),
            np.int32(which),
            *window,
            NULL if began.array is None else began.array,
        )
        chunk.launch("input", "begin", chunk.samples * size, before)
