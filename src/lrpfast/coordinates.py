"""Latitudes and longitudes, recognised by the names and units of coordinates (CF conventions, 4.1 and 4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: Names, standard names and units, in lower case.
_HINTS = {
    "latitude": {"lat", "latitude", "nav_lat", "degrees_north", "degree_north", "degree_n", "degrees_n", "degreen"},
    "longitude": {"lon", "long", "longitude", "nav_lon", "degrees_east", "degree_east", "degree_e", "degrees_e"},
}


def coordinate_kind(name: str, attrs: Mapping[str, Any]) -> str | None:
    """Whether a coordinate is a "latitude" or a "longitude", by its name or its attributes; None for any other.

    Examples
    --------
    >>> coordinate_kind("y", {"units": "degrees_north"})
    'latitude'
    """
    own = {name.lower(), *(str(attrs.get(key, "")).lower() for key in ("standard_name", "units"))}
    return next((kind for kind, hints in _HINTS.items() if own & hints), None)


def latitudes_and_longitudes(dims: Sequence[str], coords: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """The coordinates of a grid's two axes, by the names of its dimensions; None unless they are these."""
    pair = [coords.get(dim) for dim in dims]
    kinds = [
        None if coord is None or coord.values.ndim != 1 else coordinate_kind(dim, coord.attrs)
        for dim, coord in zip(dims, pair, strict=True)
    ]
    if kinds != ["latitude", "longitude"]:
        return None
    return pair[0].values, pair[1].values  # type: ignore[union-attr]
