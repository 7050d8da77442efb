"""The destinations of relevances: files, which appear when they are complete, or a function."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import InputError
from ...output import SLASHES
from .base import CallbackSink, Sink

__all__ = ["Sink", "open_sink"]

_NAME = re.compile(
    rf"(?is)(?P<path>.*\.(?P<kind>npy|h5|hdf5|nc|nc4|zarr)[{re.escape(SLASHES)}]?)(?::(?P<inside>[^:]+))?"
)


def open_sink(out: Sink | str | os.PathLike[str] | Callable[[int, np.ndarray], Any]) -> Sink:
    """Open the destination of rows of relevance.

    Parameters
    ----------
    out : str, path-like or callable
        A path whose extension selects the format: ``.npy``; ``.h5`` or ``.hdf5``; ``.nc`` or ``.nc4``; ``.zarr``. All
        but the first may name the dataset after a colon; by default it is "relevance". Or a function, which is
        called with (number of the first row, rows). An open sink is returned unchanged.

    Returns
    -------
    Sink

    Raises
    ------
    InputError
        For another extension or type.
    """
    if isinstance(out, Sink):
        return out
    if callable(out):
        return CallbackSink(out)
    if not isinstance(out, (str, os.PathLike)):
        raise InputError(f"relevances cannot be written to a {type(out).__name__}; give a path or a function")
    path, kind, array = named(os.fsdecode(out))
    if kind == "npy":
        from .npy import NpySink

        return NpySink(path)
    if kind in ("h5", "hdf5"):
        from .hdf5 import Hdf5Sink

        return Hdf5Sink(path, array)
    if kind in ("nc", "nc4"):
        from .netcdf import NetcdfSink

        return NetcdfSink(path, array)
    from .zarr import ZarrSink

    return ZarrSink(path, array)


def named(out: str) -> tuple[str, str, str | None]:
    """(path, extension in lower case, name after a colon or None) of an output."""
    match = _NAME.fullmatch(out)
    if not match or (match["kind"].lower() == "npy" and match["inside"]):
        raise InputError(f"{out}: an output's name tells its format: .npy, .h5, .hdf5, .nc, .nc4 or .zarr")
    return match["path"].rstrip(SLASHES), match["kind"].lower(), match["inside"]
