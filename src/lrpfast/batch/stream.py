"""Explains a data set of any length chunk by chunk; reading, computing and writing overlap, and nothing is lost."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from .. import display, table
from ..engine.core import AnalyzerCore
from ..engine.growth import Growth, callers_level, warn
from ..engine.growth import texts as growth_texts
from ..engine.inputs import is_array
from ..engine.threads import get_num_threads
from ..errors import BoundsWarning, InputError, InputNotFoundError, LrpfastError
from ..table import counted
from .bounds import out_of_bounds_message
from .cluster import check_reachable, connected, rows_of_a_chunk
from .inputs import SeveralSource, open_inputs, source_paths
from .job import Job, prepare_sink
from .masks import Gridded, Masked, on_grid, open_mask_for
from .path_conflicts import check_no_overlap
from .per_sample import per_sample
from .ragged import ragged_run
from .run import Run, RunStatistics
from .settings import StreamSettings
from .sinks import Sink
from .sinks.for_inputs import sink_paths
from .sources import Source, open_source, split
from .sources.ragged import RaggedSource
from .statistics_io import to_dataset
from .targets import target_of_run

#: The counts in `Streamed` of explanations whose relevance grew or vanished.
GROWN = ("amplified", "vanished", "zero_maps")
#: The number of a file's maps in the picture that a notebook shows.
PICTURED = 4


@dataclass(frozen=True, eq=False)
class Streamed:
    """The outcome of `stream`.

    Attributes
    ----------
    samples, explanations : int
        The number of explanations is that of samples times targets.
    shape : tuple of int
        The shape of all relevances as written: with a mask, on its grid; for several inputs a list.
    dtype : dtype
    seconds : float
        The duration of this run.
    resumed : int
        Samples that an earlier, interrupted run had finished.
    not_normalized : int
        Explanations that normalization leaves unchanged because their divisor is zero.
    out_of_bounds : int
        Input values outside the bounds of a z-box on the input.
    amplified, vanished, zero_maps : int
        Explanations that mean little: their relevance grew more than 1,000-fold between the output and the input, less
        than a thousandth of the output reached the input, or they are zero everywhere.
    input_values : int
        The number of input values: samples times features.
    warnings : tuple of str
        The texts of the run's warnings.
    statistics : Statistics or None
        Of several inputs, or a list of layers, a dict: those of each, by its name.
    record : dict
        The provenance of the relevances, as in the files' attributes.
    written : bool
        Whether relevances were written, not only statistics.
    dataset : callable or None
        What `to_xarray` calls.
    first_maps : callable or None
        What the picture in a notebook shows where there are no statistics: reads some maps of the file, if it is there.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2))])
    >>> done = lrpfast.Analyzer(model, "zero").stream(np.ones((5, 2)), "maps.npy", progress=False)
    >>> done.samples, done.shape, done.resumed
    (5, (5, 2), 0)
    """

    samples: int
    explanations: int
    shape: Any
    dtype: np.dtype
    seconds: float
    resumed: int
    not_normalized: int
    out_of_bounds: int
    amplified: int
    vanished: int
    zero_maps: int
    input_values: int
    warnings: tuple[str, ...]
    statistics: Any
    record: dict[str, str]
    written: bool
    dataset: Callable[[], Any] | None = field(default=None, repr=False)
    first_maps: Callable[[], Any] | None = field(default=None, repr=False)

    def to_xarray(self) -> Any:
        """The statistics as an xarray.Dataset, with the input's coordinates, as in their file.

        Returns
        -------
        xarray.Dataset

        Raises
        ------
        InputError
            When the run made no statistics.
        MissingPackageError
            Without xarray.

        Examples
        --------
        >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2))])
        >>> done = lrpfast.Analyzer(model, "zero").stream(np.ones((5, 2)), statistics=True, progress=False)
        >>> done.to_xarray()["mean"].dims
        ('group', 'dim_1')
        """
        if self.dataset is None:
            raise InputError("this run made no statistics: stream(…, statistics=True) makes them")
        return self.dataset()

    def __repr__(self) -> str:
        facts = [f"relevance {self.shape} {self.dtype}"] if self.written else []
        for name in ("resumed", "not_normalized", "out_of_bounds", *GROWN):
            if getattr(self, name):
                facts.append(f"{name.replace('_', ' ')} {getattr(self, name):,}")
        if self.statistics is not None:
            facts.append("statistics")
        return f"<lrpfast.Streamed: {counted(self.samples, 'sample')} in {self.seconds:.3g} s; {', '.join(facts)}>"

    def _repr_html_(self) -> str:
        if isinstance(self.statistics, dict):
            maps = "".join(table.paragraph(name) + own._repr_html_() for name, own in self.statistics.items())
        elif self.statistics is not None:
            maps = self.statistics._repr_html_()
        else:
            maps = "" if self.first_maps is None else display.picture(self.first_maps())
        return table.paragraph(repr(self)) + maps

    # Names of earlier versions

    @property
    def left(self) -> int:
        """The old name of ``not_normalized``.

        .. deprecated:: 0.1.0
        """
        return self._renamed("left", "not_normalized")

    @property
    def outside(self) -> int:
        """The old name of ``out_of_bounds``.

        .. deprecated:: 0.1.0
        """
        return self._renamed("outside", "out_of_bounds")

    @property
    def values(self) -> int:
        """The old name of ``input_values``.

        .. deprecated:: 0.1.0
        """
        return self._renamed("values", "input_values")

    def _renamed(self, old: str, new: str) -> int:
        warnings.warn(f"Streamed.{old} is now Streamed.{new}; the old name goes in 0.3.0", FutureWarning, stacklevel=3)
        count: int = getattr(self, new)
        return count


def stream(
    core: AnalyzerCore,
    source: Any,
    sink: Any,
    settings: StreamSettings,
    *,
    job_type: Callable[..., Job] = Job,
    totals_type: Callable[..., Any] = RunStatistics,
    of: str = "",
) -> Streamed:
    """`Analyzer.stream`, with its validated ``settings``; other jobs and totals make other passes over a data set.

    Warnings begin with ``of``.
    """
    begin = time.perf_counter()
    on_cluster = settings.cluster is not None
    if len(core.model.inputs) > 1:
        _refuse_several(len(core.model.inputs), settings)
    if on_cluster:
        check_reachable(source, sink)
    with contextlib.ExitStack() as stack:
        data = _open_source(core, source, sink, settings)
        if not isinstance(source, Source):  # the caller closes its own source
            stack.enter_context(data)
        if isinstance(data, RaggedSource):
            return _stream_ragged(core, data, sink, settings, begin, of)
        read = {name: getattr(settings, name) for name in ("target", "group_by", "correct", "mask")}
        settings = per_sample(replace(settings, target=target_of_run(core, settings.target)), data)
        inputs = data.rows if isinstance(data, SeveralSource) else None
        grid = None
        if settings.mask is not None:
            grid = open_mask_for(core.input_shape, settings.mask, data)
            data = Masked(data, grid)
        job = job_type(
            *(core, data.shape, data.dtype),
            target=settings.target,
            preparation=settings.preparation,
            group_by=settings.group_by,
            correct=settings.correct,
            inputs=inputs,
            layers=settings.hidden,
            labels=data.labels,
            grid=grid,
            conditions=settings.under,
        )
        statistics = totals_type(job, settings, None if job.layers is not None else grid)
        out = None if sink is None else job.open_sink(sink)
        if out is None and statistics.total is None:
            raise InputError("there is nothing to do: give a sink for the relevances, or ask for statistics")
        outputs = sink_paths(out, "sink", job.parts)
        check_no_overlap({**outputs, "statistics": statistics.path}, {**source_paths(source), **read})
        if out is not None and grid is not None and job.layers is None:
            out = Gridded(out, grid)
        if out is not None:
            prepare_sink(out, job, settings.compression)
        rows = _rows(settings.batch_size, job, data, core.settings.threads or (1 if on_cluster else get_num_threads()))
        if on_cluster:
            rows = rows_of_a_chunk(rows)
        run = Run(job, data, out, statistics, rows, grid, settings)
        client = stack.enter_context(connected(settings.cluster)) if on_cluster else None
        stack.enter_context(run.locked_outputs())
        progress = stack.enter_context(progress_bar(settings.progress, job.samples, run.count))
        run.complete(progress, client)
    return _streamed(run, time.perf_counter() - begin, out, of)


def _stream_ragged(
    core: AnalyzerCore, data: RaggedSource, sink: Any, settings: StreamSettings, begin: float, of: str
) -> Streamed:
    """`stream` of samples of different lengths."""
    with ragged_run(core, data, sink, settings) as run, progress_bar(settings.progress, run.count, run.resumed) as show:
        run.complete(show)
    growth, rectify = Growth.from_counts(run.counts), core.settings.rectify
    texts = growth_texts(growth, run.count, rectify)
    warn(growth, run.count, rectify, of=of)
    return Streamed(
        samples=run.count,
        explanations=run.count,
        shape=(run.count, None, *data.row),
        dtype=core.settings.dtype,
        seconds=time.perf_counter() - begin,
        resumed=run.resumed,
        not_normalized=run.counts["not_normalized"],
        out_of_bounds=0,
        amplified=growth.amplified,
        vanished=growth.vanished,
        zero_maps=growth.zero,
        input_values=run.positions * math.prod(data.row),
        warnings=tuple(texts),
        statistics=None,
        record=run.record,
        written=True,
    )


def _first_maps(path: str, array: str | None) -> Any:
    """The first maps of a file, as many as a picture shows; None where the file is gone."""
    try:
        with open_source(path if array is None else f"{path}:{array}") as source:
            return source.read(0, min(PICTURED, source.shape[0] or 0))
    except (LrpfastError, OSError):
        return None


def _streamed(run: Run, seconds: float, sink: Sink | None, of: str) -> Streamed:
    """The outcome of a run; warns of everything that makes relevance mean little."""
    job, rectify = run.job, run.job.core.settings.rectify
    values, explanations = run.count * math.prod(job.feature_shape), run.count * job.targets
    growth, out_of_bounds = job.growth(run.counts), run.counts["out_of_bounds"]
    texts = growth_texts(growth, explanations, rectify)
    if out_of_bounds:
        texts.insert(0, out_of_bounds_message(out_of_bounds, values))
        warnings.warn(of + texts[0], BoundsWarning, stacklevel=callers_level())
    warn(growth, explanations, rectify, of=of)
    return Streamed(
        samples=run.count,
        explanations=explanations,
        shape=_shape(run),
        dtype=job.dtype,
        seconds=seconds,
        resumed=run.resumed,
        not_normalized=run.counts["not_normalized"],
        out_of_bounds=out_of_bounds,
        amplified=growth.amplified,
        vanished=growth.vanished,
        zero_maps=growth.zero,
        input_values=values,
        warnings=tuple(texts),
        statistics=_statistics(run),
        record=run.record,
        written=sink is not None,
        dataset=None if run.statistics.total is None else partial(to_dataset, run.results, run.attributes),
        first_maps=partial(_first_maps, sink.path, sink.array) if sink and sink.path and job.parts is None else None,
    )


def _statistics(run: Run) -> Any:
    """The statistics of the maps, of several inputs by their names."""
    total, parts = run.statistics.total, run.job.parts
    if total is None or parts is None:
        return total
    return dict(zip(parts.names, total.split(parts.shapes), strict=True))


def _shape(run: Run) -> Any:
    job = run.job
    if job.parts is not None:
        return job.parts.arrays_of((run.count, *job.map_shape))
    return (run.count, *on_grid(job.map_shape, run.map_grid))


def _refuse_several(inputs: int, settings: StreamSettings) -> None:
    """InputError for options that are for models of one input."""
    for name in ("mask", "cluster"):
        if getattr(settings, name) is not None:
            raise InputError(f"{name}= is for models of one input; this one has {inputs}")


def _open_source(core: AnalyzerCore, source: Any, sink: Any, settings: StreamSettings) -> Source:
    """The source; if it is missing but the sink exists, the error says that they may be swapped."""
    try:
        return open_inputs(core.model, source, settings.mask, select=settings.select, fill_nan=settings.fill_nan)
    except InputNotFoundError as error:
        exists = os.path.exists(split(os.fsdecode(sink))[0]) if isinstance(sink, (str, os.PathLike)) else is_array(sink)
        raise InputNotFoundError(error.filename, "the source comes first, then the sink" if exists else "") from None


def _rows(batch_size: int | str, job: Job, data: Source, threads: int) -> int:
    """The number of samples in a chunk: ``batch_size``, or a number that suits memory and the data's storage."""
    if batch_size != "auto":
        return int(batch_size)
    rows = job.rows(threads)
    return max(rows // data.step * data.step, min(data.step, 4 * rows), 1)


@contextlib.contextmanager
def progress_bar(
    progress: bool | Callable[[int], object], samples: int | None, done: int
) -> Iterator[Callable[[int], object]]:
    """A progress bar on a terminal's standard error; nothing elsewhere; or the caller's own function."""
    if callable(progress):
        yield progress
    elif not progress or sys.stderr is None or not sys.stderr.isatty():
        yield lambda count: None
    else:
        from tqdm import tqdm

        with tqdm(total=samples, initial=done, unit=" samples", unit_scale=True, dynamic_ncols=True) as bar:
            yield bar.update
