"""A PyTorch program as plain records, whether it came from memory or from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: A size that is not fixed: the batch's, or one that the program leaves open.
Size = int | None


@dataclass(frozen=True)
class Ref:
    """What an earlier operator made, or a parameter, by its name in the program."""

    name: str


@dataclass(frozen=True)
class Batch:
    """So many times the number of samples, which only the data knows."""

    times: int = 1


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
    name: str = "model"
