"""Whole files: inputs read and relevances written a chunk at a time."""

from .sources import open_array
from .stream import NORMALIZATIONS, Written, explain_file

__all__ = ["NORMALIZATIONS", "Written", "explain_file", "open_array"]
