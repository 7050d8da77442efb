"""ATen operators in lrpfast's terms: layers with weights and normalization; and the table of all.

A converter takes a `Call` and returns the value that the operator makes. To read another
operator, write its function and enter it in `CONVERTERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ShapeError
from ...model import layers as L
from .constants import UNCHANGED
from .functions import FUNCTIONS
from .graph import Call
from .merges import MERGES
from .moves import MOVES
from .records import Ref

Converter = Callable[[Call], Any]

# -- layers with weights ------------------------------------------------------


def _weight(call: Call, name: str = "weight") -> np.ndarray:
    weight = call.constant(name)
    if weight is None:
        raise ShapeError(f"it has no {name}")
    return weight


def _linear(call: Call) -> Any:
    return call.builder.dense(call.tensor("input"), _weight(call).T, call.constant("bias"))


def _addmm(call: Call) -> Any:
    bias, kernel = _weight(call, "self"), _weight(call, "mat2")
    bias = np.broadcast_to(bias, (1, kernel.shape[1]))[0] if bias.ndim != 2 or bias.shape[0] == 1 else bias
    return call.builder.dense(call.tensor("mat1"), kernel * call.get("alpha", 1), bias * call.get("beta", 1))


def _matmul(call: Call) -> Any:
    a, b = call.get("self"), call.get("other", call.get("mat2"))
    if isinstance(b, np.ndarray):
        if b.ndim != 2:
            raise call.unsupported(f"multiplies with a constant of shape {b.shape}", "These work: matrices")
        return call.builder.dense(a, b, None)
    if isinstance(a, np.ndarray):
        if a.ndim != 2 or len(b.shape) < 2:
            raise call.unsupported(f"multiplies a constant of shape {a.shape} with samples of shape {b.shape}")
        rank = len(b.shape)
        swap = [*range(rank - 2), rank - 1, rank - 2]
        made = call.builder.dense(call.builder.transpose(b, swap), a.T, None)
        return call.builder.transpose(made, swap)
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise call.unsupported(f"multiplies samples of shapes {a.shape} and {b.shape}", "These work: two matrices")
    builder = call.builder
    a, b = builder.plain(a), builder.plain(b)
    at = builder.place(L.Dot((1, 0)), a.at, b.at)
    return type(a)(at, tuple(builder.shapes[at]), (0, 1))


def _convolution(call: Call) -> Any:
    """aten.convolution, and those of one to three axes by their own names."""
    x, weight = call.tensor("input"), _weight(call)
    rank = weight.ndim - 2
    if len(x.shape) != rank + 1:
        raise ShapeError(f"its kernel has {rank} spatial axes, its input has shape {x.shape}")
    strides, dilation = call.sizes("stride", rank), call.sizes("dilation", rank)
    groups = call.get("groups", 1)
    common: dict[str, Any] = {"strides": strides, "dilation": dilation}
    if call.get("transposed", "transpose" in call.op.base):
        cut = call.sizes("padding", rank, 0)
        kernel = weight.transpose(*range(2, rank + 2), 1, 0)
        extra = call.sizes("output_padding", rank, 0)
        layer: L.Layer = L.ConvTranspose(
            kernel, call.constant("bias"), padding=[(p, p) for p in cut], output_padding=extra, groups=groups, **common
        )
        return call.builder.window(layer, x)
    padding = call.get("padding", 0)
    if isinstance(padding, str):  # PyTorch's "same" puts the odd zero after, and knows no strides
        reach = [(k - 1) * d for k, d in zip(weight.shape[2:], dilation, strict=True)]
        pairs = [(r // 2, r - r // 2) if padding == "same" else (0, 0) for r in reach]
    else:
        pairs = [(p, p) for p in call.sizes("padding", rank, 0)]
    if groups == x.shape[0] and groups > 1 and weight.shape[1] == 1:
        kernel = weight.reshape(groups, -1, *weight.shape[2:]).transpose(*range(2, rank + 2), 0, 1)
        layer = L.DepthwiseConv(kernel, call.constant("bias"), padding=pairs, **common)
    else:
        kernel = weight.transpose(*range(2, rank + 2), 1, 0)
        layer = L.Conv(kernel, call.constant("bias"), padding=pairs, groups=groups, **common)
    return call.builder.window(layer, x)


def _embedding(call: Call) -> Any:
    if not isinstance(call.get("weight"), np.ndarray):
        raise call.unsupported("looks rows up in a table that the model computes")
    t = call.builder.plain(call.tensor("indices"))
    at = call.builder.place(L.Embedding(_weight(call)), t.at)
    shape = tuple(call.builder.shapes[at])
    return type(t)(at, shape, tuple(range(len(shape))))


# -- normalization ------------------------------------------------------------


def _batch_norm(call: Call) -> Any:
    mean, variance = call.constant("running_mean"), call.constant("running_var")
    if call.get("training", False) or mean is None or variance is None:
        raise call.unsupported("normalizes by the batch's own statistics", "Export the module in eval mode")
    layer = L.BatchNorm(mean, variance, call.constant("weight"), call.constant("bias"), call.get("eps", 1e-5))
    t = call.builder.last(call.tensor("input"), 0)
    return type(t)(call.builder.place(layer, t.at), t.shape, t.order)


def _first_of_three(convert: Converter) -> Converter:
    return lambda call: (convert(call), None, None)


def _sample_norm(kind: Any) -> Converter:
    def convert(call: Call) -> Any:
        x, shape = call.tensor("input"), call.get("normalized_shape")
        if list(x.shape[len(x.shape) - len(shape) :]) != list(shape):
            raise ShapeError(f"it normalizes axes of shape {tuple(shape)}, its input has shape {x.shape}")
        t = call.builder.plain(x)
        epsilon = call.get("eps")
        if epsilon is None:  # the spacing of the numbers that the module computes with
            weight = call.constant("weight")
            epsilon = float(np.finfo(np.float32 if weight is None else weight.dtype).eps)
        layer = kind(call.constant("weight"), call.constant("bias"), epsilon, len(shape))
        return type(t)(call.builder.place(layer, t.at), t.shape, t.order)

    return convert


def _grouped(call: Call, x: Any, groups: int) -> Any:
    """Each group of channels normalized by itself, then scaled and shifted channel by channel."""
    builder, shape = call.builder, tuple(x.shape)
    if None in shape:
        raise ShapeError(f"the program leaves the size of its input open: {shape}")
    parts = builder.plain(builder.reshape(x, (groups, math.prod(shape) // groups)))
    layer = L.LayerNorm(None, None, call.get("eps", 1e-5), 1)
    normed = type(parts)(builder.place(layer, parts.at), parts.shape, parts.order)
    made = builder.reshape(normed, shape)
    weight, bias = call.constant("weight"), call.constant("bias")
    if weight is None and bias is None:
        return made
    column = (shape[0],) + (1,) * (len(shape) - 1)
    scale = np.ones(1) if weight is None else weight.reshape(column)
    shift = np.zeros(1) if bias is None else bias.reshape(column)
    return builder.affine(made, scale, shift)


def _group_norm(call: Call) -> Any:
    x = call.tensor("input")
    return _grouped(call, x, call.get("num_groups"))


def _instance_norm(call: Call) -> Any:
    if not call.get("use_input_stats", True):
        return _batch_norm(call)
    x = call.tensor("input")
    return _grouped(call, x, x.shape[0])


def _local_response_norm(call: Call) -> Any:
    layer = L.LocalResponseNorm(*(call.get(k) for k in ("size", "alpha", "beta", "k")))
    t = call.builder.channels_last(call.tensor())
    return type(t)(call.builder.place(layer, t.at), t.shape, t.order)


def _attention(call: Call) -> Any:
    raise call.unsupported("is attention, which lrpfast has no rule for yet")


# -- what does nothing at inference ---------------------------------------------


#: Half, float, double and bfloat16, as the files number them.
_FLOATS = (6, 7, 8, 13)


def _same(call: Call) -> Any:
    if call.get("train", False) is True:
        raise call.unsupported("drops values at random", "Export the module in eval mode")
    dtype = call.get("dtype")
    if dtype is not None and not (dtype in _FLOATS or str(dtype).startswith(("torch.float", "torch.bfloat"))):
        # indices of an embedding may be of any type of whole numbers
        source = call.op.arguments.get("self")
        if not (isinstance(source, Ref) and source.name in call.program.inputs):
            raise call.unsupported(f"rounds what the model computes to {dtype}")
    return call.get("self", call.get("input"))


def _native_dropout(call: Call) -> Any:
    return _same(call), None


#: Every operator that is read, without its overload, and how.
CONVERTERS: dict[str, Converter] = {
    "aten.linear": _linear,
    "aten.addmm": _addmm,
    "aten.mm": _matmul,
    "aten.bmm": _matmul,
    "aten.matmul": _matmul,
    "aten.convolution": _convolution,
    **{f"aten.conv{rank}d": _convolution for rank in (1, 2, 3)},
    **{f"aten.conv_transpose{rank}d": _convolution for rank in (1, 2, 3)},
    "aten.embedding": _embedding,
    **FUNCTIONS,
    "aten.batch_norm": _batch_norm,
    "aten._native_batch_norm_legit_no_training": _first_of_three(_batch_norm),
    "aten.layer_norm": _sample_norm(L.LayerNorm),
    "aten.native_layer_norm": _first_of_three(_sample_norm(L.LayerNorm)),
    "aten.rms_norm": _sample_norm(L.RMSNorm),
    "aten.group_norm": _group_norm,
    "aten.instance_norm": _instance_norm,
    "lrpfast.local_response_norm": _local_response_norm,
    "aten.scaled_dot_product_attention": _attention,
    "aten.native_dropout": _native_dropout,
    **{f"aten.{name}": _same for name in (*UNCHANGED, "feature_dropout", "alpha_dropout", "feature_alpha_dropout")},
    **MOVES,
    **MERGES,
}
