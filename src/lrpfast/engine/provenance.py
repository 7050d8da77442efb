"""The provenance of explanations as text: for the attributes of files, and to compare runs."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import Any

import numpy as np

from ..rules import Pass, Rule
from ..rules.rule import digits
from .core import AnalyzerCore


def array_text(array: np.ndarray) -> str:
    """``array (3,) float64 0f3a…``: a description with a digest."""
    array = np.ascontiguousarray(array)
    if array.size == 1 and array.dtype.kind in "fiub":
        return digits(array.item()) if array.dtype.kind == "f" else str(array.item())
    mark = hashlib.blake2b(array.reshape(-1).view(np.uint8), digest_size=8).hexdigest()
    return f"array {array.shape} {array.dtype} {mark}"


def target_text(target: Any) -> str:
    """A target of `Analyzer` as text; a callable by its name."""
    if isinstance(target, dict):
        return "; ".join(f"{key}: {target_text(value)}" for key, value in target.items())
    if callable(target):
        return f"callable {getattr(target, '__qualname__', type(target).__name__)}"
    if isinstance(target, tuple):
        return " minus ".join(f"output {t}" for t in target)
    if isinstance(target, (list, np.ndarray)) or hasattr(target, "__array__"):
        return array_text(np.asarray(target))
    return str(target)


def rule_text(rule: Rule) -> str:
    """A rule with all of its parameters, including defaults: ``epsilon(epsilon=1e-06, bias=absorb)``."""
    shown = []
    for f in fields(rule):
        value = getattr(rule, f.name)
        if isinstance(value, np.ndarray):
            value = array_text(value)
        shown.append(f"{f.name}={digits(value)}" if isinstance(value, float) else f"{f.name}={value}")
    return f"{rule.name}({', '.join(shown)})" if shown else rule.name


def _canonized(canonize: bool, names: list[str]) -> str:
    """Whether batch normalization is folded, and the names of those that are not."""
    return "false" if not canonize else "true" + (f", but {', '.join(names)}" if names else "")


def deciding(core: AnalyzerCore) -> tuple[Any, ...]:
    """The objects, besides model and target, that determine an analyzer's relevances, for `exact`."""
    settings, assignment = core.settings, core.assignment
    rules = sorted(assignment.rules.items()), sorted(assignment.activations.items())
    options = settings.start, settings.y_ref, settings.input_range, settings.rectify, settings.mask_nan
    parts = rules, options, settings.precision, bool(settings.composite.canonize), settings.stripped
    if settings.gradients is None:
        return parts
    of_gradients = (getattr(settings.gradients, name) for name in ("times_input", "postprocess", "path", "noise"))
    return *parts, *of_gradients


def record(core: AnalyzerCore) -> dict[str, str]:
    """The provenance of an analyzer's explanations: model, digest, every layer's rule, precision and options."""
    model, settings, assignment = core.model, core.settings, core.assignment
    bare = model if settings.start is not None else model.without_output_activation(settings.stripped)
    activated = {i for i, node in enumerate(bare.nodes) if getattr(node.layer, "activation", None) is not None}
    texts: dict[str, list[str]] = {}
    for rules, suffix in ((assignment.rules, ""), (assignment.activations, "'s activation")):
        for i, rule in sorted(rules.items()):
            if not isinstance(rule, Pass) and (i in activated or not suffix):
                texts.setdefault(rule_text(rule), []).append(model.nodes[i].name + suffix)
    attributes = {
        "model": model.name,
        "model_digest": model.digest(),
        "rules": "; ".join(f"{', '.join(names)}: {text}" for text, names in texts.items()) or "pass",
        "precision": settings.precision,
        "canonized": _canonized(settings.composite.canonize, [model.nodes[i].name for i in sorted(assignment.kept)]),
    }
    if settings.gradients is not None:
        attributes["method"] = str(settings.gradients)
    for key in ("start", "y_ref", "input_range"):
        value = getattr(settings, key)
        if value is not None:
            attributes[key] = array_text(np.asarray(value)) if key == "y_ref" else str(value)
    if settings.rectify:
        attributes["output"] = "rectified, max(y, 0)"
    if settings.mask_nan:
        attributes["mask_nan"] = "true"
    return attributes
