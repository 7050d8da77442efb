"""Data sets of models with several inputs: one source for each, read as rows in which they lie one after the other."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, LrpfastError, ShapeError
from ..model.graph import Model
from .metadata import ArrayMetadata, Coord
from .sources import Source, open_source, split
from .sources.fit import fitted
from .sources.ragged import open_ragged

if TYPE_CHECKING:
    from .metadata import RowsShape


@dataclass(frozen=True)
class InputRows:
    """How several inputs lie in one row.

    Attributes
    ----------
    names : tuple of str
    shapes : tuple of tuple
        One sample's, of each input.
    labels : tuple of ArrayMetadata
        Of each input; what has one name in two of them is the same.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    labels: tuple[ArrayMetadata, ...]

    @property
    def sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]

    def arrays_of(self, shape: RowsShape) -> list[RowsShape]:
        """The shape (samples, …, *shape) of each input's array, for rows of shape (samples, …, values)."""
        leading = list(shape)[1:-1]
        return [(shape[0], *leading, *own) for own in self.shapes]  # type: ignore[misc]

    def split(self, rows: np.ndarray) -> list[np.ndarray]:
        """Each input's part of rows (…, values), as (…, *shape)."""
        ends = np.cumsum(self.sizes)[:-1].tolist()
        parts = np.split(rows, ends, axis=-1)
        return [part.reshape(*rows.shape[:-1], *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def join_into(self, parts: Sequence[np.ndarray], out: np.ndarray) -> None:
        """Write arrays (…, *shape) into rows (…, values)."""
        first = 0
        for part, shape, size in zip(parts, self.shapes, self.sizes, strict=True):
            leading = part.shape[: part.ndim - len(shape)]
            out[..., first : first + size] = part.reshape(*leading, size)
            first += size


class SeveralSource(Source):
    """Several sources of as many samples, as rows of all their values.

    Parameters
    ----------
    sources : mapping of str to Source
        By the input's name; they are closed with this one.

    Attributes
    ----------
    rows : InputRows
    sources : dict of str to Source
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources, self._sources = dict(sources), tuple(sources.values())
        self.name = ", ".join(f"{name}={source.name}" for name, source in sources.items())
        counts = {name: source.shape[0] for name, source in sources.items()}
        if len({n for n in counts.values() if n is not None}) > 1:
            text = ", ".join(f"{name} has {n}" for name, n in counts.items())
            raise ShapeError(f"the inputs must have as many samples each: {text}")
        shapes = tuple(tuple(map(int, source.shape[1:])) for source in self._sources)
        labels = _unique_labels(sources, shapes)
        self.rows = InputRows(tuple(sources), shapes, labels)
        samples = next((n for n in counts.values() if n is not None), None)
        if None in counts.values():
            samples = None
        self.shape = (samples, sum(self.rows.sizes))
        dtypes = [np.dtype(np.float32) if s.dtype.name == "bfloat16" else s.dtype for s in self._sources]
        self.dtype = np.result_type(*dtypes)
        self.step = max(source.step for source in self._sources)

    @property
    def fingerprint(self) -> dict[str, Any] | None:
        prints = [source.fingerprint for source in self._sources]
        return None if None in prints else {"inputs": dict(zip(self.rows.names, prints, strict=True))}

    def read(self, first: int, stop: int) -> np.ndarray:
        return self.read_into(first, stop, np.empty((stop - first, *self.shape[1:]), self.dtype))

    def read_into(self, first: int, stop: int, out: np.ndarray) -> np.ndarray:
        parts = [source.read(first, stop) for source in self._sources]
        if len({len(part) for part in parts}) > 1:
            text = ", ".join(f"{name} {first + len(p)}" for name, p in zip(self.rows.names, parts, strict=True))
            raise ShapeError(f"the inputs must have as many samples each; they end after: {text}")
        self.rows.join_into(parts, out[: len(parts[0])])
        return out[: len(parts[0])]

    def unchanged(self) -> None:
        for source in self._sources:
            source.unchanged()

    def done(self, stop: int) -> None:
        for source in self._sources:
            source.done(stop)

    def ahead(self, first: int, stop: int) -> None:
        for source in self._sources:
            source.ahead(first, stop)

    def close(self) -> None:
        for source in self._sources:
            source.close()


def open_inputs(model: Model, source: Any, mask: Any = None, *, select: Any = None, fill_nan: Any = None) -> Source:
    """What `open_source` takes, of a model with several inputs for each of them; its axes of length 1 as the model's.

    Parameters
    ----------
    model : Model
    source : path, mapping, list, xarray.Dataset or what `open_source` takes
        For several inputs: a mapping from the inputs' names to sources; a list of sources in the inputs' order; or a
        file, or a group in one, that holds an array for each input by its name.
    mask : array or path, optional
        As in `Analyzer.stream`.
    select, fill_nan : optional
        As in `open_source`, of each input.
    """
    names = [model.nodes[i].name for i in model.inputs]
    if isinstance(source, SeveralSource):
        if select is not None or fill_nan is not None:
            raise InputError("select= and fill_nan= are for sources that are not open yet")
        return source
    dataset = sys.modules.get("xarray") is not None and isinstance(source, sys.modules["xarray"].Dataset)
    if len(names) == 1:
        if isinstance(source, Mapping) and not dataset and set(source) == set(names):
            source = source[names[0]]
        shape = model.input_shape
        if model.is_open and shape.count(None) == 1 and shape[0] is None:
            ragged = open_ragged(source, shape[1:])
            if ragged is not None:
                if select is not None or fill_nan is not None:
                    ragged.close()
                    raise InputError("select= and fill_nan= are for samples of one shape, and these differ in length")
                return ragged
        return fitted(open_source(source, select=select, fill_nan=fill_nan), expected_sample(model.input_shape, mask))
    listed = ", ".join(map(repr, names))
    if isinstance(source, (str, os.PathLike)):
        path, inside = split(os.fsdecode(source))
        within = f"{inside}/" if inside else ""
        several: Any = {name: f"{path}:{within}{name}" for name in names}
    elif dataset:
        several = {name: source[name] for name in names if name in source}
    elif isinstance(source, Mapping):
        several = dict(source)
    elif isinstance(source, (list, tuple)) and len(source) == len(names):
        several = dict(zip(names, source, strict=True))
    else:
        count = f"a {type(source).__name__} of {len(source)}" if isinstance(source, (list, tuple)) else "one"
        raise InputError(f"the model has {len(names)} inputs ({listed}): give a source for each, not {count}")
    if set(several) != set(names):
        raise InputError(
            f"the model's inputs are {listed}: give a source for each by its name, not {', '.join(map(repr, several))}"
        )
    opened: dict[str, Source] = {}
    try:
        for name in names:
            try:
                opened[name] = open_source(several[name], select=select, fill_nan=fill_nan)
            except InputError as error:
                if isinstance(source, (str, os.PathLike)) and os.path.exists(split(os.fsdecode(source))[0]):
                    raise InputError(
                        f"{error}. The model has {len(names)} inputs, {listed}: a file that holds all of them has an "
                        "array of each name; else give one source for each, NAME=FILE"
                    ) from None
                raise
        return SeveralSource(opened)
    except LrpfastError:
        for item in opened.values():
            item.close()
        raise


def expected_sample(features: Any, mask: Any) -> tuple[int | None, ...]:
    """One sample's shape, in which axes of length 1 may differ from the data's; of a mask's grid, any size."""
    if mask is None:
        return tuple(features)
    with open_source(mask) as source:
        grid = [n for n in source.shape if n != 1]
    return (*features[:-1], *([None] * len(grid)))


def source_paths(source: Any, one: str = "source") -> dict[str, Any]:
    """Each source of a data set, by its name in messages; ``one`` is that of a single one."""
    if isinstance(source, SeveralSource):
        return {f"input {name!r}": item for name, item in source.sources.items()}
    if isinstance(source, Mapping) and not hasattr(source, "data_vars"):
        return {f"input {name!r}": item for name, item in source.items()}
    if isinstance(source, (list, tuple)):
        return {f"input {i}": item for i, item in enumerate(source)}
    return {one: source}


def _unique_labels(sources: Mapping[str, Source], shapes: Sequence[tuple[int, ...]]) -> tuple[ArrayMetadata, ...]:
    """The labels of inputs as they stand beside each other: what differs has the input's name before its own."""
    labels = {name: source.labels for name, source in sources.items()}
    sample = next((item.dims[0] for item in labels.values() if item is not None), "sample")
    sizes: dict[str, int] = {}
    coords: dict[str, Coord] = {}
    result = []
    for (name, item), shape in zip(labels.items(), shapes, strict=True):
        dims = item.dims[1:] if item is not None else tuple(f"dim_{i}" for i in range(1, len(shape) + 1))
        own = {} if item is None else item.coords
        clashes = {dim for dim, n in zip(dims, shape, strict=True) if sizes.get(dim, n) != n or dim in sources}
        clashes |= {key for key, coord in own.items() if key in coords and not _same(coord, coords[key])}
        clashes |= {key for key in own if key in sources}
        new = {key: f"{name}_{key}" for key in clashes - {sample}}
        if item is not None:
            new[item.dims[0]] = sample
        own_coords = {new.get(k, k): c._replace(dims=tuple(new.get(d, d) for d in c.dims)) for k, c in own.items()}
        own_coords = {key: coord for key, coord in own_coords.items() if _same(coord, coords.get(key, coord))}
        final = tuple(new.get(dim, dim) for dim in dims)
        sizes.update(zip(final, shape, strict=True))
        coords.update(own_coords)
        attrs = {} if item is None else item.attrs
        result.append(ArrayMetadata((sample, *final), own_coords, attrs, name))
    return tuple(result)


def _same(one: Coord, other: Coord) -> bool:
    return one.dims == other.dims and np.array_equal(one.values, other.values)
