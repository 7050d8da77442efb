"""What an operation of a program is, and the row that tells backends what they must know of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

Buffers = tuple["int | None", ...]
#: of an operation, the sizes of the buffers that it reads, and of those that it writes
Check = Callable[[Any, Sequence[int], Sequence[int]], None]
T = TypeVar("T")


class Operation:
    """An operation of a program; each class has a row in `ops`."""


def require(condition: object, operation: object, reason: str) -> None:
    """Raise ValueError with the operation's name and the reason where the condition does not hold."""
    if not condition:
        raise ValueError(f"{type(operation).__name__}: {reason}")


@dataclass(frozen=True)
class Row:
    """What backends know of an operation.

    Attributes
    ----------
    kernel : str
        Its kernel's name, and what it is called in the backends' tables.
    buffers : callable
        (read, written) by an operation, in the kernels' order; None where it has no such buffer.
    check : callable
        Raises ValueError where an operation does not fit the buffers' sizes.
    arguments : callable
        What an operation's kernel takes besides: fields of `Operation` in `_cpu.pxd` and of `Light` in `light.cu`.
    overflows : bool
        Whether a backend must check that the output is finite in the forward pass; other kernels check by themselves.
    keeps : bool
        Whether values of the output that it does not write stay as they are.
    """

    kernel: str
    buffers: Callable[[Any], tuple[Buffers, Buffers]]
    check: Callable[[Any, Sequence[int]], None]
    arguments: Callable[[Any], dict[str, Any]]
    overflows: bool = False
    keeps: bool = False


#: All operations.
ROWS: dict[type[Operation], Row] = {}


def row_of(operation: Operation) -> Row:
    """An operation's row."""
    row = ROWS.get(type(operation))
    if row is None:
        raise ValueError(
            f"{type(operation).__name__} is not an operation of a program: it has no row in kernels/ops.py"
        )
    return row


def snake_case(name: str) -> str:
    """A class's name as kernels have it: ``SoftmaxBack`` is ``softmax_back``, ``MaskNaN`` is ``mask_nan``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])(?!N$)", "_", name).lower()


def no_arguments(operation: Any) -> dict[str, Any]:
    """For kernels that take nothing but buffers."""
    return {}


def light(
    reads: tuple[str, ...],
    writes: tuple[str, ...],
    check: Check,
    arguments: Callable[[Any], dict[str, Any]] = no_arguments,
    *,
    overflows: bool = False,
    in_place: bool = False,
    keeps: bool = False,
) -> Callable[[type[T]], type[T]]:
    """Give a light operation its row; ``reads`` and ``writes`` name fields that hold buffers.

    A record may have ``sources``, any number of further buffers, and ``columns``, the values of one row. ``in_place``
    says that the output may be a buffer that is read.
    """

    def buffers(operation: Any) -> tuple[Buffers, Buffers]:
        read, written = (tuple(buffer_of(operation, name) for name in names) for names in (reads, writes))
        return (*read, *getattr(operation, "sources", ())), written

    def check_all(operation: Any, sizes: Sequence[int]) -> None:
        read, written = ([b for b in numbers if b is not None] for numbers in buffers(operation))
        _check_buffers(operation, read, written, in_place)
        check(operation, [sizes[b] for b in read], [sizes[b] for b in written])

    def add_row(cls: type[T]) -> type[T]:
        assert issubclass(cls, Operation)
        ROWS[cls] = Row(snake_case(cls.__name__), buffers, check_all, arguments, overflows, keeps)
        return cls

    return add_row


def buffer_of(operation: Any, name: str) -> int | None:
    """The buffer in a field; None where the field holds none, or an array in its place."""
    value = getattr(operation, name)
    return None if value is None or isinstance(value, np.ndarray) else int(value)


def _check_buffers(operation: Any, read: Sequence[int], written: Sequence[int], in_place: bool) -> None:
    """What holds of all light operations."""
    require(getattr(operation, "columns", 1) > 0, operation, "no columns")
    if hasattr(operation, "sources"):
        require(written[0] not in operation.sources[1:], operation, "only the first source may be the output")
    elif not in_place:
        require(not set(read) & set(written), operation, "the output may not be a source")
