"""The groups of the statistics, and the group of each sample."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

from ..engine.core import AnalyzerCore
from ..engine.provenance import array_text
from ..errors import InputError
from .per_sample import PREDICTION, Labels, labels

#: The name of the only group when there is no ``group_by``.
ALL = "all"
#: The name of the groups' axis, unless their labels have one.
GROUP = "group"
#: Functions by which a model with a single output is a classifier.
_SIGMOIDS = ("sigmoid", "hard_sigmoid")
#: Bytes of a feature's statistics in a group: sums, those of blocks that are not merged yet, and all results.
_BYTES = 240
#: Bytes of all groups that need no permission.
_FREE_BYTES = 4 << 30


def check_groups(groups: int, features: int, memory: int | None) -> None:
    """Raise InputError if the statistics of so many groups take far more memory than those of a few classes.

    Parameters
    ----------
    groups, features : int
    memory : int or None
        The analyzer's; it allows more.
    """
    size = groups * features * _BYTES
    if groups > 1 and size > max(_FREE_BYTES, memory or 0):
        raise InputError(
            f"statistics of {groups:,} groups, each of {features:,} values, take about {size / 1e9:.1f} GB of memory; "
            f"group by fewer labels, such as time.season or time.month, or allow it with memory={math.ceil(size / 1e9)}"
            "_000_000_000"
        )


def _threshold(core: AnalyzerCore, name: str) -> float:
    """The explained output of a model with one output, above which it predicts class 1.

    Raises
    ------
    InputError
        When its only output is no probability: a regression has no classes.
    """
    if math.prod(core.output_shape) > 1:
        return 0.0
    if core.model.without_output_activation(_SIGMOIDS) is core.model:
        raise InputError(
            f"{name}: the model has one output and no final sigmoid: a regression predicts no class; give group_by= "
            "labels of your own, such as np.digitize(model.predict(x)[:, 0], [0.5])"
        )
    return 0.0 if core.explained_model.without_output_activation(_SIGMOIDS) is core.explained_model else 0.5


def group_name(text: str) -> str:
    """The name of the groups' axis by what their labels are: "season" of "time.season", "model" of "sst.nc:model"."""
    return re.split(r"[.:/\\]", text)[-1] or GROUP


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
        self._threshold = 0.0
        if self.needs_output:
            self._threshold = _threshold(core, "group_by='prediction'" if self._predicted else "correct")
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
            known = group_by if isinstance(group_by, Labels) else None
            values = labels(group_by if known is None else known.values, "group_by", samples)
            distinct, self._of = np.unique(values, return_inverse=True)
            self.names = distinct.tolist()
            self.attributes["group_by"] = f"{known.text}: {array_text(values)}" if known else array_text(values)
            self.group_name = GROUP if known is None else group_name(known.text)
            if known is not None and known.order:
                self.names.sort(key=known.order.index)
                self._of = np.array([self.names.index(name) for name in distinct.tolist()])[self._of]
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
        predicted = (values[:, 0] > self._threshold).astype(np.int64) if values.shape[1] == 1 else values.argmax(1)
        if self._predicted:
            group = predicted
        if self._correct is not None:
            group = np.where(self._correct[first : first + rows] == predicted, group, -1)
        return group
