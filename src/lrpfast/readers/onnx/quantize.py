"""Operators of whole numbers with constant scales, on what these approximate: limits are kept, rounding is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..channels_first import Value, clip
from .context import NodeContext
from .dynamic_quantize import DYNAMIC, as_float, folded
from .elementwise import ELEMENTWISE
from .file import Node
from .fold import FoldedValue
from .linear import LINEAR
from .quantized_constants import INTEGER_TYPES, dequantized
from .shape_ops import MOVES
from .values import Quantized, Scaled


def _scale(ctx: NodeContext, i: int) -> tuple[float, int, Any]:
    """(scale, zero point, dtype), one for the whole tensor, which are inputs i and i + 1."""
    scale, zero = ctx.const(i, "scale"), ctx.maybe(i + 1, "zero point")
    dtype = INTEGER_TYPES.get(ctx.attr("output_dtype", 0) or 2, np.uint8) if zero is None else zero.dtype
    if scale.size != 1 or (zero is not None and zero.size != 1) or np.dtype(dtype).kind not in "iu":
        raise ctx.unsupported("quantizes what the model computes by more than one scale, or to floats")
    return float(scale.ravel()[0]), 0 if zero is None else int(zero.ravel()[0]), dtype


def _limited(ctx: NodeContext, value: Value, i: int) -> Quantized:
    """The numbers that are approximated, within the limits of the whole numbers."""
    scale, zero, dtype = _scale(ctx, i)
    limits = np.iinfo(dtype)
    low, high = ((end - zero) * scale for end in (limits.min, limits.max))
    return Quantized(ctx.builder.each(clip(low, high), value), scale, zero)


def _quantize(ctx: NodeContext) -> Quantized:
    for key in ("axis", "saturate", "block_size", "precision"):
        ctx.attr(key)
    return _limited(ctx, ctx.value(), 1)


def _dequantize(ctx: NodeContext) -> Value:
    for key in ("axis", "block_size", "output_dtype"):
        ctx.attr(key)
    x, factor = ctx.args[0], ctx.args[1]
    if isinstance(x, Scaled) and isinstance(factor, Scaled):
        one = isinstance(factor.value, FoldedValue) and (factor.value.first == 1).all()
        if one and dict(factor.powers) == {x.zero_point: 1} and dict(x.powers) == {x.zero_point: -1}:
            return x.value  # type: ignore[return-value]
    result: Value = _real(ctx, 0, -1)
    return result


def _real(ctx: NodeContext, i: int, axis: int) -> Any:
    """The numbers that input i stands for, whose scale and zero point follow; a constant's may lie on an axis."""
    x = ctx.args[i]
    if isinstance(x, FoldedValue):
        return folded(dequantized(ctx.const(i, "weight"), ctx.const(i + 1, "scale"), ctx.maybe(i + 2, "zero"), axis))
    if not isinstance(x, Quantized):
        raise ctx.unsupported("takes whole numbers that come from no QuantizeLinear")
    scale, zero, _ = _scale(ctx, i + 1)
    if (scale, zero) == (x.scale, x.zero_point):
        return x.value
    return ctx.affine(x.value, np.array(scale / x.scale), np.array((x.zero_point - zero) * scale))


def _bias(ctx: NodeContext, i: int, weight: int) -> list[Any]:
    """A bias of whole numbers, whose scale is the product of those of the input and the weight."""
    bias = ctx.maybe(i, "bias")
    if bias is None:
        return []
    return [folded(bias.astype(np.float64) * ctx.const(1, "scale").astype(float) * ctx.const(weight, "scale").ravel())]


def _conv(ctx: NodeContext) -> Quantized:
    args = [_real(ctx, 0, 1), _real(ctx, 3, 0), *_bias(ctx, 8, 4)]
    return _limited(ctx, LINEAR["Conv"](as_float(ctx, "Conv", args)), 6)


def _matmul(ctx: NodeContext) -> Quantized:
    args = [_real(ctx, 0, -2), _real(ctx, 3, -1)]
    return _limited(ctx, LINEAR["MatMul"](as_float(ctx, "MatMul", args)), 6)


