"""The command line's commands and options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from ..batch import NORMALIZATIONS
from ..batch.compression import COMPRESSIONS
from ..batch.normalize import PARTS
from ..batch.references import BY, OF
from ..plot.draw import ORIGINS
from ..reporting.settings import KINDS as REPORT_KINDS
from . import demo, doctor, evaluate, explain, graph, info, inspect, references, report, rules, values
from .option_groups import (
    INPUTS_HELP,
    MODEL_HELP,
    SEVERAL_HELP,
    add_chunk_options,
    add_condition_options,
    add_input_options,
    add_input_shape,
    add_layer_options,
    add_plot_options,
    add_rule_options,
    add_run_options,
    add_start_options,
    add_statistics_options,
)
from .usage import UsageError

ABOUT = """\
Layer-wise Relevance Propagation for neural networks: which inputs made the output what it is, and by how much.
Which regions of the ocean made a network predict a wet season? The mean map of each season, from all years' files:

  lrpfast explain model.h5 'sst_*.nc:sst' --mask ocean.nc:ocean --statistics maps.nc --group-by time.season

  lrpfast demo                                         see it work on a model that is included
  lrpfast explain model.h5 x.npy -o relevance.npy      explain every sample of an array
  lrpfast doctor model.h5 x.npy                        check a model and its inputs before a long run
  lrpfast inspect model.h5                             a model's layers, their rules, the cost
  lrpfast evaluate model.h5 x.npy                      how good the explanations of rules are
  lrpfast report model.h5 x.npy -o report.html         maps, trust and samples on one page
  lrpfast references model.h5 x.npy --layer dense      the samples that a layer's channels stand for
  lrpfast graph model.h5 x.npy --layer dense_1 --channel 3
                                                       the channels that a channel is made of
  lrpfast rules                                        the rules and their defaults
  lrpfast info                                         version, instruction set, threads"""


EXPLAIN_EXAMPLES = """\
examples:
  lrpfast explain model.h5 x.npy -o r.npy
        which inputs made each sample's largest output? its relevance, by the epsilon rule
  lrpfast explain model.h5 sst.nc:sst --mask ocean.nc:ocean --select time=1982-12:1983-02 -o winter.nc
        which regions made the network's prediction on each day of a winter? maps with the data's coordinates
  lrpfast explain model.h5 'sst_*.nc:sst' --mask ocean.nc:ocean --statistics maps.nc --group-by time.season
        which regions matter in each season? mean maps over all years, one file a year
  lrpfast explain --models 'seed_*.h5' 'sst_*.nc:sst' --mask ocean.nc:ocean --statistics maps.nc
        what do several networks agree on? statistics over their mean maps, and a file for each
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
  lrpfast explain two.npz image=x1.npy age=x2.npy -o r.h5
        a model with two inputs: r.h5 contains a relevance for each, by its name

INPUTS may be larger than memory: they are read and explained a chunk at a time. Outputs are written under a
temporary name and renamed when they are whole. A run that was stopped, however it was, goes on where it was
when the same command is given again."""

INSPECT_EXAMPLES = """\
examples:
  lrpfast inspect model.h5
  lrpfast inspect model.h5 --rule lrp.alpha_2_beta_1 --input-layer-rule Bounded"""

EVALUATE_TEXT = """\
examples:
  lrpfast evaluate model.h5 x.npy --rule epsilon,epsilon_plus,gamma --plot curves.png
  lrpfast evaluate cnn.keras images.npy --rule epsilon_gamma_box --region 8,8 --baseline mean

Features are replaced by the baseline, the most relevant first, then the least relevant first, then in random order. The
table has the areas under the explained output: good relevance has a small one for "most", a large one for "least", with
"random" between. gini: sparsity, from 0 to 1. entropy: in nats. sensitivity: the largest relative change of relevance
when inputs change by at most the radius."""

REPORT_TEXT = """\
examples:
  lrpfast report model.h5 x.npy --labels classes.npy -o report.html
  lrpfast report model.keras sst.nc:sst --mask ocean.npy --rule lrp.z_plus --normalize maxabs -o report.html
  lrpfast report cnn.onnx images.npy --class-names cat,dog --rule epsilon_plus_flat -o report.html
  lrpfast report --models 'seed_*.h5' 'sst_*.nc:sst' --mask ocean.nc:ocean --labels time.season -o report.html

The page needs nothing else: no scripts, no network, no other files. It says how the explanations were made and whether
to trust them (balance of relevance by layer, accuracy, sparsity, flipped features against a random order), and shows
mean and median maps by class, the most relevant features, and single samples."""

DOCTOR_TEXT = """\
examples:
  lrpfast doctor model.h5 'sst_*.nc:sst' --mask ocean.nc:mask
  lrpfast doctor model.h5 sst.nc:sst --mask ocean.npy --select time=1982-01:1999-12 --rule epsilon_plus

