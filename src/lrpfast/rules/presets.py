"""Composites with names of their own: zennit's and captum's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import RuleError
from ..model.layers import (
    RNN,
    Activation,
    Attention,
    BatchNorm,
    Dense,
    Dot,
    Flatten,
    GlobalMaxPool,
    Interpolate,
    LayerNorm,
    Linear,
    MatMul,
    MaxPool,
    Multiply,
    Reshape,
    RMSNorm,
    Rotary,
)
from ..suggest import unknown_name_message
from .alpha_beta import AlphaBeta, ZPlus
from .composites import Composite
from .entries import Entry, ends
from .first_layer import Flat, ZBox
from .gradients import Gradients, InputTimesGradient, IntegratedGradients, SmoothGrad
from .proportional import Epsilon, Gamma, Norm, Zero
from .registry import RULES, as_rule
from .registry import from_name as rule_from_name
from .roles import CONVOLUTIONS, MEANS, SUMS
from .rule import Rule, Stabilizer
from .selectors import Uniform
from .weightless import CP, Detached, Gradient, Pass
from .weightless import AttnLRP as AttnLRPRule


def _map(
    name: str, first: tuple[Entry, ...], convolutions: Rule, dense: Rule, stabilizer: Any, rest: tuple[Entry, ...] = ()
) -> Composite:
    """Zennit's pattern: a special first layer, a rule for convolutions, one for dense layers, Norm on sums."""
    return Composite(
        (
            *first,
            Entry("all", convolutions, None, CONVOLUTIONS),
            Entry("all", dense, None, (Dense,)),
            Entry("all", Norm(stabilizer=stabilizer), None, SUMS),
            *rest,
            Entry("default", dense, None, (BatchNorm, RNN)),
        ),
        name,
    )


def EpsilonPlus(epsilon: float = 1e-6, stabilizer: Any = 1e-6) -> Composite:  # noqa: N802
    """z-plus on convolutions, epsilon on dense layers (Montavon et al. 2019; zennit).

    Parameters
    ----------
    epsilon : float
    stabilizer : float or Stabilizer
        The stabilizer of all other rules.

    Examples
    --------
    >>> [entry.rule.name for entry in lrpfast.composites.EpsilonPlus(epsilon=0.1).entries]
    ['z_plus', 'epsilon', 'norm', 'epsilon']
    """
    return _map("epsilon_plus", (), ZPlus(stabilizer=stabilizer), Epsilon(epsilon), stabilizer)


def EpsilonPlusFlat(epsilon: float = 1e-6, stabilizer: Any = 1e-6) -> Composite:  # noqa: N802
    """As `EpsilonPlus`, and flat on the first dense or convolutional layer in forward order.

    Parameters
    ----------
    epsilon : float
    stabilizer : float or Stabilizer
        The stabilizer of all other rules.

    Returns
    -------
    Composite

    Examples
    --------
    >>> [entry.rule.name for entry in lrpfast.composites.EpsilonPlusFlat().entries]
    ['flat', 'z_plus', 'epsilon', 'norm', 'epsilon']
    """
    first = ends(Flat(stabilizer=stabilizer), None, "")
    return _map("epsilon_plus_flat", first, ZPlus(stabilizer=stabilizer), Epsilon(epsilon), stabilizer)


def EpsilonAlpha2Beta1(epsilon: float = 1e-6, stabilizer: Any = 1e-6) -> Composite:  # noqa: N802
    """Alpha-beta with 2 and 1 on convolutions, epsilon on dense layers.

    Parameters
    ----------
    epsilon : float
    stabilizer : float or Stabilizer
        The stabilizer of all other rules.

    Returns
    -------
    Composite

    Examples
    --------
    >>> [entry.rule.name for entry in lrpfast.composites.EpsilonAlpha2Beta1().entries]
    ['alpha_beta', 'epsilon', 'norm', 'epsilon']
    """
    return _map("epsilon_alpha2_beta1", (), AlphaBeta(2, 1, stabilizer=stabilizer), Epsilon(epsilon), stabilizer)


