"""The interface of backends to the engine: compiled programs, the starting relevance, faults."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from .passes import Passes
from .program import Program


class Compiled(Protocol):
    """A program ready to run; safe to call from several threads at once."""

    def accepts(self, x: Any) -> bool:
        """Whether `run` accepts these inputs, or they must be cast first."""
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
        notes: list[Any] | None = None,
        exact: bool = False,
    ) -> Fault | None:
        """Run on all samples of x and write to out; returns the fault, if any.

        A backend that `judges` appends a `growth.RunGrowth` to ``notes``; with ``exact``, of all explanations.
        """
        ...

    def packed_size(self) -> PackedSize | None:
        """What its packed weights take, if the backend packs any."""
        ...

    def by_libraries(self) -> str | None:
        """Which of its convolutions a library computes, and why not the others, where one was asked to."""
        ...

    def small_run(self, row: tuple[int, ...], start: Start, *, judges: bool) -> SmallRuns | None:
        """Runs of small batches of samples of this shape, if there are any; ``judges``: whether they note growth."""
        ...


class PackedSize(NamedTuple):
    """What weights in the kernels' order take, in bytes: ``total``, of this ``tiles`` on tile registers.

    There a value takes ``tile_value`` bytes. Programs that use the same weights share them.
    """

    total: int
    tiles: int
    tile_value: int

    def __str__(self) -> str:
        where = f", of these {self.tiles:,} on tile registers, {self.tile_value} a value" if self.tiles else ""
        return f"packed weights: {self.total:,} bytes{where}"


class SmallRuns(Protocol):
    """Runs of small batches without the work of deciding on threads, memory and casts."""

    def run(self, x: Any, out: Any, notes: list[Any]) -> Any:
        """The relevance of x, written to ``out`` if given; None where `Compiled.run` must take these inputs.

        So it must where anything about the arrays wants a cast or an error, and where the run finds a fault.
        """
        ...


class Start:
    """The choice of the starting relevance.

    ``mode`` is "max", "index" (``targets``: int64, ``step`` apart by sample,
    ``count`` for each sample), "pair" (two targets), "array" (``array`` itself, ``count`` rows for each sample) or
    "all". ``window`` is (first, size) of the part of the output for "max" and "all", the whole when None; targets
    count from the beginning of the whole output. With ``passes``, each sample has one starting relevance, and ``count``
    is the number of relevances that come of it.
    """

    __slots__ = ("array", "count", "mode", "passes", "step", "targets", "window")

    def __init__(
        self,
        mode: str = "max",
        targets: np.ndarray | None = None,
        step: int = 0,
        count: int = 1,
        array: np.ndarray | None = None,
        window: tuple[int, int] | None = None,
        passes: Passes | None = None,
    ) -> None:
        self.mode, self.targets, self.step, self.count, self.array = mode, targets, step, count, array
        self.window, self.passes = window, passes

    def part(self, samples: slice) -> Start:
        """The start for some of its samples."""
        targets, array = self.targets, self.array
        if self.mode == "index" and self.step and targets is not None:
            targets = targets[samples]
        if self.mode == "array" and array is not None:
            array = array[samples]
        return Start(self.mode, targets, self.step, self.count, array, self.window, self.passes)

    def with_passes(self, passes: Passes) -> Start:
        """The same start, from which the passes lead to as many relevances as they have targets."""
        count = len(passes.first) - 1
        return Start(self.mode, self.targets, self.step, count, self.array, self.window, passes)

    @property
    def starts(self) -> int:
        """The number of starting relevances of each sample."""
        return self.count if self.passes is None else 1


#: Each sample's largest output.
DEFAULT_START = Start()


class Fault:
    """A fault in a run: its ``kind`` and the first ``sample`` that has it."""

    __slots__ = ("kind", "sample")

    def __init__(self, kind: str, sample: int) -> None:
        self.kind, self.sample = kind, sample


class Backend(Protocol):
    """The interface of a device to the engine."""

    name: str
    #: The largest number of bytes of input and output in one run, so that signals are handled between runs.
    batch_bytes: int
    #: Whether inputs and outputs may be arrays on a GPU.
    takes_device_arrays: bool
    #: Whether a run records the growth of relevance itself (growth.py).
    judges: bool

    def compile(self, program: Program) -> Compiled: ...

    def describe(self) -> dict[str, Any]:
        """Facts for ``lrpfast info``."""
        ...
