"""Draws samples of each kind on their axes, their labels, and the colour bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .grid import Grid
from .scale import MASKED, UNKNOWN, Limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from .map_axes import GridAxes

ORIGINS = ("upper", "lower")

#: The number of features that are drawn of a vector with very many.
MOST_LARGEST = 20
#: The number of features above which only the largest are drawn.
MOST_BARS = 1000

_INK = "0.25"
_CLEAR = (0.0, 0.0, 0.0, 0.0)


def draw_image(
    ax: Axes,
    values: np.ndarray,
    below: np.ndarray | None,
    ends: Limits,
    colours: Colormap,
    origin: str,
    positive: bool,
    axes: GridAxes | None,
) -> None:
    """Pixels (h, w), over the input where there is one; with coordinates, ``axes``, in ascending order.

    Inputs are ``positive`` where their largest values are the lightest.
    """
    layers: list[tuple[np.ndarray, dict[str, Any]]] = []
    if below is not None:
        # no grey for points without relevance: it would look like the input's own
        ax.patch.set(facecolor=UNKNOWN, edgecolor="0.6", hatch="/////", linewidth=0)
        layers.append((np.where(np.isnan(values), np.nan, below), {"cmap": _pale_grey(positive)}))
        colours = colours.with_extremes(bad=_CLEAR)
    layers.append((values, {"cmap": colours, "vmin": ends[0], "vmax": ends[1]}))
    for pixels, options in layers:
        if axes is None:
            ax.imshow(pixels, origin=origin, **options)
        else:
            _draw_grid(ax, pixels, axes, options)
    if axes is None:
        ax.set(xticks=[], yticks=[])


def _draw_grid(ax: Any, pixels: np.ndarray, axes: GridAxes, options: dict[str, Any]) -> None:
    """Cells at their coordinates: pixels of an image where they are evenly spaced."""
    x, y = axes.x.edges, axes.y.edges
    if hasattr(ax, "projection"):
        from cartopy.crs import PlateCarree

        ax.set_facecolor(options["cmap"].get_bad())  # cartopy needs cells without a value to be transparent
        options = {**options, "cmap": options["cmap"].with_extremes(bad=_CLEAR)}
        parameters = ax.projection.proj4_params
        shifted = x - parameters.get("pm", parameters.get("lon_0", 0.0))
        if isinstance(ax.projection, PlateCarree) and axes.x.even and axes.y.even and abs(shifted).max() <= 180 + 1e-6:
            # the projection's own grid: pixels stay as they are, at any resolution of the file
            extent = (shifted[0], shifted[-1], y[0], y[-1])
            ax.imshow(pixels, origin="lower", extent=extent, transform=ax.projection, **options)
            return
        ax.pcolormesh(x, y, np.ma.masked_invalid(pixels), transform=PlateCarree(), rasterized=True, **options)
        return
    aspect = "equal" if axes.on_globe else "auto"
    if axes.x.even and axes.y.even:
        ax.imshow(pixels, origin="lower", extent=(x[0], x[-1], y[0], y[-1]), aspect=aspect, **options)
    else:
        bad = options["cmap"].get_bad()
        if bad[3]:  # cells without a value are not drawn
            ax.set_facecolor(bad)
        ax.pcolormesh(x, y, np.ma.masked_invalid(pixels), rasterized=True, **options)
        ax.set_aspect(aspect)
    ax.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    if axes.y.down:
        ax.invert_yaxis()


def _pale_grey(positive: bool) -> Colormap:
    """White and light grey: pale enough for colours to be visible on it."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = ["0.5", "1.0"] if positive else ["1.0", "0.6"]
    return LinearSegmentedColormap.from_list("pale grey", shades).with_extremes(bad=_CLEAR)


def is_photograph(inputs: np.ndarray, channels: int) -> bool:
    """Whether images are drawn with their largest values the lightest, as photographs are, and not as drawings.

    Colours are; grey images are, unless most of their points are near the lowest value, as in handwriting.
    """
    if channels >= 3:
        return True
    valid = inputs[~np.isnan(inputs)]
    return bool(valid.size and np.median(valid) > valid.min() + 0.25 * np.ptp(valid))


