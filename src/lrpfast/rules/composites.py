"""Composites: which layer gets which rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import RuleError
from ..model.graph import Model
from ..model.layers import Dense, Flatten, Layer, Reshape
from .rule import Pass, Rule, ZBox


@dataclass(frozen=True)
class Entry:
    """One line of a composite: the layers it speaks of, and their rule.

    ``where`` is "first" (the first layer with weights), "nth" (the ``value``-th layer
    with weights, negative from the output), "index" (index ``value`` in the model's layers), "when"
    (``value(layer)`` is true) or "all". An entry "count" gives no rule: it says that
    there must be ``value`` layers with weights.
    """

    where: str
    rule: Rule
    value: Any = None

    def applies(self, layer: Layer, index: int, position: int, weighted: int) -> bool:
        """Whether the line speaks of the layer at ``index``, the ``position``-th of ``weighted`` with weights."""
        if self.where == "first":
            return position == 0
        if self.where == "nth":
            return position == self.value or position - weighted == self.value
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
            entry = next((e for e in self.entries if e.applies(layer, i, len(rules), weighted)), None)
            if entry is None:
                raise RuleError(f"{layer} (layer {i}): no entry of {self.name} gives it a rule")
            if isinstance(entry.rule, Pass):
                raise RuleError(f"{layer} (layer {i}): 'pass' is no rule for a layer with weights")
            rules[i] = fit_bounds(entry.rule, model, i)
        return rules


def _fits(bound: np.ndarray, shape: tuple[int | None, ...]) -> bool:
    pairs = zip(reversed(bound.shape), reversed(shape), strict=False)
    return bound.ndim <= len(shape) and all(b in (1, n) for b, n in pairs)


def fit_bounds(rule: Rule, model: Model, index: int) -> Rule:
    """The rule with its z-box bounds in the shape of the layer's input, where it has any.

    Bounds may be scalar, or fit the layer's input or, where only reshapes lie
    between, the model's (per feature, or per channel on the last axis).
    """
    if not isinstance(rule, ZBox):
        return rule
    shape = model.nodes[model.nodes[index].inputs[0]].shape
    before = model.layers[1:index]
    reshaped = all(layer.identity or isinstance(layer, (Flatten, Reshape)) for layer in before)
    fitted = {}
    for key in ("low", "high"):
        bound = getattr(rule, key)
        if bound.ndim and not _fits(bound, shape):
            if not reshaped or not _fits(bound, model.input_shape):
                raise RuleError(
                    f"{model.layers[index]}: {key} of shape {bound.shape} does not fit its input of shape {shape}"
                )
            bound = np.broadcast_to(bound, model.input_shape).reshape(shape)  # type: ignore[arg-type]
        fitted[key] = bound
    return replace(rule, **fitted)


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
