"""One pass over the data: statistics of the maps, accuracy, growth, and the samples that a report shows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..batch import Source, Statistics
from ..batch.chunks import rows_of
from ..batch.inputs import SeveralSource
from ..batch.normalize import normalize_rows
from ..engine.core import AnalyzerCore
from ..engine.growth import Growth
from ..engine.io_layout import IOSlot
from ..errors import InputError, SampleError
from ..kernels.arrays import to_host
from .kept import Kept
from .settings import Labels, ReportSettings

#: Maps of classes in a report, at most.
MOST_GROUPS = 12
#: Samples that are predicted first, to find the classes that occur most.
LOOKED_AT = 1024
#: Bytes that medians may take; without them there are means alone.
QUANTILE_BYTES = 256 << 20


@dataclass
class InputMaps:
    """The maps of one input, as far as they are counted.

    Attributes
    ----------
    name : str
    shape : tuple of int
        Of a sample.
    statistics : Statistics
        Of the maps by group.
    medians : bool
    absolute : float64 array, shape of a sample
        The sum of |R|, in the end its mean.
    by_token : tuple or None
        Of tokens: for each index its count and the sum of its relevance.
    """

    name: str
    shape: tuple[int, ...]
    statistics: Statistics
    medians: bool
    absolute: np.ndarray
    by_token: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def of(cls, slot: IOSlot, groups: int, memory: int) -> InputMaps:
        """Nothing counted yet of an input; medians, if they take no more than ``memory``."""
        shape = tuple(slot.shape)
        try:
            statistics = Statistics(shape, groups=groups, quantiles=True, quantile_memory=memory)
            medians = True
        except InputError:
            statistics, medians = Statistics(shape, groups=groups), False
        by_token = None if slot.entries is None else (np.zeros(slot.entries, np.int64), np.zeros(slot.entries))
        return cls(slot.name, shape, statistics, medians, np.zeros(shape), by_token)

    def update(self, first: int, x: np.ndarray, maps: np.ndarray, group: np.ndarray) -> None:
        """Count samples from ``first`` on."""
        self.statistics.update(first, maps, group)
        with np.errstate(invalid="ignore"):
            self.absolute += np.where(np.isnan(maps), 0, np.abs(maps)).sum(0, np.float64)
        if self.by_token is not None:
            index = x.astype(np.int64)
            np.add.at(self.by_token[0], index, 1)
            np.add.at(self.by_token[1], index, maps.astype(np.float64))


@dataclass
class Collected:
    """What one pass over the data leaves.

    Attributes
    ----------
    samples : int
    inputs : list of InputMaps
    groups : list
        The labels or classes of the groups; [None] for one group of all samples.
    grouped_by : str
    others : int
        Samples in no group.
    counts : dict
        Of `kernels.growth.Growth`.
    reached : float64 array, shape (samples,), or None
        ΣR over the explained output, of rules that have a balance.
    explained : float64 array, shape (samples,)
        The explained output.
    confusion : int array (classes, 2) or None
        Samples of each true class, and how many of them are predicted right.
    error : dict or None
        Of a regression: mean absolute error, correlation.
    kept : dict of str to Kept
        Among their rows are, of the i-th input, ``input i`` and ``relevance i``.
    """

    samples: int
    inputs: list[InputMaps]
    groups: list[Any]
    grouped_by: str
    others: int
    counts: dict[str, int]
    reached: np.ndarray | None
    explained: np.ndarray
    confusion: np.ndarray | None = None
    error: dict[str, float] | None = None
    kept: dict[str, Kept] = field(default_factory=dict)

    @property
    def right(self) -> float | None:
        """The share of samples that are predicted right; None where their classes are not known."""
        if self.confusion is None:
            return None
        return float(self.confusion[:, 1].sum() / max(1, self.confusion[:, 0].sum()))

    @property
    def median_reached(self) -> float | None:
        """The median share of the output that reaches the input; None where none is known."""
        if self.reached is None or not np.isfinite(self.reached).any():
            return None
        return float(np.median(self.reached[np.isfinite(self.reached)]))

    @property
    def doubtful(self) -> int:
        """The number of explanations that mean little."""
        return sum(self.counts.get(key, 0) for key in ("amplified", "vanished", "zero"))


def of_model(data: Source, x: np.ndarray) -> Any:
    """Samples of a source as the model takes them: a list for several inputs."""
    return data.rows.split(x) if isinstance(data, SeveralSource) else x


def class_count(core: AnalyzerCore) -> int | None:
    """The number of outputs that are classes, 1 for a single output; None where outputs have several axes."""
    shape = core.output_shape
    return int(shape[0]) if isinstance(shape, tuple) and len(shape) == 1 else None


def probabilities(core: AnalyzerCore, output: np.ndarray) -> np.ndarray | None:
    """The model's probabilities, from its output before a final softmax or sigmoid; None if it has neither."""
    final = core.model.layers[-1]
    function = getattr(final, "activation", None) or final
    name = getattr(function, "function", "")
    if name in ("softmax", "log_softmax") and name in core.settings.stripped:
        e = np.exp(output - output.max(1, keepdims=True))
        share: np.ndarray = e / e.sum(1, keepdims=True)
        return share
    if name == "sigmoid" and "sigmoid" in core.settings.stripped and output.shape[1] == 1:
        p = 1 / (1 + np.exp(-output[:, 0]))
        return np.stack([1 - p, p], 1)
    return None


