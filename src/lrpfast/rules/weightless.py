"""Rules for layers without weights: activations, moves, products, the softmax, normalization."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from ..errors import RuleError
from .rule import Rule, Stabilizer

#: What `Split` may name: which factors of a product get relevance.
SIDES = ("each", "signal", "first", "last", "prop", "abs")


@dataclass(frozen=True, repr=False)
class Pass(Rule):
    """Pass relevance on unchanged: R_in = R.

    The rule of activations, reshapes and inference no-ops (Bach et al. 2015, section 2.3).

    Examples
    --------
    >>> layer = lrpfast.layers.Activation("tanh")
    >>> lrpfast.redistribute(lrpfast.rules.Pass(), layer, np.array([[0.5, -2.0]]), np.array([[1.0, 2.0]])).tolist()
    [[1.0, 2.0]]
    """

    name: ClassVar[str] = "pass"
    equation: ClassVar[str] = "R_in = R"

    @property
    def multiplies_input(self) -> bool:
        return True


@dataclass(frozen=True, repr=False)
class Gradient(Rule):
    """Multiply relevance by the layer's derivative: R_in,i = Σ_j ∂y_j/∂x_i R_j.

    As the rule of all layers it is the gradient, `lrpfast.composites.Gradients`; some composites have it for layers
    without weights: excitation backprop for activations, deep Taylor for activations, sums and batch normalization.
    It does not conserve relevance; the report counts the difference as lost.

    References
    ----------
    iNNvestigate 2.1.2, ``DeepTaylor``; zennit 0.5.1, ``ExcitationBackprop``.

    Examples
    --------
    >>> layer = lrpfast.layers.Activation("relu")
    >>> lrpfast.redistribute(lrpfast.rules.Gradient(), layer, np.array([[0.5, -2.0]]), np.array([[1.0, 2.0]])).tolist()
    [[1.0, 0.0]]
    """

    name: ClassVar[str] = "gradient"
    equation: ClassVar[str] = "R_i = sum_j dy_j/dx_i R_j"

    @property
    def multiplies_input(self) -> bool:
        return False


@dataclass(frozen=True, repr=False)
class Split(Rule):
    """Divide a product's relevance among its factors, equally or to those named: R_k = R / n.

    For a product of matrices, z = Σ_k a_k b_k, each factor gets half of every
    summand's share: R_a,k = ½ Σ a_k b_k / (z + stabilizer) R; a single one that is named gets all of it.

    Parameters
    ----------
    to : {"each", "signal", "first", "last", "prop", "abs"} or tuple of int
        Which factors get relevance, n of them: all; those that are no gates, which are what an activation function
        gives where another factor is none (of two activations a sigmoid or softmax is the gate); or by place.
        "prop" and "abs" give each factor of an elementwise product a share in proportion to its value a_k, or to
        |a_k|: R_k = a_k / (Σ a_k + stabilizer) R.
        What is computed from masks alone never gets any.
    stabilizer : float or Stabilizer
        The stabilizer of products of matrices, and of "prop" and "abs".

    Raises
    ------
    RuleError
        When ``to`` is something else, or, of a composite, names a factor that a layer does not have.

    References
    ----------
    Achtibat et al. (2024), proposition 3.3; for gates, prop and abs Arras et al. (2019).

    Examples
    --------
    >>> layer, x = lrpfast.layers.Multiply(), [np.array([[2.0]]), np.array([[5.0]])]
    >>> [r.tolist() for r in lrpfast.redistribute(lrpfast.rules.Split(), layer, x, np.array([[10.0]]))]
    [[[5.0]], [[5.0]]]
    >>> [r.tolist() for r in lrpfast.redistribute(lrpfast.rules.Split(to="last"), layer, x, np.array([[10.0]]))]
    [[[0.0]], [[10.0]]]
    """

    _: KW_ONLY
    to: Any = "each"
    stabilizer: Any = 1e-6
    name: ClassVar[str] = "split"
    equation: ClassVar[str] = "R_k = R / n"

    def __post_init__(self) -> None:
        super().__post_init__()
        named = isinstance(self.to, str) and self.to in SIDES
        places = isinstance(self.to, tuple) and self.to and all(isinstance(k, int) and k >= 0 for k in self.to)
        if not named and not places:
            raise RuleError(
                f"split: to is one of {', '.join(map(repr, SIDES))} or a tuple of the factors' numbers, not {self.to!r}"
            )

    @property
    def multiplies_input(self) -> bool:
        return False


@dataclass(frozen=True, repr=False)
class AttnLRP(Rule):
    """Attention by its Taylor expansions: values get half, queries and keys the rest through the softmax.

    With s = R / (z + stabilizer) of each product z: R_v = ½ v ⊙ (aᵀ s), R_a = ½ a ⊙ (s vᵀ); R_x = x ⊙ (R_a − a Σ R_a)
    for the softmax's argument x; of what the scores q kᵀ then get, R_q = ½ q ⊙ (s k), R_k = ½ k ⊙ (sᵀ q). A bias of the
    scores keeps its share. Of any other product each factor gets an equal share, as under `Split`.

    Parameters
    ----------
    stabilizer : float or Stabilizer
        Of the products of weights and values.
    scores : float or Stabilizer, optional
        Of the products of queries and keys; as ``stabilizer`` when None.
    sums : float or Stabilizer, optional
        Of the sums of scores and bias, of the same kind as ``scores``; as that one when None.
    masks : bool
        Whether ``sums`` applies to a mask or window of `Attention`, too, which adds 0 to scores that are seen.

    Raises
    ------
    RuleError
        When ``scores`` and ``sums`` are of two kinds.

    References
    ----------
    Achtibat et al. (2024), AttnLRP, propositions 3.1 to 3.3; ``scores``, ``sums`` and ``masks`` are for the numbers of
    LXT 2.1, ``lxt.explicit``.

    Examples
    --------
    >>> layer, x = lrpfast.layers.Attention(), [np.ones((1, 2, 1))] * 3
    >>> r = lrpfast.redistribute(lrpfast.rules.AttnLRP(), layer, x, np.array([[[1.0], [0.0]]]), precision="float64")
    >>> [a.ravel().round(3).tolist() for a in r]
    [[0.0, 0.0], [0.0, 0.0], [0.25, 0.25]]
    """

    _: KW_ONLY
    stabilizer: Any = 1e-6
    scores: Any = None
    sums: Any = None
    masks: bool = False
    name: ClassVar[str] = "attn"
    equation: ClassVar[str] = "R_v = v * a^T s / 2, R_x = x (R_a - a sum R_a), R_q = q * s k / 2"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scores", "sums"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Stabilizer):
                object.__setattr__(self, name, Stabilizer(value))
        scores, sums = self.of_scores()
        if scores.kind != sums.kind:
            raise RuleError(f"{self.name}: scores and sums must be of one kind, not {scores} and {sums}")

    def of_scores(self) -> tuple[Stabilizer, Stabilizer]:
        """The stabilizers of the products of queries and keys, and of their sums with a bias."""
        scores = self.stabilizer if self.scores is None else self.scores
        return scores, scores if self.sums is None else self.sums

    @property
    def multiplies_input(self) -> bool:
        return True


@dataclass(frozen=True, repr=False)
class CP(Rule):
    """Conservative propagation: attention hands all relevance to the values, R_v = v ⊙ (aᵀ R / (z + stabilizer)).

    Weights of attention are constants, so that queries and keys get none. Of any other product the signal gets all, as
    under ``Split(to="signal")``.

    Parameters
    ----------
    stabilizer : float or Stabilizer
        Of the product of weights and values.

    References
    ----------
    Ali et al. (2022), section 3.1; CP-LRP in Achtibat et al. (2024).

    Examples
    --------
    >>> layer, x = lrpfast.layers.Attention(), [np.ones((1, 2, 1))] * 3
    >>> r = lrpfast.redistribute(lrpfast.rules.CP(), layer, x, np.array([[[1.0], [0.0]]]), precision="float64")
    >>> [a.ravel().round(3).tolist() for a in r]
    [[0.0, 0.0], [0.0, 0.0], [0.5, 0.5]]
    """

    _: KW_ONLY
    stabilizer: Any = 1e-6
    name: ClassVar[str] = "cp"
    equation: ClassVar[str] = "R_v = v * a^T s, s = R / z"

    @property
    def multiplies_input(self) -> bool:
        return True


@dataclass(frozen=True, repr=False)
class Taylor(Rule):
    """The softmax's first-order Taylor expansion at its input: R_in,i = x_i (R_i − s_i Σ_j R_j).

    References
    ----------
    Achtibat et al. (2024), proposition 3.1.

    Examples
    --------
    >>> layer = lrpfast.layers.Activation("softmax")
    >>> lrpfast.redistribute(lrpfast.rules.Taylor(), layer, np.array([[1.0, 1.0]]), np.array([[2.0, 0.0]])).tolist()
    [[2.0, 0.0]]
    """

    name: ClassVar[str] = "taylor"
    equation: ClassVar[str] = "R_i = x_i (R_i - s_i sum_j R_j)"

    @property
    def multiplies_input(self) -> bool:
        return True


@dataclass(frozen=True, repr=False)
class Detached(Rule):
    """A normalization as a linear layer, its standard deviation taken as a constant.

    R_in,i = Σ_j x_i ∂y_j/∂x_i / (y_j + stabilizer) R_j, with σ fixed; β is in y.

    Parameters
    ----------
    stabilizer : float or Stabilizer

    References
    ----------
    Ali et al. (2022), section 3.2; Achtibat et al. (2024), section 3.3.

    Examples
    --------
    >>> layer, x = lrpfast.layers.LayerNorm(np.ones(2), np.zeros(2)), np.array([[1.0, 4.0]])
    >>> lrpfast.redistribute(lrpfast.rules.Detached(), layer, x, np.array([[1.0, 1.0]])).round(2).tolist()
    [[-0.67, 2.67]]
    """

    _: KW_ONLY
    stabilizer: Any = 1e-6
    name: ClassVar[str] = "detached"
    equation: ClassVar[str] = "R_i = sum_j x_i dy_j/dx_i / y_j R_j, sigma constant"

    @property
    def multiplies_input(self) -> bool:
        return True