def _gemm(ctx: NodeContext) -> Any:
    bias = [folded(a.first * ctx.attr("alpha", 1.0)) for a in _bias(ctx, 6, 4)]
    args = [_real(ctx, 0, -2), _real(ctx, 3, 0 if ctx.attr("transB", 0) else 1), *bias]
    result = LINEAR["Gemm"](as_float(ctx, "Gemm", args))
    return _limited(ctx, result, 7) if ctx.has(7) else result


def _of_one(op: str, build: Callable[[NodeContext], Any]) -> Callable[[NodeContext], Any]:
    """An operator of one tensor: its scale and zero point, and those of the result."""

    def convert(ctx: NodeContext) -> Any:
        if ctx.attr("channels_last", 0):
            raise ctx.unsupported("has channels last", "Export the model with channels first")
        return _limited(ctx, build(as_float(ctx, op, [_real(ctx, 0, -1)])), 3)

    return convert


def _softmax(ctx: NodeContext) -> Quantized:
    inner = as_float(ctx, "Softmax", [_real(ctx, 0, -1)])
    inner.opset = ctx.attr("opset", 13)
    return _limited(ctx, ELEMENTWISE["Softmax"](inner), 3)


def _of_two(op: str) -> Callable[[NodeContext], Any]:
    def convert(ctx: NodeContext) -> Any:
        args = [_real(ctx, 0, -1), _real(ctx, 3, -1)]
        return _limited(ctx, ELEMENTWISE[op](as_float(ctx, op, args)), 6)

    return convert


def _concat(ctx: NodeContext) -> Any:
    args = [_real(ctx, i, -1) for i in range(2, len(ctx.args), 3)]
    if all(isinstance(arg, FoldedValue) for arg in args):
        raise ctx.unsupported("joins no values of the model")
    return _limited(ctx, ELEMENTWISE["Concat"](as_float(ctx, "Concat", args)), 0)


#: How each operator is built.
QUANTIZED: dict[str, Callable[[NodeContext], Any]] = {
    "DequantizeLinear": _dequantize,
    "QuantizeLinear": _quantize,
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "com.microsoft.QGemm": _gemm,
    "com.microsoft.QLinearAdd": _of_two("Add"),
    "com.microsoft.QLinearAveragePool": _of_one("AveragePool", LINEAR["AveragePool"]),
    "com.microsoft.QLinearConcat": _concat,
    "com.microsoft.QLinearGlobalAveragePool": _of_one("GlobalAveragePool", LINEAR["GlobalAveragePool"]),
    "com.microsoft.QLinearLeakyRelu": _of_one("LeakyRelu", ELEMENTWISE["LeakyRelu"]),
    "com.microsoft.QLinearMul": _of_two("Mul"),
    "com.microsoft.QLinearSigmoid": _of_one("Sigmoid", ELEMENTWISE["Sigmoid"]),
    "com.microsoft.QLinearSoftmax": _softmax,
    **DYNAMIC,
}

#: Operators that do with whole numbers what they do with the numbers that these stand for.
ON_QUANTIZED = {*MOVES, "MaxPool", "GlobalMaxPool"}


def on_quantized(node: Node, q: Quantized, rest: list[Any], build: Callable[[Node, list[Any]], list[Any]]) -> list[Any]:
    """The outputs of a node that moves or selects whole numbers; what it pads with is one of them."""
    if node.op == "Pad":
        padding = rest[1] if len(rest) > 1 else None
        number = padding.first if isinstance(padding, FoldedValue) else node.attributes.get("value", 0)
        number = (float(np.ravel(number)[0]) - q.zero_point) * q.scale
        if len(rest) > 1:
            rest = [rest[0], folded(np.array(number)), *rest[2:]]
        else:
            node = replace(node, attributes={**node.attributes, "value": number})
    outputs = build(node, [q.value, *rest])
    return [value if isinstance(value, FoldedValue) else replace(q, value=value) for value in outputs]


#: Operators whose rounding is left out.
ROUNDING = {op for op in QUANTIZED if op != "DequantizeLinear"}
