"""Pictures of relevance: heat maps of images, sequences and flat vectors, centred on zero.

Matplotlib draws them; it is imported by the first picture, not with lrpfast.

Examples
--------
>>> figure = lrpfast.plot.heatmap(np.array([[1.0, -2.0]]), title="relevance of two features")
>>> lrpfast.plot.save(figure, "features.svg")
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError, MissingPackageError, ShapeError
from .output import check_target, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "KINDS", "LIMIT", "MOST_PANELS", "ORIGINS", "SCALES", "check_path", "heatmap", "save"]

KINDS = ("auto", "image", "sequence", "vector")
SCALES = ("sample", "shared")
ORIGINS = ("upper", "lower")
#: Samples drawn where nothing else is said.
LIMIT = 16
#: File endings that `save` knows.
FORMATS = ("png", "pdf", "svg")
#: More panels than this are a picture that nobody reads, and that takes minutes to draw.
MOST_PANELS = 100

_MASKED = "0.8"  # light grey: features without a value
_INK = "0.25"


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

    The colours lie symmetrically about zero: white is no relevance, red speaks for
    what was explained, blue against it. Features that are NaN are light grey.

    Parameters
    ----------
    relevance : array, shape (samples, …)
        As `Analyzer.analyze` returns it, in the units of the explained output. How a
        sample is drawn follows from its shape; see ``kind``.
    input : array shaped like ``relevance``, optional
        What was explained. An image lies in grey beneath its relevance, which covers it
        the more, the larger |R| is; channels are averaged. A sequence is a line over each
        channel's bars, from the smallest to the largest value of that channel in the
        samples shown. A vector is a grey line of steps, with an axis of its own on the right.
    kind : {"auto", "image", "sequence", "vector"}
        - "image": (samples, height, width), or with channels (samples, height, width,
          channels) or (samples, channels, height, width); see ``channels_first``;
        - "sequence": (samples, steps) or (samples, steps, channels), a row of coloured
          bars for each channel;
        - "vector": (samples, features), bars upwards and downwards.

        "auto" takes four axes as images, three as sequences, two as vectors. Images of
        one channel without an axis for it need ``kind="image"``.
    shape : tuple of int, optional
        The shape to give each sample first, such as (8, 8) for 64 features: an image,
        unless ``kind`` says otherwise.
    mask : bool array, shape (height, width), optional
        For features that are some points of a grid, such as the ocean's in a map: True
        where the features lie, in row-major order. The other points are light grey.
    channels : {"sum", "each"} or int, optional
        Images: "sum" (default) adds the relevance of the channels, an index shows one.
        Sequences: "each" (default) has a row for each, or "sum", or an index.
    channels_first : bool, optional
        Whether a sample's channels are its first axis, as in ONNX and PyTorch, or its last,
        as in Keras; ``model.channels_first`` knows that of inputs. Say it for hidden layers,
        whose channels are many. When None, the channels of an image are whichever of the
        two is shorter than both other axes, and an error where neither is; those of a
        sequence are the last axis. Samples without channels are drawn as they are.
    features : sequence of str, optional
        Names of a vector's features or of a sequence's channels.
    scale : {"sample", "shared"}
        "sample": every panel has its own scale, which stands above it as ±value.
        "shared": one for all samples shown.
    percentile : float, optional
        Above 0 and up to 100. Colours end at this percentile of |R|, of the values that
        are neither 0 nor NaN; what lies beyond has the last colour of its sign, and the
        colour bar has an arrow there (a vector's bar, a triangle). By default colours end
        at the largest |R|, and nothing is clipped.
    limit : int
        Draw the first ``limit`` samples (at most 100). When there are more, the
        figure's title says how many of how many.
    labels : sequence, optional
        What stands above each panel: one for each sample; by default its index.
    rows, columns : sequence of str, optional
        Labels of the grid's rows and columns instead, where the samples are ordered row
        by row. ``columns`` may also be the number of columns.
    title : str, optional
        Above the whole figure.
    origin : {"upper", "lower"}
        Where an image's first row is; "lower" for maps whose latitudes ascend.
    cmap : str or matplotlib Colormap
        A diverging map. The default, ColorBrewer's RdBu reversed, can be told apart by
        colour-blind readers.

    Returns
    -------
    matplotlib.figure.Figure
        Made without pyplot: it needs no display and need not be closed. `save` or its
        ``savefig`` writes it; in a notebook, ``%matplotlib inline`` shows it.

    Raises
    ------
    ShapeError
        When shapes do not fit each other or the kind; a single sample needs its batch axis.
    InputError
        When an option is unknown, there are no samples, a relevance is infinite, or an
        image's channels may be its first axis as well as its last.
    MissingPackageError
        When matplotlib is not installed: ``pip install 'lrpfast[plot]'``.

    Examples
    --------
    >>> relevance = np.linspace(-1, 1, 32).reshape(2, 4, 4)
    >>> figure = lrpfast.plot.heatmap(relevance, kind="image", labels=["cat", "dog"])
    >>> len(figure.axes)  # two panels and a colour bar
    3
    """
    make_figure = _matplotlib()
    _check_choice("scale", scale, SCALES)
    _check_choice("origin", origin, ORIGINS)
    check_limit(limit)
    values, samples = _as_samples(relevance, "relevance", limit)
    reader, values = _Reader.of(kind, shape, mask, channels, channels_first).read(values, "relevance")
    kind = reader.kind
    beneath = None if input is None else _as_input(input, reader, values, samples, limit)
    limits, clipped = _limits(values, scale, percentile)
    names = _Names.of(len(values), samples, labels, rows, columns, kind)
    parts = _check_features(features, kind, values)

    colours = _colour_map(cmap, over_input=kind == "image" and beneath is not None)
    figure = make_figure(figsize=_size(kind, values, names), layout="compressed" if kind == "image" else "constrained")
    if len(values) < samples:
        title = f"{title}: " if title else ""
        title += f"first {len(values):,} of {samples:,} samples"
    if title:
        figure.suptitle(title, fontsize="medium", parse_math=False)
    grid = figure.subplots(names.down, names.across, squeeze=False).ravel()
    for spare in grid[len(values) :]:
        spare.remove()
    axes = list(grid[: len(values)])
    alone = scale == "shared" or len(values) == 1  # one scale: its own numbers at the bar
    for i, ax in enumerate(axes):
        end = limits[i] or 1.0  # where all is zero, any limits show it
        below = None if beneath is None else beneath[i]
        if kind == "vector":
            _draw_vector(ax, values[i], below, end, colours)
        elif kind == "sequence":
            _draw_sequence(ax, values[i], below, end, colours, beneath)
        else:
            _draw_image(ax, values[i], below, end, colours, origin)
        last = i + names.across >= len(values)
        _annotate(ax, kind, parts, names, i, last, "" if alone or kind == "vector" else _plus_minus(limits[i]))
    if kind == "vector":
        figure.supylabel("relevance", fontsize="medium")
    else:
        _add_bar(figure, axes, colours, limits[0] if alone else None, clipped)
    return figure