class Collector:
    """The pass over the data.

    Parameters
    ----------
    core : AnalyzerCore
        For the data's sizes.
    data : Source
        As the model takes it; of several inputs a `SeveralSource`.
    settings : ReportSettings
    labels : Labels or None
    """

    def __init__(self, core: AnalyzerCore, data: Source, settings: ReportSettings, labels: Labels | None) -> None:
        self._core, self._data, self._settings, self._labels = core, data, settings, labels
        self._samples = int(data.shape[0] or 0)
        self._outputs = class_count(core)
        self._groups, self._grouped_by = self._choose_groups()
        slots = core.layout.inputs
        self._inputs = [InputMaps.of(slot, max(1, len(self._groups)), QUANTILE_BYTES // len(slots)) for slot in slots]
        self._explained = np.empty(self._samples)
        self._total = np.empty(self._samples)
        self._confusion = None
        if labels is not None and labels.kind == "class":
            self._confusion = np.zeros((max(2, self._outputs or 0), 2), np.int64)
        self._predicted_numbers = np.empty(self._samples) if labels is not None and labels.kind == "number" else None
        self._others = 0
        self._counts: dict[str, int] = {}
        self._kept = {name: Kept(settings.shown) for name in self._kinds()}

    def _kinds(self) -> tuple[str, ...]:
        """The samples that are kept."""
        balance = () if self._core.settings.gradients is not None else ("unbalanced",)
        if self._labels is not None and self._labels.kind == "class":
            return ("right", "wrong", *balance)
        if self._labels is not None and self._labels.kind == "number":
            return ("closest", "furthest", *balance)
        if self._outputs is not None and self._outputs > 1:
            return ("confident", "unsure", *balance)
        return ("largest", *balance)

    def _choose_groups(self) -> tuple[list[Any], str]:
        """The classes whose maps are shown: those of the labels, else those that are predicted."""
        if self._labels is not None and self._labels.kind != "number":
            values, counts = np.unique(self._labels.values, return_counts=True)
            grouped_by = "label"
        elif self._outputs is not None and self._outputs > 1 and self._labels is None:
            at = np.unique(np.arange(min(LOOKED_AT, self._samples)) * self._samples // min(LOOKED_AT, self._samples))
            rows = np.concatenate([self._data.read(int(i), int(i) + 1) for i in at])
            classes = self._core.outputs(of_model(self._data, rows)).argmax(1)
            if self._outputs <= MOST_GROUPS:
                return list(range(self._outputs)), "predicted class"
            values, counts = np.unique(classes, return_counts=True)
            grouped_by = "predicted class"
        else:
            return [None], "all samples"
        most = np.sort(np.argsort(-counts, kind="stable")[:MOST_GROUPS])
        return values[most].tolist(), grouped_by

    def run(self, progress: Callable[[int], object]) -> Collected:
        """Read, explain and count all samples."""
        core, data = self._core, self._data
        row = 4 * math.prod(core.layout.row) * core.settings.dtype.itemsize
        step = rows_of(row, core.plan.flops, self._samples, 1 << 36)
        for first in range(0, self._samples, step):
            stop = min(first + step, self._samples)
            data.ahead(first, stop)
            self._chunk(first, data.read(first, stop))
            data.done(stop)
            progress(stop - first)
        data.unchanged()
        return self._collected()

    def _chunk(self, first: int, x: np.ndarray) -> None:
        core, stop = self._core, first + len(x)
        target = self._target(first, stop)
        output = np.empty((len(x), *core.output_shape), core.settings.dtype)
        notes: list[Any] = []
        inputs = of_model(self._data, x)
        try:
            relevance = core.analyze(inputs, target, None, output, notes)
        except SampleError as error:
            raise error.moved(first) from None
        for key, count in Growth.of(notes, core.conserves).counts().items():
            self._counts[key] = self._counts.get(key, 0) + count
        y = output.reshape(len(x), math.prod(core.output_shape)).astype(np.float64)
        maps = [to_host(part) for part in (relevance if core.layout.several else [relevance])]
        parts = inputs if core.layout.several else [x]
        flat = np.concatenate([part.reshape(len(x), math.prod(part.shape[1:])) for part in maps], 1)
        self._explained[first:stop] = core.explained_values(inputs, target, output)
        self._total[first:stop] = np.nansum(flat, 1, np.float64)
        self._keep(first, parts, maps, y)
        self._count(first, stop, parts, flat, y)

    def _target(self, first: int, stop: int) -> Any:
        target = self._settings.target
        if isinstance(target, np.ndarray):
            return target[first:stop]
        return target

    def _count(self, first: int, stop: int, x: list[np.ndarray], rows: np.ndarray, y: np.ndarray) -> None:
        """Statistics by group, and what is summed over all samples; ``rows`` are changed."""
        if self._settings.normalize is not None:  # all inputs' together
            normalize_rows(rows, self._settings.normalize)
        predicted = _predicted(y)
        group = np.zeros(len(rows), np.int64)
        if self._grouped_by != "all samples":
            own = predicted if self._labels is None else self._labels.values[first:stop]
            group = np.full(len(rows), -1)
            for g, label in enumerate(self._groups):
                group[own == label] = g
            self._others += int((group < 0).sum())
        at = 0
        for maps, part in zip(self._inputs, x, strict=True):
            size = math.prod(maps.shape)
            own_maps = np.ascontiguousarray(rows[:, at : at + size]).reshape(len(rows), *maps.shape)
            maps.update(first, part, own_maps, group)
            at += size
        if self._confusion is not None and self._labels is not None:
            true = self._labels.values[first:stop]
            classes = len(self._confusion)
            self._confusion[:, 0] += np.bincount(true, minlength=classes)
            self._confusion[:, 1] += np.bincount(true[predicted == true], minlength=classes)
        if self._predicted_numbers is not None:
            self._predicted_numbers[first:stop] = y[:, 0]

    def _keep(self, first: int, x: list[np.ndarray], relevance: list[np.ndarray], y: np.ndarray) -> None:
        """The samples that are shown."""
        core, kept = self._core, self._kept
        part = slice(first, first + len(y))
        predicted = _predicted(y)
        share = probabilities(core, y)
        everything = np.ones(len(y), bool)
        if share is not None:
            confidence = share.max(1)
        elif y.shape[1] > 1:
            ordered = np.partition(y, -2, 1)
            confidence = ordered[:, -1] - ordered[:, -2]
        else:
            confidence = np.abs(y[:, 0])
        rows = {
            **{f"input {i}": values for i, values in enumerate(x)},
            **{f"relevance {i}": values for i, values in enumerate(relevance)},
            "predicted": predicted,
            "confidence": confidence,
            "explained": self._explained[part],
            "total": self._total[part],
        }
        if self._labels is not None:
            rows["label"] = true = self._labels.values[part]
            if "right" in kept:
                kept["right"].update(confidence, predicted == true, first, rows)
                kept["wrong"].update(confidence, predicted != true, first, rows)
            if "closest" in kept:
                rows["predicted"] = y[:, 0]
                error = np.abs(y[:, 0] - true)
                kept["closest"].update(-error, everything, first, rows)
                kept["furthest"].update(error, everything, first, rows)
        if "confident" in kept:
            kept["confident"].update(confidence, everything, first, rows)
            kept["unsure"].update(-confidence, everything, first, rows)
        if "largest" in kept:
            rows["predicted"] = y[:, 0]
            kept["largest"].update(np.abs(self._explained[part]), everything, first, rows)
        if "unbalanced" in kept:
            explained, total = self._explained[part], self._total[part]
            with np.errstate(divide="ignore", invalid="ignore"):
                missing = np.abs(explained - total) / np.abs(explained)
            kept["unbalanced"].update(missing, np.isfinite(missing), first, {**rows, "missing": missing})

    def _collected(self) -> Collected:
        reached = None
        if self._core.settings.gradients is None:
            with np.errstate(divide="ignore", invalid="ignore"):
                reached = self._total / self._explained
        error = None
        if self._predicted_numbers is not None and self._labels is not None:
            difference = self._predicted_numbers - self._labels.values
            error = {"mean absolute error": float(np.abs(difference).mean())}
            if self._samples > 1 and self._predicted_numbers.std() > 0 and self._labels.values.std() > 0:
                error["correlation"] = float(np.corrcoef(self._predicted_numbers, self._labels.values)[0, 1])
        for maps in self._inputs:
            maps.absolute /= max(1, self._samples)
        return Collected(
            samples=self._samples,
            inputs=self._inputs,
            groups=self._groups,
            grouped_by=self._grouped_by,
            others=self._others,
            counts=self._counts,
            reached=reached,
            explained=self._explained,
            confusion=self._confusion,
            error=error,
            kept=self._kept,
        )


def _predicted(y: np.ndarray) -> np.ndarray:
    """The class of each sample: a single output is a logit, above zero for class 1."""
    predicted: np.ndarray = (y[:, 0] > 0).astype(np.int64) if y.shape[1] == 1 else y.argmax(1)
    return predicted
