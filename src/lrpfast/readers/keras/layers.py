"""Keras layers in lrpfast's terms: one function for each family of classes, and the table of them.

A converter takes what the file says of a layer and the per-sample shapes that
reach it. To read another class, write its function and enter it in `CONVERTERS`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import InputError, ModelFormatError, ShapeError, UnsupportedLayerError
from ...model import layers as L
from ...model.layers import Layer, Shape
from ...model.layers.window import as_pairs, per_axis
from ..obstacles import ObstacleError
from .activations import ACTIVATIONS, activation, activation_layer, prelu
from .config import RANDOM
from .custom import suggestion
from .local import locally_connected
from .record import KerasLayer

Converter = Callable[..., Layer]

#: What helps with any class that is not read.
OWN_CLASSES = (
    "lrpfast.load(path, custom_objects={class: f}) reads classes of your own, where f(config, weights) returns a "
    "layer. docs/layers.md lists what works"
)

# -- layers with weights ------------------------------------------------------


def _features(layer: KerasLayer, shape: Shape) -> int:
    """The size of the last axis, which must be fixed."""
    if not shape or shape[-1] is None:
        raise ShapeError(f"{layer}: it needs an input with a last axis of fixed size, not {shape}")
    return shape[-1]


def _dense(layer: KerasLayer, shape: Shape) -> L.Dense:
    units = layer.need("units", "output_dim")  # Keras 2 and 3, Keras 1
    if not shape:
        raise ShapeError(f"{layer}: a dense layer needs a feature axis, its input has none")
    kernel, bias = layer.kernel_and_bias(units, kernel=(shape[-1], units))
    return L.Dense(kernel, bias, activation(layer, (*shape[:-1], units)), name=layer.name)


def _window(layer: KerasLayer) -> dict[str, Any]:
    """What all convolutions have."""
    return {
        "strides": layer.sizes("strides", 1),
        "padding": layer.get("padding", "valid"),
        "dilation": layer.sizes("dilation_rate", 1),
        "activation": activation(layer, (None,) * (layer.rank + 1)),
        "name": layer.name,
    }


def _conv(layer: KerasLayer, shape: Shape) -> L.Conv:
    filters, (groups,) = layer.need("filters"), per_axis(layer.get("groups", 1), 1, "groups", str(layer))
    kernel = (*layer.sizes("kernel_size"), _features(layer, shape) // groups, filters)
    weights, bias = layer.kernel_and_bias(filters, kernel=kernel)
    return L.Conv(weights, bias, groups=groups, **_window(layer))


def _conv_transpose(layer: KerasLayer, shape: Shape) -> L.ConvTranspose:
    filters = layer.need("filters")
    kernel, bias = layer.kernel_and_bias(
        filters, kernel=(*layer.sizes("kernel_size"), filters, _features(layer, shape))
    )
    return L.ConvTranspose(kernel, bias, output_padding=layer.get("output_padding", None), **_window(layer))


def _depthwise_conv(layer: KerasLayer, shape: Shape) -> L.DepthwiseConv:
    channels, multiplier = _features(layer, shape), layer.get("depth_multiplier", 1)
    kernel = (*layer.sizes("kernel_size"), channels, multiplier)
    return L.DepthwiseConv(*layer.kernel_and_bias(channels * multiplier, kernel=kernel), **_window(layer))


def _separable_conv(layer: KerasLayer, shape: Shape) -> L.SeparableConv:
    channels, multiplier, filters = _features(layer, shape), layer.get("depth_multiplier", 1), layer.need("filters")
    kernels = {
        "depthwise_kernel": (*layer.sizes("kernel_size"), channels, multiplier),
        "pointwise_kernel": (*(1,) * layer.rank, channels * multiplier, filters),
    }
    return L.SeparableConv(*layer.kernel_and_bias(filters, **kernels), **_window(layer))


def _batch_norm(layer: KerasLayer, shape: Shape) -> L.BatchNorm:
    if layer.get("renorm", False):
        raise layer.unsupported("is a batch renormalization", "Train it with renorm=False")
    channels = (_features(layer, shape),)
    arrays = {"gamma": None, "beta": None} | _arrays_of(layer, shape, -1, mean=channels, variance=channels)
    return L.BatchNorm(epsilon=layer.get("epsilon", 1e-3), name=layer.name, **arrays)


def _arrays_of(layer: KerasLayer, shape: Shape, begin: int, **more: tuple[int, ...]) -> dict[str, Any]:
    """gamma and beta where the layer has them, of the shape of the last axes, and the arrays that follow."""
    flags = {"gamma": "scale", "beta": "center"}
    expected = {key: shape[begin:] for key, flag in flags.items() if layer.get(flag, True)} | more
    return dict(zip(expected, layer.arrays(**expected), strict=True))


def _last_axes(layer: KerasLayer, shape: Shape) -> int:
    """How many axes are normalized; they must be the last ones, in order."""
    axes = layer.axes("axis", shape)
    if not axes or axes != list(range(len(shape) - len(axes), len(shape))):
        raise layer.unsupported(
            f"normalizes axis {layer.config.get('axis')}, lrpfast the last axes of {shape}", "Permute its input"
        )
    return len(axes)


def _layer_norm(layer: KerasLayer, shape: Shape) -> L.LayerNorm:
    if layer.get("rms_scaling", False):
        raise layer.unsupported(
            "has rms_scaling, which divides by the variance around a mean that it does not subtract",
            "Use keras.layers.RMSNormalization",
        )
    count = _last_axes(layer, shape)
    epsilon = layer.get("epsilon", 1e-3)
    return L.LayerNorm(epsilon=epsilon, axes=count, name=layer.name, **_arrays_of(layer, shape, -count))


def _rms_norm(layer: KerasLayer, shape: Shape) -> L.RMSNorm:
    count = _last_axes(layer, shape)
    (scale,) = layer.arrays(scale=shape[-count:])
    return L.RMSNorm(scale, epsilon=layer.get("epsilon", 1e-6), axes=count, name=layer.name)


def _embedding(layer: KerasLayer, shape: Shape) -> L.Embedding:
    (table,) = layer.arrays(embeddings=(layer.need("input_dim"), layer.need("output_dim")))
    return L.Embedding(table, name=layer.name)


# -- layers without weights ---------------------------------------------------


def _pool(layer: KerasLayer, shape: Shape) -> Layer:
    kind = L.MaxPool if layer.class_name.startswith("Max") else L.AveragePool
    strides = layer.sizes("strides", layer.need("pool_size"))
    return kind(layer.sizes("pool_size"), strides, layer.get("padding", "valid"), name=layer.name)


def _global_pool(layer: KerasLayer, shape: Shape) -> Layer:
    kind = L.GlobalMaxPool if layer.class_name.startswith("GlobalMax") else L.GlobalAveragePool
    if len(shape) != layer.rank + 1:
        raise ShapeError(f"{layer}: it takes {layer.rank} spatial axis or axes and channels, its input has {shape}")
    return kind(keepdims=bool(layer.get("keepdims", False)), name=layer.name)


def _adaptive_pool(layer: KerasLayer, shape: Shape) -> Layer:
    return L.AdaptiveAveragePool(layer.sizes("output_size"), name=layer.name)


def _edges(kind: Callable[..., Layer], key: str) -> Converter:
    def converter(layer: KerasLayer, shape: Shape) -> Layer:
        return kind(as_pairs(layer.get(key, 1), layer.rank, key, str(layer)), name=layer.name)

    return converter


def _up_sample(layer: KerasLayer, shape: Shape) -> L.UpSample:
    interpolation = layer.get("interpolation", "nearest")
    if interpolation not in ("nearest", "bilinear"):
        raise layer.unsupported(f"has the interpolation {interpolation!r}", "These work: nearest, bilinear")
    return L.UpSample(layer.sizes("size", 2), interpolation, name=layer.name)


def _flatten(layer: KerasLayer, shape: Shape) -> L.Flatten:
    return L.Flatten(name=layer.name)


def _reshape(layer: KerasLayer, shape: Shape) -> L.Reshape:
    return L.Reshape(tuple(layer.need("target_shape")), name=layer.name)


def _permute(layer: KerasLayer, shape: Shape) -> L.Permute:
    return L.Permute(tuple(axis - 1 for axis in layer.need("dims")), name=layer.name)


def _repeat_vector(layer: KerasLayer, shape: Shape) -> L.RepeatVector:
    return L.RepeatVector(layer.need("n"), name=layer.name)


def _identity(layer: KerasLayer, shape: Shape) -> L.Identity:
    return L.Identity(layer.class_name, name=layer.name)


# -- layers with several inputs -----------------------------------------------


def _merge(kind: type[Layer]) -> Converter:
    return lambda layer, *shapes: kind(name=layer.name)


def _concatenate(layer: KerasLayer, *shapes: Shape) -> L.Concat:
    (axis,) = layer.axes("axis", shapes[0])
    return L.Concat(axis, name=layer.name)


def _dot(layer: KerasLayer, *shapes: Shape) -> L.Dot:
    value = layer.need("axes")
    pair = value if isinstance(value, (list, tuple)) else (value, value)
    if len(shapes) != 2 or len(pair) != 2:
        raise ShapeError(f"{layer}: it sums over axes {value} of {len(shapes)} inputs; lrpfast needs two of both")
    each = [replace(layer, config={"axes": axis}).axes("axes", shape) for axis, shape in zip(pair, shapes, strict=True)]
    return L.Dot((each[0][0], each[1][0]), bool(layer.get("normalize", False)), name=layer.name)


_MERGES: dict[str, Converter] = {
    **{kind.__name__: _merge(kind) for kind in (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)},
    "Concatenate": _concatenate,
    "Dot": _dot,
}


def _ranks(pattern: str, converter: Converter, last: int = 3) -> dict[str, Converter]:
    return {pattern.format(rank): converter for rank in range(1, last + 1)}


#: Every class that is read, and how.
CONVERTERS: dict[str, Converter] = {
    "Dense": _dense,
    **_ranks("Conv{}D", _conv),
    **_ranks("Conv{}DTranspose", _conv_transpose),
    **_ranks("DepthwiseConv{}D", _depthwise_conv, 2),
    **_ranks("SeparableConv{}D", _separable_conv, 2),
    **_ranks("LocallyConnected{}D", locally_connected, 2),
    **_ranks("MaxPooling{}D", _pool),
    **_ranks("AveragePooling{}D", _pool),
    **_ranks("GlobalMaxPooling{}D", _global_pool),
    **_ranks("GlobalAveragePooling{}D", _global_pool),
    **_ranks("AdaptiveAveragePooling{}D", _adaptive_pool),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "Embedding": _embedding,
    **_MERGES,
    "Activation": activation_layer,
    **ACTIVATIONS,
    "PReLU": prelu,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "RepeatVector": _repeat_vector,
    **_ranks("ZeroPadding{}D", _edges(L.ZeroPad, "padding")),
    **_ranks("Cropping{}D", _edges(L.Crop, "cropping")),
    **_ranks("UpSampling{}D", _up_sample),
    **dict.fromkeys(("Dropout", "StochasticDepth", *RANDOM), _identity),
    **_ranks("SpatialDropout{}D", _identity),
    "AlphaDropout": _identity,
    "GaussianDropout": _identity,
    "GaussianNoise": _identity,
    "ActivityRegularization": _identity,
    "Identity": _identity,
}

# -- what is around a layer ---------------------------------------------------

#: Names of the layers that are put before and after one that does not work on the last axis.
LAST, BACK = "channels_last", "channels_first"


def _order(layer: KerasLayer, shape: Shape) -> list[int] | None:
    """The sample's axes with the one that the layer works on last; None when it is last already."""
    axes = list(range(len(shape)))
    if layer.class_name in ("BatchNormalization", "Softmax"):
        normalized = layer.axes("axis", shape)
        moved = normalized[0] if len(normalized) == 1 else axes[-1]
        if layer.class_name == "BatchNormalization" and len(normalized) != 1:
            raise layer.unsupported(f"normalizes the axes {layer.config.get('axis')} together", "Give it one axis")
    elif layer.get("data_format", LAST) == BACK and CONVERTERS[layer.class_name] is not _identity:
        moved = 0
    else:
        return None
    return None if moved == axes[-1] or len(axes) < 2 else [a for a in axes if a != moved] + [moved]


