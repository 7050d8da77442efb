"""Targets that have an entry for each sample: checked before the work begins, and a few samples' at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..engine.core import AnalyzerCore
from ..engine.inputs import as_start
from ..errors import InputError, ShapeError


def is_per_sample(target: Any) -> bool:
    """Whether a target, perhaps of a named output, has an entry for each sample: a list or any array."""
    if isinstance(target, Mapping):
        return any(is_per_sample(inner) for inner in target.values())
    return isinstance(target, list) or (hasattr(target, "__array__") and not isinstance(target, np.generic))


def target_of_run(core: AnalyzerCore, target: Any) -> Any:
    """The target of a run over a data set: the caller's, or the analyzer's own where that is one for each sample."""
    own = core.settings.target
    if target is not None or not is_per_sample(own):
        return target
    inner = next(iter(own.values())) if isinstance(own, Mapping) and len(own) == 1 else own
    return own if np.ndim(inner) else target  # an array of no axis is one index for all


def as_arrays(target: Any) -> Any:
    """A target for each sample with arrays in place of lists."""
    if isinstance(target, Mapping):
        return {name: np.asarray(inner) for name, inner in target.items()}
    return np.asarray(target)


def rows_of(target: Any, part: Any) -> Any:
    """The entries of some samples: of those in a slice, or of those whose indices are given."""
    if isinstance(target, Mapping):
        return {name: rows_of(inner, part) for name, inner in target.items()}
    return target[part]


def wrong_count(samples: int, shape: tuple[int, ...]) -> ShapeError:
    """The error for a number of targets that differs from the number of samples."""
    return ShapeError(f"there are {samples} samples, but the targets have shape {shape}")


def check_targets(core: AnalyzerCore, target: Any, samples: int | None) -> None:
    """Check the targets, as arrays, before the work begins, not when their samples' turn comes."""
    if samples is None:
        raise InputError("how many samples an iterator holds is not known: the target cannot be one for each sample")
    slot, array = core.layout.output(target)
    if array.ndim == 0 or len(array) != samples:
        raise wrong_count(samples, array.shape)
    as_start(array, samples, slot.shape, np.dtype(np.float64), lambda: np.empty(0))
