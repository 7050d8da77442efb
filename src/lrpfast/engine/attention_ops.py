"""Attention: what its layers do forwards, and with relevance backwards, as ``nonlinear_ops.py`` has it for others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..kernels.contraction_ops import Share
from ..kernels.ops import (
    Accumulate,
    AttentionBack,
    AttentionOp,
    DotBack,
    DotOp,
    Gather,
    MaskedSoftmax,
    MultiplyOp,
    Scale,
    Scatter,
    SoftmaxBack,
)
from ..kernels.product_ops import Heads
from ..model.layers import Attention, Layer, MatMul, Rotary, Softmax
from ..model.layers.attention import between
from ..rules import CP, AttnLRP, Gradient, Pass, Taylor
from . import nonlinear_ops
from .nonlinear_ops import stretched
from .plan import LayerPlan
from .program_builder import ProgramBuilder

Fixed = tuple[int, ...]


# -- products of matrices ------------------------------------------------------


def _matrices(shape: Fixed, lead: Fixed, swapped: bool) -> np.ndarray | None:
    """Where the values of an input lie, stretched to the leading axes, its matrices perhaps transposed; None: as is."""
    positions = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    whole = np.broadcast_to(positions, (*lead, *shape[-2:]))
    if not swapped and whole.size == positions.size:
        return None
    return np.ascontiguousarray(whole.swapaxes(-1, -2) if swapped else whole).ravel()


def _matmul(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    layer = step.layer
    assert isinstance(layer, MatMul)
    *lead, n, m = step.shape
    first, second = step.shapes
    k = first[-2] if layer.transpose_a else first[-1]
    indices = (
        _matrices(first, tuple(lead), layer.transpose_a),
        _matrices(second, tuple(lead), not layer.transpose_b),
    )
    a, b = (builder.stretch(source, index) for source, index in zip(sources, indices, strict=True))
    out = builder.buffer(math.prod(step.shape))
    count = math.prod(lead)
    builder.forward.append(DotOp(a, b, out, n, m, k, count))
    if builder.explains and step.nonzero:
        out = builder.nonzero(out, count * n * m)
    builder.state[step.output] = (a, b, indices, out, n, m, k, count)
    return out


def _transposed(builder: ProgramBuilder, source: int, count: int, rows: int, columns: int) -> int:
    """Matrices transposed, on the way backwards."""
    index = np.arange(count * rows * columns, dtype=np.int64).reshape(count, rows, columns).swapaxes(1, 2)
    out = builder.buffer(index.size)
    builder.backward.append(Gather(source, out, np.ascontiguousarray(index).ravel()))
    return out


def _matmul_back(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int | None]:
    a, b, indices, z, n, m, k, count = builder.state[step.output]
    outs: list[int | None] = [builder.buffer(count * n * k), builder.buffer(count * m * k)]
    groups: tuple[Any, ...] = ()
    gradient = isinstance(step.rule, Gradient)
    if isinstance(step.rule, Pass):  # the first factor selects rows of the second
        rows, columns = (_transposed(builder, *of) for of in ((r, count, n, m), (a, count, n, k)))
        builder.backward.append(DotOp(rows, columns, outs[1], m, k, n, count))  # type: ignore[arg-type]
        outs[0] = None
    elif gradient:
        flipped = [_transposed(builder, *of) for of in ((b, count, m, k), (r, count, n, m), (a, count, n, k))]
        builder.backward.append(DotOp(r, flipped[0], outs[0], n, k, m, count))  # type: ignore[arg-type]
        builder.backward.append(DotOp(flipped[1], flipped[2], outs[1], m, k, n, count))  # type: ignore[arg-type]
    else:
        s, group = builder.divided(r, z, count * n * m, step.rule.stabilizer)  # type: ignore[attr-defined]
        groups = (group,)
        sides = nonlinear_ops.sides_of(step.rule, 2)
        for side, (x, other, rows, between) in enumerate(((a, b, n, m), (b, a, m, n))):
            if side in sides:
                shape = (rows, between, k, 1.0 / len(sides), side == 1, count)
                builder.backward.append(DotBack(x, other, s, outs[side], *shape))  # type: ignore[arg-type]
            else:
                outs[side] = None
    pairs = zip(outs, indices, step.shapes, strict=True)
    result = [None if out is None else builder.shrink(out, index, math.prod(shape)) for out, index, shape in pairs]
    builder.note(step, r, [out for out in result if out is not None], groups, remainder=gradient)
    return result


# -- the softmax over keys that are seen ----------------------------------------


def _seen(layer: Softmax, shape: Fixed) -> np.ndarray | None:
    """Which scores are seen, flat: for the last axes alone where it is the same on all before them."""
    seen = None if layer.mask is None else np.asarray(layer.mask)
    if layer.window is not None:
        within = between(layer.window, *shape[-2:])
        seen = within if seen is None else seen & within
    if seen is None:
        return None
    seen = seen.reshape((1,) * (len(shape) - seen.ndim) + seen.shape)
    first = next((axis for axis, size in enumerate(seen.shape) if size > 1), len(shape) - 1)
    whole: np.ndarray = np.broadcast_to(seen[(0,) * first], shape[first:]).ravel()
    return whole


def _softmax(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    layer = step.layer
    assert isinstance(layer, Softmax)
    shape = step.shape
    seen = _seen(layer, shape)
    constant = None if seen is None else seen.astype(builder.dtype)
    mask = None
    if len(sources) > 1:
        mask = builder.stretch(sources[1], stretched(step.shapes[1], shape))
    out = builder.buffer(math.prod(shape))
    builder.forward.append(MaskedSoftmax(sources[0], mask, out, shape[-1], constant))
    builder.state[step.output] = (sources[0], mask, constant)
    return out


def _softmax_back(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int | None]:
    rest = [None] * (len(step.inputs) - 1)
    x, mask, seen = builder.state[step.output]
    size, y = math.prod(step.shape), builder.buffers[step.output]
    reaches = r
    for hidden in (mask, seen):  # what is not seen has weight 0, whatever its relevance
        if hidden is None:
            continue
        at, reaches = reaches, builder.buffer(size)
        whole = None if isinstance(hidden, int) else np.resize(hidden, size)
        builder.backward.append(MultiplyOp((at, hidden), reaches) if whole is None else Scale(at, reaches, whole))
    out = reaches
    if isinstance(step.rule, Taylor):
        out = builder.buffer(size)
        builder.backward.append(SoftmaxBack(x, y, reaches, out, step.shape[-1]))
    elif isinstance(step.rule, Gradient):
        scaled, out = builder.buffer(size), builder.buffer(size)
        builder.backward.append(builder.elementwise(reaches, y, scaled, Share(0, "x")))
        builder.backward.append(SoftmaxBack(None, y, scaled, out, step.shape[-1]))
    builder.note(step, r, (out,), remainder=True)
    return [out, *rest]


# -- rotary positions -----------------------------------------------------------


def _turned(layer: Rotary, shape: Fixed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each value: which one is turned into it, or -1; cos of its own, and sin of the other with its sign."""
    n, width = layer.cos.shape
    half = width // 2
    channels = np.arange(width)
    if layer.interleaved:
        partner, sign = channels ^ 1, np.where(channels % 2, 1.0, -1.0)
    else:
        partner, sign = (channels + half) % width, np.where(channels < half, -1.0, 1.0)
    index = np.full(layer.size, -1)
    index[:width] = partner
    cos, sin = np.ones((n, layer.size)), np.zeros((n, layer.size))
    cos[:, :width], sin[:, :width] = layer.cos, layer.sin * sign
    whole = (*shape[:-1], shape[-1] // layer.size, layer.size)
    first = np.arange(math.prod(whole[:-1])).reshape(*whole[:-1], 1) * layer.size
    at = np.where(index >= 0, first + index, -1)
    return (
        np.ascontiguousarray(at, np.int64).ravel(),
        np.ascontiguousarray(np.broadcast_to(cos[:, None], whole)).ravel(),
        np.ascontiguousarray(np.broadcast_to(sin[:, None], whole)).ravel(),
    )


def _rotary(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    layer = step.layer
    assert isinstance(layer, Rotary)
    index, *factors = _turned(layer, step.shape)
    cos, sin = (a.astype(builder.dtype) for a in factors)
    turned, own, across, out = (builder.buffer(index.size) for _ in range(4))
    builder.forward.append(Gather(sources[0], turned, index))
    builder.forward.append(Scale(sources[0], own, cos))
    builder.forward.append(Scale(turned, across, sin))
    builder.forward.append(Accumulate((own, across), out))
    builder.state[step.output] = (sources[0], index, cos, sin)
    return out


def _rotary_back(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int | None]:
    if isinstance(step.rule, Pass):
        return [r]
    x, index, cos, sin = builder.state[step.output]
    size = index.size
    own, across, back, both = (builder.buffer(size) for _ in range(4))
    if isinstance(step.rule, Gradient):
        s = r
    else:
        (group,) = step.rule.groups()
        s, traced = builder.divided(r, builder.buffers[step.output], size, group.stabilizer)
    builder.backward.append(Scale(s, own, cos))
    builder.backward.append(Scale(s, across, sin))
    builder.backward.append(Scatter(across, back, index))
    builder.backward.append(Accumulate((own, back), both))
    if isinstance(step.rule, Gradient):
        builder.note(step, r, (both,), remainder=True)
        return [both]
    out = builder.buffer(size)
    builder.backward.append(builder.elementwise(both, x, out, Share(0, "x")))
    builder.note(step, r, (out,), (traced,))
    return [out]


# -- attention -------------------------------------------------------------------


def _steps(shape: Fixed | None, lead: Fixed, heads: int, n: int, m: int) -> tuple[int, int, int, int]:
    """From an attention, a head, a query and a key to the next in an array of this shape, 0 where it is stretched."""
    if shape is None:
        return (0, 0, 0, 0)
    sizes = (1,) * (len(lead) + 3 - len(shape)) + tuple(shape)
    *before, of_head, of_query, of_key = sizes
    steps = (of_head * of_query * of_key, of_query * of_key, of_key, 1)
    present = (math.prod(before) > 1, of_head > 1, of_query > 1, of_key > 1)
    return tuple(step if there else 0 for step, there in zip(steps, present, strict=True))  # type: ignore[return-value]


def _whole_lead(shape: Fixed, lead: Fixed) -> Fixed:
    """The shape to which an array is stretched so that its leading axes are all there, or all of size 1."""
    sizes = (1,) * (len(lead) + 3 - len(shape)) + tuple(shape)
    before = sizes[: len(lead)]
    return sizes if math.prod(before) == 1 else (*lead, *sizes[len(lead) :])


def _heads(layer: Attention, shapes: Sequence[Fixed], dtype: np.dtype) -> Heads:
    """The shapes of an attention, its constant masks, and the steps in them and in the mask that is an input."""
    query, key, value = shapes[:3]
    kv_heads: int = layer.kv_heads  # type: ignore[assignment]
    lead, n, m = query[:-2], query[-2], key[-2]
    masks: list[Fixed | None] = []
    arrays: list[np.ndarray | None] = []
    for array in (layer.mask, layer.bias):
        shape = None if array is None else _whole_lead(array.shape, lead)
        masks.append(shape)
        whole = None if array is None or shape is None else np.broadcast_to(array, shape)
        arrays.append(None if whole is None else np.ascontiguousarray(whole, dtype).ravel())
    masks.append(_whole_lead(shapes[3], lead) if len(shapes) > 3 else None)
    before, after = layer.window or (None, None)
    return Heads(
        lead=math.prod(lead),
        heads=layer.heads,
        kv_heads=kv_heads,
        n=n,
        m=m,
        d=query[-1] // layer.heads,
        e=value[-1] // kv_heads,
        scale=layer.head_scale(query),
        softcap=layer.softcap or 0.0,
        before=-1 if before is None else before,
        after=-1 if after is None else after,
        seen=arrays[0],
        bias=arrays[1],
        steps=tuple(step for shape in masks for step in _steps(shape, lead, layer.heads, n, m)),
    )


def _attention(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    layer = step.layer
    assert isinstance(layer, Attention)
    heads = _heads(layer, step.shapes, builder.dtype)
    mask = None
    if len(sources) > 3:
        shape = step.shapes[3]
        mask = builder.stretch(sources[3], stretched(shape, _whole_lead(shape, step.shapes[0][:-2])))
    q, k, v = sources[:3]
    out = builder.buffer(math.prod(step.shape))
    rows = builder.buffer(2 * heads.lead * heads.heads * heads.n) if builder.explains else None
    builder.forward.append(AttentionOp(q, k, v, mask, out, rows, heads))
    if builder.explains and step.nonzero:
        out = builder.nonzero(out, math.prod(step.shape))
    builder.state[step.output] = (q, k, v, mask, rows, out, heads)
    return out


def _attention_back(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int | None]:
    q, k, v, mask, rows, out, heads = builder.state[step.output]
    rule = step.rule
    assert isinstance(rule, (AttnLRP, CP))
    detached = isinstance(rule, CP)
    s, traced = builder.divided(r, out, math.prod(step.shape), rule.stabilizer)
    sizes = [math.prod(shape) for shape in step.shapes[:3]]
    outs = [None if detached and i < 2 else builder.buffer(size) for i, size in enumerate(sizes)]
    stabilizers = (1.0, 1.0, 0, "sign") if isinstance(rule, CP) else _of_scores(step, rule, builder.dtype)
    to_q, to_k, to_v = outs
    assert to_v is not None
    builder.backward.append(AttentionBack(q, k, v, mask, rows, out, s, to_q, to_k, to_v, heads, *stabilizers, detached))
    builder.note(step, r, [b for b in outs if b is not None], (traced,), remainder=not detached)
    return [*outs, *[None] * (len(step.inputs) - 3)]


def _of_scores(step: LayerPlan, rule: AttnLRP, dtype: np.dtype) -> tuple[float, float, int, str]:
    """The stabilizers of products of queries and keys and of their sums, how many sums there are, and the kind."""
    layer = step.layer
    assert isinstance(layer, Attention)
    masked = layer.mask is not None or layer.window is not None or len(step.inputs) > 3
    sums = (layer.bias is not None) + (rule.masks and masked)
    stabilizers = rule.of_scores()
    of_product, of_sum = (float(dtype.type(stabilizer.value)) for stabilizer in stabilizers)
    return of_product, of_sum, sums, stabilizers[0].kind


ATTENTION_OPS: dict[type[Layer], tuple[Callable[..., int], Callable[..., list[int | None]]]] = {
    MatMul: (_matmul, _matmul_back),
    Softmax: (_softmax, _softmax_back),
    Rotary: (_rotary, _rotary_back),
    Attention: (_attention, _attention_back),
}


def forward(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    """Append a layer's forward pass; returns its output."""
    return ATTENTION_OPS[type(step.layer)][0](builder, step, sources)


def backward(builder: ProgramBuilder, step: LayerPlan, r: int, y: int) -> list[int | None]:
    """Append a layer's backward pass; returns the relevance of each input, None where it gets none."""
    return ATTENTION_OPS[type(step.layer)][1](builder, step, r)
