"""iNNvestigate 2.1.2's analyzer names, in terms of rules and composites.

Its conventions: a stabilizer of 1e-7 only where a denominator is zero, except in
epsilon; the whole signed bias in both αβ groups; ``Bounded`` between −1 and 1 by
default; batch normalization as a layer of its own. ``docs/conventions.md`` compares them with others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import RuleError
from ..model.layers import RNN, Activation, Average, BatchNorm, Dense, Interpolate, Subtract, UpSample
from ..model.layers.base import whole
from ..suggest import unknown_name_message
from .alpha_beta import AlphaBeta, AlphaBetaX, ZPlus
from .composites import Composite
from .entries import Entry
from .first_layer import Flat, WSquare, ZBox
from .gradients import Gradients, InputTimesGradient, IntegratedGradients, SmoothGrad
from .proportional import Epsilon, Norm, Zero
from .registry import as_rule
from .roles import CONVOLUTIONS, SUMS
from .rule import Rule, Stabilizer
from .weightless import Gradient

STABILIZER = Stabilizer(1e-7, "zero")


def _flag(bias: Any) -> bool:
    """iNNvestigate's ``bias``: whether the layer keeps its bias."""
    if not isinstance(bias, bool):
        raise RuleError(f"bias is True or False here, not {bias!r}; lrpfast.rules has the named conventions")
    return bias


def _alpha_beta(alpha: float, beta: float, bias: bool) -> AlphaBeta:
    return AlphaBeta(alpha, beta, stabilizer=STABILIZER, bias="full" if bias else "ignore")


#: The names for iNNvestigate's ``rule`` and ``input_layer_rule``.
RULE_NAMES: dict[str, Callable[[], Rule]] = {
    "Z": lambda: Zero(stabilizer=STABILIZER),
    "Epsilon": lambda: Epsilon(1e-7),
    "WSquare": lambda: WSquare(stabilizer=STABILIZER),
    "Flat": lambda: Flat(stabilizer=STABILIZER),
    "Alpha2Beta1": lambda: _alpha_beta(2, 1, True),
    "Alpha2Beta1IgnoreBias": lambda: _alpha_beta(2, 1, False),
    "Alpha1Beta0": lambda: _alpha_beta(1, 0, True),
    "Alpha1Beta0IgnoreBias": lambda: _alpha_beta(1, 0, False),
    "ZPlus": lambda: _alpha_beta(1, 0, False),
    "ZPlusFast": lambda: ZPlus(split_input=False, stabilizer=STABILIZER, bias="ignore"),
    "Bounded": lambda: ZBox(-1, 1, stabilizer=STABILIZER),
}


#: The values of ``bn_layer_fuse_mode``: batch normalization as one linear layer, or as two.
FUSE_MODES = ("one_linear", "two_linear")

#: Batch normalization's rule in the presets.
X2M100 = AlphaBetaX((2, 0), (1, 0), stabilizer=STABILIZER)


def _interpolates(layer: Any) -> bool:
    return isinstance(layer, Interpolate) or layer.interpolation == "bilinear"


_UP = Entry("when", Gradient(), _interpolates, (Interpolate, UpSample))

#: Layers without weights: sums and pooling in proportion, Average and up-sampling by their gradient.
_REST = (Entry("all", Gradient(), None, (Average,)), Entry("all", Norm(stabilizer=STABILIZER), None, SUMS), _UP)

#: In deep Taylor all of these have their gradient, but ReLU within a layer with weights passes relevance.
_GRADIENTS = (
    Entry("all", Gradient(), None, (BatchNorm, *(cls for cls in SUMS if cls is not Subtract))),
    Entry("default", Gradient(), None, (Activation,)),
    _UP,
)


def _rule(value: Any, name: str) -> Rule:
    """A rule from one of iNNvestigate's names, a (low, high) tuple, or a rule."""
    if isinstance(value, (Rule, type)):
        return as_rule(value, name)
    if isinstance(value, tuple):
        if len(value) != 2:
            raise RuleError(f"{name}: a tuple is (low, high), the input's range, not {value!r}")
        return ZBox(*value, stabilizer=STABILIZER)
    if isinstance(value, str) and value in RULE_NAMES:
        return RULE_NAMES[value]()
    if isinstance(value, str) and value in ("AlphaBeta", "AlphaBetaIgnoreBias"):
        raise RuleError(f"{name}: {value} needs alpha and beta; pass lrpfast.rules.AlphaBeta(alpha, beta)")
    raise RuleError(f"{name} must be one of {', '.join(RULE_NAMES)}, a (low, high) tuple or a rule, not {value!r}")


