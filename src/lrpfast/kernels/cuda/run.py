"""Runs batches on GPUs: in chunks that fit the memory, with copies during computation, on several devices at once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import InputError
from ..arrays import on_device
from ..interface import DEFAULT_START, Fault, Start
from ..passes import check_passes
from ..program import Program
from .devices import Gpu, check_process
from .execute import Executable
from .launch import FAULTS, Chunk, StartOnDevice, as_fault, bits_of
from .replay import CudaGraphCache

#: What a chunk's workspace may take where fewer samples do not keep a GPU busy, and samples that always may be.
WORKSPACE_BYTES, FEWEST = 2 << 30, 16
#: Values of a chunk in one buffer: rows are found by offsets of 32 bits, of which tile_loaders.cu's NOWHERE is none.
MOST_VALUES = 2**32 - 4
#: Bytes of input and output in a chunk that is copied from and to the host: large for the bus, but able to overlap.
STAGED_BYTES = 64 << 20
#: The largest part of the free memory that a run uses.
SHARE_OF_FREE = 0.8
#: The least number of samples for another GPU.
FEWEST_PER_GPU = 64
#: The input dtypes of the cast kernels.
CASTS = (
    *("float16", "bfloat16", "float32", "float64"),
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
)


class CompiledProgram:
    """A program on one or more GPUs; safe to call from several threads at once."""

    def __init__(self, program: Program, gpus: tuple[Gpu, ...]) -> None:
        self._program, self._gpus = program, gpus
        self._executables: dict[int, Executable] = {}
        self._graphs: dict[int, CudaGraphCache] = {gpu.index: CudaGraphCache() for gpu in gpus}
        self._lock = threading.Lock()
        self._executable(gpus[0])  # errors of a program are raised at once

    def _executable(self, gpu: Gpu) -> Executable:
        import cupy

        with self._lock:
            if gpu.index not in self._executables:
                with cupy.cuda.Device(gpu.index):
                    self._executables[gpu.index] = Executable(self._program, gpu)
            return self._executables[gpu.index]

    def accepts(self, x: Any) -> bool:
        """Whether a run accepts these inputs without a cast on the host."""
        return x.dtype.isnative and (x.dtype.name in CASTS or x.dtype.kind == "b")

    def small_run(self, row: tuple[int, ...], start: Start, *, judges: bool) -> None:
        """None: there are none on GPUs, where launches take most of the time of a small batch."""

    def packed_size(self) -> None:
        """None: GPUs read the weights as they are."""

    def by_libraries(self) -> str | None:
        return self._executable(self._gpus[0]).by_libraries()

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
        check_process()
        check_passes(start.passes, self._program)
        samples = len(x)
        if samples == 0:
            return None
        out = out.reshape(start.count, samples, -1)
        gpus = self._gpus
        if on_device(x):
            at: Any = x.device
            gpus = tuple(g for g in gpus if g.index == at.id)
            if not gpus:
                names = ", ".join(f"gpu:{g.index}" for g in self._gpus)
                raise InputError(f"inputs are on gpu:{at.id}, this program runs on {names}; move them there")
        count = max(1, min(len(gpus), samples // FEWEST_PER_GPU))
        if count == 1:
            return self._on(gpus[0], x, out, samples, 0, memory, start, keep)
        edges = [samples * i // count for i in range(count + 1)]
        faults: list[Fault | None] = [None] * count
        errors: list[BaseException | None] = [None] * count

        def work(i: int) -> None:
            low, high = edges[i], edges[i + 1]
            part = {b: a[low:high] for b, a in keep.items()} if keep else None
            try:
                part_start = start.part(slice(low, high))
                faults[i] = self._on(gpus[i], x[low:high], out[:, low:high], high - low, low, memory, part_start, part)
            except BaseException as error:  # raised again by the calling thread
                errors[i] = error

        others = [threading.Thread(target=work, args=(i,), name=f"lrpfast-gpu{gpus[i].index}") for i in range(1, count)]
        for thread in others:
            thread.start()
        work(0)
        for thread in others:
            thread.join()
        for error in errors:
            if error is not None:
                raise error
        present = [f for f in faults if f is not None]
        return min(present, key=lambda f: f.sample) if present else None

    def _on(
        self,
        gpu: Gpu,
        x: Any,
        out: Any,
        samples: int,
        first: int,
        memory: int | None,
        start: Start,
        keep: dict[int, np.ndarray] | None,
    ) -> Fault | None:
        """A batch, or a part of one that begins at sample ``first``, on one GPU."""
        import cupy

        executable = self._executable(gpu)
        with cupy.cuda.Device(gpu.index):
            if not keep and memory is None:
                graph = self._graphs[gpu.index].find(executable, x, out, start)
                if graph is not None:
                    return graph.run(x, out, start, first)
            batch = _Batch(executable, x, out, samples, first, memory, start, keep)
            while True:
                try:
                    return batch.run()
                except cupy.cuda.memory.OutOfMemoryError:
                    pass  # the run's memory is free only when its exception is released
                batch.shrink()


class _Batch:
    """One run on one GPU, with its progress: when memory runs out, it continues with smaller chunks."""

    def __init__(
        self,
        executable: Executable,
        x: Any,
        out: Any,
        samples: int,
        first: int,
        memory: int | None,
        start: Start,
        keep: dict[int, np.ndarray] | None,
    ) -> None:
        self.executable, self.x, self.samples, self.first = executable, x, samples, first
        self.keep, self.memory, self.done = keep, memory, 0
        self.dtype, self.sizes = executable.dtype, executable.program.sizes
        self.size, self.out_size = self.sizes[0], self.sizes[executable.result]
        self.start = start
        self.device_start: StartOnDevice | None = None
        self.targets, self.out = start.count, out  # (targets, samples, values)
        self.from_host, self.to_host = not on_device(x), not on_device(out)
        self.faults: Any = None
        self.capacity = self._first_capacity()

    def staged_bytes(self) -> int:
        """Bytes on the device for each sample that is copied from and to the host."""
        item, total = self.dtype.itemsize, 0
        if self.from_host:
            total += 2 * self.size * (item + (self.x.dtype.itemsize if self.x.dtype != self.dtype else 0))
        if self.to_host:
            total += 2 * self.targets * self.out_size * item
        return total

    def bytes_needed(self, samples: int) -> int:
        return self.executable.workspace_bytes(samples) + samples * self.staged_bytes()

    def _first_capacity(self) -> int:
        import cupy

        per_sample = self.bytes_needed(1)
        if self.memory is not None:
            if self.memory < per_sample:
                raise InputError(f"memory={self.memory:,} bytes is too little: one sample needs {per_sample:,}")
            budget = self.memory
        else:
            free = cupy.cuda.runtime.memGetInfo()[0] + cupy.get_default_memory_pool().free_bytes()
            budget = int(SHARE_OF_FREE * free)
        sample = self.executable.width * self.dtype.itemsize + self.staged_bytes()
        chunk = max(FEWEST, WORKSPACE_BYTES // max(1, sample))
        if self.from_host or self.to_host:
            staging_bytes = (self.size + self.targets * self.out_size) * self.dtype.itemsize
            chunk = min(chunk, max(FEWEST, STAGED_BYTES // staging_bytes))
        capacity = max(1, min(self.samples, chunk, MOST_VALUES // max(self.executable.program.sizes)))
        while capacity > 1 and self.bytes_needed(capacity) > budget:
            capacity = (capacity + 1) // 2
        return -(-self.samples // -(-self.samples // capacity))  # as many in every chunk

    def shrink(self) -> None:
        """Halve the number of samples in a chunk, after memory has run out."""
        import cupy

        cupy.get_default_memory_pool().free_all_blocks()
        if self.capacity == 1:
            free, total = cupy.cuda.runtime.memGetInfo()
            raise MemoryError(
                f"one sample needs {self.bytes_needed(1):,} bytes on {self.executable.gpu.name}, "
                f"of whose {total:,} bytes {free:,} are free"
            )
        self.capacity = (self.capacity + 1) // 2

    def chunks(self) -> Iterator[tuple[int, int]]:
        """(first sample, number of samples) of the remaining chunks."""
        for first in range(self.done, self.samples, self.capacity):
            yield first, min(self.capacity, self.samples - first)

    def run(self) -> Fault | None:
        import cupy

        if self.faults is None:
            self.faults = cupy.empty(len(FAULTS), np.uint64)
            self.executable.no_faults(self.faults)
        if self.device_start is None:
            self.device_start = StartOnDevice(self.start, self.dtype, self.sizes[self.executable.program.output])
        nbytes = self.executable.workspace_bytes(self.capacity)
        work = cupy.empty(-(-nbytes // self.dtype.itemsize), self.dtype)
        if self.from_host or self.to_host:
            self._staged(work)
        else:
            self._direct(work)
        return self._fault()

    def _fault(self) -> Fault | None:
        return as_fault(self.faults.get(), self.first)

    def _chunk(self, work: Any, x: Any, outs: Any) -> Chunk:
        gpu, width = self.executable.gpu, self.executable.width
        return Chunk(gpu, self.dtype, work, self.capacity, width, x, outs[0], self.faults)

    def _compute(self, chunk: Chunk, outs: list[Any], first: int, samples: int) -> None:
        """Queue a chunk's kernels; the arrays of a start begin with the batch's first sample."""
        chunk.select(samples, first, outs[0])
        assert self.device_start is not None
        self.executable.run(chunk, self.device_start, outs)

    def _hand_out(self, chunk: Chunk, first: int, samples: int) -> None:
        """Copy the buffers to keep to the caller's arrays."""
        for buffer, array in (self.keep or {}).items():
            at, size = self.executable.locate(buffer)
            begin = at * chunk.capacity
            array[first : first + samples] = chunk.work[begin : begin + samples * size].get().reshape(samples, size)

    def _direct(self, work: Any) -> None:
        """Run with input and output on the device, all on the caller's stream."""
        import cupy

        casts = self.x.dtype != self.dtype or not self.x.flags.c_contiguous
        for first, samples in self.chunks():
            x = self.x[first : first + samples]
            if casts:
                x = cupy.ascontiguousarray(x)
            if x.dtype != self.dtype:
                converted = cupy.empty(x.shape, self.dtype)
                self.executable.cast(x, x.dtype, converted, x.size)
                x = converted
            outs = [out[first : first + samples] for out in self.out]
            chunk = self._chunk(work, x, outs)
            self._compute(chunk, outs, first, samples)
            self._hand_out(chunk, first, samples)
            self.done = first + samples

    def _staged(self, work: Any) -> None:
        """Run from and to the host: while a chunk is computed, the next is loaded and the previous one is stored."""
        import cupy

        computing = cupy.cuda.get_current_stream()
        count = 1 if self.samples - self.done <= self.capacity else 2
        coming, going = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
        slots = [_Slot(self) for _ in range(count)]
        computing.synchronize()  # memory from the pool may still be in use on this stream
        under_way: list[_Slot] = []
        try:
            for i, (first, samples) in enumerate(self.chunks()):
                slot = slots[i % count]
                if slot in under_way:
                    under_way.remove(slot)
                    slot.finish()
                slot.load(first, samples, coming)
                computing.wait_event(slot.loaded)
                if slot.raw is not None:
                    self.executable.cast(slot.raw, self.x.dtype, slot.x, samples * self.size)
                chunk = self._chunk(work, slot.x, slot.outs)
                self._compute(chunk, slot.outs, first, samples)
                self._hand_out(chunk, first, samples)
                slot.computed.record(computing)
                slot.store(going)
                under_way.append(slot)
            for slot in under_way:
                slot.finish()
        finally:
            for stream in (coming, computing, going):  # no copy may continue after its memory is released
                with contextlib.suppress(Exception):
                    stream.synchronize()


