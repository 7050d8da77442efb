"""Operators of scikit-learn's models as skl2onnx writes them (the domain ai.onnx.ml), as layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ModelFormatError
from ...model import layers as L
from ..channels_first import Value
from ..reductions import divided, largest
from ..reductions import norm as norm_of
from .context import NodeContext


def _scaler(ctx: NodeContext) -> Value:
    """(x - offset) · scale."""
    offset, scale = (np.array(ctx.attr(key) or (default,)) for key, default in (("offset", 0.0), ("scale", 1.0)))
    return ctx.affine(ctx.value(), scale, -offset * scale)


def _normalizer(ctx: NodeContext) -> Value:
    """x divided by its largest value, its sum of absolute values, or its length, over the last axis."""
    norm = ctx.attr("norm", "MAX")
    if norm not in ("MAX", "L1", "L2"):
        raise ctx.unsupported(f"has the norm {norm!r}, which lrpfast does not know")
    size = {"MAX": largest, "L1": norm_of(1), "L2": norm_of(2)}[norm]
    return divided(ctx.builder, ctx.value(), len(ctx.value().shape) - 1, size)


def _linear(ctx: NodeContext, outputs: int, bias: tuple[float, ...] | None) -> Value:
    coefficients = np.array(ctx.attr("coefficients") or ())
    if outputs < 1 or coefficients.size % outputs or (bias and len(bias) != outputs):
        raise ModelFormatError(f"it has {coefficients.size} coefficients for {outputs} outputs")
    return ctx.builder.dense(ctx.value(), coefficients.reshape(outputs, -1).T, np.array(bias) if bias else None)


def _regressor(ctx: NodeContext) -> Value:
    if ctx.attr("post_transform", "NONE") != "NONE":
        raise ctx.unsupported(f"has the post_transform {ctx.attr('post_transform')!r}", "NONE works")
    return _linear(ctx, ctx.attr("targets", 1), ctx.attr("intercepts"))


def _classifier(ctx: NodeContext) -> list[Any]:
    """The label, which is left out, and the scores."""
    labels = ctx.attr("classlabels_ints") or ctx.attr("classlabels_strings") or ()
    bias = ctx.attr("intercepts")
    ctx.attr("multi_class")
    outputs = len(bias) if bias else len(labels)
    scores = _linear(ctx, outputs, bias)
    after = ctx.attr("post_transform", "NONE")
    if outputs == 1 and len(labels) == 2:
        raise ctx.unsupported("has the coefficients of one class of two", "Export both, as skl2onnx does")
    functions = {"LOGISTIC": "sigmoid", "SOFTMAX": "softmax"}
    if after not in ("NONE", *functions):
        raise ctx.unsupported(f"has the post_transform {after!r}", "NONE, LOGISTIC and SOFTMAX work")
    return [None, scores if after == "NONE" else ctx.builder.each(L.Activation(functions[after]), scores)]


def _zip_map(ctx: NodeContext) -> Value:
    """Each class's score under its name: the scores."""
    for key in ("classlabels_int64s", "classlabels_strings"):
        ctx.attr(key)
    return ctx.value()


#: How each operator is built.
CLASSIC: dict[str, Callable[[NodeContext], Any]] = {
    "ai.onnx.ml.LinearClassifier": _classifier,
    "ai.onnx.ml.LinearRegressor": _regressor,
    "ai.onnx.ml.Normalizer": _normalizer,
    "ai.onnx.ml.Scaler": _scaler,
    "ai.onnx.ml.ZipMap": _zip_map,
}
