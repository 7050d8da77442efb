"""Operators that quantize while the model runs, as those on the numbers that are approximated, without the rounding.

DynamicQuantizeLinear chooses a scale and a zero point for each tensor. What follows computes with whole numbers, and
with the scale as a number of its own: weights are multiplied in whole numbers, biases are divided by scales, and sums
are multiplied by scales in the end. Here each such value is a `Scaled`, a value times powers of scales. The powers
cancel where the file returns to floats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import ModelFormatError
from .context import NodeContext
from .file import Node
from .fold import FoldedValue
from .linear import LINEAR
from .quantized_constants import dequantized
from .recurrent import RECURRENT
from .shape_ops import MOVES
from .values import Quantized, Scaled, ZeroPoint

#: Operators that change no number, but for rounding.
_SAME = ("Cast", "Ceil", "Floor", "Identity", "Round")
#: Operators that take a `Scaled`.
ON_SCALED = {*_SAME, *MOVES, "Add", "Sub", "Mul", "Div", "Affine*"}

#: Builds or folds a node, of its inputs.
Apply = Callable[[Node, list[Any]], Any]


def folded(array: np.ndarray) -> FoldedValue:
    """A constant that is the same for every batch."""
    return FoldedValue(array, array)


def scaled(node: Node, args: Sequence[Any], apply: Apply) -> Any:
    """What a node makes of values that are times powers of scales; a plain value where the powers cancel."""
    values = [arg.value if isinstance(arg, Scaled) else arg for arg in args]
    first = next(arg for arg in args if isinstance(arg, Scaled))
    if any(isinstance(arg, Scaled) and arg.zero_point for arg in args) and node.op not in MOVES:
        raise node.unsupported("computes with quantized numbers, before their zero point is subtracted")
    if node.op in _SAME:
        return first
    if node.op in MOVES:
        result = apply(node, values)
        return (
            result if isinstance(result, FoldedValue) and node.op in ("Shape", "Size") else replace(first, value=result)
        )
    powers = [Counter(arg.powers) if isinstance(arg, Scaled) else Counter() for arg in args]
    if node.op == "Affine*":
        scale, shift = (np.asarray(node.attributes[key]) for key in ("scale", "shift"))
        if shift.any():
            raise node.unsupported("adds a constant to numbers that are divided by a scale")
        if isinstance(first.value, FoldedValue):
            return replace(first, value=FoldedValue(first.value.first * scale, first.value.second * scale))
        return replace(first, value=apply(node, values))
    if node.op in ("Add", "Sub"):
        if any(p != powers[0] for p in powers):
            raise node.unsupported("adds numbers of different scales")
        total = powers[0]
    else:
        total = powers[0].copy()
        total.update(powers[1]) if node.op == "Mul" else total.subtract(powers[1])
    value = apply(node, values)
    total = Counter({key: n for key, n in total.items() if n})
    return Scaled(value, total) if total else value


def _quantizer(ctx: NodeContext) -> list[Any]:
    """The whole numbers, their scale and their zero point."""
    name = ctx.node.outputs[0]
    one = Scaled(folded(np.array(1.0)), {name: 1})
    return [Scaled(ctx.value(), {name: -1}, name), one, ZeroPoint(name)]


def _factor(ctx: NodeContext, i: int, zero: int, axis: int) -> tuple[Any, dict[str, int]]:
    """An input without its zero point, and the powers of scales that it has; zero points of weights lie on an axis."""
    arg, point = ctx.args[i], ctx.args[zero] if ctx.has(zero) else None
    if isinstance(arg, FoldedValue):
        return folded(dequantized(ctx.const(i, "weight"), np.array(1.0), ctx.maybe(zero, "zero point"), axis)), {}
    if isinstance(arg, Scaled):
        if arg.zero_point != (point.quantizer if isinstance(point, ZeroPoint) else ""):
            raise ctx.unsupported("subtracts another zero point than that of its input")
        return arg.value, dict(arg.powers)
    if isinstance(arg, Quantized):
        shift = arg.zero_point - (0 if point is None else int(ctx.number(zero, "zero point")))
        return ctx.affine(arg.value, np.array(1 / arg.scale), np.array(float(shift))), {}
    raise ctx.unsupported("takes whole numbers that come from no quantizer")


def _on_integers(op: str) -> Callable[[NodeContext], Any]:
    """ConvInteger and MatMulInteger, as the float operator; outputs of a weight are on its first or its last axis."""

    def build(ctx: NodeContext) -> Any:
        axes = (0, 0) if op == "Conv" else (-2, -1)
        (a, powers), (b, others) = (_factor(ctx, i, 2 + i, axis) for i, axis in enumerate(axes))
        value = LINEAR[op](as_float(ctx, op, [a, b]))
        total = Counter(powers)
        total.update(others)
        return Scaled(value, total) if total else value

    return build


def as_float(ctx: NodeContext, op: str, args: list[Any]) -> NodeContext:
    """The same node as one of the float operator."""
    return replace(ctx, node=replace(ctx.node, op=op, written=ctx.node.written or ctx.node.op), args=args)


def _plus(ctx: NodeContext, value: Any, i: int) -> Any:
    """The value with a bias, if there is one."""
    bias = ctx.maybe(i, "bias")
    return value if bias is None else ctx.affine(value, np.array(1.0), bias)


def _matmul_to_float(ctx: NodeContext) -> Any:
    """com.microsoft.MatMulIntegerToFloat: a and b, their scales, their zero points, and a bias."""
    a, powers = _factor(ctx, 0, 4, -2)
    if isinstance(ctx.args[0], Quantized) or not powers or not isinstance(ctx.args[2], Scaled):
        raise ctx.unsupported("takes whole numbers that come from no DynamicQuantizeLinear")
    scale = ctx.args[2]
    if Counter(scale.powers) != Counter({key: -n for key, n in powers.items()}):
        raise ctx.unsupported("multiplies by another scale than that of its input")
    assert isinstance(scale.value, FoldedValue)
    b = dequantized(ctx.const(1, "weight"), ctx.const(3, "scale"), ctx.maybe(5, "zero point"), -1)
    value = LINEAR["MatMul"](as_float(ctx, "MatMul", [a, folded(b * ctx.fixed(scale.value, "scale"))]))
    return _plus(ctx, value, 6)


def _dynamic_matmul(ctx: NodeContext) -> Any:
    """com.microsoft.DynamicQuantizeMatMul: a, which is a float, b with its scale and zero point, and a bias."""
    b = dequantized(ctx.const(1, "weight"), ctx.const(2, "scale"), ctx.maybe(3, "zero point"), -1)
    return _plus(ctx, LINEAR["MatMul"](as_float(ctx, "MatMul", [ctx.value(), folded(b)])), 4)


def _lstm(ctx: NodeContext) -> Any:
    """com.microsoft.DynamicQuantizeLSTM: an LSTM whose W and R are transposed, with scales and zero points after it."""
    if len(ctx.args) != 12:
        raise ModelFormatError(f"it has {len(ctx.args)} inputs, DynamicQuantizeLSTM has 12")
    weights = []
    for i, scale in ((1, 8), (2, 10)):
        array, factor, zero = (
            ctx.const(k, label) for k, label in ((i, "weight"), (scale, "scale"), (scale + 1, "zero"))
        )
        ways = (
            (-1, 1, 1) if factor.ndim < 2 else (len(factor), 1, -1)
        )  # one for each direction, or for each gate's unit
        weight = (array.astype(float) - zero.reshape(ways)) * factor.reshape(ways)
        weights.append(folded(weight.transpose(0, 2, 1).astype(np.float32)))
    args = [ctx.args[0], *weights, *ctx.args[3:8]]
    return RECURRENT["LSTM"](as_float(ctx, "LSTM", args))


#: How each operator is built.
DYNAMIC: dict[str, Callable[[NodeContext], Any]] = {
    "ConvInteger": _on_integers("Conv"),
    "DynamicQuantizeLinear": _quantizer,
    "MatMulInteger": _on_integers("MatMul"),
    "com.microsoft.DynamicQuantizeLSTM": _lstm,
    "com.microsoft.DynamicQuantizeMatMul": _dynamic_matmul,
    "com.microsoft.MatMulIntegerToFloat": _matmul_to_float,
}
