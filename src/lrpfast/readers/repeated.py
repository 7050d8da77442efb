"""Heads of keys and values that a file repeats, seen through the moves between the repetition and attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ..model import layers as L
from ..model.layers import Layer, Shape


class Atom(NamedTuple):
    """A part of an axis: its step in the source's row-major values, 0 where they are repeated, and its size."""

    stride: int
    size: int


class RepeatedView(NamedTuple):
    """A tensor as steps in the values of the node that it repeats.

    Attributes
    ----------
    source : int
        The node before the repetition.
    axes : list of list of Atom
        The tensor's axes, outermost parts first; parts of size 1 are left out.
    """

    source: int
    axes: list[list[Atom]]

    def shared_heads(self, heads: int) -> int | None:
        """How many heads the last axis has, each for as many of ``heads``; None where it repeats something else."""
        *lead, channels = self.axes
        repeats = [i for i, atom in enumerate(channels) if not atom.stride]
        if any(not atom.stride for axis in lead for atom in axis) or not repeats:
            return None
        first, last = repeats[0], repeats[-1]
        if last - first + 1 != len(repeats):
            return None
        shared = math.prod(atom.size for atom in channels[:first])
        times = math.prod(atom.size for atom in channels[first : last + 1])
        return shared if shared * times == heads else None


def view_of_repeated(
    nodes: Sequence[tuple[Layer, tuple[int, ...]]], shapes: Sequence[Shape], node: int
) -> RepeatedView | None:
    """A node as a view of what it repeats; None where there is no repetition, or more than moves after it."""
    moves: list[int] = []
    while not _repeats(nodes[node][0]):
        layer, inputs = nodes[node]
        if type(layer) not in (L.Permute, L.Reshape, L.Flatten, L.Identity) or None in shapes[node]:
            return None
        moves.append(node)
        node = inputs[0]
    layer, (source,) = nodes[node]
    if None in shapes[source]:
        return None
    assert isinstance(layer, L.UpSample)
    axes: list[list[Atom]] | None = _strided(shapes[source])  # type: ignore[arg-type]
    for axis, times in zip(axes or (), layer.size, strict=False):
        axis.extend([Atom(0, times)] if times > 1 else [])
    for move in reversed(moves):
        assert axes is not None
        layer = nodes[move][0]
        axes = [axes[a] for a in layer.axes] if isinstance(layer, L.Permute) else _reshaped(axes, shapes[move])  # type: ignore[arg-type]
        if axes is None:
            return None
    return None if axes is None else RepeatedView(source, axes)


def _repeats(layer: Layer) -> bool:
    return isinstance(layer, L.UpSample) and layer.interpolation == "nearest"


def _strided(shape: Sequence[int]) -> list[list[Atom]]:
    strides = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    return [[Atom(stride, n)] if n > 1 else [] for stride, n in zip(strides, shape, strict=True)]


def _reshaped(axes: Sequence[Sequence[Atom]], shape: Sequence[int]) -> list[list[Atom]] | None:
    """The same values in another shape; None where an axis ends within a part that cannot be cut there."""
    parts = [atom for axis in axes for atom in axis]
    result: list[list[Atom]] = []
    for size in shape:
        axis: list[Atom] = []
        while size > 1:
            stride, n = parts.pop(0)
            if size % n == 0:
                axis.append(Atom(stride, n))
                size //= n
            elif n % size == 0:
                axis.append(Atom(stride * (n // size), size))
                parts.insert(0, Atom(stride, n // size))
                size = 1
            else:
                return None
        result.append(axis)
    return result
