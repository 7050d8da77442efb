"""The panels of a heat map: their axes, what is drawn on each, and the colour bar."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InputError
from .check import figure_class
from .content import Content
from .draw import MOST_LARGEST, add_bar, annotate, draw_image, draw_largest, draw_sequence, draw_vector, drawable
from .grid import Grid, size
from .map_axes import coast_resolution, label_axes
from .scale import Limits, limits_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

#: Pixels per inch in notebooks.
NOTEBOOK_DPI = 100


@dataclass(frozen=True, eq=False)
class Style:
    """How panels are drawn.

    Attributes
    ----------
    colours : Colormap
    ends : list of Limits
        Of each panel's colours.
    clipped : (bool, bool)
        Whether some relevance is below or above its limits.
    sign : {0, 1, -1}
        The sign of all relevance; 0 for both.
    alone : bool
        Whether one scale is that of all panels.
    largest : bool
        Draw the largest features of a vector only.
    origin : str
    features : list of str or None
    colorbar : bool
    colorbar_label : str or None
    transform : cartopy projection or None
    is_new : bool
        Whether the figure is new.
    """

    colours: Colormap
    ends: list[Limits]
    clipped: tuple[bool, bool]
    sign: int
    alone: bool
    largest: bool
    origin: str = "upper"
    features: list[str] | None = None
    colorbar: bool = True
    colorbar_label: str | None = None
    transform: Any = None
    is_new: bool = True


def own_axes(ax: Any, count: int) -> tuple[Figure, list[Any]]:
    """The caller's figure and axes, one for each panel."""
    from matplotlib.axes import Axes

    axes = [ax] if isinstance(ax, Axes) else list(getattr(ax, "flat", ax) if hasattr(ax, "__iter__") else ())
    if not axes or not all(isinstance(each, Axes) for each in axes):
        raise InputError(f"ax must be a matplotlib Axes, or one for each sample, not {ax!r:.80}")
    if len(axes) < count:
        raise InputError(f"there are {count} samples to draw on {len(axes)} axes; limit= draws fewer")
    return axes[0].get_figure(root=True), axes[:count]


def new_axes(content: Content, grid: Grid, style: Style) -> tuple[Figure, list[Axes]]:
    """A new figure with the axes of its panels."""
    import matplotlib
    from matplotlib.font_manager import FontProperties

    values = content.values
    font = FontProperties(size=matplotlib.rcParams["font.size"]).get_size_in_points()
    bars = min(MOST_LARGEST, values.shape[-1]) if content.kind == "vector" and style.largest else 0
    ratio = None if content.axes is None else content.axes.ratio()
    inches = size(content.kind, values, grid, ratio, font, bars)
    figure = blank(inches, "compressed" if content.kind == "image" else "constrained")
    options = {} if style.transform is None else {"projection": style.transform}
    axes = list(figure.subplots(grid.down, grid.across, squeeze=False, subplot_kw=options).ravel())
    for spare in axes[len(values) :]:
        spare.remove()
    return figure, axes[: len(values)]


def draw_panels(figure: Figure, axes: list[Axes], content: Content, grid: Grid, style: Style) -> None:
    """Draw every sample, its labels, and the colour bar."""
    kind, values, below = content.kind, content.values, content.below
    coast = coast_resolution() if content.is_map and any(hasattr(ax, "projection") for ax in axes) else None
    for i, ax in enumerate(axes):
        ends = drawable(style.ends[i])
        own_below = None if below is None else below[i]
        if kind == "vector" and style.largest:
            draw_largest(ax, values[i], own_below, ends, style.colours, style.features)
        elif kind == "vector":
            draw_vector(ax, values[i], own_below, max(abs(ends[0]), abs(ends[1])), style.colours)
        elif kind == "sequence":
            draw_sequence(ax, values[i], own_below, ends, style.colours, below, content.first)
        else:
            options = style.colours, style.origin, content.positive, content.axes
            draw_image(ax, values[i], own_below, ends, *options)
        last = i + grid.across >= len(values)
        amount = "" if style.alone or kind == "vector" else limits_text(style.ends[i])
        parts = None if kind == "vector" and style.largest else style.features
        annotate(ax, kind if not style.largest or kind != "vector" else "largest", parts, grid, i, last, amount)
        if content.axes is not None:
            _add_degrees(ax, content, coast, i % grid.across == 0, last)
    if kind == "vector":
        name = "relevance" if style.colorbar_label is None else style.colorbar_label
        if style.largest:
            for ax in axes[-grid.across :]:
                ax.set_xlabel(name, fontsize="small")
        elif style.is_new:
            figure.supylabel(name, fontsize="medium")
        else:
            for ax in axes:
                ax.set_ylabel(name, fontsize="small")
    elif style.colorbar:
        ends_of_all = style.ends[0] if style.alone else None
        add_bar(
            *(figure, axes, style.colours, ends_of_all, style.clipped),
            *(content.summed, style.colorbar_label, style.sign),
        )


def _add_degrees(ax: Any, content: Content, coast: str | None, left: bool, bottom: bool) -> None:
    assert content.axes is not None
    if not hasattr(ax, "projection"):
        label_axes(ax, content.axes, left, bottom)
        return
    if coast is not None:
        ax.coastlines(coast, linewidth=0.5, color="0.25")
    ax.gridlines(
        draw_labels={"left": "y", "bottom": "x"} if left and bottom else {"left": "y"} if left else {"bottom": "x"},
        linewidth=0.3,
        color="0.6",
        xlabel_style={"size": "x-small"},
        ylabel_style={"size": "x-small"},
    ) if left or bottom else ax.gridlines(linewidth=0.3, color="0.6")


def blank(inches: tuple[float, float], layout: Literal["compressed", "constrained"] | None = None) -> Figure:
    """An empty figure that is drawn in memory, without pyplot, a window or global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure: Figure = figure_class()(figsize=inches, layout=layout)
    FigureCanvasAgg(figure)
    setattr(figure, "_repr_png_", functools.partial(_png, figure))  # by which notebooks show it  # noqa: B010
    return figure


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=NOTEBOOK_DPI)
    return content.getvalue()
