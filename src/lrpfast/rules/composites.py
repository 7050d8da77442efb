"""Composites: which layer gets which rule.

A composite is an ordered list of entries. For each layer the first entry that speaks
of it decides; where none does, the layer's role has a default (``roles.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ..errors import InputError, RuleError
from ..model.canonize import file_indices
from ..model.graph import Model, Node
from ..model.layers import (
    Activation,
    AdaptiveAveragePool,
    Add,
    Average,
    AveragePool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    Flatten,
    GlobalAveragePool,
    GlobalMaxPool,
    Input,
    Layer,
    Linear,
    LocallyConnected,
    MaxPool,
    Permute,
    Reshape,
    Subtract,
)
from ..names import unknown
from . import roles
from .rule import RULES, AlphaBeta, Epsilon, Flat, Gamma, Gradient, Norm, Rule, ZBox, ZPlus, short
from .rule import from_name as rule_from_name

#: What composites call convolutions, and sums.
CONVOLUTIONS = (Conv, ConvTranspose, DepthwiseConv, LocallyConnected)
SUMS = (Add, Subtract, Average, AveragePool, AdaptiveAveragePool, GlobalAveragePool)

#: Entries of a kind that comes earlier decide before others where composites are joined.
_ORDER = ("count", "first", "inputs", "last", "index", "nth", "name", "when", "all", "default")


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


#: What ``value`` must be, and whether it is, for the entries that have one.
_VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "nth": ("a whole number", _is_whole),
    **dict.fromkeys(("index", "count"), ("a whole number, 0 or above", lambda value: _is_whole(value) and value >= 0)),
    "name": ("a name or a pattern", lambda value: isinstance(value, str)),
    "when": ("a function of a layer", callable),
}


@dataclass(frozen=True)
class Entry:
    """One line of a composite: the layers it speaks of, and their rule.

    It speaks of layers of the types ``among`` alone; "first", "last" and "nth" count these.

    Parameters
    ----------
    where : str
        "first" or "last" in forward order; "nth", the ``value``-th, negative from the last;
        "inputs", those that see the model's input unchanged but for reshaping, or the first if
        none does; "index", at index ``value`` in the model's layers; "name", called like the
        pattern ``value``; "when", where ``value(layer)`` is true; "all" and "default", any.
        An entry "count" gives no rule: it says that there must be ``value`` layers.
    rule : Rule or str
    value : optional
    among : type or tuple of types
        Layers with weights unless told otherwise. Entries "all" that speak of `Activation`
        speak of activations within layers too.

    Raises
    ------
    RuleError
        When ``where`` is none of these, or the others are not what it needs.

    Examples
    --------
    >>> entry = lrpfast.composites.Entry("first", lrpfast.rules.Flat())
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2)), lrpfast.layers.Dense(np.ones((2, 1)))])
    >>> sorted(entry.places(model))
    [1]
    """

    where: str
    rule: Rule
    value: Any = None
    among: Any = (Linear,)

    __repr__ = short

    def __post_init__(self) -> None:
        if not isinstance(self.where, str) or self.where not in _ORDER:
            raise RuleError(f"Entry: where must be one of {', '.join(_ORDER)}, not {self.where!r}")
        object.__setattr__(self, "rule", as_rule(self.rule, "Entry"))
        object.__setattr__(self, "among", _types(self.among, "Entry"))
        wanted, fits = _VALUES.get(self.where, ("left out", lambda value: value is None))
        if not fits(self.value):
            raise RuleError(f"Entry: with {self.where!r}, value must be {wanted}, not {self.value!r}")

    def places(self, model: Model) -> frozenset[int]:
        """The indices of the nodes that the line speaks of."""
        found = [i for i, node in enumerate(model.nodes) if isinstance(node.layer, self.among)]
        if self.where in ("first", "last"):
            found = found[:1] if self.where == "first" else found[-1:]
        elif self.where == "nth":
            found = found[self.value : self.value + 1 or None] if -len(found) <= self.value < len(found) else []
        elif self.where == "inputs":
            found = [i for i in found if _sees_input(model, i)] or found[:1]
        elif self.where == "index":
            indices = file_indices(model)
            found = [i for i in found if indices[i] == self.value]
        elif self.where == "name":
            names = ((i, (model.nodes[i].name, str(model.nodes[i].layer.name))) for i in found)
            found = [i for i, both in names if any(fnmatchcase(name, self.value) for name in both)]
        elif self.where == "when":
            found = [i for i in found if self.value(model.nodes[i].layer)]
        return frozenset(found)


def _sees_input(model: Model, index: int) -> bool:
    """Whether nothing but reshaping lies between a model's inputs and all that the node takes."""
    for j in model.nodes[index].inputs:
        layer = model.nodes[j].layer
        if isinstance(layer, Input):
            continue
        if not (layer.identity or isinstance(layer, (Flatten, Permute, Reshape))) or not _sees_input(model, j):
            return False
    return True


