"""Pictures of reference samples: what a channel stands for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, RelevanceWarning
from .figure import heatmap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Channels and samples of each that are drawn at most, unless the caller says otherwise.
CHANNELS, SAMPLES = 6, 8


def references(
    references: Any,
    analyzer: Any,
    x: Any,
    channels: Sequence[int] | int | None = None,
    *,
    samples: int = SAMPLES,
    group: Any = None,
    target: Any = None,
    title: str | None = None,
    **options: Any,
) -> Figure:
    """Draw a row of samples for each channel, with the relevance that flows through this channel alone.

    Parameters
    ----------
    references : References
        The result of `Analyzer.references`.
    analyzer : Analyzer
    x : array, or Source
        The data set; only the samples drawn are read. A memory-mapped array is enough, as
        ``np.load(path, mmap_mode="r")``.
    channels : int or sequence of int, optional
        By default those with the largest values, 6 at most.
    samples : int
        Of each channel, at most.
    group : optional
        The label of the group to draw, where the references have groups.
    target : optional
        As it was for the references: of one for each sample, those of the samples drawn are taken.
    title : str, optional
    **options
        Of `heatmap`.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError
        For a channel or group that the references do not have.

    Examples
    --------
    >>> layers = [lrpfast.layers.Dense(np.eye(4), name="first"), lrpfast.layers.Dense(np.ones((4, 1)))]
    >>> analyzer, x = lrpfast.Analyzer(lrpfast.from_layers(layers), "epsilon"), np.eye(4)
    >>> found = analyzer.references(x, "first", k=2, progress=False)
    >>> figure = lrpfast.plot.references(found, analyzer, x, channels=[0, 3])
    >>> [axes.get_title() for axes in figure.axes if axes.get_title()]
    ['sample 0: 1', 'sample 1: 0', 'sample 3: 1', 'sample 0: 0']
    """
    values, indices = _of_group(references, group)
    wanted = _channels(values, channels)
    count = min(int(samples), int((indices[0] >= 0).sum()))  # as many for every channel
    if count < 1:
        raise InputError(f"samples must be a whole number of at least 1, and the group have some, not {samples!r}")
    drawn = indices[wanted, :count]
    inputs = _inputs(x, drawn.ravel())
    maps = np.empty(inputs.shape)
    for row, channel in enumerate(wanted):
        part = slice(row * count, (row + 1) * count)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RelevanceWarning)
            own, conditions = _target(target, drawn[row]), {references.layer: channel}
            maps[part] = analyzer.analyze(inputs[part], own, conditions=conditions)
    if title is None:
        title = f"{references.layer}: samples with the largest {references.of} of {references.by}"
    labels = [
        f"sample {i}: {value:.3g}"
        for i, value in zip(drawn.ravel().tolist(), values[wanted, :count].ravel().tolist(), strict=True)
    ]
    options = {"channels_first": analyzer.model.channels_first, "limit": len(labels), **options}
    rows = [f"channel {channel}" for channel in wanted]
    return heatmap(maps, inputs, rows=rows, columns=count, labels=labels, title=title, **options)


def _of_group(references: Any, group: Any) -> tuple[np.ndarray, np.ndarray]:
    if references.groups is None:
        if group is not None:
            raise InputError("group: these references have no groups")
        return references.values, references.indices
    if group not in references.groups:
        raise InputError(f"group must be one of {', '.join(map(str, references.groups))}, not {group!r}")
    at = references.groups.index(group)
    return references.values[at], references.indices[at]


def _channels(values: np.ndarray, channels: Any) -> list[int]:
    if channels is None:
        order: list[int] = np.argsort(-np.nan_to_num(values[:, 0], nan=-np.inf), kind="stable")[:CHANNELS].tolist()
        return order
    listed = [channels] if isinstance(channels, (int, np.integer)) else list(channels)
    if not listed or not all(isinstance(c, (int, np.integer)) and 0 <= c < len(values) for c in listed):
        raise InputError(f"channels must be whole numbers from 0 to {len(values) - 1}, not {channels!r}")
    return [int(c) for c in listed]


def _inputs(x: Any, indices: np.ndarray) -> np.ndarray:
    """The samples with these indices, one by one."""
    read = getattr(x, "read", None)
    if read is not None:
        return np.concatenate([read(i, i + 1) for i in indices.tolist()])
    return np.stack([np.asarray(x[i]) for i in indices.tolist()])


def _target(target: Any, indices: np.ndarray) -> Any:
    each = isinstance(target, (list, np.ndarray)) and np.ndim(target) > 0
    return np.asarray(target)[indices] if each else target
