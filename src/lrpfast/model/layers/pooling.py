"""Pooling: the largest or the mean value of a window, or the logarithm of a sum of exponentials, channels last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import InputError, ShapeError
from .base import Layer, Shape, each
from .window import as_padding, channels_last, extent, pads, per_axis, rank_of, slid


@dataclass(frozen=True, eq=False)
class _Pool(Layer):
    size: Any
    strides: Any = None
    padding: Any = "valid"
    dilation: Any = 1

    def __post_init__(self) -> None:
        rank = rank_of(self.size, str(self))
        size = per_axis(self.size, rank, "size", str(self))
        dilation = per_axis(self.dilation, rank, "dilation", str(self))
        strides = size if self.strides is None else per_axis(self.strides, rank, "strides", str(self))
        padding = as_padding(self.padding, rank, str(self))
        reaches = tuple(map(extent, size, dilation))
        if not isinstance(padding, str) and any(max(pair) >= k for pair, k in zip(padding, reaches, strict=True)):
            raise InputError(f"{self}: padding {padding} leaves windows of {reaches} with nothing but padding")
        self._set(size=size, strides=strides, padding=padding, dilation=dilation)

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.size)

    def output_shape(self, shape: Shape) -> Shape:
        spatial, channels = channels_last(str(self), shape, self.rank)
        sizes = slid(str(self), spatial, self.padding, self.size, self.strides, self.dilation)
        for axis, (n, count) in enumerate(zip(spatial, sizes, strict=True)):
            if n is not None and count is not None:
                k, s, d = self.size[axis], self.strides[axis], self.dilation[axis]
                before, _ = pads(self.padding, axis, n, k, s, d)
                last = (count - 1) * s - before
                # for a window that begins in the padding, start % d is the first tap after that padding
                if last >= n or (d > n and any(p % d >= n for p in range(-before, min(last + 1, 0), s))):
                    raise ShapeError(f"{self}: a window of axis {axis} of {shape} holds nothing but padding")
        return (*sizes, channels)

    def describe(self) -> str:
        return f"{'×'.join(map(str, self.size))}"


@dataclass(frozen=True, eq=False)
class MaxPool(_Pool):
    """The largest value of each window; padding never wins.

    Parameters
    ----------
    size : int (1 dimension) or tuple of int (2 or 3)
    strides : int or tuple of int, optional
        When None, the size.
    padding : {"valid", "same"} or pairs
    dilation : int or tuple of int
        The distance between neighbouring values of a window.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.MaxPool(2)], input_shape=(4, 1))
    >>> model.predict(np.array([[[1.0], [3.0], [2.0], [0.0]]])).ravel().tolist()
    [3.0, 2.0]
    """


@dataclass(frozen=True, eq=False)
class AveragePool(_Pool):
    """The mean of each window.

    Parameters
    ----------
    size, strides, padding, dilation
        As in `MaxPool`.
    count_include_pad : bool
        Whether padding counts as zeros (PyTorch's default) or not at all (Keras).

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.AveragePool(2)], input_shape=(4, 1))
    >>> model.predict(np.array([[[1.0], [3.0], [2.0], [0.0]]])).ravel().tolist()
    [2.0, 1.0]
    """

    count_include_pad: bool = False


@dataclass(frozen=True, eq=False)
class AdaptiveAveragePool(Layer):
    """The mean of windows that divide each axis into a given number of parts.

    Window i of n values into m covers floor(i n / m) to ceil((i + 1) n / m), as in PyTorch.

    Parameters
    ----------
    size : int (1 dimension) or tuple of int or None
        Output sizes; None keeps an axis.

    Examples
    --------
    >>> lrpfast.layers.AdaptiveAveragePool((7, None)).output_shape((30, 20, 3))
    (7, 20, 3)
    """

    size: Any

    def __post_init__(self) -> None:
        rank_of(self.size, str(self))
        self._set(size=tuple(None if n is None else per_axis(n, 1, "size", str(self))[0] for n in each(self.size)))

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.size)

    def output_shape(self, shape: Shape) -> Shape:
        spatial, channels = channels_last(str(self), shape, self.rank)
        return (*(n if k is None else k for n, k in zip(spatial, self.size, strict=True)), channels)

    def describe(self) -> str:
        return f"to {self.size}"


@dataclass(frozen=True, eq=False)
class _GlobalPool(Layer):
    keepdims: bool = False

    def output_shape(self, shape: Shape) -> Shape:
        if not 2 <= len(shape) <= 4:
            raise ShapeError(f"{self}: it takes 1 to 3 spatial axes and channels last, its input has shape {shape}")
        return (*(1,) * (len(shape) - 1), shape[-1]) if self.keepdims else shape[-1:]


@dataclass(frozen=True, eq=False)
class GlobalAveragePool(_GlobalPool):
    """The mean over all spatial axes, channels last: a shape of (spatial…, channels) becomes (channels,).

    Parameters
    ----------
    keepdims : bool
        Whether the spatial axes stay, with size 1.

    Raises
    ------
    ShapeError
        Raised by the model, when the layer's input does not have 1 to 3 spatial axes.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.GlobalAveragePool()], input_shape=(2, 2))
    >>> model.predict(np.array([[[1.0, 3.0], [2.0, 0.0]]])).tolist()
    [[1.5, 1.5]]
    """


@dataclass(frozen=True, eq=False)
class GlobalMaxPool(_GlobalPool):
    """The largest value over all spatial axes, channels last: a shape of (spatial…, channels) becomes (channels,).

    Parameters
    ----------
    keepdims : bool
        Whether the spatial axes stay, with size 1.

    Raises
    ------
    ShapeError
        Raised by the model, when the layer's input does not have 1 to 3 spatial axes.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.GlobalMaxPool()], input_shape=(2, 2))
    >>> model.predict(np.array([[[1.0, 3.0], [2.0, 0.0]]])).tolist()
    [[2.0, 3.0]]
    """


@dataclass(frozen=True, eq=False)
class GlobalLogSumExp(_GlobalPool):
    """log Σ exp(x) over all spatial axes, channels last: a shape of (spatial…, channels) becomes (channels,).

    It is computed without overflow, however large x is. Each input receives relevance in proportion to exp(x),
    as the sum of the exponentials shares it; together they receive all of it.

    Parameters
    ----------
    keepdims : bool
        Whether the spatial axes stay, with size 1.

    Raises
    ------
    ShapeError
        Raised by the model, when the layer's input does not have 1 to 3 spatial axes.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.GlobalLogSumExp()], input_shape=(2, 1))
    >>> model.predict(np.array([[[1000.0], [900.0]]])).tolist()
    [[1000.0]]
    """
