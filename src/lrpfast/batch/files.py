"""Array files in: mapped to memory, and told apart by content."""

from __future__ import annotations

import mmap
import os

import numpy as np

from ..errors import InputError

#: What is often given in place of an .npy file, by its first bytes.
_KINDS = (
    (b"PK\x03\x04", "a zip archive (an .npz or .keras file?), not one .npy array; np.save writes one"),
    (b"\x89HDF", "an HDF5 file, not an .npy array"),
    (b"CDF", "a NetCDF file, not an .npy array"),
    (b"\x80", "a Python pickle (never opened: it can run code), not an .npy array"),
)


def open_array(path: str | os.PathLike) -> np.ndarray:
    """The array in an .npy file, mapped to memory and read only.

    Raises
    ------
    InputError
        For anything but a whole .npy file of plain numbers; says what it is instead.
    OSError
        When the file is missing or must not be read.
    """
    path = os.fspath(path)
    with open(path, "rb") as file:
        head = file.read(8)
    if not head.startswith(b"\x93NUMPY"):
        kind = "an empty file" if not head else "not an .npy file (np.save writes one)"
        raise InputError(f"{path}: {next((kind for magic, kind in _KINDS if head.startswith(magic)), kind)}")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OverflowError) as error:
        if "object" in str(error).lower():
            raise InputError(f"{path}: holds Python objects (a pickle, never opened), not numbers") from None
        if "length is greater" in str(error) or isinstance(error, EOFError):
            size = os.path.getsize(path)
            raise InputError(f"{path}: truncated, its array does not fit in its {size:,} bytes") from None
        raise InputError(f"{path}: damaged .npy file ({error})") from None


def release(x: np.ndarray) -> None:
    """Give back the memory of a mapped array's pages; the next access reads them again.

    The kernel would take them back anyway when memory is short, but until then they
    look like memory in use, which a batch system may count.
    """
    mapped = getattr(x, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED") and not x.flags.writeable:
        mapped.madvise(mmap.MADV_DONTNEED)
