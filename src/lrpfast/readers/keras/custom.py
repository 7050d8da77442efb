"""Classes of one's own: the mapping that ``load(path, custom_objects=…)`` takes, and what errors suggest of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

from ...errors import InputError, ModelFormatError
from ...model import layers as L
from ...model.layers import Layer
from .record import KerasLayer, Weight, plain

#: lrpfast's classes and the Keras classes that become them; {} is the number of spatial axes.
_KERAS_CLASSES: dict[type[Layer], str] = {
    L.Dense: "Dense",
    L.Conv: "Conv{}D",
    L.ConvTranspose: "Conv{}DTranspose",
    L.DepthwiseConv: "DepthwiseConv{}D",
    L.SeparableConv: "SeparableConv{}D",
    L.BatchNorm: "BatchNormalization",
    L.LayerNorm: "LayerNormalization",
    L.RMSNorm: "RMSNormalization",
    L.Embedding: "Embedding",
    **{kind: kind.__name__ for kind in (L.LSTM, L.GRU, L.SimpleRNN)},
    L.Activation: "Activation",
    L.Identity: "Identity",
    L.Flatten: "Flatten",
    L.Reshape: "Reshape",
    L.Permute: "Permute",
    **{kind: kind.__name__ for kind in (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)},
    L.Concat: "Concatenate",
}


def check_custom_objects(custom_objects: Any) -> dict[str, Any]:
    """The mapping, after a check of what it holds; InputError where a value is of no use."""
    if custom_objects is None:
        return {}
    if not isinstance(custom_objects, Mapping):
        raise InputError(f"custom_objects must be a mapping from names of classes, not {type(custom_objects).__name__}")
    for name, value in custom_objects.items():
        usable = callable(value) if not isinstance(value, type) else value in _KERAS_CLASSES
        if not isinstance(name, str) or not (usable or isinstance(value, str)):
            raise InputError(
                f"custom_objects[{name!r}] must be a function (config, weights) -> Layer, a Keras class's name, or "
                f"a class of lrpfast.layers ({', '.join(kind.__name__ for kind in _KERAS_CLASSES)}), not {value!r:.60}"
            )
    return dict(custom_objects)


def custom_object(layer: KerasLayer, custom_objects: Mapping[str, Any]) -> Any:
    """What the mapping says of a layer: by its class, with or without its package; of a Lambda, by its name too."""
    short = layer.class_name.rpartition(">")[2]
    names = [layer.class_name, *([] if layer.class_name.startswith("ops>") else [short])]
    if layer.class_name == "Lambda":
        function = plain(layer.config.get("function"))
        function = function.get("config") if isinstance(function, Mapping) else function
        names = [layer.name, layer.name.rpartition("/")[2], *([function] if isinstance(function, str) else []), *names]
    return next((custom_objects[name] for name in names if name in custom_objects), None)


def as_built_in(layer: KerasLayer, value: Any) -> KerasLayer:
    """The layer as one of the Keras class that its own class derives from, a name or a class of lrpfast."""
    name = value if isinstance(value, str) else _KERAS_CLASSES[value]
    if "{}" in name:
        rank = next((len(weight.shape) - 2 for weight in layer.stored() if len(weight.shape) > 2), 0)
        if not 1 <= rank <= 3:
            raise ModelFormatError(f"{layer}: custom_objects says {value.__name__}; its weights have no spatial axes")
        name = name.format(rank)
    return replace(layer, class_name=name)


def call_custom(layer: KerasLayer, function: Any) -> tuple[Layer, ...]:
    """The layers that a function of the user's makes of a layer's configuration and weights."""
    config = {key: plain(value) for key, value in layer.config.items()}
    weights = [] if layer.class_name == "Lambda" else [weight.read() for weight in layer.stored()]
    result = function(config, weights)
    chain = tuple(result) if isinstance(result, (list, tuple)) else (result,)
    if not chain or not all(isinstance(part, Layer) and not isinstance(part, L.Input) for part in chain):
        raise InputError(f"{layer}: its function in custom_objects returned {result!r:.60}, not a layer")
    parts = [part for each in chain for part in (each.factors() if isinstance(each, L.SeparableConv) else (each,))]
    last = len(parts) - 1
    return tuple(_named(part, layer.name if i == last else f"{layer.name}/{i}") for i, part in enumerate(parts))


def _named(part: Layer, name: str) -> Layer:
    """The layer under another name; a `Block` of the user's may have a constructor of its own."""
    if not isinstance(part, L.Block):
        return replace(part, name=name)
    result = copy(part)
    object.__setattr__(result, "name", name)
    return result


def suggestion(layer: KerasLayer) -> str | None:
    """The Keras class whose configuration and weights the layer's fit, if any: Dense or a convolution."""
    try:
        stored: Sequence[Weight] = layer.stored()
    except ModelFormatError:
        return None
    kernel = stored[0].shape if 1 <= len(stored) <= 2 else ()
    units = layer.config.get("units" if len(kernel) == 2 else "filters")
    biased = len(stored) == 1 or stored[1].shape == (units,) if stored else False
    if len(kernel) < 2 or kernel[-1] != units or not biased or len(stored) != 1 + bool(layer.get("use_bias", True)):
        return None
    if len(kernel) == 2:
        return "Dense"
    size = layer.get("kernel_size", None)
    fits = len(kernel) <= 5 and tuple(size if isinstance(size, (list, tuple)) else [size]) == kernel[:-2]
    return f"Conv{len(kernel) - 2}D" if fits else None
