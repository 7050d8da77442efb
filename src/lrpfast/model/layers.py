"""Layers as frozen records: what a layer is, not how it is computed.

A layer holds its arrays (read-only, as the model file stores them) and says
which shape it makes of which shape. Forward passes live in ``kernels``,
relevance in ``rules`` and ``engine``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError, ShapeError

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Function:
    """What is known about an activation function, apart from its formula."""

    parameters: Mapping[str, Any]
    nonnegative: bool = False


#: Every activation function by name, with its parameters' defaults. ``None``
#: marks a parameter that must be given (PReLU's slopes) or an absent ceiling.
FUNCTIONS: dict[str, Function] = {
    "linear": Function({}),
    "relu": Function({"max_value": None, "negative_slope": 0.0, "threshold": 0.0}, nonnegative=True),
    "leaky_relu": Function({"negative_slope": 0.2}),
    "prelu": Function({"negative_slope": None}),
    "elu": Function({"alpha": 1.0}),
    "selu": Function({}),
    "gelu": Function({"approximate": False}),
    "silu": Function({}),
    "tanh": Function({}),
    "sigmoid": Function({}, nonnegative=True),
    "hard_sigmoid": Function({"slope": 0.2}, nonnegative=True),
    "softplus": Function({}, nonnegative=True),
    "softsign": Function({}),
    "exponential": Function({}, nonnegative=True),
    "mish": Function({}),
    "softmax": Function({}, nonnegative=True),
}


def as_array(value: Any, what: str, layer: str) -> np.ndarray:
    """A read-only float32 or float64 copy of ``value``; anything else is an error."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{layer}: {what} must hold real numbers, not dtype {array.dtype}")
    dtype = np.float64 if array.dtype.kind != "f" or array.dtype.itemsize >= 8 else np.float32
    array = np.array(array, dtype=dtype, order="C")
    if not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InputError(f"{layer}: {what} is not finite at index {place} ({array[place]})")
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Layer:
    """Base of every layer; ``name`` is filled in by the model when it is None."""

    name: str | None = field(default=None, kw_only=True)

    #: Whether the layer changes values at all (Dropout, at inference, does not).
    identity: ClassVar[bool] = False

    def output_shape(self, shape: Shape) -> Shape:
        """Per-sample output shape for a per-sample input shape; raises ShapeError."""
        return shape

    def __str__(self) -> str:
        return f"{type(self).__name__} {self.name!r}" if self.name else type(self).__name__

    def describe(self) -> str:
        """What tells this layer from another of its type, for summaries."""
        return ""


@dataclass(frozen=True, eq=False)
class Input(Layer):
    """Where a model's input enters; ``shape`` is per sample."""

    shape: Shape
    identity: ClassVar[bool] = True

    def __post_init__(self) -> None:
        shape = (self.shape,) if isinstance(self.shape, int) else tuple(self.shape)
        for n in shape:
            if n is not None and (not isinstance(n, (int, np.integer)) or n < 1):
                raise ShapeError(f"{self}: shape must hold positive integers or None, not {shape}")
        object.__setattr__(self, "shape", tuple(None if n is None else int(n) for n in shape))

    def output_shape(self, shape: Shape = ()) -> Shape:
        return self.shape


@dataclass(frozen=True, eq=False)
class Activation(Layer):
    """An activation function as a layer: y = f(x).

    Parameters
    ----------
    function : str
        A name in ``FUNCTIONS``.
    parameters : mapping, optional
        The function's parameters; those left out take the defaults of ``FUNCTIONS``.
    """

    function: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise InputError(
                f"{self}: unknown activation function {self.function!r}; known: {', '.join(sorted(FUNCTIONS))}"
            )
        known = FUNCTIONS[self.function].parameters
        for key in self.parameters:
            if key not in known:
                raise InputError(f"{self}: {self.function} has no parameter {key!r}; it has {list(known)}")
        merged = {**known, **self.parameters}
        if self.function == "prelu":
            if merged["negative_slope"] is None:
                raise InputError(f"{self}: prelu needs negative_slope, an array that fits one sample")
            merged["negative_slope"] = as_array(merged["negative_slope"], "negative_slope", str(self))
        elif self.function == "gelu":
            merged["approximate"] = bool(merged["approximate"])
        else:
            for key, value in merged.items():
                if value is None and key == "max_value":
                    continue
                if not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
                    raise InputError(f"{self}: {key} must be a finite number, not {value!r}")
                merged[key] = float(value)
        object.__setattr__(self, "parameters", merged)

    @property
    def is_plain_relu(self) -> bool:
        """Exactly max(x, 0): no ceiling, threshold or slope."""
        return self.function == "relu" and self.parameters == FUNCTIONS["relu"].parameters

    @property
    def is_nonnegative(self) -> bool:
        """Whether every output is >= 0, whatever the input."""
        if self.function == "relu":
            p = self.parameters
            ceiling = p["max_value"]
            return p["negative_slope"] == 0 and p["threshold"] >= 0 and (ceiling is None or ceiling >= 0)
        return FUNCTIONS[self.function].nonnegative

    def output_shape(self, shape: Shape) -> Shape:
        if self.function == "softmax" and not shape:
            raise ShapeError(f"{self}: softmax needs an axis to sum over, the input has none")
        if self.function == "prelu":
            slope = self.parameters["negative_slope"]
            if None in shape:
                raise ShapeError(f"{self}: prelu needs a fixed input shape, not {shape}")
            try:
                fits = np.broadcast_shapes(slope.shape, shape) == shape
            except ValueError:
                fits = False
            if not fits:
                raise ShapeError(f"{self}: negative_slope of shape {slope.shape} does not fit an input of {shape}")
        return shape

    def describe(self) -> str:
        changed = {
            k: v
            for k, v in self.parameters.items()
            if not isinstance(v, np.ndarray) and v != FUNCTIONS[self.function].parameters[k]
        }
        return self.function + (f"({', '.join(f'{k}={v:g}' for k, v in changed.items())})" if changed else "")