@dataclass(frozen=True)
class Assignment:
    """Every layer's rule.

    Attributes
    ----------
    rules : dict of int to Rule
        By the node's index in ``model.nodes``: of every layer but inputs and those that do nothing.
    activations : dict of int to Rule
        Of the activations within layers, by the same index.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2), activation="relu")])
    >>> assignment = lrpfast.composites.EpsilonPlus().assign(model)
    >>> assignment.rules[1].name, assignment.activations[1].name
    ('epsilon', 'pass')
    """

    rules: dict[int, Rule]
    activations: dict[int, Rule]


@dataclass(frozen=True)
class Composite:
    """An ordered list of entries; the first that speaks of a layer gives its rule.

    ``a | b`` joins two: entries for single places (first, last, index) decide before names,
    names before conditions, conditions before types, defaults last; among equals ``a``'s.

    Attributes
    ----------
    entries : tuple of Entry
    name : str
    canonize : bool
        Whether batch normalization is folded into the layer beside it first.

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
        entries = sorted((*self.entries, *other.entries), key=lambda e: _ORDER.index(e.where))
        return Composite(tuple(entries), f"{self.name} | {other.name}", self.canonize and other.canonize)

    def assign(self, model: Model) -> Assignment:
        """The rule of every layer of a model.

        Raises
        ------
        RuleError
            When a layer with weights is given none, a rule makes no sense for its layer, bounds
            do not fit it, or an entry names a layer that is not there.
        InputError
            When ``model`` is none.
        """
        if not isinstance(model, Model):
            raise InputError(f"{self.name}: assign takes an lrpfast Model, not {type(model).__name__}")
        places = [self._places(entry, model) for entry in self.entries]
        rules: dict[int, Rule] = {}
        activations: dict[int, Rule] = {}
        for i, node in enumerate(model.nodes):
            kind = roles.role(node.layer)
            if kind is not roles.NOTHING:
                given = (e.rule for e, at in zip(self.entries, places, strict=True) if i in at and e.where != "count")
                rule = next(given, kind.default)
                if rule is None:
                    raise RuleError(f"{node} (layer {i}): no entry of {self.name} gives it a rule")
                rules[i] = fit_bounds(roles.check(rule, kind, node), model, i)
            function = getattr(node.layer, "activation", None)
            if function is not None:
                activations[i] = self._activation(function, node)
        return Assignment(rules, activations)

    def _places(self, entry: Entry, model: Model) -> frozenset[int]:
        places = entry.places(model)
        if entry.where == "count" and entry.value != len(places):
            raise RuleError(f"{self.name}: {entry.value} rules for {len(places)} layers with weights")
        if not places and entry.where == "nth":
            count = sum(isinstance(layer, entry.among) for layer in model.layers)
            raise RuleError(f"{self.name}: there is no layer {entry.value}, the model has {count} of those it counts")
        if not places and entry.where == "name":
            among = ", ".join(node.name for node in model.nodes if isinstance(node.layer, entry.among))
            raise RuleError(f"{self.name}: no layer is called {entry.value!r}; it is looked for among {among}")
        return places

    def _activation(self, function: Activation, node: Node) -> Rule:
        kind = roles.activation_role(function)
        given = (e.rule for e in self.entries if e.where == "all" and isinstance(function, e.among))
        rule = next(given, kind.default)
        assert rule is not None
        return roles.check(rule, kind, node)

    def __str__(self) -> str:
        lines = [f"{self.name}:"]
        for entry in self.entries:
            what = "/".join(t.__name__ for t in entry.among)
            value = f" {entry.value!r}" if entry.value is not None else ""
            if entry.where != "count":
                lines.append(f"  {entry.where}{value} of {what}: {entry.rule}")
        return "\n".join(lines)


def _fits(bound: np.ndarray, shape: tuple[int | None, ...]) -> bool:
    pairs = zip(reversed(bound.shape), reversed(shape), strict=False)
    return bound.ndim <= len(shape) and all(b in (1, n) for b, n in pairs)


def fit_bounds(rule: Rule, model: Model, index: int) -> Rule:
    """The rule with its z-box bounds in the shape of the layer's input, where it has any.

    Bounds may be scalar, or fit the layer's input or, where only reshapes lie
    between, the model's (per feature, or per channel on the last axis). Where axes are
    reordered between (images channels first), bounds of several axes are the model's.
    """
    if not isinstance(rule, ZBox):
        return rule
    at = model.nodes[index].inputs[0]
    shape = model.nodes[at].shape
    between: list[Layer] = []
    while model.nodes[at].inputs and (
        model.layers[at].identity or isinstance(model.layers[at], (Flatten, Permute, Reshape))
    ):
        between.insert(0, model.layers[at])
        at = model.nodes[at].inputs[0]
    whole = model.nodes[at].shape
    moved = any(isinstance(layer, Permute) for layer in between)
    fitted = {}
    for key in ("low", "high"):
        bound = getattr(rule, key)
        of_input = isinstance(model.layers[at], Input) and _fits(bound, whole)
        if bound.ndim and (not _fits(bound, shape) or (moved and bound.ndim > 1 and of_input)):
            opened = None in whole and any(isinstance(layer, (Flatten, Reshape)) for layer in between)
            if not of_input or opened:
                raise RuleError(
                    f"{model.nodes[index]}: {key} of shape {bound.shape} does not fit its input of shape {shape}"
                )
            bound = bound.reshape((1,) * (len(whole) - bound.ndim) + bound.shape)
            if None not in whole:
                bound = np.broadcast_to(bound, whole)  # type: ignore[arg-type]
            for layer in between:
                if isinstance(layer, Permute):
                    bound = bound.transpose(layer.axes)
                elif isinstance(layer, (Flatten, Reshape)):
                    bound = bound.reshape(layer.output_shape(bound.shape))
        fitted[key] = bound
    return replace(rule, **fitted)


def as_rule(value: Any, what: str) -> Rule:
    """A rule, or the one of a name."""
    if isinstance(value, Rule):
        return value
    if isinstance(value, str):
        return rule_from_name(value)
    if isinstance(value, type) and issubclass(value, Rule):
        raise RuleError(f"{what} takes an instance: write {value.__name__}(), not {value.__name__}")
    raise RuleError(f"{what} takes rules or their names, not {type(value).__name__}; see lrpfast.rules")


def _ends(first: Any, last: Any, what: str, among: Any = Linear) -> tuple[Entry, ...]:
    pairs = (("first", first), ("last", last))
    return tuple(Entry(where, as_rule(rule, what), None, among) for where, rule in pairs if rule is not None)


def _types(key: Any, what: str) -> tuple[type, ...]:
    types = key if isinstance(key, tuple) else (key,)
    if not types or not all(isinstance(t, type) and issubclass(t, Layer) for t in types):
        raise RuleError(f"{what} takes layer types from lrpfast.layers or tuples of them, not {key!r}")
    return types


def _mapping(rules: Any, what: str) -> Mapping[Any, Any]:
    if not isinstance(rules, Mapping) or not rules:
        raise RuleError(f"{what} takes a mapping to rules, not {rules!r}")
    return rules


def Uniform(rule: Rule | str, first: Rule | str | None = None, last: Rule | str | None = None) -> Composite:  # noqa: N802, it reads as a class
    """The same rule on every layer with weights, others on the first and the last if given.

    Batch normalization that cannot be folded has the rule too.

    Parameters
    ----------
    rule : Rule or str
    first, last : Rule or str, optional
        For the first and the last layer with weights in forward order.

    Examples
    --------
    >>> composite = lrpfast.composites.Uniform("gamma", first="flat")
    >>> [(entry.where, entry.rule.name) for entry in composite.entries]
    [('first', 'flat'), ('all', 'gamma')]
    """
    rule = as_rule(rule, "Uniform")
    entries = (*_ends(first, last, "Uniform"), Entry("all", rule, None, (Linear, BatchNorm)))
    return Composite(entries, f"uniform {rule.name}")


def ByType(  # noqa: N802
    rules: Mapping[Any, Rule | str],
    first: Rule | str | None = None,
    last: Rule | str | None = None,
    default: Rule | str | None = None,
) -> Composite:
    """Rules by the layer's type, the first in the mapping that fits.

    Parameters
    ----------
    rules : mapping of layer types, or tuples of them, to rules
        A rule for ``Activation`` holds for activations within layers too.
    first, last : Rule or str, optional
        For the first and the last layer with weights in forward order.
    default : Rule or str, optional
        For layers with weights and batch normalization that have no rule yet.

    Examples
    --------
    >>> from lrpfast import composites, layers, rules
    >>> composite = composites.ByType({layers.Conv: rules.Gamma(0.5), layers.Dense: "epsilon"}, first="flat")
    """
    entries = [*_ends(first, last, "ByType")]
    for key, rule in _mapping(rules, "ByType").items():
        entries.append(Entry("all", as_rule(rule, "ByType"), None, _types(key, "ByType")))
    if default is not None:
        entries.append(Entry("default", as_rule(default, "ByType"), None, (Linear, BatchNorm)))
    return Composite(tuple(entries), "by type")


def ByName(rules: Mapping[str, Rule | str]) -> Composite:  # noqa: N802
    """Rules by the layer's name, the first pattern in the mapping that fits.

    Parameters
    ----------
    rules : mapping of str to rules
        ``*`` stands for any text, ``?`` for any letter, ``[ab]`` for one of these. Names are those
        of `Model.summary`. A pattern speaks of layers with weights and batch normalizations, a
        full name of any layer. A pattern that fits none is an error.

    Examples
    --------
    >>> from lrpfast import composites
    >>> composite = composites.ByName({"block1_*": "gamma", "add_3": "gradient"}) | composites.EpsilonPlus()
    """
    entries = []
    for pattern, rule in _mapping(rules, "ByName").items():
        if not isinstance(pattern, str):
            raise RuleError(f"ByName takes names, not {pattern!r}")
        among = (Linear, BatchNorm) if any(c in pattern for c in "*?[") else Layer
        entries.append(Entry("name", as_rule(rule, "ByName"), pattern, among))
    return Composite(tuple(entries), "by name")


def ByIndex(rules: Mapping[int, Rule | str], among: Any = Linear) -> Composite:  # noqa: N802
    """Rules by the layer's place in forward order.

    Parameters
    ----------
    rules : mapping of int to rules
        0 is the first, −1 the last.
    among : layer type or tuple of them
        What is counted: layers with weights, unless told otherwise. ``layers.Layer`` counts as
        `Model.summary` does.

    Examples
    --------
    >>> from lrpfast import composites, rules
    >>> composite = composites.ByIndex({0: rules.ZBox(0, 1), -1: "zero"}) | composites.Uniform("gamma")
    """
    entries = []
    for index, rule in _mapping(rules, "ByIndex").items():
        if not _is_whole(index):
            raise RuleError(f"ByIndex takes whole numbers, not {index!r}")
        entries.append(Entry("nth", as_rule(rule, "ByIndex"), int(index), _types(among, "ByIndex")))
    return Composite(tuple(entries), "by index")


def when(condition: Callable[[Layer], bool], rule: Rule | str, among: Any = Linear) -> Composite:
    """A rule for the layers that ``condition`` says yes to.

    Parameters
    ----------
    condition : callable
        Takes a layer.
    rule : Rule or str
    among : layer type or tuple of them
        The layers that it is asked about: those with weights, unless told otherwise.

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
    return Composite((Entry("when", as_rule(rule, "when"), condition, _types(among, "when")),), "when")


