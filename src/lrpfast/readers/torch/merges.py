"""ATen operators that join and combine values, and reduce them; part of the table in `nodes`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...model import layers as L
from ..axis_ops import affine, constant, fixed
from ..channels_first import Flat, Tensor
from .graph import Stack, TorchNode

Converter = Callable[[TorchNode], Any]

# -- several inputs -----------------------------------------------------------


def _cat(node: TorchNode) -> Any:
    values = node.get("tensors")
    if any(not isinstance(v, (Tensor, Flat)) for v in values):
        raise node.unsupported("joins constants to values")
    axis = node.axis(node.get("dim", 0), len(values[0].shape))
    return values[0] if len(values) == 1 else node.builder.merge(L.Concat(0), values, axis)


def _stack(node: TorchNode) -> Any:
    values = node.get("tensors")
    if any(not isinstance(v, (Tensor, Flat)) for v in values):
        raise node.unsupported("joins constants to values")
    return Stack(tuple(values), node.axis(node.get("dim", 0), len(values[0].shape) + 1))


def _fitted(node: TorchNode, constant: Any, rank: int) -> np.ndarray:
    """A constant as it meets a sample: without the batch axis, which it must not vary along."""
    array = np.asarray(constant, float)
    if array.ndim > rank + 1 or (array.ndim == rank + 1 and array.shape[0] != 1):
        raise node.unsupported(f"combines a constant of shape {array.shape} with samples of {rank} axes")
    return array[0] if array.ndim == rank + 1 else array


def _affine(node: TorchNode, x: Any, scale: Any, shift: Any) -> Any:
    rank = len(x.shape)
    return affine(node.builder, x, *(_fitted(node, c, rank) for c in (scale, shift)))


def _pair(node: TorchNode) -> tuple[Any, Any]:
    return node.get("self"), node.get("other")


def _is_value(x: Any) -> bool:
    return isinstance(x, (Tensor, Flat))


def _merged(node: TorchNode, kind: Any, a: Any, b: Any) -> Any:
    if len(a.shape) != len(b.shape):
        raise node.unsupported(f"combines samples of shapes {a.shape} and {b.shape}, so that batch axes do not meet")
    return node.builder.merge(kind(), [a, b])


def _sum_of(sign: int) -> Converter:
    def convert(node: TorchNode) -> Any:
        a, b = _pair(node)
        factor = sign * node.get("alpha", 1)
        if not _is_value(b):
            return _affine(node, a, 1.0, np.asarray(b, float) * factor)
        if not _is_value(a):
            return _affine(node, b, float(factor), a)
        if factor not in (1, -1):
            b, factor = _affine(node, b, float(abs(factor)), 0.0), math.copysign(1, factor)
        return _merged(node, L.Add if factor == 1 else L.Subtract, a, b)

    return convert


def _rsub(node: TorchNode) -> Any:
    return _affine(node, node.tensor(), -float(node.get("alpha", 1)), node.get("other"))


def _mul(node: TorchNode) -> Any:
    a, b = _pair(node)
    if not _is_value(b):
        return _affine(node, a, b, 0.0)
    if not _is_value(a):
        return _affine(node, b, a, 0.0)
    return _merged(node, L.Multiply, a, b)


def _div(node: TorchNode) -> Any:
    """By a constant; by what the model computes, a product with the reciprocal."""
    a, b = _pair(node)
    if node.get("rounding_mode") is not None:
        raise node.unsupported("rounds what it divides")
    if not _is_value(b):
        return _affine(node, a, 1 / np.asarray(b, float), 0.0)
    below = _raised(node, b, -1.0)
    return _merged(node, L.Multiply, a, below) if _is_value(a) else _affine(node, below, a, 0.0)


def _raised(node: TorchNode, x: Any, exponent: float) -> Any:
    return node.builder.each(L.Activation("power", {"exponent": exponent}), x)


def _power(exponent: float) -> Converter:
    return lambda node: _raised(node, node.tensor(), exponent)


def _neg(node: TorchNode) -> Any:
    return _affine(node, node.tensor(), -1.0, 0.0)


def _abs(node: TorchNode) -> Any:
    x = node.tensor()
    return node.builder.merge(L.Maximum(), [x, _affine(node, x, -1.0, 0.0)])


def _pow(node: TorchNode) -> Any:
    power = node.get("exponent")
    if not isinstance(power, (int, float)):
        raise node.unsupported("raises to powers that are no number")
    return _raised(node, node.tensor(), float(power))


def _extreme(kind: Any) -> Converter:
    def convert(node: TorchNode) -> Any:
        a, b = (v if _is_value(v) else None for v in _pair(node))
        x: Any = a if b is None else b
        a, b = (
            constant(node.builder, x, _fitted(node, v, len(x.shape))) if made is None else made
            for v, made in zip(_pair(node), (a, b), strict=True)
        )
        return _merged(node, kind, a, b)

    return convert


# -- reductions ---------------------------------------------------------------


def _reduction(kind: Any, merge: Any, several: bool = False, negate: bool = False) -> Converter:
    """A mean, sum or largest value over axes; over the axis of a stack it is a merge."""

    def convert(node: TorchNode) -> Any:
        x, dim, keep = node.get("self"), node.get("dim"), bool(node.get("keepdim", False))
        if dim is None or dim == []:
            raise node.unsupported("reduces over all axes, the batch's too", "Name the axes")
        axes = [node.axis(d, len(x.shape)) for d in (dim if isinstance(dim, list) else [dim])]
        if isinstance(x, Stack) and axes == [x.axis] and not keep:
            made: Any = node.builder.merge(merge(), x.values)
            return (made, None) if several else made
        x = x.unstacked(node.builder) if isinstance(x, Stack) else x
        if not _is_value(x):
            raise node.unsupported("reduces something other than a value of the model")
        count = 1 if merge is not L.Add else math.prod(fixed(x, a) for a in axes)
        x = _affine(node, x, -1.0, 0.0) if negate else x
        made = node.builder.pool_all(x, axes, kind, keep)
        if count != 1 or negate:
            made = _affine(node, made, -1.0 if negate else float(count), 0.0)
        return (made, None) if several else made

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
    "aten.max": _largest,
    "aten.min": _smallest,
}
