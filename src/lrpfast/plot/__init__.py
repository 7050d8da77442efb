"""Pictures of relevance, centred on zero: heat maps, timelines of sequences, and coloured tokens.

Matplotlib draws them; it is imported by the first picture, not with lrpfast.

Examples
--------
>>> figure = lrpfast.plot.heatmap(np.array([[1.0, -2.0]]), title="relevance of two features")
>>> lrpfast.plot.save(figure, "features.svg")
"""

from . import inline  # noqa: F401, so that results have their pictures in notebooks
from .figure import heatmap
from .file import save
from .references import references
from .text import text
from .timeline import timeline

__all__ = ["heatmap", "references", "save", "text", "timeline"]


def __dir__() -> list[str]:
    return sorted(__all__)
