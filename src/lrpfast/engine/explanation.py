"""The result of `Analyzer.explain`: relevance, and the figures that show whether to trust it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import display, table
from ..table import counted
from .balance import Conservation

#: Arrays whose shapes the repr shows.
SHOWN = 4


@dataclass(frozen=True, eq=False)
class Explanation:
    """A batch's relevance, with the output, the target and the balance of every layer.

    Attributes
    ----------
    relevance : array, shaped like the input
        A list of arrays for a model with several inputs, a dict by their names if these came in one; of samples
        of different shapes a list of arrays each.
    output : array, shape (samples, *output_shape)
        The model's output before a final softmax, its logarithm or a sigmoid, less ``y_ref``.
        A list of arrays for a model with several outputs.
    target : array or None
        The index explained for each sample (for several targets, their array; for
        a pair, both) in the selected output; None if the start is an array or a
        callable.
    conservation : Conservation
        Where relevance went, layer by layer from the output down.
    layers : dict or None
        Relevance of every layer's output, by the layer's name, on request. A batch normalization that is folded
        is identical to its input: folded into the layer before it, which then has its output, or after it.
    completeness : array or None
        Of integrated gradients, for each sample: Σ R less f(x) − f(baseline), the error of the quadrature.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0, -1.0], [2.0, 1.0]]))])
    >>> explanation = lrpfast.Analyzer(model, "zero", precision="float64").explain(np.array([[1.0, 3.0]]))
    >>> explanation.relevance.round(3), explanation.output, explanation.target
    (array([[1., 6.]]), array([[7., 2.]]), array([0]))
    """

    relevance: Any
    output: Any
    target: np.ndarray | None
    conservation: Conservation
    layers: dict[str, np.ndarray] | None = None
    completeness: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"<lrpfast.Explanation: {self._head()}>\n{self.conservation}"

    def _repr_html_(self) -> str:
        head = table.paragraph(f"Explanation: {self._head()}")
        return head + display.picture(self.relevance) + self.conservation._repr_html_()

    def _head(self) -> str:
        layers = "" if self.layers is None else f", {counted(len(self.layers), 'layer')}"
        inputs = self.relevance.values() if isinstance(self.relevance, dict) else [self.relevance]
        arrays = [a for of_input in inputs for a in (of_input if isinstance(of_input, list) else [of_input])]
        arrays = [a for of_samples in arrays for a in (of_samples if isinstance(of_samples, list) else [of_samples])]
        shapes = ", ".join(str(tuple(a.shape)) for a in arrays[:SHOWN]) + ", …" * (len(arrays) > SHOWN)
        error = ""
        if self.completeness is not None and len(self.completeness):
            error = f", sum differs from f(x) - f(baseline) by at most {np.abs(self.completeness).max():.2g}"
        return f"relevance {shapes} {arrays[0].dtype}{layers}{error}"