def _map(
    name: str, first: tuple[Entry, ...], convolutions: Rule, dense: Rule, stabilizer: Any, rest: tuple[Entry, ...] = ()
) -> Composite:
    """Zennit's pattern: a special first layer, a rule for convolutions, one for dense layers, Norm on sums."""
    return Composite(
        (
            *first,
            Entry("all", convolutions, None, CONVOLUTIONS),
            Entry("all", dense, None, (Dense, BatchNorm)),
            Entry("all", Norm(stabilizer=stabilizer), None, SUMS),
            *rest,
        ),
        name,
    )


def EpsilonPlus(epsilon: float = 1e-6, stabilizer: Any = 1e-6) -> Composite:  # noqa: N802
    """z-plus on convolutions, epsilon on dense layers (Montavon et al. 2019; zennit).

    Parameters
    ----------
    epsilon : float
    stabilizer : float or Stabilizer
        Of all other rules.

    Examples
    --------
    >>> [entry.rule.name for entry in lrpfast.composites.EpsilonPlus(epsilon=0.1).entries]
    ['z_plus', 'epsilon', 'norm']
    """
    return _map("epsilon_plus", (), ZPlus(stabilizer=stabilizer), Epsilon(epsilon), stabilizer)


def EpsilonPlusFlat(epsilon: float = 1e-6, stabilizer: Any = 1e-6) -> Composite:  # noqa: N802
    """As `EpsilonPlus`, and flat on the first dense or convolutional layer in forward order.

    Parameters
    ----------
    epsilon : float
    stabilizer : float or Stabilizer
        Of all other rules.

    Returns
    -------
    Composite

    Examples
    --------
    >>> [entry.rule.name for entry in lrpfast.composites.EpsilonPlusFlat().entries]
    ['flat', 'z_plus', 'epsilon', 'norm']
    """
    first = _ends(Flat(stabilizer=stabilizer), None, "")
    return _map("epsilon_plus_flat", first, ZPlus(stabilizer=stabilizer), Epsilon(epsilon), stabilizer)


