"""What files hold of every sample beside its relevance: the prediction, the explained output, the target and more."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..engine.explain_scope import explained_targets
from ..kernels.growth import initial_relevance
from .metadata import Coord
from .parallel import ThreadedRange

if TYPE_CHECKING:
    from ..engine.core import AnalyzerCore
    from ..kernels import Start

#: The largest number of values of a prediction that is written even where a map has fewer.
MOST_OUTPUTS = 4096
#: The name of an output's array unless the caller chooses one.
RELEVANCE = "relevance"
#: The number of columns that are searched together for a value that is not zero, which most maps have among the first.
COLUMNS = 1024


class SampleArray(NamedTuple):
    """The description of an array with one entry for each sample.

    Attributes
    ----------
    name : str
    dims : tuple of str
        Of an entry; "target" is the axis of several targets, or of conditions.
    shape : tuple of int
        Of an entry.
    dtype : dtype
    attrs : dict
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    attrs: dict[str, Any]


@dataclass(frozen=True)
class Beside:
    """All that a file holds beside the relevance and the input's coordinates.

    Attributes
    ----------
    arrays : tuple of SampleArray
        With an entry for each sample.
    maps : dict of str to (array, attributes)
        Shaped as the features of a sample, and the same for all.
    """

    arrays: tuple[SampleArray, ...] = ()
    maps: dict[str, tuple[np.ndarray, dict[str, Any]]] = field(default_factory=dict)

    def names(self, array: str, taken: Collection[str]) -> dict[str, str]:
        """The names in a file with a relevance of this name; ``taken`` are those of dimensions and coordinates.

        Beside an array with a name of its own they begin with it, so that two rules fit in one file.
        """
        folder, _, own = array.rpartition("/")
        prefix = "" if own == RELEVANCE else f"{own}_"
        names = {}
        for name in (*(a.name for a in self.arrays), *self.maps):
            inside = f"{prefix}{name}"
            inside = f"lrp_{inside}" if inside in taken else inside
            names[name] = f"{folder}/{inside}" if folder else inside
        return names

    def described(
        self, array: str, dims: tuple[str, ...], samples: int | None, reserved: Collection[str], feature_axes: int
    ) -> dict[str, Coord]:
        """Every array as files describe it, with placeholders for the values of the samples.

        Parameters
        ----------
        array : str
            The name of the relevance.
        dims : tuple of str
            Its dimensions.
        samples : int or None
        reserved : collection of str
            The names of coordinates, and of all else that neither an array nor a dimension may be called.
        feature_axes : int
            The number of axes of a sample's features, the last ones.
        """
        reserved = {*dims, *reserved, array.rpartition("/")[2]}
        names = self.names(array, reserved)
        result = {}
        for name, own_dims, shape, dtype, attrs in self.arrays:
            own = tuple(dims[1] if dim == "target" else f"lrp_{dim}" if dim in reserved else dim for dim in own_dims)
            placeholder = np.broadcast_to(np.zeros((), dtype), (samples or 0, *shape))
            result[names[name]] = Coord((dims[0], *own), placeholder, attrs)
        for name, (values, attrs) in self.maps.items():
            result[names[name]] = Coord(dims[len(dims) - feature_axes :] if values.ndim else (), values, attrs)
        return result


