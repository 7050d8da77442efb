"""The layout of a model's inputs and outputs: one row of values for each sample.

Several inputs are adjacent in a row, and so are several outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError, SampleError, ShapeError
from ..kernels import Start
from ..kernels.arrays import module_of, on_device, to_host
from ..model.graph import Model
from ..model.layers import Embedding, Flatten, Input, Permute, RepeatVector, Reshape
from .inputs import as_batch

Shape = tuple[int, ...]


@dataclass(frozen=True)
class IOSlot:
    """One input or output; ``entries`` is the size of the embedding that an input indexes, if any.

    ``is_mask`` says that an input's values are true or false.
    """

    name: str
    shape: Shape
    first: int
    entries: int | None = None
    is_mask: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def _layout(model: Model, nodes: Sequence[int], entries: dict[int, int]) -> tuple[IOSlot, ...]:
    slots: list[IOSlot] = []
    first = 0
    for i in nodes:
        node = model.nodes[i]
        if any(n is None for n in node.shape):
            raise InputError(f"{node}: its shape {node.shape} is open; build the model with a fixed input shape")
        is_mask = isinstance(node.layer, Input) and node.layer.kind == "truth"
        slots.append(IOSlot(node.name, node.shape, first, entries.get(i), is_mask))  # type: ignore[arg-type]
        first += slots[-1].size
    return tuple(slots)


def _embedded(model: Model) -> dict[int, int]:
    """The inputs whose values are indices, with the number of entries of their embedding."""
    source = {i: i for i in model.inputs}  # the input whose values a node passes on, all of them
    entries: dict[int, int] = {}
    for i, node in enumerate(model.nodes):
        moved = node.layer.identity or isinstance(node.layer, (Flatten, Permute, RepeatVector, Reshape))
        if node.inputs and moved and node.inputs[0] in source:
            source[i] = source[node.inputs[0]]
        elif isinstance(node.layer, Embedding) and node.inputs[0] in source:
            at = source[node.inputs[0]]
            entries[at] = min(len(node.layer.table), entries.get(at, len(node.layer.table)))
    return entries


class IOLayout:
    """The inputs and outputs of one model."""

    def __init__(self, model: Model) -> None:
        self.inputs = _layout(model, model.inputs, _embedded(model))
        self.outputs = _layout(model, model.outputs, {})
        #: The shape of one row.
        self.row: Shape = self.inputs[0].shape if len(self.inputs) == 1 else (sum(p.size for p in self.inputs),)
        self.output_row: Shape = (
            self.outputs[0].shape if len(self.outputs) == 1 else (sum(p.size for p in self.outputs),)
        )

    @property
    def several(self) -> bool:
        """Whether there are several inputs."""
        return len(self.inputs) > 1

    def pack(self, x: Any) -> Any:
        """The checked inputs as one array of rows; a single input is not yet cast."""
        if not self.several:
            return self._checked(x, self.inputs[0], "inputs")
        if isinstance(x, Mapping) or not isinstance(x, (list, tuple)) or len(x) != len(self.inputs):
            names = ", ".join(p.name for p in self.inputs)
            description = f"{len(x)}" if isinstance(x, (list, tuple)) else type(x).__name__
            raise InputError(f"the model takes a list of {len(self.inputs)} inputs ({names}), not {description}")
        arrays = [self._checked(a, p, f"input {p.name!r}") for a, p in zip(x, self.inputs, strict=True)]
        if len({len(a) for a in arrays}) > 1:
            counts = ", ".join(f"{p.name}: {len(a)}" for a, p in zip(arrays, self.inputs, strict=True))
            raise ShapeError(f"inputs must have as many samples each, not {counts}")
        rows = [a.reshape(len(a), p.size) for a, p in zip(arrays, self.inputs, strict=True)]
        dtype = np.result_type(np.float32, *(r.dtype for r in rows))
        if len({on_device(r) for r in rows}) > 1:
            raise InputError("some inputs are on a GPU and some are not; put all where they should be used")
        return module_of(rows[0]).concatenate([r.astype(dtype, copy=False) for r in rows], 1)

    @staticmethod
    def _checked(x: Any, port: IOSlot, name: str) -> Any:
        array = as_batch(x, port.shape, name)
        if port.entries is not None:
            with np.errstate(invalid="ignore"):
                wrong = (array != np.floor(array)) | (array < 0) | (array >= port.entries)
            if wrong.any():
                position = tuple(int(i) for i in np.argwhere(to_host(wrong))[0])
                raise SampleError(
                    f"{{where}} of {name} is {array[position]}: an embedding of {port.entries} entries takes "
                    f"whole numbers from 0 to {port.entries - 1}",
                    position[0],
                    position[1:],
                )
        return array

    def unpack(self, rows: np.ndarray) -> Any:
        """Split rows into inputs: an array, or a list of arrays for several inputs."""
        return self._split(rows, self.inputs, rows.ndim - 1)

    def unpack_output(self, rows: np.ndarray) -> Any:
        """Split rows into outputs: an array, or a list of arrays for several outputs."""
        return self._split(rows, self.outputs, 1)

    @staticmethod
    def _split(rows: np.ndarray, ports: Sequence[IOSlot], axis: int) -> Any:
        if len(ports) == 1:
            return rows
        before = rows.shape[:axis]
        contiguous = module_of(rows).ascontiguousarray
        return [contiguous(rows[..., p.first : p.first + p.size]).reshape(*before, *p.shape) for p in ports]

    def output(self, target: Any) -> tuple[IOSlot, Any]:
        """The output that a target selects, and the target in it."""
        if isinstance(target, Mapping):
            if len(target) != 1:
                raise InputError(f"target names one output, as {{name: target}}, not {len(target)}")
            ((key, inner),) = target.items()
            for i, port in enumerate(self.outputs):
                if key == port.name or (isinstance(key, (int, np.integer)) and key == i):
                    return port, inner
            raise InputError(f"the model has no output {key!r}; its outputs are {self._names()}")
        if len(self.outputs) > 1:
            raise InputError(
                f"the model has {len(self.outputs)} outputs; say which to explain, as "
                f"target={{{self.outputs[0].name!r}: 'max'}} or start={self.outputs[0].name!r}; "
                f"the outputs are {self._names()}"
            )
        return self.outputs[0], target

    def _names(self) -> str:
        return ", ".join(repr(p.name) for p in self.outputs)

    def start_in_row(self, start: Start, port: IOSlot) -> Start:
        """A start for one output, in the row of all outputs."""
        if len(self.outputs) == 1:
            return start
        if start.mode in ("max", "all"):
            return Start(start.mode, window=(port.first, port.size))
        if start.mode == "array":
            assert start.array is not None
            rows = np.zeros((len(start.array), start.count, *self.output_row), start.array.dtype)
            rows[..., port.first : port.first + port.size] = start.array.reshape(len(rows), start.count, port.size)
            return Start("array", count=start.count, array=rows, window=(port.first, port.size))
        assert start.targets is not None
        window = (port.first, port.size)
        return Start(start.mode, start.targets + port.first, start.step, start.count, window=window)