def EpsilonAlpha2Beta1(epsilon: float = 1e-6, stabilizer: Any = 1e-6) -> Composite:  # noqa: N802
    """Alpha-beta with 2 and 1 on convolutions, epsilon on dense layers.

    Parameters
    ----------
    epsilon : float
    stabilizer : float or Stabilizer
        Of all other rules.

    Returns
    -------
    Composite

    Examples
    --------
    >>> [entry.rule.name for entry in lrpfast.composites.EpsilonAlpha2Beta1().entries]
    ['alpha_beta', 'epsilon', 'norm']
    """
    return _map("epsilon_alpha2_beta1", (), AlphaBeta(2, 1, stabilizer=stabilizer), Epsilon(epsilon), stabilizer)


def EpsilonAlpha2Beta1Flat(epsilon: float = 1e-6, stabilizer: Any = 1e-6) -> Composite:  # noqa: N802
    """As `EpsilonAlpha2Beta1`, and flat on the first dense or convolutional layer in forward order.

    Parameters
    ----------
    epsilon : float
    stabilizer : float or Stabilizer
        Of all other rules.

    Returns
    -------
    Composite

    Examples
    --------
    >>> [entry.rule.name for entry in lrpfast.composites.EpsilonAlpha2Beta1Flat().entries]
    ['flat', 'alpha_beta', 'epsilon', 'norm']
    """
    first = _ends(Flat(stabilizer=stabilizer), None, "")
    rule = AlphaBeta(2, 1, stabilizer=stabilizer)
    return _map("epsilon_alpha2_beta1_flat", first, rule, Epsilon(epsilon), stabilizer)


