"""The picture as a whole: `heatmap`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InputError
from .check import check_choice, check_features, figure_class
from .draw import ORIGINS, add_bar, annotate, draw_image, draw_sequence, draw_vector
from .grid import Grid, size
from .samples import LIMIT, Reader, as_input, as_samples, check_limit
from .scale import SCALES, colour_map, limits, plus_minus

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
    scale: str = "sample",
    percentile: float | None = None,
    limit: int = LIMIT,
    labels: Sequence[Any] | None = None,
    rows: Sequence[Any] | None = None,
    columns: int | Sequence[Any] | None = None,
    title: str | None = None,
    origin: str = "upper",
    cmap: str | Colormap = "RdBu_r",
) -> Figure:
    """Draw the relevance of samples in a grid of panels, one for each.

    The colours are symmetric about zero: red speaks for what was explained, blue
    against it. Zero is the colour map's middle, which is nearly white; over an
    image's input it is transparent, so that the input shows. NaN features are light grey;
    over an image's input, which is grey itself, they are pale yellow and hatched.

    Parameters
    ----------
    relevance : array, shape (samples, …), or Explanation
        The result of `Analyzer.analyze` or `explain`, in the units of the explained output:
        an array of NumPy, CuPy, PyTorch, xarray or Dask. The shape decides how a sample is
        drawn; see ``kind``. Means by group, ``statistics.mean``, are samples too;
        those on a grid need ``kind="image"``.
    input : array shaped like ``relevance``, optional
        The explained inputs. An image is drawn in pale greys, its largest value the darkest,
        beneath its relevance in one red and one blue, which are more opaque for larger |R|;
        channels are averaged. A sequence is a line over each channel's bars, scaled from the
        smallest to the largest value of that channel in the samples shown. A vector is a
        grey line of steps, with an axis of its own on the right.
    kind : {"auto", "image", "sequence", "vector"}
        - "image": (samples, height, width), or with channels (samples, height, width,
          channels) or (samples, channels, height, width); see ``channels_first``;
        - "sequence": (samples, steps) or (samples, steps, channels), a row of coloured
          bars for each channel;
        - "vector": (samples, features), bars upwards and downwards.

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
    scale : {"sample", "shared"}
        "sample": every panel has its own scale, with its limit above the panel as ±value.
        "shared": one scale for all samples shown.
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
        The position of an image's first row; "lower" for maps with ascending latitudes. For images only.
    cmap : str or matplotlib Colormap
        A diverging map. Colour-blind readers can distinguish the colours of the default,
        ColorBrewer's RdBu reversed.

    Returns
    -------
    matplotlib.figure.Figure
        Created without pyplot: it needs no display and need not be closed. `save` or its
        ``savefig`` writes it; in a notebook, ``%matplotlib inline`` shows it.

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
    check_choice("scale", scale, SCALES)
    check_choice("origin", origin, ORIGINS)
    check_limit(limit)
    values, samples = as_samples(relevance, "relevance", limit)
    reader, values = Reader.of(kind, shape, mask, channels, channels_first).read(values, "relevance")
    kind = reader.kind
    if origin != ORIGINS[0] and kind != "image":
        raise InputError(f"origin is for images, and these are drawn as kind {kind!r}; kind='image' draws grids")
    beneath = None if input is None else as_input(input, reader, values, samples, limit)
    ends, clipped = limits(values, scale, percentile)
    grid = Grid.of(len(values), samples, labels, rows, columns, kind)
    parts = check_features(features, kind, values)
    colours = colour_map(cmap, over_input=kind == "image" and beneath is not None)

    figure = blank(size(kind, values, grid), "compressed" if kind == "image" else "constrained")
    _add_title(figure, title, len(values), samples)
    axes = list(figure.subplots(grid.down, grid.across, squeeze=False).ravel())
    for spare in axes[len(values) :]:
        spare.remove()
    del axes[len(values) :]
    alone = scale == "shared" or len(values) == 1  # with one scale, the bar has its numbers
    for i, ax in enumerate(axes):
        end = ends[i] or 1.0  # if all is zero, any limits will do
        below = None if beneath is None else beneath[i]
        if kind == "vector":
            draw_vector(ax, values[i], below, end, colours)
        elif kind == "sequence":
            draw_sequence(ax, values[i], below, end, colours, beneath)
        else:
            draw_image(ax, values[i], below, end, colours, origin)
        last = i + grid.across >= len(values)
        annotate(ax, kind, parts, grid, i, last, "" if alone or kind == "vector" else plus_minus(ends[i]))
    if kind == "vector":
        figure.supylabel("relevance", fontsize="medium")
    else:
        add_bar(figure, axes, colours, ends[0] if alone else None, clipped, reader.summed)
    return figure


def _add_title(figure: Figure, title: str | None, count: int, samples: int) -> None:
    """Add the title, and how many of the samples are shown if not all are."""
    if count < samples:
        title = f"{title}: " if title else ""
        title += f"first {count:,} of {samples:,} samples"
    if title:
        figure.suptitle(title, fontsize="medium", parse_math=False)


def blank(size: tuple[float, float], layout: Literal["compressed", "constrained"] | None = None) -> Figure:
    """An empty figure that is drawn in memory, without pyplot, a window or global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = figure_class()(figsize=size, layout=layout)
    FigureCanvasAgg(figure)
    return figure
