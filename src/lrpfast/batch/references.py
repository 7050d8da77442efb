"""Reference samples: for every channel of a layer, the samples that it contributes most to, or that excite it most."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.core import AnalyzerCore
from ..engine.explain_scope import check_layers
from ..errors import InputError
from ..lazy import lazy_property
from ..table import Tabular
from .hidden import channel_sums
from .job import Job
from .map_writer import KINDS, check_maps, write_maps
from .metadata import Coord
from .normalize import check_normalization, normalize_rows
from .settings import StreamSettings
from .stream import stream

if TYPE_CHECKING:
    from .metadata import ArrayMetadata
    from .run import Run

BY = ("relevance", "activation")
OF = ("sum", "max")
#: Samples that are compared at once with those found before: few enough that most of them are left out early.
BLOCK = 256
#: The arrays of a file of references; those of groups are optional.
RESULTS = ("indices", "values", "positions", "group")


@dataclass(frozen=True)
class ReferenceSettings:
    """The options of `Analyzer.references` about what is sought.

    Raises
    ------
    InputError
        For an option that is invalid for any model.
    """

    layer: str
    k: int
    by: str
    of: str
    normalize: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str):
            raise InputError(f"layer must be a layer's name, not {self.layer!r}")
        if isinstance(self.k, bool) or not isinstance(self.k, (int, np.integer)) or self.k < 1:
            raise InputError(f"k must be a whole number of at least 1, not {self.k!r}")
        for name, known in (("by", BY), ("of", OF)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} must be {' or '.join(map(repr, known))}, not {getattr(self, name)!r}")
        object.__setattr__(self, "normalize", check_normalization(self.normalize))

    @property
    def record(self) -> dict[str, str]:
        """The options as attributes of files."""
        record = {"references": f"the {self.k} largest, by {self.of} of {self.by}"}
        return {**record, "normalize": ", ".join(self.normalize)} if self.normalize else record


@dataclass(frozen=True, eq=False, repr=False)
class References(Tabular):
    """The samples that count most for every channel of a layer, the first of them first.

    With groups, all arrays have an axis of them before the channels. Where there are fewer than k samples, indices and
    positions are -1 and values NaN.

    Attributes
    ----------
    layer : str
    by : {"relevance", "activation"}
    of : {"sum", "max"}
    indices : int64 array, shape (channels, k)
        Of the samples in the data set.
    values : float64 array, shape (channels, k)
        The channel's relevance or activation, summed over positions or the largest of them.
    positions : int64 array, shape (channels, k, axes)
        Where in the layer the channel's value is largest: an index on each axis but that of the channels.
    groups : list or None
        The groups' labels.
    record : dict of str
        How they were made, as in the files' attributes.

    Examples
    --------
    >>> layers = [lrpfast.layers.Dense(np.eye(2), name="first"), lrpfast.layers.Dense(np.ones((2, 1)))]
    >>> analyzer = lrpfast.Analyzer(lrpfast.from_layers(layers), "epsilon")
    >>> references = analyzer.references(np.array([[1.0, 0.0], [3.0, 1.0], [2.0, 5.0]]), "first", k=2)
    >>> references.indices, references.values.round(3)
    (array([[1, 2],
           [2, 1]]), array([[3., 2.],
           [5., 1.]]))
    """

    layer: str
    by: str
    of: str
    indices: np.ndarray
    values: np.ndarray
    positions: np.ndarray
    groups: list[Any] | None
    record: dict[str, str]

    def _rows(self) -> tuple[str, list[list[str]]]:
        *_, channels, k = self.indices.shape
        labels: list[Any] = [None] if self.groups is None else self.groups
        of_groups = "" if self.groups is None else f", in {len(labels)} groups"
        head = (
            f"{k} samples for each of {channels} channels of {self.layer!r}, by the {self.of} of {self.by}{of_groups}"
        )
        values, indices = (array.reshape(-1, channels, k) for array in (self.values, self.indices))
        largest = np.nan_to_num(values[..., 0], nan=-np.inf).max(0)
        shown = np.argsort(-largest, kind="stable")[: max(1, SHOWN_ROWS // len(labels))].tolist()
        columns = range(min(k, SHOWN_SAMPLES))
        group = [] if self.groups is None else ["group"]
        rows = [["channel", *group, "largest", "samples", *([""] * (len(columns) - 1))]]
        for channel in shown:
            for g, label in enumerate(labels):
                samples = [str(i) if i >= 0 else "" for i in indices[g, channel, : len(columns)].tolist()]
                rows.append([str(channel), *[str(label)] * len(group), f"{values[g, channel, 0]:.4g}", *samples])
        if channels > len(shown):
            rows.append(["…"] + [""] * (len(rows[0]) - 1))
        return head, rows


#: What the table of references shows.
SHOWN_ROWS, SHOWN_SAMPLES = 20, 8


class TopSamples:
    """The largest values of each channel so far, by group: what `Statistics` is to `stream`.

    Samples with equal values are in the order of their indices, so that the result does not depend on how the data
    set was divided.

    Parameters
    ----------
    shape : tuple of int
        Of a layer, channels last.
    k : int
    of : {"sum", "max"}
    normalize : tuple of str
        What the values of a sample's channels are divided by.
    groups : sequence
        Their labels.
    """

    def __init__(
        self, shape: Sequence[int], *, k: int, of: str, normalize: Sequence[str], groups: Sequence[Any]
    ) -> None:
        self.shape, self._k, self._of, self._normalize = tuple(shape), k, of, tuple(normalize)
        self.groups = list(groups)
        size = len(self.groups), self.shape[-1], k
        self.values, self.indices = np.full(size, -np.inf), np.full(size, -1, np.int64)
        self.positions = self.indices.copy()

    def update(
        self, first: int, rows: np.ndarray, group: np.ndarray | None = None, *, threads: int | None = None
    ) -> None:
        """Count samples ``first``, ``first`` + 1, … as `Statistics.update` does."""
        of_group = np.zeros(len(rows), np.int64) if group is None else group
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            values = self._values(block)
            of_block = of_group[start : start + BLOCK]
            for g in np.unique(of_block[of_block >= 0]).tolist():
                self._absorb(g, np.flatnonzero(of_block == g), values, first + start, block)

    def _values(self, rows: np.ndarray) -> np.ndarray:
        """(samples, channels), float64."""
        if self._of == "sum":
            values = channel_sums(rows, np.dtype(np.float64))
        else:
            values = rows.reshape(len(rows), -1, self.shape[-1]).max(1).astype(np.float64)
        if self._normalize:
            normalize_rows(values, self._normalize)
        return values

    def _absorb(self, g: int, members: np.ndarray, values: np.ndarray, first: int, rows: np.ndarray) -> None:
        """Take what is larger than the smallest that is kept."""
        larger = values[members] > self.values[g, :, -1]  # of equal ones, those before stay
        channels = np.flatnonzero(larger.any(0))
        if not len(channels):
            return
        larger = larger[:, channels].T
        fresh = np.where(larger, values[members][:, channels].T, -np.inf)
        indices = np.where(larger, first + members, -1)
        order = self._merged(g, channels, fresh, indices, np.full(fresh.shape, -1, np.int64))
        at, rank = np.nonzero(order >= self._k)  # the new ones among those that are kept
        at, rank = (part[self.indices[g, channels[at], rank] >= 0] for part in (at, rank))
        samples, channel = self.indices[g, channels[at], rank] - first, channels[at]
        if len(samples):
            flat = rows.reshape(len(rows), -1, self.shape[-1])
            self.positions[g, channel, rank] = flat[samples, :, channel].argmax(1)

    def _merged(
        self, g: int, channels: np.ndarray, values: np.ndarray, indices: np.ndarray, positions: np.ndarray
    ) -> np.ndarray:
        """Keep the k best of those before and these, of some channels; returns what was chosen, those before first."""
        all_values = np.concatenate([self.values[g, channels], values], 1)
        all_indices = np.concatenate([self.indices[g, channels], indices], 1)
        order = np.lexsort((all_indices, -all_values), 1)[:, : self._k]
        self.values[g, channels] = np.take_along_axis(all_values, order, 1)
        self.indices[g, channels] = np.take_along_axis(all_indices, order, 1)
        all_positions = np.concatenate([self.positions[g, channels], positions], 1)
        self.positions[g, channels] = np.take_along_axis(all_positions, order, 1)
        return order

    def merge(self, other: TopSamples) -> None:
        """Take the samples of another part of the same data set."""
        every = np.arange(self.shape[-1])
        for g in range(len(self.values)):
            self._merged(g, every, other.values[g], other.indices[g], other.positions[g])

    def state(self) -> dict[str, np.ndarray]:
        """All of it as plain arrays."""
        return {
            "shape": np.array(self.shape, np.int64),
            "of": np.array(self._of),
            "normalize": np.array(self._normalize, str),
            "groups": np.array(self.groups),
            "values": self.values.copy(),
            "indices": self.indices.copy(),
            "positions": self.positions.copy(),
        }

    def _state_bytes(self, samples: int) -> int:
        """The bytes of `state`."""
        return 3 * self.values.nbytes

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray]) -> TopSamples:
        """The object with this `state`."""
        options = {name: state[name].tolist() for name in ("of", "normalize", "groups")}
        result = cls(state["shape"].tolist(), k=state["values"].shape[2], **options)
        for name in ("values", "indices", "positions"):
            getattr(result, name)[:] = state[name]
        return result

    def results(self, grouped: bool) -> dict[str, np.ndarray]:
        """Indices, values and positions, without an axis of groups if there are none."""
        missing = self.indices < 0
        grid = self.shape[:-1]
        flat = np.where(missing, 0, self.positions)
        axes = np.unravel_index(flat, grid) if grid else ()
        positions = np.stack(axes, -1) if axes else np.empty((*flat.shape, 0), np.int64)
        positions[missing] = -1
        results = {
            "indices": self.indices.copy(),
            "values": np.where(missing, np.nan, self.values),
            "positions": positions.astype(np.int64),
        }
        return results if grouped else {name: array[0] for name, array in results.items()}


class ReferenceJob(Job):
    """A job whose rows are a layer's relevance or activations; nothing that this does not need is computed."""

    def __init__(self, *arguments: Any, references: ReferenceSettings, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._references = references

    @lazy_property
    def record(self) -> dict[str, str]:
        """The provenance of the references, as text."""
        return {**super().record, **self._references.record}

    def _fill(
        self, x: np.ndarray, target: Any, out: np.ndarray, output: np.ndarray | None, notes: list[Any]
    ) -> tuple[int, list[np.ndarray]]:
        layer, of_model = self._references.layer, self._of_model(x)
        if self._references.by == "activation":
            self.core.activations(of_model, layer, out, output)
            return 0, []
        if output is None:
            self.core.relevance_of(of_model, target, layer, notes, out)
            return 0, []
        chunks = self.core.hidden(of_model, target, [layer], output=output, notes=notes, activations=False)
        for part, relevance, _ in chunks:
            out[part] = relevance[layer]
        return 0, []


class ReferenceTotals:
    """`run.RunStatistics`, for references: what is found so far, and the file that it is written to."""

    def __init__(
        self, job: Job, settings: StreamSettings, grid: np.ndarray | None, references: ReferenceSettings
    ) -> None:
        self.path = settings.statistics_path
        self.settings: dict[str, Any] = {}  # all are in the record
        self.quantiles = ()
        self.groups = job.groups.names if settings.group_by is not None else None
        options: dict[str, Any] = {"k": references.k, "of": references.of, "normalize": references.normalize}
        self.new = functools.partial(TopSamples, job.map_shape, groups=job.groups.names, **options)
        self.total: Any = self.new()
        self.from_state = TopSamples.from_state

    def restart(self, state: dict[str, np.ndarray]) -> None:
        """Continue from the state of an earlier run."""
        self.total = TopSamples.from_state(state) if state else self.new()

    def names(self, job: Job) -> tuple[str, ...]:
        """The arrays of the file."""
        return RESULTS

    def check(self, job: Job, labels: ArrayMetadata | None, grid: np.ndarray | None) -> None:
        """Raise an error, before any work, unless the file can be written."""
        if self.path is not None:
            if not self.path.lower().endswith(KINDS):
                raise InputError(f"{self.path}: references are written to {', '.join(KINDS)}")
            check_maps(self.path, RESULTS, ("channel", "rank", "axis"), {})

    def save(self, run: Run) -> None:
        """Write the file."""
        if self.path is None:
            return
        results = self.total.results(self.groups is not None)
        dims = ("channel", "rank") if self.groups is None else ("group", "channel", "rank")
        arrays = {name: ((*dims, "axis") if name == "positions" else dims, values) for name, values in results.items()}
        coords = {} if self.groups is None else {"group": Coord(("group",), np.array(self.groups), {})}
        write_maps(self.path, arrays, coords, run.attributes, run.compression)


def references(core: AnalyzerCore, source: Any, settings: StreamSettings, sought: ReferenceSettings) -> References:
    """`Analyzer.references`, with its options as objects."""
    if not core.is_open:
        check_layers(core.explained_model, [sought.layer])
    if sought.layer in [core.model.nodes[i].name for i in core.model.inputs]:
        raise InputError(f"{sought.layer!r} is an input; references are of the channels of a hidden layer")
    done = stream(
        *(core, source, None, settings),
        job_type=functools.partial(ReferenceJob, references=sought),
        totals_type=functools.partial(ReferenceTotals, references=sought),
    )
    total: Any = done.statistics
    groups = None if settings.group_by is None else total.groups
    results = total.results(groups is not None)
    return References(sought.layer, sought.by, sought.of, **results, groups=groups, record=done.record)
