"""A data set explained by several models, one after the other, and statistics over them."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from ..engine.core import AnalyzerCore
from ..engine.exact import IndistinctError, exact
from ..engine.provenance import deciding, record
from ..errors import InputError, ShapeError
from ..output import SLASHES, beside, replacing
from ..version import __version__
from .compression import of_statistics
from .groups import GROUP, group_name
from .inputs import open_inputs
from .map_writer import KINDS, check_maps, write_maps
from .masks import open_mask_for
from .metadata import ArrayMetadata, Coord, for_relevance, history
from .per_sample import Labels, per_sample
from .resume import check_free
from .scatter import scatter
from .settings import StreamSettings
from .sources import Source
from .stream import stream

#: The arrays of a file of statistics over members, with their descriptions.
RESULTS = {
    "member": "member of the ensemble",
    "group": "group of samples",
    "count": "number of samples",
    "mean": "mean of the members' mean relevance",
    "std": "standard deviation of the members' mean relevance",
    "minimum": "smallest of the members' mean relevance",
    "maximum": "largest of the members' mean relevance",
    "positive": "share of members whose mean relevance is positive",
    "negative": "share of members whose mean relevance is negative",
}
#: Options that do not change a result.
_WITHOUT_EFFECT = ("progress", "resume", "overwrite", "batch_size", "cluster", "statistics")
#: Options whose effect `MembersRun._key` finds in another form.
_RESOLVED = ("mask", "conditions", "parallel")


class OverMembers:
    """Statistics of the members' mean maps, updated member by member, so that memory does not grow with them."""

    def __init__(self) -> None:
        self.groups: list[Any] | None = None
        self._counts: list[np.ndarray] = []

    def update(self, groups: Sequence[Any], count: np.ndarray, mean: np.ndarray, member: str) -> None:
        """Add a member's number of samples and its mean map of each group.

        Raises
        ------
        ShapeError
            When another member's maps have another shape, or groups.
        """
        valid = ~np.isnan(mean)
        value = np.where(valid, mean, 0.0)
        if self.groups is None:
            self.groups = list(groups)
            self._valid, self._signs = np.zeros(mean.shape, np.int64), np.zeros((2, *mean.shape), np.int64)
            self._mean, self._squares = np.zeros(mean.shape), np.zeros(mean.shape)
            self._minimum, self._maximum = np.full(mean.shape, np.inf), np.full(mean.shape, -np.inf)
        if self.groups != list(groups) or self._mean.shape != mean.shape:
            raise ShapeError(
                f"the member {member!r} has maps of shape {mean.shape}, in the groups {list(groups)!r:.80}; those "
                f"before it have {self._mean.shape} and {self.groups!r:.80}"
            )
        self._counts.append(np.asarray(count))
        self._valid += valid
        change = np.where(valid, value - self._mean, 0.0)
        self._mean += change / np.maximum(self._valid, 1)
        self._squares += change * np.where(valid, value - self._mean, 0.0)
        self._minimum = np.where(valid, np.minimum(self._minimum, value), self._minimum)
        self._maximum = np.where(valid, np.maximum(self._maximum, value), self._maximum)
        self._signs += np.stack([value > 0, value < 0])

    def results(self) -> dict[str, np.ndarray]:
        """The arrays of `RESULTS`, without the names of members and groups."""
        none = self._valid == 0
        number = np.maximum(self._valid, 1)
        maps = {
            "mean": self._mean,
            "std": np.sqrt(self._squares / number),
            "minimum": self._minimum,
            "maximum": self._maximum,
            "positive": self._signs[0] / number,
            "negative": self._signs[1] / number,
        }
        return {
            "count": np.stack(self._counts),
            **{key: np.where(none, np.nan, values) for key, values in maps.items()},
        }


