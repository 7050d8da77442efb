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

#: The default colours, of ColorBrewer: of both signs, of relevance that is nowhere negative, and nowhere positive.
DIVERGING, POSITIVE, NEGATIVE = "RdBu_r", "Reds", "Blues_r"
#: The names of matplotlib's diverging maps, whose middle is zero even where relevance has one sign.
_DIVERGING = {
    *("PiYG", "PRGn", "BrBG", "PuOr", "RdGy", "RdBu", "RdYlBu", "RdYlGn", "Spectral", "coolwarm", "bwr", "seismic"),
    *("berlin", "managua", "vanimo"),
}

#: The lowest and the highest relevance of a panel's colours.
Limits = tuple[float, float]


def limits(
    values: np.ndarray,
    scale: str,
    percentile: float | None,
    bounds: tuple[float | None, float | None] = (None, None),
    sign: int = 0,
) -> tuple[list[Limits], tuple[bool, bool]]:
    """Where each panel's colours end, and whether some relevance is below or above these limits.

    Parameters
    ----------
    values : array, shape (panels, …)
    scale : {"sample", "shared"}
    percentile : float or None
        Of |R|; None for the largest.
    bounds : (float or None, float or None)
        The caller's limits; with one of them, the other is its opposite.
    sign : {0, 1, -1}
        1 where colours begin at zero, -1 where they end there, 0 where zero is their middle.
    """
    if percentile is not None and not (is_real(percentile) and 0 < percentile <= 100):
        raise InputError(f"percentile must be a number above 0 and up to 100, not {percentile!r}")

    def end(part: np.ndarray) -> float:
        sizes = np.abs(part[~np.isnan(part) & (part != 0)])
        if not sizes.size:
            return 0.0
        return float(sizes.max() if percentile is None else np.percentile(sizes, percentile))

    if bounds != (None, None):
        if percentile is not None:
            raise InputError("percentile and vmin or vmax both say where colours end; give one of them")
        ends = [_of_caller(bounds, sign)] * len(values)
    else:
        sizes = [end(values)] * len(values) if scale == "shared" else [end(part) for part in values]
        ends = [(-size if sign <= 0 else 0.0, size if sign >= 0 else 0.0) for size in sizes]
    low, high = (np.reshape([pair[i] for pair in ends], (-1, *[1] * (values.ndim - 1))) for i in (0, 1))
    return ends, (bool((values < low).any()), bool((values > high).any()))


def _of_caller(bounds: tuple[float | None, float | None], sign: int) -> Limits:
    """The caller's limits, with the missing one."""
    for name, value in zip(("vmin", "vmax"), bounds, strict=True):
        if value is not None and not (is_real(value) and np.isfinite(value)):
            raise InputError(f"{name} must be a number, not {value!r}")
    low, high = bounds
    if low is None:
        assert high is not None
        low = 0.0 if sign > 0 and high > 0 else -abs(high)
    if high is None:
        high = 0.0 if sign < 0 and low < 0 else abs(low)
    if not low < high:
        raise InputError(f"vmin must be below vmax, not {low:g} and {high:g}")
    return float(low), float(high)


def sign_of(values: np.ndarray, cmap: Any) -> int:
    """1 where no value is negative, -1 where none is positive, 0 where there are both or the map has a middle."""
    name = getattr(cmap, "name", cmap)
    if cmap is not None and (not isinstance(cmap, str) or str(name).removesuffix("_r") in _DIVERGING):
        return 0
    positive, negative = bool((values > 0).any()), bool((values < 0).any())
    return 0 if positive == negative else 1 if positive else -1


def colour_map(cmap: Any, over_input: bool, sign: int = 0) -> Colormap:
    """The colour map; over an input, the colours of its ends, more transparent near zero."""
    import matplotlib
    from matplotlib.colors import Colormap, ListedColormap

    if cmap is None:
        cmap = {0: DIVERGING, 1: POSITIVE, -1: NEGATIVE}[0 if over_input else sign]
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


def limits_text(ends: Limits) -> str:
    """The text above a panel with a scale of its own."""
    low, high = ends
    if not (low or high):
        return "all 0"
    return f"±{high:.3g}" if low == -high else f"{low:.3g} to {high:.3g}"
