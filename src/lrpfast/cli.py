"""The command ``lrpfast``: explain files, look into models, list the rules."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from typing import Any, NoReturn

import numpy as np

from . import __version__
from .batch import NORMALIZATIONS, explain_file, open_array
from .batch.files import check_target
from .engine.analyzer import Analyzer
from .engine.innvestigate import create_analyzer
from .engine.inputs import PRECISIONS, check_threads
from .engine.plan import describe
from .errors import InputError, LrpfastError, RuleError
from .model.graph import Model
from .readers import load
from .rules.composites import Uniform
from .rules.innvestigate import ANALYZERS, keywords
from .rules.rule import RULES, Rule, Stabilizer, from_name

ABOUT = """\
Layer-wise Relevance Propagation for neural networks: which inputs made the output what it is, and by how much.

  lrpfast demo                                         see it work on a model that is included
  lrpfast explain model.h5 x.npy -o relevance.npy      explain every sample of an array
  lrpfast inspect model.h5                             a model's layers, their rules, the cost
  lrpfast rules                                        the rules and their defaults
  lrpfast info                                         version, instruction set, threads"""

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

INPUTS.npy holds the samples along its first axis. It is mapped to memory and explained a chunk at a time, so it may
be larger than memory. OUT.npy is written under a temporary name and renamed when it is whole."""

INSPECT_EXAMPLES = """\
examples:
  lrpfast inspect model.h5
  lrpfast inspect model.h5 --rule lrp.alpha_2_beta_1 --input-layer-rule Bounded"""

DEMO_TEXT = """\
The model and its 10,000 inputs are those of a published notebook, which explained them with iNNvestigate on a GPU.
The table sets the figures that the notebook printed beside lrpfast's under three precisions."""

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
    demo.add_argument("--threads", metavar="N", type=_integer, help="default: all cores")

    explain = command("explain", _explain, "explain every sample of an array", epilog=EXPLAIN_EXAMPLES)
    explain.add_argument("model", metavar="MODEL", help="a Keras .h5 or .keras file, or an .npz by Model.save")
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
        "--normalize", choices=NORMALIZATIONS, help="divide each explanation by its largest |R|, or by its sum"
    )
    group = _add_run_options(explain)
    group.add_argument("--threads", metavar="N", type=_integer, help="default: all cores; results do not depend on it")
    group.add_argument("--memory", metavar="BYTES", type=_bytes, help="for the threads' workspaces; 500M and 2G work")
    group.add_argument("--quiet", action="store_true", help="neither progress bar nor report")

    inspect = command("inspect", _inspect, "a model's layers, the rule each one gets, the cost", epilog=INSPECT_EXAMPLES)
    inspect.add_argument("model", metavar="MODEL", help="a Keras .h5 or .keras file, or an .npz by Model.save")
    _add_rule_options(inspect)
    inspect.add_argument("--start", metavar="LAYER", help="a hidden layer to explain instead, by name or index")
    inspect.add_argument("--mask-nan", action="store_true", help="plan for NaN as a mark of features that do not count")
    _add_run_options(inspect)

    command("rules", _rules, "the rules with their defaults, and iNNvestigate's names")
    command("info", _info, "version, instruction set, threads and devices")
    return parser


def _add_rule_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the rule (see `lrpfast rules`)")
    group.add_argument("--rule", metavar="NAME", default="epsilon", help="a rule, or an iNNvestigate name; default: epsilon")
    group.add_argument(
        "--input-layer-rule", metavar="NAME|LOW,HIGH", help="for the first layer with weights; LOW,HIGH: z-box"
    )
    group.add_argument("--epsilon", type=_number, metavar="E")
    group.add_argument("--gamma", type=_number, metavar="G")
    group.add_argument("--alpha", type=_number_or_pair, metavar="A")
    group.add_argument("--beta", type=_number_or_pair, metavar="B", help="alpha - beta = 1")
    group.add_argument("--bias", metavar="CONVENTION", help="absorb, ignore, …; true or false with iNNvestigate's names")
    group.add_argument("--low", metavar="L", help="the input's lowest value, for z_box and deep_taylor.bounded")
    group.add_argument("--high", metavar="H", help="its highest; a number, or an .npy file with one per feature")
    group.add_argument("--until-layer-idx", type=_integer, metavar="N", help="with iNNvestigate's names")
    group.add_argument("--until-layer-rule", metavar="NAME", help="for layers 0 to N")


def _add_run_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("how it runs")
    group.add_argument("--precision", choices=tuple(PRECISIONS), default="float32", help="default: %(default)s")
    group.add_argument(
        "--input-range", metavar="LOW,HIGH", type=_pair, help="declare the inputs' range: less work, and it is checked"
    )
    group.add_argument("--device", default="auto", metavar="NAME", help="auto or cpu")
    return group


