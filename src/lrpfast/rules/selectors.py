"""Composites that select layers by type, name, index or a condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import RuleError
from ..model.layers import BatchNorm, Layer
from ..model.layers.base import whole
from .composites import Composite
from .entries import WEIGHTED, Entry, as_types, ends
from .registry import as_rule
from .rule import Rule
from .weightless import Gradient


def _mapping(rules: Any, owner: str) -> Mapping[Any, Any]:
    if not isinstance(rules, Mapping) or not rules:
        raise RuleError(f"{owner} takes a mapping to rules, not {rules!r}")
    return rules


def Uniform(rule: Rule | str, first: Rule | str | None = None, last: Rule | str | None = None) -> Composite:  # noqa: N802, it reads as a class
    """The same rule on every layer with weights; the first and the last may have others.

    Batch normalization that cannot be folded has the rule, too.

    Parameters
    ----------
    rule : Rule or str
    first, last : Rule or str, optional
        For the first and the last layer with weights in forward order.

    Examples
    --------
    >>> composite = lrpfast.composites.Uniform("gamma", first="flat")
    >>> [(entry.where, entry.rule.name) for entry in composite.entries]
    [('first', 'flat'), ('all', 'gamma'), ('default', 'gamma')]
    """
    rule = as_rule(rule, "Uniform")
    if isinstance(rule, Gradient):
        raise RuleError(
            "Uniform gives a rule to layers with weights alone, and a gradient needs the derivative of all layers: "
            "composites.Gradients() is the gradient"
        )
    rest = Entry("all", rule), Entry("default", rule, None, (BatchNorm,))
    entries = (*ends(first, last, "Uniform"), *rest)
    return Composite(entries, f"uniform {rule.name}")


def ByType(  # noqa: N802
    rules: Mapping[Any, Rule | str],
    first: Rule | str | None = None,
    last: Rule | str | None = None,
    default: Rule | str | None = None,
) -> Composite:
    """Rules by the layer's type; the first type in the mapping that matches decides.

    Parameters
    ----------
    rules : mapping of layer types, or tuples of them, to rules
        A rule for ``Activation`` also applies to activations within layers. With a rule for ``BatchNorm``, batch
        normalization is not folded.
    first, last : Rule or str, optional
        For the first and the last layer with weights in forward order.
    default : Rule or str, optional
        For all other layers with weights and batch normalizations.

    Examples
    --------
    >>> from lrpfast import composites, layers, rules
    >>> composite = composites.ByType({layers.Conv: rules.Gamma(0.5), layers.Dense: "epsilon"}, first="flat")
    """
    entries = [*ends(first, last, "ByType")]
    for key, rule in _mapping(rules, "ByType").items():
        entries.append(Entry("all", as_rule(rule, "ByType"), None, as_types(key, "ByType")))
    if default is not None:
        entries.append(Entry("default", as_rule(default, "ByType"), None, (*WEIGHTED, BatchNorm)))
    return Composite(tuple(entries), "by type")


def ByName(rules: Mapping[str, Rule | str]) -> Composite:  # noqa: N802
    """Rules by the layer's name; the first pattern in the mapping that matches decides.

    Parameters
    ----------
    rules : mapping of str to rules
        ``*`` matches any text, ``?`` any character, ``[ab]`` one of these. Names are those of
        `Model.summary`. A pattern selects layers with weights and batch normalizations, a full
        name any layer. A pattern that matches no layer is an error. A batch normalization is not folded if its
        name, or a pattern that matches only batch normalizations, has a rule.

    Examples
    --------
    >>> from lrpfast import composites
    >>> composite = composites.ByName({"block1_*": "gamma", "add_3": "gradient"}) | composites.EpsilonPlus()
    """
    entries = []
    for pattern, rule in _mapping(rules, "ByName").items():
        if not isinstance(pattern, str):
            raise RuleError(f"ByName takes names, not {pattern!r}")
        among = (*WEIGHTED, BatchNorm) if any(c in pattern for c in "*?[") else Layer
        entries.append(Entry("name", as_rule(rule, "ByName"), pattern, among))
    return Composite(tuple(entries), "by name")


def ByIndex(rules: Mapping[int, Rule | str], among: Any = WEIGHTED) -> Composite:  # noqa: N802
    """Rules by the layer's index in forward order.

    Parameters
    ----------
    rules : mapping of int to rules
        0 is the first, −1 the last.
    among : layer type or tuple of them
        The layers that count, by default those with weights. ``layers.Layer`` counts as
        `Model.summary` does.

    Examples
    --------
    >>> from lrpfast import composites, rules
    >>> composite = composites.ByIndex({0: rules.ZBox(0, 1), -1: "zero"}) | composites.Uniform("gamma")
    """
    entries = []
    for index, rule in _mapping(rules, "ByIndex").items():
        if whole(index) is None:
            raise RuleError(f"ByIndex takes whole numbers, not {index!r}")
        entries.append(Entry("nth", as_rule(rule, "ByIndex"), int(index), as_types(among, "ByIndex")))
    return Composite(tuple(entries), "by index")


def when(condition: Callable[[Layer], bool], rule: Rule | str, among: Any = WEIGHTED) -> Composite:
    """A rule for the layers for which ``condition`` returns true.

    Parameters
    ----------
    condition : callable
        Takes a layer.
    rule : Rule or str
    among : layer type or tuple of them
        The layers that are tested, by default those with weights.

    Examples
    --------
    >>> composite = lrpfast.composites.when(lambda layer: layer.bias is None, "zero")
    >>> layers = [lrpfast.layers.Dense(np.eye(2)), lrpfast.layers.Dense(np.eye(2), np.ones(2))]
    >>> rules = (composite | lrpfast.composites.Uniform("epsilon")).assign(lrpfast.from_layers(layers)).rules
    >>> [rule.name for rule in rules.values()]
    ['zero', 'epsilon']
    """
    if not callable(condition):
        raise RuleError(f"when takes a function of a layer, not {condition!r}")
    return Composite((Entry("when", as_rule(rule, "when"), condition, as_types(among, "when")),), "when")
