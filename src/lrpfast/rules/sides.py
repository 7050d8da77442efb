"""The factors of a product: which get relevance."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import RuleError
from ..model.graph import Model
from ..model.layers import Activation, Attention, BatchNorm, Input, Multiply, Softmax, StepMask, Where
from ..model.layers.shape import only_moves
from ..model.node import Node
from .roles import PRODUCT, role
from .rule import Rule
from .weightless import CP, AttnLRP, Split

#: Functions that open and close gates, rather than what a gate lets through.
_GATES = ("sigmoid", "hard_sigmoid", "softmax")


def carries_relevance(model: Model) -> list[bool]:
    """For each node, whether relevance may reach it: not what is computed from masks alone."""
    carries: list[bool] = []
    for node in model.nodes:
        inputs = [carries[j] for j in node.inputs]
        if isinstance(node.layer, Input):
            carries.append(node.layer.kind != "truth")
        elif isinstance(node.layer, StepMask):
            carries.append(False)
        elif isinstance(node.layer, (Attention, Softmax)):  # the last input may be a mask
            carries.append(any(inputs[: 1 if isinstance(node.layer, Softmax) else 3]))
        elif isinstance(node.layer, Where):  # not to what is compared
            carries.append(any(inputs[1:]))
        else:
            carries.append(any(inputs))
    return carries


def fit_sides(rule: Rule, model: Model, index: int, carries: Sequence[bool]) -> Rule:
    """The rule of a product with its factors by number, where it does not speak of each."""
    node = model.nodes[index]
    if role(node.layer) is not PRODUCT or not isinstance(rule, (Split, AttnLRP, CP)):
        return rule
    to = rule.to if isinstance(rule, Split) else "signal" if isinstance(rule, CP) else "each"
    count = len(node.inputs)
    if to in ("prop", "abs"):
        if not isinstance(node.layer, Multiply):
            raise RuleError(f"{node}: Split(to={to!r}) is for elementwise products; products of matrices take 'each'")
        if count > 1 and all(carries[j] for j in node.inputs):
            return rule
        sides = set(range(count))
    elif isinstance(to, tuple):
        sides = set(to)
        if max(sides) >= count:
            raise RuleError(f"{node}: {rule} names factor {max(sides)}; the product has {count}, counted from 0")
    elif to == "signal":
        sides = _signal(model, node, carries)
    else:
        sides = {"each": set(range(count)), "first": {0}, "last": {count - 1}}[to]
    open_ = {k for k in range(count) if carries[node.inputs[k]]}
    sides = sides & open_ or open_ or set(range(count))
    stabilizer = rule.stabilizer
    if isinstance(rule, AttnLRP) and not _has_weights(model, node, carries):
        stabilizer, _ = rule.of_scores()
    return Split(to="each" if len(sides) == count else tuple(sorted(sides)), stabilizer=stabilizer)


def _has_weights(model: Model, node: Node, carries: Sequence[bool]) -> bool:
    """Whether a factor comes from a softmax or from masks alone: weights of a mean, and no queries or keys."""
    return any(_gate_rank(model, j) == 2 or not carries[j] for j in node.inputs)


def _signal(model: Model, node: Node, carries: Sequence[bool]) -> set[int]:
    """The factors that are least like a gate, of those that relevance may reach."""
    ranks = {k: _gate_rank(model, j) for k, j in enumerate(node.inputs) if carries[j]}
    return {k for k, rank in ranks.items() if rank == min(ranks.values())}


def _gate_rank(model: Model, index: int) -> int:
    """How like a gate a value is: 2 of a sigmoid or softmax, 1 of another activation, else 0."""
    while True:
        node = model.nodes[index]
        layer = node.layer
        if isinstance(layer, Softmax):
            return 2
        function = layer if isinstance(layer, Activation) else getattr(layer, "activation", None)
        if function is not None and function.function != "linear":
            return 2 if function.function in _GATES else 1
        passes = only_moves(layer) or isinstance(layer, (Activation, BatchNorm))  # 1 − a gate is one
        if not node.inputs or not passes:
            return 0
        index = node.inputs[0]