def _lrp(
    rule: Any = None,
    input_layer_rule: Any = None,
    until_layer_idx: int | None = None,
    until_layer_rule: Any = None,
    bn_layer_rule: Any = None,
    bn_layer_fuse_mode: str = "one_linear",
    bare: Sequence[Entry] = (),
) -> tuple[Entry, ...]:
    """iNNvestigate's ``LRP``: the input layer's rule, then the rule below an index, then all other rules."""
    if bn_layer_fuse_mode not in FUSE_MODES:
        raise RuleError(f"bn_layer_fuse_mode must be one of {', '.join(FUSE_MODES)}, not {bn_layer_fuse_mode!r}")
    norm = Zero(stabilizer=STABILIZER) if bn_layer_rule is None else _rule(bn_layer_rule, "bn_layer_rule")
    rest = (Entry("all", norm, None, (BatchNorm,)), *_REST)
    entries: list[Entry] = []
    if input_layer_rule is not None:
        where = "first" if isinstance(rule, list) and not (rule and isinstance(rule[0], tuple)) else "inputs"
        entries.append(Entry(where, _rule(input_layer_rule, "input_layer_rule")))
    if until_layer_idx is not None and until_layer_rule is not None:
        if whole(until_layer_idx) is None or until_layer_idx < 0:
            raise RuleError(f"until_layer_idx must be an index into the model's layers, not {until_layer_idx!r}")
        below = _rule(until_layer_rule, "until_layer_rule")
        entries.extend(Entry("index", below, i) for i in range(until_layer_idx + 1))
    elif until_layer_rule is not None:
        raise RuleError("until_layer_rule needs until_layer_idx")
    if bare:
        return (*entries, *bare, *rest)
    if isinstance(rule, (list, tuple)) and rule and isinstance(rule[0], tuple):
        for pair in rule:
            if not isinstance(pair, tuple) or len(pair) != 2 or not callable(pair[0]):
                raise RuleError(f"rule: every entry must be a (condition, rule) pair, not {pair!r}")
            entries.append(Entry("when", _rule(pair[1], "rule"), pair[0]))
    elif isinstance(rule, list):
        if until_layer_rule is not None:
            raise RuleError("until_layer_idx does not go with a list of rules: put the rules into the list")
        offset = 1 if input_layer_rule is not None else 0
        entries.insert(0, Entry("count", Zero(), len(rule) + offset))
        # iNNvestigate takes rules from the end of the list, so the first is the output layer's
        entries.extend(Entry("nth", _rule(r, "rule"), -1 - i) for i, r in enumerate(rule))
    elif rule is None:
        raise RuleError("lrp needs rule=: a name, a list of names, or a list of (condition, rule) pairs")
    else:
        entries.append(Entry("all", _rule(rule, "rule")))
    return (*entries, *rest)


_COMMON = ("input_layer_rule", "until_layer_idx", "until_layer_rule", "bn_layer_fuse_mode")


@dataclass(frozen=True)
class Name:
    """The meaning of one of iNNvestigate's names: a function of its keywords that returns entries, or a composite."""

    build: Callable[..., tuple[Entry, ...] | Composite]
    keywords: tuple[str, ...] = ()


def _analyzer(rule: Callable[..., Rule]) -> Name:
    """An analyzer with one rule, also on batch normalization, with the rule's keywords and those of ``LRP``."""
    rule_parameters = inspect.signature(rule).parameters

    def build(**keywords: Any) -> tuple[Entry, ...]:
        rule_keywords = {k: keywords.pop(k) for k in list(keywords) if k in rule_parameters}
        instance = rule(**rule_keywords)
        return _lrp(instance, bn_layer_rule=instance, **keywords)

    return Name(build, (*rule_parameters, *_COMMON))


def _alpha_beta_rule(alpha: float | None = None, beta: float | None = None, bias: bool = True) -> Rule:
    """One of alpha and beta implies the other, as in iNNvestigate."""
    if alpha is None and beta is None:
        raise RuleError("lrp.alpha_beta needs alpha, beta or both, with alpha - beta = 1")
    alpha = beta + 1 if alpha is None else alpha  # type: ignore[operator]
    return _alpha_beta(alpha, alpha - 1 if beta is None else beta, _flag(bias))


def _preset(beta: float, flat: bool, until: bool = False) -> Name:
    """Epsilon on dense layers, alpha-beta on convolutions; flat on the input layer of the flat presets."""

    def build(epsilon: float = 0.1, bn_layer_rule: Any = X2M100, **keywords: Any) -> tuple[Entry, ...]:
        if flat:
            if keywords.get("input_layer_rule") not in (None, "Flat"):
                raise RuleError(f"this preset has input_layer_rule='Flat', not {keywords['input_layer_rule']!r}")
            keywords["input_layer_rule"] = "Flat"
        if until:
            keywords["until_layer_rule"] = "Flat" if keywords.get("until_layer_idx") is not None else None
        convolutions = _alpha_beta(1 + beta, beta, True)
        bare = (
            Entry("all", Epsilon(epsilon), None, (Dense, RNN)),
            Entry("all", convolutions, None, CONVOLUTIONS),
        )
        return _lrp(None, bn_layer_rule=bn_layer_rule, **keywords, bare=bare)

    common = [k for k in _COMMON if not (until and k == "until_layer_rule")]
    return Name(build, ("epsilon", *common, "bn_layer_rule"))


def _deep_taylor() -> tuple[Entry, ...]:
    return (Entry("all", _alpha_beta(1, 0, False)), *_GRADIENTS)


