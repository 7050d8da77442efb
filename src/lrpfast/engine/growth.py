"""Warnings for relevance that grew or vanished between the output and the input."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import AmplificationWarning, VanishingWarning
from ..kernels.growth import COUNTS, LEAST, MOST, Growth
from ..rules import AttnLRP, Gradient, Taylor
from ..table import counted
from .plan import Plan

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["COUNTS", "Growth", "callers_level", "conserves", "texts", "warn"]


def conserves(plan: Plan) -> bool:
    """Whether all rules conserve relevance, except for biases, stabilizers and zeros, so that growth is unexpected."""
    return not any(isinstance(rule, (AttnLRP, Gradient, Taylor)) for rule in plan.rules)


def callers_level() -> int:
    """The stack level of the first caller outside lrpfast, so that a warning points at the user's line."""
    level = 1
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == __name__.split(".")[0]:
        level, frame = level + 1, frame.f_back
    return level


def warn(growth: Growth, explanations: int, rectifies: bool, layers: Sequence[str] = (), of: str = "") -> None:
    """Give one warning for relevance that grew, in ``layers`` or as a whole, and one for relevance that vanished.

    They begin with ``of``.
    """
    if growth.amplified or layers:
        whole = amplified_text(growth, explanations)
        if layers:
            whole = f"over all layers relevance grows {growth.largest[0]:,.3g}-fold (sample {growth.largest[1]})"
        text = "; ".join([*layers, *([whole] if growth.amplified else [])])
        warnings.warn(of + text, AmplificationWarning, stacklevel=callers_level())
    if growth.vanished or growth.zero:
        text = "; ".join(vanished_texts(growth, explanations) + zero_texts(growth, explanations, rectifies))
        warnings.warn(of + text, VanishingWarning, stacklevel=callers_level())


def _of(growth: Growth, explanations: int) -> str:
    return counted(explanations, "explanation") + (f", of which 1 in {growth.step} were looked at" * (growth.step > 1))


#: The expression that shows where relevance grew or went, if no sample is known.
BALANCE = "explain(x[…]).conservation"


def _look(sample: int) -> str:
    which = BALANCE if sample < 0 else BALANCE.replace("…", f"{sample}:{sample + 1}")
    return f"{which} says in which layer"


def texts(growth: Growth, explanations: int, rectifies: bool) -> list[str]:
    """The texts of all warnings, one for each kind."""
    amplified = [amplified_text(growth, explanations)] if growth.amplified else []
    return amplified + vanished_texts(growth, explanations) + zero_texts(growth, explanations, rectifies)


def amplified_text(growth: Growth, explanations: int) -> str:
    """The text for relevance that grew; without a sample if none is known, as for a whole data set."""
    factor, sample = growth.largest
    worst = f" ({f'{factor:,.3g}-fold in sample {sample}; ' if sample >= 0 else ''}{_look(sample)})"
    return (
        f"relevance grows more than {MOST:,.0f}-fold between the output and the input in {growth.amplified:,} of "
        f"{_of(growth, explanations)}{worst}: denominators nearly vanish, so that single values are large, cancel, and "
        "mean little. A larger epsilon prevents it, and so do bias='absorb' and rules whose denominators do not "
        "cancel, such as z_plus and alpha1-beta0"
    )


def vanished_texts(growth: Growth, explanations: int) -> list[str]:
    """The text for explanations that contain almost nothing of the output."""
    if not growth.vanished:
        return []
    share, sample = growth.smallest
    worst = f" ({f'{share:.2g} of it in sample {sample}; ' if sample >= 0 else ''}{_look(sample)})"
    return [
        f"less than {LEAST:g} of the explained output reaches the input in {growth.vanished:,} of "
        f"{_of(growth, explanations)}{worst}: biases or stabilizers took the rest, so that the maps say little of what "
        "made the output. bias='ignore' or 'distribute' keeps what biases take, a smaller epsilon what stabilizers take"
    ]


def zero_texts(growth: Growth, explanations: int, rectifies: bool) -> list[str]:
    """The text for explanations that are zero everywhere, with the reasons."""
    if not growth.zero:
        return []
    rest = growth.zero - growth.nothing - growth.negative
    why, cures = [], []
    if growth.nothing:
        why.append(f"in {growth.nothing:,} the explained output is {'not above 0' if rectifies else '0'}")
        cures.append("explain another target")
    if growth.negative:
        why.append(
            f"in {growth.negative:,} it is negative, and there is nothing to share it out along: for rules that take "
            "positive contributions only (alpha1-beta0 and z_plus), or because no neuron on the way is active"
        )
    if growth.negative or (growth.nothing and rectifies):
        cures.append("take a rule that shares out negative outputs too, such as epsilon, unless it is one")
    if rest:
        why.append(f"in {rest:,} no input contributes to it: inputs are 0, no neuron on the way is active")
        cures.append(_look(growth.first_zero))
    first = f", the first of them of sample {growth.first_zero}" if growth.first_zero >= 0 else ""
    advice = f"; {', or '.join(cures)}" if cures else ""
    verb = "is" if growth.zero == 1 else "are"
    return [f"{growth.zero:,} of {_of(growth, explanations)} {verb} zero everywhere{first}: {', '.join(why)}{advice}"]
