"""Streams of samples of different lengths: from ragged files to ragged files; an interrupted run can be resumed."""

from __future__ import annotations

import contextlib
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..engine.core import AnalyzerCore
from ..engine.exact import IndistinctError, exact
from ..engine.provenance import deciding, record, target_text
from ..engine.sequences import Sequences, explained
from ..errors import InputError, SampleError
from ..kernels.growth import Growth
from ..output import beside, check_target
from ..version import __version__
from .compression import check_compression, of_relevance
from .journal import ANEW, EXACT, Journal, locked
from .metadata import history
from .path_conflicts import check_no_overlap
from .per_sample import per_sample
from .resume import remove_earlier
from .settings import StreamSettings
from .sinks.contents import check_replaced
from .sinks.ragged import RaggedFile
from .sources.ragged import RaggedSource
from .targets import is_per_sample, wrong_count

#: Positions that are explained together, so that samples of similar lengths meet; and the largest number of samples.
POSITIONS, MOST_SAMPLES = 1 << 15, 1 << 13
#: The options of a stream that need samples of one shape, and why.
_REFUSED = {
    "statistics": "statistics are of maps whose features all samples share; {sums} in the output has each sample's sum",
    "conditions": "samples of different lengths are explained as a whole",
    "layers": "hidden layers of samples of different lengths are not written to files",
    "mask": "a mask is a grid that all samples share",
    "cluster": "one process explains samples of different lengths",
    "select": "parts of samples of different lengths are not selected",
    "fill_nan": "gaps in samples of different lengths are not filled",
}


@contextlib.contextmanager
def ragged_run(core: AnalyzerCore, data: RaggedSource, sink: Any, settings: StreamSettings) -> Iterator[RaggedRun]:
    """A run that has begun; its output is locked."""
    out = _output(data, sink, settings)
    _refuse(settings, "NAME_sum" if out is None else out.sum_name)
    check_no_overlap({"sink": None if out is None else out.path}, {"source": data, "target": settings.target})
    run = RaggedRun(core, data, sink if out is None else out, per_sample(settings, data))
    with contextlib.nullcontext() if out is None else locked(out.path):
        run.begin()
        yield run


def _refuse(settings: StreamSettings, sums: str) -> None:
    """InputError for options that need samples of one shape."""
    for name, why in _REFUSED.items():
        value = getattr(settings, name)
        if value is not None and value is not False:
            raise InputError(f"{name}= is for samples of one shape: {why.format(sums=repr(sums))}")


def _output(data: RaggedSource, sink: Any, settings: StreamSettings) -> RaggedFile | None:
    """The file to write; None for a function."""
    if sink is None:
        raise InputError("there is nothing to do: give a sink, an .h5 or .nc file or a function, for the relevances")
    if callable(sink):
        return None
    if not isinstance(sink, (str, os.PathLike)):
        path = getattr(sink, "path", None)  # a sink that the command has opened
        if path is None:
            raise InputError(f"relevances cannot be written to a {type(sink).__name__}; give a path or a function")
        sink = path if getattr(sink, "array", None) is None else f"{path}:{sink.array}"
    out = RaggedFile(sink, data.row, data.dims, data.count_name)
    check_compression(out.path, of_relevance(settings.compression))
    return out


