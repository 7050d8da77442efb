"""ONNX operators on truths, masks and whole numbers, and Attention, as layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import ModelFormatError
from ..attention import attention
from ..channels_first import Tensor, Value
from ..conditions import COMPARISONS, both, compared_value, either, is_condition, negated, select, unequal
from ..file_axes import file_sizes, gather, gather_along, permute, view
from ..mask_arithmetic import chosen, compare, conjunction, disjunction, masks_of, negation
from ..masks import Condition, Masked, is_whole
from .context import NodeContext
from .file import File
from .fold import FoldedValue
from .one_hot import codes, makes_codes

#: Operators that give values another shape, and leave their order.
_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


#: Operators that a table's indices may go through.
_MOVES = {"Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Slice", "Transpose", "Flatten", "Expand"}
#: Those that make truths.
_TESTS = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "And", "Or"}


def mask_inputs(file: File, constants: Mapping[str, np.ndarray]) -> set[str]:
    """The inputs that are masks: truths, and whole numbers that are compared or stand beside ids."""
    whole = [item.name for item in file.inputs if item.integer]
    looked_up, tested = set(), set()
    for name in whole:
        names = {name}
        for node in file.nodes:
            if names.isdisjoint(node.inputs):
                continue
            if (
                node.op == "Gather"
                and len(node.inputs) > 1
                and node.inputs[1] in names
                or makes_codes(node, names, constants)
            ):
                looked_up.add(name)
            elif node.op in _TESTS or (node.op == "Cast" and node.attributes.get("to") == 9):
                tested.add(name)
            if node.op in _MOVES:
                names.update(node.outputs)
    masks = {name for name in whole if name not in looked_up and (looked_up or name in tested)}
    return masks | {item.name for item in file.inputs if item.truth}


def carried(build: Callable[[NodeContext], Any]) -> Callable[[NodeContext], Any]:
    """A move of values that moves conditions, and masked scores, as well."""

    def moved(ctx: NodeContext) -> Any:
        value = ctx.args[0] if ctx.args else None
        if isinstance(value, Masked) and ctx.node.op in _RESHAPES:
            return value.reshaped(ctx.builder, lambda scores: build(ctx.with_first(scores)))
        if not isinstance(value, Condition) or ctx.node.op in ("Shape", "Size"):
            return build(ctx)
        if ctx.node.op == "Expand":
            shape = ctx.known(1, "shape").first
            return value.expand(ctx.builder, [-1 if n == 1 else int(n) for n in shape])
        if ctx.node.op == "Unsqueeze" and value.expanded is None:
            return replace(value, tensor=ctx.builder.tensor(build(ctx.with_first(value.tensor))))
        result = build(ctx.with_first(value.whole(ctx.builder)))
        several = result if isinstance(result, list) else [result]
        wrapped = [v if v is None else replace(value, tensor=ctx.builder.tensor(v), expanded=None) for v in several]
        return wrapped if isinstance(result, list) else wrapped[0]

    return moved


_TURNED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def _compare(name: str) -> Callable[[NodeContext], Any]:
    def convert(ctx: NodeContext) -> Any:
        a, b = ctx.args
        for first, second, op in ((a, b, name), (b, a, _TURNED.get(name, name))):
            whole = isinstance(first, Tensor) and is_whole(ctx.builder, first, ctx.whole)
            if op == "eq" and whole and isinstance(second, FoldedValue) and second.first.size > 1:
                return codes(ctx, first, second)
            if isinstance(first, Condition) or (whole and isinstance(second, FoldedValue)):
                return compare(ctx, first, second, op)
        for arg in (a, b):
            if isinstance(arg, FoldedValue) and not np.isfinite(np.asarray(ctx.fixed(arg, "limit"), float)).all():
                raise ctx.unsupported("compares with a constant that is infinite or not a number")
        return COMPARISONS[name](ctx.builder, *ctx.operands())

    return convert


def _joined(of_masks: Callable[..., Any], of_comparisons: Callable[..., Any]) -> Callable[[NodeContext], Any]:
    """Truths joined: masks that come from inputs, or comparisons of numbers."""

    def convert(ctx: NodeContext) -> Any:
        comparisons = [arg for arg in ctx.args if is_condition(arg)]
        if not comparisons:
            return of_masks(ctx, *ctx.args)
        value = compared_value(comparisons[0])
        return of_comparisons(
            *(arg if is_condition(arg) else ctx.sample_array(arg, value).astype(bool) for arg in ctx.args)
        )

    return convert


def _one_of(ctx: NodeContext, a: Any, b: Any) -> Any:
    return conjunction(ctx, disjunction(ctx, a, b), negation(ctx, conjunction(ctx, a, b)))


def _is_nan(ctx: NodeContext) -> Any:
    """Nothing here is one: a softmax that sees nothing gives 0, and a file with others is not read."""
    return _Nowhere(ctx.value())


class _Nowhere:
    """A condition on a value that never holds."""

    def __init__(self, of: Value) -> None:
        self.of = of


def _where(ctx: NodeContext) -> Any:
    condition, a, b = ctx.args
    if isinstance(condition, _Nowhere):
        return b
    if is_condition(condition):
        return select(ctx.builder, condition, *ctx.operands(a, b))
    return chosen(ctx, condition, a, b)


def _gather_nd(ctx: NodeContext) -> Any:
    """Values at constant indices on the first axes."""
    x, known = ctx.args[0], ctx.known(1, "indices")
    if ctx.attr("batch_dims", 0):
        raise ctx.unsupported("gathers for each of several axes (batch_dims)")
    pairs = [(known.first[..., i], known.second[..., i]) for i in range(known.first.shape[-1])]
    value = x.whole(ctx.builder) if isinstance(x, Condition) else ctx.value()
    result = gather(ctx.builder, value, 0, pairs, ctx.batches)
    return replace(x, tensor=ctx.builder.tensor(result), expanded=None) if isinstance(x, Condition) else result


def _gather_elements(ctx: NodeContext) -> Any:
    """Values at constant indices; of a constant at indices that the model computes only where it holds one number."""
    known, axis = ctx.args[0], ctx.attr("axis", 0)
    if isinstance(ctx.args[1], FoldedValue):
        return gather_along(ctx.builder, ctx.value(), axis, (ctx.args[1].first, ctx.args[1].second), ctx.batches)
    index = ctx.value(1)
    if not isinstance(known, FoldedValue) or known.first.size == 0 or (known.first != known.first.ravel()[0]).any():
        raise ctx.unsupported("looks up what the model computes, other than rows of a table (Gather)")
    shapes = [file_sizes(index, ctx.batches, i) for i in (0, 1)]
    return FoldedValue(*(np.full(shape, known.first.ravel()[0]) for shape in shapes))


# -- attention ------------------------------------------------------------------


def _heads(ctx: NodeContext, x: Value, key: str) -> Value:
    """The input with its heads as an axis before the rows."""
    if x.rank != 3:
        return x
    heads = ctx.attr(key, 0)
    size = x.shape[-1]
    if not heads or size is None or size % heads:
        raise ModelFormatError(f"its {key} of {heads} does not fit an input of {size} channels")
    sizes = [(*s[:2], heads, size // heads) for s in _file_sizes(ctx, x)]
    return permute(ctx.builder, view(ctx.builder, x, (sizes[0], sizes[1]), ctx.batches), [0, 2, 1, 3])


def _file_sizes(ctx: NodeContext, x: Value) -> list[tuple[int, ...]]:
    return [file_sizes(x, ctx.batches, i) for i in (0, 1)]


def _attention(ctx: NodeContext) -> Any:
    """Attention of version 23: heads as an axis, or side by side."""
    if any(ctx.has(i) for i in (4, 5)):
        raise ctx.unsupported("has keys and values of the past (a cache)", "Export the model without a cache")
    if ctx.has(6):
        raise ctx.unsupported("has numbers of keys that are not padding (nonpad_kv_seqlen)", "Give it a mask")
    if any(ctx.node.outputs[1:]):
        raise ctx.unsupported("hands out keys and values, or scores, beside its result")
    for name in ("qk_matmul_output_mode", "softmax_precision", "q_num_heads", "kv_num_heads"):
        ctx.attr(name)
    flat = ctx.value(0).rank == 3
    query, key, value = (
        _heads(ctx, ctx.value(i), name) for i, name in enumerate(("q_num_heads", "kv_num_heads", "kv_num_heads"))
    )
    scores = masks_of(ctx, ctx.args[3] if ctx.has(3) else None, query, key)
    softcap = ctx.attr("softcap", 0.0)
    scores = replace(
        scores, scale=ctx.attr("scale"), causal=bool(ctx.attr("is_causal", 0)), softcap=softcap if softcap else None
    )
    result = attention(ctx.builder, query, key, value, scores)
    if not flat:
        return result
    rows = permute(ctx.builder, result, [0, 2, 1, 3])
    sizes = [(*s[:2], s[2] * s[3]) for s in _file_sizes(ctx, rows)]
    return view(ctx.builder, rows, (sizes[0], sizes[1]), ctx.batches)


#: How each operator is built.
TRUTHS: dict[str, Callable[[NodeContext], Any]] = {
    "And": _joined(conjunction, both),
    "Attention": _attention,
    "Equal": _compare("eq"),
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Greater": _compare("gt"),
    "GreaterOrEqual": _compare("ge"),
    "IsNaN": _is_nan,
    "Less": _compare("lt"),
    "LessOrEqual": _compare("le"),
    "Not": _joined(negation, negated),
    "Or": _joined(disjunction, either),
    "Where": _where,
    "Xor": _joined(_one_of, unequal),
}
