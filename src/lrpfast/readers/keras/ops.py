"""Operations between layers: keras.ops of Keras 3, TensorFlow's functions in models of Keras 2.

A converter is a function whose parameters are the operation's; `ALIASES` gives what the two Keras versions call them.
To read another operation, write its converter and enter it in `OPERATIONS`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import ShapeError, UnsupportedLayerError
from ...model import layers as L
from ..axis_ops import affine, constant, fixed, pad, repeat, take
from ..channels_first import Builder, Flat, Tensor, Value, clip
from .activations import activation
from .record import KerasLayer, snake_case


@dataclass(frozen=True)
class Operation:
    """One call of an operation."""

    layer: KerasLayer
    builder: Builder

    def unsupported(self, why: str, remedy: str = "Use a layer in its place") -> UnsupportedLayerError:
        return self.layer.unsupported(why, remedy)

    def tensor(self, value: Any) -> Tensor:
        """The argument, which must be another layer's output."""
        if not is_value(value):
            raise self.unsupported(f"takes the constant {value!r:.40} where lrpfast reads other layers' outputs alone")
        return self.builder.plain(value)

    def axis(self, axis: Any, rank: int) -> int:
        """An axis of a sample with ``rank`` axes, from Keras's number, which counts the batch axis too."""
        layer = replace(self.layer, config={"axis": axis})
        return layer.axes("axis", (None,) * rank)[0]

    def fitted(self, values: Any, rank: int) -> np.ndarray:
        """A constant as it meets a sample: without the batch axis, along which it must not vary."""
        array = np.asarray(values, float)
        if array.ndim > rank + 1 or (array.ndim == rank + 1 and array.shape[0] != 1):
            raise self.unsupported(f"combines a constant of shape {array.shape} with samples of {rank} axes")
        return array[0] if array.ndim == rank + 1 else array

    def affine(self, value: Any, scale: Any, shift: Any) -> Value:
        rank = len(value.shape)
        return affine(self.builder, value, self.fitted(scale, rank), self.fitted(shift, rank))

    def each(self, function: str, value: Any, **parameters: Any) -> Value:
        return self.builder.each(L.Activation(function, parameters), self.tensor(value))


def is_value(argument: Any) -> bool:
    """Whether the argument is another layer's output."""
    return isinstance(argument, (Tensor, Flat))


# -- arithmetic ---------------------------------------------------------------


def _add(op: Operation, a: Any, b: Any) -> Any:
    if is_value(a) and is_value(b):
        return op.builder.merge(L.Add(), [a, b])
    return op.affine(a, 1.0, b) if is_value(a) else op.affine(b, 1.0, a)


def _subtract(op: Operation, a: Any, b: Any) -> Any:
    if is_value(a) and is_value(b):
        return op.builder.merge(L.Subtract(), [a, b])
    return op.affine(a, 1.0, -np.asarray(b, float)) if is_value(a) else op.affine(b, -1.0, a)


def _multiply(op: Operation, a: Any, b: Any) -> Any:
    if is_value(a) and is_value(b):
        return op.builder.merge(L.Multiply(), [a, b])
    return op.affine(a, b, 0.0) if is_value(a) else op.affine(b, a, 0.0)


def _divide(op: Operation, a: Any, b: Any) -> Any:
    """By a constant; by another layer's output, a product with the reciprocal."""
    if not is_value(b):
        if not np.all(b):
            raise op.unsupported("divides by a constant of 0", "The model computes infinities")
        return op.affine(a, 1 / np.asarray(b, float), 0.0)
    return _multiply(op, a, op.each("power", b, exponent=-1.0))


def _negative(op: Operation, a: Any) -> Any:
    return op.affine(op.tensor(a), -1.0, 0.0)


def _absolute(op: Operation, a: Any) -> Any:
    return op.builder.merge(L.Maximum(), [a, _negative(op, a)])


def _power(op: Operation, a: Any, b: Any) -> Any:
    exponent = np.asarray(b) if not is_value(b) else np.zeros(0)
    if exponent.size != 1:
        raise op.unsupported("raises to powers that are not one number")
    return op.each("power", a, exponent=float(exponent.reshape(-1)[0]))


def _raised(exponent: float) -> Callable[..., Any]:
    return lambda op, a: op.each("power", a, exponent=exponent)


