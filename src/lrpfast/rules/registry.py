"""All rules by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..errors import RuleError
from ..suggest import unknown_name_message
from .alpha_beta import AlphaBeta, AlphaBetaX, ZPlus
from .first_layer import Flat, WSquare, ZBox
from .proportional import Epsilon, Gamma, Norm, Zero
from .recurrent import Recurrent
from .rule import Rule
from .weightless import CP, AttnLRP, Detached, Gradient, Pass, Split, Taylor

#: All rules by name, in the order of ``lrpfast rules``.
RULES: dict[str, type[Rule]] = {
    cls.name: cls
    for cls in (
        *(Zero, Epsilon, Gamma, AlphaBeta, AlphaBetaX, ZPlus, WSquare, Flat, ZBox),
        *(Norm, Pass, Gradient, Split, AttnLRP, CP, Taylor, Detached, Recurrent),
    )
}


def from_name(name: str, **parameters: Any) -> Rule:
    """The rule with the name ``name`` and the given parameters.

    Parameters
    ----------
    name : str
        A key of ``RULES``.
    **parameters
        The rule's parameters.

    Returns
    -------
    Rule

    Raises
    ------
    RuleError
        For an unknown name or parameter; the message lists the known ones.

    Examples
    --------
    >>> lrpfast.rules.from_name("epsilon", epsilon=0.1)
    Epsilon(epsilon=0.1)
    """
    if not isinstance(name, str) or name not in RULES:
        raise RuleError(unknown_name_message("rule", name, RULES, f"the rules are {', '.join(RULES)}"))
    cls = RULES[name]
    names = [f.name for f in fields(cls)]
    for key in parameters:
        if key not in names:
            raise RuleError(f"{name} has no parameter {key!r}; it has {', '.join(names) or 'none'}")
    return cls(**parameters)


def as_rule(value: Any, owner: str) -> Rule:
    """The rule itself, or the rule with this name; RuleError, which begins with ``owner``, for anything else."""
    if isinstance(value, Rule):
        return value
    if isinstance(value, str):
        return from_name(value)
    if isinstance(value, type) and issubclass(value, Rule):
        raise RuleError(f"{owner} takes an instance: write {value.__name__}(), not {value.__name__}")
    raise RuleError(f"{owner} takes rules or their names, not {type(value).__name__}; see lrpfast.rules")
