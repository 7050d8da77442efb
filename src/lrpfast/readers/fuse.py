"""Attention that a file writes out as products, scales and a softmax, as the one layer that it is.

A product of queries and keys, constants that it is multiplied by and that are added to it, a softmax and a product with
the values are an `Attention` on the rows that the projections give. Heads of keys and values that are repeated for the
queries that share them are heads that `Attention` shares. What does not fit stays as it is: it has the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..model import layers as L
from ..model.layers import Layer, Shape
from .repeated import RepeatedView, view_of_repeated

Node = tuple[Layer, tuple[int, ...]]
#: How far off 1/√d a scale may be that exporters round to float32, and products of it once more.
_ROUNDED = 2.0**-22


@dataclass(frozen=True)
class _Operand:
    """Queries, keys or values: the node that they come from, how its axes lie in the product, and their scale."""

    node: int
    axes: tuple[int, ...]
    scale: float


class _Fuser:
    def __init__(self, nodes: Sequence[Node], shapes: Sequence[Shape], outputs: Collection[int]) -> None:
        self.nodes, self.shapes, self.outputs = list(nodes), list(shapes), set(outputs)
        self.uses: dict[int, list[int]] = {}
        for i, (_, inputs) in enumerate(self.nodes):
            for j in inputs:
                self.uses.setdefault(j, []).append(i)

    def alone(self, node: int) -> bool:
        """Whether one layer uses the node, and nothing else."""
        return len(self.uses.get(node, ())) == 1 and node not in self.outputs

    def add(self, layer: Layer, *inputs: int) -> int:
        self.nodes.append((layer, inputs))
        self.shapes.append(layer.output_shape(*(self.shapes[j] for j in inputs)))
        return len(self.nodes) - 1

    # -- what is written out ----------------------------------------------------

    def operand(self, node: int) -> _Operand:
        """A factor of a product without the permutations and the scales before it."""
        axes, scale = tuple(range(len(self.shapes[node]))), 1.0
        while True:
            layer, inputs = self.nodes[node]
            factor = _factor(layer)
            if isinstance(layer, L.Permute):
                axes = tuple(layer.axes[a] for a in axes)
            elif factor is not None:
                scale *= factor
            elif type(layer) is not L.Identity:
                return _Operand(node, axes, scale)
            node = inputs[0]

    def scores(self, node: int) -> tuple[int, float, np.ndarray | None] | None:
        """(the product of queries and keys, its scale, what is added to it); nothing else may use what lies between."""
        scale, bias = 1.0, None
        while self.alone(node):
            layer, inputs = self.nodes[node]
            factor = _factor(layer)
            if isinstance(layer, L.MatMul):
                return node, scale, bias
            if factor is not None:  # where something was added after it, it is of the product alone
                scale *= factor
            elif isinstance(layer, L.BatchNorm) and bias is None and scale == 1 and (layer.factor() == 1).all():
                bias = layer.offset()
            elif isinstance(layer, L.Reshape) and bias is None and scale == 1:
                flat = self._flat_bias(inputs[0])
                if flat is None or tuple(layer.shape) != self.shapes[node]:
                    return None
                bias, inner = flat
                bias = bias.reshape(self.shapes[node])  # type: ignore[arg-type]
                if self.shapes[inner] != self.shapes[node]:
                    return None
                node = inner
                continue
            elif type(layer) is not L.Identity:
                return None
            node = inputs[0]
        return None

    def _flat_bias(self, node: int) -> tuple[np.ndarray, int] | None:
        """(what is added to each value, the values), of a flattened tensor with constants added."""
        layer, inputs = self.nodes[node]
        if not (self.alone(node) and isinstance(layer, L.BatchNorm) and (layer.factor() == 1).all()):
            return None
        flatten, inner = self.nodes[inputs[0]]
        return (layer.offset(), inner[0]) if self.alone(inputs[0]) and isinstance(flatten, L.Flatten) else None

    # -- the layer ---------------------------------------------------------------

    def attention(self, node: int) -> int | None:
        """The node of heads' rows that stands for a product of weights and values; None where it is no attention."""
        product, (weights, values) = self.nodes[node]
        assert isinstance(product, L.MatMul)
        if product.transpose_a or product.transpose_b or not self.alone(weights):
            return None
        layer, inputs = self.nodes[weights]
        mask: np.ndarray | None = None
        window: Any = None
        if isinstance(layer, L.Softmax):
            mask, window = layer.mask, layer.window
        elif not (isinstance(layer, L.Activation) and layer.function == "softmax"):
            return None
        scores = self.scores(inputs[0])
        if scores is None:
            return None
        first, scale, bias = scores
        inner, (left, right) = self.nodes[first]
        assert isinstance(inner, L.MatMul)
        query, key, value = (self.operand(j) for j in (left, right, values))
        rank = len(self.shapes[first])
        swap = (*range(rank - 2), rank - 1, rank - 2)
        query = _turned(query, swap) if inner.transpose_a else query
        key = key if inner.transpose_b else _turned(key, swap)
        sizes = [self._shape(o) for o in (query, key, value)]
        q, k, v = sizes
        if any(len(s) != rank or None in s for s in sizes) or not q[:-2] == k[:-2] == v[:-2] or value.scale != 1:
            return None
        heads = q[-3] if rank > 2 else 1
        rows = [self.rows(o) for o in (query, key, value)]
        masks = (inputs[1],) if len(inputs) > 1 else ()
        usual, total = 1 / math.sqrt(q[-1]), scale * query.scale * key.scale  # type: ignore[arg-type]
        of_size = None if abs(total - usual) <= _ROUNDED * usual else total
        attention = L.Attention(heads, None, of_size, window, mask, bias)  # type: ignore[arg-type]
        result = self.add(replace(attention, name=product.name), *rows, *masks)
        if rank == 2:
            return result
        lead: Any = q[:-3]
        split = self.add(L.Reshape((*lead, q[-2], heads, v[-1])), result)  # type: ignore[arg-type]
        n = len(lead)
        return self.add(L.Permute((*range(n), n + 1, n, n + 2)), split)

    def _shape(self, operand: _Operand) -> Shape:
        shape = self.shapes[operand.node]
        return tuple(shape[a] for a in operand.axes)

    def rows(self, operand: _Operand) -> int:
        """Heads side by side on the last axis: (…, heads, n, d) as (…, n, heads · d)."""
        rank = len(operand.axes)
        if rank == 2:
            return self.moved(operand.node, operand.axes)
        order = (*range(rank - 3), rank - 2, rank - 3, rank - 1)
        node = self.moved(operand.node, tuple(operand.axes[a] for a in order))
        *lead, n, heads, size = self.shapes[node]
        return self.reshaped(node, (*lead, n, heads * size))  # type: ignore[operator]

    def moved(self, node: int, axes: tuple[int, ...]) -> int:
        return node if axes == tuple(range(len(axes))) else self.add(L.Permute(axes), node)

    def reshaped(self, node: int, shape: Any) -> int:
        """The node in another shape; what was reshaped before is reshaped once, or not at all."""
        while isinstance(self.nodes[node][0], (L.Reshape, L.Flatten)):
            node = self.nodes[node][1][0]
        return node if self.shapes[node] == shape else self.add(L.Reshape(shape), node)

    # -- heads that queries share -------------------------------------------------

    def share_heads(self, node: int) -> None:
        """Attention to heads that a file repeats for the queries that share them becomes attention to the heads."""
        layer, (query, *others) = self.nodes[node] if self.nodes[node][1] else (None, (0,))
        if not isinstance(layer, L.Attention) or layer.kv_heads != layer.heads:
            return
        views = [view_of_repeated(self.nodes, self.shapes, j) for j in others[:2]]
        if None in views:
            return
        counts = {view.shared_heads(layer.heads) for view in views if view is not None}
        shared = counts.pop()
        if counts or shared is None:
            return
        rows = [self.shared_rows(view) for view in views if view is not None]
        self.nodes[node] = (replace(layer, kv_heads=shared), (query, *rows, *others[2:]))

    def shared_rows(self, view: RepeatedView) -> int:
        """The rows of the heads that a view repeats."""
        atoms = [atom for axis in view.axes for atom in axis if atom.stride]
        inside = sorted(atoms, key=lambda atom: -atom.stride)
        node = view.source
        if atoms:
            node = self.reshaped(node, tuple(atom.size for atom in inside))
            node = self.moved(node, tuple(inside.index(atom) for atom in atoms))
        return self.reshaped(node, tuple(math.prod(a.size for a in axis if a.stride) for axis in view.axes))

    # -- what follows -------------------------------------------------------------

    def simplified(self, node: int, stands_for: dict[int, int]) -> int | None:
        """A move of what stands for a product: of two moves one is left, or none; None of another layer."""
        layer, inputs = self.nodes[node]
        source = stands_for.get(inputs[0]) if inputs else None
        if source is None or type(layer) not in (L.Permute, L.Reshape, L.Flatten, L.Identity):
            return None
        before, earlier = self.nodes[source]
        if isinstance(layer, L.Identity):
            return source
        if isinstance(layer, L.Permute):
            if not isinstance(before, L.Permute):
                return None
            return self.moved(earlier[0], tuple(before.axes[a] for a in layer.axes))
        return self.reshaped(source, self.shapes[node])


