"""Models for samples padded at their ends, where what lies beyond a sample's end does not change its numbers.

`fit_padding` follows the axes of positions through the layers. Where keys of attention or steps of a recurrent layer
need to be hidden, the model gets one more input, a mask of each sample's own positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from ..model.graph import Model
from ..model.layers import (
    RNN,
    SOFTMAXES,
    Activation,
    Add,
    Attention,
    Average,
    BatchNorm,
    Concat,
    Crop,
    Dense,
    Embedding,
    Flatten,
    Input,
    Layer,
    LayerNorm,
    Masking,
    MatMul,
    Maximum,
    Minimum,
    Multiply,
    Permute,
    Reshape,
    RMSNorm,
    Rotary,
    Softmax,
    StepMask,
    Subtract,
    Take,
)
from ..rules import Pass
from ..rules.composites import Assignment
from ..rules.sides import carries_relevance
from .padded_layers import Axes, PaddedLayer, Planned, Shape, layers_of, ragged_axes

_NONE: Axes = frozenset()


@dataclass(frozen=True)
class PaddedModel:
    """A model of one length for samples of that length and shorter ones.

    Attributes
    ----------
    model : Model
    assignment : Assignment or None
        The rules of its layers.
    length : int
    masks : tuple of str
        The model's last inputs, which the original does not have: "own" is 1 at each of a sample's own positions,
        (length,), "last" at the last one alone, (1, length).
    layers : tuple of PaddedLayer
        All layers of the model that is explained.
    moves : frozenset of str
        The names of layers that select each sample's last row.
    """

    model: Model
    assignment: Assignment | None
    length: int
    masks: tuple[str, ...]
    layers: tuple[PaddedLayer, ...]
    moves: frozenset[str]

    def mask_values(self, lengths: Sequence[int]) -> list[np.ndarray]:
        """The values of the additional inputs, for samples of these lengths."""
        positions, ends = np.arange(self.length), np.array(lengths)[:, None]
        values = {"own": positions < ends, "last": (positions == ends - 1)[:, None]}
        return [values[mask] for mask in self.masks]


def fit_padding(long: Planned, short: Planned, length: int, shorter: int) -> PaddedModel | None:
    """The model of one length for samples of both; None where the shorter ones would have other numbers.

    Parameters
    ----------
    long, short : Planned
        One model for samples of both lengths.
    length, shorter : int
    """
    assignment = long.early.assignment
    rules = assignment.rules.values() if assignment else ()
    if any(rule.has_arrays for rule in rules):
        return None
    model = long.early.model
    walk = _Walk(model, short.early.model, length, shorter)
    first = min(walk.masked | walk.last, default=len(model.nodes))
    layers = layers_of(long, short, length, shorter)
    if not walk.fits or layers is None or first < model.inputs[-1]:  # masks come after all inputs
        return None
    # what stabilizes sums of scores and masks counts the masks
    counted = any(getattr(rule, "masks", False) for rule in rules)
    return None if walk.masked and counted else _Builder(walk, assignment).padded(layers)


class _Refused(Exception):  # noqa: N818 - it ends a walk
    """Padding would change what a layer computes."""


def _equal(a: Any, b: Any) -> bool:
    """Whether two values of layers' fields are equal; an array may go on where the other one ends."""
    if a is b:
        return True
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        fits = a.ndim == b.ndim and all(n >= m for n, m in zip(a.shape, b.shape, strict=True))
        return fits and np.array_equal(a[tuple(map(slice, b.shape))], b)
    if type(a) is not type(b):
        return False
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, Mapping):
        return set(a) == set(b) and all(_equal(a[key], b[key]) for key in a)
    if is_dataclass(a):
        return all(_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b)


