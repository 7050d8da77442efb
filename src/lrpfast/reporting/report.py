"""`report`: explains a data set, and writes what came of it as one page."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..analyzer import Analyzer
from ..batch import Source
from ..batch.inputs import SeveralSource, open_inputs, source_paths
from ..batch.masks import Masked, open_mask_for
from ..batch.path_conflicts import check_no_overlap
from ..batch.per_sample import labels as as_labels
from ..batch.per_sample import labels_for, selected_samples
from ..batch.sources import is_files
from ..batch.stream import progress_bar
from ..batch.targets import target_of_run
from ..coordinates import latitudes_and_longitudes
from ..engine.inputs import is_array
from ..engine.io_layout import IOSlot
from ..ensemble import Ensemble
from ..errors import InputError
from ..model.graph import Model
from ..output import check_target, replacing
from ..plot.check import figure_class
from .collect import Collected, Collector, class_count, of_model
from .members import MembersPage
from .pictures import Drawing
from .settings import Labels, ReportSettings
from .write import write


def report(
    analyzer: Analyzer | Ensemble,
    source: Any,
    path: str | os.PathLike[str],
    *,
    select: Any = None,
    fill_nan: float | None = None,
    labels: Any = None,
    target: Any = None,
    normalize: str | None = None,
    class_names: Sequence[str] | str | None = None,
    features: Sequence[str] | str | None = None,
    tokens: Sequence[str] | str | None = None,
    mask: Any = None,
    kind: str = "auto",
    shape: Sequence[int] | None = None,
    channels_first: bool | None = None,
    origin: str = "upper",
    samples: int = 128,
    shown: int = 6,
    baseline: Any = 0.0,
    title: str | None = None,
    command: str | None = None,
    overwrite: bool = False,
    progress: bool | Callable[[int], object] = True,
) -> str:
    """Explain a data set and write a report: one HTML file without scripts, network or other files.

    It says how the explanations were made, whether to trust them (balance of relevance, accuracy, sparsity, flipped
    features), and shows mean and median maps, the most relevant features, and single samples. The data are read once, a
    chunk at a time.

    Parameters
    ----------
    analyzer : Analyzer or Ensemble
        Of a model with one output. The page of an ensemble shows how each member does, their mean maps, and how far
        these agree; it has no single samples.
    source : path or array, shape (samples, *input_shape)
        As in `Analyzer.stream`, so of several inputs a mapping, a list or a file; an iterator is not enough, since some
        samples are read again.
    path : path
        The file to write. It appears when it is complete.
    select : mapping, optional
    fill_nan : float, optional
        As in `Analyzer.stream`; labels and targets of the whole source are selected likewise.
    labels : optional
        The true classes, for accuracy and for maps by class; other groups as texts; for a model with a single output,
        numbers are the values of a regression. An array, a list, a path, or a coordinate, such as "time.season".
    target : optional
        As in `Analyzer.analyze`, one for each sample.
    normalize : {"maxabs", "sum", "max", "l1"}, optional
        Divide each explanation before maps are averaged; see `Analyzer.stream`.
    class_names, features, tokens : sequence of str or path, optional
        Names of the outputs, of a sample's features (or of a sequence's channels), of the entries of an embedding. A
        file is an array of texts, or has a name on each line.
    mask : bool array or path, optional
        As in `Analyzer.stream`: which points of the data's grid are the features of the model, which has one input.
    kind : {"auto", "image", "sequence", "vector", "tokens"}
    shape, channels_first, origin : optional
        How samples are drawn; see `lrpfast.plot.heatmap`. Of a model with several inputs, ``features``, ``tokens``,
        ``shape``, ``kind`` and ``channels_first`` are mappings by the inputs' names; each input has its own maps.
    samples : int
        How many samples, at equal distances, the balance by layer, sparsity and flipped features are computed for.
    shown : int
        How many samples of each kind are shown, at most 24.
    baseline : optional
        What flipped features become; see `lrpfast.evaluate.flip`.
    title : str, optional
    command : str, optional
        The command that made the report, to be shown in it.
    overwrite : bool
        Replace an existing file.
    progress : bool or callable
        As in `Analyzer.stream`.

    Returns
    -------
    str
        The path.

    Raises
    ------
    InputError, ShapeError
        For arguments or data that do not fit, and for an existing file without ``overwrite``.
    MissingPackageError
        Without matplotlib.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0, -1.0], [2.0, 1.0]]))])
    >>> analyzer, x = lrpfast.Analyzer(model, "epsilon"), np.random.default_rng(0).normal(size=(20, 2))
    >>> lrpfast.report(analyzer, x, "report.html", labels=model.predict(x).argmax(1), features=["rain", "snow"])
    'report.html'
    """
    figure_class()  # a missing package is the first error
    settings = ReportSettings(
        labels=labels,
        target=target,
        normalize=normalize,
        class_names=class_names,
        features=features,
        tokens=tokens,
        mask=mask,
        kind=kind,
        shape=_as_shape(shape),
        channels_first=channels_first,
        origin=origin,
        samples=samples,
        shown=shown,
        baseline=baseline,
        title=title,
        command=command,
    )
    check_target(path)
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{path}: exists; overwrite=True replaces it")
    model = _model_of(analyzer, mask)
    with open_inputs(model, source, settings.mask, select=select, fill_nan=fill_nan) as opened:
        read = {name: getattr(settings, name) for name in ("labels", "mask", "target")}
        sources = {name: item for name, item in source_paths(source).items() if _is_path(item)}
        check_no_overlap({"report": path}, {**sources, **read})
        page = _page(analyzer, opened, settings, progress)
    with replacing(path) as file:
        file.write(page)
    return os.fspath(path)


def _model_of(analyzer: Analyzer | Ensemble, mask: Any) -> Model:
    """The model, of an ensemble the first; InputError unless a report can be about it."""
    model = next(analyzer.analyzers())[1].model if isinstance(analyzer, Ensemble) else analyzer.model
    if isinstance(model.output_shape, list):
        raise InputError("a report is of a model with one output; model.until(NAME) has one of several")
    if isinstance(model.input_shape, list) and mask is not None:
        raise InputError("mask is for models of one input")
    if isinstance(model.input_shape, list) and isinstance(analyzer, Ensemble):
        raise InputError("a report of an ensemble is about models of one input")
    return model


def _page(
    analyzer: Analyzer | Ensemble, data: Source, settings: ReportSettings, progress: bool | Callable[[int], object]
) -> bytes:
    """The report of a source's samples as HTML."""
    if isinstance(analyzer, Ensemble):
        of_members = MembersPage(settings)
        for name, member in analyzer.analyzers():
            of_members.add(name, *_collected(member, data, settings, progress))
        return of_members.document()
    return write(*_collected(analyzer, data, settings, progress))


