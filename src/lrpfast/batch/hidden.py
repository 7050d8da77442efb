"""Relevance and activations of hidden layers in whole-data runs: what a row contains, and how it is filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.core import AnalyzerCore
from ..engine.explain_scope import check_layers
from ..errors import InputError
from .inputs import InputRows
from .metadata import ArrayMetadata
from .normalize import Preparation
from .sample_arrays import SampleArray, values_of
from .scatter import scatter

#: How a hidden layer's values become fewer.
REDUCTIONS = ("channels", "sum")


@dataclass(frozen=True)
class LayerSettings:
    """The options of `Analyzer.stream` about hidden layers.

    Attributes
    ----------
    names : tuple of str
    single : bool
        Whether one layer was named, not a list: the run has a single array.
    reduce : {"channels", "sum"} or None
    activations : bool
    """

    names: tuple[str, ...]
    single: bool
    reduce: str | None
    activations: bool

    @classmethod
    def of(cls, layers: Any, reduce: Any, activations: bool) -> LayerSettings | None:
        """The options as one object; None without layers. InputError for what no model has."""
        if reduce is not None and reduce not in REDUCTIONS:
            raise InputError(f"reduce must be None or one of {', '.join(map(repr, REDUCTIONS))}, not {reduce!r}")
        if layers is None:
            if reduce is not None or activations:
                raise InputError("reduce and activations go with layers=, which names hidden layers")
            return None
        names = [layers] if isinstance(layers, str) else layers
        listed = isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names)
        if not listed or len(set(names)) < len(names):
            raise InputError(f"layers must be a layer's name or a list of different ones, not {layers!r:.80}")
        return cls(tuple(names), isinstance(layers, str) and not activations, reduce, activations)


class LayerRows:
    """The arrays of hidden layers that lie in one row of a run.

    Parameters
    ----------
    core : AnalyzerCore
    settings : LayerSettings
    labels : mapping of str to ArrayMetadata or None
        Of each input, by its name.
    mask : boolean array, optional
        The grid on which the relevance of the input lies.

    Attributes
    ----------
    rows : InputRows
    single : bool
    """

    def __init__(
        self,
        core: AnalyzerCore,
        settings: LayerSettings,
        labels: Mapping[str, ArrayMetadata | None],
        mask: np.ndarray | None = None,
    ) -> None:
        self._settings, self._inputs, self._mask = settings, tuple(labels), mask
        self.single = settings.single
        shapes: dict[str, Any] = {node.name: node.shape for node in core.explained_model.nodes}
        check_layers(core.explained_model, settings.names)
        sample = next((item.dims[0] for item in labels.values() if item is not None), "sample")
        of_samples = next((item for item in labels.values() if item is not None), ArrayMetadata((sample,)))
        arrays: dict[str, tuple[tuple[int, ...], ArrayMetadata]] = {}
        for name in settings.names:
            shape = self._shape(name, shapes[name])
            own = labels.get(name)
            if own is None:
                own = _labels(name, shape, of_samples, settings.reduce if name not in labels else None)
            elif mask is not None:
                own = own.grid or own
            arrays[name] = shape, own
            if settings.activations:
                activation = f"{name}_activation"
                if activation in shapes:
                    raise InputError(f"activations: the model has a layer {activation!r}, the array's name; rename it")
                arrays[activation] = shape, own.of_quantity("activation", activation)
        shapes_of, labels_of = zip(*arrays.values(), strict=True)
        self.rows = InputRows(tuple(arrays), shapes_of, labels_of)

    @property
    def map_shape(self) -> tuple[int, ...]:
        """The shape of a sample's row: a single array's own, else that of all values."""
        return self.rows.shapes[0] if self.single else (sum(self.rows.sizes),)

    @property
    def record(self) -> dict[str, str]:
        """The options as attributes of files."""
        settings = self._settings
        record = {"layers": ", ".join(settings.names)}
        if settings.reduce is not None:
            record["reduce"] = settings.reduce
        return {**record, "activations": "true"} if settings.activations else record

    @property
    def deciding(self) -> tuple[Any, ...]:
        """What the values of a row depend on."""
        return self._settings.names, self._settings.reduce, self._settings.activations, self._mask

    def fill(
        self,
        core: AnalyzerCore,
        x: Any,
        target: Any,
        out: np.ndarray,
        output: np.ndarray | None,
        notes: list[Any],
        preparation: Preparation,
        arrays_beside: Sequence[SampleArray],
    ) -> tuple[int, list[np.ndarray]]:
        """Write the rows of some samples to ``out``.

        Returns how many of their maps could not be normalized, and the values of the sample arrays.
        """
        settings, failed, starts = self._settings, 0, []  # type: ignore[var-annotated]
        whole = np.empty((len(out), *core.layout.row), core.settings.dtype)
        out_rows = out.reshape(len(out), sum(self.rows.sizes))
        chunks = core.hidden(
            *(x, target, settings.names),
            out=whole,
            output=output,
            notes=notes,
            activations=settings.activations,
            starts=starts,
        )
        for part, relevance, activations in chunks:
            arrays = []
            for name in settings.names:
                # a copy: two layers may have one array
                own = relevance[name].copy() if preparation.changes else relevance[name]
                preparation.select(own)
                array = self._reduced(name, own)
                failed += preparation.normalize(array.reshape(len(array), -1), threads=core.settings.threads)
                arrays.append(self._on_grid(name, array))
                if settings.activations:
                    arrays.append(self._on_grid(name, self._reduced(name, activations[name])))
            self.rows.join_into(arrays, out_rows[part])
        if not arrays_beside or output is None:
            return failed, []
        rectify, threads = core.settings.rectify, core.settings.threads
        return failed, values_of(arrays_beside, starts[0], output, whole, rectify, threads)

    def _shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A layer's shape in the row."""
        if name in self._inputs:
            return shape if self._mask is None else self._mask.shape
        return {None: shape, "channels": shape[-1:], "sum": ()}[self._settings.reduce]

    def _reduced(self, name: str, values: np.ndarray) -> np.ndarray:
        """Sums over a hidden layer's positions, or over everything; sample by sample, so that batches do not matter."""
        reduce = self._settings.reduce
        if reduce is None or name in self._inputs:
            return values
        if reduce == "channels":
            return channel_sums(values, values.dtype)
        return channel_sums(values.reshape(len(values), -1, 1), values.dtype)[:, 0]

    def _on_grid(self, name: str, values: np.ndarray) -> np.ndarray:
        return scatter(values, self._mask) if self._mask is not None and name in self._inputs else values


def channel_sums(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Sums over all axes but the first and the last: float64, and sample by sample, so that batches do not matter."""
    rows = values.reshape(len(values), -1, values.shape[-1])
    sums = np.empty((len(values), values.shape[-1]), dtype)
    for row, into in zip(rows, sums, strict=True):
        into[:] = row.sum(0, dtype=np.float64)
    return sums


def _labels(name: str, shape: tuple[int, ...], of_samples: ArrayMetadata, reduce: str | None) -> ArrayMetadata:
    """The names of a layer's axes, beside the samples' coordinates."""
    sample = of_samples.dims[0]
    stem = name.replace("/", ".").strip(".")  # no file has a slash in a dimension's name
    dims = [f"{stem}_{i}" for i in range(1, len(shape))]
    if shape:
        dims.append(f"{stem}_channel")
    coords = {key: coord for key, coord in of_samples.coords.items() if coord.dims == (sample,)}
    stacked = {dim: levels for dim, levels in of_samples.stacked.items() if dim == sample}
    attrs = {"layer": name} if reduce is None else {"layer": name, "reduce": reduce}
    return ArrayMetadata((sample, *dims), coords, attrs, name, stacked=stacked)
