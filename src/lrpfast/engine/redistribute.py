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
        If it has an activation, the activation passes relevance on.
    x : array, shape (samples, *input_shape)
        A list of arrays for a layer with several inputs.
    relevance : array, shape (samples, *output_shape)
        The relevance of the layer's output, after its activation.
    device : {"auto", "cpu", "gpu"} or "gpu:1", "gpu:2", …
    precision : {"float32", "float64", "tf32", "3xtf32", "bf16x2"}, optional
        When None, float64 if x (or one of several) is float64, else float32, for any dtype of ``relevance``. (The
        default of `Analyzer` is always float32.)
    threads : int, optional
        As in `Analyzer`.

    Returns
    -------
    array, shaped like x
        A list of arrays for a layer with several inputs. Of PyTorch, CuPy or NumPy, as x.

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
