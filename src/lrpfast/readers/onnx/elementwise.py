"""ONNX operators that treat values one by one, normalize them, or join several tensors, as layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ShapeError
from ...model import layers as L
from ..arithmetic import add, clipped, concat, divide, extreme, multiply, negative, power
from ..axis_ops import fixed, take
from ..channels_first import Tensor, Value, check_first
from ..conditions import is_condition, select
from ..file_axes import file_sizes
from ..input_shape import FIX_SIZE
from ..mask_arithmetic import mapped, masked_product, masked_sum, product_of_masks
from ..masks import HIDING_ALONE, Condition, Masked, compared, is_whole, softmax
from ..reductions import unit_norm
from .context import NodeContext
from .fold import DTYPES, FoldedValue
from .values import Integers

_ONE, _NOTHING = np.array(1.0), np.array(0.0)
#: float32's largest number.
_LARGEST = float(np.finfo(np.float32).max)


# -- activations ------------------------------------------------------------------


def _function(name: str, **parameters: Any) -> Callable[[NodeContext], Value]:
    """An activation; each parameter is a number, or the attribute that holds it and its default."""

    def build(ctx: NodeContext) -> Value:
        settings = {k: ctx.attr(*v) if isinstance(v, tuple) else v for k, v in parameters.items()}
        return ctx.builder.each(L.Activation(name, settings), ctx.value())

    return build


def _celu(ctx: NodeContext) -> Value:
    alpha = ctx.attr("alpha", 1.0)
    if alpha <= 0:
        raise ctx.unsupported(f"has alpha {alpha}", "Those above 0 work")
    return ctx.builder.each(L.Activation("celu", {"alpha": alpha}), ctx.value())


def _shrink(ctx: NodeContext) -> Value:
    threshold = ctx.attr("lambd", 0.5)
    if threshold < 0:
        raise ctx.unsupported(f"has lambd {threshold}", "Those of at least 0 work")
    layer = L.Activation("shrink", {"threshold": threshold, "shift": ctx.attr("bias", 0.0)})
    return ctx.builder.each(layer, ctx.value())


def _gelu(ctx: NodeContext) -> Value:
    kind = ctx.attr("approximate", "none")
    if kind not in ("none", "tanh"):
        raise ctx.unsupported(f"has the approximation {kind!r}, which lrpfast does not know")
    return ctx.builder.each(L.Activation("gelu", {"approximate": kind == "tanh"}), ctx.value())


def _selu(ctx: NodeContext) -> Value:
    standard = (1.6732632423543772, 1.0507009873554805)  # which files hold rounded to float32
    alpha, gamma = (ctx.attr(key, default) for key, default in zip(("alpha", "gamma"), standard, strict=True))
    if tuple(map(np.float32, (alpha, gamma))) == tuple(map(np.float32, standard)):
        return ctx.builder.each(L.Activation("selu"), ctx.value())
    result = ctx.builder.each(L.Activation("elu", {"alpha": alpha}), ctx.value())
    return ctx.affine(result, gamma, _NOTHING)


def _prelu(ctx: NodeContext) -> Value:
    x, b = ctx.builder.tensor(ctx.value()), ctx.builder
    slope = ctx.sample_array(ctx.known(1, "slope"), x)
    if slope.size == 1:
        return b.each(L.Activation("leaky_relu", {"negative_slope": float(slope.ravel()[0])}), x)
    return b.each(L.Activation("prelu", {"negative_slope": slope.transpose(x.order)}), x)


def _clip(ctx: NodeContext) -> Value:
    return _clipped(ctx, *(ctx.number(i, name, ctx.attr(name)) for i, name in ((1, "min"), (2, "max"))))


def _clipped(ctx: NodeContext, low: float | None, high: float | None) -> Value:
    low = None if low is None or low <= -_LARGEST else low  # up to version 10 it stands for none
    high = None if high is None or high >= _LARGEST else high
    return clipped(ctx.builder, ctx.value(), low, high)


def _softmax(name: str) -> Callable[[NodeContext], Value]:
    def build(ctx: NodeContext) -> Value:
        b, masked = ctx.builder, ctx.args[0]
        if isinstance(masked, Masked) and name == "softmax":
            last = masked.scores.axis(ctx.attr("axis", 1 if ctx.opset < 13 else -1))
            if ctx.opset < 13 and last < len(masked.scores.shape) - 1:
                raise ctx.unsupported("takes the softmax of masked scores over several axes")
            return softmax(b, masked, last)
        x = ctx.value()
        axis = x.axis(ctx.attr("axis", 1 if ctx.opset < 13 else -1))
        if ctx.opset < 13 and axis < len(x.shape) - 1:  # over all axes from that one on
            check_first(x)
            if None in x.shape:
                raise ctx.unsupported("is taken over axes whose sizes the file leaves open", FIX_SIZE)
            flat = b.reshape(x, (*x.shape[:axis], math.prod(x.shape[axis:])))  # type: ignore[arg-type]
            return b.reshape(b.each(L.Activation(name), b.last(flat, axis)), x.shape)
        return b.each(L.Activation(name), b.last(x, axis))

    return build


def _check_shapes(ctx: NodeContext, x: Value, dims: set[int], problem: str) -> None:
    """UnsupportedLayerError unless all inputs but the first are the file's shape of x, or have 1 on axes ``dims``."""
    for i in range(1, len(ctx.args)):
        known = ctx.known(i, "shape")
        for which, target in enumerate((known.first, known.second)):
            whole = list(file_sizes(x, ctx.batches, which))
            one = [1 if d in dims else n for d, n in enumerate(whole)]
            sizes = target.ravel().tolist()
            if -1 in sizes:
                sizes[sizes.index(-1)] = math.prod(one) // max(1, -math.prod(sizes))
            if sizes not in (whole, one):
                raise ctx.unsupported(problem.format(tuple(sizes)))


