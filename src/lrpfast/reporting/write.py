"""The sections of a report, from what was collected."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..analyzer import Analyzer
from ..batch import Source
from ..batch.inputs import SeveralSource
from ..engine.core import AnalyzerCore
from ..engine.io_layout import IOSlot
from ..engine.plan import describe
from ..engine.provenance import record, target_text
from ..errors import RelevanceWarning
from ..evaluate import FlipCurves, entropy, flip, gini
from ..kernels.arrays import to_host
from ..rules import Pass
from ..table import counted
from ..version import __version__
from . import pictures
from .collect import Collected, class_count, of_model, probabilities
from .inputs import InputWriter
from .kept import Kept
from .page import Page
from .pictures import Drawing
from .settings import Labels, ReportSettings

#: Floating-point operations for the curves of flipped features, about.
FLIP_FLOPS = 10**12
#: Points of the curves after the first, and least samples.
FLIP_STEPS, LEAST_FLIPPED = 20, 4
#: Characters of a class's name.
MOST_CHARACTERS = 24
#: Rows of the table of layers' balance.
MOST_LAYERS = 200


def write(
    analyzer: Analyzer,
    data: Source,
    settings: ReportSettings,
    labels: Labels | None,
    drawings: Sequence[Drawing],
    collected: Collected,
) -> bytes:
    """The report as HTML; ``drawings`` are of the inputs, in order."""
    writer = _Writer(analyzer, data, settings, labels, drawings, collected)
    return writer.document()


class _Writer:
    """Writes one section after the other."""

    def __init__(
        self,
        analyzer: Analyzer,
        data: Source,
        settings: ReportSettings,
        labels: Labels | None,
        drawings: Sequence[Drawing],
        collected: Collected,
    ) -> None:
        self._analyzer, self._data, self._settings, self._labels = analyzer, data, settings, labels
        self._drawings, self._collected = drawings, collected
        self._core = analyzer._core  # as `report` has it
        self._gradients = self._core.settings.gradients
        self._title = settings.title or f"Relevance of {analyzer.model.name}"
        self._page = Page(self._title)

    def document(self) -> bytes:
        self._facts()
        self._made()
        self._trust()
        self._inputs()
        self._samples()
        rule = str(self._gradients or self._analyzer.composite.name.removeprefix("uniform "))
        samples = counted(self._collected.samples, "sample")
        return self._page.document(f"{samples} explained by {rule}, lrpfast {__version__}")

    # How it was made

    def _facts(self) -> None:
        c = self._collected
        facts = [("samples", f"{c.samples:,}")]
        if c.right is not None:
            facts.append(("predicted right", f"{c.right:.1%}"))
        for name, value in (c.error or {}).items():
            facts.append((name, f"{value:.4g}"))
        facts.append(("rule", self._analyzer.composite.name.removeprefix("uniform ")))
        if c.median_reached is not None:
            facts.append(("of the output reaches the input (median)", f"{c.median_reached:.1%}"))
            facts.append(("explanations that mean little", f"{c.doubtful:,}"))
        self._page.facts(facts)

    def _made(self) -> None:
        page, core, settings = self._page, self._core, self._settings
        page.section("How it was made")
        made = record(core)
        target = core.settings.target if settings.target is None else settings.target
        rows = [
            ("model", f"{made['model']}, {counted(len(self._analyzer.model.nodes), 'layer')}"),
            ("model digest", made["model_digest"]),
            *self._sources(),
            (
                "rule",
                str(self._gradients) if self._gradients else core.settings.composite.name.removeprefix("uniform "),
            ),
            ("target", target_of_page(target)),
            ("precision", made["precision"]),
            ("device", self._analyzer.device),
            ("lrpfast", __version__),
        ]
        rows += [
            (key.replace("_", " "), made[key]) for key in ("start", "y_ref", "input_range", "mask_nan") if key in made
        ]
        page.pairs(rows + rows_of(settings))
        page.heading("Rules by layer")
        table = rules_by_layer(core)
        page.table(table[: MOST_LAYERS + 1])
        passing = len(core.plan.steps) - (len(table) - 1)
        if passing:
            page.paragraph(f"All others, such as activations ({passing}), pass relevance on unchanged.", soft=True)
        if len(table) > MOST_LAYERS + 1:
            page.paragraph(f"The first {MOST_LAYERS} of {len(table) - 1} layers.", soft=True)

    def _sources(self) -> list[tuple[str, str]]:
        """The data, of each input."""
        sources = {"data": self._data}
        if isinstance(self._data, SeveralSource):
            sources = {f"data of {name}": source for name, source in self._data.sources.items()}
        return [(name, f"{item.name}, {item.dtype} {tuple(item.shape)}") for name, item in sources.items()]

    # Whether to trust it

    def _trust(self) -> None:
        page, c = self._page, self._collected
        page.section("Whether to trust it")
        x, targets = self._subset()
        count = len(x)
        inputs = of_model(self._data, x)
        page.paragraph(
            f"Balance, sparsity and flipped features are of {counted(count, 'sample')} at equal distances; counts "
            f"are of all {c.samples:,}.",
            soft=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RelevanceWarning)  # counted below
            explanation = self._analyzer.explain(inputs, targets)
        relevance = self._in_rows(explanation.relevance)
        self._balance(explanation)
        if c.confusion is not None:
            self._accuracy(c.confusion)
        page.heading("Sparsity")
        page.paragraph(
            "Gini index of |R|, 0 where all features have as much, near 1 where one has all: "
            f"{_mean(gini(relevance))}. "
            f"Entropy of the shares of |R|, in nats, at most {math.log(max(1, relevance[0].size)):.3g}: "
            f"{_mean(entropy(relevance))}."
        )
        self._flipped(x, relevance, targets)

    def _in_rows(self, relevance: Any) -> np.ndarray:
        """Relevance on the host; that of several inputs one after the other."""
        if not isinstance(relevance, list):
            return to_host(relevance)
        return np.concatenate([to_host(part).reshape(len(part), -1) for part in relevance], 1)

    def _balance(self, explanation: Any) -> None:
        page, c = self._page, self._collected
        page.heading("Balance of relevance")
        if c.reached is None:
            page.paragraph(
                "Gradients have no balance: they say how the output changes, and need not add up to it in any layer."
            )
            if explanation.completeness is not None:
                worst = np.abs(explanation.completeness).max(initial=0.0)
                page.paragraph(
                    "Integrated gradients add up to f(x) - f(baseline), but for the error of the quadrature, which is "
                    f"at most {worst:.3g} here."
                )
            return
        page.paragraph(
            "What comes to each layer goes on to the layer below, or to its bias or stabilizer; what no live neuron "
            "takes is lost. Amplification is the growth of the sum of |R|: where it is large, single values cancel and "
            "mean little. Means over samples; the largest amplification."
        )
        balances = list(explanation.conservation)
        rows = [("layer", "rule", "in", "out", "bias", "stabilizer", "lost", "amplification")]
        for b in balances[:MOST_LAYERS]:
            means = [f"{getattr(b, key).mean():.4g}" for key in ("incoming", "outgoing", "bias", "stabilizer", "lost")]
            rows.append((b.layer, b.rule, *means, f"{b.amplification.max(initial=0.0):.3g}"))
        page.table(rows, right=2)
        counts = {
            "amplified": "grow more than 1,000-fold between the output and the input",
            "vanished": "have less than a thousandth of the output left at the input",
            "zero": "are zero everywhere",
        }
        found = [f"{c.counts[key]:,} {text}" for key, text in counts.items() if c.counts.get(key)]
        page.paragraph(
            f"Of {counted(c.samples, 'explanation')}, {'; '.join(found)}."
            if found
            else f"None of {counted(c.samples, 'explanation')} grows more than 1,000-fold, nearly vanishes or is zero."
        )
        if np.isfinite(c.reached).sum() > 1:
            page.picture(pictures.reached(c.reached), "How much of the explained output reaches the input, all samples")

    def _accuracy(self, confusion: np.ndarray) -> None:
        page = self._page
        page.heading("Accuracy")
        page.paragraph(
            "Explanations of wrong predictions say why the model erred; those of a model that errs often say little of "
            "the data."
        )
        rows = [("class", "samples", "right", "share")]
        present = np.flatnonzero(confusion[:, 0])
        for k in present[:50]:
            total, right = confusion[k]
            rows.append((self._class(k), f"{total:,}", f"{right:,}", f"{right / total:.1%}"))
        total, right = confusion.sum(0)
        rows.append(("all", f"{total:,}", f"{right:,}", f"{right / max(1, total):.1%}"))
        page.table(rows, right=1)
        if len(present) > 50:
            page.paragraph(f"The first 50 of {len(present)} classes.", soft=True)

    def _flipped(self, x: np.ndarray, relevance: np.ndarray, targets: Any) -> None:
        page = self._page
        page.heading("Flipped features")
        if class_count(self._core) is None:
            page.paragraph("The model's outputs have several axes: no single one is followed.", soft=True)
            return
        if not (np.isfinite(relevance).all() and np.isfinite(x).all()):
            page.paragraph("Some features have no value (NaN): features are not flipped.", soft=True)
            return
        passes = 3 * (FLIP_STEPS + 1) + 1
        affordable = FLIP_FLOPS // (passes * max(1, self._core.plan.flops // 3))
        count = int(min(len(x), max(LEAST_FLIPPED, affordable)))
        model = self._analyzer.explained_model
        inputs = of_model(self._data, x[:count])
        output = to_host(model.predict(inputs, precision=self._analyzer.precision)).reshape(count, -1)
        followed = self._followed(targets, output)
        if followed is None:
            page.paragraph("The explained value is not a single output: features are not flipped.", soft=True)
            return
        curves = flip(
            model,
            inputs,
            of_model(self._data, relevance[:count]),
            target=followed,
            region=self._by_input(lambda slot, drawing: _region(drawing, slot.shape)),
            baseline=self._by_input(self._baseline),
            mask=self._by_input(lambda slot, _: np.zeros(slot.shape, bool) if slot.is_mask else None),
            steps=FLIP_STEPS,
            precision=self._analyzer.precision,
        )
        self._curves(curves, count)

    def _curves(self, curves: FlipCurves, count: int) -> None:
        page = self._page
        baseline = self._settings.baseline
        shown = f"{baseline:g}" if isinstance(baseline, (int, float)) else "values of the caller's"
        shown = "the sample's mean" if isinstance(baseline, str) else shown
        page.paragraph(
            f"Features become {shown}, the most relevant first, the least relevant first, and in random order, and the "
            f"explained output is followed ({counted(count, 'sample')}, before a final softmax or sigmoid). Where "
            "relevance is right, the first curve falls at once and the second stays above random."
        )
        page.picture(curves.figure(), "The explained output while features are flipped")
        area = {order: float(values.mean()) for order, values in curves.area.items()}
        page.table([("order", "mean area under the curve"), *((k, f"{v:.4g}") for k, v in area.items())], right=1)
        if not area["most"] < area["random"] < area["least"]:
            page.paragraph("The order is not most < random < least: do not trust the ranking of features.")

    def _by_input(self, value: Callable[[IOSlot, Drawing], Any]) -> Any:
        """An argument of `flip`: of several inputs a mapping by their names."""
        pairs = zip(self._core.layout.inputs, self._drawings, strict=True)
        values = {slot.name: value(slot, drawing) for slot, drawing in pairs}
        return values if len(values) > 1 else next(iter(values.values()))

    def _baseline(self, slot: IOSlot, drawing: Drawing) -> Any:
        """What flipped features of an input become: of an embedding's indices a mean is none."""
        baseline = self._settings.baseline
        return 0 if slot.entries is not None and isinstance(baseline, str) else baseline

    def _followed(self, targets: Any, output: np.ndarray) -> Any:
        """The output that is explained of each sample; None if it is not a single one."""
        if targets is None:
            targets = self._core.settings.target
        if isinstance(targets, str):
            return output.argmax(1) if targets == "max" else None
        if isinstance(targets, (int, np.integer)) and not isinstance(targets, bool):
            return np.full(len(output), int(targets))
        if isinstance(targets, np.ndarray) and targets.dtype.kind in "iu" and targets.ndim == 1:
            return targets[: len(output)]
        return None

    def _subset(self) -> tuple[np.ndarray, Any]:
        """Some samples at equal distances, and their targets."""
        total = self._collected.samples
        count = min(total, self._settings.samples)
        positions = np.arange(count) * total // count
        x = np.concatenate([np.asarray(self._data.read(int(i), int(i) + 1)) for i in positions])
        target = self._settings.target
        return x, target[positions] if isinstance(target, np.ndarray) else target

    # What it shows

    def _inputs(self) -> None:
        """The maps of each input; masks have none."""
        c, layout = self._collected, self._core.layout
        labels = [self._group(c.groups[g], int(n)) for g, n in enumerate(c.inputs[0].statistics.count) if n]
        if layout.several:
            self._shares()
        for slot, maps, drawing in zip(layout.inputs, c.inputs, self._drawings, strict=True):
            title = f"Input {slot.name}" if layout.several else None
            if slot.is_mask and title is not None:
                self._page.section(title)
                self._page.paragraph("It is a mask, which gets no relevance.")
            else:
                InputWriter(self._page, c, maps, drawing, title).write(labels)

    def _shares(self) -> None:
        """How much of the relevance each of several inputs has."""
        absolute = [float(maps.absolute.sum()) for maps in self._collected.inputs]
        total = sum(absolute) or 1.0
        self._page.section("Relevance of the inputs")
        rows = [("input", "shape", "mean sum of |R|", "share")]
        for maps, size in zip(self._collected.inputs, absolute, strict=True):
            rows.append((maps.name, str(maps.shape), f"{size:.4g}", f"{size / total:.1%}"))
        self._page.table(rows, right=2)

    # Samples

    def _samples(self) -> None:
        texts = {
            "right": "The most confident of the right predictions",
            "wrong": "The most confident of the wrong predictions",
            "closest": "The predictions that are closest to the truth",
            "furthest": "The predictions that are furthest from the truth",
            "confident": "The most confident predictions",
            "unsure": "The least confident predictions",
            "largest": "The largest outputs",
            "unbalanced": "The least balanced: relevance of the input differs most from the explained output",
        }
        page = self._page
        page.section("Samples")
        for name, kept in self._collected.kept.items():
            if name == "unbalanced" and len(kept) and not (kept.keys > 1e-3).any():
                page.heading(texts[name])
                page.paragraph("In no sample more than a thousandth of the output is missing.")
                continue
            page.heading(texts[name])
            if not len(kept):
                page.paragraph("There are none.")
                continue
            labels = [self._sample(name, kept, i) for i in range(len(kept))]
            for i, (slot, drawing) in enumerate(zip(self._core.layout.inputs, self._drawings, strict=True)):
                if slot.is_mask and len(self._drawings) > 1:
                    continue
                text = texts[name] if len(self._drawings) == 1 else f"{texts[name]}: {slot.name}"
                drawing.samples(page, kept.rows[f"input {i}"], kept.rows[f"relevance {i}"], labels, text)

    def _sample(self, name: str, kept: Kept, i: int) -> str:
        """What stands above a sample."""
        rows = {key: values[i] for key, values in kept.rows.items()}
        text = f"sample {kept.samples[i]:,}"
        classes = class_count(self._core)
        if name in ("closest", "furthest") or (classes == 1 and self._collected.confusion is None):
            text += f": {rows['predicted']:.4g}" if name != "unbalanced" else f": {rows['explained']:.4g}"
            if "label" in rows:
                text += f"\ntrue {_shown(rows['label'])}"
        elif classes is not None:
            text += f": {self._class(int(rows['predicted']))}"
            if rows["confidence"] <= 1 and self._has_probabilities():
                text += f" ({rows['confidence']:.1%})"
            if "label" in rows and self._labels is not None:
                true = (
                    self._class(int(rows["label"])) if self._labels.kind == "class" else _shortened(str(rows["label"]))
                )
                text += f"\ntrue {true}"
        if name == "unbalanced":
            text += f"\nΣR {rows['total']:.3g} of {rows['explained']:.3g}"
        return text

    def _has_probabilities(self) -> bool:
        outputs = class_count(self._core)
        return outputs is not None and probabilities(self._core, np.zeros((1, outputs))) is not None

    def _class(self, k: int) -> str:
        names = self._settings.class_names
        return _shortened(names[k]) if names is not None and k < len(names) else str(k)

    def _group(self, label: Any, count: int) -> str:
        if label is None:
            return f"all, {count:,}"
        classes = self._labels is None or self._labels.kind == "class"
        return f"{self._class(int(label)) if classes else _shortened(str(label))}, {count:,}"


