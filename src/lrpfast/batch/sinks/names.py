"""Valid names of an output's arrays, coordinates, dimensions and attributes, checked before anything is created.

The names come from the command line and from untrusted data files, and in a Zarr store they become folders. The
rules of `trouble` apply to every format; `_OF_FORMAT` adds the rules of single formats.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from ...errors import InputError
from ...output import in_utf8
from ..metadata import Coord

#: The largest number of bytes in a name, for file systems and NetCDF.
MOST_BYTES = 250

#: Names that Windows reserves for devices.
_DEVICES = "con|prn|aux|nul|com[0-9]|lpt[0-9]"

#: By format: patterns of invalid names, with the reasons. A Zarr array is a folder, which may be copied to any system.
_OF_FORMAT: dict[str, list[tuple[re.Pattern[str], str]]] = {
    "zarr": [
        (re.compile(r"\..*|zarr\.json", re.S | re.I), "is kept for Zarr's metadata"),
        (re.compile(rf'({_DEVICES})(\..*)?|.*[<>:"|?*].*|.*[. ]', re.S | re.I), "is no folder's name on every system"),
    ],
    "nc": [(re.compile(r"[\x00-/:-@\[-^`{-\x7f].*|.* ", re.S), "is no name in NetCDF, where they begin with a letter")],
    "npz": [(re.compile("metadata|file|allow_pickle|args|kwds"), "is kept for .npz files")],
}


def trouble(name: str, kind: str) -> str | None:
    """Why a name is invalid in this format ("h5", "nc", "npz", "zarr"); None if it is valid."""
    if name in ("", ".", ".."):
        return "is no name"
    if "/" in name or "\\" in name:
        return "has a slash, which leads to another place"
    if any(unicodedata.category(c) == "Cc" for c in name):
        return "has a control character"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is no text in UTF-8"
    if size > MOST_BYTES:
        return f"has {size:,} bytes, more than {MOST_BYTES}"
    return next((why for pattern, why in _OF_FORMAT.get(kind, ()) if pattern.fullmatch(name)), None)


def array_name(output: str, array: str | None, kind: str) -> str:
    """The name of the output's array from the command line, by default "relevance"; in HDF5 it may include groups.

    Raises
    ------
    InputError
        When the name is invalid in the format.
    """
    name = "relevance" if array is None else in_utf8(array)
    if kind == "h5":
        name = name.removeprefix("/")
    elif "/" in name:
        raise InputError(f"{output}: the array lies at the top of its file; give it a name without '/'")
    for part in name.split("/"):
        if (problem := trouble(part, kind)) is not None:
            raise InputError(
                f"{output}: {name!r} names no array: {'it' if part == name else f'{part!r} in it'} {problem}"
            )
    return name


def check_names(output: str, kind: str, arrays: Mapping[str, Coord], coords: Mapping[str, Coord]) -> None:
    """Raise InputError unless the names of an output's arrays and of the input's coordinates are valid."""
    for key in coords:
        if any(array.split("/")[0] == key for array in arrays):
            raise InputError(f"{output}: a coordinate of the input is called {key!r} too; give the output another name")
        _check(output, "coordinate", key, kind)
    for key, (dims, _, attrs) in (*arrays.items(), *coords.items()):
        for dim in dims:
            _check(output, "dimension", dim, kind)
        for name in attrs:
            _check(output, f"attribute of {key!r}", name, "nc" if kind == "nc" else "")


def _check(output: str, owner: str, name: object, kind: str) -> None:
    if (problem := trouble(str(name), kind)) is not None:
        raise InputError(
            f"{output}: the input's {owner} {name!r} cannot be written under this name, which {problem}; rename it in "
            "the input, or write .npy, which holds no names"
        )
