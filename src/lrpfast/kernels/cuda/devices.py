"""The GPUs that work: each is tested once with a kernel; if none works, the reason is kept."""

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
    shared_memory: int  # bytes that a block may take

    @property
    def tensor_cores(self) -> bool:
        """Whether it has TF32 products."""
        return int(self.capability) >= 80


@dataclass(frozen=True)
class DeviceList:
    """The GPUs that work, and the problems of the others, or of all of them."""

    gpus: tuple[Gpu, ...]
    problem: str | None
    problems: dict[int, str]


_available: DeviceList | None = None
_lock = threading.Lock()
#: Why a process cannot use GPUs if it was forked from one that has looked for them: CUDA does not survive a fork.
FORKED = (
    "this process was forked from one that had looked for GPUs, and CUDA does not live through a fork; begin processes "
    "by 'spawn' or 'forkserver', or use device='cpu' in them"
)


def _after_fork() -> None:
    global _available
    if _available is not None and _available.gpus:
        _available = DeviceList((), FORKED, {})


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def available() -> DeviceList:
    """The GPUs of this machine; looked up once."""
    global _available
    result = _available
    if result is None:
        with _lock:  # only here: a process may be forked while another thread holds the lock
            result = _available = _available or _look()
    return result


def forget() -> None:
    """Look for GPUs again at the next call, for tests."""
    global _available
    _available = None
    modules.forget()


def check_process() -> None:
    """Raise DeviceError in a process that cannot use the GPUs that its parent found."""
    if _available is not None and _available.problem is FORKED:
        raise DeviceError(FORKED)


def chosen(device: str) -> tuple[Gpu, ...]:
    """The GPUs of a device name, "gpu" for all, "gpu:1" for one; DeviceError, with a cure, if there are none."""
    devices = available()
    if devices.problem is not None:
        raise DeviceError(f"device {device!r} is not available: {devices.problem}")
    if device == "gpu":
        return devices.gpus
    number = device.removeprefix("gpu:")
    for gpu in devices.gpus:
        if number == str(gpu.index):
            return (gpu,)
    if number.isdecimal() and int(number) in devices.problems:
        raise DeviceError(f"device {device!r} does not work: {devices.problems[int(number)]}")
    names = ", ".join(f"'gpu:{gpu.index}' ({gpu.name})" for gpu in devices.gpus)
    raise DeviceError(f"there is no device {device!r}; there are 'cpu', 'gpu' for all GPUs, and {names}")


def _look() -> DeviceList:
    if importlib.util.find_spec("cupy") is None:
        return DeviceList((), f"CuPy is not installed; on a machine with an NVIDIA GPU: {INSTALL}", {})
    try:
        import cupy
    except Exception as error:  # an import may fail with any exception
        return DeviceList((), f"CuPy is installed but cannot be imported: {_first_line(error)}; see {INSTALL}", {})
    version = cupy.__version__
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        return DeviceList((), f"CuPy {version} finds no GPU: {_first_line(error)} (is there one, and its driver?)", {})
    if count == 0:
        return DeviceList((), f"CuPy {version} finds no GPU", {})
    gpus, problems = [], {}
    for index in range(count):
        try:
            gpus.append(_try(cupy, index))
        except Exception as error:
            problems[index] = f"GPU {index} cannot run a kernel under CuPy {version}: {_first_line(error)}"
    problem = None if gpus else "; ".join(problems.values()) + f" (CuPy needs CUDA's compiler and headers: {INSTALL})"
    return DeviceList(tuple(gpus), problem, problems)


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
            int(device.attributes["MaxSharedMemoryPerBlockOptin"]),
        )


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
