"""Rules for layers without weights: activations, moves, products, the softmax, normalization."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from .rule import Rule


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

    For activations, sums and batch normalization, in excitation backprop (activations) and
    deep Taylor (layers without weights).
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
    """Divide a product's relevance equally among its factors: R_k = R / n.

    For a product of matrices, z = Σ_k a_k b_k, each factor gets half of every
    summand's share: R_a,k = ½ Σ a_k b_k / (z + stabilizer) R.

    Parameters
    ----------
    stabilizer : float or Stabilizer
        The stabilizer of products of matrices.

    References
    ----------
    Achtibat et al. (2024), proposition 3.3.

    Examples
    --------
    >>> layer, x = lrpfast.layers.Multiply(), [np.array([[2.0]]), np.array([[5.0]])]
    >>> [r.tolist() for r in lrpfast.redistribute(lrpfast.rules.Split(), layer, x, np.array([[10.0]]))]
    [[[5.0]], [[5.0]]]
    """

    _: KW_ONLY
    stabilizer: Any = 1e-6
    name: ClassVar[str] = "split"
    equation: ClassVar[str] = "R_k = R / n"

    @property
    def multiplies_input(self) -> bool:
        return False


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
