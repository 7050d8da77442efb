"""Where figures come from: the machine, versions, and environment variables that change speed."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from lrpfast.kernels import cpu

#: Variables that choose kernels or threads of a library: a run is without them. OPENBLAS_CORETYPE, for one, halves
#: NumPy's rate where it names an older core.
PREFIXES = ("OPENBLAS_", "NVPL_", "MKL_", "BLIS_", "OMP_", "GOMP_", "KMP_", "DNNL_", "ONEDNN_", "ATEN_",
            "TF_ENABLE_ONEDNN", "TF_NUM_", "LRPFAST_ISA")  # fmt: skip
_NOTE = "LRPFAST_BENCH_UNSET"


def without_variables() -> dict[str, str]:
    """The variables of `PREFIXES` that were set. Where there are any, the process first begins again without them."""
    if _NOTE in os.environ:
        found: dict[str, str] = json.loads(os.environ[_NOTE])
        return found
    unset = {key: value for key, value in os.environ.items() if key.startswith(PREFIXES)}
    if not unset:
        return {}
    rest = {key: value for key, value in os.environ.items() if key not in unset}
    os.execve(sys.executable, [sys.executable, *sys.argv], {**rest, _NOTE: json.dumps(unset)})


def _first(path: str, key: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def processor() -> str:
    """Its model name; virtual machines show no more than "AMD EPYC", so that AMD's generation is beside it."""
    name = _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    family = _first("/proc/cpuinfo", "cpu family") if "AMD" in name else ""
    wide = "avx512f" in _first("/proc/cpuinfo", "flags").split()
    generation = {"23": "Zen to Zen 2", "25": "Zen 4" if wide else "Zen 3", "26": "Zen 5"}.get(family)
    return f"{name} ({generation})" if generation else name


def _caches() -> str:
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return ", ".join(found)


def isa() -> str:
    """The instruction set that lrpfast uses."""
    return cpu.instruction_sets()[cpu.isa()]


def describe() -> dict[str, str]:
    """The machine in words."""
    total = _first("/proc/meminfo", "MemTotal").split()
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True).stdout.splitlines()
    return {
        "processor": processor(),
        "cores this process may use": str(len(os.sched_getaffinity(0))),
        "caches": _caches(),
        "memory": f"{int(total[0]) / (1 << 20):.0f} GiB" if total else "",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "lrpfast's instruction set": isa(),
        "compiler of the limits": compiler[0] if compiler else "none",
    }


def versions() -> dict[str, str]:
    """Versions of Python and of what is measured, of those that are installed."""
    found = {"Python": platform.python_version()}
    packages = {"lrpfast": "lrpfast", "NumPy": "numpy", "PyTorch": "torch", "zennit": "zennit", "captum": "captum"}
    for name, package in packages.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