def _extreme(kind: Any) -> Callable[..., Any]:
    def convert(op: Operation, a: Any, b: Any) -> Any:
        if is_value(a) and is_value(b):
            return op.builder.merge(kind(), [a, b])
        x, array = (a, b) if is_value(a) else (b, a)
        array = op.fitted(array, len(op.tensor(x).shape))
        if array.size == 1:
            bound = float(array.reshape(-1)[0])
            return op.builder.each(clip(bound, None) if kind is L.Maximum else clip(None, bound), x)
        return op.builder.merge(kind(), [x, constant(op.builder, x, array)])

    return convert


def _clip(op: Operation, a: Any, low: Any, high: Any) -> Any:
    """min(max(a, low), high), which is ``high`` everywhere where that is below ``low``."""
    if not all(isinstance(bound, (int, float)) for bound in (low, high)):
        raise op.unsupported("clips to bounds that are not numbers")
    return op.builder.each(clip(min(low, high), high), op.tensor(a))


def _add_n(op: Operation, a: Any) -> Any:
    values = [op.tensor(value) for value in (a if isinstance(a, list) else [a])]
    return values[0] if len(values) == 1 else op.builder.merge(L.Add(), values)


def _same(op: Operation, a: Any) -> Any:
    return op.tensor(a)


def _cast(op: Operation, a: Any, dtype: Any = None) -> Any:
    name = dtype.get("config", {}).get("name") if isinstance(dtype, Mapping) else dtype
    if dtype is not None and name not in ("float16", "bfloat16", "float32", "float64"):
        raise op.unsupported(f"casts to {name}", "Casts between floating-point types work")
    return op.tensor(a)


# -- functions ----------------------------------------------------------------


def _function(name: str) -> Callable[..., Any]:
    """An activation by Keras's name for it."""

    def convert(op: Operation, a: Any) -> Any:
        layer = activation(replace(op.layer, config={"activation": name}), op.tensor(a).shape)
        return op.builder.each(layer, a) if layer is not None else a

    return convert


def _relu(op: Operation, a: Any, negative_slope: float = 0.0, max_value: Any = None, threshold: float = 0.0) -> Any:
    return op.each("relu", a, negative_slope=negative_slope, max_value=max_value, threshold=threshold)


def _leaky_relu(op: Operation, a: Any, negative_slope: float = 0.2) -> Any:
    return op.each("leaky_relu", a, negative_slope=negative_slope)


def _alpha(function: str) -> Callable[..., Any]:
    def convert(op: Operation, a: Any, negative_slope: float = 1.0) -> Any:  # alpha, by its name in ALIASES
        return op.each(function, a, alpha=negative_slope)

    return convert


def _gelu(op: Operation, a: Any, approximate: bool = False) -> Any:
    return op.each("gelu", a, approximate=approximate)


def _softmax(function: str) -> Callable[..., Any]:
    def convert(op: Operation, a: Any, axis: Any = -1) -> Any:
        t = op.tensor(a)
        t = op.builder.last(t, op.axis(axis, len(t.shape)))
        return replace(t, at=op.builder.add(L.Activation(function), t.at))

    return convert


def _l2_normalize(op: Operation, a: Any, axis: Any = -1, order: Any = 2, epsilon: Any = None) -> Any:
    if order != 2 or not (epsilon is None or 0 <= epsilon <= 1e-12):
        raise op.unsupported(f"normalizes by the norm of order {order!r} with epsilon {epsilon}", "2 and 1e-12 work")
    return unit_norm(op.builder, op.tensor(a), _axes(op, axis, len(a.shape)))


def unit_norm(builder: Builder, value: Value, axes: Sequence[int]) -> Value:
    """A sample's values divided by their length over some axes: an RMSNorm with gamma 1/√n.

    Its epsilon only keeps 0 from being divided by 0: Keras divides by no less than 1e-12 (Keras 2: 1e-6) instead.
    """
    t = builder.plain(value)
    rest = [axis for axis in t.order if axis not in axes]
    t = builder.lay(t, [*rest, *axes])
    sizes = tuple(fixed(t, axis) for axis in axes)
    count = math.prod(sizes)
    norm = L.RMSNorm(np.full(sizes, count**-0.5), epsilon=1e-24 / count, axes=len(axes))
    return replace(t, at=builder.add(norm, t.at))


# -- reductions ---------------------------------------------------------------


