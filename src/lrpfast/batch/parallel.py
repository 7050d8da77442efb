"""Work on an array, divided among threads, for loops that release the GIL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..engine.threads import check_threads, get_num_threads

#: The least number of values for which another thread pays.
LEAST = 1 << 16


class ThreadedRange:
    """Ranges of an axis, one for each thread; used in a ``with`` statement.

    Parameters
    ----------
    length : int
        The length of the axis.
    unit : int
        Ranges begin at multiples of this number.
    values : int
        The number of values that a step touches; a small number needs only one thread.
    threads : int or None
        The largest number of threads; None means `lrpfast.get_num_threads`.
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
        """Run the steps, functions of (first, last), on every range; returns the sum of their results."""

        def one(share: tuple[int, int]) -> int:
            return sum(step(*share) or 0 for step in steps)

        return sum(map(one, self.ranges) if self._pool is None else self._pool.map(one, self.ranges))
