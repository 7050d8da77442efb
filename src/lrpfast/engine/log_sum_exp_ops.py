"""The logarithm of a sum of exponentials: what it does forwards, and with relevance backwards.

log Σ exp(x) = max(x) − max(log_softmax(x)), which cannot overflow. An input's share of relevance is its softmax: what
the sum of the exponentials gives to each summand, and the derivative too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..kernels.ops import Accumulate, Activate, Gather, MultiplyOp, Pool, Scale
from ..model.layers import GlobalLogSumExp
from .operators import windows
from .plan import LayerPlan
from .program_builder import ProgramBuilder


def log_sum_exp(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    """The largest value of each channel plus the logarithm of the sum of the others' exponentials beside it."""
    layer, shape = step.layer, step.shapes[0]
    assert isinstance(layer, GlobalLogSumExp)
    size, channels = math.prod(shape), shape[-1]
    rows = inverse = None
    if channels > 1:  # softmaxes are along the last axis
        rows = np.arange(size, dtype=np.int64).reshape(-1, channels).T.ravel()
        inverse = np.arange(size, dtype=np.int64).reshape(channels, -1).T.ravel()
    x = builder.stretch(sources[0], rows)
    logarithms = builder.buffer(size)
    builder.forward.append(Activate(x, logarithms, "log_softmax", {}, size // channels))
    geometry = windows(layer, shape, step.shape)
    largest, beside, out = (builder.buffer(channels) for _ in range(3))
    builder.forward.append(Pool(sources[0], largest, None, geometry, channels))
    builder.forward.append(Pool(builder.stretch(logarithms, inverse), beside, None, geometry, channels))
    builder.forward.append(Scale(beside, beside, np.full(channels, -1, builder.dtype)))
    builder.forward.append(Accumulate((largest, beside), out))
    builder.state[step.output] = x, rows
    return out


def log_sum_exp_back(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int]:
    """Relevance times the softmax."""
    x, rows = builder.state[step.output]
    size, channels = math.prod(step.shapes[0]), step.shapes[0][-1]
    softmax, spread, out = (builder.buffer(size) for _ in range(3))
    builder.backward.append(Activate(x, softmax, "softmax", {}, size // channels))
    builder.backward.append(Gather(r, spread, np.arange(channels, dtype=np.int64).repeat(size // channels)))
    builder.backward.append(MultiplyOp((softmax, spread), out))
    result = builder.shrink(out, rows, size)
    builder.note(step, r, (result,))
    return [result]
