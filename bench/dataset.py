"""The climate scientists' job at full size: 11,263 daily maps of 31,811 ocean points, two classes, mean maps in NetCDF.

    python bench/dataset.py [--samples N] [--folder FOLDER] [--one-at-a-time N]

Makes the input (1.4 GB at full size) in FOLDER, runs ``lrpfast explain --statistics`` on it in a process of its own,
compares the mean maps with NumPy's, and says how long it took and how much memory. Then explains N samples one at a
time with iNNvestigate, the way it is done today (see bench/README.md for its environment), and multiplies. Where the
folder has the file from an earlier run, it is used again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import lrpfast
import lrpfast_networks
import networks
from innvestigate_peer import Innvestigate
from lrpfast.batch import open_source
from memory import _memory
from tool import Missing

SAMPLES, CHUNK = 11_263, 500
RULE = ("--rule", "lrp.alpha_1_beta_0_IB", "--input-layer-rule", "-1,1")
MIB = 1 << 20


def make_input(folder: Path, samples: int, features: int) -> Path:
    """The made data set, and its labels beside it."""
    path = folder / f"x{samples}.npy"
    np.save(folder / "labels.npy", np.arange(samples) * 7 % 13 % 2)
    if not path.exists():
        rng = np.random.default_rng(0)
        with open(path.with_suffix(".part"), "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (samples, features)}
            np.lib.format.write_array_header_1_0(file, header)
            for first in range(0, samples, CHUNK):
                rows = min(CHUNK, samples - first)
                file.write(rng.uniform(-1, 1, size=(rows, features)).astype(np.float32).data)
        path.with_suffix(".part").rename(path)
    return path


def explain(folder: Path, x: Path) -> dict[str, float]:
    """One run of the command: its seconds of computing, as it prints them, from start to end, and its memory."""
    output = folder / "maps.nc"
    arguments = [
        str(folder / "model.npz"),
        str(x),
        "--statistics",
        str(output),
        "--group-by",
        str(folder / "labels.npy"),
    ]
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "lrpfast", "explain", *arguments, *RULE, "--force"], stdout=subprocess.PIPE, text=True
    )
    largest: dict[str, int] = {}
    while process.poll() is None:
        for key, value in _memory(process.pid).items():
            largest[key] = max(value, largest.get(key, 0))
        time.sleep(0.002)
    whole = time.perf_counter() - begin
    assert process.stdout is not None
    printed = process.stdout.read()
    found = re.search(r"explained in ([\d.e+]+) s", printed)
    if process.returncode or not found:
        raise RuntimeError(f"lrpfast explain ended with {process.returncode}: {printed}")
    return {
        "computing": float(found[1]), "whole": whole,
        "anonymous": largest["RssAnon"] / MIB, "resident": largest["VmHWM"] / MIB,
    }  # fmt: skip


def check(folder: Path, x: Path) -> float:
    """The largest difference between the mean maps in the file and NumPy's, as part of the largest mean."""
    analyzer = lrpfast.create_analyzer(
        "lrp.alpha_1_beta_0_IB", lrpfast.load(folder / "model.npz"), input_layer_rule=(-1, 1)
    )
    inputs, labels = np.load(x, mmap_mode="r"), np.load(folder / "labels.npy")
    sums = np.zeros((2, inputs.shape[1]))
    for first in range(0, len(inputs), CHUNK):
        relevance = analyzer.analyze(inputs[first : first + CHUNK])
        for group in (0, 1):
            sums[group] += relevance[labels[first : first + CHUNK] == group].sum(0, dtype=np.float64)
    means = sums / np.bincount(labels)[:, None]
    with open_source(f"{folder / 'maps.nc'}:mean") as made:
        difference = np.abs(made.read(0, 2) - means).max()
    return float(difference / np.abs(means).max())


def one_at_a_time(samples: int) -> dict[str, float]:
    """iNNvestigate's seconds for a sample, each in a call of its own; empty where it is missing."""
    try:
        peer = Innvestigate("wide", "bounded", samples, False)
    except Missing as missing:
        print(f"iNNvestigate: {missing}")
        return {}
    timer = peer.timer(samples, 1)
    timer()
    seconds = [timer() / samples for _ in range(5)]
    peer.close()
    return {"a sample": statistics.median(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one-at-a-time", type=int, default=100, metavar="N")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        network = networks.make("wide", False)
        lrpfast_networks.build(network).save(folder / "model.npz")
        x = make_input(folder, options.samples, *network.shape)
        runs = [explain(folder, x) for _ in range(options.runs)]
        difference = check(folder, x)
        if difference > 1e-12:
            raise RuntimeError(f"the mean maps differ from NumPy's by {difference:.2g} of the largest")
        found = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(json.dumps({"samples": options.samples, "bytes": os.path.getsize(x), "difference": difference, **found}))
        peer = one_at_a_time(options.one_at_a_time) if options.one_at_a_time else {}
        if peer:
            seconds = peer["a sample"] * options.samples
            print(f"iNNvestigate, one at a time: {peer['a sample'] * 1e3:.3g} ms a sample, {seconds:.3g} s for all")


if __name__ == "__main__":
    main()
