"""Scaled dot-product attention as files call it, on heads as axes of their own: one layer on the projections' rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import ShapeError, UnsupportedLayerError
from ..model import layers as L
from .arithmetic import add, matrix_product
from .axis_ops import affine
from .batch_axis import FIRST
from .channels_first import Builder, Tensor, Value
from .file_axes import aligned, permute, shown
from .masks import Masked, softmax, windowed


@dataclass(frozen=True)
class Scores:
    """What becomes of the products of queries and keys before the softmax.

    Attributes
    ----------
    scale : float or None
        1 / √d when None.
    causal : bool
        Whether query i sees the keys 0 … i.
    bias : array or None
        Added; with all axes of a sample's scores.
    seen : array of bool or None
        With all of these axes, too.
    truth : Value or None
        Not 0 where a key is seen, with as many axes as the scores.
    softcap : float or None
    added : Value or None
        Added, too, as positions are that are computed from the queries; of as many axes as the file's scores.
    """

    scale: float | None = None
    causal: bool = False
    bias: np.ndarray | None = None
    seen: np.ndarray | None = None
    truth: Value | None = None
    softcap: float | None = None
    added: Value | None = None


def attention(builder: Builder, query: Value, key: Value, value: Value, scores: Scores) -> Value:
    """softmax(query keyᵀ) value on the file's last two axes, for each head on the axis before them.

    Keys and values may have fewer heads, each for several of the queries'.
    """
    query, key, value = aligned(builder, [query, key, value])
    for tensor in (query, key, value):
        for dim in (-1, -2):
            tensor.axis(dim)  # which must not hold the batch
    q, k, v = (t.shape for t in (query, key, value))
    heads, shared = (q[-3], k[-3]) if len(q) > 2 else (1, 1)
    if None in q + k + v and None in (q[-1], k[-1], v[-1], heads, shared):
        raise UnsupportedLayerError(f"attends with sizes that the file leaves open: {shown(query)}. Fix the sizes")
    if k[:-1] != v[:-1] or q[-1] != k[-1] or not heads or not shared or heads % shared:
        raise ShapeError(f"it attends with {shown(query)}, {shown(key)} and {shown(value)}, which do not fit")
    if scores.added is not None and heads != shared:
        raise UnsupportedLayerError("adds to the scores of shared heads what the model computes from its inputs")
    if q[:-3] != k[:-3] or scores.added is not None:
        return _unfused(builder, query, key, value, scores)
    seen, window = scores.seen, (None, 0) if scores.causal else None
    if seen is not None:
        seen, neighbours = windowed(seen, (q[-2], k[-2]))
        if neighbours is not None and window is not None:
            seen = scores.seen
        window = window or neighbours  # type: ignore[assignment]
    layer = L.Attention(heads, shared, scores.scale, window=window, mask=seen, bias=scores.bias, softcap=scores.softcap)
    inputs = [_rows(builder, t).node for t in (query, key, value)]
    if scores.truth is not None:
        inputs.append(builder.plain(scores.truth).node)
    node = builder.add(layer, *inputs)
    lead = q[:-3]
    rows = Tensor(node, builder.shapes[node], tuple(range(len(builder.shapes[node]))))
    if len(q) < 3:
        return replace(rows, batch=query.batch)
    split = builder.reshape(rows, (*lead, q[-2], heads, v[-1]))
    n = len(lead)
    return replace(builder.transpose(split, [*range(n), n + 1, n, n + 2]), batch=query.batch)


def _rows(builder: Builder, value: Value) -> Tensor:
    """Heads side by side on the last axis, as projections make them: (…, heads, n, d) as (…, n, heads · d)."""
    t = replace(builder.tensor(value), batch=FIRST)
    if len(t.shape) > 2:
        n = len(t.shape) - 3
        *lead, heads, rows, size = t.shape
        t = builder.transpose(t, [*range(n), n + 1, n, n + 2])
        t = builder.tensor(builder.reshape(t, (*lead, rows, heads * size)))  # type: ignore[operator]
    return builder.plain(t)


def _unfused(builder: Builder, query: Value, key: Value, value: Value, scores: Scores) -> Value:
    """The same as two products and a softmax, where axes before the heads are stretched."""
    turned = permute(builder, key, [*range(key.rank - 2), key.rank - 1, key.rank - 2])
    products: Value = matrix_product(builder, query, turned)
    scale = query.shape[-1] ** -0.5 if scores.scale is None else scores.scale  # type: ignore[operator]
    products = affine(builder, products, scale, 0.0)
    if scores.softcap is not None:
        products = affine(builder, products, 1 / scores.softcap, 0.0)
        products = affine(builder, builder.each(L.Activation("tanh"), products), scores.softcap, 0.0)
    if scores.bias is not None:
        products = affine(builder, products, 1.0, scores.bias)
    if scores.added is not None:
        products, added = aligned(builder, [products, scores.added])
        products = add(builder, products, added)
    seen = scores.seen
    if scores.causal:
        past = np.tri(*products.shape[-2:], dtype=np.bool_)  # type: ignore[arg-type]
        seen = past if seen is None else seen & past
        seen = seen.reshape((1,) * (len(products.shape) - seen.ndim) + seen.shape)
    weights = softmax(builder, Masked(products, seen, scores.truth), len(products.shape) - 1)
    return matrix_product(builder, weights, value)