def _axes(op: Operation, axis: Any, rank: int) -> list[int]:
    if axis is None:
        raise op.unsupported("reduces over all axes, the batch axis too", "Name the axes, without the batch axis, 0")
    return [op.axis(a, rank) for a in (axis if isinstance(axis, list) else [axis])]


def _reduction(kind: Any, total: bool = False, sign: float = 1.0) -> Callable[..., Any]:
    """A mean, sum or largest value over axes; the smallest is minus the largest of minus the values."""

    def convert(op: Operation, a: Any, axis: Any = None, keepdims: bool = False) -> Any:
        t = op.tensor(a)
        axes = _axes(op, axis, len(t.shape))
        factor = sign * (math.prod(fixed(t, i) for i in axes) if total else 1)
        result = op.builder.pool_all(op.affine(t, sign, 0.0) if sign < 0 else t, axes, kind, bool(keepdims))
        return result if factor == 1 else op.affine(result, factor, 0.0)

    return convert


# -- products -----------------------------------------------------------------


def _matmul(op: Operation, a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    a, b = _transposed(op, a, transpose_a), _transposed(op, b, transpose_b)
    if is_value(a) and is_value(b):
        if (len(a.shape), len(b.shape)) != (2, 2):
            raise op.unsupported(
                f"multiplies samples of shapes {a.shape} and {b.shape}; lrpfast multiplies matrices", "Reshape them"
            )
        builder = op.builder
        at = builder.add(L.Dot((1, 0)), builder.plain(a).at, builder.plain(b).at)
        return Tensor(at, builder.shapes[at], (0, 1))
    if is_value(a):
        return op.builder.dense(a, _matrix(op, b), None)
    if len(b.shape) < 2:
        raise op.unsupported("multiplies a constant by a vector", "Multiply the vector by the transposed constant")
    swapped = op.builder.dense(_swapped(op, b), _matrix(op, a).T, None)
    return _swapped(op, swapped)


def _matrix(op: Operation, values: Any) -> np.ndarray:
    array = np.asarray(values, float)
    if array.ndim != 2:
        raise op.unsupported(f"multiplies by a constant of shape {array.shape}; lrpfast multiplies by matrices")
    return array


def _swapped(op: Operation, value: Value) -> Value:
    rank = len(value.shape)
    return op.builder.transpose(value, [*range(rank - 2), rank - 1, rank - 2])


def _transposed(op: Operation, value: Any, yes: bool) -> Any:
    if not yes:
        return value
    if not is_value(value):
        return np.swapaxes(np.asarray(value), -1, -2)
    if len(value.shape) < 2:
        raise op.unsupported("transposes the batch axis")
    return _swapped(op, value)


# -- moving and joining -------------------------------------------------------


def _concatenate(op: Operation, a: Any, axis: Any = 0) -> Any:
    values = [op.tensor(value) for value in a]
    place = op.axis(axis, len(values[0].shape))
    return values[0] if len(values) == 1 else op.builder.merge(L.Concat(0), values, place)


def _stack(op: Operation, a: Any, axis: Any = 0) -> Any:
    values = [op.tensor(value) for value in a]
    at = op.axis(axis, len(values[0].shape) + 1)
    return _concatenate(op, [_with_one(op, value, at) for value in values], at + 1)


def _with_one(op: Operation, value: Any, at: int) -> Value:
    return op.builder.reshape(value, (*value.shape[:at], 1, *value.shape[at:]))


def _reshape(op: Operation, a: Any, shape: Any) -> Any:
    t, sizes = op.tensor(a), list(shape) if isinstance(shape, list) else [shape]
    count = math.prod(fixed(t, axis) for axis in range(len(t.shape)))
    batch, sizes = sizes[0], sizes[1:]
    if sizes.count(-1) == 1 and batch is None:
        known = math.prod(n for n in sizes if n != -1)
        sizes[sizes.index(-1)] = count // known if known else 0
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in sizes)
    if batch not in (None, -1) or not sizes or not whole or math.prod(sizes) != count:
        raise op.unsupported(
            f"reshapes samples of shape {t.shape} to {shape}, which mixes samples or fixes their number",
            "Use a Reshape layer, or -1 for the batch axis alone",
        )
    return op.builder.reshape(t, tuple(sizes))


