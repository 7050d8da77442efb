"""What stops a PyTorch program from being read: the layers that a user knows first."""

from __future__ import annotations

import re

from ..obstacles import Obstacle, ObstacleError
from .records import Op

_RECURRENT = re.compile(r"\.(lstm|gru|rnn_tanh|rnn_relu|lstm_cell|gru_cell|rnn_tanh_cell|rnn_relu_cell|_thnn_\w+)$")
_ATTENTION = re.compile(r"attention", re.IGNORECASE)


def obstacle(op: Op, location: str, position: str, error: Exception) -> Obstacle:
    """The obstacle that an operator is; recurrent ones come first, then those of attention.

    Parameters
    ----------
    op : Op
    location : str
        The operator, its node and its module, as the begin of a sentence.
    position : str
        "3 of 40".
    error : Exception
    """
    problem, rank = str(error), 2
    kind = op.kind.rsplit(".", 1)[-1]
    if _RECURRENT.search(op.base):
        rank = 0
    elif _ATTENTION.search(op.base) or _ATTENTION.search(kind):
        rank = 1
    module = f" of {op.module!r}, {kind}" if op.module else ""
    return Obstacle(
        op.target, f"{op.name!r} ({position}{module})", ObstacleError(f"{location} {problem}", problem), rank
    )
