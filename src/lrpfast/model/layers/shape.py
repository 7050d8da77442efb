"""Layers that move, drop or repeat values, and the embedding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError, ShapeError
from .base import Layer, Shape, as_array, each, known, whole
from .window import as_pairs, channels_last, per_axis


@dataclass(frozen=True, eq=False)
class Flatten(Layer):
    """Flatten one sample to a vector, in row-major order.

    Examples
    --------
    >>> lrpfast.layers.Flatten().output_shape((2, 3))
    (6,)
    """

    def output_shape(self, shape: Shape) -> Shape:
        sizes = known(shape)
        return (None if sizes is None else math.prod(sizes),)


@dataclass(frozen=True, eq=False)
class Reshape(Layer):
    """Give one sample another shape, in row-major order.

    Parameters
    ----------
    shape : int or tuple of int
        Without the batch axis; one entry may be -1, for the remaining values of the input.

    Raises
    ------
    ShapeError
        When ``shape`` is invalid, or, raised by the model, when its number of values is not that of the input.

    Examples
    --------
    >>> lrpfast.layers.Reshape((2, -1)).output_shape((6,))
    (2, 3)
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        shape = tuple(map(whole, each(self.shape)))
        if any(n is None or (n < 1 and n != -1) for n in shape) or shape.count(-1) > 1:
            raise ShapeError(f"{self}: shape must hold positive integers and at most one -1, not {self.shape!r:.80}")
        self._set(shape=shape)

    def output_shape(self, shape: Shape) -> Shape:
        sizes = known(shape)
        if sizes is None:
            return tuple(None if n == -1 else n for n in self.shape)
        size, fixed = math.prod(sizes), math.prod(n for n in self.shape if n != -1)
        if (-1 in self.shape and size % fixed) or (-1 not in self.shape and size != fixed):
            raise ShapeError(f"{self}: cannot make {self.shape} of {shape}: {size} values")
        return tuple(size // fixed if n == -1 else n for n in self.shape)

    def describe(self) -> str:
        return f"to {self.shape}"


@dataclass(frozen=True, eq=False)
class Permute(Layer):
    """Reorder a sample's axes, as ``numpy.transpose`` does.

    Parameters
    ----------
    axes : tuple of int
        Output axis i is input axis ``axes[i]``; 0 is the first after the batch axis.

    Examples
    --------
    >>> lrpfast.layers.Permute((1, 2, 0)).output_shape((3, 28, 28))
    (28, 28, 3)
    """

    axes: tuple[int, ...]

    def __post_init__(self) -> None:
        axes = tuple(map(whole, self.axes)) if isinstance(self.axes, (tuple, list)) else ()
        if set(axes) != set(range(len(axes))) or not axes:
            raise InputError(f"{self}: axes must hold each of 0 … n − 1 once, not {self.axes!r}")
        self._set(axes=axes)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != len(self.axes):
            raise ShapeError(f"{self}: it reorders {len(self.axes)} axes, its input has shape {shape}")
        return tuple(shape[a] for a in self.axes)

    def describe(self) -> str:
        return f"axes {self.axes}"


def only_moves(layer: Layer) -> bool:
    """Whether a layer's output has the same values as its input, each once, perhaps in another shape or order."""
    return layer.identity or isinstance(layer, (Flatten, Permute, Reshape))


@dataclass(frozen=True, eq=False)
class RepeatVector(Layer):
    """A vector repeated: y_kj = x_j, a shape of (n,) becomes (count, n).

    Parameters
    ----------
    count : int
        At least 1.

    Raises
    ------
    InputError
        When ``count`` is invalid.

    Examples
    --------
    >>> lrpfast.layers.RepeatVector(5).output_shape((3,))
    (5, 3)
    """

    count: int

    def __post_init__(self) -> None:
        (count,) = per_axis(self.count, 1, "count", str(self))
        self._set(count=count)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ShapeError(f"{self}: it repeats vectors, its input has shape {shape}")
        return (self.count, *shape)

    def describe(self) -> str:
        return f"{self.count} times"


def _rank(pairs: Any) -> int:
    """The number of spatial axes in a tuple of pairs or numbers; 1 for a number or one pair."""
    if not isinstance(pairs, (tuple, list)):
        return 1
    if len(pairs) == 2 and not isinstance(pairs[0], (tuple, list)):
        return 1
    return len(pairs)


@dataclass(frozen=True, eq=False)
class _Edges(Layer):
    """Base of the layers that add or remove values at the edges of the spatial axes."""

    pairs: Any

    def __post_init__(self) -> None:
        rank = _rank(self.pairs)
        if not 1 <= rank <= 3:
            raise InputError(f"{self}: pairs must speak of 1 to 3 axes, not {self.pairs!r}")
        self._set(pairs=as_pairs(self.pairs, rank, "pairs", str(self)))

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.pairs)

    def _sized(self, shape: Shape, sign: int) -> Shape:
        spatial, channels = channels_last(str(self), shape, self.rank)
        sizes = tuple(None if n is None else n + sign * sum(p) for n, p in zip(spatial, self.pairs, strict=True))
        if any(n is not None and n < 1 for n in sizes):
            raise ShapeError(f"{self}: nothing is left of an input of shape {shape}")
        return (*sizes, channels)

    def describe(self) -> str:
        return f"{self.pairs}"


