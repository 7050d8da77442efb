"""Which ONNX operators lrpfast builds, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .onnx_elementwise import ELEMENTWISE
from .onnx_linear import LINEAR
from .onnx_moves import MOVES
from .onnx_resize import RESIZED
from .onnx_use import Use

#: How each operator is built; those that end in "*" stand for patterns (onnx_patterns.py).
OPERATORS: dict[str, Callable[[Use], Any]] = {**LINEAR, **ELEMENTWISE, **MOVES, **RESIZED}
