"""Sizes that a PyTorch program leaves open, as expressions of symbols: what they are where the inputs' are fixed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...errors import UnsupportedLayerError
from ..input_shape import InputShapeError, InputShapes, resolve_shapes
from .records import BATCH_SIZES, PerBatch, Size, TorchProgram

#: As SymPy writes an expression out: Add(Symbol('s0', integer=True), Integer(1)).
_TOKEN = re.compile(r"\s*(?:(\w+)\s*\(|(\w+)\s*=\s*\w+|'([^']*)'|(-?\d+)|([,)]))")
_SYMBOL = re.compile(r"Symbol\('(\w+)'[^()]*\)")
#: Longer expressions, and larger sizes, are not worked out.
_LONGEST, _LARGEST = 20_000, 2**40

_FUNCTIONS: dict[str, Callable[..., int]] = {
    "Integer": lambda n: n,
    "Add": lambda *ns: sum(ns),
    "Mul": lambda *ns: math.prod(ns),
    "FloorDiv": lambda a, b: a // b,
    "CleanDiv": lambda a, b: a // b,
    "CeilToInt": lambda n: n,
    "Mod": lambda a, b: a % b,
    "PythonMod": lambda a, b: a % b,
    "Max": max,
    "Min": min,
}


def evaluated(expression: str, symbols: Mapping[str, int]) -> int | None:
    """The number that an expression is; None where a symbol or a function in it is not known."""
    stack: list[tuple[str, list[Any]]] = [("", [])]
    position = 0
    if len(expression) > _LONGEST:
        return None
    while position < len(expression):
        match = _TOKEN.match(expression, position)
        if match is None:
            return None
        position = match.end()
        function, _, text, number, mark = match.groups()
        if function is not None:
            stack.append((function, []))
        elif text is not None:
            stack[-1][1].append(text)
        elif number is not None:
            stack[-1][1].append(int(number) if len(number) < 20 else None)
        elif mark == ")":
            if len(stack) < 2:
                return None
            name, arguments = stack.pop()
            stack[-1][1].append(_applied(name, arguments, symbols))
    results = stack[0][1]
    return results[0] if len(stack) == 1 and len(results) == 1 and isinstance(results[0], int) else None


def _applied(name: str, arguments: list[Any], symbols: Mapping[str, int]) -> int | None:
    if name == "Symbol":
        return symbols.get(arguments[0]) if arguments else None
    if name not in _FUNCTIONS or not all(isinstance(a, int) for a in arguments):
        return None
    try:
        result = _FUNCTIONS[name](*arguments)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return result if abs(result) <= _LARGEST else None


def fix_sizes(program: TorchProgram, shapes: InputShapes) -> None:
    """Fix the sizes of a program's inputs, and of every value whose sizes follow from these and from the batch's."""
    sizes = {name: program.shapes.get(name) for name in program.inputs}
    new_shapes = resolve_shapes({name: open_shape(s) for name, s in sizes.items()}, shapes)
    symbols: dict[str, int] = {}
    for name, shape in zip(sizes, new_shapes, strict=True):
        for expression, n in zip(program.expressions.get(name, ())[1:], shape or (), strict=False):
            symbol = _SYMBOL.fullmatch(str(expression))
            if symbol is not None and n is not None:
                _bind(program, symbols, symbol[1], n, name)
    first = (_SYMBOL.fullmatch(str(program.expressions[name][0])) for name in sizes if program.expressions.get(name))
    batch = {symbol[1] for symbol in first if symbol is not None} - set(symbols)
    for name, expressions in program.expressions.items():
        program.shapes[name] = tuple(_size(e, symbols, batch) if isinstance(e, str) else e for e in expressions)
    for name, shape in zip(sizes, new_shapes, strict=True):
        whole = program.shapes.get(name)
        if whole is None or shape is None:
            continue
        if any(None not in (n, m) and n != m for n, m in zip(whole[1:], shape, strict=False)):
            raise InputShapeError(
                f"input_shape {shape} of input {name!r} contradicts the other sizes, from which {whole[1:]} follows"
            )
        program.shapes[name] = (whole[0], *(m if n is None else n for n, m in zip(whole[1:], shape, strict=True)))


def symbol_of(expression: Size | str) -> str | None:
    """The symbol that an expression is, if it is nothing else."""
    match = _SYMBOL.fullmatch(str(expression))
    return None if match is None else match[1]


def open_shape(shape: Sequence[Size] | None) -> tuple[int | None, ...] | None:
    """A sample's shape; None for sizes that are not fixed."""
    return None if shape is None else tuple(n if isinstance(n, int) else None for n in shape[1:])


def _size(expression: str, symbols: Mapping[str, int], batch: set[str]) -> Size:
    """A size for both sizes of the batch, whose symbols these are."""
    first, second = (evaluated(expression, {**symbols, **dict.fromkeys(batch, n)}) for n in BATCH_SIZES)
    return first if first is None or second is None or first == second else PerBatch(first, second)


def batches_of(inputs: Sequence[Size]) -> tuple[int, int]:
    """The two sizes of the batch, from the inputs' first axes; twice the same where the program is for one only."""
    fixed = {n for n in inputs if isinstance(n, int)}
    if len(fixed) > 1 or (fixed and any(not isinstance(n, int) for n in inputs)):
        raise UnsupportedLayerError(f"its inputs have batch axes of different sizes: {sorted(map(str, inputs))}")
    return (n := fixed.pop(), n) if fixed else BATCH_SIZES


def _bind(program: TorchProgram, symbols: dict[str, int], symbol: str, n: int, name: str) -> None:
    if symbols.setdefault(symbol, n) != n:
        raise InputShapeError(
            f"input_shape has {n} for an axis of input {name!r} and {symbols[symbol]} for another axis; in the program "
            "both have the same size"
        )
    low, high = program.ranges.get(symbol, (None, None))
    if (low is not None and n < low) or (high is not None and n > high):
        limits = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
        raise InputShapeError(
            f"input_shape has {n} for an axis of input {name!r}; the program was exported for sizes of {limits}"
        )
