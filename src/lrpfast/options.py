"""What the command line's options stand for: numbers, targets, rules, analyzers."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from .batch import open_array
from .engine.analyzer import Analyzer
from .engine.innvestigate import create_analyzer
from .errors import InputError, RuleError
from .model.graph import Model
from .rules.composites import Uniform
from .rules.innvestigate import ANALYZERS, keywords
from .rules.rule import RULES, Rule, from_name


def _typed(convert: Callable[[str], Any], what: str) -> Callable[[str], Any]:
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


integer = _typed(int, "a whole number")
number = _typed(float, "a number")
pair = _typed(_to_pair, "a pair LOW,HIGH of numbers")
number_or_pair = _typed(lambda text: _to_pair(text) if "," in text else float(text), "a number")
byte_count = _typed(_to_bytes, "a number of bytes")


def analyzer(
    model: Model, options: argparse.Namespace, threads: int | None = None, memory: int | None = None
) -> Analyzer:
    """The analyzer that the rule's options stand for.

    ``low`` and ``high`` go to whichever is the z-box, the rule or the input layer's.
    """
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
    if bounds and name != "z_box" and first != "z_box":
        raise RuleError(f"--low and --high go with z_box: as --rule or as --input-layer-rule; {name} has no bounds")
    rule = from_name(name, **parameters, **(bounds if name == "z_box" else {}))
    input_rule: Rule | None = None
    if isinstance(first, tuple):
        input_rule = from_name("z_box", low=first[0], high=first[1])
    elif first is not None:
        input_rule = from_name(first, **(bounds if first == "z_box" else {}))
    return Analyzer(model, Uniform(rule, input_rule), start=_layer(options.start), **common)


def _by_innvestigate_name(
    model: Model, options: argparse.Namespace, parameters: dict[str, Any], first: Any, common: dict[str, Any]
) -> Analyzer:
    name = options.rule
    if options.start is not None:
        raise InputError("--start goes with lrpfast's own rules; iNNvestigate's names explain the output")
    if name == "lrp":
        raise RuleError("lrp takes a list of rules, which create_analyzer in Python can pass; name one rule here")
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
