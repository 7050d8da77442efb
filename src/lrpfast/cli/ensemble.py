"""``lrpfast explain --models PATTERN``: several models in one run."""

from __future__ import annotations

import argparse
import functools
from typing import Any

from ..analyzer import Analyzer
from ..batch.path_conflicts import check_no_overlap
from ..ensemble import Ensemble
from ..errors import InputError
from ..table import counted
from . import options
from .signals import terminable

#: Options of ``explain`` that are for one model.
_OF_ONE = ("plot", "balance", "layers", "reduce", "activations")

#: Options of `Analyzer.stream` that have the same names here.
_SAME = ("parallel", "part", "normalize", "group_by", "quantiles", "skip_zero", "compression")


def run(arguments: argparse.Namespace) -> None:
    """Explain by every member, and write statistics over them."""
    arguments.inputs = [arguments.model, *arguments.inputs]
    for name in _OF_ONE:
        if getattr(arguments, name):
            raise InputError(f"--{name} is for one model; --models explains by several")
    if arguments.statistics is None:
        raise InputError("--models needs --statistics FILE, which the statistics over all members go to")
    ensemble = Ensemble(arguments.models, functools.partial(_analyzer, arguments))
    model = options.model_of(arguments, arguments.memory, ensemble.models[0])
    if len(model.inputs) > 1:
        raise InputError("--models is for models of one input")
    source = options.inputs_of(arguments.inputs, model)
    arguments.several, arguments.inputs = False, source
    arguments.open_inputs = options.opener(model, arguments)
    check_no_overlap(
        {"output": arguments.output, "statistics": arguments.statistics},
        {"models": arguments.models, "inputs": source, "mask": arguments.mask, "target": arguments.target},
    )
    with arguments.open_inputs() as data, terminable():
        done = ensemble.stream(
            data,
            arguments.output,
            statistics=arguments.statistics,
            resume=not arguments.restart,
            overwrite=arguments.force,
            progress=not arguments.quiet,
            conditions=options.conditions_of(arguments.condition, model),
            **_stream_options(arguments),
        )
    if arguments.quiet:
        return
    resumed = f"; {len(done.resumed)} of them by an earlier run" if done.resumed else ""
    print(
        f"{counted(len(done.members), 'member')} explained "
        f"{counted(int(done.count.sum(1).max()), 'sample')} each in {done.seconds:.3g} s"
        f"{resumed}; wrote {arguments.statistics}, statistics over members, and for each: "
        f"{', '.join([*done.files.values(), *done.outputs.values()])}"
    )


def _analyzer(arguments: argparse.Namespace, path: Any) -> Analyzer:
    model = options.model_of(arguments, arguments.memory, path)
    return options.analyzer(model, arguments, arguments.threads, arguments.memory)


def _stream_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of `Analyzer.stream` that every member shares."""
    return {
        "target": options.target(arguments.target),
        "batch_size": arguments.batch_size,
        "correct": arguments.correct_only,
        **{key: getattr(arguments, key) for key in _SAME},
        "mask": arguments.mask,
        "cluster": arguments.cluster,
    }