def _collected(
    analyzer: Analyzer, data: Source, settings: ReportSettings, progress: bool | Callable[[int], object]
) -> tuple[Analyzer, Source, ReportSettings, Labels | None, list[Drawing], Collected]:
    """What a report is written from, after one pass over the data."""
    grid = None
    if settings.mask is not None:
        grid = open_mask_for(analyzer.model.input_shape, settings.mask, data)
        data = Masked(data, grid)
    samples = data.shape[0]
    if not samples:
        raise InputError(f"{data.name}: holds no samples that can be read again, its shape is {data.shape}")
    analyzer = analyzer.fixed(of_model(data, np.zeros((1, *data.shape[1:]), data.dtype)))
    core = analyzer._core  # as `Analyzer.stream` has it
    core.layout.pack(of_model(data, np.zeros((0, *data.shape[1:]), data.dtype)))  # the shape is the model's
    settings = _with_targets(replace(settings, target=target_of_run(core, settings.target)), data)
    labels = Labels.of(labels_for(settings.labels, data), samples, class_count(core))
    names = [slot.name for slot in core.layout.inputs]
    parts = list(data.sources.values()) if isinstance(data, SeveralSource) else [data]
    drawings = [
        _drawing(analyzer, slot, settings.of_input(slot.name, names), part, grid)
        for slot, part in zip(core.layout.inputs, parts, strict=True)
    ]
    with progress_bar(progress, samples, 0) as update:
        collected = Collector(core, data, settings, labels).run(update)
    return analyzer, data, settings, labels, drawings, collected


