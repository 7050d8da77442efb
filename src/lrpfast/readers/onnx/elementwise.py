"""ONNX operators that treat values one by one, normalize them, or join several tensors, as layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...model import layers as L
from ..channels_first import Value, clip
from ..places import constant, fixed, pad, take
from .fold import DTYPES, Known
from .use import Use

_ONE, _NOTHING = np.array(1.0), np.array(0.0)
#: float32's largest number.
_LARGEST = float(np.finfo(np.float32).max)


# -- activations ------------------------------------------------------------------


def _function(name: str, **parameters: Any) -> Callable[[Use], Value]:
    """An activation; each parameter is a number, or the attribute that holds it and its default."""

    def build(use: Use) -> Value:
        found = {k: use.attr(*v) if isinstance(v, tuple) else v for k, v in parameters.items()}
        return use.builder.each(L.Activation(name, found), use.value())

    return build


def _celu(use: Use) -> Value:
    alpha = use.attr("alpha", 1.0)
    if alpha <= 0:
        raise use.unsupported(f"has alpha {alpha}", "Those above 0 work")
    return use.builder.each(L.Activation("celu", {"alpha": alpha}), use.value())


def _shrink(use: Use) -> Value:
    threshold = use.attr("lambd", 0.5)
    if threshold < 0:
        raise use.unsupported(f"has lambd {threshold}", "Those of at least 0 work")
    layer = L.Activation("shrink", {"threshold": threshold, "shift": use.attr("bias", 0.0)})
    return use.builder.each(layer, use.value())


def _gelu(use: Use) -> Value:
    kind = use.attr("approximate", "none")
    if kind not in ("none", "tanh"):
        raise use.unsupported(f"has the approximation {kind!r}, which lrpfast does not know")
    return use.builder.each(L.Activation("gelu", {"approximate": kind == "tanh"}), use.value())


def _selu(use: Use) -> Value:
    wanted = (1.6732632423543772, 1.0507009873554805)  # which files hold rounded to float32
    alpha, gamma = (use.attr(key, default) for key, default in zip(("alpha", "gamma"), wanted, strict=True))
    if tuple(map(np.float32, (alpha, gamma))) == tuple(map(np.float32, wanted)):
        return use.builder.each(L.Activation("selu"), use.value())
    made = use.builder.each(L.Activation("elu", {"alpha": alpha}), use.value())
    return use.affine(made, gamma, _NOTHING)


def _prelu(use: Use) -> Value:
    x, b = use.builder.tensor(use.value()), use.builder
    slope = use.sample(use.const(1, "slope"), len(x.shape))
    if slope.size == 1:
        return b.each(L.Activation("leaky_relu", {"negative_slope": float(slope.ravel()[0])}), x)
    slope = slope.reshape((1,) * (len(x.shape) - slope.ndim) + slope.shape).transpose(x.order)
    return b.each(L.Activation("prelu", {"negative_slope": slope}), x)


def _clip(use: Use) -> Value:
    return _clipped(use, *(use.number(i, name, use.attr(name)) for i, name in ((1, "min"), (2, "max"))))


def _clipped(use: Use, low: float | None, high: float | None, x: Value | None = None) -> Value:
    """min(max(x, low), high), which is ``high`` everywhere where that is below ``low``."""
    low = None if low is None or low <= -_LARGEST else low  # up to version 10 it stands for none
    high = None if high is None or high >= _LARGEST else high
    if low is not None and high is not None:
        low = min(low, high)
    return use.builder.each(clip(low, high), use.value() if x is None else x)


def _softmax(name: str) -> Callable[[Use], Value]:
    def build(use: Use) -> Value:
        b, x = use.builder, use.value()
        axis = use.axis(use.attr("axis", 1 if use.opset < 13 else -1))
        if use.opset < 13 and axis < len(x.shape) - 1:  # over all axes from that one on
            if None in x.shape:
                raise use.unsupported("is taken over axes whose sizes the file leaves open", "Fix the sizes")
            flat = b.reshape(x, (*x.shape[:axis], math.prod(x.shape[axis:])))  # type: ignore[arg-type]
            return b.reshape(b.each(L.Activation(name), b.last(flat, axis)), x.shape)  # type: ignore[arg-type]
        return b.each(L.Activation(name), b.last(x, axis))

    return build


# -- normalization ------------------------------------------------------------------


def _affine(use: Use) -> Value:
    return _scaled(use, use.value(), {"scale": use.attr("scale"), "shift": use.attr("shift")})


def _scaled(use: Use, x: Value, affine: Any) -> Value:
    if affine is None:
        return x
    return use.affine(x, affine["scale"], affine["shift"])


def _batch_norm(use: Use) -> Value:
    b = use.builder
    if use.attr("training_mode", 0) or not use.attr("spatial", 1):
        raise use.unsupported("is in training mode, or normalizes each place by itself", "Export in evaluation mode")
    x = b.last(use.value(), 0)
    gamma, beta, mean, variance = (
        use.const(i, what).astype(np.float64) for i, what in enumerate(("scale", "bias", "mean", "variance"), 1)
    )
    affine = use.attr("affine")
    if affine is not None:
        rank, channels = len(x.shape), x.shape[0]
        scale, shift = (use.sample(np.asarray(affine[key]), rank) for key in ("scale", "shift"))
        scale, shift = (a.reshape((1,) * (rank - a.ndim) + a.shape) for a in (scale, shift))
        if all(n == 1 for a in (scale, shift) for n in a.shape[1:]) and channels is not None:
            scale, shift = (np.broadcast_to(a.ravel(), (channels,)) for a in (scale, shift))
            gamma, beta, affine = gamma * scale, beta * scale + shift, None
    made = b.each(L.BatchNorm(mean, variance, gamma, beta, use.attr("epsilon", 1e-5)), x)
    return _scaled(use, made, affine)


def _layer_norm(use: Use, kind: Any = L.LayerNorm) -> Value:
    rank = len(use.value().shape)
    first = use.axis(use.attr("axis", -1))
    gamma, beta = use.maybe(1, "scale"), use.maybe(2, "bias")
    if any(name for name in use.node.outputs[1:]):
        raise use.unsupported("hands out its mean and deviation, which lrpfast does not compute")
    return _sample_norm(use, kind, range(first, rank), use.attr("epsilon", 1e-5), gamma, beta)


def _sample_norm(use: Use, kind: Any, axes: Any, epsilon: float, gamma: Any, beta: Any) -> Value:
    """A normalization over a sample's last axes, with parameters of their shape."""
    b, x = use.builder, use.value()
    axes = sorted(axes)
    t = b.tensor(x)
    if axes != list(range(len(x.shape) - len(axes), len(x.shape))):
        gamma, beta, after = None, None, (gamma, beta)
    else:
        after = (None, None)
    t = b.lay(t, [*(a for a in t.order if a not in axes), *axes])
    shape = tuple(t.shape[a] for a in axes)
    gamma, beta = (None if v is None else np.broadcast_to(use.sample(v, len(t.shape)), shape) for v in (gamma, beta))
    made: Value = b.each(kind(gamma, beta, epsilon, len(axes)), t)
    if after != (None, None):
        scale, shift = (d if v is None else v for d, v in zip((_ONE, _NOTHING), after, strict=True))
        made = use.affine(made, scale, shift)
    return made


