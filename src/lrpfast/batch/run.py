"""One run of `stream`, from the beginning or from where an earlier run stopped, with its journal."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.exact import IndistinctError
from ..engine.growth import COUNTS
from ..errors import InputError, SampleError
from .cluster import PieceResult, Task, explain_on
from .compression import check_compression, of_statistics
from .groups import check_groups
from .job import JOB_COUNTS, Explained, Job
from .journal import ANEW, EXACT, Journal, joined, locked
from .metadata import history
from .resume import Sum, check_free, damaged, remove_earlier, write_again
from .settings import StreamSettings
from .sinks import Sink
from .sources import Source
from .statistics import Statistics
from .statistics_io import Results, check_statistics, result_names, save_statistics

if TYPE_CHECKING:
    from .metadata import ArrayMetadata

#: Seconds between two records in the journal: the most that a kill costs.
SECONDS_BETWEEN_NOTES = 5.0
#: … and the least multiple of the time that writing a record takes.
TIMES_A_NOTE = 20
#: The bytes of statistics that are recorded in a second, before one record has been timed.
NOTE_BYTES_PER_SECOND = 1e9
#: The journal's name for the number of samples that are read, explained and written together.
CHUNK = "samples in a chunk"


class RunStatistics:
    """The statistics of a run, if any, and the file that they are written to.

    Attributes
    ----------
    path : str or None
    quantiles : tuple of float
    new : callable
        Creates empty statistics.
    total : Statistics or None
        Of the finished samples; None if no statistics are wanted.
    settings : dict
        What a run must share with an interrupted run to resume it.
    """

    def __init__(self, job: Job, settings: StreamSettings, grid: np.ndarray | None = None) -> None:
        self.path = settings.statistics_path
        if settings.statistics:
            check_groups(len(job.groups.names), math.prod(job.map_shape), job.core.settings.memory)
        self.quantiles: tuple[float, ...] = settings.quantiles  # type: ignore[assignment]  # checked, so a tuple
        self.new = functools.partial(
            Statistics,
            job.map_shape,
            groups=job.groups.names,
            quantiles=bool(self.quantiles),
            group_name=job.groups.group_name,
            mask=grid,
            skip_zero=settings.skip_zero,
        )
        self.total: Any = self.new() if settings.statistics else None
        self.from_state = Statistics.from_state
        of_file = {"statistics": True, "quantiles": list(self.quantiles), "skip_zero": settings.skip_zero}
        self.settings: dict[str, Any] = of_file if settings.statistics else {}

    def restart(self, state: dict[str, np.ndarray]) -> None:
        """Continue from the state of an earlier run."""
        if self.total is not None:
            self.total = Statistics.from_state(state) if state else self.new()

    def names(self, job: Job) -> tuple[str, ...]:
        """The arrays that the file may hold."""
        return result_names(job.parts, job.groups.group_name)

    def check(self, job: Job, labels: ArrayMetadata | None, grid: np.ndarray | None) -> None:
        """Raise an error, before any work, unless the file can be written."""
        if self.path is not None:
            check_statistics(self.path, job.map_shape, labels, grid, job.groups.group_name, job.parts)

    def save(self, run: Run) -> None:
        """Write the file."""
        if self.path is not None and self.total is not None:
            save_statistics(self.path, run.results, run.attributes, run.compression)


class Run:
    """One run, from the beginning or from where an earlier run stopped.

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
        statistics: RunStatistics,
        rows: int,
        grid: np.ndarray | None,
        settings: StreamSettings,
    ) -> None:
        self.job, self.data, self.sink, self.statistics, self.rows, self.grid = job, data, sink, statistics, rows, grid
        self.done: list[list[int]] = []
        self.resumed = 0
        self.counts = dict.fromkeys((*JOB_COUNTS, *COUNTS), 0)
        self.record, self.labels = {**job.record, **data.provenance}, job.labels(data.labels)
        self.attributes = {**self.record, "history": history(job.record, data.name)}
        self.compression = of_statistics(settings.compression)
        if statistics.path is not None:
            check_compression(statistics.path, self.compression)
        own = () if statistics.path is None else (statistics.path,)
        self._paths = [*(() if sink is None else sink.outputs), *own]
        #: the path beside which the run is noted: that of several files has none of their names
        self._name = sink.path if sink is not None and sink.path is not None else statistics.path
        self._settings = settings
        self._sums: list[Sum] = []
        self._damaged: list[Sum] = []
        self._not_resumable = self._why_not_resumable()
        most = 0 if statistics.total is None else statistics.total._state_bytes(job.samples or 0)
        resumable = self._name is not None and self._not_resumable is None
        self._journal = Journal(self._name or "", self._journal_settings(), most) if resumable else None
        self._last_note = time.monotonic()
        self._pause = max(SECONDS_BETWEEN_NOTES, TIMES_A_NOTE * most / NOTE_BYTES_PER_SECOND)
        if sink is not None:
            sink.check((job.samples, *job.map_shape), job.dtype, self.labels)
        statistics.check(job, self.labels, self.map_grid)

    @property
    def map_grid(self) -> np.ndarray | None:
        """The mask that puts rows back on the grid; None where they are there already."""
        return self.grid if self.job.layers is None else None

    @property
    def count(self) -> int:
        """The number of finished samples."""
        return sum(stop - first for first, stop in self.done)

    @property
    def results(self) -> Results:
        """The statistics, and what their file says of them."""
        total = self.statistics.total
        assert total is not None
        return Results(total, self.statistics.quantiles, self.labels, self.map_grid, self.job.parts)

    def missing(self) -> list[tuple[int, int]]:
        """The ranges of samples that are not finished."""
        assert self.job.samples is not None
        ends = [0, *(end for part in self.done for end in part), self.job.samples]
        return [(first, stop) for first, stop in zip(ends[::2], ends[1::2], strict=True) if stop > first]

    def _why_not_resumable(self) -> str | None:
        """Why no later run can resume this one; None if one can."""
        if self.sink is not None and not self.sink.resumable:
            return "rows that are given to a function are gone"
        if self.data.fingerprint is None:
            return "its input is read only once"
        try:
            self.job.digest  # noqa: B018 - whether there is one
        except IndistinctError as error:
            return f"its target or a rule holds {error}, which nothing tells from another"
        return None

    def _journal_settings(self) -> dict[str, Any]:
        """The settings that a run must share with an interrupted run to resume it."""
        settings: dict[str, Any] = {
            **self.record,
            EXACT: self.job.digest,
            "compression": self._settings.compression,
            "device": self.job.core.describe_device(),
            "input": self.data.fingerprint,
            CHUNK: self.rows,
            "outputs": [os.path.realpath(p) for p in self._paths],
            "by": "the workers of a cluster" if self._settings.cluster is not None else "one process",
        }
        return {**settings, **self.statistics.settings}

    @contextlib.contextmanager
    def locked_outputs(self) -> Iterator[None]:
        """Lock the outputs, restore the state of an earlier run, and open the sink."""
        with contextlib.ExitStack() as stack:
            for path in dict.fromkeys([*([] if self._name is None else [self._name]), *self._paths]):
                stack.enter_context(locked(path))
            try:
                self._begin()
                yield
            finally:
                if self.sink is not None:
                    self.sink.close()

    def _begin(self) -> None:
        journal, sink = self._journal, self.sink
        if sink is not None:
            sink.recover()
        # an automatic chunk size may stay as it was, even on another number of threads
        resuming = (
            journal is not None
            and self._settings.resume
            and journal.load([CHUNK] if self._settings.batch_size == "auto" else [])
        )
        if resuming and journal is not None:
            self.rows = journal.settings[CHUNK]
            self.done, self.resumed = journal.done, sum(stop - first for first, stop in journal.done)
            self.counts = {**self.counts, **journal.counters}
            self._sums = journal.sums
            self.statistics.restart(journal.state)
        # an earlier run may have been killed at its very end, after its outputs got their names
        complete = resuming and not self.missing()
        finished = sink.finished() if complete and sink is not None else frozenset()
        for path in self._paths:
            is_own = complete and (sink is None or path in finished or path not in sink.outputs)
            if os.path.lexists(path) and not is_own:
                check_free(path, sink, self._settings.overwrite, self.statistics.names(self.job))
        if not resuming and self._name is not None:
            remove_earlier(self._name, self._settings.resume, self._not_resumable)
        if finished and sink is not None and journal is not None:
            self._check_finished(sink, journal)
            self.sink = sink = None
        gone = [] if sink is None or not resuming else [p for p in sink.partials if not os.path.exists(p)]
        if gone and sink is not None:
            raise InputError(
                f"{sink.path}: an unfinished run is noted, but what it had written is gone ({gone[0]}); {ANEW}"
            )
        shape: tuple[Any, ...] = (self.job.samples, *self.job.map_shape)
        try:
            if sink is not None:
                prefix = self.done[0][1] if self.done and not self.done[0][0] else 0
                sink.begin(shape, self.job.dtype, self.attributes, self.labels, prefix, self.rows, resuming)
            if journal is not None and not resuming:
                journal.frame = 0 if sink is None else sink.frame()
                journal.note([], {}, {}, [])
            elif journal is not None and sink is not None:
                self._damaged = damaged(sink, journal.frame, self._sums)
        except BaseException as error:
            if not resuming:
                self._give_up()
            elif isinstance(error, InputError) and ANEW not in str(error):
                raise InputError(f"{error}; {ANEW}") from None
            raise

    def _check_finished(self, sink: Sink, journal: Journal) -> None:
        """Raise InputError unless the output with the final name is what the unfinished run wrote."""
        sink.take_finished()
        shape: tuple[Any, ...] = (self.job.samples, *self.job.map_shape)
        try:
            sink.begin(shape, self.job.dtype, self.attributes, self.labels, 0, self.rows, True)
            same = sink.frame() == journal.frame and all(sink.checksum(*part[:2]) == part[2] for part in self._sums)
            if same:
                sink.finish_rest()
        except InputError:
            same = False
        finally:
            sink.close()
        if not same:
            raise InputError(f"{sink.path}: was put there, or changed, after an unfinished run wrote it; {ANEW}")

    def complete(self, progress: Callable[[int], object], client: Any = None) -> None:
        """Explain the remaining samples, and finish; a disk's error says whether the run can be resumed."""
        try:
            self._explain(progress, client)
            self._finish()
        except OSError as error:
            if self._journal is not None and self._journal.done and error.strerror:
                error.strerror += "; what is done is kept: the same run goes on from there"
            raise

    def _explain(self, progress: Callable[[int], object], client: Any) -> None:
        try:
            if self.sink is not None and self._sums:
                # the first and last recorded chunks show whether this run computes the same; workers may differ
                ends = [] if client is not None else [self._sums[0], self._sums[-1]]
                write_again(self.sink, self.job, self.data, [*self._damaged, *ends])
            if client is None:
                self._chunks(progress)
            else:
                self._explain_on(client, progress)
            self.data.unchanged()
        except BaseException as error:
            # a wrong value stays wrong: it needs another input, and that is another run
            if self._journal is None or not self.done or isinstance(error, SampleError):
                self._give_up()
            else:
                with contextlib.suppress(OSError):  # the error that stopped the run is the one to report
                    self._note()
            raise

    def _finish(self) -> None:
        if not self._saved_at_once():
            self._note()
            if self._journal is not None:
                self._journal.give_room()  # everything is recorded: the statistics may need the space
            self.statistics.save(self)
        if self.sink is not None:
            self.sink.finish()
        if self._journal is not None:
            self._journal.remove()

    def _saved_at_once(self) -> bool:
        """Write the statistics without a last record, where a kill then costs no more than before; if it worked.

        A record of many groups takes as long as the file itself.
        """
        if self.sink is not None or time.monotonic() - self._last_note > self._pause:
            return False
        try:
            self.statistics.save(self)
        except OSError:  # such as a full disk: there may be room when the reserved space is given back
            return False
        except BaseException:
            with contextlib.suppress(OSError):
                self._note()
            raise
        return True

    def _give_up(self) -> None:
        if self.sink is not None:
            self.sink.discard()
        if self._journal is not None:
            self._journal.remove()

    def _chunks(self, progress: Callable[[int], object]) -> None:
        """Explain chunks; read the next one and write the previous one at the same time."""
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
                result = self.job.explain(first, x, buffers[0][: len(x)])
                writing.append(writer.submit(self._write, first, result, progress))
                first += len(x)
            for future in writing:
                future.result()

    def _read(self, first: int, out: np.ndarray) -> np.ndarray:
        """The chunk that begins with sample ``first``, in ``out``; empty at the end."""
        samples = self.job.samples
        stop = first + self.rows if samples is None else min(samples, first + self.rows)
        if first >= stop:
            return out[:0]
        x = self.data.read_into(first, stop, out)
        self.data.ahead(stop, stop + self.rows if samples is None else min(samples, stop + self.rows))
        return x

    def _explain_on(self, client: Any, progress: Callable[[int], object]) -> None:
        """Let the workers of a cluster explain the remaining samples."""
        new_statistics = None if self.statistics.total is None else self.statistics.new
        task = Task(
            self.job,
            self.data.recipe,
            None if self.sink is None else self.sink.name,
            self.grid,
            self.rows,
            new_statistics,
            self._settings.compression,
        )

        def count(first: int, stop: int, piece: PieceResult) -> None:
            if piece.state is not None and self.statistics.total is not None:
                self.statistics.total.merge(self.statistics.from_state(piece.state))
            self._count(first, stop, piece.counts, piece.sums, progress)

        explain_on(client, task, self.missing(), count)

    def _write(self, first: int, result: Explained, progress: Callable[[int], object]) -> None:
        """Write a chunk and count it."""
        if first != (self.done[0][1] if self.done else 0):
            return  # the previous chunk could not be written
        stop = first + len(result.relevance)
        sums = [] if self.sink is None else [(first, stop, self.sink.write(first, result.relevance, result.beside))]
        if self.statistics.total is not None:
            self.statistics.total.update(first, result.relevance, result.group)
        self.data.done(stop)
        self._count(first, stop, result.counts, sums, progress)

    def _count(
        self, first: int, stop: int, counts: dict[str, int], sums: list[Sum], progress: Callable[[int], object]
    ) -> None:
        """Count written samples with their checksums, and record the progress every few seconds."""
        self._sums.extend(sums)
        self.counts = {key: number + counts[key] for key, number in self.counts.items()}
        self.done = joined([*self.done, [first, stop]])
        if time.monotonic() - self._last_note > self._pause:
            self._note()
        progress(stop - first)

    def _note(self) -> None:
        if self._journal is None:
            return
        begin = time.monotonic()
        if self.sink is not None:
            self.sink.flush()
        state = {} if self.statistics.total is None else self.statistics.total.state()
        self._journal.note(self.done, self.counts, state, self._sums)
        self._last_note = time.monotonic()
        self._pause = max(SECONDS_BETWEEN_NOTES, TIMES_A_NOTE * (self._last_note - begin))