def _is_path(value: Any) -> bool:
    return isinstance(value, (str, os.PathLike))


def _with_targets(settings: ReportSettings, data: Source) -> ReportSettings:
    """The settings with targets that are one for each sample as an array."""
    target, samples = settings.target, data.shape[0]
    if (_is_path(target) and target not in ("max", "all")) or is_files(target):
        target = as_labels(target, "target", None)
    if isinstance(target, list) or (is_array(target) and np.ndim(target)):
        target = selected_samples(np.asarray(target), data)
        if target.ndim != 1 or len(target) != samples or target.dtype.kind not in "iu":
            raise InputError(f"target must be one output's index for each of {samples:,} samples, not {target.shape}")
    return replace(settings, target=target)


def _as_shape(shape: Any) -> Any:
    """A shape as a tuple; of several inputs, by their names."""
    if isinstance(shape, Mapping):
        return {name: _as_shape(own) for name, own in shape.items()}
    return None if shape is None else tuple(shape)


def _drawing(
    analyzer: Analyzer, slot: IOSlot, settings: ReportSettings, data: Source, grid: np.ndarray | None
) -> Drawing:
    """How an input's samples are drawn, from the settings, the mask and the data's own names."""
    entries, kind = slot.entries, settings.kind
    if kind == "tokens" and entries is None:
        raise InputError("kind='tokens' is for models whose input are indices of an embedding")
    arguments: dict[str, Any] = {}
    features = settings.features
    if kind == "tokens" or (kind == "auto" and entries is not None):
        kind = "tokens"
    elif grid is not None and grid.ndim == 2:
        kind, arguments["mask"] = "image", grid
    else:
        if settings.shape is not None:
            arguments["shape"] = settings.shape
        axes = len(settings.shape or data.shape[1:])
        if kind == "auto":
            kind = "image" if settings.shape is not None else {1: "vector", 2: "sequence", 3: "image"}.get(axes, "")
        if not kind:
            raise InputError(f"there is no picture of samples of shape {data.shape[1:]}: say shape=(height, width)")
        first = settings.channels_first
        if first is None and settings.shape is None:
            first = analyzer.model.channels_first
            if isinstance(first, list):
                first = first[[other.name for other in analyzer._core.layout.inputs].index(slot.name)]
        if first is not None and kind != "vector":
            arguments["channels_first"] = first
    if kind == "image":
        arguments["origin"] = settings.origin
        if settings.shape is None and (coordinates := _coordinates_of(data, grid)) is not None:
            arguments["coordinates"] = coordinates  # which say where north is, and that channels are last
            if grid is None and len(data.shape) == 4:
                arguments.setdefault("channels_first", False)
    if kind != "tokens":
        arguments["kind"] = kind
    if features is None and kind == "vector":
        features = _names_in(data)
    return Drawing(kind, arguments, features, settings.tokens, data.labels)


def _coordinates_of(data: Source, grid: np.ndarray | None) -> tuple[np.ndarray, np.ndarray] | None:
    """The latitudes and longitudes of grids (samples, lat, lon), or with channels after them; None for other inputs."""
    labels = data.labels
    if labels is not None and grid is not None:
        labels = labels.grid
    if labels is None or len(labels.dims) not in (3, 4):
        return None
    return latitudes_and_longitudes(labels.dims[1:3], labels.coords)


def _names_in(data: Source) -> tuple[str, ...] | None:
    """The features' names in the data's own metadata."""
    labels = data.labels
    if labels is None or len(labels.dims) != 2 or labels.dims[1] not in labels.coords:
        return None
    values = labels.coords[labels.dims[1]].values
    return tuple(map(str, values)) if values.ndim == 1 and values.dtype.kind in "UOS" else None
