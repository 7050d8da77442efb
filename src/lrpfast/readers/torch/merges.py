"""ATen operators that join and combine values, and reduce them; part of the table in `nodes`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...model import layers as L
from ..arithmetic import add, concat, divide, extreme, multiply, negative, power
from ..axis_ops import affine, fixed
from ..channels_first import Flat, Tensor
from ..conditions import compared_value, is_condition, select
from ..file_axes import unsqueeze
from ..mask_arithmetic import mapped, masked_product, masked_sum
from .graph import Stack, TorchNode

Converter = Callable[[TorchNode], Any]

# -- several inputs -----------------------------------------------------------


def _is_value(x: Any) -> bool:
    return isinstance(x, (Tensor, Flat))


def _cat(node: TorchNode) -> Any:
    tensors = [v for v in node.get("tensors") if np.shape(v) != (0,)]  # PyTorch leaves these out, whatever their axes
    values = node.operands(*tensors)
    first = next(v for v in values if not isinstance(v, np.ndarray))
    return concat(node.builder, values, first.axis(node.get("dim", 0)))


def _stack(node: TorchNode) -> Any:
    values = node.operands(*node.get("tensors"))
    first = next(v for v in values if not isinstance(v, np.ndarray))
    dim = node.get("dim", 0) % (first.rank + 1)
    axis = unsqueeze(node.builder, first, dim).axis(dim)
    if all(_is_value(v) for v in values):
        return Stack(tuple(values), dim)
    columns = [
        np.expand_dims(v, axis) if isinstance(v, np.ndarray) else unsqueeze(node.builder, v, dim) for v in values
    ]
    return concat(node.builder, columns, axis)


def _two(node: TorchNode) -> tuple[Any, Any]:
    a, b = node.operands(node.get("self"), node.get("other"))
    return a, b


def _sum_of(sign: int) -> Converter:
    def convert(node: TorchNode) -> Any:
        a, b, factor = node.get("self"), node.get("other"), sign * node.get("alpha", 1)
        result: Any = masked_sum(node, a, b) if factor == 1 else None
        result = mapped(node, a, b, lambda x, y: x + factor * y) if result is None else result
        return add(node.builder, *_two(node), factor) if result is None else result

    return convert


def _rsub(node: TorchNode) -> Any:
    factor = float(node.get("alpha", 1))
    result = mapped(node, node.get("self"), node.get("other"), lambda x, y: y - factor * x)
    if result is not None:
        return result
    a, b = _two(node)
    return add(node.builder, b, a, -factor)


def _mul(node: TorchNode) -> Any:
    a, b = node.get("self"), node.get("other")
    for condition, other in ((a, b), (b, a)):
        if is_condition(condition):
            value = compared_value(condition)
            x, _ = node.operands(other, value)
            return select(node.builder, condition, x, np.array(0.0))
    result: Any = masked_product(node, a, b)
    result = mapped(node, a, b, lambda x, y: x * y) if result is None else result
    return multiply(node.builder, *_two(node)) if result is None else result


def _div(node: TorchNode) -> Any:
    if node.get("rounding_mode") is not None:
        raise node.unsupported("rounds what it divides")
    a, b = node.get("self"), node.get("other")
    if isinstance(b, (int, float)) and (result := masked_product(node, a, 1 / b if b else b)) is not None:
        return result
    return divide(node.builder, *_two(node))


def _power(exponent: float) -> Converter:
    return lambda node: power(node.builder, node.tensor(), exponent)


def _neg(node: TorchNode) -> Any:
    return negative(node.builder, node.tensor())


def _abs(node: TorchNode) -> Any:
    x = node.tensor()
    return node.builder.merge(L.Maximum(), [x, negative(node.builder, x)])


def _pow(node: TorchNode) -> Any:
    exponent = node.get("exponent")
    if not isinstance(exponent, (int, float)):
        raise node.unsupported("raises to powers that are no number")
    return power(node.builder, node.tensor(), float(exponent))


def _extreme(kind: Any) -> Converter:
    return lambda node: extreme(node.builder, kind(), _two(node))


# -- reductions ---------------------------------------------------------------


def _reduction(kind: Any, merge: Any, several: bool = False, negate: bool = False) -> Converter:
    """A mean, sum or largest value over axes; over the axis of a stack it is a merge, if there is one."""

    def convert(node: TorchNode) -> Any:
        x, dim, keep = node.get("self"), node.get("dim"), bool(node.get("keepdim", False))
        if dim is None or dim == []:
            raise node.unsupported("reduces over all axes, the batch's too", "Name the axes")
        dims = dim if isinstance(dim, list) else [dim]
        if (
            merge is not None
            and isinstance(x, Stack)
            and [d % (x.values[0].rank + 1) for d in dims] == [x.axis]
            and not keep
        ):
            result: Any = node.builder.merge(merge(), x.values)
            return (result, None) if several else result
        x = x.unstacked(node.builder) if isinstance(x, Stack) else node.tensor()
        axes = [x.axis(d) for d in dims]
        count = 1 if merge is not L.Add else math.prod(fixed(x, a) for a in axes)
        x = negative(node.builder, x) if negate else x
        result = node.builder.pool_all(x, axes, kind, keep)
        if count != 1 or negate:
            result = affine(node.builder, result, -1.0 if negate else float(count), 0.0)
        return (result, None) if several else result

    return convert


_MEAN, _LARGEST = L.GlobalAveragePool, L.GlobalMaxPool


def _largest(node: TorchNode) -> Any:
    """aten.max: of two tensors, or along an axis."""
    if node.get("other") is not None:
        return _extreme(L.Maximum)(node)
    return _reduction(_LARGEST, L.Maximum, several=True)(node)


def _smallest(node: TorchNode) -> Any:
    if node.get("other") is not None:
        return _extreme(L.Minimum)(node)
    return _reduction(_LARGEST, L.Minimum, several=True, negate=True)(node)


#: Operators of this file, without their overloads.
MERGES: dict[str, Converter] = {
    "aten.cat": _cat,
    "aten.stack": _stack,
    "aten.add": _sum_of(1),
    "aten.sub": _sum_of(-1),
    "aten.rsub": _rsub,
    "aten.mul": _mul,
    "aten.div": _div,
    "aten.subtract": _sum_of(-1),
    "aten.multiply": _mul,
    "aten.divide": _div,
    "aten.true_divide": _div,
    "aten.neg": _neg,
    "aten.abs": _abs,
    "aten.pow": _pow,
    "aten.square": _power(2.0),
    "aten.sqrt": _power(0.5),
    "aten.rsqrt": _power(-0.5),
    "aten.reciprocal": _power(-1.0),
    "aten.maximum": _extreme(L.Maximum),
    "aten.minimum": _extreme(L.Minimum),
    "aten.mean": _reduction(_MEAN, L.Average),
    "aten.sum": _reduction(_MEAN, L.Add),
    "aten.amax": _reduction(_LARGEST, L.Maximum),
    "aten.amin": _reduction(_LARGEST, L.Minimum, negate=True),
    "aten.logsumexp": _reduction(L.GlobalLogSumExp, None),
    "aten.max": _largest,
    "aten.min": _smallest,
}
