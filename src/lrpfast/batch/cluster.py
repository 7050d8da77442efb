"""More than one machine: lazy maps of Dask and xarray arrays, and files explained by a cluster's workers."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from ..engine.conditions import Conditions, conditions_or_none
from ..engine.core import AnalyzerCore
from ..engine.inputs import as_batch, as_real
from ..engine.provenance import array_text
from ..errors import InputError, ShapeError
from .inputs import expected_sample
from .job import Job, prepare_sink
from .masks import Gridded, Masked, on_grid, open_mask_for
from .metadata import stacked_indexes, to_xarray
from .moment_tree import SIZE as BLOCK
from .normalize import Preparation
from .optional_import import import_optional
from .scatter import scatter
from .sinks import Sink, named
from .sources import Source, is_paths, open_source, reopened
from .sources.fit import fitted
from .sources.paths import absolute
from .statistics import Statistics
from .targets import is_per_sample, target_of_run, wrong_count

if TYPE_CHECKING:
    from .metadata import RowsShape

#: The least number of pieces for a worker, if there are enough samples, so that all workers finish together.
PIECES_PER_WORKER = 8
#: Seconds that a scheduler may take to answer.
SECONDS_TO_CONNECT = 30
#: Seconds that a scheduler may take to write its file, and the first worker to connect: a batch system may just have
#: started both, from a slow disk.
SECONDS_TO_START = 120
#: The address on which a local cluster listens: for this machine alone.
LOCALHOST = "127.0.0.1"
#: The largest number of chunks in a piece: what is lost when a worker dies.
CHUNKS_PER_PIECE = 8


# Lazy maps


class _MapSettings(NamedTuple):
    """What a lazy map does with each sample, by the names of `Job`'s arguments."""

    preparation: Preparation
    conditions: Conditions | None


def map_array(
    core: AnalyzerCore,
    x: Any,
    target: Any = None,
    *,
    conditions: Any = None,
    parallel: Any = False,
    part: Any = None,
    normalize: Any = None,
    mask: Any = None,
) -> Any:
    """`Analyzer.map`."""
    settings = _MapSettings(Preparation.of(part, normalize), conditions_or_none(conditions, parallel))
    if hasattr(x, "dims") and hasattr(x, "coords"):  # xarray's
        with open_source(x) as source:
            labels, data = source.labels, x.data
            if isinstance(core.input_shape, tuple):
                source = fitted(source, expected_sample(core.input_shape, mask))
            fits = source.shape == tuple(x.shape)
            grid = None if mask is None else open_mask_for(core.input_shape, mask, source)
            data = data if fits else data.reshape(source.shape)
            result, record = _lazy_map(core, data, target, settings, grid)
            if not fits:  # axes of length 1 as the caller's array has them
                result = result.reshape(*result.shape[: result.ndim - data.ndim + 1], *x.shape[1:])
            if labels is not None and conditions is not None:
                labels = labels.of_several("condition")
            return to_xarray(result, labels, record, stacked_indexes(x))
    grid = None if mask is None else open_mask_for(core.input_shape, mask)
    return _lazy_map(core, x, target, settings, grid)[0]


def _lazy_map(
    core: AnalyzerCore, x: Any, target: Any, settings: _MapSettings, grid: np.ndarray | None
) -> tuple[Any, dict[str, str]]:
    """The map, and its provenance."""
    if not _is_lazy(x):
        x = as_real(x, "x")
        x = as_batch(x, x.shape[1:], "x")
        job = Job(core, _feature_shape(x.shape, grid), x.dtype, target=target, **settings._asdict())
        return _explain_block(x, None, job=job, grid=grid), job.record
    if any(math.isnan(size) for sizes in x.chunks for size in sizes):
        raise InputError("the Dask array has chunks of unknown size; compute_chunk_sizes() finds them out")
    da, delayed = import_optional("dask.array", "a lazy map"), import_optional("dask", "a lazy map").delayed
    x = x.rechunk({axis: -1 for axis in range(1, x.ndim)})  # a sample is explained as a whole
    target = target_of_run(core, target)
    each, name = is_per_sample(target), None
    arguments: list[Any] = [x, (0, *range(100, 99 + x.ndim)), None, None]
    if each and isinstance(target, Mapping):
        core.check_target(target)
        ((name, target),) = target.items()
    if each:
        if np.shape(target)[:1] != (len(x),):
            raise wrong_count(len(x), np.shape(target))
        if isinstance(target, list) and name is None:
            core.fixed(np.empty((0, *_feature_shape(x.shape, grid)[1:]), x.dtype)).check_target(target)
        lazy_target = _is_lazy(target)
        target_text = f"array {target.shape} {target.dtype}" if lazy_target else array_text(np.asarray(target))
        target = da.asarray(target)
        target = target.rechunk({0: x.chunks[0], **{axis: -1 for axis in range(1, target.ndim)}})
        arguments[2:] = [target, (0, *range(200, 199 + target.ndim))]
        target = _named(name, np.empty((0, *target.shape[1:]), target.dtype))
    shape = _feature_shape((0 if each else len(x), *x.shape[1:]), grid)
    job = Job(core.for_one_task(), shape, x.dtype, target=target, **settings._asdict())
    map_shape = on_grid(job.map_shape, grid)
    axes = tuple(range(1, 1 + len(map_shape)))
    result = da.blockwise(
        _explain_block,
        (0, *axes),
        *arguments,
        job=delayed(job, name=f"lrpfast-{job.key()}", traverse=False),
        grid=grid,
        name_of_output=name,
        new_axes=dict(zip(axes, map_shape, strict=True)),
        concatenate=True,
        dtype=job.dtype,
        meta=np.empty((0,) * (1 + len(map_shape)), job.dtype),
    )
    return result, {**job.record, "target": target_text} if each else job.record


