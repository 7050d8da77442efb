"""Keras layers that become several of lrpfast's: preprocessing, and normalization over groups."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ...budget import take
from ...errors import ShapeError
from ...model import layers as L
from ..axis_ops import Resize, affine, fixed, interpolate, nearest
from ..channels_first import Builder, Value
from ..reductions import unit_norm
from .activations import activation
from .operation import select
from .record import KerasLayer

#: What Keras divides by at least, in a Normalization.
_LEAST_DEVIATION = 1e-7


def _rescaling(layer: KerasLayer, builder: Builder, value: Value) -> Value:
    return affine(builder, value, layer.need("scale"), layer.get("offset", 0.0))


def _normalization(layer: KerasLayer, builder: Builder, value: Value) -> Value:
    """(x - mean) / deviation, or its inverse; mean and variance are in the configuration, or adapted and stored."""
    shape = value.shape
    axes = sorted(layer.axes("axis", shape)) if layer.config.get("axis", -1) is not None else []
    sizes = tuple(fixed(value, axis) for axis in axes)
    take(6 * 8 * math.prod(sizes), f"{layer}: mean and deviation")
    if layer.get("mean", None) is not None:
        values = [np.asarray(layer.need(key), float) for key in ("mean", "variance")]
        mean, variance = (np.broadcast_to(v.reshape(()) if v.size == 1 else v.reshape(sizes), sizes) for v in values)
    else:
        mean, variance = layer.arrays("count", mean=sizes, variance=sizes)
    stretched = [fixed(value, axis) if axis in axes else 1 for axis in range(len(shape))]
    mean = np.asarray(mean, float).reshape(stretched)
    deviation = np.maximum(np.sqrt(np.asarray(variance, float)), _LEAST_DEVIATION).reshape(stretched)
    if layer.get("invert", False):
        return affine(builder, value, deviation, mean)
    return affine(builder, value, 1 / deviation, -mean / deviation)


def _image_axes(layer: KerasLayer, value: Value) -> tuple[int, int]:
    """The axes of height and width."""
    if len(value.shape) != 3:
        raise ShapeError(f"{layer}: it takes images, of three axes; its input has shape {value.shape}")
    return (1, 2) if layer.get("data_format", "channels_last") == "channels_first" else (0, 1)


def _resizing(layer: KerasLayer, builder: Builder, value: Value) -> Value:
    axes, sizes = _image_axes(layer, value), (layer.need("height"), layer.need("width"))
    old = [fixed(value, axis) for axis in axes]
    other_ratio = old[0] * sizes[1] != old[1] * sizes[0]
    for key in ("crop_to_aspect_ratio", "pad_to_aspect_ratio"):
        if layer.get(key, False) and other_ratio:
            raise layer.unsupported(f"resizes {old} to {sizes} with {key}", "Crop or pad the images before the model")
    kind, shrinks = layer.get("interpolation", "bilinear"), any(m < n for m, n in zip(sizes, old, strict=True))
    if kind not in ("nearest", "bilinear") or (layer.get("antialias", False) and kind == "bilinear" and shrinks):
        antialias = " with antialias" if layer.get("antialias", False) else ""
        raise layer.unsupported(f"has the interpolation {kind!r}{antialias}", "These work: nearest, bilinear")
    where = "half_pixel" if kind == "bilinear" else "tf_half_pixel_for_nn"
    resizes = {axis: Resize(m, m / n, where) for axis, m, n in zip(axes, sizes, old, strict=True)}
    if kind == "nearest":
        return nearest(builder, value, resizes, "floor")
    return interpolate(builder, value, resizes, "linear")


def _center_crop(layer: KerasLayer, builder: Builder, value: Value) -> Value:
    for axis, size in zip(_image_axes(layer, value), (layer.need("height"), layer.need("width")), strict=True):
        n = fixed(value, axis)
        if size > n:
            raise layer.unsupported(
                f"crops images of shape {value.shape} to {size}, so that Keras resizes them",
                "Resize them with a Resizing layer",
            )
        begin = (n - size) // 2
        value = select(builder, value, axis, range(begin, begin + size))
    return value


def _random_crop(layer: KerasLayer, builder: Builder, value: Value) -> Value:
    """At inference Keras resizes; images that have the size already stay as they are."""
    sizes = layer.need("height"), layer.need("width")
    if tuple(value.shape[axis] for axis in _image_axes(layer, value)) != sizes:
        raise layer.unsupported(
            f"resizes images of shape {value.shape} to {sizes} at inference", "Resize them with a Resizing layer"
        )
    return builder.each(L.Identity(layer.class_name), value)


def _unit_normalization(layer: KerasLayer, builder: Builder, value: Value) -> Value:
    return unit_norm(builder, value, layer.axes("axis", value.shape))


def _group_normalization(layer: KerasLayer, builder: Builder, value: Value) -> Value:
    """Groups of channels, each normalized over its channels and all other axes of the sample."""
    (axis,) = layer.axes("axis", value.shape)
    rank, channels = len(value.shape), fixed(value, axis)
    groups = layer.get("groups", 32)
    groups = channels if groups == -1 else groups
    if groups < 1 or channels % groups:
        raise ShapeError(f"{layer}: {channels} channels are not {groups} groups of one size")
    order = [*(a for a in range(rank) if a != axis), axis]
    t = builder.transpose(value, order)
    size = math.prod(fixed(t, a) for a in range(rank - 1))
    grouped = builder.plain(builder.transpose(builder.reshape(t, (size, groups, channels // groups)), (1, 0, 2)))
    norm = L.LayerNorm(epsilon=layer.get("epsilon", 1e-3), axes=2)
    normed = replace(grouped, node=builder.add(norm, grouped.node))
    whole = builder.reshape(builder.transpose(normed, (1, 0, 2)), t.shape)
    expected = {key: (channels,) for key, flag in (("gamma", "scale"), ("beta", "center")) if layer.get(flag, True)}
    arrays = dict(zip(expected, layer.arrays(**expected), strict=True))
    if arrays:
        whole = affine(builder, whole, arrays.get("gamma", 1.0), arrays.get("beta", 0.0))
    return builder.transpose(whole, [order.index(a) for a in range(rank)])


def _masking(layer: KerasLayer, builder: Builder, value: Value) -> Value:
    """Steps whose values are all ``mask_value`` become 0, which they are already where that is 0."""
    mask_value = layer.get("mask_value", 0.0)
    if mask_value == 0:
        return builder.each(L.Identity(layer.class_name), value)
    if len(value.shape) != 2:
        raise layer.unsupported(
            f"sets steps of samples of shape {value.shape} to 0 where all values are {mask_value}; lrpfast does so in "
            "sequences, (steps, features)",
            "Set these steps to 0 in your data, and use mask_value=0",
        )
    t = builder.plain(value)
    return replace(t, node=builder.add(L.Masking(mask_value), t.node))


def _einsum_dense(layer: KerasLayer, builder: Builder, value: Value) -> Value:
    """A dense layer over named axes of the input, which come last for it."""
    ins, kernel_axes, out = _labels(layer, len(value.shape))
    summed = [a for a in ins if a in kernel_axes]
    rest, free = [a for a in ins if a not in kernel_axes], [a for a in kernel_axes if a not in ins]
    if not summed or sorted(out) != sorted(rest + free) or any(a in out for a in summed):
        raise layer.unsupported(
            f"computes {layer.get('equation', '')!r}, where axes are neither summed with the kernel nor kept",
            "Use a Dense layer",
        )
    size = {a: fixed(value, ins.index(a)) for a in ins}
    expected: dict[str, tuple[int | None, ...]] = {"kernel": tuple(size.get(a) for a in kernel_axes)}
    bias_axes = layer.get("bias_axes", None)
    labels = out[min(out.index(a) for a in bias_axes) :] if bias_axes else ""
    if bias_axes:
        expected["bias"] = tuple((size.get(a) if a in bias_axes else 1) for a in labels)
    kernel, *bias = layer.arrays(**expected)
    size |= dict(zip(kernel_axes, kernel.shape, strict=True))
    matrix = kernel.transpose([kernel_axes.index(a) for a in summed + free])
    matrix = matrix.reshape(math.prod(size[a] for a in summed), -1)
    moved = builder.transpose(value, [ins.index(a) for a in rest + summed])
    moved = builder.plain(builder.reshape(moved, (*(size[a] for a in rest), len(matrix))))
    result = builder.dense(moved, matrix, None)
    whole = builder.reshape(result, tuple(size[a] for a in rest + free))
    whole = builder.plain(builder.transpose(whole, [(rest + free).index(a) for a in out]))
    if bias:
        whole = affine(builder, whole, 1.0, bias[0])
    function = activation(layer, whole.shape)
    return whole if function is None else builder.each(function, builder.plain(whole))


def _labels(layer: KerasLayer, rank: int) -> tuple[str, str, str]:
    """The labels of input, kernel and output in an EinsumDense's equation, without the batch axis."""
    match = re.fullmatch(r"([a-zA-Z.]+),([a-zA-Z]+)->([a-zA-Z.]+)", str(layer.need("equation")).replace(" ", ""))
    if match is None:
        raise layer.unsupported(f"computes {layer.get('equation', '')!r}", "Use a Dense layer")
    count = rank + 1 - len(match[1].replace("...", ""))
    left_out = "".join(chr(0x3B1 + i) for i in range(max(count, 0)))
    ins, kernel, out = (text.replace("...", left_out) for text in match.groups())
    if len(ins) != rank + 1 or not out or ins[0] != out[0] or ins[0] in kernel or len({*ins}) < len(ins):
        raise layer.unsupported(f"computes {match[0]!r} of samples of {rank} axes", "Keep the batch axis first")
    return ins[1:], kernel, out[1:]


def _layer_scale(layer: KerasLayer, builder: Builder, value: Value) -> Value:
    """keras.applications' ConvNeXt multiplies each channel by a weight."""
    channels = fixed(value, len(value.shape) - 1)
    (gamma,) = layer.arrays(gamma=(channels,))
    return affine(builder, value, gamma, 0.0)


def _custom_scale(layer: KerasLayer, builder: Builder, value: Value, residual: Value) -> Value:
    """keras.applications' InceptionResNetV2 adds a scaled residual."""
    return builder.merge(L.Add(), [value, affine(builder, residual, layer.need("scale"), 0.0)])


#: Every class that is read so, and the function that lays its layers out.
BUILDERS: dict[str, Callable[..., Value]] = {
    "Rescaling": _rescaling,
    "Normalization": _normalization,
    "Resizing": _resizing,
    "CenterCrop": _center_crop,
    "RandomCrop": _random_crop,
    "UnitNormalization": _unit_normalization,
    "GroupNormalization": _group_normalization,
    "Masking": _masking,
    "EinsumDense": _einsum_dense,
    "LayerScale": _layer_scale,
    "CustomScaleLayer": _custom_scale,
}
