"""ONNX operators with weights and windows, as layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import ModelFormatError, ShapeError
from ...model import layers as L
from ...model.layers.window import extent
from ..channels_first import Tensor, Value, rounded_up
from .fold import Known
from .use import Use

# -- layers with weights --------------------------------------------------------


def _biased(use: Use, out: int, rank: int, axis: int, build: Callable[[np.ndarray | None], Value]) -> Value:
    """A layer with its bias: its own, or that of an Add after it, on the given of a sample's axes."""
    added = use.attr("added")
    if added is None:
        bias = use.maybe(2, "bias")
        if bias is not None and (bias.size not in (1, out) or any(n != 1 for n in bias.shape[:-1])):
            raise use.unsupported(f"has a bias of shape {bias.shape} for {out} outputs")
        return build(None if bias is None else np.broadcast_to(bias.ravel(), (out,)))
    added = use.sample(added, rank)
    whole = added.reshape((1,) * (rank - added.ndim) + added.shape)
    if whole.shape[axis] in (1, out) and all(n == 1 for a, n in enumerate(whole.shape) if a != axis):
        return build(np.broadcast_to(whole.ravel(), (out,)))
    return use.affine(build(None), np.array(1.0), added)


def _matmul(use: Use) -> Value:
    b = use.builder
    if not isinstance(use.args[1], Known):
        if isinstance(use.args[0], Known):
            return _matmul_left(use)
        x, y = use.value(0), use.value(1)
        if len(x.shape) != 2 or len(y.shape) != 2:
            raise use.unsupported(
                f"multiplies samples of shape {x.shape} and {y.shape}; lrpfast multiplies matrices, two axes each"
            )
        x, y = b.plain(x), b.plain(y)
        at = b.place(L.Dot((1, 0)), x.at, y.at)
        return Tensor(at, b.shapes[at], (0, 1))
    kernel = _without_ones(use, use.const(1, "weight"), use.value())
    if kernel.ndim == 1:
        made = b.dense(use.value(), kernel[:, None], None)
        return b.reshape(made, made.shape[:-1])  # type: ignore[arg-type]
    if kernel.ndim != 2:
        raise use.unsupported(f"has a weight of shape {kernel.shape}; lrpfast reads matrices")
    x = use.value()
    rank = len(x.shape)
    return _biased(use, kernel.shape[1], rank, rank - 1, lambda bias: b.dense(x, kernel, bias))


def _without_ones(use: Use, kernel: np.ndarray, x: Value) -> np.ndarray:
    """A weight without axes of 1 before its matrix, which meet axes of the tensor; they may add none before these."""
    if kernel.ndim > len(x.shape) + 1:
        raise use.unsupported(
            f"has a weight of shape {kernel.shape}, which puts axes before the batch's", "Keep the batch axis first"
        )
    while kernel.ndim > 2 and kernel.shape[0] == 1:
        kernel = kernel[0]
    return kernel


def _matmul_left(use: Use) -> Value:
    """W x: a dense layer on the axis before the last."""
    b, x = use.builder, use.value(1)
    kernel = _without_ones(use, use.const(0, "weight"), x)
    rank = len(x.shape)
    if kernel.ndim != 2 or rank < 2:
        raise use.unsupported(
            f"multiplies a constant of shape {kernel.shape} with samples of shape {x.shape}; lrpfast reads a matrix on "
            "their last axis but one"
        )
    swap = [*range(rank - 2), rank - 1, rank - 2]
    made: Value = b.transpose(b.dense(b.transpose(x, swap), kernel.T, None), swap)
    added = use.attr("added")
    return made if added is None else use.affine(made, np.array(1.0), added)


