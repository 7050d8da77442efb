"""Samples of different lengths in files: HDF5 datasets of variable-length rows, contiguous ragged arrays of NetCDF."""

from __future__ import annotations

import contextlib
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ...budget import FREE_BYTES
from ...errors import InputError, ShapeError
from ..metadata import words
from ..optional_import import open_netcdf
from .base import FileSource, Source, state_of
from .hdf5 import _attributes, _check_dataset, _checked_heaps, _find, _open, is_hdf5, is_netcdf, open_netcdf4
from .netcdf import NetcdfSource, _attribute, _variables
from .netcdf_classic import check_size
from .paths import split

if TYPE_CHECKING:
    import h5py

#: Rows of variable length that are read together, at most.
_MOST_ROWS = 1024


class RaggedSource(FileSource):
    """Samples of different lengths, which `samples` reads; ``shape`` has None for their length.

    Attributes
    ----------
    row : tuple of int
        The shape of one position of a sample.
    at_once : int
        How many samples are read together, at most.
    dims : tuple of str
        The names of the axes of samples and of all samples' positions, and of ``row``'s axes.
    count_name : str
        What the file calls the samples' lengths.
    """

    row: tuple[int, ...]
    at_once: int = _MOST_ROWS
    dims: tuple[str, ...]
    count_name: str = "row_size"

    def samples(self, first: int, stop: int) -> list[np.ndarray]:
        """The samples from ``first`` up to ``stop``, each (length, *row)."""
        with self.reading(first, stop):
            return self._samples(first, stop)

    def _samples(self, first: int, stop: int) -> list[np.ndarray]:
        raise NotImplementedError

    def _read(self, first: int, stop: int) -> np.ndarray:
        raise InputError(f"{self.name}: its samples differ in length, and this needs samples of one shape")


def open_ragged(source: Any, row: tuple[int | None, ...]) -> RaggedSource | None:
    """The samples of different lengths that a path names; None for anything else.

    Parameters
    ----------
    source : object
        What `Analyzer.stream` takes.
    row : tuple of int
        The shape of one position, as the model has it.

    Raises
    ------
    InputError, ShapeError
        When such samples are damaged, or do not fit the model.
    """
    if isinstance(source, RaggedSource):
        return source
    if isinstance(source, Source) or not isinstance(source, (str, os.PathLike)):
        return None
    path, name = split(os.fsdecode(source))
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        classic = file.read(3) == b"CDF"
    if not classic and not is_hdf5(path):
        return None
    own = tuple(n for n in row if n is not None)
    if not classic:
        found = _open_vlen(path, name, own)
        if found is not None or not is_netcdf(path):
            return found
    return _open_contiguous(path, name, own, classic)


def _open_vlen(path: str, name: str | None, row: tuple[int, ...]) -> RaggedSource | None:
    state = state_of(path)
    with _checked_heaps(path):
        file = _open(path)
        try:
            dataset = _find(file, path, name) if name is not None else _only_vlen(file)
            if dataset is not None and _values_of(dataset) is not None and dataset.ndim == 1:
                return _VlenSource(file, dataset, path, row, state)
        except BaseException:
            file.close()
            raise
    file.close()
    return None


def _values_of(dataset: h5py.Dataset) -> np.dtype | None:
    """The type of the values in rows of variable length; None for any other dataset, and for text."""
    import h5py

    kind = h5py.check_vlen_dtype(dataset.dtype)
    return kind if isinstance(kind, np.dtype) else None


def _only_vlen(file: h5py.File) -> h5py.Dataset | None:
    """The only dataset, where it has rows of variable length."""
    import h5py

    found: list[h5py.Dataset] = []
    file.visititems(lambda _, node: found.append(node) if isinstance(node, h5py.Dataset) and node.ndim else None)
    ragged = [node for node in found if _values_of(node) is not None]
    numbers = [node for node in found if node.dtype.kind in "fiub" and not h5py.h5ds.is_scale(node.id)]
    return ragged[0] if len(ragged) == 1 and not numbers else None


