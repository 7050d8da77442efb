"""Arithmetic of masks and of the scores that they hide, for the readers whose files write it as operators."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from ..errors import UnsupportedLayerError
from .arithmetic import Operand, add, choose, multiply
from .attention import Scores
from .axis_ops import affine
from .channels_first import Builder, Flat, Tensor, Value
from .file_axes import Batches, aligned
from .masks import HIDING_ALONE, Condition, Masked, add_mask, both, compared, hide, hiding, is_whole, split

COMPARED: dict[str, Any] = {
    **{"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater},
    "ge": np.greater_equal,
}


class Context(Protocol):
    """An operator of a reader, at work."""

    builder: Builder
    batches: Batches
    #: the numbers of the nodes that are inputs of whole numbers
    whole: set[int]

    def known_pair(self, value: Any) -> Any:
        """A constant for both sizes of the batch; what is none is returned as it is."""

    def sample_array(self, constant: Any, value: Value) -> np.ndarray:
        """A constant as it meets samples."""

    def operands(self, *values: Any) -> list[Operand]:
        """Arguments that meet element by element."""

    def unsupported(self, problem: str, remedy: str = "") -> UnsupportedLayerError:
        """An error about the operator."""


@dataclass(frozen=True)
class BiasedMask:
    """A mask of scores with a constant added, as files with relative positions have it, before it meets the scores."""

    condition: Condition
    #: an array, or what a reader has for one that depends on the number of samples
    bias: Any

    def number(self, node: Context) -> Value:
        """The numbers that are added to scores."""
        number, bias = node.operands(self.condition.number(node.builder), self.bias)
        return add(node.builder, number, bias)


def is_value(x: Any) -> bool:
    """Whether it is a tensor of numbers."""
    return isinstance(x, (Tensor, Flat))


def scalar(node: Context, x: Any) -> float | None:
    """A constant that is one number."""
    pair = node.known_pair(x)
    if not isinstance(pair, tuple) or pair[0].size != 1 or not np.array_equal(*pair):
        return None
    return float(pair[0].ravel()[0])


# -- truths ---------------------------------------------------------------------


def compare(node: Context, a: Any, b: Any, op: str) -> Condition:
    """Where a mask, or whole numbers, are "eq", "ne", "lt", "le", "gt" or "ge" a number."""
    number = scalar(node, b)
    if number is not None:
        if isinstance(a, Condition):
            return a.map(lambda v: COMPARED[op](v, number), boolean=True)
        if is_value(a) and is_whole(node.builder, a, node.whole):
            return compared(node.builder, a, op, number)
    raise node.unsupported("compares what the model computes from its inputs")


def conjunction(node: Context, a: Any, b: Any) -> Condition:
    """Where both of two masks hold."""
    result = both(node.builder, node.known_pair(a), node.known_pair(b), node.batches)
    if result is None:
        raise node.unsupported("combines something other than masks")
    return result


def negation(node: Context, value: Any) -> Any:
    """Where a mask does not hold; of a constant, too."""
    if isinstance(value, Condition):
        return value.negated()
    pair = node.known_pair(value)
    if not isinstance(pair, tuple):
        raise node.unsupported("negates something other than a mask")
    return tuple(~a.astype(bool) for a in pair)


def disjunction(node: Context, a: Any, b: Any) -> Condition:
    """Where one of two masks holds: not where neither does."""
    result = both(node.builder, negation(node, a), negation(node, b), node.batches)
    if result is None:
        raise node.unsupported("combines something other than masks")
    return result.negated()


# -- sums and products ------------------------------------------------------------


def mapped(node: Context, a: Any, b: Any, function: Callable[[Any, Any], Any]) -> Condition | None:
    """A function of a condition and a number, which is a condition; None of anything else."""
    if isinstance(a, Condition) and (number := scalar(node, b)) is not None:
        return a.map(lambda v: function(v, number))
    if isinstance(b, Condition) and (number := scalar(node, a)) is not None:
        return b.map(lambda v: function(number, v))
    return None


def masked_sum(node: Context, a: Any, b: Any) -> Masked | BiasedMask | None:
    """Scores with a mask added, masked scores with anything else, or a mask with a constant; None without a mask."""
    builder = node.builder
    if isinstance(b, (Masked, Tensor, Flat)) and not isinstance(a, (Masked, Tensor, Flat)):
        a, b = b, a
    if isinstance(b, Condition) and not isinstance(a, (Masked, Tensor, Flat)):
        a, b = b, a
    if isinstance(a, Condition) and a.hides and isinstance(node.known_pair(b), tuple) and scalar(node, b) is None:
        return BiasedMask(a, b)
    if not isinstance(a, (Masked, Tensor, Flat)):
        return None
    if isinstance(b, BiasedMask):
        hidden = add_mask(builder, a, b.condition)
        return None if hidden is None else masked_sum(node, hidden, b.bias)
    if isinstance(b, Condition):
        return add_mask(builder, a, b)
    if is_value(b):
        if not isinstance(a, Masked):
            return None
        return a.then(lambda scores: add(builder, *_two(builder, scores, b)))
    scores = a.scores if isinstance(a, Masked) else a
    pair = node.known_pair(b)
    if not isinstance(pair, tuple):
        return None
    (scores,) = aligned(builder, [scores], pair[0].ndim)
    if not isinstance(a, Masked) and (pair[0].dtype.kind != "f" or not (pair[0] <= HIDING_ALONE).any()):
        return None
    bias, seen = split(node.sample_array(b, scores))
    if seen is None and not isinstance(a, Masked):
        return None
    masked = replace(a, scores=scores) if isinstance(a, Masked) else Masked(scores)
    if seen is None:
        return masked.then(lambda x: add(builder, x, bias))
    array, whole = node.sample_array(b, scores), a.plain if isinstance(a, Masked) else lambda: scores
    plain = None if whole is None or not np.isfinite(array).all() else lambda: add(builder, whole(), array)
    if bias.any():
        masked = replace(masked, scores=add(builder, scores, bias))
    return hide(builder, masked, ~seen, plain)


def _two(builder: Builder, a: Value, b: Value) -> tuple[Value, Value]:
    first, second = aligned(builder, [a, b])
    return first, second


def masked_product(node: Context, a: Any, b: Any) -> Masked | None:
    """Masked scores times a number above 0; None of anything else."""
    if isinstance(b, Masked):
        a, b = b, a
    number = scalar(node, b)
    if not isinstance(a, Masked) or number is None or number <= 0:
        return None
    return a.then(lambda scores: affine(node.builder, scores, number, 0.0))


def product_of_masks(node: Context, a: Any, b: Any) -> Condition | None:
    """The product of two masks that are 0 where they do not hold, which is a mask again; None of anything else."""
    if not (isinstance(a, Condition) and isinstance(b, Condition)):
        return None
    if any(bool(c.true) == bool(c.false) for c in (a, b)):
        return None
    holds = (a.true or a.false) * (b.true or b.false)
    return replace(conjunction(node, a, b), true=holds, false=0.0, boolean=False)


# -- choices --------------------------------------------------------------------


def chosen(node: Context, condition: Any, a: Any, b: Any) -> Any:
    """``a`` where a condition holds, ``b`` elsewhere."""
    builder = node.builder
    low, high = scalar(node, a), scalar(node, b)
    if isinstance(condition, Condition):
        low, high = (_one_number(node, x, condition) if n is None else n for x, n in ((a, low), (b, high)))
        if low is not None and high is not None:
            return condition.map(lambda v: low if v else high)
        for number, other, where in ((low, b, condition), (high, a, condition.negated())):
            if number is not None and isinstance(other, Condition) and other.tensor == condition.tensor:
                holds, rest = bool(where.true), bool(where.false)
                true, false = (number if holds else other.true), (number if rest else other.false)
                return replace(other, true=true, false=false, boolean=False)
            if number is not None and hiding(number) and isinstance(other, (Tensor, Flat, Masked)):
                return hide(builder, other, where, None)
        for number, other, where in ((high, a, condition), (low, b, condition.negated())):
            if number is not None and hiding(number) and isinstance(node.known_pair(other), tuple):
                return BiasedMask(where.map(partial(_hidden, number)), other)
        first, second = (multiply(builder, *node.operands(c.number(builder), v)) for c, v in sides(condition, a, b))
        x, y = node.operands(first, second)
        return add(builder, x, y)
    for number, other, negate in ((low, b, False), (high, a, True)):
        if number is None or not hiding(number):
            continue
        if isinstance(other, Masked) or is_value(other):
            scores = other.scores if isinstance(other, Masked) else other
            pair = node.known_pair(condition)
            (aligned_scores,) = aligned(builder, [scores], np.ndim(pair[0]))
            hidden = node.sample_array(condition, aligned_scores).astype(bool)
            masked = Masked(aligned_scores, other.seen, other.truth) if isinstance(other, Masked) else aligned_scores
            there, plain = ~hidden if negate else hidden, None
            if is_value(other) and np.isfinite(number):
                plain = partial(choose, builder, there, np.asarray(number), aligned_scores)
            return hide(builder, masked, there, plain)
    mask, x, y = node.operands(condition, a, b)
    return choose(builder, np.asarray(mask).astype(bool), x, y)


def _one_number(node: Context, x: Any, condition: Condition) -> float | None:
    """The number of a constant that holds one alone, in no larger shape than a condition's."""
    pair = node.known_pair(x)
    if not isinstance(pair, tuple) or pair[0].ndim > condition.tensor.rank or not all(a.size for a in pair):
        return None
    number = pair[0].ravel()[0]
    if not all((a == number).all() for a in pair):
        return None
    sizes = node.sample_array(x, condition.tensor).shape
    shape = condition.tensor.shape if condition.expanded is None else condition.expanded
    fits = all(n in (1, m) for n, m in zip(sizes[::-1], shape[::-1], strict=False))
    return float(number) if fits else None


