"""The Model of a PyTorch program: its operators one after the other, and the arguments of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError, ModelFormatError, ShapeError, UnsupportedLayerError
from ...model.graph import Model
from ...model.layers import Concat
from ..channels_first import Builder, Flat, Tensor
from ..input_shape import InputShapes, naming_open_sizes
from ..obstacles import Obstacles
from .fold import fold_constants
from .obstacles import obstacle
from .passes import functional, fused, needed
from .records import Op, PerBatch, Ref, Size, TorchProgram, Unknown
from .sizes import fix_sizes


@dataclass(frozen=True)
class Stack:
    """Values side by side on a new axis, which a sum, mean or maximum over that axis makes one merge of."""

    values: tuple[Any, ...]
    axis: int

    @property
    def shape(self) -> tuple[int | None, ...]:
        inner = list(self.values[0].shape)
        return (*inner[: self.axis], len(self.values), *inner[self.axis :])

    def unstacked(self, builder: Builder) -> Any:
        """The tensor that it is."""
        head, tail = slice(0, self.axis), slice(self.axis, None)
        parts = [builder.reshape(v, (*v.shape[head], 1, *v.shape[tail])) for v in self.values]
        return builder.merge(Concat(0), parts, self.axis)


#: Operators that take a stack as it is.
_REDUCTIONS = {f"aten.{name}" for name in ("sum", "mean", "amax", "amin", "max", "min")}


class TorchNode:
    """An operator at work: its arguments as values, and the builder that its layers are added to."""

    def __init__(self, op: Op, values: Mapping[str, Any], builder: Builder, program: TorchProgram, batch: Size) -> None:
        self.op, self.builder, self.program, self.batch = op, builder, program, batch
        self._arguments = {name: _resolve(value, values, op) for name, value in op.arguments.items()}
        if op.base not in _REDUCTIONS:
            for name, value in self._arguments.items():
                several = value if isinstance(value, list) else [value]
                if any(isinstance(v, Stack) for v in several):
                    several = [v.unstacked(builder) if isinstance(v, Stack) else v for v in several]
                    self._arguments[name] = several if isinstance(value, list) else several[0]

    def get(self, name: str, default: Any = None) -> Any:
        return self._arguments.get(name, default)

    @property
    def arguments(self) -> list[Any]:
        return list(self._arguments.values())

    def tensor(self, name: str = "self") -> Any:
        """An argument that must be computed from the model's inputs."""
        value = self.get(name)
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

    def sample_array(self, constant: Any, rank: int) -> np.ndarray:
        """A constant as it meets samples of ``rank`` axes: without the batch axis, along which it must not vary."""
        if isinstance(constant, PerBatch):
            constant = constant.sample_array()
            if constant is None:
                raise self.unsupported("combines samples with a constant that differs between samples")
        array = np.asarray(constant)
        array = array if array.dtype.kind in "fb" else array.astype(float)
        same = array.ndim == rank + 1 and array.shape[0] > 1 and array.shape[0] == self.batch
        if same and bool((array == array[:1]).all()):
            array = array[:1]
        if array.ndim > rank + 1 or (array.ndim == rank + 1 and array.shape[0] != 1):
            raise self.unsupported(f"combines a constant of shape {array.shape} with samples of {rank} axes")
        return array[0] if array.ndim == rank + 1 else array

    def axis(self, dim: int, rank: int) -> int:
        """An axis of a sample of ``rank`` axes, from PyTorch's number of it, which counts the batch axis."""
        if isinstance(dim, bool) or not isinstance(dim, int) or not -rank - 1 <= dim <= rank:
            raise ShapeError(f"it works on axis {dim} of {rank + 1}")
        index = dim % (rank + 1)
        if index == 0:
            raise self.unsupported("works along the batch axis", "Samples must not be mixed")
        return index - 1

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

    def sample_sizes(self, sizes: Sequence[Any], shape: Sequence[Size]) -> tuple[int, ...]:
        """What a reshape makes of a sample: the sizes without the batch axis, which must stay the first."""
        if not sizes:
            raise self.unsupported("leaves no batch axis")
        first, rest = sizes[0], list(sizes[1:])
        if any(not isinstance(n, int) for n in rest):
            raise self.unsupported("makes a shape whose later sizes are not fixed", "Only the batch axis may vary")
        known = None if None in shape else int(np.prod([n for n in shape if n is not None], dtype=np.int64))
        whole = int(np.prod([n for n in rest if n != -1], dtype=np.int64))
        if -1 in rest and known is not None:
            if whole == 0 or known % whole:
                raise ShapeError(f"it cannot make {tuple(sizes)} of samples of shape {tuple(shape)}")
            rest[rest.index(-1)] = known // whole
            whole = known
        is_batch = isinstance(first, PerBatch) and first.is_batch
        if not is_batch and not (isinstance(first, int) and first in (-1, self.batch) and known == whole):
            raise self.unsupported(
                f"joins the batch axis with others: samples of shape {tuple(shape)} become {_described(sizes)}",
                "Keep the batch axis first and whole",
            )
        return tuple(rest)

    def unsupported(self, problem: str, remedy: str = "") -> UnsupportedLayerError:
        return UnsupportedLayerError(problem + (f". {remedy}" if remedy else ""))


