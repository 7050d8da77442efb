"""Keras's activation functions, as layers and as attributes of layers, in lrpfast's terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ...errors import InputError, ModelFormatError
from ...model.layers import FUNCTIONS, Activation, Identity, Layer, Shape
from ..input_shape import FIX_SIZE
from .record import KerasLayer, plain


def _relu(layer: KerasLayer, shape: Shape) -> Activation:
    ceiling = plain(layer.config.get("max_value"))
    slope, threshold = layer.get("negative_slope", 0.0), layer.get("threshold", 0.0)
    for key, value in (("max_value", ceiling), ("negative_slope", slope), ("threshold", threshold)):
        if isinstance(value, (int, float)) and value < 0:  # in Keras's formula, other functions than a ReLU
            raise ModelFormatError(f"{layer}: its {key} is {value}; Keras allows none below 0")
    return Activation("relu", {"max_value": ceiling, "negative_slope": slope, "threshold": threshold}, name=layer.name)


def _leaky_relu(layer: KerasLayer, shape: Shape) -> Activation:
    slope = layer.get("negative_slope", layer.get("alpha", 0.3))  # Keras 3, Keras 2
    return Activation("leaky_relu", {"negative_slope": slope}, name=layer.name)


def _elu(layer: KerasLayer, shape: Shape) -> Activation:
    return Activation("elu", {"alpha": layer.get("alpha", 1.0)}, name=layer.name)


def _thresholded_relu(layer: KerasLayer, shape: Shape) -> Activation:
    return Activation("relu", {"threshold": layer.get("theta", 1.0)}, name=layer.name)


def _softmax(layer: KerasLayer, shape: Shape) -> Activation:
    axes = layer.axes("axis", shape)
    if axes != [len(shape) - 1]:
        raise layer.unsupported(
            f"takes its softmax over axis {layer.config.get('axis')}, lrpfast over one axis of {shape} at a time",
            "Flatten these axes before it",
        )
    return Activation("softmax", name=layer.name)


#: Activation layers without weights; Dense(activation=LeakyReLU()) has one inside.
ACTIVATIONS: dict[str, Callable[[KerasLayer, Shape], Activation]] = {
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "ELU": _elu,
    "ThresholdedReLU": _thresholded_relu,
    "Softmax": _softmax,
}

#: Keras's names that are not lrpfast's, with the parameters they stand for.
_ALIASES: dict[str, tuple[str, dict[str, float]]] = {
    "relu6": ("relu", {"max_value": 6.0}),
    "swish": ("silu", {}),
    "hard_swish": ("hard_silu", {}),
    "hard_tanh": ("clip", {"low": -1.0, "high": 1.0}),
    "hard_shrink": ("shrink", {}),
    "soft_shrink": ("shrink", {"shift": 0.5}),
    "sparse_sigmoid": ("hard_sigmoid", {"slope": 0.5}),
}
#: Keras's names and ours: what is not among them has no name in Keras.
_NAMES = {*FUNCTIONS, *_ALIASES} - {"prelu", "clip", "shrink", "power", "log"}


def activation(layer: KerasLayer, shape: Shape, name: str | None = None) -> Activation | None:
    """The function in a layer's ``activation`` entry; None when it is linear."""
    value = layer.config.get("activation")
    if isinstance(value, Mapping):
        inner = value.get("config")
        if value.get("class_name") in ACTIVATIONS and isinstance(inner, Mapping):
            inside = replace(layer, class_name=value["class_name"], config=inner)
            return ACTIVATIONS[value["class_name"]](inside, shape)
        # a function by name; anything else (another layer, a lambda with its code) is only named
        value = inner if value.get("class_name") == "function" and isinstance(inner, str) else value.get("class_name")
    if isinstance(value, str) and value not in _NAMES:
        value = _custom(layer, value)
        if isinstance(value, Activation):
            return replace(value, name=name)
    if value in (None, "linear"):
        return None
    if not isinstance(value, str) or value not in _NAMES:
        raise layer.unsupported(
            f"has the activation {value!r}, which lrpfast does not know",
            f"These work: {', '.join(sorted(_NAMES))}, and {', '.join(ACTIVATIONS)} or PReLU as layers. For one of "
            f"your own, custom_objects={{{str(value)!r}: 'gelu'}} says which of them it is; a function in the name's "
            "place, called as f(config, weights), returns a lrpfast.layers.Activation",
        )
    function, parameters = _ALIASES.get(value, (value, {}))
    if value == "hard_sigmoid":
        parameters = {"slope": 1 / 6 if layer.keras >= 3 else 0.2}
    return Activation(function, parameters, name=name)


def _custom(layer: KerasLayer, name: str) -> str | Activation:
    """A function of the user's own by what custom_objects says of it: another function's name, or the layer."""
    short = name.rpartition(">")[2]
    own = next((layer.custom_objects[key] for key in (name, short) if key in layer.custom_objects), name)
    if isinstance(own, str):
        return own
    result = own({}, [])
    if not isinstance(result, Activation):
        raise InputError(
            f"{layer}: custom_objects[{short!r}] returned {result!r:.60}; of an activation, it must return a "
            "lrpfast.layers.Activation"
        )
    return result


def activation_layer(layer: KerasLayer, shape: Shape) -> Layer:
    """An Activation layer; "linear" is an Identity."""
    return activation(layer, shape, layer.name) or Identity("linear", name=layer.name)


def prelu(layer: KerasLayer, shape: Shape) -> Activation:
    """A PReLU layer, whose slopes are arrays."""
    shared = layer.get("shared_axes", [])
    if None in shape:
        raise layer.unsupported(f"needs an input of fixed shape, it gets {shape}", FIX_SIZE)
    expected = [1 if axis in shared else n for axis, n in enumerate(shape, start=1)]
    (slope,) = layer.arrays(alpha=tuple(expected))
    return Activation("prelu", {"negative_slope": slope}, name=layer.name)
