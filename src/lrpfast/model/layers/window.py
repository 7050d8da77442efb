"""Windows that slide over an axis: strides, dilation, padding, and output sizes."""

from __future__ import annotations

from typing import Any, cast

from ...errors import InputError, ShapeError
from .base import Shape, whole

#: The limit of steps and sizes, so that products of two fit into 64 bits.
_MOST = 2**31 - 1

#: Padding by name, or zeros before and after each spatial axis.
Padding = str | tuple[tuple[int, int], ...]


def per_axis(value: Any, rank: int, name: str, layer: str, least: int = 1) -> tuple[int, ...]:
    """One integer for each of ``rank`` axes; a single number is for all."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank
    numbers = tuple(map(whole, values))
    if len(numbers) != rank or any(n is None or not least <= n <= _MOST for n in numbers):
        raise InputError(
            f"{layer}: {name} must be one whole number of at least {least}, below 2**31, or {rank} of them: {value!r}"
        )
    return cast("tuple[int, ...]", numbers)


def rank_of(size: Any, layer: str) -> int:
    """The number of spatial axes in a layer's ``size``: one for a number, 1 to 3 for a tuple."""
    rank = len(size) if isinstance(size, (tuple, list)) else 1
    if not 1 <= rank <= 3:
        raise InputError(f"{layer}: size must be a number (one dimension) or 2 or 3 numbers, not {size!r}")
    return rank


def as_pairs(value: Any, rank: int, name: str, layer: str) -> tuple[tuple[int, int], ...]:
    """(before, after) for each of ``rank`` axes, from a number, numbers, pairs or, for one axis, a pair."""
    if isinstance(value, (tuple, list)):
        if rank == 1 and len(value) == 2 and not isinstance(value[0], (tuple, list)):
            value = (value,)
        pairs = [tuple(v) if isinstance(v, (tuple, list)) else (v, v) for v in value]
    else:
        pairs = [(value, value)] * rank
    if len(pairs) != rank or any(len(p) != 2 for p in pairs):
        raise InputError(
            f"{layer}: {name} must be a number, or a pair (before, after) for each of {rank} axes: {value!r}"
        )
    return tuple(per_axis(p, 2, name, layer, 0) for p in pairs)  # type: ignore[misc]


def as_padding(value: Any, rank: int, layer: str, names: tuple[str, ...] = ("valid", "same")) -> Padding:
    """A padding by name or as pairs; ``same`` is TensorFlow's, which depends on the input's size."""
    if isinstance(value, str):
        if value not in names:
            raise InputError(f"{layer}: padding must be {', '.join(map(repr, names))} or pairs, not {value!r}")
        return value
    return as_pairs(value, rank, "padding", layer)


def extent(size: int, dilation: int) -> int:
    """The extent of a window of ``size`` taps."""
    return (size - 1) * dilation + 1


def pads(padding: Padding, axis: int, n: int, size: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """The numbers of zeros before and after an axis of n values."""
    reach = extent(size, dilation)
    if padding == "valid":
        return 0, 0
    if padding == "same":
        total = max((-(-n // stride) - 1) * stride + reach - n, 0)
        return total // 2, total - total // 2
    if padding == "causal":
        return reach - 1, 0
    return padding[axis]  # type: ignore[return-value]


def slid(
    layer: str,
    spatial: Shape,
    padding: Padding,
    size: tuple[int, ...],
    strides: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Shape:
    """The number of windows along each axis; ShapeError if none fits."""
    counts: list[int | None] = []
    for axis, (n, k, s, d) in enumerate(zip(spatial, size, strides, dilation, strict=True)):
        if n is None:
            counts.append(None)
            continue
        before, after = pads(padding, axis, n, k, s, d)
        room = n + before + after - extent(k, d)
        if room < 0:
            raise ShapeError(f"{layer}: its window reaches over {extent(k, d)} values, the input has {n} in {spatial}")
        counts.append(room // s + 1)
    return tuple(counts)


def spread(
    layer: str,
    spatial: Shape,
    padding: Padding,
    size: tuple[int, ...],
    strides: tuple[int, ...],
    dilation: tuple[int, ...],
    output_padding: tuple[int, ...] | None,
) -> Shape:
    """The output sizes of a transposed convolution, as in Keras (names) and PyTorch (pairs)."""
    sizes: list[int | None] = []
    for axis, (n, k, s, d) in enumerate(zip(spatial, size, strides, dilation, strict=True)):
        if n is None:
            sizes.append(None)
            continue
        reach = extent(k, d)
        if isinstance(padding, str) and output_padding is None:
            out = n * s + (max(reach - s, 0) if padding == "valid" else 0)
        else:
            trimmed = (2 * (reach // 2) if padding == "same" else 0) if isinstance(padding, str) else sum(padding[axis])
            out = (n - 1) * s + reach - trimmed + (output_padding[axis] if output_padding else 0)
        if out < 1:
            raise ShapeError(f"{layer}: padding leaves {out} values of axis {axis} of {spatial}")
        sizes.append(out)
    return tuple(sizes)


def trim(padding: Padding, axis: int, n: int, out: int, size: int, stride: int, dilation: int) -> int:
    """The number of values that a transposed convolution from n to ``out`` values cuts off before an axis."""
    if not isinstance(padding, str):
        return padding[axis][0]
    return max((n - 1) * stride + extent(size, dilation) - out, 0) // 2 if padding == "same" else 0


def channels_last(layer: str, shape: Shape, rank: int, channels: int | None = None) -> tuple[Shape, int | None]:
    """The spatial sizes and the channels of a shape; ShapeError unless the number of axes fits the layer."""
    if len(shape) != rank + 1:
        raise ShapeError(
            f"{layer}: it takes channels last and {rank} spatial axis or axes, its input has shape {shape}"
        )
    if channels is not None and shape[-1] != channels:
        raise ShapeError(f"{layer}: it takes {channels} channels, its input has shape {shape}")
    return shape[:-1], shape[-1]
