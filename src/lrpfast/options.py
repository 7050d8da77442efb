"""What the command line's options stand for: numbers, targets, rules, analyzers."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from . import plot
from .batch import NORMALIZATIONS, Source, data_bounds, open_array, open_mask, open_source
from .engine.analyzer import Analyzer
from .engine.innvestigate import create_analyzer
from .engine.inputs import as_batch
from .errors import InputError, RuleError
from .model.graph import Model
from .names import unknown
from .plot.file import check_path
from .plot.samples import LIMIT, MOST_PANELS, check_limit
from .rules import RULES, Rule, ZBox, from_name, innvestigate, presets
from .rules.composites import Composite
from .rules.entries import Entry
from .rules.innvestigate import ANALYZERS, keywords
from .rules.presets import COMPOSITES
from .rules.selectors import Uniform


def _typed(convert: Callable[[str], Any], what: str) -> Callable[[str], Any]:
    """A type for argparse that says what was expected."""

    def parse(text: str) -> Any:
        try:
            return convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None

    return parse


def _to_count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count


def _to_pair(text: str) -> tuple[float, float]:
    low, high = (float(part) for part in text.split(","))
    return low, high


def _to_shape(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _to_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if not match:
        raise ValueError
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))


integer = _typed(int, "a whole number")
count = _typed(_to_count, "a whole number of at least 1")
count_or_auto = _typed(lambda text: text if text == "auto" else _to_count(text), "auto or a whole number of at least 1")
number = _typed(float, "a number")
pair = _typed(_to_pair, "a pair LOW,HIGH of numbers")
number_or_pair = _typed(lambda text: _to_pair(text) if "," in text else float(text), "a number")
shape = _typed(_to_shape, "a shape such as 8,8")
numbers = _typed(lambda text: tuple(float(part) for part in text.split(",")), "a list of numbers")
byte_count = _typed(_to_bytes, "a number of bytes")


def analyzer(
    model: Model, options: argparse.Namespace, threads: int | None = None, memory: int | None = None
) -> Analyzer:
    """The analyzer that the rule's options stand for."""
    common = {
        "device": options.device,
        "precision": options.precision,
        "threads": threads,
        "memory": memory,
        "input_range": options.input_range,
        "mask_nan": options.mask_nan,
    }
    if _known(options.rule) in ANALYZERS:
        made: Analyzer = create_analyzer(options.rule, model, **_innvestigate_keywords(options), **common)
    else:
        made = Analyzer(model, _own(options), start=layer(options.start), y_ref=_reference(options.y_ref), **common)
    _check_bounds(options, made)
    return made


def _check_bounds(options: argparse.Namespace, made: Analyzer) -> None:
    """RuleError where --low and --high are given and no layer of this model has the rule that they are for."""
    given = options.low is not None or options.high is not None
    if given and not any(isinstance(rule, ZBox) for rule in made._composite.assign(made.model).rules.values()):
        where = "the first convolution, which" if options.rule == "epsilon_gamma_box" else "a layer that"
        raise RuleError(
            f"--low and --high are for z_box, and {options.rule} has it on {where} this model does not have; "
            "--input-layer-rule z_box has it on the first layer with weights"
        )


def _reference(text: str | None) -> float | np.ndarray | None:
    """What ``--y-ref`` names."""
    if text is None:
        return None
    if text.endswith(".npy"):
        return np.array(open_array(text))
    try:
        return np.array([float(part) for part in text.split(",")])
    except ValueError:
        raise InputError(f"--y-ref is a number, one for each output as A,B,…, or an .npy file, not {text!r}") from None


def composite(options: argparse.Namespace) -> Composite:
    """Which layer gets which rule, by the rule's options."""
    if _known(options.rule) not in ANALYZERS:
        return _own(options)
    parameters = _innvestigate_keywords(options)
    if parameters["input_layer_rule"] is None:
        del parameters["input_layer_rule"]
    return innvestigate.composite(options.rule, **parameters)


def _known(name: str) -> str:
    known = [*RULES, *COMPOSITES, *ANALYZERS]
    if name not in known:
        raise RuleError(unknown("rule", name, known, "`lrpfast rules` lists them"))
    return name


#: bounds that are taken from the inputs
_FROM_DATA = ("minmax", "1sigma", "3sigma")


