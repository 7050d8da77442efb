"""A model: layers in order, their connections and shapes."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import table
from ..errors import InputError, ShapeError
from .layers import (
    SOFTMAXES,
    Activation,
    Block,
    Dense,
    Flatten,
    Identity,
    Input,
    Layer,
    Merge,
    Permute,
    Reshape,
    Shape,
)


@dataclass(frozen=True, eq=False)
class Node:
    """One use of a layer: which nodes feed it, the shape it makes (per sample), and its name in the model.

    The name is the layer's, with a number for a layer's second and later uses: ``shared``, ``shared:1``.
    """

    layer: Layer
    inputs: tuple[int, ...]
    shape: Shape
    name: str

    def __str__(self) -> str:
        return f"{type(self.layer).__name__} {self.name!r}"


def _named(layers: Sequence[Layer]) -> list[Layer]:
    """Give every unnamed layer a name as Keras would: dense, dense_1, … A layer used twice stays one layer."""
    distinct = list({id(layer): layer for layer in layers}.values())
    names = [layer.name for layer in distinct if layer.name]
    taken = set(names)
    if len(taken) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two layers are named {twice!r}; names must differ")
    named = {}
    for layer in distinct:
        if not layer.name:
            stem = re.sub(r"(?<!^)(?=[A-Z])", "_", type(layer).__name__).lower()
            name, count = stem, 0
            while name in taken:
                count += 1
                name = f"{stem}_{count}"
            taken.add(name)
            named[id(layer)] = replace(layer, name=name)
        else:
            named[id(layer)] = layer
    return [named[id(layer)] for layer in layers]


class Model:
    """A network as a graph of layers, in forward order.

    Make one with `lrpfast.load`, `from_layers`, `Graph`, `from_keras` or `from_sklearn`.

    Attributes
    ----------
    layers : tuple of Layer
        In forward order; index 0 is an Input layer, as in a functional Keras model.
        A layer that is used twice stands there twice.
    nodes : tuple of Node
        The layers with their connections, shapes and names.
    inputs, outputs : tuple of int
        Indices of the nodes where data enters and leaves.
    input_shape, output_shape : tuple
        Per sample, without the batch axis; a list of them where there are several.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((4, 2)), activation="softmax")])
    >>> model.input_shape, model.output_shape, [str(layer) for layer in model.layers]
    ((4,), (2,), ["Input 'input'", "Dense 'dense'"])
    """

    def __init__(
        self,
        nodes: Sequence[tuple[Layer, tuple[int, ...]]],
        name: str = "model",
        outputs: Sequence[int] | None = None,
    ) -> None:
        if not nodes or not isinstance(nodes[0][0], Input):
            raise ShapeError("a model begins with an Input layer")
        built: list[Node] = []
        uses: dict[int, int] = {}
        for i, (layer, (_, inputs)) in enumerate(zip(_named([layer for layer, _ in nodes]), nodes, strict=True)):
            if isinstance(layer, Input) != (not inputs) or any(not 0 <= j < i for j in inputs):
                raise ShapeError(f"{layer}: inputs must be earlier layers, and only an Input has none; got {inputs}")
            if isinstance(layer, Block):
                raise ShapeError(f"{layer}: a model holds its parts; from_layers and Graph.add take it apart")
            if len(inputs) > 1 and not isinstance(layer, Merge):
                raise ShapeError(f"{layer}: it takes one input, not {len(inputs)}")
            use = uses.get(id(layer), 0)
            uses[id(layer)] = use + 1
            shape = layer.output_shape(*(built[j].shape for j in inputs))
            built.append(Node(layer, tuple(inputs), shape, f"{layer.name}:{use}" if use else str(layer.name)))
        self.nodes: tuple[Node, ...] = tuple(built)
        self.inputs: tuple[int, ...] = tuple(i for i, node in enumerate(built) if isinstance(node.layer, Input))
        self.outputs: tuple[int, ...] = (len(built) - 1,) if outputs is None else tuple(int(i) for i in outputs)
        if not self.outputs or any(not 0 <= i < len(built) for i in self.outputs):
            raise ShapeError(f"outputs must be indices of the model's {len(built)} layers, not {outputs}")
        used = {j for node in built for j in node.inputs} | set(self.outputs)
        for i, node in enumerate(built):
            if i not in used:
                raise ShapeError(f"{node}: nothing uses its output, and the model does not return it")
        self.name = name

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(node.layer for node in self.nodes)

    @property
    def input_shape(self) -> Any:
        shapes = [self.nodes[i].shape for i in self.inputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def output_shape(self) -> Any:
        shapes = [self.nodes[i].shape for i in self.outputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def is_open(self) -> bool:
        """Whether the model leaves sizes of its inputs to the data."""
        return any(None in self.nodes[i].shape for i in self.inputs)

    def with_input_shape(self, *shapes: Sequence[int]) -> Model:
        """The same model for inputs of the given shapes, one for each input, where it leaves sizes open.

        Raises
        ------
        ShapeError
            When a shape does not fit what the model says of it.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Conv(np.ones((3, 1, 2)))], input_shape=(None, 1))
        >>> model.with_input_shape((20, 1)).output_shape
        (18, 2)
        """
        if len(shapes) != len(self.inputs):
            raise ShapeError(f"the model has {len(self.inputs)} inputs, not {len(shapes)}")
        nodes: list[tuple[Layer, tuple[int, ...]]] = [(node.layer, node.inputs) for node in self.nodes]
        for i, shape in zip(self.inputs, shapes, strict=True):
            wanted = self.nodes[i].shape
            fits = len(shape) == len(wanted) and all(n in (None, m) for n, m in zip(wanted, shape, strict=True))
            if not fits:
                raise ShapeError(f"{self.nodes[i]} takes samples of shape {wanted}, not {tuple(shape)}")
            nodes[i] = (Input(tuple(shape), name=self.nodes[i].layer.name), ())
        return Model(nodes, self.name, self.outputs)

    def consumers(self) -> list[list[int]]:
        """For each node, the nodes that its output feeds, in forward order; one that takes it twice is named twice.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2)), lrpfast.layers.Dense(np.eye(2))])
        >>> model.consumers()
        [[1], [2], []]
        """
        used: list[list[int]] = [[] for _ in self.nodes]
        for i, node in enumerate(self.nodes):
            for j in node.inputs:
                used[j].append(i)
        return used

    def index(self, layer: str | int) -> int:
        """Position of a layer given by name or index; InputError when there is none.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2)), lrpfast.layers.Dense(np.eye(2))])
        >>> model.index("dense_1"), model.index(-2)
        (2, 1)
        """
        if isinstance(layer, str):
            for i, node in enumerate(self.nodes):
                if node.name == layer:
                    return i
            raise InputError(f"no layer is named {layer!r}; the layers are {', '.join(x.name for x in self.nodes)}")
        if not -len(self.nodes) <= layer < len(self.nodes):
            raise InputError(f"layer index {layer} is out of range: the model has {len(self.nodes)} layers")
        return layer % len(self.nodes)

    def until(self, layer: str | int) -> Model:
        """The model that ends with the given layer's output (its activation included).

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((4, 3))), lrpfast.layers.Dense(np.ones((3, 2)))])
        >>> model.until("dense").output_shape
        (3,)
        """
        kept = self.needed(layer)
        place = {i: k for k, i in enumerate(kept)}
        nodes = [(self.nodes[i].layer, tuple(place[j] for j in self.nodes[i].inputs)) for i in kept]
        return Model(nodes, self.name, [len(kept) - 1])

    def needed(self, layer: str | int) -> list[int]:
        """The nodes that a layer's output depends on, itself included, in forward order.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((4, 3))), lrpfast.layers.Dense(np.ones((3, 2)))])
        >>> model.needed("dense")
        [0, 1]
        """
        found = {self.index(layer)}
        for i in range(max(found), -1, -1):
            if i in found:
                found.update(self.nodes[i].inputs)
        return sorted(found)

    def without_output_activation(self, functions: Sequence[str]) -> Model:
        """The model without its outputs' final activations, where these are among ``functions``.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(1), activation="sigmoid")])
        >>> model.without_output_activation(["sigmoid"]).predict(np.array([[3.0]])).tolist()
        [[3.0]]
        """
        nodes = [(node.layer, node.inputs) for node in self.nodes]
        consumers = self.consumers()
        changed = False
        for at in self.outputs:
            # a layer that only hands the output on or moves it, and to nothing else
            while (
                (nodes[at][0].identity or isinstance(nodes[at][0], (Flatten, Permute, Reshape)))
                and nodes[at][1]
                and len(consumers[at]) <= (at not in self.outputs)
            ):
                at = nodes[at][1][0]
            layer, inputs = nodes[at]
            if len(consumers[at]) > (at not in self.outputs):
                continue  # something else needs the activation
            if isinstance(layer, Activation) and layer.function in functions and inputs:
                nodes[at] = (Identity(f"without {layer.function}", name=layer.name), inputs)
            elif getattr(layer, "activation", None) is not None and layer.activation.function in functions:  # type: ignore[attr-defined]
                nodes[at] = (replace(layer, activation=None), inputs)  # type: ignore[call-arg]
            else:
                continue
            changed = True
        return Model(nodes, self.name, self.outputs) if changed else self

    def without_softmax(self) -> Model:
        """The same model with a final softmax or its logarithm left out, so that it predicts logits.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2), activation="softmax")])
        >>> model.without_softmax().predict(np.array([[3.0, 1.0]])).tolist()
        [[3.0, 1.0]]
        """
        return self.without_output_activation(SOFTMAXES)

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
            Any real dtype; cast once to the precision. A list of them for several inputs.
        precision : {"float32", "float64", "tf32"}
        device : {"auto", "cpu", "gpu"} or "gpu:1", …
        threads : int, optional
            All cores that this process may use when None.

        Returns
        -------
        array, shape (samples, *output_shape)
            A list of them for several outputs.

        Raises
        ------
        InputError, ShapeError, DeviceError

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0, -1.0], [2.0, 1.0]]), activation="relu")])
        >>> model.predict(np.array([[1.0, 1.0], [3.0, -1.0]]), precision="float64") + 0
        array([[3., 0.],
               [1., 0.]])
        """
        from ..engine.execute import predict  # the one import against the direction of the folders

        output: np.ndarray = predict(self, x, precision=precision, device=device, threads=threads)
        return output

    def summary(self) -> str:
        """A table of the layers: index, name, type, shape, parameters, activation, and what feeds each.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((4, 2)), activation="softmax")])
        >>> print(model.summary())
        model: (4,) -> (2,), 8 parameters
        #  layer  type   output  parameters
        0  input  Input  (4,)    0
        1  dense  Dense  (2,)    8           softmax
        """
        head, rows = self._table()
        return "\n".join([head, *table.lines(rows)])

    def _repr_html_(self) -> str:
        head, rows = self._table()
        return table.html(rows, head)

    def _table(self) -> tuple[str, list[tuple[str, ...]]]:
        """The summary's first line, and its rows."""
        rows: list[tuple[str, ...]] = [("#", "layer", "type", "output", "parameters", "", "from")]
        counted: set[int] = set()
        total = 0
        for i, node in enumerate(self.nodes):
            layer = node.layer
            arrays = [getattr(layer, f.name) for f in fields(layer) if isinstance(getattr(layer, f.name), np.ndarray)]
            count = sum(a.size for a in arrays)
            total += 0 if id(layer) in counted else count
            counted.add(id(layer))
            source = ", ".join(self.nodes[j].name for j in node.inputs) if node.inputs not in ((), (i - 1,)) else ""
            rows.append(
                (str(i), node.name, type(layer).__name__, str(node.shape), f"{count:,}", layer.describe(), source)
            )
        if not any(row[-1] for row in rows[1:]):
            rows = [row[:-1] for row in rows]
        return f"{self.name}: {self.input_shape} -> {self.output_shape}, {total:,} parameters", rows

    def __repr__(self) -> str:
        return f"<lrpfast.Model {self.name!r}: {self.input_shape} -> {self.output_shape}, {len(self.layers)} layers>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as lrpfast's own ``.npz``, which `lrpfast.load` reads.

        The file is written under a temporary name and renamed, so that a full
        disk or an interrupt leaves what was there before.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2))])
        >>> model.save("model.npz")
        >>> lrpfast.load("model.npz").digest() == model.digest()
        True
        """
        from .npz import write

        write(self, Path(path))

    def digest(self) -> str:
        """A fingerprint of the layers, their names, connections and weights: 32 hexadecimal digits.

        Files of relevances carry it, so that they say which model they are about.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2))])
        >>> len(model.digest())
        32
        """
        from .npz import digest

        return digest(self)


def model_wo_softmax(model: Model) -> Model:
    """The model without its final softmax, by iNNvestigate's name; see `Model.without_softmax`.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2), activation="softmax")])
    >>> lrpfast.model_wo_softmax(model).predict(np.array([[3.0, 1.0]])).tolist()
    [[3.0, 1.0]]
    """
    return model.without_softmax()


class Graph:
    """Builds a model with branches, several inputs or several outputs, a layer at a time.

    >>> import numpy as np
    >>> from lrpfast import Graph, layers
    >>> graph = Graph()
    >>> x = graph.input((4,))
    >>> y = graph.add(layers.Dense(np.eye(4), activation="relu"), x)
    >>> model = graph.model(graph.add(layers.Add(), x, y))
    >>> model.output_shape
    (4,)
    """

    def __init__(self) -> None:
        self._nodes: list[tuple[Layer, tuple[int, ...]]] = []
        # a block's parts, for its next use; with the block, so that its id stays taken
        self._parts: dict[int, tuple[Block, list[Layer]]] = {}
        self._reused: list[Layer] | None = None

    def input(self, shape: Sequence[int | None] | int, name: str | None = None) -> int:
        """A place where data enters, with its per-sample shape.

        Examples
        --------
        >>> graph = lrpfast.Graph()
        >>> graph.input((28, 28, 1), name="image"), graph.input(3)
        (0, 1)
        """
        return self._place(Input((shape,) if isinstance(shape, int) else tuple(shape), name=name), ())

    def add(self, layer: Layer, *inputs: int) -> int:
        """Feed a layer with earlier results; returns its own, for later layers. A layer may be added more than once.

        Raises
        ------
        InputError, ShapeError
            For what is no layer, or no result of this graph.

        Examples
        --------
        >>> graph = lrpfast.Graph()
        >>> x = graph.input(2)
        >>> y = graph.add(lrpfast.layers.Dense(np.eye(2)), x)
        >>> graph.add(lrpfast.layers.Add(), x, y)
        2
        """
        if not isinstance(layer, Layer) or isinstance(layer, Input):
            raise InputError(f"add takes layers from lrpfast.layers, not {type(layer).__name__}; see Graph.input")
        if not inputs or any(isinstance(i, bool) or not isinstance(i, int) for i in inputs):
            raise InputError(f"{layer}: inputs must be what input() and add() returned, not {inputs!r}")
        if isinstance(layer, Block):
            return self._build(layer, inputs)
        if self._reused is not None:
            layer = self._reused.pop(0)
        return self._place(layer, inputs)

    def _build(self, block: Block, inputs: tuple[int, ...]) -> int:
        """Add a block's parts; those of its first use, where it was added before."""
        first = len(self._nodes)
        if self._reused is None and id(block) in self._parts:
            self._reused = list(self._parts[id(block)][1])
            try:
                return block.build(self, *inputs)
            finally:
                self._reused = None
        stem = re.sub(r"(?<!^)(?=[A-Z])", "_", type(block).__name__).lower()
        named = block if block.name else replace(block, name=self._free_name(stem))
        out = named.build(self, *inputs)
        self._parts[id(block)] = (block, [layer for layer, _ in self._nodes[first:]])
        return out

    def _free_name(self, stem: str) -> str:
        taken = {layer.name for layer, _ in self._nodes}
        return next(name for name in (stem, *(f"{stem}_{i}" for i in range(1, len(taken) + 2))) if name not in taken)

    def _place(self, layer: Layer, inputs: tuple[int, ...]) -> int:
        self._nodes.append((layer, inputs))
        return len(self._nodes) - 1

    def model(self, *outputs: int, name: str = "model") -> Model:
        """The model that returns the given results, or, without any, the last one.

        Examples
        --------
        >>> graph = lrpfast.Graph()
        >>> x = graph.input(2)
        >>> y = graph.add(lrpfast.layers.Dense(np.ones((2, 3))), x)
        >>> z = graph.add(lrpfast.layers.Dense(np.ones((3, 1))), y)
        >>> graph.model(y, z, name="two outputs").output_shape
        [(3,), (1,)]
        """
        return Model(self._nodes, name, outputs or None)