def _hidden(number: float, holds: Any) -> float:
    """What is added to a score: nothing where a condition holds."""
    return 0.0 if holds else number


def sides(condition: Condition, a: Any, b: Any) -> list[tuple[Condition, Any]]:
    """Each value with 1 where it counts."""
    return [(condition.map(bool), a), (condition.negated(), b)]


def masks_of(node: Context, mask: Any, query: Any, key: Any) -> Scores:
    """What a mask, of truths or of numbers that are added, does to the scores of queries and keys."""
    if mask is None:
        return Scores()
    builder = node.builder
    if isinstance(mask, BiasedMask):
        added = masks_of(node, mask.bias, query, key)
        return replace(masks_of(node, mask.condition, query, key), bias=added.bias, seen=added.seen)
    query, _ = aligned(builder, [query, key])
    if isinstance(mask, Condition):
        if mask.boolean:
            truth = mask
        elif mask.hides:
            truth = mask.map(lambda v: v == 0)
        else:
            raise node.unsupported("adds to the scores what the model computes from its inputs")
        tensor, _ = aligned(builder, [truth.truth(builder), query])
        return Scores(truth=tensor)
    if isinstance(mask, Masked):
        return Scores(seen=mask.seen, truth=mask.truth, added=mask.scores)
    if is_value(mask):
        return Scores(added=mask)
    first = np.asarray(node.known_pair(mask)[0])
    if first.dtype == bool:
        return Scores(seen=node.sample_array(mask, query).astype(bool))
    bias, seen = split(node.sample_array(mask, query))
    return Scores(bias=bias if bias.any() else None, seen=seen)
