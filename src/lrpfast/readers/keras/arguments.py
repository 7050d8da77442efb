"""The arguments of a call in a Keras configuration: other layers' outputs, constants, slices, and their structure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .record import plain


@dataclass(frozen=True)
class Ref:
    """An output of one call of a layer, by the file's numbers, and the key it has in a dict of inputs."""

    name: str
    call: int
    tensor: int
    key: str | None = None


def is_ref(value: Any) -> bool:
    """Whether the value is a reference as Keras 2 writes it: name, call, output."""
    return (
        isinstance(value, (list, tuple))
        and len(value) >= 3
        and isinstance(value[0], str)
        and all(isinstance(n, int) and not isinstance(n, bool) for n in value[1:3])
    )


def is_constant(value: Any) -> bool:
    """Whether the value is a constant where Keras 2 would write a reference."""
    return isinstance(value, (list, tuple)) and len(value) >= 3 and value[0] == "_CONSTANT_VALUE"


def is_array(value: Any) -> bool:
    """Whether a parsed argument is an array."""
    return isinstance(value, np.ndarray)


def parsed(value: Any) -> Any:
    """An argument with `Ref` for other layers' outputs, and Python's slices, Ellipsis and arrays for constants."""
    if isinstance(value, Mapping):
        kind, config = value.get("class_name"), value.get("config")
        if kind == "__keras_tensor__" and isinstance(config, Mapping):
            return parsed(config.get("keras_history"))
        if kind == "__ellipsis__":
            return Ellipsis
        part = config if kind == "__slice__" else value
        if isinstance(part, Mapping) and set(part) == {"start", "stop", "step"}:
            return slice(*(part[key] for key in ("start", "stop", "step")))
        inner = plain(value)
        if inner is not value:
            return np.asarray(inner) if kind in ("__numpy__", "__tensor__") else parsed(inner)
        return {key: parsed(item) for key, item in value.items()}
    if is_constant(value):
        return value[2]
    if is_ref(value):
        return Ref(value[0], value[1], value[2])
    return [parsed(item) for item in value] if isinstance(value, (list, tuple)) else value


def refs(value: Any) -> Iterator[Ref]:
    """The references in a parsed argument, in order."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from refs(item)
    elif isinstance(value, list):
        for item in value:
            yield from refs(item)


def replaced(value: Any, of_ref: Callable[[Ref], Any]) -> Any:
    """A parsed argument with what the function returns in place of each reference, called in the order of `refs`."""
    if isinstance(value, Ref):
        return of_ref(value)
    if isinstance(value, Mapping):
        return {key: replaced(item, of_ref) for key, item in value.items()}
    return [replaced(item, of_ref) for item in value] if isinstance(value, list) else value
