"""Interprets the caller's arrays as images, sequences or vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..engine.explanation import Explanation
from ..engine.inputs import as_real
from ..errors import InputError, ShapeError
from ..kernels.arrays import as_array, to_host
from .check import check_choice, is_index

#: A "map" is an image with coordinates.
KINDS = ("auto", "image", "sequence", "vector", "map")
#: The default for the largest number of samples.
LIMIT = 16
#: The largest number of panels: nobody reads more, and drawing them would take minutes.
MOST_PANELS = 100


def check_limit(limit: Any, panels: int = 1) -> None:
    """Raise InputError unless ``limit`` samples with this number of panels each can be drawn."""
    if not is_index(limit) or limit < 1:
        raise InputError(f"limit must be a whole number of at least 1, not {limit!r}")
    if limit * panels > MOST_PANELS:
        each = f" of {panels:,} explanations each" if panels > 1 else ""
        raise InputError(f"limit is {limit:,} samples{each}, but a picture has {MOST_PANELS} panels at most")


def as_samples(value: Any, name: str, limit: int) -> tuple[np.ndarray, int]:
    """The first ``limit`` samples in float64, and the number of all; mapped and lazy arrays are read no further."""
    if isinstance(value, Explanation):
        value = value.relevance
        if isinstance(value, list):
            raise InputError(
                f"the explanation is of a model with {len(value)} inputs; draw one of them: explanation.relevance[0]"
            )
    if not hasattr(value, "shape") or not hasattr(value, "__getitem__"):
        value = as_real(value, name)
    shape = tuple(value.shape)
    if len(shape) < 2:
        hint = "for one sample add the batch axis: x[None]"
        raise ShapeError(f"{name} must have shape (samples, …), not {shape}; {hint}")
    if 0 in shape:
        raise InputError(f"{name} of shape {shape} has nothing to draw")
    samples = np.array(to_host(as_real(value[:limit], name)), np.float64)
    if np.isinf(samples).any():
        index = ", ".join(map(str, np.argwhere(np.isinf(samples))[0]))
        raise InputError(f"{name}[{index}] is infinite: there is no colour for it")
    return samples, shape[0]


#: Grey, grey and alpha, RGB, RGB and alpha: an axis of this size or less is an image's channels.
COLOURS = 4


@dataclass(frozen=True)
class Reader:
    """The arguments that say how to interpret arrays, checked as far as possible without the arrays."""

    kind: str
    shape: tuple[int, ...] | None
    mask: np.ndarray | None
    channels: str | int | None
    channels_first: bool | None
    #: The number of channels that were added.
    summed: int = 1

    @classmethod
    def of(cls, kind: str, shape: Any, mask: Any, channels: Any, channels_first: Any) -> Reader:
        check_choice("kind", kind, KINDS)
        if shape is not None:
            shape = tuple(shape) if isinstance(shape, (tuple, list, np.ndarray)) else (shape,)
            if not all(is_index(n) and n > 0 for n in shape):
                raise InputError(f"shape must be a tuple of whole numbers above 0, not {shape}")
            shape = tuple(int(n) for n in shape)
        if mask is not None:
            try:
                mask = to_host(as_array(mask))
            except (TypeError, ValueError) as error:
                raise InputError(f"mask cannot be made an array: {error}") from None
            if mask.dtype != bool or mask.ndim != 2:
                raise InputError(
                    f"mask must be a boolean grid, True where the features lie, not {mask.dtype} {mask.shape}"
                )
            if shape not in (None, mask.shape):
                raise ShapeError(f"mask and shape differ: {mask.shape} and {shape}")
        if kind == "auto" and (shape is not None or mask is not None):
            kind = "image"
        if mask is not None and kind != "image":
            raise InputError(f"mask is for images; kind is {kind!r}")
        if not (channels in (None, "sum", "each") if not is_index(channels) else True):
            raise InputError(f"channels must be sum, each or an index, not {channels!r}")
        if channels_first is not None and not isinstance(channels_first, (bool, np.bool_)):
            raise InputError(f"channels_first must be True, False or None, not {channels_first!r}")
        return cls(kind, shape, mask, channels, None if channels_first is None else bool(channels_first))

    def read(self, values: np.ndarray, name: str) -> tuple[Reader, np.ndarray]:
        """Images (n, h, w), sequences (n, steps, channels) or vectors (n, features).

        The returned reader interprets other arrays in the same way: it has the kind, the axis of channels, and the
        number of summed channels. An image's "input" keeps its channels.
        """
        original_shape, kind = values.shape, self.kind
        if self.mask is not None:
            values = self._on_grid(values, name)
        elif self.shape is not None:
            if math.prod(original_shape[1:]) != math.prod(self.shape):
                hint = "; for one sample add the batch axis: x[None]" if original_shape == self.shape else ""
                expected = _any((len(values), *self.shape))
                raise ShapeError(f"{name} of shape {_any(original_shape)} cannot be given the shape {expected}{hint}")
            values = values.reshape(len(values), *self.shape)
        if kind == "auto":
            kind = {2: "vector", 3: "sequence", 4: "image"}.get(values.ndim, "auto")
        axes = {"image": (3, 4), "sequence": (2, 3), "vector": (2,)}.get(kind, ())
        if values.ndim not in axes:
            if kind == "auto":
                raise ShapeError(
                    f"{name} of shape {_any(original_shape)}: there is no picture of {values.ndim} axes; give a slice"
                )
            expected = {
                "image": "(samples, height, width), or with an axis of channels",
                "sequence": "(samples, steps), or with an axis of channels",
                "vector": "(samples, features)",
            }[kind]
            hint = "; shape=(height, width) folds flat ones" if kind == "image" and values.ndim == 2 else ""
            if values.ndim == axes[0] - 1:
                hint += "; for one sample add the batch axis: x[None]"
            raise ShapeError(f"{name} of kind {kind!r} must have shape {expected}, not {_any(values.shape)}{hint}")
        first = self.channels_first
        if kind == "vector":
            for option in ("channels", "channels_first"):
                if getattr(self, option) is not None:
                    raise InputError(f"{option} is for images and sequences, not for vectors")
        elif values.ndim == axes[-1]:
            first = self._channels_first(kind, values.shape, name)
            values = np.moveaxis(values, 1, -1) if first else values
        summed = 1
        if kind == "sequence":
            values = values[..., None] if values.ndim == 2 else values
            if self.channels not in (None, "each"):
                summed, values = values.shape[-1], self._pick(values, name)
        if kind == "image":
            if self.channels == "each":
                raise InputError("channels of images are sum or an index; each is for sequences")
            if values.ndim == 4 and name == "relevance":
                summed, values = values.shape[-1], self._pick(values, name)[..., 0]
        return replace(self, kind=kind, channels_first=first, summed=1 if is_index(self.channels) else summed), values

    def _channels_first(self, kind: str, shape: tuple[int, ...], name: str) -> bool:
        """Whether the channels are the first axis: by the argument, else by an image's sizes."""
        if self.channels_first is not None or kind == "sequence":
            return bool(self.channels_first)
        first, middle, last = shape[1:]
        either = {first, last} == {1, 3}  # either a grey or an RGB image
        if not either and min(first, last) <= COLOURS and (first < min(middle, last) or last < min(first, middle)):
            return first < last
        raise InputError(
            f"{name} of shape {_any(shape)}: its sizes do not tell where the channels are; say channels_first=True or "
            "channels_first=False"
        )

    def _on_grid(self, values: np.ndarray, name: str) -> np.ndarray:
        assert self.mask is not None
        points = int(self.mask.sum())
        if values.ndim != 2 or values.shape[1] != points:
            raise ShapeError(
                f"{name} must have shape (samples, {points}), as many as the mask has, not {_any(values.shape)}"
            )
        grid = np.full((len(values), *self.mask.shape), np.nan)
        grid[:, self.mask] = values
        return grid

    def _pick(self, values: np.ndarray, name: str) -> np.ndarray:
        """The requested channel, or the sum of those that are not NaN, shape (…, 1)."""
        if self.channels in (None, "sum"):
            some = ~np.isnan(values).all(-1, keepdims=True)
            return np.where(some, np.nansum(values, -1, keepdims=True), np.nan)
        index, count = int(self.channels), values.shape[-1]
        if not 0 <= index < count:
            raise InputError(f"channel {index} is out of range: {name} has channels 0 to {count - 1}")
        return values[..., index : index + 1]


