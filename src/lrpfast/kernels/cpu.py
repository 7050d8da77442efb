"""The CPU backend: places a program's buffers, sizes micro-batches, picks the instruction set."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..errors import DeviceError, InputError
from . import DEFAULT_START, Fault, Start
from ._cpu import Executable, instruction_sets
from .program import (
    Activate,
    Begin,
    Contract,
    Copy,
    Divide,
    Operation,
    Program,
    Redistribute,
    Remask,
    Scale,
    Unmask,
)

#: What a thread's micro-batch should fit in: about an L2 cache, inputs and outputs counted.
CACHE_BYTES = 1 << 20
#: Where one sample is larger than that, weights are reread for every few samples;
#: this many rows, which fill tiles of 10 and of 6, keep that small beside the samples themselves.
MINIMUM_ROWS = 30
#: Rows of one tile pass: micro-batches are multiples of it where they can be.
ROWS = 42
#: Below this much work a second thread costs more than it saves.
FLOPS_PER_THREAD = 1 << 20


def isa() -> int:
    """Index of the instruction set in use: the best, or the one that LRPFAST_ISA names."""
    names = instruction_sets()
    wanted = os.environ.get("LRPFAST_ISA")
    if not wanted:
        return len(names) - 1
    for i, name in enumerate(names):
        if wanted in (name, name.removeprefix("x86-64-")):
            return i
    raise DeviceError(f"LRPFAST_ISA={wanted!r}: this processor and build have {', '.join(names)}")


def _touched(operation: Operation) -> tuple[set[int], set[int]]:
    """Buffers an operation reads and writes."""
    match operation:
        case Contract():
            return {t.source for t in operation.terms}, {o.buffer for o in operation.outputs}
        case Redistribute():
            reads = {t.source for t in operation.terms} | {operation.x}
            divide = operation.divide
            return reads | ({divide.z} if divide and isinstance(divide.z, int) else set()), {operation.out}
        case Divide():
            reads = {operation.relevance}
            reads |= {operation.z} if isinstance(operation.z, int) else set()
            return reads | ({operation.mask_z} if operation.mask_z is not None else set()), {operation.out}
        case Unmask():
            return {operation.source}, {operation.clean, operation.present}
        case Remask():
            return {operation.present, operation.buffer}, {operation.buffer}
        case Begin():
            return {operation.output}, {operation.out}
        case Activate() | Scale() | Copy():
            return {operation.source}, {operation.out}
    raise TypeError(f"not an operation: {operation!r}")


def place(program: Program) -> tuple[list[int], int]:
    """Where each buffer lies in a workspace (elements per sample; -1 where an outside array is used), and its width.

    A buffer's place is free again after its last use, so relevance moves between
    two places and only what the backward pass needs is kept.
    """
    operations = (*program.forward, *program.backward)
    end = len(operations)
    outside = {0, program.output if program.result is None else program.result}
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for at, operation in enumerate(operations):
        reads, writes = _touched(operation)
        for b in reads | writes:
            first.setdefault(b, at)
            # what the forward pass leaves for the backward pass must survive every target
            last[b] = end if at >= len(program.forward) > first[b] else at
    for b in (*program.keep, program.output):
        last[b] = end
    offsets = [-1] * len(program.sizes)
    live: list[tuple[int, int, int]] = []  # offset, size, last use
    width = 0
    for at in range(end):
        live = sorted(item for item in live if item[2] >= at)
        for b in sorted(b for b, begin in first.items() if begin == at and b not in outside):
            size, offset = program.sizes[b], 0
            for taken, length, _ in live:
                if taken - offset >= size:
                    break
                offset = max(offset, taken + length)
            offsets[b] = offset
            live = sorted([*live, (offset, size, last[b])])
            width = max(width, offset + size)
    return offsets, width


def flops(program: Program) -> int:
    """Floating-point operations of all contractions, per sample."""
    operations = (*program.forward, *program.backward)
    return sum(
        2 * op.rows * term.weights.size
        for op in operations
        if isinstance(op, (Contract, Redistribute))
        for term in op.terms
    )


class CompiledProgram:
    """A program as the compiled loops hold it."""

    def __init__(self, program: Program, isa: int) -> None:
        offsets, width = place(program)
        self._executable = Executable(program, isa, offsets, width)
        itemsize = np.dtype(program.dtype).itemsize
        self._flops = max(1, flops(program))
        result = program.output if program.result is None else program.result
        touched = (width + program.sizes[0] + program.sizes[result]) * itemsize
        rows = CACHE_BYTES // max(1, touched)
        self._micro = max(MINIMUM_ROWS, rows // ROWS * ROWS)

    def run(
        self,
        x: np.ndarray,
        out: np.ndarray,
        *,
        threads: int,
        memory: int | None = None,
        start: Start = DEFAULT_START,
        keep: dict[int, np.ndarray] | None = None,
    ) -> Fault | None:
        samples = len(x)
        micro = self._micro
        if threads > 1:
            threads = min(threads, 1 + samples * self._flops // FLOPS_PER_THREAD)
        if memory is not None:
            fixed, one = self._executable.workspace_bytes(0), self._executable.workspace_bytes(1)
            if memory < one:
                raise InputError(f"memory={memory:,} bytes is too little: one sample needs {one:,}")
            threads = min(threads, memory // one)
            micro = min(micro, (memory // threads - fixed) // max(1, one - fixed))
        if samples < micro * threads:  # a share for every thread
            micro = max(1, -(-samples // threads))
        return self._run(x, out, samples, micro, threads, start, keep)

    def _run(
        self,
        x: np.ndarray,
        out: np.ndarray,
        samples: int,
        micro: int,
        threads: int,
        start: Start,
        keep: dict[int, np.ndarray] | None,
    ) -> Fault | None:
        fault = self._executable.run(
            x, out, samples, micro, threads, start.mode, start.targets, start.step, start.count, start.array, keep
        )
        if fault is None:
            return None
        if micro > 1:  # sample by sample, to name the one
            return self._run(x, out, samples, 1, 1, start, keep)
        return Fault(*fault)


class CpuBackend:
    """Compiled kernels on this machine's processor."""

    name = "cpu"

    def __init__(self) -> None:
        self._isa = isa()

    def compile(self, program: Program) -> CompiledProgram:
        return CompiledProgram(program, self._isa)

    def describe(self) -> dict[str, Any]:
        names = instruction_sets()
        return {"instruction set": names[self._isa], "instruction sets available": ", ".join(names)}
