"""The work on the samples of a data set, in any process: explain, normalize, find the group."""

from __future__ import annotations

import math
import os
import secrets
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.conditions import Conditions
from ..engine.core import AnalyzerCore
from ..engine.exact import IndistinctError, exact
from ..engine.growth import Growth, warn
from ..engine.inputs import as_batch
from ..engine.provenance import deciding, record, target_text
from ..errors import InputError, SampleError, ShapeError
from ..lazy import lazy_property
from ..model.layers import Input, Permute
from ..rules import ZBox
from ..rules.bounds import moved
from ..version import __version__
from .bounds import outside
from .chunks import CHUNK_FLOPS, rows_of
from .compression import of_relevance
from .groups import Groups
from .normalize import Preparation
from .sample_arrays import Beside, SampleArray, sample_arrays, values_of
from .sinks import Sink, named, open_sink
from .sinks.for_inputs import open_several
from .targets import as_arrays, check_targets, is_per_sample, target_of_run
from .targets import rows_of as targets_of

if TYPE_CHECKING:
    from .hidden import LayerRows, LayerSettings
    from .inputs import InputRows
    from .metadata import ArrayMetadata, RowsShape

#: What a job counts, in addition to the counts of `kernels.growth.Growth`.
JOB_COUNTS = ("not_normalized", "out_of_bounds")


@dataclass
class Explained:
    """The relevance and the groups of some samples, with counts that add up.

    Attributes
    ----------
    relevance : array, shape (samples, *map_shape)
    group : int array, shape (samples,)
    counts : dict
        "not_normalized": explanations whose divisor is zero; "out_of_bounds": input values outside the bounds of a
        z-box; and those of `kernels.growth.Growth`.
    beside : list of arrays
        The values of `Job.sample_arrays`, if they are wanted.
    """

    relevance: np.ndarray
    group: np.ndarray
    counts: dict[str, int]
    beside: list[np.ndarray] = field(default_factory=list)