def _transpose(op: Operation, a: Any, axes: Any = None) -> Any:
    t = op.tensor(a)
    axes = list(axes) if axes is not None else list(range(len(t.shape), -1, -1))
    if sorted(n % len(axes) for n in axes) != list(range(len(t.shape) + 1)) or axes[0] != 0:
        raise op.unsupported(f"transposes samples of shape {t.shape} to the axes {axes}", "Keep the batch axis first")
    return op.builder.transpose(t, [n % len(axes) - 1 for n in axes[1:]])


def _swapaxes(op: Operation, a: Any, axis1: Any, axis2: Any) -> Any:
    order = list(range(len(op.tensor(a).shape)))
    i, j = (op.axis(axis, len(order)) for axis in (axis1, axis2))
    order[i], order[j] = order[j], order[i]
    return op.builder.transpose(a, order)


def _moveaxis(op: Operation, a: Any, source: Any, destination: Any) -> Any:
    rank = len(op.tensor(a).shape)
    if isinstance(source, list) or isinstance(destination, list):
        raise op.unsupported("moves several axes at once", "Use a Permute layer")
    order = [i for i in range(rank) if i != op.axis(source, rank)]
    order.insert(op.axis(destination, rank), op.axis(source, rank))
    return op.builder.transpose(a, order)


def _expand_dims(op: Operation, a: Any, axis: Any) -> Any:
    t = op.tensor(a)
    for at in sorted(op.axis(i, len(t.shape) + 1) for i in (axis if isinstance(axis, list) else [axis])):
        t = op.builder.plain(_with_one(op, t, at))
    return t


def _squeeze(op: Operation, a: Any, axis: Any = None) -> Any:
    t = op.tensor(a)
    ones = [i for i, n in enumerate(t.shape) if n == 1]
    axes = ones if axis is None else _axes(op, axis, len(t.shape))
    if not set(axes) <= set(ones):
        raise ShapeError(f"{op.layer}: it squeezes axes of samples of shape {t.shape} that are not 1")
    return op.builder.reshape(t, tuple(n for i, n in enumerate(t.shape) if i not in axes))


def _get_item(op: Operation, a: Any, key: Any) -> Any:
    """a[key], as NumPy reads the key; the batch axis must stay whole."""
    t = op.tensor(a)
    keys = list(key) if isinstance(key, (list, tuple)) else [key]
    used = sum(k is not None and k is not Ellipsis for k in keys)
    if Ellipsis not in keys:
        keys.append(Ellipsis)
    at = keys.index(Ellipsis)
    keys[at : at + 1] = [slice(None)] * (len(t.shape) + 1 - used)
    if used > len(t.shape) + 1 or not keys or keys[0] != slice(None):
        raise op.unsupported(f"takes {key!r:.60} of a batch of samples of shape {t.shape}", "Keep the batch axis whole")
    axis, value = 0, t
    shape: list[int | None] = []
    for k in keys[1:]:
        if k is None:
            shape.append(1)
            continue
        if isinstance(k, slice):
            n = value.shape[axis]
            if k != slice(None):
                value = op.builder.plain(take(op.builder, value, axis, range(*k.indices(fixed(value, axis)))))
                n = value.shape[axis]
            shape.append(n)
        elif isinstance(k, int) and not isinstance(k, bool):
            value = op.builder.plain(take(op.builder, value, axis, [k]))
        else:
            raise op.unsupported(f"takes {key!r:.60} of its input", "Whole numbers and slices work")
        axis += 1
    return op.builder.reshape(value, tuple(shape))


