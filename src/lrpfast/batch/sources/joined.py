"""Several files that are read as one: one a year, say."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ...errors import InputError, ShapeError
from ..align import file_indices
from ..metadata import ArrayMetadata, Coord
from ..times import Times, times_of
from .base import Source
from .paths import absolute, split

#: The largest number of files that are open at the same time.
MOST_OPEN = 4


class _Part(NamedTuple):
    """One of the files.

    Attributes
    ----------
    source : Source
        Closed; it knows whether its file has changed.
    name : str
        The name by which it is opened.
    fingerprint : dict or None
    samples : int
    indices : dict of int to array
        For axes that lie otherwise than the first file's, the file's index of each point.
    """

    source: Source
    name: str
    fingerprint: dict[str, Any] | None
    samples: int
    indices: dict[int, np.ndarray]


class JoinedSource(Source):
    """The samples of several files, one file after the other.

    Files with coordinates along the samples are in their order; others in that of their names.

    Parameters
    ----------
    names : sequence of str
    open_path : callable
        Opens the source of a name.
    sort : bool
        Whether the coordinate decides the order of the files; False refuses names in another order.

    Raises
    ------
    InputError, ShapeError
        When the files do not follow one another: their coordinates overlap, or their grids, shapes, calendars differ.
    """

    def __init__(self, names: Sequence[str], open_path: Callable[[str], Source], sort: bool = True) -> None:
        self._open_path = open_path
        opened: list[tuple[Source, str, dict[str, Any] | None]] = []
        for name in names:
            with open_path(name) as source:
                opened.append((source, name, source.fingerprint))
        first = opened[0][0]
        coordinate = _Coordinate([source for source, *_ in opened])
        order = coordinate.order(sort)
        opened = [opened[i] for i in order]
        reference = opened[0][0].labels
        self._parts = [
            _Part(source, name, print_, source.shape[0] or 0, _indices(source, opened[0][0]))
            for source, name, print_ in opened
        ]
        self.labels = None if reference is None else coordinate.joined([source for source, *_ in opened])
        for source, *_ in opened:
            source.labels = None  # a thousand files have a thousand grids
        first = opened[0][0]
        self.dtype = np.result_type(*{source.dtype for source, *_ in opened})
        self.shape = (sum(part.samples for part in self._parts), *first.shape[1:])
        self.step = first.step
        self.name = f"{opened[0][1]} … {opened[-1][1]} ({len(opened)} files)"
        self._ends = np.cumsum([part.samples for part in self._parts])
        self._open: OrderedDict[int, Source] = OrderedDict()
        self._check()

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(path for part in self._parts for path in part.source.paths)

    @property
    def recipe(self) -> Any:
        return [absolute(*split(part.name)) for part in self._parts]

    @property
    def fingerprint(self) -> dict[str, Any] | None:
        prints = [part.fingerprint for part in self._parts]
        digest = hashlib.blake2b(json.dumps(prints, sort_keys=True).encode(), digest_size=20).hexdigest()
        return {"files": len(prints), "first": prints[0], "last": prints[-1], "blake2b": digest}

    def read(self, first: int, stop: int) -> np.ndarray:
        return self.read_into(first, stop, np.empty((stop - first, *self.shape[1:]), self.dtype))

    def read_into(self, first: int, stop: int, out: np.ndarray) -> np.ndarray:
        stop = min(stop, self.shape[0] or 0)
        index, row = int(np.searchsorted(self._ends, first, "right")), first
        while row < stop:
            part = self._parts[index]
            begin = int(self._ends[index]) - part.samples
            end = min(stop, int(self._ends[index]))
            if end > row:
                rows = self._source(index).read(row - begin, end - begin)
                for axis, indices in part.indices.items():
                    rows = rows.take(indices, axis)
                out[row - first : end - first] = rows
            row, index = end, index + 1
        return out[: stop - first]

    def _source(self, index: int) -> Source:
        """An open file; the ones that were used last stay open."""
        if index in self._open:
            self._open.move_to_end(index)
            return self._open[index]
        while len(self._open) >= MOST_OPEN:
            self._open.popitem(last=False)[1].close()
        part = self._parts[index]
        source = self._open_path(part.name)
        if source.fingerprint != part.fingerprint:
            source.close()
            raise InputError(f"{part.name}: the file was changed or replaced since it was opened")
        self._open[index] = source
        return source

    def unchanged(self) -> None:
        for part in self._parts:
            part.source.unchanged()

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def _indices(source: Source, first: Source) -> dict[int, np.ndarray]:
    """`file_indices`, after a check that the samples of two files have the same shape."""
    if source.shape[1:] != first.shape[1:]:
        raise ShapeError(
            f"{source.name}: samples have shape {source.shape[1:]}, those of {first.name} {first.shape[1:]}; files "
            "that are read as one have samples of one shape"
        )
    if source is first or source.labels is None or first.labels is None:
        return {}
    return file_indices(source.labels, first.labels, source.name, first.name)


def order_of(names: Sequence[str], open_path: Callable[[str], Source]) -> list[int]:
    """The indices of files in the order in which `JoinedSource` reads them.

    Raises
    ------
    InputError
        When the files overlap.
    """
    sources = []
    for name in names:
        with open_path(name) as source:
            sources.append(source)
    return _Coordinate(sources).order(sort=True)


class _Coordinate:
    """The coordinate along the samples of all files, if each of them has it."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        own = [coord for source in sources if (coord := _along_samples(source)) is not None]
        self._columns: list[np.ndarray] | None = None
        if len(own) == len(sources):
            self._columns = _comparable([source.name for source in sources], own)

    def order(self, sort: bool) -> list[int]:
        """The indices of the files in the coordinate's order; InputError if the files overlap."""
        in_order, columns = list(range(len(self._sources))), self._columns
        if columns is None or any(column.dtype.kind not in "iufM" for column in columns):
            return in_order
        filled = [i for i in in_order if len(columns[i])]
        ordered = sorted(filled, key=lambda i: columns[i].min())
        for before, after in pairwise(ordered):
            if not columns[before].max() < columns[after].min():
                one, other = self._sources[before], self._sources[after]
                name = one.labels.dims[0] if one.labels is not None else "samples"
                raise InputError(
                    f"{other.name}: its {name} begins before that of {one.name} ends; files that are read as one "
                    "follow one another, and none is named twice"
                )
        if not sort and ordered != filled:
            i = next(i for i, (a, b) in enumerate(zip(ordered, filled, strict=True)) if a != b)
            raise InputError(
                f"{self._sources[filled[i]].name}: stands before {self._sources[ordered[i]].name}, which begins "
                "earlier; list the files in the order of their samples, or give a pattern in quotes ('sst_*.nc:sst'), "
                "whose files are put in order"
            )
        return ordered + [i for i in in_order if i not in filled]

    def joined(self, sources: Sequence[Source]) -> ArrayMetadata | None:
        """The first file's labels, with the coordinates along the samples of all files."""
        labels = [source.labels for source in sources if source.labels is not None]
        if len(labels) < len(sources):
            return None
        first, samples = labels[0], labels[0].dims[0]
        coords: dict[str, Coord] = {}
        for name, coord in first.coords.items():
            if samples not in coord.dims:
                coords[name] = coord
                continue
            own = [item.coords.get(name) for item in labels]
            if coord.dims == (samples,) and None not in own:
                columns = _comparable([source.name for source in sources], [(name, c) for c in own])
                coords[name] = coord._replace(values=np.concatenate(columns))
        return ArrayMetadata(first.dims, coords, first.attrs, first.name)


def _along_samples(source: Source) -> tuple[str, Coord] | None:
    if source.labels is None:
        return None
    dim = source.labels.dims[0]
    coord = source.labels.coords.get(dim)
    return None if coord is None or coord.dims != (dim,) else (dim, coord)


def _comparable(names: Sequence[str], columns: Sequence[Any]) -> list[np.ndarray]:
    """The values of a coordinate in each file, times in the first file's units."""
    times: list[Times | None] = [times_of(name, coord) for name, coord in columns]
    if any(item is None for item in times):
        return [np.asarray(coord.values) for _, coord in columns]
    first = times[0]
    assert first is not None
    result = []
    for item, name in zip(times, names, strict=True):
        assert item is not None
        if item.calendar != first.calendar:
            raise InputError(f"{name}: its calendar is {item.calendar}, that of {names[0]} {first.calendar}")
        result.append(item.numbers if item.units == first.units else item.in_units(first.units))
    return result
