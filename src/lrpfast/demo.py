"""``lrpfast demo``: a published notebook's explanations, its figures next to lrpfast's.

The notebook explained one small model with iNNvestigate on an A100, found that
relevance went missing, and could not say where. `explain` can: the bias took 3.63 of
it, and TensorFloat-32, which that GPU used for matrix products, the rest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np

from .engine.balance import Conservation
from .engine.threads import check_threads, get_num_threads
from .innvestigate import create_analyzer
from .kernels import backend
from .model.graph import Model
from .output import check_target, replacing
from .readers import load

PRECISIONS = ("tf32", "float32", "float64")
SAMPLES, SHOWN = 10_000, 2  # the notebook printed the explanation of its third input


@dataclass
class Cell:
    """One of the notebook's explanations, and lrpfast's under every precision."""

    name: str
    parameters: dict[str, Any]
    printed: list[float]
    residual: float
    relevance: dict[str, np.ndarray] = field(default_factory=dict)
    residuals: dict[str, np.floating] = field(default_factory=dict)
    where: str = ""

    @property
    def label(self) -> str:
        """The notebook's label: ``lrp.epsilon, bias=False``."""
        return ", ".join([self.name, *(f"{key}={value}" for key, value in self.parameters.items())])

    def table(self) -> str:
        """The notebook's figures, lrpfast's below them, and where the missing relevance went."""
        labels = [self.name, *(f"  {key}={value}" for key, value in self.parameters.items()), ""]
        lines = [row(labels[0], "notebook", self.printed, self.residual)]
        for precision, label in zip(PRECISIONS, [*labels[1:], "", ""], strict=False):
            mark = ("same" if self.same else "DIFFERS") if precision == "tf32" else ""
            residual = self.residuals[precision]
            # the notebook printed its float32 residual with all the digits of a Python float
            shown = float(residual) if precision == "tf32" else _digits(residual)
            lines.append(row(label, precision, [*map(_digits, self.relevance[precision][SHOWN])], shown, mark))
        return "\n".join([*lines, f"    of it under tf32: {self.where}"])

    @property
    def same(self) -> bool:
        """Whether the figures under TF32 are the notebook's, digit for digit."""
        values = self.relevance["tf32"][SHOWN]
        return bool(
            (values == np.array(self.printed, np.float32)).all() and float(self.residuals["tf32"]) == self.residual
        )


def inputs() -> np.ndarray:
    """The notebook's inputs."""
    return np.random.RandomState(42).rand(SAMPLES, 2)


def notebook() -> tuple[Model, dict[str, Any]]:
    """The notebook's model and the figures it printed."""
    data = resources.files("lrpfast") / "data"
    with resources.as_file(data / "seed_model.h5") as path:
        model = load(path)
    return model, json.loads((data / "seed.json").read_text(encoding="utf-8"))


def explain_cells(
    model: Model, figures: dict[str, Any], x: np.ndarray, threads: int | None = None
) -> tuple[list[Cell], float]:
    """Every cell of the notebook under every precision, and the seconds that the explanations took.

    On the CPU, because only there are all digits those of the notebook.
    """
    cells, seconds = [], 0.0
    for entry in figures["library_cells_tf32"]:
        cell = Cell(entry["analyzer"], entry["kwargs"], entry["relevance"][0], entry["R_minus_sum"])
        for precision in PRECISIONS:
            analyzer = create_analyzer(
                cell.name, model, precision=precision, device="cpu", threads=threads, **cell.parameters
            )
            begin = time.perf_counter()
            relevance = analyzer.analyze(x)
            seconds += time.perf_counter() - begin
            cell.relevance[precision] = relevance
            # in the precision's own arithmetic, as the notebook did
            explanation = analyzer.explain(x[SHOWN : SHOWN + 1])
            cell.residuals[precision] = explanation.output.max() - relevance[SHOWN].sum()
            if precision == "tf32":
                cell.where = _where(explanation.conservation)
        cells.append(cell)
    return cells, seconds


def _where(layers: Conservation) -> str:
    """The text that says where the missing relevance went."""
    parts = {
        "bias": sum(float(b.bias[0]) for b in layers),
        "stabilizer": sum(float(b.stabilizer[0]) for b in layers),
        "zero denominators": sum(float(b.lost[0]) for b in layers),
        "TF32 rounding": sum(float(b.rounding[0]) for b in layers),
    }
    return ", ".join(f"{name} {value:.7f}" for name, value in parts.items() if abs(value) > 1e-8)


def run(output: str, threads: int | None = None) -> None:
    """Run the demo: explain, print the table, write the relevances to an .npz file."""
    check_target(output)
    model, figures = notebook()
    x = inputs()
    cells, seconds = explain_cells(model, figures, x, threads)
    print(f"A published notebook's model, Dense 2 → 2 without its softmax, and its {SAMPLES:,} inputs.")
    print("Shown: the sample that the notebook printed, x = [0.15601864 0.15599452].\n")
    print(row("", "", ("y_0", "y_1")))
    print(row("prediction", "notebook", figures["model"]["predicted"][0]))
    for precision in PRECISIONS:
        y = model.without_softmax().predict(x[SHOWN : SHOWN + 1], precision=precision, device="cpu")[0]
        print(row("", precision, [*map(_digits, y)]))
    print("\n" + row("", "", ("R_0", "R_1"), "R − ΣR_i"))
    for cell in cells:
        print(cell.table())
    equal = sum(cell.same for cell in cells)
    print(f"\nUnder tf32 {equal} of the notebook's {len(cells)} cells come out digit for digit.")
    with replacing(output) as file:
        relevances = {f"{c.label} | {precision}": c.relevance[precision] for c in cells for precision in PRECISIONS}
        np.savez(file, inputs=x, **relevances)  # type: ignore[arg-type]
    count = len(cells) * len(PRECISIONS) * SAMPLES
    isa, used = backend("cpu").describe()["instruction set"], check_threads(threads) or get_num_threads()
    print(
        f"{count:,} explanations in {seconds:.3g} s, {count / seconds:,.0f} a second "
        f"(cpu, {isa}, {used} {'thread' if used == 1 else 'threads'})."
    )
    print(f"Wrote them to {output}, an array for every analyzer and precision.")


def row(label: str, source: str, figures: Sequence[Any], rest: Any = "", mark: str = "") -> str:
    """One line of the table: the cell, the source, two figures, the missing relevance, a mark."""
    first, second = figures
    return f"{label:<31}{source:<8}{first:>14}{second:>14}{rest:>24}  {mark}".rstrip()


def _digits(value: np.floating) -> str:
    """The digits that identify a float32; ten digits of a float64."""
    return str(value) if value.dtype == np.float32 else f"{value:.10g}"
