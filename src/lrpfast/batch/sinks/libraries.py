"""Errors of the formats' libraries, as errors that name the output, and how some are avoided."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

from ...errors import InputError, LrpfastError
from ..metadata import Coord


@contextlib.contextmanager
def storing(name: str) -> Iterator[None]:
    """Raise InputError when a format's library refuses a coordinate or an attribute of the input."""
    try:
        yield
    except (LrpfastError, OSError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{name}: coordinates or attributes of the input cannot be written ({error})") from error


def check_room(file_path: str, arrays: Iterable[Coord], rows: int) -> None:
    """Raise the disk's OSError unless a new file with these arrays and this many bytes of rows can be written there.

    If HDF5 cannot close a file because the disk is full, its next use crashes the process. So a file of
    the metadata's size is written first, extended by the length of the rows, and removed.
    """
    size = 1 << 16
    for _, values, attrs in arrays:
        if values.dtype.kind in "OUT":
            size += sum(64 + len(str(value).encode("utf-8", "replace")) for value in values.ravel().tolist())
        else:
            size += values.nbytes
        size += 4096 + sum(256 + 2 * len(str(value)) for value in attrs.values())
    try:
        with open(file_path, "xb") as file:
            while file.tell() < size:
                file.write(bytes(min(1 << 20, size - file.tell())))
            file.flush()
            file.truncate(size + rows)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file_path)


@contextlib.contextmanager
def from_library(file_path: str, name: str) -> Iterator[None]:
    """Raise OSError when HDF5 cannot write, with the disk's message if the disk is the reason.

    HDF5 and NetCDF raise RuntimeError for any failure.
    """
    try:
        yield
    except RuntimeError as error:
        try:
            with open(file_path, "ab") as probe:
                probe.write(bytes(1 << 20))
        except OSError as full:
            raise OSError(full.errno, full.strerror, name) from error
        raise OSError(f"{name}: cannot be written ({error})") from error
