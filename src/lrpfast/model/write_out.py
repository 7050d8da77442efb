"""Attention written out as the products and the softmax that it is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..errors import InputError, ShapeError
from .graph import Model
from .layers import (
    Activation,
    Attention,
    BatchNorm,
    Flatten,
    Layer,
    MatMul,
    Permute,
    Reshape,
    Shape,
    Softmax,
)


def write_out_attention(model: Model) -> Model:
    """The model with products of matrices and a softmax in the place of each attention, so that its weights are values.

    `Attention` never stores its weights. In the model that is returned, the softmax of an attention named ``a`` is
    named ``a/weights`` and gives (…, heads, queries, keys): ``explain(layers=True).layers["a/weights"]`` is their
    relevance, and a condition or ``start`` may name them. It predicts the same and explains the same, except under
    `LXTExplicit`, which divides by sums with masks that are not written out; it takes more time and memory.

    Parameters
    ----------
    model : Model
        Of fixed sizes.

    Returns
    -------
    Model

    Raises
    ------
    ShapeError
        When the model leaves sizes open.

    Examples
    --------
    >>> graph = lrpfast.Graph()
    >>> x = graph.input((3, 4))
    >>> model = graph.model(graph.add(lrpfast.layers.Attention(2, name="a"), x, x, x))
    >>> explanation = lrpfast.Analyzer(lrpfast.write_out_attention(model), "attn_lrp", target=0).explain(
    ...     np.ones((1, 3, 4)), layers=True
    ... )
    >>> explanation.layers["a/weights"].shape
    (1, 2, 3, 3)
    """
    if not isinstance(model, Model):
        raise InputError(f"write_out_attention takes a Model, not {type(model).__name__}; lrpfast.load reads one")
    if model.is_open:
        raise ShapeError("the model leaves sizes open; model.with_input_shape(…) fixes them")
    return written_out(model, (i for i, node in enumerate(model.nodes) if isinstance(node.layer, Attention)))[0]


def written_out(model: Model, attentions: Iterable[int]) -> tuple[Model, list[int]]:
    """The model with some of its attentions written out, by their indices, and each node's index in it."""
    writer, chosen = _Writer(), set(attentions)
    new: list[int] = []
    for i, node in enumerate(model.nodes):
        inputs = [new[j] for j in node.inputs]
        if i in chosen:
            assert isinstance(node.layer, Attention)
            new.append(writer.attention(node.layer, node.name, inputs))
        else:
            new.append(writer.add(node.layer, *inputs))
    return Model(writer.nodes, model.name, [new[j] for j in model.outputs]), new


class _Writer:
    """The nodes of the new model, and the shapes of what they give."""

    def __init__(self) -> None:
        self.nodes: list[tuple[Layer, tuple[int, ...]]] = []
        self.shapes: list[Any] = []

    def add(self, layer: Layer, *inputs: int) -> int:
        self.nodes.append((layer, inputs))
        self.shapes.append(layer.output_shape(*(self.shapes[j] for j in inputs)))
        return len(self.nodes) - 1

    def reshape(self, node: int, shape: Shape) -> int:
        return node if self.shapes[node] == shape else self.add(Reshape(shape), node)  # type: ignore[arg-type]

    def scale(self, node: int, factor: float) -> int:
        size = self.shapes[node][-1]
        layer = BatchNorm(np.zeros(size), np.ones(size), np.full(size, factor), None, 0.0)
        return node if factor == 1 else self.add(layer, node)

    def by_heads(self, node: int, shared: int, group: int) -> int:
        """Rows (…, n, shared · group · d) as (…, shared, group, n, d)."""
        *lead, n, channels = self.shapes[node]
        node = self.reshape(node, (*lead, n, shared, group, channels // (shared * group)))
        return self.add(Permute((*range(len(lead)), *(len(lead) + axis for axis in (1, 2, 0, 3)))), node)

    def attention(self, layer: Attention, name: str, inputs: list[int]) -> int:
        """What one attention is written as; the last layer has its name."""
        query, key, value, *mask = inputs
        *lead, n, _ = self.shapes[query]
        shared: int = layer.kv_heads  # type: ignore[assignment]
        group = layer.heads // shared
        q = self.by_heads(query, shared, group)
        k, v = (self.by_heads(node, shared, 1) for node in (key, value))
        scores = self.scale(self.add(MatMul(transpose_b=True), q, k), layer.head_scale(self.shapes[query]))
        scores = self.reshape(scores, (*lead, layer.heads, n, self.shapes[key][-2]))
        if layer.softcap is not None:
            scores = self.add(Activation("tanh"), self.scale(scores, 1 / layer.softcap))
            scores = self.scale(scores, layer.softcap)
        if layer.bias is not None:
            scores = self.shifted(scores, layer.bias)
        softmax = Softmax(mask=layer.mask, window=layer.window, name=f"{name}/weights")
        weights = self.add(softmax, scores, *mask)
        weights = self.reshape(weights, (*lead, shared, group, *self.shapes[scores][-2:]))
        out = self.add(MatMul(), weights, v)
        out = self.add(Permute((*range(len(lead)), *(len(lead) + axis for axis in (2, 0, 1, 3)))), out)
        shape = (*lead, n, math.prod(self.shapes[out][-3:]))
        return self.add(Reshape(shape, name=name), out)

    def shifted(self, node: int, bias: np.ndarray) -> int:
        """The values with an array added to them."""
        shape = self.shapes[node]
        offset = np.broadcast_to(bias, shape).ravel()
        layer = BatchNorm(np.zeros(offset.size), np.ones(offset.size), None, offset, 0.0)
        return self.reshape(self.add(layer, self.add(Flatten(), node)), shape)
