"""A program on one GPU: its kernels in order, for a chunk of samples in a workspace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import DeviceError, InputError
from ..codes import StartMode
from ..contraction_ops import Contract, Redistribute
from ..memory_plan import flops, plan_memory, touched
from ..operation import Operation, row_of
from ..ops import Activate, InitRelevance, MaskRelevance, RestoreNaN
from ..program import Program
from . import many_k, modules
from .contractions import Contraction
from .device_arrays import DeviceArrays
from .devices import Gpu
from .fuse import fuse
from .launch import Chunk, StartOnDevice, blocks_for
from .light import Light
from .many_k import ManyK
from .structs import INPUT, RESULT

#: Operations that take arrays of the run.
OfRun = InitRelevance | MaskRelevance
#: Offsets of buffers are multiples of this many values, so that rows of whole quads are aligned.
ALIGN = 32
#: Values of one sample in one buffer: tables of positions are of 32 bits.
LARGEST = 2**31 - 1
#: Addresses are passed to kernels as numbers, which every version of CuPy accepts.
NULL = np.uint64(0)


class Executable:
    """A compiled program on one GPU, which is current whenever it is used."""

    def __init__(self, program: Program, gpu: Gpu) -> None:
        program = fuse(program)
        self.program, self.gpu, self.dtype = program, gpu, np.dtype(program.dtype)
        if program.operands == "split" and not gpu.tensor_cores:
            raise DeviceError(
                f"precision='3xtf32' multiplies on tensor cores for TF32, and gpu:{gpu.index} ({gpu.name}, compute "
                f"capability {gpu.capability[:-1]}.{gpu.capability[-1]}) has none; use precision='float32', which is "
                "as accurate"
            )
        if program.operands == "pairs":
            raise DeviceError(
                "precision='bf16x2' multiplies on the tile registers of a CPU, and this runs on a GPU; use "
                "precision='3xtf32', or 'tf32' for speed"
            )
        self.offsets, self.width = plan_memory(program, ALIGN)
        self.result = program.output if program.result is None else program.result
        if max(program.sizes) > LARGEST:
            raise InputError(f"a layer has {max(program.sizes):,} values for each sample; a GPU takes {LARGEST:,}")
        self._scratch: dict[int, int] = {}
        self.arrays = DeviceArrays(self.dtype, gpu.index)
        last = self._last_of_result()
        self.forward = [self._compiled(o, row_of(o).overflows or isinstance(o, Activate)) for o in program.forward]
        backward = [self._compiled(o, o in last) for o in program.backward]
        self.segments = [backward[begin:end] for begin, end in program.parts]
        self.backward = backward
        self.flops = flops(program)
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

    def locate(self, buffer: int) -> tuple[int, int]:
        """(offset, size) of a buffer, per sample."""
        size = self.program.sizes[buffer]
        if buffer == 0:
            return INPUT, size
        return (RESULT if buffer == self.result else self.offsets[buffer]), size

    def _last_of_result(self) -> list[Operation]:
        """Each segment's last operation that writes relevance; its output is finite, but for NaN of masked inputs."""
        found = []
        for begin, end in self.program.parts:
            for operation in reversed(self.program.backward[begin:end]):
                if not isinstance(operation, RestoreNaN) and self.result in touched(operation)[1]:
                    found.append(operation)
                    break
        return found

    def _compiled(self, operation: Operation, check: bool) -> Contraction | Light | OfRun:
        if isinstance(operation, (Contract, Redistribute)):
            kind = ManyK if many_k.applies(operation) else Contraction
            return kind(operation, self.program, self.arrays, self.locate, self.gpu, check)
        if isinstance(operation, (InitRelevance, MaskRelevance)):
            return operation
        return Light(operation, self.program, self.arrays, self.locate, check)

    def scratch(self, samples: int) -> int:
        """The number of elements of scratch memory besides the buffers of this number of samples."""
        operations = (*self.forward, *self.backward)
        return max((o.scratch(samples) for o in operations if isinstance(o, Contraction)), default=0)

    def workspace_bytes(self, samples: int) -> int:
        """The number of bytes of a workspace for chunks of this number of samples or fewer."""
        if samples not in self._scratch:
            # fewer samples may need more splits, and the last chunk of a batch may have any size
            sizes = {samples, *(1 << i for i in range(samples.bit_length()))}
            self._scratch[samples] = max(self.scratch(n) for n in sizes)
        return (self.width * samples + self._scratch[samples] + ALIGN) * self.dtype.itemsize

    def by_library(self, samples: int) -> bool:
        """Whether a library computes any product of this number of samples."""
        operations = (*self.forward, *self.backward)
        return any(o.by_library(samples) for o in operations if isinstance(o, Contraction))

    def by_libraries(self) -> str | None:
        """How many convolutions cuDNN computes, and why not the others; None where it was not asked to."""
        asked = [o for o in (*self.forward, *self.backward) if isinstance(o, Contraction)]
        asked = [o for o in asked if o.convolution is not None or o.refusal is not None]
        if not asked:
            return None
        ours = [f"\n  {o}: {o.refusal}" for o in asked if o.convolution is None]
        text = f"cuDNN computes {len(asked) - len(ours)} of {len(asked)} convolutions, in batches that are worth a call"
        return text + (f"; lrpfast's kernels compute{''.join(ours)}" if ours else "")

    def cast(self, source: Any, dtype: np.dtype, destination: Any, n: int) -> None:
        """Queue the cast of n values, whose bits are in ``source``, to the program's dtype."""
        name = "uint8" if dtype.kind == "b" else dtype.name
        kernel = modules.function(self.gpu.index, "input", self.dtype.name, f"cast_{name}")
        kernel((max(1, blocks_for(self.gpu, n)),), (modules.THREADS,), (source, destination, np.int64(n)))

    def no_faults(self, faults: Any) -> None:
        """Queue the reset of a run's faults."""
        modules.function(self.gpu.index, "input", self.dtype.name, "no_faults")((1,), (32,), (faults,))

    def run(self, chunk: Chunk, start: StartOnDevice, outs: list[Any]) -> None:
        """Queue all kernels on the current stream: forward once, and backward for each target into its own ``out``."""
        if self.examined:
            low, high = self.program.input_range or (0.0, 0.0)
            size = self.program.sizes[0]
            has_range = self.program.input_range is not None
            flags = (np.int32(self.program.allow_nan), np.int32(has_range))
            arguments = (np.int64(size), *flags, np.float64(low), np.float64(high))
            chunk.launch("input", "examine", chunk.samples * size, arguments)
        self._launch(self.forward, chunk, start, 0, (0, 1))
        for which, out in enumerate(outs):
            chunk.select(chunk.samples, chunk.first, out)
            for segment, *mask in start.passes_of(which):
                self._launch(self.segments[segment], chunk, start, which, mask)

    def _launch(
        self,
        operations: Sequence[Contraction | Light | OfRun],
        chunk: Chunk,
        start: StartOnDevice,
        which: int,
        mask: Sequence[int],
    ) -> None:
        """Queue operations for one of the targets, with a mask: where its values begin, and how many they are."""
        for operation in operations:
            if isinstance(operation, InitRelevance):
                self._init_relevance(chunk, operation, start, which)
            elif isinstance(operation, MaskRelevance):
                self._mask_relevance(chunk, operation, start, *mask)
            else:
                operation.launch(chunk)

    def _mask_relevance(
        self, chunk: Chunk, operation: MaskRelevance, start: StartOnDevice, first: int, size: int
    ) -> None:
        width = self.program.sizes[operation.out]
        offsets = (np.int64(self.locate(operation.source)[0]), np.int64(self.locate(operation.out)[0]))
        arguments = (*offsets, np.int64(width), start.masks, np.int64(first), np.int64(size))
        chunk.launch("input", "mask_relevance", chunk.samples * width, arguments)

    def _init_relevance(self, chunk: Chunk, operation: InitRelevance, start: StartOnDevice, which: int) -> None:
        size = self.program.sizes[operation.output]
        offsets = (np.int64(self.locate(operation.output)[0]), np.int64(self.locate(operation.out)[0]), np.int64(size))
        flag, window = np.int32(operation.flag), (np.int64(start.first), np.int64(start.size))
        if start.mode == StartMode.MAX:
            chunk.launch("input", "init_relevance_max", chunk.samples * 32, (*offsets, flag, *window))
            return
        arguments = (
            *offsets,
            flag,
            np.int32(start.mode),
            NULL if start.targets is None else start.targets,
            np.int32(start.step),
            np.int32(which),
            np.int32(start.starts),
            *window,
            NULL if start.array is None else start.array,
        )
        chunk.launch("input", "init_relevance", chunk.samples * size, arguments)
