"""Truths and masks: which of two numbers a place holds, and which scores a softmax sees.

Files write a mask in many ways: as truths, as 1 and 0, as numbers that are added to the scores and are 0 or so low
that nothing is left of a score. Here each is the tensor of 1 and 0 that it comes from, with the numbers that stand
for these. A mask that depends on no input is an array.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import UnsupportedLayerError
from ..model import layers as L
from .arithmetic import multiply
from .axis_ops import affine, stretched
from .batch_axis import BATCH, Shape
from .channels_first import Builder, Tensor, Value
from .file_axes import Batches, Sizes, aligned, sample_array, unsqueeze

#: What is added to a score so that nothing is left of it: e to this power is 0 in float64.
HIDING = -1e4
#: The same where an array holds nothing but 0 and one such number; Swin's files have -100.
HIDING_ALONE = -50.0


@dataclass(frozen=True)
class Condition:
    """A tensor that holds one of two numbers at each place: ``true`` where ``tensor`` is 1, ``false`` where it is 0."""

    tensor: Tensor
    true: float = 1.0
    false: float = 0.0
    #: whether the file has truths here, not numbers
    boolean: bool = False
    #: the sample's shape where axes of size 1 stand for more: nothing is repeated for a mask
    expanded: Shape | None = None

    @property
    def hides(self) -> bool:
        """Whether it is 0, or so low that nothing is left of a score that it is added to."""
        return max(self.true, self.false) == 0 and min(self.true, self.false) <= HIDING_ALONE

    def map(self, function: Callable[[Any], Any], boolean: bool = False) -> Condition:
        """The function of it, which is one of two numbers again."""
        with np.errstate(all="ignore"):
            true, false = float(function(self.true)), float(function(self.false))
        return replace(self, true=true, false=false, boolean=boolean)

    def negated(self) -> Condition:
        """True where it is 0."""
        return self.map(lambda v: not v, boolean=True)

    def number(self, builder: Builder) -> Value:
        """The numbers themselves."""
        return _of_truth(builder, self.whole(builder), self.true, self.false)

    def truth(self, builder: Builder) -> Value:
        """1 where it is not 0, and 0 elsewhere; axes of size 1 are left as they are."""
        return _of_truth(builder, self.tensor, float(bool(self.true)), float(bool(self.false)))

    def whole(self, builder: Builder) -> Value:
        """The tensor of 1 and 0 in its own shape."""
        return self.tensor if self.expanded is None else stretched(builder, self.tensor, self.expanded)

    def expand(self, builder: Builder, target: Sizes) -> Condition:
        """Axes of size 1 that stand for more, and axes put before the others; -1 leaves one as it is."""
        tensor: Value = self.tensor
        shape = tensor.shape if self.expanded is None else self.expanded
        for _ in range(len(target) - tensor.rank):
            old = tensor
            tensor = unsqueeze(builder, tensor, 0)
            shape = (1, *shape) if len(tensor.shape) > len(old.shape) else shape
        sizes = list(shape)
        for n, axis in zip(target, tensor.batch.axes(len(sizes)), strict=True):
            if BATCH not in axis and n != -1 and sizes[axis[0]] == 1:
                sizes[axis[0]] = n
        return replace(self, tensor=builder.tensor(tensor), expanded=tuple(sizes))


def _of_truth(builder: Builder, tensor: Value, true: float, false: float) -> Value:
    return tensor if (true, false) == (1, 0) else affine(builder, tensor, true - false, false)


@dataclass(frozen=True)
class Masked:
    """Scores of which a softmax sees some.

    Attributes
    ----------
    scores : Value
    seen : array of bool or None
        Of as many axes as a sample of the scores; True where a score is seen.
    truth : Value or None
        Not 0 where a score is seen; of as many axes, too.
    """

    scores: Value
    seen: np.ndarray | None = None
    truth: Value | None = None
    #: makes the numbers that they are without a softmax; None where these are infinite
    plain: Callable[[], Value] | None = None

    def number(self) -> Value:
        """The scores as numbers, for what is no softmax."""
        if self.plain is None:
            raise UnsupportedLayerError(
                "takes scores that are hidden by -inf, which only a softmax can. Use large numbers instead"
            )
        return self.plain()

    def then(self, function: Callable[[Value], Value]) -> Masked:
        """A function of the scores that leaves hidden ones hidden."""
        plain = self.plain
        return replace(self, scores=function(self.scores), plain=None if plain is None else lambda: function(plain()))

    def also(
        self, builder: Builder, seen: np.ndarray | None, truth: Value | None, plain: Callable[[], Value] | None
    ) -> Masked:
        """The scores with another mask besides."""
        if seen is not None and self.seen is not None:
            seen = seen & self.seen
        if truth is not None and self.truth is not None:
            truth = multiply(builder, truth, self.truth)
        return Masked(self.scores, self.seen if seen is None else seen, self.truth if truth is None else truth, plain)

    def reshaped(self, builder: Builder, move: Callable[[Value], Value]) -> Masked:
        """The scores in another shape, and the mask with them."""
        shape: Any = self.scores.shape
        moved = self.then(move)
        seen, truth = self.seen, self.truth
        if seen is not None:
            seen = np.broadcast_to(seen, shape).reshape(moved.scores.shape)  # type: ignore[arg-type]
        if truth is not None:
            truth = move(stretched(builder, truth, shape))
        return replace(moved, seen=seen, truth=truth)


def hiding(value: float) -> bool:
    """Whether a number that is added to a score, or put in its place, leaves nothing of it."""
    return value <= HIDING


def split(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """What an array adds to scores, and which of them it leaves; None where it leaves all."""
    hidden = array <= HIDING
    values = np.unique(array)
    if len(values) <= 2 and values[-1] == 0 and values[0] <= HIDING_ALONE:
        hidden = array < 0
    if not hidden.any():
        return array, None
    return np.where(hidden, 0.0, array), ~hidden


def scoped(builder: Builder, function: Callable[[], Value]) -> Callable[[], Value]:
    """A function that is called later, and names its layers as now."""
    scope = builder.scope

    def later() -> Value:
        now, builder.scope = builder.scope, scope
        try:
            return function()
        finally:
            builder.scope = now

    return later


def add_mask(builder: Builder, scores: Value | Masked, mask: Condition) -> Masked | None:
    """Scores with a mask added; None where it is none."""
    if not mask.hides:
        return None
    return hide(builder, scores, mask.map(lambda v: v != 0), None)


def hide(
    builder: Builder, scores: Value | Masked, where: Condition | np.ndarray, plain: Callable[[], Value] | None
) -> Masked:
    """Scores that are hidden where a condition holds; an array is a sample's.

    ``plain`` makes the numbers that they are then.
    """
    plain = None if plain is None else scoped(builder, plain)
    masked = scores if isinstance(scores, Masked) else Masked(scores)
    if isinstance(where, Condition):
        truth, aligned_scores = aligned(builder, [where.negated().truth(builder), masked.scores])
        if aligned_scores is not masked.scores:
            raise UnsupportedLayerError("hides scores by a mask of more axes than they have")
        return masked.also(builder, None, truth, plain)
    return masked.also(builder, ~where, None, plain)


def softmax(builder: Builder, masked: Masked, axis: int) -> Value:
    """The softmax over an axis of a sample, of the scores that are seen."""
    t = builder.last(masked.scores, axis)
    mask = None if masked.seen is None else masked.seen.transpose(t.order)
    inputs = [t.node]
    if masked.truth is not None:
        inputs.append(builder.lay(masked.truth, t.order).node)
    mask, window = windowed(mask, t.inside)
    return replace(t, node=builder.add(L.Softmax(mask, window), *inputs))


def windowed(mask: np.ndarray | None, shape: Any) -> tuple[np.ndarray | None, tuple[int | None, int | None] | None]:
    """A mask without axes along which it does not vary; one of the past, or of neighbours, as a window."""
    if mask is None:
        return None, None
    for axis in range(mask.ndim):
        if mask.shape[axis] > 1 and bool((mask == mask.take([0], axis)).all()):
            mask = mask.take([0], axis)
    while mask.ndim and mask.shape[0] == 1 and mask.ndim > 2:
        mask = mask[0]
    if mask.all():
        return None, None
    if mask.ndim == 2 and mask.shape == tuple(shape[-2:]):
        causal = np.tri(*mask.shape, dtype=np.bool_)
        if np.array_equal(mask, causal):
            return None, (None, 0)
        i, j = np.nonzero(mask)
        before, after = int((i - j).max()), int((j - i).max())
        if before >= 0 and after >= 0:
            rows, columns = mask.shape
            band = np.tri(rows, columns, after, np.bool_) & ~np.tri(rows, columns, -before - 1, np.bool_)
            if np.array_equal(mask, band):
                return None, (before if before < len(mask) - 1 else None, after)
    return mask, None


def both(builder: Builder, a: Any, b: Any, batches: Batches) -> Condition | None:
    """Where both of two conditions hold; one may be a constant, as a pair for two sizes of the batch."""
    if isinstance(b, Condition) and not isinstance(a, Condition):
        a, b = b, a
    if not isinstance(a, Condition):
        return None
    left = a.truth(builder)
    if isinstance(b, Condition):
        left, right = aligned(builder, [left, b.truth(builder)])
        return Condition(builder.tensor(multiply(builder, left, right)), boolean=True)
    (left,) = aligned(builder, [left], b[0].ndim)
    array = sample_array(left, b, batches)
    if array is None:
        return None
    truth = array.astype(bool)
    if truth.all():
        return Condition(builder.tensor(left), boolean=True)
    return Condition(builder.tensor(multiply(builder, left, truth.astype(float))), boolean=True)


# -- whole numbers --------------------------------------------------------------


def is_whole(builder: Builder, value: Value, inputs: set[int]) -> bool:
    """Whether a value is computed from inputs of whole numbers alone, before they are looked up in a table."""
    pending, visited = [builder.tensor(value).node], set()
    while pending:
        node = pending.pop()
        if node in visited:
            continue
        visited.add(node)
        layer, sources = builder.nodes[node]
        if isinstance(layer, L.Embedding) or (isinstance(layer, L.Input) and node not in inputs):
            return False
        pending.extend(sources)
    return True


def compared(builder: Builder, value: Value, op: str, number: float) -> Condition:
    """Where whole numbers are "eq", "ne", "lt", "le", "gt" or "ge" a number: a condition made of limits."""
    if op in ("eq", "ne"):
        distance = builder.each(L.Activation("relu", {"negative_slope": -1.0}), affine(builder, value, 1.0, -number))
        differs = builder.each(L.Activation("clip", {"low": 0.0, "high": 1.0}), distance)
        return Condition(builder.tensor(differs), *((0.0, 1.0) if op == "eq" else (1.0, 0.0)), boolean=True)
    least = np.floor(number) + 1 if op in ("gt", "le") else np.ceil(number)
    above = builder.each(L.Activation("clip", {"low": 0.0, "high": 1.0}), affine(builder, value, 1.0, 1.0 - least))
    return Condition(builder.tensor(above), *((1.0, 0.0) if op in ("gt", "ge") else (0.0, 1.0)), boolean=True)
