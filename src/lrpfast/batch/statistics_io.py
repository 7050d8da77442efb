"""Writes statistics of maps to a self-describing file."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..output import SLASHES, check_target
from .map_writer import KINDS, check_maps, write_maps
from .masks import on_grid, scatter
from .metadata import ArrayMetadata, Coord, for_relevance
from .statistics import Statistics

#: The arrays of a file of statistics; those of quantiles are optional.
RESULTS = ("group", "count", "valid", "mean", "std", "minimum", "maximum", "positive", "negative", "q", "quantile")


def check_statistics(path: str, shape: tuple[int, ...], labels: ArrayMetadata | None, grid: np.ndarray | None) -> None:
    """Raise InputError or OSError, before any work, unless statistics of maps of this shape can be written there."""
    if os.path.splitext(path.rstrip(SLASHES))[1].lower() not in KINDS:
        raise InputError(f"{path}: statistics are written to {', '.join(KINDS)}")
    if not path.rstrip(SLASHES).endswith(".zarr"):
        check_target(path)
    dims, coords = _of_maps(shape, labels, grid)
    check_maps(path, RESULTS, dims, coords)


def save_statistics(
    path: str,
    statistics: Statistics,
    quantiles: Sequence[float],
    labels: ArrayMetadata | None,
    grid: np.ndarray | None,
    record: dict[str, str],
) -> None:
    """Write all results with the input's coordinates, on the grid if the features come from one."""
    dims, coords = _of_maps(statistics.shape, labels, grid)
    arrays = statistics.to_dict(dims[: len(statistics.shape)], quantiles)
    array_dims, values = arrays.pop("group")
    coords["group"] = Coord(array_dims, values, {"long_name": "group of samples"})
    if quantiles:
        array_dims, values = arrays.pop("q")
        coords["q"] = Coord(array_dims, values, {"long_name": "quantile"})
    if grid is not None:
        last = dims[len(statistics.shape) - 1]  # the features' axis
        arrays = {
            key: (
                (*array_dims[:-1], *dims[len(statistics.shape) - 1 :]),
                scatter(values, grid, np.nan if values.dtype.kind == "f" else 0),
            )
            if array_dims[-1] == last
            else (array_dims, values)
            for key, (array_dims, values) in arrays.items()
        }
    write_maps(path, arrays, coords, record)


def _of_maps(
    shape: tuple[int, ...], labels: ArrayMetadata | None, grid: np.ndarray | None
) -> tuple[tuple[str, ...], dict[str, Coord]]:
    """The dimensions of maps and the input's coordinates that lie on them."""
    if grid is not None and labels is not None:
        labels = labels.grid
    of_maps = for_relevance(labels, (None, *on_grid(shape, grid)))
    samples, dims = of_maps.dims[0], of_maps.dims[1:]
    return dims, {key: coord for key, coord in of_maps.coords.items() if samples not in coord.dims}
