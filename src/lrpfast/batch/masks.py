"""Features picked from a grid by a mask, and put back on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..engine.provenance import array_text
from ..errors import InputError, ShapeError
from .align import aligned, kind_of
from .metadata import ArrayMetadata, Coord
from .sample_arrays import Beside
from .scatter import put, scatter
from .sinks import Sink
from .sources import Source, open_source
from .sources.base import Wrapped

if TYPE_CHECKING:
    from .metadata import RowsShape


def open_mask(mask: Any, data: Source | None = None) -> np.ndarray:
    """A boolean array from an array or path that `open_source` takes; numbers must be 0 or 1.

    If both the mask and the data have coordinates, the mask is `aligned` with the data: where a part of the grid is
    selected, the same part of the mask is taken.

    Raises
    ------
    InputError
        For other values, and for a mask on another grid than the data's.
    """
    with open_source(mask) as source:
        values, labels = np.array(source.read(0, source.shape[0])), source.labels  # type: ignore[arg-type]
    if data is not None and values.ndim >= len(data.shape):  # an axis of time or depth, of length 1
        values, labels = _without_singles(values, labels, values.ndim - len(data.shape) + 1)
    booleans = values.astype(bool)
    if not np.array_equal(values, booleans):
        raise InputError(f"{source.name}: a mask holds True and False, or 0 and 1 only")
    if not booleans.any():
        raise InputError(f"{source.name}: the mask is False everywhere, no feature is left")
    if labels is None or data is None or data.labels is None:
        return booleans
    samples = data.labels.dims[0]
    if len(data.labels.dims) > values.ndim and kind_of(data.labels, samples) is not None:
        raise InputError(
            f"{data.name}: samples lie along the first axis, and that is {samples!r}; put theirs first, in xarray by "
            "transpose('time', ...)"
        )
    aligned_mask = aligned(booleans, labels, source.name, data.labels, data.is_part_of_grid)
    if not aligned_mask.any():
        raise InputError(f"{source.name}: the mask is False everywhere in the part of the data that is selected")
    return aligned_mask


def _without_singles(
    values: np.ndarray, labels: ArrayMetadata | None, count: int
) -> tuple[np.ndarray, ArrayMetadata | None]:
    """An array and its labels without its first axes of length 1, at most this number of them."""
    axes = [axis for axis, n in enumerate(values.shape) if n == 1][:count]
    if labels is not None:
        singles = {labels.dims[axis] for axis in axes}
        dims = tuple(dim for dim in labels.dims if dim not in singles)
        coords = {name: coord for name, coord in labels.coords.items() if not singles & set(coord.dims)}
        labels = dataclasses.replace(labels, dims=dims, coords=coords)
    return values.squeeze(tuple(axes)), labels


def open_mask_for(features: Any, mask: Any, data: Source | None = None) -> np.ndarray:
    """`open_mask`, for a model of this input shape.

    Raises
    ------
    ShapeError
        When the number of points in the mask is not the model's number of features.
    """
    booleans = open_mask(mask, data)
    if isinstance(features, tuple) and features[-1:] not in ((points := int(booleans.sum()),), (None,)):
        takes = f"{features[0]:,} features" if len(features) == 1 else f"inputs of shape {features}"
        raise ShapeError(f"the mask has {points:,} points, the model {takes}")
    return booleans


class Masked(Wrapped):
    r"""Reads (samples, …, \*grid) as (samples, …, features): the points where a mask is True.

    Parameters
    ----------
    source : Source
        Closed together with this object.
    mask : array or path
        On the grid; see `open_mask`.

    Attributes
    ----------
    mask : boolean array
    labels : ArrayMetadata or None
        The features', with their coordinates on the grid; ``labels.grid`` has the grid's.
    """

    def __init__(self, source: Source, mask: Any) -> None:
        super().__init__(source)
        self.mask = open_mask(mask, source)
        lead = len(source.shape) - self.mask.ndim  # axes before the grid's: samples, and lags, say
        if lead < 1 or self.mask.shape != source.shape[lead:]:
            raise ShapeError(f"{source.name}: samples have shape {source.shape[1:]}, the mask {self.mask.shape}")
        self._indices = np.flatnonzero(self.mask)
        self._rows: np.ndarray | None = None  # grid values on their way to features
        self.shape = cast("RowsShape", (*source.shape[:lead], len(self._indices)))
        self.labels = None if source.labels is None else _picked(source.labels, self.mask)

    @property
    def recipe(self) -> Any:
        """That of the grid: a worker receives the mask itself."""
        return self._source.recipe

    @property
    def fingerprint(self) -> dict[str, Any] | None:
        inner = self._source.fingerprint
        return None if inner is None else {**inner, "mask": array_text(self.mask)}

    def read(self, first: int, stop: int) -> np.ndarray:
        rows = self._source.read(first, stop)
        return self._pick(rows, np.empty((len(rows), *self.shape[1:]), self.dtype))

    def read_into(self, first: int, stop: int, out: np.ndarray) -> np.ndarray:
        if self._rows is None or len(self._rows) < stop - first:
            self._rows = np.empty((stop - first, *self._source.shape[1:]), self.dtype)
        rows = self._source.read_into(first, stop, self._rows)
        return self._pick(rows, out[: len(rows)])

    def _pick(self, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        # row by row: a row fits in the cache
        flat = out.reshape(-1, len(self._indices))
        for row, features in zip(rows.reshape(-1, self.mask.size), flat, strict=True):
            np.take(row, self._indices, out=features, mode="clip")
        return out


def _picked(labels: ArrayMetadata, mask: np.ndarray) -> ArrayMetadata:
    lead, grid = labels.dims[: -mask.ndim], labels.dims[-mask.ndim :]
    feature = "feature" if "feature" not in labels.dims else "lrp_feature"
    sizes, coords = dict(zip(grid, mask.shape, strict=True)), {}
    for name, (dims, values, attrs) in labels.coords.items():
        if set(dims) <= set(lead):
            coords[name] = Coord(dims, values, attrs)
        elif not set(lead) & set(dims):
            value_dims = [dim for dim in grid if dim in dims]
            values = np.transpose(values, [dims.index(dim) for dim in value_dims])
            values = values.reshape([sizes[dim] if dim in value_dims else 1 for dim in grid])
            coords[name] = Coord((feature,), np.broadcast_to(values, mask.shape)[mask], attrs)
    stacked = {dim: levels for dim, levels in labels.stacked.items() if dim in lead}
    return dataclasses.replace(labels, dims=(*lead, feature), coords=coords, grid=labels, stacked=stacked)


def on_grid(shape: tuple[int, ...], mask: np.ndarray | None) -> tuple[int, ...]:
    """The shape of a row of features when it is put back on the grid; unchanged without a mask."""
    return shape if mask is None else (*shape[:-1], *mask.shape)


class Gridded(Sink):
    """A sink that puts rows of features back on the grid, with NaN where the mask is False.

    Parameters
    ----------
    sink : Sink
        Closed together with this object.
    mask : boolean array
    """

    def __init__(self, sink: Sink, mask: np.ndarray) -> None:
        self._sink, self._mask, self._indices = sink, np.asarray(mask, bool), np.flatnonzero(mask)
        self._grid: np.ndarray | None = None  # reused: points outside the mask stay NaN
        self.name, self.path, self.partial, self.resumable = sink.name, sink.path, sink.partial, sink.resumable
        self.array, self.holds_sample_arrays, self.may_add = sink.array, sink.holds_sample_arrays, sink.may_add

    def put_beside(self, beside: Beside, feature_axes: int) -> None:
        maps = {
            name: (scatter(values, self._mask) if values.ndim else values, attrs)
            for name, (values, attrs) in beside.maps.items()
        }
        self._sink.put_beside(Beside(beside.arrays, maps), self._mask.ndim)

    def compress(self, compression: str) -> None:
        self._sink.compress(compression)

    def add(self) -> None:
        self._sink.add()

    def recover(self) -> None:
        self._sink.recover()

    @property
    def arrays(self) -> tuple[str, ...]:
        return self._sink.arrays

    def check(self, shape: RowsShape, dtype: np.dtype, labels: ArrayMetadata | None = None) -> None:
        self._sink.check((shape[0], *on_grid(shape[1:], self._mask)), dtype, _of_grid(labels))
        self.described_names = self._sink.described_names

    def _open(self, existing: bool) -> None:
        grid = _of_grid(self._labels)
        shape: RowsShape = (self._shape[0], *on_grid(self._shape[1:], self._mask))
        self._sink.begin(shape, self._dtype, self._attributes, grid, self._end, self._rows, existing)

    def write(self, first: int, rows: np.ndarray, beside: Sequence[np.ndarray] = ()) -> int:
        if self._grid is None or len(self._grid) < len(rows):
            self._grid = scatter(rows, self._mask)
        else:
            put(rows, self._indices, self._grid[: len(rows)].reshape(*rows.shape[:-1], -1))
        return self._sink.write(first, self._grid[: len(rows)], beside)

    def checksum(self, first: int, stop: int) -> int | None:
        return self._sink.checksum(first, stop)

    def frame(self) -> int:
        return self._sink.frame()

    def take_finished(self) -> None:
        super().take_finished()
        self._sink.take_finished()

    def flush(self) -> None:
        self._sink.flush()

    def finish(self) -> None:
        self._sink.finish()

    def close(self) -> None:
        self._sink.close()

    def discard(self) -> None:
        self._sink.discard()


def _of_grid(labels: ArrayMetadata | None) -> ArrayMetadata | None:
    """The metadata of the grid, from those of a `Masked` source or of its grid."""
    return labels.grid if labels is not None and labels.grid is not None else labels