It reads at most 256 samples, at equal distances, and checks their shape and the order of their axes, the mask, NaN and
infinity, their range against what a normalization layer was trained on, the predictions, and what explaining them warns
of; then it says how long the run will take and how large its output will be. The exit status is 1 where a run would
fail."""

DEMO_TEXT = """\
The model and its 10,000 inputs are those of a published notebook, which explained them with iNNvestigate
on a GPU. The table sets the figures that the notebook printed beside lrpfast's under three precisions."""

#: Arguments that begin like an option to argparse, such as -1,1 or -1e-3.
_NEGATIVE = re.compile(r"-\.?\d")


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises errors, where argparse prints them and ends the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def with_negatives(arguments: Sequence[str]) -> list[str]:
    """Write ``--low -1,1`` as ``--low=-1,1``: argparse would read ``-1,1`` as an option."""
    result: list[str] = []
    for argument in arguments:
        if _NEGATIVE.match(argument) and result and result[-1].startswith("--") and "=" not in result[-1]:
            result[-1] += f"={argument}"
        else:
            result.append(argument)
    return result


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; its result has the command's function as ``run``."""

    def formatter(prog: str) -> argparse.HelpFormatter:
        return argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=100)

    parser = Parser(prog="lrpfast", description=ABOUT, formatter_class=formatter, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"lrpfast {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Any, help: str, epilog: str = "") -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=help,
            description=help[:1].upper() + help[1:] + ".",
            epilog=epilog,
            formatter_class=formatter,
            allow_abbrev=False,
        )
        sub.set_defaults(run=run)
        return sub

    _add_demo(command("demo", demo.run, "explain an included model and compare with published figures", DEMO_TEXT))
    _add_explain(command("explain", explain.run, "explain every sample of an array", EXPLAIN_EXAMPLES))
    _add_doctor(command("doctor", doctor.run, "check a model and its inputs before a long run", DOCTOR_TEXT))
    _add_inspect(
        command("inspect", inspect.run, "a model's layers, the rule each one gets, the cost", INSPECT_EXAMPLES)
    )
    _add_evaluate(command("evaluate", evaluate.run, "how good the explanations of several rules are", EVALUATE_TEXT))
    _add_report(command("report", report.run, "explanations of a data set, and whether to trust them", REPORT_TEXT))
    _add_references(
        command("references", references.run, "the samples that each channel of a layer stands for", references.TEXT)
    )
    _add_graph(command("graph", graph.run, "the channels of lower layers that a channel is made of", graph.TEXT))
    command("rules", rules.run, "the rules with their defaults, and iNNvestigate's names")
    command("info", info.run, "version, instruction set, threads and devices")
    return parser


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="OUT.npz", default="lrpfast-demo.npz", help="default: %(default)s")
    parser.add_argument("--threads", metavar="N", type=values.count, help="default: all cores")


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=f"{MODEL_HELP}; none with --models")
    parser.add_argument("inputs", metavar="INPUTS", nargs="*", help=SEVERAL_HELP)
    parser.add_argument(
        "--models",
        metavar="PATTERN",
        help="an ensemble in place of MODEL, such as 'seed_*.h5': outputs for each member, whose name is added to "
        "theirs, and statistics over all members",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help=".npy, .h5[:dataset], .nc[:variable] or .zarr[:array]: where relevances go; all but .npy also hold each "
        "sample's prediction, target and more",
    )
    add_input_shape(parser)
    add_rule_options(parser)
    add_input_options(parser)
    group = parser.add_argument_group("what is explained")
    group.add_argument(
        "--target",
        metavar="TARGET",
        default="max",
        help="max (default): each sample's largest output; all: every output's own value; an output's index; a,b: the "
        "difference of two outputs (on several axes a,b-c,d: output [a, b] less [c, d]); FILE (.npy, file.nc:variable, "
        "…): an index per sample, or the starting relevance itself",
    )
    add_start_options(group)
    group.add_argument("--part", choices=PARTS, help="keep max(R, 0), min(R, 0) or |R|, before anything is normalized")
    group.add_argument(
        "--normalize",
        metavar="NAME,…",
        type=values.normalizations,
        help=f"divide each explanation by max |R|, sum R, max R or sum |R|: {', '.join(NORMALIZATIONS)}; or by one "
        "after the other, as sum,max",
    )
    add_condition_options(parser)
    add_layer_options(parser)
    add_statistics_options(parser)
    _add_explain_run_options(parser)
    add_plot_options(parser)


