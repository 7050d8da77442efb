"""Normalization at inference: by stored statistics, or by a sample's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError, ShapeError
from .base import Layer, Shape, as_array, finite, known
from .window import per_axis


@dataclass(frozen=True, eq=False)
class BatchNorm(Layer):
    """y = γ (x − mean) / √(variance + epsilon) + β, per channel on the last axis.

    Parameters
    ----------
    mean, variance : array, shape (channels,)
        The moving statistics.
    gamma, beta : array, shape (channels,), optional
        1 and 0 when None.
    epsilon : float

    Examples
    --------
    >>> layer = lrpfast.layers.BatchNorm(mean=np.array([1.0, 2.0]), variance=np.array([4.0, 1.0]), epsilon=0)
    >>> lrpfast.from_layers([layer], input_shape=2).predict(np.array([[3.0, 3.0]])).tolist()
    [[1.0, 1.0]]
    """

    mean: np.ndarray
    variance: np.ndarray
    gamma: np.ndarray | None = None
    beta: np.ndarray | None = None
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        mean = as_array(self.mean, "mean", str(self))
        if mean.ndim != 1:
            raise ShapeError(f"{self}: mean must have shape (channels,), not {mean.shape}")
        self._set(mean=mean, epsilon=_epsilon(self.epsilon, str(self)))
        for key in ("variance", "gamma", "beta"):
            value = getattr(self, key)
            if value is None and key != "variance":
                continue
            array = as_array(value, key, str(self))
            if array.shape != mean.shape:
                raise ShapeError(f"{self}: {key} has shape {array.shape}, mean {mean.shape}")
            self._set(**{key: array})
        if not (self.variance + self.epsilon > 0).all():
            raise InputError(f"{self}: variance + epsilon must be above zero")

    def factor(self) -> np.ndarray:
        """γ / √(variance + epsilon), float64."""
        scale = 1 / np.sqrt(self.variance.astype(np.float64) + self.epsilon)
        return scale if self.gamma is None else self.gamma.astype(np.float64) * scale

    def offset(self) -> np.ndarray:
        """β − mean · factor, float64."""
        beta = 0.0 if self.beta is None else self.beta.astype(np.float64)
        offset: np.ndarray = beta - self.mean.astype(np.float64) * self.factor()
        return offset

    def output_shape(self, shape: Shape) -> Shape:
        if not shape or shape[-1] != len(self.mean):
            raise ShapeError(
                f"{self}: it takes {len(self.mean)} channels on the last axis, its input has shape {shape}"
            )
        return shape


def _epsilon(value: Any, layer: str) -> float:
    epsilon = finite(value, "epsilon", layer)
    if epsilon < 0:
        raise InputError(f"{layer}: epsilon must be 0 or above, not {epsilon:g}")
    return epsilon


@dataclass(frozen=True, eq=False)
class _SampleNorm(Layer):
    gamma: np.ndarray | None = None
    beta: np.ndarray | None = None
    epsilon: float = 1e-3
    axes: int = 1

    def __post_init__(self) -> None:
        (axes,) = per_axis(self.axes, 1, "axes", str(self))
        self._set(axes=axes, epsilon=_epsilon(self.epsilon, str(self)))
        for key in ("gamma", "beta"):
            value = getattr(self, key)
            if value is not None:
                array = as_array(value, key, str(self))
                if array.ndim != axes:
                    raise ShapeError(f"{self}: {key} must have the shape of the last {axes} axes, not {array.shape}")
                self._set(**{key: array})

    def output_shape(self, shape: Shape) -> Shape:
        sizes = known(shape[len(shape) - self.axes :]) if len(shape) >= self.axes else None
        if sizes is None:
            raise ShapeError(f"{self}: it normalizes the last {self.axes} axes, its input has shape {shape}")
        for key in ("gamma", "beta"):
            value = getattr(self, key)
            if value is not None and value.shape != sizes:
                raise ShapeError(f"{self}: {key} has shape {value.shape}, its input {shape}")
        return shape


@dataclass(frozen=True, eq=False)
class LayerNorm(_SampleNorm):
    """y = γ (x − mean(x)) / √(var(x) + epsilon) + β over the last axes of each sample.

    Parameters
    ----------
    gamma, beta : array with the shape of the last ``axes`` axes, optional
        1 and 0 when None.
    epsilon : float
    axes : int
        The number of last axes that are normalized together.

    Examples
    --------
    >>> layer = lrpfast.layers.LayerNorm(np.ones(2), np.zeros(2), epsilon=0)
    >>> lrpfast.from_layers([layer], input_shape=2).predict(np.array([[1.0, 3.0]])).tolist()
    [[-1.0, 1.0]]
    """


@dataclass(frozen=True, eq=False)
class RMSNorm(_SampleNorm):
    """y = γ x / √(mean(x²) + epsilon) + β over the last axes of each sample: `LayerNorm` without subtracting the mean.

    Parameters
    ----------
    gamma, beta : array with the shape of the last ``axes`` axes, optional
        1 and 0 when None.
    epsilon : float
        At least 0.
    axes : int
        The number of last axes that are normalized together.

    Raises
    ------
    InputError
        When ``epsilon`` or ``axes`` is invalid, or an array has values that are not finite.
    ShapeError
        When ``gamma`` or ``beta`` does not fit.

    Examples
    --------
    >>> layer = lrpfast.layers.RMSNorm(np.ones(2), epsilon=0)
    >>> lrpfast.from_layers([layer], input_shape=2).predict(np.array([[5.0, 5.0]])).tolist()
    [[1.0, 1.0]]
    """


@dataclass(frozen=True, eq=False)
class LocalResponseNorm(Layer):
    """y = x / (k + alpha / size · Σ x²)^beta, the sum over ``size`` neighbouring channels (PyTorch's definition).

    Parameters
    ----------
    size : int
    alpha, beta, k : float

    Examples
    --------
    >>> layer = lrpfast.layers.LocalResponseNorm(size=1, alpha=1.0, beta=1.0, k=0.0)
    >>> lrpfast.from_layers([layer], input_shape=(1, 1, 2)).predict(np.array([[[[2.0, 4.0]]]])).tolist()
    [[[[0.5, 0.25]]]]
    """

    size: int
    alpha: float = 1e-4
    beta: float = 0.75
    k: float = 1.0

    def __post_init__(self) -> None:
        (size,) = per_axis(self.size, 1, "size", str(self))
        self._set(size=size)
        for key in ("alpha", "beta", "k"):
            self._set(**{key: finite(getattr(self, key), key, str(self))})

    def output_shape(self, shape: Shape) -> Shape:
        if not shape:
            raise ShapeError(f"{self}: it needs a channel axis, its input has none")
        return shape
