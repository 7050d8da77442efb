"""Writes statistics of maps to a self-describing file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..output import SLASHES, check_target
from .map_writer import KINDS, check_maps, write_maps
from .masks import on_grid, scatter
from .metadata import ArrayMetadata, Coord, for_relevance
from .statistics import Statistics

if TYPE_CHECKING:
    from .inputs import InputRows

#: The arrays of a file of statistics; those of quantiles are optional.
RESULTS = ("group", "count", "valid", "mean", "std", "minimum", "maximum", "positive", "negative", "q", "quantile")
#: Those that are the same for all inputs of a model.
SHARED = ("group", "count", "q")


def result_names(inputs: InputRows | None) -> tuple[str, ...]:
    """The arrays that a file of statistics may hold: with several inputs, those of maps for each of them."""
    if inputs is None:
        return RESULTS
    own = [key for key in RESULTS if key not in SHARED]
    return (*SHARED, *(f"{key}_{name}" for name in inputs.names for key in own))


def check_statistics(
    path: str,
    shape: tuple[int, ...],
    labels: ArrayMetadata | None,
    grid: np.ndarray | None,
    inputs: InputRows | None = None,
) -> None:
    """Raise InputError or OSError, before any work, unless statistics of maps of this shape can be written there."""
    if os.path.splitext(path.rstrip(SLASHES))[1].lower() not in KINDS:
        raise InputError(f"{path}: statistics are written to {', '.join(KINDS)}")
    if not path.rstrip(SLASHES).endswith(".zarr"):
        check_target(path)
    for part, part_labels in _parts(shape, labels, inputs):
        dims, coords = _of_maps(part, part_labels, grid)
        check_maps(path, result_names(inputs), dims, coords)


def save_statistics(
    path: str,
    statistics: Statistics,
    quantiles: Sequence[float],
    labels: ArrayMetadata | None,
    grid: np.ndarray | None,
    record: dict[str, str],
    inputs: InputRows | None = None,
) -> None:
    """Write all results with the input's coordinates, on the grid if the features come from one."""
    if inputs is not None:
        write_maps(path, *_of_several(statistics, quantiles, inputs), record)
        return
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


def _parts(
    shape: tuple[int, ...], labels: ArrayMetadata | None, inputs: InputRows | None
) -> list[tuple[tuple[int, ...], ArrayMetadata | None]]:
    """The shape of the maps and the labels, of each input."""
    if inputs is None:
        return [(shape, labels)]
    return [((*shape[:-1], *own), label) for own, label in zip(inputs.shapes, inputs.labels, strict=True)]


def _of_several(
    statistics: Statistics, quantiles: Sequence[float], inputs: InputRows
) -> tuple[dict[str, tuple[tuple[str, ...], np.ndarray]], dict[str, Coord]]:
    """Every result of each input, by its name, and their coordinates."""
    arrays: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    coords: dict[str, Coord] = {}
    for name, part, labels in zip(inputs.names, statistics.split(inputs.shapes), inputs.labels, strict=True):
        dims, own = _of_maps(part.shape, labels, None)
        coords.update(own)
        results = part.to_dict(dims, quantiles)
        for key, text in (("group", "group of samples"), ("q", "quantile")):
            if key in results:
                group_dims, values = results.pop(key)
                coords[key] = Coord(group_dims, values, {"long_name": text})
        arrays.update({key if key in SHARED else f"{key}_{name}": result for key, result in results.items()})
    return arrays, coords


def _of_maps(
    shape: tuple[int, ...], labels: ArrayMetadata | None, grid: np.ndarray | None
) -> tuple[tuple[str, ...], dict[str, Coord]]:
    """The dimensions of maps and the input's coordinates that lie on them."""
    if grid is not None and labels is not None:
        labels = labels.grid
    of_maps = for_relevance(labels, (None, *on_grid(shape, grid)))
    samples, dims = of_maps.dims[0], of_maps.dims[1:]
    return dims, {key: coord for key, coord in of_maps.coords.items() if samples not in coord.dims}