def _factor(layer: Layer) -> float | None:
    """The number that a layer multiplies everything by, and that is all that it does."""
    if not isinstance(layer, L.BatchNorm) or layer.offset().any():
        return None
    factors = layer.factor()
    return float(factors[0]) if (factors == factors[0]).all() and math.isfinite(factors[0]) else None


def _turned(operand: _Operand, order: Sequence[int]) -> _Operand:
    return replace(operand, axes=tuple(operand.axes[a] for a in order))


def fuse_attention(
    nodes: Sequence[Node], shapes: Sequence[Shape], outputs: Sequence[int]
) -> tuple[list[Node], list[int]]:
    """The nodes with attention as one layer each where they write it out, in order, and the outputs among them.

    Parameters
    ----------
    nodes : sequence of (Layer, tuple of int)
        All of which the outputs need.
    shapes : sequence of Shape
        Of a sample of each node.
    outputs : sequence of int
    """
    if not _may_attend(nodes):
        return list(nodes), list(outputs)
    fuser = _Fuser(nodes, shapes, outputs)
    stands_for: dict[int, int] = {}  # of a node that another stands for: that
    for node in range(len(nodes)):
        layer, inputs = fuser.nodes[node]
        fused = fuser.attention(node) if isinstance(layer, L.MatMul) else fuser.simplified(node, stands_for)
        if fused is not None:
            stands_for[node] = fused
        elif any(j in stands_for for j in inputs):
            fuser.nodes[node] = (layer, tuple(stands_for.get(j, j) for j in inputs))
    for node in range(len(fuser.nodes)):
        fuser.share_heads(node)
    return _sorted(fuser.nodes, [stands_for.get(i, i) for i in outputs])


def _may_attend(nodes: Sequence[Node]) -> bool:
    """Whether there is attention, or what it may be written as."""
    products = sum(isinstance(layer, L.MatMul) for layer, _ in nodes)
    return products > 1 or any(isinstance(layer, L.Attention) for layer, _ in nodes)


def _sorted(nodes: Sequence[Node], outputs: Sequence[int]) -> tuple[list[Node], list[int]]:
    """The nodes that the outputs need, each after those that it uses."""
    number: dict[int, int] = {}
    result: list[Node] = []
    inputs = [i for i, (layer, _) in enumerate(nodes) if isinstance(layer, L.Input)]
    pending = [*reversed(outputs), *reversed(inputs)]
    while pending:
        node = pending[-1]
        missing = [j for j in reversed(nodes[node][1]) if j not in number]
        if node in number or not missing:
            pending.pop()
            if node not in number:
                number[node] = len(result)
                result.append((nodes[node][0], tuple(number[j] for j in nodes[node][1])))
        else:
            pending.extend(missing)
    return result, [number[i] for i in outputs]
