"""Which GPUs can be used: found once, each tried with a real kernel, and the reason kept where there is none."""

from __future__ import annotations

import importlib.util
import os
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DeviceError
from . import modules

INSTALL = "pip install 'cupy-cuda13x[ctk]' (lrpfast's extra 'cuda13') or 'cupy-cuda12x[ctk]' (extra 'cuda12', CUDA 12)"


@dataclass(frozen=True)
class Gpu:
    """A GPU that works."""

    index: int
    name: str
    capability: str
    memory: int
    processors: int

    @property
    def tensor_cores(self) -> bool:
        """Whether it has products in TF32."""
        return int(self.capability) >= 80


@dataclass(frozen=True)
class Found:
    """The GPUs that work, and what is wrong with the others, or with all of them."""

    gpus: tuple[Gpu, ...]
    problem: str | None
    problems: dict[int, str]


_found: Found | None = None
_lock = threading.Lock()
#: why a process that was forked from one that has looked for GPUs cannot use any: CUDA does not live through a fork
FORKED = (
    "this process was forked from one that had looked for GPUs, and CUDA does not live through a fork; begin processes "
    "by 'spawn' or 'forkserver', or use device='cpu' in them"
)


def _after_fork() -> None:
    global _found
    if _found is not None and _found.gpus:
        _found = Found((), FORKED, {})


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def found() -> Found:
    """What there is; looked up once."""
    global _found
    there = _found
    if there is None:
        with _lock:  # not in what comes after: a process may be forked while another thread holds it
            there = _found = _found or _look()
    return there


def forget() -> None:
    """Look again at the next call; for tests that change what there is."""
    global _found
    _found = None
    modules.forget()


def check_process() -> None:
    """Raise DeviceError in a process that cannot use the GPUs that its parent found."""
    if _found is not None and _found.problem is FORKED:
        raise DeviceError(FORKED)


def chosen(device: str) -> tuple[Gpu, ...]:
    """The GPUs that a device name stands for, "gpu" for all, "gpu:1" for one; else DeviceError, with what to do."""
    there = found()
    if there.problem is not None:
        raise DeviceError(f"device {device!r} is not available: {there.problem}")
    if device == "gpu":
        return there.gpus
    number = device.removeprefix("gpu:")
    for gpu in there.gpus:
        if number == str(gpu.index):
            return (gpu,)
    if number.isdecimal() and int(number) in there.problems:
        raise DeviceError(f"device {device!r} does not work: {there.problems[int(number)]}")
    names = ", ".join(f"'gpu:{gpu.index}' ({gpu.name})" for gpu in there.gpus)
    raise DeviceError(f"there is no device {device!r}; there are 'cpu', 'gpu' for all GPUs, and {names}")


def _look() -> Found:
    if importlib.util.find_spec("cupy") is None:
        return Found((), f"CuPy is not installed; on a machine with an NVIDIA GPU: {INSTALL}", {})
    try:
        import cupy
    except Exception as error:  # an import that fails says why, in whatever class
        return Found((), f"CuPy is installed but cannot be imported: {_first_line(error)}; see {INSTALL}", {})
    version = cupy.__version__
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        return Found((), f"CuPy {version} finds no GPU: {_first_line(error)} (is there one, and its driver?)", {})
    if count == 0:
        return Found((), f"CuPy {version} finds no GPU", {})
    gpus, problems = [], {}
    for index in range(count):
        try:
            gpus.append(_try(cupy, index))
        except Exception as error:
            problems[index] = f"GPU {index} cannot run a kernel under CuPy {version}: {_first_line(error)}"
    problem = None if gpus else "; ".join(problems.values()) + f" (CuPy needs CUDA's compiler and headers: {INSTALL})"
    return Found(tuple(gpus), problem, problems)


def _try(cupy: Any, index: int) -> Gpu:
    """Compile and run one kernel on one element."""
    with cupy.cuda.Device(index) as device:
        properties = cupy.cuda.runtime.getDeviceProperties(index)
        source = cupy.empty(1, np.float64)
        source.set(np.array([1.5]))
        result = cupy.zeros(1, np.float32)
        modules.function(index, "input", "float32", "cast_float64")((1,), (32,), (source, result, np.int64(1)))
        if result.get()[0] != 1.5:
            raise RuntimeError(f"a test kernel made {result.get()[0]} of 1.5")
        name = properties["name"]
        return Gpu(
            index,
            name.decode() if isinstance(name, bytes) else name,
            str(device.compute_capability),
            int(properties["totalGlobalMem"]),
            int(device.attributes["MultiProcessorCount"]),
        )


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
