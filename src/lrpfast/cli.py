"""The command ``lrpfast``: explain files, look into models, list the rules."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from typing import Any, NoReturn

import numpy as np

from . import __version__, options, plot, table
from .batch import ALL, NORMALIZATIONS, Streamed, open_sink, open_source, unfinished
from .batch.apart import check_apart
from .batch.bounds import told_outside
from .engine.inputs import PRECISIONS
from .engine.plan import describe
from .engine.threads import get_num_threads
from .errors import BoundsWarning, InputError, LrpfastError
from .model.graph import Model
from .model.layers import Activation
from .plot.draw import ORIGINS
from .plot.samples import KINDS
from .plot.scale import SCALES
from .readers import load
from .rules import RULES, Pass, Rule, Stabilizer
from .rules.composites import Assignment
from .rules.innvestigate import ANALYZERS, keywords
from .rules.presets import COMPOSITES

ABOUT = """\
Layer-wise Relevance Propagation for neural networks: which inputs made the output what it is, and by how much.

  lrpfast demo                                         see it work on a model that is included
  lrpfast explain model.h5 x.npy -o relevance.npy      explain every sample of an array
  lrpfast inspect model.h5                             a model's layers, their rules, the cost
  lrpfast rules                                        the rules and their defaults
  lrpfast info                                         version, instruction set, threads"""

MODEL_HELP = "a Keras .h5 or .keras file, an ONNX model, a PyTorch .pt2, or an .npz by Model.save"

INPUTS_HELP = "samples along the first axis: .npy, .npz[:name], file.h5:dataset, file.nc:variable or store.zarr[:array]"

EXPLAIN_EXAMPLES = """\
examples:
  lrpfast explain model.h5 x.npy -o r.npy
        relevance of each sample's largest output, by the epsilon rule
  lrpfast explain model.h5 x.npy -o r.npy --rule lrp.alpha_1_beta_0_IB --input-layer-rule Bounded
        as iNNvestigate's create_analyzer("lrp.alpha_1_beta_0_IB", model, input_layer_rule="Bounded")
  lrpfast explain model.keras x.npy -o r.npy --rule gamma --gamma 0.5 --input-layer-rule 0,1 --target 3
        gamma rule, z-box between 0 and 1 on the first layer, output 3
  lrpfast explain model.h5 x.npy -o r.npy --target classes.npy --normalize maxabs
        each sample's own class; every explanation scaled to a largest value of 1
  lrpfast explain model.h5 x.npy -o r.npy --plot r.png --plot-limit 9
        also a picture of the first 9 explanations
  lrpfast explain model.h5 x.npy --statistics maps.npz --group-by classes.npy --normalize maxabs
        no relevances, but their mean, spread and signs for each class

INPUTS may be larger than memory: they are read and explained a chunk at a time. Outputs are written under a
temporary name and renamed when they are whole. A run that was stopped, however it was, goes on where it was
when the same command is given again."""

INSPECT_EXAMPLES = """\
examples:
  lrpfast inspect model.h5
  lrpfast inspect model.h5 --rule lrp.alpha_2_beta_1 --input-layer-rule Bounded"""

DEMO_TEXT = """\
The model and its 10,000 inputs are those of a published notebook, which explained them with iNNvestigate
on a GPU. The table sets the figures that the notebook printed beside lrpfast's under three precisions."""

#: Arguments that begin like an option to argparse, such as -1,1 or -1e-3.
_NEGATIVE = re.compile(r"-\.?\d")


class _UsageError(Exception):
    """A wrong command line, in argparse's words."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 130 for Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without → or γ shows ?
    try:
        arguments = _parser().parse_args(_with_negatives(sys.argv[1:] if argv is None else argv))
        arguments.run(arguments)
        sys.stdout.flush()
        return 0
    except SystemExit as stop:  # --help, --version, SIGTERM
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `lrpfast rules | head`: what is left to flush at exit has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (_UsageError, LrpfastError) as error:
        message = _as_options(str(error))
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    except MemoryError:
        message = "out of memory"
    print(f"lrpfast: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _with_negatives(arguments: Sequence[str]) -> list[str]:
    """``--low -1,1`` as ``--low=-1,1``, which argparse does not take for an option."""
    joined: list[str] = []
    for argument in arguments:
        if _NEGATIVE.match(argument) and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _as_options(message: str) -> str:
    """A message in the words of the command line, where it speaks of Python's keywords."""
    for python, option in _OPTIONS.items():
        message = message.replace(python, option)
    return message


