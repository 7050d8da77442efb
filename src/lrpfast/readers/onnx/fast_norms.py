"""Layer normalization whose variance is E[x²] − E[x]², as Flax and Haiku compute it, in one pass over x."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .file import Node
from .graph_view import Graph, axes_of

_MOVES = ("Reshape", "Expand", "Unsqueeze", "Identity", "Cast")


@dataclass(frozen=True)
class _Mean:
    """The mean of a value over axes; ``count`` is what its sum is divided by, None where that is the standard's."""

    x: str
    axes: tuple[int, ...]
    keepdims: bool
    count: float | None


def fast_norm(graph: Graph, node: Node) -> Node | None:
    """The normalization that ends in a node, with a scale of the root's reciprocal; None where there is none."""
    if node.op not in ("Mul", "Div"):
        return None
    for top, bottom in (node.inputs, node.inputs[::-1])[: 2 if node.op == "Mul" else 1]:
        difference = graph.producer.get(top)
        if difference is None or difference.op != "Sub":
            continue
        x, middle = difference.inputs
        name, shapes, back = _moved(graph, middle)
        mean = _mean(graph, name)
        if mean is None or mean.x != x or not (mean.keepdims or back):
            continue
        scale, root = _scaled(graph, bottom) if node.op == "Mul" else (None, bottom)
        variance = _under_root(graph, root, node.op == "Div")
        if variance is None:
            continue
        epsilon, name = variance
        name, more, back = _moved(graph, name)
        if not _is_variance(graph, name, mean) or not (mean.keepdims or back):
            continue
        attributes: dict[str, Any] = {"axes": mean.axes, "epsilon": epsilon, "count": mean.count}
        if scale is not None:
            attributes["affine"] = {"scale": scale, "shift": np.array(0.0)}
        return replace(node, op="LayerNorm*", inputs=(x, *shapes, *more), attributes=attributes)
    return None


def _moved(graph: Graph, name: str) -> tuple[str, list[str], bool]:
    """What a value was before axes of size 1 were put in, the shapes on the way, and whether there was any."""
    shapes: list[str] = []
    node = graph.producer.get(name)
    while node is not None and node.op in _MOVES:
        if node.op in ("Reshape", "Expand"):
            shapes.append(node.inputs[1])
        if node.op == "Unsqueeze" or 0 in graph.constants.get(node.inputs[-1], np.ones(1)):
            return name, [], False  # of no shape of its own
        name = node.inputs[0]
        node = graph.producer.get(name)
    return name, shapes, bool(shapes)


def _mean(graph: Graph, name: str) -> _Mean | None:
    """ReduceMean, or ReduceSum times or by a number."""
    node, count = graph.producer.get(name), None
    if node is not None and node.op in ("Mul", "Div"):
        number, rest = _with_number(graph, node)
        if number is None or not number:
            return None
        count = number if node.op == "Div" else 1 / number
        node = graph.producer.get(rest)
    if node is None or node.op != ("ReduceMean" if count is None else "ReduceSum"):
        return None
    axes = axes_of(graph, node)
    return _Mean(node.inputs[0], axes, bool(node.attributes.get("keepdims", 1)), count) if axes else None


def _is_variance(graph: Graph, name: str, mean: _Mean) -> bool:
    """Whether a value is the mean of the squares less the square of the mean, at least 0 or not."""
    node = graph.producer.get(name)
    if node is not None and node.op == "Max":
        number, rest = _with_number(graph, node)
        node = graph.producer.get(rest) if number == 0 else None
    elif node is not None and node.op == "Relu":
        node = graph.producer.get(node.inputs[0])
    if node is None or node.op != "Sub":
        return False
    squares = _mean(graph, node.inputs[0])
    if squares is None or _root_of(graph, squares.x) != mean.x:
        return False
    middle = _root_of(graph, node.inputs[1])
    return middle is not None and {replace(squares, x=mean.x), _mean(graph, middle)} == {mean}


def _root_of(graph: Graph, name: str) -> str | None:
    """What a value is the square of."""
    node = graph.producer.get(name)
    if node is None:
        return None
    if node.op == "Pow" and _number(graph, node.inputs[1]) == 2:
        return node.inputs[0]
    return node.inputs[0] if node.op == "Mul" and node.inputs[0] == node.inputs[1] else None


def _scaled(graph: Graph, name: str) -> tuple[np.ndarray | None, str]:
    """A constant and what it is multiplied with."""
    node = graph.producer.get(name)
    if node is not None and node.op == "Mul":
        for constant, rest in (node.inputs, node.inputs[::-1]):
            if constant in graph.constants and rest not in graph.constants:
                return np.asarray(graph.constants[constant], np.float64), rest
    return None, name


def _under_root(graph: Graph, name: str, divides: bool) -> tuple[float, str] | None:
    """(epsilon, v) of √(v + epsilon) if something is divided by it, else of its reciprocal."""
    node, exponent = graph.producer.get(name), 0.5 if divides else -0.5
    if node is not None and node.op == "Reciprocal":
        node, exponent = graph.producer.get(node.inputs[0]), -exponent
    if node is None or {"Sqrt": 0.5, "Pow": _number(graph, node.inputs[-1])}.get(node.op) != exponent:
        return None
    total = graph.producer.get(node.inputs[0])
    if total is None or total.op != "Add":
        return None
    epsilon, rest = _with_number(graph, total)
    return None if epsilon is None else (epsilon, rest)


def _with_number(graph: Graph, node: Node) -> tuple[float | None, str]:
    """The number among a node's two inputs, and the other; for a quotient the number divides."""
    if len(node.inputs) != 2:
        return None, ""
    for number, rest in ((node.inputs[1], node.inputs[0]), node.inputs)[: 1 if node.op == "Div" else 2]:
        value = _number(graph, number)
        if not math.isnan(value):
            return value, rest
    return None, ""


def _number(graph: Graph, name: str) -> float:
    array = graph.constants.get(name)
    return float(array.ravel()[0]) if array is not None and array.size == 1 else math.nan
