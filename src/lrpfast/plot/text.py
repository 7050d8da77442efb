"""Tokens coloured by their relevance: as terminal text, in a notebook, and as a picture."""

from __future__ import annotations

import html
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.explanation import Explanation
from ..engine.inputs import as_real
from ..errors import InputError, ShapeError
from ..kernels.arrays import to_host
from .check import as_labels, check_choice, figure_class, is_index
from .scale import SCALES, limits, limits_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: ColorBrewer's RdBu, as in `heatmap`: against, nothing, for.
COLOURS = np.array([(67, 147, 195), (247, 247, 247), (214, 96, 77)], np.float64)
#: A dark and a light ink.
INKS = ((32, 32, 32), (255, 255, 255))
#: Of a monospaced font: the width of a character in parts of its size.
CHARACTER = 0.602
#: Points.
FONT_SIZE, LINE = 10.0, 17.0
#: What tokenizers write for a space before a token, and for a new line.
SPACES, NEW_LINES = ("Ġ", "▁"), ("Ċ", "<0x0A>")


def text(
    tokens: Sequence[Any],
    relevance: Any,
    *,
    width: int = 80,
    scale: str = "sample",
    percentile: float | None = None,
    labels: Sequence[Any] | None = None,
    title: str | None = None,
) -> TokenText:
    """Colour tokens by their relevance: red speaks for what was explained, blue against it.

    Parameters
    ----------
    tokens : sequence of str, or a list of such sequences
        The tokens of one text, or of several. Marks of tokenizers become spaces: ``Ġ`` and ``▁`` begin a word,
        ``##`` continues one; tokens without marks are words.
    relevance : array or Explanation
        Of one text, shape (tokens,) or, summed over the last axis, (tokens, features); of several, with the batch
        axis first, or a list of arrays, one for each text. A row of the batch may be longer than its text where the
        rest is padding without relevance.
    width : int
        Characters in a line, at least 10.
    scale : {"sample", "shared"}
        Whether each text has its own scale, which stands above it as ±value, or all have one.
    percentile : float, optional
        Colours end at this percentile of |R|; by default at the largest.
    labels : sequence, optional
        What stands above each text.
    title : str, optional
        Above all of them.

    Returns
    -------
    TokenText
        ``print`` writes it in colours, `save` as a picture, and a notebook shows it.

    Raises
    ------
    ShapeError
        When there is not one relevance for each token, or padding has relevance.
    InputError
        When a token is not text, a relevance is not finite, or an option is unknown.

    Examples
    --------
    >>> shown = lrpfast.plot.text(["a", "fine", "film"], np.array([0.0, 2.0, -0.5]))
    >>> print(shown.plain())
    ±2
    a(+0) fine(+2) film(-0.5)
    >>> lrpfast.plot.save(shown, "tokens.svg")
    """
    check_choice("scale", scale, SCALES)
    if not is_index(width) or width < 10:
        raise InputError(f"width must be a whole number of at least 10, not {width!r}")
    if isinstance(tokens, (str, bytes)) or not hasattr(tokens, "__len__") or not len(tokens):
        raise InputError("tokens must be a sequence of strings, or a list of such sequences, not a single string")
    single = isinstance(tokens[0], str)
    texts = [_as_tokens(part, i) for i, part in enumerate([tokens] if single else tokens)]
    rows = _as_rows(relevance, texts, single)
    padded = np.zeros((len(rows), max(map(len, rows))))
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    ends = [high for _, high in limits(padded, scale, percentile)[0]]
    above = [""] * len(texts) if labels is None else as_labels(labels, "labels")
    if len(above) != len(texts):
        raise InputError(f"{len(above)} labels for {len(texts)} texts")
    return TokenText(tuple(map(tuple, texts)), tuple(rows), tuple(ends), tuple(above), title or "", int(width))


def _as_tokens(tokens: Any, i: int) -> list[str]:
    """One text's tokens."""
    if isinstance(tokens, (str, bytes)) or not all(isinstance(token, str) for token in tokens) or not len(tokens):
        raise InputError(f"text {i} must be a sequence of strings, one for each token, and not empty")
    return list(tokens)