def _any(shape: Sequence[int]) -> str:
    """A shape with "samples" as its first size: only some of the samples have been read."""
    return f"(samples, {', '.join(map(str, shape[1:]))})"


def as_input(input: Any, reader: Reader, values: np.ndarray, samples: int, limit: int) -> tuple[np.ndarray, int]:
    """The inputs of the samples shown, interpreted in the same way as their relevance, and the channels of images.

    Images are in grey, the mean of their channels.
    """
    inputs, count = as_samples(input, "input", limit)
    if count != samples:
        raise ShapeError(f"there are {samples} relevances, but {count} inputs")
    _, inputs = reader.read(inputs, "input")
    channels = inputs.shape[-1] if reader.kind == "image" and inputs.ndim == 4 else 1
    if reader.kind == "image":
        if inputs.ndim == 4:
            some = ~np.isnan(inputs).all(-1)
            inputs = np.where(some, np.nansum(inputs, -1) / np.maximum(1, (~np.isnan(inputs)).sum(-1)), np.nan)
        if inputs.shape != values.shape:
            raise ShapeError(f"input as images is {_any(inputs.shape)}, relevance {_any(values.shape)}")
    elif inputs.shape != values.shape:
        raise ShapeError(f"input must be shaped like relevance: {values.shape[1:]} a sample, not {inputs.shape[1:]}")
    return inputs, channels
