"""Explains a data set of any length a chunk at a time: reading, computing and writing overlap, and nothing is lost."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..engine.analyzer import Analyzer
from ..engine.exact import IndistinctError
from ..engine.growth import COUNTS, texts, warn
from ..engine.inputs import is_array
from ..engine.threads import get_num_threads
from ..errors import BoundsWarning, InputError, InputNotFoundError, SampleError
from .bounds import told_outside
from .cluster import cluster_of_files, connected, explain_on, rows_of_a_chunk
from .job import Explained, Job
from .journal import ANEW, EXACT, Journal, joined, locked
from .masks import Gridded, Masked, on_grid, open_mask_for
from .path_conflicts import check_no_overlap
from .resume import Sum, check_free, damaged, remove_earlier, write_again
from .sinks import Sink, open_sink
from .sources import Source, open_source, split
from .statistics import Statistics, check_quantiles
from .statistics_io import check_statistics, save_statistics

#: Time between two notes of what is done: what a kill costs at most.
SECONDS_BETWEEN_NOTES = 5.0
#: … and how many times longer than a note takes it is at least.
TIMES_A_NOTE = 20
#: The setting of a run that tells how many samples are read, explained and written at once.
CHUNK = "samples in a chunk"
#: What `Streamed` counts of relevance that grew or vanished.
GROWN = ("amplified", "vanished", "zero_maps")


@dataclass(frozen=True, eq=False)
class Streamed:
    """What `stream` did.

    Attributes
    ----------
    samples, explanations : int
        Explanations are samples times targets.
    shape : tuple of int
        Of all relevances, as they are written: with a mask, on its grid.
    dtype : dtype
    seconds : float
        Of this run.
    resumed : int
        Samples that an earlier, unfinished run had done.
    left : int
        Explanations not normalized, since what they would be divided by is zero.
    outside : int
        Input values outside the bounds of a z-box on the input.
    amplified, vanished, zero_maps : int
        Explanations whose relevance grew more than 1,000-fold between the output and the input, of which less than a
        thousandth reaches the input, and that are zero everywhere: what is written of them means little.
    values : int
        Input values that were explained: samples times features.
    warnings : tuple of str
        The texts of the warnings that the run gave.
    statistics : Statistics or None
    record : dict
        How the relevances were made, as the files' attributes say it.
    written : bool
        Whether the relevances went anywhere, and not into statistics alone.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2))])
    >>> done = lrpfast.Analyzer(model, "zero").stream(np.ones((5, 2)), "maps.npy", progress=False)
    >>> done.samples, done.shape, done.resumed
    (5, (5, 2), 0)
    """

    samples: int
    explanations: int
    shape: tuple[int, ...]
    dtype: np.dtype
    seconds: float
    resumed: int
    left: int
    outside: int
    amplified: int
    vanished: int
    zero_maps: int
    values: int
    warnings: tuple[str, ...]
    statistics: Statistics | None
    record: dict[str, str]
    written: bool

    def __repr__(self) -> str:
        told = [f"relevance {self.shape} {self.dtype}"] if self.written else []
        for name in ("resumed", "left", "outside", *GROWN):
            if getattr(self, name):
                told.append(f"{name.replace('_', ' ')} {getattr(self, name):,}")
        if self.statistics is not None:
            told.append("statistics")
        return f"<lrpfast.Streamed: {self.samples:,} samples in {self.seconds:.3g} s; {', '.join(told)}>"


def stream(
    analyzer: Analyzer,
    source: Any,
    sink: Any = None,
    *,
    target: Any = None,
    batch_size: int | str = "auto",
    normalize: str | None = None,
    statistics: bool | str | os.PathLike[str] = False,
    group_by: Any = None,
    correct: Any = None,
    quantiles: float | Sequence[float] = (),
    mask: Any = None,
    progress: bool | Callable[[int], object] = True,
    resume: bool = True,
    overwrite: bool = False,
    cluster: Any = None,
) -> Streamed:
    """`Analyzer.stream`."""
    begin = time.perf_counter()
    if cluster is not None:
        cluster_of_files(source, sink)
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(_opened(source, sink))
        grid = None
        if mask is not None:
            grid = open_mask_for(analyzer.input_shape, mask, data)
            data = stack.enter_context(Masked(data, grid))
        job = Job(
            analyzer, data.shape, data.dtype, target=target, normalize=normalize, group_by=group_by, correct=correct
        )
        made = _Statistics(job, statistics, bool(group_by is not None or correct is not None), quantiles)
        out = None if sink is None else open_sink(sink)
        if out is None and not made.wanted:
            raise InputError("there is nothing to do: give a sink for the relevances, or ask for statistics")
        check_no_overlap(
            {"sink": None if out is None else out.path, "statistics": made.path},
            {"source": source, "target": target, "group_by": group_by, "correct": correct, "mask": mask},
        )
        if out is not None and grid is not None:
            out = Gridded(out, grid)
        threads = analyzer._threads or (get_num_threads() if cluster is None else 1)
        rows = _rows(batch_size, job, data, threads)
        if cluster is not None:
            rows = rows_of_a_chunk(rows)
        run = Run(job, data, out, made, rows, resume, overwrite, grid, cluster is not None, batch_size == "auto")
        client = None if cluster is None else stack.enter_context(connected(cluster))
        stack.enter_context(run.held())
        tell = stack.enter_context(_progress(progress, job.samples, run.count))
        run.all(tell, client)
    seconds = time.perf_counter() - begin
    shape = (run.count, *on_grid(job.map_shape, grid))
    values = run.count * math.prod(job.feature_shape)
    counts = run.count, run.count * job.targets
    given = []
    if outside := run.counts["outside"]:
        given.append(told_outside(outside, values))
        warnings.warn(given[0], BoundsWarning, stacklevel=3)
    growth = job.growth(run.counts)
    warn(growth, counts[1], analyzer._rectify)
    given += texts(growth, counts[1], analyzer._rectify)
    told = run.resumed, run.counts["left"], outside, growth.amplified, growth.vanished, growth.zero, values
    return Streamed(*counts, shape, job.dtype, seconds, *told, tuple(given), made.total, run.record, out is not None)


def _opened(source: Any, sink: Any) -> Source:
    """The source; where it is not there, and the sink is, they may be swapped."""
    try:
        return open_source(source)
    except InputNotFoundError as error:
        there = os.path.exists(split(os.fsdecode(sink))[0]) if isinstance(sink, (str, os.PathLike)) else is_array(sink)
        raise InputNotFoundError(error.filename, "the source comes first, then the sink" if there else "") from None


def _rows(batch_size: int | str, job: Job, data: Source, threads: int) -> int:
    """Samples of a chunk: as asked for, or as memory and the way they are stored suggest."""
    if batch_size == "auto":
        rows = job.rows(threads)
        return max(rows // data.step * data.step, min(data.step, 4 * rows), 1)
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise InputError(f"batch_size must be 'auto' or a whole number of at least 1, not {batch_size!r}")
    return int(batch_size)


class _Statistics:
    """The statistics that were asked for, if any, and where they are to be written."""

    def __init__(
        self, job: Job, wanted: bool | str | os.PathLike[str], grouped: bool, quantiles: float | Sequence[float]
    ) -> None:
        self.path = None if isinstance(wanted, bool) else os.fspath(wanted)
        self.wanted = bool(wanted)
        self.quantiles = tuple(check_quantiles("quantiles", quantiles).tolist())
        if not self.wanted and (grouped or self.quantiles):
            raise InputError(
                "group_by, correct and quantiles go with statistics: pass statistics=True or a file's name"
            )
        self.new = functools.partial(Statistics, job.map_shape, groups=job.groups.names, quantiles=bool(self.quantiles))
        self.total: Statistics | None = self.new() if self.wanted else None

    def restart(self, state: dict[str, np.ndarray]) -> None:
        """Go on from where an earlier run was."""
        if self.wanted:
            self.total = Statistics.from_state(state) if state else self.new()


class Run:
    """One run: from where an earlier one stopped to the end.

    Attributes
    ----------
    done : list of [first, stop]
        The ranges of samples whose relevance is in the output and whose statistics are counted.
    """

    def __init__(
        self,
        job: Job,
        data: Source,
        sink: Sink | None,
        made: _Statistics,
        rows: int,
        resume: bool,
        overwrite: bool,
        grid: np.ndarray | None,
        shared: bool,
        auto: bool,
    ) -> None:
        self.job, self.data, self.sink, self.made, self.rows, self.grid = job, data, sink, made, rows, grid
        self.done: list[list[int]] = []
        self.resumed = 0
        self.counts = dict.fromkeys(("left", "outside", *COUNTS), 0)
        self.record = job.record
        self._paths = paths = [p for p in (None if sink is None else sink.path, made.path) if p is not None]
        self._resume, self._overwrite, self._shared, self._auto = resume, overwrite, shared, auto
        self._sums: list[Sum] = []
        self._damaged: list[Sum] = []
        self._alone = self._not_resumable()
        most = 0 if made.total is None else made.total._state_bytes(job.samples or 0)
        self._journal = Journal(paths[0], self._settings(), most) if paths and self._alone is None else None
        self._noted = time.monotonic()
        self._pause = SECONDS_BETWEEN_NOTES
        if sink is not None:
            sink.check((job.samples, *job.map_shape), job.dtype, data.labels)
        if made.path is not None:
            check_statistics(made.path, job.map_shape, data.labels, grid)

    @property
    def count(self) -> int:
        """Samples done."""
        return sum(stop - first for first, stop in self.done)

    def missing(self) -> list[tuple[int, int]]:
        """The ranges of samples that are not done."""
        assert self.job.samples is not None
        ends = [0, *(end for part in self.done for end in part), self.job.samples]
        return [(first, stop) for first, stop in zip(ends[::2], ends[1::2], strict=True) if stop > first]

    def _not_resumable(self) -> str | None:
        """Why no other run can go on where this one stops; None where one can."""
        if self.sink is not None and not self.sink.resumable:
            return "rows that are given to a function are gone"
        if self.data.fingerprint is None:
            return "its input is read only once"
        try:
            self.job.digest  # noqa: B018 - whether there is one
        except IndistinctError as error:
            return f"its target or a rule holds {error}, which nothing tells from another"
        return None

    def _settings(self) -> dict[str, Any]:
        """What must be the same for a run to go on where another stopped."""
        backend = self.job.analyzer._backend
        settings: dict[str, Any] = {
            **self.record,
            EXACT: self.job.digest,
            "device": f"{backend.name} {backend.describe().get('instruction set', '')}".strip(),
            "input": self.data.fingerprint,
            CHUNK: self.rows,
            "outputs": [os.path.realpath(p) for p in self._paths],
            "by": "the workers of a cluster" if self._shared else "one process",
        }
        if self.made.wanted:
            settings["statistics"] = True
            settings["quantiles"] = list(self.made.quantiles)
        return settings

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The outputs locked, what an earlier run did taken over, and the sink open."""
        with contextlib.ExitStack() as stack:
            for path in self._paths:
                stack.enter_context(locked(path))
            try:
                self._begin()
                yield
            finally:
                if self.sink is not None:
                    self.sink.close()

    def _begin(self) -> None:
        journal, sink = self._journal, self.sink
        # a chunk that is chosen here may stay what it was, with other threads too
        found = journal is not None and self._resume and journal.load([CHUNK] if self._auto else [])
        if found and journal is not None:
            self.rows = journal.settings[CHUNK]
            self.done, self.resumed = journal.done, sum(stop - first for first, stop in journal.done)
            self.counts = {**self.counts, **journal.counters}
            self._sums = journal.sums
            self.made.restart(journal.state)
        # an earlier run may have been killed in its last moment, with its outputs in their places
        whole = found and not self.missing()
        named = (
            whole and sink is not None and not os.path.exists(sink.partial or "") and os.path.exists(sink.path or "")
        )
        for path in self._paths:
            own = whole and (sink is None or named or path != sink.path)
            if os.path.lexists(path) and not own:
                check_free(path, sink, self._overwrite)
        if not found and self._paths:
            remove_earlier(self._paths[0], self._resume, self._alone)
        if named and sink is not None and journal is not None:
            self._check_finished(sink, journal)
            self.sink = sink = None
        if found and sink is not None and not os.path.exists(sink.partial or ""):
            raise InputError(
                f"{sink.path}: an unfinished run is noted, but what it had written is gone ({sink.partial}); {ANEW}"
            )
        shape: tuple[Any, ...] = (self.job.samples, *self.job.map_shape)
        try:
            if sink is not None:
                prefix = self.done[0][1] if self.done and not self.done[0][0] else 0
                sink.begin(shape, self.job.dtype, self.record, self.data.labels, prefix, self.rows, found)
            if journal is not None and not found:
                journal.frame = 0 if sink is None else sink.frame()
                journal.note([], {}, {}, [])
            elif journal is not None and sink is not None:
                self._damaged = damaged(sink, journal.frame, self._sums)
        except BaseException as error:
            if not found:
                self._give_up()
            elif isinstance(error, InputError) and ANEW not in str(error):
                raise InputError(f"{error}; {ANEW}") from None
            raise

    def _check_finished(self, sink: Sink, journal: Journal) -> None:
        """InputError unless the output that has its name is what the unfinished run wrote."""
        sink.take_finished()
        shape: tuple[Any, ...] = (self.job.samples, *self.job.map_shape)
        try:
            sink.begin(shape, self.job.dtype, self.record, self.data.labels, 0, self.rows, True)
            same = sink.frame() == journal.frame and all(sink.checksum(*part[:2]) == part[2] for part in self._sums)
        except InputError:
            same = False
        sink.close()
        if not same:
            raise InputError(f"{sink.path}: was put there, or changed, after an unfinished run wrote it; {ANEW}")

    def all(self, tell: Callable[[int], object], client: Any = None) -> None:
        """Explain what is left, and finish; an error of a disk says whether the run can go on."""
        try:
            self._explain(tell, client)
            self._finish()
        except OSError as error:
            if self._journal is not None and self._journal.done and error.strerror:
                error.strerror += "; what is done is kept: the same run goes on from there"
            raise

    def _explain(self, tell: Callable[[int], object], client: Any) -> None:
        try:
            if self.sink is not None and self._sums:
                # what was noted first and last is a sample of whether this run computes the same; workers may be others
                ends = [] if client is not None else [self._sums[0], self._sums[-1]]
                write_again(self.sink, self.job, self.data, [*self._damaged, *ends])
            if client is None:
                self._chunks(tell)
            else:
                explain_on(client, self, tell)
            self.data.unchanged()
        except BaseException as error:
            # a wrong value stays wrong: only another input can do better, and that is another run
            if self._journal is None or not self.done or isinstance(error, SampleError):
                self._give_up()
            else:
                with contextlib.suppress(OSError):  # the error that stopped the run is the one to tell
                    self._note()
            raise

    def _finish(self) -> None:
        self._note()
        if self._journal is not None:
            self._journal.give_room()  # all is noted: the statistics may need it
        if self.made.path is not None and self.made.total is not None:
            maps = self.made.total, self.made.quantiles, self.data.labels, self.grid
            save_statistics(self.made.path, *maps, self.record)
        if self.sink is not None:
            self.sink.finish()
        if self._journal is not None:
            self._journal.remove()

    def _give_up(self) -> None:
        if self.sink is not None:
            self.sink.discard()
        if self._journal is not None:
            self._journal.remove()

    def _chunks(self, tell: Callable[[int], object]) -> None:
        """Read the next chunk and write the last one while this one is computed."""
        buffers = [np.empty((0,)), np.empty((0,))]
        inputs = [np.empty((self.rows, *self.data.shape[1:]), self.data.dtype) for _ in range(2)]
        first = self.done[0][1] if self.done else 0
        with ThreadPoolExecutor(1, "lrpfast-read") as reader, ThreadPoolExecutor(1, "lrpfast-write") as writer:
            reading = reader.submit(self._read, first, inputs[0])
            writing: list[Future[None]] = []
            while len(x := reading.result()):
                inputs.reverse()
                reading = reader.submit(self._read, first + len(x), inputs[0])
                if len(writing) == 2:
                    writing.pop(0).result()
                buffers.reverse()
                if len(buffers[0]) < len(x):
                    buffers[0] = np.empty((len(x), *self.job.map_shape), self.job.dtype)
                explained = self.job.explain(first, x, buffers[0][: len(x)])
                writing.append(writer.submit(self._take, first, explained, tell))
                first += len(x)
            for future in writing:
                future.result()

    def _read(self, first: int, out: np.ndarray) -> np.ndarray:
        """The chunk that begins with this sample, in ``out``; empty at the end."""
        samples = self.job.samples
        stop = first + self.rows if samples is None else min(samples, first + self.rows)
        if first >= stop:
            return out[:0]
        x = self.data.read_into(first, stop, out)
        self.data.ahead(stop, stop + self.rows if samples is None else min(samples, stop + self.rows))
        return x

    def _take(self, first: int, made: Explained, tell: Callable[[int], object]) -> None:
        """Write a chunk and count it."""
        if first != (self.done[0][1] if self.done else 0):
            return  # the chunk before it could not be written
        stop = first + len(made.relevance)
        sums = [] if self.sink is None else [(first, stop, self.sink.write(first, made.relevance))]
        if self.made.total is not None:
            self.made.total.update(first, made.relevance, made.group)
        self.data.done(stop)
        self.took(first, stop, made.counts, sums, tell)

    def took(
        self,
        first: int,
        stop: int,
        counts: dict[str, int],
        sums: list[Sum],
        tell: Callable[[int], object],
    ) -> None:
        """Count samples that are written with these checksums, and note what is done every few seconds."""
        self._sums.extend(sums)
        self.counts = {key: number + counts[key] for key, number in self.counts.items()}
        self.done = joined([*self.done, [first, stop]])
        if time.monotonic() - self._noted > self._pause:
            self._note()
        tell(stop - first)

    def _note(self) -> None:
        if self._journal is None:
            return
        begin = time.monotonic()
        if self.sink is not None:
            self.sink.flush()
        state = {} if self.made.total is None else self.made.total.state()
        self._journal.note(self.done, self.counts, state, self._sums)
        self._noted = time.monotonic()
        self._pause = max(SECONDS_BETWEEN_NOTES, TIMES_A_NOTE * (self._noted - begin))


@contextlib.contextmanager
def _progress(
    wanted: bool | Callable[[int], object], samples: int | None, done: int
) -> Iterator[Callable[[int], object]]:
    """A progress bar on a terminal's standard error; nothing elsewhere; or the caller's own function."""
    if callable(wanted):
        yield wanted
    elif not wanted or sys.stderr is None or not sys.stderr.isatty():
        yield lambda count: None
    else:
        from tqdm import tqdm

        with tqdm(total=samples, initial=done, unit=" samples", unit_scale=True, dynamic_ncols=True) as bar:
            yield bar.update
