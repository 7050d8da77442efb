"""What arrays, coordinates, dimensions and attributes of an output may be called: held before anything is created.

Such names come from the command line and from data files that nobody vouches for, and a Zarr store makes folders of
them. What is told here holds of every format; `_OF_FORMAT` has what one of them asks for besides.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from ...errors import InputError
from ...output import in_utf8
from ..metadata import Coord

#: Bytes of a name: what file systems and NetCDF take.
MOST_BYTES = 250

#: Names that Windows keeps for devices.
_DEVICES = "con|prn|aux|nul|com[0-9]|lpt[0-9]"

#: By format: what matches is no name in it, and why. A Zarr array is a folder, which may be copied to any system.
_OF_FORMAT: dict[str, list[tuple[re.Pattern[str], str]]] = {
    "zarr": [
        (re.compile(r"\..*|zarr\.json", re.S | re.I), "is kept for Zarr's metadata"),
        (re.compile(rf'({_DEVICES})(\..*)?|.*[<>:"|?*].*|.*[. ]', re.S | re.I), "is no folder's name on every system"),
    ],
    "nc": [(re.compile(r"[\x00-/:-@\[-^`{-\x7f].*|.* ", re.S), "is no name in NetCDF, where they begin with a letter")],
    "npz": [(re.compile("metadata|file|allow_pickle|args|kwds"), "is kept for .npz files")],
}


def trouble(name: str, kind: str) -> str | None:
    """Why an output of this format ("h5", "nc", "npz", "zarr") holds nothing by this name; None where it may."""
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
    """The array that the command line names in an output, "relevance" where it does not; in HDF5 also a path of groups.

    Raises
    ------
    InputError
        Where the format has no such name.
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
    """InputError unless an output may hold these arrays of its own, and coordinates of the input beside them."""
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