def EpsilonAlpha2Beta1Flat(epsilon: float = 1e-6, stabilizer: Any = 1e-6) -> Composite:  # noqa: N802
    """As `EpsilonAlpha2Beta1`, and flat on the first dense or convolutional layer in forward order.

    Parameters
    ----------
    epsilon : float
    stabilizer : float or Stabilizer
        The stabilizer of all other rules.

    Returns
    -------
    Composite

    Examples
    --------
    >>> [entry.rule.name for entry in lrpfast.composites.EpsilonAlpha2Beta1Flat().entries]
    ['flat', 'alpha_beta', 'epsilon', 'norm', 'epsilon']
    """
    first = ends(Flat(stabilizer=stabilizer), None, "")
    rule = AlphaBeta(2, 1, stabilizer=stabilizer)
    return _map("epsilon_alpha2_beta1_flat", first, rule, Epsilon(epsilon), stabilizer)


def EpsilonGammaBox(  # noqa: N802
    low: Any = None, high: Any = None, epsilon: float = 1e-6, gamma: float = 0.25, stabilizer: Any = 1e-6
) -> Composite:
    """z-box on the first convolution, gamma on the others, epsilon on dense layers (zennit).

    Parameters
    ----------
    low, high : float or array
        The input's bounds, as in `rules.ZBox`; both are required.
    epsilon, gamma : float
    stabilizer : float or Stabilizer
        The stabilizer of all other rules.

    Examples
    --------
    >>> [entry.rule.name for entry in lrpfast.composites.EpsilonGammaBox(0, 1).entries]
    ['z_box', 'gamma', 'epsilon', 'norm', 'epsilon']
    """
    first = ends(ZBox(low, high, stabilizer=stabilizer), None, "", CONVOLUTIONS)
    rule = Gamma(gamma, stabilizer=stabilizer)
    return _map("epsilon_gamma_box", first, rule, Epsilon(epsilon), stabilizer)


def ExcitationBackprop(stabilizer: Any = 1e-6) -> Composite:  # noqa: N802
    """z-plus on layers with weights, activations by their gradient (Zhang et al. 2018; zennit).

    Parameters
    ----------
    stabilizer : float or Stabilizer

    Examples
    --------
    >>> [entry.rule.name for entry in lrpfast.composites.ExcitationBackprop().entries]
    ['z_plus', 'z_plus', 'norm', 'gradient', 'z_plus']
    """
    rule = ZPlus(stabilizer=stabilizer)
    gradient = (Entry("all", Gradient(), None, (Activation,)),)
    return _map("excitation_backprop", (), rule, rule, stabilizer, gradient)


def Captum(rule: Rule | str | None = None) -> Composite:  # noqa: N802
    """A rule on layers with weights, epsilon 1e-9 on sums, pooling and moves (captum).

    These are captum 0.9's conventions: max pooling and reshaping pass on R x / (x ± 1e-9), and
    batch normalization stays a layer of its own. captum's rules are ``Epsilon(1e-9)``,
    ``Gamma(0.25, generalized=False, scale_bias=False, stabilizer=1e-9)`` and
    ``ZPlus(split_input=False, bias="full", stabilizer=1e-9)``.

    Parameters
    ----------
    rule : Rule or str, optional
        When None, Epsilon, as in captum.

    Examples
    --------
    >>> [entry.rule.name for entry in lrpfast.composites.Captum("gamma").entries]
    ['epsilon', 'gamma']
    """
    epsilon = Epsilon(1e-9)
    epsilon_layers = (MaxPool, GlobalMaxPool, Flatten, Reshape, BatchNorm, *SUMS)
    entries = (
        Entry("all", epsilon, None, epsilon_layers),
        Entry("all", epsilon if rule is None else as_rule(rule, "Captum")),
    )
    return Composite(entries, "captum", canonize=False)


#: What a denominator of exactly zero becomes where nothing else is added: what it divides is zero too.
_AS_IT_IS = Stabilizer(1e-6, "zero")


#: Attention, and the products that it and gates are written as.
PRODUCTS = (Attention, Dot, MatMul, Multiply)


