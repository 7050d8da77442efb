"""Whole data sets: files in, relevances and statistics of them out, on one machine or several."""

from .apart import check_apart
from .bounds import data_bounds
from .groups import ALL
from .journal import unfinished
from .masks import open_mask
from .normalize import NORMALIZATIONS
from .sinks import open_sink
from .sources import Source, open_array, open_source
from .statistics import Statistics
from .stream import Streamed

__all__ = [
    "ALL",
    "NORMALIZATIONS",
    "Source",
    "Statistics",
    "Streamed",
    "check_apart",
    "data_bounds",
    "open_array",
    "open_mask",
    "open_sink",
    "open_source",
    "unfinished",
]
