"""Composites, which give layers their rules, for `lrpfast.Analyzer`.

Examples
--------
>>> composite = lrpfast.composites.ByIndex({0: "flat"}) | lrpfast.composites.EpsilonPlus()
>>> composite.name
'by index | epsilon_plus'
"""

from .rules.composites import Assignment, Composite
from .rules.entries import Entry
from .rules.gradients import (
    GradientComposite,
    Gradients,
    InputTimesGradient,
    IntegratedGradients,
    IntegrationPath,
    Noise,
    SmoothGrad,
)
from .rules.presets import (
    COMPOSITES,
    CPLRP,
    AttnLRP,
    Captum,
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    ExcitationBackprop,
    LXTExplicit,
    LXTViT,
    from_name,
)
from .rules.selectors import ByIndex, ByName, ByType, Uniform, when

__all__ = [
    "COMPOSITES",
    "CPLRP",
    "Assignment",
    "AttnLRP",
    "ByIndex",
    "ByName",
    "ByType",
    "Captum",
    "Composite",
    "Entry",
    "EpsilonAlpha2Beta1",
    "EpsilonAlpha2Beta1Flat",
    "EpsilonGammaBox",
    "EpsilonPlus",
    "EpsilonPlusFlat",
    "ExcitationBackprop",
    "GradientComposite",
    "Gradients",
    "InputTimesGradient",
    "IntegratedGradients",
    "IntegrationPath",
    "LXTExplicit",
    "LXTViT",
    "Noise",
    "SmoothGrad",
    "Uniform",
    "from_name",
    "when",
]


def __dir__() -> list[str]:
    return sorted(__all__)