def _is_lazy(x: Any) -> bool:
    return hasattr(x, "__dask_graph__") and getattr(x, "chunks", None) is not None


def _feature_shape(shape: RowsShape, grid: np.ndarray | None) -> RowsShape:
    if grid is None:
        return shape
    if shape[1:][-grid.ndim :] != grid.shape:
        raise ShapeError(f"the mask has shape {grid.shape}, but a sample has shape {shape[1:]}")
    return cast("RowsShape", (*shape[: -grid.ndim], int(grid.sum())))


def _named(name: Any, target: Any) -> Any:
    """A target of a named output."""
    return target if name is None else {name: target}


def _explain_block(
    x: np.ndarray, target: Any, *, job: Job, grid: np.ndarray | None, name_of_output: Any = None
) -> np.ndarray:
    """One chunk of a lazy map."""
    result = job.explain(0, x if grid is None else x[..., grid], target=_named(name_of_output, target))
    job.warn_once(result)
    relevance = result.relevance
    return relevance if grid is None else scatter(relevance, grid)


# Files, by a cluster's workers

_CLUSTER = re.compile(
    r"local(:(?P<workers>\d+))?|(?P<address>(\w+://)?[^/\s]+:\d+)|(?P<file>.+\.json)", re.ASCII | re.DOTALL
)


@contextlib.contextmanager
def connected(cluster: Any) -> Iterator[Any]:
    """A Dask client with a worker: of a local cluster, of a scheduler's address or file, or the caller's own.

    A client that is created here does not become Dask's default, so that the caller's other work is unaffected.

    Raises
    ------
    InputError
        For anything else, and when no scheduler answers or no worker connects.
    """
    distributed = import_optional("distributed", "a cluster")
    with contextlib.ExitStack() as stack:
        client = cluster
        if not isinstance(cluster, distributed.Client):
            match = _CLUSTER.fullmatch(os.fspath(cluster)) if isinstance(cluster, (str, os.PathLike)) else None
            if match is None:
                raise InputError(
                    "cluster must be 'local:N' (N workers here), a scheduler's address such as 'tcp://host:8786', its "
                    f"file such as 'scheduler.json', or a Client, not {cluster!r}"
                )
            address = _address_in(match["file"]) if match["file"] else match["address"]
            if address:
                client = stack.enter_context(_client_of(distributed, address, cluster))
            else:
                client = stack.enter_context(_local(distributed, int(match["workers"]) if match["workers"] else None))
        try:
            client.wait_for_workers(1, timeout=SECONDS_TO_START)
        except distributed.TimeoutError as error:
            raise InputError(
                f"cluster: no worker came to {client.scheduler.address} in {SECONDS_TO_START} s"
            ) from error
        yield client


