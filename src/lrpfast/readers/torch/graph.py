"""The Model of a PyTorch program: its operators one after the other, and the arguments of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ...errors import InputError, ModelFormatError, ShapeError, UnsupportedLayerError
from ...model.graph import Model
from ...model.layers import Concat
from ..arithmetic import Operand
from ..channels_first import Builder, Flat, Tensor, Value
from ..conditions import is_condition
from ..file_axes import Batches, aligned, sample_array, shown, unsqueeze
from ..input_shape import FIX_SIZE, InputShapes, naming_open_sizes
from ..mask_arithmetic import BiasedMask
from ..masks import Condition, Masked
from ..obstacles import Obstacles
from ..untrusted import check_products
from .constants import FOLDS, LAYERS, OF_SAMPLES
from .fold import VIEWS, computed, fold_constants
from .obstacles import obstacle
from .passes import functional, fused, needed
from .patterns import recognised
from .records import Op, PerBatch, Ref, Size, TorchProgram, Unknown, refs
from .sizes import batches_of, fix_sizes, open_shape
from .unrolled import rolled_up


@dataclass(frozen=True)
class Stack:
    """Values side by side on a new axis of the file's, which a sum, mean or maximum over it makes one merge of."""

    values: tuple[Any, ...]
    axis: int

    def unstacked(self, builder: Builder) -> Any:
        """The tensor that it is."""
        parts = [unsqueeze(builder, v, self.axis) for v in self.values]
        return builder.merge(Concat(0), parts, parts[0].axis(self.axis))


#: Operators that take a stack as it is.
_REDUCTIONS = {f"aten.{name}" for name in ("sum", "mean", "amax", "amin", "max", "min")}


