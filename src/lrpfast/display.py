"""Pictures of results in notebooks.

Results lie below `plot`, which draws; so `plot` says here how it draws, and results ask here for a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_drawers: list[Callable[..., str]] = []


def register(drawer: Callable[..., str]) -> None:
    """Let ``drawer(relevance, **options)`` make the HTML of `picture`."""
    _drawers[:] = [drawer]


def picture(relevance: Any, **options: Any) -> str:
    """A picture of relevance as HTML; empty where there is none, as of several inputs or without matplotlib."""
    return _drawers[0](relevance, **options) if _drawers else ""
