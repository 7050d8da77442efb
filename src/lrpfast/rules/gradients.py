"""Gradients as composites, with what is made of them: baselines beside which LRP is shown.

Every layer has its true derivative (`Gradient`), and relevance starts with 1 in place of the explained output, so that
the backward pass of an explanation is that of the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import RuleError
from ..model.graph import Model
from ..model.layers import Activation, Dot, Embedding, Layer
from ..model.layers.base import whole
from ..model.node import Node
from . import roles
from .composites import Assignment, Composite
from .entries import Entry
from .rule import digits, number, short
from .weightless import Gradient

#: What may be made of a gradient before anything else, as iNNvestigate names it.
POSTPROCESSES = ("abs", "square")
#: How integrated gradients sum up the path; see `IntegrationPath`.
QUADRATURES = ("gausslegendre", "midpoint", "trapezoid", "mean")


@dataclass(frozen=True, repr=False, eq=False)
class IntegrationPath:
    """The straight path of integrated gradients, and how the integral over it is computed.

    Parameters
    ----------
    steps : int
    baseline : float or array
        Where the path begins: one value, or an array of one sample's shape (of several inputs a list).
    quadrature : {"gausslegendre", "midpoint", "trapezoid", "mean"}
        "gausslegendre" and "midpoint" are captum's "gausslegendre" and "riemann_middle"; "trapezoid" has points at
        both ends, which count half; "mean" has both ends and counts all points alike, as iNNvestigate does.

    Raises
    ------
    RuleError

    Examples
    --------
    >>> lrpfast.composites.IntegratedGradients(4, quadrature="midpoint").path.points()[0].tolist()
    [0.125, 0.375, 0.625, 0.875]
    """

    steps: int = 50
    baseline: Any = 0.0
    quadrature: str = "gausslegendre"

    __repr__ = short

    def __post_init__(self) -> None:
        least = 2 if self.quadrature in ("trapezoid", "mean") else 1
        if whole(self.steps) is None or self.steps < least:
            raise RuleError(
                f"integrated_gradients: steps must be a whole number of at least {least}, not {self.steps!r}"
            )
        if self.quadrature not in QUADRATURES:
            raise RuleError(
                f"integrated_gradients: quadrature must be one of {', '.join(map(repr, QUADRATURES))}, "
                f"not {self.quadrature!r}"
            )
        several = isinstance(self.baseline, (list, tuple)) and all(hasattr(b, "__array__") for b in self.baseline)
        baseline = [_constant(b) for b in self.baseline] if several else _constant(self.baseline)
        object.__setattr__(self, "baseline", baseline)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IntegrationPath):
            return NotImplemented
        mine, others = (self._arrays(), other._arrays())
        same = len(mine) == len(others) and all(np.array_equal(a, b) for a, b in zip(mine, others, strict=True))
        return same and (self.steps, self.quadrature) == (other.steps, other.quadrature)

    def __hash__(self) -> int:
        return hash((self.steps, self.quadrature))

    def _arrays(self) -> list[np.ndarray]:
        return self.baseline if isinstance(self.baseline, list) else [self.baseline]

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Where on the path the gradients are computed, from 0 to 1, and the weight of each."""
        n = self.steps
        if self.quadrature == "gausslegendre":
            at, weights = np.polynomial.legendre.leggauss(n)
            return (1 + at) / 2, weights / 2
        if self.quadrature == "midpoint":
            return (np.arange(n) + 0.5) / n, np.full(n, 1 / n)
        weights = np.full(n, 1 / n)
        if self.quadrature == "trapezoid":
            weights = np.full(n, 1 / (n - 1))
            weights[[0, -1]] /= 2
        return np.linspace(0, 1, n), weights

    def __str__(self) -> str:
        values = [digits(b.item()) if b.ndim == 0 else f"array {b.shape}" for b in self._arrays()]
        return f"integrated gradients, {self.steps} steps ({self.quadrature}), baseline {', '.join(values)}"