#: Python's keywords as error messages have them, and the options that stand for them.
_OPTIONS = {
    "shape=(height, width)": "--plot-shape HEIGHT,WIDTH",
    "channels_first=True or channels_first=False": "--plot-channels first or --plot-channels last",
    "channels_first is for": "--plot-channels is for",
    "mask_nan=True": "--mask-nan",
    "precision='float64'": "--precision float64",
    "group_by, correct and quantiles": "--group-by, --correct-only and --quantiles",
    "statistics=True or a file's name": "--statistics FILE",
    "overwrite=True": "--force",
    "resume=False": "--restart",
    **{f"y_ref {verb}": f"--y-ref {verb}" for verb in ("must", "needs", "is for")},
    "add the batch axis: x[None]": "add a first axis of length 1",
}


# The command line


def _parser() -> argparse.ArgumentParser:
    def formatter(prog: str) -> argparse.HelpFormatter:
        return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=100)

    parser = _Parser(prog="lrpfast", description=ABOUT, formatter_class=formatter, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"lrpfast {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Any, help: str, description: str = "", epilog: str = "") -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=help,
            description=description or help[:1].upper() + help[1:] + ".",
            epilog=epilog,
            formatter_class=formatter,
            allow_abbrev=False,
        )
        sub.set_defaults(run=run)
        return sub

    demo = command("demo", _demo, "explain an included model and compare with published figures", epilog=DEMO_TEXT)
    demo.add_argument("-o", "--output", metavar="OUT.npz", default="lrpfast-demo.npz", help="default: %(default)s")
    demo.add_argument("--threads", metavar="N", type=options.count, help="default: all cores")

    explain = command("explain", _explain, "explain every sample of an array", epilog=EXPLAIN_EXAMPLES)
    explain.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    explain.add_argument("inputs", metavar="INPUTS", help=INPUTS_HELP)
    explain.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help=".npy, .h5[:dataset], .nc[:variable] or .zarr[:array]: where relevances go",
    )
    _add_rule_options(explain)
    group = explain.add_argument_group("what is explained")
    group.add_argument(
        "--target",
        metavar="TARGET",
        default="max",
        help="max (default): each sample's largest output; all: every output's own value; an output's index; a,b: the "
        "difference of two outputs; FILE.npy: an index per sample, or the starting relevance itself",
    )
    _add_start_options(group)
    group.add_argument("--mask-nan", action="store_true", help="NaN marks features that do not count; they stay NaN")
    group.add_argument(
        "--mask", metavar="FILE", help="boolean grid: the inputs' points that are the model's features; the rest is NaN"
    )
    group.add_argument(
        "--normalize", choices=NORMALIZATIONS, help="divide each explanation by max |R|, by sum R, max R, or sum |R|"
    )
    _add_statistics_options(explain)
    group = _add_run_options(explain)
    group.add_argument(
        "--threads", metavar="N", type=options.count, help="default: all cores; results do not depend on it"
    )
    group.add_argument(
        "--memory", metavar="BYTES", type=options.byte_count, help="for the threads' workspaces; 500M and 2G work"
    )
    group.add_argument(
        "--batch-size",
        metavar="N",
        type=options.count_or_auto,
        default="auto",
        help="samples read, explained and written at once; default: auto, as memory suggests",
    )
    group.add_argument(
        "--cluster",
        metavar="WHERE",
        help="let Dask's workers explain files that all reach: local:4 starts four, tcp://HOST:PORT is a scheduler",
    )
    group.add_argument("--force", "--overwrite", action="store_true", help="replace outputs that are there already")
    group.add_argument(
        "--restart", action="store_true", help="begin anew where an earlier run was stopped, instead of going on"
    )
    group.add_argument("--quiet", action="store_true", help="neither progress bar nor report")
    _add_plot_options(explain)

    help_text = "a model's layers, the rule each one gets, the cost"
    inspect = command("inspect", _inspect, help_text, epilog=INSPECT_EXAMPLES)
    inspect.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    _add_rule_options(inspect)
    _add_start_options(inspect)
    inspect.add_argument("--mask-nan", action="store_true", help="plan for NaN as a mark of features that do not count")
    _add_run_options(inspect)

    command("rules", _rules, "the rules with their defaults, and iNNvestigate's names")
    command("info", _info, "version, instruction set, threads and devices")
    return parser


