"""The growth of relevance between the output and the input, and the limits for warnings.

The growth of an explanation is Σ|R| of the input over Σ|R| at the start. A rule that conserves relevance keeps ΣR, so
Σ|R| of the input cannot fall below |ΣR| of the start unless something took relevance: biases, stabilizers, or zero
denominators. A difference of outputs may cancel; therefore growth is measured by Σ|R|, and loss by |ΣR|.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import device_of, module_of, to_host
from .interface import Start

#: The growth above which single values mean little: they are a thousand times as large as the output, and cancel to it.
#: α2β1 may triple Σ|R| in each layer by construction, so a lower limit would warn for ordinary networks.
MOST = 1000.0
#: The least part of the output that must reach the input: with less, the explanation is not about the input.
LEAST = 1 / MOST
#: The number of explanations of a call that are judged on a backend that does not judge while it runs.
MOST_JUDGED = 16

#: The counts of `Growth` and `RunGrowth`.
COUNTS = ("amplified", "vanished", "zero", "nothing", "negative")


@dataclass(frozen=True, slots=True)
class RunGrowth:
    """How relevance grew in the explanations that one run judged, recorded where one of them calls for a warning.

    Attributes
    ----------
    amplified, vanished, zero, nothing, negative : int
        As in `Growth`.
    largest, smallest : float
        The largest growth of an amplified explanation, and the smallest remaining part of a vanished one.
    largest_sample, smallest_sample, first_zero : int
        The samples of these two, and the first one whose relevance is zero; the run's first sample is 0.
    step : int
        One in so many explanations was judged.
    """

    amplified: int
    vanished: int
    zero: int
    nothing: int
    negative: int
    largest: float
    largest_sample: int
    smallest: float
    smallest_sample: int
    first_zero: int
    step: int = 1


@dataclass
class Growth:
    """The growth of relevance in all runs of one call.

    Attributes
    ----------
    amplified, vanished, zero : int
        The numbers of explanations whose relevance grew beyond `MOST`, fell below `LEAST`, or is zero.
    nothing, negative : int
        Among those that are zero, the numbers of those that started with zero, and with a negative sum.
    largest, smallest : (factor, sample)
    first_zero : int
    step : int
        One in so many explanations was judged.
    """

    amplified: int = 0
    vanished: int = 0
    zero: int = 0
    nothing: int = 0
    negative: int = 0
    largest: tuple[float, int] = (0.0, -1)
    smallest: tuple[float, int] = (math.inf, -1)
    first_zero: int = -1
    step: int = 1

    @classmethod
    def of(cls, runs: Iterable[tuple[int, RunGrowth]], conserving: bool = True) -> Growth:
        """The sum of runs, each with the number of its first sample.

        A plan that does not conserve relevance is judged by its zeros alone.
        """
        result = cls()
        for first, run in runs:
            result.zero += run.zero
            result.nothing += run.nothing
            result.negative += run.negative
            result.step = max(result.step, run.step)
            if run.zero and result.first_zero < 0:
                result.first_zero = first + run.first_zero
            if conserving:
                result.amplified += run.amplified
                result.vanished += run.vanished
                if run.amplified and run.largest > result.largest[0]:
                    result.largest = run.largest, first + run.largest_sample
                if run.vanished and run.smallest < result.smallest[0]:
                    result.smallest = run.smallest, first + run.smallest_sample
        return result

    @classmethod
    def from_counts(cls, counts: Mapping[str, int]) -> Growth:
        """The growth in a data set, from the sums of `counts`."""
        result = cls()
        for key in COUNTS:
            setattr(result, key, counts[key])
        return result

    def counts(self) -> dict[str, int]:
        """The counts, which add up over the chunks of a data set."""
        return {key: getattr(self, key) for key in COUNTS}


def judge(relevance: Any, output: np.ndarray | None, start: Start, rectify: bool, step: int) -> RunGrowth | None:
    """The growth of some explanations, from their relevance (samples, targets, …) and outputs (samples, outputs).

    For backends that do not judge while they run. Of the call's samples, these are every ``step``-th. The outputs are
    not needed where the start is an array. None where there is nothing to warn of.
    """
    with device_of(relevance):
        absolute = abs(relevance)
        sums = module_of(relevance).nansum(absolute.reshape(*absolute.shape[:2], -1), 2, np.float64)
        after: np.ndarray = to_host(sums)
    initial = initial_relevance(output, start, rectify)
    before, total = np.abs(initial).sum(2), initial.sum(2)
    nonzero_start = before > 0 if start.mode == "array" else np.ones_like(before, bool)
    zero = (after == 0) & nonzero_start
    amplified = ~zero & (after > MOST * before) & nonzero_start
    vanished = ~zero & (after < LEAST * np.abs(total)) & nonzero_start
    if not (zero | amplified | vanished).any():
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.where(amplified, after / before, 0.0)
        share = np.where(vanished, after / np.abs(total), np.inf)
    return RunGrowth(
        amplified=int(amplified.sum()),
        vanished=int(vanished.sum()),
        zero=int(zero.sum()),
        nothing=int((zero & (before == 0)).sum()),
        negative=int((zero & (total < 0)).sum()),
        largest=float(growth.max()),
        largest_sample=step * int(growth.max(1).argmax()),
        smallest=float(share.min()),
        smallest_sample=step * int(share.min(1).argmin()),
        first_zero=step * int(zero.any(1).argmax()),
        step=step,
    )


def initial_relevance(output: np.ndarray | None, start: Start, rectify: bool) -> np.ndarray:
    """The relevance at which explanations start, shape (samples, targets, outputs or 1 or 2), float64."""
    if start.mode == "array":
        assert start.array is not None
        return start.array.reshape(len(start.array), start.starts, -1).astype(np.float64)
    assert output is not None
    y = (np.maximum(output, 0) if rectify and start.mode != "pair" else output).astype(np.float64)
    low, size = start.window or (0, y.shape[1])
    if start.mode == "max":
        largest: np.ndarray = y[:, low : low + size].max(1)
        return largest[:, None, None]
    if start.mode == "all":
        return y[:, None, low : low + size]
    assert start.targets is not None
    targets = start.targets.reshape(-1, 2 if start.mode == "pair" else start.starts)
    indices = np.broadcast_to(targets, (len(y), targets.shape[1]))
    values = np.take_along_axis(y, indices, 1)
    return values[:, None] * [1, -1] if start.mode == "pair" else values[:, :, None]
