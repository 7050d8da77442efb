"""What a traced run keeps for the balance of relevance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..kernels.recurrent_ops import Recurrence
from .plan import GroupPlan, Step


@dataclass(frozen=True)
class GroupTrace:
    """Where a group's s and z are kept, for the balance of relevance."""

    group: GroupPlan
    s: int
    z: int | np.ndarray
    mask_z: int | None
    bias: np.ndarray | None


@dataclass(frozen=True)
class StepsTrace:
    """Where a recurrent layer's account of its steps and its input's relevance are kept."""

    account: int
    outgoing: int
    recurrence: Recurrence


@dataclass(frozen=True)
class LayerTrace:
    """Buffers of one layer's incoming and outgoing relevance.

    ``lost_at`` are output values whose relevance goes nowhere. ``remainder`` says that
    the rule itself does not conserve, so that whatever is missing counts as lost.
    """

    step: Step
    incoming: int
    outgoing: tuple[int, ...]
    groups: tuple[GroupTrace, ...] = ()
    lost_at: np.ndarray | None = None
    remainder: bool = False
    steps: StepsTrace | None = None
