"""What a Keras file says of one layer, before it is understood."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import ModelFormatError, UnsupportedLayerError
from ...model.layers import Shape
from ...model.layers.base import fits
from ...model.layers.window import per_axis
from ..obstacles import ObstacleError


@dataclass(frozen=True)
class Weight:
    """One stored array: its shape is known; its values are read when they are needed."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class KerasLayer:
    """What the file says of one layer.

    Attributes
    ----------
    name, class_name : str
    config : mapping
    position : str
        Its position in its container: "2 of 5".
    keras : int
        The major version of Keras whose definitions hold.
    stored : callable
        Finds the layer's arrays, in the order in which Keras stores them.
    custom_objects : mapping
        What the user says of activation functions by name.
    """

    name: str
    class_name: str
    config: Mapping[str, Any]
    position: str
    keras: int
    stored: Callable[[], Sequence[Weight]]
    custom_objects: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"layer {self.name!r} ({self.class_name}, {self.position})"

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

    @property
    def rank(self) -> int:
        """The number of spatial axes that the class's name says: 2 for Conv2D."""
        return int(re.findall(r"(\d)D", self.class_name)[-1])

    def sizes(self, key: str, default: Any = None) -> tuple[int, ...]:
        """One whole number for each spatial axis; without a default, the configuration must have it."""
        return per_axis(self.need(key) if default is None else self.get(key, default), self.rank, key, str(self))

    def axes(self, key: str, shape: Shape, default: Any = -1) -> list[int]:
        """Axes of one sample, from 0; Keras counts the batch axis too."""
        value = self.get(key, default)
        axes = []
        for axis in value if isinstance(value, (list, tuple)) else [value]:
            axis = plain(axis)
            if isinstance(axis, bool) or not isinstance(axis, int) or not -len(shape) <= axis <= len(shape) or not axis:
                raise self.unsupported(
                    f"works on axis {axis!r} of an input of shape (batch, {str(shape)[1:]}",
                    "lrpfast explains each sample by itself: any axis but 0, the batch, works",
                )
            axes.append(axis - 1 if axis > 0 else axis + len(shape))
        return axes

    def arrays(self, *optional: str, **expected: tuple[int | None, ...]) -> list[np.ndarray]:
        """The layer's arrays, read only when their number and shapes are as expected (None fits any size).

        ``optional`` names arrays that may follow and are not read.
        """
        policy = str(self.config.get("dtype"))
        if re.search(r"\bu?int\d|float8|gptq|awq", policy):
            raise UnsupportedLayerError(f"{self} has quantized weights; save the model before quantizing it")
        stored = self.stored()
        if len(stored) == len(expected) + len(optional):
            stored = stored[: len(expected)]
        if len(stored) != len(expected):
            raise ModelFormatError(
                f"{self}: expected {len(expected)} arrays ({', '.join(expected)}), "
                f"found {len(stored)} of shapes {[weight.shape for weight in stored]}"
            )
        for (array_name, shape), weight in zip(expected.items(), stored, strict=True):
            if not fits(weight.shape, shape):
                raise ModelFormatError(
                    f"{self}: its {array_name} has shape {weight.shape}, its configuration and input ask for {shape}"
                )
        return [weight.read() for weight in stored]

    def kernel_and_bias(self, *outputs: int, **expected: tuple[int | None, ...]) -> list[Any]:
        """The arrays expected, then the bias of shape ``outputs``, or None where there is none."""
        if self.get("use_bias", self.get("bias", True)):  # Keras 2 and 3, Keras 1
            return list(self.arrays(**expected, bias=outputs))
        return [*self.arrays(**expected), None]

    def unsupported(self, why: str, remedy: str, general: str | None = None) -> ObstacleError:
        """That the layer is not read: why, and what helps; ``general`` stands for that in a list of several."""
        return ObstacleError(f"{self} {why}. {remedy}", why, remedy if general is None else general)


def plain(value: Any) -> Any:
    """A configuration value without the wrappers Keras puts around tuples and arrays."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__tuple__" and "items" in value:
            return value["items"]
        inner = value.get("config") if value.get("class_name") in ("__numpy__", "__tensor__") else value
        if isinstance(inner, Mapping) and "value" in inner:  # {"type": "ndarray", "value": …} of Keras 2.0
            return inner["value"]
    return value


def snake_case(name: str) -> str:
    """As Keras names groups after classes: PReLU is p_re_lu."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
