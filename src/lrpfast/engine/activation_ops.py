"""Activation functions: what each does forwards, and with relevance backwards."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..kernels.contraction_ops import Share
from ..kernels.ops import Activate, ActivateBack, SoftmaxBack
from ..rules import Pass, Taylor
from .plan import FunctionPlan
from .program_builder import ProgramBuilder


def forward(builder: ProgramBuilder, step: FunctionPlan, source: int) -> int:
    """Append the function; returns the buffer of its values."""
    out = builder.buffer(builder.sizes[source])
    columns = step.shape[-1] if step.shape else 1
    builder.forward.append(Activate(source, out, step.layer.function, _parameters(step), columns))
    return out


def backward(builder: ProgramBuilder, step: FunctionPlan, r: int) -> int:
    """Append what the function does with relevance; returns the relevance of its argument."""
    if isinstance(step.rule, Pass):
        return r
    y = builder.buffers[step.output]
    out = builder.buffer(builder.sizes[r])
    if isinstance(step.rule, Taylor):
        builder.backward.append(SoftmaxBack(builder.buffers[step.inputs[0]], y, r, out, step.shape[-1]))
    elif step.layer.function == "log_softmax":
        # R − s Σ R, with s = exp(y)
        s = builder.buffer(builder.sizes[r])
        builder.backward.append(Activate(y, s, "exponential"))
        builder.backward.append(SoftmaxBack(None, s, r, out, step.shape[-1]))
    elif step.layer.function == "softmax":
        # s (R − Σ s R) is what the Taylor form gives of s R, without x
        scaled = builder.buffer(builder.sizes[r])
        builder.backward.append(builder.elementwise(r, y, scaled, Share(0, "x")))
        builder.backward.append(SoftmaxBack(None, y, scaled, out, step.shape[-1]))
    else:
        # a ReLU's derivative can be told from its value, where its argument is not kept
        x = builder.buffers.get(step.inputs[0], y)
        builder.backward.append(ActivateBack(x, r, out, step.layer.function, _parameters(step)))
    builder.note(step, r, (out,), remainder=True)
    return out


def _parameters(step: FunctionPlan) -> Any:
    """A function's parameters, PReLU's slopes in the shape of one sample."""
    parameters = step.layer.parameters
    if step.layer.function == "prelu":
        return {"negative_slope": np.broadcast_to(parameters["negative_slope"], step.shape)}
    return parameters
