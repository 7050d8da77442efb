"""A part of a data set, by its coordinates: a window of time, a region, a season."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ...errors import InputError
from ..align import CIRCLE, kind_of
from ..metadata import ArrayMetadata, Coord
from ..times import PARTS, Times, times_of
from .base import Source, Wrapped

#: Bounds that differ from a coordinate by fewer roundings of float32 than this include it.
_ROUNDINGS = 4
_VALUE = r"[^:]*|-?\d+-\d+-\d+[T ]\d+(:\d+){0,2}"
_RANGE = re.compile(rf"(?P<low>{_VALUE}):(?P<high>{_VALUE})")


class Window(NamedTuple):
    """The values from ``low`` to ``high``, both included; None for no bound."""

    low: Any
    high: Any

    def __str__(self) -> str:
        return ":".join("" if end is None else str(end) for end in self)


#: A criterion: a window, or a tuple of values.
Criterion = Window | tuple[Any, ...]


def parse(text: str) -> tuple[str, Criterion]:
    """The name and criterion of ``--select NAME=LOW:HIGH`` or ``NAME=VALUE,…``.

    Raises
    ------
    InputError
        For any other text.
    """
    name, equals, values = text.partition("=")
    if not (equals and name and values.strip(":")):
        raise InputError(f"select takes NAME=LOW:HIGH or NAME=VALUE,…, such as time=1982-01:1999-12, not {text!r}")
    match = _RANGE.fullmatch(values)
    return name, Window(match["low"] or None, match["high"] or None) if match else tuple(values.split(","))


def check_selection(select: Any) -> dict[str, Criterion]:
    """The criteria of ``select=``, by names of coordinates.

    Raises
    ------
    InputError
        For anything but a mapping from names to slices, pairs and values, or texts as `parse` takes them.
    """
    if select is None:
        return {}
    if isinstance(select, str) or (isinstance(select, (list, tuple)) and all(isinstance(s, str) for s in select)):
        texts = [select] if isinstance(select, str) else list(select)
        criteria = dict(map(parse, texts))
        if len(criteria) < len(texts):
            raise InputError("select names a coordinate twice")
        return criteria
    if not isinstance(select, Mapping):
        raise InputError(
            "select must map coordinates to what is selected: {'time': slice('1982-01', '1999-12'), 'lat': (-60, 60)}, "
            f"not {select!r:.80}"
        )
    criteria = {}
    for name, value in select.items():
        if isinstance(value, slice):
            if value.step is not None:
                raise InputError(f"select: {name} has a step; a window has two ends")
            criteria[str(name)] = Window(value.start, value.stop)
        elif isinstance(value, tuple) and len(value) == 2:
            criteria[str(name)] = Window(*value)
        elif isinstance(value, (list, tuple, np.ndarray)):
            criteria[str(name)] = tuple(np.asarray(value).ravel().tolist())
        else:
            criteria[str(name)] = (value,)
    return criteria


def text_of(criteria: Mapping[str, Criterion]) -> str:
    """The criteria as text, for provenance: ``time=1982-01:1999-12 lat=-60:60``."""
    return " ".join(
        f"{name}={criterion if isinstance(criterion, Window) else ','.join(map(str, criterion))}"
        for name, criterion in criteria.items()
    )


def selected(source: Source, select: Any) -> Source:
    """The part of a source that fulfils all criteria; the source itself without any.

    Raises
    ------
    InputError
        For a coordinate that the source does not have, and when nothing is left.
    """
    criteria = check_selection(select)
    if not criteria:
        return source
    if source.labels is None:
        raise InputError(
            f"{source.name}: has no coordinates, by which select= could choose; NetCDF, Zarr and xarray have them"
        )
    indices: dict[int, np.ndarray] = {}
    for name, criterion in criteria.items():
        axis, chosen = _chosen(source.labels, name, criterion, source.name)
        if axis in indices:
            chosen = indices[axis][np.isin(indices[axis], chosen)]
        if not len(chosen):
            raise InputError(f"{source.name}: {text_of(criteria)} selects nothing along {source.labels.dims[axis]}")
        indices[axis] = chosen
    return Selected(source, indices, text_of(criteria))


def _chosen(labels: ArrayMetadata, name: str, criterion: Criterion, source: str) -> tuple[int, np.ndarray]:
    """The axis of a coordinate, and the indices that a criterion selects."""
    key, coord, part = coordinate(labels, name, source)
    axis = labels.dims.index(coord.dims[0])
    times = times_of(key, coord)
    values = np.asarray(coord.values)
    if part is not None:
        assert times is not None
        values, times = times.part(part), None
    if isinstance(criterion, Window):
        mask = _between(values, times, criterion, key, source) if kind_of(labels, key) != "longitude" else None
        if mask is None:
            return axis, _around(values.astype(np.float64), criterion, key)
    else:
        tests = [_equals(values, times, value, key) for value in criterion]
        mask = functools.reduce(np.logical_or, tests)
    if not mask.any():
        shown = text_of({name: criterion})
        raise InputError(f"{source}: nothing lies in {shown}: {key} is {_extent(values, times)}")
    return axis, np.flatnonzero(mask)


def coordinate(labels: ArrayMetadata, name: str, source: str) -> tuple[str, Coord, str | None]:
    """The name, the coordinate and the part of a time that a name such as ``lat`` or ``time.season`` means.

    ``lat`` and ``lon`` also mean a latitude and longitude of another name.

    Raises
    ------
    InputError
        When there is no such coordinate, or it has more than one axis.
    """
    key, part = name, None
    if name not in labels.coords and "." in name:
        key, _, part = name.rpartition(".")
    if key not in labels.coords:
        probe = ArrayMetadata((key,), {})
        kind = kind_of(probe, key)
        key = next((k for k in labels.coords if kind is not None and kind_of(labels, k) == kind), key)
    if key not in labels.coords:
        raise InputError(f"{source}: has no coordinate {key!r}; it has: {', '.join(labels.coords) or 'none'}")
    coord = labels.coords[key]
    if len(coord.dims) != 1:
        raise InputError(
            f"{source}: the coordinate {key} lies along {' and '.join(coord.dims) or 'no axis'}, where one axis is "
            "needed; a mask says which points of such a grid are meant"
        )
    if part is not None and part not in PARTS:
        raise InputError(f"{source}: {name}: the parts of a time are {', '.join(PARTS)}, not {part!r}")
    if part is not None and times_of(key, coord) is None:
        raise InputError(f"{source}: {name}: the coordinate {key} is no time (units such as 'days since 1982-01-01')")
    return key, coord, part


def _between(values: np.ndarray, times: Times | None, window: Window, key: str, source: str) -> np.ndarray:
    mask: np.ndarray = np.ones(len(values), bool)
    if times is not None:
        if window.low is not None:
            mask &= times.numbers >= times.period(str(window.low))[0]
        if window.high is not None:
            mask &= times.numbers < times.period(str(window.high))[1]
        return mask
    if values.dtype.kind not in "iufb":
        raise InputError(f"{source}: {key} holds texts, of which select takes some, {key}=A,B, and no range")
    low, high = (None if end is None else _number(end, key) for end in window)
    if low is not None and high is not None and low > high:
        low, high = high, low
    tolerance = _tolerance(values)
    if low is not None:
        mask &= values >= low - tolerance
    if high is not None:
        mask &= values <= high + tolerance
    return mask


def _around(values: np.ndarray, window: Window, key: str) -> np.ndarray:
    """The indices of longitudes in a window on the circle, from west to east if it crosses the data's own edge."""
    low, high = (None if end is None else _number(end, key) for end in window)
    if low is None or high is None:
        low = low if low is not None else min(float(values.min()), high or 0)
        high = high if high is not None else max(float(values.max()), low)
    tolerance = _tolerance(values)
    width = CIRCLE if high - low >= CIRCLE else np.mod(high - low, CIRCLE)
    east = np.mod(values - low + tolerance, CIRCLE)
    chosen = np.flatnonzero(east <= width + 2 * tolerance)
    if not len(chosen):
        raise InputError(f"nothing lies in {key}={window}: {key} is {_extent(values, None)}")
    crosses = width < CIRCLE and (np.diff(values[chosen]) > 0).all() and (np.diff(east[chosen]) < 0).any()
    return chosen[np.argsort(east[chosen], kind="stable")] if crosses else chosen


