"""Interleaved timing: tools take turns, so that whatever the machine does beside them meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

#: A reading is the mean of as many calls as take about this long.
READING = 0.02
#: A first call that took longer than this is a reading itself; shorter ones only warm up.
SLOW = 1.0
#: Between two tools, so that the threads of the one (OpenMP's spin for a while) do not run into the other's time.
PAUSE = 0.01
#: Readings of the slowest tool.
LEAST = 3

#: Virtual machines are slowed by their host at times, to a tenth even. The machine's rate of multiply-adds is taken
#: before and after each reading; below this part of the highest seen, one waits, or reads again.
STEADY = 0.75
PATIENCE = 20.0
RETRIES = 3
#: Slow moments are short; a reading of more seconds than this meets some in any case, and is not taken again.
LONG = 5.0

#: Seconds of a call, the mean of ``number`` of them.
Clock = Callable[[int], float]


@dataclass
class Gauge:
    """Tells whether the machine runs at its full speed; ``rate`` measures that in any unit."""

    rate: Callable[[], float]
    best: float = 0.0
    again: int = 0  # readings that were taken again
    kept: int = 0  # readings that were kept although the machine was slow

    def steady(self) -> bool:
        now = self.rate()
        self.best = max(self.best, now)
        return now >= STEADY * self.best

    def read(self, clock: Clock, number: int) -> float:
        """A reading between two moments at which the machine was not slowed, if that can be had."""
        for _ in range(RETRIES):
            begin = time.monotonic()
            while not self.steady() and time.monotonic() - begin < PATIENCE:
                time.sleep(0.1)
            seconds = clock(number)
            if self.steady() or seconds * number > LONG:
                return seconds
            self.again += 1
        self.kept += 1
        return seconds


def calibrated(clock: Clock) -> tuple[float, int]:
    """Seconds of a call after a first one, and how many of them make a reading. A slow first call is not repeated."""
    first = clock(1)
    if first < SLOW:  # it may have set something up
        first = clock(1)
    return first, max(1, round(READING / first))


def interleaved(
    clocks: Mapping[str, Clock], rounds: int, seconds: float, gauge: Gauge | None = None
) -> dict[str, list[float]]:
    """Readings of every clock, in rounds; a tool that would take longer than ``seconds`` sits out some of them.

    It has at least three readings, or ``rounds`` where that is less, spread over the rounds.
    """
    readings: dict[str, list[float]] = {}
    numbers: dict[str, int] = {}
    turns: dict[str, int] = {}
    for name, clock in clocks.items():
        time.sleep(PAUSE)
        first, numbers[name] = calibrated(clock)
        readings[name] = [first] if first >= SLOW and gauge is None else []
        wanted = min(rounds, max(LEAST, int(seconds / (first * numbers[name]))))
        turns[name] = max(1, wanted - len(readings[name]))
    read = gauge.read if gauge else (lambda clock, number: clock(number))
    most = max(turns.values())
    for i in range(most):
        for name, clock in clocks.items():
            if (i + 1) * turns[name] // most > i * turns[name] // most:
                time.sleep(PAUSE)
                readings[name].append(read(clock, numbers[name]))
    return readings
