"""The CPU backend: plans a program's memory, sizes micro-batches, picks the instruction set."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..errors import DeviceError, InputError
from ._cpu import Executable, SmallRun, instruction_sets
from .caches import block_bytes, cache_bytes
from .contraction_ops import is_fused
from .interface import DEFAULT_START, Fault, PackedSize, Start
from .memory_plan import flops, plan_memory, plan_stages, work_of
from .operation import require
from .passes import check_passes
from .program import Program
from .stages import stages_of

#: What a thread's micro-batch should fit in, inputs and outputs counted.
CACHE_BYTES = block_bytes()
#: What the micro-batches of all threads may take where one sample is larger than that. Where it is not
#: enough for every thread, or there are fewer samples than threads, threads share one.
WORKSPACE_BYTES = 512 << 20
#: All weights are read again for every micro-batch: of large samples it has as many as make so many floating-point
#: operations for each byte (some 10 take as long, so that a fortieth of the time is lost). For weights that many rows
#: share less will do, since more samples need more of the cache.
FLOPS_PER_BYTE, FLOPS_PER_SHARED_BYTE = 400, 250
MOST_SAMPLES = 24
#: Rows that keep rereading a layer's weights small beside the arithmetic; they fill tiles of 8 and of 6. More, where
#: rereading would still move more bytes than the samples' own values.
MINIMUM_ROWS, MOST_ROWS = 48, 288
#: Contractions with less than this part of the work do not ask for more samples.
HEAVY = 1 / 16
#: Rows of one tile pass: micro-batches are multiples of it where they can be.
ROWS = 48
#: Below this much work a second thread costs more than it saves.
FLOPS_PER_THREAD = 1 << 20
#: Bytes of a `SmallRun`'s workspace at most.
SMALL_BYTES = 1 << 20
#: Below this much work for all threads, sharing its operations one by one does.
FLOPS_TO_SHARE = 16 << 20


def isa() -> int:
    """Index of the instruction set in use: the best, or the one that LRPFAST_ISA names."""
    names = instruction_sets()
    choice = os.environ.get("LRPFAST_ISA")
    if not choice:
        return len(names) - 1
    for i, name in enumerate(names):
        if choice in (name, name.removeprefix("x86-64-")):
            return i
    raise DeviceError(f"LRPFAST_ISA={choice!r}: this processor and build have {', '.join(names)}")


def samples_at_once(program: Program, width: int) -> tuple[int, int]:
    """Samples of a micro-batch that keep cache misses and the rereading of weights few, and how many at least.

    Weights are reread for every micro-batch: that is nothing beside a small convolution's many
    rows a sample, but all the time of a layer with one, which asks for the least number.
    """
    itemsize = np.dtype(program.dtype).itemsize
    result = program.output if program.result is None else program.result
    values = max(1, width + program.sizes[0] + program.sizes[result])
    cached = CACHE_BYTES // (values * itemsize)
    by_rows: dict[int, int] = {}
    for operation in (*program.forward, *program.backward):
        if not getattr(operation, "diagonal", False):
            for flop, rows in work_of(operation, program.sizes):
                by_rows[rows] = by_rows.get(rows, 0) + flop
    total = max(1, sum(by_rows.values()))
    weights = {rows: flop // (2 * rows) * itemsize for rows, flop in by_rows.items() if rows}
    if width * itemsize > CACHE_BYTES:
        alone = FLOPS_PER_BYTE * weights.pop(1, 0)
        least = min(MOST_SAMPLES, 1 + alone // total)
        return min(MOST_SAMPLES, 1 + (alone + FLOPS_PER_SHARED_BYTE * sum(weights.values())) // total), least
    fewest = min((rows for rows, flop in by_rows.items() if rows and flop >= HEAVY * total), default=1)
    reread = sum(weights.values()) // itemsize
    rows = min(MOST_ROWS, max(MINIMUM_ROWS, -(-reread // values) // ROWS * ROWS))
    samples = max(1, -(-rows // fewest), cached // ROWS * ROWS)
    return samples, samples


class CompiledProgram:
    """A program as the compiled loops hold it."""

    def __init__(self, program: Program, isa: int) -> None:
        for operation in (*program.forward, *program.backward):
            require(not is_fused(operation), operation, "the CPU's kernels take no fused operations")
        self._program = program
        self._flops = max(1, flops(program))
        self._micro_batch, self._least = samples_at_once(program, plan_memory(program)[1])
        layout = plan_stages(program, stages_of(program, CACHE_BYTES, self._micro_batch))
        self._executable = Executable(program, isa, layout, CACHE_BYTES)
        self._dtype = np.dtype(program.dtype)

    def accepts(self, x: Any) -> bool:
        """Whether a run takes these inputs as they are: the program's dtype, contiguous and aligned."""
        return bool(x.dtype == self._dtype and x.flags.c_contiguous and x.flags.aligned)

    def run(
        self,
        x: np.ndarray,
        out: np.ndarray,
        *,
        threads: int,
        memory: int | None = None,
        start: Start = DEFAULT_START,
        keep: dict[int, np.ndarray] | None = None,
        notes: list[Any] | None = None,
        exact: bool = False,
    ) -> Fault | None:
        samples = len(x)
        check_passes(start.passes, self._program)
        if threads > 1:
            threads = max(1, min(threads, 1 + samples * self._flops // FLOPS_PER_THREAD))
        sample = max(1, self._executable.sample_bytes())
        micro_batch, most = self._micro_batch, max(1, WORKSPACE_BYTES // sample)
        large = sample > CACHE_BYTES
        few = samples < threads * (self._least if large else 1) and samples * self._flops >= FLOPS_TO_SHARE
        cooperative = threads > 1 and (few or (large and threads * self._least > most))
        if cooperative and large:
            micro_batch = min(most, MOST_SAMPLES)
        elif large:
            micro_batch = min(micro_batch, max(self._least, most // threads))
        if memory is not None:
            threads, micro_batch = self._within(memory, threads, micro_batch, cooperative)
        if samples:  # as many in every micro-batch, and some for every thread
            parts = 1 if cooperative else threads
            micro_batch = -(-samples // max(parts, -(-samples // micro_batch)))
        return self._run(x, out, samples, micro_batch, threads, cooperative, start, keep, notes, exact)

    def small_run(self, row: tuple[int, ...], start: Start, *, judges: bool) -> SmallRun:
        sample = max(1, self._executable.sample_bytes())
        most = min(self._micro_batch, (FLOPS_PER_THREAD - 1) // self._flops, SMALL_BYTES // sample)
        return SmallRun(self._executable, row, most, start, judges)

    def packed_size(self) -> PackedSize:
        return PackedSize(*self._executable.packed_size())

    def by_libraries(self) -> None:
        """None: the CPU's kernels compute everything."""

    def _within(self, memory: int, threads: int, micro_batch: int, cooperative: bool) -> tuple[int, int]:
        """Threads, and samples of a micro-batch, that a byte budget allows."""
        thread, sample = self._executable.scratch_bytes(), self._executable.sample_bytes()
        if memory < thread + sample:
            raise InputError(f"memory={memory:,} bytes is too little: one sample needs {thread + sample:,}")
        if cooperative:
            threads = min(threads, (memory - sample) // thread)
            return threads, min(micro_batch, (memory - threads * thread) // max(1, sample))
        threads = min(threads, memory // (thread + sample))
        return threads, min(micro_batch, (memory // threads - thread) // max(1, sample))

    def _run(
        self,
        x: np.ndarray,
        out: np.ndarray,
        samples: int,
        micro_batch: int,
        threads: int,
        cooperative: bool,
        start: Start,
        keep: dict[int, np.ndarray] | None,
        notes: list[Any] | None = None,
        exact: bool = False,
    ) -> Fault | None:
        fault = self._executable.run(
            x,
            out,
            samples,
            micro_batch,
            threads,
            cooperative,
            start.mode,
            start.targets,
            start.step,
            start.count,
            start.array,
            keep,
            start.window,
            notes,
            exact,
            start.passes,
        )
        if fault is None:
            return None
        if micro_batch > 1:  # sample by sample, to name the one
            return self._run(x, out, samples, 1, 1, False, start, keep)
        return Fault(*fault)


class CpuBackend:
    """Compiled kernels on this machine's processor."""

    name = "cpu"
    batch_bytes = 64 << 20
    takes_device_arrays = False
    judges = True

    def __init__(self) -> None:
        self._isa = isa()

    def compile(self, program: Program) -> CompiledProgram:
        if program.operands == "split":
            raise DeviceError(
                "precision='3xtf32' multiplies on the tensor cores of a GPU, and this runs on the CPU; use "
                "precision='float32', which is as accurate"
            )
        return CompiledProgram(program, self._isa)

    def describe(self) -> dict[str, Any]:
        names = instruction_sets()
        caches = ", ".join(f"L{level} {cache_bytes(level) >> 10:,} KiB" for level in (1, 2, 3))
        return {
            "instruction set": names[self._isa],
            "instruction sets available": ", ".join(names),
            "caches": caches,
        }
