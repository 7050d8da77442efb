"""What is written must not be what is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from .sinks import Sink
from .sources import split
from .sources.base import FileSource


def check_no_overlap(outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """InputError, before anything is written, where an output is an input of the same run or another output.

    Also by another name: through links, as another dataset of the same file, as a store around the array that is read.

    Parameters
    ----------
    outputs, inputs : mapping of str to path or anything else
        By their names in messages. What is not a path is passed over, but for arrays that are mapped from files.
    """
    paths = [(name, path) for name, value in outputs.items() if (path := _path(value)) is not None]
    for i, (name, path) in enumerate(paths):
        for other, value in inputs.items():
            if (source := _path(value)) is not None and _is_data(source) and _overlap(path, source):
                raise InputError(f"{path}: is both the {name} and the {other}, which would be overwritten")
        for other, before in paths[:i]:
            if _overlap(path, before):
                raise InputError(f"{path}: the {other} and the {name} need two files")


def _path(value: Any) -> str | None:
    """The file or folder that is meant, without what is named in it."""
    if isinstance(value, (FileSource, Sink)):
        value = value.path
    if isinstance(value, np.memmap):
        value = value.filename
    return split(os.fsdecode(value))[0] if isinstance(value, (str, os.PathLike)) else None


def _is_data(path: str) -> bool:
    """Whether a path is no mere folder, such as one that happens to be called "max" as a target is."""
    from .sources.zarr import is_store

    return not os.path.isdir(path) or is_store(os.listdir(path))


def _overlap(one: str, other: str) -> bool:
    """Whether two paths lead to the same file or folder, or one into the other."""
    try:
        if os.path.samefile(one, other):
            return True
    except OSError:  # one of them is not there yet
        pass
    one, other = (os.path.normcase(os.path.realpath(path)) for path in (one, other))
    try:
        return os.path.commonpath([one, other]) in (one, other)
    except ValueError:  # they are on two of Windows' drives
        return False