class TorchNode:
    """An operator at work: its arguments as values, and the builder that its layers are added to."""

    def __init__(
        self, op: Op, values: Mapping[str, Any], builder: Builder, program: TorchProgram, batches: Batches
    ) -> None:
        self.op, self.builder, self.program, self.batches = op, builder, program, batches
        #: the numbers of the nodes that are inputs of whole numbers
        inputs = (values.get(name) for name in program.inputs if program.kinds.get(name, "number") != "number")
        self.whole = {(v.tensor if isinstance(v, Condition) else v).node for v in inputs if v is not None}
        self._arguments = {name: _resolve(value, values, op) for name, value in op.arguments.items()}
        if op.base not in _REDUCTIONS:
            for name, value in self._arguments.items():
                several = value if isinstance(value, list) else [value]
                if any(isinstance(v, Stack) for v in several):
                    several = [v.unstacked(builder) if isinstance(v, Stack) else v for v in several]
                    self._arguments[name] = several if isinstance(value, list) else several[0]

    def get(self, name: str, default: Any = None) -> Any:
        return self._arguments.get(name, default)

    def with_argument(self, name: str, value: Any) -> TorchNode:
        """The same node with another argument."""
        node = copy(self)
        node._arguments = {**self._arguments, name: value}
        return node

    @property
    def named(self) -> Mapping[str, Any]:
        """The arguments by their names."""
        return self._arguments

    @property
    def is_constant(self) -> bool:
        """Whether the arguments are constants that were found after all others, and numbers."""
        flat = [v for value in self.arguments for v in (value if isinstance(value, list) else [value])]
        arrays = any(isinstance(v, (np.ndarray, PerBatch)) for v in flat)
        return arrays and all(v is None or isinstance(v, (np.ndarray, PerBatch, int, float, str)) for v in flat)

    @property
    def arguments(self) -> list[Any]:
        return list(self._arguments.values())

    def tensor(self, name: str = "self") -> Any:
        """An argument that must be computed from the model's inputs."""
        value = self.get(name)
        if isinstance(value, Condition):
            value = value.number(self.builder)
        if isinstance(value, Masked):
            value = value.number()
        if isinstance(value, BiasedMask):
            value = value.number(self)
        if is_condition(value):
            raise self.unsupported(
                "computes with the result of a comparison, which is a step", "where, masked_fill and products use it"
            )
        if not isinstance(value, (Tensor, Flat)):
            raise self.unsupported(f"takes something other than a value of the model as {name!r}")
        return value

    def constant(self, name: str) -> np.ndarray | None:
        """An argument that must not depend on the model's inputs."""
        value = self.get(name)
        if value is None or isinstance(value, np.ndarray):
            return value
        if isinstance(value, (int, float)):
            return np.asarray(value, float)
        raise self.unsupported(f"computes {name!r} from the model's inputs")

    def sample_array(self, constant: Any, value: Value) -> np.ndarray:
        """A constant as it meets samples: without the batch axis, along which it must not vary."""
        pair = (constant.first, constant.second) if isinstance(constant, PerBatch) else (constant, constant)
        first, second = (a if a.dtype.kind in "fb" else a.astype(float) for a in map(np.asarray, pair))
        if first.ndim > value.rank:
            raise self.unsupported(f"combines a constant of shape {first.shape} with {shown(value)}")
        array = sample_array(value, (first, second), self.batches)
        if array is None:
            raise self.unsupported(
                "combines samples with a constant that differs between samples"
                if isinstance(constant, PerBatch)
                else f"combines a constant of shape {first.shape} with {shown(value)}"
            )
        return array

    def known_pair(self, value: Any) -> Any:
        """A constant for both sizes of the batch; what is none is returned as it is."""
        if isinstance(value, PerBatch):
            return np.asarray(value.first), np.asarray(value.second)
        return (np.asarray(value),) * 2 if isinstance(value, (np.ndarray, int, float)) else value

    def operands(self, *values: Any) -> list[Operand]:
        """Arguments that meet element by element; what is constant is an array without the batch axis."""
        values = tuple(v.number(self.builder) if isinstance(v, Condition) else v for v in values)
        values = tuple(v.number() if isinstance(v, Masked) else v for v in values)
        values = tuple(v.number(self) if isinstance(v, BiasedMask) else v for v in values)
        if any(map(is_condition, values)):
            raise self.unsupported(
                "computes with the result of a comparison, which is a step", "where, masked_fill and products use it"
            )
        tensors = [v for v in values if isinstance(v, (Tensor, Flat))]
        if not tensors:
            raise self.unsupported("combines constants in a way that lrpfast does not compute")
        constants = [v.first if isinstance(v, PerBatch) else v for v in values if not isinstance(v, (Tensor, Flat))]
        if any(not isinstance(v, (np.ndarray, int, float)) for v in constants):
            raise self.unsupported("takes something that is neither a tensor nor a number, such as masked scores")
        tensors = aligned(self.builder, tensors, max((np.ndim(v) for v in constants), default=0))
        rest = iter(tensors)
        return [next(rest) if isinstance(v, (Tensor, Flat)) else self.sample_array(v, tensors[0]) for v in values]

    def pair(self, sizes: Sequence[Any]) -> tuple[list[int], list[int]]:
        """Sizes for both sizes of the batch."""
        if any(not isinstance(n, int) and not (isinstance(n, PerBatch) and isinstance(n.first, int)) for n in sizes):
            raise self.unsupported("makes a shape whose sizes are not fixed", "Only the batch axis may vary")
        first, second = ([n if isinstance(n, int) else (n.first, n.second)[i] for n in sizes] for i in (0, 1))
        return first, second

    def sizes(self, name: str, rank: int, default: Any = 1) -> tuple[int, ...]:
        """One whole number for each spatial axis; one stands for all."""
        value = self.get(name, default)
        values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if not values:
            values = tuple(default) if isinstance(default, (list, tuple)) else (default,)
        values = values * rank if len(values) == 1 else values
        if len(values) != rank or not all(isinstance(v, int) for v in values):
            raise ShapeError(f"{name} must be {rank} whole numbers, not {value!r}")
        return values

    def unsupported(self, problem: str, remedy: str = "") -> UnsupportedLayerError:
        return UnsupportedLayerError(problem + (f". {remedy}" if remedy else ""))


def _resolve(value: Any, values: Mapping[str, Any], op: Op) -> Any:
    if isinstance(value, Ref):
        if value.name not in values:
            raise ModelFormatError(f"node {op.name!r} uses {value.name!r}, which nothing before it makes")
        result = values[value.name]
        if result is _Skipped:
            raise _Skipped
        if isinstance(result, Unknown):
            raise result.error
        return result
    if isinstance(value, (list, tuple)):
        return [_resolve(v, values, op) for v in value]
    return value