def _written_log_softmax(ctx: NodeContext) -> Value:
    x = ctx.value()
    return ctx.builder.each(L.Activation("log_softmax"), ctx.builder.last(x, x.axis(ctx.attr("axis"))))


def _written_softmax(ctx: NodeContext) -> Value:
    """A softmax that a file writes out: shapes on the way of its sums must be those of x, or 1 on its axis."""
    masked = ctx.args[0]
    x = masked.scores if isinstance(masked, Masked) else ctx.value()
    dim = ctx.attr("axis") % x.rank
    _check_shapes(ctx, x, {dim}, "divides exponentials by sums of shape {}, which are no softmax's")
    if isinstance(masked, Masked):
        return softmax(ctx.builder, masked, x.axis(dim))
    return ctx.builder.each(L.Activation("softmax"), ctx.builder.last(x, x.axis(dim)))


# -- normalization ------------------------------------------------------------------


def _affine(ctx: NodeContext) -> Any:
    """Constants; on masks and masked scores they may be one number, or hide scores."""
    scale, shift = (np.asarray(ctx.attr(key)) for key in ("scale", "shift"))
    value = ctx.args[0]
    if isinstance(value, Condition) and scale.size == shift.size == 1:
        return value.map(lambda v: v * scale.item() + shift.item())
    if isinstance(value, Masked) or (shift <= HIDING_ALONE).any():
        factor, constant = FoldedValue(scale, scale), FoldedValue(shift, shift)
        scaled: Any = masked_product(ctx, value, factor)
        if scaled is None and not isinstance(value, Masked):
            scaled = ctx.affine(ctx.value(), scale, _NOTHING)
        masked = None if scaled is None else masked_sum(ctx, scaled, constant)
        if masked is not None:
            return masked
    return _scaled(ctx, ctx.value(), {"scale": ctx.attr("scale"), "shift": ctx.attr("shift")})


def _scaled(ctx: NodeContext, x: Value, affine: Any) -> Value:
    if affine is None:
        return x
    return ctx.affine(x, affine["scale"], affine["shift"])


def _batch_norm(ctx: NodeContext) -> Value:
    b = ctx.builder
    if ctx.attr("training_mode", 0) or not ctx.attr("spatial", 1):
        raise ctx.unsupported("is in training mode, or normalizes each place by itself", "Export in evaluation mode")
    x = b.last(ctx.value(), ctx.value().axis(1))
    gamma, beta, mean, variance = (
        ctx.const(i, label).astype(np.float64) for i, label in enumerate(("scale", "bias", "mean", "variance"), 1)
    )
    affine = ctx.attr("affine")
    if affine is not None:
        axis = x.axis(1)
        channels = x.shape[axis]
        scale, shift = (ctx.sample_array(affine[key], x) for key in ("scale", "shift"))
        if all(n == 1 for a in (scale, shift) for i, n in enumerate(a.shape) if i != axis) and channels is not None:
            scale, shift = (np.broadcast_to(a.ravel(), (channels,)) for a in (scale, shift))
            gamma, beta, affine = gamma * scale, beta * scale + shift, None
    result = b.each(L.BatchNorm(mean, variance, gamma, beta, ctx.attr("epsilon", 1e-5)), x)
    return _scaled(ctx, result, affine)