class Job:
    """The settings of one run over a data set, the same for every part of it.

    Parameters
    ----------
    core : AnalyzerCore
    shape : tuple
        The shape of all inputs, samples first; None for an unknown number of samples.
    dtype : dtype
        Of the inputs.
    target, group_by, correct
        As in `stream`.
    preparation : Preparation
        What is done to each explanation.
    inputs : InputRows, optional
        How several inputs lie in one row.
    layers : LayerSettings, optional
        The hidden layers whose relevance is wanted in place of the input's.
    labels : ArrayMetadata, optional
        The input's, for the arrays of ``layers``.
    grid : boolean array, optional
        The points of a grid that are the features, for the relevance of the input among ``layers``.

    Attributes
    ----------
    layers : LayerRows or None
    parts : InputRows or None
        The arrays that lie one after the other in a row of the result, if there are several.
    sample_arrays : tuple of SampleArray
        What `explain` computes of every sample beside its relevance; empty unless `keep_sample_arrays` was called.
    """

    def __init__(
        self,
        core: AnalyzerCore,
        shape: RowsShape,
        dtype: np.dtype,
        *,
        target: Any = None,
        preparation: Preparation = Preparation(),  # noqa: B008 - it is frozen
        group_by: Any = None,
        correct: Any = None,
        inputs: InputRows | None = None,
        layers: LayerSettings | None = None,
        labels: ArrayMetadata | None = None,
        grid: np.ndarray | None = None,
        conditions: Conditions | None = None,
    ) -> None:
        if inputs is not None and conditions is not None:
            inputs = replace(inputs, labels=tuple(item.of_several("condition") for item in inputs.labels))
        self.inputs, self.conditions = inputs, conditions
        if isinstance(core.input_shape, list) and inputs is None:
            raise InputError(
                f"the model has {len(core.input_shape)} inputs, this is one; use Analyzer.stream with a source for "
                "each, or Analyzer.analyze with a list"
            )
        none = np.empty((0, *shape[1:]), dtype)
        try:
            core = core.fixed(self._of_model(none))
            _check_shapes(core, shape, dtype, inputs)
        except ShapeError as error:
            advice = _advice(shape[1:], core.input_shape) if inputs is None else ""
            raise ShapeError(f"{error}{advice}") from None
        self.core, self._preparation, self._warned = core, preparation, False
        self.samples = shape[0]
        target = target_of_run(core, target)
        self._target, self._per_sample = target, is_per_sample(target)
        if self._per_sample:
            core.check_target(target)  # the caller's object: its array would carry less
            self._target = target = as_arrays(target)
            check_targets(core, target, self.samples)
        # explaining an empty batch shows the result's dtype, and whether it has an axis for several targets
        starts: list[Any] = []
        none_of = targets_of(target, slice(0)) if self._per_sample else target
        result = self._in_rows(core.analyze(self._of_model(none), none_of, starts=starts, conditions=conditions))
        self.dtype: np.dtype = result.dtype
        self.map_shape: tuple[int, ...] = result.shape[1:]
        self.feature_shape: tuple[int, ...] = none.shape[1:]
        self._target_axes: tuple[int, ...] = result.shape[1 : result.ndim - none.ndim + 1]
        self.targets = math.prod(self._target_axes)
        self._start = starts[0]
        self.sample_arrays: tuple[SampleArray, ...] = ()
        self._row_bytes = math.prod(self.map_shape) * result.itemsize + math.prod(none.shape[1:]) * (
            result.itemsize + none.itemsize
        )
        self.layers: LayerRows | None = None
        self.parts = inputs
        if layers is not None:
            self._set_layers(layers, labels, grid, result.ndim > none.ndim)
        self._bounds = _bounds_of(core)
        self.groups = Groups(core, self.samples, group_by, correct)

    def _set_layers(
        self, settings: LayerSettings, labels: ArrayMetadata | None, grid: np.ndarray | None, several: bool
    ) -> None:
        """Take hidden layers in place of the input."""
        from .hidden import LayerRows

        if several:
            raise InputError("layers= takes one target per sample, not several")
        names = [self.core.explained_model.nodes[i].name for i in self.core.explained_model.inputs]
        of_inputs = (labels,) if self.inputs is None else self.inputs.labels
        self.layers = LayerRows(self.core, settings, dict(zip(names, of_inputs, strict=True)), grid)
        self.parts = None if self.layers.single else self.layers.rows
        self.map_shape = self.layers.map_shape
        self._row_bytes += math.prod(self.map_shape) * self.dtype.itemsize

    def open_sink(self, out: Any) -> Sink:
        """The destination of rows: of several arrays, or of one."""
        if self.parts is not None:
            return open_several(out, self.parts, "inputs'" if self.layers is None else "layers'")
        if self.layers is not None and isinstance(out, (str, os.PathLike)):
            path, kind, array = named(os.fsdecode(out))
            if kind != "npy" and array is None:
                out = f"{path}:{self.layers.rows.names[0]}"
        return open_sink(out)

    def labels(self, of_input: ArrayMetadata | None) -> ArrayMetadata | None:
        """The metadata of the result, for a single array."""
        if of_input is not None and self.conditions is not None:
            return of_input.of_several("condition")
        return of_input if self.layers is None else self.layers.rows.labels[0]

    def _of_model(self, x: np.ndarray) -> Any:
        """Samples as the model takes them."""
        return x if self.inputs is None else self.inputs.split(x)

    def _in_rows(self, result: Any) -> np.ndarray:
        """Relevance as it is written: that of several inputs one after the other."""
        if self.inputs is None:
            array: np.ndarray = result
            return array
        leading = result[0].shape[: result[0].ndim - len(self.inputs.shapes[0])]
        rows = np.empty((*leading, sum(self.inputs.sizes)), result[0].dtype)
        self.inputs.join_into(result, rows)
        return rows

    def rows(self, threads: int) -> int:
        """The number of samples in a chunk for this number of threads, or for the analyzer's GPUs."""
        device = self.core.device
        flops = CHUNK_FLOPS["cpu"] * threads if device == "cpu" else CHUNK_FLOPS["gpu"] * (1 + device.count(","))
        gradients = self.core.settings.gradients
        passes = 1 if gradients is None else gradients.passes
        return rows_of(self._row_bytes, self.core.plan.flops * passes, self.samples, flops)

    @lazy_property
    def record(self) -> dict[str, str]:
        """The provenance of the relevances, as text. Computes a digest of all weights."""
        target = self.core.settings.target if self._target is None else self._target
        attributes = {"lrpfast_version": __version__, **record(self.core), "target": target_text(target)}
        hidden = {} if self.layers is None else self.layers.record
        if self.conditions is not None:
            attributes["conditions"] = " | ".join(self.conditions.texts)
            if self.conditions.parallel:
                attributes["parallel"] = "true"
        return {**attributes, **self._preparation.record, **hidden, **self.groups.attributes}

    @lazy_property
    def digest(self) -> str:
        """A digest of everything that a sample's relevance depends on, to the last bit.

        Raises
        ------
        IndistinctError
            When two jobs cannot be distinguished: the target is an object with a state of its own.
        """
        target = self.core.settings.target if self._target is None else self._target
        hidden = None if self.layers is None else self.layers.deciding
        conditions = () if self.conditions is None else (self.core.deciding_conditions(self.conditions),)
        of_job = target, self._preparation, hidden, self.groups.deciding, self.map_shape, self.dtype.str, *conditions
        return exact([__version__, self.record["model_digest"], deciding(self.core), of_job])

    def key(self) -> str:
        """`digest`, or a unique name if there is no digest."""
        try:
            return self.digest
        except IndistinctError:
            return secrets.token_hex(16)

    def explain(self, first: int, x: np.ndarray, out: np.ndarray | None = None, target: Any = None) -> Explained:
        """The relevance of the samples from ``first`` on, written to ``out`` if given; ``target`` replaces the job's.

        Raises
        ------
        SampleError
            With the sample's index in the whole data set.
        """
        rows = len(x)
        if out is None:
            out = np.empty((rows, *self.map_shape), self.dtype)
        if target is None:
            part = slice(first, first + rows)
            target = targets_of(self._target, part) if self._per_sample else self._target
        output = None
        if self.groups.needs_output or self.sample_arrays:
            output = np.empty((rows, math.prod(self.core.layout.output_row)), self.dtype)
        notes: list[Any] = []
        try:
            not_normalized, beside = self._fill(x, target, out, output, notes)
        except SampleError as error:
            raise error.moved(first) from None
        counts = {**dict.fromkeys(JOB_COUNTS, 0), **Growth.of(notes, self.core.conserves).counts()}
        counts["not_normalized"] = not_normalized
        parts = self._of_model(x) if self.inputs else [x]
        for i, low, high in self._bounds:
            counts["out_of_bounds"] += outside(parts[i], low, high, threads=self.core.settings.threads)
        return Explained(out, self.groups.of(first, rows, output), counts, beside)

    def keep_sample_arrays(self) -> None:
        """Let `explain` compute the prediction, the explained output, the target and the share of every sample too."""
        self.sample_arrays = sample_arrays(self.core, self._start, self._target_axes, self.conditions is not None)

    def _fill(
        self, x: np.ndarray, target: Any, out: np.ndarray, output: np.ndarray | None, notes: list[Any]
    ) -> tuple[int, list[np.ndarray]]:
        """Write relevance to ``out``; returns how many explanations could not be normalized, and the sample arrays."""
        if self.layers is not None:
            of_model, arrays = self._of_model(x), self.sample_arrays
            return self.layers.fill(self.core, of_model, target, out, output, notes, self._preparation, arrays)
        settings, starts, into = self.core.settings, [], None if self.inputs else out  # type: ignore[var-annotated]
        result = self.core.analyze(
            self._of_model(x), target, into, output, notes, starts=starts, conditions=self.conditions
        )
        if self.inputs:
            self.inputs.join_into(result, out)
        beside: list[np.ndarray] = []
        if self.sample_arrays and output is not None:  # before relevance is changed
            beside = values_of(self.sample_arrays, starts[0], output, out, settings.rectify, settings.threads)
        if not self._preparation.changes:
            return 0, beside
        flat = out.reshape(-1, math.prod(self.feature_shape))
        self._preparation.select(flat)
        return self._preparation.normalize(flat, threads=settings.threads), beside

    def growth(self, counts: dict[str, int]) -> Growth:
        """The growth of relevance, from these counts."""
        return Growth.from_counts(counts)

    def warn_once(self, result: Explained) -> None:
        """Warn of growing or vanishing relevance, once in this process."""
        growth = self.growth(result.counts)
        if not self._warned and any(growth.counts().values()):
            self._warned = True
            warn(growth, len(result.relevance) * self.targets, self.core.settings.rectify)


