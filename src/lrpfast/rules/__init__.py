"""Rules, and the composites that assign rules to layers.

Examples
--------
>>> lrpfast.rules.Gamma(gamma=0.5, bias="ignore").name
'gamma'
"""

from .alpha_beta import AlphaBeta, AlphaBetaX, ZPlus
from .first_layer import Flat, WSquare, ZBox
from .proportional import Epsilon, Gamma, Norm, Zero
from .recurrent import Recurrent
from .registry import RULES, from_name
from .rule import WEIGHT_PARTS, Group, Product, Rule, Stabilizer
from .weightless import CP, AttnLRP, Detached, Gradient, Pass, Split, Taylor

__all__ = [
    "RULES",
    "WEIGHT_PARTS",
    "AlphaBeta",
    "AlphaBetaX",
    "AttnLRP",
    "CP",
    "Detached",
    "Epsilon",
    "Flat",
    "Gamma",
    "Gradient",
    "Group",
    "Norm",
    "Pass",
    "Product",
    "Recurrent",
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
