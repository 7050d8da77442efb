"""Whether a tool suffers where other processes keep the cores busy: the same readings, with two that spin beside it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cases import Case, opened
from conventions import THREADS
from timing import interleaved

#: Cases that are measured both ways: many short parallel regions, and one call of microseconds.
SHOWN = ("cnn-epsilon", "mlp_small-1", "mlp_small-10000")


@contextmanager
def spinning(count: int = THREADS) -> Iterator[None]:
    """That many processes that do nothing but keep a core busy."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.2)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(
    case: Case, rounds: int, seconds: float, small: bool, tools: tuple[str, ...]
) -> dict[str, dict[str, list[float]]]:
    """Readings of every tool, without and with spinning processes."""
    with opened(case, small, tools) as it:
        clocks = {timed.tool: timed.timer for timed in it.timed if not timed.way}
        idle = interleaved(clocks, rounds, seconds)
        with spinning():
            busy = interleaved(clocks, rounds, seconds)
    return {"idle": idle, "busy": busy}