def _gemm(use: Use) -> Value:
    if use.attr("transA", 0):
        raise use.unsupported("transposes its input (transA), so that samples mix")
    kernel = np.asarray(use.const(1, "weight"))
    if kernel.ndim != 2 or len(use.value().shape) != 1:
        raise ShapeError(f"its weight has shape {kernel.shape}, its input {use.value().shape}")
    if use.attr("transB", 0):
        kernel = kernel.T
    alpha, beta = use.attr("alpha", 1.0), use.attr("beta", 1.0)
    if alpha != 1:
        kernel = kernel.astype(np.float64) * alpha

    def build(bias: np.ndarray | None) -> Value:
        if bias is not None and "added" not in use.node.attributes and beta != 1:
            bias = bias.astype(np.float64) * beta
        return use.builder.dense(use.value(), kernel, bias)

    return _biased(use, kernel.shape[1], 1, 0, build)


def _spatial(use: Use, shape: tuple[Any, ...]) -> int:
    rank = len(shape) - 1
    if not 1 <= rank <= 3:
        raise use.unsupported(f"works on samples of shape {shape}; lrpfast has 1 to 3 spatial axes")
    return rank


def _tuple(value: Any, rank: int, what: str) -> tuple[int, ...]:
    values = (1,) * rank if value is None else tuple(value)
    if len(values) != rank:
        raise ModelFormatError(f"its {what} {values} does not fit {rank} spatial axes")
    return values