@dataclass(frozen=True, eq=False)
class ZeroPad(_Edges):
    """Zeros before and after each spatial axis, channels last.

    An axis of n values becomes before + n + after long.

    Parameters
    ----------
    pairs : pairs of int
        (before, after) for each of 1 to 3 spatial axes, 0 or more; one number or one pair for 1 dimension.

    Raises
    ------
    InputError
        When ``pairs`` is invalid.

    Examples
    --------
    >>> layer = lrpfast.layers.ZeroPad((1, 2))
    >>> lrpfast.from_layers([layer], input_shape=(2, 1)).predict(np.array([[[3.0], [4.0]]])).ravel().tolist()
    [0.0, 3.0, 4.0, 0.0, 0.0]
    """

    def output_shape(self, shape: Shape) -> Shape:
        return self._sized(shape, 1)


@dataclass(frozen=True, eq=False)
class ReflectPad(_Edges):
    """Values mirrored at the first and the last of each spatial axis (NumPy's "reflect"), channels last.

    An axis of n values becomes before + n + after long.

    Parameters
    ----------
    pairs : pairs of int
        As in `ZeroPad`; each number below the axis's size.

    Raises
    ------
    InputError
        When ``pairs`` is invalid.
    ShapeError
        Raised by the model, when an axis of the layer's input is too short.

    Examples
    --------
    >>> layer = lrpfast.layers.ReflectPad((1, 1))
    >>> lrpfast.from_layers([layer], input_shape=(3, 1)).predict(np.array([[[1.0], [2.0], [3.0]]])).ravel().tolist()
    [2.0, 1.0, 2.0, 3.0, 2.0]
    """

    def output_shape(self, shape: Shape) -> Shape:
        spatial, _ = channels_last(str(self), shape, self.rank)
        for n, pair in zip(spatial, self.pairs, strict=True):
            if n is not None and max(pair) >= n:
                raise ShapeError(f"{self}: an axis of {n} values can be mirrored over {n - 1} at most, not {max(pair)}")
        return self._sized(shape, 1)


@dataclass(frozen=True, eq=False)
class Crop(_Edges):
    """Cuts off values before and after each spatial axis, channels last.

    An axis of n values becomes n − before − after long.

    Parameters
    ----------
    pairs : pairs of int
        As in `ZeroPad`.

    Raises
    ------
    InputError
        When ``pairs`` is invalid.
    ShapeError
        Raised by the model, when an axis of the layer's input would be empty.

    Examples
    --------
    >>> lrpfast.layers.Crop(((1, 1), (2, 0))).output_shape((8, 8, 3))
    (6, 6, 3)
    """

    def output_shape(self, shape: Shape) -> Shape:
        return self._sized(shape, -1)


@dataclass(frozen=True, eq=False)
class Embedding(Layer):
    """Looks up a row of a table for each index: the input has integers of 0 or more.

    Parameters
    ----------
    table : array, shape (entries, features)

    Examples
    --------
    >>> layer = lrpfast.layers.Embedding(np.array([[0.0, 1.0], [2.0, 3.0]]))
    >>> lrpfast.from_layers([layer], input_shape=3).predict(np.array([[1, 0, 1]])).tolist()
    [[[2.0, 3.0], [0.0, 1.0], [2.0, 3.0]]]
    """

    table: np.ndarray

    def __post_init__(self) -> None:
        table = as_array(self.table, "table", str(self))
        if table.ndim != 2 or 0 in table.shape:
            raise ShapeError(f"{self}: table must have shape (entries, features), both at least 1, not {table.shape}")
        self._set(table=table)

    def output_shape(self, shape: Shape) -> Shape:
        return (*shape, self.table.shape[1])

    def describe(self) -> str:
        return f"{self.table.shape[0]} entries"
