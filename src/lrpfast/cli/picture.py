"""What the options ``--plot…`` stand for."""

from __future__ import annotations

import argparse
import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import plot
from ..batch import NORMALIZATIONS, Source, open_array, open_mask, open_source
from ..engine.analyzer import Analyzer
from ..engine.inputs import as_batch
from ..errors import AmplificationWarning, InputError
from ..plot.file import check_path
from ..plot.samples import LIMIT, MOST_PANELS, check_limit


def picture_of(options: argparse.Namespace, analyzer: Analyzer, inputs: Source) -> Callable[[str], Any] | None:
    """What draws the relevances that ``explain`` writes, by the options ``--plot…``; None without ``--plot``.

    Whatever can be wrong with these options is told here, before the work begins,
    by drawing a picture of zeros.
    """
    keys = ("limit", "input", "kind", "shape", "channels", "mask", "origin", "scale", "percentile")
    given = {key: value for key in keys if (value := getattr(options, f"plot_{key}")) is not None}
    if options.plot is None:
        if given:
            raise InputError(f"--plot-{next(iter(given))} goes with --plot FILE, which says where the picture goes")
        return None
    check_path(options.plot)
    if options.mask is not None and len(inputs.shape) == 3 and given.get("kind", "auto") == "auto":
        given["kind"] = "image"  # a grid without channels, which looks like a sequence
    if "mask" in given:
        given["mask"] = open_mask(given["mask"])
    if "channels" in given:
        given["channels_first"] = given.pop("channels") == "first"
    elif "shape" not in given and isinstance(analyzer.model.input_shape, tuple):
        given["channels_first"] = analyzer.model.channels_first
    limit, beneath = given.pop("limit", LIMIT), given.pop("input", False)
    title = f"{options.rule}, target {os.path.basename(options.target)}"
    if options.start is not None:
        title += f", from layer {options.start}"
    if options.normalize is not None:
        title += f", divided by the {NORMALIZATIONS[options.normalize]}"

    def draw(relevance: np.ndarray, x: np.ndarray, samples: int, labels: list[str] | None = None) -> Any:
        """The first of so many samples."""
        how = {"title": title + (f": first {len(x):,} of {samples:,} samples" if len(x) < samples else ""), **given}
        if relevance.ndim == x.ndim:
            return plot.heatmap(relevance, x if beneath else None, limit=limit, labels=labels, **how)
        count = relevance.shape[1]  # a row for each sample, a column for each target
        return plot.heatmap(
            relevance.reshape(-1, *relevance.shape[2:]),
            np.repeat(x, count, 0) if beneath else None,
            limit=MOST_PANELS,
            rows=[f"sample {i}" for i in range(len(x))],
            columns=[f"target {j}" for j in range(count)],
            **how,
        )

    samples = inputs.shape[0]
    if samples is None:
        raise InputError("--plot needs inputs that can be read again")
    wanted = analyzer.model.input_shape
    if isinstance(wanted, tuple) and None not in wanted and options.mask is None:
        # what is wrong with the inputs comes first
        as_batch(np.broadcast_to(np.zeros((), inputs.dtype), (samples, *inputs.shape[1:])), wanted)
    axes: tuple[int, ...] = ()
    if options.target.endswith(".npy"):
        chosen = open_array(options.target)
        axes = chosen.shape[1:2] if chosen.dtype.kind in "iu" else ()
    check_limit(limit)
    shown = min(limit, samples)
    check_limit(max(1, shown), math.prod(axes))
    zeros = np.broadcast_to(np.float32(0), (min(1, samples), *axes, *inputs.shape[1:]))
    draw(zeros, zeros[:, 0] if axes else zeros, min(1, samples))

    def drawn(path: str) -> Any:
        with open_source(path) as made:
            x = inputs.read(0, shown)
            features = x
            if options.mask is not None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # how it was aligned is told already
                    features = x[:, open_mask(options.mask, inputs)]
            labels = _largest(analyzer, features, options.start) if options.target == "max" else None
            return draw(made.read(0, shown), x, samples, labels)

    return drawn


def _largest(analyzer: Analyzer, x: np.ndarray, start: str | None) -> list[str] | None:
    """What stands above each sample of which the largest output is explained; None where there is but one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AmplificationWarning)  # no balance is shown
        made = analyzer.explain(x, target="max")
    if made.target is None or made.output[0].size == 1:
        return None
    what = "output" if start is None else "neuron"
    return [f"sample {i}: {what} {j}" for i, j in enumerate(made.target)]
