"""Interprets the options ``--plot…``."""

from __future__ import annotations

import argparse
import math
import os
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import plot
from ..analyzer import Analyzer
from ..batch import ALL, NORMALIZATIONS, Source, Statistics, open_mask, open_source
from ..batch.groups import GROUP
from ..batch.times import times_of
from ..coordinates import latitudes_and_longitudes
from ..engine.inputs import as_batch
from ..errors import InputError, RelevanceWarning
from ..plot.file import check_path
from ..plot.samples import LIMIT, MOST_PANELS, check_limit
from .options import target


@dataclass(frozen=True)
class Picture:
    """A picture of the first relevances that ``explain`` writes.

    Attributes
    ----------
    analyzer : Analyzer
    inputs : Source
    samples : int
    limit : int
        The largest number of samples to draw.
    beneath : bool
        Whether the inputs are drawn beneath their relevance.
    title : str
    arguments : dict
        Keywords of `lrpfast.plot.heatmap`.
    mask : str or None
        The file with the mask of the model's features.
    largest_from : str or None
        The layer whose largest output is explained, "" for the model's output; None for any other target.
    """

    analyzer: Analyzer
    inputs: Source
    samples: int
    limit: int
    beneath: bool
    title: str
    arguments: dict[str, Any]
    mask: str | None
    largest_from: str | None

    def __call__(self, path: str | None, statistics: Statistics | None = None) -> Any:
        """Draw the relevances in the file at ``path``, or without one the mean maps of statistics."""
        if path is None and statistics is not None:
            return self.of_means(statistics)
        assert path is not None
        with open_source(path) as relevances:
            count = min(self.limit, self.samples)
            x = self.inputs.read(0, count)
            labels = _dates(self.inputs, count)
            if self.largest_from is not None:
                features = x
                if self.mask is not None:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", UserWarning)  # the run has warned of the alignment
                        features = x[..., open_mask(self.mask, self.inputs)]
                labels = _largest(self.analyzer, features, self.largest_from or None, labels)
            return self.draw(relevances.read(0, count), x, self.samples, labels)

    def draw(self, relevance: np.ndarray, x: np.ndarray, samples: int, labels: list[str] | None = None) -> Any:
        """Draw the first of this number of samples."""
        title = self.title + (f": first {len(x):,} of {samples:,} samples" if len(x) < samples else "")
        arguments = {"title": title, **self.arguments}
        if relevance.ndim == x.ndim:
            return plot.heatmap(relevance, x if self.beneath else None, limit=self.limit, labels=labels, **arguments)
        count = relevance.shape[1]  # a row for each sample, a column for each target
        return plot.heatmap(
            relevance.reshape(-1, *relevance.shape[2:]),
            np.repeat(x, count, 0) if self.beneath else None,
            limit=MOST_PANELS,
            rows=_dates(self.inputs, len(x)) or [f"sample {i}" for i in range(len(x))],
            columns=[f"target {j}" for j in range(count)],
            **arguments,
        )

    def of_means(self, statistics: Statistics) -> Any:
        """Draw the mean maps of statistics, one for each group."""
        means, name = statistics.mean, statistics.group_name
        numbered = name != GROUP and all(isinstance(group, (int, np.integer)) for group in statistics.groups)
        groups = [f"{name} {group}" if numbered else str(group) for group in statistics.groups]
        arguments = {"title": f"mean relevance, {self.title}", "limit": MOST_PANELS, **self.arguments}
        extra = means.ndim - len(self.inputs.shape)
        if extra == 0:
            return plot.heatmap(means, labels=["" if group == ALL else group for group in groups], **arguments)
        columns = [f"target {j}" for j in range(means.shape[1])]
        flat = means.reshape(-1, *means.shape[2:])
        return plot.heatmap(flat, rows=groups, columns=columns, **arguments)

    def check(self, axes: tuple[int, ...]) -> None:
        """Check the options by drawing zeros, with this number of targets for each sample."""
        check_limit(self.limit)
        check_limit(max(1, min(self.limit, self.samples)), math.prod(axes))
        few = min(1, self.samples)
        zeros = np.broadcast_to(np.float32(0), (few, *axes, *self.inputs.shape[1:]))
        self.draw(zeros, zeros[:, 0] if axes else zeros, few)


