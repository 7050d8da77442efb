"""The metadata of an array: the names, coordinates and attributes of NetCDF files and xarray objects."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import InputError
from .optional_import import import_optional

if TYPE_CHECKING:
    from typing import Unpack

    #: Samples first; None for a number of samples that is not known yet.
    RowsShape = tuple[int | None, Unpack[tuple[int, ...]]]

#: The conventions that files follow.
CONVENTIONS = "CF-1.8"
#: Attributes that describe an array's values (CF conventions, sections 2.6 and 3) and do not apply to its relevance.
_OF_VALUES = {
    *("units", "standard_name", "long_name", "cell_methods", "ancillary_variables", "coordinates", "dtype"),
    *("_FillValue", "missing_value", "scale_factor", "add_offset", "calendar", "positive", "axis", "code", "table"),
    *("valid_min", "valid_max", "valid_range", "actual_range", "flag_values", "flag_masks", "flag_meanings"),
}

#: The attribute of a coordinate that is a level of a stacked dimension's index, and the pattern of its value.
_STACKED = "multi_index"
_LEVEL = re.compile(r"level (?P<level>\d+) of (?P<dim>.+)", re.ASCII)


class Coord(NamedTuple):
    """A named array of a file or object: its dimensions, values and attributes."""

    dims: tuple[str, ...]
    values: np.ndarray
    attrs: dict[str, Any]


@dataclass(frozen=True)
class ArrayMetadata:
    """The names, coordinates and attributes of an array.

    Parameters
    ----------
    dims : tuple of str
        The array's dimensions, samples first: ``("time", "lat", "lon")``.
    coords : dict of str to Coord
        Including coordinates that are no dimension's own, such as a latitude on two dimensions.
    attrs : dict
        The array's attributes.
    name : str, optional
        The array's name.
    grid : ArrayMetadata, optional
        The metadata of the grid from which a mask picked the features.
    stacked : dict of str to tuple of str
        Dimensions that xarray stacked, with the names of the coordinates that are the levels of their
        pandas.MultiIndex, in order.
    quantity : str
        What the results of this array are, for their attribute "long_name".
    several : str
        The name of the axis of several explanations of each sample.
    """

    dims: tuple[str, ...]
    coords: dict[str, Coord] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    grid: ArrayMetadata | None = None
    stacked: dict[str, tuple[str, ...]] = field(default_factory=dict)
    quantity: str = "relevance (LRP)"
    several: str = "target"

    def of_quantity(self, quantity: str, name: str) -> ArrayMetadata:
        """The metadata of another array on the same axes."""
        return dataclasses.replace(self, name=name, quantity=quantity)

    def of_several(self, axis: str) -> ArrayMetadata:
        """The same metadata, with this name for the axis of several explanations."""
        grid = None if self.grid is None else self.grid.of_several(axis)
        return dataclasses.replace(self, grid=grid, several=axis)


def words(value: Any) -> list[str]:
    """The names in an attribute such as ``coordinates``, which is text, bytes or several texts; else none."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value.split()
    if isinstance(value, (list, tuple, np.ndarray)):
        return [word for part in np.ravel(np.asarray(value, object)) for word in words(part)]
    return []


def collect(
    dims: tuple[str, ...],
    attrs: Mapping[str, Any],
    dims_of: Callable[[str], tuple[str, ...] | None],
    read: Callable[[str], Coord],
) -> dict[str, Coord]:
    """The coordinates of a variable in a file that follows the CF conventions.

    These are the variables with the name of a dimension, and those that the attributes
    ``coordinates`` and ``grid_mapping`` name. A coordinate on the samples' axis
    and another axis may be as large as the data, and is left out.
    """
    coords: dict[str, Coord] = {}
    for name in (*dims, *words(attrs.get("coordinates")), *words(attrs.get("grid_mapping"))):
        own = dims_of(name)
        if own is not None and set(own) <= set(dims) and not (dims[0] in own and len(own) > 1):
            coords[name] = read(name)
    for coord in coords.values():
        for key in ("bounds", "climatology"):  # these have a dimension that the array lacks
            coord.attrs.pop(key, None)
    return coords


