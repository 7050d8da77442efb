"""Alignment of a mask with the data's grid, by the coordinates of both."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..coordinates import coordinate_kind
from ..errors import InputError
from .metadata import ArrayMetadata, Coord

CIRCLE = 360.0
#: Coordinates that differ by fewer roundings of float32 than this are equal: files store them in float32 or float64.
_ROUNDINGS = 4


class _Columns(NamedTuple):
    """A coordinate of the mask and the same coordinate of the data."""

    name: str
    mask: np.ndarray
    data: np.ndarray
    kind: str | None


def aligned(
    mask: np.ndarray, mask_metadata: ArrayMetadata, name: str, labels: ArrayMetadata, is_part: bool = False
) -> np.ndarray:
    r"""The mask on the data's grid: its axes in the data's order, its points where the data have theirs.

    Axes are matched by their names, or as latitude and longitude; points by their coordinates, longitudes on the
    circle. An axis without coordinates on both sides keeps its order.

    Parameters
    ----------
    mask : boolean array
    mask_metadata : ArrayMetadata
    name : str
        The mask's name, for messages.
    labels : ArrayMetadata
        The data's, (samples, \*grid).
    is_part : bool
        Whether the data are a part of the grid on purpose.

    Raises
    ------
    InputError
        When the mask lacks points of the data, or is True where the data have no point and are no part on purpose.
    """
    dims = labels.dims[1:][-mask.ndim :]
    if mask.ndim != len(dims):
        return mask
    axes = _axes(mask_metadata, labels)
    points = np.arange(mask.size).reshape(mask.shape).transpose(axes)
    dim_of_mask_dim = {mask_metadata.dims[axis]: dim for axis, dim in zip(axes, dims, strict=True)}
    for axis, dim in enumerate(dims):
        columns = list(_columns(mask_metadata, mask_metadata.dims[axes[axis]], labels, dim))
        if columns:
            points = points.take(_mask_indices(columns, dim, name), axis)
    _check_curved(mask_metadata, labels, dim_of_mask_dim, points, mask.shape, name)
    result = mask.reshape(-1)[points]
    lost = int(mask.sum()) - int(result.sum())
    if lost > 0 and not is_part:
        raise InputError(
            f"{name}: the mask is True at {lost:,} points that the data do not have; give the data of the whole grid, "
            "or the mask and the model of the data's part: select= of the data takes the mask's part, too"
        )
    order = points[result]
    if (np.diff(order) <= 0).any():
        warnings.warn(
            f"{name}: the mask's grid lies otherwise than the data's, and was aligned by its coordinates; the model's "
            "features are the mask's points in the order of the data's grid",
            UserWarning,
            stacklevel=5,
        )
    return result


def kind_of(labels: ArrayMetadata, name: str) -> str | None:
    """Whether a coordinate is a "latitude" or "longitude", by its name, standard name or units; None if neither."""
    coord = labels.coords.get(name)
    return coordinate_kind(name, {} if coord is None else coord.attrs)


def _axes(mask: ArrayMetadata, labels: ArrayMetadata) -> list[int]:
    """The mask's axis for each axis of the data's grid."""
    dims = labels.dims[1:][-len(mask.dims) :]
    unmatched, axis_of_dim = dict(enumerate(mask.dims)), dict.fromkeys(dims, -1)
    for same in (
        lambda mine, dim: mine == dim,
        lambda mine, dim: kind_of(mask, mine) == kind_of(labels, dim) is not None,
    ):
        for dim in [dim for dim, axis in axis_of_dim.items() if axis < 0]:
            axis = next((axis for axis, mask_dim in unmatched.items() if same(mask_dim, dim)), None)
            if axis is not None:
                axis_of_dim[dim] = axis
                del unmatched[axis]
    rest = iter(unmatched)
    return [next(rest) if axis < 0 else axis for axis in axis_of_dim.values()]


def _columns(mask_metadata: ArrayMetadata, mask_dim: str, labels: ArrayMetadata, dim: str) -> Iterator[_Columns]:
    """The coordinates that identify the points of an axis: its own coordinate, else the others along it."""

    def along(of: ArrayMetadata, name: str, on: str) -> np.ndarray | None:
        coord = of.coords.get(name)
        return coord.values if coord is not None and coord.dims == (on,) else None

    first, second = along(mask_metadata, mask_dim, mask_dim), along(labels, dim, dim)
    if first is not None and second is not None:
        yield _Columns(dim, first, second, kind_of(labels, dim))
        return
    for name in mask_metadata.coords:
        first, second = along(mask_metadata, name, mask_dim), along(labels, name, dim)
        if first is None or second is None:
            continue
        kind = kind_of(labels, name)
        if kind is not None or name in labels.stacked.get(dim, ()):
            yield _Columns(name, first, second, kind)


def _mask_indices(columns: list[_Columns], dim: str, name: str) -> np.ndarray:
    """The mask's index of each of the data's points along an axis."""
    keys, data_keys = _keys(columns)
    if keys == data_keys:
        return np.arange(len(keys))
    index_of_key = {key: i for i, key in enumerate(keys)}
    missing = [i for i, key in enumerate(data_keys) if key not in index_of_key]
    extents = " and ".join(f"{c.name} {_extent(c.mask)}, the data's {_extent(c.data)}" for c in columns)
    if missing:
        first = ", ".join(f"{column.name} = {column.data[missing[0]]}" for column in columns)
        raise InputError(
            f"{name}: the mask lies on another grid: it has {extents}; {len(missing):,} of the data's points "
            f"along {dim} are not there, the first at {first}. What fits has the data's coordinates: in xarray, "
            f"mask.reindex_like(data, method='nearest') takes the nearest point, and without method, with "
            "fill_value=False, none where the mask has none"
        )
    if len(index_of_key) < len(keys):
        raise InputError(f"{name}: the mask has a place along {dim} twice ({extents}), and does not say which counts")
    return np.array([index_of_key[key] for key in data_keys])


def _keys(columns: list[_Columns]) -> tuple[list[Any], list[Any]]:
    """Values by which the points of the mask and those of the data are the same."""
    count = len(columns[0].data)
    mine: list[Any] = []
    theirs: list[Any] = []
    for column in columns:
        numbers = _value_ids(np.concatenate([_plain(column.data), _plain(column.mask)]), column.kind == "longitude")
        theirs.append(numbers[:count])
        mine.append(numbers[count:])
    return list(zip(*mine, strict=True)), list(zip(*theirs, strict=True))


def file_indices(labels: ArrayMetadata, first: ArrayMetadata, name: str, first_name: str) -> dict[int, np.ndarray]:
    r"""The file's index of each of the first file's points, for each axis that lies otherwise.

    Longitudes are matched on the circle, and latitudes may run the other way.

    Parameters
    ----------
    labels, first : ArrayMetadata
        The file's and the first file's, (samples, \*grid), of one shape.
    name, first_name : str
        For messages.

    Raises
    ------
    InputError
        When the axes have other names, or the points other coordinates.
    """
    if labels.dims[1:] != first.dims[1:]:
        raise InputError(
            f"{name}: its axes are {', '.join(labels.dims)}, those of {first_name} {', '.join(first.dims)}; files that "
            "are read as one have the same axes in the same order"
        )
    indices: dict[int, np.ndarray] = {}
    for axis, dim in enumerate(first.dims[1:], 1):
        columns = list(_columns(labels, dim, first, dim))
        keys, first_keys = _keys(columns) if columns else ([], [])
        if keys == first_keys:
            continue
        index_of_key = {key: i for i, key in enumerate(keys)}
        if len(index_of_key) < len(keys) or set(first_keys) != set(keys):
            extents = " and ".join(f"{c.name} {_extent(c.mask)}, there {_extent(c.data)}" for c in columns)
            raise InputError(f"{name}: lies on another grid than {first_name}: it has {extents}")
        indices[axis] = np.array([index_of_key[key] for key in first_keys])
    for key, coord in labels.coords.items():
        other = first.coords.get(key)
        if other is None or len(coord.dims) < 2 or kind_of(labels, key) is None:
            continue
        if coord.dims != other.dims or not np.array_equal(coord.values, other.values):
            raise InputError(f"{name}: lies on another grid than {first_name}: its {key} is another")
    return indices


def _plain(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float64) if values.dtype.kind in "iufb" else values.astype(object)


def _value_ids(values: np.ndarray, circle: bool) -> list[int]:
    """A number for each value; values that differ by rounding, or by a whole circle, have the same number."""
    if values.dtype.kind != "f":
        numbers: dict[Any, int] = {}
        return [numbers.setdefault(str(value), len(numbers)) for value in values]
    values = np.mod(values, CIRCLE) if circle else values
    size = max(CIRCLE if circle else 0.0, float(np.abs(values[np.isfinite(values)]).max(initial=0.0)))
    order = np.argsort(values, kind="stable")
    steps = np.diff(values[order])
    tolerance = _ROUNDINGS * float(np.finfo(np.float32).eps) * size
    if ((steps > 0) & (steps <= tolerance)).any() and np.min(steps[steps > tolerance], initial=np.inf) < 8 * tolerance:
        tolerance = 0.0  # the grid is so fine that rounding could be a step: only equal values match
    ids = np.concatenate([[0], np.cumsum(~(steps <= tolerance))])
    if circle and len(values) and values[order[0]] + CIRCLE - values[order[-1]] <= tolerance:
        ids[ids == ids[-1]] = 0
    result = np.empty(len(values), int)
    result[order] = ids
    return result.tolist()


def _extent(values: np.ndarray) -> str:
    return f"{values[0]} … {values[-1]} ({len(values):,})" if len(values) else "nothing"


def _check_curved(
    mask_metadata: ArrayMetadata,
    labels: ArrayMetadata,
    dim_of_mask_dim: dict[str, str],
    points: np.ndarray,
    shape: tuple[int, ...],
    name: str,
) -> None:
    """Raise InputError if latitudes or longitudes that span several axes differ from the data's."""
    grid = labels.dims[-len(shape) :]
    for key, coord in mask_metadata.coords.items():
        other, kind = labels.coords.get(key), kind_of(mask_metadata, key)
        if (
            other is None
            or kind is None
            or len(coord.dims) < 2
            or not set(other.dims) <= set(labels.dims[-len(shape) :])
        ):
            continue
        mask_values = _broadcast(coord, mask_metadata.dims, shape).reshape(-1)[points]
        data_values = _broadcast(other, grid, points.shape)
        numbers = _value_ids(np.concatenate([mask_values.reshape(-1), data_values.reshape(-1)]), kind == "longitude")
        if numbers[: mask_values.size] != numbers[mask_values.size :]:
            raise InputError(
                f"{name}: the mask's {key} is not the data's: it lies on another grid, or its axes "
                f"{', '.join(dim_of_mask_dim)} run otherwise; bring it onto the data's grid"
            )


def _broadcast(coord: Coord, dims: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    """A coordinate's values, broadcast to all axes."""
    coord_dims = [dim for dim in dims if dim in coord.dims]
    values = np.transpose(coord.values, [coord.dims.index(dim) for dim in coord_dims]).astype(np.float64)
    return np.broadcast_to(
        values.reshape([n if d in coord_dims else 1 for d, n in zip(dims, shape, strict=True)]), shape
    )
