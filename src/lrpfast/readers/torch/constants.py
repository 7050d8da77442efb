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


def _along(get: Get, part: int | slice) -> Any:
    """A part of one axis, as a view: what changes it changes the array."""
    at: list[Any] = [slice(None)] * get("self").ndim
    at[get("dim", 0)] = part
    return get("self")[(*at, ...)]


def _unfold(get: Get) -> Any:
    windows = np.lib.stride_tricks.sliding_window_view(get("self"), get("size"), get("dimension"))
    at = [slice(None)] * (windows.ndim - 1)
    at[get("dimension")] = slice(None, None, get("step"))
    return windows[tuple(at)]


def _slice(get: Get) -> Any:
    return _along(get, slice(get("start"), get("end"), get("step", 1)))


def dtype_of(dtype: Any, default: Any = None) -> Any:
    """NumPy's dtype of PyTorch's, which a file numbers; bfloat16 is widened."""
    if dtype is None:
        return None if default is None else np.dtype(default)
    name = _DTYPES.get(dtype) if isinstance(dtype, int) else str(dtype).removeprefix("torch.")
    return np.dtype("float32" if name == "bfloat16" else name)


#: Element types by the numbers that files have for them.
_DTYPES = {
    **{1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64"},
    **{12: "bool", 13: "bfloat16"},
}


def _to(get: Get) -> Any:
    a, dtype = np.asarray(get("self", get("input"))), dtype_of(get("dtype"))
    if dtype is None and isinstance(get("other"), np.ndarray):
        dtype = get("other").dtype
    return a if dtype is None else a.astype(dtype, copy=False)


def _whole(*values: Any) -> bool:
    return all(isinstance(v, (int, np.integer)) for v in values)


def _arange(get: Get) -> Any:
    start, end, step = get("start", 0), get("end"), get("step", 1)
    _sized(max(0, math.ceil((end - start) / step)))
    return np.arange(start, end, step, dtype=dtype_of(get("dtype"), "int64" if _whole(start, end, step) else "float32"))


def _linspace(get: Get) -> Any:
    _sized(get("steps"))
    return np.linspace(get("start"), get("end"), get("steps"), dtype=dtype_of(get("dtype"), "float32"))


def _eye(get: Get) -> Any:
    rows = get("n")
    return np.eye(*_sized(rows, get("m", rows)), dtype=dtype_of(get("dtype"), "float32"))


def _full(value: float | None) -> Callable[[Get], Any]:
    """An array of one value, of a size of its own or of another array's."""

    def fold(get: Get) -> Any:
        number = get("fill_value") if value is None else value
        default = "float32" if value is not None or isinstance(number, float) else np.asarray(number).dtype
        size, like = get("size"), get("self")
        if isinstance(like, np.ndarray):
            size, default = like.shape if size is None else size, like.dtype
        return np.full(_sized(*size), number, dtype=dtype_of(get("dtype"), default))

    return fold


def _where(get: Get) -> Any:
    return np.where(get("condition"), get("self"), get("other"))


def _index(get: Get) -> Any:
    index: Any = tuple(slice(None) if i is None else i for i in get("indices"))
    return get("self")[index]


def _index_put(get: Get) -> Any:
    result = get("self").copy()
    index: Any = tuple(slice(None) if i is None else i for i in get("indices"))
    if get("accumulate", False):
        np.add.at(result, index, get("values"))
    else:
        result[index] = get("values")
    return result


def _repeat(get: Get) -> Any:
    times = get("repeats", get("dims"))
    _sized(get("self").size, *times)
    return np.tile(get("self"), times)


def _roll(get: Get) -> Any:
    dims = get("dims") or None
    return np.roll(get("self"), get("shifts") if dims else get("shifts")[0], dims)


def _split(get: Get) -> list[Any]:
    a, axis, sizes = get("self"), get("dim", 0), get("split_sizes", get("split_size"))
    if get("chunks") is not None:
        sizes = -(-a.shape[axis] // get("chunks"))
    ends = range(sizes, a.shape[axis], sizes) if isinstance(sizes, int) else np.cumsum(sizes)[:-1]
    return np.split(a, list(ends), axis)


def _unbind(get: Get) -> list[Any]:
    return list(np.moveaxis(get("self"), get("dim", 0), 0))


def _clamp(get: Get) -> Any:
    low, high = get("min"), get("max")
    return get("self") if low is high is None else np.clip(get("self"), low, high)


def _linear(get: Get) -> Any:
    product = get("input") @ get("weight").T
    return product if get("bias") is None else product + get("bias")


def _softmax(get: Get) -> Any:
    a = np.exp(get("self") - get("self").max(get("dim"), keepdims=True))
    return a / a.sum(get("dim"), keepdims=True)


def _div(get: Get) -> Any:
    quotient, mode = np.true_divide(get("self"), get("other")), get("rounding_mode")
    return quotient if mode is None else {"floor": np.floor, "trunc": np.trunc}[mode](quotient)


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


def _extreme(both: Any, along: Any, index: Any) -> Callable[[Get], Any]:
    """aten.max and aten.min: of two arrays, along an axis with the places, or of all values."""

    def fold(get: Get) -> Any:
        a, other, dim = get("self"), get("other"), get("dim")
        if other is not None or dim is None:
            return both(a, other) if other is not None else along(a)
        keep = bool(get("keepdim", False))
        return along(a, axis=dim, keepdims=keep), index(a, axis=dim, keepdims=keep)

    return fold


def _vector_norm(get: Get) -> Any:
    dim = get("dim")
    axis = tuple(dim) if isinstance(dim, list) else dim
    order, keep, x = get("ord", get("p", 2)), bool(get("keepdim", False)), np.abs(get("self"))
    if np.isinf(order):
        return (x.max if order > 0 else x.min)(axis, keepdims=keep)
    if order == 0:
        return (x != 0).astype(x.dtype).sum(axis, keepdims=keep)
    return (x**order).sum(axis, keepdims=keep) ** (1 / order)


def _baddbmm(get: Get) -> Any:
    return get("beta", 1) * get("self") + get("alpha", 1) * np.matmul(get("batch1"), get("batch2"))


def _diff(get: Get) -> Any:
    return np.diff(get("self"), get("n", 1), get("dim", -1), get("prepend", np._NoValue), get("append", np._NoValue))


def _embedding(get: Get) -> Any:
    _sized(np.size(get("indices")), get("weight").shape[1])
    return get("weight")[get("indices")]


def _weight_norm(get: Get) -> Any:
    v, g, dim = get("v"), get("g"), get("dim", 0)
    axes = tuple(a for a in range(v.ndim) if a != dim % v.ndim)
    return (v * (g / np.sqrt((v.astype(float) ** 2).sum(axes, keepdims=True))),)


def _batch_norm(get: Get) -> Any:
    """Of samples by their own statistics too: PyTorch's shortest way to standardize weights."""
    x, mean, variance = get("input"), get("running_mean"), get("running_var")
    axes = (0, *range(2, x.ndim))
    if get("training", False) or mean is None or variance is None:
        mean, variance = x.mean(axes, np.float64), x.var(axes, np.float64)
    one, zero = np.ones(x.shape[1]), np.zeros(x.shape[1])
    scale = np.float64(get("weight", one)) / np.sqrt(np.float64(variance) + get("eps", 1e-5))
    column = (-1, *(1,) * (x.ndim - 2))
    y = (x - np.reshape(mean, column)) * scale.reshape(column) + np.reshape(get("bias", zero), column)
    return y.astype(x.dtype)


#: Operators that give back what they are given, when a program is run and not trained.
UNCHANGED = (
    *("clone", "detach", "alias", "contiguous", "to", "_to_copy", "type_as", "lift_fresh_copy"),
    "dropout",
)

#: Operators whose first axis is that of samples, and operators of any axes: of constants, computed by layers.
OF_SAMPLES = {
    f"aten.{name}"
    for name in (
        *("convolution", "group_norm", "instance_norm", "pixel_shuffle", "pixel_unshuffle"),
        *(f"{name}{rank}d" for name in ("conv", "conv_transpose", "max_pool", "avg_pool") for rank in (1, 2, 3)),
        *(f"adaptive_{name}_pool{rank}d" for name in ("avg", "max") for rank in (1, 2, 3)),
        *(f"upsample_{kind}" for kind in ("linear1d", "bilinear2d", "trilinear3d", "bicubic2d")),
        *(f"{name}{rank}d" for name in ("upsample_nearest", "_upsample_nearest_exact") for rank in (1, 2, 3)),
        *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
    )
}
LAYERS = OF_SAMPLES | {
    f"aten.{name}"
    for name in (
        *(
            "layer_norm",
            "native_layer_norm",
            "rms_norm",
            "pad",
            "constant_pad_nd",
            "gelu",
            "silu",
            "elu",
            "selu",
            "mish",
        ),
        *("leaky_relu", "softplus", "hardtanh", "relu6", "hardswish", "hardsigmoid", "log_sigmoid"),
    )
}

#: Each operator without its overload, as a function of its arguments.
FOLDS: dict[str, Callable[[Get], Any]] = {
    **{f"aten.{name}": _to for name in (*UNCHANGED, "lift_fresh")},
    "aten.clone": lambda get: get("self").copy(),
    "aten.lift_fresh_copy": lambda get: get("self").copy(),
    **{
        f"aten.{prefix}{name}{end}": _full(value)
        for prefix, end in (("", ""), ("new_", ""), ("", "_like"))
        for name, value in (("full", None), ("zeros", 0.0), ("ones", 1.0))
    },
    "aten.linspace": _linspace,
    "aten.eye": _eye,
    "aten.where": _where,
    "aten.masked_fill": lambda get: np.where(get("mask"), get("value"), get("self")),
    "aten.index": _index,
    "aten.index_put": _index_put,
    "aten.repeat": _repeat,
    "aten.tile": _repeat,
    "aten.repeat_interleave": lambda get: np.repeat(get("self"), get("repeats"), get("dim")),
    "aten.roll": _roll,
    "aten.split": _split,
    "aten.split_with_sizes": _split,
    "aten.chunk": _split,
    "aten.unbind": _unbind,
    "aten.narrow": lambda get: _along(get, slice(get("start"), get("start") + get("length"))),
    "aten.meshgrid": lambda get: np.meshgrid(*get("tensors"), indexing=get("indexing", "ij")),
    "aten.outer": lambda get: np.outer(get("self"), get("vec2")),
    "aten.einsum": lambda get: np.einsum(get("equation"), *get("tensors", get("operands"))),
    "aten.cumsum": lambda get: np.cumsum(get("self"), get("dim")),
    "aten.diff": _diff,
    "aten.gather": lambda get: np.take_along_axis(get("self"), get("index"), get("dim")),
    "aten.embedding": _embedding,
    "aten.tril": lambda get: np.tril(get("self"), get("diagonal", 0)),
    "aten.triu": lambda get: np.triu(get("self"), get("diagonal", 0)),
    "aten.clamp": _clamp,
    "aten.clamp_min": _clamp,
    "aten.clamp_max": _clamp,
    "aten.softmax": _softmax,
    **{
        f"aten.{name}": _both(function)
        for name, function in (
            ("eq", np.equal),
            ("ne", np.not_equal),
            ("lt", np.less),
            ("le", np.less_equal),
            ("gt", np.greater),
            ("ge", np.greater_equal),
            ("logical_and", np.logical_and),
            ("logical_or", np.logical_or),
            ("logical_xor", np.logical_xor),
            ("bitwise_and", np.bitwise_and),
            ("bitwise_or", np.bitwise_or),
            ("bitwise_xor", np.bitwise_xor),
            ("__and__", np.bitwise_and),
            ("__or__", np.bitwise_or),
            ("floor_divide", np.floor_divide),
            ("remainder", np.remainder),
        )
    },
    **{
        f"aten.{name}": _one(function)
        for name, function in (
            ("logical_not", np.logical_not),
            ("bitwise_not", np.invert),
            ("floor", np.floor),
            ("ceil", np.ceil),
            ("round", np.round),
            ("sin", np.sin),
            ("cos", np.cos),
            ("log2", np.log2),
            ("log1p", np.log1p),
            ("square", np.square),
            ("sign", np.sign),
        )
    },
    "aten.any": _reduce(np.any),
    "aten.all": _reduce(np.all),
    "aten.prod": _reduce(np.prod),
    "aten.fill": lambda get: np.full_like(get("self"), get("value")),
    "aten.zero": lambda get: np.zeros_like(get("self")),
    "aten.copy": lambda get: np.broadcast_to(get("src"), get("self").shape),
    "aten.view": _reshape,
    "aten.view_as": lambda get: np.reshape(get("self"), get("other").shape),
    "aten.reshape_as": lambda get: np.reshape(get("self"), get("other").shape),
    "aten.expand_as": lambda get: np.broadcast_to(get("self"), get("other").shape),
    "aten.reshape": _reshape,
    "aten.flatten": _flatten,
    "aten.squeeze": _squeeze,
    "aten.unsqueeze": lambda get: np.expand_dims(get("self"), get("dim")),
    "aten.expand": _expand,
    "aten.permute": lambda get: np.transpose(get("self"), get("dims")),
    "aten.transpose": lambda get: np.swapaxes(get("self"), get("dim0"), get("dim1")),
    "aten.t": lambda get: np.transpose(get("self")),
    "aten.mT": lambda get: np.swapaxes(get("self"), -2, -1),
    "aten.numpy_T": lambda get: np.transpose(get("self")),
    "aten.slice": _slice,
    "aten.select": lambda get: _along(get, get("index")),
    "aten.index_select": lambda get: np.take(get("self"), get("index"), get("dim")),
    "aten.cat": lambda get: np.concatenate(get("tensors"), get("dim", 0)),
    "aten.stack": lambda get: np.stack(get("tensors"), get("dim", 0)),
    "aten.arange": _arange,
    "aten.scalar_tensor": lambda get: np.asarray(get("s")),
    "aten.add": _both(np.add),
    "aten.sub": _both(np.subtract),
    "aten.mul": _both(np.multiply),
    "aten.div": _div,
    "aten.subtract": _both(np.subtract),
    "aten.multiply": _both(np.multiply),
    "aten.divide": _div,
    "aten.true_divide": _div,
    "aten.rsub": lambda get: np.subtract(get("other"), get("self")),
    "aten.pow": lambda get: np.power(get("self"), get("exponent")),
    "aten.maximum": _both(np.maximum),
    "aten.minimum": _both(np.minimum),
    "aten.matmul": _both(np.matmul),
    "aten.linear": _linear,
    "aten.batch_norm": _batch_norm,
    "aten.mm": lambda get: np.matmul(get("self"), get("mat2")),
    "aten.bmm": lambda get: np.matmul(get("self"), get("mat2")),
    "aten.addmm": lambda get: get("beta", 1) * get("self") + get("alpha", 1) * np.matmul(get("mat1"), get("mat2")),
    "aten.baddbmm": _baddbmm,
    "aten.mv": lambda get: np.matmul(get("self"), get("vec")),
    "aten.dot": lambda get: np.dot(get("self"), get("tensor")),
    "aten.vdot": lambda get: np.dot(get("self"), get("other")),
    "aten.unfold": _unfold,
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
    "aten.amin": _reduce(np.min),
    "aten.max": _extreme(np.maximum, np.max, np.argmax),
    "aten.min": _extreme(np.minimum, np.min, np.argmin),
    "aten.linalg_vector_norm": _vector_norm,
    "aten._weight_norm_interface": _weight_norm,
    "aten._weight_norm": lambda get: _weight_norm(get)[0],
}
