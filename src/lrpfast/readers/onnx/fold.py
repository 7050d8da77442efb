"""Constants computed from constants, as exporters write shapes: Shape, Gather, Concat, and arithmetic on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...budget import take
from ...errors import ModelFormatError
from .file import Node
from .quantized_constants import CONSTANTS as QUANTIZED_CONSTANTS

#: Elements that a file may make up of a few bytes (ConstantOfShape, Expand, Tile, Range, …).
MOST = 1 << 27

#: TensorProto's element types, for Cast.
DTYPES = {
    **{1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_},
    **{10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64},
}


@dataclass(frozen=True)
class FoldedValue:
    """A value known while reading, for two batches of different sizes: where it differs, it depends on the batch."""

    first: np.ndarray
    second: np.ndarray

    @property
    def fixed(self) -> bool:
        return self.first is self.second or (
            self.first.shape == self.second.shape and np.array_equal(self.first, self.second)
        )


def whole(array: Any, label: str) -> np.ndarray:
    """The array, of whole numbers; ModelFormatError where it holds others."""
    result: np.ndarray = np.asarray(array)
    if result.dtype.kind not in "iu":
        raise ModelFormatError(f"its {label} is of {result.dtype}, not of whole numbers")
    return result


def integers(array: Any, label: str) -> tuple[int, ...]:
    """Whole numbers as a tuple; ModelFormatError where the array holds others."""
    return tuple(int(n) for n in whole(array, label).ravel())


def bounded(count: float, label: Any) -> None:
    """ModelFormatError where a file asks for more values than any network has in one array."""
    if count > MOST:
        raise ModelFormatError(f"{label} asks for {count:,} values; the most is {MOST:,}")


def sized(node: Node, args: list[Any]) -> int:
    """How many values a node would make anew, before it makes them; 0 where it makes a view."""
    shapes = [a.shape for a in args if a is not None]
    if node.op in ("Add", "Sub", "Mul", "Div", "Mod", "Pow", "Where", "Equal", "Sum", "Max", "Min") or (
        node.op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor")
    ):
        return math.prod(np.broadcast_shapes(*shapes))
    if node.op == "MatMul" and all(shapes):
        return int(math.prod(shapes[0][:-1]) * math.prod(shapes[1]) // max(shapes[1][0], 1))
    if node.op == "Gemm" and all(len(shape) == 2 for shape in shapes[:2]):
        return math.prod(
            args[i].shape[i ^ bool(node.attributes.get(key, 0))] for i, key in enumerate(("transA", "transB"))
        )
    if node.op == "Tile":
        return int(args[0].size) * math.prod(integers(args[1], "repeats"))
    if node.op == "Range":
        return int(abs((args[1].item() - args[0].item()) / args[2].item()))
    if node.op == "Gather":
        return int(args[0].size // max(args[0].shape[node.attributes.get("axis", 0)], 1) * args[1].size)
    if node.op == "ConstantOfShape":  # a view, and so is an Expand, until a layer takes it
        return math.prod(int(n) for n in args[0])
    if node.op == "Expand":
        return math.prod(np.broadcast_shapes(args[0].shape, tuple(int(n) for n in args[1])))
    if node.op in ("Constant", "Identity", "Reshape", "Shape", "Transpose", "Unsqueeze"):
        return 0
    return sum(a.size for a in args if a is not None)


def _itemsize(node: Node, args: list[Any]) -> int:
    """Bytes of each value that a node makes."""
    if node.op == "Cast":
        return np.dtype(DTYPES.get(node.attributes.get("to", 1), np.float32)).itemsize
    if node.op == "ConstantOfShape":
        return np.asarray(node.attributes.get("value", np.float32(0))).itemsize
    return max((a.itemsize for a in args if a is not None), default=8)


def axes_of(node: Node, args: list[Any], at: int = 1) -> Any:
    """The axes of Squeeze, Unsqueeze and the reductions: an attribute, and since opset 13 or 18 an input."""
    if len(args) > at and args[at] is not None:
        return integers(args[at], "axes")
    return node.attributes.get("axes")


def unsqueezed(shape: tuple[Any, ...], axes: Any) -> tuple[Any, ...]:
    """The shape with axes of size 1 put in."""
    rank = len(shape) + len(axes)
    positions = {a % rank for a in axes}
    if len(positions) != len(axes) or any(not -rank <= a < rank for a in axes):
        raise ModelFormatError(f"axes {axes} do not fit a tensor of shape {shape}")
    rest = iter(shape)
    return tuple(1 if i in positions else next(rest) for i in range(rank))


def squeezed(shape: tuple[Any, ...], axes: Any) -> list[int]:
    """The axes that a Squeeze leaves out."""
    if axes is None:
        return [i for i, n in enumerate(shape) if n == 1]
    result = sorted({a % len(shape) for a in axes})
    if any(shape[a] != 1 for a in result):
        raise ModelFormatError(f"axes {tuple(axes)} of a tensor of shape {shape} are not all of size 1")
    return result


def reshaped(shape: tuple[Any, ...], target: Any, allowzero: int) -> tuple[int, ...]:
    """The shape that a Reshape makes: 0 keeps an axis, -1 takes what is left."""
    target = list(integers(target, "shape"))
    if not allowzero:
        target = [shape[i] if n == 0 and i < len(shape) else n for i, n in enumerate(target)]
    if target.count(-1) > 1 or any(n < -1 for n in target):
        raise ModelFormatError(f"it cannot make {target} of {shape}")
    if -1 in target:
        rest = math.prod(n for n in target if n != -1)
        if not rest or math.prod(shape) % rest:
            raise ModelFormatError(f"it cannot make {target} of {shape}")
        target[target.index(-1)] = math.prod(shape) // rest
    return tuple(target)


def slices(node: Node, args: list[Any], rank: int) -> dict[int, slice]:
    """The slice of each axis that a Slice cuts."""
    if len(args) > 1:
        names = zip(("starts", "ends", "axes", "steps"), (args + [None] * 4)[1:5], strict=True)
        inputs: list[Any] = [None if a is None else list(integers(a, label)) for label, a in names]
        starts, ends, axes, steps = inputs
    else:
        starts, ends = (list(node.attributes.get(key, ())) for key in ("starts", "ends"))
        axes, steps = node.attributes.get("axes"), None
    axes = list(range(len(starts))) if axes is None else [a % rank for a in axes]
    steps = [1] * len(axes) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or any(a >= rank for a in axes) or 0 in steps:
        raise ModelFormatError(f"starts {starts}, ends {ends}, axes {axes} and steps {steps} do not fit")
    cut = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cut[axis] = slice(start, None if step < 0 and end < -(1 << 30) else end, step)
    return cut


def _slice(node: Node, args: list[Any]) -> Any:
    cut = slices(node, args, args[0].ndim)
    return args[0][tuple(cut.get(axis, slice(None)) for axis in range(args[0].ndim))]


def _cast(node: Node, args: list[Any]) -> Any:
    kind = node.attributes.get("to")
    if kind == 16:  # bfloat16, by way of float32
        return args[0].astype(np.float32)
    if kind not in DTYPES:
        raise node.unsupported(f"makes elements of type {kind}")
    return args[0].astype(DTYPES[kind])


def _constant_of_shape(node: Node, args: list[Any]) -> Any:
    shape = integers(args[0], "shape")
    if any(n < 0 for n in shape):
        raise ModelFormatError(f"its shape is {shape}")
    bounded(math.prod(shape), node)
    return np.broadcast_to(np.ravel(node.attributes.get("value", np.zeros(1, np.float32)))[0], shape)


def _expand(node: Node, args: list[Any]) -> Any:
    shape = np.broadcast_shapes(args[0].shape, integers(args[1], "shape"))
    bounded(math.prod(shape), node)
    return np.broadcast_to(args[0], shape)


def _range(node: Node, args: list[Any]) -> Any:
    start, stop, step = (a.item() for a in args)
    bounded(abs((stop - start) / step), node)
    return np.arange(start, stop, step, dtype=args[0].dtype)


def _tile(node: Node, args: list[Any]) -> Any:
    repeats = integers(args[1], "repeats")
    bounded(args[0].size * math.prod(repeats), node)
    return np.tile(args[0], repeats)


def _divide(node: Node, args: list[Any]) -> Any:
    a, b = args
    if a.dtype.kind in "iu":  # towards zero, as in C
        return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)
    return a / b


def _concat(node: Node, args: list[Any]) -> Any:
    return np.concatenate(args, node.attributes.get("axis", 1))


def _split(node: Node, args: list[Any]) -> Any:
    sizes = split_sizes(node, args, args[0].shape)
    return tuple(np.split(args[0], np.cumsum(sizes)[:-1], node.attributes.get("axis", 0)))


def split_sizes(node: Node, args: list[Any], shape: tuple[Any, ...]) -> list[int]:
    """How many values of its axis each output of a Split has."""
    n = shape[node.attributes.get("axis", 0)]
    sizes = integers(args[1], "split") if len(args) > 1 and args[1] is not None else node.attributes.get("split")
    if sizes is None:
        count = node.attributes.get("num_outputs", len(node.outputs))
        each = -(-n // count)
        sizes = [each] * (count - 1) + [n - each * (count - 1)]
    if sum(sizes) != n or any(s < 0 for s in sizes) or len(sizes) != len(node.outputs):
        raise ModelFormatError(f"it splits an axis of {n} into {list(sizes)}")
    return list(sizes)


def _reduce(function: Callable[..., Any]) -> Callable[..., Any]:
    def reduce(node: Node, args: list[Any]) -> Any:
        axes = axes_of(node, args)
        if not axes and node.attributes.get("noop_with_empty_axes", 0):
            return args[0]
        return function(args[0], axis=axes or None, keepdims=bool(node.attributes.get("keepdims", 1)))

    return reduce


def _gather(node: Node, args: list[Any]) -> Any:
    axis = node.attributes.get("axis", 0)
    bounded(args[0].size // max(args[0].shape[axis], 1) * args[1].size, node)
    return np.take(args[0], whole(args[1], "indices").astype(np.int64), axis)


def _constant(node: Node, args: list[Any]) -> Any:
    if len(node.attributes) != 1:
        raise ModelFormatError(f"a Constant has one value, this one {sorted(node.attributes)}")
    ((key, value),) = node.attributes.items()
    if key == "value":
        return value
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if key not in kinds:
        raise node.unsupported(f"holds a {key}, which lrpfast does not read")
    return np.array(value, kinds[key])


def _cumsum(node: Node, args: list[Any]) -> Any:
    a, axis = args[0], int(np.ravel(args[1])[0])
    if node.attributes.get("reverse", 0):
        a = np.flip(a, axis)
    total = np.cumsum(a, axis, dtype=a.dtype)
    if node.attributes.get("exclusive", 0):
        total = total - a
    return np.flip(total, axis) if node.attributes.get("reverse", 0) else total


def _gather_nd(node: Node, args: list[Any]) -> Any:
    if node.attributes.get("batch_dims", 0):
        raise node.unsupported("gathers for each of several axes (batch_dims)")
    indices = whole(args[1], "indices").astype(np.int64)
    bounded(math.prod(indices.shape[:-1]) * math.prod(args[0].shape[indices.shape[-1] :]), node)
    return args[0][tuple(indices[..., i] for i in range(indices.shape[-1]))]


def _scatter_nd(node: Node, args: list[Any]) -> Any:
    if node.attributes.get("reduction", "none") not in ("none", "add"):
        raise node.unsupported(f"scatters by {node.attributes['reduction']!r}")
    result, indices = args[0].copy(), whole(args[1], "indices").astype(np.int64)
    where = tuple(indices[..., i] for i in range(indices.shape[-1]))
    if node.attributes.get("reduction", "none") == "add":
        np.add.at(result, where, args[2])
    else:
        result[where] = args[2]
    return result


def _flatten(node: Node, args: list[Any]) -> Any:
    axis = node.attributes.get("axis", 1)
    return args[0].reshape(math.prod(args[0].shape[:axis]), -1)


def _clip(node: Node, args: list[Any]) -> Any:
    """Limits are inputs or, before version 11, attributes."""
    low, high = (
        args[i] if len(args) > i and args[i] is not None else node.attributes.get(key, default)
        for i, key, default in ((1, "min", -np.inf), (2, "max", np.inf))
    )
    return np.minimum(np.maximum(args[0], low), high).astype(args[0].dtype)


def _plain(function: Any) -> Callable[..., Any]:
    return lambda node, args: function(*args)


def _gemm(node: Node, args: list[Any]) -> Any:
    a, b = (m.T if node.attributes.get(k, 0) else m for m, k in zip(args[:2], ("transA", "transB"), strict=True))
    result = node.attributes.get("alpha", 1.0) * (a @ b)
    return result + node.attributes.get("beta", 1.0) * args[2] if len(args) > 2 and args[2] is not None else result


def _many(function: Callable[..., Any]) -> Callable[..., Any]:
    def fold(node: Node, args: list[Any]) -> Any:
        result = args[0]
        for other in args[1:]:
            result = function(result, other)
        return result

    return fold


#: What is computed on constants: each gives an array, or a tuple of them, of the node and its inputs' values.
FOLDED: dict[str, Callable[[Node, list[Any]], Any]] = {
    **QUANTIZED_CONSTANTS,
    "Cast": _cast,
    "CastLike": lambda node, args: args[0].astype(args[1].dtype),
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Div": _divide,
    "Expand": _expand,
    "Mod": lambda node, args: (np.fmod if node.attributes.get("fmod") else np.mod)(args[0], args[1]),
    "Flatten": _flatten,
    "Gemm": _gemm,
    "Gather": _gather,
    "Range": _range,
    "Reshape": lambda node, args: args[0].reshape(
        reshaped(args[0].shape, args[1], node.attributes.get("allowzero", 0))
    ),
    "Shape": lambda node, args: np.array(
        args[0].shape[node.attributes.get("start", 0) : node.attributes.get("end", args[0].ndim)], np.int64
    ),
    "Size": lambda node, args: np.array(args[0].size, np.int64),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": lambda node, args: np.squeeze(args[0], tuple(squeezed(args[0].shape, axes_of(node, args)))),
    "Tile": _tile,
    "Transpose": lambda node, args: np.transpose(args[0], node.attributes.get("perm")),
    "CumSum": _cumsum,
    "GatherElements": lambda node, args: np.take_along_axis(
        args[0], whole(args[1], "indices").astype(np.int64), node.attributes.get("axis", 0)
    ),
    "GatherND": _gather_nd,
    "ScatterND": _scatter_nd,
    "IsNaN": lambda node, args: np.isnan(args[0]),
    "IsInf": lambda node, args: np.isinf(args[0]),
    "Trilu": lambda node, args: (np.triu if node.attributes.get("upper", 1) else np.tril)(
        args[0], int(args[1]) if len(args) > 1 and args[1] is not None else 0
    ),
    "Unsqueeze": lambda node, args: args[0].reshape(unsqueezed(args[0].shape, axes_of(node, args))),
    **{
        f"Reduce{name}": _reduce(function)
        for name, function in (("Sum", np.sum), ("Mean", np.mean), ("Max", np.max), ("Min", np.min), ("Prod", np.prod))
    },
    **{name: _many(function) for name, function in (("Sum", np.add), ("Max", np.maximum), ("Min", np.minimum))},
    **{
        name: _plain(function)
        for name, function in {
            **{"Identity": np.asarray, "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Neg": np.negative},
            **{"Sqrt": np.sqrt, "Exp": np.exp, "Log": np.log, "Pow": np.power, "Reciprocal": np.reciprocal},
            **{"Abs": np.abs, "Floor": np.floor, "Ceil": np.ceil, "Equal": np.equal, "Where": np.where},
            **{"Not": np.logical_not, "And": np.logical_and, "Or": np.logical_or, "Greater": np.greater},
            **{"Less": np.less, "LessOrEqual": np.less_equal, "GreaterOrEqual": np.greater_equal},
            **{"Xor": np.logical_xor, "Round": np.rint, "Sign": np.sign, "Sin": np.sin, "Cos": np.cos},
            **{"Tanh": np.tanh, "MatMul": np.matmul, "Relu": lambda a: np.maximum(a, 0)},
            **{"Sigmoid": lambda a: 1 / (1 + np.exp(-a))},
        }.items()
    },
}


#: Computed of constants alone by the layers that they are read as: operators whose first axis is that of samples, those
#: of an axis and all after it, and functions of one value.
OF_SAMPLES = frozenset(
    ("Conv", "ConvTranspose", "Resize", "Upsample", "BatchNormalization", "InstanceNormalization", "GroupNormalization")
    + ("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "DepthToSpace", "SpaceToDepth")
)
OF_ROWS = frozenset(("LayerNormalization", "RMSNormalization"))
BY_LAYERS = (
    OF_SAMPLES
    | OF_ROWS
    | {"Gelu", "Mish", "Swish", "Elu", "Celu", "Selu", "LeakyRelu", "Softplus", "Softsign", "HardSigmoid", "HardSwish"}
)


def fold(node: Node, args: list[FoldedValue | None]) -> list[FoldedValue]:
    """A node's outputs, of inputs that are all known.

    Raises
    ------
    ModelFormatError
        When the inputs do not fit the operation, or the result would be larger than `MOST`.
    """
    firsts = evaluate(node, [None if a is None else a.first for a in args])
    if all(a is None or a.fixed for a in args):
        return [FoldedValue(value, value) for value in firsts]
    seconds = evaluate(node, [None if a is None else a.second for a in args])
    return [FoldedValue(*pair) for pair in zip(firsts, seconds, strict=True)]


def evaluate(node: Node, args: list[Any]) -> list[np.ndarray]:
    """A node's outputs, of arrays."""
    try:
        size = sized(node, args)
        bounded(size, node)
        take(size * _itemsize(node, args), str(node))
    except (ValueError, TypeError, ArithmeticError, IndexError) as error:
        if isinstance(error, ModelFormatError):
            raise
        raise ModelFormatError(f"{node}: {error}") from error
    try:
        with np.errstate(all="ignore"):
            value = FOLDED[node.op](node, args)
    except (ValueError, TypeError, IndexError, OverflowError, ZeroDivisionError, AttributeError) as error:
        if isinstance(error, ModelFormatError) and str(error).startswith(str(node)):
            raise
        raise ModelFormatError(f"{node}: {error}") from error
    values = value if isinstance(value, tuple) else (value,)
    return [np.asarray(v) for v in values]