def prepare_sink(sink: Sink, job: Job, compression: str) -> None:
    """Let a sink whose format has room for them hold the sample arrays of a job, and the bounds of a z-box."""
    if (relevance_compression := of_relevance(compression)) is not None:
        sink.compress(relevance_compression)
    if not sink.holds_sample_arrays:
        return
    job.keep_sample_arrays()
    maps: dict[str, Any] = {}
    for _, low, high in job._bounds if job.inputs is None and job.layers is None else ():
        for name, bound, text in (("low", low, "lowest"), ("high", high, "highest")):
            constant = bound.size and (bound == bound.flat[0]).all()
            attrs = {"long_name": f"{text} value of the input, as rule z_box assumes"}
            maps[name] = (np.asarray(bound.flat[0] if constant else bound, np.float64), attrs)
    sink.put_beside(Beside(job.sample_arrays, maps), len(job.feature_shape))


def _check_shapes(core: AnalyzerCore, shape: RowsShape, dtype: np.dtype, inputs: InputRows | None) -> None:
    """ShapeError unless samples of these shapes are the model's."""
    samples = shape[0] or 0
    if inputs is None:
        as_batch(np.broadcast_to(np.zeros((), dtype), (samples, *shape[1:])), core.input_shape)
        return
    for name, own, expected in zip(inputs.names, inputs.shapes, core.input_shape, strict=True):
        as_batch(np.broadcast_to(np.zeros((), dtype), (samples, *own)), expected, f"input {name!r}")


