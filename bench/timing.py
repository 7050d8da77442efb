"""Interleaved timing: tools take turns, so that whatever the machine does beside them meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

#: A reading is the mean of as many calls as take about this long.
READING = 0.02
#: A first call that took longer than this is a reading itself; shorter ones only warm up.
SLOW = 1.0
#: Between two tools, so that the threads of the one (OpenMP's spin for a while) do not run into the other's time.
PAUSE = 0.01
#: Readings of the slowest tool.
LEAST = 3

#: Seconds of a call, the mean of ``number`` of them.
Clock = Callable[[int], float]


def calibrated(clock: Clock) -> tuple[float, int]:
    """Seconds of a call after a first one, and how many of them make a reading. A slow first call is not repeated."""
    first = clock(1)
    if first < SLOW:  # it may have set something up
        first = clock(1)
    return first, max(1, round(READING / first))


def interleaved(clocks: Mapping[str, Clock], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Readings of every clock, in rounds; a tool that would take longer than ``seconds`` sits out some of them.

    It has at least three readings, or ``rounds`` where that is less, spread over the rounds.
    """
    readings: dict[str, list[float]] = {}
    numbers: dict[str, int] = {}
    turns: dict[str, int] = {}
    for name, clock in clocks.items():
        time.sleep(PAUSE)
        first, numbers[name] = calibrated(clock)
        readings[name] = [first] if first >= SLOW else []
        wanted = min(rounds, max(LEAST, int(seconds / (first * numbers[name]))))
        turns[name] = max(1, wanted - len(readings[name]))
    most = max(turns.values())
    for i in range(most):
        for name, clock in clocks.items():
            if (i + 1) * turns[name] // most > i * turns[name] // most:
                time.sleep(PAUSE)
                readings[name].append(clock(numbers[name]))
    return readings
