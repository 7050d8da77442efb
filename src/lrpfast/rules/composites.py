"""Composites, which give layers their rules.

A composite is an ordered list of entries. For each layer, the first entry that selects
it decides; without one, the layer's role has a default (``roles.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import InputError, RuleError
from ..model.graph import Model
from ..model.layers import Activation, BatchNorm
from ..model.node import Node
from . import roles
from .bounds import fit_bounds
from .entries import ORDER, Entry
from .rule import Rule, short
from .sides import carries_relevance, fit_sides


@dataclass(frozen=True)
class Assignment:
    """Every layer's rule.

    Attributes
    ----------
    rules : dict of int to Rule
        By the node's index in ``model.nodes``, for every layer but inputs and those that do nothing.
    activations : dict of int to Rule
        The rules of activations within layers, by the same index.
    kept : frozenset of int
        Batch normalizations with a rule of their own, which are not folded.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2), activation="relu")])
    >>> assignment = lrpfast.composites.EpsilonPlus().assign(model)
    >>> assignment.rules[1].name, assignment.activations[1].name
    ('epsilon', 'pass')
    """

    rules: dict[int, Rule]
    activations: dict[int, Rule]
    kept: frozenset[int] = field(default=frozenset(), kw_only=True)


@dataclass(frozen=True)
class Composite:
    """An ordered list of entries; the first that selects a layer gives its rule.

    ``a | b`` joins two: entries for single layers (first, last, index) decide before names,
    names before conditions, conditions before types, defaults last; among equals ``a``'s.

    Attributes
    ----------
    entries : tuple of Entry
    name : str
    canonize : bool
        Whether batch normalization is first folded into a neighbouring layer, unless an entry selects it.

    Examples
    --------
    >>> composite = lrpfast.composites.ByIndex({0: "flat"}) | lrpfast.composites.Uniform("z_plus")
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2)), lrpfast.layers.Dense(np.ones((2, 1)))])
    >>> [rule.name for rule in composite.assign(model).rules.values()]
    ['flat', 'z_plus']
    """

    entries: tuple[Entry, ...]
    name: str = "composite"
    canonize: bool = True

    __repr__ = short

    def __post_init__(self) -> None:
        if not isinstance(self.entries, (tuple, list)):
            raise RuleError(f"Composite takes a tuple of entries, not {type(self.entries).__name__}")
        for entry in self.entries:
            if not isinstance(entry, Entry):
                raise RuleError(f"Composite takes a tuple of entries, this one holds {entry!r}")
        if not isinstance(self.name, str) or not isinstance(self.canonize, bool):
            raise RuleError(f"Composite: name is a text, canonize True or False, not {self.name!r}, {self.canonize!r}")
        object.__setattr__(self, "entries", tuple(self.entries))

    def __or__(self, other: Composite) -> Composite:
        if not isinstance(other, Composite):
            return NotImplemented
        entries = sorted((*self.entries, *other.entries), key=lambda e: ORDER.index(e.where))
        return Composite(tuple(entries), f"{self.name} | {other.name}", self.canonize and other.canonize)

    def assign(self, model: Model) -> Assignment:
        """The rule of every layer of a model.

        Raises
        ------
        RuleError
            When a layer with weights has no rule, a rule does not apply to its layer, bounds
            do not fit, or an entry names a layer that does not exist.
        InputError
            When ``model`` is not a Model.
        """
        if not isinstance(model, Model):
            raise InputError(f"{self.name}: assign takes an lrpfast Model, not {type(model).__name__}")
        selections = [self._select(entry, model) for entry in self.entries]
        rules: dict[int, Rule] = {}
        activations: dict[int, Rule] = {}
        separate: set[int] = set()
        carries = carries_relevance(model)
        for i, node in enumerate(model.nodes):
            kind = roles.role(node.layer)
            if kind is not roles.NOTHING:
                pairs = zip(self.entries, selections, strict=True)
                matching = ((e, nodes) for e, nodes in pairs if i in nodes and e.where != "count")
                entry, nodes = next(matching, (None, frozenset()))
                rule = kind.default if entry is None else entry.rule
                if rule is None:
                    raise RuleError(f"{node} (layer {i}): no entry of {self.name} gives it a rule")
                rule = roles.check(rule, kind, node)
                rules[i] = fit_sides(fit_bounds(rule, model, i), model, i, carries)
                if entry is not None and isinstance(node.layer, BatchNorm) and entry.keeps(model, nodes):
                    separate.add(i)
            function = getattr(node.layer, "activation", None)
            if function is not None:
                activations[i] = self._activation(function, node)
        return Assignment(rules, activations, kept=frozenset(separate))

    def _select(self, entry: Entry, model: Model) -> frozenset[int]:
        nodes = entry.places(model)
        if entry.where == "count" and entry.value != len(nodes):
            raise RuleError(f"{self.name}: {entry.value} rules for {len(nodes)} layers with weights")
        if not nodes and entry.where == "nth":
            count = sum(isinstance(layer, entry.among) for layer in model.layers)
            raise RuleError(f"{self.name}: there is no layer {entry.value}, the model has {count} of those it counts")
        if not nodes and entry.where == "name":
            among = ", ".join(node.name for node in model.nodes if isinstance(node.layer, entry.among))
            raise RuleError(f"{self.name}: no layer is called {entry.value!r}; it is looked for among {among}")
        return nodes

    def _activation(self, function: Activation, node: Node) -> Rule:
        kind = roles.activation_role(function)
        matching = (e.rule for e in self.entries if e.where == "all" and isinstance(function, e.among))
        rule = next(matching, kind.default)
        assert rule is not None
        return roles.check(rule, kind, node)

    def __str__(self) -> str:
        lines = [f"{self.name}:"]
        for entry in self.entries:
            types = "/".join(t.__name__ for t in entry.among)
            value = f" {entry.value!r}" if entry.value is not None else ""
            if entry.where != "count":
                lines.append(f"  {entry.where}{value} of {types}: {entry.rule}")
        return "\n".join(lines)
