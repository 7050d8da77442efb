"""Checks of arguments that `heatmap` and `save` share, and the import of matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine.inputs import is_array
from ..errors import InputError, MissingPackageError, install_text
from ..kernels.arrays import as_array


def figure_class() -> Any:
    """Matplotlib's ``Figure``; MissingPackageError without matplotlib."""
    try:
        import matplotlib  # noqa: F401, its parts may be known while it is not there
        from matplotlib.figure import Figure
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] != "matplotlib":
            raise
        message = f"pictures need matplotlib: {install_text('matplotlib', 'plot')}"
        raise MissingPackageError(message, name="matplotlib") from None
    return Figure


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise InputError unless ``value`` is one of the choices."""
    if not (isinstance(value, str) and value in choices):
        raise InputError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def is_index(value: Any) -> bool:
    """Whether ``value`` is an integer, of any type but bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def is_real(value: Any) -> bool:
    """Whether ``value`` is a real number."""
    return is_index(value) or isinstance(value, (float, np.floating))


def as_labels(value: Any, name: str) -> list[str]:
    """A sequence's values as texts."""
    values = as_array(value) if is_array(value) else value
    if getattr(values, "ndim", 1) != 1:
        raise InputError(f"{name} must be a sequence, one for each, not an array of shape {tuple(values.shape)}")
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__") or not hasattr(values, "__iter__"):
        raise InputError(f"{name} must be a sequence, one for each, not {value!r:.80}")
    return [str(v) for v in values]


def check_features(features: Sequence[Any] | None, kind: str, values: np.ndarray) -> list[str] | None:
    """A vector's or a sequence's names, as texts."""
    if features is None:
        return None
    if kind == "image":
        raise InputError("features name a vector's features or a sequence's channels; images have none")
    names = as_labels(features, "features")
    if len(names) != values.shape[-1]:
        raise InputError(f"{len(names)} features are named, but there are {values.shape[-1]}")
    return names
