"""Draws samples of each kind on their axes, their labels, and the colour bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .grid import Grid
from .scale import MASKED, UNKNOWN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

ORIGINS = ("upper", "lower")

_INK = "0.25"
_CLEAR = (0.0, 0.0, 0.0, 0.0)


def draw_image(
    ax: Axes, values: np.ndarray, below: np.ndarray | None, end: float, colours: Colormap, origin: str
) -> None:
    """Pixels (h, w), over the input where there is one."""
    if below is not None:
        # no grey for points without relevance: it would look like the input's own
        ax.patch.set(facecolor=UNKNOWN, edgecolor="0.6", hatch="/////", linewidth=0)
        ax.imshow(np.where(np.isnan(values), np.nan, below), cmap=_pale_grey(), origin=origin)
        colours = colours.with_extremes(bad=_CLEAR)
    ax.imshow(values, cmap=colours, vmin=-end, vmax=end, origin=origin)
    ax.set(xticks=[], yticks=[])


def _pale_grey() -> Colormap:
    """White to light grey: pale enough for colours to be visible on it."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("pale grey", ["1.0", "0.6"]).with_extremes(bad=_CLEAR)


def draw_sequence(
    ax: Axes,
    values: np.ndarray,
    below: np.ndarray | None,
    end: float,
    colours: Colormap,
    all_values: np.ndarray | None,
) -> None:
    """Draw a row of bars for each channel, and the input as a line on the channel's scale in ``all_values``."""
    steps, count = values.shape
    ax.imshow(values.T, cmap=colours, vmin=-end, vmax=end, aspect="auto")
    for c in range(count if below is not None else 0):
        assert below is not None and all_values is not None
        valid = all_values[..., c][~np.isnan(all_values[..., c])]
        low, span = (valid.min(), np.ptp(valid)) if valid.size else (0.0, 0.0)
        share = (below[:, c] - low) / span if span else np.where(np.isnan(below[:, c]), np.nan, 0.5)
        ax.plot(np.arange(steps), c + 0.4 - 0.8 * share, color=_INK, linewidth=0.9, marker="." if steps == 1 else "")
    ax.set(xlim=(-0.5, steps - 0.5), ylim=(count - 0.5, -0.5))


def draw_vector(ax: Axes, values: np.ndarray, below: np.ndarray | None, end: float, colours: Colormap) -> None:
    """Draw bars upwards and downwards, and the input as steps on an axis of its own."""
    from matplotlib.collections import PolyCollection

    n = len(values)
    positions = np.flatnonzero(~np.isnan(values) & (values != 0))
    height = values[positions].clip(-end, end)
    left, right, zero = positions - 0.4, positions + 0.4, np.zeros(len(positions))
    corners = np.stack([left, zero, left, height, right, height, right, zero], 1).reshape(-1, 4, 2)
    hue = np.where(height[:, None] > 0, colours(0.9), colours(0.1))
    # an edge keeps narrow bars visible among thousands
    bars = PolyCollection(list(corners), facecolors=hue, edgecolors=hue, linewidths=0.4, rasterized=n > 2000)
    ax.add_collection(bars)
    for k in np.flatnonzero(np.isnan(values)) if n <= 2000 else ():
        ax.axvspan(k - 0.5, k + 0.5, color=MASKED, linewidth=0)
    for beyond, sign, marker in ((values > end, 1, "^"), (values < -end, -1, "v")):
        where = np.flatnonzero(beyond)
        if len(where):
            colour = colours(0.9 if sign > 0 else 0.1)
            ax.plot(where, np.full(len(where), 1.05 * sign * end), marker, color=colour, markersize=4, clip_on=False)
    ax.axhline(0, color=_INK, linewidth=0.6)
    ax.set(xlim=(-0.5, n - 0.5), ylim=(-1.1 * end, 1.1 * end))
    if below is not None:
        twin = ax.twinx()
        edges = np.arange(n + 1) - 0.5
        twin.stairs(below, edges, baseline=None, color="0.45", linewidth=0.8, rasterized=n > 2000)
        size = float(np.nanmax(np.abs(below), initial=0.0)) or 1.0
        twin.set_ylim(-1.1 * size, 1.1 * size)  # the zeros of both axes are at the same height
        twin.tick_params(axis="y", colors="0.45", labelsize="x-small")
        twin.set_ylabel("input", color="0.45", fontsize="x-small")
        twin.spines[:].set_visible(False)


def annotate(ax: Axes, kind: str, parts: list[str] | None, grid: Grid, i: int, last: bool, amount: str) -> None:
    """Write the labels above, beside and below a panel."""
    text = "\n".join(part for part in (grid.above[i], amount) if part)
    ax.set_title(text, fontsize="small", parse_math=False)
    for spine in ax.spines.values():
        spine.set(color="0.6", linewidth=0.5)
    ax.tick_params(labelsize="x-small")
    if grid.left and i % grid.across == 0:
        ax.set_ylabel(grid.left[i // grid.across], fontsize="small", parse_math=False)
    if kind == "vector":
        if parts is not None and len(parts) <= 64:
            ax.set_xticks(range(len(parts)), parts if last else [""] * len(parts), rotation=90, parse_math=False)
        elif last:
            ax.set_xlabel("feature", fontsize="small")
    elif kind == "sequence":
        if last:
            ax.set_xlabel("step", fontsize="small")
        if parts is not None:
            ax.set_yticks(range(len(parts)), parts, parse_math=False)
        elif ax.get_ylim()[0] < 1:  # one channel
            ax.set_yticks([])
        else:
            ax.yaxis.get_major_locator().set_params(integer=True)
            if not grid.left and i % grid.across == 0:
                ax.set_ylabel("channel", fontsize="small")


def add_bar(
    figure: Figure,
    axes: list[Axes],
    colours: Colormap,
    end: float | None,
    clipped: tuple[bool, bool],
    summed: int,
) -> None:
    """Add the colour bar, without ``end`` for panels with their own scales; it says how many channels are summed."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    size = 1.0 if end is None else end or 1.0
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[clipped]
    bar = figure.colorbar(
        ScalarMappable(Normalize(-size, size), colours),
        ax=axes,
        extend=extend,
        aspect=max(20, 8 * figure.get_figheight()),  # an eighth of an inch wide
        fraction=0.05,
        pad=0.02,
    )
    bar.ax.tick_params(labelsize="x-small")
    lines = ["relevance"]
    if summed > 1:
        lines.append(f"summed over {summed:,} channels")
    if end is None:
        bar.set_ticks([-1, 0, 1], labels=["−", "0", "+"])
        lines.append("(ends: ± above each panel)")
    bar.set_label("\n".join(lines), fontsize="small")
