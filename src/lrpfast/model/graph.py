"""A model: layers in order, their connections and shapes."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import table
from ..errors import InputError, ShapeError, UnsupportedLayerError
from .layers import Activation, Dense, Identity, Input, Layer, Shape

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class Node:
    """One use of a layer: which nodes feed it, and the shape it makes (per sample)."""

    layer: Layer
    inputs: tuple[int, ...]
    shape: Shape


def _named(layers: Sequence[Layer]) -> list[Layer]:
    """Give every unnamed layer a name as Keras would: dense, dense_1, …"""
    taken = {layer.name for layer in layers if layer.name}
    if len(taken) < sum(1 for layer in layers if layer.name):
        names = [layer.name for layer in layers if layer.name]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two layers are named {twice!r}; names must differ")
    named = []
    for layer in layers:
        if not layer.name:
            stem = re.sub(r"(?<!^)(?=[A-Z])", "_", type(layer).__name__).lower()
            name, count = stem, 0
            while name in taken:
                count += 1
                name = f"{stem}_{count}"
            taken.add(name)
            layer = replace(layer, name=name)
        named.append(layer)
    return named


class Model:
    """A network as a graph of layers, in forward order.

    Make one with `lrpfast.load`, `from_layers`, `from_keras` or `from_sklearn`.

    Attributes
    ----------
    layers : tuple of Layer
        In forward order; index 0 is the Input layer, as in a functional Keras model.
    nodes : tuple of Node
        The layers with their connections and shapes.
    input_shape, output_shape : tuple
        Per sample, without the batch axis.
    """

    def __init__(self, nodes: Sequence[tuple[Layer, tuple[int, ...]]], name: str = "model") -> None:
        if not nodes or not isinstance(nodes[0][0], Input):
            raise ShapeError("a model begins with an Input layer")
        built: list[Node] = []
        layers = _named([layer for layer, _ in nodes])
        for i, (layer, (_, inputs)) in enumerate(zip(layers, nodes, strict=True)):
            if isinstance(layer, Input) != (not inputs) or any(not 0 <= j < i for j in inputs):
                raise ShapeError(f"{layer}: inputs must be earlier layers, and only an Input has none; got {inputs}")
            if len(inputs) > 1 or (isinstance(layer, Input) and i):
                raise UnsupportedLayerError(f"{layer}: layers with several inputs are not supported, only chains are")
            built.append(Node(layer, tuple(inputs), layer.output_shape(built[inputs[0]].shape if inputs else ())))
        used = [j for node in built for j in node.inputs]
        for i, node in enumerate(built[:-1]):
            if used.count(i) != 1:
                raise UnsupportedLayerError(
                    f"{node.layer}: its output feeds {used.count(i)} layers; only chains are supported"
                )
        self.nodes: tuple[Node, ...] = tuple(built)
        self.name = name

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(node.layer for node in self.nodes)

    @property
    def input_shape(self) -> Shape:
        return self.nodes[0].shape

    @property
    def output_shape(self) -> Shape:
        return self.nodes[-1].shape

    def index(self, layer: str | int) -> int:
        """Position of a layer given by name or index; InputError when there is none."""
        if isinstance(layer, str):
            for i, node in enumerate(self.nodes):
                if node.layer.name == layer:
                    return i
            raise InputError(
                f"no layer is named {layer!r}; the layers are {', '.join(str(x.name) for x in self.layers)}"
            )
        if not -len(self.nodes) <= layer < len(self.nodes):
            raise InputError(f"layer index {layer} is out of range: the model has {len(self.nodes)} layers")
        return layer % len(self.nodes)

    def until(self, layer: str | int) -> Model:
        """The model that ends with the given layer's output (its activation included)."""
        last = self.index(layer)
        return Model([(node.layer, node.inputs) for node in self.nodes[: last + 1]], self.name)

    def without_output_activation(self, functions: Sequence[str]) -> Model:
        """The model without its final activation, where that is one of ``functions``."""
        nodes = [(node.layer, node.inputs) for node in self.nodes]
        at = len(nodes) - 1
        while at > 0 and nodes[at][0].identity:
            at -= 1
        layer, inputs = nodes[at]
        if isinstance(layer, Activation) and layer.function in functions and at > 0:
            nodes[at] = (Identity(f"without {layer.function}", name=layer.name), inputs)
        elif isinstance(layer, Dense) and layer.activation is not None and layer.activation.function in functions:
            nodes[at] = (replace(layer, activation=None), inputs)
        else:
            return self
        return Model(nodes, self.name)

    def without_softmax(self) -> Model:
        """The same model with a final softmax left out, so that it predicts logits."""
        return self.without_output_activation(("softmax",))

    def predict(
        self,
        x: np.ndarray,
        *,
        precision: str = "float32",
        device: str = "auto",
        threads: int | None = None,
    ) -> np.ndarray:
        """The model's output, softmax included.

        Parameters
        ----------
        x : array, shape (samples, *input_shape)
            Any real dtype; cast once to the precision.
        precision : {"float32", "float64", "tf32"}
        device : {"auto", "cpu"}
        threads : int, optional
            All cores that this process may use when None.

        Returns
        -------
        array, shape (samples, *output_shape)

        Raises
        ------
        InputError, ShapeError, DeviceError
        """
        from ..engine.execute import predict  # the one import against the direction of the folders

        return predict(self, x, precision=precision, device=device, threads=threads)

    def summary(self) -> str:
        """A table of the layers: index, name, type, shape, parameters, activation."""
        rows = [("#", "layer", "type", "output", "parameters", "")]
        total = 0
        for i, node in enumerate(self.nodes):
            layer = node.layer
            arrays = [getattr(layer, key, None) for key in ("kernel", "bias")]
            count = sum(math.prod(a.shape) for a in arrays if a is not None)
            total += count
            rows.append(
                (str(i), str(layer.name), type(layer).__name__, str(node.shape), f"{count:,}", layer.describe())
            )
        head = f"{self.name}: {self.input_shape} -> {self.output_shape}, {total:,} parameters"
        return "\n".join([head, *table.lines(rows)])

    def __repr__(self) -> str:
        return f"<lrpfast.Model {self.name!r}: {self.input_shape} -> {self.output_shape}, {len(self.layers)} layers>"

    def save(self, path: str | os.PathLike) -> None:
        """Write the model as lrpfast's own ``.npz``, which `lrpfast.load` reads.

        The file is written under a temporary name and renamed, so that a full
        disk or an interrupt leaves what was there before.
        """
        from .npz import write

        write(self, Path(path))


