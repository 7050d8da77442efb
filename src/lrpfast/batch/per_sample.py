"""What there is one of for each sample: labels of groups, true classes, targets; from arrays, files and coordinates."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError, InputNotFoundError, ShapeError
from .settings import StreamSettings
from .sources import Source, expanded_if_missing, is_files, open_source, read_labels, split
from .sources.select import coordinate
from .targets import is_per_sample
from .times import SEASONS, times_of

#: The value of ``group_by`` that groups samples by the class that the model predicts.
PREDICTION = "prediction"
#: The libraries whose arrays have a name that says what they hold.
_WITH_NAMES = ("xarray", "pandas")
#: The targets that are texts and no files.
TARGETS = ("max", "all")


class Labels(NamedTuple):
    """A label for each sample, from a coordinate of the data or a variable of a file.

    Attributes
    ----------
    values : array
    text : str
        What the labels are, such as "time.season".
    order : tuple
        The labels in their order, if that is not the alphabet's.
    """

    values: np.ndarray
    text: str
    order: tuple[str, ...]


def per_sample(settings: StreamSettings, data: Source) -> StreamSettings:
    """The settings, with arrays in place of the names of files and coordinates that hold a value for each sample.

    An array of as many entries as the data had before ``select`` is selected likewise.

    Raises
    ------
    InputError, InputNotFoundError, ShapeError
    """
    changes: dict[str, Any] = {}
    if settings.group_by is not None and not _is(settings.group_by, PREDICTION):
        changes["group_by"] = groups_of(settings.group_by, data)
    if settings.correct is not None:
        changes["correct"] = selected_samples(labels(settings.correct, "correct", None), data)
    target = settings.target
    if (isinstance(target, (str, os.PathLike)) and not any(_is(target, text) for text in TARGETS)) or is_files(target):
        target = target_of(target)
    if isinstance(target, Mapping) and is_per_sample(target):
        target = {name: selected_samples(np.asarray(inner), data) for name, inner in target.items()}
    elif isinstance(target, np.ndarray) and target.ndim:
        target = selected_samples(target, data)
    return dataclasses.replace(settings, **changes, target=target)


def _is(value: Any, text: str) -> bool:
    return isinstance(value, str) and value == text


def selected_samples(values: np.ndarray, data: Source) -> np.ndarray:
    """The entries of the selected samples, of an array of all."""
    return values if not values.ndim or len(values) == data.shape[0] else data.select_rows(values)


def groups_of(group_by: Any, data: Source) -> Any:
    """Labels of the data's samples: an array, or `Labels` where a coordinate or a variable gives them a name.

    Raises
    ------
    InputError, InputNotFoundError, ShapeError
    """
    if isinstance(group_by, str) and not _files(group_by):
        if data.labels is None:
            raise InputNotFoundError(group_by, "group_by is 'prediction', labels or their file, or a coordinate's name")
        try:
            name, coord, part = coordinate(data.labels, group_by, "group_by")
        except InputError as error:
            known = "group_by is 'prediction', labels or their file, or a coordinate of the data, such as time.season"
            raise InputNotFoundError(group_by, f"{error}; {known}") from None
        if coord.dims[0] != data.labels.dims[0]:
            raise InputError(f"group_by: the coordinate {name} lies along {coord.dims[0]}, not along the samples")
        times = times_of(name, coord)
        if part is not None and times is not None:
            return Labels(times.part(part), group_by, SEASONS if part == "season" else ())
        if times is not None:
            raise InputError(f"group_by: {name} is a time; {name}.season, {name}.month or {name}.year groups by a part")
        return Labels(labels(np.asarray(coord.values), "group_by", None), group_by, ())
    values = selected_samples(labels(group_by, "group_by", None), data)
    name = group_by[0] if is_files(group_by) else group_by
    if isinstance(name, str) and split(_expanded(name)[0])[1] is not None:  # a variable's name says what
        return Labels(values, name, ())
    own_name = getattr(group_by, "name", None) if type(group_by).__module__.split(".")[0] in _WITH_NAMES else None
    if isinstance(own_name, str) and own_name:
        return Labels(values, own_name, SEASONS if set(values.tolist()) <= set(SEASONS) else ())
    return values


def _files(name: str) -> bool:
    """Whether this is the name of files that exist."""
    return any(os.path.lexists(split(file)[0]) for file in _expanded(name))


def _expanded(name: str) -> list[str]:
    try:
        return expanded_if_missing(name)
    except InputNotFoundError:
        return []


def labels_for(value: Any, data: Source) -> Any:
    """Labels or numbers of the data's samples, from a file, a coordinate's name or an array; None stays None.

    Raises
    ------
    InputError, InputNotFoundError, ShapeError
    """
    if isinstance(value, str) and not _files(value):
        return groups_of(value, data).values
    if isinstance(value, (str, os.PathLike)) or is_files(value):
        value = read_labels(value)
    return selected_samples(value, data) if isinstance(value, np.ndarray) else value


def target_of(path: Any) -> np.ndarray:
    """The targets in a file or a variable of one, or in several files: whole numbers are indices.

    Raises
    ------
    InputError
        For a missing value.
    """
    array = read_labels(path)
    names = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if array.dtype.kind == "f" and array.ndim == 1:  # integers with a value for gaps are decoded to floats
        if np.isnan(array).any():
            text = ", ".join(map(os.fsdecode, names))
            raise InputError(f"target: {text} has no value at sample {int(np.flatnonzero(np.isnan(array))[0])}")
        if (array == np.rint(array)).all() and not any(os.fsdecode(name).endswith(".npy") for name in names):
            array = array.astype(np.int64)
    return array


def labels(values: Any, name: str, samples: int | None) -> np.ndarray:
    """One label for each sample, from an array, a list or the path of an array.

    Raises
    ------
    InputError, ShapeError
        For anything but one integer, truth value or text for each sample.
    """
    array = _array(values, name)
    classes = array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.rint(array)).all()
    if classes or array.dtype.kind == "b":
        array = array.astype(np.int64)  # classes are often stored as floats or truth values
    elif array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "backslashreplace")
    elif array.dtype.kind in "OT":
        array = _texts(array, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind == "M":
        raise InputError(f"{name} holds dates; time.month, time.season or time.year names a part of them")
    if array.dtype.kind not in "iuU":
        raise InputError(f"{name} must hold whole numbers or texts, one for each sample, not dtype {array.dtype}")
    if array.ndim != 1 or (samples is not None and len(array) != samples):
        raise ShapeError(f"{name} must have shape ({samples},), one for each sample, not {array.shape}")
    return array


def _texts(array: np.ndarray, name: str) -> np.ndarray:
    """Python's texts and integers as an array of one type."""
    values = array.ravel().tolist()
    for kind in (str, (int, np.integer)):
        if all(isinstance(value, kind) for value in values):
            return np.array(values).reshape(array.shape)
    missing = [i for i, value in enumerate(values) if value is None or value != value]
    if missing:
        i = missing[0]
        raise InputError(f"{name} must hold whole numbers or texts: sample {i} has no label, but {values[i]!r}")
    raise InputError(f"{name} must hold whole numbers or texts, not some of both")


def _array(values: Any, name: str) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    if is_files(values):
        return read_labels(values)
    if isinstance(values, (list, tuple)):
        try:
            array = np.asarray(values)
        except ValueError:  # rows of different lengths
            raise ShapeError(f"{name} must have one label for each sample, not rows of different lengths") from None
        if array.dtype.kind in "US" and any(isinstance(label, (int, float)) for label in values):
            raise InputError(f"{name} must hold whole numbers or texts, not some of both")
        return array
    if isinstance(values, (str, os.PathLike)):
        return read_labels(values)
    if hasattr(values, "__array__") and not hasattr(values, "__dlpack__"):
        return np.asarray(values)  # of xarray and pandas, whose texts are objects
    with open_source(values) as source:
        return np.array(source.read(0, source.shape[0] or 0))