def _region(drawing: Drawing, shape: Sequence[int]) -> tuple[int, ...] | None:
    """Patches of an image that are flipped together, with all channels; None for other samples."""
    if drawing.kind != "image" or len(shape) != 3:
        return None
    first = drawing.arguments.get("channels_first") or False
    channels, *sides = shape if first else (shape[2], *shape[:2])
    sizes = tuple(max(1, side // 16) for side in sides)
    return (channels, *sizes) if first else sizes


def rows_of(settings: ReportSettings) -> list[tuple[str, str]]:
    """How maps were averaged, and the command, as far as the settings say."""
    rows = []
    if settings.normalize is not None:
        rows.append(("maps", f"each divided by {settings.normalize} before they are averaged"))
    if settings.command is not None:
        rows.append(("command", settings.command))
    return rows


def rules_by_layer(core: AnalyzerCore) -> list[tuple[str, str, str]]:
    """A table of the layers that do not pass relevance on as it is, and their rules."""
    steps = [step for step in core.plan.steps if not isinstance(step.rule, Pass)]
    rows = [(step.name, type(step.layer).__name__, describe(step.rule)) for step in steps]
    return [("layer", "type", "rule"), *rows]


def target_of_page(target: Any) -> str:
    """The target, in words."""
    if isinstance(target, str) and target == "max":
        return "max: each sample's largest output"
    return target_text(target)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)


def _shortened(name: str) -> str:
    """A name that has room above a picture."""
    return name if len(name) <= MOST_CHARACTERS else name[: MOST_CHARACTERS - 1] + "…"


def _mean(values: np.ndarray) -> str:
    """A mean and a standard deviation; maps that are zero everywhere do not count."""
    known = values[~np.isnan(values)]
    return f"{known.mean():.3g} ± {known.std():.2g}" if len(known) else "not known, all maps are zero"
