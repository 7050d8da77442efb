"""The sink for the relevances of several inputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from . import named
from .base import Sink
from .npz import NpzSink
from .several import SeveralSink
from .several_npy import SeveralNpySink
from .zarr import SeveralZarrSink

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

    def write(self, first: int, rows: np.ndarray, beside: Sequence[np.ndarray] = ()) -> int:
        parts = self._inputs.split(rows)
        self._function(first, {name: part.copy() for name, part in zip(self._inputs.names, parts, strict=True)})
        return 0

    def finish(self) -> None:
        """The function has had every row."""


#: The sinks that `open_several` opens.
SEVERAL_SINKS = (SeveralSink, SeveralNpySink, SeveralZarrSink, SeveralCallbackSink)


def open_several(out: Any, inputs: InputRows, whose: str = "inputs'") -> Sink:
    """`open_sink`, for the relevances of several inputs: an array for each, by its name.

    An .npy file holds one array: for ``out.npy`` each input has a file, ``out_NAME.npy``. ``whose`` the names are is
    for messages.
    """
    if isinstance(out, SEVERAL_SINKS):
        return out
    if callable(out):
        return SeveralCallbackSink(out, inputs)
    if not isinstance(out, (str, bytes)) and not hasattr(out, "__fspath__"):
        raise InputError(f"relevances cannot be written to a {type(out).__name__}; give a path or a function")
    name = os.fsdecode(out)
    if name.lower().endswith(".npz"):
        return NpzSink(name, inputs)
    path, kind, array = named(name)
    names = ", ".join(inputs.names)
    if array is not None:
        raise InputError(f"{path}:{array}: the arrays have the {whose} names ({names}); give the file's name alone")
    if kind == "npy":
        return SeveralNpySink(path, inputs)
    if kind == "zarr":
        return SeveralZarrSink(path, inputs)
    return SeveralSink(path, "nc" if kind in ("nc", "nc4") else "h5", inputs)


def sink_paths(sink: Sink | None, name: str, inputs: InputRows | None) -> dict[str, Any]:
    """Each file of an output, by its name in messages; ``name`` is that of a single one."""
    if isinstance(sink, SeveralNpySink) and inputs is not None:
        return {f"{name} of {key!r}": path for key, path in zip(inputs.names, sink.outputs, strict=True)}
    return {name: sink}
