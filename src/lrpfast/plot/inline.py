"""Pictures inside HTML."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .. import display
from ..errors import LrpfastError
from .figure import heatmap

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def image(figure: Figure, description: str, dpi: float = 144) -> str:
    """A figure as an ``<img>`` that has the PNG in it; its description is escaped."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    width = round(96 * figure.get_figwidth())
    return f'<img width="{width}" alt="{html.escape(description)}" src="data:image/png;base64,{data}" />'


def for_notebook(relevance: Any, *, labels: Sequence[Any] | None = None, scale: str = "sample", limit: int = 4) -> str:
    """The first maps as HTML; empty where they cannot be drawn without more knowledge of their axes."""
    if isinstance(relevance, list) or getattr(relevance, "ndim", 0) not in (2, 3, 4):
        return ""
    try:
        figure = heatmap(relevance, labels=labels, scale=scale, limit=limit)
    except LrpfastError:  # no matplotlib, no samples, an image whose channels may be either axis
        return ""
    return image(figure, "relevance", 96)


display.register(for_notebook)
