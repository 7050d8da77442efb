"""Comparisons with the float64 oracle, counted: a line for each precision, by the tests' tolerances."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpu_lines import Report, Step, is_lost, reason
from tolerances import Expected

PRECISIONS = ("float32", "float64", "tf32", "3xtf32")
#: Failures of a line that the table shows; the JSON file has them all.
SHOWN = 3
#: Of so many different samples are large batches made, time and again, as the oracle is slow: every row is compared.
DISTINCT = 3


def real(precision: str) -> Any:
    return np.float64 if precision == "float64" else np.float32


def again(distinct: np.ndarray, count: int) -> np.ndarray:
    """A batch of ``count`` samples made of a few."""
    return distinct[np.arange(count) % len(distinct)]


def expected_again(compute: Callable[[Any], np.ndarray], count: int) -> Expected:
    """What is expected of `again`."""
    return Expected(lambda ar: again(compute(ar), count), together=False)


@dataclass
class Tally:
    """One line: the comparisons of some cases in one precision."""

    precision: str
    count: int = 0
    worst: float = 0.0  # of what the tolerance allows
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def compare(self, expected: Expected, what: str, compute: Callable[[], np.ndarray]) -> None:
        """Compute and compare; a failure is noted, and stops the step only where the device is lost by it."""
        begin = time.monotonic()
        self.count += 1
        try:
            got = compute()
            expected.check(got, self.precision, what)
            exact, allowed = expected.within(self.precision)
            off = np.abs(got - exact)
            if off.size:
                self.worst = max(self.worst, float((off / np.where(allowed > 0, allowed, 1)).max()))
        except Exception as error:
            self.failures.append(f"{what}: {reason(error)}" if what not in str(error) else reason(error))
            if is_lost():
                raise DeviceLost(self.failures[-1]) from error
        finally:
            self.seconds += time.monotonic() - begin

    def say(self, report: Report, what: str) -> None:
        """The line; says nothing where there was nothing to compare."""
        if not self.count:
            return
        if self.failures:
            result = f"{len(self.failures)} of {self.count} wrong: {'; '.join(self.failures[:SHOWN])}"
        else:
            result = f"{self.count} right, at most {self.worst:.2f} of the tolerance"
        status = "FAIL" if self.failures else "ok"
        facts = {"cases": self.count, "worst": self.worst, "failures": self.failures}
        report.line(f"{what}, {self.precision}", result, status, self.seconds, **facts)


class DeviceLost(Exception):
    """After this error the device takes no more work."""


def tallied(what: str, work: Callable[[dict[str, Tally]], None]) -> Step:
    """A step that fills a tally for each precision and says a line for each."""

    def step(report: Report) -> None:
        tallies = {p: Tally(p) for p in PRECISIONS}
        lost = None
        try:
            work(tallies)
        except DeviceLost as error:
            lost = error
        for tally in tallies.values():
            tally.say(report, what)
        if lost is not None:
            report.fail(f"{what}, the rest", f"not run: the device is lost after {lost}")

    return what, step
