"""The settings of `Analyzer.stream`, validated once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.conditions import Conditions, conditions_or_none
from ..engine.inputs import check_flag
from ..errors import InputError
from .compression import COMPRESSIONS
from .hidden import LayerSettings
from .normalize import Preparation
from .statistics_arguments import check_quantiles


@dataclass(frozen=True, eq=False)
class StreamSettings:
    """The options of `Analyzer.stream`, by their names there.

    Raises
    ------
    InputError
        For an option that is invalid for any data.
    """

    target: Any = None
    batch_size: int | str = "auto"
    conditions: Any = None
    parallel: bool = False
    part: str | None = None
    normalize: str | Sequence[str] | None = None
    layers: str | Sequence[str] | None = None
    reduce: str | None = None
    activations: bool = False
    statistics: bool | str | os.PathLike[str] = False
    group_by: Any = None
    correct: Any = None
    quantiles: float | Sequence[float] = ()
    skip_zero: bool = False
    compression: str = "auto"
    mask: Any = None
    select: Any = None
    fill_nan: float | None = None
    progress: bool | Callable[[int], object] = True
    resume: bool = True
    overwrite: bool = False
    cluster: Any = None

    def __post_init__(self) -> None:
        size = self.batch_size
        if size != "auto" and (isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1):
            raise InputError(f"batch_size must be 'auto' or a whole number of at least 1, not {size!r}")
        check_flag(self.activations, "activations")
        _ = self.preparation, self.hidden, self.under  # which raise errors
        if not isinstance(self.compression, str) or self.compression not in COMPRESSIONS:
            raise InputError(f"compression must be one of {', '.join(COMPRESSIONS)}, not {self.compression!r}")
        object.__setattr__(self, "quantiles", tuple(check_quantiles("quantiles", self.quantiles).tolist()))
        of_statistics = self.group_by is not None or self.correct is not None or self.quantiles or self.skip_zero
        if not self.statistics and of_statistics:
            raise InputError(
                "group_by, correct, quantiles and skip_zero go with statistics: pass statistics=True or a file's name"
            )

    @property
    def preparation(self) -> Preparation:
        """The options about parts and normalization."""
        return Preparation.of(self.part, self.normalize)

    @property
    def hidden(self) -> LayerSettings | None:
        """The options about hidden layers; None without layers."""
        return LayerSettings.of(self.layers, self.reduce, self.activations)

    @property
    def under(self) -> Conditions | None:
        """The options about conditions; None without any."""
        if self.conditions is not None and self.layers is not None:
            raise InputError("conditions are for the relevance of the input, which layers= replaces: give one of them")
        return conditions_or_none(self.conditions, self.parallel)

    @property
    def statistics_path(self) -> str | None:
        """The file of the statistics; None if they are not written."""
        return None if isinstance(self.statistics, bool) else os.fspath(self.statistics)
