"""Lines of the GPU checklist, and the process that makes those of a section.

A section runs in a process of its own, step by step, and says every line as it comes: what breaks the device for
good (an illegal access does), or hangs, or ends the process, costs one step. `gpu_check` goes on after it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
TESTS = BENCH.parent / "tests"

#: What the lines of the protocol begin with; anything else that a process prints is not for the table.
MARK = "\x1e"
#: Exit status of a process whose device takes no more work.
LOST = 75

#: Sections in order: where their steps are, and whose modules they import, as tests and benchmarks both have a
#: `cases`.
SECTIONS = {
    "kernels": ("gpu_kernels", "steps", TESTS),
    "reference": ("gpu_runs", "reference", TESTS),
    "sanitizer": ("gpu_runs", "sanitizer", TESTS),
    "repeat": ("gpu_runs", "repeat", TESTS),
    "memory": ("gpu_runs", "memory", TESTS),
    "limits": ("gpu_speed", "limits", BENCH),
    "speed": ("gpu_speed", "speed", BENCH),
}
#: The section of gpu_experiments.py, which no checklist has.
EXPERIMENTS = "experiments"
#: Its comparisons with LXT, which patches PyTorch for the whole process.
LXT = {f"lxt, {name}": ("gpu_lxt", name, BENCH) for name in ("vit", "vit_gamma", "bert", "gpt2")}
WHERE = {**SECTIONS, EXPERIMENTS: ("gpu_experiments", "experiments_steps", BENCH), **LXT}


class Skip(Exception):
    """A line cannot be made here; the message says why."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    ``plain_memory`` takes every array from the device itself, not from a pool, so that a sanitizer sees its end.
    ``experiments`` are those of gpu_experiments.py, all where there are none.
    """

    device: str = "gpu:0"
    quick: bool = False
    standin: bool = False
    plain_memory: bool = False
    experiments: tuple[str, ...] = ()

    @property
    def index(self) -> int:
        return int(self.device.removeprefix("gpu:"))

    @property
    def small(self) -> bool:
        return self.quick or self.standin

    def arguments(self) -> list[str]:
        """The same, for another process."""
        flags = ("quick", "standin", "plain_memory")
        given = [f"--{f.replace('_', '-')}" for f in flags if getattr(self, f)]
        return ["--device", self.device, *given, *(f"--experiment={name}" for name in self.experiments)]

    def few(self, items: Any, count: int) -> list[Any]:
        """All items, or ``count`` of them from the first to the last, where sizes are small."""
        items = list(items)
        if not self.small or len(items) <= count:
            return items
        return [items[i * (len(items) - 1) // (count - 1)] for i in range(count)]


class Report:
    """Says lines; their seconds are those since the line before unless told."""

    def __init__(self, say: Callable[..., None]) -> None:
        self._say, self._begin = say, time.monotonic()

    def line(self, what: str, result: str, status: str, seconds: float | None = None, **facts: Any) -> None:
        now = time.monotonic()
        took = now - self._begin if seconds is None else seconds
        self._begin = now
        self._say(line={"what": what, "result": result, "status": status, "seconds": round(took, 2), **facts})

    def ok(self, what: str, result: str, **facts: Any) -> None:
        self.line(what, result, "ok", **facts)

    def fail(self, what: str, result: str, **facts: Any) -> None:
        self.line(what, result, "FAIL", **facts)

    def skip(self, what: str, why: str) -> None:
        self.line(what, why, "skipped")

    def check(self, what: str, right: bool, result: str, **facts: Any) -> None:
        self.line(what, result, "ok" if right else "FAIL", **facts)


#: A step: its name, and what says its lines.
Step = tuple[str, Callable[[Report], None]]


def reason(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


def prepare(options: Options) -> Any:
    """CuPy, or its stand-in, with the device current."""
    sys.path.append(str(TESTS))
    from lrpfast.kernels.cuda import devices

    if options.standin:
        import standin_loader

        if standin_loader.install().standin.compiler() is None:
            raise Skip("the stand-in for CuPy needs Linux and a C++ compiler")
    devices.chosen(options.device)  # DeviceError says what is missing
    import cupy

    cupy.cuda.Device(options.index).use()
    if options.plain_memory:
        cupy.cuda.set_allocator(None)
    return cupy


def is_lost() -> bool:
    """Whether the device takes no more work from this process."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return False
    try:
        cupy.cuda.runtime.deviceSynchronize()
    except Exception:
        return True
    return False


def launched_kernels() -> set[tuple[str, str, str]]:
    """A set that from now on fills with (module, kind, kernel) of every launch."""
    from lrpfast.kernels.cuda import modules

    found: set[tuple[str, str, str]] = set()
    function = modules.function

    def noted(device: int, module: str, kind: str, name: str) -> Any:
        found.add(
            (module, "float32" if kind in modules.TENSOR_KINDS and module not in modules.TILE_MODULES else kind, name)
        )
        return function(device, module, kind, name)

    modules.function = noted
    return found


def say(**record: Any) -> None:
    """One record to the process that started this one."""
    print(MARK + json.dumps(record, ensure_ascii=False), flush=True)


def run_steps(options: Options, section: str, after: int) -> None:
    """A section's steps after the given one; does not return where the device is lost."""
    begin = time.monotonic()
    module, name, folder = WHERE[section]
    try:
        prepare(options)
        sys.path.insert(0, str(folder))
        launched = launched_kernels()
        steps = importlib.import_module(module)
        todo: list[Step] = list(getattr(steps, name)(options))
        if hasattr(steps, "every_kernel"):
            say(kernels=sorted(steps.every_kernel()))
    except Exception as error:
        status = "skipped" if isinstance(error, Skip) else "FAIL"
        line = {"what": "start", "result": reason(error), "status": status}
        say(line={**line, "seconds": round(time.monotonic() - begin, 2)})
        return
    for number, (what, step) in enumerate(todo):
        if number <= after:
            continue
        say(begin=number, what=what)
        report = Report(say)
        try:
            step(report)
        except Skip as why:
            report.skip(what, str(why))
        except Exception as error:
            report.fail(what, reason(error))
        say(end=number, launched=sorted(launched))
        launched.clear()
        if is_lost():
            sys.stdout.flush()
            os._exit(LOST)  # an orderly end would wait for the device


def describe(options: Options) -> dict[str, str]:
    """The device and what drives it, in words."""
    cupy = prepare(options)
    from lrpfast.kernels import backend

    facts = {key: str(value) for key, value in backend(options.device).describe().items()}
    facts["CUDA of the driver"] = _version(cupy.cuda.runtime.driverGetVersion())
    try:
        from cupy_backends.cuda.libs import cublas

        handle = cublas.create()
        facts["cuBLAS version"] = str(cublas.getVersion(handle))
        cublas.destroy(handle)
    except Exception as error:
        facts["cuBLAS version"] = reason(error)
    try:
        from lrpfast.kernels.cuda import cudnn

        problem = cudnn.HANDLES.problem()
        facts["cuDNN version"] = cudnn.version() if problem is None else f"none: {problem}"
    except Exception as error:
        facts["cuDNN version"] = reason(error)
    return facts


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
