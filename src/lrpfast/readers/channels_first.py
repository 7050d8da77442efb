"""Builds a model from operations on channels-first tensors, laid out channels-last inside.

A `Tensor` knows where each of its axes lies inside the model. So transposing a tensor costs
nothing, and values move only where a layer needs its axes in another order: at the model's
inputs and outputs, and where a reshape joins axes that do not lie side by side.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..budget import take
from ..errors import ModelFormatError, ShapeError, UnsupportedLayerError
from ..model import layers as L
from ..model.graph import Model
from ..model.layers import Layer, Shape
from .batch_axis import FIRST, BatchAxis, sample_axis
from .fuse import fuse_attention
from .input_shape import FIX_SIZE
from .unrolled import fuse_recurrent
from .written_out import warn_of_cells

#: A small file could ask for any number of layers, by slices of slices.
MAX_NODES = 100_000


def clip(low: float | None, high: float | None) -> Layer:
    """The layer of min(max(x, low), high): a ReLU where that is one, since more is known of ReLUs."""
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    if (low, high) == (-math.inf, math.inf):
        return L.Identity("no limits")
    if low == 0:
        return L.Activation("relu", {"max_value": None if high == math.inf else high})
    return L.Activation("clip", {"low": low, "high": high})


def rounded_up(n: int, pads: tuple[int, int], reach: int, stride: int) -> int:
    """What ceil_mode adds after an axis of n values; no window begins beyond them and the padding before."""
    room = n + sum(pads) - reach
    windows = -(-room // stride) + 1
    windows -= (windows - 1) * stride >= n + pads[0]
    return max((windows - 1) * stride - room, 0)


def open_size(shape: Shape) -> UnsupportedLayerError:
    """Of an operation that needs a size which the file leaves open."""
    return UnsupportedLayerError(f"needs an input of fixed size; the file leaves it open: {shape}. {FIX_SIZE}")


@dataclass(frozen=True)
class Tensor:
    """A value in the model.

    Attributes
    ----------
    node : int
        The number of the node that computes it.
    shape : tuple
        Per sample, its axes as the file has them.
    order : tuple of int
        Axis i inside the model is axis ``order[i]`` of ``shape``.
    batch : BatchAxis
        Where the batch lies among them in the file.
    """

    node: int
    shape: Shape
    order: tuple[int, ...]
    batch: BatchAxis = FIRST

    @property
    def rank(self) -> int:
        """How many axes the file's tensor has."""
        return len(self.batch.axes(len(self.shape)))

    def axis(self, dim: int) -> int:
        """The sample's axis that is one of the file's, which must not hold the batch."""
        return sample_axis(self.batch, len(self.shape), dim)

    def sizes(self, batch: int | None) -> Shape:
        """The shape in the file, for so many samples."""
        return self.batch.sizes(self.shape, batch)

    @property
    def inside(self) -> Shape:
        """The shape inside the model."""
        return tuple(self.shape[a] for a in self.order)


@dataclass(frozen=True)
class Flat:
    """A tensor flattened in the file's order, which is not the order inside: moved only if its user cannot adapt."""

    source: Tensor

    @property
    def shape(self) -> Shape:
        return (math.prod(self.source.shape),)  # type: ignore[arg-type]

    @property
    def batch(self) -> BatchAxis:
        return FIRST

    @property
    def rank(self) -> int:
        """How many axes the file's tensor has."""
        return 2

    def axis(self, dim: int) -> int:
        """The sample's axis that is one of the file's, which must not be the batch's."""
        return sample_axis(FIRST, 1, dim)

    def sizes(self, batch: int | None) -> Shape:
        """The shape in the file, for so many samples."""
        return FIRST.sizes(self.shape, batch)


Value = Tensor | Flat


