"""What an analyzer does, in words: for the attributes of files, and to see whether two runs agree."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ..rules import Pass, Rule
from ..rules.rule import digits

if TYPE_CHECKING:
    from .analyzer import Analyzer


def array_text(array: np.ndarray) -> str:
    """``array (3,) float64 0f3a…``: enough to tell it from another."""
    array = np.ascontiguousarray(array)
    if array.size == 1 and array.dtype.kind in "fiub":
        return digits(array.item()) if array.dtype.kind == "f" else str(array.item())
    mark = hashlib.blake2b(array.reshape(-1).view(np.uint8), digest_size=8).hexdigest()
    return f"array {array.shape} {array.dtype} {mark}"


def target_text(target: Any) -> str:
    """A target as `Analyzer` takes it, in words; a callable by its name."""
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
    """A rule with all of its parameters, defaults included: ``epsilon(epsilon=1e-06, bias=absorb)``."""
    shown = []
    for f in fields(rule):
        value = getattr(rule, f.name)
        if isinstance(value, np.ndarray):
            value = array_text(value)
        shown.append(f"{f.name}={digits(value)}" if isinstance(value, float) else f"{f.name}={value}")
    return f"{rule.name}({', '.join(shown)})" if shown else rule.name


def _canonized(canonize: bool, kept: list[str]) -> str:
    """Whether batch normalization is folded, and which is not since it has a rule of its own."""
    return "false" if not canonize else "true" + (f", but {', '.join(kept)}" if kept else "")


def deciding(analyzer: Analyzer) -> tuple[Any, ...]:
    """All that decides an analyzer's relevances besides model and target, as it is: what `exact` takes."""
    assigned = analyzer._composite.assign(analyzer.model)
    rules = sorted(assigned.rules.items()), sorted(assigned.activations.items())
    asked = analyzer._start_at, analyzer._y_ref, analyzer._range, analyzer._rectify, analyzer._mask_nan
    canonized = bool(analyzer._composite.canonize)
    return rules, asked, analyzer.precision, canonized, analyzer.stripped


def record(analyzer: Analyzer) -> dict[str, str]:
    """How an analyzer explains: model and its digest, every layer's rule, precision, and what else was asked for."""
    model = analyzer.model
    assignment = analyzer._composite.assign(model)
    bare = model if analyzer._start_at is not None else model.without_output_activation(analyzer.stripped)
    kept = {i for i, node in enumerate(bare.nodes) if getattr(node.layer, "activation", None) is not None}
    texts: dict[str, list[str]] = {}
    for rules, suffix in ((assignment.rules, ""), (assignment.activations, "'s activation")):
        for i, rule in sorted(rules.items()):
            if not isinstance(rule, Pass) and (i in kept or not suffix):
                texts.setdefault(rule_text(rule), []).append(model.nodes[i].name + suffix)
    told = {
        "model": model.name,
        "model_digest": model.digest(),
        "rules": "; ".join(f"{', '.join(names)}: {text}" for text, names in texts.items()) or "pass",
        "precision": analyzer.precision,
        "canonized": _canonized(analyzer._composite.canonize, [model.nodes[i].name for i in sorted(assignment.kept)]),
    }
    for key, value in (("start", analyzer._start_at), ("y_ref", analyzer._y_ref), ("input_range", analyzer._range)):
        if value is not None:
            told[key] = array_text(np.asarray(value)) if key == "y_ref" else str(value)
    if analyzer._rectify:
        told["output"] = "rectified, max(y, 0)"
    if analyzer._mask_nan:
        told["mask_nan"] = "true"
    return told
