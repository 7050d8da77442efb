"""One-hot codes of whole numbers: OneHot, and Equal with one constant for each code, as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...budget import take as count
from ..channels_first import Tensor, Value
from ..file_axes import aligned, permute, squeeze
from ..masks import is_whole
from .context import NodeContext
from .file import Node
from .fold import FoldedValue, whole
from .values import Integers


def makes_codes(node: Node, names: set[str], constants: Mapping[str, np.ndarray]) -> bool:
    """Whether a node makes one-hot codes of one of these values."""
    if node.op == "OneHot":
        return node.inputs[0] in names
    if node.op != "Equal":
        return False
    sizes = [constants[name].size for name in node.inputs if name not in names and name in constants]
    return bool(sizes) and max(sizes) > 1


def codes(ctx: NodeContext, value: Value, numbers: FoldedValue) -> Value:
    """1 where whole numbers equal a constant, for several constants along one axis, and 0 elsewhere."""
    (value,) = aligned(ctx.builder, [value], numbers.first.ndim)
    array = ctx.sample_array(numbers, value)
    varying = [axis for axis, n in enumerate(array.shape) if n > 1]
    flat = array.ravel()
    if (
        len(varying) != 1
        or value.shape[varying[0]] != 1
        or not (np.isfinite(flat).all() and (flat == np.floor(flat)).all() and flat.min() >= 0)
    ):
        raise ctx.unsupported(
            "compares whole numbers with several constants", "It works with one, and with one for each one-hot code"
        )
    dim = next(i for i, axis in enumerate(value.batch.axes(len(value.shape))) if axis == (varying[0],))
    rows = int(flat.max()) + 1
    count(8 * rows * flat.size, f"a table of {rows} x {flat.size} one-hot codes")
    table = (np.arange(rows)[:, None] == flat).astype(np.float64)
    return _looked_up(ctx, table, squeeze(ctx.builder, value, [dim]), dim)


def _one_hot(ctx: NodeContext) -> Value:
    indices, axis = ctx.args[0], ctx.attr("axis", -1)
    depth = int(whole(ctx.const(1, "depth"), "depth").ravel()[0])
    off, on = np.asarray(ctx.const(2, "values"), np.float64).ravel().tolist()
    value: Any = indices.value if isinstance(indices, Integers) else ctx.value()
    if not isinstance(indices, Integers) and not (
        isinstance(value, Tensor) and is_whole(ctx.builder, value, ctx.whole)
    ):
        raise ctx.unsupported("makes one-hot codes of what the model computes, which rounds it")
    count(8 * depth * depth, f"a table of {depth} x {depth} one-hot codes")
    table = np.where(np.eye(depth, dtype=bool), on, off)
    return _looked_up(ctx, table, value, axis % (value.rank + 1))


def _looked_up(ctx: NodeContext, table: np.ndarray, value: Value, dim: int) -> Value:
    """Rows of the table, on an axis that is put in at ``dim``."""
    result = ctx.builder.embedding(table, value)
    dims = list(range(result.rank - 1))
    return permute(ctx.builder, result, [*dims[:dim], result.rank - 1, *dims[dim:]])


#: How each operator is built.
ONE_HOT = {"OneHot": _one_hot}
