"""``lrpfast doctor``: checks a model and its inputs before a long run, on a few samples of the whole data set."""

from __future__ import annotations

import argparse
import itertools
import math
import time
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..analyzer import Analyzer
from ..batch import Source
from ..batch.masks import Masked, open_mask
from ..errors import LrpfastError, RelevanceWarning
from ..model.graph import Model
from ..model.layers import BatchNorm, Flatten, Identity, Input, Permute, Reshape
from ..table import counted
from . import options
from .warn import in_command

#: The largest number of samples that are looked at, at equal distances from the first to the last.
MOST_SAMPLES = 256
#: … and the approximate largest number of their bytes.
MOST_BYTES = 64 << 20
#: Seconds for which the speed is measured.
SECONDS = 0.5
#: Inputs whose mean or spread is further than this many spreads from those that the model was trained on are suspect.
_FAR = 3.0
#: … and so are those whose spread is larger or smaller by this factor.
_MOST_RATIO = 10.0
#: … and so are inputs of a model without a normalization that are larger than this: networks are trained on values of
#: the order of 1.
_LARGE = 20.0
#: The probability above which a prediction is certain.
_CERTAIN = 0.999


class Finding(NamedTuple):
    """The outcome of one check.

    Attributes
    ----------
    level : {"ok", "warning", "error"}
    name : str
        What was checked.
    text : str
    """

    level: str
    name: str
    text: str


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; 1 if a run would fail."""
    model = options.of_one_output(options.model_of(arguments), arguments, "doctor")
    arguments.inputs = options.inputs_of(arguments.inputs, model)
    arguments.open_inputs, arguments.several = options.opener(model, arguments), False
    counts = dict.fromkeys(("ok", "warning", "error"), 0)
    with arguments.open_inputs() as data:
        for finding in _findings(model, data, arguments):
            counts[finding.level] += 1
            print(f"{finding.level:8} {finding.name:11} {finding.text}")
    print(
        ", ".join(counted(counts[level], level) for level in ("error", "warning"))
        if counts["error"] + counts["warning"]
        else "all is well"
    )
    return 1 if counts["error"] else 0


def _findings(model: Model, data: Source, arguments: argparse.Namespace) -> Iterator[Finding]:
    """All findings, until one makes further checks meaningless."""
    yield Finding("ok", "model", f"takes {model.input_shape}, returns {model.output_shape}")
    if not data.shape[0]:
        yield Finding("error", "samples", f"{data.name} holds none: its shape is {data.shape}")
        return
    yield Finding("ok", "samples", f"{data.shape[0]:,} of shape {data.shape[1:]}, {data.dtype}{_units(data)}")
    grid_rows = _rows(data)
    try:
        features = data if arguments.mask is None else Masked(data, open_mask(arguments.mask, data))
    except LrpfastError as error:
        yield Finding("error", "mask", str(error))
        return
    if isinstance(features, Masked):
        yield _mask(features, grid_rows)
    mismatch = _shape(model, features)
    if mismatch is not None:
        yield mismatch
        return
    x = _rows(features)
    yield from _missing(x, data, arguments)
    finite = np.isfinite(x).reshape(len(x), -1).all(1)
    if not arguments.mask_nan:
        x = x[finite]
    if not len(x):
        return
    yield from itertools.chain(
        _range(model, x, data), _prediction(model, x, arguments), _relevance(model, x, features, arguments)
    )


def _units(data: Source) -> str:
    units = None if data.labels is None else data.labels.attrs.get("units")
    return f", in {units}" if isinstance(units, str) else ""


def _rows(data: Source) -> np.ndarray:
    """Some samples, at equal distances."""
    samples = data.shape[0] or 0
    count = min(samples, MOST_SAMPLES, max(1, MOST_BYTES // (4 * max(1, math.prod(data.shape[1:])))))
    indices = (np.arange(count) * samples // max(1, count)).tolist()
    return np.concatenate([data.read(i, i + 1) for i in indices])


def _mask(features: Masked, rows: np.ndarray) -> Finding:
    mask = features.mask
    points = rows.reshape(-1, *mask.shape)
    if points.dtype.kind != "f":
        return Finding("ok", "mask", f"{int(mask.sum()):,} of {mask.size:,} points")
    missing = np.isnan(points).all(0)
    outside = int((~mask & ~np.isnan(points).any(0)).sum())
    if (mask & missing).any():
        text = (
            f"{int((mask & missing).sum()):,} of its {int(mask.sum()):,} points are NaN in all samples that were read"
        )
        return Finding("error", "mask", f"{text}: is it the mask of these data, and True where the model has features?")
    if outside and missing.any():
        return Finding(
            "warning", "mask", f"leaves out {counted(outside, 'point')} with a value in all samples that were read"
        )
    return Finding(
        "ok", "mask", f"{int(mask.sum()):,} of {mask.size:,} points; values there in all samples that were read"
    )


def _shape(model: Model, data: Source) -> Finding | None:
    """The finding that samples do not have the model's shape, with a cure; None if they have."""
    expected, sample = tuple(model.input_shape), tuple(map(int, data.shape[1:]))
    if len(expected) == len(sample) and all(b in (None, a) for a, b in zip(sample, expected, strict=True)):
        return None
    text = f"the model takes samples of shape {expected}, the data have {sample}"
    for axes in itertools.permutations(range(len(sample))) if 1 < len(sample) == len(expected) < 5 else ():
        if all(expected[i] in (None, sample[axis]) for i, axis in enumerate(axes)):
            order = ", ".join(str(axis + 1) for axis in axes)
            return Finding("error", "axes", f"{text}: the axes stand in another order; x.transpose(0, {order}) fits")
    if len(expected) == 1 and math.prod(sample) > (expected[0] or 0):
        return Finding("error", "shape", f"{text}: --mask FILE says which points are the model's features")
    return Finding("error", "shape", text)


