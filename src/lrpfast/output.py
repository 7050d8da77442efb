"""Files that appear only when they are whole."""

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

#: What may stand between folders, and at a folder's end.
SLASHES = os.sep + (os.altsep or "")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
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
        replace_file(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename in (None, temporary):
            raise OSError(error.errno, error.strerror or str(error), os.fspath(path)) from None
        raise


def replace_file(temporary: str, target: str) -> None:
    """Rename a whole file to ``target`` in one step; the permissions of a file that was there are kept.

    Windows does not replace a file that a process has open or mapped to memory, nor one that is read only; there
    is nothing to be kept.
    """
    if sys.platform != "win32" and os.path.exists(target):
        shutil.copymode(target, temporary)
    os.replace(temporary, target)
    sync(os.path.dirname(target))


def sync(path: str) -> None:
    """Return when a file's bytes, or a folder's names, are on the disk and survive a power cut."""
    if sys.platform == "win32" and os.path.isdir(path):
        return  # no folder can be opened there, and only what is open for writing can be synced
    file = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        # some network file systems cannot sync a folder, whose names they keep by themselves
        if not (os.path.isdir(path) and error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EBADF)):
            raise
    finally:
        os.close(file)


def beside(path: str, suffix: str) -> str:
    """The hidden name beside ``path`` (a link's target) of what belongs to it: "part", "journal", "lock"."""
    folder, name = os.path.split(os.path.realpath(path))
    return os.path.join(folder, f".{name}.lrpfast-{suffix}")


def check_target(path: str | os.PathLike[str], size: int = 0) -> None:
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
    check_free(path, folder, size)


def on_disk(status: os.stat_result) -> int:
    """Bytes of the disk that a file takes; Windows tells no more than its size."""
    if sys.platform == "win32":
        return status.st_size
    return status.st_blocks * 512


def check_free(path: str | os.PathLike[str], folder: str, size: int) -> None:
    """InputError unless ``size`` more bytes fit on the disk that ``folder`` is on."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise InputError(f"{path}: needs {size:,} bytes, but the disk has {free:,} free")


def in_utf8(text: str) -> str:
    """What is named in a file, as its bytes say in UTF-8, where it was typed in a locale of another encoding."""
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        return text