def _normalized(kind: Any) -> Callable[[Use], Value]:
    """A normalization that was found in several nodes."""

    def build(use: Use) -> Value:
        rank = len(use.value().shape)
        axes = [use.axis(a) for a in use.attr("axes")]
        affine = use.attr("affine") or {"scale": _ONE, "shift": _NOTHING}
        scale, shift = (use.sample(np.asarray(affine[key]), rank) for key in ("scale", "shift"))
        fits = len(axes) >= max(scale.ndim, shift.ndim)
        if fits:
            return _sample_norm(use, kind, axes, use.attr("epsilon"), scale, shift)
        return use.affine(_sample_norm(use, kind, axes, use.attr("epsilon"), None, None), scale, shift)

    return build


def _instance_norm(use: Use) -> Value:
    """Each channel by its own mean and deviation, then scaled."""
    b, x = use.builder, use.value()
    rank = len(x.shape)
    made = _sample_norm(use, L.LayerNorm, range(1, rank), use.attr("epsilon", 1e-5), None, None)
    shape = (-1, *(1,) * (rank - 1))
    return b.affine(made, use.const(1, "scale").reshape(shape), use.const(2, "bias").reshape(shape))


def _local_response(use: Use) -> Value:
    size, b, x = use.attr("size", 0), use.builder, use.value()
    layer = L.LocalResponseNorm(size, use.attr("alpha", 1e-4), use.attr("beta", 0.75), use.attr("bias", 1.0))
    if size % 2:
        return b.each(layer, b.last(x, 0))
    # an even window reaches further to one side: ONNX's after the channel, ours before it
    turned = range(fixed(x, 0))[::-1]
    return take(b, b.each(layer, b.last(take(b, x, 0, turned), 0)), 0, turned)


