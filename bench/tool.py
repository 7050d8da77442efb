"""A tool ready to explain, and a clock for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


class Missing(Exception):
    """A tool is not installed, or has no such rule; the message is the reason to skip it."""


@dataclass(frozen=True, eq=False)
class Tool:
    """A network, a rule and inputs, prepared: what is left is to explain them.

    Attributes
    ----------
    name : str
    samples : int
    take : callable
        A slice of the samples in the tool's own layout.
    explain : callable
        What is timed: takes what ``take`` gave.
    relevance : callable
        A channels-last array of what ``explain`` returns.
    """

    name: str
    samples: int
    take: Callable[[slice], Any]
    explain: Callable[[Any], Any]
    relevance: Callable[[Any], np.ndarray] = np.asarray

    def of_first(self, count: int) -> np.ndarray:
        """Relevance of the first samples."""
        return self.relevance(self.explain(self.take(slice(0, count))))

    def run(self, samples: int | None = None, size: int | None = None) -> Callable[[], Any]:
        """A call without arguments that explains the first ``samples``, ``size`` of them at a time."""
        samples = self.samples if samples is None else samples
        size = samples if size is None else size
        parts = [self.take(slice(i, min(i + size, samples))) for i in range(0, samples, size)]
        explain, only = self.explain, parts[0]
        if len(parts) == 1:
            return lambda: explain(only)

        def run() -> None:
            for part in parts:
                explain(part)

        return run

    def timer(self, samples: int | None = None, size: int | None = None) -> Timer:
        """A clock for `run`."""
        return Timer(self.run(samples, size))

    def close(self) -> None:
        """Nothing to end in this process."""


@dataclass(frozen=True, eq=False)
class Timer:
    """Seconds that one call takes, the mean of ``number`` of them in a row."""

    run: Callable[[], Any]

    def __call__(self, number: int = 1) -> float:
        run, repeats = self.run, range(number)
        begin = time.perf_counter()
        for _ in repeats:
            run()
        return (time.perf_counter() - begin) / number
