"""A model's nodes with other layers: without the last activations, or with random weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from .layers import Activation, Embedding, Identity, Layer, Linear
from .layers.shape import only_moves
from .node import Node

_Nodes = list[tuple[Layer, tuple[int, ...]]]


def own_layers(before: Sequence[Node], nodes: Sequence[tuple[Layer, tuple[int, ...]]]) -> _Nodes:
    """The new nodes under the names of the old ones.

    If only some uses of a layer change, each of its uses becomes a layer of its own.
    """
    replacements: dict[int, set[int]] = {}
    for node, (layer, _) in zip(before, nodes, strict=True):
        replacements.setdefault(id(node.layer), set()).add(id(layer))
    return [
        (replace(layer, name=node.name) if len(replacements[id(node.layer)]) > 1 else layer, inputs)
        for node, (layer, inputs) in zip(before, nodes, strict=True)
    ]


def without_activations(
    nodes: Sequence[Node], consumers: Sequence[Sequence[int]], outputs: Sequence[int], functions: Collection[str]
) -> _Nodes | None:
    """The nodes without those of the outputs' final activations that are among the functions; None if none is."""
    result: _Nodes = [(node.layer, node.inputs) for node in nodes]
    changed = False
    for i in outputs:
        # a layer that only passes the output on or moves it, and to nothing else
        while only_moves(result[i][0]) and result[i][1] and len(consumers[i]) <= (i not in outputs):
            i = result[i][1][0]
        layer, inputs = result[i]
        activation: Activation | None = getattr(layer, "activation", None)
        if len(consumers[i]) > (i not in outputs):
            continue  # something else needs the activation
        if isinstance(layer, Activation) and layer.function in functions and inputs:
            result[i] = (Identity(f"without {layer.function}", name=layer.name), inputs)
        elif activation is not None and activation.function in functions:
            bare: Any = layer
            result[i] = (replace(bare, activation=None), inputs)
        else:
            continue
        changed = True
    return result if changed else None


def _arrays(layer: Layer) -> dict[str, np.ndarray]:
    """The weights of a layer with a kernel, or of an embedding, by the names of its fields."""
    if not isinstance(layer, (Linear, Embedding)) and not hasattr(layer, "kernel"):
        return {}
    values = {field.name: getattr(layer, field.name) for field in fields(layer)}
    return {name: v for name, v in values.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"}


def has_weights(layer: Layer) -> bool:
    """Whether the layer has weights that can be random."""
    return bool(_arrays(layer))


def randomized(nodes: Sequence[Node], seed: int, first: int) -> _Nodes:
    """The nodes with random weights from node ``first`` on; a layer that is used twice stays one layer."""
    random_layers: dict[int, Layer] = {}
    result: _Nodes = []
    for i, node in enumerate(nodes):
        if i >= first and id(node.layer) not in random_layers:
            random_layers[id(node.layer)] = _randomized(node.layer, np.random.default_rng((seed, i)))
        result.append((random_layers.get(id(node.layer), node.layer), node.inputs))
    return result


def _randomized(layer: Layer, generator: np.random.Generator) -> Layer:
    """The layer with weights from a normal distribution with the mean and standard deviation of its own."""
    changes: dict[str, Any] = {
        name: generator.normal(array.mean(), array.std(), array.shape).astype(array.dtype)
        for name, array in _arrays(layer).items()
    }
    return replace(layer, **changes) if changes else layer
