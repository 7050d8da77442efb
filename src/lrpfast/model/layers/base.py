"""What every layer has: a name, a shape it makes, and the checks they share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ...errors import InputError, ShapeError

#: A shape without the batch axis; None is a size that the model leaves open.
Shape = tuple[int | None, ...]


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
    """Base of every layer; ``name`` is filled in by the model when it is None.

    Examples
    --------
    >>> layer = lrpfast.layers.Flatten(name="flat")
    >>> isinstance(layer, lrpfast.layers.Layer), str(layer), layer.output_shape((2, 3))
    (True, "Flatten 'flat'", (6,))
    """

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
class Block(Layer):
    """A layer made of other layers: the way to give lrpfast a layer of one's own.

    A model holds the parts, each with its own rule; see ``docs/extending.md``.

    Examples
    --------
    >>> class Twice(lrpfast.layers.Block):
    ...     def build(self, graph, x):
    ...         return graph.add(lrpfast.layers.Add(name=self.name), x, x)
    >>> lrpfast.from_layers([Twice()], input_shape=2).predict(np.array([[1.0, 2.0]])).tolist()
    [[2.0, 4.0]]
    """

    def build(self, graph: Any, *inputs: int) -> int:
        """Add the parts to a `Graph`, fed by ``inputs``; returns the result of the last one.

        Parts are best named ``f"{self.name}/…"``, the last one ``self.name``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define build(graph, *inputs)")


@dataclass(frozen=True, eq=False)
class Input(Layer):
    """Where a model's input enters; ``shape`` is per sample.

    Examples
    --------
    >>> layers = [lrpfast.layers.Input((4,), name="pixels"), lrpfast.layers.Dense(np.ones((4, 2)))]
    >>> lrpfast.from_layers(layers).input_shape
    (4,)
    """

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
class Identity(Layer):
    """A layer that does nothing at inference, kept so that layer indices match the file.

    Parameters
    ----------
    kind : str
        What it was: "Dropout", "GaussianNoise", …

    Examples
    --------
    >>> layer = lrpfast.layers.Identity("Dropout")
    >>> lrpfast.from_layers([layer], input_shape=2).predict(np.array([[1.0, 2.0]])).tolist()
    [[1.0, 2.0]]
    """

    kind: str = "Identity"
    identity: ClassVar[bool] = True

    def describe(self) -> str:
        return self.kind