class MembersRun:
    """One run of `Ensemble.stream`.

    Parameters
    ----------
    names : tuple of str
    cores : iterable of (name, AnalyzerCore)
        Each is made when its turn comes.
    source, sink, statistics, resume, overwrite
        As in `Ensemble.stream`.
    options : dict
        Other options of `stream`.
    """

    def __init__(
        self,
        names: Sequence[str],
        cores: Iterable[tuple[str, AnalyzerCore]],
        source: Any,
        sink: Any,
        statistics: Any,
        resume: bool,
        overwrite: bool,
        options: dict[str, Any],
    ) -> None:
        if options.get("layers") is not None:
            raise InputError("layers= is for one model; an ensemble's statistics are over maps of the input")
        self._names, self._cores, self._source = names, cores, source
        self._sink = None if sink is None else _path(sink, "sink")
        self._path = None if isinstance(statistics, bool) else _path(statistics, "statistics")
        self._reading = {name: options.pop(name, None) for name in ("select", "fill_nan")}
        self._resume, self._overwrite, self._options = resume, overwrite, options
        self._over = OverMembers()
        self._statistics: dict[str, Any] = {}
        self._resumed: list[str] = []
        self._group_name = GROUP
        self._record: dict[str, str] = {}

    def complete(self) -> dict[str, Any]:
        """Explain by all members; the fields of `EnsembleStreamed`."""
        if self._path is not None and os.path.splitext(self._path)[1].lower() not in KINDS:
            raise InputError(f"{self._path}: statistics are written to {', '.join(KINDS)}")
        with contextlib.ExitStack() as stack:
            data: Source | None = None
            for name, core in self._cores:
                if data is None:
                    data = open_inputs(core.model, self._source, self._options.get("mask"), **self._reading)
                    if not isinstance(self._source, Source):
                        stack.enter_context(data)
                    self._check(core, data)
                self._explain(name, core, data)
            assert data is not None
            name, labels = data.name, data.labels
            if labels is not None and self._options.get("conditions") is not None:
                labels = labels.of_several("condition")
        results = self._over.results()
        if self._path is not None:
            self._save(results, name, labels)
        self._remove_notes()
        return {
            "members": tuple(self._names),
            "groups": self._over.groups,
            **results,
            "statistics": self._statistics,
            "files": self._each(self._path),
            "outputs": self._each(self._sink),
            "resumed": tuple(self._resumed),
        }

    def _each(self, path: str | None) -> dict[str, str]:
        return {} if path is None else {name: member_path(path, name) for name in self._names}

    def _check(self, core: AnalyzerCore, data: Source) -> None:
        """Raise InputError, before any work, for a source that is read once, and an output that cannot be written."""
        if len(core.model.inputs) > 1:
            raise InputError(f"an ensemble is of models of one input; these have {len(core.model.inputs)}")
        if data.fingerprint is None:
            raise InputError(f"{data.name}: an ensemble reads its inputs for each member; an iterator is read once")
        group_by = per_sample(StreamSettings(group_by=self._options.get("group_by"), statistics=True), data).group_by
        if isinstance(group_by, Labels):
            self._group_name = group_name(group_by.text)
        if self._path is None:
            return
        names = (self._group_name, *(name for name in RESULTS if name != GROUP))
        if os.path.lexists(self._path):
            check_free(self._path, None, self._overwrite, names)
        of_maps = for_relevance(data.labels, data.shape)
        coords = {key: c for key, c in of_maps.coords.items() if of_maps.dims[0] not in c.dims}
        check_maps(self._path, names, of_maps.dims[1:], coords)

    def _explain(self, name: str, core: AnalyzerCore, data: Source) -> None:
        """Explain by one member, unless an earlier run has done it."""
        output, file = (self._each(path).get(name) for path in (self._sink, self._path))
        settings = StreamSettings(
            **self._options, statistics=file or True, resume=self._resume, overwrite=self._overwrite
        )
        key = self._key(core, settings, data)
        paths = [path for path in (output, file) if path is not None]
        note = self._note(name)
        if note is not None and not self._resume and os.path.exists(note):
            os.unlink(note)
        earlier = _read_note(note, key) if all(map(os.path.exists, paths)) else None
        if earlier is not None:
            self._resumed.append(name)
            self._over.update(earlier["groups"].tolist(), earlier["count"], earlier["mean"], name)
            self._record = json.loads(str(earlier["record"]))
            return
        done = stream(core, data, output, settings, of=f"{name}: ")
        statistics = done.statistics
        assert statistics is not None
        if self._path is None:
            self._statistics[name] = statistics
        mean = self._on_grid(statistics.mean, core, data)
        self._over.update(list(statistics.groups), statistics.count, mean, name)
        self._record = {**done.record, "model": ", ".join(self._names)}
        self._record.pop("model_digest", None)  # of one member
        if note is not None and key is not None:
            content = io.BytesIO()
            arrays = {"groups": np.array(statistics.groups), "count": statistics.count, "mean": mean}
            np.savez(content, key=np.array(key), record=np.array(json.dumps(self._record)), **arrays)
            with replacing(note) as out:
                out.write(content.getbuffer())

    def _on_grid(self, mean: np.ndarray, core: AnalyzerCore, data: Source) -> np.ndarray:
        """A mean map of each group, on the grid of a mask."""
        if self._options.get("mask") is None:
            return mean
        grid = open_mask_for(core.input_shape, self._options["mask"], data)
        return mean if mean.shape[-grid.ndim :] == grid.shape else scatter(mean, grid)

    def _key(self, core: AnalyzerCore, settings: StreamSettings, data: Source) -> str | None:
        """What a member's result depends on; None if nothing tells it from another."""
        settings = per_sample(settings, data)
        mask = None if settings.mask is None else open_mask_for(core.input_shape, settings.mask, data)
        names = [f.name for f in fields(settings) if f.name not in (*_WITHOUT_EFFECT, *_RESOLVED)]
        values = [getattr(settings, name) for name in names]
        if settings.under is not None:
            values.append(core.deciding_conditions(settings.under))
        try:
            return exact([__version__, record(core)["model_digest"], deciding(core), values, mask, data.fingerprint])
        except IndistinctError:
            return None

    def _note(self, name: str) -> str | None:
        """The hidden file that says that a member is finished."""
        path = self._path or self._sink
        return None if path is None else beside(member_path(path, name), "member")

    def _remove_notes(self) -> None:
        for note in map(self._note, self._names):
            if note is not None and os.path.exists(note):
                os.unlink(note)

    def _save(self, results: dict[str, np.ndarray], data_name: str, labels: ArrayMetadata | None) -> None:
        assert self._path is not None and self._over.groups is not None
        of_maps = for_relevance(labels, (None, *results["mean"].shape[1:]))
        coords = {key: coord for key, coord in of_maps.coords.items() if of_maps.dims[0] not in coord.dims}
        group = self._group_name
        columns = {"member": (self._names, RESULTS["member"]), group: (self._over.groups, RESULTS.get(group, group))}
        for name, (values, text) in columns.items():
            coords[name] = Coord((name,), np.array(values), {"long_name": text})
        arrays = {
            key: (("member", group) if key == "count" else (group, *of_maps.dims[1:]), values, _attributes(key))
            for key, values in results.items()
        }
        attributes = {**self._record, "history": history(self._record, data_name)}
        write_maps(self._path, arrays, coords, attributes, of_statistics(self._options.get("compression", "auto")))


def _attributes(key: str) -> dict[str, str]:
    return {"long_name": RESULTS[key], "units": "1"}


def _path(value: Any, name: str) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise InputError(
            f"{name}: an ensemble writes files, one for each member; give a path, not a {type(value).__name__}"
        )
    return os.fsdecode(value).rstrip(SLASHES)


def member_path(path: str, member: str) -> str:
    """A member's file: ``maps.nc`` becomes ``maps_seed_1.nc``, and ``r.h5:x`` becomes ``r_seed_1.h5:x``."""
    folder, name = os.path.split(path)
    file, colon, array = name.partition(":")
    stem, extension = os.path.splitext(file)
    return os.path.join(folder, f"{stem}_{member}{extension}{colon}{array}")


def _read_note(path: str | None, key: str | None) -> dict[str, np.ndarray] | None:
    """What a note holds, if an earlier run of the same settings wrote it."""
    if path is None or key is None or not os.path.exists(path):
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {name: np.asarray(file[name]) for name in ("key", "record", "groups", "count", "mean")}
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return values if str(values["key"]) == key else None
