"""Mean, spread, signs and quantiles of relevance maps, updated sample by sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from .. import display, table
from ..engine.inputs import unmasked
from ..errors import InputError, SampleError, ShapeError
from ..table import counted
from . import _moments
from .moment_tree import SIZE, Blocks
from .parallel import ThreadedRange
from .sample_arrays import zero_rows
from .sketch import Sketch
from .statistics_arguments import check_groups, check_quantiles
from .statistics_results import StatisticsResults, significance

#: The arrays of `Statistics.state` that have an axis of features, which is the last one; of "sketch_counts" the one
#: before.
OF_FEATURES = ("signs", "extremes", "node_moments", "begun_sums", "sketch_counts", "sketch_octaves")


class Statistics(StatisticsResults):
    """Statistics of maps by group, bit for bit the same for any division of the samples among chunks and processes.

    For each group and feature, over the n valid (not NaN) values R of its samples: the mean ΣR/n, the standard
    deviation √(Σ(R − mean)²/n), the smallest and the largest value, the shares of values above and below zero, whether
    one sign is significantly the more frequent, and on request quantiles. Sums are float64, over blocks of 256 samples
    that are merged in a fixed tree.

    Parameters
    ----------
    shape : tuple of int
        The shape of one sample's map.
    groups : int or sequence of labels
        The number of groups, or their names: all texts, or all integers.
    quantiles : bool
        Keep the counts that `quantile` needs.
    quantile_memory : int
        The largest number of bytes for these counts.
    group_name : str
        What the groups are, such as "season": the name of their axis.
    mask : bool array, optional
        The points of a grid that are the maps' features, in row-major order. Results are on the grid, with NaN (counts:
        0) at other points; `update` takes features, as without a mask.
    skip_zero : bool
        Leave out maps that are zero everywhere. They are counted in any case, see ``zero``.

    Raises
    ------
    InputError
        For wrong groups or a mask of another number of points, or quantiles that take too much memory.

    Notes
    -----
    One process may count samples 0 to 511, another 512 to 1023; `merge` joins their statistics. A range of samples
    must begin at a multiple of 256 or where another range ended. Results need all samples from 0 on.

    Examples
    --------
    >>> statistics = lrpfast.Statistics((2,), groups=["cat", "dog"])
    >>> statistics.update(0, np.array([[1.0, -1.0], [3.0, 0.0], [2.0, 2.0]]), group=np.array([0, 0, 1]))
    >>> statistics.mean
    array([[ 2. , -0.5],
           [ 2. ,  2. ]])
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        groups: int | Sequence[Any] = 1,
        quantiles: bool = False,
        quantile_memory: int = 1 << 30,
        group_name: str = "group",
        mask: np.ndarray | None = None,
        skip_zero: bool = False,
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.groups = check_groups(groups)
        features = math.prod(self.shape)
        self._blocks = Blocks(features)
        self._samples = np.zeros(len(self.groups), np.int64)
        self._signs = np.zeros((len(self.groups), 2, features), np.int64)
        self._extremes = np.empty((len(self.groups), 2, features))
        self._extremes[:, 0], self._extremes[:, 1] = np.inf, -np.inf
        self._sketch = Sketch(len(self.groups), features, quantile_memory) if quantiles else None
        self._moments: np.ndarray | None = None
        self.group_name, self._skip_zero = str(group_name), bool(skip_zero)
        self._zero = np.zeros(len(self.groups), np.int64)
        self._mask = None if mask is None else np.asarray(mask)
        if self._mask is not None and (self._mask.dtype != bool or self.shape[-1:] != (int(self._mask.sum()),)):
            raise InputError(f"mask must be True at {self.shape[-1:]} points, not at {int(np.sum(self._mask)):,}")

    def update(
        self, first: int, relevance: np.ndarray, group: np.ndarray | None = None, *, threads: int | None = None
    ) -> None:
        """Count samples ``first``, ``first`` + 1, … in their groups.

        Parameters
        ----------
        first : int
            The index of the first of these samples in the data set.
        relevance : array, shape (samples, *shape), float32 or float64
        group : int array, shape (samples,), optional
            The index in ``groups`` for each sample, -1 for none; required if there are several groups.
        threads : int, optional
            The largest number of threads, which share the features.

        Raises
        ------
        InputError
            For samples that were counted before or come out of order, a wrong group, or an infinite value. After an
            infinite value the object cannot be used any more.
        ShapeError
            For maps of another shape.

        Examples
        --------
        >>> statistics = lrpfast.Statistics((2,))
        >>> statistics.update(0, np.array([[1.0, -1.0]]))
        >>> statistics.update(1, np.array([[3.0, 0.0]]))
        >>> statistics.count, statistics.mean
        (array([2]), array([[ 2. , -0.5]]))
        """
        x = self._rows(relevance)
        if isinstance(first, bool) or not isinstance(first, (int, np.integer)) or first < 0:
            raise InputError(f"first must be the index of a sample, not {first!r}")
        group_indices = self._without_zero_maps(self._group_indices(group, len(x)), x)
        self._moments = None
        with ThreadedRange(self._blocks.features, _moments.COLUMNS, x.size, threads) as shares:
            for block, part in self._blocks.cuts(int(first), len(x)):
                members = {
                    int(g): np.flatnonzero(group_indices[part] == g) for g in np.unique(group_indices[part]) if g >= 0
                }
                steps: list[Any] = []
                for g, sums, fresh in self._blocks.add(block, part.stop - part.start, members):
                    into = (sums, self._signs[g], self._extremes[g])
                    steps.append(partial(_moments.feed, x[part], members[g], fresh, *into))
                    self._samples[g] += len(members[g])
                if self._sketch is not None:
                    steps += self._sketch.steps(x[part], members)
                if shares.run(steps):
                    self._refuse_infinite(int(first), x)
                shares.run(self._blocks.close_full(block))

    def merge(self, other: Statistics) -> None:
        """Add another's counts, of other blocks of the same data.

        Raises
        ------
        InputError
            When the two have a block in common, or differ in shape, groups or quantiles.

        Examples
        --------
        >>> one, other = lrpfast.Statistics((1,)), lrpfast.Statistics((1,))
        >>> one.update(0, np.zeros((256, 1)))
        >>> other.update(256, np.ones((256, 1)))
        >>> one.merge(other)
        >>> one.count, one.mean
        (array([512]), array([[0.5]]))
        """
        for name in ("shape", "groups"):
            if getattr(self, name) != getattr(other, name):
                raise InputError(f"statistics of {name} {getattr(self, name)} and {getattr(other, name)} do not merge")
        if (self._sketch is None) != (other._sketch is None):
            raise InputError("statistics with quantiles and without do not merge")
        self._blocks.disjoint(other._blocks)
        self._moments = None
        for step in self._blocks.merge(other._blocks):
            step(0, self._blocks.features)
        self._samples += other._samples
        self._zero += other._zero
        self._signs += other._signs
        np.minimum(self._extremes[:, 0], other._extremes[:, 0], out=self._extremes[:, 0])
        np.maximum(self._extremes[:, 1], other._extremes[:, 1], out=self._extremes[:, 1])
        if self._sketch is not None and other._sketch is not None:
            self._sketch.merge(other._sketch)

    # Results as a whole

    def to_dict(self, dims: Sequence[str] | None = None, q: float | Sequence[float] = ()) -> dict[str, tuple[Any, ...]]:
        """All results by name, with the names of their axes, in the form that ``xarray.Dataset`` accepts.

        Parameters
        ----------
        dims : sequence of str, optional
            Names of a map's axes; by default "feature_0", "feature_1", …
        q : float or sequence of float
            Quantiles to add.

        Returns
        -------
        dict of str to (tuple of str, array)
            The coordinate "group" (or ``group_name``), "count", "zero", "valid", "mean", "std", "minimum", "maximum",
            "positive", "negative", "agreement", "p_value" and "significant"; with ``q`` also the coordinate "q" and
            "quantile".

        Examples
        --------
        >>> statistics = lrpfast.Statistics((2,))
        >>> statistics.update(0, np.array([[1.0, -1.0]]))
        >>> statistics.to_dict(["pixel"])["mean"]
        (('group', 'pixel'), array([[ 1., -1.]]))
        """
        shape = self.map_shape
        axes = (self.group_name, *(dims or (f"feature_{i}" for i in range(len(shape)))))
        if len(axes) != 1 + len(shape):
            raise ShapeError(f"dims names {len(axes) - 1} axes, a map of shape {shape} has {len(shape)}")
        result: dict[str, tuple[Any, ...]] = {
            self.group_name: (axes[:1], np.array(self.groups)),
            "count": (axes[:1], self.count),
            "zero": (axes[:1], self.zero),
        }
        for name in ("valid", "mean", "std", "minimum", "maximum", "positive", "negative", "agreement"):
            result[name] = (axes, getattr(self, name))
        p_value = self.p_value()
        result["p_value"] = (axes, p_value)
        result["significant"] = (axes, significance(p_value))
        if len(shares := check_quantiles("q", q)):
            result["q"] = (("q",), shares)
            result["quantile"] = (("q", *axes), self.quantile(q))
        return result

    def __repr__(self) -> str:
        groups = f" in {len(self.groups)} groups" if len(self.groups) > 1 else ""
        suffix = ", with quantiles" if self._sketch is not None else ""
        return f"<lrpfast.Statistics of maps {self.shape}: {counted(self._samples.sum(), 'sample')}{groups}{suffix}>"

    def _repr_html_(self) -> str:
        try:
            maps = self.mean
        except InputError:  # samples are still missing
            return table.paragraph(repr(self))
        labels = [f"{label}: {counted(count, 'sample')}" for label, count in zip(self.groups, self.count, strict=True)]
        return table.paragraph(repr(self)) + display.picture(maps, labels=labels, scale="shared", limit=12)

    # Checkpoints

    def state(self) -> dict[str, np.ndarray]:
        """The state as plain arrays, including a partial block: for checkpoints, and to send between processes.

        Examples
        --------
        >>> statistics = lrpfast.Statistics((2,))
        >>> statistics.update(0, np.array([[1.0, -1.0]]))
        >>> statistics.state()["samples"]
        array([1])
        """
        state = {
            "shape": np.array(self.shape, np.int64),
            "groups": np.array(self.groups),
            "group_name": np.array(self.group_name),
            "skip_zero": np.array(self._skip_zero),
            "samples": self._samples.copy(),
            "zero": self._zero.copy(),
            "signs": self._signs.copy(),
            "extremes": self._extremes.copy(),
            **self._blocks.state(),
        }
        if self._mask is not None:
            state["mask"] = self._mask
        if self._sketch is not None:
            largest = int(self._sketch.counts.max(initial=0))
            state["sketch_counts"] = self._sketch.counts.astype(np.min_scalar_type(largest))
            state["sketch_octaves"] = self._sketch.octaves.copy()
        return state

    def _state_bytes(self, samples: int) -> int:
        """An upper estimate of the bytes of `state` after this number of consecutive samples."""
        # the tree's nodes, a partial block, and as much for signs and extremes
        parts = (-(-samples // SIZE)).bit_length() + 2
        size = parts * 4 * len(self.groups) * self._blocks.features * np.dtype(np.float64).itemsize
        if self._sketch is not None:
            size += self._sketch.counts.size * np.min_scalar_type(samples).itemsize + self._sketch.octaves.nbytes
        return size

    @classmethod
    def from_state(cls, state: dict[str, np.ndarray]) -> Statistics:
        """The object with this `state`, bit for bit.

        Examples
        --------
        >>> statistics = lrpfast.Statistics((2,))
        >>> statistics.update(0, np.array([[1.0, -1.0]]))
        >>> lrpfast.Statistics.from_state(statistics.state()).mean
        array([[ 1., -1.]])
        """
        statistics = cls(
            state["shape"].tolist(),
            groups=state["groups"].tolist(),
            group_name=str(state["group_name"]),
            mask=state.get("mask"),
            skip_zero=bool(state["skip_zero"]),
        )
        statistics._zero[:] = state["zero"]
        statistics._samples[:] = state["samples"]
        statistics._signs[:] = state["signs"]
        statistics._extremes[:] = state["extremes"]
        statistics._blocks = Blocks.from_state(statistics._blocks.features, state)
        if "sketch_counts" in state:
            statistics._sketch = Sketch.from_state(state["sketch_counts"], state["sketch_octaves"])
        return statistics

    def split(self, shapes: Sequence[Sequence[int]]) -> list[Statistics]:
        """The statistics of parts of the maps, which lie one after the other along the last axis.

        Parameters
        ----------
        shapes : sequence of tuple
            The shape of each part, in place of the last axis.

        Returns
        -------
        list of Statistics

        Raises
        ------
        ShapeError
            When the parts have more or fewer values than the last axis.

        Examples
        --------
        >>> statistics = lrpfast.Statistics((3,))
        >>> statistics.update(0, np.array([[1.0, -1.0, 5.0]]))
        >>> [part.mean for part in statistics.split([(2,), ()])]
        [array([[ 1., -1.]]), array([5.])]
        """
        sizes = [math.prod(shape) for shape in shapes]
        if not self.shape or sum(sizes) != self.shape[-1]:
            raise ShapeError(f"parts of {sum(sizes)} values do not make the last axis of maps of shape {self.shape}")
        state, leading = self.state(), self.shape[:-1]
        axes = {key: -2 if key == "sketch_counts" else -1 for key in OF_FEATURES if key in state}
        parts = []
        for end, size, shape in zip(np.cumsum(sizes), sizes, shapes, strict=True):
            columns = np.arange(math.prod(self.shape)).reshape(-1, self.shape[-1])[:, end - size : end].ravel()
            own = {key: np.take(state[key], columns, axis) for key, axis in axes.items()}
            parts.append(Statistics.from_state({**state, **own, "shape": np.array((*leading, *shape), np.int64)}))
        return parts

    # Help

    def _without_zero_maps(self, group: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Count the maps that are zero everywhere; the groups of the samples, -1 for those to be left out."""
        zero = zero_rows(x) & (group >= 0)
        if zero.any():
            self._zero += np.bincount(group[zero], minlength=len(self.groups))
            if self._skip_zero:
                group = np.where(zero, -1, group)
        return group

    def _rows(self, relevance: np.ndarray) -> np.ndarray:
        relevance = unmasked(relevance)
        if not isinstance(relevance, np.ndarray) or relevance.dtype not in (np.float32, np.float64):
            kind = getattr(relevance, "dtype", type(relevance).__name__)
            raise InputError(f"relevance must be a float32 or float64 array, not {kind}")
        if relevance.ndim == 0 or relevance.shape[1:] != self.shape:
            raise ShapeError(f"relevance has shape {relevance.shape}, expected (samples, *{self.shape})")
        if not relevance.flags.c_contiguous:
            raise InputError("relevance must be C-contiguous; np.ascontiguousarray makes it so")
        aligned = relevance if relevance.flags.aligned else relevance.copy()
        return aligned.reshape(len(relevance), self._blocks.features)

    def _group_indices(self, group: np.ndarray | None, samples: int) -> np.ndarray:
        if group is None:
            if len(self.groups) > 1:
                raise InputError(f"there are {len(self.groups)} groups; group= must say which each sample is in")
            return np.zeros(samples, np.int64)
        group_indices = np.asarray(group)
        if group_indices.shape != (samples,) or (group_indices.dtype.kind not in "iu" and samples):
            raise InputError(
                f"group must be {samples} whole numbers, one per sample, not {group_indices.dtype} "
                f"of shape {group_indices.shape}"
            )
        if samples and not -1 <= group_indices.min() <= group_indices.max() < len(self.groups):
            raise InputError(
                f"group must be -1 (none) to {len(self.groups) - 1}, not {group_indices.min()} to {group_indices.max()}"
            )
        return group_indices

    def _refuse_infinite(self, first: int, x: np.ndarray) -> None:
        where = np.argwhere(np.isinf(x))
        if len(where) == 0:
            raise InputError("an infinite value was counted before: these statistics are of no use")
        sample, feature = where[0].tolist()
        index = tuple(int(i) for i in np.unravel_index(feature, self.shape)) if self.shape else ()
        raise SampleError("{where} is infinite", first + sample, index)
