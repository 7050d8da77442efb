"""ONNX operators that make a tensor larger or smaller by repeating or interpolating its values, as layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ModelFormatError
from ..model import layers as L
from .channels_first import Value
from .onnx_moves import picked, sample_shape, whole_shape
from .onnx_use import Use


def _repeated(use: Use, value: Value, axis: int, count: int) -> Value:
    """Each value of an axis ``count`` times, one after the other."""

    def layer(rank: int, place: int) -> L.Layer:
        return L.UpSample(tuple(count if i == place else 1 for i in range(rank)))

    return value if count == 1 else use.builder.along(value, axis, layer)


def _expand(use: Use) -> Value:
    x, known = use.value(), use.known(1, "shape")
    if None in x.shape:
        raise use.unsupported("stretches an input whose size the file leaves open", "Fix the size")
    pair = [
        np.broadcast_shapes(whole_shape(use, x.shape, i), tuple(map(int, a)))
        for i, a in enumerate((known.first, known.second))
    ]
    wanted = sample_shape(use, pair)
    if len(wanted) != len(x.shape):
        raise use.unsupported("puts an axis before the batch's", "Keep the batch axis first")
    made: Value = x
    for axis, (n, m) in enumerate(zip(x.shape, wanted, strict=True)):
        made = _repeated(use, made, axis, m if n == 1 else 1)
    return made


def _tile(use: Use) -> Value:
    repeats = [int(n) for n in use.const(1, "repeats").ravel()]
    x = use.value()
    if len(repeats) != len(x.shape) + 1 or repeats[0] != 1 or min(repeats) < 1:
        raise use.unsupported(f"repeats {repeats} times, the batch axis too or never")
    made: Value = x
    for axis, count in enumerate(repeats[1:]):
        if x.shape[axis] == 1:
            made = _repeated(use, made, axis, count)
        elif count > 1:
            made = use.builder.merge(L.Concat(), [made] * count, axis)
    return made


def _resize(use: Use) -> Value:
    x, rank = use.value(), len(use.value().shape)
    mode = use.attr("mode", "nearest")
    old = use.node.op == "Upsample" or use.opset < 11  # Resize 10 and Upsample: x · scale, rounded down
    where = use.attr("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    rounding = use.attr("nearest_mode", "floor" if old else "round_prefer_floor")
    for key in ("cubic_coeff_a", "exclude_outside", "extrapolation_value", "keep_aspect_ratio_policy"):
        if use.attr(key) not in (None, 0, -0.75, 0.0, "stretch"):
            raise use.unsupported(f"has {key} {use.attr(key)!r}, which lrpfast does not follow")
    if use.attr("antialias", 0):
        raise use.unsupported("smooths as it shrinks (antialias), which lrpfast does not follow")
    at = 1 if old else 2
    if None in x.shape:
        raise use.unsupported("resizes an input whose size the file leaves open", "Fix the size")
    whole = (1, *x.shape)
    axes = [a % (rank + 1) for a in use.attr("axes") or range(rank + 1)]
    scales = use.attr("scales") if "scales" in use.node.attributes else use.maybe(at, "scales")
    if use.has(3) and use.args[3].first.size:
        known = use.known(3, "sizes")
        sizes = dict(zip(axes, map(int, known.first), strict=True))
        if 0 in sizes and (int(known.first[axes.index(0)]), int(known.second[axes.index(0)])) != use.batches:
            raise use.unsupported("resizes the batch axis")
        if not np.array_equal(
            known.first[[i for i, a in enumerate(axes) if a]], known.second[[i for i, a in enumerate(axes) if a]]
        ):
            raise use.unsupported("has sizes that depend on the batch size")
        factors = {a: n / whole[a] for a, n in sizes.items() if a}
    else:
        if scales is None or len(scales) != len(axes):
            raise ModelFormatError("it has neither sizes nor scales that fit its input")
        factors = {a: float(s) for a, s in zip(axes, scales, strict=True)}
        if factors.pop(0, 1.0) != 1:
            raise use.unsupported("resizes the batch axis")
        sizes = {a: math.floor(whole[a] * s) for a, s in factors.items()}
    if mode == "nearest":
        made: Value = x
        counts = {}
        for axis, scale in factors.items():
            n, m = whole[axis], sizes[axis]
            if m < 1 or m > 1 << 20:
                raise ModelFormatError(f"it makes an axis of {m}")
            places = _nearest(use, n, m, scale, where, rounding)
            if m % n == 0 and places == [i // (m // n) for i in range(m)]:
                counts[axis] = m // n
            else:
                made = picked(use, made, axis - 1, places)
        return _up(use, made, counts, "nearest")
    if mode != "linear":
        raise use.unsupported(f"interpolates by {mode!r}; lrpfast reads nearest and linear")
    counts = {a: sizes[a] // whole[a] for a in factors if sizes[a] != whole[a]}
    exact = all(sizes[a] == whole[a] * c and factors[a] == c for a, c in counts.items())
    if not exact or where not in ("half_pixel", "pytorch_half_pixel") or (counts and 1 in counts):
        raise use.unsupported(
            f"interpolates {x.shape} to {tuple(sizes.values())} with {where} coordinates; lrpfast enlarges the spatial "
            "axes a whole number of times, with half-pixel coordinates (align_corners=False)"
        )
    return _up(use, x, counts, "bilinear")


def _up(use: Use, value: Value, counts: dict[int, int], kind: str) -> Value:
    """Axes made so many times as long, by the file's numbers of them."""
    spatial = len(value.shape) - 1
    counts = {a: c for a, c in counts.items() if c != 1}
    if not counts:
        return value
    if 1 not in counts and 1 <= spatial <= (2 if kind == "bilinear" else 3):
        sizes = tuple(counts.get(a, 1) for a in range(2, spatial + 2))
        return use.builder.window(L.UpSample(sizes, kind), value)
    if kind == "bilinear":
        raise use.unsupported("interpolates over three axes; lrpfast does over one or two")
    for axis, count in counts.items():
        value = _repeated(use, value, axis - 1, count)
    return value


