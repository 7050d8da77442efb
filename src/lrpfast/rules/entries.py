"""The entries of composites, and the layers that they select."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ..errors import RuleError
from ..model.canonize import file_indices
from ..model.graph import Model
from ..model.layers import (
    RNN,
    Attention,
    BatchNorm,
    Crop,
    Input,
    Layer,
    LayerNorm,
    Linear,
    MatMul,
    Permute,
    RepeatVector,
    Reshape,
    RMSNorm,
    Rotary,
    Take,
)
from ..model.layers.base import whole
from ..model.layers.shape import only_moves
from .registry import as_rule
from .rule import Rule, short

#: The order of entries in joined composites: earlier kinds decide first.
ORDER = (
    "count",
    "first",
    "inputs",
    "last",
    "index",
    "nth",
    "name",
    "projections",
    "scales",
    "shifts",
    "when",
    "all",
    "default",
)

#: Layers with weights, which entries select by default.
WEIGHTED = (Linear, RNN)

#: The kind of ``value`` that entries need, in words and as a check.
_VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "nth": ("a whole number", lambda value: whole(value) is not None),
    **dict.fromkeys(
        ("index", "count"), ("a whole number, 0 or above", lambda value: whole(value) is not None and value >= 0)
    ),
    "name": ("a name or a pattern", lambda value: isinstance(value, str)),
    "when": ("a function of a layer", callable),
}


def as_types(key: Any, owner: str) -> tuple[type, ...]:
    """Types of layers, one or several; RuleError, which begins with ``owner``, for anything else."""
    types = key if isinstance(key, tuple) else (key,)
    if not types or not all(isinstance(t, type) and issubclass(t, Layer) for t in types):
        raise RuleError(f"{owner} takes layer types from lrpfast.layers or tuples of them, not {key!r}")
    return types


@dataclass(frozen=True)
class Entry:
    """One entry of a composite: a selection of layers, and their rule.

    It selects only layers of the types ``among``; "first", "last" and "nth" count these.

    Parameters
    ----------
    where : str
        "first" or "last" in forward order; "nth", the ``value``-th, negative from the last;
        "inputs", those whose input is the model's, unchanged or reshaped, or the first if
        there is none; "index", at index ``value`` in the model's layers; "name", with a name that
        matches the pattern ``value``; "projections", those that give attention its queries, keys and values
        and take its result; "scales" and "shifts", batch normalizations that only multiply by
        constants or only add them; "when", where ``value(layer)`` is true; "all" and "default", any.
        An entry "count" gives no rule: it requires ``value`` layers.
    rule : Rule or str
    value : optional
    among : type or tuple of types
        By default layers with weights. Entries "all" among `Activation` also select
        activations within layers.

    Raises
    ------
    RuleError
        When ``where`` is none of these, or the other arguments do not fit it.

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
    among: Any = WEIGHTED

    __repr__ = short

    def __post_init__(self) -> None:
        if not isinstance(self.where, str) or self.where not in ORDER:
            raise RuleError(f"Entry: where must be one of {', '.join(ORDER)}, not {self.where!r}")
        object.__setattr__(self, "rule", as_rule(self.rule, "Entry"))
        object.__setattr__(self, "among", as_types(self.among, "Entry"))
        expected, fits = _VALUES.get(self.where, ("left out", lambda value: value is None))
        if not fits(self.value):
            raise RuleError(f"Entry: with {self.where!r}, value must be {expected}, not {self.value!r}")

    def keeps(self, model: Model, nodes: Collection[int]) -> bool:
        """Whether the entry selects batch normalizations among these nodes on purpose, so that they are not folded.

        An entry for any layers ("default", all of type Layer, the names of a whole block) is for the layers into
        which they are folded.
        """
        if self.where == "name":
            return all(isinstance(model.nodes[i].layer, BatchNorm) for i in nodes)
        return self.where != "default" and (self.where != "all" or any(issubclass(t, BatchNorm) for t in self.among))

    def places(self, model: Model) -> frozenset[int]:
        """The indices of the selected nodes."""
        nodes = [i for i, node in enumerate(model.nodes) if isinstance(node.layer, self.among)]
        if self.where in ("first", "last"):
            nodes = nodes[:1] if self.where == "first" else nodes[-1:]
        elif self.where == "nth":
            nodes = nodes[self.value : self.value + 1 or None] if -len(nodes) <= self.value < len(nodes) else []
        elif self.where == "inputs":
            nodes = [i for i in nodes if _sees_input(model, i)] or nodes[:1]
        elif self.where == "index":
            indices = file_indices(model)
            nodes = [i for i in nodes if indices[i] == self.value]
        elif self.where == "name":
            names = ((i, (model.nodes[i].name, str(model.nodes[i].layer.name))) for i in nodes)
            nodes = [i for i, both in names if any(fnmatchcase(name, self.value) for name in both)]
        elif self.where == "projections":
            projections = _projections(model)
            nodes = [i for i in nodes if i in projections]
        elif self.where == "scales":  # as readers write 1/√d and LayerScale
            layers = ((i, model.nodes[i].layer) for i in nodes)
            nodes = [i for i, layer in layers if isinstance(layer, BatchNorm) and not layer.offset().any()]
        elif self.where == "shifts":  # positions, class tokens, a bias of attention
            layers = ((i, model.nodes[i].layer) for i in nodes)
            nodes = [i for i, layer in layers if isinstance(layer, BatchNorm) and (layer.factor() == 1).all()]
        elif self.where == "when":
            nodes = [i for i in nodes if self.value(model.nodes[i].layer)]
        return frozenset(nodes)


def _sees_input(model: Model, index: int) -> bool:
    """Whether the node's inputs are the model's inputs, unchanged or reshaped."""
    for j in model.nodes[index].inputs:
        layer = model.nodes[j].layer
        if isinstance(layer, Input):
            continue
        if not only_moves(layer) or not _sees_input(model, j):
            return False
    return True


#: What may lie between attention and its projections: positions, scaling, normalization of queries and keys.
_BETWEEN = (BatchNorm, Crop, LayerNorm, Permute, RMSNorm, RepeatVector, Reshape, Rotary, Take)


def _projections(model: Model) -> set[int]:
    """Layers with weights around attention, or around the products that it is written as."""
    consumers = model.consumers()
    nodes, found = model.nodes, set()

    def collect(at: int, neighbours: Callable[[int], Collection[int]]) -> None:
        for j in neighbours(at):
            if isinstance(nodes[j].layer, Linear):
                found.add(j)
            elif only_moves(nodes[j].layer) or isinstance(nodes[j].layer, _BETWEEN):
                collect(j, neighbours)

    for i, node in enumerate(nodes):
        if isinstance(node.layer, (Attention, MatMul)):
            collect(i, lambda j: nodes[j].inputs)
            collect(i, lambda j: consumers[j])
    return found


def ends(first: Any, last: Any, owner: str, among: Any = WEIGHTED) -> tuple[Entry, ...]:
    """Entries for the first and the last layer, if they have rules of their own."""
    pairs = (("first", first), ("last", last))
    return tuple(Entry(where, as_rule(rule, owner), None, among) for where, rule in pairs if rule is not None)
