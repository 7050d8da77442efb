"""Logarithms of sums of exponentials that a file writes out, and the log-softmax that is made of one.

log Σ exp(x) overflows where x is large. So files subtract the largest value first and add it afterwards; what is
subtracted may be anything that is one number along the axes of the sum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .file import Node
from .graph_view import Graph, axes_of

#: What takes the first output of a node of several, where a reader has them in one: the largest values of `torch.max`.
FIRST_OUTPUT = "FirstOutput*"
#: Operators that leave a value what it is.
_SAME = ("Identity", "Cast", FIRST_OUTPUT)
#: Operators by which files ask whether a largest value is finite.
_FINITE = (*_SAME, "Abs", "Equal", "IsInf", "IsNaN", "Not", "Or", "And", "Less", "Greater", "Sub", "Mul")


@dataclass(frozen=True)
class _LogSum:
    """log Σ exp(x) over some axes, of the value ``x``."""

    x: str
    axes: tuple[int, ...]
    keepdims: bool


def log_sum(graph: Graph, node: Node) -> Node | None:
    """The logarithm of a sum of exponentials, or the log-softmax, that ends in a node; None where there is neither."""
    if node.op == "Sub" and (x := _log_softmax(graph, node)) is not None:
        return replace(node, op="LogSoftmax*", inputs=(x.x,), attributes={"axis": x.axes[0]})
    result = _shifted(graph, node) or _plain(graph, node)
    if result is None or node.op == "ReduceLogSumExp":
        return None
    attributes = {"axes": result.axes, "keepdims": int(result.keepdims)}
    return replace(node, op="LogSumExp*", inputs=(result.x,), attributes=attributes)


def _plain(graph: Graph, node: Node | None) -> _LogSum | None:
    """Log of ReduceSum of Exp, ReduceLogSum of Exp, or ReduceLogSumExp."""
    is_log = node is not None and node.op == "Log"
    reduction = graph.producer.get(node.inputs[0]) if node is not None and is_log else node
    if reduction is None or reduction.op not in (("ReduceSum",) if is_log else ("ReduceLogSum", "ReduceLogSumExp")):
        return None
    axes, keepdims = axes_of(graph, reduction), bool(reduction.attributes.get("keepdims", 1))
    x = reduction.inputs[0]
    if reduction.op != "ReduceLogSumExp":
        powers = graph.producer.get(x)
        x = powers.inputs[0] if powers is not None and powers.op == "Exp" else ""
    return _LogSum(x, axes, keepdims) if x and axes else None


def _shifted(graph: Graph, node: Node) -> _LogSum | None:
    """m + log Σ exp(x - m), with the largest value m."""
    if node.op != "Add":
        return None
    for name, added in (node.inputs, node.inputs[::-1]):
        total = _plain(graph, graph.producer.get(name))
        difference = graph.producer.get(total.x) if total is not None else None
        if total is None or difference is None or difference.op != "Sub":
            continue
        x, m = difference.inputs
        if _is_largest(graph, m, total.axes) and _is_same(graph, added, m, name, total):
            return replace(total, x=x)
    return None


def _log_softmax(graph: Graph, node: Node) -> _LogSum | None:
    """x - log Σ exp(x) along one axis, where x may have its largest value subtracted."""
    x, name = node.inputs
    maker = graph.producer.get(name)
    unsqueezed = None
    if maker is not None and maker.op == "Unsqueeze":
        unsqueezed, maker = axes_of(graph, maker), graph.producer.get(maker.inputs[0])
    total = None if maker is None else _shifted(graph, maker) or _plain(graph, maker)
    if total is None or len(total.axes) != 1:
        return None
    if total.keepdims != (unsqueezed is None) or unsqueezed not in (None, total.axes):
        return None
    if not alike(graph, x, total.x):
        return None
    difference = graph.producer.get(x)
    if difference is not None and difference.op == "Sub" and _is_largest(graph, difference.inputs[1], total.axes):
        return replace(total, x=difference.inputs[0])
    return replace(total, x=x)


def alike(graph: Graph, a: str, b: str) -> bool:
    """Whether two values are one, or the same difference or exponential computed twice."""
    if a == b:
        return True
    first, second = graph.producer.get(a), graph.producer.get(b)
    if first is None or second is None or first.op != second.op or first.op not in ("Sub", "Exp"):
        return False
    return all(alike(graph, *pair) for pair in zip(first.inputs, second.inputs, strict=True))


def _is_largest(graph: Graph, name: str, axes: tuple[int, ...]) -> bool:
    """Whether a value is the largest along axes that stay, or 0 where that is not finite."""
    node = graph.producer.get(name)
    while node is not None and node.op in _SAME:
        node = graph.producer.get(node.inputs[0])
    if node is None:
        return False
    if node.op == "Where":
        for m, other in (node.inputs[1:], node.inputs[:0:-1]):
            if other in graph.constants and not graph.constants[other].any() and graph.constants[other].size == 1:
                return _is_largest(graph, m, axes) and _depends_on(graph, node.inputs[0], m)
        return False
    return node.op == "ReduceMax" and axes_of(graph, node) == axes and bool(node.attributes.get("keepdims", 1))


def _depends_on(graph: Graph, name: str, m: str, depth: int = 8) -> bool:
    """Whether a condition is a question about ``m`` and nothing else."""
    if name == m or name in graph.constants:
        return True
    node = graph.producer.get(name)
    if node is None or node.op not in _FINITE or not depth:
        return False
    return all(_depends_on(graph, i, m, depth - 1) for i in node.inputs)


def _is_same(graph: Graph, added: str, m: str, logarithm: str, total: _LogSum) -> bool:
    """Whether what is added is ``m``, with the axes of the sum left out if the sum leaves them out."""
    if total.keepdims:
        return added == m
    node = graph.producer.get(added)
    if node is None or not node.inputs or node.inputs[0] != m:
        return False
    if node.op == "Squeeze":
        return axes_of(graph, node) == total.axes
    shape = graph.producer.get(node.inputs[1]) if node.op == "Reshape" else None
    while shape is not None and shape.op in _SAME:
        shape = graph.producer.get(shape.inputs[0])
    return shape is not None and shape.op == "Shape" and shape.inputs[0] == logarithm
