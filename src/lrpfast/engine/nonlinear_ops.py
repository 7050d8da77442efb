"""Layers that are not linear: what each does forwards, and with relevance backwards.

One pair of functions for a family of layers. ``forward`` appends operations to
the program and returns the buffer of the layer's output; ``backward`` does so for
the relevance of its output and returns the relevance it hands to each input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..kernels.contraction_ops import Share
from ..kernels.ops import (
    Accumulate,
    Activate,
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
    GRU,
    LSTM,
    RNN,
    Concat,
    Crop,
    Dot,
    Embedding,
    Flatten,
    GlobalLogSumExp,
    GlobalMaxPool,
    Layer,
    LayerNorm,
    LocalResponseNorm,
    Masking,
    Maximum,
    MaxPool,
    Minimum,
    Multiply,
    Permute,
    ReflectPad,
    RepeatVector,
    Reshape,
    RMSNorm,
    SimpleRNN,
    StepMask,
    Take,
    UpSample,
    Where,
    ZeroPad,
)
from ..rules import Detached, Gradient, Pass, Rule
from . import recurrent_ops
from .log_sum_exp_ops import log_sum_exp, log_sum_exp_back
from .operators import windows
from .plan import LayerPlan
from .program_builder import ProgramBuilder

Fixed = tuple[int, ...]


# -- layers that move values: output j is source index[j], or 0 ---------------


def _positions(shape: Fixed) -> np.ndarray:
    return np.arange(math.prod(shape), dtype=np.int64).reshape(shape)


def _edges(array: np.ndarray, pairs: Sequence[tuple[int, int]], **options: object) -> np.ndarray:
    padded: np.ndarray = np.pad(array, (*pairs, (0, 0)), **options)  # type: ignore[call-overload]
    return padded


def _picked(shape: Fixed, positions: Sequence[np.ndarray | None]) -> np.ndarray:
    """Where values lie that are at these positions of each spatial axis: no larger than what is made of them."""
    index = np.zeros((1,) * len(shape), np.int64)
    for axis, n in enumerate(shape):
        picked = positions[axis] if axis < len(positions) else None
        along = np.arange(n, dtype=np.int64) if picked is None else np.asarray(picked, np.int64)
        along = along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        index = index + along * math.prod(shape[axis + 1 :])
    return index


def _upsampled(layer: UpSample, shape: Fixed) -> np.ndarray:
    return _picked(shape, [np.arange(n, dtype=np.int64).repeat(k) for n, k in zip(shape, layer.size, strict=False)])


def _take(layer: Take, shape: Fixed) -> np.ndarray:
    return _picked(shape, layer.places)


def _cropped(layer: Crop, shape: Fixed) -> np.ndarray:
    return _picked(shape, [np.arange(a, n - b) for n, (a, b) in zip(shape[:-1], layer.pairs, strict=True)])


_INDEX: dict[type[Layer], Callable[..., np.ndarray]] = {
    Flatten: lambda layer, shape: _positions(shape),
    Reshape: lambda layer, shape: _positions(shape),
    Permute: lambda layer, shape: _positions(shape).transpose(layer.axes),
    RepeatVector: lambda layer, shape: np.broadcast_to(_positions(shape), (layer.count, *shape)),
    ZeroPad: lambda layer, shape: _edges(_positions(shape), layer.pairs, mode="constant", constant_values=-1),
    ReflectPad: lambda layer, shape: _edges(_positions(shape), layer.pairs, mode="reflect"),
    Crop: _cropped,
    Take: _take,
    UpSample: _upsampled,
}


def stretched(shape: Fixed, out: Fixed) -> np.ndarray | None:
    """Where each value of a stretched input comes from; None where nothing is stretched."""
    if math.prod(shape) == math.prod(out):
        return None
    return np.ascontiguousarray(np.broadcast_to(_positions(shape), out)).ravel()


def _move(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    index = np.ascontiguousarray(_INDEX[type(step.layer)](step.layer, step.shapes[0])).ravel()
    builder.state[step.output] = index
    out = builder.buffer(len(index))
    builder.forward.append(Gather(sources[0], out, index))
    return out


def _move_back(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int]:
    out = builder.buffer(math.prod(step.shapes[0]))
    index = builder.state[step.output]
    builder.backward.append(Scatter(r, out, index))
    if (index < 0).any():
        builder.note(step, r, (out,), lost_at=np.flatnonzero(index < 0))
    return [out]


def _runs(step: LayerPlan) -> list[tuple[int, int, int, int]]:
    """Of each of a Concat's inputs: how many runs, their length, where the first goes, and how far apart they are."""
    axis = step.layer.axis % len(step.shape)  # type: ignore[attr-defined]
    count, inner = math.prod(step.shape[:axis]), math.prod(step.shape[axis + 1 :])
    runs, first = [], 0
    for shape in step.shapes:
        runs.append((count, shape[axis] * inner, first, step.shape[axis] * inner))
        first += shape[axis] * inner
    return runs


