"""Layers with weights: z = x W + b, with W dense, convolutional, depthwise or local."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError, ShapeError
from .activation import as_activation
from .base import Block, Layer, Shape, as_array, known
from .window import as_padding, channels_last, per_axis, rank_of, slid, spread


@dataclass(frozen=True, eq=False)
class Linear(Layer):
    """Base of the layers with weights, which have rules with a denominator.

    Examples
    --------
    >>> layers = [lrpfast.layers.Flatten(), lrpfast.layers.Dense(np.ones((4, 2)))]
    >>> [isinstance(layer, lrpfast.layers.Linear) for layer in layers]
    [False, True]
    """

    kernel: np.ndarray
    bias: np.ndarray | None = None

    def _check_kernel(self, rank: tuple[int, ...], axes: str) -> None:
        kernel = as_array(self.kernel, "kernel", str(self))
        if kernel.ndim not in rank or 0 in kernel.shape:
            raise ShapeError(f"{self}: kernel must have shape {axes}, all at least 1, not {kernel.shape}")
        self._set(kernel=kernel)

    def _check_bias(self, shape: tuple[int, ...]) -> None:
        if self.bias is not None:
            bias = as_array(self.bias, "bias", str(self))
            if bias.shape != shape:
                raise ShapeError(f"{self}: bias has shape {bias.shape}, the kernel asks for {shape}")
            self._set(bias=bias)

    def describe(self) -> str:
        activation = getattr(self, "activation", None)
        return activation.describe() if activation else "linear"


@dataclass(frozen=True, eq=False)
class Dense(Linear):
    """A fully connected layer on the last axis: y = f(x W + b).

    Parameters
    ----------
    kernel : array, shape (in, out)
        W, as Keras stores it.
    bias : array, shape (out,), optional
        b.
    activation : str or Activation, optional
        f; None is linear.

    Examples
    --------
    >>> layer = lrpfast.layers.Dense(np.array([[1.0], [-1.0]]), np.array([0.5]), "relu")
    >>> lrpfast.from_layers([layer]).predict(np.array([[3.0, 1.0], [1.0, 3.0]])).tolist()
    [[2.5], [0.0]]
    """

    activation: Any = None

    def __post_init__(self) -> None:
        self._check_kernel((2,), "(in, out)")
        self._check_bias(self.kernel.shape[1:])
        self._set(activation=as_activation(self.activation, str(self)))

    def output_shape(self, shape: Shape) -> Shape:
        if not shape or shape[-1] != self.kernel.shape[0]:
            raise ShapeError(
                f"{self}: it takes {self.kernel.shape[0]} features on the last axis, its input has shape {shape}"
            )
        return (*shape[:-1], self.kernel.shape[1])


@dataclass(frozen=True, eq=False)
class _Windowed(Linear):
    """Base of the layers whose kernel's first axes are a window."""

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return self.kernel.ndim - 2

    @property
    def size(self) -> tuple[int, ...]:
        """The window's taps along each spatial axis."""
        return self.kernel.shape[:-2]

    def _check_window(self: Any, axes: str, causal: bool = True) -> None:
        """Check the kernel, whose last axes are named ``axes``, and the fields that all of these layers have."""
        self._check_kernel((3, 4, 5), f"(spatial…, {axes}) with 1 to 3 spatial axes")
        names = ("valid", "same", "causal") if causal and self.rank == 1 else ("valid", "same")
        self._set(
            strides=per_axis(self.strides, self.rank, "strides", str(self)),
            dilation=per_axis(self.dilation, self.rank, "dilation", str(self)),
            padding=as_padding(self.padding, self.rank, str(self), names),
            activation=as_activation(self.activation, str(self)),
        )

    def _check_groups(self: Any, channels: str) -> None:
        """Check that the channels of the kernel's last axis, which has this name, divide into groups."""
        (groups,) = per_axis(self.groups, 1, "groups", str(self))
        count = self.kernel.shape[-1]
        if count % groups:
            raise InputError(f"{self}: {count} {channels} channels do not divide into {groups} groups")
        self._set(groups=groups)