# -- the model -------------------------------------------------------------------


def build(
    program: TorchProgram, converters: Mapping[str, Callable[[TorchNode], Any]], input_shape: InputShapes | None = None
) -> Model:
    """The Model of a program.

    Parameters
    ----------
    program : TorchProgram
    converters : mapping
        For each operator without its overload, the function that adds its layers.
    input_shape : InputShapes, optional
        Sizes for axes that the program leaves open.

    Raises
    ------
    UnsupportedLayerError
        When an operator is not among the converters, or is used in a way that lrpfast cannot follow.
    ModelFormatError
        When the program contradicts itself.
    """
    fix_sizes(program, input_shape or {})
    with naming_open_sizes({name: open_shape(program.shapes.get(name, ())) for name in program.inputs}):
        return _build_model(program, converters)


def _by_layers(op: Op, arguments: Mapping[str, Any], converters: Mapping[str, Callable[[TorchNode], Any]]) -> Any:
    """What an operator gives of a constant: what the layers predict that it is read as."""
    name = "input" if isinstance(arguments.get("input"), np.ndarray) else "self"
    constant = arguments[name]
    samples = constant if op.base in OF_SAMPLES else constant[None]
    alone = replace(op, arguments={**arguments, name: Ref("constant")})
    program = TorchProgram([alone], ["constant"], [op.outputs[0]], {}, {"constant": samples.shape})
    model = _build_model(program, converters)
    results, window = len(samples) * math.prod(n or 1 for n in model.output_shape), arguments.get("kernel_size")
    check_products(results, arguments.get("weight") if window is None else window)
    result = model.predict(samples, precision="float64").astype(constant.dtype)
    result = result if op.base in OF_SAMPLES else result[0]
    return [result, *[None] * (len(op.outputs) - 1)] if len(op.outputs) > 1 else result


def _build_model(program: TorchProgram, converters: Mapping[str, Callable[[TorchNode], Any]]) -> Model:
    values, folded = fold_constants(program, partial(_by_layers, converters=converters))
    program = recognised(rolled_up(fused(functional(program, folded)), values), values)
    builder = Builder()
    shapes, masks = program.shapes, _masks(program)
    for name in program.inputs:
        shape = shapes.get(name)
        if not shape:
            raise UnsupportedLayerError(f"input {name!r} has no batch axis")
        sizes = tuple(n if isinstance(n, int) else None for n in shape[1:])
        kind = program.kinds.get(name, "number")
        if name not in masks:
            values[name] = builder.input(name, sizes)
        else:
            values[name] = Condition(builder.input(name, sizes, "truth"), boolean=kind == "truth")
    _convert_all(program, converters, builder, values, shapes)
    results = []
    for name in program.outputs:
        if isinstance(values.get(name), Stack):
            values[name] = values[name].unstacked(builder)
        if is_condition(values.get(name)):
            raise UnsupportedLayerError(f"the model returns {name!r}, a comparison, which cannot be explained")
        if not isinstance(values.get(name), (Tensor, Flat)):
            raise UnsupportedLayerError(f"the model returns {name!r}, which does not depend on its inputs")
        results.append(values[name])
    return builder.model(results, program.name)


#: Operators that make truths of numbers.
_TESTS = {
    f"aten.{name}"
    for name in ("eq", "ne", "lt", "le", "gt", "ge", "logical_not", "bitwise_not", "where", "masked_fill")
}


def _masks(program: TorchProgram) -> set[str]:
    """The inputs that are masks: truths, and whole numbers that are compared or stand beside ids."""
    whole = [name for name in program.inputs if program.kinds.get(name) == "whole"]
    looked_up, tested = set(), set()
    for name in whole:
        names = {name}
        for op in program.ops:
            if names.isdisjoint(ref for value in op.arguments.values() for ref in refs(value)):
                continue
            if op.base == "aten.embedding":
                looked_up.add(name)
            if op.base in _TESTS or op.arguments.get("dtype") == 12 or str(op.arguments.get("dtype")) == "torch.bool":
                tested.add(name)
            if op.base in VIEWS | {"aten.clone", "aten._to_copy"}:
                names.update(op.outputs)
    masks = {name for name in whole if name not in looked_up and (looked_up or name in tested)}
    return masks | {name for name in program.inputs if program.kinds.get(name) == "truth"}