def _missing(x: np.ndarray, data: Source, arguments: argparse.Namespace) -> Iterator[Finding]:
    if x.dtype.kind != "f":
        return
    nan, infinite = np.isnan(x), np.isinf(x)
    if infinite.any():
        yield Finding(
            "error", "infinity", f"infinite: {counted(int(infinite.sum()), 'value')}, the first at {_first(infinite)}"
        )
    if nan.any():
        samples = int(nan.reshape(len(x), -1).any(1).sum())
        text = (
            f"NaN among the model's features in {samples:,} of {counted(len(x), 'sample')}, the first at {_first(nan)}"
        )
        cure = "--mask FILE leaves points out, --mask-nan says that NaN does not count, --fill-nan 0 replaces it"
        yield (
            Finding("ok", "NaN", f"{text}; it does not count")
            if arguments.mask_nan
            else Finding("error", "NaN", f"{text}: {cure}")
        )
    elif not infinite.any():
        yield Finding("ok", "NaN", "none among the model's features")


def _first(mask: np.ndarray) -> str:
    return f"feature {tuple(np.argwhere(mask)[0][1:].tolist())}"


def _range(model: Model, x: np.ndarray, data: Source) -> Iterator[Finding]:
    """Whether values are of the size that the model was trained on, as far as it tells."""
    values = np.asarray(x, np.float64)
    low, high, mean, std = (float(f(values)) for f in (np.nanmin, np.nanmax, np.nanmean, np.nanstd))
    text = f"{low:.4g} to {high:.4g}, mean {mean:.4g}, standard deviation {std:.4g}{_units(data)}"
    trained = _trained(model)
    if trained is not None:
        own = values.reshape(len(values), -1)
        own = np.nanmean(own if own.shape[1] == len(trained.mean) else own.reshape(-1, values.shape[-1]), 0)
        spread = float(trained.spread.mean())
        expected = (
            f"{trained.name!r} was trained on mean {float(trained.mean.mean()):.4g}, standard deviation {spread:.4g}"
        )
        away = float(np.median(np.abs(own - trained.mean) / trained.spread))
        if away > _FAR or not 1 / _MOST_RATIO < std / spread < _MOST_RATIO:
            advice = f"other units, or not as in training?{_kelvin(own - trained.mean)}"
            yield Finding("warning", "range", f"{text}; the layer {expected}: {advice}")
        else:
            yield Finding("ok", "range", f"{text}; the layer {expected}")
    elif max(abs(low), abs(high)) > _LARGE:
        advice = "the model has no normalization layer: were its inputs normalized in training, and are these?"
        yield Finding("warning", "range", f"{text}; {advice}")
    else:
        yield Finding("ok", "range", text)
    constant = int((np.nanmax(values, 0) == np.nanmin(values, 0)).sum()) if len(values) > 1 else 0
    if constant:
        yield Finding(
            "warning",
            "constant",
            f"{constant:,} of {values[0].size:,} features are the same in all samples that were read",
        )