@dataclass(frozen=True, eq=False)
class Conv(_Windowed):
    """A convolution in 1, 2 or 3 dimensions, channels last: y = f(x * W + b).

    Parameters
    ----------
    kernel : array, shape (spatial…, in / groups, out)
        As Keras stores it; its rank decides the dimensions.
    bias : array, shape (out,), optional
    strides, dilation : int or tuple of int
        For each spatial axis.
    padding : {"valid", "same", "causal"} or pairs
        Zeros (before, after) for each spatial axis. "same" is TensorFlow's: the output has
        ceil(n / stride) values, and an odd zero comes after. "causal" is for 1 dimension.
    groups : int
        The number of groups of channels, each with its own part of the kernel.
    activation : str or Activation, optional

    Examples
    --------
    >>> layer = lrpfast.layers.Conv(np.ones((3, 3, 1, 8)), padding="same", activation="relu")
    >>> layer.output_shape((28, 28, 1))
    (28, 28, 8)
    """

    strides: Any = 1
    padding: Any = "valid"
    dilation: Any = 1
    groups: int = 1
    activation: Any = None

    def __post_init__(self) -> None:
        self._check_window("in / groups, out")
        self._check_groups("output")
        self._check_bias(self.kernel.shape[-1:])

    def output_shape(self, shape: Shape) -> Shape:
        spatial, _ = channels_last(str(self), shape, self.rank, self.kernel.shape[-2] * self.groups)
        sizes = slid(str(self), spatial, self.padding, self.size, self.strides, self.dilation)
        return (*sizes, self.kernel.shape[-1])


@dataclass(frozen=True, eq=False)
class ConvTranspose(_Windowed):
    """A transposed convolution in 1, 2 or 3 dimensions, channels last.

    Parameters
    ----------
    kernel : array, shape (spatial…, out / groups, in)
        As Keras stores it: the kernel of the convolution that it transposes.
    bias : array, shape (out,), optional
    strides, dilation : int or tuple of int
    padding : {"valid", "same"} or pairs
        "valid" and "same" as in Keras. Pairs are the numbers of values to cut off (before,
        after) each spatial axis of the full result, as in PyTorch's ``padding``.
    output_padding : int or tuple of int, optional
        The number of values to add after each spatial axis.
    groups : int
    activation : str or Activation, optional

    Examples
    --------
    >>> layer = lrpfast.layers.ConvTranspose(np.ones((2, 2, 3, 8)), strides=2)
    >>> layer.output_shape((14, 14, 8))
    (28, 28, 3)
    """

    strides: Any = 1
    padding: Any = "valid"
    output_padding: Any = None
    dilation: Any = 1
    groups: int = 1
    activation: Any = None

    def __post_init__(self) -> None:
        self._check_window("out / groups, in", causal=False)
        self._check_groups("input")
        self._check_bias((self.kernel.shape[-2] * self.groups,))
        if self.output_padding is not None:
            self._set(output_padding=per_axis(self.output_padding, self.rank, "output_padding", str(self), 0))

    def output_shape(self, shape: Shape) -> Shape:
        spatial, _ = channels_last(str(self), shape, self.rank, self.kernel.shape[-1])
        sizes = spread(str(self), spatial, self.padding, self.size, self.strides, self.dilation, self.output_padding)
        return (*sizes, self.kernel.shape[-2] * self.groups)


@dataclass(frozen=True, eq=False)
class DepthwiseConv(_Windowed):
    """A separate convolution of each channel, channels last.

    Parameters
    ----------
    kernel : array, shape (spatial…, in, multiplier)
        As Keras stores it. Output channel c · multiplier + j comes from channel c.
    bias : array, shape (in · multiplier,), optional
    strides, dilation, padding, activation
        As in `Conv`.

    Examples
    --------
    >>> layer = lrpfast.layers.DepthwiseConv(np.ones((3, 3, 8, 2)))
    >>> layer.output_shape((28, 28, 8))
    (26, 26, 16)
    """

    strides: Any = 1
    padding: Any = "valid"
    dilation: Any = 1
    activation: Any = None

    def __post_init__(self) -> None:
        self._check_window("in, multiplier")
        self._check_bias((math.prod(self.kernel.shape[-2:]),))

    def output_shape(self, shape: Shape) -> Shape:
        spatial, _ = channels_last(str(self), shape, self.rank, self.kernel.shape[-2])
        sizes = slid(str(self), spatial, self.padding, self.size, self.strides, self.dilation)
        return (*sizes, math.prod(self.kernel.shape[-2:]))


