"""Options that several commands share, in groups."""

from __future__ import annotations

import argparse

from ..batch.hidden import REDUCTIONS
from ..engine.inputs import PRECISIONS
from ..plot.draw import ORIGINS
from ..plot.samples import KINDS
from ..plot.scale import SCALES
from . import values

MODEL_HELP = "a Keras .h5 or .keras file, an ONNX model, a PyTorch .pt2, or an .npz by Model.save"
INPUTS_HELP = (
    "samples along the first axis: .npy, .npz[:name], file.h5:dataset, file.nc:variable or store.zarr[:array]; several "
    "files, or a pattern in quotes, 'sst_*.nc:sst', are read as one, in the order of their times"
)
SEVERAL_HELP = (
    f"{INPUTS_HELP}; with several inputs NAME=SOURCE for each, or a file or group that has an array of each name"
)


def add_layer_options(parser: argparse.ArgumentParser) -> None:
    """Hidden layers, in place of the input."""
    group = parser.add_argument_group("hidden layers, in place of the input")
    group.add_argument(
        "--layers",
        metavar="NAME,…",
        type=values.names,
        help="write and count the relevance of these layers, by their names in `lrpfast inspect`; the input is one too",
    )
    group.add_argument(
        "--reduce", choices=REDUCTIONS, help="sum hidden layers over positions, for each channel, or over everything"
    )
    group.add_argument(
        "--activations", action="store_true", help="the layers' activations, too: arrays NAME_activation"
    )


def add_condition_options(parser: argparse.ArgumentParser) -> None:
    """Which neurons of hidden layers relevance flows through."""
    group = parser.add_argument_group("relevance through chosen channels alone (docs/concepts.md)")
    group.add_argument(
        "--condition",
        metavar="LAYER=CHANNELS",
        action="append",
        help="through these channels of a hidden layer: 5, 5,7, 0:8, or FILE.npy of a boolean array; several layers as "
        "'conv=5;dense=2'. Given again, one more condition, whose relevance is on an axis of its own",
    )
    group.add_argument(
        "--parallel",
        action="store_true",
        help="also count what flows past the layers, as in residual connections",
    )


def add_input_options(parser: argparse.ArgumentParser, mask_nan: bool = True) -> None:
    """Which of the inputs are read, and how."""
    group = parser.add_argument_group("which of the inputs, and how")
    group.add_argument(
        "--select",
        metavar="NAME=LOW:HIGH",
        action="append",
        default=[],
        help="a part of the inputs by a coordinate, ends included: time=1982-01:1999-12, lat=-60:60, time.season=DJF; "
        "may be repeated",
    )
    group.add_argument(
        "--mask", metavar="FILE", help="boolean grid: the inputs' points that are the model's features; the rest is NaN"
    )
    if mask_nan:
        group.add_argument(
            "--mask-nan", action="store_true", help="NaN marks features that do not count; they stay NaN"
        )
    group.add_argument("--fill-nan", metavar="VALUE", type=values.number, help="a number in place of NaN")


def add_chunk_options(group: argparse._ArgumentGroup) -> None:
    """How the samples of a data set are read, and what becomes of earlier outputs."""
    group.add_argument(
        "--threads", metavar="N", type=values.count, help="default: all cores; results do not depend on it"
    )
    group.add_argument(
        "--batch-size",
        metavar="N",
        type=values.count_or_auto,
        default="auto",
        help="samples read, explained and written at once; default: auto, as memory suggests",
    )
    group.add_argument(
        "--force",
        "--overwrite",
        action="store_true",
        help="replace outputs that are there already and hold nothing else",
    )
    group.add_argument(
        "--restart", action="store_true", help="begin anew where an earlier run was stopped, instead of going on"
    )
    group.add_argument("--quiet", action="store_true", help="neither progress bar nor report")


def add_input_shape(parser: argparse.ArgumentParser) -> None:
    """Sizes that a model's file leaves open."""
    parser.add_argument(
        "--input-shape",
        metavar="[NAME=]N,…",
        type=values.input_shape,
        action="append",
        help="one sample's shape, where the model leaves sizes open; NAME=N,… once for each of several inputs",
    )