def _described(sizes: Iterable[Any]) -> str:
    return f"({', '.join(map(str, sizes))})"


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
    with naming_open_sizes({name: program.shapes.get(name, ())[1:] for name in program.inputs}):
        return _built(program, converters)


def _built(program: TorchProgram, converters: Mapping[str, Callable[[TorchNode], Any]]) -> Model:
    values, folded = fold_constants(program)
    program = fused(functional(program, folded))
    builder = Builder()
    for name in program.inputs:
        shape = program.shapes.get(name)
        if not shape:
            raise UnsupportedLayerError(f"input {name!r} has no batch axis")
        values[name] = builder.input(name, shape[1:])
    _convert_all(program, converters, builder, values)
    results = []
    for name in program.outputs:
        if isinstance(values.get(name), Stack):
            values[name] = values[name].unstacked(builder)
        if not isinstance(values.get(name), (Tensor, Flat)):
            raise UnsupportedLayerError(f"the model returns {name!r}, which does not depend on its inputs")
        results.append(values[name])
    return builder.model(results, program.name)


class _Skipped(Exception):
    """An operator uses a value that an obstacle before it keeps from being read."""


def _convert_all(
    program: TorchProgram,
    converters: Mapping[str, Callable[[TorchNode], Any]],
    builder: Builder,
    values: dict[str, Any],
) -> None:
    """Add each operator's layers and enter its results among the values; one error for all that cannot be read."""
    obstacles = Obstacles("operator")
    ops, batch = needed(program), _batch(program)
    for index, op in enumerate(ops, 1):
        builder.scope = _scope(op)
        location = _where(op, index, len(ops))
        try:
            if op.base not in converters and not op.base.startswith(("_operator.", "math.", "aten.sym_size")):
                raise UnsupportedLayerError("is not among the operators that lrpfast reads (docs/layers.md lists them)")
            result = _convert(TorchNode(op, values, builder, program, batch), converters)
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
            _check_shape(op, program.shapes.get(name), value)
    obstacles.check()


def _convert(node: TorchNode, converters: Mapping[str, Callable[[TorchNode], Any]]) -> Any:
    op = node.op
    if op.base == "_operator.getitem":
        parts, index = node.arguments
        return parts[index]
    if op.base.startswith(("_operator.", "math.")) or op.base == "aten.sym_size":
        raise UnsupportedLayerError("is arithmetic on sizes that are not fixed")
    return converters[op.base](node)


def _batch(program: TorchProgram) -> Size:
    """The number of samples where the program is for one number only."""
    sizes = {program.shapes[name][0] for name in program.inputs if program.shapes.get(name)}
    if len(sizes) > 1:
        raise UnsupportedLayerError(f"its inputs have batch axes of different sizes: {sorted(map(str, sizes))}")
    return sizes.pop() if sizes else None


def _scope(op: Op) -> str:
    """What a layer is named after: its module's path where the module is one layer, else path and node."""
    leaf = op.kind.startswith("torch.nn.modules.") and not op.kind.startswith("torch.nn.modules.container")
    if op.module and leaf:
        return op.module
    return f"{op.module}.{op.name}" if op.module else op.name


def _where(op: Op, index: int, count: int) -> str:
    module = f" in module {op.module!r} ({op.kind.rsplit('.', 1)[-1]})" if op.module else ""
    return f"operator {op.target}, node {op.name!r}{module}, {index} of {count},"


def _check_shape(op: Op, declared: tuple[Size, ...] | None, value: Any) -> None:
    """The program says itself which shape each value has: whoever read it otherwise made a mistake."""
    if declared is None or not isinstance(value, (Tensor, Flat)):
        return
    fits = len(declared) - 1 == len(value.shape)
    fits = fits and all(None in (m, n) or m == n for m, n in zip(declared[1:], value.shape, strict=True))
    if not fits:
        raise ModelFormatError(
            f"node {op.name!r} ({op.target}) makes samples of shape {value.shape}, the program says {declared[1:]}"
        )
