"""ATen operators on truths, masks and whole numbers, and attention; part of the table in `nodes`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ...model import layers as L
from ..attention import Scores, attention
from ..axis_ops import cumulative
from ..file_axes import file_sizes
from ..mask_arithmetic import COMPARED, chosen, compare, conjunction, disjunction, masks_of, negation
from ..masks import Condition, Masked, softmax
from .graph import TorchNode
from .records import PerBatch

Converter = Callable[[TorchNode], Any]

#: Operators that give values another shape, and leave their order.
_RESHAPES = {
    f"aten.{name}"
    for name in ("view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as")
}


def carried(convert: Converter) -> Converter:
    """A move of values that moves conditions, and masked scores, as well."""

    def moved(node: TorchNode) -> Any:
        value = node.get("self")
        if isinstance(value, Masked) and node.op.base in _RESHAPES:
            return value.reshaped(node.builder, lambda scores: convert(node.with_argument("self", scores)))
        if not isinstance(value, Condition):
            return convert(node)
        if node.op.base == "aten.expand":
            return value.expand(node.builder, node.pair(node.get("size"))[0])
        if node.op.base == "aten.unsqueeze" and value.expanded is None:
            return replace(value, tensor=node.builder.tensor(convert(node.with_argument("self", value.tensor))))
        tensor = value.whole(node.builder)
        result = convert(node.with_argument("self", tensor))
        several = result if isinstance(result, list) else [result]
        wrapped = [replace(value, tensor=node.builder.tensor(t), expanded=None) for t in several]
        return wrapped if isinstance(result, list) else wrapped[0]

    return moved


def _compare(name: str) -> Converter:
    return lambda node: compare(node, node.get("self"), node.get("other"), name)


def _not(node: TorchNode) -> Any:
    return negation(node, node.get("self"))


def _and(node: TorchNode) -> Any:
    return conjunction(node, node.get("self"), node.get("other"))


def _or(node: TorchNode) -> Any:
    return disjunction(node, node.get("self"), node.get("other"))


def _where(node: TorchNode) -> Any:
    return chosen(node, node.get("condition"), node.get("self"), node.get("other"))


def _masked_fill(node: TorchNode) -> Any:
    return chosen(node, node.get("mask"), node.get("value"), node.get("self"))


# -- whole numbers --------------------------------------------------------------


def _cumsum(node: TorchNode) -> Any:
    x = node.tensor()
    return cumulative(node.builder, x, x.axis(node.get("dim")))


def _gather(node: TorchNode) -> Any:
    """Values of a constant at indices that the model computes, where it holds one number only: that number."""
    known = node.known_pair(node.get("self"))
    index = node.tensor("index")
    if not isinstance(known, tuple) or known[0].size == 0 or not (known[0] == known[0].ravel()[0]).all():
        raise node.unsupported("looks up what it computes, other than rows of a table (nn.Embedding)")
    shapes = [file_sizes(index, node.batches, i) for i in (0, 1)]
    return PerBatch(*(np.full(shape, known[0].ravel()[0]) for shape in shapes))


# -- attention ------------------------------------------------------------------


def softmax_of(name: str) -> Converter:
    """A softmax or its logarithm."""

    def convert(node: TorchNode) -> Any:
        x, dim = node.get("self"), node.get("dim", -1)
        if isinstance(x, Masked):
            if name != "softmax":
                raise node.unsupported("takes the logarithm of a softmax of masked scores, which is infinite")
            return softmax(node.builder, x, x.scores.axis(dim))
        x = node.tensor()
        return node.builder.each(L.Activation(name), node.builder.last(x, x.axis(dim)))

    return convert


def _attention(node: TorchNode) -> Any:
    """aten.scaled_dot_product_attention, also as it is taken apart."""
    if node.get("dropout_p", 0.0):
        raise node.unsupported("drops values at random", "Export the module in eval mode")
    query, key, value = (node.tensor(name) for name in ("query", "key", "value"))
    scores = masks_of(node, node.get("attn_mask", node.get("attn_bias")), query, key)
    causal = bool(node.get("is_causal", False))
    scores = Scores(node.get("scale"), causal, scores.bias, scores.seen, scores.truth)
    result = attention(node.builder, query, key, value, scores)
    return result if node.op.base == "aten.scaled_dot_product_attention" else (result, *[None] * 8)


def _fast_path(node: TorchNode) -> Any:
    raise node.unsupported(
        "is PyTorch's fused fast path, which is for inference alone",
        "Call torch.backends.mha.set_fastpath_enabled(False) and export the module again",
    )


#: Operators of this file, without their overloads.
TRUTHS: dict[str, Converter] = {
    **{f"aten.{name}": _compare(name) for name in COMPARED},
    **{f"aten.{name}": _not for name in ("bitwise_not", "logical_not")},
    **{f"aten.{name}": _and for name in ("bitwise_and", "logical_and", "__and__")},
    **{f"aten.{name}": _or for name in ("bitwise_or", "logical_or", "__or__")},
    "aten.cumsum": _cumsum,
    "aten.gather": _gather,
    "aten.where": _where,
    "aten.masked_fill": _masked_fill,
    "aten.softmax": softmax_of("softmax"),
    "aten._softmax": softmax_of("softmax"),
    "aten._safe_softmax": softmax_of("softmax"),
    "aten._transformer_encoder_layer_fwd": _fast_path,
    "aten._native_multi_head_attention": _fast_path,
    "aten.log_softmax": softmax_of("log_softmax"),
    "aten._log_softmax": softmax_of("log_softmax"),
    **{
        f"aten.{name}": _attention
        for name in (
            "scaled_dot_product_attention",
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_attention_math",
            "_scaled_dot_product_attention_math_for_mps",
            "_scaled_dot_product_fused_attention_overrideable",
            "_scaled_dot_product_cudnn_attention",
        )
    },
}
