"""Relevance of samples of different lengths in files: the forms in which `sources.ragged` reads them."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import InputError
from ...output import replace_file
from ..compression import netcdf_options
from ..metadata import CONVENTIONS
from ..optional_import import open_netcdf
from . import named
from .libraries import from_library
from .names import array_name

#: Positions that are written together, at most.
_POSITIONS = 1 << 16


class RaggedFile:
    """A file with the relevance of every sample, and with its sum; it appears when it is complete.

    Parameters
    ----------
    out : str or path
        ``.h5``, ``.hdf5``, ``.nc`` or ``.nc4``, perhaps with the name of the array.
    row : tuple of int
        The shape of one position.
    dims : tuple of str
        The names of the axes of samples, of positions, and of ``row``.
    count_name : str
        The name of the samples' lengths, in NetCDF.

    Raises
    ------
    InputError
        For another format, and for names that the format does not allow.
    """

    def __init__(self, out: str | os.PathLike[str], row: tuple[int, ...], dims: Sequence[str], count_name: str) -> None:
        self.path, kind, array = named(os.fsdecode(out))
        if kind not in ("h5", "hdf5", "nc", "nc4"):
            raise InputError(
                f"{self.path}: relevance of samples of different lengths is written as .h5 (rows of variable length) "
                "or as .nc (a contiguous ragged array)"
            )
        self._netcdf = kind.startswith("nc")
        self.array = array_name(self.path, array, "nc" if self._netcdf else "h5")
        self.row, self.dims, self._count = row, tuple(dims), count_name
        taken = {self.array, self.sum_name, *self.dims}
        if self._netcdf and (len(taken) < 2 + len(self.dims) or count_name in taken):
            raise InputError(
                f"{self.path}: the input calls an axis or its counts {self.array!r} or {self.sum_name!r}, "
                "too; give the output's array another name"
            )

    @property
    def sum_name(self) -> str:
        """The array of the sums of each sample's relevance."""
        return f"{self.array}_sum"

    @property
    def names(self) -> list[str]:
        """The names of all arrays in the file."""
        return [self.array, self.sum_name, *([self._count] if self._netcdf else [])]

    def write(
        self, lengths: np.ndarray, values: np.ndarray, attributes: Mapping[str, str], compression: str | None
    ) -> None:
        """Write all samples.

        Parameters
        ----------
        lengths : array of int, shape (samples,)
        values : array, shape (positions, *row)
            Of all samples; may be mapped from a file.
        attributes : mapping
            Of the file.
        compression : str or None

        Raises
        ------
        OSError
            With the file's name, where it cannot be written.
        """
        temporary = os.path.join(os.path.dirname(os.path.realpath(self.path)), f".lrpfast-{secrets.token_hex(4)}.part")
        store = self._write_netcdf if self._netcdf else self._write_hdf5
        try:
            with from_library(temporary, self.path):
                store(temporary, lengths, values, attributes, compression)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            replace_file(temporary, os.path.realpath(self.path))
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)

    def _write_netcdf(self, path: str, lengths: np.ndarray, values: Any, attributes: Any, compression: Any) -> None:
        sample, obs, *rest = self.dims
        with open_netcdf(path, self.path, "w", format="NETCDF4") as file:
            file.setncatts({"Conventions": CONVENTIONS, **attributes})
            for dim, size in zip(self.dims, (len(lengths), len(values), *self.row), strict=True):
                file.createDimension(dim, size)
            counts = file.createVariable(self._count, np.int64, (sample,))
            counts.setncatts({"long_name": "number of positions of each sample", "sample_dimension": obs})
            counts[...] = lengths
            relevance = file.createVariable(self.array, values.dtype, (obs, *rest), **netcdf_options(compression))
            relevance.long_name = "relevance"
            for first in range(0, len(values), _POSITIONS):
                relevance[first : first + _POSITIONS] = values[first : first + _POSITIONS]
            sums = file.createVariable(self.sum_name, np.float64, (sample,))
            sums.long_name = "sum of each sample's relevance"
            sums[...] = list(_sums(lengths, values))

    def _write_hdf5(self, path: str, lengths: np.ndarray, values: Any, attributes: Any, compression: Any) -> None:
        import h5py

        with h5py.File(path, "x") as file:
            file.attrs.update(attributes)
            rows = file.create_dataset(self.array, (len(lengths),), h5py.vlen_dtype(values.dtype))
            rows.attrs["long_name"] = "relevance"
            rows.attrs["row_shape"] = np.array(self.row, np.int64)
            first = 0
            for i, length in enumerate(lengths.tolist()):
                if length:
                    rows[i] = np.ravel(values[first : first + length])
                first += length
            file[self.sum_name] = np.fromiter(_sums(lengths, values), np.float64, len(lengths))
            file[self.sum_name].attrs["long_name"] = "sum of each sample's relevance"


def _sums(lengths: np.ndarray, values: np.ndarray) -> Iterator[float]:
    """The sum of each sample, in float64."""
    first = 0
    for length in lengths.tolist():
        yield float(np.sum(values[first : first + length], dtype=np.float64))
        first += length
