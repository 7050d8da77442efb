"""The groups of the statistics, and the group of each sample."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..engine.core import AnalyzerCore
from ..engine.provenance import array_text
from ..errors import InputError, InputNotFoundError, ShapeError
from .sources import open_array, open_source
from .sources.mapped import is_npy

#: The value of ``group_by`` that groups samples by the class that the model predicts.
PREDICTION = "prediction"
#: The name of the only group when there is no ``group_by``.
ALL = "all"
#: The name of the groups' axis, unless their labels have one.
GROUP = "group"


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
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind not in "iuU":
        raise InputError(f"{name} must hold whole numbers or texts, one for each sample, not dtype {array.dtype}")
    if array.ndim != 1 or (samples is not None and len(array) != samples):
        raise ShapeError(f"{name} must have shape ({samples},), one for each sample, not {array.shape}")
    return array


def _array(values: Any, name: str) -> np.ndarray:
    if isinstance(values, np.ndarray):
        return values
    if isinstance(values, (list, tuple)):
        try:
            array = np.asarray(values)
        except ValueError:  # rows of different lengths
            raise ShapeError(f"{name} must have one label for each sample, not rows of different lengths") from None
        if array.dtype.kind in "US" and any(isinstance(label, (int, float)) for label in values):
            raise InputError(f"{name} must hold whole numbers or texts, not some of both")
        return array
    if isinstance(values, (str, os.PathLike)) and is_npy(values):
        return np.array(open_array(values))  # labels may be texts; samples may not
    with open_source(values) as source:
        return np.array(source.read(0, source.shape[0] or 0))


class Groups:
    """Assigns samples to groups: by labels, by the class that the model predicts, or all to one.

    Parameters
    ----------
    core : AnalyzerCore
    samples : int or None
    group_by : None, "prediction" or labels
        Labels are integers or texts, one for each sample: an array, a list, or the path of one (texts: of an .npy).
    correct : labels, optional
        The true classes. A sample for which the model predicts another class is in no group.

    Attributes
    ----------
    names : list
        The groups' labels, in order.
    group_name : str
        What the groups are: the name of their axis in files.
    attributes : dict of str
        The grouping, for the attributes of output files.
    """

    def __init__(self, core: AnalyzerCore, samples: int | None, group_by: Any = None, correct: Any = None) -> None:
        self._of: np.ndarray | None = None
        self._correct = None if correct is None else labels(correct, "correct", samples)
        self._predicted = isinstance(group_by, str) and group_by == PREDICTION
        shape = core.output_shape
        self.needs_output = self._predicted or correct is not None
        if self.needs_output and isinstance(shape, list):
            raise InputError(f"the model has {len(shape)} outputs: which class it predicts is not defined")
        self._classes = max(2, int(np.prod(shape))) if self.needs_output else 0
        if self._correct is not None and self._correct.dtype.kind not in "iu":
            raise InputError("correct must hold the classes' numbers, as the model's outputs are counted")
        self.names: list[Any] = [ALL]
        self.group_name = GROUP
        self.attributes: dict[str, str] = {}
        if self._predicted:
            self.names = list(range(self._classes))
            self.attributes["group_by"] = PREDICTION
        elif group_by is not None:
            try:
                values = labels(group_by, "group_by", samples)
            except InputNotFoundError as error:
                raise InputNotFoundError(error.filename, "group_by is 'prediction', labels or their file") from None
            distinct, self._of = np.unique(values, return_inverse=True)
            self.names = distinct.tolist()
            self.attributes["group_by"] = array_text(values)
        if self._correct is not None:
            self.attributes["correct_only"] = array_text(self._correct)

    @property
    def deciding(self) -> tuple[Any, ...]:
        """Everything that the group of a sample depends on."""
        return self._predicted, self._of, self._correct, self.names

    def of(self, first: int, rows: int, output: np.ndarray | None) -> np.ndarray:
        """The group of each of these samples; −1 for none."""
        group = np.zeros(rows, np.int64) if self._of is None else self._of[first : first + rows].astype(np.int64)
        if output is None:
            return group
        values = output.reshape(rows, -1)
        # a single output is a logit: above zero is class 1
        predicted = (values[:, 0] > 0).astype(np.int64) if values.shape[1] == 1 else values.argmax(1)
        if self._predicted:
            group = predicted
        if self._correct is not None:
            group = np.where(self._correct[first : first + rows] == predicted, group, -1)
        return group
