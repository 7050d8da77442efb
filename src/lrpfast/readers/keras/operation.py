"""One call of an operation between layers, and what its converters need of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ... import budget
from ...errors import UnsupportedLayerError
from ...model import layers as L
from ..axis_ops import affine, take
from ..channels_first import Builder, Flat, Tensor, Value
from ..conditions import is_condition
from .record import KerasLayer


@dataclass(frozen=True)
class Operation:
    """One call of an operation."""

    layer: KerasLayer
    builder: Builder

    def unsupported(self, why: str, remedy: str = "Use a layer in its place") -> UnsupportedLayerError:
        return self.layer.unsupported(why, remedy)

    def tensor(self, value: Any) -> Tensor:
        """The argument, which must be another layer's output."""
        self._check_is_no_condition(value)
        if not is_value(value):
            raise self.unsupported(f"takes the constant {value!r:.40} where lrpfast reads other layers' outputs alone")
        return self.builder.plain(value)

    def axis(self, axis: Any, rank: int) -> int:
        """An axis of a sample with ``rank`` axes, from Keras's number, which counts the batch axis too."""
        layer = replace(self.layer, config={"axis": axis})
        return layer.axes("axis", (None,) * rank)[0]

    def fitted(self, values: Any, rank: int) -> np.ndarray:
        """A constant as it meets a sample: without the batch axis, along which it must not vary."""
        if isinstance(values, Batch) or (isinstance(values, list) and any(isinstance(n, Batch) for n in values)):
            raise self.unsupported("computes with the number of samples", "Keep it to the shape of a reshape")
        array = np.asarray(values, float)
        if array.ndim > rank + 1 or (array.ndim == rank + 1 and array.shape[0] != 1):
            raise self.unsupported(f"combines a constant of shape {array.shape} with samples of {rank} axes")
        return array[0] if array.ndim == rank + 1 else array

    def _check_is_no_condition(self, argument: Any) -> None:
        if is_condition(argument):
            raise self.unsupported(
                "computes with the result of a comparison, which is a step",
                "where, multiply and logical operations use it",
            )

    def operands(self, *arguments: Any) -> list[Value | np.ndarray]:
        """Arguments that meet element by element; what is constant is an array without the batch axis."""
        for argument in arguments:
            self._check_is_no_condition(argument)
        rank = max((len(v.shape) for v in arguments if is_value(v)), default=None)
        return [
            self.builder.plain(v) if is_value(v) else self.fitted(v, np.ndim(v) if rank is None else rank)
            for v in arguments
        ]

    def affine(self, value: Any, scale: Any, shift: Any) -> Value:
        rank = len(value.shape)
        return affine(self.builder, value, self.fitted(scale, rank), self.fitted(shift, rank))

    def each(self, function: str, value: Any, **parameters: Any) -> Value:
        return self.builder.each(L.Activation(function, parameters), self.tensor(value))


class Batch:
    """Stands for the number of samples among a value's sizes."""

    def __repr__(self) -> str:
        return "the number of samples"


BATCH = Batch()


def is_sizes(argument: Any) -> bool:
    """Whether the argument is sizes of a value, or one of them, as tf.shape computes them."""
    if isinstance(argument, list):
        return bool(argument) and all(isinstance(n, (int, Batch)) and not isinstance(n, bool) for n in argument)
    return isinstance(argument, Batch)


def is_value(argument: Any) -> bool:
    """Whether the argument is another layer's output."""
    return isinstance(argument, (Tensor, Flat))


def select(builder: Builder, value: Value, axis: int, positions: Sequence[int]) -> Value:
    """Values at the positions of an axis, in that order, after a count of the memory that the positions take."""
    budget.take(3 * 8 * len(positions), f"to select {len(positions):,} values of an axis")
    return take(builder, value, axis, positions)


def sample_axes(op: Operation, axis: Any, rank: int) -> list[int]:
    """The axes of a sample that an operation reduces, from Keras's numbers."""
    if axis is None:
        raise op.unsupported("reduces over all axes, the batch axis too", "Name the axes, without the batch axis, 0")
    return [op.axis(a, rank) for a in (axis if isinstance(axis, list) else [axis])]
