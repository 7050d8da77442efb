"""The sink for the relevances of several inputs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from . import named
from .base import Sink
from .npz import NpzSink
from .several import SeveralSink

if TYPE_CHECKING:
    from ..inputs import InputRows


class SeveralCallbackSink(Sink):
    """Rows go to ``function(first, {name: rows})``."""

    def __init__(self, function: Callable[[int, dict[str, np.ndarray]], Any], inputs: InputRows) -> None:
        self._function, self._inputs = function, inputs
        self.name = getattr(function, "__name__", type(function).__name__)

    def _open(self, existing: bool) -> None:
        if existing:
            raise InputError(f"{self.name}: rows given to a function cannot be resumed")

    def write(self, first: int, rows: np.ndarray) -> int:
        parts = self._inputs.split(rows)
        self._function(first, {name: part.copy() for name, part in zip(self._inputs.names, parts, strict=True)})
        return 0

    def finish(self) -> None:
        """The function has had every row."""


def open_several(out: Any, inputs: InputRows, whose: str | None = None) -> Sink:
    """`open_sink`, for several arrays in a row; ``whose`` they are, in messages: by default the model's inputs."""
    if callable(out):
        return SeveralCallbackSink(out, inputs)
    if not isinstance(out, (str, bytes)) and not hasattr(out, "__fspath__"):
        raise InputError(f"relevances cannot be written to a {type(out).__name__}; give a path or a function")
    name = os.fsdecode(out)
    if name.lower().endswith(".npz"):
        return NpzSink(name, inputs)
    path, kind, array = named(name)
    names = ", ".join(inputs.names)
    if kind in ("npy", "zarr"):
        raise InputError(
            f"{path}: takes one array, {whose or f'the model has {len(inputs.names)} inputs'} ({names}); write an "
            ".h5, .nc or .npz file, which has one for each"
        )
    if array is not None:
        owners = "inputs'" if whose is None else "layers'"
        raise InputError(f"{path}:{array}: the arrays have the {owners} names ({names}); give the file's name alone")
    return SeveralSink(path, "nc" if kind in ("nc", "nc4") else "h5", inputs)
