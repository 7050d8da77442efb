"""``lrpfast report``: explanations of a data set as one page."""

from __future__ import annotations

import argparse
import copy
import functools
import os
import shlex
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import output
from ..analyzer import Analyzer
from ..ensemble import Ensemble
from ..errors import InputError, RelevanceWarning
from ..reporting import report
from . import options
from .signals import terminable
from .usage import UsageError


def run(arguments: argparse.Namespace) -> None:
    """Write the report."""
    output.check_target(arguments.output)
    if os.path.lexists(arguments.output) and not arguments.force:
        raise InputError(f"{arguments.output}: exists; overwrite=True replaces it")
    target = options.target(arguments.target)
    if isinstance(target, np.ndarray) and target.ndim != 1:
        raise InputError(f"--target must hold one output's index for each sample, not shape {target.shape}")
    several = None
    if arguments.models is not None:
        arguments.inputs = [arguments.model, *arguments.inputs]
        several = Ensemble(arguments.models, functools.partial(_analyzer, arguments))
    if not arguments.inputs:
        raise UsageError("the following arguments are required: INPUTS; see lrpfast report --help")
    model = options.model_of(arguments, arguments.memory, None if several is None else several.models[0])
    model = options.of_one_output(model, arguments, "a report", several_inputs=several is None)
    names = [model.nodes[i].name for i in model.inputs]
    arguments.inputs = options.inputs_of(arguments.inputs, model)
    arguments.open_inputs = options.opener(model, arguments)
    analyzer: Any = several
    if several is None:
        analyzer = options.analyzer(model, arguments, arguments.threads, arguments.memory)
    with terminable(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RelevanceWarning)  # the report counts them
        report(
            analyzer,
            arguments.inputs,
            arguments.output,
            select=arguments.select or None,
            fill_nan=arguments.fill_nan,
            labels=arguments.labels,
            target=None if arguments.target == "max" else target,
            normalize=arguments.normalize,
            class_names=_names(arguments.class_names),
            features=_of_inputs(arguments.features, names, _names),
            tokens=_of_inputs(arguments.tokens, names, str),
            mask=arguments.mask,
            kind=arguments.plot_kind or "auto",
            shape=arguments.plot_shape,
            channels_first=None if arguments.plot_channels is None else arguments.plot_channels == "first",
            origin=arguments.plot_origin or "upper",
            samples=arguments.samples,
            shown=arguments.shown,
            baseline=arguments.baseline,
            title=arguments.title,
            command=shlex.join(["lrpfast", *arguments.argv]),
            overwrite=arguments.force,
            progress=not arguments.quiet,
        )
    if not arguments.quiet:
        print(f"wrote {arguments.output}")


def _analyzer(arguments: argparse.Namespace, path: Any) -> Analyzer:
    model = options.of_one_output(options.model_of(arguments, arguments.memory, path), copy.copy(arguments), "a report")
    return options.analyzer(model, arguments, arguments.threads, arguments.memory)


def _of_inputs(texts: Sequence[str] | None, names: Sequence[str], value: Callable[[str], Any]) -> Any:
    """An option that is given once, or as NAME=VALUE for each of several inputs."""
    if texts is None:
        return None
    pairs = [text.partition("=") for text in texts]
    if len(names) > 1 and all(equals and name in names for name, equals, _ in pairs):
        return {name: value(text) for name, _, text in pairs}
    return value(texts[-1])


def _names(text: str | None) -> Any:
    """Names from a file, or written one after the other: A,B,C."""
    if text is None or os.path.exists(text):
        return text
    if "," not in text:
        raise InputError(f"there is no file {text}; names are written A,B,… or stand in a file, one on each line")
    return [name.strip() for name in text.split(",")]