def _add_rule_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the rule (see `lrpfast rules`)")
    group.add_argument(
        "--rule",
        metavar="NAME",
        default="epsilon",
        help="a rule, a composite, or an iNNvestigate name; default: epsilon",
    )
    group.add_argument(
        "--input-layer-rule", metavar="NAME|LOW,HIGH", help="for the first layer with weights; LOW,HIGH: z-box"
    )
    group.add_argument("--epsilon", type=options.number, metavar="E")
    group.add_argument("--gamma", type=options.number, metavar="G")
    group.add_argument("--alpha", type=options.number_or_pair, metavar="A")
    group.add_argument("--beta", type=options.number_or_pair, metavar="B", help="alpha - beta = 1")
    group.add_argument(
        "--bias", metavar="CONVENTION", help="absorb, ignore, …; with iNNvestigate's names true or false"
    )
    group.add_argument("--low", metavar="L", help="the input's lowest value, for z_box and deep_taylor.bounded")
    group.add_argument(
        "--high",
        metavar="H",
        help="its highest; a number, a file with one per feature, or, for each feature from the inputs, minmax, "
        "1sigma or 3sigma",
    )
    group.add_argument("--until-layer-idx", type=options.integer, metavar="N", help="with iNNvestigate's names")
    group.add_argument("--until-layer-rule", metavar="NAME", help="for layers 0 to N")


