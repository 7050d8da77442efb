"""ATen operators in lrpfast's terms: layers with weights and normalization; and the table of all.

A converter takes a `TorchNode` and returns the operator's result. To read another
operator, write its function and enter it in `CONVERTERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ShapeError
from ...model import layers as L
from ..arithmetic import constant_product, einsum, matrix_product
from ..axis_ops import affine
from ..channels_first import Flat, Tensor, check_first
from ..conditions import is_condition
from ..file_axes import permute
from ..masks import Condition, Masked, compared, is_whole
from .constants import UNCHANGED
from .functions import FUNCTIONS
from .graph import TorchNode
from .merges import MERGES
from .records import PerBatch
from .recurrent import RECURRENT
from .reduced import REDUCED
from .shape_ops import MOVES
from .truths import TRUTHS, carried

Converter = Callable[[TorchNode], Any]

# -- layers with weights ------------------------------------------------------


def _weight(node: TorchNode, name: str = "weight") -> np.ndarray:
    weight = node.constant(name)
    if weight is None:
        raise ShapeError(f"it has no {name}")
    return weight


def _linear(node: TorchNode) -> Any:
    return node.builder.dense(node.tensor("input"), _weight(node).T, node.constant("bias"))


def _addmm(node: TorchNode) -> Any:
    bias, kernel = _weight(node, "self"), _weight(node, "mat2")
    bias = np.broadcast_to(bias, (1, kernel.shape[1]))[0] if bias.ndim != 2 or bias.shape[0] == 1 else bias
    return node.builder.dense(node.tensor("mat1"), kernel * node.get("alpha", 1), bias * node.get("beta", 1))


def _one_matrix(value: Any) -> Any:
    """A constant that is one matrix again and again, as `run_decompositions` stretches weights, as this matrix."""
    pair = (value.first, value.second) if isinstance(value, PerBatch) else (value, value)
    if any(not isinstance(array, np.ndarray) or array.ndim < 3 or not array.size for array in pair):
        return value
    matrix: np.ndarray = pair[0][(0,) * (pair[0].ndim - 2)]
    return matrix if all(array.shape[-2:] == matrix.shape and (array == matrix).all() for array in pair) else value


def _matmul(node: TorchNode) -> Any:
    a, b = (_one_matrix(value) for value in (node.get("self"), node.get("other", node.get("mat2"))))
    if isinstance(a, (Tensor, Flat)) and isinstance(b, (Tensor, Flat)):
        return matrix_product(node.builder, a, b)
    if isinstance(b, np.ndarray) and b.ndim == 2:
        return node.builder.dense(a, b, None)
    on_left = not isinstance(a, (Tensor, Flat))
    constant, x = (a, b) if on_left else (b, a)
    rank = np.ndim(constant.first if isinstance(constant, PerBatch) else constant)
    if rank == 1:
        raise node.unsupported(f"multiplies with a vector of {len(constant)} numbers", "These work: matrices")
    if isinstance(constant, np.ndarray) and rank == 2:  # on the left
        swap = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
        return permute(node.builder, node.builder.dense(permute(node.builder, x, swap), constant.T, None), swap)
    for dim in (-1, -2):
        x.axis(dim)  # which must not hold the batch
    return constant_product(node.builder, x, node.sample_array(constant, x), on_left)


def _einsum(node: TorchNode) -> Any:
    operands = node.get("tensors", node.get("operands"))
    if any(isinstance(v, PerBatch) for v in operands):
        raise node.unsupported("multiplies with a constant that depends on the number of samples")
    return einsum(node.builder, node.get("equation"), operands)


def _convolution(node: TorchNode) -> Any:
    """aten.convolution, and those of one to three axes by their own names."""
    x, weight = node.tensor("input"), _weight(node)
    rank = weight.ndim - 2
    if len(x.shape) != rank + 1:
        raise ShapeError(f"its kernel has {rank} spatial axes, its input has shape {x.shape}")
    strides, dilation = node.sizes("stride", rank), node.sizes("dilation", rank)
    groups = node.get("groups", 1)
    common: dict[str, Any] = {"strides": strides, "dilation": dilation}
    if node.get("transposed", "transpose" in node.op.base):
        cut = node.sizes("padding", rank, 0)
        kernel = weight.transpose(*range(2, rank + 2), 1, 0)
        extra = node.sizes("output_padding", rank, 0)
        layer: L.Layer = L.ConvTranspose(
            kernel, node.constant("bias"), padding=[(p, p) for p in cut], output_padding=extra, groups=groups, **common
        )
        return node.builder.window(layer, x)
    padding = node.get("padding", 0)
    if isinstance(padding, str):  # PyTorch's "same" puts the odd zero after, and knows no strides
        reach = [(k - 1) * d for k, d in zip(weight.shape[2:], dilation, strict=True)]
        pairs = [(r // 2, r - r // 2) if padding == "same" else (0, 0) for r in reach]
    else:
        pairs = [(p, p) for p in node.sizes("padding", rank, 0)]
    if groups == x.shape[0] and groups > 1 and weight.shape[1] == 1:
        kernel = weight.reshape(groups, -1, *weight.shape[2:]).transpose(*range(2, rank + 2), 0, 1)
        layer = L.DepthwiseConv(kernel, node.constant("bias"), padding=pairs, **common)
    else:
        kernel = weight.transpose(*range(2, rank + 2), 1, 0)
        layer = L.Conv(kernel, node.constant("bias"), padding=pairs, groups=groups, **common)
    return node.builder.window(layer, x)


def _embedding(node: TorchNode) -> Any:
    if not isinstance(node.get("weight"), np.ndarray):
        raise node.unsupported("looks rows up in a table that the model computes")
    return node.builder.embedding(_weight(node), node.tensor("indices"))


# -- normalization ------------------------------------------------------------


def _batch_norm(node: TorchNode) -> Any:
    mean, variance = node.constant("running_mean"), node.constant("running_var")
    if node.get("training", False) or mean is None or variance is None:
        raise node.unsupported("normalizes by the batch's own statistics", "Export the module in eval mode")
    layer = L.BatchNorm(mean, variance, node.constant("weight"), node.constant("bias"), node.get("eps", 1e-5))
    x = node.tensor("input")
    return node.builder.each(layer, node.builder.last(x, x.axis(1)))


def _first_of_three(convert: Converter) -> Converter:
    return lambda node: (convert(node), None, None)


def _sample_norm(kind: Any) -> Converter:
    def convert(node: TorchNode) -> Any:
        x, shape = node.tensor("input"), node.get("normalized_shape")
        if list(x.shape[len(x.shape) - len(shape) :]) != list(shape):
            raise ShapeError(f"it normalizes axes of shape {tuple(shape)}, its input has shape {x.shape}")
        for i in range(len(shape)):
            x.axis(-1 - i)  # which must not hold the batch
        t = node.builder.plain(x)
        epsilon = node.get("eps")
        if epsilon is None:  # the spacing of the numbers that the module computes with
            weight = node.constant("weight")
            epsilon = float(np.finfo(np.float32 if weight is None else weight.dtype).eps)
        layer = kind(node.constant("weight"), node.constant("bias"), epsilon, len(shape))
        return node.builder.each(layer, t)

    return convert


def _written_norm(kind: Any) -> Converter:
    """A normalization that the program writes out, over its last axes."""

    def convert(node: TorchNode) -> Any:
        x, count = node.tensor("input"), node.get("count")
        for i in range(count):
            x.axis(-1 - i)  # which must not hold the batch
        t = node.builder.plain(x)
        shape = t.shape[len(t.shape) - count :]
        arrays = [None if node.get(key) is None else node.sample_array(node.get(key), t) for key in ("scale", "shift")]
        lead = len(t.shape) - count
        if any(n != 1 for a in arrays if a is not None for n in a.shape[:lead]):  # another for each position before
            normed = node.builder.each(kind(None, None, node.get("eps"), count), t)
            scale, shift = arrays
            return affine(node.builder, normed, 1.0 if scale is None else scale, 0.0 if shift is None else shift)
        sizes: Any = shape
        inside = [None if a is None else np.broadcast_to(a.reshape(a.shape[lead:]), sizes) for a in arrays]
        return node.builder.each(kind(inside[0], inside[1], node.get("eps"), count), t)

    return convert


def _grouped(node: TorchNode, x: Any, groups: int) -> Any:
    """Each group of channels normalized by itself, then scaled and shifted channel by channel."""
    builder, shape = node.builder, tuple(x.shape)
    if None in shape:
        raise ShapeError(f"the program leaves the size of its input open: {shape}")
    parts = builder.plain(builder.reshape(x, (groups, math.prod(shape) // groups)))
    layer = L.LayerNorm(None, None, node.get("eps", 1e-5), 1)
    normed = builder.each(layer, parts)
    result = builder.reshape(normed, shape)
    weight, bias = node.constant("weight"), node.constant("bias")
    if weight is None and bias is None:
        return result
    column = (shape[0],) + (1,) * (len(shape) - 1)
    scale = np.ones(1) if weight is None else weight.reshape(column)
    shift = np.zeros(1) if bias is None else bias.reshape(column)
    return builder.affine(result, scale, shift)


def _group_norm(node: TorchNode) -> Any:
    x = node.tensor("input")
    return _grouped(node, x, node.get("num_groups"))


def _instance_norm(node: TorchNode) -> Any:
    if not node.get("use_input_stats", True):
        return _batch_norm(node)
    x = node.tensor("input")
    return _grouped(node, x, x.shape[0])


def _local_response_norm(node: TorchNode) -> Any:
    layer = L.LocalResponseNorm(*(node.get(k) for k in ("size", "alpha", "beta", "k")))
    check_first(node.tensor())
    return node.builder.each(layer, node.builder.channels_last(node.tensor()))


# -- what does nothing at inference ---------------------------------------------


#: Half, float, double and bfloat16, as the files number them.
_FLOATS = (6, 7, 8, 13)
_BOOL = 12


def _same(node: TorchNode) -> Any:
    if node.get("train", False) is True:
        raise node.unsupported("drops values at random", "Export the module in eval mode")
    dtype, value = node.get("dtype"), node.get("self", node.get("input"))
    if isinstance(value, Condition):
        if dtype is None:
            return value
        truth = dtype == _BOOL or str(dtype) == "torch.bool"
        return value.map(bool, boolean=True) if truth else value.map(float)
    if isinstance(value, Masked) or is_condition(value):
        return value
    if isinstance(value, (Tensor, Flat)) and is_whole(node.builder, value, node.whole):
        return compared(node.builder, value, "ne", 0.0) if dtype == _BOOL or str(dtype) == "torch.bool" else value
    if dtype is not None and not (dtype in _FLOATS or str(dtype).startswith(("torch.float", "torch.bfloat"))):
        raise node.unsupported(f"rounds what the model computes to {dtype}")
    return node.get("self", node.get("input"))


def _native_dropout(node: TorchNode) -> Any:
    return _same(node), None


#: Every operator that is read, without its overload, and how.
CONVERTERS: dict[str, Converter] = {
    "aten.linear": _linear,
    "aten.addmm": _addmm,
    "aten.mm": _matmul,
    "aten.bmm": _matmul,
    "aten.matmul": _matmul,
    "aten.einsum": _einsum,
    "aten.convolution": _convolution,
    **{f"aten.conv{rank}d": _convolution for rank in (1, 2, 3)},
    **{f"aten.conv_transpose{rank}d": _convolution for rank in (1, 2, 3)},
    "aten.embedding": _embedding,
    **FUNCTIONS,
    **RECURRENT,
    "aten.batch_norm": _batch_norm,
    "aten._native_batch_norm_legit_no_training": _first_of_three(_batch_norm),
    "aten.layer_norm": _sample_norm(L.LayerNorm),
    "aten.native_layer_norm": _first_of_three(_sample_norm(L.LayerNorm)),
    "aten.rms_norm": _sample_norm(L.RMSNorm),
    "aten.group_norm": _group_norm,
    "aten.instance_norm": _instance_norm,
    "lrpfast.local_response_norm": _local_response_norm,
    "lrpfast.layer_norm": _written_norm(L.LayerNorm),
    "lrpfast.rms_norm": _written_norm(L.RMSNorm),
    "aten.native_dropout": _native_dropout,
    **{f"aten.{name}": _same for name in (*UNCHANGED, "feature_dropout", "alpha_dropout", "feature_alpha_dropout")},
    **{key: carried(convert) for key, convert in MOVES.items()},
    **MERGES,
    **REDUCED,
    **TRUTHS,
}
