"""Keras layers in lrpfast's terms: one function for each class, and the table of them.

A converter takes what the file says of a layer and the per-sample shape that
reaches it. To read another class, write its function and enter it in `CONVERTERS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError, ModelFormatError, ShapeError, UnsupportedLayerError
from ..model.layers import FUNCTIONS, Activation, Dense, Flatten, Identity, Layer, Reshape, Shape


@dataclass(frozen=True)
class Weight:
    """One stored array: its shape is known, its values are read when it is wanted."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class KerasLayer:
    """What the file says of one layer.

    Attributes
    ----------
    name, class_name : str
    config : mapping
    place : str
        Where it stands: "2 of 5".
    keras : int
        The major version of Keras whose definitions hold.
    stored : callable
        Finds the layer's arrays, in the order in which Keras stores them.
    """

    name: str
    class_name: str
    config: Mapping[str, Any]
    place: str
    keras: int
    stored: Callable[[], Sequence[Weight]]

    def __str__(self) -> str:
        return f"layer {self.name!r} ({self.class_name}, {self.place})"

    def need(self, *keys: str) -> Any:
        """The first of ``keys`` that the configuration has; one must be there."""
        for key in keys:
            if key in self.config:
                return plain(self.config[key])
        raise ModelFormatError(f"{self}: its configuration has no {keys[0]!r}")

    def get(self, key: str, default: Any) -> Any:
        """``config[key]``, or the default where it is missing or null."""
        value = plain(self.config.get(key))
        return default if value is None else value

    def arrays(self, **expected: tuple[int | None, ...]) -> list[np.ndarray]:
        """The layer's arrays, read only when their number and shapes are as expected (None fits any size)."""
        policy = str(self.config.get("dtype"))
        if re.search(r"\bu?int\d|float8|gptq|awq", policy):
            raise UnsupportedLayerError(f"{self} has quantized weights; save the model before quantizing it")
        stored = self.stored()
        if len(stored) != len(expected):
            raise ModelFormatError(
                f"{self}: expected {len(expected)} arrays ({', '.join(expected)}), "
                f"found {len(stored)} of shapes {[weight.shape for weight in stored]}"
            )
        for (what, shape), weight in zip(expected.items(), stored, strict=True):
            fits = len(shape) == len(weight.shape) and all(
                n is None or n == m for n, m in zip(shape, weight.shape, strict=True)
            )
            if not fits:
                raise ModelFormatError(
                    f"{self}: its {what} has shape {weight.shape}, its configuration and input ask for {shape}"
                )
        return [weight.read() for weight in stored]

    def unsupported(self, why: str, remedy: str) -> UnsupportedLayerError:
        return UnsupportedLayerError(f"{self} {why}. {remedy}")


def plain(value: Any) -> Any:
    """A configuration value without the wrappers Keras puts around tuples and arrays."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__tuple__" and "items" in value:
            return value["items"]
        inner = value.get("config") if value.get("class_name") in ("__numpy__", "__tensor__") else value
        if isinstance(inner, Mapping) and "value" in inner:  # {"type": "ndarray", "value": …} of Keras 2.0
            return inner["value"]
    return value


# -- activation functions ---------------------------------------------------


def _relu(layer: KerasLayer, shape: Shape) -> Activation:
    ceiling = plain(layer.config.get("max_value"))
    slope, threshold = layer.get("negative_slope", 0.0), layer.get("threshold", 0.0)
    return Activation("relu", {"max_value": ceiling, "negative_slope": slope, "threshold": threshold}, name=layer.name)


def _leaky_relu(layer: KerasLayer, shape: Shape) -> Activation:
    slope = layer.get("negative_slope", layer.get("alpha", 0.3))  # Keras 3, Keras 2
    return Activation("leaky_relu", {"negative_slope": slope}, name=layer.name)


def _elu(layer: KerasLayer, shape: Shape) -> Activation:
    return Activation("elu", {"alpha": layer.get("alpha", 1.0)}, name=layer.name)


def _thresholded_relu(layer: KerasLayer, shape: Shape) -> Activation:
    return Activation("relu", {"threshold": layer.get("theta", 1.0)}, name=layer.name)


def _softmax(layer: KerasLayer, shape: Shape) -> Activation:
    axis = layer.get("axis", -1)
    axes = list(axis) if isinstance(axis, (list, tuple)) else [axis]
    if axes not in ([-1], [len(shape)]):  # Keras counts the batch axis
        raise layer.unsupported(
            f"takes its softmax over axis {axis}, lrpfast over the last axis of {shape} only",
            "Move that axis to the end before it",
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
}


def activation(layer: KerasLayer, shape: Shape, name: str | None = None) -> Activation | None:
    """The function in a layer's ``activation`` entry; None when it is linear."""
    value = layer.config.get("activation")
    if isinstance(value, Mapping):
        inner = value.get("config")
        if value.get("class_name") in ACTIVATIONS and isinstance(inner, Mapping):
            inside = KerasLayer(layer.name, value["class_name"], inner, layer.place, layer.keras, layer.stored)
            return ACTIVATIONS[value["class_name"]](inside, shape)
        # a function by name; anything else (another layer, a lambda with its code) is only named
        value = inner if value.get("class_name") == "function" and isinstance(inner, str) else value.get("class_name")
    if value in (None, "linear"):
        return None
    function, parameters = _ALIASES.get(value, (value, {})) if isinstance(value, str) else (None, {})
    if function not in FUNCTIONS or function == "prelu":
        known = sorted({*FUNCTIONS, *_ALIASES, "linear"} - {"prelu"})
        raise layer.unsupported(
            f"has the activation {value!r}, which lrpfast does not know",
            f"These work: {', '.join(known)}, and {', '.join(ACTIVATIONS)} or PReLU as layers",
        )
    if function == "hard_sigmoid":
        parameters = {"slope": 1 / 6 if layer.keras >= 3 else 0.2}
    return Activation(function, parameters, name=name)


