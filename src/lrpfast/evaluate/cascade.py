"""Whether an explanation depends on the model's weights: the cascading sanity check."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..analyzer import Analyzer
from ..engine.inputs import as_real
from ..errors import InputError, RelevanceWarning
from ..kernels.arrays import to_host
from ..model.rewrites import has_weights
from ..readers import as_model
from ..table import Tabular

#: Pixels on a side of the window of structural similarity, and its constants.
WINDOW, K1, K2 = 7, 0.01, 0.03


@dataclass(frozen=True, eq=False, repr=False)
class Randomization(Tabular):
    """How alike relevance is before and after weights become random, from the output down.

    Attributes
    ----------
    correlation : dict of str to float64 array, shape (samples,)
        For each layer: Spearman's rank correlation of R and the relevance of the model whose weights from that
        layer to the output are random. NaN where a map is constant.
    similarity : dict of str to float64 array, shape (samples,)
        The structural similarity of the same maps; NaN for samples that are no images of at least 7 × 7.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(4))])
    >>> result = lrpfast.evaluate.randomization(model, "epsilon", np.ones((3, 4)), target=0)
    >>> result.correlation["dense"].shape, bool(np.isnan(result.similarity["dense"]).all())
    ((3,), True)
    """

    correlation: Mapping[str, np.ndarray]
    similarity: Mapping[str, np.ndarray]

    def _rows(self) -> tuple[str, list[list[str]]]:
        rows = [["random from", "rank correlation", "SSIM"]]
        for layer, values in self.correlation.items():
            rows.append([layer, *(_mean(v) for v in (values, self.similarity[layer]))])
        return "relevance with random weights, against that of the model: means of the samples", rows


def _mean(values: np.ndarray) -> str:
    return "–" if np.isnan(values).all() else f"{np.nanmean(values):.3f}"


def randomization(
    model: Any, rule: Any, x: Any, *, target: Any = "max", absolute: bool = False, seed: int = 0, **settings: Any
) -> Randomization:
    """Compare relevance with that of models whose weights are random from a layer to the output.

    An explanation that stays the same while weights become random does not explain the model.

    Parameters
    ----------
    model : Model, or what `Analyzer` takes in place of one
    rule : Rule, Composite or str
    x : array, shape (samples, *input_shape)
    target : optional
        As in `Analyzer`; "max" means each sample's largest output of the model itself.
    absolute : bool
        Whether to compare |R| instead of R.
    seed : int
        Of the random weights; see `Model.randomized`.
    **settings
        Of each `Analyzer`: ``precision``, ``threads``, …

    Returns
    -------
    Randomization

    Raises
    ------
    InputError, ShapeError, RuleError

    References
    ----------
    Adebayo et al. (2018), "Sanity checks for saliency maps".

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(4)), lrpfast.layers.Dense(np.ones((4, 2)))])
    >>> result = lrpfast.evaluate.randomization(model, "epsilon", np.ones((3, 4)))
    >>> list(result.correlation)
    ['dense_1', 'dense']
    """
    model = as_model(model)
    if isinstance(model.input_shape, list) or isinstance(model.output_shape, list):
        raise InputError("randomization evaluates models of one input and one output")
    values = to_host(as_real(x, "x"))
    if isinstance(target, str) and target == "max":
        target = model.predict(values).reshape(len(values), -1).argmax(1)
    size = np.abs if absolute else np.asarray
    whole = size(Analyzer(model, rule, **settings).analyze(values, target).astype(np.float64))
    correlation, similarity = {}, {}
    for node in reversed(model.nodes):
        if has_weights(node.layer) and node.name not in correlation:
            other = Analyzer(model.randomized(seed, from_layer=node.name), rule, **settings)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RelevanceWarning)  # random weights may do anything
                changed = size(other.analyze(values, target).astype(np.float64))
            correlation[node.name] = rank_correlation(whole, changed)
            similarity[node.name] = structural_similarity(whole, changed)
    return Randomization(correlation, similarity)


def _ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value; equal ones have the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[inverse.ravel()]


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each sample's maps."""
    result = np.full(len(a), np.nan)
    for i, (one, other) in enumerate(zip(a, b, strict=True)):
        finite = np.isfinite(one.ravel()) & np.isfinite(other.ravel())
        ranks = [_ranks(part.ravel()[finite]) for part in (one, other)]
        if len(ranks[0]) > 1 and all(np.ptp(r) > 0 for r in ranks):
            result[i] = np.corrcoef(np.stack(ranks))[0, 1]
    return result


def structural_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The mean structural similarity of each sample's maps (Wang et al. 2004), each divided by its largest |R|.

    Axes of at most four values at either end are channels and are added up.
    """
    result = np.full(len(a), np.nan)
    if a.ndim == 4:
        axis = 1 if a.shape[1] <= 4 and a.shape[1] < a.shape[3] else 3
        a, b = a.sum(axis), b.sum(axis)
    if a.ndim != 3 or min(a.shape[1:]) < WINDOW:
        return result
    for i, pair in enumerate(zip(a, b, strict=True)):
        if all(np.isfinite(m).all() and m.any() for m in pair):
            result[i] = _similarity(*(m / np.abs(m).max() for m in pair))
    return result


def _similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Over windows, with sample covariances, of values between -1 and 1."""

    def mean(values: np.ndarray) -> np.ndarray:
        means: np.ndarray = np.lib.stride_tricks.sliding_window_view(values, (WINDOW, WINDOW)).mean((2, 3))
        return means

    c1, c2 = (2 * K1) ** 2, (2 * K2) ** 2
    sample = WINDOW**2 / (WINDOW**2 - 1)
    ma, mb = mean(a), mean(b)
    va, vb, vab = (sample * (mean(p) - q) for p, q in ((a * a, ma * ma), (b * b, mb * mb), (a * b, ma * mb)))
    return float((((2 * ma * mb + c1) * (2 * vab + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())