def save(figure: Figure, path: str | os.PathLike[str], dpi: float = 150) -> None:
    """Write a figure as PNG, PDF or SVG, by the path's ending; it appears when it is whole.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    path : path
        Ends in .png, .pdf or .svg.
    dpi : float
        Pixels an inch, of a PNG.

    Raises
    ------
    InputError
        For any other ending, or where no file can be put.

    Examples
    --------
    >>> figure = lrpfast.plot.heatmap(np.array([[1.0, -2.0]]))
    >>> lrpfast.plot.save(figure, "map.png")
    """
    ending = check_path(path)
    undated: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with replacing(path) as file:
        figure.savefig(file, format=ending, dpi=dpi, metadata=undated.get(ending))


def check_path(path: str | os.PathLike[str]) -> str:
    """The format that the path's ending names; InputError or OSError unless a picture can be put there.

    Examples
    --------
    >>> lrpfast.plot.check_path("map.png")
    'png'
    """
    ending = os.path.splitext(os.fspath(path))[1].lower().lstrip(".")
    if ending not in FORMATS:
        raise InputError(f"{path}: a picture's name ends in {', '.join('.' + f for f in FORMATS)}")
    check_target(path)
    return ending


def check_limit(limit: Any, panels: int = 1) -> None:
    """InputError unless ``limit`` samples of so many panels each can be drawn."""
    if not _is_index(limit) or limit < 1:
        raise InputError(f"limit must be a whole number of at least 1, not {limit!r}")
    if limit * panels > MOST_PANELS:
        each = f" of {panels:,} explanations each" if panels > 1 else ""
        raise InputError(f"limit is {limit:,} samples{each}, but a picture has {MOST_PANELS} panels at most")


