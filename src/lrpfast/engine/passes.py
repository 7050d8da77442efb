"""Layers that are not linear: what each does forwards, and with relevance backwards.

One pair of functions for a family of layers. ``forward`` appends operations to
the program and returns the buffer of the layer's output; ``backward`` does so for
the relevance of its output and returns the relevance it hands to each input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.contraction_ops import Divide, Redistribute, Share, Term
from ..kernels.ops import (
    DotBack,
    DotOp,
    Extremum,
    Gather,
    LocalNormalize,
    Lookup,
    MultiplyOp,
    Normalize,
    NormalizeBack,
    Pool,
    PoolBack,
    Scatter,
    Select,
    Strided,
    SumChannels,
)
from ..model.layers import (
    Concat,
    Crop,
    Dot,
    Embedding,
    Flatten,
    GlobalMaxPool,
    Layer,
    LayerNorm,
    LocalResponseNorm,
    Maximum,
    MaxPool,
    Minimum,
    Multiply,
    Permute,
    ReflectPad,
    RepeatVector,
    Reshape,
    RMSNorm,
    Take,
    UpSample,
    ZeroPad,
)
from ..rules import Detached, Gradient, Pass, Stabilizer
from .operators import windows
from .plan import LayerPlan

if TYPE_CHECKING:
    from .lower import Lowering

Fixed = tuple[int, ...]


# -- layers that move values: output j is source index[j], or 0 ---------------


def _positions(shape: Fixed) -> np.ndarray:
    return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)


def _edges(array: np.ndarray, pairs: Sequence[tuple[int, int]], **how: object) -> np.ndarray:
    padded: np.ndarray = np.pad(array, (*pairs, (0, 0)), **how)  # type: ignore[call-overload]
    return padded


def _upsampled(layer: UpSample, shape: Fixed) -> np.ndarray:
    index = _positions(shape)
    for axis, k in enumerate(layer.size):
        index = index.repeat(k, axis)
    return index


def _taken(layer: Take, shape: Fixed) -> np.ndarray:
    index = _positions(shape)
    for axis, places in enumerate(layer.places):
        index = index if places is None else index.take(places, axis)
    return index


def _cropped(layer: Crop, shape: Fixed) -> np.ndarray:
    cut = tuple(slice(a, n - b) for n, (a, b) in zip(shape[:-1], layer.pairs, strict=True))
    return _positions(shape)[cut]


_INDEX: dict[type[Layer], Callable[..., np.ndarray]] = {
    Flatten: lambda layer, shape: _positions(shape),
    Reshape: lambda layer, shape: _positions(shape),
    Permute: lambda layer, shape: _positions(shape).transpose(layer.axes),
    RepeatVector: lambda layer, shape: np.broadcast_to(_positions(shape), (layer.count, *shape)),
    ZeroPad: lambda layer, shape: _edges(_positions(shape), layer.pairs, mode="constant", constant_values=-1),
    ReflectPad: lambda layer, shape: _edges(_positions(shape), layer.pairs, mode="reflect"),
    Crop: _cropped,
    Take: _taken,
    UpSample: _upsampled,
}


def stretched(shape: Fixed, out: Fixed) -> np.ndarray | None:
    """Where each value of a stretched input comes from; None where nothing is stretched."""
    if math.prod(shape) == math.prod(out):
        return None
    return np.ascontiguousarray(np.broadcast_to(_positions(shape), out)).ravel()


def _move(low: Lowering, step: LayerPlan, sources: Sequence[int]) -> int:
    index = np.ascontiguousarray(_INDEX[type(step.layer)](step.layer, step.shapes[0])).ravel()
    low.state[step.output] = index
    out = low.buffer(len(index))
    low.forward.append(Gather(sources[0], out, index))
    return out


def _move_back(low: Lowering, step: LayerPlan, r: int) -> list[int]:
    out = low.buffer(math.prod(step.shapes[0]))
    index = low.state[step.output]
    low.backward.append(Scatter(r, out, index))
    if (index < 0).any():
        low.note(step, r, (out,), lost_at=np.flatnonzero(index < 0))
    return [out]


def _runs(step: LayerPlan) -> list[tuple[int, int, int, int]]:
    """Of each of a Concat's inputs: how many runs, their length, where the first goes, and how far apart they are."""
    axis = step.layer.axis % len(step.shape)  # type: ignore[attr-defined]
    count, inner = math.prod(step.shape[:axis]), math.prod(step.shape[axis + 1 :])
    found, first = [], 0
    for shape in step.shapes:
        found.append((count, shape[axis] * inner, first, step.shape[axis] * inner))
        first += shape[axis] * inner
    return found