class RaggedRun:
    """One run: its chunks, its journal, and the values that wait beside the output until all are there.

    Attributes
    ----------
    count, resumed, positions : int
        The number of samples, of those that an earlier run had done, and of positions.
    counts : dict
        Of `kernels.growth.Growth`, and how many explanations could not be normalized.
    record : dict
        The provenance of the relevances.
    """

    def __init__(self, core: AnalyzerCore, data: RaggedSource, sink: Any, settings: StreamSettings) -> None:
        self.core, self.data, self.sink, self.settings = core, data, sink, settings
        self.count = int(data.shape[0] or 0)
        self.done = self.resumed = self.positions = 0
        self.counts = {"not_normalized": 0, **Growth.of([], True).counts()}
        self.target = settings.target
        several = is_per_sample(self.target) and not isinstance(self.target, Mapping)
        if several:
            self.target = np.asarray(settings.target)
            if self.target.ndim != 1 or len(self.target) != self.count:
                raise wrong_count(self.count, self.target.shape)
        self._each = several
        used = core.settings.target if settings.target is None else settings.target
        of_outputs = used.values() if isinstance(used, Mapping) else [used]
        if not several and not all(isinstance(one, (str, int, np.integer, tuple)) for one in of_outputs):
            raise InputError(
                "target is one for all samples, or an array with one for each, where samples differ in length; "
                f"not {used!r:.80}"
            )
        self.record = {
            "lrpfast_version": __version__,
            **record(core),
            "target": target_text(used),
            **settings.preparation.record,
        }
        self.file = sink if isinstance(sink, RaggedFile) else None
        self._crc = [0, 0]
        if self.file is not None:
            try:
                own: str | None = exact(
                    [__version__, self.record["model_digest"], deciding(core), used, settings.preparation]
                )
            except IndistinctError:
                own = None
            self._resumable = own is not None
            self._parts = [beside(self.file.path, suffix) for suffix in ("part", "lengths")]
            noted = {**self.record, EXACT: own, "input": data.fingerprint, "array": self.file.array}
            self._journal = Journal(self.file.path, {**noted, "compression": settings.compression})

    # Beginning: where an earlier run stopped

    def begin(self) -> None:
        """Check the output, and adopt what an interrupted run has done."""
        if self.file is None:
            return
        check_target(self.file.path)
        if os.path.lexists(self.file.path):
            lost = check_replaced(self.file.path, self.file.names, "its relevance and sums")
            if not self.settings.overwrite:
                listing = f", which removes {', '.join(lost)}" if lost else ""
                raise InputError(f"{self.file.path}: is there already; pass overwrite=True to replace it{listing}")
        if self.settings.resume and self._resumable and self._journal.load():
            self._adopt()
            return
        why = None if self._resumable else "its target is an object with a state of its own"
        remove_earlier(self.file.path, self.settings.resume, why)
        for part in self._parts:
            with open(part, "wb"):
                pass
        self._note()

    def _adopt(self) -> None:
        """Cut what waits beside the output to what the journal knows of, and check it."""
        journal = self._journal
        self.done = self.resumed = journal.done[0][1] if journal.done else 0
        counters = dict(journal.counters)
        self.positions, *crc = (counters.pop(key) for key in ("positions", "crc_values", "crc_lengths"))
        self.counts = {key: counters[key] for key in self.counts}
        sizes = self.positions * math.prod(self.data.row) * self.core.settings.dtype.itemsize, 8 * self.done
        for k, (part, size) in enumerate(zip(self._parts, sizes, strict=True)):
            try:
                with open(part, "rb+") as file:
                    file.truncate(size) if os.path.getsize(part) > size else None
                    self._crc[k] = _crc_of(file)
            except FileNotFoundError:
                raise InputError(
                    f"{self.sink.path}: an unfinished run is noted, but what it had written is gone ({part}); {ANEW}"
                ) from None
        if self._crc != crc:
            raise InputError(f"{self.sink.path}: what an unfinished run had written was changed since; {ANEW}")

    def _note(self) -> None:
        names = {"positions": self.positions, "crc_values": self._crc[0], "crc_lengths": self._crc[1]}
        self._journal.note([[0, self.done]] if self.done else [], {**self.counts, **names}, {}, [])

    # Chunks

    def complete(self, progress: Any) -> None:
        """Explain the remaining samples, and write the file."""
        try:
            for samples in self._chunks():
                first, relevance = self.done, self._explained(samples)
                if self.file is None:
                    self.sink(first, relevance)
                else:
                    self._append(relevance)
                self.done += len(samples)
                self.positions += sum(map(len, samples))
                if self.file is not None:
                    self._note()
                progress(len(samples))
            self.data.unchanged()
            if self.file is not None:
                self._finish()
        except InputError:  # other data make another run
            self._give_up()
            raise
        except OSError as error:
            if self.file is not None and self.done and error.strerror:
                error.strerror += "; what is done is kept: the same run goes on from there"
            raise

    def _chunks(self) -> Iterator[list[np.ndarray]]:
        """The remaining samples, as many at a time as have some thousands of positions together."""
        most = MOST_SAMPLES if self.settings.batch_size == "auto" else int(self.settings.batch_size)
        waiting: list[np.ndarray] = []
        first = self.done
        while first < self.count:
            stop = min(self.count, first + min(self.data.at_once, most - len(waiting)))
            waiting += self.data.samples(first, stop)
            first = stop
            if len(waiting) >= most or sum(map(len, waiting)) >= POSITIONS:
                yield waiting
                waiting = []
        if waiting:
            yield waiting

    def _explained(self, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The relevance of some samples; nothing of those without a position."""
        row, dtype = self.data.row, self.core.settings.dtype
        result = [np.zeros((0, *row), dtype)] * len(samples)
        full = [i for i, sample in enumerate(samples) if len(sample)]
        if not full:
            return result
        target = self.target[self.done + np.array(full)] if self._each else self.target
        sequences = Sequences(self.core.model, [[samples[i] for i in full]])
        try:
            relevance, growth, _ = explained(self.core, sequences, target, exact=True)
        except SampleError as error:
            raise SampleError(error.text, self.done + full[error.sample], error.feature) from None
        preparation = self.settings.preparation
        for i, array in zip(full, relevance, strict=True):
            flat = np.array(array, dtype, order="C").reshape(1, -1)
            preparation.select(flat)
            self.counts["not_normalized"] += preparation.normalize(flat, threads=1)
            result[i] = flat.reshape(array.shape)
        for key, count in growth.counts().items():
            self.counts[key] += count
        return result

    def _append(self, relevance: Sequence[np.ndarray]) -> None:
        """Let values and lengths wait beside the output, on the disk."""
        values = b"".join(array.tobytes() for array in relevance)
        lengths = np.array([len(array) for array in relevance], np.int64).tobytes()
        for k, (part, data) in enumerate(zip(self._parts, (values, lengths), strict=True)):
            with open(part, "ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._crc[k] = zlib.crc32(data, self._crc[k])

    def _finish(self) -> None:
        """Write the output from what waits beside it."""
        assert self.file is not None
        dtype, row = self.core.settings.dtype, self.data.row
        lengths = np.fromfile(self._parts[1], np.int64)
        values: Any = np.empty((0, *row), dtype)
        if self.positions:
            values = np.memmap(self._parts[0], dtype, "r", shape=(self.positions, *row))
        attributes = {**self.record, "history": history(self.record, self.data.name)}
        self.file.write(lengths, values, attributes, of_relevance(self.settings.compression))
        del values
        self._give_up()

    def _give_up(self) -> None:
        """Remove what waits beside the output."""
        if self.file is not None:
            self._journal.remove()
            for part in self._parts:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part)


def _crc_of(file: Any) -> int:
    """The checksum of a file's bytes."""
    crc = 0
    while data := file.read(1 << 20):
        crc = zlib.crc32(data, crc)
    return crc
