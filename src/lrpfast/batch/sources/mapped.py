"""Arrays that have the same layout in a file as in memory: .npy files, members of .npz files, plain HDF5 datasets.

They are read, not mapped to memory: when a mapped file is truncated, the next access kills the process.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
from typing import Any, BinaryIO, cast

import numpy as np

from ...errors import InputError, InputNotFoundError
from ..parallel import ThreadedRange
from ..positional_io import CONCURRENT, read_at
from .base import FileSource, row_bytes, state_of
from .fortran import copy_rows, feature_order

#: Files that are often passed in place of an .npy file, by their first bytes.
_KINDS = (
    (b"PK\x03\x04", "a zip archive (an .npz or .keras file?), not one .npy array; np.save writes one"),
    (b"\x89HDF", "an HDF5 file, not an .npy array"),
    (b"CDF", "a NetCDF file, not an .npy array"),
    (b"\x80", "a Python pickle (never opened: it can run code), not an .npy array"),
)
MAGIC = b"\x93NUMPY"
#: Bytes of the rows that are read from a Fortran array at a time: each feature's samples are a read of their own, and
#: few short reads take as long as one that is much longer.
_WINDOW = 1 << 28


class MappedSource(FileSource):
    """Rows of an array that is contiguous in a file.

    Parameters
    ----------
    path, name : str
    shape : tuple of int
    dtype : numpy.dtype
    offset : int
        The array's offset in the file.
    fortran : bool
        Whether the array is in Fortran order.
    state : tuple
        The file's state when its header was read.
    """

    def __init__(
        self,
        path: str,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype,
        offset: int,
        fortran: bool,
        state: tuple[Any, ...],
    ) -> None:
        super().__init__(path, name, shape, dtype, state)
        self._offset, self._fortran = offset, fortran and len(shape) > 1
        self._row = row_bytes(self.shape, dtype)
        self._features = math.prod(self.shape[1:])
        self._order = feature_order(self.shape[1:]) if self._fortran else None
        # rows of a Fortran array as in the file, the samples of a feature adjacent
        self._window, self._window_first = np.empty((self._features if self._fortran else 0, 0), dtype), 0
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115

    def read(self, first: int, stop: int) -> np.ndarray:
        stop = min(stop, self.shape[0] or 0)
        return self.read_into(first, stop, np.empty((stop - first, *self.shape[1:]), self.dtype))

    def read_into(self, first: int, stop: int, out: np.ndarray) -> np.ndarray:
        out = out[: stop - first]
        with self.reading(first, stop):
            if self._fortran and out.size:
                self._read_from_window(first, out)
            elif out.size:
                self._read_at(self._offset + first * self._row, out)
        return out

    def _read_from_window(self, first: int, out: np.ndarray) -> None:
        """Read rows of an array in Fortran order by way of a larger window of rows, which stays for the next call."""
        samples, row = self.shape[0] or 0, 0
        while row < len(out):
            begin = first + row - self._window_first
            if not 0 <= begin < self._window.shape[1]:
                count = min(samples - first - row, max(1, _WINDOW // max(1, self._row)))
                if self._window.shape[1] != count:
                    self._window = np.empty((self._features, count), self.dtype)
                self._window_first, begin = samples, 0  # no row is there, should reading fail
                self._read_window(first + row)
                self._window_first = first + row
            part = self._window[:, begin : begin + len(out) - row]
            copy_rows(part, self._order, out[row : row + part.shape[1]])
            row += part.shape[1]

    def _read_window(self, first: int) -> None:
        """Fill the window with the rows from ``first`` on."""
        samples, item = self.shape[0] or 0, self.dtype.itemsize

        def step(begin: int, end: int) -> None:
            if self._window.shape[1] == samples:  # adjacent in the file
                self._read_at(self._offset + begin * samples * item, self._window[begin:end])
                return
            for i in range(begin, end):
                self._read_at(self._offset + (i * samples + first) * item, self._window[i])

        with ThreadedRange(self._features, 1, self._window.size, None if CONCURRENT else 1) as threads:
            threads.run([step])

    def _read_at(self, offset: int, out: np.ndarray) -> None:
        data = memoryview(out.reshape(-1).view(np.uint8))
        while data:
            count = read_at(self._file, data, offset)
            if not count:
                raise EOFError("the file ends there")
            data, offset = data[count:], offset + count

    def ahead(self, first: int, stop: int) -> None:
        advise, will_need = getattr(os, "posix_fadvise", None), getattr(os, "POSIX_FADV_WILLNEED", None)
        if not self._fortran and advise is not None:
            begin, end = self._offset + first * self._row, self._offset + stop * self._row
            with contextlib.suppress(OSError):
                advise(self._file.fileno(), begin, max(0, end - begin), will_need)

    def close(self) -> None:
        self._window = self._window[:, :0].copy()
        self._file.close()


def open_npy(path: str) -> MappedSource:
    """The array in an .npy file."""
    return MappedSource(path, path, *_npy_layout(path))


def _npy_layout(path: str) -> tuple[tuple[int, ...], np.dtype, int, bool, tuple[int, ...]]:
    """The shape, dtype and offset of the array in an .npy file, whether it is in Fortran order, the file's state."""
    with open(path, "rb") as file:
        shape, dtype, fortran, offset = header(file, path, os.path.getsize(path))
        return shape, dtype, offset, fortran, state_of(path)


