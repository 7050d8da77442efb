"""A model's steps before anything is decided about them, and the values between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..budget import Budget
from ..errors import InputError
from ..model.graph import Model
from ..model.layers import Activation, Flatten, Input, Layer, Reshape
from ..model.layers.base import known
from ..model.node import Node
from ..rules import Gradient, Pass, Rule, Zero
from ..rules.composites import Assignment
from .operators import Operator, operator
from .tables import table_bytes


@dataclass(frozen=True, eq=False)
class PlanNode:
    """A step before it is decided."""

    node: int
    name: str
    layer: Layer
    operator: Operator | None
    rule: Rule
    inputs: tuple[int, ...]
    output: int
    shapes: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]

    @property
    def head(self) -> tuple[int, str, Layer, Any, Rule, tuple[int, ...], int]:
        """A LinearPlan's first fields."""
        return self.node, self.name, self.layer, self.operator, self.rule, self.inputs, self.output


def steps_of(
    model: Model, assignment: Assignment | None, budget: Budget
) -> tuple[list[PlanNode], list[int], list[int]]:
    """The steps in order, each node's value, and the size of every value; all tables count before they are made."""
    units: list[PlanNode] = []
    values: list[int] = []
    sizes: list[int] = []

    def value(node: Node) -> int:
        shape = known(node.shape)
        if shape is None:
            raise InputError(f"{node}: its shape {node.shape} is open; build the model with a fixed input shape")
        sizes.append(math.prod(shape))
        return len(sizes) - 1

    for i, node in enumerate(model.nodes):
        layer = node.layer
        shapes: tuple[Any, ...] = tuple(model.nodes[j].shape for j in node.inputs)
        inputs = tuple(values[j] for j in node.inputs)
        shape: tuple[Any, ...] = node.shape
        if isinstance(layer, Input):
            values.append(value(node))
            continue
        linear = isinstance(layer, Activation) and layer.function == "linear"
        if layer.identity or linear:
            values.append(inputs[0])
            continue
        budget.take(table_bytes(layer, shapes, shape), f"{node}: the table of where its values come from")
        op = operator(layer, shapes, shape)
        rule = assignment.rules[i] if assignment else Zero() if op else Pass()
        if isinstance(layer, (Flatten, Reshape)) and isinstance(rule, (Pass, Gradient)):
            values.append(inputs[0])
            continue
        out = value(node)
        units.append(PlanNode(i, node.name, layer, op, rule, inputs, out, shapes, shape))
        function = getattr(layer, "activation", None)
        if function is not None and function.function != "linear":
            rule = assignment.activations[i] if assignment else Pass()
            z, out = out, value(node)
            name = f"{node.name}/{function.function}"
            units.append(PlanNode(i, name, function, None, rule, (z,), out, (shape,), shape))
        values.append(out)
    return units, values, sizes
