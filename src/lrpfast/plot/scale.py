"""The colours and their limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from .check import is_real

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

SCALES = ("sample", "shared")

#: Light grey: features without a value.
MASKED = "0.8"
#: Pale yellow, hatched: features without a value over an image's input, which is grey itself.
UNKNOWN = "#f5e9b8"


def limits(values: np.ndarray, scale: str, percentile: float | None) -> tuple[list[float], tuple[bool, bool]]:
    """The |R| at which each panel's colours end, and whether some relevance is below or above these limits."""
    if percentile is not None and not (is_real(percentile) and 0 < percentile <= 100):
        raise InputError(f"percentile must be a number above 0 and up to 100, not {percentile!r}")

    def end(part: np.ndarray) -> float:
        sizes = np.abs(part[~np.isnan(part) & (part != 0)])
        if not sizes.size:
            return 0.0
        return float(sizes.max() if percentile is None else np.percentile(sizes, percentile))

    ends = [end(values)] * len(values) if scale == "shared" else [end(part) for part in values]
    column = np.reshape(ends, (-1, *[1] * (values.ndim - 1)))
    return ends, (bool((values < -column).any()), bool((values > column).any()))


def colour_map(cmap: Any, over_input: bool) -> Colormap:
    """The colour map; over an input, the colours of its ends, more transparent near zero."""
    import matplotlib
    from matplotlib.colors import Colormap, ListedColormap

    if isinstance(cmap, str):
        if cmap not in matplotlib.colormaps:
            raise InputError(f"matplotlib has no colour map named {cmap!r}")
        cmap = matplotlib.colormaps[cmap]
    if not isinstance(cmap, Colormap):
        raise InputError(f"cmap must be the name of a colour map or a matplotlib Colormap, not {cmap!r}")
    if over_input:  # transparent at zero, opaque at the scale's end
        strength = np.linspace(-1, 1, 255)
        colours = np.where(strength[:, None] < 0, cmap(0.1), cmap(0.9))
        colours[:, 3] = np.abs(strength)
        cmap = ListedColormap(colours, f"{cmap.name} over an input")
    return cmap.with_extremes(bad=MASKED)


def plus_minus(end: float) -> str:
    """The text above a panel with a scale of its own."""
    return f"±{end:.3g}" if end else "all 0"