def picture_of(options: argparse.Namespace, analyzer: Analyzer, inputs: Source) -> Picture | None:
    """The function that draws the relevances of ``explain`` by the options ``--plot…``; None without ``--plot``.

    Errors in these options are raised here, before the work begins.
    """
    arguments = _arguments(options, analyzer, inputs)
    if options.plot is None:
        return None
    samples = inputs.shape[0]
    if samples is None:
        raise InputError("--plot needs inputs that can be read again")
    limit, beneath = arguments.pop("limit", LIMIT), arguments.pop("input", False)
    largest_from = (options.start or "") if options.target == "max" else None
    picture = Picture(
        *(analyzer, inputs, samples, limit, beneath, _title(options), arguments, options.mask, largest_from)
    )
    expected = analyzer.model.input_shape
    if isinstance(expected, tuple) and None not in expected and options.mask is None:
        # errors of the inputs come first
        as_batch(np.broadcast_to(np.zeros((), inputs.dtype), (samples, *inputs.shape[1:])), expected)
    axes: tuple[int, ...] = ()
    targets = target(options.target)
    if isinstance(targets, np.ndarray):
        axes = targets.shape[1:2] if targets.dtype.kind in "iu" else ()
    picture.check(axes)
    return picture


def _arguments(options: argparse.Namespace, analyzer: Analyzer, inputs: Source) -> dict[str, Any]:
    """The options ``--plot-…`` as keywords of `lrpfast.plot.heatmap`."""
    keys = (
        *("limit", "input", "kind", "shape", "channels", "mask", "origin", "scale", "percentile"),
        *("limits", "cmap", "projection"),
    )
    arguments = {key: value for key in keys if (value := getattr(options, f"plot_{key}")) is not None}
    if options.plot is None:
        if arguments:
            raise InputError(f"--plot-{next(iter(arguments))} goes with --plot FILE, which says where the picture goes")
        return {}
    check_path(options.plot)
    if options.mask is not None and len(inputs.shape) == 3 and arguments.get("kind", "auto") == "auto":
        arguments["kind"] = "image"  # a grid without channels, which looks like a sequence
    if "limits" in arguments:
        arguments["vmin"], arguments["vmax"] = arguments.pop("limits")
    if (coordinates := _coordinates(inputs)) is not None and arguments.get("kind", "auto") in ("auto", "image", "map"):
        arguments["coordinates"] = coordinates
    if "mask" in arguments:
        arguments["mask"] = open_mask(arguments["mask"])
    if "channels" in arguments:
        arguments["channels_first"] = arguments.pop("channels") == "first"
    elif "shape" not in arguments and isinstance(analyzer.model.input_shape, tuple):
        arguments["channels_first"] = analyzer.model.channels_first
    return arguments


def _coordinates(inputs: Source) -> tuple[np.ndarray, np.ndarray] | None:
    """The latitudes and longitudes of grids (samples, lat, lon), or with channels after them; None for other inputs."""
    if inputs.labels is None or len(inputs.shape) not in (3, 4):
        return None
    return latitudes_and_longitudes(inputs.labels.dims[1:3], inputs.labels.coords)


def _title(options: argparse.Namespace) -> str:
    title = f"{', '.join([options.rule, *options.rule_for])}, target {os.path.basename(options.target)}"
    if options.start is not None:
        title += f", from layer {options.start}"
    if options.normalize is not None:
        title += "".join(f", divided by the {NORMALIZATIONS[name]}" for name in options.normalize)
    return title


def _dates(inputs: Source, count: int) -> list[str] | None:
    """The dates of the first samples; None where their coordinate is no time."""
    labels = inputs.labels
    coord = None if labels is None else labels.coords.get(labels.dims[0])
    if labels is None or coord is None:
        return None
    times = times_of(labels.dims[0], coord._replace(values=coord.values[:count]))
    if times is None:
        return None
    dates = [str(date) for date in times.dates()]
    days = [date.split()[0] for date in dates]
    return days if len(set(days)) == count else dates


def _largest(analyzer: Analyzer, x: np.ndarray, start: str | None, dates: list[str] | None) -> list[str] | None:
    """The headings of samples whose largest output is explained, which they say if there are several outputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RelevanceWarning)  # no balance is shown
        explanation = analyzer.explain(x, target="max")
    if explanation.target is None or explanation.output[0].size == 1:
        return dates
    unit = "output" if start is None else "neuron"
    names = [f"sample {i}" for i in range(len(x))] if dates is None else dates
    return [f"{name}: {unit} {j}" for name, j in zip(names, explanation.target, strict=True)]