def add_rule_options(parser: argparse.ArgumentParser) -> None:
    """The rule and its parameters."""
    group = parser.add_argument_group("the rule (see `lrpfast rules`)")
    group.add_argument(
        "--rule",
        metavar="NAME",
        default="epsilon",
        help="a rule, a composite, or an iNNvestigate name; default: epsilon",
    )
    group.add_argument(
        "--rule-for",
        metavar="WHAT=RULE",
        action="append",
        default=[],
        help="another rule for some layers: WHAT is a type, such as BatchNorm or Conv; first, last, or an index among "
        "the layers with weights; a layer's name, or a pattern of names. BatchNorm=pass, 'block1_*=gamma:gamma=0.5', "
        "first=z_box:low=0,high=1; may be repeated",
    )
    group.add_argument(
        "--input-layer-rule", metavar="NAME|LOW,HIGH", help="for the first layer with weights; LOW,HIGH: z-box"
    )
    group.add_argument("--epsilon", type=values.number, metavar="E")
    group.add_argument("--gamma", type=values.number, metavar="G")
    group.add_argument("--alpha", type=values.number_or_pair, metavar="A")
    group.add_argument("--beta", type=values.number_or_pair, metavar="B", help="alpha - beta = 1")
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
    group.add_argument("--until-layer-idx", type=values.integer, metavar="N", help="with iNNvestigate's names")
    group.add_argument("--until-layer-rule", metavar="NAME", help="for layers 0 to N")


def add_start_options(parser: argparse._ActionsContainer) -> None:
    """Where relevance starts, and which output is a difference."""
    parser.add_argument(
        "--start", metavar="LAYER", help="one of several outputs, or a hidden layer, to explain instead: name or index"
    )
    parser.add_argument(
        "--y-ref", metavar="Y", help="explain the output less this value: a number, A,B,… for each output, or FILE.npy"
    )


def add_statistics_options(parser: argparse.ArgumentParser) -> None:
    """Statistics of the maps."""
    group = parser.add_argument_group("statistics of the maps, made on the way (-o is not needed then)")
    group.add_argument(
        "--statistics",
        metavar="FILE",
        help="mean, standard deviation, least and largest value, shares of positive and negative relevance; "
        ".nc, .h5, .npz or .zarr",
    )
    group.add_argument(
        "--group-by",
        metavar="WHAT",
        help="for each label apart: time.season, time.month, another coordinate, FILE (.npy, file.nc:variable), or "
        "prediction, the predicted class",
    )
    group.add_argument(
        "--correct-only",
        "--correct",
        metavar="FILE",
        help="the true classes: leave out samples predicted otherwise",
    )
    group.add_argument("--quantiles", metavar="Q,…", type=values.numbers, default=(), help="such as 0.05,0.5,0.95")
    group.add_argument(
        "--skip-zero", action="store_true", help="leave out maps that are zero everywhere; they are counted in any case"
    )


def add_run_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Precision and device."""
    group = parser.add_argument_group("how it runs")
    group.add_argument("--precision", choices=tuple(PRECISIONS), default="float32", help="default: %(default)s")
    group.add_argument(
        "--input-range",
        metavar="LOW,HIGH",
        type=values.pair,
        help="declare the inputs' range: less work, and it is checked",
    )
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, gpu (all of them) or gpu:1 (one)")
    return group


def add_plot_options(parser: argparse.ArgumentParser) -> None:
    """A picture of the maps."""
    group = parser.add_argument_group("a picture of it (needs matplotlib, lrpfast's extra 'plot')")
    group.add_argument(
        "--plot",
        metavar="FILE",
        help="draw the first samples' relevance or, without -o, the mean maps of --statistics; .png, .pdf or .svg",
    )
    group.add_argument("--plot-limit", metavar="N", type=values.integer, help="how many samples; default: 16")
    group.add_argument("--plot-input", action="store_true", default=None, help="draw the inputs beneath")
    group.add_argument(
        "--plot-kind", choices=KINDS, help="how to draw a sample; default: --mask's grids as images, else by its axes"
    )
    group.add_argument(
        "--plot-shape", metavar="H,W", type=values.shape, help="draw flat features as images of this shape"
    )
    group.add_argument(
        "--plot-channels", choices=("first", "last"), help="where a sample's channels are; default: as in the model"
    )
    group.add_argument("--plot-mask", metavar="FILE.npy", help="boolean grid: the points that the features lie on")
    group.add_argument("--plot-origin", choices=ORIGINS, help="where an image's first row is; default: upper")
    group.add_argument(
        "--plot-scale", choices=SCALES, help="a scale for each sample, or one for all; default: one for maps"
    )
    group.add_argument("--plot-limits", metavar="LOW,HIGH", type=values.pair, help="the relevance where colours end")
    group.add_argument("--plot-cmap", metavar="NAME", help="a colour map of matplotlib")
    group.add_argument("--plot-projection", metavar="NAME", help="of maps (--plot-kind map), by cartopy: Robinson, say")
    group.add_argument(
        "--plot-percentile", metavar="P", type=values.number, help="end the colours at this percentile of |R|"
    )
