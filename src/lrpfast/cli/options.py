"""Interprets the options of a rule: analyzers, rules, targets."""

from __future__ import annotations

import argparse
import functools
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..analyzer import Analyzer
from ..batch import Source, data_bounds, open_array
from ..batch.inputs import open_inputs
from ..batch.masks import Masked
from ..batch.per_sample import TARGETS, target_of
from ..batch.sources import split
from ..errors import InputError, InputNotFoundError, RuleError
from ..innvestigate import create_analyzer
from ..model.graph import Model
from ..readers import load
from ..rules import RULES, Rule, ZBox, from_name, presets
from ..rules.composites import Composite
from ..rules.entries import Entry
from ..rules.innvestigate import ANALYZERS, keywords
from ..rules.presets import COMPOSITES
from ..rules.selectors import Uniform
from ..suggest import unknown_name_message
from .rules_for import composite_for, takes_bounds
from .values import to_pair


def model_of(arguments: argparse.Namespace, memory: int | None = None, path: Any = None) -> Model:
    """The model that MODEL names, or in another file, with the sizes of --input-shape."""
    given = arguments.input_shape or []
    names = [name for name, _ in given]
    if len(set(names)) < len(names) or (None in names and len(names) > 1):
        raise InputError("--input-shape is one shape, or NAME=SHAPE once for each input")
    shapes = dict(given) if names != [None] else given[0][1]
    return load(arguments.model if path is None else path, memory=memory, input_shape=shapes or None)


def of_one_output(model: Model, arguments: argparse.Namespace, task: str, *, several_inputs: bool = False) -> Model:
    """The model of one output that a task is about, and of one input: of several outputs, that which --start names.

    Raises
    ------
    InputError
        When there are several outputs, or several inputs without ``several_inputs``; the message says what to do.
    """
    names = [model.nodes[i].name for i in model.outputs]
    if len(names) > 1 and arguments.start in names:
        model, arguments.start = model.until(arguments.start), None
    elif len(names) > 1:
        raise InputError(
            f"{task} is about one output, and this model has {len(names)}: {', '.join(names)}; --start NAME chooses one"
        )
    if len(model.inputs) > 1 and not several_inputs:
        listed = ", ".join(model.nodes[i].name for i in model.inputs)
        raise InputError(
            f"{task} is about one input, and this model has {len(model.inputs)}: {listed}; lrpfast explain takes all, "
            "with --statistics for mean maps of each"
        )
    return model


def inputs_of(texts: Sequence[str], model: Model) -> Any:
    """What INPUTS names: one source; a list of them; or, of NAME=SOURCE, a mapping."""
    names = [model.nodes[i].name for i in model.inputs]
    named = {}
    for text in texts:
        name, equals, source = text.partition("=")
        if equals and name in names and not os.path.lexists(split(text)[0]):
            if name in named:
                raise InputError(f"INPUTS names two sources for {name!r}")
            named[name] = source
    if not named:
        return texts[0] if len(texts) == 1 else list(texts)
    if len(named) < len(texts):
        raise InputError("INPUTS are either all NAME=SOURCE, or all SOURCE in the order of the model's inputs")
    return named


def conditions_of(texts: Sequence[str] | None, model: Model) -> Any:
    """The value of ``--condition``: one condition, or a list where the option is given several times."""
    if texts is None:
        return None
    layers = {node.name for node in model.nodes}
    several = []
    for text in texts:
        condition = {}
        for part in text.split(";"):
            name, equals, channels = (piece.strip() for piece in part.rpartition("="))
            if not equals or not name:
                raise InputError(f"--condition is LAYER=CHANNELS, as conv=5,7, not {text!r}")
            if name in condition:
                raise InputError(f"--condition names {name!r} twice in {text!r}; its channels are written {name}=5,7")
            condition[name] = _channels(channels, text)
        several.append(condition)
    unknown = next((name for condition in several for name in condition if name not in layers), None)
    if unknown is not None:
        raise InputError(unknown_name_message("layer", unknown, layers, "`lrpfast inspect` lists the layers"))
    return several if len(several) > 1 else several[0]


