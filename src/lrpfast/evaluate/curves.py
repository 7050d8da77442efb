"""The curves of `flip`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..plot.check import figure_class
from ..plot.panels import blank
from ..table import Tabular, counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False, repr=False)
class FlipCurves(Tabular):
    """The model's output while features are flipped, in one or several orders.

    Attributes
    ----------
    fractions : float64 array, shape (points,)
        Of the features, from 0 to 1.
    curves : dict of str to float64 array, shape (samples, points)
        For each order, the explained output after so many features were flipped.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[3.0], [1.0]]))])
    >>> print(lrpfast.evaluate.flip(model, np.ones((1, 2)), np.array([[3.0, 1.0]]), order=("most", "least")))
    output while features are flipped: 1 sample, 2 steps
    order  area  0%  50%  100%
    most    1.5   4    1     0
    least   2.5   4    3     0
    """

    fractions: np.ndarray
    curves: Mapping[str, np.ndarray]

    @property
    def mean(self) -> dict[str, np.ndarray]:
        """For each order, the curve's mean over the samples."""
        return {order: curve.mean(0) for order, curve in self.curves.items()}

    @property
    def area(self) -> dict[str, np.ndarray]:
        """For each order and sample, the area under the curve, by trapezoids: low for a good order "most"."""
        steps = np.diff(self.fractions)
        return {order: ((curve[:, 1:] + curve[:, :-1]) / 2) @ steps for order, curve in self.curves.items()}

    def _rows(self) -> tuple[str, list[list[str]]]:
        samples = counted(len(next(iter(self.curves.values()))), "sample")
        head = f"output while features are flipped: {samples}, {counted(len(self.fractions) - 1, 'step')}"
        shown = sorted({0, *(round(share * (len(self.fractions) - 1)) for share in (0.1, 0.25, 0.5, 1.0))})
        rows = [["order", "area", *(f"{self.fractions[i]:.0%}" for i in shown)]]
        areas = self.area
        for order, curve in self.mean.items():
            rows.append([order, f"{areas[order].mean():.4g}", *(f"{curve[i]:.4g}" for i in shown)])
        return head, rows

    def figure(self, title: str | None = None) -> Figure:
        """The mean curves as a matplotlib Figure; `lrpfast.plot.save` writes it."""
        return figure({"": self}, title)


#: Line styles of the orders; colours tell the rules apart.
_STYLES = {"most": "-", "least": "--", "random": ":"}
_LABELS = {"most": "most relevant first", "least": "least relevant first", "random": "random order"}


def figure(results: Mapping[str, FlipCurves], title: str | None = None) -> Figure:
    """Mean curves of several explanations side by side, as a matplotlib Figure.

    Parameters
    ----------
    results : mapping of str to FlipCurves
        A name for each.
    title : str, optional
    """
    if not results:
        raise InputError("there are no curves to draw")
    figure_class()
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    picture = blank((6.8, 4.0), "constrained")
    ax = picture.subplots()
    randoms = [result.mean["random"] for result in results.values() if "random" in result.curves]
    one_random = len({curve.tobytes() for curve in randoms}) == 1 < len(results)  # of the same seed and samples
    for i, (name, result) in enumerate(results.items()):
        for order, curve in result.mean.items():
            if order == "random" and one_random and i:
                continue
            colour = "0.4" if order == "random" and one_random else f"C{i}"
            ax.plot(100 * result.fractions, curve, _STYLES[order], color=colour, label=f"{name} {order}".strip())
    orders = list(dict.fromkeys(order for result in results.values() for order in result.curves))
    handles: list[Any] = [Patch(color=f"C{i}", label=name) for i, name in enumerate(results) if name]
    handles += [Line2D([], [], color="0.4", linestyle=_STYLES[order], label=_LABELS[order]) for order in orders]
    picture.legend(handles=handles, frameon=False, fontsize="small", loc="outside right upper")
    ax.set(xlabel="features flipped (%)", ylabel="explained output", xlim=(0, 100))
    ax.spines[["top", "right"]].set_visible(False)
    if title:
        picture.suptitle(title, parse_math=False)
    return picture
