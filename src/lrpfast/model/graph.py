"""A model: layers in order, their connections and shapes."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import table
from ..errors import InputError, ShapeError
from ..table import counted
from .channels import channels_first
from .layers import SOFTMAXES, Block, Input, Layer, Merge
from .layers.base import as_shape, fits, whole
from .node import Node, check_pairs, indices, with_names
from .npz import digest, write
from .rewrites import own_layers, randomized, without_activations
from .summary import summary_table


class Model:
    """A network as a graph of layers, in forward order.

    Make one with `lrpfast.load`, `from_layers`, `Graph`, `from_keras`, `from_onnx`, `from_sklearn` or `from_torch`.

    Parameters
    ----------
    nodes : list of (Layer, tuple of int)
        The layers in forward order, an Input first, each with the indices of the layers that feed it.
    name : str
    outputs : list of int, optional
        Indices of the layers that the model returns; the last when None.
    sequential : bool
        See the attribute.

    Attributes
    ----------
    layers : tuple of Layer
        In forward order; index 0 is an Input layer, as in a functional Keras model.
        A layer that is used twice occurs twice.
    nodes : tuple of Node
        The layers with their connections, shapes and names.
    inputs, outputs : tuple of int
        Indices of the nodes where data enters and leaves.
    input_shape, output_shape : tuple
        Per sample, without the batch axis; a list of shapes if there are several.
    channels_first : bool or None
        Whether the input's channels are its first axis or its last, as in `lrpfast.plot.heatmap`;
        a list for several inputs.
    sequential : bool
        Whether the model is a Keras ``Sequential``, whose ``layers`` in Keras have no Input; iNNvestigate counts those.

    Raises
    ------
    InputError
        When an argument has another type, or two layers have the same name.
    ShapeError
        When layers do not fit or are not connected, or when nothing uses a layer's output.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((4, 2)), activation="softmax")])
    >>> model.input_shape, model.output_shape, [str(layer) for layer in model.layers]
    ((4,), (2,), ["Input 'input'", "Dense 'dense'"])
    """

    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    name: str
    sequential: bool

    def __init__(
        self,
        nodes: Sequence[tuple[Layer, tuple[int, ...]]],
        name: str = "model",
        outputs: Sequence[int] | None = None,
        sequential: bool = False,
    ) -> None:
        if not isinstance(name, str):
            raise InputError(f"name must be a text, not {name!r}")
        check_pairs(nodes)
        if outputs is not None and not isinstance(outputs, (tuple, list)):
            raise InputError(f"outputs must be a list of indices of nodes, not {outputs!r:.80}")
        if not nodes or not isinstance(nodes[0][0], Input):
            raise ShapeError("a model begins with an Input layer")
        result: list[Node] = []
        uses: dict[int, int] = {}
        for i, (layer, (_, inputs)) in enumerate(zip(with_names([layer for layer, _ in nodes]), nodes, strict=True)):
            if isinstance(layer, Input) != (not inputs) or indices(inputs, i) is None:
                raise ShapeError(f"{layer}: inputs must be earlier layers, and only an Input has none; got {inputs}")
            if isinstance(layer, Block):
                raise ShapeError(f"{layer}: a model holds its parts; from_layers and Graph.add take it apart")
            if len(inputs) > 1 and not isinstance(layer, Merge):
                raise ShapeError(f"{layer}: it takes one input, not {len(inputs)}")
            use = uses.get(id(layer), 0)
            uses[id(layer)] = use + 1
            shape = layer.output_shape(*(result[j].shape for j in inputs))
            result.append(Node(layer, tuple(inputs), shape, f"{layer.name}:{use}" if use else str(layer.name)))
        ends = (len(result) - 1,) if outputs is None else indices(outputs, len(result))
        if not ends:
            raise ShapeError(f"outputs must be indices of the model's {len(result)} layers, not {outputs!r}")
        used_nodes = {j for node in result for j in node.inputs} | set(ends)
        for i, node in enumerate(result):
            if i not in used_nodes:
                raise ShapeError(f"{node}: nothing uses its output, and the model does not return it")
        entries = tuple(i for i, node in enumerate(result) if isinstance(node.layer, Input))
        self.__dict__.update(nodes=tuple(result), inputs=entries, outputs=ends, name=name, sequential=bool(sequential))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"Model.{name} cannot be set: a model does not change; until, with_input_shape, without_softmax, "
            "lrpfast.from_layers and lrpfast.Graph make another"
        )

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"Model.{name} cannot be deleted: a model does not change")

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in forward order, the Input first; a layer that is used twice occurs twice."""
        return tuple(node.layer for node in self.nodes)

    @property
    def input_shape(self) -> Any:
        """The input's shape per sample, with None for an open size; a list of shapes for several inputs."""
        shapes = [self.nodes[i].shape for i in self.inputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def output_shape(self) -> Any:
        """The output's shape per sample, with None for an open size; a list of shapes for several outputs."""
        shapes = [self.nodes[i].shape for i in self.outputs]
        return shapes[0] if len(shapes) == 1 else shapes

    @property
    def channels_first(self) -> Any:
        """Whether the input's channels are its first axis (ONNX, PyTorch) or its last (Keras).

        None without a convolution or pooling, which decide; a list for several inputs.
        """
        first = [channels_first(self.nodes, i) for i in self.inputs]
        return first[0] if len(first) == 1 else first

    @property
    def is_open(self) -> bool:
        """Whether the model leaves sizes of its inputs to the data."""
        return any(None in self.nodes[i].shape for i in self.inputs)

    def with_input_shape(self, *shapes: Sequence[int] | int) -> Model:
        """The same model for inputs of the given shapes, if it leaves sizes open.

        Parameters
        ----------
        *shapes : tuple of int, or int for one axis
            One for each input, without the batch axis.

        Returns
        -------
        Model

        Raises
        ------
        ShapeError
            When a shape does not fit the model, or the number of shapes is not that of the inputs.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Conv(np.ones((3, 1, 2)))], input_shape=(None, 1))
        >>> model.with_input_shape((20, 1)).output_shape
        (18, 2)
        """
        if len(shapes) != len(self.inputs):
            raise ShapeError(f"the model has {len(self.inputs)} inputs, not {len(shapes)}")
        nodes: list[tuple[Layer, tuple[int, ...]]] = [(node.layer, node.inputs) for node in self.nodes]
        for i, new_shape in zip(self.inputs, shapes, strict=True):
            expected, shape = self.nodes[i].shape, as_shape(new_shape, str(self.nodes[i]))
            if not fits(shape, expected):
                raise ShapeError(f"{self.nodes[i]} takes samples of shape {expected}, not {shape}")
            nodes[i] = (replace(self.nodes[i].layer, shape=shape), ())  # type: ignore[call-arg]
        return Model(nodes, self.name, self.outputs, self.sequential)

    def consumers(self) -> list[list[int]]:
        """For each node, the nodes that its output feeds, in forward order.

        Returns
        -------
        list of list of int
            Indices in `nodes`; a node that takes an output twice occurs twice.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2)), lrpfast.layers.Dense(np.eye(2))])
        >>> model.consumers()
        [[1], [2], []]
        """
        result: list[list[int]] = [[] for _ in self.nodes]
        for i, node in enumerate(self.nodes):
            for j in node.inputs:
                result[j].append(i)
        return result

    def index(self, layer: str | int) -> int:
        """Position of a layer in `layers`.

        Parameters
        ----------
        layer : str or int
            The layer's name, or its index in `layers`; negative from the last.

        Returns
        -------
        int
            0 or more.

        Raises
        ------
        InputError
            When there is no such layer.

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
        index = whole(layer)
        if index is None:
            raise InputError(f"layer must be a name or an index, not {layer!r}")
        if not -len(self.nodes) <= index < len(self.nodes):
            raise InputError(f"layer index {index} is out of range: the model has {len(self.nodes)} layers")
        return index % len(self.nodes)

    def until(self, layer: str | int) -> Model:
        """The model that ends with the given layer's output, including its activation.

        Parameters
        ----------
        layer : str or int
            The layer's name, or its index in `layers`; negative from the last.

        Returns
        -------
        Model

        Raises
        ------
        InputError
            When there is no such layer.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((4, 3))), lrpfast.layers.Dense(np.ones((3, 2)))])
        >>> model.until("dense").output_shape
        (3,)
        """
        ancestors = self.needed(layer)
        new_index = {i: k for k, i in enumerate(ancestors)}
        nodes = [(self.nodes[i].layer, tuple(new_index[j] for j in self.nodes[i].inputs)) for i in ancestors]
        return Model(nodes, self.name, [len(ancestors) - 1])

    def needed(self, layer: str | int) -> list[int]:
        """The nodes on which a layer's output depends, including the layer's own.

        Parameters
        ----------
        layer : str or int
            The layer's name, or its index in `layers`; negative from the last.

        Returns
        -------
        list of int
            Indices in `nodes`, in forward order.

        Raises
        ------
        InputError
            When there is no such layer.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((4, 3))), lrpfast.layers.Dense(np.ones((3, 2)))])
        >>> model.needed("dense")
        [0, 1]
        """
        ancestors = {self.index(layer)}
        for i in range(max(ancestors), -1, -1):
            if i in ancestors:
                ancestors.update(self.nodes[i].inputs)
        return sorted(ancestors)

    def without_output_activation(self, functions: Collection[str]) -> Model:
        """The model without its outputs' final activations, if these are among ``functions``.

        Parameters
        ----------
        functions : list of str
            Names of activation functions.

        Returns
        -------
        Model
            The same object if no output ends with one of them.

        Raises
        ------
        InputError
            When ``functions`` is not a list of names.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(1), activation="sigmoid")])
        >>> model.without_output_activation(["sigmoid"]).predict(np.array([[3.0]])).tolist()
        [[3.0]]
        """
        is_list = isinstance(functions, Collection) and not isinstance(functions, str)
        if not is_list or not all(isinstance(name, str) for name in functions):
            raise InputError(f"functions must be a list of names, as ['softmax'], not {functions!r:.80}")
        nodes = without_activations(self.nodes, self.consumers(), self.outputs, functions)
        return self if nodes is None else with_layers(self, nodes)

    def without_softmax(self) -> Model:
        """The same model without a final softmax or its logarithm, so that it predicts logits.

        Returns
        -------
        Model

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2), activation="softmax")])
        >>> model.without_softmax().predict(np.array([[3.0, 1.0]])).tolist()
        [[3.0, 1.0]]
        """
        return self.without_output_activation(SOFTMAXES)

    def randomized(self, seed: int = 0, *, from_layer: str | int | None = None) -> Model:
        """The same network with random weights, from a layer to the output.

        Each array of a layer with a kernel or an embedding is drawn from a normal distribution with that
        array's mean and standard deviation. Normalizations keep theirs.

        Parameters
        ----------
        seed : int
            The same seed draws the same weights for a layer, wherever the random layers begin.
        from_layer : str or int, optional
            The first random layer, by name or index; all of them when None.

        Returns
        -------
        Model

        Raises
        ------
        InputError
            When there is no such layer.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2))])
        >>> model.randomized(seed=1).digest() == model.digest()
        False
        """
        first = 0 if from_layer is None else self.index(from_layer)
        return with_layers(self, randomized(self.nodes, seed, first))

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
            Any real dtype; cast once to the precision. A list of arrays for several inputs.
        precision : {"float32", "float64", "tf32", "3xtf32", "bf16x2"}
        device : {"auto", "cpu", "gpu"} or "gpu:1", …
        threads : int, optional
            When None, the number from `lrpfast.set_num_threads` or LRPFAST_NUM_THREADS, else all cores of this process.

        Returns
        -------
        array, shape (samples, *output_shape)
            A list of arrays for several outputs.

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
        from ..engine.execute import predict  # the only import against the direction of the folders

        output: np.ndarray = predict(self, x, precision=precision, device=device, threads=threads)
        return output

    def summary(self) -> str:
        """A table of the layers: index, name, type, shape, parameters, activation, and inputs.

        Returns
        -------
        str
            Several lines, the last without a newline.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((4, 2)), activation="softmax")])
        >>> print(model.summary())
        model: (4,) -> (2,), 8 parameters
        #  layer  type   output  parameters
        0  input  Input  (4,)    0
        1  dense  Dense  (2,)    8           softmax
        """
        head, rows = summary_table(self.nodes, self.name, self.input_shape, self.output_shape)
        return "\n".join([head, *table.lines(rows)])

    def _repr_html_(self) -> str:
        head, rows = summary_table(self.nodes, self.name, self.input_shape, self.output_shape)
        return table.html(rows, head)

    def __repr__(self) -> str:
        layers = counted(len(self.layers), "layer")
        return f"<lrpfast.Model {self.name!r}: {self.input_shape} -> {self.output_shape}, {layers}>"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as lrpfast's own ``.npz``, which `lrpfast.load` reads.

        The file is written under a temporary name and renamed, so that an existing
        file stays intact if the disk is full or the process is interrupted.

        Parameters
        ----------
        path : str or path

        Raises
        ------
        InputError
            When ``path`` is not the name of an .npz file.
        OSError
            When the file cannot be written.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2))])
        >>> model.save("model.npz")
        >>> lrpfast.load("model.npz").digest() == model.digest()
        True
        """
        if not isinstance(path, (str, os.PathLike)):
            raise InputError(f"path must be a file's name, not {path!r:.80}")
        file = Path(os.fsdecode(path))
        if file.suffix.lower() != ".npz":
            raise InputError(f"{file}: a model is saved as .npz; the name must end so")
        write(file, self.nodes, self.name, self.outputs, self.sequential)

    def digest(self) -> str:
        """A fingerprint of the layers, their names, connections and weights.

        Files of relevances contain it, so that they identify their model.

        Returns
        -------
        str
            32 hexadecimal digits.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2))])
        >>> len(model.digest())
        32
        """
        return digest(self.nodes, self.name, self.outputs)


def with_layers(model: Model, nodes: Sequence[tuple[Layer, tuple[int, ...]]]) -> Model:
    """The model with other layers at its nodes, which keep their names."""
    return Model(own_layers(model.nodes, nodes), model.name, model.outputs)
