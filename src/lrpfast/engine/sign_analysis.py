"""What is known of signs before any number: of weights, and of every value in a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..model.layers import (
    Activation,
    Attention,
    Dot,
    Embedding,
    LocalResponseNorm,
    MatMul,
    Multiply,
    Softmax,
    StepMask,
    Where,
)
from ..rules import Pass
from ..rules.roles import ROUTE, role
from .graph_ir import PlanNode
from .operators import Operator


def sign_of(array: np.ndarray) -> int:
    """+1 or −1 where no element has the other sign, else 0."""
    return 1 if (array >= 0).all() else -1 if (array <= 0).all() else 0


def common(signs: Sequence[int]) -> int:
    """The sign that all of several arrays have, 0 where they differ."""
    return signs[0] if len(set(signs)) == 1 else 0


def weight_sign(operator: Operator) -> int:
    """The sign that all weights have, 0 where they differ."""
    factors = [t.factor for t in operator.taps or () if t.factor is not None]
    return 0 if any(sign_of(f) != 1 for f in factors) else common([sign_of(kernel) for kernel in operator.kernels])


def signs_of(units: Sequence[PlanNode], count: int, inputs: dict[int, int]) -> list[int]:
    """What is known of each value's sign: +1 for never below zero, −1 for never above, else 0."""
    signs = [0] * count
    for v, sign in inputs.items():
        signs[v] = sign
    for unit in units:
        layer, got = unit.layer, [signs[v] for v in unit.inputs]
        sign = 0
        if unit.operator is not None:
            sign = common(got) * weight_sign(unit.operator)
            if unit.operator.bias is not None and sign_of(unit.operator.bias) != sign:
                sign = 0
        elif isinstance(layer, Activation):
            sign = layer.sign
        elif isinstance(layer, StepMask):
            sign = 1
        elif isinstance(layer, Embedding):
            sign = sign_of(layer.table)
        elif isinstance(layer, MatMul) and isinstance(unit.rule, Pass):  # rows of the second factor
            sign = got[1]
        elif isinstance(layer, (Multiply, Dot, MatMul)):
            sign = int(np.prod(got))
        elif isinstance(layer, Where):
            sign = common(got[1:])
        elif isinstance(layer, Softmax):
            sign = 1
        elif isinstance(layer, Attention):  # means of the values
            sign = got[2]
        elif role(layer) is ROUTE or isinstance(layer, LocalResponseNorm):
            sign = common(got)
        signs[unit.output] = sign
    return signs