def _concat(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    out = builder.buffer(math.prod(step.shape))
    for source, (count, length, first, step_out) in zip(sources, _runs(step), strict=True):
        builder.forward.append(Strided(source, out, count, length, 0, length, first, step_out))
    return out


def _concat_back(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int]:
    outs = []
    for count, length, first, step_out in _runs(step):
        outs.append(builder.buffer(count * length))
        builder.backward.append(Strided(r, outs[-1], count, length, first, step_out, 0, length))
    return outs


def _embedding(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    out = builder.buffer(math.prod(step.shape))
    builder.forward.append(Lookup(sources[0], out, step.layer.table.astype(builder.dtype)))  # type: ignore[attr-defined]
    return out


def _embedding_back(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int]:
    out = builder.buffer(math.prod(step.shapes[0]))
    if builder.times_input:
        gradient, r = r, builder.buffer(builder.sizes[r])
        builder.backward.append(MultiplyOp((builder.buffers[step.output], gradient), r))
    builder.backward.append(SumChannels(r, out, step.shape[-1]))
    return [out]


# -- layers that select values: the winner takes all ---------------------------


def _max_pool(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    geometry = windows(step.layer, step.shapes[0], step.shape)  # type: ignore[arg-type]
    out = builder.buffer(math.prod(step.shape))
    winner = builder.buffer(math.prod(step.shape)) if builder.explains else None
    builder.state[step.output] = (winner, geometry)
    builder.forward.append(Pool(sources[0], out, winner, geometry, step.shape[-1]))
    return out


def _max_pool_back(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int]:
    winner, geometry = builder.state[step.output]
    out = builder.buffer(math.prod(step.shapes[0]))
    builder.backward.append(PoolBack(r, winner, out, geometry, step.shape[-1]))
    return [out]


def _stretch_all(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> list[int]:
    return [builder.stretch(b, stretched(s, step.shape)) for b, s in zip(sources, step.shapes, strict=True)]


def _shrink_all(builder: ProgramBuilder, step: LayerPlan, outs: Sequence[int]) -> list[int]:
    return [builder.shrink(b, stretched(s, step.shape), math.prod(s)) for b, s in zip(outs, step.shapes, strict=True)]


def _extremum(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    size = math.prod(step.shape)
    out, winner = builder.buffer(size), builder.buffer(size) if builder.explains else None
    builder.state[step.output] = winner
    sign = 1 if isinstance(step.layer, Maximum) else -1
    builder.forward.append(Extremum(tuple(_stretch_all(builder, step, sources)), out, winner, sign))
    return out


def _extremum_back(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int]:
    outs = []
    for number in range(len(step.inputs)):
        outs.append(builder.buffer(math.prod(step.shape)))
        builder.backward.append(Select(r, builder.state[step.output], outs[-1], number))
    return _shrink_all(builder, step, outs)


def _where(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    """The larger of the condition and 0 says by its number which of the other two is taken, and so does its back."""
    assert isinstance(step.layer, Where)
    size = math.prod(step.shape)
    condition, *others = _stretch_all(builder, step, sources)
    zero, largest, winner = builder.buffer(size), builder.buffer(size), builder.buffer(size)
    builder.forward.append(Gather(condition, zero, np.full(size, -1)))
    pair = (condition, zero) if step.layer.or_equal else (zero, condition)  # the first of equals
    builder.forward.append(Extremum(pair, largest, winner))
    numbers = (0, 1) if step.layer.or_equal else (1, 0)
    builder.state[step.output] = winner, numbers
    parts = []
    for source, number in zip(others, numbers, strict=True):
        parts.append(builder.buffer(size))
        builder.forward.append(Select(source, winner, parts[-1], number))
    out = builder.buffer(size)
    builder.forward.append(Accumulate(tuple(parts), out))
    return out


def _where_back(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int]:
    winner, numbers = builder.state[step.output]
    outs = []
    for number in (2, *numbers):  # the condition is no number's, and gets nothing
        outs.append(builder.buffer(math.prod(step.shape)))
        builder.backward.append(Select(r, winner, outs[-1], number))
    return _shrink_all(builder, step, outs)


# -- products ------------------------------------------------------------------


def _multiply(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    out = builder.buffer(math.prod(step.shape))
    factors = _stretch_all(builder, step, sources)
    builder.state[step.output] = factors
    builder.forward.append(MultiplyOp(tuple(factors), out))
    return out


def sides_of(rule: Rule, count: int) -> tuple[int, ...]:
    """The factors of a product that get relevance: a composite has given them numbers."""
    to = rule.to  # type: ignore[attr-defined]
    return tuple(range(count)) if to == "each" else to


def _multiply_back(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int | None]:
    factors: list[int] = builder.state[step.output]
    size = math.prod(step.shape)
    gradient = isinstance(step.rule, Gradient)
    if not gradient and step.rule.to in ("prop", "abs"):  # type: ignore[attr-defined]
        return _in_proportion(builder, step, r, factors)
    sides = range(len(factors)) if gradient else sides_of(step.rule, len(factors))
    outs: list[int | None] = []
    for k, shape in enumerate(step.shapes):
        if k not in sides:
            outs.append(None)
            continue
        out = builder.buffer(size)
        if gradient:
            builder.backward.append(MultiplyOp((r, *factors[:k], *factors[k + 1 :]), out))
        else:
            builder.backward.append(builder.elementwise(r, r, out, Share(0, "1", 1.0 / len(sides))))
        outs.append(builder.shrink(out, stretched(shape, step.shape), math.prod(shape)))
    builder.note(step, r, [out for out in outs if out is not None], remainder=gradient)
    return outs


def _in_proportion(builder: ProgramBuilder, step: LayerPlan, r: int, factors: Sequence[int]) -> list[int | None]:
    """Shares of a product in proportion to its factors or to their absolute values: the rule of their sum."""
    size = math.prod(step.shape)
    parts = list(factors)
    if step.rule.to == "abs":  # type: ignore[attr-defined]
        parts = [builder.buffer(size) for _ in factors]
        slope = {"negative_slope": -1.0}
        builder.backward.extend(Activate(f, p, "leaky_relu", slope) for f, p in zip(factors, parts, strict=True))
    total = builder.buffer(size)
    builder.backward.append(Accumulate(tuple(parts), total))
    s, group = builder.divided(r, total, size, step.rule.stabilizer)  # type: ignore[attr-defined]
    outs: list[int | None] = []
    for part, shape in zip(parts, step.shapes, strict=True):
        out = builder.buffer(size)
        builder.backward.append(builder.elementwise(s, part, out, Share(0, "x")))
        outs.append(builder.shrink(out, stretched(shape, step.shape), math.prod(shape)))
    builder.note(step, r, [out for out in outs if out is not None], (group,))
    return outs


def _last(shape: Fixed, axis: int) -> np.ndarray | None:
    """Positions in the order that has an axis last; None where it is there."""
    if axis == len(shape) - 1:
        return None
    return np.ascontiguousarray(np.moveaxis(_positions(shape), axis, -1)).ravel()


def _dot(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    layer = step.layer
    assert isinstance(layer, Dot)
    axes = layer.contracted(*step.shapes)
    k = step.shapes[0][axes[0]]
    factors = []
    for source, shape, axis in zip(sources, step.shapes, axes, strict=True):
        at = builder.stretch(source, _last(shape, axis))
        if layer.normalize:
            unit = builder.buffer(math.prod(shape))
            builder.forward.append(Normalize(at, unit, k, False, 1e-12, length=True))
            at = unit
        factors.append(at)
    m, n = (math.prod(shape) // k for shape in step.shapes)
    out = builder.buffer(m * n)
    builder.forward.append(DotOp(factors[0], factors[1], out, m, n, k))
    builder.state[step.output] = (factors, out, m, n, k, axes)
    return out


def _dot_back(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int | None]:
    (a, b), z, m, n, k, axes = builder.state[step.output]
    outs: list[int | None] = [builder.buffer(m * k), builder.buffer(n * k)]
    groups: tuple[Any, ...] = ()
    if isinstance(step.rule, Gradient):
        flipped = [builder.permuted(b, (n, k)), builder.permuted(r, (m, n)), builder.permuted(a, (m, k))]
        builder.backward.append(DotOp(r, flipped[0], outs[0], m, k, n))  # type: ignore[arg-type]
        builder.backward.append(DotOp(flipped[1], flipped[2], outs[1], n, k, m))  # type: ignore[arg-type]
    else:
        s, group = builder.divided(r, z, m * n, step.rule.stabilizer)  # type: ignore[attr-defined]
        groups = (group,)
        sides = sides_of(step.rule, 2)
        for side, (x, other, rows, between) in enumerate(((a, b, m, n), (b, a, n, m))):
            if side in sides:
                shape = (rows, between, k, 1.0 / len(sides), side == 1)
                builder.backward.append(DotBack(x, other, s, outs[side], *shape))  # type: ignore[arg-type]
            else:
                outs[side] = None
    result = [
        None if out is None else builder.shrink(out, _last(shape, axis), math.prod(shape))
        for out, shape, axis in zip(outs, step.shapes, axes, strict=True)
    ]
    builder.note(step, r, [out for out in result if out is not None], groups, remainder=isinstance(step.rule, Gradient))
    return result


# -- normalization --------------------------------------------------------------


def _array(value: np.ndarray | None, dtype: np.dtype) -> np.ndarray | None:
    return None if value is None else value.astype(dtype).ravel()


def _normalize(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    layer = step.layer
    assert isinstance(layer, (LayerNorm, RMSNorm))
    columns = math.prod(step.shape[len(step.shape) - layer.axes :])
    centered = isinstance(layer, LayerNorm)
    out = builder.buffer(math.prod(step.shape))
    gamma, beta = _array(layer.gamma, builder.dtype), _array(layer.beta, builder.dtype)
    builder.forward.append(Normalize(sources[0], out, columns, centered, layer.epsilon, gamma, beta))
    builder.state[step.output] = (sources[0], out, columns, centered, gamma, beta)
    return out


def _normalize_back(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int]:
    if isinstance(step.rule, Pass):
        return [r]
    x, y, columns, centered, gamma, beta = builder.state[step.output]
    size = math.prod(step.shape)
    epsilon = step.layer.epsilon  # type: ignore[attr-defined]
    if isinstance(step.rule, Gradient):
        out = builder.buffer(size)
        builder.backward.append(NormalizeBack(x, r, out, columns, centered, epsilon, False, gamma, times_x=False))
        builder.note(step, r, (out,), remainder=True)
        return [out]
    (group,) = step.rule.groups() if not isinstance(step.rule, Detached) else (step.rule,)
    s, traced = builder.divided(r, y, size, group.stabilizer, beta)
    out = builder.buffer(size)
    detached = isinstance(step.rule, Detached)
    builder.backward.append(NormalizeBack(x, s, out, columns, centered, epsilon, detached, gamma))
    builder.note(step, r, (out,), (traced,), remainder=not detached)
    return [out]


def _local_normalize(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    layer = step.layer
    assert isinstance(layer, LocalResponseNorm)
    out = builder.buffer(math.prod(step.shape))
    parameters = (layer.size, layer.alpha, layer.beta, layer.k)
    builder.forward.append(LocalNormalize(sources[0], out, step.shape[-1], *parameters))
    return out


def _unchanged(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int]:
    return [r]


_MOVE = (_move, _move_back)
_EXTREMUM = (_extremum, _extremum_back)
_POOL = (_max_pool, _max_pool_back)
_NORMALIZE = (_normalize, _normalize_back)

NONLINEAR_OPS: dict[type[Layer], tuple[Callable[..., int], Callable[..., Sequence[int | None]]]] = {
    **dict.fromkeys(_INDEX, _MOVE),
    Concat: (_concat, _concat_back),
    Embedding: (_embedding, _embedding_back),
    MaxPool: _POOL,
    GlobalMaxPool: _POOL,
    GlobalLogSumExp: (log_sum_exp, log_sum_exp_back),
    Maximum: _EXTREMUM,
    Minimum: _EXTREMUM,
    Where: (_where, _where_back),
    Multiply: (_multiply, _multiply_back),
    Dot: (_dot, _dot_back),
    LayerNorm: _NORMALIZE,
    RMSNorm: _NORMALIZE,
    LocalResponseNorm: (_local_normalize, _unchanged),
    **dict.fromkeys((LSTM, GRU, SimpleRNN), (recurrent_ops.recur, recurrent_ops.recur_back)),
    **dict.fromkeys((Masking, StepMask), (recurrent_ops.mask_steps, recurrent_ops.mask_steps_back)),
}

#: Layers whose own backward function knows what to do with a rule; the others hand on what a rule scales first.
_OWN_RULES = (GlobalLogSumExp, Multiply, Dot, LayerNorm, RMSNorm, LocalResponseNorm, RNN, StepMask)


def forward(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    """Append a layer's forward pass; returns its output."""
    return NONLINEAR_OPS[type(step.layer)][0](builder, step, sources)


def backward(builder: ProgramBuilder, step: LayerPlan, r: int, y: int) -> Sequence[int | None]:
    """Append a layer's backward pass; returns the relevance of each input.

    Under a proportional rule a layer that only hands values on hands on R · y / (y + stabilizer).
    """
    back = NONLINEAR_OPS[type(step.layer)][1]
    if isinstance(step.layer, _OWN_RULES) or isinstance(step.rule, (Pass, Gradient)):
        return back(builder, step, r)
    (group,) = step.rule.groups()
    size = math.prod(step.shape)
    s, traced = builder.divided(r, y, size, group.stabilizer)
    scaled = builder.buffer(size)
    builder.backward.append(builder.elementwise(s, y, scaled, Share(0, "x")))
    outs = back(builder, step, scaled)
    builder.note(step, r, [out for out in outs if out is not None], (traced,))
    return outs
