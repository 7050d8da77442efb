"""The contents of an existing output, so that replacing it removes nothing but the arrays that are written."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ...errors import InputError
from ..optional_import import open_netcdf

#: The metadata files of a Zarr store.
_ZARR_METADATA = (".zgroup", ".zattrs", ".zmetadata", ".zarray", "zarr.json")
#: The name of a dimension in NetCDF-4 that has no variable.
_BARE_DIMENSION = "This is a netCDF dimension but not a netCDF variable"


def has_room_beside(path: str, names: Collection[str]) -> bool:
    """Whether an existing HDF5 file or Zarr store of format 2 has none of these arrays, so that they can be added."""
    if os.path.isdir(path):
        return os.path.exists(os.path.join(path, ".zgroup")) and not set(names) & set(_in_zarr(path))
    import h5py

    try:
        return os.path.exists(path) and h5py.is_hdf5(path) and not set(names) & set(_in_hdf5(path))
    except OSError:  # a damaged file
        return False


def check_replaced(path: str, names: Collection[str], description: str) -> list[str]:
    """The arrays that replacing an output removes: those of these names and their coordinates.

    Raises InputError, with a list, if the output has other arrays, too.

    Parameters
    ----------
    path : str
        An existing file or Zarr store.
    named : collection of str
        The arrays to replace.
    description : str
        Their description in the message.
    """
    try:
        arrays = _arrays(path)
    except InputError:
        raise
    except Exception as error:  # any exception of a library that reads a damaged file
        raise InputError(
            f"{path}: is there already, and what it holds cannot be listed ({error}); name another file, or remove it"
        ) from None
    replaceable = set(names).union(*(arrays[name] for name in names if name in arrays))
    lost = sorted(arrays.keys() - replaceable)
    if lost:
        listing = ", ".join(lost[:8]) + (f" and {len(lost) - 8:,} more" if len(lost) > 8 else "")
        raise InputError(
            f"{path}: is there already and holds more than {description}, which would be lost: {listing}; name another "
            "file, or an array that this one does not have, or remove it first"
        )
    return sorted(arrays)


def _arrays(path: str) -> Mapping[str, set[str]]:
    """Every array in a file or store, whose format is recognised by content, with the coordinates that it names."""
    if not os.path.exists(path):  # a link to nowhere
        return {}
    if os.path.isdir(path):
        return _in_zarr(path)
    with open(path, "rb") as file:
        head = file.read(8)
    if head.startswith(b"CDF"):
        return _in_classic_netcdf(path)
    if head.startswith(b"PK"):
        return _in_zip(path)
    import h5py

    return _in_hdf5(path) if h5py.is_hdf5(path) else {}  # an .npy file, or another format: it has no names


def _of_attributes(dims: Iterable[Any], attrs: Mapping[str, Any], folder: str = "") -> set[str]:
    """What belongs to an array: its coordinates, and the arrays beside it, which lie in the same folder."""
    texts = (attrs.get(key, "") for key in ("coordinates", "grid_mapping"))
    beside = {f"{folder}{name}" for name in _text(attrs.get("ancillary_variables", "")).split()}
    return {*map(str, dims), *" ".join(map(_text, texts)).split(), *beside}


def _text(value: Any) -> str:
    """An attribute as text; HDF5 may return bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _in_hdf5(path: str) -> dict[str, set[str]]:
    import h5py

    arrays: dict[str, set[str]] = {}

    def note(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and not _text(node.attrs.get("NAME", "")).startswith(_BARE_DIMENSION):
            scales = [scale.name.strip("/") for dim in node.dims for scale in dim.values()]
            arrays[name] = _of_attributes(scales, node.attrs, name[: name.rfind("/") + 1])

    with h5py.File(path, "r") as file:
        file.visititems(note)  # follows no links
    return arrays


def _in_classic_netcdf(path: str) -> dict[str, set[str]]:
    with open_netcdf(path, path) as file:
        return {name: _of_attributes(each.dimensions, each.__dict__) for name, each in file.variables.items()}


def _in_zip(path: str) -> dict[str, set[str]]:
    """The arrays of an .npz file; in a file of statistics, all count as coordinates of each other."""
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        notes = archive.read("metadata.npy") if "metadata" in names else b""
    is_lrpfast = b'"lrpfast_version"' in notes.replace(b"\0", b"")  # NumPy's texts take four bytes for each character
    return {name: names if is_lrpfast else set() for name in names}


def _in_zarr(path: str) -> dict[str, set[str]]:
    """The arrays of a store in a folder, and its files that are not part of Zarr."""
    arrays: dict[str, set[str]] = {}
    for folder, folders, files in os.walk(path):
        name = os.path.relpath(folder, path).replace(os.sep, "/")
        attrs = _zarr_array(folder, files)
        if attrs is None:
            prefix = "" if name == "." else f"{name}/"
            arrays.update({f"{prefix}{file}": set() for file in files if file not in _ZARR_METADATA})
        else:
            folders.clear()  # of chunks
            arrays[name] = _of_attributes(attrs.pop("_ARRAY_DIMENSIONS", ()) or (), attrs)
    return arrays


def _zarr_array(folder: str, files: list[str]) -> dict[str, Any] | None:
    """The attributes of a Zarr array, with its dimensions' names; None for a group or any other folder."""
    if ".zarray" in files:
        return dict(_json(os.path.join(folder, ".zattrs"))) if ".zattrs" in files else {}
    if "zarr.json" in files:
        metadata = _json(os.path.join(folder, "zarr.json"))
        if metadata.get("node_type") == "array":
            attrs = dict(metadata.get("attributes") or {})
            return {**attrs, "_ARRAY_DIMENSIONS": metadata.get("dimension_names") or attrs.get("_ARRAY_DIMENSIONS")}
    return None


def _json(path: str) -> Any:
    with open(path, encoding="utf-8") as file:
        return json.load(file)
