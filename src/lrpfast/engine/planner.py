"""The planner: what an explanation needs to compute, and no more.

Runs once for an Analyzer, in plain Python, on facts about signs: after a ReLU x⁻ is gone, weights of one sign have one
part. What it decides is a `Plan`; ``lower.py`` writes that as a backend's program. ``docs/design.md`` has the reasons;
each is repeated where it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import InputError, RuleError
from ..model.graph import Model
from ..model.layers import (
    Activation,
    Attention,
    BatchNorm,
    Concat,
    Dot,
    Embedding,
    MatMul,
    Maximum,
    Minimum,
    Multiply,
    Where,
)
from ..rules import CP, AttnLRP, Gradient, Pass, Split
from ..rules.composites import Assignment
from ..rules.roles import ROUTE, WEIGHTS, role
from .graph_ir import PlanNode, steps_of
from .plan import FunctionPlan, LayerPlan, LinearPlan, Plan, Step, Sum
from .plan_linear import plan_linear
from .row_selection import select_early
from .sign_analysis import common, sign_of, signs_of
from .tables import plan_budget

#: Functions whose value is 0 where their argument is, and has a slope there.
ZERO_AT_ZERO = ("linear", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "hard_silu", "mish", "tanh", "softsign")


def make_plan(
    model: Model,
    assignment: Assignment | None,
    *,
    input_range: tuple[float, float] | None = None,
    mask_nan: bool = False,
    tf32: bool = False,
    memory: int | None = None,
    data: int = 0,
) -> Plan:
    """Plan an explanation of a model whose outputs are already the values to explain.

    Without an assignment the plan is good for the forward pass alone. ``memory`` and ``data`` are those of
    `lrpfast.engine.tables.plan_budget`.

    Raises
    ------
    InputError
        When ``mask_nan`` meets another layer than one with weights first, or several inputs, or the tables of the
        plan take far more memory than the model's weights.
    RuleError
        When a rule gives inputs a share of the bias and features are masked.
    """
    early = select_early(model, assignment)
    model, assignment = early.model, early.assignment
    units, values, sizes = steps_of(model, assignment, plan_budget(model, memory, data))
    outputs = [values[i] for i in model.outputs]
    sign = sign_of(np.asarray(input_range)) if input_range is not None else 0
    signs = signs_of(units, len(sizes), {values[i]: sign for i in model.inputs})
    vanishes = _relevance_vanishes_with_value(units, outputs, len(sizes))
    relus = _sole_relu_consumers(units, outputs)
    masked = _masked(model, units, values) if mask_nan else -1
    steps: list[Step] = []
    for unit in units:
        if unit.operator is not None and not isinstance(unit.rule, Pass):
            above = relus.get(unit.output)
            # a ReLU's gradient stops relevance where it is zero, whatever comes
            relu = above is not None and (vanishes[above.output] or isinstance(above.rule, Gradient))
            x_sign = common([signs[v] for v in unit.inputs])
            step = plan_linear(unit, x_sign, relu, masked in unit.inputs, tf32)
            nonzero = above is None and vanishes[unit.output] and cancels(step)
            steps.append(replace(step, nonzero=True) if nonzero else step)
        elif unit.operator is not None:
            steps.append(LinearPlan(*unit.head, (Sum("x", "x", "w", "kernel", 0),), (1.0,), (), (), ()))
        elif isinstance(unit.layer, Activation):
            parts = unit.node, unit.name, unit.layer, unit.shape, unit.rule, unit.inputs, unit.output
            steps.append(FunctionPlan(*parts))
        else:
            head = (unit.node, unit.name, unit.layer, unit.shapes, unit.shape, unit.rule, unit.inputs, unit.output)
            rule = unit.rule
            attends = isinstance(unit.layer, (Attention, MatMul)) and isinstance(rule, (AttnLRP, CP, Split))
            nonzero = attends and vanishes[unit.output] and rule.stabilizer.kind == "zero"  # type: ignore[attr-defined]
            steps.append(LayerPlan(*head, nonzero=nonzero))
    relu_consumers = {value: relu.output for value, relu in relus.items()}
    return Plan(model, tuple(steps), tuple(values), tuple(sizes), mask_nan, relu_consumers, early.nodes)


def cancels(step: LinearPlan) -> bool:
    """Whether relevance c·z is divided by the layer's own z as it is.

    Where z is exactly 0, which rounding makes of any sum now and then, c is lost with it. A tiny z keeps c.
    """
    return any(g.pre_activation == "output" and g.stabilizer.kind == "zero" for g in step.groups)


def _relevance_vanishes_with_value(units: Sequence[PlanNode], outputs: Sequence[int], count: int) -> list[bool]:
    """For each value, whether all relevance that reaches it is zero wherever the value is.

    A rule that multiplies by its input makes it so, and layers that hand values on
    keep it; a model's output never counts, since an explanation may start there from
    any array, and neither does a layer that shares relevance by other things.
    """
    vanishes = [True] * count
    for v in outputs:
        vanishes[v] = False
    for unit in reversed(units):
        after = vanishes[unit.output]
        layer, rule = unit.layer, unit.rule
        if isinstance(layer, Activation):
            keeps = rule.multiplies_input if layer.function == "softmax" and not isinstance(rule, Pass) else False
            keeps = keeps or (after and isinstance(rule, Pass) and layer.function in ZERO_AT_ZERO)
            keeps = keeps or (layer.is_plain_relu and (after or isinstance(rule, Gradient)))
        elif isinstance(layer, BatchNorm) and isinstance(rule, Pass):
            keeps = after and not layer.offset().any()  # each value times a constant
        elif unit.operator is not None:
            keeps = not isinstance(rule, Pass) and rule.multiplies_input
        elif isinstance(layer, MatMul) and isinstance(rule, Pass):  # rows of the second factor
            keeps = after
        elif isinstance(layer, (Multiply, Dot, MatMul)):
            keeps = not isinstance(layer, Multiply) and not isinstance(rule, Gradient)
        elif isinstance(layer, (Maximum, Minimum, Where, Concat, Embedding)) or role(layer) is ROUTE:
            keeps = after or not isinstance(rule, (Pass, Gradient))
        else:
            keeps = not isinstance(rule, Pass) and rule.multiplies_input
        for v in unit.inputs:
            vanishes[v] = vanishes[v] and keeps
    return vanishes


def _sole_relu_consumers(units: Sequence[PlanNode], outputs: Sequence[int]) -> dict[int, PlanNode]:
    """For each value that a plain ReLU takes, and nothing else, that ReLU."""
    consumers: dict[int, list[PlanNode]] = {}
    for unit in units:
        for v in set(unit.inputs):
            consumers.setdefault(v, []).append(unit)
    return {
        v: after[0]
        for v, after in consumers.items()
        if len(after) == 1
        and v not in outputs
        and isinstance(after[0].layer, Activation)
        and after[0].layer.is_plain_relu
    }


def _masked(model: Model, units: Sequence[PlanNode], values: Sequence[int]) -> int:
    """The value whose features may be masked: the one input, which only layers with weights may take."""
    if len(model.inputs) > 1:
        raise InputError(f"mask_nan is for models with one input, this one has {len(model.inputs)}")
    value = values[model.inputs[0]]
    for unit in units:
        if value not in unit.inputs:
            continue
        moves = isinstance(unit.rule, Pass) or (isinstance(unit.rule, Gradient) and role(unit.layer) is not WEIGHTS)
        if unit.operator is None or moves:
            raise InputError(
                f"mask_nan: {model.nodes[unit.node]} changes the input before the first layer with weights, "
                "so that masked features would contribute"
            )
        if getattr(unit.rule, "bias", None) in ("distribute", "repeat"):
            raise RuleError(
                f"{model.nodes[unit.node]}: bias={unit.rule.bias!r} shares the bias among a fixed number of inputs, "  # type: ignore[attr-defined]
                "which mask_nan changes from sample to sample; use 'absorb' or 'ignore'"
            )
    return value