def _layer_norm(ctx: NodeContext, kind: Any = L.LayerNorm) -> Value:
    x = ctx.value()
    axes = [x.axis(dim) for dim in range(ctx.attr("axis", -1) % x.rank, x.rank)]
    gamma, beta = ctx.maybe(1, "scale"), ctx.maybe(2, "bias")
    if any(name for name in ctx.node.outputs[1:]):
        raise ctx.unsupported("hands out its mean and deviation, which lrpfast does not compute")
    return _sample_norm(ctx, kind, axes, ctx.attr("epsilon", 1e-5), gamma, beta)


def _sample_norm(ctx: NodeContext, kind: Any, axes: Any, epsilon: float, gamma: Any, beta: Any, x: Any = None) -> Value:
    """A normalization over a sample's last axes, with parameters of their shape."""
    b, x = ctx.builder, ctx.value() if x is None else x
    axes = sorted(axes)
    t = b.tensor(x)
    if axes != list(range(len(x.shape) - len(axes), len(x.shape))):
        gamma, beta, after = None, None, (gamma, beta)
    else:
        after = (None, None)
    t = b.lay(t, [*(a for a in t.order if a not in axes), *axes])
    shape = tuple(t.shape[a] for a in axes)
    count = len(axes)
    gamma, beta = (None if v is None else np.broadcast_to(_trailing(ctx, v, t, count), shape) for v in (gamma, beta))
    result: Value = b.each(kind(gamma, beta, epsilon, len(axes)), t)
    if after != (None, None):
        scale, shift = (d if v is None else v for d, v in zip((_ONE, _NOTHING), after, strict=True))
        result = ctx.affine(result, scale, shift)
    return result


def _trailing(ctx: NodeContext, array: np.ndarray, t: Tensor, count: int) -> np.ndarray:
    """A constant on the last axes of a tensor."""
    whole = ctx.sample_array(array, t)
    return whole.reshape(whole.shape[whole.ndim - count :])


def _normalized(kind: Any) -> Callable[[NodeContext], Value]:
    """A normalization that was found in several nodes."""

    def build(ctx: NodeContext) -> Value:
        x = ctx.value()
        axes = [x.axis(a) for a in ctx.attr("axes")]
        dims, count = {a % x.rank for a in ctx.attr("axes")}, ctx.attr("count")
        _check_shapes(ctx, x, dims, "subtracts a mean of shape {}, which is no normalization's")
        if count is not None and abs(count - math.prod(fixed(x, a) for a in axes)) > 1e-4 * count:
            raise ctx.unsupported(f"divides a sum of {[x.shape[a] for a in axes]} values by {count:g}")
        affine = ctx.attr("affine") or {"scale": _ONE, "shift": _NOTHING}
        scale, shift = affine["scale"], affine["shift"]
        fits = len(axes) >= max(scale.ndim, shift.ndim)
        if fits:
            return _sample_norm(ctx, kind, axes, ctx.attr("epsilon"), scale, shift)
        return ctx.affine(_sample_norm(ctx, kind, axes, ctx.attr("epsilon"), None, None), scale, shift)

    return build


def _unit_norm(ctx: NodeContext) -> Value:
    """Values over their length, as it was found in several nodes."""
    x = ctx.value()
    dims = {a % x.rank for a in ctx.attr("axes")}
    _check_shapes(ctx, x, dims, "divides by a length of shape {}, which is not its own")
    return unit_norm(ctx.builder, x, [x.axis(a) for a in ctx.attr("axes")])


def _instance_norm(ctx: NodeContext) -> Value:
    """Each channel by its own mean and deviation, then scaled."""
    b, x = ctx.builder, ctx.value()
    check_first(x)
    rank = len(x.shape)
    result = _sample_norm(ctx, L.LayerNorm, range(1, rank), ctx.attr("epsilon", 1e-5), None, None)
    shape = (-1, *(1,) * (rank - 1))
    return b.affine(result, ctx.const(1, "scale").reshape(shape), ctx.const(2, "bias").reshape(shape))


def _group_norm(ctx: NodeContext) -> Value:
    """Groups of channels by their own mean and deviation; scale and bias are the groups' up to version 20."""
    b, x = ctx.builder, ctx.value()
    if None in x.shape:
        raise ctx.unsupported("normalizes an input whose size the file leaves open", FIX_SIZE)
    channels, groups = x.shape[0], ctx.attr("num_groups")
    if groups < 1 or channels % groups:
        raise ShapeError(f"it has {groups} groups of {channels} channels")
    size = channels // groups
    ctx.attr("stash_type")
    parts = b.reshape(x, (groups, size, *x.shape[1:]))
    axes = range(1, len(x.shape) + 1)
    result = _sample_norm(ctx, L.LayerNorm, axes, ctx.attr("epsilon", 1e-5), None, None, parts)
    scale, bias = (ctx.const(i, label).ravel() for i, label in ((1, "scale"), (2, "bias")))
    if ctx.opset < 21:
        scale, bias = (a.repeat(size) if a.size == groups else a for a in (scale, bias))
    shape = (-1, *(1,) * (len(x.shape) - 1))
    return b.affine(b.reshape(result, x.shape), scale.reshape(shape), bias.reshape(shape))


