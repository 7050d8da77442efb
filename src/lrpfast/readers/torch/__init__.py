"""PyTorch's modules and exported programs."""

from .archive import is_exported, read_pt2
from .module import from_torch

__all__ = ["from_torch", "is_exported", "read_pt2"]