def _constant(value: Any) -> np.ndarray:
    """A baseline as a read-only float64 array."""
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError):
        raise RuleError(f"integrated_gradients: baseline must hold numbers, not {value!r:.80}") from None
    if not np.isfinite(array).all():
        raise RuleError("integrated_gradients: baseline must be finite")
    array.setflags(write=False)
    return array


@dataclass(frozen=True, repr=False)
class Noise:
    """The noise of SmoothGrad: normal, the same for equal samples, whatever stands beside them.

    Parameters
    ----------
    samples : int
        Noisy inputs whose gradients are averaged, for each sample.
    scale : float
        The noise's standard deviation, in the units of the input.
    seed : int

    Raises
    ------
    RuleError

    Examples
    --------
    >>> lrpfast.composites.SmoothGrad(samples=10, noise=0.1).noise.scale
    0.1
    """

    samples: int = 64
    scale: float = 1.0
    seed: int = 0

    __repr__ = short

    def __post_init__(self) -> None:
        if whole(self.samples) is None or self.samples < 1:
            raise RuleError(f"smoothgrad: samples must be a whole number of at least 1, not {self.samples!r}")
        if whole(self.seed) is None or self.seed < 0:
            raise RuleError(f"smoothgrad: seed must be a whole number, 0 or above, not {self.seed!r}")
        object.__setattr__(self, "scale", number(self.scale, "smoothgrad: noise"))
        if self.scale < 0:
            raise RuleError(f"smoothgrad: noise must not be below 0, not {self.scale}")

    def __str__(self) -> str:
        return f"SmoothGrad, {self.samples} noisy inputs, standard deviation {digits(self.scale)}, seed {self.seed}"


@dataclass(frozen=True, repr=False)
class GradientComposite(Composite):
    """The derivative of every layer, and what is made of the gradient; other composites cannot be joined to it.

    Attributes
    ----------
    times_input : bool
        Whether the gradient is multiplied by the input.
    postprocess : {None, "abs", "square"}
        What is taken of every gradient, before it is multiplied or averaged.
    path : IntegrationPath or None
    noise : Noise or None

    Examples
    --------
    >>> isinstance(lrpfast.composites.from_name("gradient"), lrpfast.composites.GradientComposite)
    True
    """

    times_input: bool = False
    postprocess: str | None = None
    path: IntegrationPath | None = None
    noise: Noise | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.postprocess is not None and self.postprocess not in POSTPROCESSES:
            raise RuleError(f"{self.name}: postprocess must be None, 'abs' or 'square', not {self.postprocess!r}")

    @property
    def averages(self) -> bool:
        """Whether gradients at several points are averaged."""
        return self.path is not None or self.noise is not None

    @property
    def passes(self) -> int:
        """The number of gradients for one explanation."""
        return self.path.steps if self.path else self.noise.samples if self.noise else 1

    def __or__(self, other: Composite) -> Composite:
        raise RuleError(f"{self.name} is the derivative of every layer: no layer can have another rule")

    __ror__ = __or__

    def assign(self, model: Model) -> Assignment:
        """The derivative, for every layer of a model.

        Raises
        ------
        RuleError
            When lrpfast has no derivative of a layer; the message names the layer.
        InputError
            When ``model`` is not a Model.
        """
        if isinstance(model, Model):
            for node in model.nodes:
                self._check(node)
        return super().assign(model)

    def _check(self, node: Node) -> None:
        layer, kind = node.layer, roles.role(node.layer)
        if isinstance(layer, Embedding) and (self.averages or not self.times_input):
            raise RuleError(
                f"{node}: an index of an embedding has no derivative, so that there is no {self.name}; "
                "input_t_gradient takes embedding times gradient, summed over channels, and LRP explains indices too"
            )
        if (kind is roles.NOTHING or kind.takes(Gradient())) and not (isinstance(layer, Dot) and layer.normalize):
            return
        of = "a normalized product" if isinstance(layer, Dot) else f"{_article(kind.name)}{kind.name}"
        cure = "LRP explains it, with the rule epsilon for one"
        raise RuleError(f"{node}: lrpfast has no derivative of {of}, so that there is no {self.name} here; {cure}")

    def __str__(self) -> str:
        parts = [str(self.path or self.noise or ("input × gradient" if self.times_input else "gradient"))]
        if self.postprocess is not None:
            parts.append({"abs": "absolute values", "square": "squares"}[self.postprocess])
        return ", ".join(parts)