class _Walk:
    """Follows the axes of positions through a model of two lengths.

    ``zeros`` has, for each node, the axes on which all values beyond a sample's end are exactly 0 wherever the other
    axes are within it. A layer is refused unless values within a sample's end come from such values alone, forwards and
    backwards, in the same order as without the padding.
    """

    def __init__(self, long: Model, short: Model, n: int, m: int) -> None:
        self.long, self.short, self.length = long, short, n
        self.carries = carries_relevance(long)
        self.zeros: list[Axes] = []
        #: The nodes that must get the mask of a sample's own positions.
        self.masked: set[int] = set()
        #: The nodes that select the last position alone.
        self.last: set[int] = set()
        pairs = list(zip(long.nodes, short.nodes, strict=False))
        self.ragged: list[Axes] = []
        self.fits = len(long.nodes) == len(short.nodes) and long.outputs == short.outputs
        for a, b in pairs if self.fits else ():
            ragged = ragged_axes(a.shape, b.shape, n, m)
            self.fits = self.fits and type(a.layer) is type(b.layer) and a.inputs == b.inputs and ragged is not None
            self.ragged.append(ragged or _NONE)
        self.fits = self.fits and not any(self.ragged[i] for i in long.outputs)
        if self.fits:
            try:
                for i in range(len(long.nodes)):
                    self.zeros.append(self._zeros(i))
            except _Refused:
                self.fits = False

    def _zeros(self, i: int) -> Axes:
        """The axes of a node's output that are 0 beyond a sample's end; _Refused where padding would matter."""
        node, other = self.long.nodes[i], self.short.nodes[i]
        layer: Any = node.layer
        if isinstance(layer, Input):
            return self.ragged[i]  # a sample is padded with zeros
        if not any(self.ragged[j] for j in node.inputs):
            if self.ragged[i] or not _equal(layer, other.layer) or not _equal(other.layer, layer):
                raise _Refused
            return _NONE
        rule = next((rule for types, rule in _LAYERS if isinstance(layer, types)), None)
        if rule is None and not layer.identity:
            raise _Refused
        if not isinstance(layer, (Reshape, Crop, Take)) and not _equal(layer, other.layer):
            raise _Refused
        return self.zeros[node.inputs[0]] if rule is None else rule(self, i, layer)

    def _whole_from(self, i: int, axis: int) -> None:
        """Refuse a layer that mixes positions on one of its input's axes from this one on."""
        (j,) = self.long.nodes[i].inputs
        if any(a >= axis for a in self.ragged[j]):
            raise _Refused

    def _rank(self, j: int) -> int:
        return len(self.long.nodes[j].shape)

    # Layers: each returns the axes that are zero

    def _by_row(self, i: int, layer: Any) -> Axes:
        rank = self._rank(self.long.nodes[i].inputs[0])
        self._whole_from(i, rank - (layer.axes if isinstance(layer, (LayerNorm, RMSNorm)) else 1))
        return _NONE

    def _by_value(self, i: int, layer: Any) -> Axes:
        if layer.function == "prelu" or layer.function in SOFTMAXES:
            self._whole_from(i, 0 if layer.function == "prelu" else self._rank(i) - 1)
        return _NONE

    def _constants(self, i: int, layer: Any) -> Axes:
        """Constants of each value or position: those of a shorter sample are the first ones of a longer one."""
        return _NONE

    def _embedding(self, i: int, layer: Any) -> Axes:
        """Rows of a table for indices that are inputs, so that 0, the padding, is one."""
        (j,) = self.long.nodes[i].inputs
        if self.zeros[j] != self.ragged[j]:
            raise _Refused
        return _NONE

    def _step_mask(self, i: int, layer: Any) -> Axes:
        (j,) = self.long.nodes[i].inputs
        if self.ragged[j] != {0}:
            raise _Refused
        return self.zeros[j] if layer.value == 0 else _NONE

    def _moved(self, i: int, layer: Any) -> Axes:
        """A reshape that adds and removes axes of size 1, or keeps an axis of positions first among those it joins."""
        (j,) = self.long.nodes[i].inputs
        whole, out = self.long.nodes[j].shape, self.long.nodes[i].shape
        axes, new_axes = ([axis for axis, size in enumerate(shape) if size != 1] for shape in (whole, out))
        if [whole[axis] for axis in axes] == [out[axis] for axis in new_axes]:
            return frozenset(new for axis, new in zip(axes, new_axes, strict=True) if axis in self.zeros[j])
        if len(self.ragged[j]) != 1 or len(self.ragged[i]) != 1:
            raise _Refused
        (before,), (after,) = self.ragged[j], self.ragged[i]
        if math.prod(whole[:before]) != math.prod(out[:after]):  # type: ignore[arg-type]
            raise _Refused
        return self.ragged[i] if self.zeros[j] else _NONE

    def _permuted(self, i: int, layer: Any) -> Axes:
        zeros = self.zeros[self.long.nodes[i].inputs[0]]
        return frozenset(axis for axis, source in enumerate(layer.axes) if source in zeros)

    def _together(self, i: int, layer: Any) -> Axes:
        """Values of several inputs at the same position."""
        sets = []
        for j in self.long.nodes[i].inputs:
            shift = self._rank(i) - self._rank(j)
            if {axis + shift for axis in self.ragged[j]} != self.ragged[i] and self.carries[j]:
                raise _Refused  # its relevance would be a sum over positions
            sets.append(frozenset(axis + shift for axis in self.zeros[j]))
        return _NONE.union(*sets) if isinstance(layer, Multiply) else sets[0].intersection(*sets[1:])

    def _concat(self, i: int, layer: Any) -> Axes:
        inputs = self.long.nodes[i].inputs
        if layer.axis % self._rank(i) in self.ragged[i]:
            raise _Refused
        sets = [self.zeros[j] for j in inputs]
        return sets[0].intersection(*sets[1:])

    def _rotary(self, i: int, layer: Any) -> Axes:
        self._whole_from(i, self._rank(i) - 1)
        return _NONE

    @staticmethod
    def _causal(window: Any, seen: np.ndarray | None) -> bool:
        """Whether queries see no keys after their own position."""
        if window is not None and window[1] == 0:
            return True
        square = seen is not None and seen.ndim >= 2 and seen.shape[-1] > 1
        return square and not np.triu(np.broadcast_to(seen, seen.shape), 1).any()  # type: ignore[union-attr, arg-type]

    def _attention(self, i: int, layer: Any) -> Axes:
        inputs = self.long.nodes[i].inputs
        for j in inputs[:3]:
            if any(axis != self._rank(j) - 2 for axis in self.ragged[j]):
                raise _Refused
        queries, keys = (self.long.nodes[j].shape[-2] for j in inputs[:2])
        if self.ragged[inputs[1]] and not (queries == keys and self._causal(layer.window, layer.mask)):
            self._hide(i, inputs[3] if len(inputs) > 3 else None, keys)
        return _NONE

    def _softmax(self, i: int, layer: Any) -> Axes:
        inputs = self.long.nodes[i].inputs
        last = self._rank(i) - 1
        if last not in self.ragged[i]:
            return _NONE
        *_, queries, keys = (None, *self.long.nodes[i].shape)
        if not (queries == keys and self._causal(layer.window, layer.mask)):
            self._hide(i, inputs[1] if len(inputs) > 1 else None, keys)
        return frozenset({last})

    def _hide(self, i: int, mask: int | None, keys: int | None) -> None:
        """Give a layer the mask of a sample's own positions, unless its own mask hides what lies beyond."""
        if mask is None and keys == self.length:
            self.masked.add(i)
        elif mask is None or self._rank(mask) - 1 not in self.zeros[mask]:
            raise _Refused

    def _matmul(self, i: int, layer: Any) -> Axes:
        a, b = self.long.nodes[i].inputs
        of_a, of_b = self._rank(a), self._rank(b)
        row, summed_a = (of_a - 1, of_a - 2) if layer.transpose_a else (of_a - 2, of_a - 1)
        summed_b, column = (of_b - 1, of_b - 2) if layer.transpose_b else (of_b - 2, of_b - 1)
        if self.ragged[a] - {row, summed_a} or self.ragged[b] - {column, summed_b}:
            raise _Refused
        if summed_a in self.ragged[a] and not (summed_a in self.zeros[a] or summed_b in self.zeros[b]):
            raise _Refused
        rank = self._rank(i)
        return frozenset(
            axis for axis, zero in ((rank - 2, row in self.zeros[a]), (rank - 1, column in self.zeros[b])) if zero
        )

    def _selected(self, i: int, layer: Any) -> Axes:
        """The same positions of every length, counted from the first one; or the last one alone."""
        (j,) = self.long.nodes[i].inputs
        other: Any = self.short.nodes[i].layer
        for axis in range(layer.rank):
            sizes: Any = self.long.nodes[j].shape[axis], self.short.nodes[j].shape[axis]
            positions = _positions(layer, axis, sizes[0]), _positions(other, axis, sizes[1])
            all_of_both = positions == (range(sizes[0]), range(sizes[1]))
            if positions[0] == positions[1] or all_of_both:
                continue
            last = positions == tuple(range(n - 1, n) for n in sizes)
            whole_otherwise = all(len(_positions(layer, k, 2)) == 2 for k in range(1, layer.rank))
            if not last or axis or sizes[0] != self.length or not whole_otherwise:
                raise _Refused
            self.last.add(i)
        return self.zeros[j] & self.ragged[i]

    def _steps(self, i: int, layer: Any) -> Axes:
        inputs = self.long.nodes[i].inputs
        reordered = layer.return_sequences and layer.go_backwards and not layer.time_order
        if layer.extra_rows or reordered or any(self.ragged[j] for j in inputs[1 + layer.takes_mask :]):
            raise _Refused
        self._hide(i, inputs[1] if layer.takes_mask else None, self.long.nodes[inputs[0]].shape[0])
        return frozenset({0}) if layer.zero_masked and layer.return_sequences else _NONE


