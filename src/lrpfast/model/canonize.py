"""The same function in fewer layers: batch normalization is folded into a neighbouring linear layer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np

from .graph import Model, with_layers
from .layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    Flatten,
    Identity,
    Layer,
    Linear,
    LocallyConnected,
    Reshape,
    Shape,
)
from .layers.window import pads

_Nodes = list[tuple[Layer, tuple[int, ...]]]


#: Layers with a batch normalization folded into them, by both and the shapes between them; and the two layers.
Folds = dict[tuple[Any, ...], tuple[Layer | None, Layer, Layer]]


def canonize(model: Model, excluded: Collection[int] = (), folds: Folds | None = None) -> Model:
    """The model with every batch normalization folded into a linear layer, if that changes no output.

    It is folded into the layer with weights before it, if nothing else uses that layer's
    output and it has no activation; else into the one after it, if nothing else uses its own
    output and there is no zero padding in between; else it stays. Layers that do nothing may be
    in between, and before the layer after it also Flatten and Reshape. A layer that is used
    twice stays unchanged.

    Nodes keep their order and names; a folded one becomes an `Identity`. Folded kernels are
    float64, so that no precision is lost for any analyzer.

    Parameters
    ----------
    model : Model
    excluded : collection of int
        Nodes that stay as they are.
    folds : dict, optional
        Keeps folded layers, so that the same model with another input size gets the same ones.

    Returns
    -------
    Model
        The same object when there is nothing to fold.
    """
    nodes: _Nodes = [(node.layer, node.inputs) for node in model.nodes]
    consumers = model.consumers()
    times: dict[int, int] = {}
    for layer, _ in nodes:
        times[id(layer)] = times.get(id(layer), 0) + 1
    shared = {i for i, (layer, _) in enumerate(nodes) if times[id(layer)] > 1}

    def is_only_use(i: int) -> bool:
        return len(consumers[i]) == 1 and i not in model.outputs

    def layer_before(i: int) -> int | None:
        """The layer with weights whose output only this node uses."""
        index = nodes[i][1][0]
        while isinstance(nodes[index][0], Identity) and is_only_use(index):
            index = nodes[index][1][0]
        layer = nodes[index][0]
        fits = isinstance(layer, Linear) and is_only_use(index) and index not in shared
        return index if fits and getattr(layer, "activation", None) is None else None

    def layer_after(i: int) -> int | None:
        """The layer with weights that alone uses the node's output."""
        index = i
        while is_only_use(index):
            index = consumers[index][0]
            if isinstance(nodes[index][0], Linear):
                return None if index in shared else index
            if not isinstance(nodes[index][0], (Identity, Flatten, Reshape)):
                return None
        return None

    for i, (layer, inputs) in enumerate(nodes):
        if not isinstance(layer, BatchNorm) or i in shared or i in excluded:
            continue
        folded, index = None, layer_before(i)
        if index is not None:
            folded = _folded(nodes[index][0], layer, (), folds)
        if folded is None:
            index = layer_after(i)
            if index is not None:
                shapes = (model.nodes[i].shape, model.nodes[nodes[index][1][0]].shape)
                folded = _folded(nodes[index][0], layer, shapes, folds)
        if folded is not None and index is not None:
            nodes[index] = (folded, nodes[index][1])
            nodes[i] = (Identity(f"BatchNorm folded into {model.nodes[index].name}", name=layer.name), inputs)
    if all(node.layer is layer for node, (layer, _) in zip(model.nodes, nodes, strict=True)):
        return model
    return with_layers(model, nodes)


def split_batch_norm(model: Model) -> Model:
    """The model with every batch normalization as two: (x − mean) / √(variance + epsilon), then γ x + β.

    This is iNNvestigate's ``bn_layer_fuse_mode="two_linear"``. The first layer is NAME/normalized.
    """
    nodes: _Nodes = []
    new_index: list[int] = []
    parts: dict[int, tuple[BatchNorm, BatchNorm]] = {}
    for node in model.nodes:
        layer, inputs = node.layer, tuple(new_index[j] for j in node.inputs)
        if isinstance(layer, BatchNorm):
            if id(layer) not in parts:
                parts[id(layer)] = _halves(layer)
            first, layer = parts[id(layer)]
            nodes.append((first, inputs))
            inputs = (len(nodes) - 1,)
        nodes.append((layer, inputs))
        new_index.append(len(nodes) - 1)
    return Model(nodes, model.name, [new_index[i] for i in model.outputs]) if parts else model


def _halves(layer: BatchNorm) -> tuple[BatchNorm, BatchNorm]:
    zeros, ones = np.zeros_like(layer.mean), np.ones_like(layer.mean)
    first = replace(layer, gamma=None, beta=None, name=f"{layer.name}/normalized")
    return first, BatchNorm(zeros, ones, layer.gamma, layer.beta, 0.0, name=layer.name)


