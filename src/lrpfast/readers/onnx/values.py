"""What nodes hand to one another beside tensors and constants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..channels_first import Value
from .fold import FoldedValue


@dataclass(frozen=True)
class Quantized:
    """Whole numbers q that stand for (q - zero_point) · scale, which ``value`` is, but for rounding."""

    value: Value
    scale: float
    zero_point: int


@dataclass(frozen=True)
class Scaled:
    """Numbers that depend on scales which a DynamicQuantizeLinear computes: ``value`` times powers of them.

    Attributes
    ----------
    value : Value or FoldedValue
    powers : mapping
        The exponent of each scale, which is named after its quantizer: -1 for the whole numbers that it makes.
    zero_point : str
        The quantizer whose zero point is added; "" for none.
    """

    value: Value | FoldedValue
    powers: Mapping[str, int]
    zero_point: str = ""


@dataclass(frozen=True)
class ZeroPoint:
    """The zero point that a DynamicQuantizeLinear computes."""

    quantizer: str


@dataclass(frozen=True)
class Integers:
    """A float input of the model that the file casts to whole numbers, for looking up rows of a table."""

    value: Value
    problem: str
