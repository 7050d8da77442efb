"""What a report shows of each input: maps by group, and what is relevant in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..table import counted
from . import pictures
from .collect import Collected, InputMaps
from .page import Page
from .pictures import TOP, Drawing


class InputWriter:
    """Writes the maps of one input.

    Parameters
    ----------
    page : Page
    collected : Collected
    maps : InputMaps
    drawing : Drawing
    title : str or None
        What stands above all of it, where there are several inputs: parts are then headings, else sections.
    """

    def __init__(
        self, page: Page, collected: Collected, maps: InputMaps, drawing: Drawing, title: str | None = None
    ) -> None:
        self._page, self._collected, self._input, self._drawing = page, collected, maps, drawing
        self._title = title

    def write(self, labels: Sequence[str]) -> None:
        """The maps of groups, which have samples and ``labels``, and the most relevant features."""
        if self._title is not None:
            self._page.section(self._title)
        self._begin("Maps")
        self._maps(labels)
        self._features()

    def _begin(self, name: str) -> None:
        """Start a part."""
        if self._title is None:
            self._page.section(name)
        else:
            self._page.heading(name)

    def _maps(self, labels: Sequence[str]) -> None:
        page, c, drawing = self._page, self._collected, self._drawing
        statistics = self._input.statistics
        some = np.flatnonzero(statistics.count > 0)
        if not len(some):
            page.paragraph("No sample is in any group.")
            return
        by = "" if c.grouped_by == "all samples" else f" by {c.grouped_by}"
        page.paragraph(
            f"Red speaks for what was explained, blue against it; all maps of a picture have one scale.{self._others()}"
        )
        maps, columns = statistics.mean[some], 1
        if self._input.medians:  # beside each other: mean, median, mean, median, …
            columns, medians = 2, statistics.quantile(0.5)[0][some]
            maps = np.stack([maps, medians], 1).reshape(-1, *maps.shape[1:])
            labels = [f"{label}\n{kind}" for label in labels for kind in ("mean", "median")]
        description = f"Mean{' and median' * self._input.medians} relevance{by}"
        drawing.maps(page, maps, labels, columns, self._of(description))
        if not self._input.medians:
            page.paragraph("Medians are left out: they would take more than 256 MiB of memory.", soft=True)

    def _of(self, description: str) -> str:
        """A description, with the input's name where there are several."""
        return description if self._title is None else f"{self._title}: {description[0].lower()}{description[1:]}"

    def _others(self) -> str:
        others = self._collected.others
        return f" {counted(others, 'sample')} of other classes: in none of them." if others else ""

    def _features(self) -> None:
        kind = self._drawing.kind
        if kind == "sequence":
            self._profile()
        elif kind == "tokens":
            self._top_tokens()
        elif kind == "vector" or "mask" in self._drawing.arguments:
            self._top(self._input.absolute.ravel(), self._mean().ravel(), self._feature)

    def _mean(self) -> np.ndarray:
        """The mean relevance of all samples in groups."""
        statistics = self._input.statistics
        weights = statistics.count / max(1, statistics.count.sum())
        with np.errstate(invalid="ignore"):
            mean: np.ndarray = np.tensordot(weights, np.nan_to_num(statistics.mean), 1)
        return mean

    def _profile(self) -> None:
        page = self._page
        mean, absolute = self._mean(), self._input.absolute
        if mean.ndim == 1:
            mean, absolute = mean[:, None], absolute[:, None]
        if self._drawing.arguments.get("channels_first"):
            mean, absolute = mean.T, absolute.T
        self._begin("Relevance over time")
        page.picture(
            pictures.profile(mean.sum(1), absolute.sum(1), "step"),
            "Relevance of each step, summed over its features: mean over all samples (bars), mean of |R| (line)",
        )
        if mean.shape[1] > 1:
            names = self._drawing.features
            self._top(
                absolute.sum(0),
                mean.sum(0),
                lambda k: names[k] if names is not None and k < len(names) else f"channel {k}",
                "Features of a step, summed over all steps",
            )

    def _top(self, absolute: np.ndarray, mean: np.ndarray, name: Any, heading: str = "") -> None:
        """A table of the features with the largest mean |R|."""
        page = self._page
        if heading:
            page.heading(heading)
        else:
            self._begin("Most relevant features")
        order = np.argsort(-absolute, kind="stable")[:TOP]
        total = absolute.sum() or 1.0
        rows = [("feature", "mean |R|", "share", "mean R")]
        rows += [(name(int(k)), f"{absolute[k]:.4g}", f"{absolute[k] / total:.1%}", f"{mean[k]:+.4g}") for k in order]
        page.table(rows, right=1)
        if len(absolute) > TOP:
            share = absolute[order].sum() / total
            page.paragraph(f"{TOP} of {len(absolute):,} features, which have {share:.1%} of all |R|.", soft=True)

    def _feature(self, k: int) -> str:
        """The name of a feature: the caller's, the data's coordinates, or its number."""
        names = self._drawing.features
        if names is not None and k < len(names):
            return names[k]
        labels = self._drawing.labels
        mask = self._drawing.arguments.get("mask")
        if labels is not None and mask is not None:
            named = [
                f"{key} {coord.values[k]:g}"
                for key, coord in labels.coords.items()
                if coord.dims == labels.dims[1:] and coord.values.dtype.kind in "fiu"
            ]
            if named:
                return ", ".join(named)
        if mask is not None:
            row, column = np.argwhere(mask)[k]
            return f"row {row}, column {column}"
        return f"feature {k}"

    def _top_tokens(self) -> None:
        page = self._page
        assert self._input.by_token is not None
        count, total = self._input.by_token
        self._begin("Most relevant tokens")
        mean = np.divide(total, count, out=np.zeros(len(total)), where=count > 0)
        often = count >= max(1, min(5, int(count.max(initial=0))))
        for heading, sign in (("for what was explained", 1), ("against it", -1)):
            order = [int(k) for k in np.argsort(-sign * mean, kind="stable") if often[k] and sign * mean[k] > 0][:TOP]
            if order:
                page.heading(heading[0].upper() + heading[1:])
                rows = [(self._drawing.token(k), f"{mean[k]:+.4g}", f"{count[k]:,}") for k in order]
                page.table([("token", "mean R", "times"), *rows], right=1)
        absolute = self._input.absolute.ravel()
        page.picture(
            pictures.profile(self._mean().ravel(), absolute, "position"),
            "Relevance of each position: mean over all samples (bars), mean of |R| (line)",
        )
