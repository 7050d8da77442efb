"""Which ONNX operators lrpfast builds, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .elementwise import ELEMENTWISE
from .linear import LINEAR
from .moves import MOVES
from .resize import RESIZED
from .use import Use

#: How each operator is built; those that end in "*" stand for patterns (patterns.py).
OPERATORS: dict[str, Callable[[Use], Any]] = {**LINEAR, **ELEMENTWISE, **MOVES, **RESIZED}
