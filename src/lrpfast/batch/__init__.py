"""Whole data sets: files in, relevances and statistics of them out, on one machine or several.

Examples
--------
>>> np.save("x.npy", np.ones((3, 2)))
>>> with lrpfast.batch.open_source("x.npy") as source:
...     source.shape, source.read(0, 1)
((3, 2), array([[1., 1.]]))
"""

from .bounds import data_bounds
from .groups import ALL
from .journal import unfinished
from .masks import open_mask
from .normalize import NORMALIZATIONS
from .references import References
from .sinks import open_sink
from .sources import Source, open_array, open_source
from .statistics import Statistics
from .stream import Streamed

__all__ = [
    "ALL",
    "NORMALIZATIONS",
    "References",
    "Source",
    "Statistics",
    "Streamed",
    "data_bounds",
    "open_array",
    "open_mask",
    "open_sink",
    "open_source",
    "unfinished",
]


def __dir__() -> list[str]:
    return sorted(__all__)