def _split(op: Operation, a: Any, sections: Any, axis: Any = 0) -> Any:
    t = op.tensor(a)
    at = op.axis(axis, len(t.shape))
    n = fixed(t, at)
    if isinstance(sections, int):
        if sections < 1 or n % sections:
            raise ShapeError(f"{op.layer}: it splits an axis of {n} into {sections} equal parts")
        ends = [n // sections * (i + 1) for i in range(sections)]
    elif op.layer.keras >= 3:  # where each part ends
        ends = [*(int(i) for i in sections), n]
    else:  # the parts' sizes, of which one may be left open
        sizes = [int(i) for i in sections]
        sizes = [n - sum(sizes) - 1 if size == -1 else size for size in sizes]
        ends = [int(end) for end in np.cumsum(sizes)]
    starts = [0, *ends[:-1]]
    if ends[-1] != n or any(end <= start for start, end in zip(starts, ends, strict=True)):
        raise ShapeError(f"{op.layer}: it splits an axis of {n} at {ends[:-1]}")
    return [take(op.builder, t, at, range(start, end)) for start, end in zip(starts, ends, strict=True)]


def _unstack(op: Operation, a: Any, axis: Any = 0, num: Any = None) -> Any:
    t = op.tensor(a)
    at = op.axis(axis, len(t.shape))
    return [_squeeze(op, take(op.builder, t, at, [i]), at + 1) for i in range(fixed(t, at))]


def _take(op: Operation, a: Any, indices: Any, axis: Any = None) -> Any:
    at = _axes(op, axis, len(op.tensor(a).shape))[0]
    index = np.asarray(indices)
    if index.ndim > 1 or index.dtype.kind not in "iu":
        raise op.unsupported("takes indices that are not a row of whole numbers")
    value = take(op.builder, a, at, index.reshape(-1))
    return _squeeze(op, value, at + 1) if index.ndim == 0 else value


def _flip(op: Operation, a: Any, axis: Any = None) -> Any:
    for at in _axes(op, axis, len(op.tensor(a).shape)):
        a = take(op.builder, a, at, range(fixed(a, at))[::-1])
    return a


def _repeat(op: Operation, a: Any, repeats: Any, axis: Any = None) -> Any:
    if not isinstance(repeats, int):
        raise op.unsupported("repeats each value another number of times", "One number for all works")
    return repeat(op.builder, a, _axes(op, axis, len(op.tensor(a).shape))[0], repeats)


def _tile(op: Operation, a: Any, repeats: Any) -> Any:
    t, counts = op.tensor(a), list(repeats) if isinstance(repeats, list) else [repeats]
    counts = [1] * (len(t.shape) + 1 - len(counts)) + counts
    if len(counts) > len(t.shape) + 1 or counts[0] != 1 or not all(isinstance(n, int) and n > 0 for n in counts):
        raise op.unsupported(f"tiles samples of shape {t.shape} by {repeats}", "The batch axis must stay as it is")
    value: Value = t
    for axis, count in enumerate(counts[1:]):
        if count > 1:
            value = op.builder.merge(L.Concat(0), [value] * count, axis)
    return value


def _pad(op: Operation, a: Any, pairs: Any, mode: Any = "constant", constant_values: Any = None) -> Any:
    t, pairs = op.tensor(a), np.asarray(pairs).tolist()
    pairs = [pairs] * (len(t.shape) + 1) if isinstance(pairs, list) and pairs and isinstance(pairs[0], int) else pairs
    if not isinstance(pairs, list) or len(pairs) != len(t.shape) + 1 or any(pairs[0]):
        raise op.unsupported(
            f"pads samples of shape {t.shape} by {pairs}", "Give a pair for each axis, 0 for the batch"
        )
    wanted = {axis: (before, after) for axis, (before, after) in enumerate(pairs[1:])}
    return pad(op.builder, t, wanted, str(mode).lower(), float(constant_values or 0.0))


#: Every operation that is read, by Keras 3's name of it.
OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "negative": _negative,
    "absolute": _absolute,
    "power": _power,
    "square": _raised(2.0),
    "sqrt": _raised(0.5),
    "rsqrt": _raised(-0.5),
    "reciprocal": _raised(-1.0),
    "maximum": _extreme(L.Maximum),
    "minimum": _extreme(L.Minimum),
    "clip": _clip,
    "add_n": _add_n,
    "identity": _same,
    "cast": _cast,
    "mean": _reduction(L.GlobalAveragePool),
    "sum": _reduction(L.GlobalAveragePool, total=True),
    "max": _reduction(L.GlobalMaxPool),
    "min": _reduction(L.GlobalMaxPool, sign=-1.0),
    "matmul": _matmul,
    "normalize": _l2_normalize,
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "elu": _alpha("elu"),
    "celu": _alpha("celu"),
    "gelu": _gelu,
    "softmax": _softmax("softmax"),
    "log_softmax": _softmax("log_softmax"),
    "exp": _function("exponential"),
    **{
        name: _function(name)
        for name in (
            "relu6",
            "selu",
            "silu",
            "tanh",
            "sigmoid",
            "hard_sigmoid",
            "hard_silu",
            "hard_tanh",
            "softplus",
            "softsign",
            "mish",
            "log_sigmoid",
        )
    },  # fmt: skip
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "split": _split,
    "reshape": _reshape,
    "transpose": _transpose,
    "swapaxes": _swapaxes,
    "moveaxis": _moveaxis,
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "get_item": _get_item,
    "take": _take,
    "flip": _flip,
    "repeat": _repeat,
    "tile": _tile,
    "pad": _pad,
}