def _equals(values: np.ndarray, times: Times | None, value: Any, key: str) -> np.ndarray:
    if times is not None:
        low, high = times.period(str(value))
        return np.asarray((times.numbers >= low) & (times.numbers < high))
    if values.dtype.kind in "iufb":
        return np.asarray(np.abs(values - _number(value, key)) <= _tolerance(values))
    return np.asarray(values.astype(str) == str(value))


def _tolerance(values: np.ndarray) -> float:
    if values.dtype.kind != "f":
        return 0.0
    return _ROUNDINGS * float(np.finfo(np.float32).eps) * float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _number(value: Any, key: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"select: {key} holds numbers, and {value!r} is none") from None


def _extent(values: np.ndarray, times: Times | None) -> str:
    if times is not None:
        ends = Times(times.name, times.numbers[[0, -1]], times.units, times.calendar).dates()
        return f"{ends[0]} … {ends[1]}"
    return f"{values[0]} … {values[-1]} ({len(values):,})"


class Selected(Wrapped):
    """Some rows of a source, and some points of each axis.

    Parameters
    ----------
    source : Source
        With a known number of samples.
    indices : dict of int to array
        The indices that are left of an axis; 0 is that of the samples.
    text : str
        What was selected, for provenance.
    """

    def __init__(self, source: Source, indices: Mapping[int, np.ndarray], text: str) -> None:
        super().__init__(source)
        self._indices, self._text = dict(indices), text
        self._rows = self._indices.get(0, np.arange(source.shape[0] or 0))
        shape = [len(self._indices[axis]) if axis in self._indices else n for axis, n in enumerate(source.shape)]
        self.shape = tuple(shape)  # type: ignore[assignment]  # of at least the axis of the samples
        self.labels = None if source.labels is None else _labels(source.labels, self._indices)
        self.is_part_of_grid = source.is_part_of_grid or any(axis > 0 for axis in self._indices)

    @property
    def recipe(self) -> Any:
        inner = self._source.recipe
        return None if inner is None else (Selected, inner, self._indices, self._text)

    @property
    def provenance(self) -> dict[str, str]:
        return {**self._source.provenance, "select": self._text}

    @property
    def fingerprint(self) -> dict[str, Any] | None:
        inner = self._source.fingerprint
        return None if inner is None else {**inner, "select": self._text}

    def select_rows(self, values: np.ndarray) -> np.ndarray:
        values = self._source.select_rows(values)
        return values[self._rows] if len(values) == self._source.shape[0] else values

    def read(self, first: int, stop: int) -> np.ndarray:
        stop = min(stop, self.shape[0] or 0)
        return self.read_into(first, stop, np.empty((stop - first, *self.shape[1:]), self.dtype))

    def read_into(self, first: int, stop: int, out: np.ndarray) -> np.ndarray:
        rows = self._rows[first:stop]
        out = out[: len(rows)]
        cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        for begin, end in zip(cuts, cuts[1:], strict=False):
            if end > begin:
                out[begin:end] = self._points(self._source.read(int(rows[begin]), int(rows[end - 1]) + 1))
        return out

    def _points(self, rows: np.ndarray) -> np.ndarray:
        for axis, indices in self._indices.items():
            if (
                axis > 0
                and len(indices)
                and indices[-1] - indices[0] == len(indices) - 1
                and (np.diff(indices) > 0).all()
            ):
                rows = rows[(slice(None),) * axis + (slice(int(indices[0]), int(indices[-1]) + 1),)]
            elif axis > 0:
                rows = rows.take(indices, axis)
        return rows

    def done(self, stop: int) -> None:
        if stop:
            self._source.done(int(self._rows[stop - 1]) + 1)

    def ahead(self, first: int, stop: int) -> None:
        if first < stop <= len(self._rows):
            self._source.ahead(int(self._rows[first]), int(self._rows[stop - 1]) + 1)


def _labels(labels: ArrayMetadata, indices: Mapping[int, np.ndarray]) -> ArrayMetadata:
    left = {labels.dims[axis]: values for axis, values in indices.items()}
    coords = {}
    for name, coord in labels.coords.items():
        values = np.asarray(coord.values)
        for axis, dim in enumerate(coord.dims):
            if dim in left:
                values = values.take(left[dim], axis)
        coords[name] = coord._replace(values=values)
    return dataclasses.replace(labels, coords=coords)
