"""How relevance grows on its way from the output to the input, and when that is worth a warning.

Σ|R| of the input over Σ|R| at the start says it for one explanation. A rule that conserves relevance keeps ΣR, so
that what reaches the input cannot fall below |ΣR| of the start unless something took it: biases, stabilizers, or
denominators of zero. A difference of outputs may cancel; therefore growth is measured by Σ|R|, and loss by |ΣR|.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import device_of, module_of, to_host
from .interface import Start

#: Growth above which single values mean little: they are a thousand times what they explain and cancel to it. α2β1 may
#: triple Σ|R| in a layer by construction, so that a lower limit would speak of ordinary networks.
MOST = 1000.0
#: Of the output, what must reach the input at least: with less, something else than the input was explained.
LEAST = 1 / MOST
#: Explanations that are judged of a call on a backend that does not judge while it runs.
MOST_JUDGED = 16

#: What a run notes of the explanations that it judged, where any is worth a word: how many grew too much, reach the
#: input with too little, are zero everywhere; of the last, how many began with zero, and with a negative sum; the
#: largest growth and its sample, the smallest and its sample, the first sample whose relevance is zero; the step.
Note = tuple[int, int, int, int, int, float, int, float, int, int, int]


#: The counts of `Growth`.
COUNTS = ("amplified", "vanished", "zero", "nothing", "negative")


@dataclass
class Growth:
    """What the runs of one call noted, together.

    Attributes
    ----------
    amplified, vanished, zero : int
        Explanations whose relevance grew beyond `MOST`, of which less than `LEAST` is left, and that are zero.
    nothing, negative : int
        Of those that are zero: that began with zero, and with a negative sum.
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
    def of(cls, notes: Iterable[tuple[int, Note]], conserving: bool = True) -> Growth:
        """From (first sample, note) of every run; a plan that does not conserve is judged by its zeros alone."""
        result = cls()
        for first, note in notes:
            result.zero, result.nothing = result.zero + note[2], result.nothing + note[3]
            result.negative, result.step = result.negative + note[4], max(result.step, note[10])
            if note[2] and result.first_zero < 0:
                result.first_zero = first + note[9]
            if conserving:
                result.amplified, result.vanished = result.amplified + note[0], result.vanished + note[1]
                if note[0] and note[5] > result.largest[0]:
                    result.largest = note[5], first + note[6]
                if note[1] and note[7] < result.smallest[0]:
                    result.smallest = note[7], first + note[8]
        return result

    @classmethod
    def from_counts(cls, counts: Mapping[str, int]) -> Growth:
        """Of a data set, from the sums of `counts`."""
        result = cls()
        for key in COUNTS:
            setattr(result, key, counts[key])
        return result

    def counts(self) -> dict[str, int]:
        """What adds up over the chunks of a data set."""
        return {key: getattr(self, key) for key in COUNTS}


def judge(relevance: Any, output: np.ndarray, start: Start, rectify: bool, step: int) -> Note | None:
    """The note of some explanations, from their relevance (samples, targets, …) and outputs (samples, outputs).

    For backends that do not judge while they run. ``step`` samples of the call lie between two of these.
    """
    with device_of(relevance):
        absolute = abs(relevance)
        sums = module_of(relevance).nansum(absolute.reshape(*absolute.shape[:2], -1), 2, np.float64)
        after: np.ndarray = to_host(sums)
    y = np.maximum(output, 0) if rectify and start.mode != "pair" else output
    y = y.astype(np.float64)
    low, size = start.window or (0, y.shape[1])
    if start.mode == "array":
        assert start.array is not None
        chosen = start.array.reshape(len(y), 1, -1).astype(np.float64)
    elif start.mode == "max":
        chosen = y[:, low : low + size].max(1)[:, None, None]
    elif start.mode == "all":
        chosen = y[:, None, low : low + size]
    else:
        assert start.targets is not None
        targets = start.targets.reshape(-1, 2 if start.mode == "pair" else start.count)
        indices = np.broadcast_to(targets, (len(y), targets.shape[1]))
        chosen = np.take_along_axis(y, indices, 1)
        chosen = chosen[:, None] * [1, -1] if start.mode == "pair" else chosen[:, :, None]
    before, total = np.abs(chosen).sum(2), chosen.sum(2)
    nonzero_start = before > 0 if start.mode == "array" else np.ones_like(before, bool)
    zero = (after == 0) & nonzero_start
    amplified = ~zero & (after > MOST * before) & nonzero_start
    vanished = ~zero & (after < LEAST * np.abs(total)) & nonzero_start
    if not (zero | amplified | vanished).any():
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.where(amplified, after / before, 0.0)
        share = np.where(vanished, after / np.abs(total), np.inf)
    return (
        *(int(mask.sum()) for mask in (amplified, vanished, zero, zero & (before == 0), zero & (total < 0))),
        *(float(growth.max()), step * int(growth.max(1).argmax())),
        *(float(share.min()), step * int(share.min(1).argmin())),
        *(step * int(zero.any(1).argmax()), step),
    )  # type: ignore[return-value]
