"""Einsum as the layers that it is: sums over axes, a dense layer, a product, or a contraction of two tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import ShapeError
from ...model import layers as L
from ..axis_ops import fixed
from ..channels_first import Tensor, Value
from .context import NodeContext
from .fold import FoldedValue
from .reduce_ops import total


def _parsed(ctx: NodeContext) -> tuple[list[str], str]:
    """The labels of each input, and those of the output."""
    equation = ctx.attr("equation").replace(" ", "")
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        out = "".join(sorted(label for label in set(left) - {","} if left.count(label) == 1))
    if len(terms) != len(ctx.args) or not set(out) <= set(left):
        raise ShapeError(f"its equation {equation!r} does not fit its inputs")
    if len(terms) > 2 or any(len(set(term)) < len(term) or not term.isalpha() for term in (*terms, out)):
        raise ctx.unsupported(
            f"computes {equation!r}", "One or two inputs work, whose axes all have letters of their own, without ..."
        )
    for term, arg in zip(terms, ctx.args, strict=True):
        if isinstance(arg, FoldedValue):
            if out[0] in term:
                raise ctx.unsupported(f"has a constant along the first axis of {equation!r}, which is the batch's")
        elif term[0] != out[0] or len(term) != len(arg.shape) + 1:
            raise ctx.unsupported(f"moves the batch axis or misses it in {equation!r}", "Keep the batch axis first")
    return terms, out


def _ordered(ctx: NodeContext, x: Value, labels: str, out: str) -> Value:
    """The sample's axes, named by the labels, in the order of others."""
    return x if labels == out else ctx.builder.transpose(x, [labels.index(label) for label in out])


def _summed(ctx: NodeContext, x: Value, labels: str, kept: str) -> tuple[Value, str]:
    """The sums over the axes whose labels are not kept, and the labels that are left."""
    axes = [i for i, label in enumerate(labels) if label not in kept]
    if axes:
        x = total(ctx, x, axes, False)
    return x, "".join(label for label in labels if label in kept)


def _with_constant(ctx: NodeContext, x: Value, labels: str, array: np.ndarray, names: str, out: str) -> Value:
    b = ctx.builder
    if array.ndim != len(names):
        raise ShapeError(f"it names the axes {names!r} of a constant of shape {array.shape}")
    lonely = tuple(i for i, name in enumerate(names) if name not in labels + out)
    array, names = array.sum(lonely), "".join(name for name in names if name in labels + out)
    x, labels = _summed(ctx, x, labels, names + out)
    contracted = [label for label in labels if label in names and label not in out]
    free = [name for name in names if name not in labels]
    shared = [label for label in labels if label in names and label in out]
    if not contracted and not free:
        order = [names.index(label) for label in labels if label in names]
        shape = [fixed(x, i) if label in names else 1 for i, label in enumerate(labels)]
        return _ordered(ctx, ctx.affine(x, array.transpose(order).reshape(shape), np.array(0.0)), labels, out)
    if shared or not contracted:
        raise ctx.unsupported("multiplies by a constant along axes that it keeps, and contracts or adds others")
    rest = [label for label in labels if label not in contracted]
    x = _ordered(ctx, x, labels, "".join(rest + contracted))
    sizes = [fixed(x, i) for i in range(len(labels))]
    weight = array.transpose([names.index(name) for name in contracted + free])
    outputs = weight.shape[len(contracted) :]
    if weight.shape[: len(contracted)] != tuple(sizes[len(rest) :]):
        raise ShapeError(f"its constant has shape {array.shape}, its input {x.shape}")
    inputs = int(np.prod(weight.shape[: len(contracted)]))
    rows = b.reshape(x, (*sizes[: len(rest)], inputs))
    dense = b.dense(rows, weight.reshape(inputs, -1), None)
    return _ordered(ctx, b.reshape(dense, (*sizes[: len(rest)], *outputs)), "".join(rest + free), out)


def _of_two(ctx: NodeContext, values: list[Value], terms: list[str], out: str) -> Value:
    b = ctx.builder
    (x, first), (y, second) = (
        _summed(ctx, value, term, out + other) for value, term, other in zip(values, terms, terms[::-1], strict=True)
    )
    contracted = [label for label in first if label in second and label not in out]
    shared = [label for label in first if label in second and label in out]
    if not contracted and set(first) == set(second):
        return b.merge(L.Multiply(), [_ordered(ctx, x, first, out), _ordered(ctx, y, second, out)])
    if len(contracted) != 1 or shared:
        raise ctx.unsupported(
            f"contracts {len(contracted)} axes of two tensors and keeps {len(shared)} of both; lrpfast contracts one, "
            "and keeps none but the batch's"
        )
    left, right = b.plain(x), b.plain(y)
    at = b.add(L.Dot((first.index(contracted[0]), second.index(contracted[0]))), left.node, right.node)
    labels = "".join(label for label in first + second if label != contracted[0])
    result = Tensor(at, b.shapes[at], tuple(range(len(b.shapes[at]))))
    return _ordered(ctx, result, labels, out) if labels else b.reshape(result, ())


def _einsum(ctx: NodeContext) -> Value:
    terms, out = _parsed(ctx)
    if len(terms) == 1:
        x, labels = _summed(ctx, ctx.value(), terms[0][1:], out)
        return _ordered(ctx, x, labels, out[1:])
    known = [i for i in (0, 1) if isinstance(ctx.args[i], FoldedValue)]
    if known:
        i = known[0]
        array = np.asarray(ctx.const(i, "constant"))
        return _with_constant(ctx, ctx.value(1 - i), terms[1 - i][1:], array, terms[i], out[1:])
    return _of_two(ctx, [ctx.value(0), ctx.value(1)], [term[1:] for term in terms], out[1:])


#: How each operator is built.
CONTRACTED: dict[str, Callable[[NodeContext], Any]] = {"Einsum": _einsum}
