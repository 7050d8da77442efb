"""Tables as text and, in notebooks, as HTML; numbers of things in text."""

from __future__ import annotations

import html as escaping
from collections.abc import Sequence


def counted(count: int, noun: str) -> str:
    """A number with its noun: 1 sample, 2 samples."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def lines(rows: Sequence[Sequence[str]], right: int | None = None) -> list[str]:
    """The rows as lines of aligned columns; columns from ``right`` on are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = len(widths) if right is None else right
    return [
        "  ".join(
            c.ljust(w) if k < left else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def html(rows: Sequence[Sequence[str]], head: str = "", foot: str = "", right: int | None = None) -> str:
    """The same table as HTML between two paragraphs: the first row is its head, and all text is escaped."""
    left = len(rows[0]) if right is None else right

    def line(row: Sequence[str], tag: str) -> str:
        sides = ("left" if k < left else "right" for k in range(len(row)))
        cells = zip(row, sides, strict=True)
        return "".join(f'<{tag} style="text-align: {side}">{escaping.escape(c)}</{tag}>' for c, side in cells)

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows[1:])
    above, below = (paragraph(text) if text else "" for text in (head, foot))
    return f"{above}<table><thead><tr>{line(rows[0], 'th')}</tr></thead><tbody>{body}</tbody></table>{below}"


def paragraph(text: str) -> str:
    """A line of text as HTML."""
    return f"<p>{escaping.escape(text)}</p>"


class Tabular:
    """Base of results that show themselves as a table below a head: numbers to the right of a first column."""

    def _rows(self) -> tuple[str, list[list[str]]]:
        """The head and the rows."""
        raise NotImplementedError

    def __str__(self) -> str:
        head, rows = self._rows()
        return "\n".join([head, *lines(rows, 1)])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, rows = self._rows()
        return html(rows, head, right=1)
