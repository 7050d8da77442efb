"""Layers of one time step, made layers of all time steps: what Keras's TimeDistributed does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import UnsupportedLayerError
from ...model import layers as L
from ...model.layers import Layer, Shape
from ...model.layers.window import extent

#: Classes that hold one layer.
WRAPPERS = ("TimeDistributed", "SpectralNormalization")
#: Layers that work on the last axes, whatever comes before them.
_ANY_RANK = (L.Dense, L.Identity, L.BatchNorm, L.LayerNorm, L.RMSNorm, L.Embedding)
#: Layers of several inputs that work value by value.
_ELEMENTWISE = (L.Add, L.Subtract, L.Average, L.Multiply, L.Maximum, L.Minimum, L.Where)
#: The most spatial axes that lrpfast's layers have.
_MOST_SPATIAL = 3


def _first(value: Any, one: Any) -> Any:
    """A setting of each spatial axis, with one more axis before them."""
    return value if isinstance(value, str) or value is None else (one, *value)


def _conv(layer: Any) -> Layer:
    padding = layer.padding
    if padding == "causal":
        padding = tuple((extent(k, d) - 1, 0) for k, d in zip(layer.size, layer.dilation, strict=True))
    settings = {"strides": _first(layer.strides, 1), "dilation": _first(layer.dilation, 1)}
    if isinstance(layer, L.ConvTranspose):
        settings["output_padding"] = _first(layer.output_padding, 0)
    result: Layer = replace(layer, kernel=layer.kernel[None], padding=_first(padding, (0, 0)), **settings)
    return result


def _pool(layer: Any) -> Layer:
    settings = {"size": (1, *layer.size), "strides": _first(layer.strides, 1), "dilation": _first(layer.dilation, 1)}
    result: Layer = replace(layer, padding=_first(layer.padding, (0, 0)), **settings)
    return result


def _resize(key: str, one: Any) -> Callable[[Any], Layer]:
    return lambda layer: replace(layer, **{key: (one, *getattr(layer, key))})


#: Layers with spatial axes, and how they get one more.
_SPATIAL: dict[type[Layer], Callable[[Any], Layer]] = {
    **dict.fromkeys((L.Conv, L.ConvTranspose, L.DepthwiseConv), _conv),
    **dict.fromkeys((L.MaxPool, L.AveragePool), _pool),
    **dict.fromkeys((L.ZeroPad, L.Crop, L.ReflectPad), _resize("pairs", (0, 0))),
    L.UpSample: _resize("size", 1),
    L.Take: _resize("places", None),
    L.Interpolate: _resize("matrices", None),
}


class OverTime:
    """Adds layers that do to each time step, on the first axis, what layers do to one step.

    Parameters
    ----------
    add : callable
        Adds a layer to nodes; returns the node.
    steps : int or None
        None where the file leaves their number open.
    shapes : list of tuple
        Of one step, at each node of the step's layers.
    source : int
        The node with all steps, which is what node 0 of a step is a part of.
    """

    def __init__(
        self, add: Callable[[Layer, tuple[int, ...]], int], steps: int | None, shapes: list[Shape], source: int
    ) -> None:
        self._add, self._steps, self._shapes, self._source = add, steps, shapes, source
        self._cut: dict[int, list[int]] = {}  # each step's part of a node

    def all_of(self, nodes: Sequence[tuple[Layer, tuple[int, ...]]]) -> dict[int, int]:
        """The node with all steps, for each node of one step."""
        numbers = {0: self._source}
        for i, (layer, sources) in enumerate(nodes[1:], 1):
            inputs = tuple(numbers[j] for j in sources)
            shapes = [self._shapes[j] for j in sources]
            chain = lifted(layer, self._steps, *shapes)
            if chain is None:
                numbers[i] = self._one_by_one(layer, inputs, shapes, self._shapes[i])
                continue
            for part in chain:
                inputs = (self._add(part, inputs),)
            (numbers[i],) = inputs
        return numbers

    def _one_by_one(self, layer: Layer, inputs: tuple[int, ...], shapes: list[Shape], result: Shape) -> int:
        """The layer on each step by itself, with the same weights."""
        if self._steps is None or any(None in shape for shape in (*shapes, result)):
            raise UnsupportedLayerError(
                f"applies {type(layer).__name__} to each time step, for which lrpfast needs the number of steps and "
                "every other size. Fix the sizes: lrpfast.load(path, input_shape=…), or --input-shape"
            )
        for at, shape in zip(inputs, shapes, strict=True):
            if at not in self._cut:
                self._cut[at] = self._steps_of(at, shape)
        size, ends = math.prod(result), []  # type: ignore[arg-type]
        for t in range(self._steps):
            own = replace(layer, name=f"{layer.name}/step_{t}")
            at = self._add(own, tuple(self._cut[i][t] for i in inputs))
            ends.append(self._add(L.Reshape((1, size), name=f"{layer.name}/row_{t}"), (at,)))
        at = ends[0] if len(ends) == 1 else self._add(L.Concat(0, name=f"{layer.name}/rows"), tuple(ends))
        return self._add(L.Reshape((self._steps, *result), name=layer.name), (at,))  # type: ignore[arg-type]

    def _steps_of(self, at: int, shape: Shape) -> list[int]:
        """Each step of a node."""
        steps: int = self._steps or 0
        rows = self._add(L.Reshape((steps, math.prod(shape))), (at,))  # type: ignore[arg-type]
        result = []
        for t in range(steps):
            row = self._add(L.Crop(((t, steps - 1 - t),)), (rows,)) if steps > 1 else rows
            result.append(self._add(L.Reshape(shape), (row,)))  # type: ignore[arg-type]
        return result


def lifted(layer: Layer, steps: int | None, *shapes: Shape) -> list[Layer] | None:
    """The layers that do to all steps, on the first axis, what the layer does to one of ``shapes``; None if none do."""
    first = -1 if steps is None else steps
    (shape, *others) = shapes
    if isinstance(layer, L.Concat):
        return [replace(layer, axis=layer.axis % len(shape) + 1)]
    if isinstance(layer, L.Activation) and layer.function == "prelu":
        slopes = np.broadcast_to(layer.parameters["negative_slope"], shape)[None]  # type: ignore[arg-type]
        return [replace(layer, parameters={"negative_slope": slopes})]
    same_rank = all(len(other) == len(shape) for other in others)
    if isinstance(layer, (*_ANY_RANK, L.Activation)) or (isinstance(layer, _ELEMENTWISE) and same_rank):
        return [layer]
    if isinstance(layer, L.Permute):
        return [replace(layer, axes=(0, *(axis + 1 for axis in layer.axes)))]
    if isinstance(layer, (L.Flatten, L.Reshape)):
        return [L.Reshape((first, *layer.output_shape(shape)), name=layer.name)]  # type: ignore[arg-type]
    if isinstance(layer, L.RepeatVector):
        one = L.Reshape((first, 1, *shape), name=f"{layer.name}/reshape")  # type: ignore[arg-type]
        return [one, L.UpSample((1, layer.count), name=layer.name)]
    if isinstance(layer, (L.GlobalAveragePool, L.GlobalMaxPool)) and len(shape) <= _MOST_SPATIAL and None not in shape:
        kind = L.AveragePool if isinstance(layer, L.GlobalAveragePool) else L.MaxPool
        pool = kind((1, *shape[:-1]), name=f"{layer.name}/pool")
        return [pool, L.Reshape((first, *layer.output_shape(shape)), name=layer.name)]  # type: ignore[arg-type]
    if type(layer) in _SPATIAL and len(shape) <= _MOST_SPATIAL:
        return [_SPATIAL[type(layer)](layer)]
    return None
