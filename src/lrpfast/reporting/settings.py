"""What a report is made of: the caller's arguments, checked once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..batch import NORMALIZATIONS
from ..batch.per_sample import labels as as_labels
from ..engine.inputs import as_real, is_array
from ..errors import InputError, ShapeError
from ..kernels.arrays import to_host

#: How samples may be drawn.
KINDS = ("auto", "image", "sequence", "vector", "tokens")


@dataclass(frozen=True)
class ReportSettings:
    """The arguments of `lrpfast.report`, which describes them."""

    labels: Any = None
    target: Any = None
    normalize: str | None = None
    class_names: Sequence[str] | None = None
    features: Sequence[str] | None = None
    tokens: Sequence[str] | None = None
    mask: Any = None
    kind: str = "auto"
    shape: tuple[int, ...] | None = None
    channels_first: bool | None = None
    origin: str = "upper"
    samples: int = 128
    shown: int = 6
    baseline: Any = 0.0
    title: str | None = None
    command: str | None = None

    def __post_init__(self) -> None:
        for kind in self.kind.values() if isinstance(self.kind, Mapping) else [self.kind]:
            if kind not in KINDS:
                raise InputError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
        if self.normalize is not None and self.normalize not in NORMALIZATIONS:
            raise InputError(f"normalize must be one of {', '.join(NORMALIZATIONS)}, not {self.normalize!r}")
        for name, least in (("samples", 1), ("shown", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}")
        if self.shown > 24:
            raise InputError(f"shown is {self.shown:,}, but a report shows 24 samples of a kind at most")
        for name in ("class_names", "features", "tokens"):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                object.__setattr__(self, name, {key: _names(own, f"{name} of {key!r}") for key, own in value.items()})
            elif value is not None:
                object.__setattr__(self, name, _names(value, name))

    def of_input(self, name: str, names: Sequence[str]) -> ReportSettings:
        """The settings for one of several inputs: what is a mapping by their names is that input's own."""
        if len(names) == 1:
            return self
        own: dict[str, Any] = {}
        for argument in ("kind", "shape", "channels_first", "features", "tokens"):
            value = getattr(self, argument)
            if isinstance(value, Mapping):
                unknown = [key for key in value if key not in names]
                if unknown:
                    listed = ", ".join(map(repr, names))
                    raise InputError(f"{argument} names {unknown[0]!r}, but the model has the inputs {listed}")
                own[argument] = value.get(name, "auto" if argument == "kind" else None)
            elif value is not None and argument in ("shape", "features", "tokens"):
                listed = ", ".join(map(repr, names))
                raise InputError(f"{argument}: the model has the inputs {listed}; give a mapping from their names")
        return replace(self, **own)


def _names(value: Any, name: str) -> tuple[str, ...]:
    """Names as texts, from a sequence, or from a file: an array of texts, or a name on each line."""
    if isinstance(value, os.PathLike) or (isinstance(value, str) and os.path.exists(value)):
        path = os.fspath(value)
        if path.endswith((".npy", ".npz", ".h5", ".nc", ".zarr")):
            value = as_labels(path, name, None)
        else:
            try:
                with open(path, encoding="utf-8") as file:
                    value = file.read().splitlines()
            except UnicodeDecodeError:
                raise InputError(f"{name}: {path} is no text in UTF-8") from None
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
        raise InputError(f"{name} must be a sequence of names, or a file that has one on each line, not {value!r:.80}")
    return tuple(str(item) for item in value)


@dataclass(frozen=True)
class Labels:
    """The true values of all samples: classes by number, other groups by name, or numbers of a regression.

    Attributes
    ----------
    values : array, shape (samples,)
    kind : {"class", "group", "number"}
    """

    values: np.ndarray
    kind: str

    @classmethod
    def of(cls, labels: Any, samples: int, outputs: int | None) -> Labels | None:
        """The labels of a model with so many outputs; None of a model whose outputs are no classes."""
        if labels is None:
            return None
        values = _numbers(labels, samples) if outputs == 1 else None
        if values is not None:
            return cls(values, "number")
        values = as_labels(labels, "labels", samples)
        classes = values.dtype.kind in "iu" and outputs is not None
        last = max(2, outputs or 0) - 1
        if classes and len(values) and not 0 <= values.min() <= values.max() <= last:
            raise InputError(f"labels are {values.min()} to {values.max()}, but the model's classes are 0 to {last}")
        return cls(values, "class" if classes else "group")


def _numbers(labels: Any, samples: int) -> np.ndarray | None:
    """Labels that are real numbers and no classes; else None."""
    if not isinstance(labels, (list, tuple)) and not is_array(labels):
        return None
    array = np.asarray(labels) if isinstance(labels, (list, tuple)) else to_host(as_real(labels, "labels"))
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind != "f" or (array == np.rint(array)).all():
        return None
    if array.shape != (samples,):
        raise ShapeError(f"labels must have shape ({samples},), one for each sample, not {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"labels: that of sample {int(np.flatnonzero(~np.isfinite(array))[0])} is not finite")
    return array.astype(np.float64)