def _concat(low: Lowering, step: LayerPlan, sources: Sequence[int]) -> int:
    out = low.buffer(math.prod(step.shape))
    for source, (count, length, first, apart) in zip(sources, _runs(step), strict=True):
        low.forward.append(Strided(source, out, count, length, 0, length, first, apart))
    return out


def _concat_back(low: Lowering, step: LayerPlan, r: int) -> list[int]:
    outs = []
    for count, length, first, apart in _runs(step):
        outs.append(low.buffer(count * length))
        low.backward.append(Strided(r, outs[-1], count, length, first, apart, 0, length))
    return outs


def _embedding(low: Lowering, step: LayerPlan, sources: Sequence[int]) -> int:
    out = low.buffer(math.prod(step.shape))
    low.forward.append(Lookup(sources[0], out, step.layer.table.astype(low.dtype)))  # type: ignore[attr-defined]
    return out


def _embedding_back(low: Lowering, step: LayerPlan, r: int) -> list[int]:
    out = low.buffer(math.prod(step.shapes[0]))
    low.backward.append(SumChannels(r, out, step.shape[-1]))
    return [out]


# -- layers that select values: the winner takes all ---------------------------


def _max_pool(low: Lowering, step: LayerPlan, sources: Sequence[int]) -> int:
    geometry = windows(step.layer, step.shapes[0], step.shape)  # type: ignore[arg-type]
    out = low.buffer(math.prod(step.shape))
    winner = low.buffer(math.prod(step.shape)) if low.explains else None
    low.state[step.output] = (winner, geometry)
    low.forward.append(Pool(sources[0], out, winner, geometry, step.shape[-1]))
    return out


def _max_pool_back(low: Lowering, step: LayerPlan, r: int) -> list[int]:
    winner, geometry = low.state[step.output]
    out = low.buffer(math.prod(step.shapes[0]))
    low.backward.append(PoolBack(r, winner, out, geometry, step.shape[-1]))
    return [out]


def _stretch_all(low: Lowering, step: LayerPlan, sources: Sequence[int]) -> list[int]:
    return [low.stretch(b, stretched(s, step.shape)) for b, s in zip(sources, step.shapes, strict=True)]


def _shrink_all(low: Lowering, step: LayerPlan, outs: Sequence[int]) -> list[int]:
    return [low.shrink(b, stretched(s, step.shape), math.prod(s)) for b, s in zip(outs, step.shapes, strict=True)]


def _extremum(low: Lowering, step: LayerPlan, sources: Sequence[int]) -> int:
    size = math.prod(step.shape)
    out, winner = low.buffer(size), low.buffer(size) if low.explains else None
    low.state[step.output] = winner
    sign = 1 if isinstance(step.layer, Maximum) else -1
    low.forward.append(Extremum(tuple(_stretch_all(low, step, sources)), out, winner, sign))
    return out


def _extremum_back(low: Lowering, step: LayerPlan, r: int) -> list[int]:
    outs = []
    for place in range(len(step.inputs)):
        outs.append(low.buffer(math.prod(step.shape)))
        low.backward.append(Select(r, low.state[step.output], outs[-1], place))
    return _shrink_all(low, step, outs)


# -- products ------------------------------------------------------------------


