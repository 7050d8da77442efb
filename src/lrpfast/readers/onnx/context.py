"""One node while it is built: its inputs and attributes, each checked where it is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import ModelFormatError, ShapeError, UnsupportedLayerError
from ..axis_ops import affine
from ..channels_first import Builder, Flat, Tensor, Value
from ..conditions import is_condition
from .file import Node
from .fold import FoldedValue, integers
from .values import Integers, Quantized, Rows

#: Attributes that change nothing at inference, or say what is known anyway.
_HARMLESS = {
    "Dropout": {"ratio", "seed", "is_test"},
    "BatchNormalization": {"momentum", "spatial", "is_test"},
    "MaxPool": {"storage_order"},
    "Cast": {"saturate", "round_mode"},
    "LayerNormalization": {"stash_type"},
    "RMSNormalization": {"stash_type"},
}


@dataclass
class NodeContext:
    """One node while it is built: its inputs' values, and which attributes were read."""

    node: Node
    args: list[Any]
    builder: Builder
    opset: int
    batches: tuple[int, int]
    inputs: set[int]
    read: set[str] = field(default_factory=set)

    def run(self, build: Callable[[NodeContext], Any]) -> list[Any]:
        """The node's outputs; UnsupportedLayerError where an attribute was not understood."""
        rank = self.attr("rank*", 0)  # of the constants in what this node stands for
        if rank and any(rank > len(arg.shape) + 1 for arg in self.args if isinstance(arg, (Tensor, Flat))):
            raise self.unsupported(f"combines constants of {rank} axes with an input of fewer, so that batch axes move")
        result = build(self)
        unread = set(self.node.attributes) - self.read - _HARMLESS.get(self.node.op, set())
        if unread:
            name = min(unread)
            raise self.node.unsupported(
                f"has the attribute {name!r} of {self.node.attributes[name]!r}, which lrpfast does not follow",
                "Export the model without it",
            )
        return result if isinstance(result, list) else [result]

    def unsupported(self, problem: str, remedy: str = "") -> UnsupportedLayerError:
        return self.node.unsupported(problem, remedy)

    def attr(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return self.node.attributes.get(name, default)

    def has(self, i: int) -> bool:
        return len(self.args) > i and self.args[i] is not None

    def value(self, i: int = 0) -> Value:
        """An input that the model computes."""
        if not self.has(i):
            raise ModelFormatError(f"its input {i} is missing")
        arg = self.args[i]
        if isinstance(arg, Integers):
            raise self.unsupported(f"computes with whole numbers: {arg.problem}")
        if is_condition(arg):
            raise self.unsupported(
                "computes with the result of a comparison, which is a step", "Where, Mul, And, Or, Xor and Not use it"
            )
        if isinstance(arg, Quantized):
            raise self.unsupported("computes with quantized numbers, before DequantizeLinear")
        if isinstance(arg, Rows):
            raise self.unsupported("takes rows that a Reshape joined with the batch, which do not fit it")
        if not isinstance(arg, (Tensor, Flat)):
            raise self.unsupported(
                f"takes a constant as input {i}, where lrpfast expects what the model computes",
                "onnxsim or onnxruntime's basic optimizations may simplify the model",
            )
        return arg

    def operands(self, indices: Sequence[int] | None = None) -> list[Value | np.ndarray]:
        """Inputs that meet element by element, all of them by default; constants without a batch axis."""
        numbers = range(len(self.args)) if indices is None else indices
        ranks = [len(self.value(i).shape) for i in numbers if not isinstance(self.args[i], FoldedValue)]
        result: list[Value | np.ndarray] = []
        for i in numbers:
            if not isinstance(self.args[i], FoldedValue):
                result.append(self.value(i))
                continue
            array = np.asarray(self.const(i, "constant"))
            result.append(self.sample(array, max(ranks, default=array.ndim)))
        return result

    def known(self, i: int, label: str) -> FoldedValue:
        if not self.has(i):
            raise ModelFormatError(f"its {label} is missing")
        arg = self.args[i]
        if not isinstance(arg, FoldedValue):
            raise self.unsupported(f"computes its {label} from the model's input; lrpfast needs a constant")
        return arg

    def const(self, i: int, label: str, default: Any = None) -> Any:
        """An input that is a constant; the default where it is left out."""
        if not self.has(i) and default is not None:
            return default
        known = self.known(i, label)
        if not known.fixed:
            first, second = known.first, known.second  # one sample's values, stretched over the batch?
            if (first.shape[:1], second.shape[:1]) == tuple((n,) for n in self.batches):
                row = first[:1]
                if all(np.array_equal(a, np.broadcast_to(row, a.shape)) for a in (first, second)):
                    return row
            raise self.unsupported(f"has a {label} that depends on the batch size")
        return known.first

    def maybe(self, i: int, label: str) -> np.ndarray | None:
        return self.const(i, label) if self.has(i) else None

    def number(self, i: int, label: str, default: Any = None) -> Any:
        """An input that is one number, as a float; the default where it is left out."""
        if not self.has(i):
            return default
        array = self.const(i, label)
        if array.size != 1 or array.dtype.kind not in "fiu":
            raise ModelFormatError(f"its {label} is an array of {array.dtype} and shape {array.shape}, not one number")
        return float(array.ravel()[0])

    def ints(self, name: str, i: int) -> tuple[int, ...] | None:
        """Whole numbers, which are an attribute or, in later versions, an input."""
        if self.has(i):
            return integers(self.const(i, name), name)
        numbers: tuple[int, ...] | None = self.attr(name)
        return numbers

    def axis(self, axis: int, rank: int | None = None) -> int:
        """An axis of one sample, of the file's axis."""
        rank = len(self.value().shape) + 1 if rank is None else rank
        if not -rank <= axis < rank:
            raise ShapeError(f"its input has {rank} axes, there is no axis {axis}")
        if axis % rank == 0:
            raise self.unsupported("works along the first axis, which is the batch's", "Samples must not mix")
        return axis % rank - 1

    def sample(self, array: np.ndarray, rank: int) -> np.ndarray:
        """A constant for one sample of so many axes: without the batch axis."""
        if array.dtype.kind not in "fiub":
            raise ModelFormatError(f"a constant of it has elements of {array.dtype}")
        if array.ndim > rank:
            if array.ndim > rank + 1 or array.shape[0] != 1:
                raise self.unsupported(f"joins a constant of shape {array.shape} to samples of {rank} axes")
            array = array[0]
        return array

    def affine(self, x: Value, scale: Any, shift: Any) -> Value:
        """x · scale + shift, with constants as the file has them; what is smaller is stretched to what is larger."""
        rank = len(x.shape)
        return affine(self.builder, x, *(self.sample(np.asarray(a), rank) for a in (scale, shift)))