def _transformer(
    name: str, attention: Rule, weights: Rule, stabilizer: Any, first: tuple[Entry, ...] = ()
) -> Composite:
    """A rule for layers with weights, one for attention and products, all others in proportion."""
    others = Norm(stabilizer=stabilizer)
    return Composite(
        (
            *first,
            Entry("scales", Pass(), None, (BatchNorm,)),
            Entry("shifts", Zero(stabilizer=stabilizer), None, (BatchNorm,)),
            Entry("all", weights, None, (Linear, BatchNorm)),
            Entry("all", attention, None, PRODUCTS),
            Entry("all", others, None, (*SUMS, Rotary, Interpolate)),
            Entry("all", Detached(stabilizer=stabilizer), None, (LayerNorm, RMSNorm)),
        ),
        name,
        canonize=False,
    )


def AttnLRP(epsilon: float | None = None, stabilizer: Any = _AS_IT_IS) -> Composite:  # noqa: N802
    """AttnLRP for transformers: Taylor expansions of attention, equal shares in gates (LXT).

    Layers with weights, sums and normalization redistribute in proportion; activations and constant factors pass.

    Parameters
    ----------
    epsilon : float, optional
        Of layers with weights; their denominators are as they are when None.
    stabilizer : float or Stabilizer
        Of all other denominators: as they are, which keeps float32's accuracy. 1e-6 is what other composites have.

    References
    ----------
    Achtibat et al. (2024), AttnLRP.

    Examples
    --------
    >>> composite = lrpfast.composites.AttnLRP()
    >>> [entry.rule.name for entry in composite.entries]
    ['pass', 'zero', 'zero', 'attn', 'norm', 'detached']
    """
    weights = Zero(stabilizer=stabilizer) if epsilon is None else Epsilon(epsilon)
    return _transformer("attn_lrp", AttnLRPRule(stabilizer=stabilizer), weights, stabilizer)


def CPLRP(epsilon: float | None = None, stabilizer: Any = _AS_IT_IS) -> Composite:  # noqa: N802
    """CP-LRP for transformers: relevance goes to attention's values and gates' signals (LXT).

    Parameters
    ----------
    epsilon, stabilizer
        As of `AttnLRP`.

    References
    ----------
    Ali et al. (2022); Achtibat et al. (2024), CP-LRP.

    Examples
    --------
    >>> [entry.rule.name for entry in lrpfast.composites.CPLRP(1e-3).entries]
    ['pass', 'zero', 'epsilon', 'cp', 'norm', 'detached']
    """
    weights = Zero(stabilizer=stabilizer) if epsilon is None else Epsilon(epsilon)
    return _transformer("cp_lrp", CP(stabilizer=stabilizer), weights, stabilizer)


def LXTViT(  # noqa: N802
    gamma_convolution: float = 0.25, gamma: float = 0.05, stabilizer: Any = _AS_IT_IS
) -> Composite:
    """CP-LRP with gamma, as in LXT's example for vision transformers; attention's projections have no gamma.

    There gamma never reaches the four projections of attention, which keep their denominators as they are. ``Gamma`` on
    every layer with weights is ``ByType({Conv: Gamma(0.25), Linear: Gamma(0.05)}) | CPLRP()``.

    Parameters
    ----------
    gamma_convolution, gamma : float
        Of convolutions, and of all other layers with weights; stabilizer 1e-6.
    stabilizer : float or Stabilizer
        Of all other denominators.

    Examples
    --------
    >>> [(entry.where, entry.rule.name) for entry in lrpfast.composites.LXTViT().entries[:3]]
    [('projections', 'zero'), ('all', 'gamma'), ('all', 'gamma')]
    """
    zero = Zero(stabilizer=stabilizer)
    first = (
        Entry("projections", zero),
        Entry("all", Gamma(gamma_convolution), None, CONVOLUTIONS),
        Entry("all", Gamma(gamma), None, (Linear,)),
    )
    return _transformer("lxt_vit", CP(stabilizer=stabilizer), zero, stabilizer, first)


