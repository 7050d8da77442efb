"""Samples of similar lengths in one batch, padded at their ends: which lengths, and which models allow it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence

import numpy as np

from ..errors import LrpfastError
from ..model.graph import Model
from ..model.layers import Embedding
from .padded_layers import Planned
from .padded_model import PaddedModel, fit_padding

#: Lengths to which samples are padded are multiples of a power of two, this many between a power and the next one, so
#: that calls with other lengths meet few programs. Twice as many took as long on random lengths.
_PER_OCTAVE = 4
#: Of compiling a program for one more layer, and of explaining one position through one weight, on one thread: 4 blocks
#: of width 128 take 45 ms for their 70 layers and 21 µs a position for their 800,000 weights.
_SECONDS_PER_LAYER = 6e-4
_SECONDS_PER_WEIGHT = 2.6e-11


def open_axes(model: Model) -> tuple[int, ...] | None:
    """The axis of each input that the model leaves open; None unless each has exactly one."""
    axes = []
    for i in model.inputs:
        shape = model.nodes[i].shape
        if shape.count(None) != 1:
            return None
        axes.append(shape.index(None))
    return tuple(axes)


class Padding:
    """What is known of padding one model: of each length, the model, or that there is none.

    Parameters
    ----------
    model : Model
        Of open length.
    prepare : callable
        What runs of a model of fixed length, its late selections moved up, and the rules of its layers.
    """

    def __init__(self, model: Model, prepare: Callable[[Model], Planned]) -> None:
        self._model, self._prepare = weakref.ref(model), prepare  # the model may keep this alive, not the other way
        self._fits: dict[int, tuple[PaddedModel | None, int]] = {}
        self._axes = open_axes(model)
        self._failed = self._axes is None
        sizes = [sum(a.size for a in vars(node.layer).values() if isinstance(a, np.ndarray)) for node in model.nodes]
        tables = sum(size for node, size in zip(model.nodes, sizes, strict=True) if isinstance(node.layer, Embedding))
        per_position = _SECONDS_PER_WEIGHT * max(1, sum(sizes) - tables)
        #: How many positions take as long as compiling for one more length.
        self.positions_per_compile = len(model.nodes) * _SECONDS_PER_LAYER / per_position

    def _of_length(self, length: int) -> Planned:
        model = self._model()
        assert model is not None, "whoever pads has the model"
        shapes = (model.nodes[i].shape for i in model.inputs)
        sizes = (tuple(length if n is None else n for n in shape) for shape in shapes)
        return self._prepare(model.with_input_shape(*sizes))

    def to(self, length: int, shortest: int) -> PaddedModel | None:
        """The model for samples from the shortest to this length; None where padding would change their numbers."""
        if self._failed:
            return None
        padded, least = self._fits.get(length, (None, length + 1))
        if shortest < least and (padded is not None or length not in self._fits):
            padded, shortest = self._fit(length, shortest)
            for old in list(self._fits)[:-15]:  # a copy, because other threads may run this, too
                self._fits.pop(old, None)
            self._fits[length] = (padded, shortest)
        return padded

    def _fit(self, length: int, shortest: int) -> tuple[PaddedModel | None, int]:
        """The model, and the shortest samples that it is for: shorter ones than these if possible, for later calls."""
        for least in sorted({max(2, 1 << shortest.bit_length() - 1), shortest}):
            try:
                padded = fit_padding(self._of_length(length), self._of_length(least), length, least)
            except LrpfastError:  # a model may refuse a length: that is said where a sample has it
                continue
            self._failed = padded is None
            return padded, least
        return None, shortest

    def lengths(self, has_program: Callable[[PaddedModel], bool]) -> list[int]:
        """The lengths of the models that a function says there is a program for."""
        return [n for n, (padded, _) in list(self._fits.items()) if padded is not None and has_program(padded)]

    def buckets(self, lengths: Sequence[int], compiled: Sequence[int]) -> list[int]:
        """To which length each sample is padded, so that compiling and explaining take the least time together.

        Lengths for which there is a program cost no compiling. A length of 1 stays as it is: a layer of one row may
        have another kernel.
        """
        values, counts = np.unique([n for n in lengths if n > 1], return_counts=True)
        if not len(values):
            return list(lengths)
        ends = sorted({*map(_rounded, values.tolist()), *(n for n in compiled if n <= 2 * values[-1])})
        below = np.searchsorted(values, ends, "right")  # how many lengths fit
        samples = np.concatenate([[0], np.cumsum(counts)])[below]
        costs = [0.0 if end in compiled else self.positions_per_compile for end in ends]
        best: list[float] = [math.inf] * len(ends)
        before = [-1] * len(ends)
        for k, end in enumerate(ends):
            for j in range(-1, k):
                total = (best[j] if j >= 0 else 0.0) + end * float(samples[k] - (samples[j] if j >= 0 else 0))
                if total + costs[k] < best[k]:
                    best[k], before[k] = total + costs[k], j
        whole = [k for k in range(len(ends)) if below[k] == len(values)]
        k, chosen = min(whole, key=lambda k: best[k]), []
        while k >= 0:
            chosen.append(ends[k])
            k = before[k]
        chosen.reverse()
        return [n if n <= 1 else chosen[int(np.searchsorted(chosen, n))] for n in lengths]


def _rounded(n: int) -> int:
    step = 1 << max(0, (n - 1).bit_length() - _PER_OCTAVE.bit_length())
    return -(-n // step) * step
