"""Which layer gets which rule, for `lrpfast.Analyzer`.

Examples
--------
>>> composite = lrpfast.composites.ByIndex({0: "flat"}) | lrpfast.composites.EpsilonPlus()
>>> composite.name
'by index | epsilon_plus'
"""

from .rules.composites import (
    COMPOSITES,
    Assignment,
    ByIndex,
    ByName,
    ByType,
    Captum,
    Composite,
    Entry,
    EpsilonAlpha2Beta1,
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    ExcitationBackprop,
    Uniform,
    from_name,
    when,
)

__all__ = [
    "COMPOSITES",
    "Assignment",
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
    "Uniform",
    "from_name",
    "when",
]


def __dir__() -> list[str]:
    return sorted(__all__)
