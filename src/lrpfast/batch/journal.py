"""The journal of an unfinished output, from which an interrupted run resumes, and the lock on the output."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from ..errors import InputError
from ..output import beside, sync
from .sinks.base import naming

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

VERSION = 4
#: The first bytes of a journal; a digest of the rest follows.
PREFIX = b"lrpfast journal "
MAGIC = PREFIX + f"{VERSION}\n".encode()
DIGEST_BYTES = 16
#: The errors of file systems without locks; ENOLCK is that of NFS.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
#: Bytes by which the journal may grow from one record to the next.
MARGIN = 1 << 14


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Lock an output for this process; the operating system releases the lock when the process ends.

    Raises
    ------
    InputError
        When another run has the lock.
    """
    name = beside(path, "lock")
    while True:
        with naming(path, name):
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with naming(path, name):
                is_locked = _try_lock(descriptor, path)
            if not is_locked:
                raise InputError(f"{path}: another run writes it now; wait for its end, or stop it")
            # the run that had the lock removes the file: this lock may be on a file without a name
            if _same(descriptor, name):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield
    finally:
        if sys.platform == "win32":  # Windows removes only a file that no other run has open
            os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(name)
        if sys.platform != "win32":  # removed under the lock: later it could be another run's
            os.close(descriptor)


