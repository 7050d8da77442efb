"""``lrpfast explain``: files in, files out."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from .. import plot
from ..batch import ALL, NORMALIZATIONS, Streamed, open_sink, unfinished
from ..batch.inputs import SeveralSource, source_paths
from ..batch.path_conflicts import check_no_overlap
from ..batch.sinks.for_inputs import open_several
from ..batch.sources.ragged import RaggedSource
from ..errors import BoundsWarning, InputError, RelevanceWarning
from ..table import counted
from . import ensemble, options
from .balance import balance_of
from .picture import picture_of
from .signals import terminable
from .usage import UsageError
from .warn import in_command

#: Arguments of ``explain`` that may name an input file.
_READ = ("model", "target", "y-ref", "low", "high", "mask", "group-by", "correct-only", "plot-mask")


def run(arguments: argparse.Namespace) -> None:
    """Explain every sample of an array."""
    if arguments.models is not None:
        ensemble.run(arguments)
        return
    outputs = _outputs(arguments)
    model = options.model_of(arguments, arguments.memory)
    arguments.inputs = options.inputs_of(arguments.inputs, model)
    arguments.several = several = len(model.inputs) > 1
    single = not several and arguments.layers is None
    sink: Any = open_sink(arguments.output) if single and arguments.output is not None else arguments.output
    check_no_overlap(
        {"output": sink, "statistics": arguments.statistics, "plot": arguments.plot},
        {
            **{name: getattr(arguments, name.replace("-", "_")) for name in _READ},
            **source_paths(arguments.inputs, "inputs"),
        },
    )
    arguments.open_inputs = options.opener(model, arguments)
    with arguments.open_inputs() as data:
        if data.shape[0] == 0:
            raise InputError(f"{data.name}: holds no samples, its shape is {data.shape}")
        if isinstance(data, RaggedSource) and (arguments.plot is not None or arguments.balance):
            raise InputError("--plot and --balance are for samples of one shape, and these differ in length")
        target = options.target_for(arguments.target, data)
        if not single and arguments.plot is not None:
            raise InputError("--plot is for models of one input, and for the relevance of the input alone")
        if isinstance(data, SeveralSource) and sink is not None and arguments.layers is None:
            sink = open_several(sink, data.rows)
        conditions = options.conditions_of(arguments.condition, model)
        if arguments.plot is not None and isinstance(conditions, list):
            raise InputError("--plot draws one map of each sample: give one --condition")
        analyzer = options.analyzer(model, arguments, arguments.threads, arguments.memory)
        picture = picture_of(arguments, analyzer, data)
        balance = balance_of(analyzer, data, target, arguments.mask) if arguments.balance else None
        with terminable(), _noting_interruption(*outputs), warnings.catch_warnings():
            for kind in (BoundsWarning, RelevanceWarning):  # printed below, each in one line
                warnings.simplefilter("ignore", kind)
            done = analyzer.stream(
                data,
                sink,
                target=target,
                conditions=conditions,
                batch_size=arguments.batch_size,
                statistics=arguments.statistics or False,
                correct=arguments.correct_only,
                mask=arguments.mask,
                progress=not arguments.quiet,
                resume=not arguments.restart,
                overwrite=arguments.force,
                cluster=arguments.cluster,
                **_of_same_names(arguments),
            )
            if picture is not None:
                plot.save(picture(arguments.output, done.statistics), arguments.plot)
            if balance is not None:
                print(balance())
    for text in done.warnings:
        print(f"lrpfast: warning: {in_command(text, '--balance')}", file=sys.stderr)
    if not arguments.quiet:
        _report(arguments, done, getattr(sink, "outputs", ()))


#: Groups whose numbers of samples the last line has.
SHOWN_GROUPS = 12
#: Options of `Analyzer.stream` that have the same names here.
_SAME = (
    "parallel",
    "layers",
    "reduce",
    "activations",
    "part",
    "normalize",
    "group_by",
    "quantiles",
    "skip_zero",
    "compression",
)


def _of_same_names(arguments: argparse.Namespace) -> dict[str, Any]:
    """These options. One layer is a single array; .npz has none without a name."""
    same = {name: getattr(arguments, name) for name in _SAME}
    names = arguments.layers
    if names is not None and len(names) == 1 and not (arguments.output or "").lower().endswith(".npz"):
        same["layers"] = names[0]
    return same


def _outputs(arguments: argparse.Namespace) -> list[str | None]:
    """The files to write; UsageError or InputError if there is nothing to read or to write."""
    if not arguments.inputs:
        raise UsageError("the following arguments are required: INPUTS; see lrpfast explain --help")
    outputs = [arguments.output, arguments.statistics]
    if arguments.plot is not None and not any(outputs):
        raise InputError("--plot draws what -o OUT or --statistics FILE keeps: give one of them")
    if not any(outputs):
        raise InputError("say what to make: -o OUT for the relevances, --statistics FILE for their mean and the like")
    return outputs


def _report(arguments: argparse.Namespace, done: Streamed, files: Sequence[str]) -> None:
    """Print the outcome in a few lines."""
    if done.not_normalized:
        divisor = " or ".join(NORMALIZATIONS[name] for name in arguments.normalize)
        maps = done.explanations * len(arguments.layers or [0])
        print(f"not normalized, because the {divisor} is 0: {done.not_normalized:,} of {counted(maps, 'explanation')}")
    if done.resumed:
        print(f"went on after {counted(done.resumed, 'sample')} of an earlier run")
    fresh = done.explanations * (done.samples - done.resumed) // max(1, done.samples)
    name = " and ".join(files) if len(files) > 1 else arguments.output
    outputs = [] if arguments.output is None else [f"{name}, {done.dtype} {_shapes(done.shape)}"]
    if done.statistics is not None:
        one = next(iter(done.statistics.values())) if isinstance(done.statistics, dict) else done.statistics
        counts = list(zip(one.groups, one.count, strict=True))
        each = ", ".join(
            f"{count:,} {'samples' if label == ALL else f'in group {label}'}" for label, count in counts[:SHOWN_GROUPS]
        )
        if len(counts) > SHOWN_GROUPS:
            each += f" and {len(counts) - SHOWN_GROUPS:,} more groups"
        outputs.append(f"{arguments.statistics}, statistics of {each}")
    if arguments.plot:
        outputs.append(arguments.plot)
    print(
        f"{counted(done.samples - done.resumed, 'sample')} explained in {done.seconds:.3g} s, "
        f"{fresh / done.seconds:,.0f} explanations a second; wrote {'; '.join(outputs)}{_doubtful(done)}"
    )


def _shapes(shape: Any) -> str:
    """One shape, or those of several inputs."""
    return " and ".join(map(str, shape)) if isinstance(shape, list) else str(shape)


def _doubtful(done: Streamed) -> str:
    """The text with the numbers of explanations that mean little; empty if there are none."""
    kinds = {"amplified": done.amplified, "nearly vanished": done.vanished, "zero everywhere": done.zero_maps}
    counts = [f"{count:,} {kind}" for kind, count in kinds.items() if count]
    return f"; of {counted(done.explanations, 'explanation')}, {', '.join(counts)}" if counts else ""


@contextlib.contextmanager
def _noting_interruption(*outputs: str | None) -> Iterator[None]:
    """Say that the run can be resumed when it is interrupted."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if any(output is not None and unfinished(output) for output in outputs):
            print("lrpfast: stopped; what is done is kept: the same command goes on from there", file=sys.stderr)
        raise