def _channels(text: str, whole: str) -> Any:
    """Channels as a selection: one, several, a range, or a file of a boolean array."""
    if re.fullmatch(r"-?\d+(,-?\d+)*", text):
        return [int(number) for number in text.split(",")]
    if re.fullmatch(r"-?\d*:-?\d*(:-?\d+)?", text):
        return slice(*(int(number) if number else None for number in text.split(":")))
    if text.endswith(".npy"):
        return np.array(open_array(text))
    raise InputError(f"--condition {whole!r}: channels are written 5, 5,7 or 0:8, or stand in a boolean .npy file")


def opener(model: Model, arguments: argparse.Namespace) -> Callable[[], Source]:
    """A function that opens INPUTS, with the part that --select names and the number of --fill-nan."""
    return functools.partial(
        open_inputs,
        *(model, arguments.inputs, arguments.mask),
        select=arguments.select or None,
        fill_nan=arguments.fill_nan,
    )


def features_of(data: Source, mask: str | None) -> Source:
    """The model's features: of a grid, the points of --mask."""
    return data if mask is None else Masked(data, mask)


def analyzer(
    model: Model, options: argparse.Namespace, threads: int | None = None, memory: int | None = None
) -> Analyzer:
    """The analyzer for the rule's options."""
    common = {
        "device": options.device,
        "precision": options.precision,
        "threads": threads,
        "memory": memory,
        "input_range": options.input_range,
        "mask_nan": options.mask_nan,
    }
    if _canonical_name(options.rule) in ANALYZERS and options.rule not in COMPOSITES:
        own, keys = _innvestigate_keywords(options, model)
        result: Analyzer = create_analyzer(options.rule, model, **keys, **common)
        result = result if own is None else result.with_rules(own)  # type: ignore[attr-defined]
    else:
        result = Analyzer(
            model, _composite(options, model), start=layer(options.start), y_ref=_reference(options.y_ref), **common
        )
    _check_bounds(options, result)
    return result


def _check_bounds(options: argparse.Namespace, result: Analyzer) -> None:
    """Raise RuleError if --low or --high is given but no layer of the model has z_box."""
    if options.low is None and options.high is None:
        return
    boxes = {rule for rule in result.assignment.rules.values() if isinstance(rule, ZBox)}
    on_convolution, first = options.rule == "epsilon_gamma_box", _first_rule(options.input_layer_rule)
    if on_convolution and isinstance(first, tuple):
        boxes.discard(ZBox(*first))  # with bounds of its own
    if not boxes:
        where = ", which has it on the first convolution" if on_convolution else ""
        raise RuleError(
            f"--low and --high are for z_box, which no layer of this model gets from them under {options.rule}{where}; "
            "--input-layer-rule z_box puts it on the first layer with weights"
        )


def _reference(text: str | None) -> float | np.ndarray | None:
    """The value of ``--y-ref``."""
    if text is None:
        return None
    if text.endswith(".npy"):
        return np.array(open_array(text))
    try:
        return np.array([float(part) for part in text.split(",")])
    except ValueError:
        raise InputError(f"--y-ref is a number, one for each output as A,B,…, or an .npy file, not {text!r}") from None


def _canonical_name(name: str) -> str:
    known = [*RULES, *COMPOSITES, *ANALYZERS]
    if name not in known:
        raise RuleError(unknown_name_message("rule", name, known, "`lrpfast rules` lists them"))
    return name


#: Bounds that are computed from the inputs.
_FROM_DATA = ("minmax", "1sigma", "3sigma")


