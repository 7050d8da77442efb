"""`redistribute`: one rule on one layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError, ShapeError
from ..kernels.arrays import as_array, as_tensors, is_tensor
from ..model.builder import Graph
from ..model.layers import Embedding, Layer
from ..rules import Rule
from ..rules.composites import Composite
from ..rules.entries import Entry
from ..rules.registry import as_rule
from .core import AnalyzerCore
from .inputs import as_real
from .settings import AnalyzerSettings


def redistribute(
    rule: Rule | str,
    layer: Layer,
    x: Any,
    relevance: Any,
    *,
    device: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
) -> Any:
    """Relevance of one layer's input, given its input and the relevance of its output.

    Parameters
    ----------
    rule : Rule or str
    layer : Layer
        Its activation, if it has one, passes relevance on.
    x : array, shape (samples, *input_shape)
        A list of arrays for a layer with several inputs.
    relevance : array, shape (samples, *output_shape)
        Of the layer's output, its activation included.
    device : {"auto", "cpu", "gpu"} or "gpu:1", "gpu:2", …
    precision : {"float32", "float64", "tf32"}, optional
        When None, float64 for a float64 x (or one of several) and float32 for any other, whatever the dtype of
        ``relevance`` is. `Analyzer` always has float32 by default.
    threads : int, optional
        As in `Analyzer`.

    Returns
    -------
    array, shaped like x
        A list of arrays for a layer with several inputs. PyTorch's, CuPy's or NumPy's, as x is.

    Raises
    ------
    RuleError, InputError, ShapeError

    Examples
    --------
    >>> layer = lrpfast.layers.Dense(np.array([[1.0, -1.0], [2.0, 1.0]]))
    >>> lrpfast.redistribute("zero", layer, np.array([[1.0, 1.0]]), np.array([[3.0, 0.0]])).round(3)
    array([[1., 2.]])
    """
    if not isinstance(layer, Layer):
        raise InputError(f"layer must be a layer from lrpfast.layers, not {type(layer).__name__}")
    arrays = [as_array(a) for a in (x if isinstance(x, (list, tuple)) else [x])]
    for array in arrays:
        if array.ndim < 2 and not isinstance(layer, Embedding):
            raise ShapeError(f"x must have shape (samples, …, features), not {array.shape}")
    if precision is None:
        precision = "float64" if any(a.dtype == np.float64 for a in arrays) else "float32"
    graph = Graph()
    model = graph.model(graph.add(layer, *(graph.input(a.shape[1:]) for a in arrays)))
    rule = as_rule(rule, "redistribute")
    everywhere = Composite((Entry("default", rule, None, Layer),), rule.name, canonize=False)
    core = AnalyzerCore(model, AnalyzerSettings(everywhere, device=device, precision=precision, threads=threads))
    relevance, expected = as_real(relevance, "relevances"), (len(arrays[0]), *model.output_shape)
    if relevance.shape != expected:
        raise ShapeError(f"relevance must have shape {expected}, the layer's output, not {relevance.shape}")
    result = core.analyze(arrays if len(arrays) > 1 else arrays[0], relevance.astype(np.float64))
    return as_tensors(result) if is_tensor(x) else result