# What comes in


def _matplotlib() -> Callable[..., Figure]:
    """A maker of figures that draw into memory: no pyplot, no window, no global state."""
    try:
        import matplotlib  # noqa: F401, its parts may be known while it is not there
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] != "matplotlib":
            raise
        raise MissingPackageError("pictures need matplotlib: pip install 'lrpfast[plot]'", name="matplotlib") from None

    def make(**keywords: Any) -> Figure:
        figure = Figure(**keywords)
        FigureCanvasAgg(figure)
        return figure

    return make


def _check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    if not (isinstance(value, str) and value in choices):
        raise InputError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def _is_index(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def _as_samples(value: Any, what: str, limit: int) -> tuple[np.ndarray, int]:
    """The first ``limit`` samples in float64, and how many there are; of a mapped file no more is read."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what} cannot be made an array: {error}") from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what} must be real numbers, not dtype {array.dtype}")
    if array.ndim < 2:
        raise ShapeError(
            f"{what} must have shape (samples, …), not {array.shape}; for one sample add the batch axis: x[None]"
        )
    if 0 in array.shape:
        raise InputError(f"{what} of shape {array.shape} has nothing to draw")
    shown = np.array(array[:limit], np.float64)
    if np.isinf(shown).any():
        place = ", ".join(map(str, np.argwhere(np.isinf(shown))[0]))
        raise InputError(f"{what}[{place}] is infinite: there is no colour for it")
    return shown, len(array)


@dataclass(frozen=True)
class _Reader:
    """How the caller's arrays are to be read, checked as far as that goes without them."""

    kind: str
    shape: tuple[int, ...] | None
    mask: np.ndarray | None
    channels: str | int | None
    channels_first: bool | None

    @classmethod
    def of(cls, kind: str, shape: Any, mask: Any, channels: Any, channels_first: Any) -> _Reader:
        _check_choice("kind", kind, KINDS)
        if shape is not None:
            shape = tuple(shape) if isinstance(shape, (tuple, list, np.ndarray)) else (shape,)
            if not all(_is_index(n) and n > 0 for n in shape):
                raise InputError(f"shape must be a tuple of whole numbers above 0, not {shape}")
            shape = tuple(int(n) for n in shape)
        if mask is not None:
            mask = np.asarray(mask)
            if mask.dtype != bool or mask.ndim != 2:
                raise InputError(
                    f"mask must be a boolean grid, True where the features lie, not {mask.dtype} {mask.shape}"
                )
            if shape not in (None, mask.shape):
                raise ShapeError(f"shape is {shape}, but the mask has shape {mask.shape}")
        if kind == "auto" and (shape is not None or mask is not None):
            kind = "image"
        if mask is not None and kind != "image":
            raise InputError(f"mask is for images; kind is {kind!r}")
        if not (channels in (None, "sum", "each") if not _is_index(channels) else True):
            raise InputError(f"channels must be sum, each or an index, not {channels!r}")
        if channels_first is not None and not isinstance(channels_first, (bool, np.bool_)):
            raise InputError(f"channels_first must be True, False or None, not {channels_first!r}")
        return cls(kind, shape, mask, channels, channels_first)

    def read(self, values: np.ndarray, what: str) -> tuple[_Reader, np.ndarray]:
        """Images (n, h, w), sequences (n, steps, channels) or vectors (n, features).

        The reader returned reads others alike: it knows their kind, and where channels lie.
        An image's "input" keeps its channels.
        """
        given, kind = values.shape, self.kind
        if self.mask is not None:
            values = self._on_grid(values, what)
        elif self.shape is not None:
            if math.prod(given[1:]) != math.prod(self.shape):
                hint = "; for one sample add the batch axis: x[None]" if given == self.shape else ""
                raise ShapeError(
                    f"{what} of shape {given} cannot be given the shape (samples, {_listed(self.shape)}){hint}"
                )
            values = values.reshape(len(values), *self.shape)
        if kind == "auto":
            kind = {2: "vector", 3: "sequence", 4: "image"}.get(values.ndim, "auto")
        axes = {"image": (3, 4), "sequence": (2, 3), "vector": (2,)}.get(kind, ())
        if values.ndim not in axes:
            if kind == "auto":
                raise ShapeError(f"{what} of shape {given}: there is no picture of {values.ndim} axes; give a slice")
            wanted = {
                "image": "(samples, height, width), or with an axis of channels",
                "sequence": "(samples, steps), or with an axis of channels",
                "vector": "(samples, features)",
            }[kind]
            hint = "; shape=(height, width) folds flat ones" if kind == "image" and values.ndim == 2 else ""
            if values.ndim == axes[0] - 1:
                hint += "; for one sample add the batch axis: x[None]"
            raise ShapeError(f"{what} of kind {kind!r} must have shape {wanted}, not {values.shape}{hint}")
        first = self.channels_first
        if kind == "vector":
            for name in ("channels", "channels_first"):
                if getattr(self, name) is not None:
                    raise InputError(f"{name} is for images and sequences, not for vectors")
        elif values.ndim == axes[-1]:
            first = self._channels_first(kind, values.shape, what)
            values = np.moveaxis(values, 1, -1) if first else values
        if kind == "sequence":
            values = values[..., None] if values.ndim == 2 else values
            values = self._pick(values, what) if self.channels not in (None, "each") else values
        if kind == "image":
            if self.channels == "each":
                raise InputError("channels of images are sum or an index; each is for sequences")
            if values.ndim == 4 and what == "relevance":
                values = self._pick(values, what)[..., 0]
        return replace(self, kind=kind, channels_first=first), values

    def _channels_first(self, kind: str, shape: tuple[int, ...], what: str) -> bool:
        """Whether samples with channels have them first: as told, else by an image's sizes."""
        if self.channels_first is not None or kind == "sequence":
            return bool(self.channels_first)
        first, middle, last = shape[1:]
        if first < min(middle, last) or last < min(first, middle):
            return first < last
        raise InputError(
            f"{what} of shape {shape}: neither its first nor its last axis is shorter than the others, as that of an "
            "image's channels is; say channels_first=True or channels_first=False"
        )

    def _on_grid(self, values: np.ndarray, what: str) -> np.ndarray:
        assert self.mask is not None
        points = int(self.mask.sum())
        if values.ndim != 2 or values.shape[1] != points:
            raise ShapeError(f"{what} must have shape (samples, {points}), as many as the mask has, not {values.shape}")
        grid = np.full((len(values), *self.mask.shape), np.nan)
        grid[:, self.mask] = values
        return grid

    def _pick(self, values: np.ndarray, what: str) -> np.ndarray:
        """(…, 1): the channel asked for, or the sum of those that are not NaN."""
        if self.channels in (None, "sum"):
            some = ~np.isnan(values).all(-1, keepdims=True)
            return np.where(some, np.nansum(values, -1, keepdims=True), np.nan)
        index, count = int(self.channels), values.shape[-1]
        if not 0 <= index < count:
            raise InputError(f"channel {index} is out of range: {what} has channels 0 to {count - 1}")
        return values[..., index : index + 1]


def _listed(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))