def _parameters_and_bounds(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters of the rule that the options set, and the bounds ``low`` and ``high``."""
    names = ("epsilon", "gamma", "alpha", "beta", "bias", "until_layer_idx", "until_layer_rule")
    parameters = {key: getattr(options, key) for key in names if getattr(options, key) is not None}
    bounds = {key: _bound(key, getattr(options, key)) for key in ("low", "high") if getattr(options, key) is not None}
    from_data = {text: key for key, text in bounds.items() if isinstance(text, str)}
    for text in from_data:
        if getattr(options, "open_inputs", None) is None:
            raise RuleError(f"--{from_data[text]} {text} is taken from the inputs, which this command does not have")
        if getattr(options, "several", False):
            raise RuleError(f"--{from_data[text]} {text} is for models of one input")
        pair = data_bounds(options.open_inputs(), text, mask=options.mask, mask_nan=options.mask_nan)
        bounds.update(
            {key: pair[key == "high"] for key, value in bounds.items() if isinstance(value, str) and value == text}
        )
    return parameters, bounds


def _rules_for(options: argparse.Namespace, model: Model, bounds: dict[str, Any]) -> Composite | None:
    """The rules of ``--rule-for``."""
    own = composite_for(options.rule_for, model, bounds)
    first = own is not None and any(entry.where == "first" for entry in own.entries)
    if first and options.input_layer_rule is not None:
        raise RuleError(
            "--input-layer-rule and --rule-for first=… both give the first layer's rule: choose one of them"
        )
    return own


def _composite(options: argparse.Namespace, model: Model) -> Composite:
    """The composite for lrpfast's own names. ``low`` and ``high`` are for z_box: the rule or some layers'."""
    name = options.rule
    parameters, bounds = _parameters_and_bounds(options)
    first = _first_rule(options.input_layer_rule)
    own = _rules_for(options, model, bounds)
    for key in ("until_layer_idx", "until_layer_rule"):
        if key in parameters:
            raise RuleError(f"--{key.replace('_', '-')} goes with iNNvestigate's names, not with {name!r}")
    bounded = name in ("z_box", "epsilon_gamma_box")
    if bounds and not bounded and first != "z_box" and not takes_bounds(options.rule_for):
        raise RuleError(
            f"--low and --high go with z_box: as --rule, --input-layer-rule or --rule-for; {name} has no bounds"
        )
    if bounded:
        parameters.update(bounds)
    input_rule: Rule | None = None
    if isinstance(first, tuple):
        input_rule = from_name("z_box", low=first[0], high=first[1])
    elif first is not None:
        input_rule = from_name(first, **(bounds if first == "z_box" else {}))
    if name in RULES and name not in COMPOSITES:
        composite = Uniform(from_name(name, **parameters), input_rule)
    else:
        composite = presets.from_name(name, **parameters)
        composite = composite if input_rule is None else Composite((Entry("first", input_rule),), "first") | composite
    return composite if own is None else own | composite


def _innvestigate_keywords(options: argparse.Namespace, model: Model) -> tuple[Composite | None, dict[str, Any]]:
    """The rules of ``--rule-for``, and the keywords of `create_analyzer`."""
    name = options.rule
    parameters, bounds = _parameters_and_bounds(options)
    own = _rules_for(options, model, bounds)
    if not (takes_bounds(options.rule_for) and "low" not in keywords(name) and options.input_layer_rule is None):
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
    return own, {"input_layer_rule": first, **parameters}


def _first_rule(text: str | None) -> str | tuple[float, float] | None:
    if text is None or "," not in text:
        return text
    try:
        return to_pair(text)
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
    """The value of ``--start``: a layer's name or index."""
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else text


def target(text: str) -> Any:
    """The value of ``--target``, as `Analyzer.analyze` takes it."""
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if re.fullmatch(r"-?\d+,-?\d+", text):
        first, second = text.split(",")
        return int(first), int(second)
    if re.fullmatch(r"\d+(,\d+)*-\d+(,\d+)*", text):
        return tuple(tuple(int(i) for i in index.split(",")) for index in text.split("-"))
    if text in TARGETS:
        return text
    try:
        return target_of(text)
    except InputNotFoundError:
        if text.endswith(".npy") or split(text)[1] is not None:
            raise
        raise InputError(
            "--target is max, all, an index, a pair a,b, two full indices a,b-c,d or a file with an index for each "
            f"sample, not {text!r}"
        ) from None


def target_for(text: str, data: Source) -> Any:
    """The value of ``--target`` for these samples: of one for each, those of the selected samples."""
    value = target(text)
    if isinstance(value, np.ndarray) and value.ndim and len(value) != data.shape[0]:
        value = data.select_rows(value)
    return value
