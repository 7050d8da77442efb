"""Operators on constants alone, computed while a program is read: what weights go through before they are used."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...budget import take

Get = Callable[..., Any]


def _sized(*shape: int) -> tuple[int, ...]:
    take(8 * math.prod(shape), f"a constant of shape {shape}")
    return shape


def _same(get: Get) -> Any:
    return get("self", get("input"))


def _reshape(get: Get) -> Any:
    return np.reshape(get("self"), get("size", get("shape")))


def _flatten(get: Get) -> Any:
    a, first, last = get("self"), get("start_dim", 0), get("end_dim", -1)
    first, last = first % a.ndim, last % a.ndim
    return a.reshape(*a.shape[:first], -1, *a.shape[last + 1 :])


def _squeeze(get: Get) -> Any:
    a, dim = get("self"), get("dim")
    if dim is None:
        return np.squeeze(a)
    axes = [d % a.ndim for d in (dim if isinstance(dim, list) else [dim])]
    return np.squeeze(a, tuple(d for d in axes if a.shape[d] == 1))


def _expand(get: Get) -> Any:
    a, size = get("self"), get("size")
    missing = len(size) - a.ndim
    return np.broadcast_to(a, _sized(*(a.shape[i - missing] if n == -1 else n for i, n in enumerate(size))))


def _slice(get: Get) -> Any:
    at = [slice(None)] * get("self").ndim
    at[get("dim", 0)] = slice(get("start"), get("end"), get("step", 1))
    return get("self")[tuple(at)]


def _arange(get: Get) -> Any:
    start, end, step = get("start", 0), get("end"), get("step", 1)
    _sized(max(0, int((end - start) / step)))
    return np.arange(start, end, step)


def _full(value: float | None) -> Callable[[Get], Any]:
    return lambda get: np.full(_sized(*get("size")), get("fill_value") if value is None else value, dtype=float)


def _reduce(function: Callable[..., Any]) -> Callable[[Get], Any]:
    def fold(get: Get) -> Any:
        dim = get("dim")
        axis = tuple(dim) if isinstance(dim, list) else dim
        return function(get("self"), axis=axis, keepdims=bool(get("keepdim", False)))

    return fold


def _both(function: Callable[..., Any]) -> Callable[[Get], Any]:
    def fold(get: Get) -> Any:
        b = get("other")
        return function(get("self"), b if get("alpha", 1) == 1 else b * get("alpha"))

    return fold


def _one(function: Callable[..., Any]) -> Callable[[Get], Any]:
    return lambda get: function(get("self"))


def _weight_norm(get: Get) -> Any:
    v, g, dim = get("v"), get("g"), get("dim", 0)
    axes = tuple(a for a in range(v.ndim) if a != dim % v.ndim)
    return (v * (g / np.sqrt((v.astype(float) ** 2).sum(axes, keepdims=True))),)


def result_bytes(name: str, arrays: list[np.ndarray]) -> int:
    """How many bytes an operator makes of constants, at most."""
    if not arrays:
        return 0
    count = sum(a.size for a in arrays)
    first, other = arrays[0], arrays[-1]
    if name == "aten.index_select":
        count = first.size * other.size // max(min(first.shape, default=1), 1)
    elif name in ("aten.matmul", "aten.mm"):
        count = first.size * other.size // max(first.shape[-1] ** 2, 1) if first.ndim and other.ndim else count
    elif all(n == m or 1 in (n, m) for n, m in zip(first.shape[::-1], other.shape[::-1], strict=False)):
        count = max(count, math.prod(np.broadcast_shapes(first.shape, other.shape)))
    return count * max(a.itemsize for a in arrays)


#: Operators that give back what they are given, when a program is run and not trained.
UNCHANGED = (
    *("clone", "detach", "alias", "contiguous", "to", "_to_copy", "type_as", "lift_fresh_copy"),
    "dropout",
)

#: Each operator without its overload, as a function of its arguments.
FOLDS: dict[str, Callable[[Get], Any]] = {
    **{f"aten.{name}": _same for name in (*UNCHANGED, "lift_fresh")},
    "aten.view": _reshape,
    "aten.reshape": _reshape,
    "aten.flatten": _flatten,
    "aten.squeeze": _squeeze,
    "aten.unsqueeze": lambda get: np.expand_dims(get("self"), get("dim")),
    "aten.expand": _expand,
    "aten.permute": lambda get: np.transpose(get("self"), get("dims")),
    "aten.transpose": lambda get: np.swapaxes(get("self"), get("dim0"), get("dim1")),
    "aten.t": lambda get: np.transpose(get("self")),
    "aten.numpy_T": lambda get: np.transpose(get("self")),
    "aten.slice": _slice,
    "aten.select": lambda get: np.take(get("self"), get("index"), get("dim")),
    "aten.index_select": lambda get: np.take(get("self"), get("index"), get("dim")),
    "aten.cat": lambda get: np.concatenate(get("tensors"), get("dim", 0)),
    "aten.stack": lambda get: np.stack(get("tensors"), get("dim", 0)),
    "aten.arange": _arange,
    "aten.full": _full(None),
    "aten.zeros": _full(0.0),
    "aten.ones": _full(1.0),
    "aten.scalar_tensor": lambda get: np.asarray(get("s")),
    "aten.add": _both(np.add),
    "aten.sub": _both(np.subtract),
    "aten.mul": _both(np.multiply),
    "aten.div": _both(np.true_divide),
    "aten.pow": lambda get: np.power(get("self"), get("exponent")),
    "aten.maximum": _both(np.maximum),
    "aten.minimum": _both(np.minimum),
    "aten.matmul": _both(np.matmul),
    "aten.mm": lambda get: np.matmul(get("self"), get("mat2")),
    "aten.mv": lambda get: np.matmul(get("self"), get("vec")),
    "aten.dot": lambda get: np.dot(get("self"), get("tensor")),
    "aten.vdot": lambda get: np.dot(get("self"), get("other")),
    "aten.flip": lambda get: np.flip(get("self"), get("dims")),
    "aten.neg": _one(np.negative),
    "aten.exp": _one(np.exp),
    "aten.log": _one(np.log),
    "aten.sqrt": _one(np.sqrt),
    "aten.rsqrt": _one(lambda a: 1 / np.sqrt(a)),
    "aten.reciprocal": _one(np.reciprocal),
    "aten.abs": _one(np.abs),
    "aten.tanh": _one(np.tanh),
    "aten.sigmoid": _one(lambda a: 1 / (1 + np.exp(-a))),
    "aten.relu": _one(lambda a: np.maximum(a, 0)),
    "aten.sum": _reduce(np.sum),
    "aten.mean": _reduce(np.mean),
    "aten.amax": _reduce(np.max),
    "aten._weight_norm_interface": _weight_norm,
    "aten._weight_norm": lambda get: _weight_norm(get)[0],
}