def from_layers(layers: Sequence[Layer], input_shape: Sequence[int] | int | None = None, name: str = "model") -> Model:
    """A model from a chain of layers; see `Graph` for branches.

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

    Examples
    --------
    >>> layers = [lrpfast.layers.Conv(np.ones((3, 3, 1, 4)), activation="relu"), lrpfast.layers.GlobalAveragePool()]
    >>> lrpfast.from_layers(layers, input_shape=(8, 8, 1)).output_shape
    (4,)
    """
    layers = list(layers)
    for layer in layers:
        if not isinstance(layer, Layer):
            raise InputError(f"from_layers takes layers from lrpfast.layers, not {type(layer).__name__}")
    if not layers:
        raise ShapeError("from_layers needs at least one layer")
    first = Input(() if input_shape is None else input_shape)  # type: ignore[arg-type]
    if isinstance(layers[0], Input):
        if input_shape is not None and layers[0].shape != first.shape:
            raise ShapeError(f"input_shape is {input_shape}, but the Input layer says {layers[0].shape}")
        first = layers.pop(0)  # type: ignore[assignment]
    elif input_shape is None:
        if not isinstance(layers[0], Dense):
            raise ShapeError("from_layers needs input_shape=(…): the first layer does not say what it takes")
        first = Input((layers[0].kernel.shape[0],))
    graph = Graph()
    at = graph.input(first.shape, first.name)
    for layer in layers:
        at = graph.add(layer, at)
    return graph.model(at, name=name)
