"""Builds models in Python: from a chain of layers, or as a graph, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..errors import InputError, ShapeError
from ..table import counted
from .graph import Model
from .layers import Block, Dense, Input, Layer
from .layers.base import as_shape
from .node import indices, snake


class Graph:
    """Builds a model with branches, several inputs or several outputs, layer by layer.

    Examples
    --------
    >>> graph = lrpfast.Graph()
    >>> x = graph.input((4,))
    >>> y = graph.add(lrpfast.layers.Dense(np.eye(4), activation="relu"), x)
    >>> graph
    <lrpfast.Graph: 2 layers, inputs (4,)>
    >>> model = graph.model(graph.add(lrpfast.layers.Add(), x, y))
    >>> model.output_shape
    (4,)
    """

    def __init__(self) -> None:
        self._nodes: list[tuple[Layer, tuple[int, ...]]] = []
        # a block's parts, for its next use; the block itself is kept so that no other object gets its id
        self._parts: dict[int, tuple[Block, list[Layer]]] = {}
        self._reused: list[Layer] | None = None

    def __repr__(self) -> str:
        entries = [layer for layer, _ in self._nodes if isinstance(layer, Input)]
        inputs = ", ".join(f"{layer.name!r} {layer.shape}" if layer.name else f"{layer.shape}" for layer in entries)
        return f"<lrpfast.Graph: {counted(len(self._nodes), 'layer')}, inputs {inputs or 'none'}>"

    def input(self, shape: Sequence[int | None] | int, name: str | None = None, kind: str = "number") -> int:
        """Add an input.

        Parameters
        ----------
        shape : int or tuple of int or None
            Per sample; an int is one axis, None an open size.
        name : str, optional
        kind : {"number", "truth"}
            As of `layers.Input`: "truth" is a mask, which gets no relevance.

        Returns
        -------
        int
            The input's number, for `add` and `model`.

        Raises
        ------
        ShapeError

        Examples
        --------
        >>> graph = lrpfast.Graph()
        >>> graph.input((28, 28, 1), name="image"), graph.input(3)
        (0, 1)
        """
        return self._append(Input(as_shape(shape, "input"), kind, name=name), ())

    def add(self, layer: Layer, *inputs: int) -> int:
        """Add a layer that takes earlier results. A layer may be added more than once.

        Parameters
        ----------
        layer : Layer
        *inputs : int
            Numbers that `input` and `add` returned.

        Returns
        -------
        int
            The number of the layer's result.

        Raises
        ------
        InputError
            For anything but a layer and results of this graph.

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
        sources = indices(inputs, len(self._nodes))
        if not sources:
            raise InputError(f"{layer}: inputs must be what input() and add() of this graph returned, not {inputs!r}")
        if isinstance(layer, Block):
            return self._build(layer, sources)
        if self._reused is not None:
            layer = self._reused.pop(0)
        return self._append(layer, sources)

    def _build(self, block: Block, inputs: tuple[int, ...]) -> int:
        """Add a block's parts; a block that was added before has the same parts."""
        first = len(self._nodes)
        if self._reused is None and id(block) in self._parts:
            self._reused = list(self._parts[id(block)][1])
            try:
                return block.build(self, *inputs)
            finally:
                self._reused = None
        block_with_name = block if block.name else replace(block, name=self._free_name(snake(type(block))))
        out = block_with_name.build(self, *inputs)
        self._parts[id(block)] = (block, [layer for layer, _ in self._nodes[first:]])
        return out

    def _free_name(self, stem: str) -> str:
        names = {layer.name for layer, _ in self._nodes}
        return next(name for name in (stem, *(f"{stem}_{i}" for i in range(1, len(names) + 2))) if name not in names)

    def _append(self, layer: Layer, inputs: tuple[int, ...]) -> int:
        self._nodes.append((layer, inputs))
        return len(self._nodes) - 1

    def model(self, *outputs: int, name: str = "model") -> Model:
        """The model that returns the given results; by default the last one.

        Parameters
        ----------
        *outputs : int
            Numbers that `input` and `add` returned.
        name : str

        Returns
        -------
        Model

        Raises
        ------
        InputError, ShapeError
            When shapes or names do not fit, or nothing uses a result.

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
        In forward order; a first Input layer is optional.
    input_shape : tuple of int, optional
        Per sample. Required unless the first layer determines it (an Input or a Dense).
    name : str

    Raises
    ------
    ShapeError
        When the shapes do not fit, or ``input_shape`` is missing.

    Examples
    --------
    >>> layers = [lrpfast.layers.Conv(np.ones((3, 3, 1, 4)), activation="relu"), lrpfast.layers.GlobalAveragePool()]
    >>> lrpfast.from_layers(layers, input_shape=(8, 8, 1)).output_shape
    (4,)
    """
    if isinstance(layers, Layer) or not isinstance(layers, Iterable):
        raise InputError(f"layers must be a list of layers from lrpfast.layers, not {type(layers).__name__}")
    layers = list(layers)
    for layer in layers:
        if not isinstance(layer, Layer):
            raise InputError(f"from_layers takes layers from lrpfast.layers, not {type(layer).__name__}")
    if not layers:
        raise ShapeError("from_layers needs at least one layer")
    first = Input(() if input_shape is None else as_shape(input_shape, "input_shape"))
    if isinstance(layers[0], Input):
        if input_shape is not None and layers[0].shape != first.shape:
            raise ShapeError(f"input_shape is {input_shape}, but the Input layer says {layers[0].shape}")
        first = layers.pop(0)  # type: ignore[assignment]
    elif input_shape is None:
        if not isinstance(layers[0], Dense):
            raise ShapeError("from_layers needs input_shape=(…): the first layer does not say what it takes")
        first = Input((layers[0].kernel.shape[0],))
    graph = Graph()
    index = graph.input(first.shape, first.name)
    for layer in layers:
        index = graph.add(layer, index)
    return graph.model(index, name=name)