def _advice(sample: tuple[int, ...], features: tuple[int | None, ...]) -> str:
    """Advice for samples on a grid, when the model takes a row of as many features or fewer."""
    if len(sample) > 1 and len(features) == 1 and math.prod(sample) >= (features[0] or 0):
        return (
            "; where the features are points of a grid, mask= says which: a boolean grid of the same shape or, as an "
            "xarray.DataArray or a NetCDF or Zarr file, one that has the data's coordinates in any order"
        )
    return ""


def _bounds_of(core: AnalyzerCore) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """The bounds, shaped as the model's input, of every z-box that looks at an input itself, after its index."""
    model, bounds = core.model, []
    for i, rule in core.assignment.rules.items():
        if isinstance(rule, ZBox):
            path = moved(model, model.nodes[i].inputs[0])
            shape: Any = model.nodes[path[0]].shape
            low, high = (np.broadcast_to(bound, shape) for bound in (rule.low, rule.high))
            for mover, before in pairwise(path):
                layer, shape = model.nodes[mover].layer, model.nodes[before].shape
                if isinstance(layer, Permute):
                    low, high = (bound.transpose(np.argsort(layer.axes)) for bound in (low, high))
                else:
                    low, high = low.reshape(shape), high.reshape(shape)
            if isinstance(model.nodes[path[-1]].layer, Input):
                bounds.append((model.inputs.index(path[-1]), low, high))
    return bounds
