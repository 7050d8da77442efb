"""Aligned columns, for everything that prints itself as a table."""

from __future__ import annotations

from collections.abc import Sequence


def lines(rows: Sequence[Sequence[str]], right: int | None = None) -> list[str]:
    """The rows as lines of aligned columns; those from ``right`` on are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = len(widths) if right is None else right
    return [
        "  ".join(
            c.ljust(w) if k < left else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
