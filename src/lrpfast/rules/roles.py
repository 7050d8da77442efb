"""The roles of layers in LRP: the rules that apply to a layer, and its default rule."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import RuleError, UnsupportedLayerError
from ..model.layers import (
    RNN,
    Activation,
    AdaptiveAveragePool,
    Add,
    Attention,
    Average,
    AveragePool,
    BatchNorm,
    Concat,
    Conv,
    ConvTranspose,
    Crop,
    Dense,
    DepthwiseConv,
    Dot,
    Embedding,
    Flatten,
    GlobalAveragePool,
    GlobalLogSumExp,
    GlobalMaxPool,
    Identity,
    Input,
    Interpolate,
    Layer,
    LayerNorm,
    Linear,
    LocallyConnected,
    LocalResponseNorm,
    Masking,
    MatMul,
    Maximum,
    MaxPool,
    Minimum,
    Multiply,
    Permute,
    ReflectPad,
    RepeatVector,
    Reshape,
    RMSNorm,
    Rotary,
    Softmax,
    StepMask,
    Subtract,
    Take,
    UpSample,
    Where,
    ZeroPad,
)
from ..model.node import Node
from .proportional import Epsilon, Norm, Zero
from .recurrent import Recurrent
from .rule import Rule
from .weightless import CP, AttnLRP, Detached, Gradient, Pass, Split, Taylor

#: Convolutions, means, and sums, in composites.
CONVOLUTIONS = (Conv, ConvTranspose, DepthwiseConv, LocallyConnected)
MEANS = (AveragePool, AdaptiveAveragePool, GlobalAveragePool)
SUMS = (Add, Subtract, Average, *MEANS)


@dataclass(frozen=True)
class Role:
    """A kind of layer: its name, its default rule, and the other rules that apply to it.

    ``groups`` says whether rules with groups (`Rule.groups`) apply; a layer whose ``default`` is
    None needs a rule.
    """

    name: str
    default: Rule | None
    others: tuple[type[Rule], ...] = ()
    groups: bool = False

    def takes(self, rule: Rule) -> bool:
        """Whether the rule applies to such layers."""
        return isinstance(rule, self.others) or (self.groups and type(rule).groups is not Rule.groups)


_PROPORTIONAL = (Zero, Epsilon, Norm)

WEIGHTS = Role("layer with weights", None, (Gradient,), groups=True)
AFFINE = Role("batch normalization", Epsilon(), (Gradient, Pass), groups=True)
SUM = Role("sum or mean", Norm(), (Gradient,), groups=True)
SIGNED = Role("interpolation with weights below zero", Norm(), (Gradient, *_PROPORTIONAL))
RECURRENT = Role("recurrent layer", Recurrent(), (Recurrent, Epsilon, Zero, Gradient))
PRODUCT = Role("product", Split(), (Split, AttnLRP, CP, Gradient))
ATTENTION = Role("attention", AttnLRP(), (AttnLRP, CP, Gradient))
ROTATION = Role("rotation of vectors", Norm(), (Pass, Gradient, *_PROPORTIONAL))
ROUTE = Role("layer that moves or selects values", Pass(), (Pass, Gradient, *_PROPORTIONAL))
ACTIVATION = Role("activation", Pass(), (Pass, Gradient))
SOFTMAX = Role("softmax inside the network", Taylor(), (Taylor, Pass, Gradient))
NORMALIZATION = Role("normalization", Detached(), (Detached, Pass, Gradient, *_PROPORTIONAL))
LOG_SUM = Role("logarithm of a sum of exponentials", Pass(), (Pass, Gradient))
MASK = Role("mask of steps", Pass(), (Pass, Gradient, *_PROPORTIONAL))
NOTHING = Role("layer that does nothing", Pass(), (Pass,))

_ROLES: dict[type[Layer], Role] = {
    Input: NOTHING,
    Identity: NOTHING,
    BatchNorm: AFFINE,
    **dict.fromkeys(SUMS, SUM),
    **dict.fromkeys((Multiply, Dot, MatMul), PRODUCT),
    Attention: ATTENTION,
    Softmax: SOFTMAX,
    Rotary: ROTATION,
    **dict.fromkeys((MaxPool, GlobalMaxPool, Maximum, Minimum, Where), ROUTE),
    **dict.fromkeys((Flatten, Reshape, Permute, RepeatVector, Concat, Embedding), ROUTE),
    **dict.fromkeys((ZeroPad, ReflectPad, Crop, Take, Masking), ROUTE),
    GlobalLogSumExp: LOG_SUM,
    StepMask: MASK,
    RNN: RECURRENT,
    LocalResponseNorm: Role("local response normalization", Pass(), (Pass,)),
    **dict.fromkeys((LayerNorm, RMSNorm), NORMALIZATION),
}


def role(layer: Layer) -> Role:
    """The role of a layer; of its activation, see `activation_role`."""
    if isinstance(layer, Linear):
        return WEIGHTS
    if isinstance(layer, UpSample):
        return SUM if layer.interpolation == "bilinear" else ROUTE
    if isinstance(layer, Interpolate):
        return SUM if layer.nonnegative else SIGNED
    if isinstance(layer, Activation):
        return activation_role(layer)
    for cls in type(layer).__mro__:
        if cls in _ROLES:
            return _ROLES[cls]
    raise UnsupportedLayerError(f"{layer}: no rule is known for layers of type {type(layer).__name__}")


def activation_role(function: Activation) -> Role:
    """The role of an activation function, as a layer or as an attribute of one."""
    return SOFTMAX if function.function == "softmax" else NOTHING if function.function == "linear" else ACTIVATION


def check(rule: Rule, kind: Role, node: Node) -> Rule:
    """The rule, if it applies to the node; else RuleError, which lists the rules that do."""
    if kind.takes(rule):
        _check_parameters(rule, kind, node)
        return rule
    names = [cls.name for cls in kind.others] + (["every rule with groups"] if kind.groups else [])
    raise RuleError(f"{node}: {rule.name!r} is no rule for a {kind.name}; it takes {', '.join(names)}")


def _check_parameters(rule: Rule, kind: Role, node: Node) -> None:
    """RuleError for a bias convention or a stabilizer that the rule has for other layers alone."""
    bias = getattr(rule, "bias", None)
    if kind is RECURRENT and not isinstance(rule, Gradient):
        (group,) = rule.groups()
        if bias not in Recurrent.conventions:
            known = ", ".join(map(repr, Recurrent.conventions))
            raise RuleError(f"{node}: bias={bias!r} is no convention of recurrent layers; choose from {known}")
        if group.stabilizer.kind != "sign":
            raise RuleError(f"{node}: a recurrent layer takes stabilizers of kind 'sign', not {group.stabilizer}")
    elif bias == "share" and not isinstance(node.layer, Dense):
        raise RuleError(
            f"{node}: bias='share' is for recurrent and dense layers; give others a rule of their own, "
            "as in composites.ByType({layers.Conv: 'epsilon'}) | composites.Uniform(rule)"
        )