def _around(layer: KerasLayer, shape: Shape, order: list[int]) -> tuple[Layer, ...]:
    """The layer on data whose axes are in that order, between two that reorder them."""
    before = L.Permute(tuple(order), name=f"{layer.name}/{LAST}")
    moved = before.output_shape(shape)
    whole = replace(layer, config={**layer.config, "axis": -1}) if "axis" in layer.config else layer
    parts = _parts(CONVERTERS[layer.class_name](whole, moved))
    for part in parts:
        moved = part.output_shape(moved)
    after: list[Layer] = []
    if len(moved) == len(shape):
        after.append(L.Permute(tuple(int(a) for a in np.argsort(order)), name=f"{layer.name}/{BACK}"))
    function = getattr(parts[-1], "activation", None)
    if function is not None and function.function in L.SOFTMAXES:  # over the last axis, wherever channels are
        parts[-1] = replace(parts[-1], activation=None)  # type: ignore[call-arg]
        after.append(replace(function, name=f"{layer.name}/{function.function}"))
    return (before, *parts, *after)


def _parts(layer: Layer) -> list[Layer]:
    return list(layer.factors()) if isinstance(layer, L.SeparableConv) else [layer]


@contextlib.contextmanager
def naming(layer: KerasLayer) -> Iterator[None]:
    """Name the layer in errors about its contents."""
    try:
        yield
    except (InputError, ShapeError) as error:
        message = str(error)
        raise ModelFormatError(message if message.startswith(str(layer)) else f"{layer}: {message}") from error
    except UnsupportedLayerError as error:
        message = str(error)
        if message.startswith("layer "):
            raise
        raise ObstacleError(f"{layer} {message}", message) from error