# -- several tensors ----------------------------------------------------------------


def _sum(use: Use) -> Value:
    tensors = [arg for arg in use.args if not isinstance(arg, Known)]
    made = tensors[0] if len(tensors) == 1 else use.builder.merge(L.Add(), tensors)
    for i, arg in enumerate(use.args):
        if isinstance(arg, Known):
            made = use.affine(made, _ONE, use.const(i, "constant"))
    return made


def _subtract(use: Use) -> Value:
    """A difference; the constants of a file itself are an Affine* by now, those made of a shape are not."""
    if isinstance(use.args[1], Known):
        return use.affine(use.value(), _ONE, -use.const(1, "constant").astype(np.float64))
    if isinstance(use.args[0], Known):
        return use.affine(use.value(1), -_ONE, use.const(0, "constant"))
    return use.builder.merge(L.Subtract(), [use.value(0), use.value(1)])


def _mean(use: Use) -> Value:
    if any(isinstance(arg, Known) for arg in use.args):
        return use.affine(_sum(use), 1 / len(use.args), _NOTHING)
    return use.builder.merge(L.Average(), use.args)


def _multiply(use: Use) -> Value:
    for i in (0, 1):
        if isinstance(use.args[i], Known):
            return use.affine(use.value(1 - i), use.const(i, "factor"), _NOTHING)
    return use.builder.merge(L.Multiply(), [use.value(0), use.value(1)])


def _divide(use: Use) -> Value:
    """A product with the reciprocal."""
    if isinstance(use.args[1], Known):
        with np.errstate(all="ignore"):
            return use.affine(use.value(), 1 / use.const(1, "divisor").astype(np.float64), _NOTHING)
    b, below = use.builder, use.builder.each(L.Activation("power", {"exponent": -1.0}), use.value(1))
    if isinstance(use.args[0], Known):
        return use.affine(below, use.const(0, "dividend"), _NOTHING)
    return b.merge(L.Multiply(), [use.value(0), below])


def _power(use: Use) -> Value:
    exponent = use.sample(use.const(1, "exponent"), len(use.value().shape))
    if exponent.size != 1:
        raise use.unsupported(f"raises to powers of shape {exponent.shape}; lrpfast reads one number")
    return use.builder.each(L.Activation("power", {"exponent": float(exponent.ravel()[0])}), use.value())


def _extreme(layer: Any, lower: bool) -> Callable[[Use], Value]:
    def build(use: Use) -> Value:
        tensors = [arg for arg in use.args if not isinstance(arg, Known)]
        made = use.builder.merge(layer(), tensors) if len(tensors) > 1 else tensors[0]
        known = [i for i, arg in enumerate(use.args) if isinstance(arg, Known)]
        ends = [use.sample(use.const(i, "limit"), len(made.shape)) for i in known]
        numbers = [float(end.ravel()[0]) for end in ends if end.size == 1]
        if numbers:
            low, high = (max(numbers), None) if lower else (None, min(numbers))
            made = _clipped(use, low, high, made)
        for end in ends:
            if end.size != 1:
                made = use.builder.merge(layer(), [made, constant(use.builder, made, end)])
        return made

    return build


