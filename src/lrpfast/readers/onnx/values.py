"""What nodes hand to one another beside tensors and constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..channels_first import Value


@dataclass(frozen=True)
class Rows:
    """Samples joined with another axis: in the file (batch · count, …), here ``count`` is the sample's first axis."""

    value: Value
    count: int

    @property
    def rest(self) -> tuple[Any, ...]:
        """The file's shape without its first axis."""
        return self.value.shape[1:]


@dataclass(frozen=True)
class Quantized:
    """Whole numbers q that stand for (q - zero_point) · scale, which ``value`` is, but for rounding."""

    value: Value
    scale: float
    zero_point: int


@dataclass(frozen=True)
class Integers:
    """A float input of the model that the file casts to whole numbers, for looking up rows of a table."""

    value: Value
    problem: str
