"""Cores derived from an analyzer's own: for sizes of the inputs, and for padded samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from ..errors import InputError
from ..model.graph import Model
from ..rules.composites import Assignment
from . import sequences
from .padded_layers import Planned
from .padded_model import PaddedModel
from .padding import Padding
from .settings import AnalyzerSettings

#: The largest number of derived cores whose compiled programs are kept.
MAX_VARIANTS = 8


Core = TypeVar("Core", bound="Variants")


class Variants:
    """The part of an analyzer's core that makes and keeps such cores."""

    model: Model
    settings: AnalyzerSettings
    is_open: bool
    #: Whether this is a core for sizes of an open model's inputs.
    of_open: bool = False
    _folds: Any
    _data: int
    _variants: dict[tuple[Any, ...], Any]
    _padding: Padding | None
    _prepare: Callable[..., None]
    _explained: Callable[..., tuple[Model, Assignment]]

    def fixed(self: Core, x: Any) -> Core:
        """The core for the sizes of these inputs, if the model leaves sizes open; else the core itself."""
        if not self.is_open:
            return self
        x, _, samples = sequences.arranged(self.model, x)
        try:
            shapes = [] if samples else [np.shape(a)[1:] for a in (x if len(self.model.inputs) > 1 else [x])]
        except ValueError:
            shapes = []
        if not shapes:
            raise InputError("samples differ in shape; give samples of one shape")
        return self.for_shapes(shapes)

    def for_shapes(self: Core, shapes: Sequence[tuple[int, ...]]) -> Core:
        """The core for inputs of these shapes; the most recent ones are kept."""
        return self._variant(tuple(shapes), lambda: self._with_model(self.model.with_input_shape(*shapes)))

    def for_padded(self: Core, padded: PaddedModel) -> Core:
        """The core for samples up to one length."""
        return self._variant(("padded", padded.length), lambda: self._with_model(padded.model, padded.assignment))

    @property
    def padded_lengths(self) -> list[int]:
        """The lengths to which samples have been padded, and whose programs are kept."""
        return [key[1] for key in list(self._variants) if key[0] == "padded"]

    @property
    def padding(self) -> Padding | None:
        """How samples of different lengths are padded; None where settings depend on a whole sample."""
        settings = self.settings
        plain = settings.start is None and settings.y_ref is None and settings.input_range is None
        if not self.is_open or not plain or settings.averages or settings.mask_nan:
            return None
        if self._padding is None:
            self._padding = Padding(self.model, self._planned)
        return self._padding

    def _planned(self, model: Model) -> Planned:
        """What is explained of a model of fixed sizes, and its rules, as `make_plan` would have them."""
        return Planned(*self._explained(model, self.settings.composite.assign(model)))

    def _with_model(self: Core, model: Model, assignment: Assignment | None = None) -> Core:
        """A core of the same settings for the model with sizes of its inputs."""
        variant = type(self).__new__(type(self))
        variant.model, variant.settings, variant.is_open, variant._folds = model, self.settings, False, self._folds
        shapes: list[Any] = [model.nodes[i].shape for i in model.inputs]
        variant._variants, variant._data = {}, sum(map(math.prod, shapes)) * self.settings.dtype.itemsize
        variant._padding, variant.of_open = None, True
        variant._prepare(None if assignment is None else (model, assignment))
        return variant

    def _variant(self: Core, key: tuple[Any, ...], make: Callable[[], Core]) -> Core:
        """A core that is derived from this one; the most recent ones are kept."""
        variant: Core | None = self._variants.get(key)
        if variant is None:
            variant = make()
            for old in list(self._variants)[: 1 - MAX_VARIANTS]:  # a copy, because other threads may run this, too
                self._variants.pop(old, None)
            self._variants[key] = variant
        return variant