@dataclass(frozen=True, eq=False)
class SeparableConv(Block):
    """A depthwise convolution, followed by a convolution with windows of size one.

    A model contains these two layers, NAME/depthwise and NAME, and relevance passes
    through one after the other.

    Parameters
    ----------
    depthwise_kernel : array, shape (spatial…, in, multiplier)
    pointwise_kernel : array, shape (1…, in · multiplier, out)
    bias : array, shape (out,), optional
    strides, dilation, padding, activation
        As in `Conv`.

    Examples
    --------
    >>> layer = lrpfast.layers.SeparableConv(np.ones((3, 3, 8, 1)), np.ones((1, 1, 8, 16)))
    >>> model = lrpfast.from_layers([layer], input_shape=(28, 28, 8))
    >>> [str(part) for part in model.layers[1:]], model.output_shape
    (["DepthwiseConv 'separable_conv/depthwise'", "Conv 'separable_conv'"], (26, 26, 16))
    """

    depthwise_kernel: np.ndarray
    pointwise_kernel: np.ndarray
    bias: np.ndarray | None = None
    strides: Any = 1
    padding: Any = "valid"
    dilation: Any = 1
    activation: Any = None

    def __post_init__(self) -> None:
        first, second = self.factors()  # validates the fields
        self._set(
            depthwise_kernel=first.kernel,
            pointwise_kernel=second.kernel,
            bias=second.bias,
            activation=second.activation,
        )

    def factors(self) -> tuple[DepthwiseConv, Conv]:
        """The two layers."""
        name = self.name or "separable_conv"
        first = DepthwiseConv(
            self.depthwise_kernel, None, self.strides, self.padding, self.dilation, name=f"{name}/depthwise"
        )
        second = Conv(self.pointwise_kernel, self.bias, activation=self.activation, name=name)
        if any(n != 1 for n in second.size) or second.rank != first.rank:
            raise ShapeError(
                f"{self}: pointwise_kernel must have windows of one in {first.rank} axes, not {second.kernel.shape}"
            )
        return first, second

    def build(self, graph: Any, *inputs: int) -> int:
        for factor in self.factors():
            inputs = (graph.add(factor, *inputs),)
        return inputs[0]


@dataclass(frozen=True, eq=False)
class LocallyConnected(Linear):
    """A convolution whose kernel differs at every position, channels last.

    Parameters
    ----------
    kernel : array, shape (positions, taps · in, out)
        As Keras stores it: positions and taps in row-major order.
    bias : array, shape (out,) or (output spatial…, out), optional
    size : int or tuple of int
        The window's taps along each spatial axis: a tuple for 2 or 3 dimensions.
    strides : int or tuple of int
    padding : {"valid", "same"} or pairs
    activation : str or Activation, optional

    Examples
    --------
    >>> layer = lrpfast.layers.LocallyConnected(np.ones((3, 2, 5)), size=2)
    >>> layer.output_shape((4, 1))
    (3, 5)
    """

    size: Any = 1
    strides: Any = 1
    padding: Any = "valid"
    activation: Any = None

    def __post_init__(self) -> None:
        self._check_kernel((3,), "(positions, taps · in, out)")
        rank = rank_of(self.size, str(self))
        self._set(
            size=per_axis(self.size, rank, "size", str(self)),
            strides=per_axis(self.strides, rank, "strides", str(self)),
            padding=as_padding(self.padding, rank, str(self)),
            activation=as_activation(self.activation, str(self)),
        )
        if self.kernel.shape[1] % math.prod(self.size):
            raise ShapeError(f"{self}: kernel of shape {self.kernel.shape} does not fit windows of {self.size}")
        if self.bias is not None:
            bias = as_array(self.bias, "bias", str(self))
            if bias.shape[-1:] != self.kernel.shape[-1:] or bias.ndim not in (1, rank + 1):
                raise ShapeError(f"{self}: bias has shape {bias.shape}, the kernel {self.kernel.shape}")
            self._set(bias=bias)

    @property
    def rank(self) -> int:
        """The number of spatial axes."""
        return len(self.size)

    def output_shape(self, shape: Shape) -> Shape:
        depth = self.kernel.shape[1] // math.prod(self.size)
        spatial, _ = channels_last(str(self), shape, self.rank, depth)
        sizes = known(slid(str(self), spatial, self.padding, self.size, self.strides, (1,) * self.rank))
        if sizes is None:
            raise ShapeError(f"{self}: it needs a fixed input shape, not {shape}")
        if math.prod(sizes) != self.kernel.shape[0]:
            raise ShapeError(f"{self}: kernel has {self.kernel.shape[0]} positions, an input of {shape} has {sizes}")
        if self.bias is not None and self.bias.ndim > 1 and self.bias.shape[:-1] != sizes:
            raise ShapeError(f"{self}: bias has shape {self.bias.shape}, the output {(*sizes, self.kernel.shape[-1])}")
        return (*sizes, self.kernel.shape[-1])
