"""The settings of an analyzer, checked and copied once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..model.layers import SOFTMAXES
from ..rules.composites import Composite
from ..rules.gradients import GradientComposite
from .explain_scope import start_and_target
from .inputs import check_flag, check_memory, check_precision, check_range, own
from .threads import check_threads

#: Final activations that are left out: relevance starts at their input.
STRIPPED = (*SOFTMAXES, "sigmoid")


@dataclass(frozen=True, eq=False)
class AnalyzerSettings:
    """The options of an analyzer: those of `lrpfast.Analyzer`, and three in which its subclasses differ.

    Attributes
    ----------
    composite : Composite
        The rule, as a composite.
    target : target or None
        The target of calls without one, by default ``default_target``; None if every call must have one.
    start : str, int or None
        The hidden layer that is explained.
    y_ref : float, array or None
    input_range : (low, high) or None
    device, precision : str
    threads, memory : int or None
    mask_nan : bool
    stripped : sequence of str
        Final activations that are left out: relevance starts at their input.
    rectify : bool
        Whether relevance starts at max(output, 0).
    dtype : dtype
    operands : str
        What contractions multiply (`Program.operands`).
    """

    composite: Composite
    target: Any = None
    start: Any = None
    y_ref: Any = None
    input_range: tuple[float, float] | None = None
    device: str = "auto"
    precision: str = "float32"
    threads: int | None = None
    memory: int | None = None
    mask_nan: bool = False
    stripped: Sequence[str] = STRIPPED
    rectify: bool = False
    default_target: Any = "max"
    dtype: np.dtype = field(init=False)
    operands: str = field(init=False)

    def __post_init__(self) -> None:
        dtype, operands = check_precision(self.precision)
        checked: dict[str, Any] = {
            "dtype": np.dtype(dtype),
            "operands": operands,
            "threads": check_threads(self.threads),
            "memory": check_memory(self.memory),
            "input_range": check_range(self.input_range),
            "mask_nan": check_flag(self.mask_nan, "mask_nan"),
            "y_ref": own(self.y_ref),
        }
        start, target = start_and_target(own(self.start), own(self.target))
        checked["start"], checked["target"] = start, self.default_target if target is None else target
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def gradients(self) -> GradientComposite | None:
        """The composite, if gradients are computed in place of relevance."""
        return self.composite if isinstance(self.composite, GradientComposite) else None

    @property
    def averages(self) -> bool:
        """Whether gradients at several points are averaged."""
        return self.gradients is not None and self.gradients.averages

    def with_threads(self, threads: int) -> AnalyzerSettings:
        """The same settings with another number of threads."""
        settings = copy.copy(self)
        object.__setattr__(settings, "threads", threads)
        return settings