def _article(name: str) -> str:
    return "" if name.endswith("normalization") else "a "


_ENTRIES = (Entry("default", Gradient(), None, (Layer,)), Entry("all", Gradient(), None, (Activation,)))


def Gradients(postprocess: str | None = None) -> GradientComposite:  # noqa: N802
    """The gradient of the explained output: how it changes with the input.

    Parameters
    ----------
    postprocess : {None, "abs", "square"}
        What is taken of the gradient.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0], [-2.0]]))])
    >>> lrpfast.Analyzer(model, lrpfast.composites.Gradients()).analyze(np.array([[3.0, 4.0]])).tolist()
    [[1.0, -2.0]]
    """
    return GradientComposite(_ENTRIES, "gradient", postprocess=postprocess)


def InputTimesGradient(postprocess: str | None = None) -> GradientComposite:  # noqa: N802
    """The gradient times the input; of embedded indices, embedding times gradient, summed over channels.

    Parameters
    ----------
    postprocess : {None, "abs", "square"}
        What is taken of the gradient, before it is multiplied.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0], [-2.0]]))])
    >>> lrpfast.Analyzer(model, lrpfast.composites.InputTimesGradient()).analyze(np.array([[3.0, 4.0]])).tolist()
    [[3.0, -8.0]]
    """
    return GradientComposite(_ENTRIES, "input_t_gradient", times_input=True, postprocess=postprocess)


def IntegratedGradients(  # noqa: N802
    steps: int = 50, baseline: Any = 0.0, quadrature: str = "gausslegendre", postprocess: str | None = None
) -> GradientComposite:
    """Gradients averaged from a baseline to the input, times the difference (Sundararajan et al. 2017).

    Relevance adds up to f(x) − f(baseline), but for the error of the quadrature:
    ``explain(x).completeness`` is the difference.

    Parameters
    ----------
    steps, baseline, quadrature
        As of `lrpfast.composites.IntegrationPath`; the defaults are captum's.
    postprocess : {None, "abs", "square"}
        What is taken of each gradient; relevance no longer adds up.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0], [-2.0]]), activation="relu")])
    >>> analyzer = lrpfast.Analyzer(model, lrpfast.composites.IntegratedGradients(), precision="float64")
    >>> analyzer.analyze(np.array([[5.0, 1.0]])).round(6).tolist()
    [[5.0, -2.0]]
    """
    path = IntegrationPath(steps, baseline, quadrature)
    return GradientComposite(_ENTRIES, "integrated_gradients", postprocess=postprocess, path=path)


def SmoothGrad(  # noqa: N802
    samples: int = 64, noise: float = 1.0, seed: int = 0, postprocess: str | None = None
) -> GradientComposite:
    """Gradients of inputs with noise, averaged (Smilkov et al. 2017).

    Parameters
    ----------
    samples : int
    noise : float
        The standard deviation, in the units of the input; 1, as in iNNvestigate and captum, suits standardized inputs.
    seed : int
        Equal samples have equal noise, in any batch and with any number of threads.
    postprocess : {None, "abs", "square"}
        What is taken of each gradient.

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.array([[1.0], [-2.0]]))])
    >>> lrpfast.Analyzer(model, lrpfast.composites.SmoothGrad(8)).analyze(np.array([[3.0, 4.0]])).tolist()
    [[1.0, -2.0]]
    """
    return GradientComposite(_ENTRIES, "smoothgrad", postprocess=postprocess, noise=Noise(samples, noise, seed))