def _add_start_options(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--start", metavar="LAYER", help="a hidden layer to explain instead, by name or index")
    parser.add_argument(
        "--y-ref", metavar="Y", help="explain the output less this value: a number, A,B,… for each output, or FILE.npy"
    )


def _add_statistics_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("statistics of the maps, made on the way (-o is not needed then)")
    group.add_argument(
        "--statistics",
        metavar="FILE",
        help="mean, standard deviation, least and largest value, shares of positive and negative relevance; "
        ".nc, .h5, .npz or .zarr",
    )
    group.add_argument(
        "--group-by", metavar="FILE|prediction", help="for each label of a file apart, or for each predicted class"
    )
    group.add_argument(
        "--correct-only",
        "--correct",
        metavar="FILE",
        help="the true classes: leave out samples predicted otherwise",
    )
    group.add_argument("--quantiles", metavar="Q,…", type=options.numbers, default=(), help="such as 0.05,0.5,0.95")


def _add_run_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("how it runs")
    group.add_argument("--precision", choices=tuple(PRECISIONS), default="float32", help="default: %(default)s")
    group.add_argument(
        "--input-range",
        metavar="LOW,HIGH",
        type=options.pair,
        help="declare the inputs' range: less work, and it is checked",
    )
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, gpu (all of them) or gpu:1 (one)")
    return group


def _add_plot_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a picture of it (needs matplotlib: pip install 'lrpfast[plot]')")
    group.add_argument("--plot", metavar="FILE", help="draw the first samples' relevance; .png, .pdf or .svg")
    group.add_argument("--plot-limit", metavar="N", type=options.integer, help="how many samples; default: 16")
    group.add_argument("--plot-input", action="store_true", default=None, help="draw the inputs beneath")
    group.add_argument("--plot-kind", choices=KINDS, help="how to draw a sample; default: by its number of axes")
    group.add_argument(
        "--plot-shape", metavar="H,W", type=options.shape, help="draw flat features as images of this shape"
    )
    group.add_argument(
        "--plot-channels", choices=("first", "last"), help="where a sample's channels are; default: as in the model"
    )
    group.add_argument("--plot-mask", metavar="FILE.npy", help="boolean grid: the points that the features lie on")
    group.add_argument("--plot-origin", choices=ORIGINS, help="where an image's first row is; default: upper")
    group.add_argument("--plot-scale", choices=SCALES, help="a scale for each sample (default), or one for all")
    group.add_argument(
        "--plot-percentile", metavar="P", type=options.number, help="end the colours at this percentile of |R|"
    )


# The commands

#: Arguments of ``explain`` that may name a file to read.
_READ = ("model", "inputs", "target", "y-ref", "low", "high", "mask", "group-by", "correct-only", "plot-mask")


def _explain(arguments: argparse.Namespace) -> None:
    outputs = [arguments.output, arguments.statistics]
    if not any(outputs):
        raise InputError("say what to make: -o OUT for the relevances, --statistics FILE for their mean and the like")
    sink = None if arguments.output is None else open_sink(arguments.output).path
    check_apart(
        {"output": sink, "statistics": arguments.statistics, "plot": arguments.plot},
        {name: getattr(arguments, name.replace("-", "_")) for name in _READ},
    )
    with open_source(arguments.inputs) as data:
        if data.shape[0] == 0:
            raise InputError(f"{data.name}: holds no samples, its shape is {data.shape}")
        target = options.target(arguments.target)
        analyzer = options.analyzer(load(arguments.model), arguments, arguments.threads, arguments.memory)
        picture = options.picture(arguments, analyzer, data)
        with _terminable(), _told(*outputs), warnings.catch_warnings():
            warnings.simplefilter("ignore", BoundsWarning)  # told below, in one line
            done = analyzer.stream(
                arguments.inputs,
                arguments.output,
                target=target,
                batch_size=arguments.batch_size,
                normalize=arguments.normalize,
                statistics=arguments.statistics or False,
                group_by=arguments.group_by,
                correct=arguments.correct_only,
                quantiles=arguments.quantiles,
                mask=arguments.mask,
                progress=not arguments.quiet,
                resume=not arguments.restart,
                overwrite=arguments.force,
                cluster=arguments.cluster,
            )
            if picture is not None:
                plot.save(picture(arguments.output), arguments.plot)
    if done.outside:
        print(f"lrpfast: warning: {told_outside(done.outside)}", file=sys.stderr)
    if not arguments.quiet:
        _report(arguments, done)


def _report(arguments: argparse.Namespace, done: Streamed) -> None:
    """What was done, in a few lines."""
    if done.left:
        divisor = NORMALIZATIONS[arguments.normalize]
        print(f"{done.left:,} of {done.explanations:,} explanations are not normalized: their {divisor} is 0")
    if done.resumed:
        print(f"went on after {done.resumed:,} samples that an earlier run had done")
    fresh = done.explanations * (done.samples - done.resumed) // max(1, done.samples)
    written = [] if arguments.output is None else [f"{arguments.output}, {done.dtype} {done.shape}"]
    if done.statistics is not None:
        counts = zip(done.statistics.groups, done.statistics.count, strict=True)
        each = ", ".join(f"{count:,} {'samples' if label == ALL else f'in group {label}'}" for label, count in counts)
        written.append(f"{arguments.statistics}, statistics of {each}")
    if arguments.plot:
        written.append(arguments.plot)
    print(
        f"{done.samples - done.resumed:,} samples explained in {done.seconds:.3g} s, "
        f"{fresh / done.seconds:,.0f} explanations a second; wrote {'; '.join(written)}"
    )


@contextlib.contextmanager
def _told(*outputs: str | None) -> Iterator[None]:
    """Say, when the run is stopped, that it can go on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if any(output is not None and unfinished(output) for output in outputs):
            print("lrpfast: stopped; what is done is kept: the same command goes on from there", file=sys.stderr)
        raise


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, as a batch system sends it, end the run as Ctrl-C does: with nothing left behind."""

    def stop(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _inspect(arguments: argparse.Namespace) -> None:
    model = load(arguments.model)
    analyzer = options.analyzer(model, arguments)
    print(model.summary())
    print(f"\nrules under {arguments.rule!r}")
    start = options.layer(arguments.start)
    kept = range(len(model.nodes)) if start is None else model.needed(start)
    bare = model.without_output_activation(analyzer.stripped)
    left_out = set() if start is not None else _functions(model) - _functions(bare)
    for line in _assignment(model, options.composite(arguments).assign(model), kept, left_out):
        print(f"  {line}")
    if left_out:
        print("  the final softmax or sigmoid is left out: its input is explained")
    if model.is_open:
        print("\nthe model leaves input sizes open: it is planned for each size that comes")
    else:
        print(f"\nplan ({arguments.precision})\n{analyzer.plan()}")


def _assignment(model: Model, assignment: Assignment, kept: Sequence[int], left_out: set[str]) -> list[str]:
    """A table of the layers that are explained: the rule of each, and of its activation function where not pass."""
    rows: list[tuple[str, ...]] = [("#", "layer", "type", "rule", "activation")]
    for i in kept:
        node = model.nodes[i]
        rule, function = (describe(rules.get(i, Pass())) for rules in (assignment.rules, assignment.activations))
        if node.name in left_out and isinstance(node.layer, Activation):
            rule = "left out"
        elif node.name in left_out:
            function = "left out"
        rows.append((str(i), node.name, type(node.layer).__name__, rule, function if function != "pass" else ""))
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    return table.lines(rows)


def _functions(model: Model) -> set[str]:
    """The names of the layers that are an activation function or end in one."""
    return {n.name for n in model.nodes if isinstance(n.layer, Activation) or getattr(n.layer, "activation", None)}


def _rules(arguments: argparse.Namespace) -> None:
    print("Rules, with the defaults of their parameters\n")
    for name, rule in RULES.items():
        print(f"  {name.ljust(13)} {rule.equation}")
        for line in _defaults(rule):
            print(f"  {'':13} {line}")
    print("\nComposites, which give kinds of layers their rules (`lrpfast inspect MODEL --rule NAME` shows which)\n")
    for name, composite in COMPOSITES.items():
        about = re.split(r"[;(\n]|\.$", (composite.__doc__ or "").replace("`", ""), maxsplit=1, flags=re.MULTILINE)[0]
        print(f"  {name.ljust(26)} {about.strip().removesuffix(' in forward order')}")
    print("\niNNvestigate's names, with their keywords (conventions as in iNNvestigate 2.1.2)\n")
    for name in ANALYZERS:
        print(f"  {name.ljust(39)} {', '.join(k for k in keywords(name) if k not in _LRP_KEYWORDS)}".rstrip())
    print(f"\n  All lrp.* also take {', '.join(_LRP_KEYWORDS)}.")
    print("\nConventions: docs/conventions.md. Equations and sources: docs/rules.md, or help(lrpfast.rules.ZBox).")


_LRP_KEYWORDS = ("input_layer_rule", "until_layer_idx", "until_layer_rule")


def _defaults(rule: type[Rule]) -> list[str]:
    """``epsilon 1e-06`` and ``bias absorb (or ignore, …)``, from the rule's own fields."""
    shown, bias = [], []
    for f in fields(rule):
        if f.name == "bias":
            others = [c for c in rule.conventions if c != f.default]
            bias = [f"bias {f.default}" + (f" (or {', '.join(others)})" if others else "")]
        elif f.default is None or f.default is MISSING:
            shown.append(f"{f.name} required")
        elif f.name == "stabilizer":
            shown.append(f"stabilizer {Stabilizer(f.default)}")
        else:
            shown.append(f"{f.name} {f.default:g}" if isinstance(f.default, float) else f"{f.name} {f.default}".lower())
    return [", ".join(shown), *bias] if shown else bias


def _info(arguments: argparse.Namespace) -> None:
    import platform

    import h5py

    from .kernels import backend, no_gpu  # the one command that asks the kernels about the machine

    taken, cpu = backend("auto"), backend("cpu")
    print(f"lrpfast    {__version__}")
    print(f"Python     {platform.python_version()} ({platform.system()} {platform.machine()})")
    print(f"NumPy      {np.__version__}, h5py {h5py.__version__}")
    print(f"device     'auto' takes {taken.name}")
    for key, value in cpu.describe().items():
        print(f"cpu        {key}: {value}")
    if taken.name != cpu.name:
        for key, value in taken.describe().items():
            print(f"gpu        {key}: {value}")
    else:
        print(f"gpu        none: {no_gpu()}")
    print(f"threads    {get_num_threads()}")


def _demo(arguments: argparse.Namespace) -> None:
    from .demo import run

    with _terminable():
        run(arguments.output, arguments.threads)
