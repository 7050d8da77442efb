"""QuantizeLinear and DequantizeLinear of constants, as the standard defines them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ModelFormatError
from .file import Node

#: Element types of what is quantized, by their number in TensorProto.
INTEGER_TYPES = {2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16}


def dequantized(values: Any, scale: Any, zero: Any, axis: int) -> np.ndarray:
    """(values - zero point) · scale; each is one number, or one for each place of an axis."""
    values = np.asarray(values)

    def shaped(numbers: Any) -> Any:
        numbers = np.asarray(numbers, np.float64)
        if numbers.size == 1:
            return numbers.reshape(())
        if not -values.ndim <= axis < values.ndim or numbers.size != values.shape[axis]:
            raise ModelFormatError(f"{numbers.size} scales or zero points do not fit a weight of shape {values.shape}")
        return numbers.reshape([-1 if a == axis % values.ndim else 1 for a in range(values.ndim)])

    return np.asarray((values.astype(np.float64) - shaped(0 if zero is None else zero)) * shaped(scale))


def _stretched(node: Node, values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Scales or zero points: one, one for each place of an axis, or one for each block of places of it."""
    values = np.asarray(values)
    if values.size == 1 and values.ndim < 2:
        return np.reshape(values, ())
    axis, block = node.attributes.get("axis", 1), node.attributes.get("block_size", 0)
    if not -len(shape) <= axis < len(shape):
        raise ModelFormatError(f"its input has {len(shape)} axes, there is no axis {axis}")
    axis %= len(shape)
    if block:
        n = shape[axis]
        if block < 0 or values.shape != (*shape[:axis], -(-n // block), *shape[axis + 1 :]):
            raise ModelFormatError(f"its scales of shape {values.shape} do not fit blocks of {block} in {shape}")
        return np.asarray(values.take(np.arange(n) // block, axis))
    return np.reshape(values, [-1 if a == axis else 1 for a in range(len(shape))])


def _dequantize_constant(node: Node, args: list[Any]) -> Any:
    x, scale, *zero = args
    values = x.astype(np.int64)
    if zero and zero[0] is not None:
        values = values - _stretched(node, zero[0].astype(np.int64), x.shape)
    return values.astype(scale.dtype) * _stretched(node, scale, x.shape)


def _quantize_constant(node: Node, args: list[Any]) -> Any:
    x, scale, *zero = args
    dtype = zero[0].dtype if zero and zero[0] is not None else INTEGER_TYPES.get(node.attributes.get("output_dtype", 2))
    if dtype is None or np.dtype(dtype).kind not in "iu":
        raise node.unsupported("makes elements of a type that lrpfast does not read")
    values = np.rint(x / _stretched(node, scale, x.shape))
    if zero and zero[0] is not None:
        values = values + _stretched(node, zero[0].astype(np.int64), x.shape)
    limits = np.iinfo(dtype)
    return np.clip(values, limits.min, limits.max).astype(dtype)


#: What is computed on constants.
CONSTANTS: dict[str, Callable[[Node, list[Any]], Any]] = {
    "DequantizeLinear": _dequantize_constant,
    "QuantizeLinear": _quantize_constant,
}