def _as_rows(relevance: Any, texts: list[list[str]], single: bool) -> list[np.ndarray]:
    """Each text's relevance, one number for each token."""
    if isinstance(relevance, Explanation):
        relevance = relevance.relevance
    if isinstance(relevance, list) and not single:
        parts = [np.asarray(to_host(as_real(part, f"relevance[{i}]")), np.float64) for i, part in enumerate(relevance)]
    else:
        values = np.asarray(to_host(as_real(relevance, "relevance")), np.float64)
        parts = [values] if single and not (values.ndim > 1 and len(values) == 1) else list(values)
    if len(parts) != len(texts):
        raise ShapeError(f"there are {len(texts)} texts, but {len(parts)} relevances")
    rows = []
    for i, (part, tokens) in enumerate(zip(parts, texts, strict=True)):
        if part.ndim not in (1, 2) or len(part) < len(tokens):
            raise ShapeError(
                f"text {i} has {len(tokens)} tokens, but relevance of shape {part.shape}; expected ({len(tokens)},), "
                f"or ({len(tokens)}, features)"
            )
        if not np.isfinite(part).all():
            raise InputError(
                f"the relevance of text {i} is not finite at token {np.argwhere(~np.isfinite(part))[0][0]}"
            )
        if part[len(tokens) :].any():
            raise ShapeError(
                f"text {i} has {len(tokens)} tokens, but {len(part)} relevances; those beyond the tokens must be 0"
            )
        part = part[: len(tokens)]
        rows.append(part.sum(1) if part.ndim == 2 else part)
    return rows


@dataclass(frozen=True)
class Piece:
    """A token as it is drawn."""

    text: str
    space: bool  # whether a space stands before it
    relevance: float
    ends_line: bool = False


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: East Asian characters are two wide, accents none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def pieces(tokens: Sequence[str], values: np.ndarray) -> list[Piece]:
    """Tokens without their tokenizer's marks."""
    marks = any(token.startswith(SPACES) for token in tokens)
    result = []
    for i, (token, value) in enumerate(zip(tokens, values, strict=True)):
        starts, continues = token.startswith(SPACES), token.startswith("##") and len(token) > 2
        shown = token[1:] if starts else token[2:] if continues else token
        ends_line = shown in NEW_LINES or "\n" in shown
        for mark in NEW_LINES:
            shown = shown.replace(mark, "⏎")
        shown = "".join(c if c.isprintable() else "·" for c in shown.replace("\n", "⏎"))
        space = i > 0 and (starts if marks else not continues)
        result.append(Piece(shown or "▁", space, float(value), ends_line))
    return result


def lines(parts: Sequence[Piece], width: int) -> list[list[Piece]]:
    """The pieces broken into lines, between words where a word fits a line."""
    words: list[list[Piece]] = []
    for part in parts:
        if part.space or not words or words[-1][-1].ends_line:
            words.append([])
        words[-1].append(part)
    result: list[list[Piece]] = [[]]
    used = 0
    for word in words:
        fits = sum(columns(part.text) for part in word) <= width
        for unit in [word] if fits else [[part] for part in word]:
            needed = sum(columns(part.text) for part in unit) + unit[0].space
            if result[-1] and (used + needed > width or result[-1][-1].ends_line):
                result.append([])
                used = 0
            result[-1] += unit
            used += needed
    return result


def colour(value: float, end: float) -> tuple[int, int, int]:
    """Red, green and blue of a relevance, on a scale that ends at ±end."""
    share = min(1.0, max(-1.0, value / end)) if end else 0.0
    low, high = (COLOURS[1], COLOURS[2]) if share > 0 else (COLOURS[1], COLOURS[0])
    return tuple(int(c) for c in np.rint(low + (high - low) * abs(share)))  # type: ignore[return-value]


