"""Reductions of a sample's axes to one value, for the readers of ONNX, Keras and PyTorch alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..budget import take as count
from ..model import layers as L
from .arithmetic import absolute, logarithm, multiply, negative, power, total
from .axis_ops import INPUT_BYTES, fixed, take
from .channels_first import Builder, Value

#: Of a value, over axes of a sample, which stay with size 1 or go.
Reduction = Callable[[Builder, Value, Sequence[int], bool], Value]


def mean(builder: Builder, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """The mean."""
    return builder.pool_all(x, axes, L.GlobalAveragePool, keepdims)


def largest(builder: Builder, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """The largest value, the first of equals."""
    return builder.pool_all(x, axes, L.GlobalMaxPool, keepdims)


def smallest(builder: Builder, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """The largest of the negatives, negated."""
    return negative(builder, largest(builder, negative(builder, x), axes, keepdims))


def product(builder: Builder, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """The product, one axis after the other: its slices multiplied."""
    for axis in axes:
        n = fixed(x, axis)
        count(INPUT_BYTES * n, f"to multiply {n:,} values")
        slices = [take(builder, x, axis, [i]) for i in range(n)]
        x = slices[0] if n == 1 else builder.merge(L.Multiply(), slices)
    if keepdims:
        return x
    return builder.reshape(x, [n for i, n in enumerate(x.shape) if i not in axes], x.batch.dropped(axes))


def sum_of_absolutes(builder: Builder, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """Σ |x|."""
    return total(builder, absolute(builder, x), axes, keepdims)


def sum_of_squares(builder: Builder, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """Σ x²."""
    return total(builder, power(builder, x, 2.0), axes, keepdims)


def norm(p: float) -> Reduction:
    """(Σ |x|^p)^(1/p)."""

    def reduce(builder: Builder, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
        if p == 1:
            return sum_of_absolutes(builder, x, axes, keepdims)
        powers = power(builder, x if p % 2 == 0 else absolute(builder, x), p)
        return power(builder, total(builder, powers, axes, keepdims), 1 / p)

    return reduce


def log_of_sum(builder: Builder, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """log Σ x."""
    return logarithm(builder, total(builder, x, axes, keepdims))


def log_of_sum_of_exponentials(builder: Builder, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """log Σ exp(x)."""
    return builder.pool_all(x, axes, L.GlobalLogSumExp, keepdims)


def variance(builder: Builder, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """The mean square of what x differs from its mean."""
    centered = builder.merge(L.Subtract(), [x, mean(builder, x, axes, True)])
    return mean(builder, power(builder, centered, 2.0), axes, keepdims)


def deviation(builder: Builder, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """The root of the variance."""
    return power(builder, variance(builder, x, axes, keepdims), 0.5)


def divided(builder: Builder, x: Value, axis: int, size: Reduction) -> Value:
    """x divided by its size along an axis."""
    return multiply(builder, x, power(builder, size(builder, x, [axis], True), -1.0))


def unit_norm(builder: Builder, value: Value, axes: Sequence[int]) -> Value:
    """A sample's values divided by their length over some axes: an RMSNorm with gamma 1/√n.

    Its epsilon only keeps 0 from being divided by 0: Keras and PyTorch divide by no less than 1e-12 (Keras 2: 1e-6)
    instead.
    """
    t = builder.plain(value)
    rest = [axis for axis in t.order if axis not in axes]
    t = builder.lay(t, [*rest, *axes])
    sizes = tuple(fixed(t, axis) for axis in axes)
    n = math.prod(sizes)
    count(8 * n, f"to normalize {n:,} values")
    norm = L.RMSNorm(np.full(sizes, n**-0.5), epsilon=1e-24 / n, axes=len(axes))
    return replace(t, node=builder.add(norm, t.node))