class Builder:
    """Lays layers out on tensors whose axes are the file's."""

    def __init__(self) -> None:
        self.nodes: list[tuple[Layer, tuple[int, ...]]] = []
        self.shapes: list[Shape] = []
        #: What the layers placed next are named after.
        self.scope = "layer"
        self._names: dict[str, int] = {}  # each name, and the last number tried after it
        self._moves: dict[tuple[int, tuple[int, ...]], int] = {}
        self._origin: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._flattened: dict[Tensor, Tensor] = {}

    # -- nodes ----------------------------------------------------------------

    def add(self, layer: Layer, *inputs: int, part: str = "") -> int:
        """Add a layer, named after the scope and, where it is a helper, its part in it; its node's number."""
        if len(self.nodes) >= MAX_NODES:
            raise ModelFormatError(f"the model would have more than {MAX_NODES:,} layers")
        take(layer.nbytes, str(layer))
        stem = name = self.scope + (f"/{part}" if part else "")
        count = self._names.get(stem, 0)
        while name in self._names:
            count += 1
            name = f"{stem}_{count}"
        self._names[stem] = count  # the search for the next name of this stem goes on from here
        self._names.setdefault(name, 0)
        self.shapes.append(layer.output_shape(*(self.shapes[i] for i in inputs)))
        self.nodes.append((replace(layer, name=name), inputs))
        return len(self.nodes) - 1

    def input(self, name: str, shape: Shape, kind: str = "number") -> Tensor:
        self.scope = name
        return Tensor(self.add(L.Input(shape, kind)), tuple(shape), tuple(range(len(shape))))

    def model(self, outputs: Sequence[Value], name: str) -> Model:
        """The model that returns the values, in the file's order; layers that no output needs are left out."""
        result_nodes = []
        for value in outputs:
            self.scope = str(self.nodes[(value.source if isinstance(value, Flat) else value).node][0].name)
            if not value.batch.whole:
                raise UnsupportedLayerError(
                    f"returns what {self.scope!r} makes, whose batch axis is part of axis {value.batch.position} of "
                    f"{value.rank}. Give the batch an axis by itself"
                )
            node = self.plain(value).node
            if value.batch != FIRST:
                at = f"the output {self.scope!r} has the batch on axis {value.batch.position}"
                sizes = ", ".join(map(str, self.shapes[node]))
                warnings.warn(f"{at}; lrpfast returns it first: (samples, {sizes})", stacklevel=2)
            result_nodes.append(node)
        needed = set(result_nodes)
        for i in range(len(self.nodes) - 1, -1, -1):
            if i in needed:
                needed.update(self.nodes[i][1])
        for i, (layer, _) in enumerate(self.nodes):
            if isinstance(layer, L.Input) and i not in needed:
                raise UnsupportedLayerError(
                    f"no output depends on the input {layer.name!r}, so that there is nothing to explain. Save the "
                    "model without it"
                )
        number = {i: k for k, i in enumerate(sorted(needed))}
        nodes = [(self.nodes[i][0], tuple(number[j] for j in self.nodes[i][1])) for i in number]
        shapes, ends = [self.shapes[i] for i in number], [number[i] for i in result_nodes]
        nodes, shapes, ends = fuse_recurrent(nodes, shapes, ends)
        nodes, ends = fuse_attention(nodes, shapes, ends)
        warn_of_cells(nodes)
        return Model(nodes, name, ends)

    # -- layout ---------------------------------------------------------------

    def lay(self, value: Value, order: Sequence[int]) -> Tensor:
        """The tensor with its axes in that order inside."""
        t, order = self.tensor(value), tuple(order)
        if order == t.order:
            return t
        axes = tuple(t.order.index(a) for a in order)
        node = t.node
        if node in self._origin:  # a move of a move is one move, or none
            node, before = self._origin[node]
            axes = tuple(before[a] for a in axes)
        if axes != tuple(range(len(axes))):
            if (node, axes) not in self._moves:
                moved = self.add(L.Permute(axes), node, part="layout")
                self._moves[node, axes] = moved
                self._origin[moved] = (node, axes)
            node = self._moves[node, axes]
        return replace(t, node=node, order=order)

    def plain(self, value: Value) -> Tensor:
        """The tensor with a sample's axes in the file's order."""
        return self.lay(value, range(len(value.shape)))

    def channels_last(self, value: Value) -> Tensor:
        """The tensor with the file's first axis last inside, and the others in their order before it."""
        return self.lay(value, [*range(1, len(value.shape)), 0])

    def last(self, value: Value, axis: int) -> Tensor:
        """The tensor with one of the file's axes last inside; the others stay as they lie."""
        t = self.tensor(value)
        return self.lay(t, [*(a for a in t.order if a != axis), axis])

    def tensor(self, value: Value) -> Tensor:
        """The value as a tensor: what was flattened is moved into the file's order."""
        if isinstance(value, Tensor):
            return value
        if value.source not in self._flattened:
            node = self.add(L.Flatten(), self.plain(value.source).node, part="flatten")
            self._flattened[value.source] = Tensor(node, value.shape, (0,))
        return self._flattened[value.source]

    def transpose(self, value: Value, axes: Sequence[int], batch: BatchAxis | None = None) -> Tensor:
        """A sample's axes in another order; nothing moves inside. ``batch`` is as in `reshape`."""
        t = self.tensor(value)
        batch = check_first(t) if batch is None else batch
        return Tensor(t.node, tuple(t.shape[a] for a in axes), tuple(list(axes).index(a) for a in t.order), batch)

    def reshape(self, value: Value, shape: Sequence[int | None], batch: BatchAxis | None = None) -> Value:
        """A sample's values in the file's order, in another shape.

        ``batch`` says where the batch lies then, which no axis of the sample may cross; without it the batch must be
        first, and stays so.
        """
        t, shape = value.source if isinstance(value, Flat) else value, tuple(shape)
        batch = check_first(value) if batch is None else batch
        if shape == value.shape:
            return value if batch == value.batch else replace(self.tensor(value), batch=batch)
        if None in t.shape and shape == (-1,):
            if t.order != tuple(range(len(t.shape))):
                raise open_size(t.shape)
            return Tensor(self.add(L.Flatten(), t.node), (None,), (0,), batch)
        old, new = _numbered(t.shape), _numbered(shape)
        if math.prod(old) != math.prod(new) or 0 in new:
            raise open_size(t.shape) if None in t.shape else ShapeError(f"it cannot make {shape} of {t.shape}")
        if shape == t.shape:
            return replace(t, batch=batch)
        lies = [a for a in t.order if old[a] != 1]
        if len(shape) == 1 and lies != sorted(lies) and batch == FIRST:
            return Flat(replace(t, batch=FIRST))
        groups = _groups(old, new)
        groups.sort(key=lambda group: min(lies.index(a) for a in group[0]))
        axes = [a for group, _ in groups for a in group]
        if axes != lies:
            t = self.lay(t, [*(a for a in t.order if old[a] == 1), *axes])
        order = _with_ones([a for _, group in groups for a in group], new)
        inside = tuple(shape[a] for a in order)
        node = t.node
        if inside != t.inside:
            if inside.count(None) > 1:
                raise open_size(t.shape)
            sizes = tuple(-1 if n is None else n for n in inside)
            node = self.add(L.Flatten() if len(inside) == 1 else L.Reshape(sizes), t.node)
        return Tensor(node, shape, order, batch)

    # -- layers ---------------------------------------------------------------

    def each(self, layer: Layer, value: Value) -> Value:
        """A layer that treats all values alike."""
        if isinstance(value, Flat):
            return Flat(self.each(layer, value.source))  # type: ignore[arg-type]
        return replace(value, node=self.add(layer, value.node))

    def window(self, layer: Layer, value: Value, part: str = "") -> Tensor:
        """A layer on spatial axes and channels."""
        check_first(value)
        return self.spatial(layer, value, part)

    def spatial(self, layer: Layer, value: Value, part: str = "") -> Tensor:
        """A layer on a sample's spatial axes and channels, wherever the batch lies."""
        t = self.channels_last(value)
        node = self.add(layer, t.node, part=part)
        result = self.shapes[node]
        return replace(t, node=node, shape=(result[-1], *result[:-1]))

    def dense(self, value: Value, kernel: np.ndarray, bias: np.ndarray | None) -> Tensor:
        """A dense layer on the file's last axis."""
        value.axis(-1)  # which must not hold the batch
        if isinstance(value, Flat) and value.shape[0] == kernel.shape[0]:
            t = value.source
            rows = kernel.reshape(*t.shape, -1)  # type: ignore[arg-type]
            kernel = rows.transpose(*t.order, len(t.order)).reshape(*kernel.shape)
            node = self.add(L.Dense(kernel, bias), self.add(L.Flatten(), t.node, part="flatten"))
            return Tensor(node, (kernel.shape[1],), (0,))
        t = self.last(value, len(value.shape) - 1)
        return replace(t, node=self.add(L.Dense(kernel, bias), t.node), shape=(*t.shape[:-1], kernel.shape[1]))

    def embedding(self, table: np.ndarray, indices: Value) -> Tensor:
        """Rows of a table, on a new last axis."""
        t = self.tensor(indices)
        node = self.add(L.Embedding(table), t.node)
        return replace(t, node=node, shape=(*t.shape, table.shape[1]), order=(*t.order, len(t.shape)))

    def merge(self, layer: Layer, values: Sequence[Value], axis: int | None = None) -> Tensor:
        """A layer of several inputs, laid out as the largest of them; ``axis`` is a sample's, of a Concat."""
        tensors = [self.tensor(v) for v in values]
        if len({len(t.shape) for t in tensors}) > 1 or len({t.batch for t in tensors}) > 1:
            shapes = ", ".join(str(t.shape) for t in tensors)
            raise UnsupportedLayerError(
                f"combines samples of shapes {shapes}, whose batch axes do not meet. Give all the same number of axes"
            )
        sizes = [math.prod(n or 1 << 16 for n in t.shape) for t in tensors]
        order = tensors[sizes.index(max(sizes))].order
        if axis is not None:
            layer = replace(layer, axis=order.index(axis))  # type: ignore[call-arg]
        node = self.add(layer, *(self.lay(t, order).node for t in tensors))
        shape: list[int | None] = [None] * len(order)
        for a, n in zip(order, self.shapes[node], strict=True):
            shape[a] = n
        return Tensor(node, tuple(shape), order, tensors[0].batch)

    def affine(self, value: Value, scale: np.ndarray | np.float64, shift: np.ndarray | np.float64) -> Value:
        """x · scale + shift, with arrays that stretch to the tensor's shape."""
        rank = len(value.shape)
        if rank == 0:
            return self.reshape(self.affine(self.reshape(value, (1,)), scale, shift), ())
        scale, shift = (a.reshape((1,) * (rank - a.ndim) + a.shape) for a in (scale, shift))
        both = np.broadcast_shapes(scale.shape, shift.shape)
        if any(n not in (1, m) for n, m in zip(both, value.shape, strict=True) if m is not None):
            raise ShapeError(f"constants of shape {both} do not fit its input of shape {value.shape}")
        varies = [axis for axis, n in enumerate(both) if n != 1]
        t = self.tensor(value)
        if len(varies) <= 1:  # one number for each position on one axis
            t = self.last(t, varies[0] if varies else t.order[-1])
            count = t.inside[-1]
            if count is None:
                raise open_size(t.shape)
            take(6 * 8 * count, f"a constant for each of {count:,} values")
            arrays = [np.broadcast_to(a.ravel(), (count,)) for a in (scale, shift)]
            return replace(t, node=self.add(_scaling(*arrays), t.node))
        if None in t.shape:
            raise open_size(t.shape)
        take(6 * 8 * math.prod(t.shape), f"a constant of shape {t.shape}")  # type: ignore[arg-type]
        whole = [np.broadcast_to(a, t.shape).transpose(t.order).ravel() for a in (scale, shift)]  # type: ignore[arg-type]
        node = self.add(_scaling(*whole), self.add(L.Flatten(), t.node, part="flatten"))
        return replace(t, node=self.add(L.Reshape(t.inside), node, part="shape"))  # type: ignore[arg-type]

    def along(self, value: Value, axis: int, make: Callable[[int, int], Layer], part: str = "") -> Tensor:
        """A layer on one of a sample's axes alone.

        Parameters
        ----------
        value : Value
        axis : int
        make : callable
            Gives the layer for so many spatial axes, of which it is to work on the i-th.
        """
        t = self.tensor(value)
        if None in t.shape and t.order[-1] == axis and 2 <= len(t.shape) <= 4:  # it becomes one of the spatial axes
            t = self.lay(t, [axis, *t.order[:-1]])
        position, inside = t.order.index(axis), t.inside
        node = t.node
        if position < len(inside) - 1 <= 3:
            node = self.add(make(len(inside) - 1, position), node, part=part)
            result = self.shapes[node][position]
        else:
            if None in inside:
                raise open_size(t.shape)
            before, after = math.prod(inside[:position]), math.prod(inside[position + 1 :])  # type: ignore[arg-type]
            node = self.add(L.Reshape((before, inside[position], after)), node, part="shape")  # type: ignore[arg-type]
            node = self.add(make(2, 1), node, part=part)
            result = self.shapes[node][1]
            node = self.add(L.Reshape((*inside[:position], result, *inside[position + 1 :])), node, part="shape")  # type: ignore[arg-type]
        return replace(t, node=node, shape=(*t.shape[:axis], result, *t.shape[axis + 1 :]))

    def pool_all(self, value: Value, axes: Sequence[int], kind: Any, keepdims: bool) -> Value:
        """The mean or the largest value over some of a sample's axes."""
        t = self.tensor(value)
        batch = t.batch if keepdims else t.batch.dropped(axes)
        remaining = [a for a in t.order if a not in axes]
        t = self.lay(t, [*(a for a in t.order if a in axes), *remaining])
        shape = tuple(1 if a in axes else n for a, n in enumerate(t.shape))
        if len(remaining) == 1 and len(axes) <= 3:
            node = self.add(kind(keepdims), t.node)
            return Tensor(node, *((shape, t.order) if keepdims else ((t.shape[remaining[0]],), (0,))), batch)
        if None in t.shape:
            raise open_size(t.shape)
        if not remaining and not keepdims:
            return self.reshape(self.pool_all(value, axes, kind, True), (), batch)
        sizes = [math.prod(t.shape[a] for a in group) for group in (axes, remaining)]  # type: ignore[misc]
        node = self.add(kind(False), self.add(L.Reshape(tuple(sizes)), t.node, part="shape"))
        if not keepdims:
            rank = {a: i for i, a in enumerate(sorted(remaining))}
            shape = tuple(t.shape[a] for a in sorted(remaining))
            result = Tensor(node, shape, tuple(rank[a] for a in remaining), batch)
        else:
            result = Tensor(node, shape, t.order, batch)
        inside = result.inside
        return result if len(inside) == 1 else replace(result, node=self.add(L.Reshape(inside), node, part="shape"))  # type: ignore[arg-type]


