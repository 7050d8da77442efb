"""Where the batch lies among the axes of a file's tensor, and how moves change that.

Inside a model the batch is always first and every tensor is a sample. In a file it may be any axis, or be joined
with others to one: (tokens, batch, features), (batch · heads, tokens, features). So a tensor's axes are tuples of
atoms, of which one is the batch and the others are the sample's axes, in their order. Permuting, splitting and
joining axes only rewrite these tuples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ShapeError, UnsupportedLayerError

#: The atom that is the batch; the others are numbers of the sample's axes.
BATCH = -1
#: A file's axis, as atoms.
Axis = tuple[int, ...]
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class BatchAxis:
    """Where the batch lies.

    Attributes
    ----------
    at : int
        How many of the sample's axes come before it.
    outer, inner : bool
        Whether the sample's axis just before it, and the one just after it, are one axis with it in the file.
    """

    at: int = 0
    outer: bool = False
    inner: bool = False

    @property
    def whole(self) -> bool:
        """Whether it is an axis of its own."""
        return not (self.outer or self.inner)

    @property
    def position(self) -> int:
        """The file's axis that it is, or is part of."""
        return self.at - self.outer

    def axes(self, rank: int) -> tuple[Axis, ...]:
        """The file's axes of a sample of so many axes."""
        before, after = self.at - self.outer, self.at + self.inner
        joined = (*range(before, self.at), BATCH, *range(self.at, after))
        return (*((a,) for a in range(before)), joined, *((a,) for a in range(after, rank)))

    def sizes(self, shape: Shape, batch: int | None) -> Shape:
        """The file's shape of samples of a shape; None for the batch's axis where ``batch`` is None."""
        sizes: list[int | None] = []
        for axis in self.axes(len(shape)):
            known = [batch if atom == BATCH else shape[atom] for atom in axis]
            sizes.append(None if None in known else math.prod(known))  # type: ignore[arg-type]
        return tuple(sizes)

    def dropped(self, axes: Sequence[int]) -> BatchAxis:
        """Where it lies when axes of the sample are gone, which are not joined with it."""
        return BatchAxis(self.at - sum(a < self.at for a in axes), self.outer, self.inner)


#: The batch first and by itself, as lrpfast's models have it.
FIRST = BatchAxis()


def of_axes(axes: Sequence[Axis]) -> tuple[BatchAxis, list[int]]:
    """Where the batch lies among axes in a new order, and the order of the sample's axes."""
    order = [atom for axis in axes for atom in axis]
    joined = next(axis for axis in axes if BATCH in axis)
    batch = BatchAxis(order.index(BATCH), joined[0] != BATCH, joined[-1] != BATCH)
    return batch, [atom for atom in order if atom != BATCH]


def sample_axis(batch: BatchAxis, rank: int, dim: int) -> int:
    """The axis of a sample of ``rank`` axes that a file's axis is; an error where that is, or holds, the batch."""
    axes = batch.axes(rank)
    if isinstance(dim, bool) or not isinstance(dim, int) or not -len(axes) <= dim < len(axes):
        raise ShapeError(f"it works on axis {dim} of {len(axes)}")
    axis = axes[dim]
    if axis == (BATCH,):
        raise UnsupportedLayerError("works along the batch axis. Samples must not be mixed")
    if BATCH in axis:
        raise UnsupportedLayerError("works along an axis that the batch is joined with. Samples must not be mixed")
    return axis[0]


def reshaped(
    batch: BatchAxis, shape: Sequence[int], target: tuple[Sequence[int], Sequence[int]], batches: tuple[int, int]
) -> tuple[BatchAxis, tuple[int, ...]] | None:
    """Where the batch lies after a reshape, and the sample's new shape; None where the batch is cut or samples mix.

    Parameters
    ----------
    batch : BatchAxis
    shape : sequence of int
        The sample's.
    target : pair of sequences of int
        The file's new shape for two sizes of the batch.
    batches : pair of int
        These sizes; twice the same where the file fixes it. Then there may be several ways to read the target, and
        the one that leaves the batch an axis of its own, or where it is, is right.
    """
    before, after = math.prod(shape[: batch.at]), math.prod(shape[batch.at :])
    first, second = map(tuple, target)
    readings: list[tuple[int, BatchAxis, tuple[int, ...]]] = []
    for i in range(len(first)):
        head, tail = first[:i], first[i + 1 :]
        if (head, tail) != (second[:i], second[i + 1 :]) or 0 in head + tail:
            continue
        outer, cut = divmod(before, math.prod(head))
        inner, cut_after = divmod(after, math.prod(tail))
        if cut or cut_after or (first[i], second[i]) != tuple(outer * inner * n for n in batches):
            continue
        parts = (*([outer] if outer > 1 else []), *([inner] if inner > 1 else []))
        result = BatchAxis(i + (outer > 1), outer > 1, inner > 1)
        last = i == len(first) - 1 and not result.whole
        rank = 2 * last + (not result.whole) + 0.5 * (i != batch.position)
        readings.append((rank, result, (*head, *parts, *tail)))  # type: ignore[arg-type]
    if not readings:
        return None
    _, result, sizes = min(readings, key=lambda item: item[0])
    return result, sizes
