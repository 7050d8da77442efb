"""Types of option values for argparse, whose errors say what was expected."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

from ..batch import NORMALIZATIONS


def _typed(convert: Callable[[str], Any], expected: str) -> Callable[[str], Any]:
    """A type for argparse whose error says what was expected."""

    def parse(text: str) -> Any:
        try:
            return convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}") from None

    return parse


def _to_count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError
    return count


def to_pair(text: str) -> tuple[float, float]:
    """LOW and HIGH; ValueError for anything but two numbers."""
    low, high = (float(part) for part in text.split(","))
    return low, high


def _to_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise ValueError
    return names


def _to_normalizations(text: str) -> tuple[str, ...]:
    names = _to_names(text)
    if not set(names) <= set(NORMALIZATIONS):
        raise ValueError
    return names


def _to_shape(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _to_input_shape(text: str) -> tuple[str | None, tuple[int, ...]]:
    """An input's name, None where the text has none, and its shape."""
    name, equals, sizes = text.rpartition("=")
    return (name if equals else None), _to_shape(sizes)


def _to_bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMGT]?)i?B?", text.strip().replace("_", ""), re.IGNORECASE)
    if not match:
        raise ValueError
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))


integer = _typed(int, "a whole number")
count = _typed(_to_count, "a whole number of at least 1")
count_or_auto = _typed(lambda text: text if text == "auto" else _to_count(text), "auto or a whole number of at least 1")
number = _typed(float, "a number")
pair = _typed(to_pair, "a pair LOW,HIGH of numbers")
number_or_pair = _typed(lambda text: to_pair(text) if "," in text else float(text), "a number")
number_or_mean = _typed(lambda text: text if text == "mean" else float(text), "a number, or mean")
shape = _typed(_to_shape, "a shape such as 8,8")
input_shape = _typed(_to_input_shape, "a shape such as 3,224,224, or NAME=3,224,224")
numbers = _typed(lambda text: tuple(float(part) for part in text.split(",")), "a list of numbers")
names = _typed(_to_names, "a list of names")
normalizations = _typed(_to_normalizations, f"one of {', '.join(NORMALIZATIONS)}, or several in a row, as sum,max")
integers = _typed(lambda text: [int(part) for part in text.split(",")], "a list of whole numbers")
byte_count = _typed(_to_bytes, "a number of bytes")
