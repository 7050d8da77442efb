"""Backends: they know arrays and programs, no layer and no rule.

A backend compiles a `program.Program` and runs it on batches; `backend` chooses
one by device name.
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import InputError
from .interface import DEFAULT_START, Backend, Compiled, Fault, PackedSize, SmallRuns, Start
from .passes import Passes

__all__ = [
    "DEFAULT_START",
    "Backend",
    "Compiled",
    "Fault",
    "PackedSize",
    "Passes",
    "SmallRuns",
    "Start",
    "backend",
    "no_gpu",
]


def backend(device: str = "auto") -> Backend:
    """The backend for a device name: "cpu", "gpu" (all GPUs), "gpu:1" (one), or "auto".

    "auto" takes the GPUs where there are any that work, else the CPU.

    Raises
    ------
    InputError
        For a name that is none of these.
    DeviceError
        For a device that is not there; says what was found and what to install.
    """
    from .cpu import CpuBackend

    if device == "cpu":
        return CpuBackend()
    if not _is_device(device):
        meant = device.lower().replace("cuda", "gpu") if isinstance(device, str) else None  # PyTorch's name of it
        hint = f", did you mean {meant!r}?" if _is_device(meant) else ""
        raise InputError(f"device must be 'auto', 'cpu', 'gpu' or the name of one, as 'gpu:1', not {device!r}{hint}")
    from .cuda import CudaBackend, devices

    if device == "auto":
        gpus = devices.available().gpus
        return CudaBackend(gpus) if gpus else CpuBackend()
    return CudaBackend(devices.chosen(device))


def _is_device(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"auto|cpu|gpu(:[0-9]+)?", name) is not None


def no_gpu() -> str | None:
    """Why there is no GPU to use, or None where there is one."""
    from .cuda import devices

    return devices.available().problem