def _padding(use: Use, spatial: Sequence[int | None], size: Any, strides: Any, dilation: Any) -> Any:
    """(before, after) for each spatial axis, or "same"."""
    auto, rank = use.attr("auto_pad", "NOTSET"), len(size)
    given = use.attr("pads")
    if auto in ("NOTSET", ""):
        given = (0,) * (2 * rank) if given is None else tuple(given)
        if len(given) != 2 * rank:
            raise ModelFormatError(f"its pads {given} do not fit {rank} spatial axes")
        if min(given) < 0:
            raise use.unsupported(f"has negative pads {given}", "Cut the tensor by Slice before it")
        return tuple(zip(given[:rank], given[rank:], strict=True))
    if auto == "VALID":
        return ((0, 0),) * rank
    if auto == "SAME_UPPER":
        return "same"
    if auto != "SAME_LOWER":
        raise use.unsupported(f"has auto_pad {auto!r}, which lrpfast does not know")
    if None in spatial:
        raise use.unsupported(
            "pads by SAME_LOWER an input whose size the file leaves open", "Fix the size, or set pads"
        )
    pairs = []
    for n, k, s, d in zip(spatial, size, strides, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)  # type: ignore[operator]
        pairs.append((total - total // 2, total // 2))
    return tuple(pairs)


def _weights(use: Use) -> tuple[np.ndarray, int]:
    kernel = use.const(1, "weight")
    rank = _spatial(use, use.value().shape)
    shape = tuple(use.attr("kernel_shape") or kernel.shape[2:])
    if kernel.ndim != rank + 2 or shape != kernel.shape[2:]:
        raise ModelFormatError(
            f"its weight has shape {kernel.shape}, its kernel_shape is {shape}, its input has {rank} spatial axes"
        )
    return kernel, rank


def _conv(use: Use) -> Value:
    kernel, rank = _weights(use)
    x = use.value()
    strides, dilation = (_tuple(use.attr(key), rank, key) for key in ("strides", "dilations"))
    groups, out = use.attr("group", 1), kernel.shape[0]
    padding = _padding(use, x.shape[1:], kernel.shape[2:], strides, dilation)
    if groups < 1 or out % groups or x.shape[0] != kernel.shape[1] * groups:
        raise ShapeError(f"its weight has shape {kernel.shape} and {groups} groups, its input {x.shape}")
    moved = kernel.transpose(*range(2, rank + 2), 1, 0)
    alone = groups > 1 and kernel.shape[1] == 1  # each channel by itself
    if alone:
        moved = moved.reshape(*kernel.shape[2:], groups, out // groups)

    def build(bias: np.ndarray | None) -> Value:
        if alone:
            return use.builder.window(L.DepthwiseConv(moved, bias, strides, padding, dilation), x)
        return use.builder.window(L.Conv(moved, bias, strides, padding, dilation, groups), x)

    return _biased(use, out, rank + 1, 0, build)


def _conv_transpose(use: Use) -> Value:
    kernel, rank = _weights(use)
    x = use.value()
    strides, dilation = (_tuple(use.attr(key), rank, key) for key in ("strides", "dilations"))
    extra = tuple(use.attr("output_padding") or (0,) * rank)
    groups, size = use.attr("group", 1), kernel.shape[2:]
    wanted, auto = use.attr("output_shape"), use.attr("auto_pad", "NOTSET")
    if wanted is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
        use.attr("pads")
        if None in x.shape:
            raise use.unsupported("fits its output to an input whose size the file leaves open", "Fix the size")
        sizes = [n * s for n, s in zip(x.shape[1:], strides, strict=True)] if wanted is None else wanted[-rank:]  # type: ignore[operator]
        pairs = []
        for n, s, k, d, e, m in zip(x.shape[1:], strides, size, dilation, extra, sizes, strict=True):
            total = s * (n - 1) + e + (k - 1) * d + 1 - m
            half = total // 2
            pairs.append((half, total - half) if auto == "SAME_UPPER" else (total - half, half))
        padding: Any = tuple(pairs)
        if any(min(pair) < 0 for pair in padding):
            raise use.unsupported(f"makes an output of {tuple(sizes)}, larger than its windows reach")
    else:
        padding = _padding(use, x.shape[1:], size, strides, dilation)
    moved = kernel.transpose(*range(2, rank + 2), 1, 0)

    def build(bias: np.ndarray | None) -> Value:
        return use.builder.window(L.ConvTranspose(moved, bias, strides, padding, extra, dilation, groups), x)

    return _biased(use, kernel.shape[1] * groups, rank + 1, 0, build)


# -- pooling ----------------------------------------------------------------------


def _pooling(use: Use, kind: str) -> Value:
    x, b = use.value(), use.builder
    rank = _spatial(use, x.shape)
    size = tuple(use.attr("kernel_shape") or ())
    if len(size) != rank:
        raise ModelFormatError(f"its kernel_shape {size} does not fit {rank} spatial axes")
    strides, dilation = (_tuple(use.attr(key), rank, key) for key in ("strides", "dilations"))
    padding = _padding(use, x.shape[1:], size, strides, dilation)
    counted = bool(use.attr("count_include_pad", 0)) if kind == "average" else False
    reaches, extra = tuple(map(extent, size, dilation)), [0] * rank
    if use.attr("ceil_mode", 0) and padding != "same":
        if None in x.shape:
            raise use.unsupported("rounds up (ceil_mode) on an input whose size the file leaves open", "Fix the size")
        extra = [rounded_up(*axis) for axis in zip(x.shape[1:], padding, reaches, strides, strict=True)]  # type: ignore[arg-type]
    if any(extra) and counted and any(map(any, padding)):  # the file's padding counts, what rounding up adds does not
        x, padding, counted = b.window(L.ZeroPad(padding), x, "pad"), ((0, 0),) * rank, False
    if any(extra):
        padding = tuple((before, after + more) for (before, after), more in zip(padding, extra, strict=True))
        if counted:
            counted = False  # there is no padding but what rounding up adds
    if kind == "max":
        return b.window(L.MaxPool(size, strides, padding, dilation), x)
    if counted and padding != "same" and any(max(p) >= k for p, k in zip(padding, reaches, strict=True)):
        x, padding = b.window(L.ZeroPad(padding), x, "pad"), ((0, 0),) * rank
    return b.window(L.AveragePool(size, strides, padding, dilation, counted), x)


def _max_pool(use: Use) -> Value:
    return _pooling(use, "max")


def _average_pool(use: Use) -> Value:
    return _pooling(use, "average")


def _global(kind: Any) -> Callable[[Use], Value]:
    def build(use: Use) -> Value:
        x = use.value()
        _spatial(use, x.shape)
        return use.builder.pool_all(x, list(range(1, len(x.shape))), kind, True)

    return build


#: How each operator is built.
LINEAR: dict[str, Callable[[Use], Any]] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "GlobalAveragePool": _global(L.GlobalAveragePool),
    "GlobalMaxPool": _global(L.GlobalMaxPool),
    "MatMul": _matmul,
    "MaxPool": _max_pool,
}
