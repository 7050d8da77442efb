"""Relevance from layer to layer of one forward pass, where what goes on depends on what came before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..kernels import Start
from .programs import Programs
from .row_selection import Rows
from .settings import AnalyzerSettings


class Node(NamedTuple):
    """A layer's output: its shape, its value in the plan, and the rows of it that are computed, None for all."""

    shape: tuple[int, ...]
    value: int
    rows: Rows | None

    @property
    def size(self) -> int:
        """The number of values that are computed."""
        shape = self.shape if self.rows is None else self.rows.shape_in(self.shape)
        return math.prod(shape)

    def whole(self, values: np.ndarray) -> np.ndarray:
        """Rows of values in the layer's shape, with zeros where relevance is not computed because none arrives."""
        if self.rows is None:
            return values.reshape(-1, *self.shape)
        whole = np.empty((len(values), *self.shape), values.dtype)
        self.rows.put(values, whole)
        return whole


class LayerSteps:
    """Relevance of some layers of one sample, each from the relevance of the layer above it.

    Parameters
    ----------
    programs : Programs
    settings : AnalyzerSettings
    nodes : sequence of Node
        The layers, from above to below.
    x : array
        The sample, packed.
    start : Start
        What relevance begins with at the output.

    Attributes
    ----------
    relevance : array, shape of the first layer
    """

    def __init__(
        self, programs: Programs, settings: AnalyzerSettings, nodes: Sequence[Node], x: Any, start: Start
    ) -> None:
        self._programs, self._settings, self._nodes = programs, settings, nodes
        lowered, compiled = programs.steps(tuple(node.value for node in nodes))
        self._compiled, self._inputs, first = compiled[1:], lowered.inputs, lowered.first
        self._kept = {b: np.empty((1, first.sizes[b]), settings.dtype) for b in first.keep}
        assert first.result is not None
        result = np.empty((1, first.sizes[first.result]), settings.dtype)
        programs.run(compiled[0], x, result, 0, settings, start, self._kept)
        self.relevance: np.ndarray = nodes[0].whole(result)[0]

    def down(self, step: int, starts: np.ndarray) -> np.ndarray:
        """The relevance of layer ``step`` + 1 from each of several relevances of layer ``step``, (starts, *shape)."""
        upper, lower = self._nodes[step : step + 2]
        rows = starts if upper.rows is None else np.stack([upper.rows.of(start) for start in starts])
        array = np.ascontiguousarray(rows.reshape(1, len(starts), -1), self._settings.dtype)
        x = np.concatenate([self._kept[b] for b in self._inputs[step]], 1)
        size = lower.size
        result = np.empty((len(starts), 1, size), self._settings.dtype)
        start = Start("array", count=len(starts), array=array)
        self._programs.run(self._compiled[step], x, result, 0, self._settings, start)
        return lower.whole(result[:, 0])
