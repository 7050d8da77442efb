"""Einsum as the layers that it is: sums over axes, a dense layer, a product, or a contraction of two tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arithmetic import einsum
from ..channels_first import Value
from .context import NodeContext
from .fold import FoldedValue


def _einsum(ctx: NodeContext) -> Value:
    operands = [
        np.asarray(ctx.const(i, "constant")) if isinstance(arg, FoldedValue) else ctx.value(i)
        for i, arg in enumerate(ctx.args)
    ]
    return einsum(ctx.builder, ctx.attr("equation"), operands)


#: How each operator is built.
CONTRACTED: dict[str, Callable[[NodeContext], Any]] = {"Einsum": _einsum}