def _as_input(input: Any, reader: _Reader, values: np.ndarray, samples: int, limit: int) -> np.ndarray:
    shown, count = _as_samples(input, "input", limit)
    if count != samples:
        raise ShapeError(f"there are {samples} relevances, but {count} inputs")
    _, shown = reader.read(shown, "input")
    if reader.kind == "image":
        if shown.ndim == 4:
            some = ~np.isnan(shown).all(-1)
            shown = np.where(some, np.nansum(shown, -1) / np.maximum(1, (~np.isnan(shown)).sum(-1)), np.nan)
        if shown.shape != values.shape:
            raise ShapeError(f"input is (samples, {_listed(shown.shape[1:])}) as images, relevance {values.shape[1:]}")
    elif shown.shape != values.shape:
        raise ShapeError(f"input must be shaped like relevance: {values.shape[1:]} a sample, not {shown.shape[1:]}")
    return shown


def _limits(values: np.ndarray, scale: str, percentile: float | None) -> tuple[list[float], tuple[bool, bool]]:
    """The |R| at which each panel's colours end, and whether some relevance lies below or above that."""
    if percentile is not None:
        real = isinstance(percentile, (int, float, np.integer, np.floating)) and not isinstance(percentile, bool)
        if not real or not 0 < percentile <= 100:
            raise InputError(f"percentile must be a number above 0 and up to 100, not {percentile!r}")

    def end(part: np.ndarray) -> float:
        sizes = np.abs(part[~np.isnan(part) & (part != 0)])
        if not sizes.size:
            return 0.0
        return float(sizes.max() if percentile is None else np.percentile(sizes, percentile))

    ends = [end(values)] * len(values) if scale == "shared" else [end(part) for part in values]
    column = np.reshape(ends, (-1, *[1] * (values.ndim - 1)))
    return ends, (bool((values < -column).any()), bool((values > column).any()))


