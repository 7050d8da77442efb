"""Work on an array shared out among threads, for loops that give Python's lock free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..engine.threads import check_threads, get_num_threads

#: Less than so many values are not worth a thread.
LEAST = 1 << 16


class ThreadedRange:
    """Ranges of an axis, one for each thread; used in a ``with`` statement.

    Parameters
    ----------
    length : int
        The axis's.
    unit : int
        Ranges begin at multiples of it.
    values : int
        How many values a step touches in all: few need no second thread.
    threads : int or None
        At most so many; None as in `lrpfast.get_num_threads`.
    """

    def __init__(self, length: int, unit: int, values: int, threads: int | None) -> None:
        most = check_threads(threads) or get_num_threads()
        units = -(-length // unit)
        count = max(1, min(most, units, values // LEAST))
        borders = [min(length, unit * (units * i // count)) for i in range(count + 1)]
        self.ranges = list(zip(borders, borders[1:], strict=False))
        self._pool: Any = None

    def __enter__(self) -> ThreadedRange:
        if len(self.ranges) > 1:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(len(self.ranges))
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, steps: Sequence[Callable[[int, int], int | None]]) -> int:
        """Take every range through the steps (functions of first and last); the sum of what they return."""

        def one(share: tuple[int, int]) -> int:
            return sum(step(*share) or 0 for step in steps)

        return sum(map(one, self.ranges) if self._pool is None else self._pool.map(one, self.ranges))
