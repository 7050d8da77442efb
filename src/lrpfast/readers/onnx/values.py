"""What nodes hand to one another beside tensors and constants."""

from __future__ import annotations

from dataclasses import dataclass

from ..channels_first import Value


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
