"""Recurrent layers and their masks: what each does forwards, and with relevance backwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels.codes import BiasShare, Cell, ProductShare
from ..kernels.ops import Gather, MaskSteps, MultiplyOp, Recur, RecurBack
from ..kernels.recurrent_ops import ACCOUNT, Recurrence
from ..model.layers import GRU, LSTM, RNN, Activation, StepMask
from ..rules import Epsilon, Gradient, Rule, Zero
from .plan import LayerPlan
from .program_builder import ProgramBuilder
from .trace import StepsTrace


def _function(function: Activation | None) -> tuple[str, Any]:
    return ("linear", {}) if function is None else (function.function, function.parameters)


def _weights(layer: RNN) -> tuple[Cell, np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
    """The cell, its weights and biases, and those of a candidate of its own, as kernels take them."""
    w, u, n = layer.kernel.astype(np.float64), layer.recurrent_kernel.astype(np.float64), layer.units
    bias = np.zeros(w.shape[1]) if layer.bias is None else layer.bias.astype(np.float64)
    if not isinstance(layer, GRU):
        cell = Cell.LSTM if isinstance(layer, LSTM) else Cell.SIMPLE
        return cell, np.concatenate([w, u]), bias, None, np.zeros(n)
    inner = np.zeros_like(bias)
    if bias.ndim == 2:
        bias, inner = bias
    gates = slice(0, 2 * n)
    of_gates = np.concatenate([w[:, gates], u[:, gates]])
    candidate = slice(2 * n, 3 * n)
    if not layer.reset_after:
        own = np.concatenate([w[:, candidate], u[:, candidate]])
        return Cell.GRU_BEFORE, of_gates, bias[gates] + inner[gates], own, bias[candidate]
    of_x = np.concatenate([w[:, candidate], np.zeros((n, n))])
    of_h = np.concatenate([np.zeros((len(w), n)), u[:, candidate]])
    biases = [bias[gates] + inner[gates], bias[candidate], inner[candidate]]
    return Cell.GRU_AFTER, np.concatenate([of_gates, of_x, of_h], 1), np.concatenate(biases), None, np.zeros(n)


def _rule(rule: Rule) -> dict[str, Any]:
    """Epsilon, what products give to gates, and what becomes of biases; or the derivative."""
    if isinstance(rule, Gradient):
        return {"product": ProductShare.DERIVATIVE}
    if not isinstance(rule, (Epsilon, Zero)):
        return {}  # of a forward pass alone
    (group,) = rule.groups()
    return {
        "epsilon": group.stabilizer.value,
        "product": ProductShare[getattr(rule, "product", "signal").upper()],
        "bias_share": BiasShare[rule.bias.upper()],
    }


def _recurrence(step: LayerPlan) -> Recurrence:
    layer: Any = step.layer
    cell, weights, bias, candidate, candidate_bias = _weights(layer)
    states = [getattr(layer, name, None) for name in ("initial_h", "initial_c")]
    initial = [np.zeros(layer.units) if state is None else state.astype(np.float64) for state in states]
    functions = [getattr(layer, f"{name}_activation", None) for name in ("cell", "gate", "output")]
    cell_function, gate_function, output_function = map(_function, functions)
    return Recurrence(
        cell=cell,
        steps=step.shapes[0][0],
        weights=weights,
        bias=bias,
        candidate=candidate,
        candidate_bias=candidate_bias,
        initial_h=initial[0],
        initial_c=initial[1],
        cell_function=cell_function,
        gate_function=gate_function,
        output_function=output_function,
        backwards=layer.go_backwards,
        sequences=layer.return_sequences,
        time_order=layer.time_order,
        zero_masked=layer.zero_masked,
        return_state=bool(layer.extra_rows),
        **_rule(step.rule),
    )


def recur(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    """A recurrent layer; keeps what its steps computed for the way back."""
    layer = step.layer
    assert isinstance(layer, RNN)
    recurrence = _recurrence(step)
    rest = list(sources[1:])
    mask = rest.pop(0) if layer.takes_mask else None
    h, c = (*rest, None, None)[:2]
    out = builder.buffer(math.prod(step.shape))
    state = builder.buffer(recurrence.state_size) if builder.explains else None
    scratch = builder.buffer(recurrence.scratch_size)
    builder.forward.append(Recur(sources[0], mask, h, c, out, state, scratch, recurrence))
    builder.state[step.output] = (None if recurrence.derivative else sources[0], mask, state, recurrence)
    return out


def recur_back(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int | None]:
    """Relevance of the sequence, of a mask (none), and of initial states that are inputs; or their derivative."""
    layer = step.layer
    assert isinstance(layer, RNN)
    x, mask, state, recurrence = builder.state[step.output]
    out = builder.buffer(math.prod(step.shapes[0]))
    states = [builder.buffer(layer.units) for _ in layer.states] if layer.takes_state else []
    account = builder.buffer(recurrence.steps * ACCOUNT) if builder.trace and not recurrence.derivative else None
    out_h, out_c = (*states, None, None)[:2]
    scratch = builder.buffer(recurrence.scratch_size)
    builder.backward.append(RecurBack(x, mask, state, r, out, out_h, out_c, account, scratch, recurrence))
    steps = None if account is None else StepsTrace(account, out, recurrence)
    builder.note(step, r, (out, *states), remainder=recurrence.derivative, steps=steps)
    masks: list[int | None] = [None] if layer.takes_mask else []
    return [out, *masks, *states]


def mask_steps(builder: ProgramBuilder, step: LayerPlan, sources: Sequence[int]) -> int:
    """Masking, or the mask alone."""
    layer: Any = step.layer
    only = isinstance(layer, StepMask)
    columns = step.shapes[0][-1] if not only or len(step.shapes[0]) > 1 else 1
    out = builder.buffer(math.prod(step.shape))
    builder.forward.append(MaskSteps(sources[0], out, columns, layer.value, not only))
    return out


def mask_steps_back(builder: ProgramBuilder, step: LayerPlan, r: int) -> list[int | None]:
    """Relevance of what is masked: that of the steps that count, which is all; a mask hands on none.

    The derivative is zero where steps are masked.
    """
    if not isinstance(step.rule, Gradient) or isinstance(step.layer, StepMask):
        return [None if isinstance(step.layer, StepMask) else r]
    layer: Any = step.layer
    size, columns = math.prod(step.shape), step.shapes[0][-1]
    mask, whole, out = builder.buffer(size // columns), builder.buffer(size), builder.buffer(size)
    source = builder.buffers[step.inputs[0]]
    builder.backward.append(MaskSteps(source, mask, columns, layer.value, False))
    builder.backward.append(Gather(mask, whole, np.arange(size // columns, dtype=np.int64).repeat(columns)))
    builder.backward.append(MultiplyOp((r, whole), out))
    return [out]
