"""Relevance over the steps of a sequence, with the input's series beneath it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, ShapeError
from .check import as_labels, check_features, figure_class
from .draw import draw_vector
from .samples import as_samples, check_limit
from .scale import colour_map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

#: Labels of steps below the last panel, at most.
MOST_TICKS = 12


def timeline(
    relevance: Any,
    input: Any = None,
    *,
    features: Sequence[Any] | None = None,
    steps: Sequence[Any] | None = None,
    labels: Sequence[Any] | None = None,
    limit: int = 4,
    title: str | None = None,
    cmap: str | Colormap = "RdBu_r",
) -> Figure:
    """Draw each step's relevance, summed over the features, and below it the input's series.

    Red bars speak for what was explained, blue ones against it. A series is a grey line; where it has relevance of its
    own, points on it are red or blue, the larger the more.

    Parameters
    ----------
    relevance : array, shape (samples, steps, features) or (samples, steps), or Explanation
        As `Analyzer.analyze` or `explain` returns it.
    input : array shaped like ``relevance``, optional
        What was explained: a panel for each feature.
    features : sequence of str, optional
        Names of the features.
    steps : sequence, optional
        A name for each step, such as its date; some of them stand below the last panel.
    labels : sequence of str, optional
        A name for each sample.
    limit : int
        How many samples are drawn, the first ones.
    title : str, optional
    cmap : str or matplotlib.colors.Colormap
        Its ends are the colours.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    InputError, ShapeError
        When arrays or names do not fit.
    MissingPackageError
        Where there is no matplotlib.

    Examples
    --------
    >>> relevance, rain = np.array([[[0.1], [0.7], [-0.2]]]), np.array([[[0.0], [9.0], [1.0]]])
    >>> figure = lrpfast.plot.timeline(relevance, rain, features=["precipitation"], steps=["Mon", "Tue", "Wed"])
    >>> len(figure.axes)
    2
    """
    check_limit(limit)
    values, samples = _sequences(relevance, "relevance", limit)
    series = None
    if input is not None:
        series, count = _sequences(input, "input", limit)
        if count != samples or series.shape != values.shape:
            raise ShapeError(
                f"input must be shaped like relevance, (samples, {', '.join(map(str, values.shape[1:]))}), of as many "
                f"samples, not {(count, *series.shape[1:])} beside {samples}"
            )
    names = check_features(features, "sequence", values)
    ticks = None if steps is None else as_labels(steps, "steps")
    if ticks is not None and len(ticks) != values.shape[1]:
        raise InputError(f"{len(ticks)} steps are named, but there are {values.shape[1]}")
    above = [f"sample {i}" for i in range(len(values))] if labels is None else as_labels(labels, "labels")
    if len(above) not in (len(values), samples):
        raise InputError(f"{len(above)} labels for {samples} samples")
    return _draw(values, series, names, ticks, above, title, colour_map(cmap, False))


def _sequences(value: Any, name: str, limit: int) -> tuple[np.ndarray, int]:
    """Samples as (samples, steps, features), and how many there are."""
    values, count = as_samples(value, name, limit)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3:
        raise ShapeError(f"{name} must have shape (samples, steps, features) or (samples, steps), not {values.shape}")
    return values, count


def _draw(
    values: np.ndarray,
    series: np.ndarray | None,
    names: list[str] | None,
    ticks: list[str] | None,
    above: list[str],
    title: str | None,
    colours: Colormap,
) -> Figure:
    count, steps, features = values.shape
    names = names or [f"feature {d}" if features > 1 else "input" for d in range(features)]
    heights = [1.6, *([0.8] * features if series is not None else [])]
    figure: Figure = figure_class()(figsize=(7.5, count * sum(heights) + 0.9), layout="constrained")
    axes = figure.subplots(len(heights) * count, 1, sharex=True, squeeze=False, height_ratios=heights * count)[:, 0]
    for i, sample in enumerate(values):
        total = np.where(np.isnan(sample).all(1), np.nan, np.nansum(sample, 1))
        end = float(np.nanmax(np.abs(total), initial=0.0))
        top, *below = axes[i * len(heights) : (i + 1) * len(heights)]
        draw_vector(top, total, None, end or 1.0, colours)
        low, high = np.nanmin(total, initial=0.0), np.nanmax(total, initial=0.0)
        margin = 0.08 * (high - low or 1.0)
        top.set_ylim(low - margin * (low < 0), high + margin)
        top.set_title(above[i], fontsize="small", parse_math=False)
        top.set_ylabel("relevance" if features == 1 else "ΣR", fontsize="small")
        for d, ax in enumerate(below):
            assert series is not None
            _draw_series(ax, series[i, :, d], sample[:, d], float(np.nanmax(np.abs(sample), initial=0.0)), colours)
            ax.set_ylabel(names[d], fontsize="small", rotation=0, ha="right", va="center", parse_math=False)
    for ax in axes:
        ax.tick_params(labelsize="x-small")
        for spine in ax.spines.values():
            spine.set(color="0.6", linewidth=0.5)
    if ticks is None:
        axes[-1].set_xlabel("step", fontsize="small")
    else:
        shown = np.unique(np.linspace(0, steps - 1, min(steps, MOST_TICKS)).round().astype(int))
        axes[-1].set_xticks(shown, [ticks[k] for k in shown], rotation=30, ha="right", parse_math=False)
    if title is not None:
        figure.suptitle(str(title), parse_math=False)
    return figure


def _draw_series(ax: Axes, series: np.ndarray, relevance: np.ndarray, end: float, colours: Colormap) -> None:
    """One feature over the steps, and points where it has relevance."""
    ax.plot(np.arange(len(series)), series, color="0.45", linewidth=0.8)
    part = np.nan_to_num(np.abs(relevance)) / (end or 1.0)
    where = np.flatnonzero(part > 0.02)  # smaller ones would not be seen
    hue = [colours(0.9 if relevance[k] > 0 else 0.1) for k in where]
    ax.scatter(where, series[where], s=30 * part[where], color=hue, zorder=3, linewidths=0)
