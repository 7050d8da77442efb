"""The command ``lrpfast``: explain files, look into models, list the rules."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from typing import Any, NoReturn

import numpy as np

from . import __version__, options, plot, table
from .batch import NORMALIZATIONS, explain_file, open_array
from .engine.inputs import PRECISIONS
from .engine.plan import describe
from .engine.threads import get_num_threads
from .errors import InputError, LrpfastError
from .model.graph import Model
from .model.layers import Activation
from .output import check_target
from .readers import load
from .rules.composites import COMPOSITES, Assignment
from .rules.innvestigate import ANALYZERS, keywords
from .rules.rule import RULES, Pass, Rule, Stabilizer

ABOUT = """\
Layer-wise Relevance Propagation for neural networks: which inputs made the output what it is, and by how much.

  lrpfast demo                                         see it work on a model that is included
  lrpfast explain model.h5 x.npy -o relevance.npy      explain every sample of an array
  lrpfast inspect model.h5                             a model's layers, their rules, the cost
  lrpfast rules                                        the rules and their defaults
  lrpfast info                                         version, instruction set, threads"""

MODEL_HELP = "a Keras .h5 or .keras file, an ONNX model, a PyTorch .pt2, or an .npz by Model.save"

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

INPUTS.npy holds the samples along its first axis. It is mapped to memory and explained a chunk at a time,
so it may be larger than memory. OUT.npy is written under a temporary name and renamed when it is whole."""

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
        return 130
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
    message = message.replace("shape=(height, width)", "--plot-shape HEIGHT,WIDTH")
    message = message.replace("mask_nan=True", "--mask-nan").replace("precision='float64'", "--precision float64")
    return message.replace("add the batch axis: x[None]", "add a first axis of length 1")


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
    demo.add_argument("--threads", metavar="N", type=options.integer, help="default: all cores")

    explain = command("explain", _explain, "explain every sample of an array", epilog=EXPLAIN_EXAMPLES)
    explain.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    explain.add_argument("inputs", metavar="INPUTS.npy", help="samples along the first axis")
    explain.add_argument("-o", "--output", metavar="OUT.npy", required=True, help="where the relevances go")
    _add_rule_options(explain)
    group = explain.add_argument_group("what is explained")
    group.add_argument(
        "--target",
        metavar="TARGET",
        default="max",
        help="max (default): each sample's largest output; all: every output's own value; an output's index; a,b: the "
        "difference of two outputs; FILE.npy: an index per sample, or the starting relevance itself",
    )
    group.add_argument("--start", metavar="LAYER", help="a hidden layer to explain instead, by name or index")
    group.add_argument("--mask-nan", action="store_true", help="NaN marks features that do not count; they stay NaN")
    group.add_argument(
        "--normalize",
        choices=NORMALIZATIONS,
        help="divide each explanation by its largest |R|, its sum, its largest R, or its sum of |R|",
    )
    group = _add_run_options(explain)
    group.add_argument(
        "--threads", metavar="N", type=options.integer, help="default: all cores; results do not depend on it"
    )
    group.add_argument(
        "--memory", metavar="BYTES", type=options.byte_count, help="for the threads' workspaces; 500M and 2G work"
    )
    group.add_argument("--quiet", action="store_true", help="neither progress bar nor report")
    _add_plot_options(explain)

    help_text = "a model's layers, the rule each one gets, the cost"
    inspect = command("inspect", _inspect, help_text, epilog=INSPECT_EXAMPLES)
    inspect.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    _add_rule_options(inspect)
    inspect.add_argument("--start", metavar="LAYER", help="a hidden layer to explain instead, by name or index")
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
    group.add_argument("--high", metavar="H", help="its highest; a number, or an .npy file with one per feature")
    group.add_argument("--until-layer-idx", type=options.integer, metavar="N", help="with iNNvestigate's names")
    group.add_argument("--until-layer-rule", metavar="NAME", help="for layers 0 to N")


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
    group.add_argument("--plot-kind", choices=plot.KINDS, help="how to draw a sample; default: by its number of axes")
    group.add_argument(
        "--plot-shape", metavar="H,W", type=options.shape, help="draw flat features as images of this shape"
    )
    group.add_argument("--plot-mask", metavar="FILE.npy", help="boolean grid: the points that the features lie on")
    group.add_argument("--plot-origin", choices=plot.ORIGINS, help="where an image's first row is; default: upper")
    group.add_argument("--plot-scale", choices=plot.SCALES, help="a scale for each sample (default), or one for all")
    group.add_argument(
        "--plot-percentile", metavar="P", type=options.number, help="end the colours at this percentile of |R|"
    )


# The commands


def _explain(arguments: argparse.Namespace) -> None:
    files = (arguments.target, arguments.low, arguments.high, arguments.plot_mask)
    sources = [arguments.model, arguments.inputs, *(path for path in files if path)]
    for output in (arguments.output, arguments.plot):
        if output is not None and any(_same(output, source) for source in sources):
            raise InputError(f"{output}: is an input of this command and would be overwritten")
    if arguments.output.endswith((".npz", ".h5", ".nc")):
        raise InputError(f"{arguments.output}: the relevances are written as one array, an .npy file")
    check_target(arguments.output)
    x = open_array(arguments.inputs)
    target = options.target(arguments.target)
    analyzer = options.analyzer(load(arguments.model), arguments, arguments.threads, arguments.memory)
    picture = options.picture(arguments, analyzer, x)
    with _terminable(), _progress(len(x) if x.ndim else 0, arguments.quiet) as progress:
        how = {"target": target, "normalize": arguments.normalize, "progress": progress}
        done = explain_file(analyzer, x, arguments.output, **how)
        if picture is not None:
            plot.save(picture(open_array(arguments.output)), arguments.plot)
    if arguments.quiet:
        return
    if done.left:
        divisor = NORMALIZATIONS[arguments.normalize]
        print(f"{done.left:,} of {done.explanations:,} explanations are not normalized: their {divisor} is 0")
    rate = done.explanations / done.seconds
    print(
        f"{done.shape[0]:,} samples explained in {done.seconds:.3g} s, {rate:,.0f} explanations a second; "
        f"wrote {arguments.output}, {done.dtype} {done.shape}" + (f", and {arguments.plot}" if arguments.plot else "")
    )


def _same(output: str, source: str) -> bool:
    try:
        return os.path.samefile(output, source)
    except OSError:
        return False


@contextlib.contextmanager
def _progress(samples: int, quiet: bool) -> Iterator[Any]:
    """A progress bar on a terminal's standard error; nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=samples, unit=" samples", unit_scale=True, dynamic_ncols=True) as bar:
        yield bar.update


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
    rows = [("#", "layer", "type", "rule", "activation")]
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
