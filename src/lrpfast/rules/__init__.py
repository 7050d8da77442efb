"""Rules, and the composites that assign them to layers."""

from .rule import (
    RULES,
    AlphaBeta,
    AlphaBetaX,
    Epsilon,
    Flat,
    Gamma,
    Pass,
    Rule,
    Stabilizer,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
    from_name,
)

__all__ = [
    "RULES",
    "AlphaBeta",
    "AlphaBetaX",
    "Epsilon",
    "Flat",
    "Gamma",
    "Pass",
    "Rule",
    "Stabilizer",
    "WSquare",
    "ZBox",
    "ZPlus",
    "Zero",
    "from_name",
]
