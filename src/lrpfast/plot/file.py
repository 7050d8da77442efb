"""Pictures in files."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..output import check_target, replacing
from .check import figure_class, is_real
from .text import TokenText

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: File endings that `save` knows.
FORMATS = ("png", "pdf", "svg")


def save(figure: Figure | TokenText, path: str | os.PathLike[str], dpi: float = 150) -> None:
    """Write a figure as PNG, PDF or SVG, by the path's extension; the file appears when it is complete.

    Parameters
    ----------
    figure : matplotlib.figure.Figure or TokenText
    path : path
        With the extension .png, .pdf or .svg.
    dpi : float
        Pixels per inch of a PNG.

    Raises
    ------
    InputError
        For any other extension or an unusable path, for anything but a figure, and for a ``dpi`` not above 0.

    Examples
    --------
    >>> figure = lrpfast.plot.heatmap(np.array([[1.0, -2.0]]))
    >>> lrpfast.plot.save(figure, "map.png")
    """
    picture = figure.figure() if isinstance(figure, TokenText) else figure
    if not isinstance(picture, figure_class()):
        raise InputError(f"figure must be a matplotlib Figure, as heatmap makes, not {figure!r:.80}")
    if not is_real(dpi) or not 0 < dpi < math.inf:
        raise InputError(f"dpi must be a number above 0, not {dpi!r:.80}")
    ending = check_path(path)
    undated: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    import matplotlib

    # texts stay texts that can be edited, and images of vector formats have the pixels of the relevance
    vector = {"pdf.fonttype": 42, "svg.fonttype": "none"} if ending != "png" else {}
    with replacing(path) as file, matplotlib.rc_context(vector), _native(picture, ending):
        box = "tight" if _is_cut(picture) else None
        picture.savefig(file, format=ending, dpi=dpi, metadata=undated.get(ending), bbox_inches=box)


@contextlib.contextmanager
def _native(figure: Figure, ending: str) -> Iterator[None]:
    """Let vector formats hold an image's own pixels, in place of as many as a screen has."""
    from matplotlib.image import AxesImage

    images: list[Any] = [] if ending == "png" else figure.findobj(AxesImage)
    before = [image.get_interpolation() for image in images]
    for image in images:
        image.set_interpolation("none")
    try:
        yield
    finally:
        for image, interpolation in zip(images, before, strict=True):
            image.set_interpolation(interpolation)


def _is_cut(figure: Figure) -> bool:
    """Whether something reaches beyond the figure's borders, as very large fonts do."""
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return bool(box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height)


def check_path(path: str | os.PathLike[str]) -> str:
    """The format of a path's extension; InputError or OSError unless a picture can be written there.

    Examples
    --------
    >>> check_path("map.png")
    'png'
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"path must be a file's name, not {path!r:.80}")
    ending = os.path.splitext(os.fspath(path))[1].lower().lstrip(".")
    if ending not in FORMATS:
        raise InputError(f"{path}: a picture's name ends in {', '.join('.' + f for f in FORMATS)}")
    check_target(path)
    return ending
