"""Einsum as the layers that it is; see `arithmetic.einsum`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arithmetic import einsum
from ..channels_first import Value
from .context import NodeContext
from .fold import FoldedValue


def _einsum(ctx: NodeContext) -> Value:
    operands: list[Any] = [
        np.asarray(ctx.const(i, "constant")) if isinstance(arg, FoldedValue) else ctx.value(i)
        for i, arg in enumerate(ctx.args)
    ]
    return einsum(ctx.builder, ctx.attr("equation"), operands)


#: How each operator is built.
CONTRACTED: dict[str, Callable[[NodeContext], Any]] = {"Einsum": _einsum}
