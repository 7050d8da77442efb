"""How much memory and time an operator on constants takes, counted before it is computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...errors import ModelFormatError
from ..untrusted import MOST_PRODUCTS

#: An entry of a list of results, beyond its values.
_OF_A_PART = 200


def result_bytes(name: str, arguments: Mapping[str, Any]) -> int:
    """How many bytes an operator makes of constants, at most.

    Parameters
    ----------
    name : str
        The operator without its overload.
    arguments : mapping

    Raises
    ------
    ModelFormatError
        When it would take minutes, whatever the memory.
    """
    arrays = [a for value in arguments.values() for a in _arrays(value)]
    if not arrays:
        return 0
    # whole numbers and truths may become float64
    itemsize = max(8 if a.dtype.kind in "iub" else a.itemsize for a in arrays)
    count = _COUNTS[name](arguments, arrays) if name in _COUNTS else _elementwise(arrays)
    return count * itemsize + _parts(name, arguments) * _OF_A_PART


def _arrays(value: Any) -> list[np.ndarray]:
    if isinstance(value, (list, tuple)):
        return [a for v in value for a in _arrays(v)]
    return [value] if isinstance(value, np.ndarray) else []


def _elementwise(arrays: list[np.ndarray]) -> int:
    """All arrays stretched to one shape, or side by side."""
    count = sum(a.size for a in arrays)
    sizes = [a.shape[::-1] for a in arrays]
    rank = max(map(len, sizes))
    columns = [{s[i] for s in sizes if i < len(s)} - {1} for i in range(rank)]
    fits = all(len(column) < 2 for column in columns)
    return max(count, math.prod(n for column in columns for n in column)) if fits else count


def _product(arguments: Mapping[str, Any], arrays: list[np.ndarray]) -> int:
    """A product over the first array's last axis."""
    first, other = arrays[0], arrays[1] if len(arrays) > 1 else arrays[0]
    if not first.ndim or not other.ndim:
        return int(first.size + other.size)
    return int(max(first.size, other.size, first.size * other.size // max(first.shape[-1] ** 2, 1)))


def _outer(arguments: Mapping[str, Any], arrays: list[np.ndarray]) -> int:
    return math.prod(int(a.size) for a in arrays)


def _einsum(arguments: Mapping[str, Any], arrays: list[np.ndarray]) -> int:
    inputs, arrow, output = str(arguments.get("equation", "")).replace(" ", "").partition("->")
    letters = inputs.split(",")
    plain = "." not in inputs and [len(word) for word in letters] == [a.ndim for a in arrays]
    sizes: dict[str, int] = {}
    for word, a in zip(letters if plain else map(str, range(len(arrays))), arrays, strict=True):
        sizes.update(zip(word, a.shape, strict=True) if plain else {word: a.size}.items())
    products = math.prod(sizes.values())
    if products > MOST_PRODUCTS:
        raise ModelFormatError(f"an einsum of constants adds {products:,} products; {MOST_PRODUCTS:,} are the most")
    if not plain:
        return products  # at most
    return math.prod(sizes.get(c, 1) for c in (output if arrow else (c for c in sizes if inputs.count(c) == 1)))


def _index(arguments: Mapping[str, Any], arrays: list[np.ndarray]) -> int:
    """What is picked at every combination of the indices, which stretch to one shape."""
    array: np.ndarray = arguments["self"]
    picked, axis, rest = [], 0, 1
    for index in arguments.get("indices") or ():
        if index is None:
            rest *= array.shape[axis] if axis < array.ndim else 1
            axis += 1
            continue
        index = np.asarray(index)
        truths = index.dtype.kind == "b"
        picked.append(np.broadcast_to(np.int8(0), (int(np.count_nonzero(index)),) if truths else index.shape))
        axis += index.ndim if truths else 1
    return rest * math.prod(array.shape[axis:]) * (_elementwise(picked) if picked else 1)


def _grids(arguments: Mapping[str, Any], arrays: list[np.ndarray]) -> int:
    return len(arrays) * math.prod(a.size for a in arrays)


def _select(arguments: Mapping[str, Any], arrays: list[np.ndarray]) -> int:
    first, other = arrays[0], arrays[-1]
    return first.size * other.size // max(min(first.shape, default=1), 1)


def _narrow(arguments: Mapping[str, Any], arrays: list[np.ndarray]) -> int:
    length = arguments.get("length")
    return int(arrays[0].size) + (length if isinstance(length, int) and length > 0 else 0)


_COUNTS: dict[str, Callable[[Mapping[str, Any], list[np.ndarray]], int]] = {
    **dict.fromkeys(("aten.matmul", "aten.mm", "aten.linear", "aten.mv", "aten.dot", "aten.vdot"), _product),
    "aten.outer": _outer,
    "aten.einsum": _einsum,
    "aten.index": _index,
    "aten.index_select": _select,
    "aten.meshgrid": _grids,
    "aten.narrow": _narrow,
}


def _parts(name: str, arguments: Mapping[str, Any]) -> int:
    """How many arrays an operator returns in a list, at most."""
    array = arguments.get("self")
    several = ("aten.unbind", "aten.split", "aten.split_with_sizes", "aten.chunk")
    return max(array.shape, default=1) if name in several and isinstance(array, np.ndarray) else 0
