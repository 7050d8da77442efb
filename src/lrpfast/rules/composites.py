"""Composites: which layer gets which rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import RuleError
from ..model.graph import Model
from ..model.layers import Dense, Layer
from .rule import Pass, Rule


@dataclass(frozen=True)
class Entry:
    """One line of a composite: the layers it speaks of, and their rule.

    ``where`` is "first" (the first layer with weights), "nth" (``value``-th layer
    with weights), "index" (index ``value`` in the model's layers), "when"
    (``value(layer)`` is true) or "all". An entry "count" gives no rule: it says that
    there must be ``value`` layers with weights.
    """

    where: str
    rule: Rule
    value: Any = None

    def applies(self, layer: Layer, index: int, position: int) -> bool:
        """Whether the line speaks of the layer at ``index``, the ``position``-th with weights."""
        if self.where == "first":
            return position == 0
        if self.where == "nth":
            return position == self.value
        if self.where == "index":
            return index == self.value
        if self.where == "when":
            return bool(self.value(layer))
        return self.where == "all"


@dataclass(frozen=True)
class Composite:
    """An ordered list of entries; the first that applies to a layer gives its rule."""

    entries: tuple[Entry, ...]
    name: str = "composite"

    def assign(self, model: Model) -> dict[int, Rule]:
        """The rule of every layer with weights, by its index in ``model.layers``.

        Raises
        ------
        RuleError
            When no entry applies to a layer, or bounds do not fit it; names the layer.
        """
        rules: dict[int, Rule] = {}
        weighted = sum(isinstance(layer, Dense) for layer in model.layers)
        for entry in self.entries:
            if entry.where == "count" and entry.value != weighted:
                raise RuleError(f"{self.name}: {entry.value} rules for {weighted} layers with weights")
        for i, layer in enumerate(model.layers):
            if not isinstance(layer, Dense):
                continue
            entry = next((e for e in self.entries if e.applies(layer, i, len(rules))), None)
            if entry is None:
                raise RuleError(f"{layer} (layer {i}): no entry of {self.name} gives it a rule")
            if isinstance(entry.rule, Pass):
                raise RuleError(f"{layer} (layer {i}): 'pass' is no rule for a layer with weights")
            check_bounds(entry.rule, layer, model.nodes[model.nodes[i].inputs[0]].shape)
            rules[i] = entry.rule
        return rules


def check_bounds(rule: Rule, layer: Layer, shape: tuple[int | None, ...]) -> None:
    """RuleError unless z-box bounds fit the layer's input (scalar, per feature or per channel)."""
    for key in ("low", "high"):
        bound = getattr(rule, key, None)
        if bound is None or bound.ndim == 0:
            continue
        fits = bound.ndim <= len(shape) and all(
            b in (1, n) for b, n in zip(reversed(bound.shape), reversed(shape), strict=False)
        )
        if not fits or math.prod(bound.shape) == 0:
            raise RuleError(f"{layer}: {key} has shape {bound.shape}, which does not fit its input of shape {shape}")


def Uniform(rule: Rule, first: Rule | None = None) -> Composite:  # noqa: N802, it reads as a class
    """The same rule on every layer with weights, another on the first if given.

    Parameters
    ----------
    rule : Rule
    first : Rule, optional
        For the first layer with weights in forward order.
    """
    for value in (rule, first):
        if value is not None and not isinstance(value, Rule):
            raise RuleError(f"Uniform takes rules, not {type(value).__name__}; see lrpfast.rules")
    entries = (Entry("first", first),) if first is not None else ()
    return Composite((*entries, Entry("all", rule)), f"uniform {rule.name}")


def when(condition: Callable[[Layer], bool], rule: Rule) -> Entry:
    """An entry for the layers that ``condition`` says yes to."""
    return Entry("when", rule, condition)
