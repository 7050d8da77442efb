"""What backends and the engine say to each other: programs to run, where relevance starts, what went wrong."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

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
        notes: list[Any] | None = None,
        exact: bool = False,
    ) -> Fault | None:
        """Run on all samples of x into out; says what went wrong, if anything.

        A backend that `judges` appends to ``notes`` what growth.py counts, of all explanations where ``exact``.
        """
        ...


class Start:
    """How the starting relevance is chosen.

    ``mode`` is "max", "index" (``targets``: int64, ``step`` apart by sample,
    ``count`` to a sample), "pair" (two targets), "array" (``array`` itself, ``count`` rows to a sample) or "all".
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
    #: whether a run notes by itself how relevance grew, as growth.py says
    judges: bool

    def compile(self, program: Program) -> Compiled: ...

    def describe(self) -> dict[str, Any]:
        """Facts for ``lrpfast info``."""
        ...
