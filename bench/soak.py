"""Mixed calls for hours, from threads and forked workers at once: results must not change, memory must not grow.

    python bench/soak.py [--seconds 3600] [--threads 8] [--workers 2] [--seed 0]

Every call's result is known beforehand, to the byte. Threads share analyzers and models, make their own, ask for
other sizes and precisions and provoke errors; beside them workers are forked, each with the locks and memory that the
process has at that moment. All on the CPU: CUDA does not live through a fork. Between rounds, with all of them gone,
anonymous memory, threads and open files are counted. The exit status is 1 for a wrong result, a worker that failed or
hung, or a count that grew.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hashlib
import multiprocessing
import os
import pickle
import random
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import lrpfast
import resident
from lrpfast import layers as L  # noqa: N812
from lrpfast.batch import Statistics

Call = Callable[[], bytes]
#: What an allocator may have fragmented meanwhile.
GROWTH = 24 << 20
#: Counted from here on: caches are full, every thread of the pool is there.
SETTLED = 1 / 3
WORKER_CALLS = 20
WORKER_SECONDS = 120


def _weights(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)


def _networks(rng: np.random.Generator) -> list[tuple[lrpfast.Model, list[np.ndarray]]]:
    """Models with batches for them: wide, convolutional and branched, and one that leaves its size open."""

    def w(*shape: int) -> np.ndarray:
        return _weights(rng, *shape)

    def batches(shape: tuple[int, ...], *counts: int) -> list[np.ndarray]:
        return [rng.uniform(-1, 1, size=(n, *shape)).astype(np.float32) for n in counts]

    wide = lrpfast.from_layers([L.Dense(w(900, 40), w(40), activation="relu"), L.Dense(w(40, 4), w(4))])
    graph = lrpfast.Graph()
    x = graph.input((24, 24, 3))
    a = graph.add(L.Conv(w(5, 5, 3, 16), w(16), strides=2, padding="same", activation="relu"), x)
    b = graph.add(L.DepthwiseConv(w(3, 3, 16, 1), w(16), padding="same", activation="relu"), a)
    c = graph.add(L.Conv(w(3, 3, 8, 16), w(16), padding="same", groups=2), b)
    d = graph.add(L.MaxPool((3, 3), strides=2), graph.add(L.Activation("relu"), graph.add(L.Add(), a, c)))
    images = graph.model(graph.add(L.Dense(w(16, 5), w(5)), graph.add(L.GlobalAveragePool(), d)))
    texts = lrpfast.from_layers(
        [L.Conv(w(3, 8, 12), w(12), activation="relu"), L.GlobalAveragePool(), L.Dense(w(12, 3))], input_shape=(None, 8)
    )
    sizes = [rng.uniform(-1, 1, size=(5, n, 8)).astype(np.float32) for n in range(6, 18)]
    return [(wide, batches((900,), 1, 7, 300)), (images, batches((24, 24, 3), 1, 5, 40)), (texts, sizes)]


def _refused(analyzer: lrpfast.Analyzer, x: np.ndarray) -> bytes:
    bad = x.copy()
    bad.flat[-1] = np.inf
    try:
        analyzer.analyze(bad)
    except lrpfast.InputError as error:
        return str(error).encode()
    return b"not refused"


def _counted(analyzer: lrpfast.Analyzer, x: np.ndarray) -> bytes:
    statistics = Statistics(x.shape[1:])
    statistics.update(0, analyzer.analyze(x), threads=2)
    return bytes(statistics.mean.tobytes())


def _reread(model: lrpfast.Model, x: np.ndarray, folder: Path) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".npz", dir=folder) as file:
        model.save(file.name)
        return bytes(lrpfast.load(file.name).predict(x, device="cpu").tobytes())


def calls(seed: int, folder: Path) -> list[Call]:
    """What is called, at random; each gives the same bytes every time."""
    found: list[Call] = []
    for model, batches in _networks(np.random.default_rng(seed)):
        for rule in ("epsilon", "alpha_beta", "gamma", "epsilon_plus_flat"):
            for precision, threads in (("float32", None), ("float64", 2), ("tf32", 1), ("float32", 3)):
                settings: dict[str, Any] = {"precision": precision, "device": "cpu", "threads": threads}
                shared = lrpfast.Analyzer(model, rule, **settings)
                for x in batches:
                    found.append(lambda a=shared, x=x: a.analyze(x).tobytes())
                    found.append(lambda a=shared, x=x: a.analyze(x, target=1).tobytes())
                x = batches[0]
                found += [
                    lambda a=shared, x=x: a.explain(x).relevance.tobytes(),
                    lambda a=shared, x=x: _refused(a, x),
                    lambda a=shared, x=x: _counted(a, x),
                    lambda a=shared, x=x: pickle.loads(pickle.dumps(a)).analyze(x).tobytes(),
                    lambda m=model, r=rule, s=settings, x=x: lrpfast.Analyzer(m, r, **s).analyze(x).tobytes(),
                ]
        found += [
            lambda m=model, x=x, p=p: m.predict(x, precision=p, device="cpu").tobytes()
            for x in batches
            for p in ("float32", "float64")
        ]
        found.append(lambda m=model, x=batches[-1]: _reread(m, x, folder))
    return found


def _digest(call: Call) -> bytes:
    return hashlib.sha256(call()).digest()


class Soak:
    """The calls with their results, and what went wrong so far."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.calls = calls(seed, folder)
        self.wanted = [_digest(call) for call in self.calls]
        self.wrong: list[str] = []
        self.done = 0
        self.workers = 0
        self._lock = threading.Lock()

    def some(self, rng: random.Random, until: Callable[[int], bool]) -> int:
        """Make random calls until told, or until one is wrong; how many."""
        count = 0
        while not until(count) and not self.wrong:
            i = rng.randrange(len(self.calls))
            if _digest(self.calls[i]) != self.wanted[i]:
                self.wrong.append(f"call {i} gave another result")
            count += 1
        return count

    def _thread(self, seed: str, end: float) -> None:
        try:
            count = self.some(random.Random(seed), lambda _: time.monotonic() > end)
        except BaseException:
            self.wrong.append(traceback.format_exc())
            return
        with self._lock:
            self.done += count

    def _worker(self, seed: str) -> None:
        self.some(random.Random(seed), lambda count: count >= WORKER_CALLS)
        os._exit(1 if self.wrong else 0)

    def round(self, seed: str, seconds: float, threads: int, workers: int) -> None:
        """Threads for so many seconds, and so many workers at a time forked beside them."""
        end = time.monotonic() + seconds
        running = [threading.Thread(target=self._thread, args=(f"{seed} {i}", end)) for i in range(threads)]
        for thread in running:
            thread.start()
        context = multiprocessing.get_context("fork")
        while workers and time.monotonic() < end and not self.wrong:
            forked = [
                context.Process(target=self._worker, args=(f"{seed} {self.workers + i}",)) for i in range(workers)
            ]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any fork with threads
                for worker in forked:
                    worker.start()
            for worker in forked:
                worker.join(WORKER_SECONDS)
                if worker.exitcode != 0:
                    self.wrong.append(
                        "a worker " + ("hangs" if worker.exitcode is None else f"ended with {worker.exitcode}")
                    )
                    worker.kill()
                    worker.join()
                worker.close()
            self.workers += workers
        for thread in running:
            thread.join()


