"""Writes statistics of maps to a self-describing file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..output import SLASHES, check_target
from .groups import GROUP
from .map_writer import KINDS, check_maps, write_maps
from .masks import on_grid
from .metadata import CONVENTIONS, ArrayMetadata, Coord, for_relevance
from .optional_import import import_optional
from .statistics import Statistics

if TYPE_CHECKING:
    from .inputs import InputRows

#: The arrays of a file of statistics with their descriptions and the CF convention's name of the method, if it has one.
DESCRIPTIONS = {
    "count": ("number of samples", None),
    "zero": ("number of samples whose relevance is zero everywhere", None),
    "valid": ("number of samples with a value", None),
    "mean": ("mean relevance", "mean"),
    "std": ("standard deviation of relevance", "standard_deviation"),
    "minimum": ("smallest relevance", "minimum"),
    "maximum": ("largest relevance", "maximum"),
    "positive": ("share of samples with positive relevance", None),
    "negative": ("share of samples with negative relevance", None),
    "agreement": ("share of samples whose relevance has the more frequent sign", None),
    "p_value": ("probability of as unequal signs by chance: sign test, adjusted for the false discovery rate", None),
    "significant": ("whether one sign is significantly the more frequent: p_value is at most 0.05", None),
    "quantile": ("quantile of relevance", None),
}
#: Those that are the same for all inputs of a model.
SHARED = ("count", "zero")


class Results(NamedTuple):
    """The statistics of a run, and what their file says of them.

    Attributes
    ----------
    statistics : Statistics
    quantiles : sequence of float
    labels : ArrayMetadata or None
        Of the input.
    grid : bool array or None
        On which the features lie.
    inputs : InputRows or None
        Of a model with several inputs.
    """

    statistics: Statistics
    quantiles: Sequence[float]
    labels: ArrayMetadata | None
    grid: np.ndarray | None
    inputs: InputRows | None


def result_names(inputs: InputRows | None, group_name: str = GROUP) -> tuple[str, ...]:
    """The arrays that a file of statistics may hold: with several inputs, those of maps for each of them."""
    coords = (group_name, "q")
    if inputs is None:
        return (*coords, *DESCRIPTIONS)
    own = [key for key in DESCRIPTIONS if key not in SHARED]
    return (*coords, *SHARED, *(f"{key}_{name}" for name in inputs.names for key in own))


def check_statistics(
    path: str,
    shape: tuple[int, ...],
    labels: ArrayMetadata | None,
    grid: np.ndarray | None,
    group_name: str = GROUP,
    inputs: InputRows | None = None,
) -> None:
    """Raise InputError or OSError, before any work, unless statistics of maps of this shape can be written there."""
    if os.path.splitext(path.rstrip(SLASHES))[1].lower() not in KINDS:
        raise InputError(f"{path}: statistics are written to {', '.join(KINDS)}")
    if not path.rstrip(SLASHES).endswith(".zarr"):
        check_target(path)
    for part, part_labels in _parts(shape, labels, inputs):
        dims, coords = _of_maps(part, part_labels, grid)
        check_maps(path, result_names(inputs, group_name), dims, coords)


def save_statistics(
    path: str,
    results: Results,
    attributes: dict[str, str],
    compression: str | None = None,
) -> None:
    """Write all results with the input's coordinates, on the grid if the features come from one."""
    write_maps(path, *described(results), attributes, compression)


def to_dataset(
    results: Results,
    attributes: dict[str, str],
) -> Any:
    """What `save_statistics` writes, as an xarray.Dataset."""
    xarray = import_optional("xarray", "a data set of statistics")
    arrays, coords = described(results)
    variables = ({key: xarray.Variable(*each) for key, each in part.items()} for part in (arrays, coords))
    return xarray.Dataset(*variables, {"Conventions": CONVENTIONS, **attributes})


def described(results: Results) -> tuple[dict[str, Coord], dict[str, Coord]]:
    """All results by name, and their coordinates, with the attributes of the CF conventions."""
    statistics, quantiles, labels, grid, inputs = results
    if inputs is not None:
        maps, coords = _of_several(statistics, quantiles, inputs)
    else:
        dims, coords = _of_maps(statistics.shape, labels, grid)
        maps = statistics.to_dict(dims, quantiles)
    group = statistics.group_name
    for key, text in ((group, "group of samples" if group == GROUP else group), ("q", "quantile")):
        if key in maps:
            own_dims, values = maps.pop(key)
            coords[key] = Coord(own_dims, values, {"long_name": text})
    sample = "sample" if labels is None else labels.dims[0]
    return {key: _with_attributes(key, own, values, sample) for key, (own, values) in maps.items()}, coords


def _with_attributes(key: str, dims: tuple[str, ...], values: np.ndarray, sample: str) -> Coord:
    """A result as an array of a file; ``sample`` is the dimension that it sums up."""
    name = next(name for name in DESCRIPTIONS if key == name or key.startswith(f"{name}_"))
    text, method = DESCRIPTIONS[name]
    attrs: dict[str, Any] = {"long_name": text, "units": "1"}
    if method is not None:
        attrs["cell_methods"] = f"{sample}: {method}"
    if values.dtype == bool:
        values = values.astype(np.int8)
        attrs = {"long_name": text, "flag_values": np.array([0, 1], np.int8), "flag_meanings": "no yes"}
    return Coord(dims, values, attrs)


def _parts(
    shape: tuple[int, ...], labels: ArrayMetadata | None, inputs: InputRows | None
) -> list[tuple[tuple[int, ...], ArrayMetadata | None]]:
    """The shape of the maps and the labels, of each input."""
    if inputs is None:
        return [(shape, labels)]
    return [((*shape[:-1], *own), label) for own, label in zip(inputs.shapes, inputs.labels, strict=True)]


def _of_several(
    statistics: Statistics, quantiles: Sequence[float], inputs: InputRows
) -> tuple[dict[str, tuple[Any, ...]], dict[str, Coord]]:
    """Every result of each input, by its name, and their coordinates."""
    arrays: dict[str, tuple[Any, ...]] = {}
    coords: dict[str, Coord] = {}
    shared = (statistics.group_name, "q", *SHARED)
    for name, part, labels in zip(inputs.names, statistics.split(inputs.shapes), inputs.labels, strict=True):
        dims, own = _of_maps(part.shape, labels, None)
        coords.update(own)
        results = part.to_dict(dims, quantiles)
        arrays.update({key if key in shared else f"{key}_{name}": result for key, result in results.items()})
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