def as_activation(value: str | Activation | None, layer: str) -> Activation | None:
    """``None`` for no activation or a linear one, an Activation otherwise."""
    if value is None or value == "linear":
        return None
    if isinstance(value, Activation):
        return None if value.function == "linear" else value
    if isinstance(value, str):
        try:
            return Activation(value)
        except InputError as error:
            raise InputError(f"{layer}: {error}") from None
    raise InputError(f"{layer}: activation must be a name, an Activation or None, not {type(value).__name__}")


@dataclass(frozen=True, eq=False)
class Dense(Layer):
    """A fully connected layer on the last axis: y = f(x W + b).

    Parameters
    ----------
    kernel : array, shape (in, out)
        W, as Keras stores it.
    bias : array, shape (out,), optional
        b.
    activation : str or Activation, optional
        f; None is linear.
    """

    kernel: np.ndarray
    bias: np.ndarray | None = None
    activation: Activation | None = None

    def __post_init__(self) -> None:
        kernel = as_array(self.kernel, "kernel", str(self))
        if kernel.ndim != 2 or 0 in kernel.shape:
            raise ShapeError(f"{self}: kernel must have shape (in, out), both at least 1, not {kernel.shape}")
        object.__setattr__(self, "kernel", kernel)
        if self.bias is not None:
            bias = as_array(self.bias, "bias", str(self))
            if bias.shape != kernel.shape[1:]:
                raise ShapeError(f"{self}: bias has shape {bias.shape}, the kernel asks for {kernel.shape[1:]}")
            object.__setattr__(self, "bias", bias)
        object.__setattr__(self, "activation", as_activation(self.activation, str(self)))

    def output_shape(self, shape: Shape) -> Shape:
        if not shape or shape[-1] != self.kernel.shape[0]:
            raise ShapeError(
                f"{self}: it takes {self.kernel.shape[0]} features on the last axis, its input has shape {shape}"
            )
        return (*shape[:-1], self.kernel.shape[1])

    def describe(self) -> str:
        return self.activation.describe() if self.activation else "linear"


@dataclass(frozen=True, eq=False)
class Flatten(Layer):
    """Flatten one sample to a vector, in row-major order."""

    def output_shape(self, shape: Shape) -> Shape:
        return (None if None in shape else math.prod(shape),)


@dataclass(frozen=True, eq=False)
class Reshape(Layer):
    """Give one sample another shape, in row-major order; one entry may be -1."""

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        shape = (self.shape,) if isinstance(self.shape, int) else tuple(int(n) for n in self.shape)
        if any(n < 1 and n != -1 for n in shape) or shape.count(-1) > 1:
            raise ShapeError(f"{self}: shape must hold positive integers and at most one -1, not {shape}")
        object.__setattr__(self, "shape", shape)

    def output_shape(self, shape: Shape) -> Shape:
        if None in shape:
            if -1 in self.shape:
                return tuple(None if n == -1 else n for n in self.shape)
            return self.shape
        size, fixed = math.prod(shape), math.prod(n for n in self.shape if n != -1)
        if (-1 in self.shape and size % fixed) or (-1 not in self.shape and size != fixed):
            raise ShapeError(f"{self}: cannot make {self.shape} of {shape}: {size} values")
        return tuple(size // fixed if n == -1 else n for n in self.shape)

    def describe(self) -> str:
        return f"to {self.shape}"


@dataclass(frozen=True, eq=False)
class Identity(Layer):
    """A layer that does nothing at inference, kept so that layer indices match the file.

    Parameters
    ----------
    kind : str
        What it was: "Dropout", "GaussianNoise", …
    """

    kind: str = "Identity"
    identity: ClassVar[bool] = True

    def describe(self) -> str:
        return self.kind