def _check_features(features: Sequence[Any] | None, kind: str, values: np.ndarray) -> list[str] | None:
    if features is None:
        return None
    if kind == "image":
        raise InputError("features name a vector's features or a sequence's channels; images have none")
    names = _as_labels(features, "features")
    if len(names) != values.shape[-1]:
        raise InputError(f"{len(names)} features are named, but there are {values.shape[-1]}")
    return names


def _as_labels(value: Any, what: str) -> list[str]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or not hasattr(value, "__iter__"):
        raise InputError(f"{what} must be a sequence, one for each, not {value!r}")
    return [str(v) for v in value]


# Where things go


@dataclass(frozen=True)
class _Names:
    """The grid of panels and what stands beside it."""

    down: int
    across: int
    above: list[str]
    left: list[str]

    @classmethod
    def of(cls, count: int, samples: int, labels: Any, rows: Any, columns: Any, kind: str) -> _Names:
        left = [] if rows is None else _as_labels(rows, "rows")
        above = [] if columns is None or _is_index(columns) else _as_labels(columns, "columns")
        if _is_index(columns):
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
            above = _as_labels(labels, "labels")
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


def _size(kind: str, values: np.ndarray, names: _Names) -> tuple[float, float]:
    """The figure's width and height in inches."""
    panels = names.down * names.across
    if kind != "image":
        height = 1.6 if kind == "vector" else min(4.0, 0.75 + 0.2 * values.shape[-1])
        return (7.5 if names.across == 1 else 5.0 * names.across), height * names.down + 0.9
    side = 3.6 if panels == 1 else 2.2 if panels <= 6 else 1.5
    ratio = min(4.0, max(0.25, values.shape[2] / values.shape[1]))
    width, height = (side * ratio**0.5, side / ratio**0.5)
    return width * names.across + 1.1, (height + 0.35) * names.down + 0.3


def _colour_map(cmap: Any, over_input: bool) -> Colormap:
    import matplotlib
    from matplotlib.colors import Colormap, ListedColormap

    if isinstance(cmap, str):
        if cmap not in matplotlib.colormaps:
            raise InputError(f"matplotlib has no colour map named {cmap!r}")
        cmap = matplotlib.colormaps[cmap]
    if not isinstance(cmap, Colormap):
        raise InputError(f"cmap must be the name of a colour map or a matplotlib Colormap, not {cmap!r}")
    if over_input:  # clear where there is no relevance, a full colour at the scale's end
        strength = np.linspace(-1, 1, 255)
        colours = np.where(strength[:, None] < 0, cmap(0.1), cmap(0.9))
        colours[:, 3] = np.abs(strength)
        cmap = ListedColormap(colours, f"{cmap.name} over an input")
    return cmap.with_extremes(bad=_MASKED)