def _typed(convert: Any, what: str) -> Any:
    """A type for argparse that says what was expected."""

    def parse(text: str) -> Any:
        try:
            return convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None

    return parse


def _to_pair(text: str) -> tuple[float, float]:
    low, high = (float(part) for part in text.split(","))
    return low, high


def _to_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if not match:
        raise ValueError
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))


_integer = _typed(int, "a whole number")
_number = _typed(float, "a number")
_pair = _typed(_to_pair, "a pair LOW,HIGH of numbers")
_number_or_pair = _typed(lambda text: _to_pair(text) if "," in text else float(text), "a number")
_bytes = _typed(_to_bytes, "a number of bytes")


# From options to an analyzer


def _analyzer(model: Model, options: argparse.Namespace, threads: int | None = None, memory: int | None = None) -> Analyzer:
    """The analyzer that the rule's options stand for."""
    name = options.rule
    if name not in RULES and name not in ANALYZERS:
        near = difflib.get_close_matches(name, [*RULES, *ANALYZERS], n=1)
        hint = f", did you mean {near[0]!r}?" if near else ";"
        raise RuleError(f"unknown rule {name!r}{hint} `lrpfast rules` lists them")
    common = {
        "device": options.device,
        "precision": options.precision,
        "threads": threads,
        "memory": memory,
        "input_range": options.input_range,
        "mask_nan": options.mask_nan,
    }
    own = ("epsilon", "gamma", "alpha", "beta", "bias", "until_layer_idx", "until_layer_rule")
    parameters = {key: getattr(options, key) for key in own if getattr(options, key) is not None}
    bounds = {key: _bound(key, getattr(options, key)) for key in ("low", "high") if getattr(options, key) is not None}
    first = _first_rule(options.input_layer_rule)
    if name in ANALYZERS:
        return _by_innvestigate_name(model, options, {**parameters, **bounds}, first, common)
    for key in ("until_layer_idx", "until_layer_rule"):
        if key in parameters:
            raise RuleError(f"--{key.replace('_', '-')} goes with iNNvestigate's names, not with {name!r}")
    if name == "z_box" or not bounds:
        rule = from_name(name, **parameters, **bounds)
        first = from_name(first) if isinstance(first, str) else from_name("z_box", low=first[0], high=first[1]) if first else None
    else:
        if first != "z_box":
            raise RuleError(f"--low and --high go with z_box: as --rule or as --input-layer-rule; {name} has no bounds")
        rule, first = from_name(name, **parameters), from_name("z_box", **bounds)
    return Analyzer(model, Uniform(rule, first), start=_layer(options.start), **common)


def _by_innvestigate_name(
    model: Model, options: argparse.Namespace, parameters: dict[str, Any], first: Any, common: dict[str, Any]
) -> Analyzer:
    name = options.rule
    if options.start is not None:
        raise InputError("--start goes with lrpfast's own rules; iNNvestigate's names explain the output")
    if name == "lrp":
        raise RuleError("lrp takes a list of rules, which lrpfast.create_analyzer in Python can pass; name one rule here")
    if "bias" in parameters:
        truth = {"true": True, "false": False}.get(parameters["bias"].lower())
        if truth is None:
            raise RuleError(f"--bias with {name} is true or false, not {parameters['bias']!r}")
        parameters["bias"] = truth
    if first == "Bounded" and "low" not in keywords(name) and {"low", "high"} <= set(parameters):
        first = parameters.pop("low"), parameters.pop("high")
    return create_analyzer(name, model, input_layer_rule=first, **parameters, **common)


def _first_rule(text: str | None) -> str | tuple[float, float] | None:
    if text is None or "," not in text:
        return text
    try:
        return _to_pair(text)
    except ValueError:
        raise RuleError(f"--input-layer-rule is a rule's name or LOW,HIGH, not {text!r}") from None


def _bound(key: str, text: str) -> float | np.ndarray:
    if text.endswith(".npy"):
        return np.array(open_array(text))
    try:
        return float(text)
    except ValueError:
        raise RuleError(f"--{key} is a number or an .npy file, not {text!r}") from None


def _layer(text: str | None) -> str | int | None:
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else text


def _target(text: str) -> Any:
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if re.fullmatch(r"-?\d+,-?\d+", text):
        first, second = text.split(",")
        return int(first), int(second)
    if text.endswith(".npy"):
        return np.asarray(open_array(text))
    if text not in ("max", "all"):
        raise InputError(f"--target is max, all, an index, a pair a,b or an .npy file, not {text!r}")
    return text


