"""Layers of one time step, made layers of all time steps: what Keras's TimeDistributed does."""

from __future__ import annotations

from collections.abc import Callable
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


def over_time(layer: Layer, steps: int | None, *shapes: Shape) -> list[Layer]:
    """The layers that do to each of ``steps`` time steps, on the first axis, what the layer does to one of ``shapes``.

    Raises
    ------
    UnsupportedLayerError
        When lrpfast has no such layer.
    """
    first = -1 if steps is None else steps
    (shape, *others) = shapes
    if isinstance(layer, L.Concat):
        return [replace(layer, axis=layer.axis % len(shape) + 1)]
    if isinstance(layer, L.Activation) and layer.function == "prelu":
        slopes = np.broadcast_to(layer.parameters["negative_slope"], shape)[None]  # type: ignore[arg-type]
        return [replace(layer, parameters={"negative_slope": slopes})]
    same_rank = all(len(other) == len(shape) for other in others)
    if isinstance(layer, (*_ANY_RANK, L.Activation)) or (isinstance(layer, L.Merge) and same_rank and _is_plain(layer)):
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
    raise UnsupportedLayerError(
        f"applies {type(layer).__name__} to each time step of shape {shape}, which lrpfast has no layer for. "
        "Layers of one and two spatial axes work"
    )


def _is_plain(layer: Layer) -> bool:
    return not isinstance(layer, (L.Dot, L.RNN))
