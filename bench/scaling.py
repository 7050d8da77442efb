"""What more workers bring: the same job by one process and by Dask's workers on this machine, runs interleaved.

    python bench/scaling.py [--runs N] [--small]

Prints a table for docs/scaling.md. The wide job is bound by memory and makes statistics only, so that the disk does
not decide; the convolutional one is bound by arithmetic and writes its relevances too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import lrpfast
import lrpfast_networks
import networks


def job(name: str, small: bool, folder: Path) -> tuple[lrpfast.Model, lrpfast.composites.Composite, Path, int]:
    """A model, its rules, and a file of its inputs."""
    network = networks.make("wide" if name == "wide" else "cnn", small)
    samples = {"wide": 8_192, "cnn": 8_192}[name] // (32 if small else 1)
    path = folder / f"{name}.npy"
    rng = np.random.default_rng(0)
    made = np.lib.format.open_memmap(path, "w+", np.float32, (samples, *network.shape))
    for first in range(0, samples, 256):
        made[first : first + 256] = rng.uniform(-1, 1, size=(min(256, samples - first), *network.shape))
    made.flush()
    rule = lrpfast_networks.zennit_composite("bounded" if name == "wide" else "epsilon")
    return lrpfast_networks.build(network), rule, path, samples


def ways_of(
    model: lrpfast.Model, rule: lrpfast.composites.Composite, path: Path, clients: dict[int, Any]
) -> dict[str, Callable[[Path | None], lrpfast.Streamed]]:
    """The same job in four ways, each into a file of the given name, or for the statistics only."""
    one, two = (lrpfast.Analyzer(model, rule, threads=n) for n in (1, 2))
    return {
        "one process, 1 thread": lambda out: one.stream(path, out, statistics=True),
        "one process, 2 threads": lambda out: two.stream(path, out, statistics=True),
        "1 worker": lambda out: one.stream(path, out, statistics=True, cluster=clients[1]),
        "2 workers": lambda out: one.stream(path, out, statistics=True, cluster=clients[2]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="does it run? The figures mean nothing")
    options = parser.parse_args()
    from distributed import Client, LocalCluster

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for key in ("wide", "cnn"):
            model, rule, path, samples = job(key, options.small, folder)
            whole: bytes | None = None
            found: dict[str, list[float]] = {}
            one_thread = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
            clusters = {n: LocalCluster(n_workers=n, **one_thread) for n in (1, 2)}
            clients = {n: Client(cluster) for n, cluster in clusters.items()}
            ways = ways_of(model, rule, path, clients)
            for run in range(options.runs + 1):
                for way, do in ways.items():
                    out = None if key == "wide" else folder / "r.npy"
                    begin = time.perf_counter()
                    made = do(out)
                    seconds = time.perf_counter() - begin
                    assert made.statistics is not None
                    mean = made.statistics.mean.tobytes()
                    if whole not in (None, mean):
                        raise RuntimeError(f"{key}: {way} gives other statistics")
                    whole = mean
                    if out:
                        out.unlink()
                    if run:  # the first is to warm up
                        found.setdefault(way, []).append(seconds)
            for client in clients.values():
                client.close()
            for cluster in clusters.values():
                cluster.close()
            print(f"{key}: {samples:,} samples, {path.stat().st_size / 1e9:.2f} GB in")
            for way, seconds in found.items():
                print(f"  {way}: {statistics.median(seconds):.3g} s ({min(seconds):.3g} to {max(seconds):.3g})")
            path.unlink()


if __name__ == "__main__":
    main()