# Drawing


def _draw_image(
    ax: Axes, values: np.ndarray, below: np.ndarray | None, end: float, colours: Colormap, origin: str
) -> None:
    if below is not None:
        ax.imshow(below, cmap=_pale_grey(), origin=origin)
    ax.imshow(values, cmap=colours, vmin=-end, vmax=end, origin=origin)
    ax.set(xticks=[], yticks=[])


def _pale_grey() -> Colormap:
    """White to light grey: pale enough for colours to be seen on it."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("pale grey", ["1.0", "0.6"]).with_extremes(bad=_MASKED)


def _draw_sequence(
    ax: Axes,
    values: np.ndarray,
    below: np.ndarray | None,
    end: float,
    colours: Colormap,
    every: np.ndarray | None,
) -> None:
    steps, count = values.shape
    ax.imshow(values.T, cmap=colours, vmin=-end, vmax=end, aspect="auto")
    for c in range(count if below is not None else 0):
        assert below is not None and every is not None
        known = every[..., c][~np.isnan(every[..., c])]
        low, span = (known.min(), np.ptp(known)) if known.size else (0.0, 0.0)
        share = (below[:, c] - low) / span if span else np.where(np.isnan(below[:, c]), np.nan, 0.5)
        ax.plot(np.arange(steps), c + 0.4 - 0.8 * share, color=_INK, linewidth=0.9, marker="." if steps == 1 else "")
    ax.set(xlim=(-0.5, steps - 0.5), ylim=(count - 0.5, -0.5))


def _draw_vector(ax: Axes, values: np.ndarray, below: np.ndarray | None, end: float, colours: Colormap) -> None:
    from matplotlib.collections import PolyCollection

    n = len(values)
    at = np.flatnonzero(~np.isnan(values) & (values != 0))
    height = values[at].clip(-end, end)
    left, right, zero = at - 0.4, at + 0.4, np.zeros(len(at))
    corners = np.stack([left, zero, left, height, right, height, right, zero], 1).reshape(-1, 4, 2)
    hue = np.where(height[:, None] > 0, colours(0.9), colours(0.1))
    # with an edge, so that narrow bars among thousands are seen
    bars = PolyCollection(list(corners), facecolors=hue, edgecolors=hue, linewidths=0.4, rasterized=n > 2000)
    ax.add_collection(bars)
    for k in np.flatnonzero(np.isnan(values)) if n <= 2000 else ():
        ax.axvspan(k - 0.5, k + 0.5, color=_MASKED, linewidth=0)
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
        twin.set_ylim(-1.1 * size, 1.1 * size)  # both axes have their zero at one height
        twin.tick_params(axis="y", colors="0.45", labelsize="x-small")
        twin.set_ylabel("input", color="0.45", fontsize="x-small")
        twin.spines[:].set_visible(False)


def _annotate(ax: Axes, kind: str, parts: list[str] | None, names: _Names, i: int, last: bool, amount: str) -> None:
    text = "\n".join(part for part in (names.above[i], amount) if part)
    ax.set_title(text, fontsize="small", parse_math=False)
    for spine in ax.spines.values():
        spine.set(color="0.6", linewidth=0.5)
    ax.tick_params(labelsize="x-small")
    if names.left and i % names.across == 0:
        ax.set_ylabel(names.left[i // names.across], fontsize="small", parse_math=False)
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
            if not names.left and i % names.across == 0:
                ax.set_ylabel("channel", fontsize="small")


def _plus_minus(end: float) -> str:
    return f"±{end:.3g}" if end else "all 0"


def _add_bar(
    figure: Figure, axes: list[Axes], colours: Colormap, end: float | None, clipped: tuple[bool, bool]
) -> None:
    """The colour bar; without ``end`` that of panels with scales of their own."""
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
    if end is None:
        bar.set_ticks([-1, 0, 1], labels=["−", "0", "+"])
        bar.set_label("relevance\n(ends: ± above each panel)", fontsize="small")
    else:
        bar.set_label("relevance", fontsize="small")