def header(file: BinaryIO, name: str, end: int) -> tuple[tuple[int, ...], np.dtype, bool, int]:
    """(shape, dtype, whether in Fortran order, offset of the data) of the .npy array at the file's position.

    Raises
    ------
    InputError
        For anything but a complete array of plain numbers that ends at ``end`` or before.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:  # version 3 is for field names in other alphabets
            raise InputError(f"{name}: .npy version {version[0]}.{version[1]}, which holds records, not numbers")
        shape, fortran, dtype = read(file)
    except InputError:
        raise
    except (ValueError, EOFError, OverflowError, TypeError, MemoryError) as error:  # MemoryError: from Python's parser
        raise InputError(f"{name}: damaged .npy file ({error})") from None
    if dtype.hasobject:
        raise InputError(f"{name}: holds Python objects (a pickle, never opened), not numbers")
    if any(n < 0 for n in shape):
        raise InputError(f"{name}: damaged .npy file (shape {shape})")
    if file.tell() + math.prod(shape) * dtype.itemsize > end:
        raise InputError(f"{name}: truncated, its array does not fit in its {end:,} bytes")
    return shape, dtype, fortran, file.tell()


def is_npy(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an .npy file."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


class _WholeArray(MappedSource):
    """An array of any plain type that is read at once: labels may be texts."""

    def _check(self) -> None:
        """Allow texts and a single number."""

    def load(self) -> np.ndarray:
        shape = cast("tuple[int, ...]", self.shape)
        array: np.ndarray = np.empty(shape, self.dtype, order="F" if self._fortran else "C")
        if array.nbytes:
            with self.reading(0, max(1, len(array) if array.ndim else 1)):
                self._read_at(self._offset, array.reshape(-1, order="A"))
        return array


def open_array(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in an .npy file, in memory.

    Raises
    ------
    InputError
        For anything but a complete .npy file of plain numbers or texts.
    InputNotFoundError
        When there is no such file.
    OSError
        When it may not be read.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except FileNotFoundError:
        raise InputNotFoundError(path) from None
    if not head.startswith(MAGIC):
        kind = "an empty file" if not head else "not an .npy file (np.save writes one)"
        raise InputError(f"{path}: {next((kind for magic, kind in _KINDS if head.startswith(magic)), kind)}")
    source = _WholeArray(path, path, *_npy_layout(path))
    try:
        return source.load()
    finally:
        source.close()


def release(x: np.ndarray) -> None:
    """Release the memory of a mapped array's pages; the next access reads them again."""
    mapped = getattr(x, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED") and not x.flags.writeable:
        mapped.madvise(mmap.MADV_DONTNEED)
