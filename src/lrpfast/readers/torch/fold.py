"""Constants that a PyTorch program computes, evaluated before its layers are read.

A constant is whatever does not depend on the values of the model's inputs: weights and what is computed from them,
sizes, masks, positions. Where it depends on the number of samples it is computed for two numbers of them
(`PerBatch`). Operators that change a constant in place change the array here too, and with it every view of it.
Those of `LAYERS` are computed by the layers that they are read as.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ...budget import take
from ...errors import LrpfastError, ModelFormatError, UnsupportedLayerError
from .constants import FOLDS, LAYERS
from .records import Op, PerBatch, Ref, TorchProgram, Unknown, refs
from .result_size import result_bytes

#: Operators that look at a value's shape and element type alone.
_LIKE = {f"aten.{name}" for name in ("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like")}

#: Arithmetic on sizes.
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "mod", "truediv", "neg", "pos")},
    "getitem": operator.getitem,
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
}

#: Of an operator and its arguments: what the layers that it is read as make of them.
ByLayers = Callable[[Op, Mapping[str, Any]], Any]

#: Operators whose result may share memory with their first input.
VIEWS = {
    f"aten.{name}"
    for name in (
        *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "t", "numpy_T"),
        *("expand", "expand_as", "select", "slice", "narrow", "chunk", "split", "split_with_sizes", "unbind"),
        *("detach", "alias", "contiguous", "to", "view_as", "movedim", "swapaxes", "diagonal", "unfold", "dropout"),
        "feature_dropout",
    )
} | {"_operator.getitem"}


def changes_input(op: Op) -> bool:
    """Whether an operator writes into its first argument."""
    return op.base.endswith("_") and not op.base.endswith("__") and op.base != "aten.detach_"


class _Folder:
    """The constants so far, and which of them share memory."""

    def __init__(self, program: TorchProgram, by_layers: ByLayers | None) -> None:
        self.shapes, self.by_layers = program.shapes, by_layers
        self.values: dict[str, Any] = dict(program.constants)
        self.root: dict[str, str] = {}  # of a view: the name of the constant that it shows
        self.read: set[str] = set()  # constants that operators on values have used
        self.overwritten: set[str] = set()  # constants that values were written into

    def root_of(self, name: str) -> str:
        return self.root.get(name, name)

    def visit(self, op: Op) -> bool:
        """Evaluate an operator if it is one of constants; whether it is."""
        names = list(dict.fromkeys(name for value in op.arguments.values() for name in refs(value)))
        if not self._is_constant(op, names):
            self.read.update(self.root_of(name) for name in names if name in self.values)
            if names and changes_input(op):
                self.overwritten.add(self.root_of(names[0]))
            return False
        if names and (op.base in VIEWS or op.base.endswith("_")):
            self.root.update({out: self.root_of(names[0]) for out in op.outputs})
        try:
            result = self._result(op, names)
        except MemoryError:
            raise
        except LrpfastError as error:
            result = Unknown(error)
        except Exception as error:  # arguments that do not fit the operator
            result = Unknown(ModelFormatError(f"its arguments do not fit ({type(error).__name__}: {error})"))
        if names and changes_input(op) and isinstance(result, Unknown):  # nor is what shares its memory known
            root = self.root_of(names[0])
            self.values.update({name: result for name in self.values if self.root_of(name) == root})
        if len(op.outputs) == 1 or isinstance(result, Unknown):
            self.values.update(dict.fromkeys(op.outputs, result))
        else:
            self.values.update(zip(op.outputs, result, strict=False))
        return True

    def _is_constant(self, op: Op, names: list[str]) -> bool:
        if any(self.root_of(name) in self.overwritten for name in names):
            return False
        if op.base in _LIKE:
            return all(name in self.values for name in names[1:])
        if op.base == "aten.sym_size":
            return bool(names) and (names[0] in self.values or self._size(op) is not None)
        base = op.base[:-1] if changes_input(op) else op.base
        known = base in FOLDS or base == "aten.detach_" or (self.by_layers and base in LAYERS)
        known = known or op.base.startswith(("_operator.", "math."))
        return bool(known) and all(name in self.values for name in names)

    def _size(self, op: Op) -> Any:
        """A size of a value of the model, as the program declares it."""
        shape = self.shapes.get(next(refs(op.arguments.get("self")), ""), ())
        dim = op.arguments.get("dim")
        return shape[dim] if isinstance(dim, int) and -len(shape) <= dim < len(shape) else None

    def _result(self, op: Op, names: list[str]) -> Any:
        if op.base == "aten.sym_size" and names[0] not in self.values:
            return self._size(op)
        arguments = {key: self._resolved(value) for key, value in op.arguments.items()}
        if op.base in _LIKE and "self" in arguments and names and names[0] not in self.values:
            arguments["self"] = None
            if "size" not in arguments:
                arguments["size"] = list(self.shapes.get(names[0], ()))
        for value in _flat(arguments.values()):
            if isinstance(value, Unknown):
                return value
        result = computed(op, arguments, self.by_layers)
        return self._written(op, names[0], result) if changes_input(op) else result

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, Ref):
            return self.values.get(value.name)
        if isinstance(value, (list, tuple)):
            return [self._resolved(v) for v in value]
        return value

    def _written(self, op: Op, name: str, result: Any) -> Any:
        """The first argument with the result written into it."""
        target, root = self.values[name], self.root_of(name)
        if root in self.read:
            raise UnsupportedLayerError("changes in place a constant that the model has used before")
        whole, of_each = self.values[root], isinstance(target, PerBatch)
        arrays = [_for_batch(target, i) for i in range(1 + of_each)]
        mixed = of_each != isinstance(whole, PerBatch) or (isinstance(result, PerBatch) and not of_each)
        if mixed or not all(isinstance(array, np.ndarray) for array in arrays):
            raise UnsupportedLayerError("changes in place a constant whose size depends on the number of samples")
        for i, array in enumerate(arrays):
            # NumPy copied where PyTorch does not, or has one value at many places
            if not np.may_share_memory(array, _for_batch(whole, i)) or not array.flags.writeable:
                raise UnsupportedLayerError(
                    "changes in place a view of a constant. Write it without in-place operations"
                )
            array[...] = _for_batch(result, i)
        return target


def computed(op: Op, arguments: Mapping[str, Any], by_layers: ByLayers | None = None) -> Any:
    """What an operator gives of constants, which may depend on the number of samples."""
    if not any(isinstance(v, PerBatch) for v in _flat(arguments.values())):
        return _evaluated(op, arguments, by_layers)
    return _joined(*(_evaluated(op, _for_batch(arguments, i), by_layers) for i in (0, 1)))


def _evaluated(op: Op, arguments: Mapping[str, Any], by_layers: ByLayers | None) -> Any:
    name = op.base.split(".")[1]
    if op.base.startswith(("_operator.", "math.")):
        if name not in _ARITHMETIC:
            raise UnsupportedLayerError("is arithmetic on sizes that lrpfast does not follow")
        return _ARITHMETIC[name](*arguments.values())
    base = op.base[:-1] if changes_input(op) else op.base
    if base == "aten.sym_size":
        return arguments["self"].shape[arguments["dim"]]
    if base == "aten.detach_":
        return arguments["self"]
    if base not in FOLDS and by_layers is not None:
        return by_layers(op, arguments)
    take(result_bytes(base, arguments), "its result")
    return FOLDS[base](lambda key, default=None: arguments[key] if arguments.get(key) is not None else default)


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _flat(value)
        else:
            yield value


def _for_batch(value: Any, i: int) -> Any:
    """The arguments for the first or the second number of samples."""
    if isinstance(value, PerBatch):
        return (value.first, value.second)[i]
    if isinstance(value, dict):
        return {key: _for_batch(v, i) for key, v in value.items()}
    return [_for_batch(v, i) for v in value] if isinstance(value, (list, tuple)) else value


def _joined(first: Any, second: Any) -> Any:
    """What an operator gives for both numbers of samples as one result."""
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            raise UnsupportedLayerError("gives as many parts as the number of samples says")
        return [_joined(a, b) for a, b in zip(first, second, strict=True)]
    same = np.shape(first) == np.shape(second) and np.array_equal(first, second)
    return first if same else PerBatch(first, second)


def run(program: TorchProgram, ops: Iterable[Op], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """What operators compute of values that are all known; None where one cannot be computed so.

    Arrays of floats are in double precision; what depends on the number of samples is for the first of `BATCH_SIZES`.
    """
    folder = _Folder(program, None)
    for name, value in values.items():
        array = value.first if isinstance(value, PerBatch) else value
        whole = isinstance(array, np.ndarray) and array.dtype.kind == "f"
        folder.values[name] = array.astype(np.float64) if whole else array
    for op in ops:
        if not folder.visit(op) or any(isinstance(folder.values[name], Unknown) for name in op.outputs):
            return None
    return folder.values


def fold_constants(program: TorchProgram, by_layers: ByLayers | None = None) -> tuple[dict[str, Any], set[str]]:
    """The values of a program's constants, and the names of the operators that compute them."""
    folder = _Folder(program, by_layers)
    return folder.values, {op.name for op in program.ops if folder.visit(op)}
