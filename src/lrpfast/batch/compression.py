"""Compression of output files."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from .optional_import import import_optional

#: The values of ``compression``: "auto" compresses files of statistics, which costs little, and no relevances.
COMPRESSIONS = ("auto", "zlib", "blosc", "none")
#: The level of zlib: higher ones take several times as long, and save little.
LEVEL = 4


def of_statistics(compression: str) -> str | None:
    """The compression of a file of statistics."""
    return None if compression == "none" else "blosc" if compression == "blosc" else "zlib"


def of_relevance(compression: str) -> str | None:
    """The compression of a file of relevances."""
    return compression if compression in ("zlib", "blosc") else None


def zarr_codec(compression: str | None, dtype: np.dtype) -> dict[str, Any] | None:
    """The description of a compressor in a Zarr array of format 2."""
    if compression == "zlib":
        return {"id": "zlib", "level": LEVEL}
    if compression == "blosc":
        return {"id": "blosc", "cname": "zstd", "clevel": LEVEL, "shuffle": int(dtype.itemsize > 1), "blocksize": 0}
    return None


def encode_chunk(values: np.ndarray, codec: dict[str, Any] | None) -> bytes | memoryview:
    """The bytes of a chunk's file."""
    data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    if codec is None:
        return data
    if codec["id"] == "zlib":
        return zlib.compress(data, codec["level"])
    encoded: bytes = _blosc(codec).encode(np.ascontiguousarray(values))
    return encoded


def decode_chunk(data: bytes, dtype: np.dtype, codec: dict[str, Any] | None) -> np.ndarray:
    """The values in a chunk's file; ValueError where it is damaged."""
    try:
        if codec is not None:
            data = zlib.decompress(data) if codec["id"] == "zlib" else _blosc(codec).decode(data)
    except (zlib.error, RuntimeError) as error:
        raise ValueError(str(error)) from None
    return np.frombuffer(data, dtype).copy()


def _blosc(codec: dict[str, Any]) -> Any:
    numcodecs = import_optional("numcodecs", "compression='blosc'")
    return numcodecs.get_codec(codec)
