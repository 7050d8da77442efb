"""The page: HTML without scripts, network or other files, in which every text is escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import table
from ..plot.inline import image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light; --ink: #1c1c1e; --soft: #5f6368; --line: #dadce0; --fill: #f5f6f8; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 1.5rem 1.25rem 4rem; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .5rem 0; max-width: 46rem; }
.soft, figcaption { color: var(--soft); font-size: .875rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.25rem 0;
  padding: 0; list-style: none; }
.facts li { background: var(--fill); border-radius: .5rem; padding: .7rem .85rem; }
.facts b { display: block; font-size: 1.3rem; line-height: 1.3; }
.facts span { color: var(--soft); font-size: .8125rem; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td { white-space: nowrap; }
.pairs td:last-child { white-space: normal; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; display: block; }
code { font: .8125rem/1.5 ui-monospace, "Liberation Mono", monospace; white-space: pre-wrap; }
nav { font-size: .875rem; margin: 1rem 0; } nav a { display: inline-block; margin-right: 1rem; color: #1a56b0; }
@media (max-width: 40rem) { body { padding: 1rem .85rem 3rem; font-size: 15px; } h1 { font-size: 1.4rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; } nav { display: none; }
  figure, tr, .facts li { break-inside: avoid; } h2, h3 { break-after: avoid; } .wide { overflow: visible; }
  .facts li { border: 1px solid var(--line); } @page { margin: 15mm; } }
"""


def escaped(text: object) -> str:
    """Text as HTML; what cannot be printed, such as marks that turn the direction of writing, becomes a mark."""
    shown = "".join(c if c.isprintable() or c in "\n " else "\ufffd" for c in str(text))
    return html.escape(shown, quote=True)


class Page:
    """Collects the sections of a page.

    Parameters
    ----------
    title : str
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: list[str] = []
        self._sections: list[tuple[str, str]] = []

    def section(self, name: str) -> None:
        """Start a section."""
        anchor = f"s{len(self._sections)}"
        self._sections.append((anchor, name))
        self._parts.append(f'<h2 id="{anchor}">{escaped(name)}</h2>')

    def heading(self, text: str) -> None:
        """A heading within a section."""
        self._parts.append(f"<h3>{escaped(text)}</h3>")

    def paragraph(self, text: str, soft: bool = False) -> None:
        """A paragraph of plain text."""
        kind = ' class="soft"' if soft else ""
        self._parts.append(f"<p{kind}>{escaped(text)}</p>")

    def facts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """The most important numbers, with what they are."""
        items = "".join(f"<li><b>{escaped(value)}</b><span>{escaped(name)}</span></li>" for name, value in pairs)
        self._parts.append(f'<ul class="facts">{items}</ul>')

    def pairs(self, rows: Sequence[tuple[str, str]]) -> None:
        """A table of names and their values."""
        body = "".join(f"<tr><th scope=row align=left>{escaped(k)}</th><td>{escaped(v)}</td></tr>" for k, v in rows)
        self._parts.append(f'<div class="wide"><table class="pairs">{body}</table></div>')

    def table(self, rows: Sequence[Sequence[str]], right: int | None = None) -> None:
        """A table whose first row is its head."""
        shown = [["".join(c if c.isprintable() else "\ufffd" for c in cell) for cell in row] for row in rows]
        self._parts.append(f'<div class="wide">{table.html(shown, right=right)}</div>')

    def picture(self, figure: Figure, description: str) -> None:
        """A figure as a picture in the page, with its description for those who do not see it."""
        self._parts.append(f"<figure>{image(figure, description)}{self._caption(description)}</figure>")

    def html(self, text: str, description: str) -> None:
        """HTML that escapes its own texts."""
        self._parts.append(f'<figure class="wide">{text}{self._caption(description)}</figure>')

    def _caption(self, description: str) -> str:
        """A figure's caption, unless the heading above it says the same."""
        heading = self._parts[-1] if self._parts else ""
        return (
            "" if heading == f"<h3>{escaped(description)}</h3>" else f"<figcaption>{escaped(description)}</figcaption>"
        )

    def document(self, introduction: str) -> bytes:
        """The page in UTF-8."""
        links = "".join(f'<a href="#{anchor}">{escaped(name)}</a>' for anchor, name in self._sections)
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        text = (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escaped(self._title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
            f'<h1>{escaped(self._title)}</h1>\n<p class="soft">{escaped(introduction)}</p>\n<nav>{links}</nav>\n'
            + "\n".join(self._parts)
            + "\n</body>\n</html>\n"
        )
        return text.encode("utf-8", "replace")
