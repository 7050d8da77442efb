"""``lrpfast evaluate``: how good the explanations of several rules are, side by side."""

from __future__ import annotations

import argparse
import copy
import os
import sys
import warnings
from typing import Any

import numpy as np

from .. import plot, table
from ..analyzer import Analyzer
from ..batch import Source
from ..batch.inputs import SeveralSource
from ..errors import InputError, RelevanceWarning
from ..evaluate import FlipCurves, cascade, curves, entropy, flip, gini, sensitivity
from ..evaluate.flipping import ORDERS
from ..model.graph import Model
from ..plot.file import check_path
from ..table import counted
from . import options
from .warn import in_command


def run(arguments: argparse.Namespace) -> None:
    """Print the table, and draw the curves."""
    names = [name.strip() for name in arguments.rule.split(",")]
    if len(set(names)) < len(names):
        raise InputError(f"--rule names a rule twice: {arguments.rule}")
    if arguments.plot is not None:
        check_path(arguments.plot)
    model = options.of_one_output(options.model_of(arguments), arguments, "an evaluation", several_inputs=True)
    _check_inputs(model, arguments)
    if arguments.start is not None:  # a hidden layer is evaluated as the output of the layers up to it
        model, arguments.start = model.until(options.layer(arguments.start)), None  # type: ignore[arg-type]
    arguments.several, arguments.inputs = len(model.inputs) > 1, options.inputs_of(arguments.inputs, model)
    arguments.open_inputs = options.opener(model, arguments)
    with arguments.open_inputs() as data:
        target = options.target_for(arguments.target, data)
        rows_of_x, targets = _samples(options.features_of(data, arguments.mask), target, arguments.samples)
        x: Any = data.rows.split(rows_of_x) if isinstance(data, SeveralSource) else rows_of_x
    count = len(rows_of_x)
    if isinstance(targets, str):
        targets = model.predict(x).reshape(count, -1).argmax(1)
    results: dict[str, FlipCurves] = {}
    rows = [["rule", "most", "least", "random", "gini", "entropy", *(["sensitivity"] if arguments.radius else [])]]
    checks = []
    for name in names:
        analyzer = _analyzer(model, arguments, name)
        relevance = _relevance(analyzer, name, x, targets)
        results[name] = _flipped(model, arguments, x, relevance, targets)
        row = [name, *(f"{results[name].area[order].mean():.4g}" for order in ORDERS)]
        whole = np.concatenate([r.reshape(count, -1) for r in (relevance if arguments.several else [relevance])], 1)
        row += [f"{np.nanmean(measure(whole)):.3f}" for measure in (gini, entropy)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RelevanceWarning)  # printed above
            if arguments.radius:
                row.append(f"{np.mean(sensitivity(analyzer, x, radius=arguments.radius, target=targets)):.3g}")
            if arguments.randomization:
                checks.append(f"\n{name}: {cascade.randomization(model, analyzer.composite, x, target=targets)}")
        rows.append(row)
    output = "logit" if arguments.logits else "output"
    samples = counted(count, "sample")
    print(f"{samples}: mean area under the explained {output} while features are flipped; means of measures")
    print("\n".join([*table.lines(rows, 1), *checks]))
    if arguments.plot is not None:
        plot.save(curves.figure(results, f"{os.path.basename(arguments.model)}, {samples}"), arguments.plot)
        print(f"wrote {arguments.plot}")


def _check_inputs(model: Model, arguments: argparse.Namespace) -> None:
    """InputError for options that are for models of one input."""
    for name in ("region", "radius", "randomization"):
        if len(model.inputs) > 1 and getattr(arguments, name):
            raise InputError(f"--{name} is for models of one input, and this model has {len(model.inputs)}")


def _relevance(analyzer: Analyzer, name: str, x: Any, targets: Any) -> Any:
    """The relevance of the samples, a list for several inputs; warnings about it are printed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RelevanceWarning)
        relevance = analyzer.analyze(x, targets)
    for warning in caught:
        print(f"lrpfast: warning: {name}: {in_command(str(warning.message))}", file=sys.stderr)
    return relevance


def _flipped(model: Model, arguments: argparse.Namespace, x: Any, relevance: Any, targets: Any) -> FlipCurves:
    return flip(
        model.without_softmax() if arguments.logits else model,
        x,
        relevance,
        target=targets,
        region=arguments.region,
        baseline=arguments.baseline,
        steps=arguments.steps,
        seed=arguments.seed,
        precision=arguments.precision,
    )


def _samples(data: Source, target: Any, most: int) -> tuple[np.ndarray, Any]:
    """At most so many samples at equal distances, and their targets."""
    total = data.shape[0]
    if not total:
        raise InputError(f"{data.name}: holds no samples, its shape is {data.shape}")
    positions = np.arange(min(total, most)) * total // min(total, most)
    x = np.concatenate([data.read(i, i + 1) for i in positions.tolist()])
    if isinstance(target, np.ndarray):
        if target.shape != (total,) or target.dtype.kind not in "iu":
            raise InputError(f"--target must hold one output's index for each of {total:,} samples here")
        return x, target[positions]
    if isinstance(target, int):
        return x, np.full(len(x), target)
    if target != "max":
        raise InputError("evaluate takes --target max, an output's index, or an .npy file of one for each sample")
    return x, target


def _analyzer(model: Model, arguments: argparse.Namespace, name: str) -> Analyzer:
    """The analyzer of one of the rules."""
    settings = copy.copy(arguments)
    settings.rule = name
    return options.analyzer(model, settings)
