"""If and Loop: the branch that is taken, the loop unrolled, as far as conditions and counts are known while reading.

Of an If whose condition the model computes, both branches are, and each sample selects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...errors import ModelFormatError
from ..conditions import is_condition
from .file import Branch, Node
from .fold import FoldedValue
from .obstacles import UNREAD
from .schema import check

#: Rounds that a loop is unrolled to, at most.
_MOST_ROUNDS = 1000

#: Reads a graph inside a node: its nodes, and the values by name that it adds to.
Run = Callable[[list[Node], dict[str, Any]], None]


def _inner(branch: Branch, values: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    constants = {name: FoldedValue(array, array) for name, array in branch.constants.items()}
    return {**values, **constants, **inputs}


def subgraph(node: Node, key: str, opset: int) -> Branch:
    """A graph in a node, its nodes checked."""
    branch = node.attributes.get(key)
    if not isinstance(branch, Branch):
        raise ModelFormatError(f"its graph {key!r} is missing")
    for inner in branch.nodes:
        check(inner, opset, branch.constants)
    return branch


def _flag(value: Any) -> bool | None:
    """A condition that is known, and the same for every size of the batch; None for any other."""
    if not isinstance(value, FoldedValue) or not value.fixed or value.first.size != 1:
        return None
    return bool(value.first.ravel()[0])


def branch(node: Node, values: dict[str, Any], opset: int, run: Run) -> list[Any]:
    """What an If computes whose condition is known, or which the inputs' shapes decide."""
    condition = values.get(node.inputs[0])
    if condition is UNREAD:
        for key in ("then_branch", "else_branch"):  # for what is not read in them
            graph = subgraph(node, key, opset)
            run(graph.nodes, _inner(graph, values, {}))
        return [UNREAD] * len(node.outputs)
    flag = _flag(condition)
    if flag is None:
        raise node.unsupported("chooses by what the model computes, or by the batch's size")
    graph = subgraph(node, "then_branch" if flag else "else_branch", opset)
    inner = _inner(graph, values, {})
    run(graph.nodes, inner)
    return [inner[name] for name in graph.outputs]


def branches(node: Node, values: dict[str, Any], opset: int, run: Run) -> list[tuple[Any, Any]] | None:
    """What both branches of an If give that chooses by a comparison of what the model computes; None of any other."""
    if node.op != "If" or not is_condition(values.get(node.inputs[0])):
        return None
    results = []
    for key in ("then_branch", "else_branch"):
        graph = subgraph(node, key, opset)
        inner = _inner(graph, values, {})
        run(graph.nodes, inner)
        results.append([inner[name] for name in graph.outputs])
    return list(zip(*results, strict=True))


def loop(node: Node, values: dict[str, Any], opset: int, run: Run) -> list[Any]:
    """What a Loop computes whose number of rounds is known."""
    graph = subgraph(node, "body", opset)
    own = node.inputs[: len(node.inputs) - len(graph.outer)]
    trips, condition, *state = (values.get(name) if name else None for name in (*own, *("",) * (2 - len(own))))
    most = None if trips is None else _count(node, trips)
    alive = True if condition is None else _flag(condition)
    collected: list[list[Any]] = []
    rounds = 0
    while alive and (most is None or rounds < most):
        if rounds >= _MOST_ROUNDS:
            raise node.unsupported(f"is a loop of more than {_MOST_ROUNDS:,} rounds, or of none that is known")
        number = np.array(rounds, np.int64)
        begin = [FoldedValue(number, number), _constant_flag(True), *state]
        inner = _inner(graph, values, dict(zip(graph.inputs, begin, strict=False)))
        run(graph.nodes, inner)
        results = [inner[name] for name in graph.outputs]
        alive, state = _flag(results[0]), results[1 : 1 + len(state)]
        collected.append(results[1 + len(state) :])
        rounds += 1
    if alive is None:
        raise node.unsupported("is a loop that ends by what the model computes, or by the batch's size")
    return [*state, *(_stacked(node, list(items)) for items in zip(*collected, strict=True))]


def _count(node: Node, trips: Any) -> int:
    if not isinstance(trips, FoldedValue) or not trips.fixed or trips.first.size != 1:
        raise node.unsupported("is a loop whose number of rounds the model computes, or the batch's size is")
    return int(trips.first.ravel()[0])


def _constant_flag(value: bool) -> FoldedValue:
    return FoldedValue(np.array(value), np.array(value))


def _stacked(node: Node, items: list[Any]) -> Any:
    """What a loop collects, round by round, along a new first axis: constants only, as that axis is the batch's."""
    if all(isinstance(item, FoldedValue) for item in items):
        return FoldedValue(np.stack([item.first for item in items]), np.stack([item.second for item in items]))
    raise node.unsupported("is a loop that collects what each round computes along the first axis, the batch's")


#: Operators with graphs inside that are read, and how.
CONTROL: dict[str, Callable[[Node, dict[str, Any], int, Run], list[Any]]] = {"If": branch, "Loop": loop}