def _address_in(file: str) -> str:
    """The address in a scheduler's file, once the file is complete."""
    if not os.path.isdir(os.path.dirname(file) or "."):
        raise InputError(f"cluster={file!r}: there is no such folder")
    end = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            with open(file, encoding="utf-8") as stream:
                return str(json.load(stream)["address"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            if time.monotonic() > end:
                raise InputError(f"cluster={file!r}: no scheduler has written its address there ({error})") from error
        time.sleep(0.1)


def _client_of(distributed: Any, address: str, cluster: Any) -> Any:
    try:
        return distributed.Client(address, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: the port or protocol does not exist
        raise InputError(f"cluster={os.fspath(cluster)!r}: no scheduler answers there ({error})") from error


@contextlib.contextmanager
def _local(distributed: Any, workers: int | None) -> Iterator[Any]:
    """A client of worker processes on this machine, which end with it."""
    if workers == 0:
        raise InputError("cluster='local:0': a cluster needs a worker")
    # Dask always opens its dashboard, and ":0" would open it to the whole network
    where = {"host": LOCALHOST, "dashboard_address": f"{LOCALHOST}:0"}
    with (
        distributed.LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, **where) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        yield client


def rows_of_a_chunk(rows: int) -> int:
    """The number of samples in a chunk: a power of two, so that chunks nest in pieces and in the statistics' tree."""
    return 1 << (rows.bit_length() - 1)


def rows_of_a_piece(rows: int, block: int, samples: int, workers: int) -> int:
    """The number of samples in a piece: some chunks, whole blocks of the statistics, and enough pieces for all workers.

    A power of two of blocks is one node of the statistics' tree, which is the least to send.
    """
    size = max(rows, block)
    while size < CHUNKS_PER_PIECE * rows and 2 * size * PIECES_PER_WORKER * workers <= samples:
        size *= 2
    return size


def check_reachable(source: Any, sink: Any) -> None:
    """Raise InputError unless workers can open source and sink by path, on a disk that they share."""
    for name, value in (("source", source), ("sink", sink)):
        is_file = isinstance(value, (str, os.PathLike, type(None))) or is_paths(value)
        if isinstance(value, (Source, Sink)):
            is_file = (value.recipe if isinstance(value, Source) else value.path) is not None
        if not is_file:
            raise InputError(
                f"cluster: the {name} must be a file that all workers reach, not {type(value).__name__}; "
                "Analyzer.map explains Dask and xarray arrays on a cluster"
            )


class Task:
    """What each worker receives once: the job, its files and its chunks.

    Parameters
    ----------
    job : Job
    source : object
        The source's `Source.recipe`.
    sink : str or None
        As `open_sink` takes it.
    mask : boolean array or None
    rows : int
        The number of samples in a chunk.
    new_statistics : callable or None
        Creates empty statistics; None if none are wanted.
    compression : str
    """

    def __init__(
        self,
        job: Job,
        source: Any,
        sink: str | None,
        mask: np.ndarray | None,
        rows: int,
        new_statistics: Callable[[], Statistics] | None,
        compression: str,
    ) -> None:
        self.job = copy.copy(job)
        self.job.core = job.core.for_one_task()
        self.source = source
        self.sink = sink
        if sink is not None:
            self.sink = absolute(sink, None) if job.parts is not None else absolute(*named(sink)[::2])
        self.mask, self.rows, self.new_statistics = mask, rows, new_statistics
        self.compression = compression


class PieceResult(NamedTuple):
    """What a worker returns for one piece, besides the rows that it wrote.

    Attributes
    ----------
    counts : dict
        As in `Explained`.
    state : dict of arrays or None
        Of the piece's statistics.
    sums : list of (first, stop, checksum)
        Of the rows that were written.
    """

    counts: dict[str, int]
    state: dict[str, np.ndarray] | None
    sums: list[tuple[int, int, int]]


def explain_on(
    client: Any, task: Task, missing: Sequence[tuple[int, int]], on_result: Callable[[int, int, PieceResult], object]
) -> None:
    """Let the workers explain ranges of samples, piece by piece, and call ``on_result`` with each result.

    The worker that explains a piece also reads and writes it, in files that all workers can reach; it returns only
    the statistics. When a worker dies, another explains its piece again.
    """
    as_completed = import_optional("distributed", "a cluster").as_completed
    workers = max(1, sum(client.nthreads().values()))
    samples = sum(stop - first for first, stop in missing)
    size = rows_of_a_piece(task.rows, 1 if task.new_statistics is None else BLOCK, samples, workers)
    pieces = [(at, min(at + size - at % size, stop)) for first, stop in missing for at in _cuts(first, stop, size)]
    remote_task = client.scatter(task, broadcast=True, hash=False)
    futures = {client.submit(explain_piece, remote_task, *piece, pure=False): piece for piece in pieces}
    try:
        for future in as_completed(list(futures), loop=client.loop):  # without it, Dask looks for a default client
            on_result(*futures.pop(future), future.result())
    except BaseException:
        client.cancel(list(futures), force=True)
        raise


def _cuts(first: int, stop: int, size: int) -> Iterator[int]:
    """The first samples of a range's pieces: the range's own first sample, then multiples of the size."""
    yield first
    yield from range(first - first % size + size, stop, size)


def explain_piece(task: Task, first: int, stop: int) -> PieceResult:
    """Explain some samples on a worker."""
    job = task.job
    sums: list[tuple[int, int, int]] = []
    counts: dict[str, int] = {}
    statistics = None if task.new_statistics is None else task.new_statistics()
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(reopened(task.source))
        if task.mask is not None:
            data = Masked(data, task.mask)
        sink = None
        if task.sink is not None:
            sink = stack.enter_context(job.open_sink(task.sink))
            sink = sink if task.mask is None or job.layers is not None else Gridded(sink, task.mask)
            prepare_sink(sink, job, task.compression)
            # the run created it, with space for all rows
            sink.begin((job.samples, *job.map_shape), job.dtype, {}, rows=task.rows, existing=True)
        for row in range(first, stop, task.rows):
            x = data.read(row, min(stop, row + task.rows))
            data.ahead(row + len(x), min(stop, row + len(x) + task.rows))
            result = job.explain(row, x)
            if sink is not None:
                sums.append((row, row + len(x), sink.write(row, result.relevance, result.beside)))
            if statistics is not None:
                statistics.update(row, result.relevance, result.group, threads=job.core.settings.threads)
            counts = {key: number + counts.get(key, 0) for key, number in result.counts.items()}
            data.done(row + len(x))
        if sink is not None:
            sink.flush()
    return PieceResult(counts, None if statistics is None else statistics.state(), sums)
