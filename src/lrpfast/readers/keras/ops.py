"""Operations between layers: keras.ops of Keras 3, TensorFlow's functions in models of Keras 2.

A converter is a function whose parameters are the operation's; `ALIASES` gives what the two Keras versions call them.
To read another operation, write its converter and enter it in `OPERATIONS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...model import layers as L
from ..arithmetic import (
    absolute,
    add,
    clipped,
    divide,
    einsum,
    extreme,
    gated,
    logarithm,
    matrix_product,
    multiply,
    negative,
    power,
    total,
)
from ..channels_first import Builder, Value
from ..conditions import at_least, both, either, equal, greater, is_condition, moved, negated, select, unequal
from ..obstacles import ObstacleError
from ..reductions import (
    Reduction,
    deviation,
    largest,
    log_of_sum_of_exponentials,
    mean,
    product,
    smallest,
    unit_norm,
    variance,
)
from .activations import activation
from .operation import Operation, is_sizes, is_value, sample_axes
from .ops_moving import MOVES
from .record import KerasLayer, snake_case
from .tf_op_layer import TF_OP_LAYER, tf_arguments, tf_operation

# -- arithmetic ---------------------------------------------------------------


def _binary(compute: Callable[..., Any]) -> Callable[..., Any]:
    return lambda op, a, b: compute(op.builder, *op.operands(a, b))


def _subtract(op: Operation, a: Any, b: Any) -> Any:
    a, b = op.operands(a, b)
    return add(op.builder, a, b, -1.0)


def _multiply(op: Operation, a: Any, b: Any) -> Any:
    """A product; by a condition that was cast to numbers, the selection that it is."""
    for condition, other in ((a, b), (b, a)):
        if is_condition(condition):
            return select(op.builder, condition, op.operands(other)[0], np.array(0.0))
    return multiply(op.builder, *op.operands(a, b))


def _divide(op: Operation, a: Any, b: Any) -> Any:
    if not is_value(b) and not np.all(b):
        raise op.unsupported("divides by a constant of 0", "The model computes infinities")
    return divide(op.builder, *op.operands(a, b))


def _unary(compute: Callable[..., Any]) -> Callable[..., Any]:
    return lambda op, a: compute(op.builder, op.tensor(a))


def _power(op: Operation, a: Any, b: Any) -> Any:
    exponent = np.asarray(b) if not is_value(b) else np.zeros(0)
    if exponent.size != 1:
        raise op.unsupported("raises to powers that are not one number")
    return power(op.builder, op.tensor(a), float(exponent.reshape(-1)[0]))


def _raised(exponent: float) -> Callable[..., Any]:
    return lambda op, a: power(op.builder, op.tensor(a), exponent)


def _extreme(kind: Any) -> Callable[..., Any]:
    return lambda op, a, b: extreme(op.builder, kind(), op.operands(a, b))


def _clip(op: Operation, a: Any, low: Any, high: Any) -> Any:
    if not all(isinstance(bound, (int, float)) for bound in (low, high)):
        raise op.unsupported("clips to bounds that are not numbers")
    return clipped(op.builder, op.tensor(a), low, high)


def _add_n(op: Operation, a: Any) -> Any:
    values = [op.tensor(value) for value in (a if isinstance(a, list) else [a])]
    return values[0] if len(values) == 1 else op.builder.merge(L.Add(), values)


def _same(op: Operation, a: Any) -> Any:
    return op.tensor(a)


def _cast(op: Operation, a: Any, dtype: Any = None) -> Any:
    name = dtype.get("config", {}).get("name") if isinstance(dtype, Mapping) else dtype
    if dtype is not None and name not in ("float16", "bfloat16", "float32", "float64"):
        raise op.unsupported(f"casts to {name}", "Casts between floating-point types work")
    return a if is_condition(a) else op.tensor(a)


# -- conditions ---------------------------------------------------------------


def _compared(compute: Callable[..., Any], swapped: bool = False) -> Callable[..., Any]:
    def convert(op: Operation, a: Any, b: Any) -> Any:
        a, b = op.operands(a, b)
        return compute(op.builder, b, a) if swapped else compute(op.builder, a, b)

    return convert


def _joined(compute: Callable[..., Any]) -> Callable[..., Any]:
    def convert(op: Operation, a: Any, b: Any) -> Any:
        rank = next((x.rank for x in (a, b) if is_condition(x)), None)
        if rank is None:
            raise op.unsupported("joins what is no comparison")
        return compute(*(x if is_condition(x) else op.fitted(x, rank).astype(bool) for x in (a, b)))

    return convert


def _logical_not(op: Operation, a: Any) -> Any:
    if not is_condition(a):
        raise op.unsupported("negates what is no comparison")
    return negated(a)


def _where(op: Operation, condition: Any, a: Any, b: Any) -> Any:
    """One or the other, by a mask that is constant, or by a condition that the model computes."""
    if not is_condition(condition):
        if is_value(condition):
            raise op.unsupported("selects by values that are no comparison", "Compare them with a number")
        ranks = [len(op.tensor(x).shape) for x in (a, b) if is_value(x)]
        condition = op.fitted(condition, max(ranks, default=0)).astype(bool)
    return select(op.builder, condition, *op.operands(a, b))


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


def _shrink(soft: bool) -> Callable[..., Any]:
    def convert(op: Operation, a: Any, threshold: float = 0.5) -> Any:
        return op.each("shrink", a, threshold=threshold, shift=threshold if soft else 0.0)

    return convert


def _tanh_shrink(op: Operation, a: Any) -> Any:
    return add(op.builder, op.tensor(a), op.each("tanh", a), -1.0)


def _glu(op: Operation, a: Any, axis: Any = -1) -> Any:
    t = op.tensor(a)
    return gated(op.builder, t, op.axis(axis, len(t.shape)))


def _gelu(op: Operation, a: Any, approximate: bool = False) -> Any:
    return op.each("gelu", a, approximate=approximate)


def _softmax(function: str) -> Callable[..., Any]:
    def convert(op: Operation, a: Any, axis: Any = -1) -> Any:
        t = op.tensor(a)
        t = op.builder.last(t, op.axis(axis, len(t.shape)))
        return replace(t, node=op.builder.add(L.Activation(function), t.node))

    return convert


def _l2_normalize(op: Operation, a: Any, axis: Any = -1, order: Any = 2, epsilon: Any = None) -> Any:
    if order != 2 or not (epsilon is None or 0 <= epsilon <= 1e-12):
        raise op.unsupported(f"normalizes by the norm of order {order!r} with epsilon {epsilon}", "2 and 1e-12 work")
    return unit_norm(op.builder, op.tensor(a), sample_axes(op, axis, len(a.shape)))


# -- reductions ---------------------------------------------------------------


def _reduction(compute: Reduction) -> Callable[..., Any]:
    def convert(op: Operation, a: Any, axis: Any = None, keepdims: bool = False) -> Any:
        t = op.tensor(a)
        return compute(op.builder, t, sample_axes(op, axis, len(t.shape)), bool(keepdims))

    return convert


# -- products -----------------------------------------------------------------


def _matmul(op: Operation, a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    a, b = _transposed(op, a, transpose_a), _transposed(op, b, transpose_b)
    if is_value(a) and is_value(b):
        return matrix_product(op.builder, a, b)
    if is_value(a):
        return op.builder.dense(a, _matrix(op, b), None)
    if len(b.shape) < 2:
        raise op.unsupported("multiplies a constant by a vector", "Multiply the vector by the transposed constant")
    swapped = op.builder.dense(_swapped(op, b), _matrix(op, a).T, None)
    return _swapped(op, swapped)


def _einsum(op: Operation, *operands: Any, equation: Any = None) -> Any:
    if len(operands) == 1 and isinstance(operands[0], list):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or not operands:
        raise op.unsupported("is an einsum without an equation")
    return einsum(op.builder, equation, [x if is_value(x) else np.asarray(x, float) for x in operands])


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


#: Every operation that is read, by Keras 3's name of it.
OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": _binary(add),
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "negative": _unary(negative),
    "absolute": _unary(absolute),
    "power": _power,
    "square": _raised(2.0),
    "sqrt": _raised(0.5),
    "rsqrt": _raised(-0.5),
    "reciprocal": _raised(-1.0),
    "log": _unary(logarithm),
    "maximum": _extreme(L.Maximum),
    "minimum": _extreme(L.Minimum),
    "clip": _clip,
    "add_n": _add_n,
    "identity": _same,
    "cast": _cast,
    "greater": _compared(greater),
    "greater_equal": _compared(at_least),
    "less": _compared(greater, swapped=True),
    "less_equal": _compared(at_least, swapped=True),
    "equal": _compared(equal),
    "not_equal": _compared(lambda *operands: negated(equal(*operands))),
    "logical_and": _joined(both),
    "logical_or": _joined(either),
    "logical_xor": _joined(unequal),
    "logical_not": _logical_not,
    "where": _where,
    "mean": _reduction(mean),
    "sum": _reduction(total),
    "max": _reduction(largest),
    "min": _reduction(smallest),
    "prod": _reduction(product),
    "var": _reduction(variance),
    "std": _reduction(deviation),
    "logsumexp": _reduction(log_of_sum_of_exponentials),
    "matmul": _matmul,
    "einsum": _einsum,
    "normalize": _l2_normalize,
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "elu": _alpha("elu"),
    "celu": _alpha("celu"),
    "gelu": _gelu,
    "glu": _glu,
    "hard_shrink": _shrink(False),
    "soft_shrink": _shrink(True),
    "tanh_shrink": _tanh_shrink,
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
    **MOVES,
}

#: Other names of operations: Keras 3's second names, and TensorFlow's.
SYNONYMS: dict[str, str] = {
    "true_divide": "divide", "truediv": "divide", "realdiv": "divide", "abs": "absolute", "neg": "negative",
    "pow": "power", "amax": "max", "amin": "min", "reduce_mean": "mean", "reduce_sum": "sum", "reduce_max": "max",
    "reduce_min": "min", "reduce_prod": "prod", "reduce_variance": "var", "reduce_std": "std",
    "reduce_logsumexp": "logsumexp", "bias_add": "add", "clip_by_value": "clip", "concat": "concatenate",
    "getitem": "get_item", "where_v2": "where",
    "re_lu": "relu", "swish": "silu",
    "l2_normalize": "normalize", "gather": "take", "stop_gradient": "identity", "copy": "identity",
    "convert_to_tensor": "identity", "exponential": "exp", "reverse": "flip",
}  # fmt: skip

#: What arguments are called in OPERATIONS, by Keras 3's and TensorFlow's names.
ALIASES: dict[str, str] = {
    **dict.fromkeys(("x", "x1", "xs", "tensor", "tensors", "input", "inputs", "values", "value", "features", "logits",
                     "t", "arrays", "input_tensor", "params"), "a"),
    **dict.fromkeys(("y", "x2", "bias"), "b"),
    **dict.fromkeys(("newshape",), "shape"),
    **dict.fromkeys(("subscripts",), "equation"),
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
    if layer.class_name == TF_OP_LAYER:
        return tf_operation(layer)
    if layer.class_name.startswith("ops>"):
        name = snake_case(layer.class_name.removeprefix("ops>"))
        return SYNONYMS.get(name, name)
    symbol = str(layer.config.get("function", "__operators__.getitem"))
    module, _, name = symbol.rpartition(".")
    if module not in _MODULES:
        return symbol
    name = SYNONYMS.get(name, name)
    return name if name in OPERATIONS else symbol


def unknown_operation(layer: KerasLayer) -> ObstacleError:
    """That an operation is not read."""
    problem = f"is the operation {operation_name(layer)!r}, which lrpfast does not read"
    return layer.unsupported(problem, f"These work: {', '.join(OPERATIONS)}")


def operate(layer: KerasLayer, builder: Builder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """What one call of an operation returns: one value, or several; a condition, or sizes, where it computes these.

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
        raise unknown_operation(layer)
    if layer.class_name == TF_OP_LAYER:
        inputs = args[0] if len(args) == 1 and isinstance(args[0], list) else args
        args, kwargs = tf_arguments(layer, inputs)
    settings = layer.config if layer.class_name.startswith("ops>") else {}
    named = {key: value for key, value in {**settings, **kwargs}.items() if key not in ("name", "trainable")}
    options = {ALIASES.get(key, key): value for key, value in named.items()}
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
    if name in MOVES and args and is_condition(args[0]):  # as what is compared would be moved
        return [moved(args[0], lambda value: convert(op, value, *args[1:], **options), builder)]
    result = convert(op, *args, **options)
    several = isinstance(result, list) and not is_sizes(result)
    return result if several else [result]
