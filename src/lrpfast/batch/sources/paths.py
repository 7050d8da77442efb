"""Names of sources: a path, or a path, a colon and the name of an array in it; patterns that mean several."""

from __future__ import annotations

import glob
import os
import re
from typing import Any

from ...errors import InputNotFoundError


def split(path: str) -> tuple[str, str | None]:
    """(the path of an existing file or folder, the name after a colon or None).

    A colon may also be part of the path: the longest existing path counts. The colon of a drive is part of it.
    """
    end, drive = len(path), len(os.path.splitdrive(path)[0])
    while end > drive:
        if os.path.lexists(path[:end]):
            return path[:end], path[end + 1 :] or None
        end = path.rfind(":", 0, end)
    return path, None


def absolute(path: str, array: str | None) -> str:
    """An absolute path with the unchanged name in it, for a process in another folder."""
    path = os.path.abspath(path)
    return path if array is None else f"{path}:{array}"


def is_paths(x: Any) -> bool:
    """Whether this is a list of paths, which are read as one."""
    return isinstance(x, (list, tuple)) and len(x) > 0 and all(isinstance(item, (str, os.PathLike)) for item in x)


def is_files(x: Any) -> bool:
    """Whether this is a list of files that exist, as arrays or variables, and not a list of texts for the samples."""
    if not is_paths(x):
        return False
    names = [os.fsdecode(item) for item in x]
    named = all(name.endswith(".npy") or split(name)[1] is not None for name in names)
    return named and all(os.path.lexists(split(name)[0]) or glob.has_magic(name) for name in names)


def expanded_if_missing(name: str) -> list[str]:
    """The names that a pattern means; the name itself if it is none, or if there is a file of this very name."""
    if os.path.lexists(split(name)[0]):
        return [name]
    return expanded(name) or [name]


def expanded(text: str) -> list[str] | None:
    """The names of the sources that a pattern such as ``sst_*.nc:sst`` means; None if the text is no pattern.

    Numbers in names are in their order: ``x_9.npy`` comes before ``x_10.npy``.

    Raises
    ------
    InputNotFoundError
        When no file matches.
    """
    if not glob.has_magic(text):
        return None
    end = len(text)
    while end > 0:
        if paths := glob.glob(text[:end]):
            return [path + text[end:] for path in sorted(paths, key=_natural)]
        end = text.rfind(":", 0, end)
    raise InputNotFoundError(text, "no file matches the pattern")


def _natural(path: str) -> list[Any]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", path)]