def _add_explain_run_options(parser: argparse.ArgumentParser) -> None:
    group = add_run_options(parser)
    add_chunk_options(group)
    group.add_argument(
        "--memory",
        metavar="BYTES",
        type=values.byte_count,
        help="for the threads' workspaces, and at least so much for the model; 500M and 2G work",
    )
    group.add_argument(
        "--cluster",
        metavar="WHERE",
        help="let Dask's workers explain files that all reach: local:4 starts four, tcp://HOST:PORT is a scheduler, "
        "FILE.json what a scheduler wrote with --scheduler-file",
    )
    group.add_argument(
        "--compression",
        choices=COMPRESSIONS,
        default="auto",
        help="of .nc, .h5 and .zarr: auto (default) compresses statistics, zlib and blosc relevances too",
    )
    group.add_argument(
        "--balance",
        action="store_true",
        help="print where relevance went, layer by layer: mean of all samples, or of 256 of them",
    )


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("inputs", metavar="INPUTS", nargs="+", help=INPUTS_HELP)
    add_input_shape(parser)
    add_rule_options(parser)
    add_input_options(parser)
    parser.add_argument("--target", metavar="TARGET", default="max", help="as in explain; default: max")
    parser.add_argument("--threads", metavar="N", type=values.count, help="default: all cores")
    add_start_options(parser)
    add_run_options(parser)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_input_shape(parser)
    add_rule_options(parser)
    add_start_options(parser)
    parser.add_argument("--mask-nan", action="store_true", help="plan for NaN as a mark of features that do not count")
    add_run_options(parser)


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("inputs", metavar="INPUTS", nargs="+", help=SEVERAL_HELP)
    add_input_shape(parser)
    add_rule_options(parser)
    add_input_options(parser, mask_nan=False)
    group = parser.add_argument_group("how it is evaluated")
    group.add_argument(
        "--target", metavar="TARGET", default="max", help="max, an output's index, or FILE.npy of indices"
    )
    group.add_argument("--start", metavar="LAYER", help="of several outputs, the one to evaluate; or a hidden layer")
    group.add_argument("--samples", metavar="N", type=values.count, default=256, help="at most; default: %(default)s")
    group.add_argument("--region", metavar="H,W", type=values.shape, help="flip patches of this size at once")
    group.add_argument(
        "--baseline",
        metavar="VALUE",
        type=values.number_or_mean,
        default=0.0,
        help="what flipped features become: a number, or mean, the sample's own; default: 0",
    )
    group.add_argument("--steps", metavar="N", type=values.count, help="points of the curves; default: 50")
    group.add_argument("--seed", metavar="N", type=values.integer, default=0, help="of the random order")
    group.add_argument("--logits", action="store_true", help="record the output before the final softmax")
    group.add_argument(
        "--radius", metavar="R", type=values.number, help="also measure sensitivity to noise of this size"
    )
    group.add_argument(
        "--randomization", action="store_true", help="also compare with models whose weights are random, layer by layer"
    )
    group.add_argument("--plot", metavar="FILE", help="draw the curves: .png, .pdf or .svg")
    add_run_options(parser)
    parser.set_defaults(y_ref=None, mask_nan=False)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=f"{MODEL_HELP}; none with --models")
    parser.add_argument("inputs", metavar="INPUTS", nargs="*", help=SEVERAL_HELP)
    parser.add_argument(
        "--models",
        metavar="PATTERN",
        help="an ensemble in place of MODEL, such as 'seed_*.h5': how each member does, and what they agree on",
    )
    parser.add_argument("-o", "--output", metavar="OUT.html", required=True, help="the page to write")
    add_input_shape(parser)
    add_rule_options(parser)
    add_input_options(parser)
    group = parser.add_argument_group("what is explained, and shown")
    group.add_argument(
        "--labels",
        metavar="WHAT",
        help="true classes, groups by name, or numbers of a regression, one for each sample: FILE (.npy, "
        "file.nc:variable) or a coordinate, such as time.season",
    )
    group.add_argument("--target", metavar="TARGET", default="max", help="as of `lrpfast explain`, one for each sample")
    add_start_options(group)
    group.add_argument(
        "--normalize", choices=NORMALIZATIONS, help="divide each explanation by this before maps are averaged"
    )
    group.add_argument("--class-names", metavar="A,B,…|FILE", help="names of the outputs; FILE: one on each line")
    group.add_argument(
        "--features",
        metavar="[NAME=]A,B,…|FILE",
        action="append",
        help="names of the features, or of a sequence's channels; of several inputs NAME=… for each",
    )
    group.add_argument(
        "--tokens",
        metavar="[NAME=]FILE",
        action="append",
        help="names of an embedding's entries, one on each line; of several inputs NAME=FILE for each",
    )
    group.add_argument(
        "--samples", metavar="N", type=values.count, default=128, help="for balance and curves; default: %(default)s"
    )
    group.add_argument(
        "--shown", metavar="N", type=values.count, default=6, help="samples shown of each kind; default: %(default)s"
    )
    group.add_argument(
        "--baseline",
        metavar="VALUE",
        type=values.number_or_mean,
        default=0.0,
        help="what flipped features become: a number, or mean, the sample's own; default: 0",
    )
    group.add_argument("--title", metavar="TEXT")
    group.add_argument("--plot-kind", choices=REPORT_KINDS, help="how to draw a sample; default: by its axes")
    group.add_argument("--plot-shape", metavar="H,W", type=values.shape, help="draw flat features as images")
    group.add_argument("--plot-channels", choices=("first", "last"), help="default: as in the model")
    group.add_argument("--plot-origin", choices=ORIGINS, help="where an image's first row is; default: upper")
    group = add_run_options(parser)
    group.add_argument("--threads", metavar="N", type=values.count, help="default: all cores")
    group.add_argument("--memory", metavar="BYTES", type=values.byte_count, help="for the threads' workspaces")
    group.add_argument("--force", "--overwrite", action="store_true", help="replace a file that is there already")
    group.add_argument("--quiet", action="store_true", help="neither progress bar nor report")