def _try_lock(descriptor: int, path: str) -> bool:
    """Lock an open file, and return whether that succeeded; warn if the file system has no locks."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the latter is the error on Windows
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        text = f"{path}: this file system has no locks ({error.strerror}): nothing keeps another run off this output"
        warnings.warn(text, UserWarning, stacklevel=2)
    return True


def _same(descriptor: int, name: str) -> bool:
    """Whether an open file still has its name; always true on Windows."""
    if sys.platform == "win32":
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name))
    except FileNotFoundError:
        return False


def joined(ranges: list[list[int]]) -> list[list[int]]:
    """Ranges [first, stop] in order, with adjacent ranges merged."""
    result: list[list[int]] = []
    for first, stop in sorted(ranges):
        if result and first <= result[-1][1]:
            result[-1][1] = max(stop, result[-1][1])
        elif stop > first:
            result.append([first, stop])
    return result


def unfinished(path: str) -> bool:
    """Whether there is an interrupted run of this output that can be resumed."""
    return os.path.exists(beside(path, "journal"))


class Journal:
    """The file beside an output that records the run's settings, the finished ranges of samples and the statistics.

    Every `note` replaces the file in one step: after a kill at any moment, either the old or the new file exists.

    Parameters
    ----------
    path : str
        The path of the output.
    settings : dict
    most : int
        The largest number of bytes of the statistics. Disk space for them is reserved at the start.

    Attributes
    ----------
    settings : dict
        What must be the same to resume the run, as text.
    done : list of [first, stop]
        Ranges of samples whose relevance is on the disk, in order and separate, as last recorded.
    counters : dict
        Whole numbers that add up over the run.
    state : dict of arrays
        `Statistics.state`; empty without statistics.
    sums : list of (first, stop, checksum)
        Of the rows of the output that are done, as they were written.
    frame : int
        The checksum of the rest of the partial output.
    """

    def __init__(self, path: str, settings: dict[str, Any], most: int = 0) -> None:
        self.output, self.path = path, beside(path, "journal")
        self.settings, self._most = settings, most
        self.done: list[list[int]] = []
        self.counters: dict[str, int] = {}
        self.state: dict[str, np.ndarray] = {}
        self.sums: list[tuple[int, int, int]] = []
        self.frame = 0

    def note(
        self,
        done: list[list[int]],
        counters: dict[str, int],
        state: dict[str, np.ndarray],
        sums: list[tuple[int, int, int]],
    ) -> None:
        """Record the run's progress in one step; on a full disk, in the space that was reserved for it.

        Raises
        ------
        OSError
            With the output's name; the previous record remains.
        """
        buffer = io.BytesIO()
        fields = {"settings": self.settings, "done": done, "counters": counters, "frame": self.frame}
        text = json.dumps(fields, sort_keys=True)
        members: dict[str, Any] = {"journal": np.frombuffer(text.encode(), np.uint8), **state}
        np.savez(buffer, sums=np.array(sums, np.int64).reshape(-1, 3), **members)
        data = buffer.getbuffer()
        with naming(self.output, self.path):
            try:
                self._write(data)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not os.path.exists(self._room):
                    raise
                self.give_room()
                self._write(data)
        self.done, self.counters, self.state, self.sums = done, counters, state, sums
        self._keep_room(max(self._most, 2 * len(data)) + MARGIN)

    def _write(self, data: memoryview) -> None:
        temporary = f"{self.path}-new"
        try:
            with open(temporary, "wb") as file:
                file.write(MAGIC + _digest(data))
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
            sync(os.path.dirname(self.path))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    @property
    def _room(self) -> str:
        return f"{self.path}-room"

    def _keep_room(self, size: int) -> None:
        """Reserve disk space for one more record, for the case that the output fills the disk."""
        if not os.path.exists(self._room) or os.path.getsize(self._room) < size:
            try:
                with open(self._room, "wb") as file:
                    _allocate(file, size)
            except OSError:
                self.give_room()

    def give_room(self) -> None:
        """Release the reserved disk space."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._room)

    def remove(self) -> None:
        """Remove the journal: the output is complete or discarded."""
        for name in (self.path, f"{self.path}-new"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        self.give_room()

    def load(self, free: Sequence[str] = ()) -> bool:
        """Adopt an earlier run's record, and its settings of these names; return False if there is no record.

        Raises
        ------
        InputError
            When that run had other settings, or the file is damaged.
        """
        try:
            with open(self.path, "rb") as file:
                payload = self._checked(file.read())
        except FileNotFoundError:
            return False
        with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
            self.state = {key: arrays[key] for key in arrays.files}
        fields = json.loads(self.state.pop("journal").tobytes())
        self.sums = [(first, stop, value) for first, stop, value in self.state.pop("sums").tolist()]
        self.done, self.counters, self.frame = fields["done"], fields["counters"], fields["frame"]
        earlier = fields["settings"]
        self.settings.update({key: earlier[key] for key in free if key in earlier})
        changed = [key for key in {**earlier, **self.settings} if earlier.get(key) != self.settings.get(key)]
        if changed:
            changed = [key for key in changed if key != EXACT] or changed  # which differs with any other
            changes = "; ".join(_change(key, earlier.get(key), self.settings.get(key)) for key in changed)
            raise InputError(
                f"{self.output}: an unfinished run of other settings lies beside it ({changes}); "
                f"run it with the same settings to go on, or {ANEW}"
            )
        return True

    def _checked(self, data: bytes) -> bytes:
        """A journal's content; InputError if its digest does not match."""
        payload = data[len(MAGIC) + DIGEST_BYTES :]
        if data.startswith(MAGIC) and data[len(MAGIC) : len(MAGIC) + DIGEST_BYTES] == _digest(payload):
            return payload
        if data.startswith((b"PK", PREFIX)) and not data.startswith(MAGIC):
            raise InputError(f"{self.output}: an unfinished run of another lrpfast version lies beside it; {ANEW}")
        raise InputError(f"{self.path}: damaged record of an unfinished run; {ANEW}")


def _allocate(file: BinaryIO, size: int) -> None:
    """Give an empty file this much space on the disk; OSError when there is not as much."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # of file systems that can only write
            os.posix_fallocate(file.fileno(), 0, size)
            return
    for first in range(0, size, 1 << 20):
        file.write(bytes(min(1 << 20, size - first)))


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


ANEW = "pass resume=False to begin anew"
#: The setting with the digest of everything that determines the result; the others describe it in words.
EXACT = "exact"


def _change(key: str, old: Any, new: Any) -> str:
    """The text for a setting that has changed."""
    if key == "input" and isinstance(old, dict) and isinstance(new, dict):
        return _change_of_input(old, new)
    if key == EXACT:
        return "a function, a rule or an array that the settings name in the same words is another"
    return f"{key}: {_short(old, new)}, now {_short(new, old)}"


#: The parts of an input's fingerprint besides its path, with their names in messages.
_OF_CONTENT = {"size": "size", "mtime_ns": "time", "files": "files", "shape": "shape", "dtype": "type"}


def _change_of_input(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The text for an input whose fingerprint has changed."""
    old, new = (f"{each.get('path', 'an array')}:{each.get('dataset', '')}".rstrip(":") for each in (before, now))
    if old != new:
        if os.path.basename(old) != os.path.basename(new):
            old, new = os.path.basename(old), os.path.basename(new)
        return f"the input was {old}, now it is {new}"
    if "path" in now and (changed := [word for key, word in _OF_CONTENT.items() if before.get(key) != now.get(key)]):
        return f"{os.path.basename(new)} has changed since: {', '.join(changed)}"
    return "the mask is another" if before.get("mask") != now.get("mask") else "the input holds other values"


def _short(value: Any, other: Any) -> str:
    """A setting in at most 120 characters, around the first difference from another."""
    text, beside = ("not given" if each is None else str(each) for each in (value, other))
    if len(text) <= 120:
        return text
    at = max(0, len(os.path.commonprefix([text, beside])) - 40)
    return f"{'…' if at else ''}{text[at : at + 117]}{'…' if at + 117 < len(text) else ''}"
