"""A PyTorch program as plain records, whether it came from memory or from a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ref:
    """What an earlier operator made, or a parameter, by its name in the program."""

    name: str


#: The two numbers of samples for which a constant that depends on it is computed.
BATCH_SIZES = (3, 5)


@dataclass(frozen=True, eq=False)
class PerBatch:
    """A constant or a size that depends on the number of samples: what it is for each of `BATCH_SIZES`."""

    first: Any
    second: Any

    @property
    def is_batch(self) -> bool:
        """Whether it is the number of samples itself."""
        return isinstance(self.first, int) and (self.first, self.second) == BATCH_SIZES

    def __str__(self) -> str:
        first, second = BATCH_SIZES
        whole = isinstance(self.first, int) and self.first % first == 0 and self.first // first * second == self.second
        times = self.first // first if whole else 0
        return "batch" if times == 1 else f"batch * {times}" if times else "a size that follows from the batch's"


#: The number of samples.
BATCH = PerBatch(*BATCH_SIZES)

#: A size: a number, one that follows from the batch's, or None where the program leaves it open.
Size = int | PerBatch | None


@dataclass(frozen=True)
class Unknown:
    """A constant that could not be computed, and why."""

    error: Exception


def refs(value: Any) -> Iterator[str]:
    """The names that an argument refers to."""
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from refs(v)


@dataclass(frozen=True)
class Op:
    """One call of an operator.

    Attributes
    ----------
    target : str
        As "aten.conv2d.default".
    name : str
        Its node's.
    arguments : mapping
        Those that are given, by the operator's own names for them.
    outputs : tuple of str
        The names of what it makes; several for an operator that returns a tuple or a list.
    module : str
        The path of the nn.Module that calls it; "" for the outermost.
    kind : str
        That module's class, with its package.
    """

    target: str
    name: str
    arguments: Mapping[str, Any]
    outputs: tuple[str, ...]
    module: str = ""
    kind: str = ""

    @property
    def base(self) -> str:
        """The operator without its overload."""
        return ".".join(self.target.split(".")[:2])


@dataclass
class TorchProgram:
    """Operators in order, with what goes in and out."""

    ops: list[Op]
    inputs: list[str]
    outputs: list[str]
    constants: dict[str, np.ndarray]
    #: the sizes of every value, the batch axis included, where they are known
    shapes: dict[str, tuple[Size, ...]] = field(default_factory=dict)
    #: of values with open sizes, each size as a number or an expression of symbols; and the symbols' ranges
    expressions: dict[str, tuple[int | str | None, ...]] = field(default_factory=dict)
    ranges: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    #: what values are: "number", "whole" or "truth"
    kinds: dict[str, str] = field(default_factory=dict)
    #: operators that no other form of the program can replace, each with where it is in the program and the reason
    refused: list[tuple[Op, tuple[int, int], str]] = field(default_factory=list)
    name: str = "model"

    def set_sizes(self, name: str, sizes: Sequence[int | str | None]) -> None:
        """Enter a value's sizes; an expression is an open size until the inputs' sizes are fixed."""
        self.shapes[name] = tuple(n if isinstance(n, int) else None for n in sizes)
        if any(isinstance(n, str) for n in sizes):
            self.expressions[name] = tuple(sizes)
