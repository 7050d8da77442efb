"""Array files in, and files out that appear only when they are whole."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import shutil
from collections.abc import Iterator
from typing import BinaryIO

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


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` when the block ends well.

    It is written beside its target under a temporary name. On any error, a full
    disk or an interrupt it is removed, and what was at ``path`` is left as it was.

    Raises
    ------
    InputError
        When ``path`` is something else than a regular file or a free name.
    OSError
        Naming ``path``, when it cannot be written.
    """
    target = os.path.realpath(path)  # a link's target is replaced, not the link
    check_target(path)
    temporary = os.path.join(os.path.dirname(target), f".lrpfast-{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # network disks report a full disk only here
        if os.path.exists(target):
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename in (None, temporary):
            raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from None
        raise


def check_target(path: str | os.PathLike, size: int = 0) -> None:
    """InputError or OSError unless a file of ``size`` bytes can be put at ``path``."""
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    if os.path.isdir(target):
        raise InputError(f"{path}: is a folder; name the file to write")
    if os.path.lexists(target) and not os.path.isfile(target):
        raise InputError(f"{path}: is not a regular file, and would be replaced by one")
    if not os.path.isdir(folder):
        raise InputError(f"{path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path}: the folder {folder} is not writeable")
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(f"{path}: needs {size:,} bytes, but the disk has {free:,} free")