class _Slot:
    """The memory of one chunk: pinned on the host, and on the device."""

    def __init__(self, batch: _Batch) -> None:
        import cupy

        self.batch = batch
        n, dtype = batch.capacity, batch.dtype
        self.x = cupy.empty((n, batch.size), dtype)
        self.bits = bits_of(batch.x.dtype)
        self.raw = None if self.bits == dtype else cupy.empty((n, batch.size), self.bits)
        self.outs = [cupy.empty((n, batch.out_size), dtype) for _ in range(batch.targets)]
        self.pinned_in = _pinned((n, batch.size), self.bits)
        self.pinned_out = _pinned((batch.targets, n, batch.out_size), dtype)
        self.loaded, self.computed, self.stored = (cupy.cuda.Event(disable_timing=True) for _ in range(3))
        self.first = self.samples = 0

    def load(self, first: int, samples: int, stream: Any) -> None:
        """Queue the copy of some samples to the device."""
        self.first, self.samples = first, samples
        rows = self.batch.x[first : first + samples]
        np.copyto(self.pinned_in[:samples].view(rows.dtype), rows.reshape(samples, -1))
        destination = self.x if self.raw is None else self.raw
        destination[:samples].set(self.pinned_in[:samples], stream=stream)
        self.loaded.record(stream)

    def store(self, stream: Any) -> None:
        """Queue the copy of the results to the host, once they are computed."""
        stream.wait_event(self.computed)
        for out, pinned in zip(self.outs, self.pinned_out, strict=True):
            out[: self.samples].get(stream=stream, out=pinned[: self.samples], blocking=False)
        self.stored.record(stream)

    def finish(self) -> None:
        """Wait for the results, and copy them to the caller's array."""
        self.stored.synchronize()
        first, samples, batch = self.first, self.samples, self.batch
        for out, pinned in zip(batch.out, self.pinned_out, strict=True):
            out[first : first + samples] = pinned[:samples]
        batch.done = first + samples


def _pinned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    import cupy

    n = int(np.prod(shape))
    memory = cupy.cuda.alloc_pinned_memory(max(1, n * dtype.itemsize))
    return np.frombuffer(memory, dtype, n).reshape(shape)