class _VlenSource(RaggedSource):
    """Rows of variable length; each holds the values of one sample, position by position."""

    def __init__(
        self, file: h5py.File, dataset: h5py.Dataset, path: str, row: tuple[int, ...], state: tuple[int, int, int]
    ) -> None:
        kind = _values_of(dataset)
        assert kind is not None
        name = f"{path}:{dataset.name.strip('/')}"
        _check_dataset(dataset, name)
        super().__init__(path, name, (dataset.shape[0], 0, *row), kind, state)
        self.shape, self.row = (dataset.shape[0], None, *row), row
        self.dims = ("sample", "obs", *(f"dim_{axis + 1}" for axis in range(len(row))))
        self._file, self._dataset = file, dataset
        # no row is larger than its file, but many may share one place in it
        self.at_once = max(1, min(_MOST_ROWS, FREE_BYTES // max(1, state[1])))
        self._undecoded()

    def _undecoded(self) -> None:
        coded = _attributes(self._dataset, ("scale_factor", "add_offset"))
        if coded:
            raise InputError(f"{self.name}: has {' and '.join(coded)}, which rows of variable length cannot have here")

    def _samples(self, first: int, stop: int) -> list[np.ndarray]:
        size, samples = math.prod(self.row), []
        for begin in range(first, stop, self.at_once):
            for i, values in enumerate(self._dataset[begin : min(stop, begin + self.at_once)], begin):
                if len(values) % size:
                    raise ShapeError(
                        f"{self.name}: sample {i} has {len(values):,} values, which are no whole number of positions "
                        f"of shape {self.row}"
                    )
                samples.append(np.asarray(values, self.dtype).reshape(len(values) // size, *self.row))
        return samples

    def close(self) -> None:
        self._file.close()


def _open_contiguous(path: str, name: str | None, row: tuple[int, ...], classic: bool) -> RaggedSource | None:
    if classic:
        check_size(path)
    with open_netcdf(path, path) as file:
        variables = _variables(file)
        counts = {key: _attribute(v, "sample_dimension") for key, v in variables.items()}
        counts = {key: dim for key, dim in counts.items() if isinstance(dim, str)}
        if name is None:  # the only variable along such a dimension that describes no other one
            described = {w for v in variables.values() for w in words(_attribute(v, "coordinates"))}
            fitting = [k for k, v in variables.items() if v.ndim and v.dimensions[0] in counts.values()]
            fitting = [k for k in fitting if k not in described and variables[k].name not in variables[k].dimensions]
            name = fitting[0] if len(fitting) == 1 else None
        variable = None if name is None else variables.get(name.strip("/"))
        if variable is None or not variable.ndim:
            return None
        count = next((key for key, dim in counts.items() if dim == variable.dimensions[0]), None)
        if count is None:
            return None
        dims, found = (*variables[count].dimensions[:1], *variable.dimensions), str(name).strip("/")
    opened = NetcdfSource if classic else open_netcdf4
    with opened(path, count) as lengths:
        values = lengths.read(0, lengths.shape[0] or 0)
    positions = opened(path, found)
    try:
        return _ContiguousSource(positions, values, row, dims, count)
    except BaseException:
        positions.close()
        raise


class _ContiguousSource(RaggedSource):
    """All samples' positions one after the other, and how many each sample has (CF, section 9.3.3)."""

    def __init__(
        self, positions: NetcdfSource, lengths: np.ndarray, row: tuple[int, ...], dims: tuple[str, ...], count: str
    ) -> None:
        self._positions = positions
        super().__init__(positions.path, positions.name, positions.shape, positions.dtype, positions._state)  # type: ignore[arg-type]
        with np.errstate(invalid="ignore"):
            whole = lengths.ndim == 1 and bool((np.isfinite(lengths) & (lengths >= 0) & (lengths % 1 == 0)).all())
        total = positions.shape[0]
        if not whole or int(lengths.sum()) != total:
            raise InputError(
                f"{self.name}: {count} must have the number of positions of each sample, {total:,} in all"
                + (f", not {int(lengths.sum()):,}" if whole else "")
            )
        if positions.shape[1:] != row:
            raise ShapeError(f"{self.name}: its positions have shape {positions.shape[1:]}, the model takes {row}")
        self.shape, self.row = (len(lengths), None, *row), row  # type: ignore[assignment]
        self.dims, self.count_name = dims, count.rpartition("/")[2]
        self._ends = np.concatenate([[0], np.cumsum(lengths.astype(np.int64))])

    def _samples(self, first: int, stop: int) -> list[np.ndarray]:
        ends = self._ends[first : stop + 1]
        rows = self._positions.read(int(ends[0]), int(ends[-1]))
        return np.split(rows, ends[1:-1] - ends[0])

    def close(self) -> None:
        with contextlib.suppress(AttributeError):
            self._positions.close()