def of_file(dims: tuple[str, ...], coords: dict[str, Coord], attrs: dict[str, Any], name: str | None) -> ArrayMetadata:
    """The metadata of an array in a file; `for_relevance` marked the levels of stacked dimensions."""
    levels: dict[str, dict[int, str]] = {}
    for key, coord in coords.items():
        match = _LEVEL.fullmatch(str(coord.attrs.get(_STACKED, "")))
        if match is not None and coord.dims == (match["dim"],):
            levels.setdefault(match["dim"], {})[int(match["level"])] = key
            del coord.attrs[_STACKED]
    stacked = {dim: tuple(names[level] for level in sorted(names)) for dim, names in levels.items()}
    return ArrayMetadata(dims, coords, attrs, name, stacked=stacked)


def for_relevance(labels: ArrayMetadata | None, shape: RowsShape) -> ArrayMetadata:
    """The metadata of this input's relevance: one more axis for several, and no attributes of the input's values.

    The coordinates of stacked dimensions are marked as levels, because files hold no MultiIndex.

    Raises
    ------
    InputError
        When the metadata do not fit the shape.
    """
    own_attrs = {"long_name": ArrayMetadata.quantity if labels is None else labels.quantity, "units": "1"}
    if labels is None:
        return ArrayMetadata(("sample", *(f"dim_{i}" for i in range(1, len(shape)))), {}, own_attrs, "relevance")
    dims = labels.dims
    if len(shape) == len(dims) + 1:
        several = labels.several if labels.several not in dims else f"lrp_{labels.several}"
        dims = (dims[0], several, *dims[1:])
    if len(shape) != len(dims):
        raise InputError(f"a relevance of shape {shape} does not fit the dimensions {', '.join(labels.dims)}")
    sizes = dict(zip(dims, shape, strict=True))
    for name, coord in labels.coords.items():
        for dim, size in zip(coord.dims, coord.values.shape, strict=True):
            if sizes[dim] not in (None, size):
                raise InputError(f"the coordinate {name} has {size} values along {dim}, the relevance {sizes[dim]}")
    other_attrs = {key: value for key, value in labels.attrs.items() if key not in _OF_VALUES}
    coords = dict(labels.coords)
    for dim, names in labels.stacked.items():
        for level, name in enumerate(names):
            coords[name] = coords[name]._replace(attrs={**coords[name].attrs, _STACKED: f"level {level} of {dim}"})
    return dataclasses.replace(labels, dims=dims, coords=coords, attrs={**own_attrs, **other_attrs}, name="relevance")


def history(record: Mapping[str, str], source: str) -> str:
    """A line for the attribute ``history``, without the time: the same run writes the same file."""
    model, target = record["model"], record["target"]
    name = os.path.basename(source).encode("utf-8", "replace").decode()
    text = f"layer-wise relevance propagation through {model}, target {target}, of {name}"
    return f"lrpfast {record['lrpfast_version']}: {text}"


def with_coordinates(array: Coord, coords: Mapping[str, Coord]) -> dict[str, Any]:
    """An array's attributes, with ``coordinates``, which names the coordinates other than its dimensions' own."""
    dims, _, attrs = array
    array_dims = set(dims)
    mapping = words(attrs.get("grid_mapping"))
    names = [
        name
        for name, (coord_dims, *_) in coords.items()
        if coord_dims != (name,) and set(coord_dims) <= array_dims and name not in mapping
    ]
    return {**attrs, "coordinates": " ".join(names)} if names else attrs


def from_xarray(array: Any) -> ArrayMetadata:
    """The metadata of an xarray.DataArray."""
    # a stacked dimension's own coordinate combines its levels, which are coordinates too
    stacked = {str(dim): tuple(map(str, index.names)) for dim, index in stacked_indexes(array).items()}
    coords = {
        str(name): Coord(tuple(map(str, coord.dims)), np.asarray(coord.values), dict(coord.attrs))
        for name, coord in array.coords.items()
        if str(name) not in stacked
    }
    name = None if array.name is None else str(array.name)
    return ArrayMetadata(tuple(map(str, array.dims)), coords, dict(array.attrs), name, stacked=stacked)