def counts() -> dict[str, int]:
    """Anonymous memory, threads and open files of this process."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)  # glibc keeps freed memory in an arena for each thread
    return {
        "bytes": resident.status()["RssAnon"],
        "threads": len(os.listdir(resident.PROC / "task")),
        "files": len(os.listdir(resident.PROC / "fd")),
    }


def main() -> int:
    """Run, print a line a round, and say what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2, help="forked workers at a time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore", lrpfast.errors.AmplificationWarning)
    rounds = max(6, int(options.seconds // 60))
    seen: list[dict[str, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(options.seed, Path(folder))
        for number in range(rounds):
            soak.round(f"{options.seed} {number}", options.seconds / rounds, options.threads, options.workers)
            seen.append(counts())
            memory, threads, files = seen[-1]["bytes"] / (1 << 20), seen[-1]["threads"], seen[-1]["files"]
            print(
                f"{number + 1}/{rounds}: {soak.done} calls, {soak.workers} workers; "
                f"{memory:.1f} MiB, {threads} threads, {files} files",
                flush=True,
            )
            if soak.wrong:
                break
    settled, last = seen[int(len(seen) * SETTLED)], seen[-1]
    grown = {key: last[key] - settled[key] for key in last}
    if grown["bytes"] > GROWTH or grown["threads"] > 0 or grown["files"] > 0:
        soak.wrong.append(f"grown since a third of the time: {grown}")
    print(*soak.wrong or ["results unchanged, memory steady"], sep="\n")
    return bool(soak.wrong)


if __name__ == "__main__":
    sys.exit(main())
