"""The pictures of a report, for each kind of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import plot
from ..plot.check import figure_class
from ..plot.panels import blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..batch.metadata import ArrayMetadata
    from .page import Page

#: Vectors of more features are drawn as their most relevant ones in tables, and as thin bars in pictures.
NAMED = 40
#: Features or tokens in a table.
TOP = 20


@dataclass(frozen=True)
class Drawing:
    """How samples are drawn.

    Attributes
    ----------
    kind : {"image", "sequence", "vector", "tokens"}
    arguments : dict
        Keywords of `lrpfast.plot.heatmap`.
    features : tuple of str or None
    tokens : tuple of str or None
    labels : ArrayMetadata or None
        The names and coordinates of the data's axes.
    """

    kind: str
    arguments: dict[str, Any]
    features: Sequence[str] | None = None
    tokens: Sequence[str] | None = None
    labels: ArrayMetadata | None = None

    def maps(
        self,
        page: Page,
        maps: np.ndarray,
        labels: Sequence[str],
        columns: int,
        description: str,
        quantity: str = "relevance",
    ) -> None:
        """Maps of groups in a grid, on one scale; ``columns`` is of those that belong together."""
        arguments: dict[str, Any] = {"kind": "vector"} if self.kind == "tokens" else dict(self.arguments)
        if self.kind != "tokens" and self.features and len(self.features) <= NAMED:
            arguments["features"] = self.features
        if self.kind == "image" and len(labels) > columns:
            columns *= 2
        arguments |= {"columns": min(columns, len(labels)), "colorbar_label": quantity}
        figure = plot.heatmap(maps, labels=labels, scale="shared", limit=len(maps), **arguments)
        page.picture(_narrow(figure), description)

    def samples(
        self, page: Page, x: np.ndarray, relevance: np.ndarray, labels: Sequence[str], description: str
    ) -> None:
        """Single samples, with the inputs beneath their relevance."""
        if self.kind == "tokens":
            self._texts(page, x, relevance, labels, description)
            return
        names = self.features if self.features and len(self.features) <= NAMED else None
        figure = plot.heatmap(
            relevance, x.astype(np.float64), labels=labels, limit=len(relevance), features=names, **self.arguments
        )
        page.picture(_narrow(figure), description)

    def _texts(self, page: Page, x: np.ndarray, relevance: np.ndarray, labels: Sequence[str], description: str) -> None:
        """Tokens in the colours of their relevance; padding at the end, without relevance, is left out."""
        texts, values = [], []
        for row, shares in zip(x.reshape(len(x), -1).astype(np.int64), relevance.reshape(len(x), -1), strict=True):
            used = np.flatnonzero((shares != 0) | (row != 0))
            stop = int(used[-1]) + 1 if len(used) else 1
            texts.append([self.token(int(index)) for index in row[:stop]])
            values.append(shares[:stop])
        shown = plot.text(texts, values, labels=labels)
        page.html(shown._repr_html_(), description)

    def token(self, index: int) -> str:
        """The name of a token."""
        named = self.tokens is not None and index < len(self.tokens)
        return self.tokens[index] if named else str(index)  # type: ignore[index]


def _narrow(figure: Figure) -> Figure:
    """The figure in at most a page's width, so that texts keep their size."""
    width, height = figure.get_size_inches()
    if width > 10:
        figure.set_size_inches(10, height * math.sqrt(10 / width))
    return figure


def profile(mean: np.ndarray, absolute: np.ndarray, steps: str) -> Figure:
    """Relevance along the steps of sequences: bars of the mean, a line of the mean of |R|."""
    figure_class()
    figure = blank((7.5, 2.8), "constrained")
    ax = figure.subplots()
    at = np.arange(len(mean))
    ax.bar(at, mean, width=1.0, color=np.where(mean > 0, "#d6604d", "#4393c3"), label="mean R")
    ax.step(at, absolute, where="mid", color="0.3", linewidth=1, label="mean |R|")
    ax.axhline(0, color="0.25", linewidth=0.6)
    ax.set(xlabel=steps, ylabel="relevance", xlim=(-0.5, len(mean) - 0.5))
    _plain(ax)
    return figure


def reached(shares: np.ndarray) -> Figure:
    """How much of the explained output reaches the input, over all samples."""
    figure_class()
    figure = blank((6.8, 2.4), "constrained")
    ax = figure.subplots()
    finite = shares[np.isfinite(shares)]
    low, high = np.percentile(finite, (1, 99)) if len(finite) else (0.0, 1.0)
    pad = max(0.1 * (high - low), 0.05)
    low, high = min(low - pad, 1 - pad), max(high + pad, 1 + pad)
    ax.hist(finite.clip(low, high), bins=40, range=(low, high), color="0.6")
    ax.axvline(1, color="#d6604d", linewidth=1)
    ax.set(xlabel="relevance of the input over the explained output (red: 1, all of it)", ylabel="samples")
    _plain(ax)
    return figure


def _plain(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize="small")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize="small")
