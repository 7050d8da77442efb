"""Whole files: inputs read and relevances written a chunk at a time, and statistics of them."""

from .bounds import data_bounds, outside
from .files import open_array
from .normalize import NORMALIZATIONS, normalize_rows
from .statistics import Statistics
from .stream import Written, explain_file

__all__ = [
    "NORMALIZATIONS",
    "Statistics",
    "Written",
    "data_bounds",
    "explain_file",
    "normalize_rows",
    "open_array",
    "outside",
]
