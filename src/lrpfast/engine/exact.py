"""A digest of everything that determines a result to its last bit: equal digests mean equal results."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from ..errors import RuleError
from ..rules import Rule


class IndistinctError(Exception):
    """A value that cannot be compared, such as an object with a state of its own; the text describes it."""


def exact(value: Any) -> str:
    """32 hexadecimal digits for numbers, texts, arrays, rules, functions, and containers of them.

    A function is represented by its code, defaults and enclosed variables, and by the variables of its module that it
    names; objects of other packages by their names.

    Raises
    ------
    IndistinctError
        When the value contains any other object.
    """
    mark = hashlib.blake2b(digest_size=16)
    try:
        for part in _parts(value, {}):
            mark.update(
                f"{len(part)}:".encode()
            )  # with lengths, so that different sequences of parts differ in their bytes
            mark.update(part)
    except RecursionError:
        raise IndistinctError("an object that holds itself") from None
    return mark.hexdigest()


def _parts(value: Any, numbers: dict[int, int]) -> Iterator[bytes | memoryview]:
    """The bytes that identify a value; ``seen`` numbers the functions so far, which may refer to themselves."""
    if isinstance(value, np.ndarray) and (value.dtype.hasobject or value.dtype.kind == "T"):
        yield from _parts((value.shape, value.tolist()), numbers)
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.ascontiguousarray(value)
        yield f"array {array.dtype.str} {value.shape}".encode()
        yield array.reshape(-1).view(np.uint8).data
    elif value is None or value is Ellipsis or isinstance(value, (bool, int, float, complex, str, bytes)):
        yield f"{type(value).__name__} {value!r}".encode("utf-8", "surrogatepass")
    elif isinstance(value, type):
        yield f"type {value.__module__}.{value.__qualname__}".encode()
    elif isinstance(value, Rule):
        yield from _parts(_of_rule(value), numbers)
    elif is_dataclass(value) and type(value).__module__.split(".")[0] == __name__.split(".")[0]:
        yield from _parts((type(value), *(getattr(value, f.name) for f in fields(value))), numbers)
    elif isinstance(value, (list, tuple, slice)):
        items = list(value) if not isinstance(value, slice) else [value.start, value.stop, value.step]
        yield f"{type(value).__name__} of {len(items)}".encode()
        for item in items:
            yield from _parts(item, numbers)
    elif isinstance(value, (dict, set, frozenset)):
        pairs = value.items() if isinstance(value, dict) else value
        yield f"{type(value).__name__} {sorted(exact(pair) for pair in pairs)}".encode()
    elif isinstance(value, functools.partial):
        yield from _parts(("partial", value.func, value.args, value.keywords), numbers)
    elif isinstance(value, types.MethodType):
        yield from _parts(("method", value.__func__, value.__self__), numbers)
    elif isinstance(value, types.FunctionType):
        yield from _function(value, numbers)
    elif hasattr(value, "__array__") and not callable(value):
        yield from _parts(np.asarray(value), numbers)
    elif (name := _importable(value)) is not None:
        yield f"name {name}".encode()
    else:
        raise IndistinctError(f"a {type(value).__qualname__}")


def _of_rule(rule: Rule) -> tuple[Any, ...]:
    """A rule's parameters and its definition, because another class may have the same name."""
    try:
        groups: Any = rule.groups()
    except RuleError:
        groups = None  # not a rule for layers with weights
    return type(rule), [(f.name, getattr(rule, f.name)) for f in fields(rule)], groups


def _function(function: types.FunctionType, numbers: dict[int, int]) -> Iterator[bytes | memoryview]:
    if id(function) in numbers:
        yield f"function {numbers[id(function)]} again".encode()
        return
    numbers[id(function)] = len(numbers)
    yield from _code(function.__code__, numbers)
    try:
        enclosed = [cell.cell_contents for cell in function.__closure__ or ()]
    except ValueError:
        raise IndistinctError("a function of a variable that has no value yet") from None
    yield from _parts([function.__defaults__, function.__kwdefaults__, enclosed], numbers)
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            named = function.__globals__[name]
            yield name.encode()
            if isinstance(named, types.FunctionType) and _package(named) != _package(function):
                yield f"name {named.__module__}.{named.__qualname__}".encode()
            else:
                yield from _parts(named, numbers)


def _code(code: types.CodeType, numbers: dict[int, int]) -> Iterator[bytes | memoryview]:
    """A function's code without its position in the file."""
    yield code.co_code
    yield from _parts([code.co_names, code.co_varnames, code.co_freevars, code.co_argcount, code.co_flags], numbers)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant, numbers)
        else:
            yield from _parts(constant, numbers)


def _names(code: types.CodeType) -> set[str]:
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*inner)


def _package(function: Callable[..., Any]) -> str:
    return str(function.__module__).split(".")[0]


def _importable(value: Any) -> str | None:
    """The importable name of a module, or of a function that is not written in Python; None for anything else."""
    if inspect.ismodule(value):
        return value.__name__
    owner = getattr(value, "__self__", None)
    if not callable(value) or not (owner is None or inspect.ismodule(owner)):
        return None
    name = getattr(value, "__qualname__", getattr(value, "__name__", None))
    for module in (getattr(value, "__module__", None), "numpy"):  # NumPy's ufuncs do not know their module
        if (
            isinstance(module, str)
            and module != "__main__"
            and getattr(sys.modules.get(module), str(name), None) is value
        ):
            return f"{module}.{name}"
    return None
