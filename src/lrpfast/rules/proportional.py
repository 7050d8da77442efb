"""Rules that distribute relevance in proportion to contributions x_i w_ij: 0, norm, epsilon and gamma."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from ..errors import RuleError
from .rule import BIAS, Group, Product, Rule, Stabilizer, WithBias


@dataclass(frozen=True, repr=False)
class Zero(WithBias):
    """LRP-0 (z rule): each input receives its share of z.

    R_i = Σ_j x_i w_ij / (z_j + stabilizer) · R_j with z_j = Σ_i x_i w_ij + b_j.

    Parameters
    ----------
    stabilizer : float or Stabilizer
    bias : {"absorb", "ignore", "distribute", "repeat"}

    References
    ----------
    Bach et al. (2015), equation 56; Montavon et al. (2019), section 10.2.1.

    Examples
    --------
    >>> layer, x = lrpfast.layers.Dense(np.array([[1.0], [-1.0], [3.0]])), np.array([[1.0, 1.0, 2.0]])
    >>> lrpfast.redistribute(lrpfast.rules.Zero(), layer, x, np.array([[6.0]])).round(3).tolist()
    [[1.0, -1.0, 6.0]]
    """

    _: KW_ONLY
    stabilizer: Any = 1e-9
    bias: str = "absorb"
    name: ClassVar[str] = "zero"
    conventions: ClassVar[tuple[str, ...]] = BIAS
    equation: ClassVar[str] = "R_i = sum_j x_i w_ij / z_j R_j"

    def groups(self) -> tuple[Group, ...]:
        return (self._group((Product("x", "w"),), "w"),)


@dataclass(frozen=True, repr=False)
class Norm(Rule):
    """Shares in proportion to each input's contribution: the z rule for sums and average pooling.

    R_i = x_i w_i / (Σ_i x_i w_i + stabilizer) · R.

    Parameters
    ----------
    stabilizer : float or Stabilizer

    References
    ----------
    zennit 0.5.1, ``Norm``.

    Examples
    --------
    >>> layer, x = lrpfast.layers.Add(), [np.array([[1.0]]), np.array([[3.0]])]
    >>> [r.round(3).tolist() for r in lrpfast.redistribute(lrpfast.rules.Norm(), layer, x, np.array([[8.0]]))]
    [[[2.0]], [[6.0]]]
    """

    _: KW_ONLY
    stabilizer: Any = 1e-6
    name: ClassVar[str] = "norm"
    equation: ClassVar[str] = "R_i = x_i w_i / sum_i x_i w_i R"

    def groups(self) -> tuple[Group, ...]:
        return (Group((Product("x", "w"),), self.stabilizer),)


@dataclass(frozen=True, repr=False)
class Epsilon(WithBias):
    """LRP-epsilon: the z rule with epsilon in the denominator.

    R_i = Σ_j x_i w_ij / (z_j + ε · sign(z_j)) · R_j, sign(0) = +1.

    Parameters
    ----------
    epsilon : float
        Above zero; in the units of z.
    bias : {"absorb", "ignore", "distribute", "repeat"}

    References
    ----------
    Bach et al. (2015), equation 58; Montavon et al. (2019), section 10.2.1.

    Examples
    --------
    >>> layer, x = lrpfast.layers.Dense(np.array([[1.0], [-1.0], [3.0]])), np.array([[1.0, 1.0, 2.0]])
    >>> lrpfast.redistribute(lrpfast.rules.Epsilon(0.6), layer, x, np.array([[6.6]])).round(3).tolist()
    [[1.0, -1.0, 6.0]]
    """

    epsilon: float = 1e-6
    _: KW_ONLY
    bias: str = "absorb"
    name: ClassVar[str] = "epsilon"
    conventions: ClassVar[tuple[str, ...]] = BIAS
    equation: ClassVar[str] = "R_i = sum_j x_i w_ij / (z_j + epsilon sign(z_j)) R_j"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon <= 0:
            raise RuleError(f"epsilon must be above zero, not {self.epsilon:g}")

    def groups(self) -> tuple[Group, ...]:
        return (self._group((Product("x", "w"),), "w", stabilizer=Stabilizer(self.epsilon)),)


@dataclass(frozen=True, repr=False)
class Gamma(WithBias):
    """LRP-gamma: contributions with the output's sign are multiplied by 1 + γ.

    Original: R_i = Σ_j x_i (w_ij + γ w_ij⁺) / Σ_i x_i (w_ij + γ w_ij⁺) · R_j.
    Generalized: where z_j > 0 the positive, where z_j < 0 the negative
    contributions x_i w_ij are multiplied by 1 + γ; where z_j = 0, inputs receive nothing.

    Parameters
    ----------
    gamma : float
        0 or above.
    generalized : bool
        Whether inputs and outputs of both signs are treated as above.
    scale_bias : bool
        Whether the bias is scaled like the weights.
    stabilizer : float or Stabilizer
    bias : {"absorb", "ignore", "distribute", "repeat"}

    References
    ----------
    Montavon et al. (2019), section 10.2.1; Andéol et al. (2021), appendix B (generalized).

    Examples
    --------
    >>> layer, x = lrpfast.layers.Dense(np.array([[1.0], [-1.0], [3.0]])), np.array([[1.0, 1.0, 2.0]])
    >>> lrpfast.redistribute(lrpfast.rules.Gamma(1.0), layer, x, np.array([[6.5]])).round(3).tolist()
    [[1.0, -0.5, 6.0]]
    """

    gamma: float = 0.25
    _: KW_ONLY
    generalized: bool = True
    scale_bias: bool = True
    stabilizer: Any = 1e-6
    bias: str = "absorb"
    name: ClassVar[str] = "gamma"
    conventions: ClassVar[tuple[str, ...]] = BIAS
    equation: ClassVar[str] = "R_i = sum_j x_i (w_ij + gamma w_ij+) / sum_i x_i (w_ij + gamma w_ij+) R_j"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma < 0:
            raise RuleError(f"gamma must be 0 or above, not {self.gamma:g}")

    def groups(self) -> tuple[Group, ...]:
        up, down = "w+gw+", "w+gw-"
        bias_up, bias_down = (up, down) if self.scale_bias else ("w", "w")
        if not self.generalized:
            return (self._group((Product("x", up),), bias_up),)
        return (
            self._group((Product("x+", up), Product("x-", down)), bias_up, mask=1),
            self._group((Product("x+", down), Product("x-", up)), bias_down, mask=-1),
        )