def _kelvin(difference: np.ndarray) -> str:
    offset = abs(float(np.median(difference)))
    return " They differ by 273.15: Kelvin and degrees Celsius" if abs(offset - 273.15) < 20 else ""


class _Trained(NamedTuple):
    """What a normalization layer was trained on: the mean and spread of each feature, or of each channel."""

    name: str | None
    mean: np.ndarray
    spread: np.ndarray


def _trained(model: Model) -> _Trained | None:
    """From the normalization that sees the inputs themselves; None if there is none."""
    for node in model.nodes:
        layer = node.layer
        if isinstance(layer, BatchNorm):
            mean, spread = layer.mean.astype(np.float64), np.sqrt(layer.variance.astype(np.float64) + layer.epsilon)
            if not mean.any() and (layer.variance == 1).all():  # as a reader writes (x - mean) / spread
                factor = layer.factor()
                if not factor.all():
                    return None
                shift = np.zeros(len(mean)) if layer.beta is None else layer.beta.astype(np.float64)
                mean, spread = -shift / factor, 1 / np.abs(factor)
            return _Trained(layer.name, mean, spread)
        if not isinstance(layer, (Input, Identity, Flatten, Reshape, Permute)):
            return None
    return None


def _prediction(model: Model, x: np.ndarray, arguments: argparse.Namespace) -> Iterator[Finding]:
    if isinstance(model.output_shape, list) or arguments.mask_nan or len(x) < 2:
        return
    output = np.asarray(model.predict(x), np.float64).reshape(len(x), -1)
    if model.without_softmax() is not model:
        classes, certain = output.argmax(1), float((output.max(1) > _CERTAIN).mean())
        counts = {int(c): int(n) for c, n in zip(*np.unique(classes, return_counts=True), strict=True)}
        text = ", ".join(f"class {c}: {n:,}" for c, n in counts.items())
        if len(counts) == 1 or certain > 0.95:
            sure = f"{certain:.0%} with a probability above {_CERTAIN}"
            yield Finding(
                "warning", "prediction", f"{text} of {len(x):,} samples, {sure}: are these the model's own inputs?"
            )
        else:
            yield Finding("ok", "prediction", f"{text} of {len(x):,} samples")
    elif (output == output[:1]).all():
        yield Finding(
            "warning", "prediction", f"all {len(x):,} samples get the same output: are these the model's own inputs?"
        )
    else:
        yield Finding("ok", "prediction", f"{output.min():.4g} to {output.max():.4g}")


def _relevance(model: Model, x: np.ndarray, data: Source, arguments: argparse.Namespace) -> Iterator[Finding]:
    """What explaining the samples warns of, and how long it takes."""
    analyzer = options.analyzer(model, arguments, arguments.threads)
    target = options.target(arguments.target)
    if isinstance(target, np.ndarray) and target.ndim:
        target = "max"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        conservation = analyzer.explain(np.ascontiguousarray(x), target=target).conservation
    texts = [in_command(str(item.message)) for item in caught if issubclass(item.category, RelevanceWarning)]
    for text in texts:
        yield Finding("warning", "relevance", text)
    if not texts and len(conservation):
        incoming, outgoing = (float(np.mean(value)) for value in (conservation[0].incoming, conservation[-1].outgoing))
        yield Finding(
            "ok", "relevance", f"of {incoming:.4g}, the mean explained output, {outgoing:.4g} reach the input"
        )
    yield _cost(analyzer, x, target, data)


def _cost(analyzer: Analyzer, x: np.ndarray, target: Any, data: Source) -> Finding:
    samples = data.shape[0] or 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RelevanceWarning)
        begin, count = time.perf_counter(), 0
        while not count or time.perf_counter() - begin < SECONDS:
            result = analyzer.analyze(np.ascontiguousarray(x), target=target)
            count += len(x)
        seconds = (time.perf_counter() - begin) / count * samples
    sample = math.prod(getattr(data, "mask", np.empty(data.shape[1:], bool)).shape) * result.dtype.itemsize
    size = samples * sample * (result.shape[1] if result.ndim > x.ndim else 1)
    return Finding(
        "ok",
        "cost",
        f"about {_duration(seconds)} on {analyzer.device}, without reading and writing; {_bytes(size)} of relevance",
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _bytes(size: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