def _nearest(use: Use, n: int, m: int, scale: float, where: str, rounding: str) -> list[int]:
    """Which value of n each of m is."""
    i = np.arange(m, dtype=np.float64)
    if where == "asymmetric":
        x = i / scale
    elif where == "half_pixel":
        x = (i + 0.5) / scale - 0.5
    elif where == "pytorch_half_pixel":
        x = (i + 0.5) / scale - 0.5 if m > 1 else i * 0
    elif where == "align_corners":
        x = i * (n - 1) / (m - 1) if m > 1 else i * 0
    else:
        raise use.unsupported(f"has the coordinates {where!r}, which lrpfast does not know")
    rounded = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
    }
    if rounding not in rounded:
        raise use.unsupported(f"rounds by {rounding!r}, which lrpfast does not know")
    return [int(v) for v in np.clip(rounded[rounding](x), 0, n - 1)]


def _block(use: Use, shape: tuple) -> int:
    size = use.attr("blocksize", 0)
    if len(shape) != 3 or None in shape or size < 1:
        raise use.unsupported(f"rearranges samples of shape {shape} by {size}; lrpfast needs images of fixed size")
    return size


def _depth_to_space(use: Use) -> Value:
    """Blocks of channels as blocks of pixels (PixelShuffle)."""
    b, x, mode = use.builder, use.value(), use.attr("mode", "DCR")
    n, (c, h, w) = _block(use, x.shape), x.shape
    if mode == "DCR":
        made = b.transpose(b.reshape(x, (n, n, c // n**2, h, w)), (2, 3, 0, 4, 1))  # type: ignore[operator,arg-type]
    elif mode == "CRD":
        made = b.transpose(b.reshape(x, (c // n**2, n, n, h, w)), (0, 3, 1, 4, 2))  # type: ignore[operator,arg-type]
    else:
        raise use.unsupported(f"has the mode {mode!r}, which lrpfast does not know")
    return b.reshape(made, (c // n**2, h * n, w * n))  # type: ignore[operator]


def _space_to_depth(use: Use) -> Value:
    """Blocks of pixels as blocks of channels."""
    b, x = use.builder, use.value()
    n, (c, h, w) = _block(use, x.shape), x.shape
    made = b.transpose(b.reshape(x, (c, h // n, n, w // n, n)), (2, 4, 0, 1, 3))  # type: ignore[operator,arg-type]
    return b.reshape(made, (c * n**2, h // n, w // n))  # type: ignore[operator]


#: How each operator is built.
RESIZED: dict[str, Callable[[Use], Any]] = {
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Resize": _resize,
    "SpaceToDepth": _space_to_depth,
    "Tile": _tile,
    "Upsample": _resize,
}
