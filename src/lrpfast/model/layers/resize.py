"""Layers that resize the spatial axes, by repeating, selecting or interpolating values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError, ShapeError
from .base import Layer, Shape, as_array, frozen
from .window import channels_last, per_axis, rank_of


def _cubic(t: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * t - (a + 3)) * t**2 + 1
    return np.where(t <= 1, near, np.where(t < 2, ((a * t - 5 * a) * t + 8 * a) * t - 4 * a, 0))


#: The weight of a value as a function of its distance, and the distance at which it reaches 0.
_WEIGHTS: dict[str, tuple[Callable[[np.ndarray, float], np.ndarray], int]] = {
    "linear": (lambda t, a: np.maximum(1 - t, 0), 1),
    "cubic": (_cubic, 2),
}


def interpolation(
    n: int,
    at: np.ndarray,
    kind: str,
    a: float = -0.75,
    outside: str = "edge",
    shrink: float = 1.0,
) -> np.ndarray:
    """The matrix that interpolates n values at the given positions.

    M[j, i] = w(|i − at[j]| · shrink), with w(t) = max(1 − t, 0), or Keys' cubic with its parameter a:
    (a + 2) t³ − (a + 3) t² + 1 up to 1, a t³ − 5 a t² + 8 a t − 4 a up to 2.

    Parameters
    ----------
    n : int
    at : array, shape (m,)
        In units of the values' distance; 0 is the first value.
    kind : {"linear", "cubic"}
    a : float
    outside : {"edge", "none"}
        Before the first value and after the last, "edge" repeats that value; with "none" there are no
        values, and the remaining weights are scaled to a sum of 1.
    shrink : float
        Below 1, weights fall more slowly, for smoothing when an axis is shortened; they are scaled to a sum of 1.

    Returns
    -------
    array of float64, shape (m, n)
    """
    function, reach = _WEIGHTS[kind]
    at = np.asarray(at, np.float64)
    if kind == "linear" and outside == "edge" and shrink == 1:
        at = np.clip(at, 0, n - 1)
    reach = int(np.ceil(reach / shrink))
    taps = np.floor(at).astype(np.int64)[:, None] + np.arange(1 - reach, reach + 1)
    weights = function(np.abs(taps - at[:, None]) * shrink, a)
    if outside == "none":
        weights = np.where((taps >= 0) & (taps < n), weights, 0)
    if outside == "none" or shrink != 1:
        weights = weights / weights.sum(1, keepdims=True)
    matrix = np.zeros((len(at), n))
    np.add.at(matrix, (np.arange(len(at))[:, None], np.clip(taps, 0, n - 1)), weights)
    return matrix


def _for_axes(value: Any, name: str, layer: str) -> tuple[Any, ...]:
    """The values for 1 to 3 spatial axes, as a tuple."""
    values = tuple(value) if isinstance(value, (tuple, list)) else ()
    if not 1 <= len(values) <= 3:
        raise InputError(f"{layer}: {name} must be 1 to 3, one for each spatial axis, in a tuple or list")
    return values


@dataclass(frozen=True, eq=False)
class Interpolate(Layer):
    """Multiplies each spatial axis by its own matrix, channels last: y_j = Σ_i M_ji · x_i.

    This expresses any resizing by interpolation, and any pooling by weighted means.

    Parameters
    ----------
    matrices : sequence of 1 to 3 arrays of shape (values made, values needed)
        One for each spatial axis; None keeps an axis.

    Raises
    ------
    InputError
        When the number is not 1 to 3, or one is not a matrix.

    Examples
    --------
    >>> layer = lrpfast.layers.Interpolate((np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]),))
    >>> lrpfast.from_layers([layer], input_shape=(2, 1)).predict(np.array([[[2.0], [4.0]]])).ravel().tolist()
    [2.0, 3.0, 4.0]
    """

    matrices: tuple[np.ndarray | None, ...]

    def __post_init__(self) -> None:
        matrices = _for_axes(self.matrices, "matrices", str(self))
        arrays = tuple(None if m is None else as_array(m, "matrices", str(self)) for m in matrices)
        for array in arrays:
            if array is not None and (array.ndim != 2 or 0 in array.shape):
                raise InputError(f"{self}: matrices must have shape (values made, values needed), not {array.shape}")
        self._set(matrices=arrays)

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.matrices)

    @property
    def nonnegative(self) -> bool:
        """Whether no weight is below zero."""
        return all(m is None or bool((m >= 0).all()) for m in self.matrices)

    def output_shape(self, shape: Shape) -> Shape:
        spatial, channels = channels_last(str(self), shape, self.rank)
        for axis, (n, m) in enumerate(zip(spatial, self.matrices, strict=True)):
            if m is not None and n != m.shape[1]:
                raise ShapeError(f"{self}: axis {axis} must have {m.shape[1]} values, its input has shape {shape}")
        return (*(n if m is None else len(m) for n, m in zip(spatial, self.matrices, strict=True)), channels)

    def describe(self) -> str:
        return " × ".join("as it is" if m is None else f"{m.shape[1]}→{m.shape[0]}" for m in self.matrices)


@dataclass(frozen=True, eq=False)
class Take(Layer):
    """Selects values of each spatial axis by position, channels last; a position may occur several times or never.

    Parameters
    ----------
    places : sequence of 1 to 3 sequences of int
        One for each spatial axis, counted from 0; None keeps an axis.

    Raises
    ------
    InputError
        When the number is not 1 to 3, or one is not a sequence of integers of 0 or more.

    Examples
    --------
    >>> layer = lrpfast.layers.Take(([2, 0, 0],))
    >>> lrpfast.from_layers([layer], input_shape=(3, 1)).predict(np.array([[[1.0], [2.0], [3.0]]])).ravel().tolist()
    [3.0, 1.0, 1.0]
    """

    places: tuple[np.ndarray | None, ...]

    def __post_init__(self) -> None:
        positions = _for_axes(self.places, "places", str(self))
        arrays = tuple(None if p is None else np.asarray(p) for p in positions)
        for array in arrays:
            valid = array is None or (array.ndim == 1 and array.size and array.dtype.kind in "iu")
            if not valid or (array is not None and array.min() < 0):
                raise InputError(f"{self}: places must be whole numbers of 0 or more, at least one, not {array!r:.80}")
        self._set(places=tuple(None if p is None else frozen(p.astype(np.int64)) for p in arrays))

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.places)

    def output_shape(self, shape: Shape) -> Shape:
        spatial, channels = channels_last(str(self), shape, self.rank)
        for axis, (n, places) in enumerate(zip(spatial, self.places, strict=True)):
            if places is not None and n is not None and places.max() >= n:
                raise ShapeError(f"{self}: it takes place {places.max()} of axis {axis}, its input has shape {shape}")
        return (*(n if p is None else len(p) for n, p in zip(spatial, self.places, strict=True)), channels)

    def describe(self) -> str:
        return " × ".join("all" if p is None else f"{len(p)}" for p in self.places) + " places"


@dataclass(frozen=True, eq=False)
class UpSample(Layer):
    """Makes each spatial axis ``size`` times as long, channels last.

    Parameters
    ----------
    size : int (1 dimension) or tuple of int (2 or 3)
    interpolation : {"nearest", "bilinear"}
        "nearest" repeats each value; "bilinear", for 1 or 2 dimensions, interpolates between
        the centres of the values (half-pixel centres, as TensorFlow's ``resize``).

    Examples
    --------
    >>> layer = lrpfast.layers.UpSample(2)
    >>> lrpfast.from_layers([layer], input_shape=(2, 1)).predict(np.array([[[1.0], [2.0]]])).ravel().tolist()
    [1.0, 1.0, 2.0, 2.0]
    """

    size: Any
    interpolation: str = "nearest"

    def __post_init__(self) -> None:
        rank = rank_of(self.size, str(self))
        self._set(size=per_axis(self.size, rank, "size", str(self)))
        if self.interpolation not in ("nearest", "bilinear") or (self.interpolation == "bilinear" and rank == 3):
            raise InputError(
                f"{self}: interpolation must be 'nearest', or 'bilinear' for 1 or 2 axes, not {self.interpolation!r}"
            )

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.size)

    def matrices(self, spatial: Sequence[int]) -> list[np.ndarray]:
        """The matrices of "bilinear" along axes of the given sizes, shape (out, in)."""
        return [
            interpolation(n, (np.arange(n * k) + 0.5) / k - 0.5, "linear")
            for n, k in zip(spatial, self.size, strict=True)
        ]

    def output_shape(self, shape: Shape) -> Shape:
        spatial, channels = channels_last(str(self), shape, self.rank)
        return (*(None if n is None else n * k for n, k in zip(spatial, self.size, strict=True)), channels)

    def describe(self) -> str:
        return f"{'×'.join(map(str, self.size))} {self.interpolation}"
