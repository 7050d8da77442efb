"""Activation functions, as layers and as attributes of layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import InputError, ShapeError
from .base import Layer, Shape, as_array, frozen, known


@dataclass(frozen=True)
class Function:
    """The properties of an activation function, apart from its formula."""

    parameters: Mapping[str, Any]
    sign: int = 0  # +1: never below zero, −1: never above, for any input


#: Every activation function by name, with its parameters' defaults. ``None``
#: marks a parameter that must be given (PReLU's slopes) or an absent ceiling.
FUNCTIONS: dict[str, Function] = {
    "linear": Function({}),
    "relu": Function({"max_value": None, "negative_slope": 0.0, "threshold": 0.0}, sign=1),
    "leaky_relu": Function({"negative_slope": 0.2}),
    "prelu": Function({"negative_slope": None}),
    "elu": Function({"alpha": 1.0}),
    "selu": Function({}),
    "gelu": Function({"approximate": False}),
    "silu": Function({}),
    "tanh": Function({}),
    "sigmoid": Function({}, sign=1),
    "hard_sigmoid": Function({"slope": 0.2, "offset": 0.5}, sign=1),
    "softplus": Function({}, sign=1),
    "softsign": Function({}),
    "exponential": Function({}, sign=1),
    "mish": Function({}),
    "clip": Function({"low": -math.inf, "high": math.inf}),
    "celu": Function({"alpha": 1.0}),
    "shrink": Function({"threshold": 0.5, "shift": 0.0}),
    "log_sigmoid": Function({}, sign=-1),
    "power": Function({"exponent": 1.0}),
    "hard_silu": Function({}),
    "log": Function({}),
    "softmax": Function({}, sign=1),
    "log_softmax": Function({}, sign=-1),
}

#: Functions over the last axis that keep the order of its values.
SOFTMAXES = ("softmax", "log_softmax")


class Parameters(Mapping[str, Any]):
    """An activation function's parameters: an immutable mapping with read-only arrays."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = {k: frozen(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr(self._values)

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:  # created again, so that arrays are read-only again
        return Parameters, (self._values,)


@dataclass(frozen=True, eq=False)
class Activation(Layer):
    """An activation function as a layer: y = f(x).

    Parameters
    ----------
    function : str
        A name in ``FUNCTIONS``.
    parameters : mapping, optional
        The function's parameters; missing ones have the defaults of ``FUNCTIONS``.

    Examples
    --------
    >>> layer = lrpfast.layers.Activation("leaky_relu", {"negative_slope": 0.5})
    >>> lrpfast.from_layers([layer], input_shape=2).predict(np.array([[-2.0, 2.0]])).tolist()
    [[-1.0, 2.0]]
    """

    function: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise InputError(
                f"{self}: unknown activation function {self.function!r}; known: {', '.join(sorted(FUNCTIONS))}"
            )
        defaults = FUNCTIONS[self.function].parameters
        for key in self.parameters:
            if key not in defaults:
                raise InputError(f"{self}: {self.function} has no parameter {key!r}; it has {list(defaults)}")
        parameters = {**defaults, **self.parameters}
        if self.function == "prelu":
            if parameters["negative_slope"] is None:
                raise InputError(f"{self}: prelu needs negative_slope, an array that fits one sample")
            parameters["negative_slope"] = as_array(parameters["negative_slope"], "negative_slope", str(self))
        elif self.function == "gelu":
            parameters["approximate"] = bool(parameters["approximate"])
        else:
            for key, value in parameters.items():
                if value is None and key == "max_value":
                    continue
                open_end = self.function == "clip" and value == defaults[key]
                if not isinstance(value, (int, float, np.number)) or not (math.isfinite(value) or open_end):
                    raise InputError(f"{self}: {key} must be a finite number, not {value!r}")
                parameters[key] = float(value)
            self._check_numbers(parameters)
        self._set(parameters=Parameters(parameters))

    def _check_numbers(self, p: Mapping[str, Any]) -> None:
        if self.function == "clip" and p["low"] > p["high"]:
            raise InputError(f"{self}: low must not be above high, got {p['low']} and {p['high']}")
        if self.function == "celu" and p["alpha"] <= 0:
            raise InputError(f"{self}: alpha must be above 0, not {p['alpha']}")
        if self.function == "shrink" and p["threshold"] < 0:
            raise InputError(f"{self}: threshold must be at least 0, not {p['threshold']}")

    @property
    def is_plain_relu(self) -> bool:
        """Whether the function is exactly max(x, 0), without ceiling, threshold or slope."""
        return self.function == "relu" and self.parameters == FUNCTIONS["relu"].parameters

    @property
    def sign(self) -> int:
        """+1 if no output is below zero, −1 if none is above, for any input; else 0."""
        p = self.parameters
        if self.function == "relu":
            ceiling = p["max_value"]
            return int(p["negative_slope"] == 0 and p["threshold"] >= 0 and (ceiling is None or ceiling >= 0))
        if self.function == "clip":
            return 1 if p["low"] >= 0 else -1 if p["high"] <= 0 else 0
        if self.function == "power":  # only whole exponents are defined for numbers below zero
            return int(p["exponent"] % 2 != 1)
        return FUNCTIONS[self.function].sign

    def output_shape(self, shape: Shape) -> Shape:
        if self.function in SOFTMAXES and not shape:
            raise ShapeError(f"{self}: {self.function} needs an axis to sum over, the input has none")
        if self.function == "prelu":
            slope = self.parameters["negative_slope"]
            sizes = known(shape)
            if sizes is None:
                raise ShapeError(f"{self}: prelu needs a fixed input shape, not {shape}")
            try:
                fits = np.broadcast_shapes(slope.shape, sizes) == sizes
            except ValueError:
                fits = False
            if not fits:
                raise ShapeError(f"{self}: negative_slope of shape {slope.shape} does not fit an input of {shape}")
        return shape

    def _non_defaults(self) -> dict[str, Any]:
        """The parameters that differ from their defaults."""
        defaults = FUNCTIONS[self.function].parameters
        return {k: v for k, v in self.parameters.items() if isinstance(v, np.ndarray) or v != defaults[k]}

    def _shown(self) -> dict[str, Any]:
        parameters = self._non_defaults()
        return {"function": self.function, **({"parameters": parameters} if parameters else {})}

    def _argument(self) -> str:
        return repr(self) if self.name or self._non_defaults() else repr(self.function)

    def describe(self) -> str:
        texts = [f"{k}={v:g}" for k, v in self._non_defaults().items() if not isinstance(v, np.ndarray)]
        return self.function + (f"({', '.join(texts)})" if texts else "")


def as_activation(value: str | Activation | None, layer: str) -> Activation | None:
    """An Activation; None for no activation or a linear one."""
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