def _deep_taylor_bounded(low: Any = None, high: Any = None) -> tuple[Entry, ...]:
    if low is None or high is None:
        raise RuleError("deep_taylor.bounded needs low and high, the input's range")
    return (Entry("inputs", ZBox(low, high, stabilizer=STABILIZER)), *_deep_taylor())


def _epsilon_rule(epsilon: float = 1e-7, bias: bool = True) -> Rule:
    return Epsilon(epsilon, bias="absorb" if _flag(bias) else "ignore")


def _integrated_gradients(steps: int = 64, reference_inputs: Any = 0, postprocess: str | None = None) -> Composite:
    return IntegratedGradients(steps, reference_inputs, "mean", postprocess)


def _smoothgrad(
    augment_by_n: int = 64, noise_scale: float = 1, postprocess: str | None = None, seed: int = 0
) -> Composite:
    return SmoothGrad(augment_by_n, noise_scale, seed, postprocess)


#: iNNvestigate's names, and ``lrp.z_IB``, which it lacks.
ANALYZERS: dict[str, Name] = {
    "lrp": Name(_lrp, ("rule", *_COMMON, "bn_layer_rule")),
    "lrp.z": _analyzer(lambda: Zero(stabilizer=STABILIZER)),
    "lrp.z_IB": _analyzer(lambda: Zero(stabilizer=STABILIZER, bias="ignore")),
    "lrp.epsilon": _analyzer(_epsilon_rule),
    "lrp.w_square": _analyzer(RULE_NAMES["WSquare"]),
    "lrp.flat": _analyzer(RULE_NAMES["Flat"]),
    "lrp.alpha_beta": _analyzer(_alpha_beta_rule),
    "lrp.alpha_2_beta_1": _analyzer(RULE_NAMES["Alpha2Beta1"]),
    "lrp.alpha_2_beta_1_IB": _analyzer(RULE_NAMES["Alpha2Beta1IgnoreBias"]),
    "lrp.alpha_1_beta_0": _analyzer(RULE_NAMES["Alpha1Beta0"]),
    "lrp.alpha_1_beta_0_IB": _analyzer(RULE_NAMES["Alpha1Beta0IgnoreBias"]),
    "lrp.z_plus": _analyzer(RULE_NAMES["ZPlus"]),
    "lrp.z_plus_fast": _analyzer(RULE_NAMES["ZPlusFast"]),
    "lrp.sequential_preset_a": _preset(0, flat=False),
    "lrp.sequential_preset_b": _preset(1, flat=False),
    "lrp.sequential_preset_a_flat": _preset(0, flat=True),
    "lrp.sequential_preset_b_flat": _preset(1, flat=True),
    "lrp.sequential_preset_b_flat_until_idx": _preset(1, flat=True, until=True),
    "deep_taylor": Name(_deep_taylor),
    "deep_taylor.bounded": Name(_deep_taylor_bounded, ("low", "high")),
    "gradient": Name(Gradients, ("postprocess",)),
    "gradient.baseline": Name(Gradients, ("postprocess",)),
    "input_t_gradient": Name(InputTimesGradient, ("postprocess",)),
    "integrated_gradients": Name(_integrated_gradients, ("steps", "reference_inputs", "postprocess")),
    "smoothgrad": Name(_smoothgrad, ("augment_by_n", "noise_scale", "postprocess", "seed")),
}

_SANITY = "its maps hardly depend on the weights of upper layers (Adebayo et al. 2018, Sixt et al. 2020)"
_PATTERNS = "it needs patterns that are fitted to training data"
#: iNNvestigate's names that lrpfast leaves out, and why.
LEFT_OUT = {
    "input": "it returns the input, x itself",
    "random": "it returns noise: numpy.random.default_rng(seed).normal(size=x.shape)",
    "deconvnet": _SANITY,
    "guided_backprop": _SANITY,
    "pattern.net": _PATTERNS,
    "pattern.attribution": _PATTERNS,
    "lrp.z_baseline": "it computes lrp.z by gradients, for tests: lrp.z",
}


def keywords(name: str) -> tuple[str, ...]:
    """The keywords that an analyzer's name takes."""
    if name in LEFT_OUT:
        raise RuleError(
            f"iNNvestigate's {name!r} is left out: {LEFT_OUT[name]}. Beside LRP stand gradient, input_t_gradient, "
            "integrated_gradients and smoothgrad"
        )
    if name not in ANALYZERS:
        listing = f"the names are {', '.join(key for key in ANALYZERS if '.sequential' not in key)} and presets"
        raise RuleError(unknown_name_message("analyzer", name, ANALYZERS, listing))
    return ANALYZERS[name].keywords


def composite(name: str, **parameters: Any) -> Composite:
    """The composite for an analyzer's name and keywords.

    Raises
    ------
    RuleError
        For an unknown name or keyword, or an invalid value.
    """
    names = keywords(name)
    for key in parameters:
        if key not in names:
            raise RuleError(f"{name} has no keyword {key!r}; it takes {', '.join(names) or 'none'}")
    result = ANALYZERS[name].build(**parameters)
    if isinstance(result, Composite):
        return replace(result, canonize=False)
    return Composite(result, name, canonize=False)
