"""What stops a PyTorch program from being read: everything at once, the layers that a user knows first."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import UnsupportedLayerError
from .records import Op

#: Groups that a message names; a user mends these first.
_MOST_GROUPS = 6
_RECURRENT = re.compile(r"\.(lstm|gru|rnn_tanh|rnn_relu|lstm_cell|gru_cell|rnn_tanh_cell|rnn_relu_cell|_thnn_\w+)$")
_ATTENTION = re.compile(r"attention", re.IGNORECASE)


@dataclass(frozen=True)
class Obstacle:
    """One operator that cannot be read.

    Attributes
    ----------
    location : str
        The operator, its node and its module.
    problem : str
        As the end of a sentence that begins with the location.
    group : str
        What obstacles of one kind have in common.
    rank : int
        Layers that lrpfast has no rule for come before what is written in a way that it cannot follow.
    """

    location: str
    problem: str
    group: str
    rank: int


def obstacle(op: Op, location: str, problem: str) -> Obstacle:
    """The obstacle that an operator is, named after its layer where that is attention; recurrent layers come first."""
    if _RECURRENT.search(op.base):
        return Obstacle(location, problem, f"recurrent {problem}", 0)
    kind = op.kind.rsplit(".", 1)[-1]
    if _ATTENTION.search(op.base) or _ATTENTION.search(kind):
        problem = "is attention, which lrpfast has no rule for yet"
        return Obstacle(location, problem, f"attention {kind}", 1)
    return Obstacle(location, problem, f"{op.base} {problem}", 2)


def unsupported(obstacles: list[Obstacle]) -> UnsupportedLayerError:
    """One error for all obstacles."""
    groups: dict[str, list[Obstacle]] = {}
    for item in sorted(obstacles, key=lambda o: o.rank):
        groups.setdefault(item.group, []).append(item)
    lines = []
    for members in groups.values():
        first = members[0]
        more = f" ({len(members) - 1:,} more of this kind)" if len(members) > 1 else ""
        lines.append(f"{first.location} {first.problem}{more}")
    if len(lines) == 1:
        return UnsupportedLayerError(lines[0])
    shown = lines[:_MOST_GROUPS]
    if len(lines) > _MOST_GROUPS:
        shown.append(f"and {len(lines) - _MOST_GROUPS:,} other kinds of obstacles")
    return UnsupportedLayerError(f"{len(obstacles):,} operators cannot be read:\n  " + "\n  ".join(shown))