def _activation(layer: KerasLayer, shape: Shape) -> Layer:
    return activation(layer, shape, layer.name) or Identity("linear", name=layer.name)


def _prelu(layer: KerasLayer, shape: Shape) -> Activation:
    shared = layer.get("shared_axes", [])
    if None in shape:
        raise layer.unsupported(f"needs an input of fixed shape, it gets {shape}", "Give the Input its full shape")
    expected = [1 if axis in shared else n for axis, n in enumerate(shape, start=1)]
    (slope,) = layer.arrays(alpha=tuple(expected))
    return Activation("prelu", {"negative_slope": slope}, name=layer.name)


# -- other layers -----------------------------------------------------------


def _dense(layer: KerasLayer, shape: Shape) -> Dense:
    units = layer.need("units", "output_dim")  # Keras 2 and 3, Keras 1
    if not shape:
        raise ShapeError(f"{layer}: a dense layer needs a feature axis, its input has none")
    expected = {"kernel": (shape[-1], units)}
    if layer.get("use_bias", layer.get("bias", True)):
        expected["bias"] = (units,)
    kernel, *bias = layer.arrays(**expected)
    function = activation(layer, (*shape[:-1], units))
    return Dense(kernel, bias[0] if bias else None, function, name=layer.name)


def _flatten(layer: KerasLayer, shape: Shape) -> Flatten:
    if layer.get("data_format", "channels_last") != "channels_last" and len(shape) > 1:
        raise layer.unsupported(
            "flattens channels-first data, which it transposes on the way", "Save the model in channels-last format"
        )
    return Flatten(name=layer.name)


def _reshape(layer: KerasLayer, shape: Shape) -> Reshape:
    return Reshape(tuple(layer.need("target_shape")), name=layer.name)


def _identity(layer: KerasLayer, shape: Shape) -> Identity:
    return Identity(layer.class_name, name=layer.name)


#: Every class that is read, and how.
CONVERTERS: dict[str, Callable[[KerasLayer, Shape], Layer]] = {
    "Dense": _dense,
    "Activation": _activation,
    **ACTIVATIONS,
    "PReLU": _prelu,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Dropout": _identity,
    "SpatialDropout1D": _identity,
    "SpatialDropout2D": _identity,
    "SpatialDropout3D": _identity,
    "AlphaDropout": _identity,
    "GaussianDropout": _identity,
    "GaussianNoise": _identity,
    "ActivityRegularization": _identity,
    "Identity": _identity,
}


def convert(layer: KerasLayer, shape: Shape) -> Layer:
    """The layer in lrpfast's terms.

    Parameters
    ----------
    layer : KerasLayer
    shape : tuple
        The per-sample shape that reaches it.

    Raises
    ------
    UnsupportedLayerError
        When it is of a class that is not in `CONVERTERS`, or set in a way lrpfast cannot follow.
    ModelFormatError
        When its weights are missing or do not fit.
    """
    if layer.class_name not in CONVERTERS:
        remedy = (
            f"These work: InputLayer, {', '.join(CONVERTERS)}. What comes before it can be explained once saved alone: "
            f"keras.Model(model.inputs, model.get_layer({layer.name!r}).input).save('part.keras')"
        )
        if layer.class_name == "Lambda":
            raise layer.unsupported(
                "holds Python code, which lrpfast never runs", f"Use a layer in its place. {remedy}"
            )
        raise layer.unsupported("is of a class that lrpfast does not read", remedy)
    try:
        return CONVERTERS[layer.class_name](layer, shape)
    except (InputError, ShapeError) as error:
        message = str(error)
        raise ModelFormatError(message if message.startswith(str(layer)) else f"{layer}: {message}") from error
