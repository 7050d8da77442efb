"""The pictures of docs/performance.md."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from cases import CASES, PEERS

#: Colours that stay apart in grey and to colour-blind eyes (Okabe and Ito).
COLOURS = {
    "lrpfast": "#d55e00", "zennit": "#0072b2", "captum": "#009e73", "innvestigate": "#cc79a7", "forward": "#7f7f7f",
}  # fmt: skip
NAMES = {"innvestigate": "iNNvestigate", "forward": "PyTorch forward pass"}
MARKERS = {"lrpfast": "o", "zennit": "s", "captum": "^", "innvestigate": "D", "forward": "x"}


def cases(found: dict[str, Any], path: Path, machine: str) -> None:
    """How many times as long the others take, case by case, on a logarithmic axis."""
    rows = []
    for case in CASES:
        readings = found["models"].get(case.key, {}).get("readings", [])
        seconds = {(r["tool"], r["way"]): median(r["seconds"]) for r in readings}
        if ("lrpfast", "") not in seconds:
            continue
        ratios = {}
        for tool in (*PEERS, "forward"):
            if (tool, "") in seconds:
                ours = seconds.get(("lrpfast", f"as {tool}"), seconds["lrpfast", ""])
                ratios[tool] = seconds[tool, ""] / ours
        rows.append((case.title, ratios))
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.62 * max(1, len(rows))), layout="constrained")
    height = 0.2
    for i, (_, ratios) in enumerate(rows):
        for k, (tool, value) in enumerate(ratios.items()):
            at = i + (k - (len(ratios) - 1) / 2) * height
            axes.barh(at, value, height, left=0, color=COLOURS[tool])
            axes.annotate(f"{value:.3g}×", (value, at), (3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), [title for title, _ in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel(f"time over lrpfast's (1: as fast), the same conventions, two threads\n{machine}")
    shown = [tool for tool in COLOURS if any(tool in ratios for _, ratios in rows)]
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[tool]) for tool in shown]
    if shown:
        labels = [NAMES.get(tool, tool) for tool in shown]
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9, frameon=False)
    axes.grid(axis="x", which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.1)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def batches(found: dict[str, Any], path: Path, machine: str) -> None:
    """Time per sample against batch size."""
    shown = [case for case in CASES if "readings" in found["batches"].get(case.key, {})]
    count = max(1, len(shown))
    figure, panels = plt.subplots(1, count, figsize=(4.8 * count, 4), squeeze=False, layout="constrained")
    for case, axes in zip(shown, panels[0], strict=False):
        lines: dict[str, list[tuple[int, float]]] = {}
        for key, seconds in found["batches"][case.key]["readings"].items():
            tool, size = key.split("|")
            lines.setdefault(tool, []).append((int(size), 1e6 * median(seconds) / int(size)))
        for tool, points in lines.items():
            axes.plot(
                *zip(*points, strict=True), marker=MARKERS[tool], color=COLOURS[tool], label=NAMES.get(tool, tool)
            )
        axes.set_title(case.title.rsplit(", batch", 1)[0], fontsize=10)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("samples a call")
        axes.set_ylabel("microseconds a sample")
        axes.grid(which="major", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.xaxis.set_minor_formatter(lambda *_: "")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    figure.suptitle(machine, fontsize=9)
    handles, labels = panels[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
