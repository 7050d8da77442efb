"""ATen operators that join and combine values, and reduce them; part of the table in `nodes`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...model import layers as L
from ..channels_first import Flat, Tensor
from ..places import affine, constant, fixed
from .graph import Call, Stack

Converter = Callable[[Call], Any]

# -- several inputs -----------------------------------------------------------


def _cat(call: Call) -> Any:
    values = call.get("tensors")
    if any(not isinstance(v, (Tensor, Flat)) for v in values):
        raise call.unsupported("joins constants to values")
    axis = call.axis(call.get("dim", 0), len(values[0].shape))
    return values[0] if len(values) == 1 else call.builder.merge(L.Concat(0), values, axis)


def _stack(call: Call) -> Any:
    values = call.get("tensors")
    if any(not isinstance(v, (Tensor, Flat)) for v in values):
        raise call.unsupported("joins constants to values")
    return Stack(tuple(values), call.axis(call.get("dim", 0), len(values[0].shape) + 1))


def _fitted(call: Call, constant: Any, rank: int) -> np.ndarray:
    """A constant as it meets a sample: without the batch axis, which it must not vary along."""
    array = np.asarray(constant, float)
    if array.ndim > rank + 1 or (array.ndim == rank + 1 and array.shape[0] != 1):
        raise call.unsupported(f"combines a constant of shape {array.shape} with samples of {rank} axes")
    return array[0] if array.ndim == rank + 1 else array


def _affine(call: Call, x: Any, scale: Any, shift: Any) -> Any:
    rank = len(x.shape)
    return affine(call.builder, x, *(_fitted(call, c, rank) for c in (scale, shift)))


def _pair(call: Call) -> tuple[Any, Any]:
    return call.get("self"), call.get("other")


def _is_value(x: Any) -> bool:
    return isinstance(x, (Tensor, Flat))


def _merged(call: Call, kind: Any, a: Any, b: Any) -> Any:
    if len(a.shape) != len(b.shape):
        raise call.unsupported(f"combines samples of shapes {a.shape} and {b.shape}, so that batch axes do not meet")
    return call.builder.merge(kind(), [a, b])


def _sum_of(sign: int) -> Converter:
    def convert(call: Call) -> Any:
        a, b = _pair(call)
        factor = sign * call.get("alpha", 1)
        if not _is_value(b):
            return _affine(call, a, 1.0, np.asarray(b, float) * factor)
        if not _is_value(a):
            return _affine(call, b, float(factor), a)
        if factor not in (1, -1):
            b, factor = _affine(call, b, float(abs(factor)), 0.0), math.copysign(1, factor)
        return _merged(call, L.Add if factor == 1 else L.Subtract, a, b)

    return convert


def _rsub(call: Call) -> Any:
    return _affine(call, call.tensor(), -float(call.get("alpha", 1)), call.get("other"))


def _mul(call: Call) -> Any:
    a, b = _pair(call)
    if not _is_value(b):
        return _affine(call, a, b, 0.0)
    if not _is_value(a):
        return _affine(call, b, a, 0.0)
    return _merged(call, L.Multiply, a, b)


def _div(call: Call) -> Any:
    """By a constant; by what the model computes, a product with the reciprocal."""
    a, b = _pair(call)
    if call.get("rounding_mode") is not None:
        raise call.unsupported("rounds what it divides")
    if not _is_value(b):
        return _affine(call, a, 1 / np.asarray(b, float), 0.0)
    below = _raised(call, b, -1.0)
    return _merged(call, L.Multiply, a, below) if _is_value(a) else _affine(call, below, a, 0.0)


def _raised(call: Call, x: Any, exponent: float) -> Any:
    return call.builder.each(L.Activation("power", {"exponent": exponent}), x)


def _power(exponent: float) -> Converter:
    return lambda call: _raised(call, call.tensor(), exponent)


def _neg(call: Call) -> Any:
    return _affine(call, call.tensor(), -1.0, 0.0)


def _abs(call: Call) -> Any:
    x = call.tensor()
    return call.builder.merge(L.Maximum(), [x, _affine(call, x, -1.0, 0.0)])


def _pow(call: Call) -> Any:
    power = call.get("exponent")
    if not isinstance(power, (int, float)):
        raise call.unsupported("raises to powers that are no number")
    return _raised(call, call.tensor(), float(power))


def _extreme(kind: Any) -> Converter:
    def convert(call: Call) -> Any:
        a, b = (v if _is_value(v) else None for v in _pair(call))
        x: Any = a if b is None else b
        a, b = (
            constant(call.builder, x, _fitted(call, v, len(x.shape))) if made is None else made
            for v, made in zip(_pair(call), (a, b), strict=True)
        )
        return _merged(call, kind, a, b)

    return convert


# -- reductions ---------------------------------------------------------------


def _reduction(kind: Any, merge: Any, several: bool = False, negate: bool = False) -> Converter:
    """A mean, sum or largest value over axes; over the axis of a stack it is a merge."""

    def convert(call: Call) -> Any:
        x, dim, keep = call.get("self"), call.get("dim"), bool(call.get("keepdim", False))
        if dim is None or dim == []:
            raise call.unsupported("reduces over all axes, the batch's too", "Name the axes")
        axes = [call.axis(d, len(x.shape)) for d in (dim if isinstance(dim, list) else [dim])]
        if isinstance(x, Stack) and axes == [x.axis] and not keep:
            made: Any = call.builder.merge(merge(), x.values)
            return (made, None) if several else made
        x = x.unstacked(call.builder) if isinstance(x, Stack) else x
        if not _is_value(x):
            raise call.unsupported("reduces something other than a value of the model")
        count = 1 if merge is not L.Add else math.prod(fixed(x, a) for a in axes)
        x = _affine(call, x, -1.0, 0.0) if negate else x
        made = call.builder.pool_all(x, axes, kind, keep)
        if count != 1 or negate:
            made = _affine(call, made, -1.0 if negate else float(count), 0.0)
        return (made, None) if several else made

    return convert


_MEAN, _LARGEST = L.GlobalAveragePool, L.GlobalMaxPool


def _largest(call: Call) -> Any:
    """aten.max: of two tensors, or along an axis."""
    if call.get("other") is not None:
        return _extreme(L.Maximum)(call)
    return _reduction(_LARGEST, L.Maximum, several=True)(call)


def _smallest(call: Call) -> Any:
    if call.get("other") is not None:
        return _extreme(L.Minimum)(call)
    return _reduction(_LARGEST, L.Minimum, several=True, negate=True)(call)


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