def EpsilonGammaBox(  # noqa: N802
    low: Any = None, high: Any = None, epsilon: float = 1e-6, gamma: float = 0.25, stabilizer: Any = 1e-6
) -> Composite:
    """z-box on the first convolution, gamma on the others, epsilon on dense layers (zennit).

    Parameters
    ----------
    low, high : float or array
        The input's bounds, as in `rules.ZBox`; there must be some.
    epsilon, gamma : float
    stabilizer : float or Stabilizer
        Of all other rules.

    Examples
    --------
    >>> [entry.rule.name for entry in lrpfast.composites.EpsilonGammaBox(0, 1).entries]
    ['z_box', 'gamma', 'epsilon', 'norm']
    """
    first = _ends(ZBox(low, high, stabilizer=stabilizer), None, "", CONVOLUTIONS)
    rule = Gamma(gamma, stabilizer=stabilizer)
    return _map("epsilon_gamma_box", first, rule, Epsilon(epsilon), stabilizer)


def ExcitationBackprop(stabilizer: Any = 1e-6) -> Composite:  # noqa: N802
    """z-plus on layers with weights, activations by their gradient (Zhang et al. 2018; zennit).

    Parameters
    ----------
    stabilizer : float or Stabilizer

    Examples
    --------
    >>> [entry.rule.name for entry in lrpfast.composites.ExcitationBackprop().entries]
    ['z_plus', 'z_plus', 'norm', 'gradient']
    """
    rule = ZPlus(stabilizer=stabilizer)
    gradient = (Entry("all", Gradient(), None, (Activation,)),)
    return _map("excitation_backprop", (), rule, rule, stabilizer, gradient)