def _given(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rule's parameters that are given, and the bounds ``low`` and ``high``."""
    own = ("epsilon", "gamma", "alpha", "beta", "bias", "until_layer_idx", "until_layer_rule")
    parameters = {key: getattr(options, key) for key in own if getattr(options, key) is not None}
    bounds = {key: _bound(key, getattr(options, key)) for key in ("low", "high") if getattr(options, key) is not None}
    asked = {text: key for key, text in bounds.items() if isinstance(text, str)}
    for text in asked:
        if getattr(options, "inputs", None) is None:
            raise RuleError(f"--{asked[text]} {text} is taken from the inputs, which this command does not have")
        pair = data_bounds(options.inputs, text, mask=options.mask, mask_nan=options.mask_nan)
        bounds.update(
            {key: pair[key == "high"] for key, value in bounds.items() if isinstance(value, str) and value == text}
        )
    return parameters, bounds


def _own(options: argparse.Namespace) -> Composite:
    """By lrpfast's own names. ``low`` and ``high`` go to whichever is the z-box, the rule or the input layer's."""
    name = options.rule
    parameters, bounds = _given(options)
    first = _first_rule(options.input_layer_rule)
    for key in ("until_layer_idx", "until_layer_rule"):
        if key in parameters:
            raise RuleError(f"--{key.replace('_', '-')} goes with iNNvestigate's names, not with {name!r}")
    bounded = name in ("z_box", "epsilon_gamma_box")
    if bounds and not bounded and first != "z_box":
        raise RuleError(f"--low and --high go with z_box: as --rule or as --input-layer-rule; {name} has no bounds")
    if bounded:
        parameters.update(bounds)
    input_rule: Rule | None = None
    if isinstance(first, tuple):
        input_rule = from_name("z_box", low=first[0], high=first[1])
    elif first is not None:
        input_rule = from_name(first, **(bounds if first == "z_box" else {}))
    if name in RULES:
        return Uniform(from_name(name, **parameters), input_rule)
    composite = presets.from_name(name, **parameters)
    return composite if input_rule is None else Composite((Entry("first", input_rule),), "first") | composite


def _innvestigate_keywords(options: argparse.Namespace) -> dict[str, Any]:
    name = options.rule
    parameters, bounds = _given(options)
    parameters.update(bounds)
    first = _first_rule(options.input_layer_rule)
    for key in ("start", "y_ref"):
        if getattr(options, key) is not None:
            option = key.replace("_", "-")
            raise InputError(f"--{option} goes with lrpfast's own rules; iNNvestigate's names explain the output")
    if name == "lrp":
        raise RuleError("lrp takes a list of rules, which create_analyzer in Python can pass; name one rule here")
    if "bias" in parameters:
        truth = {"true": True, "false": False}.get(parameters["bias"].lower())
        if truth is None:
            raise RuleError(f"--bias with {name} is true or false, not {parameters['bias']!r}")
        parameters["bias"] = truth
    if first == "Bounded" and "low" not in keywords(name) and {"low", "high"} <= set(parameters):
        first = parameters.pop("low"), parameters.pop("high")
    return {"input_layer_rule": first, **parameters}


def _first_rule(text: str | None) -> str | tuple[float, float] | None:
    if text is None or "," not in text:
        return text
    try:
        return _to_pair(text)
    except ValueError:
        raise RuleError(f"--input-layer-rule is a rule's name or LOW,HIGH, not {text!r}") from None


def _bound(key: str, text: str) -> float | str | np.ndarray:
    if text in _FROM_DATA:
        return text
    if text.endswith(".npy"):
        return np.array(open_array(text))
    try:
        return float(text)
    except ValueError:
        raise RuleError(f"--{key} is a number, an .npy file, or one of {', '.join(_FROM_DATA)}, not {text!r}") from None


def layer(text: str | None) -> str | int | None:
    """What ``--start`` names: a layer's name or index."""
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else text


def target(text: str) -> Any:
    """What ``--target`` names, as `Analyzer.analyze` takes it."""
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


def picture(options: argparse.Namespace, analyzer: Analyzer, inputs: Source) -> Callable[[str], Any] | None:
    """What draws the relevances that ``explain`` writes, by the options ``--plot…``; None without ``--plot``.

    Whatever can be wrong with these options is told here, before the work begins,
    by drawing a picture of zeros.
    """
    keys = ("limit", "input", "kind", "shape", "channels", "mask", "origin", "scale", "percentile")
    given = {key: value for key in keys if (value := getattr(options, f"plot_{key}")) is not None}
    if options.plot is None:
        if given:
            raise InputError(f"--plot-{next(iter(given))} goes with --plot FILE, which says where the picture goes")
        return None
    check_path(options.plot)
    if options.output is None:
        raise InputError("--plot draws the relevances that -o OUT keeps: give both")
    if "mask" in given:
        given["mask"] = open_mask(given["mask"])
    if "channels" in given:
        given["channels_first"] = given.pop("channels") == "first"
    elif "shape" not in given and isinstance(analyzer.model.input_shape, tuple):
        given["channels_first"] = analyzer.model.channels_first
    limit, beneath = given.pop("limit", LIMIT), given.pop("input", False)
    title = f"{options.rule}, target {os.path.basename(options.target)}"
    if options.start is not None:
        title += f", from layer {options.start}"
    if options.normalize is not None:
        title += f", divided by the {NORMALIZATIONS[options.normalize]}"

    def draw(relevance: np.ndarray, x: np.ndarray, samples: int) -> Any:
        """The first of so many samples."""
        how = {"title": title + (f": first {len(x):,} of {samples:,} samples" if len(x) < samples else ""), **given}
        if relevance.ndim == x.ndim:
            return plot.heatmap(relevance, x if beneath else None, limit=limit, **how)
        count = relevance.shape[1]  # a row for each sample, a column for each target
        return plot.heatmap(
            relevance.reshape(-1, *relevance.shape[2:]),
            np.repeat(x, count, 0) if beneath else None,
            limit=MOST_PANELS,
            rows=[f"sample {i}" for i in range(len(x))],
            columns=[f"target {j}" for j in range(count)],
            **how,
        )

    samples = inputs.shape[0]
    if samples is None:
        raise InputError("--plot needs inputs that can be read again")
    wanted = analyzer.model.input_shape
    if isinstance(wanted, tuple) and None not in wanted and options.mask is None:
        # what is wrong with the inputs comes first
        as_batch(np.broadcast_to(np.zeros((), inputs.dtype), (samples, *inputs.shape[1:])), wanted)
    axes: tuple[int, ...] = ()
    if options.target.endswith(".npy"):
        chosen = open_array(options.target)
        axes = chosen.shape[1:2] if chosen.dtype.kind in "iu" else ()
    check_limit(limit)
    shown = min(limit, samples)
    check_limit(max(1, shown), math.prod(axes))
    zeros = np.broadcast_to(np.float32(0), (min(1, samples), *axes, *inputs.shape[1:]))
    draw(zeros, zeros[:, 0] if axes else zeros, min(1, samples))

    def drawn(path: str) -> Any:
        with open_source(path) as made:
            return draw(made.read(0, shown), inputs.read(0, shown), samples)

    return drawn