def stacked_indexes(array: Any) -> dict[Any, Any]:
    """The pandas.MultiIndex of each dimension of an xarray.DataArray that has one."""
    indexes = {dim: getattr(array.xindexes.get(dim), "index", None) for dim in array.dims}
    return {dim: index for dim, index in indexes.items() if hasattr(index, "levels")}


def to_xarray(
    relevance: np.ndarray,
    labels: ArrayMetadata | None,
    attributes: Mapping[str, str],
    stacked: Mapping[Any, Any] | None = None,
) -> Any:
    """A relevance as an xarray.DataArray called "relevance", with its input's coordinates and attributes.

    Parameters
    ----------
    relevance : array, shape (samples, *features) or (samples, targets, *features)
    labels : ArrayMetadata or None
        The input's.
    attributes : mapping
        The provenance of the relevance.
    stacked : mapping, optional
        The input's `stacked_indexes`.

    Returns
    -------
    xarray.DataArray

    Raises
    ------
    InputError
        When the metadata do not fit the relevance's shape.
    MissingPackageError
        Without xarray.
    """
    xarray = import_optional("xarray", "an xarray result")
    labels = for_relevance(labels, relevance.shape)
    dim_of_level = {name: dim for dim, names in labels.stacked.items() for name in names}
    coords = {name: xarray.Variable(*coord) for name, coord in labels.coords.items() if name not in dim_of_level}
    array = xarray.DataArray(relevance, coords, labels.dims, labels.name, {**labels.attrs, **attributes})
    for dim, index in (stacked or {}).items():
        factory = getattr(xarray, "Coordinates", None)  # since 2023.08
        array = array.assign_coords({dim: index} if factory is None else factory.from_pandas_multiindex(index, dim))
    for name in dim_of_level:
        attrs = labels.coords[name].attrs
        array.coords[name].attrs.update({key: value for key, value in attrs.items() if key != _STACKED})
    return array


def encoded(name: str, coord: Coord) -> Coord:
    """A coordinate as files store it: numbers or text, and dates as in the CF conventions.

    Raises
    ------
    InputError
        For values that are not numbers, text or dates.
    """
    dims, values, attrs = coord
    values = np.asarray(values)
    if values.dtype.kind == "O" and (text := _text(values)) is not None:
        values = text
    if values.dtype.kind in "mMO":
        xarray = import_optional("xarray", f"the coordinate {name} of dtype {values.dtype}")
        try:
            variable = xarray.conventions.encode_cf_variable(xarray.Variable(dims, values, attrs), name=name)
            dims, values, attrs = variable.dims, np.asarray(variable.values), dict(variable.attrs)
        except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
            raise InputError(f"the coordinate {name} cannot be stored in a file: {error}") from None
    if values.dtype.kind == "T":
        values = values.astype(str)
    if values.dtype.kind == "O":
        raise InputError(f"the coordinate {name} holds values of several kinds; files store one: astype(str), say")
    if values.dtype.kind == "U" and not _is_clean("".join(values.ravel().tolist())):
        raise InputError(f"the coordinate {name} holds text with NUL or not in UTF-8, which files do not store")
    if values.dtype.kind not in "fiubUS":
        raise InputError(f"the coordinate {name} has dtype {values.dtype}, which files do not store")
    return Coord(tuple(dims), values, {key: value for key, value in attrs.items() if value is not None})


def plain(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as text, numbers and arrays of numbers, which every format stores; anything else becomes text."""
    return {str(key): _plain(value) for key, value in attrs.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    if isinstance(value, str):  # no format stores NUL, or text that is not valid UTF-8
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, (int, float)):
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        return str(value)
    if array.dtype.kind not in "fiu":
        return str(value)
    return array.item() if array.ndim == 0 else array


def _text(values: np.ndarray) -> np.ndarray | None:
    """Python strings as an array, with gaps (None, NaN) as empty strings, as in xarray; None for anything else."""
    objects = values.ravel().tolist()
    items = ["" if value is None or (isinstance(value, float) and value != value) else value for value in objects]
    if all(isinstance(value, str) for value in items) and (any(isinstance(v, str) for v in objects) or not objects):
        return np.array(items, str).reshape(values.shape)
    return None


def _is_clean(text: str) -> bool:
    return "\0" not in text and text.encode("utf-8", "replace").decode() == text
