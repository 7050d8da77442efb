"""Mean, spread, signs and quantiles of relevance maps, updated sample by sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ..engine.inputs import unmasked
from ..errors import InputError, SampleError, ShapeError
from . import _moments
from .moment_tree import SIZE, Blocks
from .parallel import ThreadedRange
from .sketch import Sketch

#: The arrays of `Statistics.state` that have an axis of features, which is the last one; of "sketch_counts" the one
#: before.
OF_FEATURES = ("signs", "extremes", "node_moments", "begun_sums", "sketch_counts", "sketch_octaves")


class Statistics:
    """Statistics of maps by group, bit for bit the same for any division of the samples among chunks and processes.

    For each group and feature, over the n valid (not NaN) values R of its samples: the mean ΣR/n, the standard
    deviation √(Σ(R − mean)²/n), the smallest and the largest value, the shares of values above and below zero, and on
    request quantiles. Sums are float64, over blocks of 256 samples that are merged in a fixed tree.

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

    Raises
    ------
    InputError
        For wrong groups, or quantiles that take too much memory.

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
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.groups = _labels(groups)
        features = math.prod(self.shape)
        self._blocks = Blocks(features)
        self._samples = np.zeros(len(self.groups), np.int64)
        self._signs = np.zeros((len(self.groups), 2, features), np.int64)
        self._extremes = np.empty((len(self.groups), 2, features))
        self._extremes[:, 0], self._extremes[:, 1] = np.inf, -np.inf
        self._sketch = Sketch(len(self.groups), features, quantile_memory) if quantiles else None
        self._moments: np.ndarray | None = None

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
        group_indices = self._group_indices(group, len(x))
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
        self._signs += other._signs
        np.minimum(self._extremes[:, 0], other._extremes[:, 0], out=self._extremes[:, 0])
        np.maximum(self._extremes[:, 1], other._extremes[:, 1], out=self._extremes[:, 1])
        if self._sketch is not None and other._sketch is not None:
            self._sketch.merge(other._sketch)

    # Results

    @property
    def count(self) -> np.ndarray:
        """Samples of each group, shape (groups,)."""
        return self._samples.copy()

    @property
    def valid(self) -> np.ndarray:
        """Values that are not NaN, int64, shape (groups, *shape)."""
        return self._shaped(self._result()[:, 2].astype(np.int64))

    @property
    def mean(self) -> np.ndarray:
        """ΣR/n, shape (groups, *shape), float64; NaN where no value is valid, as in all results below."""
        moments = self._result()
        return self._where_valid(moments[:, 0] + moments[:, 3])

    @property
    def std(self) -> np.ndarray:
        """√(Σ(R − mean)²/n), shape (groups, *shape)."""
        moments = self._result()
        return self._where_valid(np.sqrt(moments[:, 1] / np.maximum(moments[:, 2], 1)))

    @property
    def positive(self) -> np.ndarray:
        """The share of valid values above zero, shape (groups, *shape)."""
        return self._where_valid(self._signs[:, 0] / np.maximum(self._result()[:, 2], 1))

    @property
    def negative(self) -> np.ndarray:
        """The share of valid values below zero, shape (groups, *shape)."""
        return self._where_valid(self._signs[:, 1] / np.maximum(self._result()[:, 2], 1))

    @property
    def minimum(self) -> np.ndarray:
        """The smallest value, shape (groups, *shape)."""
        return self._where_valid(self._extremes[:, 0] + 0.0)  # -0.0 or 0.0, whichever came first, becomes 0.0

    @property
    def maximum(self) -> np.ndarray:
        """The largest value, shape (groups, *shape)."""
        return self._where_valid(self._extremes[:, 1] + 0.0)

    def quantile(self, q: float | Sequence[float]) -> np.ndarray:
        """Quantiles of the values of each group and feature, from the sketch.

        The value of rank ⌊q·(n − 1)⌋, as ``np.quantile(…, method="lower")``, to within 1/33 (3.03 %) of itself. A
        value below 2⁻¹⁵ of the largest |R| of its group and feature may count as 0.

        Parameters
        ----------
        q : float or sequence of float
            Between 0 and 1; a single number counts as a sequence of one.

        Returns
        -------
        array, shape (len(q), groups, *shape), float64

        Raises
        ------
        InputError
            Without ``quantiles=True``, or for a q outside 0 to 1.

        Examples
        --------
        >>> statistics = lrpfast.Statistics((1,), quantiles=True)
        >>> statistics.update(0, np.arange(101.0).reshape(-1, 1))
        >>> abs(statistics.quantile(0.5) - 50) < 1.6
        array([[[ True]]])
        """
        shares = check_quantiles("q", q)
        if self._sketch is None:
            raise InputError(
                f"quantiles were not asked for: stream(…, quantiles={tuple(shares.tolist())}) "
                "or Statistics(…, quantiles=True) keeps what they need"
            )
        self._result()  # refuses gaps, as all results do
        each = [self._sketch.quantile(g, shares) for g in range(len(self.groups))]
        return np.stack(each, 1).reshape(len(shares), len(self.groups), *self.shape)

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
            The coordinate "group", "count", "valid", "mean", "std", "minimum", "maximum", "positive" and "negative";
            with ``q`` also the coordinate "q" and "quantile".

        Examples
        --------
        >>> statistics = lrpfast.Statistics((2,))
        >>> statistics.update(0, np.array([[1.0, -1.0]]))
        >>> statistics.to_dict(["pixel"])["mean"]
        (('group', 'pixel'), array([[ 1., -1.]]))
        """
        axes = ("group", *(dims or (f"feature_{i}" for i in range(len(self.shape)))))
        if len(axes) != 1 + len(self.shape):
            raise ShapeError(f"dims names {len(axes) - 1} axes, a map of shape {self.shape} has {len(self.shape)}")
        result: dict[str, tuple[Any, ...]] = {
            "group": (("group",), np.array(self.groups)),
            "count": (("group",), self.count),
        }
        for name in ("valid", "mean", "std", "minimum", "maximum", "positive", "negative"):
            result[name] = (axes, getattr(self, name))
        if len(shares := check_quantiles("q", q)):
            result["q"] = (("q",), shares)
            result["quantile"] = (("q", *axes), self.quantile(q))
        return result

    def __repr__(self) -> str:
        groups = f" in {len(self.groups)} groups" if len(self.groups) > 1 else ""
        suffix = ", with quantiles" if self._sketch is not None else ""
        return f"<lrpfast.Statistics of maps {self.shape}: {self._samples.sum():,} samples{groups}{suffix}>"

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
            "samples": self._samples.copy(),
            "signs": self._signs.copy(),
            "extremes": self._extremes.copy(),
            **self._blocks.state(),
        }
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
        statistics = cls(state["shape"].tolist(), groups=state["groups"].tolist())
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

    def _result(self) -> np.ndarray:
        """The moments of all blocks, shape (groups, 4, features)."""
        if self._moments is None:
            moments = np.zeros((len(self.groups), 4, self._blocks.features))
            for group, part in self._blocks.moments().items():
                moments[group] = part
            if not np.isfinite(moments).all():
                group, _, feature = np.argwhere(~np.isfinite(moments))[0].tolist()
                raise InputError(
                    f"the values of feature {feature} in group {self.groups[group]} are too large to square in float64"
                )
            self._moments = moments
        return self._moments

    def _where_valid(self, values: np.ndarray) -> np.ndarray:
        return self._shaped(np.where(self._result()[:, 2] > 0, values, np.nan))

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(len(self.groups), *self.shape)


def check_quantiles(name: str, value: float | Sequence[float]) -> np.ndarray:
    """Numbers between 0 and 1 as a one-dimensional array; InputError for anything else."""
    try:
        shares = np.atleast_1d(np.asarray(value))
    except ValueError:  # rows of different lengths
        shares = np.array([None])
    if shares.ndim != 1 or shares.dtype.kind not in "fiu" or not ((shares >= 0) & (shares <= 1)).all():
        raise InputError(f"{name} must be numbers between 0 and 1, not {value!r}")
    return shares.astype(np.float64)


def _labels(groups: int | Sequence[Any]) -> tuple[Any, ...]:
    if isinstance(groups, (int, np.integer)) and not isinstance(groups, bool) and groups > 0:
        return tuple(range(int(groups)))
    labels = np.array([] if isinstance(groups, (int, str)) else list(groups))
    mixed = labels.dtype.kind == "U" and not all(isinstance(label, str) for label in groups)  # type: ignore[union-attr]
    if labels.ndim != 1 or labels.dtype.kind not in "iuU" or mixed or len(set(labels.tolist())) != len(labels):
        raise InputError(f"groups must be how many, or labels all different, all text or whole numbers; not {groups!r}")
    if len(labels) == 0:
        raise InputError(f"groups must be at least one, not {groups!r}")
    return tuple(labels.tolist())
