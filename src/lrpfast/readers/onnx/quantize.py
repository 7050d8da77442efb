"""QuantizeLinear and DequantizeLinear: of what the model computes, without the rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..channels_first import Value, clip
from .context import NodeContext
from .quantized_constants import INTEGER_TYPES
from .values import Quantized


def _scale(ctx: NodeContext) -> tuple[float, int, Any]:
    """(scale, zero point, dtype), one for the whole tensor."""
    scale, zero = ctx.const(1, "scale"), ctx.maybe(2, "zero point")
    dtype = INTEGER_TYPES.get(ctx.attr("output_dtype", 0) or 2, np.uint8) if zero is None else zero.dtype
    for key in ("axis", "saturate", "block_size", "precision"):
        ctx.attr(key)
    if scale.size != 1 or (zero is not None and zero.size != 1) or np.dtype(dtype).kind not in "iu":
        raise ctx.unsupported("quantizes what the model computes by more than one scale, or to floats")
    return float(scale.ravel()[0]), 0 if zero is None else int(zero.ravel()[0]), dtype


def _quantize(ctx: NodeContext) -> Quantized:
    """The numbers that are approximated, within the limits of the whole numbers."""
    scale, zero, dtype = _scale(ctx)
    limits = np.iinfo(dtype)
    low, high = ((end - zero) * scale for end in (limits.min, limits.max))
    return Quantized(ctx.builder.each(clip(low, high), ctx.value()), scale, zero)


def _dequantize(ctx: NodeContext) -> Value:
    scale, zero, _ = _scale(ctx)
    x = ctx.args[0]
    if not isinstance(x, Quantized):
        raise ctx.unsupported("takes whole numbers that come from no QuantizeLinear")
    if (scale, zero) == (x.scale, x.zero_point):
        return x.value
    return ctx.affine(x.value, np.array(scale / x.scale), np.array((x.zero_point - zero) * scale))


#: How each operator is built.
QUANTIZED: dict[str, Callable[[NodeContext], Any]] = {
    "DequantizeLinear": _dequantize,
    "QuantizeLinear": _quantize,
}