def Captum(rule: Rule | str | None = None) -> Composite:  # noqa: N802
    """A rule on layers with weights, epsilon 1e-9 on sums, pooling and moves (captum).

    These are captum 0.9's conventions: max pooling and reshaping hand on R x / (x ± 1e-9), and
    batch normalization stays a layer of its own. captum's rules are ``Epsilon(1e-9)``,
    ``Gamma(0.25, generalized=False, scale_bias=False, stabilizer=1e-9)`` and
    ``ZPlus(split_input=False, bias="full", stabilizer=1e-9)``.

    Parameters
    ----------
    rule : Rule or str, optional
        Epsilon when None, as in captum.

    Examples
    --------
    >>> [entry.rule.name for entry in lrpfast.composites.Captum("gamma").entries]
    ['epsilon', 'gamma']
    """
    epsilon = Epsilon(1e-9)
    moved = (MaxPool, GlobalMaxPool, Flatten, Reshape, BatchNorm, *SUMS)
    entries = (Entry("all", epsilon, None, moved), Entry("all", epsilon if rule is None else as_rule(rule, "Captum")))
    return Composite(entries, "captum", canonize=False)


#: The composites that have names of their own.
COMPOSITES: dict[str, Callable[..., Composite]] = {
    "epsilon_plus": EpsilonPlus,
    "epsilon_plus_flat": EpsilonPlusFlat,
    "epsilon_alpha2_beta1": EpsilonAlpha2Beta1,
    "epsilon_alpha2_beta1_flat": EpsilonAlpha2Beta1Flat,
    "epsilon_gamma_box": EpsilonGammaBox,
    "excitation_backprop": ExcitationBackprop,
    "captum": Captum,
}


def from_name(name: str, **parameters: Any) -> Composite:
    """The composite called ``name``, or the rule of that name on all layers.

    Parameters
    ----------
    name : str
        A key of ``COMPOSITES`` or of ``rules.RULES``.
    **parameters
        Those of the composite or the rule.

    Returns
    -------
    Composite

    Raises
    ------
    RuleError
        For an unknown name, which says what there is, or a parameter that it does not have.

    Examples
    --------
    >>> lrpfast.composites.from_name("epsilon_plus", epsilon=0.1) == lrpfast.composites.EpsilonPlus(0.1)
    True
    """
    if isinstance(name, str) and name in RULES:
        return Uniform(rule_from_name(name, **parameters))
    if not isinstance(name, str) or name not in COMPOSITES:
        listed = f"the rules are {', '.join(RULES)}, the composites {', '.join(COMPOSITES)}"
        raise RuleError(unknown("rule", name, (*RULES, *COMPOSITES), listed))
    try:
        return COMPOSITES[name](**parameters)
    except TypeError as error:
        raise RuleError(f"{name}: {error}") from None