def _folded(layer: Layer, norm: BatchNorm, shapes: tuple[Shape, ...], folds: Folds | None) -> Layer | None:
    """The layer with the normalization after it folded into it, or, between two shapes, the one before it."""
    known = {} if folds is None else folds
    key = (id(layer), id(norm), shapes)
    if key not in known:
        folded = _folded_after(layer, norm, *shapes) if shapes else _folded_before(layer, norm.factor(), norm.offset())
        known[key] = folded, layer, norm  # whose ids no other layers get
    return known[key][0]


def _folded_before(layer: Layer, factor: np.ndarray, offset: np.ndarray) -> Layer | None:
    """The layer whose output is factor · y + offset, per output channel, where y is the given layer's output."""
    kernel: Any = _exact(layer.kernel)  # type: ignore[attr-defined]
    if isinstance(layer, (Dense, Conv, LocallyConnected)):
        kernel = kernel * factor
    elif isinstance(layer, ConvTranspose):  # (spatial…, out / groups, in): the channels of a group are adjacent
        parts = kernel.reshape(*kernel.shape[:-1], layer.groups, -1)
        kernel = (parts * factor.reshape(layer.groups, -1).T[..., None]).reshape(kernel.shape)
    elif isinstance(layer, DepthwiseConv):
        kernel = kernel * factor.reshape(kernel.shape[-2:])
    else:
        return None
    bias = _exact(layer.bias)
    return replace(layer, kernel=kernel, bias=offset if bias is None else bias * factor + offset)


def _folded_after(layer: Layer, norm: BatchNorm, shape: Shape, input_shape: Shape) -> Layer | None:
    """The layer that replaces the normalization and the given layer after it; None if no layer can.

    ``shape`` is the normalization's, ``input_shape`` that of the layer's input: the same values, reshaped.
    """
    if None in shape or None in input_shape or not _sees_no_padding(layer, input_shape):
        return None
    factor, offset = (_channels(v, shape, input_shape) for v in (norm.factor(), norm.offset()))
    if factor is None or offset is None:
        return None
    kernel, bias = _exact(layer.kernel), _exact(layer.bias)  # type: ignore[attr-defined]
    if isinstance(layer, Dense):
        new_kernel, new_bias = kernel * factor[:, None], offset @ kernel
    elif isinstance(layer, Conv):

        def on_channels(v: np.ndarray) -> np.ndarray:
            """The value of the input channel for each weight of a window; each group has its own channels."""
            return np.repeat(v.reshape(layer.groups, -1).T, kernel.shape[-1] // layer.groups, axis=1)

        new_kernel, new_bias = (
            kernel * on_channels(factor),
            (kernel * on_channels(offset)).reshape(-1, kernel.shape[-1]).sum(0),
        )
    elif isinstance(layer, DepthwiseConv):
        new_kernel = kernel * factor[:, None]
        new_bias = (kernel * offset[:, None]).reshape(-1, *kernel.shape[-2:]).sum(0).ravel()
    elif isinstance(layer, LocallyConnected):
        taps = kernel.shape[1] // len(factor)
        new_kernel = kernel * np.tile(factor, taps)[:, None]
        new_bias = (kernel * np.tile(offset, taps)[:, None]).sum(1).reshape(layer.output_shape(input_shape))
    else:
        return None
    return replace(layer, kernel=new_kernel, bias=new_bias if bias is None else bias + new_bias)


def _exact(array: np.ndarray | None) -> Any:
    return None if array is None else array.astype(np.float64)


def _channels(values: np.ndarray, shape: Shape, input_shape: Shape) -> np.ndarray | None:
    """Channel values of ``shape`` as values of the last axis of ``input_shape``; None if a reshape mixes channels."""
    rows = np.broadcast_to(values, shape).reshape(-1, input_shape[-1])  # type: ignore[arg-type]
    return rows[0] if (rows == rows[0]).all() else None


def _sees_no_padding(layer: Layer, shape: Shape) -> bool:
    """Whether every window of the layer is inside its input."""
    if isinstance(layer, Dense):
        return True
    if not isinstance(layer, (Conv, DepthwiseConv, LocallyConnected)):
        return False
    dilation = getattr(layer, "dilation", (1,) * layer.rank)
    sliding = zip(shape[:-1], layer.size, layer.strides, dilation, strict=True)
    return all(pads(layer.padding, axis, n, k, s, d) == (0, 0) for axis, (n, k, s, d) in enumerate(sliding))  # type: ignore[arg-type]


def file_indices(model: Model) -> list[int]:
    """For each node, the index of its layer in a model whose layers are not split.

    The two factors of a separable convolution, and of a split batch normalization, count as one.
    """
    indices, count = [], 0
    for i, node in enumerate(model.nodes):
        indices.append(count)
        following = model.nodes[i + 1].name if i + 1 < len(model.nodes) else ""
        stem, _, part = node.name.rpartition("/")
        count += not (part in ("depthwise", "normalized") and stem == following)
    return indices
