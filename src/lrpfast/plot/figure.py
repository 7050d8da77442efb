"""The picture as a whole: `heatmap`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .check import check_choice, check_features, figure_class, is_index
from .content import Content, read_content
from .draw import MOST_BARS, ORIGINS
from .grid import Grid
from .map_axes import projection_of
from .panels import Style, draw_panels, new_axes, own_axes
from .samples import LIMIT, check_limit
from .scale import SCALES, colour_map, limits, sign_of

if TYPE_CHECKING:
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure


def heatmap(
    relevance: Any,
    input: Any = None,
    *,
    kind: str = "auto",
    shape: Sequence[int] | None = None,
    mask: Any = None,
    channels: str | int | None = None,
    channels_first: bool | None = None,
    features: Sequence[Any] | None = None,
    scale: str | None = None,
    percentile: float | None = None,
    limit: int = LIMIT,
    labels: Sequence[Any] | None = None,
    rows: Sequence[Any] | None = None,
    columns: int | Sequence[Any] | None = None,
    title: str | None = None,
    origin: str = "upper",
    cmap: str | Colormap | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    colorbar: bool = True,
    colorbar_label: str | None = None,
    coordinates: Any = None,
    projection: Any = None,
    largest: bool | None = None,
    window: Sequence[int] | None = None,
    ax: Any = None,
) -> Figure:
    """Draw the relevance of samples in a grid of panels, one for each.

    Red speaks for what was explained, blue against it, and zero is nearly white: the middle
    of the colour map, or its end where all relevance has one sign. Over an image's input zero
    is transparent, so that the input shows. NaN features are light grey;
    over an image's input, which is grey itself, they are pale yellow and hatched.

    Parameters
    ----------
    relevance : array, shape (samples, …), or Explanation
        The result of `Analyzer.analyze` or `explain`, in the units of the explained output:
        an array of NumPy, CuPy, PyTorch, xarray or Dask. The shape decides how a sample is
        drawn; see ``kind``. Means by group, ``statistics.mean``, are samples too;
        those on a grid need ``kind="image"``. Of an xarray.DataArray, the coordinates count:
        those of latitude and longitude, whatever the order of its dimensions, make it a
        grid, north up, with degrees beside it; those of the samples label the panels. One
        map, (lat, lon), is one sample.
    input : array shaped like ``relevance``, optional
        The explained inputs. An image is drawn in pale greys beneath its relevance in one red
        and one blue, which are more opaque for larger |R|; channels are averaged. Photographs
        are light where their values are large, drawings and handwriting dark. A sequence is a
        line over each channel's bars, scaled from the
        smallest to the largest value of that channel in the samples shown. A vector is a
        grey line of steps, with an axis of its own on the right.
    kind : {"auto", "image", "sequence", "vector", "map"}
        - "image": (samples, height, width), or with channels (samples, height, width,
          channels) or (samples, channels, height, width); see ``channels_first``;
        - "sequence": (samples, steps) or (samples, steps, channels), a row of coloured
          bars for each channel;
        - "vector": (samples, features), bars upwards and downwards; see ``largest``;
        - "map": an image with coordinates of latitude and longitude. With cartopy, it has coast
          lines (where cartopy has their data on this computer) and a ``projection``; without,
          it is a plain grid of degrees.

        "auto" takes four axes as images, three as sequences, two as vectors. Images without
        an axis of channels, such as maps (samples, lat, lon), need ``kind="image"``.
    shape : tuple of int, optional
        The shape of each sample, such as (8, 8) for 64 features: an image, unless ``kind``
        says otherwise.
    mask : bool array, shape (height, width), optional
        For features that are some points of a grid, such as the ocean in a map: True
        at the features, in row-major order. The other points are NaN.
    channels : {"sum", "each"} or int, optional
        Images: "sum" (default) adds the relevance of the channels, and the colour bar
        says so; an index shows one channel.
        Sequences: "each" (default) draws a row for each channel; or "sum", or an index.
    channels_first : bool, optional
        Whether a sample's channels are its first axis, as in ONNX and PyTorch, or its last,
        as in Keras; ``model.channels_first`` has the value for inputs. When None, the channels
        of an image are the first or last axis, whichever has a size of 1 to 4, less than both
        other axes; it is an error if neither has, as in hidden layers, or if one has 1 and the
        other 3. The channels of a sequence are the last axis.
    features : sequence of str, optional
        Names of a vector's features or of a sequence's channels.
    scale : {"sample", "shared"}, optional
        "sample": every panel has its own scale, with its limit above the panel as ±value.
        "shared": one scale for all samples shown. By default, grids with coordinates share
        one scale, all others do not.
    percentile : float, optional
        Above 0 and up to 100. Colours end at this percentile of |R| among the values that
        are neither 0 nor NaN; larger values have the last colour of their sign, and the
        colour bar has an arrow (a vector's bar, a triangle). By default colours end
        at the largest |R|, and nothing is clipped.
    limit : int
        Draw the first ``limit`` samples (at most 100). When there are more, the
        figure's title says how many of how many.
    labels : sequence, optional
        The text above each panel, one for each sample; by default its index.
    rows, columns : sequence of str, optional
        Labels of the grid's rows and columns instead, for samples that are ordered row by
        row. ``columns`` may also be the number of columns.
    title : str, optional
        The text above the whole figure.
    origin : {"upper", "lower"}
        The position of an image's first row; "lower" for maps with ascending latitudes. For images
        only. With coordinates, these decide.
    cmap : str or matplotlib Colormap, optional
        By default ColorBrewer's RdBu reversed, whose colours colour-blind readers can distinguish;
        where all relevance has one sign, Reds or Blues, which begin at zero, and so does another
        map that is known not to be a diverging one.
    vmin, vmax : float, optional
        The relevance at which the colours of all panels end; with one of them, the other is its
        opposite, or zero where all relevance has one sign.
    colorbar : bool
        Whether there is a colour bar.
    colorbar_label : str, optional
        Its text; by default "relevance", and what of it is shown.
    coordinates : (latitudes, longitudes), optional
        Of the rows and the columns of an image, for arrays without coordinates of their own.
    projection : str or cartopy.crs.Projection, optional
        Of maps: "Robinson", say; by default PlateCarree.
    largest : bool, optional
        Vectors: draw only the 20 features with the largest |R|, with their names; by default of
        vectors with more than 1,000 features.
    window : (first, stop), optional
        Sequences: the steps to draw.
    ax : matplotlib Axes or sequence of Axes, optional
        Where to draw, one for each sample, in place of a new figure. ``title`` is then the title of
        a single panel.

    Returns
    -------
    matplotlib.figure.Figure
        Created without pyplot: it needs no display and need not be closed. `save` or its
        ``savefig`` writes it; a notebook shows it by itself. With ``ax``, the figure of that.

    Raises
    ------
    ShapeError
        When shapes do not fit each other or the kind; a single sample needs its batch axis.
    InputError
        When an option is unknown, there are no samples, a relevance is infinite, or an
        image's channels may be either its first axis or its last.
    MissingPackageError
        When matplotlib is not installed: ``pip install matplotlib``.

    Examples
    --------
    >>> relevance = np.linspace(-1, 1, 32).reshape(2, 4, 4)
    >>> figure = lrpfast.plot.heatmap(relevance, kind="image", labels=["cat", "dog"])
    >>> len(figure.axes)  # two panels and a colour bar
    3

    Mean maps by group:

    >>> model = lrpfast.from_layers([lrpfast.layers.Dense(np.ones((16, 2)))])
    >>> done = lrpfast.Analyzer(model, "epsilon").stream(np.eye(16), statistics=True, group_by=np.arange(16) % 2)
    >>> done.statistics.mean.shape
    (2, 16)
    >>> figure = lrpfast.plot.heatmap(done.statistics.mean, shape=(4, 4), labels=done.statistics.groups)
    """
    figure_class()  # a missing package is the first error
    check_choice("origin", origin, ORIGINS)
    check_limit(limit)
    content = read_content(relevance, input, kind, shape, mask, channels, channels_first, limit, coordinates, window)
    kind, values = content.kind, content.values
    if origin != ORIGINS[0] and kind != "image":
        raise InputError(f"origin is for images, and these are drawn as kind {kind!r}; kind='image' draws grids")
    if projection is not None and not content.is_map:
        raise InputError("projection is for kind='map'")
    if labels is None and rows is None and (columns is None or is_index(columns)):
        labels = content.labels
    style = dataclasses.replace(
        _style_of(content, cmap, scale, percentile, (vmin, vmax), largest),
        origin=origin,
        features=check_features(content.features if features is None else features, kind, values),
        colorbar=colorbar,
        colorbar_label=colorbar_label,
        is_new=ax is None,
        transform=projection_of(projection, content.axes) if content.is_map and content.axes else None,
    )
    grid = Grid.of(len(values), content.samples, labels, rows, columns, kind)
    if ax is None:
        figure, axes = new_axes(content, grid, style)
        _add_title(figure, title, len(values), content.samples)
    else:
        figure, axes = own_axes(ax, len(values))
        if title is not None and len(axes) == 1:
            grid = dataclasses.replace(grid, above=[title])
    draw_panels(figure, axes, content, grid, style)
    return figure


def _style_of(
    content: Content,
    cmap: Any,
    scale: str | None,
    percentile: float | None,
    bounds: tuple[float | None, float | None],
    largest: bool | None,
) -> Style:
    """The colours and their limits."""
    if scale is not None:
        check_choice("scale", scale, SCALES)
    kind, values = content.kind, content.values
    few = kind == "vector" and (values.shape[-1] > MOST_BARS if largest is None else bool(largest))
    over_input = kind == "image" and content.below is not None
    sign = 0 if over_input or (kind == "vector" and not few) else sign_of(values, cmap)
    scale = scale or ("shared" if content.axes is not None else "sample")
    ends, clipped = limits(values, scale, percentile, bounds, sign)
    # the colour bar has the numbers
    alone = scale == "shared" or len(values) == 1 or bounds != (None, None)
    return Style(colour_map(cmap, over_input, sign), ends, clipped, sign, alone, few)


def _add_title(figure: Figure, title: str | None, count: int, samples: int) -> None:
    """Add the title, and how many of the samples are shown if not all are."""
    if count < samples:
        title = f"{title}: " if title else ""
        title += f"first {count:,} of {samples:,} samples"
    if title:
        figure.suptitle(title, fontsize="medium", parse_math=False)
