"""Peak memory of `lrpfast explain` on an array of 20,000 samples x 31,811 features (2.5 GB).

    python bench/memory.py [--samples N] [--folder FOLDER]

FOLDER needs room for the inputs and the relevances, 5 GB together; they are removed at the end.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from networks import model, network

FEATURES = 31_811
MIB = 1 << 20


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process's memory: RssAnon now, VmHWM (files' pages counted) at most so far."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split()[:2] for line in lines if line.startswith(("RssAnon:", "VmHWM:")))
    return {key.rstrip(":"): int(value) * 1024 for key, value in pairs}


def peak(*arguments: str) -> dict[str, int]:
    """The largest values seen while a Python process with these arguments runs."""
    process = subprocess.Popen([sys.executable, *arguments])
    largest: dict[str, int] = {}
    while process.poll() is None:
        for key, value in memory(process.pid).items():
            largest[key] = max(value, largest.get(key, 0))
        time.sleep(0.001)
    if process.returncode:
        sys.exit(process.returncode)
    return largest


def main() -> None:
    """Make the files, run, report, and remove them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--folder", default=None, help="default: the system's temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        model(network((FEATURES, 8, 8, 2))).save(folder / "model.npz")
        rng = np.random.default_rng(0)
        with open(folder / "x.npy", "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (options.samples, FEATURES)}
            np.lib.format.write_array_header_1_0(file, header)
            for first in range(0, options.samples, 500):
                rows = min(500, options.samples - first)
                file.write(rng.uniform(-1, 1, size=(rows, FEATURES)).astype(np.float32).data)
        imported = peak("-c", "import lrpfast.cli, tqdm, h5py")
        largest = peak(
            "-m", "lrpfast", "explain", str(folder / "model.npz"), str(folder / "x.npy"), "-o", str(folder / "r.npy"),
            "--rule", "lrp.alpha_1_beta_0_IB", "--input-layer-rule", "Bounded",
        )  # fmt: skip
        before, whole = imported["RssAnon"] / MIB, largest["VmHWM"] / MIB
        above = largest["RssAnon"] / MIB - before
        print(f"peak: {above:.0f} MiB of anonymous memory above the import's {before:.0f} MiB")
        print(f"resident with the files' pages: {whole:.0f} MiB")


if __name__ == "__main__":
    main()
