"""The machine's limits, measured: fused multiply-adds a second, and bytes a second through memory.

Compiled for this very machine when it is asked for, and called from Python's threads.

    python bench/limits.py
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from conventions import THREADS

#: Floats of the arrays that are streamed: two of 256 MB do not fit in any cache.
STREAM = 64 << 20
REPEATS = 7
SPLIT_PRODUCTS = "peak of float32 by tile registers"


@cache
def _library() -> Any:
    """limits.c, compiled; kept for the process's life. Missing compilers and their errors are the caller's."""
    with tempfile.TemporaryDirectory() as folder:
        target = f"{folder}/limits.so"
        source = str(Path(__file__).with_name("limits.c"))
        command = ["cc", "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", source, "-o", target]
        subprocess.run(command, check=True, capture_output=True)
        library = ctypes.CDLL(target)
    pointer, count = ctypes.c_void_p, ctypes.c_long
    for name in ("fma_float32", "fma_float64"):
        getattr(library, name).argtypes, getattr(library, name).restype = [count], ctypes.c_double
    library.fma_flops.argtypes, library.fma_flops.restype = [ctypes.c_int], count
    library.tiles_bfloat16.argtypes, library.tiles_bfloat16.restype = [count], ctypes.c_double
    for name in ("stream_store", "stream_past"):
        getattr(library, name).argtypes, getattr(library, name).restype = [pointer, pointer, count], None
    library.stream_read.argtypes, library.stream_read.restype = [pointer, count], ctypes.c_double
    return library


def _fastest(part: Callable[[int], Any], threads: int) -> float:
    """Seconds of the fastest of several runs in which each thread does its part."""
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(REPEATS):
            begin = time.perf_counter()
            list(pool.map(part, range(threads)))
            best = min(best, time.perf_counter() - begin)
    return best


def peak(dtype: str = "float32", threads: int = THREADS, seconds: float = 0.1) -> float:
    """Floating-point operations a second of fused multiply-adds whose operands stay in registers."""
    library = _library()
    run = getattr(library, f"fma_{dtype}")
    passes = 100_000
    begin = time.perf_counter()
    run(passes)
    passes = int(passes * seconds / (time.perf_counter() - begin)) + 1
    flops = passes * library.fma_flops(np.dtype(dtype).itemsize)
    return threads * flops / _fastest(lambda _: run(passes), threads)


def split_products(threads: int = THREADS, seconds: float = 0.1) -> float:
    """Floating-point operations a second of float32 products by tile registers; 0 where there are none.

    A float32 is three bfloat16, and six of their nine products make float32's.
    """
    run = _library().tiles_bfloat16
    passes = 100_000
    if not run(1):
        return 0.0
    begin = time.perf_counter()
    run(passes)
    passes = int(passes * seconds / (time.perf_counter() - begin)) + 1
    return float(threads * run(passes) / _fastest(lambda _: run(passes), threads) / 6)


def quick_rate(threads: int = THREADS) -> Callable[[], float]:
    """A function that takes some ten milliseconds to tell the present rate of multiply-adds by all threads."""
    run = _library().fma_float32
    pool = ThreadPoolExecutor(threads)

    def once() -> float:
        begin = time.perf_counter()
        list(pool.map(run, [600_000] * threads))
        return threads / (time.perf_counter() - begin)

    return lambda: max(once() for _ in range(3))  # one may be cut short by the scheduler


def bandwidth(threads: int = THREADS, size: int = STREAM, writes: bool = True) -> float:
    """Bytes a second that are read (and written) where every float is read once (and one written).

    The arrays exist already. Stores that pass the caches and ordinary ones are tried, the better counts.
    """
    library = _library()
    x = np.ones(size, np.float32)
    y = np.ones(size, np.float32)
    share = size // threads

    def part(run: Callable[..., Any]) -> Callable[[int], Any]:
        def work(i: int) -> None:
            at = 4 * i * share
            arrays = (x.ctypes.data + at, y.ctypes.data + at) if writes else (x.ctypes.data + at,)
            run(*arrays, share)

        return work

    runs = (library.stream_store, library.stream_past) if writes else (library.stream_read,)
    moved = (8 if writes else 4) * share * threads
    return moved / min(_fastest(part(run), threads) for run in runs)


def named(what: str, threads: int) -> str:
    """A limit's name: "float32 peak", `SPLIT_PRODUCTS`, "bandwidth" (read and write), "reading"; by so many threads."""
    return f"{what}, {threads} thread{'s' * (threads > 1)}"


def measure(small: bool = False) -> dict[str, float]:
    """All limits for one thread and for all, by name."""
    size, seconds = (1 << 18, 0.002) if small else (STREAM, 0.1)
    found = {}
    for threads in (1, THREADS):
        for dtype in ("float32", "float64"):
            found[named(f"{dtype} peak", threads)] = peak(dtype, threads, seconds)
        if tiles := split_products(threads, seconds):
            found[named(SPLIT_PRODUCTS, threads)] = tiles
        found[named("bandwidth", threads)] = bandwidth(threads, size)
        found[named("reading", threads)] = bandwidth(threads, size, writes=False)
    return found


def main() -> None:
    """Print what this machine can do."""
    for name, value in measure().items():
        unit = "GFLOP/s" if "peak" in name else "GB/s"
        print(f"{name:46} {value / 1e9:8.1f} {unit}")


if __name__ == "__main__":
    main()
