"""A report of several models: what they agree on, and how each of them does."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..analyzer import Analyzer
from ..batch import Source
from ..engine.provenance import record
from ..errors import ShapeError
from ..table import counted
from ..version import __version__
from .collect import Collected
from .page import Page
from .pictures import Drawing
from .settings import Labels, ReportSettings
from .write import rows_of, rules_by_layer, target_of_page


class _Member(NamedTuple):
    """What stays of a member: its row in the table, and its mean map of each group."""

    name: str
    digest: str
    right: float | None
    reached: float | None
    doubtful: int
    means: dict[Any, np.ndarray]


class MembersPage:
    """Collects members one after the other, so that memory holds their mean maps alone.

    Parameters
    ----------
    settings : ReportSettings
    """

    def __init__(self, settings: ReportSettings) -> None:
        self._title = settings.title or "Relevance of several models"
        self._settings = settings
        self._members: list[_Member] = []
        self._counts: dict[Any, int] = {}
        self._first: tuple[Analyzer, Source, Labels | None, Drawing] | None = None
        self._samples, self._grouped_by = 0, ""

    def add(
        self,
        name: str,
        analyzer: Analyzer,
        data: Source,
        settings: ReportSettings,
        labels: Labels | None,
        drawings: list[Drawing],
        collected: Collected,
    ) -> None:
        """Add a member, from what was collected of it.

        Raises
        ------
        ShapeError
            When its maps have another shape than those before.
        """
        c, statistics = collected, collected.inputs[0].statistics
        if self._first is None:
            self._first = analyzer, data, labels, drawings[0]
            self._settings, self._samples, self._grouped_by = settings, c.samples, c.grouped_by
        elif self._first[0].input_shape != analyzer.input_shape:
            raise ShapeError(
                f"the member {name!r} takes samples of shape {analyzer.input_shape}, those before it of "
                f"{self._first[0].input_shape}"
            )
        some = [(label, i) for i, label in enumerate(c.groups) if statistics.count[i]]
        means = {label: statistics.mean[i] for label, i in some}
        for label, i in some:
            self._counts[label] = max(self._counts.get(label, 0), int(statistics.count[i]))
        digest = record(analyzer._core)["model_digest"]  # as `report` has it
        self._members.append(_Member(name, digest, c.right, c.median_reached, c.doubtful, means))

    def document(self) -> bytes:
        """The page."""
        assert self._first is not None
        analyzer, page = self._first[0], Page(self._title)
        common = [label for label in self._counts if all(label in member.means for member in self._members)]
        self._facts(page)
        self._made(page)
        self._table(page, common)
        self._maps(page, common)
        rule = analyzer.composite.name.removeprefix("uniform ")
        members, samples = counted(len(self._members), "model"), counted(self._samples, "sample")
        return page.document(f"{samples} explained through {members} by {rule}, lrpfast {__version__}")

    def _facts(self, page: Page) -> None:
        facts = [("models", str(len(self._members))), ("samples", f"{self._samples:,}")]
        for text, values, form in (
            ("predicted right", [m.right for m in self._members], ".1%"),
            ("of the output reaches the input (median)", [m.reached for m in self._members], ".1%"),
        ):
            known = [value for value in values if value is not None]
            if known:
                facts.append((f"{text}, least to most", f"{min(known):{form}} – {max(known):{form}}"))
        page.facts(facts)

    def _made(self, page: Page) -> None:
        assert self._first is not None
        (analyzer, data, _, _), settings = self._first, self._settings
        core = analyzer._core
        target = core.settings.target if settings.target is None else settings.target
        page.section("How it was made")
        rows = [
            ("data", f"{data.name}, {data.dtype} {tuple(data.shape)}"),
            ("rule", core.settings.composite.name.removeprefix("uniform ")),
            ("target", target_of_page(target)),
            ("precision", analyzer.precision),
            ("device", analyzer.device),
            ("lrpfast", __version__),
        ]
        page.pairs(rows + rows_of(settings))
        page.heading("Rules by layer, of the first model")
        page.table(rules_by_layer(core))

    def _table(self, page: Page, common: list[Any]) -> None:
        """A row for each member; how near its maps are to those of all."""
        page.section("The models")
        page.paragraph(
            "The last column is the correlation of a model's mean maps with the mean over all models: it is low where "
            "a model has learnt something else than the others."
        )
        head = ("model", "digest", "predicted right", "reaches the input", "mean little", "like the others")
        rows: list[tuple[str, ...]] = [head]
        whole = self._stacked(common).mean(0).ravel() if common else np.empty(0)
        for i, member in enumerate(self._members):
            own = self._stacked(common)[i].ravel() if common else whole
            known = np.isfinite(own) & np.isfinite(whole)
            varies = known.any() and own[known].std() > 0 and whole[known].std() > 0
            alike = f"{np.corrcoef(own[known], whole[known])[0, 1]:.3f}" if varies else ""
            shares = ("" if value is None else f"{value:.1%}" for value in (member.right, member.reached))
            rows.append((member.name, member.digest[:12], *shares, f"{member.doubtful:,}", alike))
        page.table(rows, right=2)

    def _stacked(self, common: list[Any]) -> np.ndarray:
        """Mean maps, (members, groups, *shape)."""
        return np.stack([np.stack([member.means[label] for label in common]) for member in self._members])

    def _maps(self, page: Page, common: list[Any]) -> None:
        assert self._first is not None
        drawing = self._first[3]
        page.section("Maps")
        if not common:
            page.paragraph("No group has samples under every model.")
            return
        maps = self._stacked(common)
        labels = [self._label(label) for label in common]
        by = "" if self._grouped_by == "all samples" else f" by {self._grouped_by}"
        page.paragraph(
            "Red speaks for what was explained, blue against it; all maps of a picture have one scale. Every model "
            "counts alike."
        )
        drawing.maps(page, maps.mean(0), labels, 1, f"Mean over the models of their mean relevance{by}")
        if len(maps) > 1:
            drawing.maps(page, maps.std(0), labels, 1, f"Standard deviation over the models{by}", "standard deviation")
            with np.errstate(invalid="ignore"):
                signs = np.where(np.isnan(maps[0]), np.nan, np.sign(maps).mean(0))
            text = "1 where the mean relevance of every model is above zero, −1 where it is below"
            drawing.maps(page, signs, labels, 1, f"Agreement of signs{by}: {text}", "agreement")

    def _label(self, label: Any) -> str:
        count = f"{self._counts[label]:,}"
        if label is None:
            return f"all, {count}"
        names = self._settings.class_names
        assert self._first is not None
        classes = self._first[2] is None or self._first[2].kind == "class"
        if classes and names is not None and int(label) < len(names):
            return f"{names[int(label)]}, {count}"
        return f"{label}, {count}"
