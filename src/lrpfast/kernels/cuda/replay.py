"""Replay of small batches: after the first run of a batch size, its kernels are recorded as a CUDA graph.

Launching ten kernels costs more than a small network's arithmetic; a graph has one launch. The kernels and their grids
are the same, and so are the numbers.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from ..arrays import on_device
from ..interface import Fault, Start
from .execute import Executable
from .launch import FAULTS, Chunk, StartOnDevice, as_fault, bits_of

#: The largest work of a batch for which launches are a considerable part of the time: at least this, and for each
#: operation as much as takes about as long as a launch from Python, some 10 µs. More is computed while the next is
#: launched.
REPLAY_FLOPS, FLOPS_PER_LAUNCH = 1 << 31, 1 << 29
#: The largest number of graphs that an analyzer keeps on a device, and of bytes of each graph's own memory, and of all.
MOST, MOST_BYTES, MOST_BYTES_TOGETHER = 16, 256 << 20, 512 << 20


class CudaGraphCache:
    """The graphs of one program on one device."""

    def __init__(self) -> None:
        self._launch_counts: OrderedDict[tuple[Any, ...], int] = OrderedDict()
        self._graphs: OrderedDict[tuple[Any, ...], CudaGraph] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, executable: Executable, x: Any, out: Any, start: Start) -> CudaGraph | None:
        """The graph for such a batch; None if the batch is too large, or the first of its kind."""
        import cupy

        samples = len(x)
        if start.passes is not None:  # their number and masks differ from run to run
            return None
        if (
            samples * executable.flops > self._most_flops(executable)
            or on_device(x) != on_device(out)
            or not out.flags.c_contiguous
        ):
            return None
        key = (samples, x.dtype, on_device(x), StartOnDevice.key(start))
        with self._lock:
            if key in self._graphs:
                self._graphs.move_to_end(key)
                return self._graphs[key]
            self._launch_counts[key] = self._launch_counts.get(key, 0) + 1
            while len(self._launch_counts) > 16 * MOST:
                self._launch_counts.popitem(last=False)
            if self._launch_counts[key] < 2 or executable.by_library(samples):
                return None
            if executable.workspace_bytes(samples) > MOST_BYTES:
                return None
            try:
                graph = CudaGraph(executable, x, start)
            except cupy.cuda.memory.OutOfMemoryError:  # without memory for a graph, the batch runs without one
                del self._launch_counts[key]
                return None
            self._graphs[key] = graph
            while len(self._graphs) > MOST or sum(g.nbytes for g in self._graphs.values()) > MOST_BYTES_TOGETHER:
                oldest, _ = self._graphs.popitem(last=False)
                self._launch_counts.pop(
                    oldest, None
                )  # it must repeat again: sizes that take turns are not recorded anew
            return graph

    @staticmethod
    def _most_flops(executable: Executable) -> int:
        """The largest work of a batch that is replayed; none where `REPLAY_FLOPS` is 0."""
        operations = len(executable.forward) + len(executable.backward)
        return max(REPLAY_FLOPS, operations * FLOPS_PER_LAUNCH) if REPLAY_FLOPS else 0


class CudaGraph:
    """A graph with its own input and output memory; one run at a time."""

    def __init__(self, executable: Executable, x: Any, start: Start) -> None:
        import cupy

        self._lock = threading.Lock()
        samples, dtype, sizes = len(x), executable.dtype, executable.program.sizes
        bits = bits_of(x.dtype)
        self.raw = cupy.empty((samples, sizes[0]), bits)
        self.x = self.raw if bits == dtype else cupy.empty((samples, sizes[0]), dtype)
        self.out = cupy.empty((start.count, samples, sizes[executable.result]), dtype)
        self.work = cupy.empty(-(-executable.workspace_bytes(samples) // dtype.itemsize), dtype)
        self.faults = cupy.empty(len(FAULTS), np.uint64)
        arrays = {id(a): a.nbytes for a in (self.raw, self.x, self.out, self.work)}
        self.nbytes: int = sum(arrays.values())
        self.start = StartOnDevice(start, dtype, sizes[executable.program.output])
        self.outs = [self.out[i] for i in range(start.count)]
        chunk = Chunk(executable.gpu, dtype, self.work, samples, executable.width, self.x, self.outs[0], self.faults)
        self._stream = cupy.cuda.Stream(non_blocking=True)
        with self._stream:
            self._stream.begin_capture()
            try:
                executable.no_faults(self.faults)
                if self.x is not self.raw:
                    executable.cast(self.raw, x.dtype, self.x, self.x.size)
                chunk.select(samples, 0, self.outs[0])
                executable.run(chunk, self.start, self.outs)
            finally:
                graph = self._stream.end_capture()
        self._graph = graph

    def run(self, x: Any, out: Any, start: Start, first: int) -> Fault | None:
        """Run a batch of the graph's kind, whose first sample is the run's sample ``first``."""
        import cupy

        stream = cupy.cuda.get_current_stream()
        with self._lock:
            self.start.put(start)
            if on_device(x):
                self.raw[...] = x.reshape(self.raw.shape).view(self.raw.dtype)
            else:
                self.raw.set(np.ascontiguousarray(x).reshape(self.raw.shape).view(self.raw.dtype))
            self._graph.launch(stream)
            if on_device(out):
                out[...] = self.out
            else:
                self.out.get(out=out)
            return as_fault(self.faults.get(), first)
