"""The file formats of samples, each with a function that recognises it, as in xarray's backends."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ...errors import InputError
from .base import Source
from .hdf5 import dimension_of, is_hdf5, is_netcdf, open_hdf5, open_netcdf4, texts_of
from .mapped import MAGIC, open_npy
from .netcdf import NetcdfSource, classic_dimension, classic_texts
from .npz import open_npz
from .zarr import ZarrSource, is_store

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_TABLES = (".csv", ".tsv", ".txt", ".dat")


class Format(NamedTuple):
    """A file format.

    Attributes
    ----------
    name : str
    matches : callable
        Whether a path has this format, from the path and the file's first bytes (none for a folder).
    open : callable
        Opens the source: takes the path and the name of an array in it, or None.
    """

    name: str
    matches: Callable[[str, bytes], bool]
    open: Callable[[str, str | None], Source]


def _open_npy(path: str, array: str | None) -> Source:
    if array is not None:
        raise InputError(f"{path}: an .npy file holds one array, without a name such as {array!r}")
    return open_npy(path)


def _members(path: str, head: bytes) -> list[str]:
    """The names in a zip archive; none for any other file."""
    if not head.startswith(_ZIP):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except zipfile.BadZipFile as error:
        raise InputError(f"{path}: damaged or truncated zip archive ({error})") from None


def _is_zarr(path: str, head: bytes) -> bool:
    return is_store(os.listdir(path) if os.path.isdir(path) else _members(path, head))


def _is_npz(path: str, head: bytes) -> bool:
    return any(name.endswith(".npy") for name in _members(path, head))


#: The first format that matches counts: a NetCDF-4 file is an HDF5 file too.
FORMATS = (
    Format(".npy", lambda _, head: head.startswith(MAGIC), _open_npy),
    Format("Zarr", _is_zarr, ZarrSource),
    Format(".npz", _is_npz, open_npz),
    Format("NetCDF", lambda _, head: head.startswith(b"CDF"), NetcdfSource),
    Format("NetCDF-4", lambda path, _: is_hdf5(path) and is_netcdf(path), open_netcdf4),
    Format("HDF5", lambda path, _: is_hdf5(path), open_hdf5),
)


def open_file(path: str, array: str | None) -> Source:
    """Open the samples in a file or folder by the first format that matches; InputError if none does."""
    head = b""
    if not os.path.isdir(path):
        if os.path.exists(path) and not os.path.isfile(path):
            raise InputError(f"{path}: is no regular file, whose samples could be read anywhere and again")
        with open(path, "rb") as file:
            head = file.read(8)
    for known in FORMATS:
        if known.matches(path, head):
            return known.open(path, array)
    raise InputError(f"{path}: {_description(path, head)}")


def texts_in(path: str, name: str | None) -> np.ndarray | None:
    """The texts of a variable in a NetCDF or HDF5 file, one for each sample; None for anything else.

    Raises
    ------
    InputError
        For texts that are not in UTF-8.
    """
    if name is None or not os.path.isfile(path):
        return None
    classic = _is_classic(path)
    if not (classic or is_hdf5(path)):
        return None
    values = classic_texts(path, name) if classic else texts_of(path, name)
    if values is None:
        return None
    if values.dtype == "S1" and values.ndim == 2:
        values = np.array([b"".join(row) for row in values.tolist()], dtype=bytes)
    try:
        texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:{name}: holds text that is not in UTF-8 ({error})") from None
    return np.array([text.rstrip("\0 ") for text in texts]).reshape(values.shape)


def coordinate_in(path: str, name: str) -> str | None:
    """The name of the coordinate along a text variable's samples, if it has one."""
    return classic_dimension(path, name) if _is_classic(path) else dimension_of(path, name)


def _is_classic(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(3) == b"CDF"


def _description(path: str, head: bytes) -> str:
    """The description of a file or folder that has none of the formats."""
    if os.path.isdir(path):
        return "is a folder, and no Zarr store"
    if head.startswith(_ZIP):
        return "a zip archive with neither NumPy's arrays nor a Zarr store in it (a .keras file?)"
    if not head:
        return "an empty file"
    if head.startswith(b"\x80"):
        return "a Python pickle (never opened: it can run code); np.save writes an array"
    advice = "; np.save('x.npy', np.loadtxt(PATH, delimiter=',')) makes one of a table of text"
    return f"not an .npy, .npz, HDF5, NetCDF or Zarr file{advice if path.lower().endswith(_TABLES) else ''}"
