"""A model of two lengths as it is explained and as it runs: where its layers are, and which of their axes grow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..model.graph import Model
from ..rules.composites import Assignment
from .row_selection import Rows, Selected, select_early

Shape = tuple[int, ...]
Axes = frozenset[int]


class Planned:
    """A model of fixed length as it is explained, and as it runs, its late selections moved up.

    Parameters
    ----------
    explained : Model
    assignment : Assignment or None
        The rules of its layers, None for the forward pass alone.
    """

    def __init__(self, explained: Model, assignment: Assignment | None) -> None:
        self.explained = explained
        self.early: Selected = select_early(explained, assignment)


@dataclass(frozen=True)
class PaddedLayer:
    """Where a padded model has a layer of the model that is explained.

    Attributes
    ----------
    name : str
    source : str
        The name of the padded model's layer that computes it.
    shape : tuple of int
        Of its output, for the padded length.
    ragged : frozenset of int
        The axes whose sizes are in proportion to the length.
    rows : Rows or None
        The rows that are computed, None for all.
    last : bool
        Whether this is each sample's last row.
    """

    name: str
    source: str
    shape: Shape
    ragged: Axes
    rows: Rows | None
    last: bool


def layers_of(long: Planned, short: Planned, n: int, m: int) -> tuple[PaddedLayer, ...] | None:
    """Where the padded model has the layers of the model that is explained; None where the two lengths' differ."""
    nodes, others = long.explained.nodes, short.explained.nodes
    if len(nodes) != len(others):
        return None
    layers = []
    for a, b, of_a, of_b in zip(nodes, others, long.early.nodes, short.early.nodes, strict=True):
        ragged = ragged_axes(a.shape, b.shape, n, m)
        (at, rows), (_, of_short) = of_a, of_b
        if a.name != b.name or ragged is None or (rows is None) != (of_short is None):
            return None
        if rows is not None and rows != of_short and len(rows.positions) > 1:
            return None
        source = long.early.model.nodes[at].name
        layers.append(PaddedLayer(a.name, source, a.shape, ragged, rows, rows != of_short))  # type: ignore[arg-type]
    return tuple(layers)


def ragged_axes(a: Sequence[int | None], b: Sequence[int | None], n: int, m: int) -> Axes | None:
    """The axes that differ between the shapes at two lengths; None where one is not in proportion to the length."""
    both: Any = list(zip(a, b, strict=False))
    if len(a) != len(b) or any(p != q and p * m != q * n for p, q in both):
        return None
    return frozenset(axis for axis, (p, q) in enumerate(both) if p != q)