def sample_arrays(
    core: AnalyzerCore, start: Start, several: tuple[int, ...], conditions: bool = False
) -> tuple[SampleArray, ...]:
    """The arrays that describe explanations which begin with such a start.

    ``several`` is the shape of several targets of a sample, or of ``conditions`` under which one target is explained.
    """
    targets = () if conditions else several
    axis = ("target",) * len(targets)
    first, size = start.window or (0, math.prod(core.layout.output_row))
    shape = next(slot.shape for slot in core.layout.outputs if (slot.first, slot.size) == (first, size))
    less = ", less y_ref" if core.settings.y_ref is not None else ""
    layer = core.explained_model.nodes[core.explained_model.outputs[0]].name
    of = f"output of layer {layer}" if core.settings.start is not None else "model output"
    before = ", before its final activation" if core.settings.stripped else ""
    result = []
    if size <= max(MOST_OUTPUTS, math.prod(core.layout.row)):
        dims = ("output",) if len(shape) == 1 else tuple(f"output_{i}" for i in range(len(shape)))
        attrs = {"long_name": f"{of}{before}{less}", "units": "1"}
        result.append(SampleArray("prediction", dims, shape, core.settings.dtype, attrs))
    text = f"explained {'neuron' if core.settings.start is not None else 'output'}: what relevance starts with{less}"
    real = np.dtype(np.float64)
    result.append(SampleArray("explained_output", axis, targets, real, {"long_name": text, "units": "1"}))
    if start.mode in ("max", "index", "pair"):
        pair = start.mode == "pair"
        dims, own = (("minuend_subtrahend",), (2,)) if pair else (axis, targets)
        name = "target_index" if targets else "target"  # which is the name of their axis
        long_name = (
            "index of the explained output" if not pair else "indices of two outputs, whose difference is explained"
        )
        result.append(SampleArray(name, dims, own, np.dtype(np.int64), {"long_name": long_name}))
    long_name = "share of the explained output that the relevance of the input adds up to"
    attrs = {"long_name": long_name, "units": "1"}
    result.append(SampleArray("relevance_share", ("target",) * len(several), several, real, attrs))
    return tuple(result)


def values_of(
    arrays: Sequence[SampleArray],
    start: Start,
    output: np.ndarray,
    relevance: np.ndarray,
    rectify: bool,
    threads: int | None,
) -> list[np.ndarray]:
    """The values of these arrays for some samples, from their outputs (samples, outputs) and their relevance."""
    samples = len(relevance)
    first, size = start.window or (0, output.shape[1])
    explained = initial_relevance(output, start, rectify).sum(2)
    several = next(math.prod(a.shape) for a in arrays if a.name == "relevance_share")
    rows = samples * several
    total = sums(relevance.reshape(rows, -1) if rows else relevance.reshape(0, 1), threads)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(explained != 0, total.reshape(samples, several) / explained, np.nan)
    if start.mode == "index" and start.targets is not None:
        targets: Any = np.broadcast_to(start.targets.reshape(-1, start.count) - first, (samples, start.count))
    else:
        targets = explained_targets(start, output)
    values = {
        "prediction": output[:, first : first + size],
        "explained_output": explained,
        "relevance_share": share,
        "target": targets,
        "target_index": targets,
    }
    # a callable may return an index for one chunk and a starting relevance for another, which has no target
    return [
        np.full((samples, *a.shape), -1)
        if values[a.name] is None
        else np.asarray(values[a.name], a.dtype).reshape(samples, *a.shape)
        for a in arrays
    ]


def sums(rows: np.ndarray, threads: int | None) -> np.ndarray:
    """The sum of every row in float64; masked features (NaN) do not count."""
    result = np.zeros(len(rows))

    def add(first: int, last: int, rows: np.ndarray, result: np.ndarray) -> None:
        np.add.reduce(rows[first:last], axis=1, dtype=np.float64, out=result[first:last])
        for i in first + np.flatnonzero(np.isnan(result[first:last])):
            result[i] = np.nansum(rows[i], dtype=np.float64)

    with ThreadedRange(len(rows), 1, rows.size, threads) as ranges:
        ranges.run([partial(add, rows=rows, result=result)])
    return result


def zero_rows(x: np.ndarray) -> np.ndarray:
    """Whether each row has valid values, all of them zero."""
    zero = np.ones(len(x), bool)
    valid = np.zeros(len(x), bool)
    for first in range(0, x.shape[1], COLUMNS):
        rows = np.flatnonzero(zero)
        if not len(rows):
            break
        part = x[rows, first : first + COLUMNS]
        numbers = ~np.isnan(part)
        valid[rows] |= numbers.any(1)
        zero[rows] = ~((part != 0) & numbers).any(1)
    return zero & valid
