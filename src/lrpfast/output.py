"""Output files that appear only when they are complete."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from typing import BinaryIO

from .errors import InputError

#: The characters that separate folders.
SLASHES = os.sep + (os.altsep or "")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` when the block ends without an error.

    The file is written next to its target under a temporary name. On any error, a
    full disk or an interrupt it is removed, and an existing ``path`` stays unchanged.

    Raises
    ------
    InputError
        When ``path`` exists and is not a regular file.
    OSError
        With the name ``path``, when it cannot be written.
    """
    target = os.path.realpath(path)  # a link's target is replaced, not the link
    check_target(path)
    temporary = os.path.join(os.path.dirname(target), f".lrpfast-{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # network disks report a full disk only here
        replace_file(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename in (None, temporary):
            raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from None
        raise


def replace_file(temporary: str, target: str) -> None:
    """Rename a complete file to ``target`` in one step; the permissions of an existing target are kept.

    Windows does not replace a file that a process has open or mapped to memory, nor a read-only file, so there are
    no permissions to keep.
    """
    if sys.platform != "win32" and os.path.exists(target):
        shutil.copymode(target, temporary)
    os.replace(temporary, target)
    sync(os.path.dirname(target))


def sync(path: str) -> None:
    """Write a file's bytes, or a folder's names, to the disk, so that they survive a power cut."""
    if sys.platform == "win32" and os.path.isdir(path):
        return  # Windows cannot open folders, and syncs only files that are open for writing
    file = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        # some network file systems cannot sync a folder, but keep its names themselves
        if not (os.path.isdir(path) and error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EBADF)):
            raise
    finally:
        os.close(file)


def beside(path: str, suffix: str) -> str:
    """The hidden file that belongs to ``path`` (or a link's target): "part", "journal" or "lock"."""
    folder, name = os.path.split(os.path.realpath(path))
    return os.path.join(folder, f".{name}.lrpfast-{suffix}")


def check_target(path: str | os.PathLike[str], size: int = 0) -> None:
    """Raise InputError or OSError unless a file of ``size`` bytes can be written at ``path``."""
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
    check_free(path, folder, size)


def on_disk(status: os.stat_result) -> int:
    """The number of bytes that a file takes on the disk; on Windows its size."""
    if sys.platform == "win32":
        return status.st_size
    return status.st_blocks * 512


def check_free(path: str | os.PathLike[str], folder: str, size: int) -> None:
    """Raise InputError unless ``size`` more bytes fit on the disk of ``folder``."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(f"{path}: needs {size:,} bytes, but the disk has {free:,} free")


def in_utf8(text: str) -> str:
    """A name in a file, decoded from its bytes as UTF-8, if it was typed in a locale with another encoding."""
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        return text