def check_first(value: Value) -> BatchAxis:
    """The batch first and by itself; an error where it is not."""
    if value.batch != FIRST:
        raise UnsupportedLayerError(
            f"takes a tensor whose batch axis {'is' if value.batch.whole else 'is part of'} axis "
            f"{value.batch.position} of {value.rank}. Move it to the front, by itself"
        )
    return FIRST


def _scaling(scale: np.ndarray, shift: np.ndarray) -> Layer:
    return L.BatchNorm(np.zeros(len(scale)), np.ones(len(scale)), scale, shift, 0.0)


#: Numbers that stand for open sizes, in their order, where axes are compared: no product of the others has these.
_PRIMES = (1_000_003, 1_000_033, 1_000_037, 1_000_039)


def _numbered(shape: Sequence[int | None]) -> list[int]:
    """The sizes, with a number for each that is open."""
    primes = iter(_PRIMES)
    return [next(primes, 0) if n is None else n for n in shape]


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Axes that a reshape turns into which others, in order; those of size 1 are left out."""
    a = [axis for axis, n in enumerate(old) if n != 1]
    b = [axis for axis, n in enumerate(new) if n != 1]
    groups = []
    while a:
        ins, outs = [a.pop(0)], [b.pop(0)]
        p, q = old[ins[0]], new[outs[0]]
        while p != q:
            if p < q:
                ins.append(a.pop(0))
                p *= old[ins[-1]]
            else:
                outs.append(b.pop(0))
                q *= new[outs[-1]]
        groups.append((ins, outs))
    return groups


def _with_ones(axes: list[int], shape: Sequence[int]) -> tuple[int, ...]:
    """An order of all axes in which those larger than 1 lie as given: the file's, or channels last, where it can be."""
    rank = len(shape)
    for order in (range(rank), [*range(1, rank), 0]):
        if [a for a in order if shape[a] != 1] == axes:
            return tuple(order)
    return (*(a for a in range(rank) if shape[a] == 1), *axes)
