"""The rule of recurrent layers: epsilon on all sums, and what becomes of products of gates and signals."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from ..errors import RuleError
from .proportional import Epsilon

#: What of a product's relevance goes to the gate.
PRODUCTS = ("signal", "half", "prop", "abs")


@dataclass(frozen=True, repr=False)
class Recurrent(Epsilon):
    """LRP for LSTM, GRU and simple recurrent layers; on layers with weights the epsilon rule.

    Every sum shares relevance out as `Epsilon` does: a pre-activation x W + h U + b is one sum of all features and
    units, c = f c′ + i g and h = z h′ + (1 − z) n are sums of two parts. R of h = o tanh(c) goes on to c. A product of
    a gate (i, f, o, z, 1 − z, r) and a signal hands its relevance on as ``product`` says; a gate's relevance is shared
    out over its own pre-activation.

    Parameters
    ----------
    epsilon : float
        Above zero; the same in every sum, that of the first step too.
    product : {"signal", "half", "prop", "abs"}
        "signal" gives all to the signal (LRP-all), "half" half to each, "prop" in proportion to gate and signal,
        "abs" in proportion to their absolute values.
    bias : {"absorb", "ignore", "distribute", "share"}
        "share" gives equal parts of what biases and stabilizers take to all inputs of their sum, so that relevance
        is conserved, that of the initial states included. Of layers with weights only `Dense` takes it.

    References
    ----------
    Arras et al. (2017), arXiv:1706.07206; Arras et al. (2019), in Samek et al., Explainable AI, chapter 11.

    Examples
    --------
    >>> layer = lrpfast.layers.SimpleRNN(np.array([[1.0]]), np.array([[1.0]]), cell_activation=None)
    >>> rule = lrpfast.rules.Recurrent(1e-9)
    >>> lrpfast.redistribute(rule, layer, np.array([[[1.0], [3.0]]]), np.array([[4.0]])).round(6).tolist()
    [[[1.0], [3.0]]]
    """

    _: KW_ONLY
    product: str = "signal"
    name: ClassVar[str] = "recurrent"
    conventions: ClassVar[tuple[str, ...]] = ("absorb", "ignore", "distribute", "share")
    equation: ClassVar[str] = "epsilon in every sum; a product's relevance goes to the signal"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.product, str) or self.product not in PRODUCTS:
            raise RuleError(
                f"recurrent: product={self.product!r} is unknown; choose from {', '.join(map(repr, PRODUCTS))}"
            )

    @property
    def multiplies_input(self) -> bool:
        return self.bias != "share" and super().multiplies_input