def _concat(use: Use) -> Value:
    """Tensors one after the other; a constant among them is room made by zeros, and then added."""
    b = use.builder
    tensors = [arg for arg in use.args if not isinstance(arg, Known)]
    rank = len(tensors[0].shape)
    axis = use.axis(use.attr("axis"), rank + 1)
    if len(tensors) == len(use.args):
        return tensors[0] if len(tensors) == 1 else b.merge(L.Concat(), tensors, axis)
    pending: list[np.ndarray] = []
    parts: list[Any] = []
    for i, arg in enumerate(use.args):
        if isinstance(arg, Known):
            constant = use.const(i, "constant")
            parts.append(use.sample(constant, rank) if constant.ndim > rank else constant)
            if parts[-1].ndim != rank:
                raise use.unsupported(f"joins a constant of shape {constant.shape} to samples of {rank} axes")
        else:
            parts.append(arg)
    tensors = []
    for part in parts:
        if isinstance(part, np.ndarray):
            pending.append(part)
            continue
        before = sum(a.shape[axis] for a in pending)
        tensors.append(pad(b, part, {axis: (before, 0)}, "constant"))
        pending = []
    if pending:
        tensors[-1] = pad(b, tensors[-1], {axis: (0, sum(a.shape[axis] for a in pending))}, "constant")
    made = tensors[0] if len(tensors) == 1 else b.merge(L.Concat(), tensors, axis)
    shape = [*made.shape]
    zeros = [
        p if isinstance(p, np.ndarray) else np.zeros([*shape[:axis], p.shape[axis], *shape[axis + 1 :]]) for p in parts
    ]
    return b.affine(made, _ONE, np.concatenate(zeros, axis))


def _negative(use: Use) -> Value:
    return use.builder.affine(use.value(), np.array(-1.0), _NOTHING)


def _identity(use: Use) -> Value:
    if use.attr("training_mode") or (use.node.op == "Dropout" and use.has(2) and use.const(2, "mode").any()):
        raise use.unsupported("is in training mode", "Export in evaluation mode")
    if len(use.node.outputs) > 1 and use.node.outputs[1]:
        pass  # the mask: whoever uses it is refused, as there is no such value
    return use.builder.each(L.Identity(use.node.op), use.value())


def _cast(use: Use) -> Value:
    to = use.attr("to")
    if to not in (1, 10, 11, 16):
        kind = np.dtype(DTYPES[to]).name if to in DTYPES else f"type {to}"
        raise use.unsupported(f"turns what the model computes into {kind}, which rounds it")
    return use.builder.each(L.Identity("Cast"), use.value())


#: How each operator is built; those that end in "*" stand for patterns (patterns.py).
ELEMENTWISE: dict[str, Callable[[Use], Any]] = {
    "Abs": _function("relu", negative_slope=-1.0),
    "Add": _sum,
    "Affine*": _affine,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Celu": _celu,
    "Clip": _clip,
    "Clip*": lambda use: _clipped(use, use.attr("low"), use.attr("high")),
    "Concat": _concat,
    "Div": _divide,
    "Dropout": _identity,
    "Elu": _function("elu", alpha=("alpha", 1.0)),
    "Exp": _function("exponential"),
    "Gelu": _gelu,
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
    "Max": _extreme(L.Maximum, True),
    "Mean": _mean,
    "Min": _extreme(L.Minimum, False),
    "Mish": _function("mish"),
    "Mul": _multiply,
    "Neg": _negative,
    "PRelu": _prelu,
    "Pow": _power,
    "Reciprocal": _function("power", exponent=-1.0),
    "RMSNorm*": _normalized(L.RMSNorm),
    "RMSNormalization": lambda use: _layer_norm(use, L.RMSNorm),
    "Relu": _function("relu"),
    "Selu": _selu,
    "Sigmoid": _function("sigmoid"),
    "Shrink": _shrink,
    "Silu*": _function("silu"),
    "Softmax": _softmax("softmax"),
    "Softplus": _function("softplus"),
    "Softsign": _function("softsign"),
    "Sqrt": _function("power", exponent=0.5),
    "Sub": _subtract,
    "Sum": _sum,
    "Tanh": _function("tanh"),
    "ThresholdedRelu": _function("relu", threshold=("alpha", 1.0)),
}
