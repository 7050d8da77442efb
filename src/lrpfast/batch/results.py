"""Statistics of maps as a file that describes itself."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..output import check_target
from .labels import Coord, Labels, for_relevance
from .maps import KINDS, write_maps
from .masks import scatter
from .statistics import Statistics


def check_statistics(path: str) -> None:
    """InputError or OSError, before any work, unless statistics can be written there."""
    if os.path.splitext(path.rstrip("/"))[1].lower() not in KINDS:
        raise InputError(f"{path}: statistics are written to {', '.join(KINDS)}")
    if not path.rstrip("/").endswith(".zarr"):
        check_target(path)


def save_statistics(
    path: str,
    made: Statistics,
    quantiles: Sequence[float],
    labels: Labels | None,
    grid: np.ndarray | None,
    record: dict[str, str],
) -> None:
    """Write every result of ``made`` with the input's coordinates, on the grid where the features come from one."""
    maps = made.to_dict(quantiles)
    if grid is not None:
        maps = {key: (dims, _on_grid(dims, values, grid)) for key, (dims, values) in maps.items()}
        labels = None if labels is None else labels.grid
    shape = next(values.shape for dims, values in maps.values() if dims[:1] == ("group",) and len(dims) > 1)
    of_maps = for_relevance(labels, (None, *shape[1:]))
    samples, names = of_maps.dims[0], of_maps.dims[1:]
    arrays = {
        key: ((*(d for d in dims if d in ("quantile", "group")), *(names if "map" in dims else ())), values)
        for key, (dims, values) in maps.items()
    }
    coords = {key: coord for key, coord in of_maps.coords.items() if samples not in coord.dims}
    coords["group"] = Coord(("group",), np.asarray(made.groups), {"long_name": "group of samples"})
    if quantiles:
        coords["quantile"] = Coord(("quantile",), np.asarray(quantiles, np.float64), {})
    write_maps(path, arrays, coords, record)


def _on_grid(dims: tuple[str, ...], values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    return scatter(values.astype(np.float64), grid) if "map" in dims else values
