"""Rules as data: each LRP rule is a list of groups, written once.

For a linear layer z = x W + b, every group g of a rule contributes

    z_g  = Σ_products sign · part(x) · part(W) + part(b)
    s_g  = mask_g · R / stabilize(z_g)
    R_in = Σ_g coefficient_g · Σ_products sign · part(x) ⊙ (s_g · part(W)ᵀ)

and nothing else in lrpfast knows a rule's formula. A new rule is a class here
with a ``groups`` method, an oracle function in ``tests/oracle.py`` and a line in
``docs/rules.md``.

Parts of x: ``x``, ``x+``, ``x-``, ``1``, ``low``, ``high``. Parts of W and b:
``w``, ``w+``, ``w-``, ``w^2``, ``1``, ``w+gw+`` (w + γw⁺) and ``w+gw-``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, MISSING, dataclass, fields
from typing import Any, ClassVar

import numpy as np

from ..errors import RuleError
from ..names import unknown

#: Bias conventions, in the order that messages list them.
BIAS = ("absorb", "ignore", "full", "distribute", "repeat")

#: Weight and bias parts: name -> function of the array and gamma.
WEIGHT_PARTS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "w": lambda w, g: w,
    "w+": lambda w, g: np.maximum(w, 0),
    "w-": lambda w, g: np.minimum(w, 0),
    "w^2": lambda w, g: w * w,
    "1": lambda w, g: np.ones_like(w),
    "w+gw+": lambda w, g: w + w.dtype.type(g) * np.maximum(w, 0),
    "w+gw-": lambda w, g: w + w.dtype.type(g) * np.minimum(w, 0),
}


def changed(thing: Any) -> dict[str, Any]:
    """The fields of a dataclass here that differ from their defaults, and those that have none."""
    found = {}
    for f in fields(thing):
        value, default = getattr(thing, f.name), f.default
        if isinstance(value, Stabilizer) and isinstance(default, (int, float)):
            default = Stabilizer(default)
        if isinstance(value, np.ndarray) or value != default:
            found[f.name] = value
    return found


def short(thing: Any) -> str:
    """The repr of a dataclass here, without the fields that have their defaults: ``Epsilon(epsilon=0.1)``."""
    needed = {f.name for f in fields(thing) if f.default is MISSING}
    shown = (_value(v) if key in needed else f"{key}={_value(v)}" for key, v in changed(thing).items())
    return f"{type(thing).__name__}({', '.join(shown)})"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_value, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, np.ndarray):
        return f"array of shape {value.shape}" if value.ndim else repr(value.item())
    return value.__name__ if isinstance(value, type) else repr(value)


@dataclass(frozen=True)
class Stabilizer:
    """What keeps a denominator away from zero.

    Parameters
    ----------
    value : float
        Above zero.
    kind : {"sign", "zero"}
        "sign" adds value · sign(z) with sign(0) = +1; "zero" adds it only where
        z == 0 (iNNvestigate's convention).

    Examples
    --------
    >>> lrpfast.rules.Zero(stabilizer=lrpfast.rules.Stabilizer(1e-7, "zero")).stabilizer.kind
    'zero'
    >>> str(lrpfast.rules.Stabilizer(1e-6))
    '1e-06·sign'
    """

    value: float
    kind: str = "sign"

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _number(self.value, "stabilizer"))
        if self.value <= 0:
            raise RuleError(f"a stabilizer must be above zero, not {self.value}")
        if self.kind not in ("sign", "zero"):
            raise RuleError(f"a stabilizer's kind is 'sign' or 'zero', not {self.kind!r}")

    __repr__ = short

    def __str__(self) -> str:
        return f"{self.value:g}·sign" if self.kind == "sign" else f"{self.value:g} where z = 0"


@dataclass(frozen=True)
class Product:
    """sign · part(x) · part(W), one product of a group's sum.

    Parameters
    ----------
    input : {"x", "x+", "x-", "1", "low", "high"}
        The part of x.
    weight : str
        The part of W, a key of ``WEIGHT_PARTS``.
    sign : {1, -1}
    of : {"kernel", "bias", "bias/n"}
        Whose part the weight is: "bias" is the bias written into every row of a matrix shaped
        like W, "bias/n" the same divided by the number of inputs. These are the two conventions
        that give the inputs a share of the bias.

    Examples
    --------
    >>> product = lrpfast.rules.Zero().groups()[0].products[0]
    >>> product.input, product.weight, product.sign
    ('x', 'w', 1)
    """

    input: str
    weight: str
    sign: int = 1
    of: str = "kernel"

    __repr__ = short


@dataclass(frozen=True)
class Group:
    """One term of a rule: products over a common denominator.

    Parameters
    ----------
    products : tuple of Product
    stabilizer : Stabilizer
    bias : str, optional
        The part of the bias in the denominator, a key of ``WEIGHT_PARTS``; None for no bias.
    coefficient : float
        What the term is multiplied by.
    mask : {0, 1, -1}
        Not 0: only outputs whose z, bias included, has this sign.

    Examples
    --------
    >>> group, = lrpfast.rules.Epsilon(0.1).groups()
    >>> group.products[0].input, group.products[0].weight, group.bias, group.stabilizer.value
    ('x', 'w', 'w', 0.1)
    """

    products: tuple[Product, ...]
    stabilizer: Stabilizer
    bias: str | None = None
    coefficient: float = 1.0
    mask: int = 0

    __repr__ = short


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise RuleError(f"{what} must be a number, not {value!r}")
    if not math.isfinite(value):
        raise RuleError(f"{what} must be finite, not {value}")
    return float(value)


@dataclass(frozen=True, eq=False)  # a rule without an own __eq__ is equal to itself alone
class Rule:
    """Base of every rule. Rules are immutable, comparable and picklable.

    Examples
    --------
    >>> lrpfast.rules.Gamma(0.5) == lrpfast.rules.from_name("gamma", gamma=0.5)
    True
    >>> [issubclass(rule, lrpfast.rules.Rule) for rule in (lrpfast.rules.Flat, lrpfast.rules.Pass)]
    [True, True]
    """

    name: ClassVar[str] = ""
    #: bias conventions that make sense for the rule
    conventions: ClassVar[tuple[str, ...]] = ()
    equation: ClassVar[str] = ""

    __repr__ = short

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "stabilizer" and not isinstance(value, Stabilizer):
                object.__setattr__(self, "stabilizer", Stabilizer(value))
            elif f.type == "float":
                object.__setattr__(self, f.name, _number(value, f"{self.name}: {f.name}"))
            elif f.name == "bias" and value not in self.conventions:
                raise RuleError(
                    f"{self.name}: bias={value!r} is not a convention of this rule; "
                    f"choose from {', '.join(map(repr, self.conventions))}"
                )
            elif f.type == "bool" and not isinstance(getattr(self, f.name), bool):
                raise RuleError(f"{self.name}: {f.name} is True or False, not {getattr(self, f.name)!r}")

    def groups(self) -> tuple[Group, ...]:
        """The rule as data; see the module's docstring.

        Raises
        ------
        RuleError
            Of a rule that is none for layers with weights, such as `Pass`.
        """
        raise RuleError(f"{type(self).__name__} has no groups: it is no rule for layers with weights")

    @property
    def multiplies_input(self) -> bool:
        """Whether relevance is proportional to x, so that x = 0 receives none."""
        return all(p.input in ("x", "x+", "x-") for g in self.groups() for p in g.products)


class _WithBias(Rule):
    """Base of the rules that have a bias convention; no dataclass, so that its annotations are no fields."""

    stabilizer: Any
    bias: str

    def _group(self, products: tuple[Product, ...], bias: str, **rest: Any) -> Group:
        """A group under this rule's bias convention; ``bias`` is the group's own bias part."""
        stabilizer = rest.pop("stabilizer", None) or self.stabilizer
        convention = self.bias
        if convention in ("distribute", "repeat"):
            of = "bias" if convention == "repeat" else "bias/n"
            return Group((*products, Product("1", bias, of=of)), stabilizer, None, **rest)
        part = {"absorb": bias, "ignore": None, "full": "w"}[convention]
        return Group(products, stabilizer, part, **rest)


@dataclass(frozen=True, repr=False)
class Pass(Rule):
    """Hand relevance through unchanged: R_in = R.

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

    For activations, sums and batch normalization, where an analyzer asks for it:
    excitation backprop's activations, deep Taylor's layers without weights.
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
    """Share a product's relevance equally among its factors: R_k = R / n.

    For a product of matrices, z = Σ_k a_k b_k, each factor gets half of every
    summand's share: R_a,k = ½ Σ a_k b_k / (z + stabilizer) R.

    Parameters
    ----------
    stabilizer : float or Stabilizer
        Of products of matrices.

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


@dataclass(frozen=True, repr=False)
class Zero(_WithBias):
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
    conventions: ClassVar[tuple[str, ...]] = ("absorb", "ignore", "distribute", "repeat")
    equation: ClassVar[str] = "R_i = sum_j x_i w_ij / z_j R_j"

    def groups(self) -> tuple[Group, ...]:
        return (self._group((Product("x", "w"),), "w"),)


@dataclass(frozen=True, repr=False)
class Norm(Rule):
    """Shares in proportion to what each input adds to a sum: the z rule for sums and average pooling.

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
class Epsilon(_WithBias):
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
    conventions: ClassVar[tuple[str, ...]] = Zero.conventions
    equation: ClassVar[str] = "R_i = sum_j x_i w_ij / (z_j + epsilon sign(z_j)) R_j"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon <= 0:
            raise RuleError(f"epsilon must be above zero, not {self.epsilon:g}")

    def groups(self) -> tuple[Group, ...]:
        return (self._group((Product("x", "w"),), "w", stabilizer=Stabilizer(self.epsilon)),)


@dataclass(frozen=True, repr=False)
class Gamma(_WithBias):
    """LRP-gamma: contributions of the output's own sign are favoured by 1 + γ.

    Original: R_i = Σ_j x_i (w_ij + γ w_ij⁺) / Σ_i x_i (w_ij + γ w_ij⁺) · R_j.
    Generalized: where z_j > 0 the positive, where z_j < 0 the negative
    contributions x_i w_ij are scaled by 1 + γ; nothing passes where z_j = 0.

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
    conventions: ClassVar[tuple[str, ...]] = Zero.conventions
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


def _alpha_beta(rule: AlphaBeta | ZPlus, alpha: float, beta: float) -> tuple[Group, ...]:
    if rule.split_input:
        agree: tuple[Product, ...] = (Product("x+", "w+"), Product("x-", "w-"))
        oppose: tuple[Product, ...] = (Product("x+", "w-"), Product("x-", "w+"))
    else:
        agree, oppose = (Product("x", "w+"),), (Product("x", "w-"),)
    groups = (rule._group(agree, "w+", coefficient=alpha),)
    return groups + ((rule._group(oppose, "w-", coefficient=-beta),) if beta else ())


@dataclass(frozen=True, repr=False)
class AlphaBeta(_WithBias):
    """LRP-αβ: positive and negative contributions redistributed apart.

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
    conventions: ClassVar[tuple[str, ...]] = BIAS
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
class ZPlus(_WithBias):
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
    conventions: ClassVar[tuple[str, ...]] = BIAS
    equation: ClassVar[str] = "R_i = sum_j z_ij+ / sum_i z_ij+ R_j"

    def groups(self) -> tuple[Group, ...]:
        return _alpha_beta(self, 1.0, 0.0)


@dataclass(frozen=True, repr=False)
class AlphaBetaX(_WithBias):
    """iNNvestigate's four-way αβ: every sign pair of x and w over its own denominator.

    R_i = Σ_j (α₀ x⁺w⁺/Σx⁺w⁺ + α₁ x⁻w⁻/Σx⁻w⁻ − β₀ x⁺w⁻/Σx⁺w⁻ − β₁ x⁻w⁺/Σx⁻w⁺) R_j.

    Parameters
    ----------
    alpha, beta : pair of float
    stabilizer : float or Stabilizer
    bias : {"absorb", "ignore", "distribute", "repeat"}
        Each denominator has the part of b that has its weight's sign.

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
    conventions: ClassVar[tuple[str, ...]] = Zero.conventions
    equation: ClassVar[str] = "alpha_0 x+w+, alpha_1 x-w-, -beta_0 x+w-, -beta_1 x-w+, each over its own sum"

    def __post_init__(self) -> None:
        for key in ("alpha", "beta"):
            value = getattr(self, key)
            if not isinstance(value, (tuple, list)) or len(value) != 2:
                raise RuleError(f"{self.name}: {key} is a pair of numbers, not {value!r}")
            object.__setattr__(self, key, tuple(_number(v, f"{self.name}: {key}") for v in value))
        super().__post_init__()

    def groups(self) -> tuple[Group, ...]:
        signs = (
            *(("x+", "w+", self.alpha[0]), ("x-", "w-", self.alpha[1])),
            *(("x+", "w-", -self.beta[0]), ("x-", "w+", -self.beta[1])),
        )
        return tuple(self._group((Product(x, w),), w, coefficient=c) for x, w, c in signs if c)


@dataclass(frozen=True, repr=False)
class WSquare(_WithBias):
    """LRP-w²: relevance by squared weights, whatever the input.

    R_i = Σ_j w_ij² / Σ_i w_ij² · R_j.

    Parameters
    ----------
    stabilizer : float or Stabilizer
    bias : {"ignore", "absorb"}
        "absorb" puts b² in the denominator (zennit's default).

    References
    ----------
    Montavon et al. (2017), equation 12.

    Examples
    --------
    >>> layer, x = lrpfast.layers.Dense(np.array([[1.0], [-1.0], [3.0]])), np.array([[1.0, 1.0, 2.0]])
    >>> lrpfast.redistribute(lrpfast.rules.WSquare(), layer, x, np.array([[11.0]])).round(3).tolist()
    [[1.0, 1.0, 9.0]]
    """

    _: KW_ONLY
    stabilizer: Any = 1e-6
    bias: str = "ignore"
    name: ClassVar[str] = "w_square"
    conventions: ClassVar[tuple[str, ...]] = ("ignore", "absorb")
    equation: ClassVar[str] = "R_i = sum_j w_ij^2 / sum_i w_ij^2 R_j"

    def groups(self) -> tuple[Group, ...]:
        return (self._group((Product("1", "w^2"),), "w^2"),)


@dataclass(frozen=True, repr=False)
class Flat(_WithBias):
    """LRP-flat: equal shares for all inputs of an output.

    R_i = Σ_j 1 / n_j · R_j with n_j the inputs that output j sees.

    Parameters
    ----------
    stabilizer : float or Stabilizer
    bias : {"ignore"}

    References
    ----------
    Lapuschkin et al. (2019), supplement.

    Examples
    --------
    >>> layer, x = lrpfast.layers.Dense(np.array([[1.0], [-1.0], [3.0]])), np.array([[1.0, 1.0, 2.0]])
    >>> lrpfast.redistribute(lrpfast.rules.Flat(), layer, x, np.array([[6.0]])).round(3).tolist()
    [[2.0, 2.0, 2.0]]
    """

    _: KW_ONLY
    stabilizer: Any = 1e-6
    bias: str = "ignore"
    name: ClassVar[str] = "flat"
    conventions: ClassVar[tuple[str, ...]] = ("ignore",)
    equation: ClassVar[str] = "R_i = sum_j 1 / n_j R_j"

    def groups(self) -> tuple[Group, ...]:
        return (self._group((Product("1", "1"),), "1"),)


@dataclass(frozen=True, eq=False, repr=False)
class ZBox(_WithBias):
    """LRP-z^B: for a first layer whose inputs lie between low and high.

    R_i = Σ_j (x_i w_ij − low_i w_ij⁺ − high_i w_ij⁻) / Σ_i (…) · R_j.

    Parameters
    ----------
    low, high : float or array
        The input's bounds, low ≤ high, in the input's units; a scalar, one per
        feature, or one per channel (the last axis).
    stabilizer : float or Stabilizer
    bias : {"ignore"}
        The bias cancels: b − b⁺ − b⁻ = 0.

    References
    ----------
    Montavon et al. (2017), equation 13.

    Examples
    --------
    >>> layer, x = lrpfast.layers.Dense(np.array([[1.0], [-1.0], [3.0]])), np.array([[1.0, 1.0, 2.0]])
    >>> lrpfast.redistribute(lrpfast.rules.ZBox(0, 2), layer, x, np.array([[8.0]])).round(3).tolist()
    [[1.0, 1.0, 6.0]]
    """

    low: Any = None
    high: Any = None
    _: KW_ONLY
    stabilizer: Any = 1e-6
    bias: str = "ignore"
    name: ClassVar[str] = "z_box"
    conventions: ClassVar[tuple[str, ...]] = ("ignore",)
    equation: ClassVar[str] = "R_i = sum_j (x_i w_ij - low_i w_ij+ - high_i w_ij-) / sum_i (...) R_j"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("low", "high"):
            value = getattr(self, key)
            if value is None:
                raise RuleError(f"z_box needs {key}: the input's {'lowest' if key == 'low' else 'highest'} value")
            array = np.asarray(value)
            if array.dtype.kind == "U":
                raise RuleError(
                    f"z_box: {key} must hold numbers, not {value!r}; bounds from the data are made by "
                    'low, high = lrpfast.data_bounds(x, "minmax")'
                )
            if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
                raise RuleError(f"z_box: {key} must hold finite real numbers, not {value!r}")
            array = array.astype(np.float64)
            array.setflags(write=False)
            object.__setattr__(self, key, array)
        try:
            ordered = bool((self.low <= self.high).all())
        except ValueError:
            raise RuleError(f"z_box: low has shape {self.low.shape}, high {self.high.shape}: they must fit") from None
        if not ordered:
            raise RuleError("z_box: low must not be above high")

    def _key(self) -> tuple[Any, ...]:
        """What makes a box that box; adding 0.0 makes −0.0, which is equal to it, the same bytes."""
        bounds = ((bound.shape, (bound + 0.0).tobytes()) for bound in (self.low, self.high))
        return type(self), *bounds, *(getattr(self, f.name) for f in fields(self) if f.name not in ("low", "high"))

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, ZBox) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy's bounds are as read-only as the original's; NumPy does not keep that in a pickle."""
        self.__dict__.update(state)
        for bound in (self.low, self.high):
            bound.setflags(write=False)

    def groups(self) -> tuple[Group, ...]:
        return (self._group((Product("x", "w"), Product("low", "w+", -1), Product("high", "w-", -1)), "w"),)


#: Every rule by its name, in the order that ``lrpfast rules`` lists them.
RULES: dict[str, type[Rule]] = {
    cls.name: cls
    for cls in (
        *(Zero, Epsilon, Gamma, AlphaBeta, AlphaBetaX, ZPlus, WSquare, Flat, ZBox),
        *(Norm, Pass, Gradient, Split, Taylor, Detached),
    )
}


def from_name(name: str, **parameters: Any) -> Rule:
    """The rule called ``name`` with the given parameters.

    Parameters
    ----------
    name : str
        A key of ``RULES``.
    **parameters
        The rule's own.

    Returns
    -------
    Rule

    Raises
    ------
    RuleError
        For an unknown name or parameter, which says what there is.

    Examples
    --------
    >>> lrpfast.rules.from_name("epsilon", epsilon=0.1)
    Epsilon(epsilon=0.1)
    """
    if not isinstance(name, str) or name not in RULES:
        raise RuleError(unknown("rule", name, RULES, f"the rules are {', '.join(RULES)}"))
    cls = RULES[name]
    known = [f.name for f in fields(cls)]
    for key in parameters:
        if key not in known:
            raise RuleError(f"{name} has no parameter {key!r}; it has {', '.join(known) or 'none'}")
    return cls(**parameters)
