"""What a heat map draws: its samples, their inputs, and what the coordinates of both say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.explanation import Explanation
from ..errors import InputError
from .check import is_index
from .draw import is_photograph
from .labelled import labelled
from .map_axes import GridAxes, from_pair
from .samples import Reader, as_input, as_samples


@dataclass(frozen=True, eq=False)
class Content:
    """The samples to draw.

    Attributes
    ----------
    kind : {"image", "sequence", "vector"}
    is_map : bool
        Whether an image is drawn as a map.
    values : array
        Images (n, h, w), sequences (n, steps, channels) or vectors (n, features).
    below : array or None
        The inputs, of the same shape.
    positive : bool
        Whether the largest values of input images are the lightest.
    samples : int
        The number of all samples.
    summed : int
        The number of channels that were added.
    axes : GridAxes or None
    labels, features : list of str or None
    first : int
        The number of the first step of a sequence.
    """

    kind: str
    is_map: bool
    values: np.ndarray
    below: np.ndarray | None
    positive: bool
    samples: int
    summed: int
    axes: GridAxes | None
    labels: list[str] | None
    features: list[str] | None
    first: int


def read_content(
    relevance: Any,
    input: Any,
    kind: str,
    shape: Any,
    mask: Any,
    channels: Any,
    channels_first: Any,
    limit: int,
    coordinates: Any,
    window: Any,
) -> Content:
    """Interpret the arguments of `heatmap`."""
    if isinstance(relevance, Explanation) and not isinstance(relevance.relevance, list):
        relevance = relevance.relevance
    array = labelled(relevance, kind)
    is_map = kind == "map"
    if is_map or (kind == "auto" and (array.axes is not None or coordinates is not None)):
        kind = "image"
    if array.channels_last and channels_first is None:
        channels_first = False
    values, samples = as_samples(array.array, "relevance", limit)
    if coordinates is not None and values.ndim == 2 and shape is None and mask is None:
        values, samples = values[None], 1  # one map
    reader, values = Reader.of(kind, shape, mask, channels, channels_first).read(values, "relevance")
    kind = reader.kind
    below, positive = None, False
    if input is not None:
        own = labelled(input, kind if array.axes is None else "image").array
        below, input_channels = as_input(own, reader, values, samples, limit)
        positive = kind == "image" and is_photograph(below, input_channels)
    axes = array.axes if coordinates is None else from_pair(coordinates)
    if is_map and axes is None:
        raise InputError("a map needs its latitudes and longitudes: an xarray.DataArray, or coordinates=(lat, lon)")
    if axes is not None:
        if kind != "image":
            raise InputError(f"coordinates are for images and maps, and these are drawn as kind {kind!r}")
        axes.check(values.shape)
        values, below = axes.ordered(values), None if below is None else axes.ordered(below)
    first = 0
    if window is not None:
        first, stop = _window(window, kind, values)
        values, below = values[:, first:stop], None if below is None else below[:, first:stop]
    return Content(
        *(kind, is_map, values, below, positive, samples, reader.summed),
        *(axes, array.labels, array.features if kind == "vector" else None, first),
    )


def _window(window: Any, kind: str, values: np.ndarray) -> tuple[int, int]:
    """The first step and the end of a window of sequences."""
    if kind != "sequence":
        raise InputError(f"window is for sequences, and these are drawn as kind {kind!r}")
    pair = window if isinstance(window, Sequence) and not isinstance(window, str) else ()
    if len(pair) != 2 or not all(map(is_index, pair)) or not 0 <= pair[0] < pair[1] <= values.shape[1]:
        raise InputError(f"window must be (first, stop) within the {values.shape[1]:,} steps, not {window!r}")
    return int(pair[0]), int(pair[1])