def draw_sequence(
    ax: Axes,
    values: np.ndarray,
    below: np.ndarray | None,
    ends: Limits,
    colours: Colormap,
    all_values: np.ndarray | None,
    first: int = 0,
) -> None:
    """Draw a row of bars for each channel, and the input as a line on the channel's scale in ``all_values``.

    The first of these steps has the number ``first``.
    """
    from matplotlib.patheffects import Normal, Stroke

    steps, count = values.shape
    extent = (first - 0.5, first + steps - 0.5, count - 0.5, -0.5)
    ax.imshow(values.T, cmap=colours, vmin=ends[0], vmax=ends[1], aspect="auto", extent=extent)
    width = 0.9 if steps <= 500 else 0.5
    halo = [Stroke(linewidth=width + 1.6, foreground="1.0", alpha=0.8), Normal()]
    for c in range(count if below is not None else 0):
        assert below is not None and all_values is not None
        valid = all_values[..., c][~np.isnan(all_values[..., c])]
        low, span = (valid.min(), np.ptp(valid)) if valid.size else (0.0, 0.0)
        share = (below[:, c] - low) / span if span else np.where(np.isnan(below[:, c]), np.nan, 0.5)
        heights = c + 0.4 - 0.8 * share
        marker = "." if steps == 1 else ""
        x = np.arange(first, first + steps)
        ax.plot(x, heights, color=_INK, linewidth=width, marker=marker, path_effects=halo, rasterized=steps > 5000)
    ax.set(xlim=extent[:2], ylim=extent[2:])


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


def draw_largest(
    ax: Axes, values: np.ndarray, below: np.ndarray | None, ends: Limits, colours: Colormap, names: list[str] | None
) -> None:
    """Draw the features with the largest |R| as bars with their names, the largest at the top, and their inputs."""
    count = min(MOST_LARGEST, len(values))
    largest = np.argsort(-np.nan_to_num(np.abs(values)), kind="stable")[:count]
    heights = np.nan_to_num(values[largest])
    ax.barh(range(count), heights, color=[colours(0.9 if height > 0 else 0.1) for height in heights], height=0.75)
    texts = [f"feature {i}" if names is None else names[i] for i in largest]
    if below is not None:
        texts = [f"{text} = {below[i]:.3g}" for text, i in zip(texts, largest, strict=True)]
    ax.set_yticks(range(count), texts, parse_math=False)
    ax.axvline(0, color=_INK, linewidth=0.6)
    low, high = min(0.0, ends[0], heights.min()), max(0.0, ends[1], heights.max())
    ax.set(ylim=(count - 0.4, -0.6))
    if low < high:
        ax.set_xlim(1.05 * low if (heights < 0).any() else 0.0, 1.05 * high if (heights > 0).any() else 0.0)


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
    elif kind == "largest":
        pass  # names are beside the bars
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
    ends: Limits | None,
    clipped: tuple[bool, bool],
    summed: int,
    label: str | None,
    sign: int,
) -> None:
    """Add the colour bar, without ``ends`` for panels with their own scales; it says how many channels are summed."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    low, high = drawable(ends or (float(-(sign <= 0)), float(sign >= 0)))
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[clipped]
    bar = figure.colorbar(
        ScalarMappable(Normalize(low, high), colours),
        ax=axes,
        extend=extend,
        aspect=max(20, 8 * figure.get_figheight()),  # an eighth of an inch wide
        fraction=0.05,
        pad=0.02,
    )
    bar.ax.tick_params(labelsize="x-small")
    lines = ["relevance" if label is None else label]
    if summed > 1 and label is None:
        lines.append(f"summed over {summed:,} channels")
    if ends is None:
        ticks = [tick for tick in (-1, 0, 1) if low <= tick <= high]
        bar.set_ticks(ticks, labels=[{-1: "−", 0: "0", 1: "+"}[tick] for tick in ticks])
        if label is None:
            lines.append("(ends: ± above each panel)" if sign == 0 else "(end: above each panel)")
    bar.set_label("\n".join(lines), fontsize="small", parse_math=False)


def drawable(ends: Limits) -> Limits:
    """Limits of colours; any will do where all relevance is zero."""
    return ends if ends[0] < ends[1] else (-1.0, 1.0)
