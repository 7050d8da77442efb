"""Pictures of relevance: heat maps of images, sequences and flat vectors, centred on zero, and coloured tokens.

Matplotlib draws them; it is imported by the first picture, not with lrpfast.

Examples
--------
>>> figure = lrpfast.plot.heatmap(np.array([[1.0, -2.0]]), title="relevance of two features")
>>> lrpfast.plot.save(figure, "features.svg")
"""

from .figure import heatmap
from .file import save
from .text import text

__all__ = ["heatmap", "save", "text"]


def __dir__() -> list[str]:
    return sorted(__all__)
