"""Rows that a model selects late, as a class token or the last position, are selected as early as possible.

Dense layers, norms, activations and sums compute each row by itself, and so does attention with each query, in one
layer or written out as products of matrices, a bias of scores and a softmax. Rows that are not selected get no
relevance either. So the selection moves up through such layers, which then compute its rows alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..model.graph import Model
from ..model.layers import (
    Activation,
    Add,
    Attention,
    Average,
    BatchNorm,
    Crop,
    Dense,
    Flatten,
    Identity,
    Layer,
    LayerNorm,
    MatMul,
    Multiply,
    Permute,
    Reshape,
    RMSNorm,
    Rotary,
    Softmax,
    Subtract,
    Take,
)
from ..model.layers.attention import between
from ..model.node import Node
from ..rules import Gradient, Pass, Rule
from ..rules.composites import Assignment

Shape = tuple[int, ...]
#: Layers whose work a selection saves; it does not move for the sake of others alone.
_HEAVY = (Dense, Attention, MatMul)
_SUMS = (Add, Average, Multiply, Subtract)
#: The most values that are selected one by one, of a flat row.
_MOST_VALUES = 1 << 20


@dataclass(frozen=True)
class Rows:
    """Some of the positions of one axis, in order: a range where they have one distance, which takes no memory."""

    axis: int
    positions: tuple[int, ...] | range

    def on(self, axis: int) -> Rows:
        """The same positions of another layer's axis."""
        return Rows(axis, self.positions)

    def of(self, array: np.ndarray) -> np.ndarray:
        """These rows of an array of the layer's shape."""
        return np.take(array, list(self.positions), self.axis)

    def shape_in(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of these rows, of a layer's shape."""
        return (*shape[: self.axis], len(self.positions), *shape[self.axis + 1 :])

    def put(self, values: np.ndarray, whole: np.ndarray) -> None:
        """Write values of these rows, one row of values for each sample, to the whole, and zeros between them."""
        index = (slice(None),) * (1 + self.axis) + (list(self.positions),)
        whole[...] = 0
        whole[index] = values.reshape(whole[index].shape)


@dataclass(frozen=True)
class Selected:
    """A model whose selections are early, its rules, and where the nodes of the original are.

    Attributes
    ----------
    model : Model
    assignment : Assignment or None
    nodes : tuple of (int, Rows or None)
        For each node of the original the node that computes it, and the rows that this one has; None is all of them.
    """

    model: Model
    assignment: Assignment | None
    nodes: tuple[tuple[int, Rows | None], ...]


def _selection(node: Node, shape: Shape, rule: Rule | None) -> Rows | None:
    """The rows that a layer selects of its input, if it selects on one axis and does nothing else."""
    if rule is not None and not isinstance(rule, (Pass, Gradient)):
        return None
    layer = node.layer
    chosen: list[tuple[int, np.ndarray | range]] = []
    if isinstance(layer, Crop):
        pairs = zip(shape, layer.pairs, strict=False)
        chosen = [(axis, range(before, n - after)) for axis, (n, (before, after)) in enumerate(pairs) if before + after]
    elif isinstance(layer, Take):
        chosen = [(axis, p) for axis, p in enumerate(layer.places) if p is not None]
    if len(chosen) != 1:
        return None
    axis, positions = chosen[0]
    if len(positions) >= shape[axis]:
        return None
    if isinstance(positions, range):
        return Rows(axis, positions)
    return Rows(axis, _as_positions(positions)) if len(np.unique(positions)) == len(positions) else None


def _as_positions(places: np.ndarray) -> tuple[int, ...] | range:
    """Positions that are equal where the same rows are selected, by whatever layer."""
    first = int(places[0])
    step = int(places[1]) - first if len(places) > 1 else 1
    if step and np.all(np.diff(places) == step):
        return range(first, first + step * len(places), step)
    return tuple(places.tolist())


def _through_reshape(rows: Rows, shape: Shape, out: Shape) -> Rows | None:
    """The rows of a reshape's input, where one of its axes is that of the output, or one of both is flat."""
    before, size = math.prod(out[: rows.axis]), out[rows.axis]
    for axis, n in enumerate(shape):
        if n == size and math.prod(shape[:axis]) == before:
            return rows.on(axis)
    if len(shape) == 1:
        values = len(rows.positions) * shape[0] // size
        return Rows(0, _as_positions(_flat(out, rows))) if values <= _MOST_VALUES else None
    return _of_flat(rows, shape) if len(out) == 1 else None


def _flat(shape: Shape, rows: Rows) -> np.ndarray:
    """Where rows of a shape lie in its values, one after the other."""
    before, after = math.prod(shape[: rows.axis]), math.prod(shape[rows.axis + 1 :])
    chosen: np.ndarray = np.arange(before)[:, None] * shape[rows.axis] + np.array(rows.positions)
    return (chosen.reshape(-1, 1) * after + np.arange(after)).ravel()


def _of_flat(rows: Rows, shape: Shape) -> Rows | None:
    """The rows of a shape of which these are all values, in order."""
    values = np.array(rows.positions)
    for axis, index in enumerate(np.unravel_index(values, shape)):
        _, first = np.unique(index, return_index=True)
        found = Rows(axis, _as_positions(index[np.sort(first)]))
        whole = len(found.positions) * math.prod(shape) == len(values) * shape[axis]
        if whole and np.array_equal(_flat(shape, found), values):
            return found
    return None


def _wanted(node: Node, shapes: Sequence[Shape], rows: Rows, rule: Rule | None) -> list[Rows | None] | None:
    """The rows of each input from which a layer computes these rows of its output, None for all of an input.

    None if it does not compute its rows one by one.
    """
    layer, out = node.layer, node.shape
    last = rows.axis == len(out) - 1
    if rule is not None and rule.has_arrays:
        return None  # they have a row for each of the input's
    if layer.identity:
        return [rows]
    if isinstance(layer, Activation):
        by_value = layer.function != "prelu" and not last
        return [rows] if by_value else None
    if isinstance(layer, BatchNorm) and len(out) == 1:  # constants for every value, as a bias of scores has them
        return [rows]
    if isinstance(layer, (Flatten, Reshape)) and (not last or len(out) == 1):
        through = _through_reshape(rows, shapes[0], out)  # type: ignore[arg-type]
        return [through] if through else None
    function = getattr(layer, "activation", None)
    if last or (function is not None and function.function == "prelu"):
        return None
    if isinstance(layer, (Dense, BatchNorm)):
        return [rows]
    if isinstance(layer, (LayerNorm, RMSNorm)):
        return [rows] if rows.axis < len(out) - layer.axes else None
    if isinstance(layer, Permute):
        return [rows.on(layer.axes[rows.axis])]
    if isinstance(layer, _SUMS):
        return [_of_stretched(rows, shape, out) for shape in shapes]  # type: ignore[arg-type]
    if isinstance(layer, Rotary):
        return [rows] if rows.axis == len(out) - 2 else None
    if isinstance(layer, MatMul):
        if rows.axis < len(out) - 2:
            return [_of_stretched(rows, shape, out) for shape in shapes]  # type: ignore[arg-type]
        return [rows.on(len(shapes[0]) - (1 if layer.transpose_a else 2)), None]
    if isinstance(layer, Softmax):
        return [_of_stretched(rows, shape, out) for shape in shapes]  # type: ignore[arg-type]
    if isinstance(layer, Attention) and rows.axis == len(out) - 2:
        mask = [rows.on(len(s) - 2) if len(s) > 1 and s[-2] > 1 else None for s in shapes[3:]]
        return [rows, None, None, *mask]
    return None


def _of_stretched(rows: Rows, shape: Shape, out: Shape) -> Rows | None:
    axis = rows.axis - (len(out) - len(shape))
    return rows.on(axis) if axis >= 0 and shape[axis] == out[rows.axis] else None


def _takes(shape: Shape, rows: Rows) -> bool:
    """Whether `Take` can select these rows, of values one after the other as a column."""
    return len(shape) == 1 or (2 <= len(shape) <= 4 and rows.axis < len(shape) - 1)


def _on_rows(node: Node, shapes: Sequence[Shape], rows: Rows) -> Layer:
    """The layer that computes these rows alone."""
    layer, index = node.layer, np.array(rows.positions)
    shape: Any = tuple(len(index) if a == rows.axis else n for a, n in enumerate(node.shape))
    if isinstance(layer, (Flatten, Reshape)):
        return Reshape(shape, name=node.name)
    if isinstance(layer, BatchNorm) and len(shape) == 1:
        gamma, beta = (None if a is None else a[index] for a in (layer.gamma, layer.beta))
        parts = {"mean": layer.mean[index], "variance": layer.variance[index]}
        return replace(layer, **parts, gamma=gamma, beta=beta, name=node.name)
    if isinstance(layer, Rotary):
        return replace(layer, cos=layer.cos[index], sin=layer.sin[index], name=node.name)
    if not isinstance(layer, (Attention, Softmax)):
        return layer
    scores: Any = node.shape
    axis = rows.axis - len(scores)
    if isinstance(layer, Attention):
        scores, axis = (*scores[:-2], layer.heads, scores[-2], shapes[1][-2]), -2
    n, m = scores[-2:] if len(scores) > 1 else (1, scores[-1])

    def of(array: np.ndarray | None) -> np.ndarray | None:
        whole = array is None or array.ndim < -axis or array.shape[axis] == 1
        return array if whole else np.take(array, index, axis)  # type: ignore[arg-type]

    seen = of(layer.mask)
    if layer.window is not None:
        within = between(layer.window, n, m)
        within = within[index] if axis == -2 else within
        seen = within if seen is None else within & (seen != 0)
    seen = None if seen is None or np.all(seen) else seen
    if isinstance(layer, Softmax):
        return replace(layer, mask=seen, window=None, name=node.name)
    return replace(layer, mask=seen, bias=of(layer.bias), window=None, name=node.name)


class _Search:
    """Which nodes of a model compute some of their rows alone, and which ones."""

    def __init__(self, model: Model, rule: Callable[[int], Rule | None]) -> None:
        self.nodes = model.nodes
        self.shapes: list[list[Any]] = [[self.nodes[j].shape for j in node.inputs] for node in self.nodes]
        asked: list[list[Rows | None]] = [[] for _ in self.nodes]
        for i in model.outputs:
            asked[i].append(None)
        #: The rows that all who use a node's output take, what the node needs of its inputs, and what it selects.
        self.rows: list[Rows | None] = [None] * len(self.nodes)
        self.wanted: list[list[Rows | None] | None] = [None] * len(self.nodes)
        self.selects: list[Rows | None] = [None] * len(self.nodes)
        for i in reversed(range(len(self.nodes))):
            self._ask(i, asked, rule(i))
        self.moved = [False] * len(self.nodes)
        for i, node in enumerate(self.nodes):
            wanted = self.wanted[i]
            if wanted is None:
                continue
            above = (w is not None and self.moved[j] for j, w in zip(node.inputs, wanted, strict=True))
            self.moved[i] = isinstance(node.layer, _HEAVY) or any(above)

    def _ask(self, i: int, asked: list[list[Rows | None]], rule: Rule | None) -> None:
        node, shapes = self.nodes[i], self.shapes[i]
        if not node.inputs:
            return
        rows = asked[i][0] if len(set(asked[i])) == 1 else None
        edges: list[Rows | None] = [None] * len(node.inputs)
        own = _selection(node, shapes[0], rule) if rows is None else None
        if rows is not None:
            wanted = _wanted(node, shapes, rows, rule)
            if wanted is not None and all(w is None or _takes(s, w) for w, s in zip(wanted, shapes, strict=True)):
                self.rows[i], self.wanted[i], edges = rows, wanted, wanted
        elif own is not None and len(shapes[0]) > 1 and _takes(shapes[0], own):
            self.selects[i], edges = own, [own]
        for j, edge in zip(node.inputs, edges, strict=True):
            asked[j].append(edge)


def select_early(model: Model, assignment: Assignment | None) -> Selected:
    """The model with its selections of rows as early as possible, its rules, and where its nodes are.

    The outputs are the same, and so is the relevance of every layer: that of rows that are not computed is zero.
    """
    activations = assignment.activations if assignment else {}
    rules = assignment.rules if assignment else {}
    search = _Search(model, lambda i: rules.get(i))
    if not any(search.moved):
        return Selected(model, assignment, tuple((i, None) for i in range(len(model.nodes))))
    builder = _Builder(search, rules)
    for i in range(len(model.nodes)):
        builder.add(i)
    new_rules = {builder.at[i]: rule for i, rule in rules.items()} | builder.rules
    early = Assignment(new_rules, {builder.at[i]: rule for i, rule in activations.items()})
    outputs = [builder.at[i] for i in model.outputs]
    nodes = tuple((at, search.rows[i] if search.moved[i] else None) for i, at in enumerate(builder.at))
    return Selected(Model(builder.layers, model.name, outputs), early if assignment else None, nodes)


class _Builder:
    """The nodes of the new model."""

    def __init__(self, search: _Search, rules: dict[int, Rule]) -> None:
        self.search, self.old_rules = search, rules
        self.layers: list[tuple[Layer, tuple[int, ...]]] = []
        self.at: list[int] = []
        self.rules: dict[int, Rule] = {}
        self.selections: dict[tuple[int, Rows], int] = {}
        self.names = {node.name for node in search.nodes}
        uses = [id(node.layer) for node in search.nodes]
        self.shared = {i for i, use in enumerate(uses) if uses.count(use) > 1}

    def add(self, i: int) -> None:
        """The i-th node, on the rows that it needs."""
        search, node = self.search, self.search.nodes[i]
        own = search.selects[i]
        if own is not None and search.moved[node.inputs[0]]:
            layer: Layer = Identity("rows selected above", name=node.name)
            inputs = [self.at[node.inputs[0]]]
        elif search.moved[i]:
            wanted, rows = search.wanted[i], search.rows[i]
            assert wanted is not None and rows is not None
            layer = _on_rows(node, search.shapes[i], rows)
            inputs = [self._source(j, w, node) for j, w in zip(node.inputs, wanted, strict=True)]
        else:
            layer, inputs = node.layer, [self.at[j] for j in node.inputs]
        if i in self.shared and layer is node.layer:
            layer = replace(layer, name=node.name)
        self.layers.append((layer, tuple(inputs)))
        self.at.append(len(self.layers) - 1)

    def _source(self, j: int, rows: Rows | None, node: Node) -> int:
        """The j-th node's output, or these rows of it."""
        if rows is None or self.search.moved[j]:
            return self.at[j]
        if (j, rows) not in self.selections:
            name, flat = f"{self.search.nodes[j].name}/rows", len(self.search.nodes[j].shape) == 1
            places = [None] * max(1, len(self.search.nodes[j].shape) - 1)
            places[rows.axis] = tuple(rows.positions)  # type: ignore[call-overload]
            at = self._move(Reshape((-1, 1)), f"{name}/column", self.at[j]) if flat else self.at[j]
            at = self._move(Take(tuple(places)), name, at)
            self.selections[j, rows] = self._move(Reshape((-1,)), f"{name}/flat", at) if flat else at
        return self.selections[j, rows]

    def _move(self, layer: Layer, name: str, source: int) -> int:
        """A new layer that moves values, which relevance passes as it is."""
        while name in self.names:
            name += "'"
        self.names.add(name)
        self.layers.append((replace(layer, name=name), (source,)))
        self.rules[len(self.layers) - 1] = Pass()
        return len(self.layers) - 1
