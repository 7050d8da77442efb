"""Rules that separate positive and negative contributions: αβ, z⁺ and iNNvestigate's four-way αβ."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from ..errors import RuleError
from .rule import BIAS, Group, Product, WithBias, number

#: The bias conventions of rules with two denominators; "full" puts the whole bias into both.
_BIAS = ("absorb", "ignore", "full", "distribute", "repeat")


def _alpha_beta(rule: AlphaBeta | ZPlus, alpha: float, beta: float) -> tuple[Group, ...]:
    if rule.split_input:
        agree: tuple[Product, ...] = (Product("x+", "w+"), Product("x-", "w-"))
        oppose: tuple[Product, ...] = (Product("x+", "w-"), Product("x-", "w+"))
    else:
        agree, oppose = (Product("x", "w+"),), (Product("x", "w-"),)
    groups = (rule._group(agree, "w+", coefficient=alpha),)
    return groups + ((rule._group(oppose, "w-", coefficient=-beta),) if beta else ())


@dataclass(frozen=True, repr=False)
class AlphaBeta(WithBias):
    """LRP-αβ: positive and negative contributions are redistributed separately.

    R_i = Σ_j (α (x_i w_ij)⁺ / Σ_i (x_i w_ij)⁺ − β (x_i w_ij)⁻ / Σ_i (x_i w_ij)⁻) R_j.

    Parameters
    ----------
    alpha, beta : float
        With alpha − beta = 1 and beta ≥ 0.
    split_input : bool
        True splits contributions x_i w_ij by their sign; False splits only the
        weights (captum's convention), which is the same for x ≥ 0.
    stabilizer : float or Stabilizer
    bias : {"absorb", "ignore", "full", "distribute", "repeat"}
        "absorb" puts b⁺ in the α and b⁻ in the β denominator; "full" is
        iNNvestigate's: the whole signed bias in both.

    References
    ----------
    Bach et al. (2015), equation 60.

    Examples
    --------
    >>> layer, x = lrpfast.layers.Dense(np.array([[1.0], [-1.0], [3.0]])), np.array([[1.0, 1.0, 2.0]])
    >>> lrpfast.redistribute(lrpfast.rules.AlphaBeta(2, 1), layer, x, np.array([[7.0]])).round(3).tolist()
    [[2.0, -7.0, 12.0]]
    """

    alpha: float = 2.0
    beta: float = 1.0
    _: KW_ONLY
    split_input: bool = True
    stabilizer: Any = 1e-6
    bias: str = "absorb"
    name: ClassVar[str] = "alpha_beta"
    conventions: ClassVar[tuple[str, ...]] = _BIAS
    equation: ClassVar[str] = "R_i = sum_j (alpha z_ij+ / sum_i z_ij+ - beta z_ij- / sum_i z_ij-) R_j"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isclose(self.alpha - self.beta, 1.0, rel_tol=1e-9, abs_tol=1e-9):
            raise RuleError(
                f"alpha - beta must be 1, but alpha={self.alpha:g}, beta={self.beta:g} give {self.alpha - self.beta:g}"
            )
        if self.beta < 0:
            raise RuleError(f"beta must be 0 or above, not {self.beta:g}")

    def groups(self) -> tuple[Group, ...]:
        return _alpha_beta(self, self.alpha, self.beta)


@dataclass(frozen=True, repr=False)
class ZPlus(WithBias):
    """LRP-z⁺: αβ with alpha = 1 and beta = 0, positive contributions only.

    R_i = Σ_j (x_i w_ij)⁺ / Σ_i (x_i w_ij)⁺ · R_j.

    Parameters
    ----------
    split_input : bool
    stabilizer : float or Stabilizer
    bias : {"absorb", "ignore", "full", "distribute", "repeat"}

    References
    ----------
    Montavon et al. (2017), equation 11.

    Examples
    --------
    >>> layer, x = lrpfast.layers.Dense(np.array([[1.0], [-1.0], [3.0]])), np.array([[1.0, 1.0, 2.0]])
    >>> lrpfast.redistribute(lrpfast.rules.ZPlus(), layer, x, np.array([[7.0]])).round(3).tolist()
    [[1.0, 0.0, 6.0]]
    """

    _: KW_ONLY
    split_input: bool = True
    stabilizer: Any = 1e-6
    bias: str = "absorb"
    name: ClassVar[str] = "z_plus"
    conventions: ClassVar[tuple[str, ...]] = _BIAS
    equation: ClassVar[str] = "R_i = sum_j z_ij+ / sum_i z_ij+ R_j"

    def groups(self) -> tuple[Group, ...]:
        return _alpha_beta(self, 1.0, 0.0)


@dataclass(frozen=True, repr=False)
class AlphaBetaX(WithBias):
    """iNNvestigate's four-way αβ: every sign pair of x and w over its own denominator.

    R_i = Σ_j (α₀ x⁺w⁺/Σx⁺w⁺ + α₁ x⁻w⁻/Σx⁻w⁻ − β₀ x⁺w⁻/Σx⁺w⁻ − β₁ x⁻w⁺/Σx⁻w⁺) R_j.

    Parameters
    ----------
    alpha, beta : pair of float
    stabilizer : float or Stabilizer
    bias : {"absorb", "ignore", "distribute", "repeat"}
        Each denominator has the part of b with the sign of its weights.

    References
    ----------
    iNNvestigate 2.1.2, ``AlphaBetaXRule`` (which applies β₁ where α₁ was meant).

    Examples
    --------
    >>> layer, x = lrpfast.layers.Dense(np.array([[1.0], [-1.0], [3.0]])), np.array([[1.0, 1.0, 2.0]])
    >>> rule = lrpfast.rules.AlphaBetaX((1.0, 0.0), (0.5, 0.5))
    >>> lrpfast.redistribute(rule, layer, x, np.array([[7.0]])).round(3).tolist()
    [[1.0, -3.5, 6.0]]
    """

    alpha: tuple[float, float] = (0.5, 0.5)
    beta: tuple[float, float] = (0.5, 0.5)
    _: KW_ONLY
    stabilizer: Any = 1e-6
    bias: str = "absorb"
    name: ClassVar[str] = "alpha_beta_x"
    conventions: ClassVar[tuple[str, ...]] = BIAS
    equation: ClassVar[str] = "alpha_0 x+w+, alpha_1 x-w-, -beta_0 x+w-, -beta_1 x-w+, each over its own sum"

    def __post_init__(self) -> None:
        for key in ("alpha", "beta"):
            value = getattr(self, key)
            if not isinstance(value, (tuple, list)) or len(value) != 2:
                raise RuleError(f"{self.name}: {key} is a pair of numbers, not {value!r}")
            object.__setattr__(self, key, tuple(number(v, f"{self.name}: {key}") for v in value))
        super().__post_init__()

    def groups(self) -> tuple[Group, ...]:
        signs = (
            *(("x+", "w+", self.alpha[0]), ("x-", "w-", self.alpha[1])),
            *(("x+", "w-", -self.beta[0]), ("x-", "w+", -self.beta[1])),
        )
        return tuple(self._group((Product(x, w),), w, coefficient=c) for x, w, c in signs if c)