def LXTExplicit() -> Composite:  # noqa: N802
    """AttnLRP with the denominators of LXT's ``lxt.explicit``: z + ε unsigned, ε by layer.

    ε is 1e-8 for layers with weights, sums and products of queries and keys (2z + ε), 1e-6 for products of weights and
    values, layer normalization and means; none for RMS normalization.

    References
    ----------
    LXT 2.1, ``lxt.explicit``.

    Examples
    --------
    >>> [(entry.rule.name, str(entry.rule.stabilizer)) for entry in lrpfast.composites.LXTExplicit().entries[:2]]
    [('norm', '1e-06 unsigned'), ('norm', '1e-08 unsigned')]
    """
    least, small = Stabilizer(1e-8, "unsigned"), Stabilizer(1e-6, "unsigned")
    attention = AttnLRPRule(stabilizer=small, scores=Stabilizer(0.5e-8, "unsigned"), sums=least, masks=True)
    return Composite(
        (
            Entry("all", Norm(stabilizer=small), None, MEANS),
            Entry("all", Norm(stabilizer=least), None, (*SUMS, Rotary, Interpolate)),
            Entry("all", Detached(stabilizer=small), None, (LayerNorm,)),
            Entry("all", Detached(stabilizer=_AS_IT_IS), None, (RMSNorm,)),
            Entry("all", attention, None, PRODUCTS),
            Entry("scales", Pass(), None, (BatchNorm,)),
            Entry("all", Zero(stabilizer=least), None, (Linear, BatchNorm)),
        ),
        "lxt_explicit",
        canonize=False,
    )


#: The composites that have names of their own.
COMPOSITES: dict[str, Callable[..., Composite]] = {
    "epsilon_plus": EpsilonPlus,
    "epsilon_plus_flat": EpsilonPlusFlat,
    "epsilon_alpha2_beta1": EpsilonAlpha2Beta1,
    "epsilon_alpha2_beta1_flat": EpsilonAlpha2Beta1Flat,
    "epsilon_gamma_box": EpsilonGammaBox,
    "excitation_backprop": ExcitationBackprop,
    "captum": Captum,
    "attn_lrp": AttnLRP,
    "cp_lrp": CPLRP,
    "lxt_vit": LXTViT,
    "gradient": Gradients,
    "input_t_gradient": InputTimesGradient,
    "integrated_gradients": IntegratedGradients,
    "smoothgrad": SmoothGrad,
    "lxt_explicit": LXTExplicit,
}


def from_name(name: str, **parameters: Any) -> Composite:
    """The composite with the name ``name``, or the rule with this name on all layers.

    Parameters
    ----------
    name : str
        A key of ``COMPOSITES`` or of ``rules.RULES``.
    **parameters
        The parameters of the composite or the rule.

    Returns
    -------
    Composite

    Raises
    ------
    RuleError
        For an unknown name (the message lists all names) or an unknown parameter.

    Examples
    --------
    >>> lrpfast.composites.from_name("epsilon_plus", epsilon=0.1) == lrpfast.composites.EpsilonPlus(0.1)
    True
    """
    if isinstance(name, str) and name in RULES and name not in COMPOSITES:
        return Uniform(rule_from_name(name, **parameters))
    if not isinstance(name, str) or name not in COMPOSITES:
        listing = f"the rules are {', '.join(RULES)}, the composites {', '.join(COMPOSITES)}"
        raise RuleError(unknown_name_message("rule", name, (*RULES, *COMPOSITES), listing))
    try:
        return COMPOSITES[name](**parameters)
    except TypeError as error:
        raise RuleError(f"{name}: {error}") from None


def as_composite(rule: Any) -> Composite:
    """A composite from a rule, a composite, or the name of either; RuleError for anything else."""
    if isinstance(rule, Composite):
        return rule
    if isinstance(rule, str):
        if rule.lower().startswith(("lrp", "deep_taylor")):
            raise RuleError(f"{rule!r} is an iNNvestigate name: use lrpfast.create_analyzer({rule!r}, model)")
        return from_name(rule)
    if isinstance(rule, Gradient):  # of every layer, not of those with weights alone
        return Gradients()
    if isinstance(rule, (Rule, type)):
        return Uniform(as_rule(rule, "Analyzer"))
    if any(rule is function for function in (*COMPOSITES.values(), Uniform)):
        raise RuleError(f"rule must be a composite: write {rule.__name__}(…), which makes one, not {rule.__name__}")
    raise RuleError(f"rule must be a rule, a composite or a rule's name, not {type(rule).__name__}")
