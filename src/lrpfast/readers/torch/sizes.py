"""Sizes that a PyTorch program does not fix, as numbers for two sizes of the batch."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ...errors import UnsupportedLayerError
from .records import BATCH_SIZES, PerBatch, Size, TorchProgram

#: SymPy's functions of whole numbers, by their names in `srepr`.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Add": lambda *terms: sum(terms),
    "Mul": lambda *factors: math.prod(factors),
    "Pow": lambda base, exponent: base**exponent,
    "FloorDiv": lambda a, b: a // b,
    "CleanDiv": lambda a, b: a // b,
    "Mod": lambda a, b: a % b,
    "PythonMod": lambda a, b: a % b,
    "Max": max,
    "Min": min,
}
#: Longer expressions are none that a network's sizes are.
_LONGEST = 500


def symbol(size: int | str | None) -> str | None:
    """The name of a size that is a symbol and nothing more."""
    tree = _parsed(size)
    return _name(tree) if tree is not None else None


def _parsed(size: int | str | None) -> Any:
    if not isinstance(size, str) or len(size) > _LONGEST:
        return None
    try:
        return ast.parse(size, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _name(tree: Any) -> str | None:
    """The symbol that a call Symbol('s0', positive=True) is."""
    if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "Symbol"):
        return None
    name = tree.args[0] if tree.args else None
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else None


def _value(tree: Any, symbols: Mapping[str, int]) -> int | None:
    if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name)):
        return None
    if tree.func.id == "Integer":
        number, sign = tree.args[0], 1
        if isinstance(number, ast.UnaryOp) and isinstance(number.op, ast.USub):
            number, sign = number.operand, -1
        return sign * number.value if isinstance(number, ast.Constant) and isinstance(number.value, int) else None
    if tree.func.id == "Symbol":
        return symbols.get(_name(tree) or "")
    values = [_value(argument, symbols) for argument in tree.args]
    if tree.func.id not in _FUNCTIONS or None in values or tree.keywords:
        return None
    if any(abs(v) > 2**40 for v in values if v is not None) or (tree.func.id == "Pow" and not 0 <= values[1] <= 8):  # type: ignore[operator]
        return None
    try:
        result = _FUNCTIONS[tree.func.id](*values)
    except (ArithmeticError, TypeError, ValueError):
        return None
    return result if isinstance(result, int) else None


def size_of(size: int | str | None, batch: Iterable[str]) -> Size:
    """A size as a number, or as one for each size of the batch; None where it depends on something else."""
    if size is None or isinstance(size, int):
        return size
    tree = _parsed(size)
    first, second = (_value(tree, dict.fromkeys(batch, n)) for n in BATCH_SIZES)
    if first is None or second is None:
        return None
    return first if first == second else PerBatch(first, second)


def shapes_of(program: TorchProgram) -> dict[str, tuple[Size, ...]]:
    """The shape of every value, the batch axis included."""
    firsts = [program.shapes[name][0] for name in program.inputs if program.shapes.get(name)]
    batch = {name for name in map(symbol, firsts) if name is not None}
    return {key: tuple(size_of(n, batch) for n in shape) for key, shape in program.shapes.items()}


def batches_of(inputs: Sequence[Size]) -> tuple[int, int]:
    """The two sizes of the batch, from the inputs' first axes; twice the same where the program is for one only."""
    fixed = {n for n in inputs if isinstance(n, int)}
    if len(fixed) > 1 or (fixed and len(fixed) != len(set(map(str, inputs)))):
        raise UnsupportedLayerError(f"its inputs have batch axes of different sizes: {sorted(map(str, inputs))}")
    return (n := fixed.pop(), n) if fixed else BATCH_SIZES