# The commands


def _explain(options: argparse.Namespace) -> None:
    sources = [options.model, options.inputs, *(p for p in (options.target, options.low, options.high) if p)]
    if any(_same(options.output, source) for source in sources):
        raise InputError(f"{options.output}: is an input of this command and would be overwritten")
    if options.output.endswith((".npz", ".h5", ".nc")):
        raise InputError(f"{options.output}: the relevances are written as one array, an .npy file")
    check_target(options.output)
    x = open_array(options.inputs)
    target = _target(options.target)
    analyzer = _analyzer(load(options.model), options, options.threads, options.memory)
    with _terminable(), _progress(len(x) if x.ndim else 0, options.quiet) as progress:
        done = explain_file(
            analyzer, x, options.output, target=target, normalize=options.normalize, progress=progress
        )
    if options.quiet:
        return
    if done.left:
        print(f"{done.left:,} of {done.explanations:,} explanations are not normalized: their {_DIVISOR[options.normalize]} is 0")
    rate = done.explanations / done.seconds
    print(
        f"{done.shape[0]:,} samples explained in {done.seconds:.3g} s, {rate:,.0f} explanations a second; "
        f"wrote {options.output}, {analyzer_dtype(analyzer)} {done.shape}"
    )


_DIVISOR = {"maxabs": "largest |R|", "sum": "sum"}


def analyzer_dtype(analyzer: Analyzer) -> str:
    """The dtype of an analyzer's relevances."""
    return PRECISIONS[analyzer.precision][0]


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


def _inspect(options: argparse.Namespace) -> None:
    model = load(options.model)
    analyzer = _analyzer(model, options)
    plan = analyzer.plan()
    print(model.summary())
    print(f"\nrules under {options.rule!r}")
    width = max(len(str(layer.name)) for layer in model.layers)
    for i, node in enumerate(plan.model.nodes):
        rule = plan.rules.get(i)
        print(f"  {str(node.layer.name).ljust(width)}  {describe(rule) if rule else 'pass'}")
    explained = [node.layer for node in plan.model.nodes]
    if any(layer is not original for layer, original in zip(explained, model.layers, strict=False)):
        print("  the final softmax or sigmoid is left out: its input is explained")
    print(f"\nplan ({options.precision})\n{plan}")


def _rules(options: argparse.Namespace) -> None:
    print("Rules, with the defaults of their parameters\n")
    for name, rule in RULES.items():
        print(f"  {name.ljust(13)} {rule.equation}")
        for line in _defaults(rule):
            print(f"  {'':13} {line}")
    print("\niNNvestigate's names, with their keywords (conventions as in iNNvestigate 2.1.2)\n")
    for name in ANALYZERS:
        print(f"  {name.ljust(39)} {', '.join(k for k in keywords(name) if k not in _LRP_KEYWORDS)}".rstrip())
    print(f"\n  All lrp.* also take {', '.join(_LRP_KEYWORDS)}.")
    print("\nConventions: docs/conventions.md. Equations and references: docs/rules.md, or help(lrpfast.rules.Epsilon).")


_LRP_KEYWORDS = ("input_layer_rule", "until_layer_idx", "until_layer_rule")


def _defaults(rule: type[Rule]) -> list[str]:
    """``epsilon 1e-06`` and ``bias absorb (or ignore, …)``, from the rule's own fields."""
    shown, bias = [], []
    for f in fields(rule):
        if f.name == "bias":
            others = [c for c in rule.conventions if c != f.default]
            bias = [f"bias {f.default}" + (f" (or {', '.join(others)})" if others else "")]
        elif f.name == "stabilizer":
            shown.append(f"stabilizer {Stabilizer(f.default)}")
        elif f.default is None or f.default is MISSING:
            shown.append(f"{f.name} required")
        else:
            shown.append(f"{f.name} {f.default:g}" if isinstance(f.default, float) else f"{f.name} {f.default}".lower())
    return [", ".join(shown), *bias] if shown else bias


def _info(options: argparse.Namespace) -> None:
    import platform

    import h5py

    from .kernels import backend  # the one command that asks the kernels about the machine

    device = backend("auto")
    print(f"lrpfast    {__version__}")
    print(f"Python     {platform.python_version()} ({platform.system()} {platform.machine()})")
    print(f"NumPy      {np.__version__}, h5py {h5py.__version__}")
    print(f"devices    {device.name} (this version has no other)")
    for key, value in device.describe().items():
        print(f"           {key}: {value}")
    print(f"threads    {check_threads(None)} (all that this process may use)")


def _demo(options: argparse.Namespace) -> None:
    from .demo import run

    with _terminable():
        run(options.output, options.threads)
