"""The two axes of a grid: their coordinates, order and labels, and maps with coast lines where cartopy is installed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..coordinates import coordinate_kind
from ..engine.growth import callers_level
from ..errors import InputError, MissingPackageError, ShapeError
from ..kernels.arrays import to_host

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Steps between the points of an axis differ by less than this share of them where it is drawn as evenly spaced.
_EVEN = 1e-3
_HALF_CIRCLE, _CIRCLE = 180.0, 360.0
#: Suffixes of degrees by the kind of the axis: above and below zero.
_SIDES = {"latitude": ("N", "S"), "longitude": ("E", "W")}
#: Degrees between labels, as multiples of a power of ten.
_STEPS = [1, 3, 6, 10]


@dataclass(frozen=True, eq=False)
class GridAxis:
    """The points of one axis of a grid.

    Attributes
    ----------
    name : str
        What is written beside it.
    values : float array
        The coordinate of each point, as the array has them.
    kind : {"latitude", "longitude"} or None
    down : bool
        Whether values grow downwards, as depths do.
    """

    name: str
    values: np.ndarray
    kind: str | None = None
    down: bool = False

    @property
    def order(self) -> np.ndarray:
        """The indices of the points in ascending order."""
        return np.argsort(self.values, kind="stable")

    @property
    def even(self) -> bool:
        steps = np.diff(np.sort(self.values))
        return not steps.size or bool(np.ptp(steps) <= _EVEN * abs(steps.mean()))

    @property
    def edges(self) -> np.ndarray:
        """The borders of the cells in ascending order, half-way between the points."""
        points = np.sort(self.values)
        if len(points) == 1:
            return np.array([points[0] - 0.5, points[0] + 0.5])
        middle = (points[1:] + points[:-1]) / 2
        edges = np.concatenate([[1.5 * points[0] - 0.5 * points[1]], middle, [1.5 * points[-1] - 0.5 * points[-2]]])
        return np.clip(edges, -90, 90) if self.kind == "latitude" else edges

    def label(self, value: float) -> str:
        """A tick's label: degrees with the hemisphere."""
        if self.kind is None:
            return f"{value:g}"
        if self.kind == "longitude":
            value = (value + _HALF_CIRCLE) % _CIRCLE - _HALF_CIRCLE
            if value == -_HALF_CIRCLE:
                return "180°"
        side = "" if value == 0 else _SIDES[self.kind][int(value < 0)]
        return f"{abs(value):g}°{side}"


@dataclass(frozen=True, eq=False)
class GridAxes:
    """The vertical and the horizontal axis of grids."""

    y: GridAxis
    x: GridAxis

    @property
    def on_globe(self) -> bool:
        return self.y.kind == "latitude" and self.x.kind == "longitude"

    def ordered(self, values: np.ndarray) -> np.ndarray:
        """Grids (…, y, x) with ascending coordinates."""
        return np.asarray(values[..., self.y.order, :][..., self.x.order])

    def ratio(self) -> float:
        """The width of the grid over its height."""
        y, x = self.y.edges, self.x.edges
        return float(np.ptp(x) / np.ptp(y)) if self.on_globe else len(self.x.values) / len(self.y.values)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ShapeError unless grids (…, y, x) of this shape have these points."""
        expected = len(self.y.values), len(self.x.values)
        if shape[-2:] != expected:
            raise ShapeError(f"the coordinates are those of a grid {expected}, but a sample is {shape[-2:]}")


def grid_axis(name: str, values: Any, attrs: dict[str, Any], default: str | None = None) -> GridAxis | None:
    """The axis with these coordinates; None where they are no numbers."""
    points = np.asarray(to_host(values))
    if points.ndim != 1 or points.dtype.kind not in "fiu" or not points.size or not np.isfinite(points).all():
        return None
    kind = coordinate_kind(name, attrs) or default
    text = str(attrs.get("long_name") or attrs.get("standard_name") or name)
    units = str(attrs.get("units") or "")
    text += f" [{units}]" if units and kind is None else ""
    return GridAxis(text, points.astype(np.float64), kind, str(attrs.get("positive", "")).lower() == "down")


def from_pair(coordinates: Any) -> GridAxes:
    """The axes of ``coordinates=(latitudes, longitudes)``."""
    if not isinstance(coordinates, Sequence) or isinstance(coordinates, str) or len(coordinates) != 2:
        raise InputError("coordinates must be a pair: the latitudes of the rows and the longitudes of the columns")
    y, x = (
        grid_axis(kind, np.asarray(values), {}, kind)
        for kind, values in zip(("latitude", "longitude"), coordinates, strict=True)
    )
    if y is None or x is None:
        raise InputError("coordinates must be two sequences of finite numbers, of latitudes and of longitudes")
    return GridAxes(y, x)


def _tick(axis: GridAxis, value: float, _: object) -> str:
    return axis.label(value)


def label_axes(ax: Axes, axes: GridAxes, left: bool, bottom: bool) -> None:
    """Write degrees, or numbers and names, at the outer panels of a grid."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for axis, own, shown in ((ax.yaxis, axes.y, left), (ax.xaxis, axes.x, bottom)):
        axis.set_major_locator(MaxNLocator(7, steps=_STEPS if own.kind else None))
        axis.set_major_formatter(FuncFormatter(partial(_tick, own)))
        axis.set_tick_params(labelleft=shown, labelbottom=shown)
        if own.kind is None and shown:
            axis.set_label_text(own.name, fontsize="small", parse_math=False)


# Maps


def projection_of(projection: Any, axes: GridAxes) -> Any:
    """The cartopy projection of a map; None without cartopy, where maps are plain.

    Raises
    ------
    InputError
        For an unknown projection.
    MissingPackageError
        For a projection without cartopy.
    """
    try:
        import cartopy.crs as crs
    except ImportError as error:
        if projection is None:
            return None
        message = "a projection needs cartopy: pip install cartopy; without one, maps are plain grids of degrees"
        raise MissingPackageError(message, name="cartopy") from error
    if isinstance(projection, crs.Projection):
        return projection
    middle = float(axes.x.edges[[0, -1]].mean()) if np.ptp(axes.x.edges) > _HALF_CIRCLE else 0.0
    name = "PlateCarree" if projection is None else projection
    kind = getattr(crs, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, crs.Projection)):
        raise InputError(
            f"projection must be a cartopy projection or the name of one, such as 'Robinson', not {name!r}"
        )
    try:
        return kind(central_longitude=middle)
    except TypeError:
        return kind()


def coast_resolution() -> str | None:
    """The coarsest resolution of coast lines that is on this computer; None, with a warning, where there are none."""
    import cartopy

    for folder in (cartopy.config["pre_existing_data_dir"], cartopy.config["data_dir"]):
        for resolution in ("110m", "50m", "10m"):
            file = os.path.join(folder, f"shapefiles/natural_earth/physical/ne_{resolution}_coastline.shp")
            if os.path.exists(file):
                return resolution
    warnings.warn(
        "the map has no coast lines: their data (Natural Earth) are not on this computer, and lrpfast downloads "
        "nothing; `cartopy_feature_download physical` fetches them once; CARTOPY_DATA_DIR names a folder that has them",
        UserWarning,
        stacklevel=callers_level(),
    )
    return None