def _multiply(low: Lowering, step: LayerPlan, sources: Sequence[int]) -> int:
    out = low.buffer(math.prod(step.shape))
    factors = _stretch_all(low, step, sources)
    low.state[step.output] = factors
    low.forward.append(MultiplyOp(tuple(factors), out))
    return out


def _multiply_back(low: Lowering, step: LayerPlan, r: int) -> list[int]:
    factors: list[int] = low.state[step.output]
    size = math.prod(step.shape)
    outs = []
    for k in range(len(factors)):
        outs.append(low.buffer(size))
        if isinstance(step.rule, Gradient):
            low.backward.append(MultiplyOp((r, *factors[:k], *factors[k + 1 :]), outs[-1]))
            continue
        share = Share(0, "1", 1.0 / len(factors))
        low.backward.append(low.elementwise(r, r, outs[-1], share))
    result = _shrink_all(low, step, outs)
    low.note(step, r, result, remainder=isinstance(step.rule, Gradient))
    return result


def _last(shape: Fixed, axis: int) -> np.ndarray | None:
    """Positions in the order that has an axis last; None where it is there."""
    if axis == len(shape) - 1:
        return None
    return np.ascontiguousarray(np.moveaxis(_positions(shape), axis, -1)).ravel()


def _dot(low: Lowering, step: LayerPlan, sources: Sequence[int]) -> int:
    layer = step.layer
    assert isinstance(layer, Dot)
    axes = layer.contracted(*step.shapes)
    k = step.shapes[0][axes[0]]
    factors = []
    for source, shape, axis in zip(sources, step.shapes, axes, strict=True):
        at = low.stretch(source, _last(shape, axis))
        if layer.normalize:
            unit = low.buffer(math.prod(shape))
            low.forward.append(Normalize(at, unit, k, False, 1e-12, length=True))
            at = unit
        factors.append(at)
    m, n = (math.prod(shape) // k for shape in step.shapes)
    out = low.buffer(m * n)
    low.forward.append(DotOp(factors[0], factors[1], out, m, n, k))
    low.state[step.output] = (factors, out, m, n, k, axes)
    return out


def _dot_back(low: Lowering, step: LayerPlan, r: int) -> list[int]:
    (a, b), z, m, n, k, axes = low.state[step.output]
    outs = [low.buffer(m * k), low.buffer(n * k)]
    groups: tuple[Any, ...] = ()
    if isinstance(step.rule, Gradient):
        flipped = [low.permuted(b, (n, k)), low.permuted(r, (m, n)), low.permuted(a, (m, k))]
        low.backward.append(DotOp(r, flipped[0], outs[0], m, k, n))
        low.backward.append(DotOp(flipped[1], flipped[2], outs[1], n, k, m))
    else:
        s, group = low.divided(r, z, m * n, step.rule.stabilizer)  # type: ignore[attr-defined]
        groups = (group,)
        low.backward.append(DotBack(a, b, s, outs[0], m, n, k, 0.5))
        low.backward.append(DotBack(b, a, s, outs[1], n, m, k, 0.5, transposed=True))
    result = [
        low.shrink(out, _last(shape, axis), math.prod(shape))
        for out, shape, axis in zip(outs, step.shapes, axes, strict=True)
    ]
    low.note(step, r, result, groups, remainder=isinstance(step.rule, Gradient))
    return result


# -- normalization --------------------------------------------------------------


def _array(value: np.ndarray | None, dtype: np.dtype) -> np.ndarray | None:
    return None if value is None else value.astype(dtype).ravel()


def _normalize(low: Lowering, step: LayerPlan, sources: Sequence[int]) -> int:
    layer = step.layer
    assert isinstance(layer, (LayerNorm, RMSNorm))
    columns = math.prod(step.shape[len(step.shape) - layer.axes :])
    centered = isinstance(layer, LayerNorm)
    out = low.buffer(math.prod(step.shape))
    gamma, beta = _array(layer.gamma, low.dtype), _array(layer.beta, low.dtype)
    low.forward.append(Normalize(sources[0], out, columns, centered, layer.epsilon, gamma, beta))
    low.state[step.output] = (sources[0], out, columns, centered, gamma, beta)
    return out


def _normalize_back(low: Lowering, step: LayerPlan, r: int) -> list[int]:
    if isinstance(step.rule, Pass):
        return [r]
    x, y, columns, centered, gamma, beta = low.state[step.output]
    size = math.prod(step.shape)
    (group,) = step.rule.groups() if not isinstance(step.rule, Detached) else (step.rule,)
    s, traced = low.divided(r, y, size, group.stabilizer, beta)
    out = low.buffer(size)
    detached = isinstance(step.rule, Detached)
    epsilon = step.layer.epsilon  # type: ignore[attr-defined]
    low.backward.append(NormalizeBack(x, s, out, columns, centered, epsilon, detached, gamma))
    low.note(step, r, (out,), (traced,), remainder=not detached)
    return [out]


def _local_normalize(low: Lowering, step: LayerPlan, sources: Sequence[int]) -> int:
    layer = step.layer
    assert isinstance(layer, LocalResponseNorm)
    out = low.buffer(math.prod(step.shape))
    parameters = (layer.size, layer.alpha, layer.beta, layer.k)
    low.forward.append(LocalNormalize(sources[0], out, step.shape[-1], *parameters))
    return out


def _unchanged(low: Lowering, step: LayerPlan, r: int) -> list[int]:
    return [r]


_MOVE = (_move, _move_back)
_EXTREMUM = (_extremum, _extremum_back)
_POOL = (_max_pool, _max_pool_back)
_NORMALIZE = (_normalize, _normalize_back)

PASSES: dict[type[Layer], tuple[Callable[..., int], Callable[..., list[int]]]] = {
    **dict.fromkeys(_INDEX, _MOVE),
    Concat: (_concat, _concat_back),
    Embedding: (_embedding, _embedding_back),
    MaxPool: _POOL,
    GlobalMaxPool: _POOL,
    Maximum: _EXTREMUM,
    Minimum: _EXTREMUM,
    Multiply: (_multiply, _multiply_back),
    Dot: (_dot, _dot_back),
    LayerNorm: _NORMALIZE,
    RMSNorm: _NORMALIZE,
    LocalResponseNorm: (_local_normalize, _unchanged),
}

#: Layers whose own backward function knows what to do with a rule; the others hand on what a rule scales first.
_OWN_RULES = (Multiply, Dot, LayerNorm, RMSNorm, LocalResponseNorm)


def forward(low: Lowering, step: LayerPlan, sources: Sequence[int]) -> int:
    """Append a layer's forward pass; returns its output."""
    return PASSES[type(step.layer)][0](low, step, sources)


def backward(low: Lowering, step: LayerPlan, r: int, y: int) -> list[int]:
    """Append a layer's backward pass; returns the relevance of each input.

    Under a proportional rule a layer that only hands values on hands on R · y / (y + stabilizer).
    """
    back = PASSES[type(step.layer)][1]
    if isinstance(step.layer, _OWN_RULES) or isinstance(step.rule, (Pass, Gradient)):
        return back(low, step, r)
    (group,) = step.rule.groups()
    size = math.prod(step.shape)
    s, traced = low.divided(r, y, size, group.stabilizer)
    scaled = low.buffer(size)
    low.backward.append(low.elementwise(s, y, scaled, Share(0, "x")))
    outs = back(low, step, scaled)
    low.note(step, r, outs, (traced,))
    return outs


def divide(r: int, z: int | np.ndarray, out: int, stabilizer: Stabilizer, dtype: np.dtype) -> Divide:
    """s = r / stabilized z."""
    return Divide(r, z, out, float(dtype.type(stabilizer.value)), stabilizer.kind)


def elementwise(source: int, x: int, out: int, share: Share, dtype: np.dtype) -> Redistribute:
    """out = coefficient · part(x) ⊙ source."""
    return Redistribute((Term(source, np.ones((1, 1), dtype)),), (share,), x, out, 1, diagonal=True, tf32=False)
