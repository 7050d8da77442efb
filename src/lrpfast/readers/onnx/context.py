"""One node while it is built: its inputs and attributes, each checked where it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...errors import ModelFormatError, UnsupportedLayerError
from ..axis_ops import affine
from ..channels_first import Builder, Flat, Tensor, Value
from ..conditions import is_condition
from ..file_axes import aligned, sample_array, shown
from ..mask_arithmetic import BiasedMask
from ..masks import Condition, Masked
from .file import Node
from .fold import FoldedValue, integers
from .values import Integers, Quantized, Scaled, ZeroPoint

#: Attributes that change nothing at inference, or say what is known anyway.
_HARMLESS = {
    "Dropout": {"ratio", "seed", "is_test"},
    "BatchNormalization": {"momentum", "spatial", "is_test"},
    "MaxPool": {"storage_order"},
    **dict.fromkeys(("Cast", "CastLike"), {"saturate", "round_mode"}),
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
    #: the numbers of the builder's nodes that are inputs, and of those of whole numbers
    inputs: set[int]
    whole: set[int]
    read: set[str] = field(default_factory=set)

    def run(self, build: Callable[[NodeContext], Any]) -> list[Any]:
        """The node's outputs; UnsupportedLayerError where an attribute was not understood."""
        rank = self.attr("rank*", 0)  # of the constants in what this node stands for
        if rank and any(rank > arg.rank for arg in self.args if isinstance(arg, (Tensor, Flat))):
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

    def with_first(self, value: Any) -> NodeContext:
        """The same node with another first input."""
        return replace(self, args=[value, *self.args[1:]])

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
        return self.checked(self.args[i], i)

    def checked(self, arg: Any, i: int = 0) -> Value:
        """A value that the model computes."""
        if isinstance(arg, Condition):
            return arg.number(self.builder)
        if isinstance(arg, Masked):
            return arg.number()
        if isinstance(arg, BiasedMask):
            return arg.number(self)
        if isinstance(arg, Integers):
            raise self.unsupported(f"computes with whole numbers: {arg.problem}")
        if is_condition(arg):
            raise self.unsupported(
                "computes with the result of a comparison, which is a step", "Where, Mul, And, Or, Xor and Not use it"
            )
        if isinstance(arg, (Quantized, Scaled, ZeroPoint)):
            raise self.unsupported("computes with quantized numbers, before DequantizeLinear")
        if not isinstance(arg, (Tensor, Flat)):
            raise self.unsupported(
                f"takes a constant as input {i}, where lrpfast expects what the model computes",
                "onnxsim or onnxruntime's basic optimizations may simplify the model",
            )
        return arg

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
        return self.fixed(self.known(i, label), label)

    def fixed(self, known: FoldedValue, label: str) -> Any:
        """A constant that is the same for every size of the batch."""
        if not known.fixed:
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

    def sample_array(self, constant: Any, value: Value) -> np.ndarray:
        """A constant as it meets samples of a value: without the batch axis, and with all others."""
        known = constant if isinstance(constant, FoldedValue) else FoldedValue(*2 * (np.asarray(constant),))
        if known.first.dtype.kind not in "fiub":
            raise ModelFormatError(f"a constant of it has elements of {known.first.dtype}")
        fits = known.first.ndim <= value.rank
        array = sample_array(value, (known.first, known.second), self.batches) if fits else None
        if array is None and not known.fixed:
            raise self.unsupported("has a constant that depends on the batch size")
        if array is None:
            raise self.unsupported(f"joins a constant of shape {known.first.shape} to a tensor of shape {shown(value)}")
        return array

    def known_pair(self, value: Any) -> Any:
        """A constant for both sizes of the batch; what is none is returned as it is."""
        return (value.first, value.second) if isinstance(value, FoldedValue) else value

    def operands(self, *args: Any) -> list[Any]:
        """Arguments that meet element by element, all by default: values of as many axes, and arrays of a sample's."""
        args = args or tuple(self.args)
        tensors = [self.checked(arg) for arg in args if not isinstance(arg, FoldedValue)]
        if not tensors:
            return [np.asarray(self.fixed(arg, "constant")) for arg in args]
        values = aligned(
            self.builder, tensors, max((a.first.ndim for a in args if isinstance(a, FoldedValue)), default=0)
        )
        rest = iter(values)
        return [self.sample_array(a, values[0]) if isinstance(a, FoldedValue) else next(rest) for a in args]

    def affine(self, x: Value, scale: Any, shift: Any) -> Value:
        """x · scale + shift, with constants as the file has them; what is smaller is stretched to what is larger."""
        scale, shift = np.asarray(scale), np.asarray(shift)
        (x,) = aligned(self.builder, [x], max(scale.ndim, shift.ndim))
        return affine(self.builder, x, *(self.sample_array(a, x) for a in (scale, shift)))