#: Other names of operations: Keras 3's second names, and TensorFlow's.
SYNONYMS: dict[str, str] = {
    "true_divide": "divide", "truediv": "divide", "realdiv": "divide", "abs": "absolute", "neg": "negative",
    "pow": "power", "amax": "max", "amin": "min", "reduce_mean": "mean", "reduce_sum": "sum", "reduce_max": "max",
    "reduce_min": "min", "bias_add": "add", "clip_by_value": "clip", "concat": "concatenate", "getitem": "get_item",
    "swish": "silu", "l2_normalize": "normalize", "gather": "take", "stop_gradient": "identity", "copy": "identity",
    "convert_to_tensor": "identity", "exponential": "exp", "reverse": "flip",
}  # fmt: skip

#: What arguments are called in OPERATIONS, by Keras 3's and TensorFlow's names.
ALIASES: dict[str, str] = {
    **dict.fromkeys(("x", "x1", "xs", "tensor", "tensors", "input", "inputs", "values", "value", "features", "logits",
                     "t", "arrays", "input_tensor", "params"), "a"),
    **dict.fromkeys(("y", "x2", "bias"), "b"),
    **dict.fromkeys(("newshape",), "shape"),
    **dict.fromkeys(("perm",), "axes"),
    **dict.fromkeys(("slice_spec",), "key"),
    **dict.fromkeys(("indices_or_sections", "num_or_size_splits"), "sections"),
    **dict.fromkeys(("x_min", "clip_value_min"), "low"),
    **dict.fromkeys(("x_max", "clip_value_max"), "high"),
    **dict.fromkeys(("multiples",), "repeats"),
    **dict.fromkeys(("paddings", "pad_width"), "pairs"),
    **dict.fromkeys(("keep_dims",), "keepdims"),
    **dict.fromkeys(("alpha",), "negative_slope"),
}  # fmt: skip

#: TensorFlow's modules whose functions are read by their last name.
_MODULES = {"", "math", "nn", "linalg", "__operators__", "compat.v1", "compat.v1.nn", "compat.v1.math", "keras.backend",
            "keras.activations"}  # fmt: skip


def operation_name(layer: KerasLayer) -> str:
    """Keras 3's name of the operation; what the file calls it where lrpfast does not read it."""
    if layer.class_name.startswith("ops>"):
        name = snake_case(layer.class_name.removeprefix("ops>"))
        return SYNONYMS.get(name, name)
    symbol = str(layer.config.get("function", "__operators__.getitem"))
    module, _, name = symbol.rpartition(".")
    if module not in _MODULES:
        return symbol
    name = SYNONYMS.get(name, name)
    return name if name in OPERATIONS else symbol


def operate(layer: KerasLayer, builder: Builder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Value]:
    """What one call of an operation returns: one value, or several.

    Parameters
    ----------
    layer : KerasLayer
    builder : Builder
    args, kwargs : sequence and mapping
        The call's arguments: values of the builder, and constants.

    Raises
    ------
    UnsupportedLayerError
        When the operation is not in `OPERATIONS`, or is used in a way that lrpfast cannot follow.
    """
    op, name = Operation(layer, builder), operation_name(layer)
    if name not in OPERATIONS:
        raise layer.unsupported(
            f"is the operation {name!r}, which lrpfast does not read", f"These work: {', '.join(OPERATIONS)}"
        )
    settings = layer.config if layer.class_name.startswith("ops>") else {}
    given = {key: value for key, value in {**settings, **kwargs}.items() if key not in ("name", "trainable")}
    options = {ALIASES.get(key, key): value for key, value in given.items()}
    convert = OPERATIONS[name]
    signature = inspect.signature(convert)
    for key in [key for key in options if key not in signature.parameters]:
        if options[key] not in (None, False) and not (key == "dtype" and "float" in str(options[key])):
            raise layer.unsupported(
                f"is called with {key}={options[key]!r:.40}, which lrpfast does not follow", "Leave it out"
            )
        del options[key]
    try:
        signature.bind(op, *args, **options)
    except TypeError as error:
        raise layer.unsupported(
            f"is called in a way that lrpfast does not follow ({error})", "Use a layer in its place"
        ) from error
    result = convert(op, *args, **options)
    return result if isinstance(result, list) else [result]