def _positions(layer: Any, axis: int, size: int) -> Any:
    """The positions that a layer selects on an axis: a range where they are one."""
    if isinstance(layer, Crop):
        before, after = layer.pairs[axis]
        return range(before, size - after)
    places = layer.places[axis]
    if places is None:
        return range(size)
    first = int(places[0])
    run = range(first, first + len(places))
    return run if np.array_equal(places, run) else tuple(places.tolist())


_LAYERS: tuple[tuple[Any, Callable[[_Walk, int, Any], Axes]], ...] = (
    ((Dense, LayerNorm, RMSNorm), _Walk._by_row),
    (Activation, _Walk._by_value),
    (BatchNorm, _Walk._constants),
    (Embedding, _Walk._embedding),
    ((Masking, StepMask), _Walk._step_mask),
    ((Flatten, Reshape), _Walk._moved),
    (Permute, _Walk._permuted),
    ((Add, Average, Subtract, Multiply, Maximum, Minimum), _Walk._together),
    (Concat, _Walk._concat),
    (Rotary, _Walk._rotary),
    (Attention, _Walk._attention),
    (Softmax, _Walk._softmax),
    (MatMul, _Walk._matmul),
    ((Crop, Take), _Walk._selected),
    (RNN, _Walk._steps),
)


class _Builder:
    """The padded model, from what a walk found."""

    def __init__(self, walk: _Walk, assignment: Assignment | None) -> None:
        self.walk, self.source, self.rules = walk, walk.long, assignment
        self.layers: list[tuple[Layer, tuple[int, ...]]] = []
        self.names = {node.name for node in self.source.nodes}
        self.masks: dict[str, int] = {}
        self.replaced: dict[int, Layer] = {}
        #: The names of layers that hand relevance on as it is.
        self.moves: set[str | None] = set()

    def padded(self, layers: tuple[PaddedLayer, ...]) -> PaddedModel:
        """The model, its rules, and where it has the layers that are explained."""
        walk, nodes = self.walk, self.source.nodes
        at: list[int] = []
        for i, node in enumerate(nodes):
            inputs = [at[j] for j in node.inputs]
            if i in walk.last:
                at.append(self._last(i, *inputs))
            elif i in walk.masked:
                at.append(self._masked(node.layer, inputs))
            else:
                at.append(self._add(node.layer, *inputs))
            if i == self.source.inputs[-1]:
                self._add_masks()
        model = Model(self.layers, self.source.name, [at[i] for i in self.source.outputs], self.source.sequential)
        assignment = None
        if self.rules is not None:
            own = self.rules.rules
            rules = {at[i]: rule for i, rule in own.items() if i not in walk.last}
            rules |= {i: Pass() for i, (layer, _) in enumerate(self.layers) if layer.name in self.moves}
            activations = {at[i]: rule for i, rule in self.rules.activations.items()}
            assignment = Assignment(rules, activations, kept=frozenset(at[i] for i in self.rules.kept))
        moves = frozenset(name for name in self.moves if name is not None)
        return PaddedModel(model, assignment, walk.length, tuple(self.masks), layers, moves)

    def _add(self, layer: Layer, *inputs: int) -> int:
        self.layers.append((layer, inputs))
        return len(self.layers) - 1

    def _name(self, name: str) -> str:
        while name in self.names:
            name += "'"
        self.names.add(name)
        return name

    def _add_masks(self) -> None:
        length = self.walk.length
        shapes: dict[str, Shape] = {"own": (length,), "last": (1, length)}
        for mask, needed in (("own", self.walk.masked), ("last", self.walk.last)):
            if needed:
                self.masks[mask] = self._add(Input(shapes[mask], "truth", name=self._name(f"{mask} positions")))

    def _masked(self, layer: Layer, inputs: list[int]) -> int:
        """A layer that does not see what lies beyond a sample's end."""
        mask = self.masks["own"]
        if not isinstance(layer, RNN):
            return self._add(layer, *inputs, mask)
        layer = self.replaced.setdefault(id(layer), replace(layer, takes_mask=True))
        return self._add(layer, inputs[0], mask, *inputs[1:])

    def _last(self, i: int, source: int) -> int:
        """A sample's last row: a product of matrices with 1 there and 0 elsewhere, which changes nothing."""
        node, shape = self.source.nodes[i], self.source.nodes[self.source.nodes[i].inputs[0]].shape
        if len(shape) == 2:
            return self._move(MatMul(name=node.name), self.masks["last"], source)
        width = math.prod(shape[1:])  # type: ignore[arg-type]
        rows = self._move(Reshape((self.walk.length, width), name=self._name(f"{node.name}/rows")), source)
        row = self._move(MatMul(name=self._name(f"{node.name}/row")), self.masks["last"], rows)
        return self._move(Reshape(node.shape, name=node.name), row)  # type: ignore[arg-type]

    def _move(self, layer: Layer, *inputs: int) -> int:
        self.moves.add(layer.name)
        return self._add(layer, *inputs)
