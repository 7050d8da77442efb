"""The grid of panels: their number, size and labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .check import as_labels, is_index


@dataclass(frozen=True)
class Grid:
    """The grid of panels, and the labels of its rows and columns."""

    down: int
    across: int
    above: list[str]
    left: list[str]

    @classmethod
    def of(cls, count: int, samples: int, labels: Any, rows: Any, columns: Any, kind: str) -> Grid:
        left = [] if rows is None else as_labels(rows, "rows")
        above = [] if columns is None or is_index(columns) else as_labels(columns, "columns")
        if is_index(columns):
            if columns < 1:
                raise InputError(f"columns must be a whole number of at least 1, or labels, not {columns}")
            across = min(int(columns), count)
        elif above:
            across = len(above)
        elif left:
            across = math.ceil(count / len(left))
        else:
            across = math.ceil(math.sqrt(count)) if kind == "image" else 1 if count <= 4 else 2
        down = math.ceil(count / across)
        if left and (len(left) != down or (above and len(left) * len(above) != count)):
            raise InputError(f"{len(left)} rows are labelled, but {count} samples in {across} columns make {down}")
        if labels is not None:
            if above:
                raise InputError("labels and labelled columns would stand in the same place; give one of them")
            above = as_labels(labels, "labels")
            if len(above) not in (count, samples):
                raise InputError(f"{len(above)} labels for {samples} samples")
            above = above[:count]
        elif above:
            above = above + [""] * (count - len(above))
        elif not left:
            above = [f"sample {i}" for i in range(count)]
        else:
            above = [""] * count
        return cls(down, across, above[:count], left)


#: The font size, in points, that sizes below are for.
USUAL_FONT = 10.0


def size(
    kind: str, values: np.ndarray, grid: Grid, ratio: float | None = None, font: float = USUAL_FONT, bars: int = 0
) -> tuple[float, float]:
    """The figure's width and height in inches, with room for texts in fonts of this size.

    ``ratio`` is the width of an image over its height, where its pixels are not square; ``bars`` is the number of
    horizontal bars of a vector of which only the largest values are drawn.
    """
    factor = max(1.0, font / USUAL_FONT)
    width, height = _usual_size(kind, values, grid, ratio, bars)
    return width * factor, height * factor


def _usual_size(kind: str, values: np.ndarray, grid: Grid, ratio: float | None, bars: int) -> tuple[float, float]:
    panels = grid.down * grid.across
    if kind == "vector" and bars:
        return (7.5 if grid.across == 1 else 5.0 * grid.across), (0.19 * bars + 0.5) * grid.down + 0.6
    if kind != "image":
        height = 1.6 if kind == "vector" else min(4.0, 0.75 + 0.2 * values.shape[-1])
        return (7.5 if grid.across == 1 else 5.0 * grid.across), height * grid.down + 0.9
    side = 3.6 if panels == 1 else 2.2 if panels <= 6 else 1.5
    labelled = 0.35 if ratio is not None else 0.0  # inches of degrees
    ratio = min(4.0, max(0.25, ratio or values.shape[2] / values.shape[1]))
    side *= 1.3 if labelled else 1.0
    width, height = (side * ratio**0.5, side / ratio**0.5)
    return (width + labelled) * grid.across + 1.1, (height + 0.35) * grid.down + 0.3 + labelled
