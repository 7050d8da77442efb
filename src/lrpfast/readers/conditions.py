"""Conditions that a model computes: comparisons of values, and several of them joined.

A condition is a step and no number, so nothing computes with it: it selects one of two operands (`select`), which
then gets all relevance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..errors import UnsupportedLayerError
from ..model import layers as L
from .arithmetic import Operand, add, choose
from .axis_ops import constant
from .channels_first import Builder, Tensor, Value


@dataclass(frozen=True)
class Comparison:
    """Where a value is above 0, or at least 0."""

    value: Tensor
    or_equal: bool = False

    @property
    def rank(self) -> int:
        """How many axes a sample has."""
        return len(self.value.shape)


@dataclass(frozen=True)
class Not:
    """Where a condition does not hold."""

    condition: Condition

    @property
    def rank(self) -> int:
        return self.condition.rank


@dataclass(frozen=True)
class Both:
    """Where two conditions hold; an array stands for one that is known."""

    first: Condition
    second: Condition | np.ndarray

    @property
    def rank(self) -> int:
        return self.first.rank


Condition = Comparison | Not | Both
CONDITIONS = (Comparison, Not, Both)


def is_condition(x: object) -> bool:
    """Whether it is a condition that the model computes."""
    return isinstance(x, CONDITIONS)


def compared_value(condition: Condition) -> Tensor:
    """The value of the first of a condition's comparisons."""
    while not isinstance(condition, Comparison):
        condition = condition.condition if isinstance(condition, Not) else condition.first
    return condition.value


def greater(builder: Builder, a: Operand, b: Operand) -> Comparison:
    """a > b; one of them at least is a value."""
    if isinstance(b, np.ndarray) and b.size == 1 and not b.any() and not isinstance(a, np.ndarray):
        return Comparison(builder.tensor(a))
    return Comparison(builder.tensor(add(builder, a, b, -1.0)))


def at_least(builder: Builder, a: Operand, b: Operand) -> Condition:
    """a >= b."""
    return replace(greater(builder, a, b), or_equal=True)


def equal(builder: Builder, a: Operand, b: Operand) -> Condition:
    """a == b: neither above nor below."""
    above = greater(builder, a, b)
    return Both(replace(above, or_equal=True), Not(above))


def both(a: Condition | np.ndarray, b: Condition | np.ndarray) -> Condition:
    """a and b."""
    if isinstance(a, np.ndarray):
        assert not isinstance(b, np.ndarray)
        return Both(b, a)
    return Both(a, b)


def negated(condition: Condition | np.ndarray) -> Condition | np.ndarray:
    """not a."""
    if isinstance(condition, np.ndarray):
        return ~condition
    return condition.condition if isinstance(condition, Not) else Not(condition)


def either(a: Condition | np.ndarray, b: Condition | np.ndarray) -> Condition:
    """a or b."""
    return Not(both(negated(a), negated(b)))


#: Every comparison of two operands, by its short name.
COMPARISONS: dict[str, Callable[[Builder, Operand, Operand], Condition]] = {
    "eq": equal,
    "ne": lambda builder, a, b: Not(equal(builder, a, b)),
    "gt": greater,
    "ge": at_least,
    "lt": lambda builder, a, b: greater(builder, b, a),
    "le": lambda builder, a, b: at_least(builder, b, a),
}


def unequal(a: Condition | np.ndarray, b: Condition | np.ndarray) -> Condition:
    """One of a and b, and not the other."""
    return either(both(a, negated(b)), both(negated(a), b))


def moved(condition: Condition, move: Callable[[Value], Value], builder: Builder) -> Condition:
    """The condition whose values are moved, as Unsqueeze and Transpose move a mask."""
    if isinstance(condition, Comparison):
        return replace(condition, value=builder.tensor(move(condition.value)))
    if isinstance(condition, Not):
        return Not(moved(condition.condition, move, builder))
    if isinstance(condition.second, np.ndarray):
        raise UnsupportedLayerError("moves a condition that a constant mask is part of. Join the mask after the move")
    return Both(moved(condition.first, move, builder), moved(condition.second, move, builder))


def select(builder: Builder, condition: Condition | np.ndarray, a: Operand, b: Operand) -> Operand:
    """``a`` where the condition holds, ``b`` elsewhere; an array of the two receives relevance as a bias does."""
    if isinstance(condition, Not):
        return select(builder, condition.condition, b, a)
    if isinstance(condition, Both):
        return select(builder, condition.first, select(builder, condition.second, a, b), b)
    if isinstance(condition, Comparison):
        x = condition.value
        values = [constant(builder, x, v) if isinstance(v, np.ndarray) else v for v in (a, b)]
        return builder.merge(L.Where(condition.or_equal), [x, *values])
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.asarray(np.where(condition, a, b))
    return choose(builder, condition, a, b)