def _local_response(ctx: NodeContext) -> Value:
    size, b, x = ctx.attr("size", 0), ctx.builder, ctx.value()
    check_first(x)
    layer = L.LocalResponseNorm(size, ctx.attr("alpha", 1e-4), ctx.attr("beta", 0.75), ctx.attr("bias", 1.0))
    if size % 2:
        return b.each(layer, b.last(x, 0))
    # an even window reaches further to one side: ONNX's after the channel, ours before it
    turned = range(fixed(x, 0))[::-1]
    return take(b, b.each(layer, b.last(take(b, x, 0, turned), 0)), 0, turned)


# -- several tensors ----------------------------------------------------------------


def _sum(ctx: NodeContext) -> Any:
    if len(ctx.args) == 2:
        a, b = ctx.args
        masked: Any = masked_sum(ctx, a, b)
        masked = mapped(ctx, a, b, np.add) if masked is None else masked
        if masked is not None:
            return masked
    operands = ctx.operands()
    values = [v for v in operands if not isinstance(v, np.ndarray)]
    result: Value = values[0] if len(values) == 1 else ctx.builder.merge(L.Add(), values)
    for array in operands:
        if isinstance(array, np.ndarray):
            result = add(ctx.builder, result, array)
    return result


def _subtract(ctx: NodeContext) -> Any:
    """A difference; the constants of a file itself are an Affine* by now, those made of a shape are not."""
    a, b = ctx.args
    result = mapped(ctx, a, b, np.subtract)
    if result is not None:
        return result
    x, y = ctx.operands(a, b)
    return add(ctx.builder, x, y, -1.0)


def _mean(ctx: NodeContext) -> Value:
    if any(isinstance(arg, FoldedValue) for arg in ctx.args):
        return ctx.affine(_sum(ctx), 1 / len(ctx.args), _NOTHING)
    return ctx.builder.merge(L.Average(), ctx.operands())


def _multiply(ctx: NodeContext) -> Any:
    """A product; by a condition that was cast to numbers, the selection that it is."""
    for i, arg in enumerate(ctx.args):
        if is_condition(arg):
            (other,) = ctx.operands(ctx.args[1 - i])
            return select(ctx.builder, arg, other, _NOTHING)
    a, b = ctx.args
    result: Any = masked_product(ctx, a, b)
    result = product_of_masks(ctx, a, b) if result is None else result
    result = mapped(ctx, a, b, np.multiply) if result is None else result
    return multiply(ctx.builder, *ctx.operands()) if result is None else result


def _divide(ctx: NodeContext) -> Value:
    return divide(ctx.builder, *ctx.operands())


def _power(ctx: NodeContext) -> Value:
    exponent = ctx.const(1, "exponent")
    if exponent.size != 1:
        raise ctx.unsupported(f"raises to powers of shape {exponent.shape}; lrpfast reads one number")
    return power(ctx.builder, ctx.value(), float(exponent.ravel()[0]))


def _extreme(kind: Any) -> Callable[[NodeContext], Value]:
    return lambda ctx: extreme(ctx.builder, kind(), ctx.operands())


def _concat(ctx: NodeContext) -> Value:
    """Tensors one after the other; a constant among them is room made by zeros, and then added."""
    operands = ctx.operands()
    first = next(v for v in operands if not isinstance(v, np.ndarray))
    return concat(ctx.builder, operands, first.axis(ctx.attr("axis")))


def _negative(ctx: NodeContext) -> Value:
    return negative(ctx.builder, ctx.value())


def _identity(ctx: NodeContext) -> Value:
    if ctx.attr("training_mode") or (ctx.node.op == "Dropout" and ctx.has(2) and ctx.const(2, "mode").any()):
        raise ctx.unsupported("is in training mode", "Export in evaluation mode")
    if len(ctx.node.outputs) > 1 and ctx.node.outputs[1]:
        pass  # the mask: whoever uses it is refused, as there is no such value
    return ctx.builder.each(L.Identity(ctx.node.op), ctx.value())


