"""Outputs must not overlap inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError, InputNotFoundError
from .sinks import Sink
from .sources import Source, expanded_if_missing, is_files, split


def check_no_overlap(outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Raise InputError, before anything is written, if an output is an input of the run or another output.

    Links, datasets of the same file, and a store that contains the array count as the same path.

    Parameters
    ----------
    outputs, inputs : mapping of str to path or anything else
        By their names in messages. Values that are not paths are skipped, except arrays that are mapped from files.
    """
    paths = [(name, path) for name, value in outputs.items() for path in _paths(value)]
    sources = [(name, path) for name, value in inputs.items() for path in _paths(value) if _is_data(path)]
    for i, (name, path) in enumerate(paths):
        for other, source in sources:
            if _overlap(path, source):
                raise InputError(f"{path}: is both the {name} and the {other}, which would be overwritten")
        for other, before in paths[:i]:
            if _overlap(path, before):
                raise InputError(f"{path}: the {other} and the {name} need two files")


def _paths(value: Any) -> list[str]:
    """The files or folders, without the name of an array in them."""
    if isinstance(value, Source):
        return list(value.paths)
    if isinstance(value, Sink):
        value = value.path
    if isinstance(value, np.memmap):
        value = value.filename
    if is_files(value):
        return [path for item in value for path in _paths(item)]
    if not isinstance(value, (str, os.PathLike)):
        return []
    try:
        return [split(name)[0] for name in expanded_if_missing(os.fsdecode(value))]
    except InputNotFoundError:  # of a pattern; reading it says so
        return []


def _is_data(path: str) -> bool:
    """Whether a path can be data: a folder that happens to have a target's name, such as "max", is not."""
    from .sources.zarr import is_store

    return not os.path.isdir(path) or is_store(os.listdir(path))


def _overlap(one: str, other: str) -> bool:
    """Whether two paths are the same file or folder, or one contains the other."""
    try:
        if os.path.samefile(one, other):
            return True
    except OSError:  # one of them does not exist yet
        pass
    one, other = (os.path.normcase(os.path.realpath(path)) for path in (one, other))
    try:
        return os.path.commonpath([one, other]) in (one, other)
    except ValueError:  # they are on different drives of Windows
        return False
