"""Rules, and the composites that assign them to layers.

Examples
--------
>>> lrpfast.rules.Gamma(gamma=0.5, bias="ignore").name
'gamma'
"""

from .rule import (
    RULES,
    WEIGHT_PARTS,
    AlphaBeta,
    AlphaBetaX,
    Detached,
    Epsilon,
    Flat,
    Gamma,
    Gradient,
    Group,
    Norm,
    Pass,
    Product,
    Rule,
    Split,
    Stabilizer,
    Taylor,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
    from_name,
)

__all__ = [
    "RULES",
    "WEIGHT_PARTS",
    "AlphaBeta",
    "AlphaBetaX",
    "Detached",
    "Epsilon",
    "Flat",
    "Gamma",
    "Gradient",
    "Group",
    "Norm",
    "Pass",
    "Product",
    "Rule",
    "Split",
    "Stabilizer",
    "Taylor",
    "WSquare",
    "ZBox",
    "ZPlus",
    "Zero",
    "from_name",
]


def __dir__() -> list[str]:
    return sorted(__all__)