def ink(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """The ink that is read best on a colour."""
    return INKS[int(np.dot(background, (0.299, 0.587, 0.114)) < 130)]


@dataclass(frozen=True, repr=False)
class TokenText:
    """Texts whose tokens are coloured by relevance, as `text` returns them.

    Attributes
    ----------
    tokens : tuple of tuple of str
    relevance : tuple of array
        Each text's, one number for each token.
    ends : tuple of float
        The |R| at which each text's colours end.
    labels : tuple of str
    title : str
    width : int
        Characters in a line.

    Examples
    --------
    >>> shown = lrpfast.plot.text(["Ġgood", "Ġfilm"], np.array([1.0, 0.25]))
    >>> shown.plain().splitlines()[1]
    'good(+1) film(+0.25)'
    """

    tokens: tuple[tuple[str, ...], ...]
    relevance: tuple[np.ndarray, ...]
    ends: tuple[float, ...]
    labels: tuple[str, ...]
    title: str
    width: int

    def _blocks(self) -> list[tuple[str, float, list[Piece]]]:
        """Each text's heading, scale and pieces."""
        return [
            (f"{label}  {limits_text((-end, end))}" if label else limits_text((-end, end)), end, pieces(tokens, values))
            for label, end, tokens, values in zip(self.labels, self.ends, self.tokens, self.relevance, strict=True)
        ]

    def __repr__(self) -> str:
        noun = "text" if len(self.tokens) == 1 else "texts"
        counts = ", ".join(str(len(tokens)) for tokens in self.tokens[:8])
        return f"TokenText({len(self.tokens)} {noun} of {counts}{', …' if len(self.tokens) > 8 else ''} tokens)"

    def __str__(self) -> str:
        """For a terminal: in 24-bit colours, or `plain` where the environment variable NO_COLOR is set."""
        return self.plain() if os.environ.get("NO_COLOR") else self.terminal()

    def plain(self) -> str:
        """Without colours: each token with its relevance in brackets."""
        blocks = []
        for heading, _, parts in self._blocks():
            written = [Piece(f"{p.text}({p.relevance:+.3g})", p.space, p.relevance, p.ends_line) for p in parts]
            blocks.append([heading, *(_joined(line) for line in lines(written, self.width))])
        return "\n".join(([self.title] if self.title else []) + ["\n".join(block) for block in blocks])

    def terminal(self) -> str:
        """In 24-bit colours, by ANSI escape sequences."""
        result = [self.title] if self.title else []
        for heading, end, parts in self._blocks():
            result.append(heading)
            for line in lines(parts, self.width):
                row = ""
                for k, part in enumerate(line):
                    background = colour(part.relevance, end)
                    codes = ";".join(map(str, (48, 2, *background, 38, 2, *ink(background))))
                    row += f"{' ' if part.space and k else ''}\x1b[{codes}m{part.text}\x1b[0m"
                result.append(row)
        return "\n".join(result)

    def _repr_html_(self) -> str:
        result = [f"<p><b>{html.escape(self.title)}</b></p>"] if self.title else []
        for heading, end, parts in self._blocks():
            spans = []
            for part in parts:
                background = colour(part.relevance, end)
                style = "background:rgb{};color:rgb{}".format(*map(str, (background, ink(background)))).replace(" ", "")
                space, ending = " " if part.space else "", "<br>" if part.ends_line else ""
                spans.append(
                    f'{space}<span style="{style};border-radius:3px;padding:1px" title="{part.relevance:+.4g}">'
                    f"{html.escape(part.text)}</span>{ending}"
                )
            result.append(
                f'<p style="font-family:monospace;line-height:1.7;max-width:{self.width}ch">'
                f"<small>{html.escape(heading)}</small><br>{''.join(spans)}</p>"
            )
        return "".join(result)

    def figure(self) -> Figure:
        """The picture, as a matplotlib Figure; `save` writes it."""
        figure_class()
        from .panels import blank

        blocks = [(heading, end, lines(parts, self.width)) for heading, end, parts in self._blocks()]
        most = max(sum(columns(part.text) + part.space for part in row) for _, _, rows in blocks for row in rows)
        heads = [1.3 if i or self.title else 1.0 for i in range(len(blocks))]
        height = LINE * (1 + bool(self.title) + sum(heads) + sum(len(rows) for _, _, rows in blocks))
        title = round(1.06 * columns(self.title))  # hinting makes bold letters wider
        wide = max(most, 20, *(columns(heading) for heading, _, _ in blocks), title)
        figure = blank(((wide + 2) * CHARACTER * FONT_SIZE / 72, height / 72))
        draw = _Page(figure, height)
        if self.title:
            draw.write(self.title, 1.0, weight="bold")
        for head, (heading, end, rows) in zip(heads, blocks, strict=True):
            draw.write(heading, head, colour="0.35")
            for row in rows:
                draw.row(row, end)
        return figure


def _joined(line: Sequence[Piece]) -> str:
    """A line as plain text."""
    return "".join((" " if part.space and k else "") + part.text for k, part in enumerate(line))


class _Page:
    """Writes lines on a figure, from the top, in points."""

    def __init__(self, figure: Figure, height: float) -> None:
        self._axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self._axes.set(xlim=(0, figure.get_figwidth() * 72), ylim=(height, 0))
        self._axes.axis("off")
        self._down = 0.4 * LINE

    def write(self, heading: str, head: float, colour: str = "0.1", weight: str = "normal") -> None:
        """A heading, ``head`` lines below what stands above it."""
        self._down += (head - 1) * LINE
        self._put(heading, CHARACTER * FONT_SIZE, colour, weight=weight)
        self._down += LINE

    def row(self, line: Sequence[Piece], end: float) -> None:
        """A line of tokens on their colours."""
        from matplotlib.patches import Rectangle

        step = CHARACTER * FONT_SIZE
        left = step
        for k, part in enumerate(line):
            left += step * (part.space and k > 0)
            background = colour(part.relevance, end)
            across = columns(part.text) * step
            box = Rectangle((left, self._down + 1), across, LINE - 2, color=[c / 255 for c in background], linewidth=0)
            self._axes.add_patch(box)
            self._put(part.text, left, [c / 255 for c in ink(background)])
            left += across
        self._down += LINE

    def _put(self, text: str, left: float, colour: Any, weight: str = "normal") -> None:
        middle = self._down + LINE / 2
        self._axes.text(
            left, middle, text, color=colour, weight=weight, fontsize=FONT_SIZE, family="monospace",
            va="center_baseline", parse_math=False,
        )  # fmt: skip