def _cast(ctx: NodeContext) -> Any:
    to, value = ctx.attr("to"), ctx.args[0]
    if is_condition(value):
        return value
    if isinstance(value, Condition):
        return value.map(bool, boolean=True) if to == 9 else value.map(float)
    if isinstance(value, Masked) and to in (1, 10, 11, 16):
        return value
    if isinstance(value, Tensor) and is_whole(ctx.builder, value, ctx.whole) and to not in (1, 10, 11, 16):
        return compared(ctx.builder, value, "ne", 0.0) if to == 9 else value
    if to in (1, 10, 11, 16):
        return ctx.builder.each(L.Identity("Cast"), ctx.value())
    dtype = np.dtype(DTYPES[to]).name if to in DTYPES else f"type {to}"
    x = ctx.args[0].value if isinstance(ctx.args[0], Integers) else ctx.value()
    problem = f"turns what the model computes into {dtype}, which rounds it"
    if isinstance(x, Tensor) and x.node in ctx.inputs and to in (6, 7, 12, 13):
        return Integers(x, f"{ctx.node} {problem}")
    raise ctx.unsupported(problem)


def _cast_like(ctx: NodeContext) -> Any:
    """The type of another value: of a float, whatever its precision is, which is the analyzer's."""
    x, like = ctx.args
    if isinstance(like, FoldedValue) and like.first.dtype.kind != "f":
        raise ctx.unsupported(f"turns what the model computes into {like.first.dtype}, which rounds it")
    if isinstance(x, FoldedValue):
        ctx.value(1)
        return x if x.first.dtype.kind == "f" else FoldedValue(*(a.astype(np.float32) for a in (x.first, x.second)))
    return x if isinstance(x, Condition) or is_condition(x) else ctx.value()


def _swish(ctx: NodeContext) -> Value:
    """x · sigmoid(alpha · x)."""
    alpha = ctx.attr("alpha", 1.0)
    if alpha == 0:
        return ctx.affine(ctx.value(), np.array(0.5), _NOTHING)
    if alpha == 1:
        return ctx.builder.each(L.Activation("silu"), ctx.value())
    silu = ctx.builder.each(L.Activation("silu"), ctx.affine(ctx.value(), np.array(alpha), _NOTHING))
    return ctx.affine(silu, np.array(1 / alpha), _NOTHING)


#: How each operator is built; those that end in "*" stand for patterns (patterns.py).
ELEMENTWISE: dict[str, Callable[[NodeContext], Any]] = {
    "Abs": _function("relu", negative_slope=-1.0),
    "Add": _sum,
    "Affine*": _affine,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Celu": _celu,
    "Clip": _clip,
    "Clip*": lambda ctx: _clipped(ctx, ctx.attr("low"), ctx.attr("high")),
    "Concat": _concat,
    "Div": _divide,
    "Dropout": _identity,
    "Elu": _function("elu", alpha=("alpha", 1.0)),
    "Exp": _function("exponential"),
    "Gelu": _gelu,
    "GroupNormalization": _group_norm,
    "HardSigmoid": _function("hard_sigmoid", slope=("alpha", 0.2), offset=("beta", 0.5)),
    "HardSwish": _function("hard_silu"),
    "Identity": _identity,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response,
    "LayerNorm*": _normalized(L.LayerNorm),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _function("leaky_relu", negative_slope=("alpha", 0.01)),
    "LogSigmoid*": _function("log_sigmoid"),
    "LogSoftmax": _softmax("log_softmax"),
    "LogSoftmax*": _written_log_softmax,
    "Log": _function("log"),
    "Max": _extreme(L.Maximum),
    "Mean": _mean,
    "Min": _extreme(L.Minimum),
    "Mish": _function("mish"),
    "Mul": _multiply,
    "Neg": _negative,
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": _function("power", exponent=-1.0),
    "RMSNorm*": _normalized(L.RMSNorm),
    "UnitNorm*": _unit_norm,
    "RMSNormalization": lambda ctx: _layer_norm(ctx, L.RMSNorm),
    "Relu": _function("relu"),
    "Selu": _selu,
    "Sigmoid": _function("sigmoid"),
    "Shrink": _shrink,
    "Silu*": _function("silu"),
    "Softmax": _softmax("softmax"),
    "Softmax*": _written_softmax,
    "Softplus": _function("softplus"),
    "Softsign": _function("softsign"),
    "Sqrt": _function("power", exponent=0.5),
    "Sub": _subtract,
    "Sum": _sum,
    "Swish": _swish,
    "Tanh": _function("tanh"),
    "ThresholdedRelu": _function("relu", threshold=("alpha", 1.0)),
}
