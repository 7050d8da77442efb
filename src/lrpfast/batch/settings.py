"""The settings of `Analyzer.stream`, validated once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .normalize import check_normalization
from .statistics import check_quantiles


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
    normalize: str | None = None
    statistics: bool | str | os.PathLike[str] = False
    group_by: Any = None
    correct: Any = None
    quantiles: float | Sequence[float] = ()
    mask: Any = None
    progress: bool | Callable[[int], object] = True
    resume: bool = True
    overwrite: bool = False
    cluster: Any = None

    def __post_init__(self) -> None:
        size = self.batch_size
        if size != "auto" and (isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1):
            raise InputError(f"batch_size must be 'auto' or a whole number of at least 1, not {size!r}")
        if self.normalize is not None:
            check_normalization(self.normalize)
        object.__setattr__(self, "quantiles", tuple(check_quantiles("quantiles", self.quantiles).tolist()))
        if not self.statistics and (self.group_by is not None or self.correct is not None or self.quantiles):
            raise InputError(
                "group_by, correct and quantiles go with statistics: pass statistics=True or a file's name"
            )

    @property
    def statistics_path(self) -> str | None:
        """The file of the statistics; None if they are not written."""
        return None if isinstance(self.statistics, bool) else os.fspath(self.statistics)
