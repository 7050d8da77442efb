"""The dimensions and coordinates of an xarray.DataArray, as pictures use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..coordinates import coordinate_kind
from ..errors import ShapeError
from .map_axes import GridAxes, grid_axis


@dataclass(frozen=True)
class Labelled:
    """An array with its samples first, and what its coordinates say.

    Attributes
    ----------
    array
        With the axes of a grid last.
    axes : GridAxes or None
        Of a grid.
    labels : list of str or None
        Of the samples.
    features : list of str or None
        Of the last axis.
    channels_last : bool
        Whether an axis of channels follows those of the grid.
    """

    array: Any
    axes: GridAxes | None = None
    labels: list[str] | None = None
    features: list[str] | None = None
    channels_last: bool = False


def labelled(value: Any, kind: str) -> Labelled:
    """An array of xarray with samples first and latitude before longitude; any other value unchanged.

    A map by itself, (lat, lon), is one sample; several axes before those of a grid become one.
    """
    if not (hasattr(value, "dims") and hasattr(value, "coords") and hasattr(value, "transpose")):
        return Labelled(value)
    grid = _grid_dims(value, kind)
    rest = [dim for dim in value.dims if dim not in grid]
    channels = [dim for dim in value.dims[-1:] if grid and dim not in grid and len(rest) > 1]
    rest = [dim for dim in rest if dim not in channels]
    features = None
    if not grid:
        coord = value.coords.get(value.dims[-1]) if value.ndim > 1 else None
        if coord is not None and coord.dtype.kind in "UTO":
            features = [str(name) for name in coord.values.tolist()]
        return Labelled(value, labels=_texts(value, rest[:1]), features=features)
    y, x = (_axis(value, dim) for dim in grid)
    array = value.transpose(*rest, *grid, *channels)
    labels = _texts(value, rest) if rest else [""]
    if not rest:
        array = array.data[None]
    elif len(rest) > 1:
        array = array.data.reshape(-1, *array.shape[len(rest) :])
    axes = None if y is None or x is None else GridAxes(y, x)
    return Labelled(array, axes, labels, channels_last=bool(channels))


def _grid_dims(array: Any, kind: str) -> list[Any]:
    """The dimensions of a grid, the vertical one first; none where the array is no grid."""
    kinds: dict[str | None, Any] = {}
    for dim in array.dims:
        own = coordinate_kind(str(dim), dict(array.coords[dim].attrs) if dim in array.coords else {})
        kinds.setdefault(own, dim)
    if "latitude" in kinds and "longitude" in kinds and kind in ("auto", "image", "map"):
        return [kinds["latitude"], kinds["longitude"]]
    if kind not in ("image", "map") or array.ndim > 3:
        return []
    if array.ndim < 2:
        raise ShapeError(f"a grid needs two dimensions, not {', '.join(map(str, array.dims))}")
    return list(array.dims[-2:])


def _axis(array: Any, dim: Any) -> Any:
    if dim not in array.coords:
        return None
    return grid_axis(str(dim), array.coords[dim].values, dict(array.coords[dim].attrs))


def _texts(array: Any, dims: list[Any]) -> list[str] | None:
    """The coordinates along dimensions as texts, all combinations of them; None where there are none."""
    columns = [_text_column(str(dim), array.coords[dim].values) for dim in dims if dim in array.coords]
    if not dims or len(columns) < len(dims):
        return None
    texts = [""]
    for column in columns:
        texts = [f"{text}, {own}" if text else own for text in texts for own in column]
    return texts


def _text_column(name: str, values: np.ndarray) -> list[str]:
    """Coordinates as texts: numbers with their name, "month 3"."""
    if values.dtype.kind == "M":
        days = values.astype("datetime64[D]")
        values = days if (days == values).all() else values.astype("datetime64[m]")
    elif values.dtype.kind in "iuf":
        return [f"{name} {value:g}" for value in values.tolist()]
    return [str(value) for value in values]
