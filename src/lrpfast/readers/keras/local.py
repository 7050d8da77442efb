"""Locally connected layers of Keras 2, whose kernel its three implementations store in three ways."""

from __future__ import annotations

import math

import numpy as np

from ...errors import ModelFormatError, ShapeError
from ...model.layers import LocallyConnected, Shape
from .activations import activation
from .record import KerasLayer


def locally_connected(layer: KerasLayer, shape: Shape) -> LocallyConnected:
    """Reads all three; in a channels_first layer, each is stored in another order.

    ``shape`` is channels last either way.
    """
    size, strides, filters = layer.sizes("kernel_size"), layer.sizes("strides", 1), layer.need("filters")
    fixed = tuple(n for n in shape if n is not None)
    if len(shape) != layer.rank + 1 or len(fixed) != len(shape):
        raise ShapeError(f"{layer}: it needs {layer.rank + 1} axes of fixed size, its input has shape {shape}")
    spatial, channels = fixed[:-1], fixed[-1]
    same = layer.get("padding", "valid") == "same"
    # unlike a convolution's, a window of padding "same" always begins half its size before its centre
    before = [k // 2 if same else 0 for k in size]
    counts = [-(-n // s) if same else (n - k) // s + 1 for n, k, s in zip(spatial, size, strides, strict=True)]
    if min(counts) < 1:
        raise ShapeError(f"{layer}: its window of {size} does not fit an input of shape {shape}")
    positions, taps = math.prod(counts), math.prod(size)
    first, implementation = (
        layer.get("data_format", "channels_last") == "channels_first",
        layer.get("implementation", 1),
    )

    if implementation == 1:  # each window's own kernel
        kernel, bias = layer.kernel_and_bias(*counts, filters, kernel=(positions, taps * channels, filters))
        if first:
            kernel = kernel.reshape(positions, channels, taps, filters).swapaxes(1, 2)
    elif implementation == 2:  # from every input to every output, of which a mask lets few through
        stored = (channels, *spatial, filters, *counts) if first else (*spatial, channels, *counts, filters)
        kernel, bias = layer.kernel_and_bias(*counts, filters, kernel=stored)
        index, inside = _windows(layer, spatial, counts, size, strides, before, kernel.size / (channels * filters))
        inputs = math.prod(spatial)
        if first:
            kernel = kernel.reshape(channels, inputs, filters, positions).transpose(1, 0, 3, 2)
        kernel = kernel.reshape(inputs, channels, positions, filters)[index, :, np.arange(positions)[:, None]]
        kernel = np.where(inside[:, :, None, None], kernel, 0)
    elif implementation == 3:  # what that mask lets through, ordered by output, then by input
        kernel, bias = layer.kernel_and_bias(*counts, filters, kernel=(None,))
        _, inside = _windows(layer, spatial, counts, size, strides, before, kernel.size / (channels * filters))
        stored = (filters, positions, channels, taps) if first else (positions, filters, taps, channels)
        whole = np.broadcast_to(inside[:, None, :] if first else inside[:, None, :, None], stored)
        if kernel.size != int(inside.sum()) * channels * filters:
            raise ModelFormatError(f"{layer}: its kernel has {kernel.size} values, not one for each pair it connects")
        values = np.zeros(stored, kernel.dtype)
        values[whole] = kernel
        kernel = values.transpose((1, 3, 2, 0) if first else (0, 2, 3, 1))
    else:
        raise layer.unsupported(f"has implementation {implementation!r}", "Keras defines 1, 2 and 3")

    if first and bias is not None:  # Keras reshapes it there, where a transpose was meant
        bias = np.moveaxis(bias.reshape(filters, *counts), 0, -1)
    pads = [
        (b, max(0, (m - 1) * s + k - b - n))
        for b, m, s, k, n in zip(before, counts, strides, size, spatial, strict=True)
    ]
    function = activation(layer, (*counts, filters))
    kernel = kernel.reshape(positions, taps * channels, filters)
    return LocallyConnected(kernel, bias, size, strides, pads, function, name=layer.name)


def _windows(
    layer: KerasLayer,
    spatial: tuple[int, ...],
    counts: list[int],
    size: tuple[int, ...],
    strides: tuple[int, ...],
    before: list[int],
    stored: float,
) -> tuple[np.ndarray, np.ndarray]:
    """For each window and tap: the input it reads, and whether there is one there."""
    positions, taps, rank = math.prod(counts), math.prod(size), len(size)
    if positions * taps > max(2**20, 64 * stored):  # before memory is taken
        raise ModelFormatError(f"{layer}: its kernel is too small for {positions:,} windows of {taps:,} taps")
    index, inside = np.zeros((1,) * (2 * rank), int), np.ones((1,) * (2 * rank), bool)
    for axis, (n, k, s) in enumerate(zip(spatial, size, strides, strict=True)):
        at = np.arange(counts[axis])[:, None] * s - before[axis] + np.arange(k)
        at = at.reshape([{axis: counts[axis], axis + rank: k}.get(a, 1) for a in range(2 * rank)])
        index, inside = index * n + np.clip(at, 0, n - 1), inside & (at >= 0) & (at < n)
    return index.reshape(positions, taps), inside.reshape(positions, taps)
