"""Peak memory: one explanation by each tool in a process of its own, and a file of samples from file to file.

    python bench/memory.py CASE TOOL [--small]           one tool's explanation, as JSON
    python bench/memory.py --file [--samples N] [--folder FOLDER]

The second explains an array of N samples x 31,811 features with the command line. FOLDER needs room for
inputs and relevances, 5 GB together for 20,000 samples; they are removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import lrpfast_networks
import networks
import peers
import resident
from cases import CASES, Case, open_peer
from innvestigate_peer import Innvestigate
from tool import Missing

MIB = 1 << 20
#: Cases whose memory is reported: a large network, and a large array.
SHOWN = ("wide-bounded", "cnn-epsilon", "vgg16-epsilon")
TOOLS = ("lrpfast", "zennit", "captum", "innvestigate", "forward")


def explain_once(case: Case, tool: str, small: bool) -> dict[str, int]:
    """`resident.peak_of` one explanation of the case's samples, in this process; raises Missing."""
    if not resident.AVAILABLE:
        raise Missing("needs Linux's /proc/self/clear_refs")
    network = networks.make(case.network, small)
    x = network.samples(case.count(small))
    if tool == "lrpfast":
        return resident.peak_of(peers.lrpfast_tool(network, case.rule, x).run())
    if tool == "forward":
        return resident.peak_of(peers.forward(network, case.rule, x).run())
    opened = open_peer(case, tool, network, x, small)
    if isinstance(opened, Innvestigate):
        try:
            return {key: int(value) for key, value in opened.ask(do="memory").items()}
        finally:
            opened.close()
    return resident.peak_of(opened.run())


def in_a_process(case: Case, tool: str, small: bool) -> dict[str, int] | str:
    """`explain_once` in a process of its own; the reason where the tool is missing."""
    arguments = [sys.executable, __file__, case.key, tool, *(["--small"] if small else [])]
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    result = json.loads(done.stdout)
    return str(result["missing"]) if "missing" in result else result


# From file to file


def _memory(pid: int) -> dict[str, int]:
    """Bytes of a process's memory: RssAnon now, VmHWM (files' pages counted) at most so far."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split()[:2] for line in lines if line.startswith(("RssAnon:", "VmHWM:")))
    return {key.rstrip(":"): int(value) * 1024 for key, value in pairs}


def _peak(*arguments: str) -> dict[str, int]:
    """The largest values seen while a Python process with these arguments runs."""
    process = subprocess.Popen([sys.executable, *arguments])
    largest: dict[str, int] = {}
    while process.poll() is None:
        for key, value in _memory(process.pid).items():
            largest[key] = max(value, largest.get(key, 0))
        time.sleep(0.001)
    if process.returncode:
        raise RuntimeError(f"a process with {arguments[:2]} ended with {process.returncode}")
    return largest


def file_to_file(samples: int, folder: str | None, small: bool = False) -> dict[str, float]:
    """Peak memory of ``lrpfast explain`` on a file of samples of the wide network, and its seconds."""
    network = networks.make("wide", small)
    (features,) = network.shape
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        lrpfast_networks.build(network).save(place / "model.npz")
        rng = np.random.default_rng(0)
        with open(place / "x.npy", "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (samples, features)}
            np.lib.format.write_array_header_1_0(file, header)
            for first in range(0, samples, 500):
                rows = min(500, samples - first)
                file.write(rng.uniform(-1, 1, size=(rows, features)).astype(np.float32).data)
        imported = _peak("-c", "import lrpfast.cli, tqdm, h5py")
        begin = time.perf_counter()
        largest = _peak(
            "-m", "lrpfast", "explain", str(place / "model.npz"), str(place / "x.npy"), "-o", str(place / "r.npy"),
            "--rule", "lrp.alpha_1_beta_0_IB", "--input-layer-rule", "Bounded",
        )  # fmt: skip
        seconds = time.perf_counter() - begin
        size = os.path.getsize(place / "x.npy")
    before = imported["RssAnon"]
    return {
        "samples": samples, "features": features, "bytes": size, "seconds": seconds, "imported": before,
        "anonymous": largest["RssAnon"] - before, "resident": largest["VmHWM"],
    }  # fmt: skip


def main() -> None:
    """One tool's explanation as JSON, or the file's peak in words."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", choices=[case.key for case in CASES])
    parser.add_argument("tool", nargs="?", choices=TOOLS)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--file", action="store_true")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--folder", default=None, help="default: the system's temporary folder")
    options = parser.parse_args()
    if options.file:
        found = file_to_file(options.samples, options.folder, options.small)
        above, before, whole = (found[key] / MIB for key in ("anonymous", "imported", "resident"))
        print(f"peak: {above:.0f} MiB of anonymous memory above the import's {before:.0f} MiB")
        print(f"resident with the files' pages: {whole:.0f} MiB; {found['seconds']:.1f} s")
    elif options.case and options.tool:
        case = next(case for case in CASES if case.key == options.case)
        try:
            print(json.dumps(explain_once(case, options.tool, options.small)))
        except Missing as reason:
            print(json.dumps({"missing": str(reason)}))
    else:
        parser.error("name a case and a tool, or --file")


if __name__ == "__main__":
    main()