def model_wo_softmax(model: Model) -> Model:
    """The model without its final softmax, by iNNvestigate's name; see `Model.without_softmax`."""
    return model.without_softmax()


def from_layers(layers: Sequence[Layer], input_shape: Sequence[int] | int | None = None, name: str = "model") -> Model:
    """A model from a chain of layers.

    Parameters
    ----------
    layers : sequence of Layer
        In forward order; an Input layer first is optional.
    input_shape : tuple of int, optional
        Per sample. Needed unless the first layer says it (an Input or a Dense).
    name : str

    Raises
    ------
    ShapeError
        When the shapes do not fit, or ``input_shape`` is needed and missing.
    """
    layers = list(layers)
    for layer in layers:
        if not isinstance(layer, Layer):
            raise InputError(f"from_layers takes layers from lrpfast.layers, not {type(layer).__name__}")
    if not layers:
        raise ShapeError("from_layers needs at least one layer")
    if not isinstance(layers[0], Input):
        if input_shape is None:
            if not isinstance(layers[0], Dense):
                raise ShapeError("from_layers needs input_shape=(…): the first layer does not say what it takes")
            input_shape = (layers[0].kernel.shape[0],)
        layers.insert(0, Input(input_shape))
    elif input_shape is not None and layers[0].shape != Input(input_shape).shape:
        raise ShapeError(f"input_shape is {input_shape}, but the Input layer says {layers[0].shape}")
    return Model([(layer, (i - 1,) if i else ()) for i, layer in enumerate(layers)], name)