def unread_class(layer: KerasLayer) -> ObstacleError:
    """That a layer's class is not read, with what helps."""
    remedy = (
        f"What comes before it can be explained once saved alone: keras.Model(model.inputs, "
        f"model.get_layer({layer.name!r}).input).save('part.keras'). "
        "docs/layers.md lists the layers that lrpfast reads"
    )
    if layer.class_name == "Lambda":
        offer = "Use a layer in its place, or give lrpfast.load a function that returns one: "
        offer += f"custom_objects={{{layer.name!r}: f}}, called as f(config, weights)"
        return layer.unsupported("holds Python code, which lrpfast never runs", f"{offer}. {remedy}", offer)
    short, built_in = layer.class_name.rpartition(">")[2], suggestion(layer)
    offer = f"lrpfast.load(path, custom_objects={{{short!r}: f}}) reads it, where f(config, weights) returns a layer"
    if built_in:
        offer = f"Its configuration and weights fit a {built_in}: lrpfast.load(path, "
        offer += f"custom_objects={{{short!r}: {built_in!r}}}) reads it as one"
    general = f"{short}: {offer[0].lower()}{offer[1:]}" if built_in else OWN_CLASSES
    return layer.unsupported("is of a class that lrpfast does not read", f"{offer}. {remedy}", general)


def convert(layer: KerasLayer, shapes: Sequence[Shape]) -> tuple[Layer, ...]:
    """The layer in lrpfast's terms: one, or several that are one after the other.

    Parameters
    ----------
    layer : KerasLayer
    shapes : sequence of tuple
        The per-sample shapes that reach it.

    Raises
    ------
    UnsupportedLayerError
        When it is of a class that is not in `CONVERTERS`, or set in a way lrpfast cannot follow.
    ModelFormatError
        When its weights are missing or do not fit.
    """
    if layer.class_name not in CONVERTERS:
        raise unread_class(layer)
    with naming(layer):
        if layer.class_name in _MERGES:
            return (CONVERTERS[layer.class_name](layer, *shapes),)
        if len(shapes) != 1:
            raise ShapeError(f"{layer}: it takes one input, the model gives it {len(shapes)}")
        order = _order(layer, shapes[0])
        if order is not None:
            return _around(layer, shapes[0], order)
        return tuple(_parts(CONVERTERS[layer.class_name](layer, shapes[0])))
