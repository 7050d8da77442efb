"""Which ONNX operators lrpfast builds, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .classic_ops import CLASSIC
from .context import NodeContext
from .cut_ops import CUT
from .einsum import CONTRACTED
from .elementwise import ELEMENTWISE
from .linear import LINEAR
from .one_hot import ONE_HOT
from .quantize import QUANTIZED
from .recurrent import RECURRENT
from .reduce_ops import REDUCED
from .resize import RESIZED
from .shape_ops import MOVES
from .step_masks import STEP_MASKS
from .truths import TRUTHS, carried

#: How each operator is built; those that end in "*" stand for patterns (patterns.py).
OPERATORS: dict[str, Callable[[NodeContext], Any]] = {
    **LINEAR,
    **ELEMENTWISE,
    **{key: carried(build) for key, build in MOVES.items()},
    **{key: carried(build) for key, build in RESIZED.items()},
    **TRUTHS,
    **REDUCED,
    **QUANTIZED,
    **CLASSIC,
    **CONTRACTED,
    **CUT,
    **ONE_HOT,
    **RECURRENT,
    **STEP_MASKS,
}
