"""ATen operators on truths, masks and whole numbers, and attention; part of the table in `nodes`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ...model import layers as L
from .. import conditions
from ..attention import attention
from ..axis_ops import cumulative
from ..channels_first import Flat, Tensor
from ..file_axes import file_sizes, gather_along
from ..mask_arithmetic import COMPARED, chosen, compare, conjunction, disjunction, masks_of, negation
from ..masks import Condition, Masked, is_whole, softmax
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
        if conditions.is_condition(value):
            return conditions.moved(value, lambda v: convert(node.with_argument("self", v)), node.builder)
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
    """A comparison: of masks and of whole numbers it is a mask, of what the model computes a condition."""

    def convert(node: TorchNode) -> Any:
        a, b = node.get("self"), node.get("other")
        values = [v for v in (a, b) if isinstance(v, (Tensor, Flat))]
        if not values or any(isinstance(v, Condition) for v in (a, b)) or is_whole(node.builder, values[0], node.whole):
            return compare(node, a, b, name)
        x, y = node.operands(a, b)
        if any(isinstance(v, np.ndarray) and not np.isfinite(v).all() for v in (x, y)):
            raise node.unsupported("compares with a constant that is infinite or not a number")
        return conditions.COMPARISONS[name](node.builder, x, y)

    return convert


def _joined(of_masks: Callable[..., Any], of_comparisons: Callable[..., Any]) -> Converter:
    """Truths joined: masks that come from inputs, or comparisons of numbers."""

    def convert(node: TorchNode) -> Any:
        truths = [node.get(name) for name in ("self", "other")[: len(node.arguments)]]
        comparisons = [v for v in truths if conditions.is_condition(v)]
        if not comparisons:
            return of_masks(node, *truths)
        if any(isinstance(v, (Condition, Tensor, Flat)) for v in truths):
            raise node.unsupported("joins a comparison with a mask that is an input", "Use one after the other")
        value = conditions.compared_value(comparisons[0])
        known = [v if conditions.is_condition(v) else node.sample_array(v, value).astype(bool) for v in truths]
        return of_comparisons(*known)

    return convert


def _selected(node: TorchNode, condition: Any, a: Any, b: Any) -> Any:
    if conditions.is_condition(condition):
        value = conditions.compared_value(condition)
        x, y, _ = node.operands(a, b, value)
        return conditions.select(node.builder, condition, x, y)
    return chosen(node, condition, a, b)


def _where(node: TorchNode) -> Any:
    return _selected(node, node.get("condition"), node.get("self"), node.get("other"))


def _masked_fill(node: TorchNode) -> Any:
    return _selected(node, node.get("mask"), node.get("value"), node.get("self"))


# -- whole numbers --------------------------------------------------------------


def _cumsum(node: TorchNode) -> Any:
    x = node.tensor()
    return cumulative(node.builder, x, x.axis(node.get("dim")))


def _gather(node: TorchNode) -> Any:
    """Values at constant indices; of a constant at indices that the model computes only where it holds one number."""
    indices = node.known_pair(node.get("index"))
    if isinstance(indices, tuple):
        return gather_along(node.builder, node.tensor(), node.get("dim"), indices, node.batches)
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
    scores = replace(scores, scale=node.get("scale"), causal=causal)
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
    **{f"aten.{name}": _joined(negation, conditions.negated) for name in ("bitwise_not", "logical_not")},
    **{f"aten.{name}": _joined(conjunction, conditions.both) for name in ("bitwise_and", "logical_and", "__and__")},
    **{f"aten.{name}": _joined(disjunction, conditions.either) for name in ("bitwise_or", "logical_or", "__or__")},
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
