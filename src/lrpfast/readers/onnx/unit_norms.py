"""Values divided by their length, as `torch.nn.functional.normalize` is exported: x / max(|x|, 1e-12)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .file import Node
from .graph_view import Graph, axes_of

#: The largest limit of a length that only keeps 0 from being divided by 0.
_LEAST = 1e-12


def unit_norm(graph: Graph, node: Node) -> Node | None:
    """The normalization to length 1 that ends in a node; None where there is none."""
    if node.op != "Div":
        return None
    x, name = node.inputs
    shapes: list[str] = []
    while (expanded := graph.producer.get(name)) is not None and expanded.op == "Expand":
        shapes.append(expanded.inputs[1])
        name = expanded.inputs[0]
    length = graph.producer.get(_unlimited(graph, name))
    if length is not None and length.op == "Sqrt":
        length = graph.producer.get(length.inputs[0])
        length = length if length is not None and length.op == "ReduceSumSquare" else None
    elif length is not None and length.op != "ReduceL2":
        length = None
    if length is None or length.inputs[0] != x or not length.attributes.get("keepdims", 1):
        return None
    axes = axes_of(graph, length)
    return replace(node, op="UnitNorm*", inputs=(x, *shapes), attributes={"axes": axes}) if axes else None


def _unlimited(graph: Graph, name: str) -> str:
    """What is limited from below by a number that is next to nothing; the value itself where nothing is."""
    node = graph.producer.get(name)
    if node is None or node.op not in ("Clip", "Max"):
        return name
    before_11 = [np.array(node.attributes.get("min", -1.0))]
    low, *high = [graph.constants.get(i) for i in node.inputs[1:] if i] or before_11
    limits = low is not None and low.size == 1 and 0 <= low.item() <= _LEAST
    return node.inputs[0] if limits and not high and "max" not in node.attributes else name