def _add_references(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("inputs", metavar="INPUTS", nargs="+", help=INPUTS_HELP)
    parser.add_argument("-o", "--output", metavar="OUT", help="indices, values and positions: .npz, .nc, .h5 or .zarr")
    add_input_shape(parser)
    add_rule_options(parser)
    group = parser.add_argument_group("what is sought")
    group.add_argument("--layer", metavar="NAME", required=True, help="a hidden layer")
    group.add_argument(
        "-k", metavar="N", type=values.count, default=40, help="samples of each channel; default: %(default)s"
    )
    group.add_argument("--by", choices=BY, default="relevance", help="default: %(default)s")
    group.add_argument(
        "--of", choices=OF, default="sum", help="the sum over positions, or the largest; default: %(default)s"
    )
    group.add_argument("--target", metavar="TARGET", default="max", help="as of explain; default: %(default)s")
    add_start_options(group)
    group.add_argument(
        "--normalize",
        metavar="NAME,…",
        type=values.normalizations,
        help=f"divide the values of a sample's channels: {', '.join(NORMALIZATIONS)}",
    )
    group.add_argument("--group-by", metavar="FILE|prediction", help="for each label, or predicted class, apart")
    add_input_options(parser)
    group = parser.add_argument_group("a picture (needs matplotlib, lrpfast's extra 'plot')")
    group.add_argument("--plot", metavar="FILE", help=".png, .pdf or .svg")
    group.add_argument("--channels", metavar="N,…", type=values.integers, help="which channels; default: the largest 6")
    group.add_argument("--columns", metavar="N", type=values.count, help="samples of each channel; default: 8")
    add_chunk_options(add_run_options(parser))


def _add_graph(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("inputs", metavar="INPUTS", nargs="+", help=INPUTS_HELP)
    parser.add_argument("-o", "--output", metavar="OUT", help="nodes and edges: .json, .csv (edges alone) or .graphml")
    add_input_shape(parser)
    add_rule_options(parser)
    group = parser.add_argument_group("what is followed")
    group.add_argument("--layer", metavar="NAME", required=True, help="where the graph begins")
    group.add_argument("--channel", metavar="N", type=values.integer, required=True, help="one of its channels")
    group.add_argument(
        "--sample", metavar="N", type=values.integer, default=0, help="the sample's index; default: %(default)s"
    )
    group.add_argument(
        "--width",
        metavar="N,…",
        type=values.integers,
        help="how many channels each channel is made of, layer by layer; default: 5,3",
    )
    group.add_argument(
        "--layers",
        metavar="NAME,…",
        type=values.names,
        help="the lower layers, from above to below; default: the next ones with weights",
    )
    group.add_argument("--target", metavar="TARGET", default="max", help="as of explain; default: %(default)s")
    add_start_options(group)
    add_input_options(parser)
    group = add_run_options(parser)
    group.add_argument("--threads", metavar="N", type=values.count, help="default: all cores")
    group.add_argument("--force", "--overwrite", action="store_true", help="replace a file that is there already")
    group.add_argument("--quiet", action="store_true", help="print nothing")
