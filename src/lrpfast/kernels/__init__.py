"""Backends: they know arrays and programs, no layer and no rule.

A backend compiles a `program.Program` and runs it on batches; `backend` chooses
one by device name.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

import numpy as np

from ..errors import InputError
from .program import Program


class Compiled(Protocol):
    """A program ready to run; safe to call from several threads at once."""

    def accepts(self, x: Any) -> bool:
        """Whether `run` takes these inputs as they are, or they must be cast first."""
        ...

    def run(
        self,
        x: np.ndarray,
        out: np.ndarray,
        *,
        threads: int,
        memory: int | None = None,
        start: Start = ...,
        keep: dict[int, np.ndarray] | None = None,
    ) -> Fault | None:
        """Run on all samples of x into out; says what went wrong, if anything."""
        ...


class Start:
    """How the starting relevance is chosen.

    ``mode`` is "max", "index" (``targets``: int64, ``step`` apart by sample,
    ``count`` to a sample), "pair" (two targets), "array" (``array`` itself) or "all".
    ``window`` is (first, size) of the part of the output that "max" and "all" look at,
    the whole when None; targets count from the whole output's beginning.
    """

    __slots__ = ("array", "count", "mode", "step", "targets", "window")

    def __init__(
        self,
        mode: str = "max",
        targets: np.ndarray | None = None,
        step: int = 0,
        count: int = 1,
        array: np.ndarray | None = None,
        window: tuple[int, int] | None = None,
    ) -> None:
        self.mode, self.targets, self.step, self.count, self.array = mode, targets, step, count, array
        self.window = window

    def part(self, samples: slice) -> Start:
        """The start for some of the samples that this one is for."""
        targets, array = self.targets, self.array
        if self.mode == "index" and self.step and targets is not None:
            targets = targets[samples]
        if self.mode == "array" and array is not None:
            array = array[samples]
        return Start(self.mode, targets, self.step, self.count, array, self.window)


#: Each sample's largest output.
DEFAULT_START = Start()


class Fault:
    """What a run found: ``kind`` and the first ``sample`` it is true of."""

    __slots__ = ("kind", "sample")

    def __init__(self, kind: str, sample: int) -> None:
        self.kind, self.sample = kind, sample


class Backend(Protocol):
    """What the engine needs of a device."""

    name: str
    #: outputs of at most this many channels are redistributed to by `Redistribute.scatter`
    scatter_columns: int
    #: bytes of input and output that one run is given, so that signals are heard between runs
    batch_bytes: int
    #: whether inputs and outputs may be arrays on a GPU
    takes_device_arrays: bool

    def compile(self, program: Program) -> Compiled: ...

    def describe(self) -> dict[str, Any]:
        """Facts for ``lrpfast info``."""
        ...


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
        gpus = devices.found().gpus
        return CudaBackend(gpus) if gpus else CpuBackend()
    return CudaBackend(devices.chosen(device))


def _is_device(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"auto|cpu|gpu(:[0-9]+)?", name) is not None


def no_gpu() -> str | None:
    """Why there is no GPU to use, or None where there is one."""
    from .cuda import devices

    return devices.found().problem
