"""Masks of steps as tf2onnx writes Keras's Masking out: which steps hold another value than one, and x times that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ...model import layers as L
from ..batch_axis import FIRST
from ..channels_first import Tensor
from ..masks import Condition
from .context import NodeContext
from .file import Node
from .fold import integers
from .graph_view import Graph

#: Operators that leave truths what they are.
_SAME = ("Cast", "Identity")
_ANY = ("ReduceSum", "ReduceMax")


def step_mask(graph: Graph, node: Node) -> Node | None:
    """The mask of steps, or the masked sequence, that ends in a node; None where there is neither."""
    if node.op == "Greater":
        return _mask(graph, node)
    if node.op != "Mul":
        return None
    for x, factor in (node.inputs, node.inputs[::-1]):
        test = _producer(graph, factor)
        mask = _mask(graph, test) if test is not None and test.op == "Greater" else None
        if mask is not None and mask.inputs[0] == x and mask.attributes["keepdims"]:
            return replace(node, op="Masking*", inputs=(x,), attributes={"value": mask.attributes["value"]})
    return None


def _mask(graph: Graph, node: Node) -> Node | None:
    """any(x != value, axis=-1), as a number of features that is above 0."""
    total = _producer(graph, node.inputs[0])
    if total is None or total.op not in _ANY or _number(graph, node.inputs[1]) != 0:
        return None
    axes: Any = total.attributes.get("axes")
    if len(total.inputs) > 1 and total.inputs[1] in graph.constants:
        axes = integers(graph.constants[total.inputs[1]], "axes")
    differs = _producer(graph, total.inputs[0])
    same = _producer(graph, differs.inputs[0]) if differs is not None and differs.op == "Not" else None
    if axes is None or tuple(axes) not in ((-1,), (2,)) or same is None or same.op != "Equal":
        return None
    for x, limit in (same.inputs, same.inputs[::-1]):
        value = _number(graph, limit)
        if value is not None and x not in graph.constants:
            keepdims = bool(total.attributes.get("keepdims", 1))
            return replace(node, op="StepMask*", inputs=(x,), attributes={"value": value, "keepdims": keepdims})
    return None


def _producer(graph: Graph, name: str) -> Node | None:
    """The node that makes a value, without those that leave it what it is."""
    node = graph.producer.get(name)
    while node is not None and node.op in _SAME:
        node = graph.producer.get(node.inputs[0])
    return node


def _number(graph: Graph, name: str) -> float | None:
    array = graph.constants.get(name)
    return float(array.ravel()[0]) if array is not None and array.size == 1 else None


def _sequence(ctx: NodeContext) -> Tensor:
    x = ctx.value()
    if x.batch != FIRST or len(x.shape) != 2:
        raise ctx.unsupported(f"masks steps of samples of shape {x.shape}, which are no sequences (steps, features)")
    return ctx.builder.plain(x)


def _build_mask(ctx: NodeContext) -> Condition:
    t = _sequence(ctx)
    node = ctx.builder.add(L.StepMask(ctx.attr("value")), t.node, part="mask")
    steps = t.shape[0]
    if not ctx.attr("keepdims"):
        return Condition(Tensor(node, (steps,), (0,)), boolean=True)
    column = ctx.builder.add(L.Reshape((-1 if steps is None else steps, 1)), node, part="column")
    return Condition(Tensor(column, (steps, 1), (0, 1)), boolean=True)


def _build_masking(ctx: NodeContext) -> Tensor:
    t = _sequence(ctx)
    return replace(t, node=ctx.builder.add(L.Masking(ctx.attr("value")), t.node))


#: How each pattern is built.
STEP_MASKS: dict[str, Callable[[NodeContext], Any]] = {"StepMask*": _build_mask, "Masking*": _build_masking}