class _Skipped(Exception):
    """An operator uses a value that an obstacle before it keeps from being read."""


def _convert_all(
    program: TorchProgram,
    converters: Mapping[str, Callable[[TorchNode], Any]],
    builder: Builder,
    values: dict[str, Any],
    shapes: Mapping[str, tuple[Size, ...]],
) -> None:
    """Add each operator's layers and enter its results among the values; one error for all that cannot be read."""
    obstacles = Obstacles("operator")
    ops = needed(program)
    for op, (index, count), problem in program.refused:
        error = UnsupportedLayerError(problem)
        obstacles.add(obstacle(op, _where(op, index, count), f"{index} of {count}", error))
    batches = batches_of([shapes[name][0] for name in program.inputs])
    for index, op in enumerate(ops, 1):
        builder.scope = _scope(op)
        location = _where(op, index, len(ops))
        try:
            if op.base not in converters and not op.base.startswith(("_operator.", "math.", "aten.sym_size")):
                raise UnsupportedLayerError("is not among the operators that lrpfast reads (docs/layers.md lists them)")
            result = _convert(TorchNode(op, values, builder, program, batches), converters)
        except MemoryError:
            raise
        except _Skipped:
            result = _Skipped
        except (UnsupportedLayerError, NotImplementedError) as error:
            obstacles.add(obstacle(op, location, f"{index} of {len(ops)}", error))
            result = _Skipped
        except (InputError, ShapeError, ModelFormatError) as error:
            raise ModelFormatError(f"{location}: {error}") from error
        if result is _Skipped:
            values.update(dict.fromkeys(op.outputs, _Skipped))
            continue
        several = result if isinstance(result, (list, tuple)) else [result]
        if len(op.outputs) == 1:
            values[op.outputs[0]] = result
            several = [result]
        else:
            values.update(zip(op.outputs, several, strict=False))
        for name, value in zip(op.outputs, several, strict=False):
            _check_shape(op, shapes.get(name), value, batches)
    obstacles.check()


def _convert(node: TorchNode, converters: Mapping[str, Callable[[TorchNode], Any]]) -> Any:
    op = node.op
    if op.base == "_operator.getitem":
        parts, index = node.arguments
        return parts[index]
    if op.base.startswith(("_operator.", "math.")) or op.base == "aten.sym_size":
        raise UnsupportedLayerError(f"is arithmetic on sizes that are not fixed. {FIX_SIZE}")
    if (op.base in FOLDS or op.base in LAYERS) and node.is_constant:
        return computed(op, node.named, partial(_by_layers, converters=converters))
    return converters[op.base](node)


def _scope(op: Op) -> str:
    """What a layer is named after: its module's path where the module is one layer, else path and node."""
    leaf = op.kind.startswith("torch.nn.modules.") and not op.kind.startswith("torch.nn.modules.container")
    if op.module and leaf:
        return op.module
    return f"{op.module}.{op.name}" if op.module else op.name


def _where(op: Op, index: int, count: int) -> str:
    module = f" in module {op.module!r} ({op.kind.rsplit('.', 1)[-1]})" if op.module else ""
    return f"operator {op.target}, node {op.name!r}{module}, {index} of {count},"


def _check_shape(op: Op, declared: tuple[Size, ...] | None, value: Any, batches: Batches) -> None:
    """The program says itself which shape each value has: whoever read it otherwise made a mistake."""
    if declared is None or not isinstance(value, (Tensor, Flat)):
        return
    sizes = value.sizes(batches[0])
    known = [n.first if isinstance(n, PerBatch) else n for n in declared]
    if len(known) != len(sizes) or any(None not in (m, n) and m != n for m, n in zip(known, sizes, strict=True)):
        declared_shape = f"({', '.join(map(str, declared))})"
        raise ModelFormatError(
            f"node {op.name!r} ({op.target}) makes a tensor of shape {shown(value)}, the program says {declared_shape}"
        )
