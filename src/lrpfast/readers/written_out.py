"""Warns of recurrent cells that a model writes out step by step, and that are not recognised as layers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import ApproximationWarning
from ..model import layers as L
from ..model.layers import Layer

Nodes = Sequence[tuple[Layer, tuple[int, ...]]]

_GATES = ("sigmoid", "tanh", "hard_sigmoid")


def warn_of_cells(nodes: Nodes) -> None:
    """ApproximationWarning where weights are applied again to what became of them through gates."""
    for uses in _shared(nodes):
        if len(uses) > 1 and all(_follows(nodes, before, after) for before, after in zip(uses, uses[1:], strict=False)):
            layer = nodes[uses[0]][0]
            warnings.warn(
                f"{layer} is applied {len(uses)} times, to what its gates make of it: a recurrent cell that is written "
                "out step by step, and that lrpfast does not recognise. Relevance follows the operations as they are "
                "written: features and states have denominators of their own where a recurrent layer has one for both, "
                "and products take the rule of products. For the layer's relevance, save it as one operator "
                "(torch.export without run_decompositions, torch.onnx.export with dynamo=False, Keras with "
                "unroll=False), or build it with lrpfast.layers.LSTM, GRU or SimpleRNN",
                ApproximationWarning,
                stacklevel=2,
            )
            return


def _shared(nodes: Nodes) -> Iterator[list[int]]:
    """The nodes that apply the same kernel, each kernel's in order."""
    groups: dict[tuple[object, ...], list[list[int]]] = {}
    for i, (layer, _) in enumerate(nodes):
        if not isinstance(layer, L.Dense):
            continue
        groups_of_shape = groups.setdefault((layer.kernel.shape, layer.kernel[:1].tobytes()), [])
        for group in groups_of_shape:
            if np.array_equal(nodes[group[0]][0].kernel, layer.kernel):  # type: ignore[attr-defined]
                group.append(i)
                break
        else:
            groups_of_shape.append([i])
    for several in groups.values():
        yield from several


def _follows(nodes: Nodes, before: int, after: int) -> bool:
    """Whether a node's input is made of another's output through gates, and no other weights."""
    pending, visited = [(j, False) for j in nodes[after][1]], set[tuple[int, bool]]()
    while pending:
        i, gated = pending.pop()
        if i < before or (i, gated) in visited:
            continue
        visited.add((i, gated))
        layer, inputs = nodes[i]
        activation = layer if isinstance(layer, L.Activation) else getattr(layer, "activation", None)
        gated = gated or (isinstance(activation, L.Activation) and activation.function in _GATES)
        if i == before:
            if gated:
                return True
            continue
        if not isinstance(layer, L.Dense):
            pending.extend((j, gated) for j in inputs)
    return False
