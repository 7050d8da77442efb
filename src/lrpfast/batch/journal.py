"""What is done of an unfinished output, so that a run that was stopped can go on; and the lock on it."""

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
from typing import Any

import numpy as np

from ..errors import InputError
from ..output import beside, sync
from .sinks.base import naming

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

VERSION = 3
#: What a journal begins with; a digest of the rest comes next.
PREFIX = b"lrpfast journal "
MAGIC = PREFIX + f"{VERSION}\n".encode()
DIGEST_BYTES = 16
#: What file systems without locks answer; ENOLCK is NFS's.
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
#: Bytes that a note may grow by between two of them.
MARGIN = 1 << 14


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold an output for this process alone; the system lets go of it however the process ends.

    Raises
    ------
    InputError
        When another run holds it.
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
            # the run that held it before removes the file: then the lock is on a file that is no longer there
            if _same(descriptor, name):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield
    finally:
        if sys.platform == "win32":  # only a file that nobody has open can be removed: not another run's
            os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(name)
        if sys.platform != "win32":  # removed while it is held: else it might be another run's by then
            os.close(descriptor)


def _try_lock(descriptor: int, path: str) -> bool:
    """Lock an open file, unless somebody else has; a warning where its file system cannot."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the latter is Windows' word for it
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        text = f"{path}: this file system has no locks ({error.strerror}): nothing keeps another run off this output"
        warnings.warn(text, UserWarning, stacklevel=2)
    return True


def _same(descriptor: int, name: str) -> bool:
    """Whether an open file still has its name, as it always has on Windows."""
    if sys.platform == "win32":
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name))
    except FileNotFoundError:
        return False


def joined(ranges: list[list[int]]) -> list[list[int]]:
    """Ranges [first, stop] in order, those that meet as one."""
    result: list[list[int]] = []
    for first, stop in sorted(ranges):
        if result and first <= result[-1][1]:
            result[-1][1] = max(stop, result[-1][1])
        elif stop > first:
            result.append([first, stop])
    return result


def unfinished(path: str) -> bool:
    """Whether a run into this output was stopped and can go on."""
    return os.path.exists(beside(path, "journal"))


class Journal:
    """The record beside an output: the run's settings, the ranges of samples that are done, and the statistics so far.

    Every `note` replaces the file in one step, so that a kill at any moment leaves the one before or the new one.

    Parameters
    ----------
    path : str
        The output's.
    settings : dict
    most : int
        Bytes that the statistics may come to take in a note: room for them is kept from the first note on.

    Attributes
    ----------
    settings : dict
        What must be the same for a run to go on, in words.
    done : list of [first, stop]
        Ranges of samples whose relevance is in the output, on the disk; in order and apart. As last noted.
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
        """Take down how far the run is, in one step; on a full disk into the room that was kept for it.

        Raises
        ------
        OSError
            Naming the output; the note before stays.
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
        """Hold room on the disk for one more note, of use when the output has filled it; none where it is full now."""
        if not os.path.exists(self._room) or os.path.getsize(self._room) < size:
            try:
                with open(self._room, "wb") as file:
                    file.write(bytes(size))
            except OSError:
                self.give_room()

    def give_room(self) -> None:
        """Give the kept room back to the disk."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._room)

    def remove(self) -> None:
        """Take it away: the output is whole, or given up."""
        for name in (self.path, f"{self.path}-new"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        self.give_room()

    def load(self, free: Sequence[str] = ()) -> bool:
        """Take over what an earlier run noted, and its settings of these names; False when there is nothing.

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
        """A journal's content; InputError unless it is what was written."""
        payload = data[len(MAGIC) + DIGEST_BYTES :]
        if data.startswith(MAGIC) and data[len(MAGIC) : len(MAGIC) + DIGEST_BYTES] == _digest(payload):
            return payload
        if data.startswith((b"PK", PREFIX)) and not data.startswith(MAGIC):
            raise InputError(f"{self.output}: an unfinished run of another lrpfast version lies beside it; {ANEW}")
        raise InputError(f"{self.path}: damaged record of an unfinished run; {ANEW}")


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


ANEW = "pass resume=False to begin anew"
#: The setting that is a digest of all that decides the result; the others say it in words.
EXACT = "exact"


def _change(key: str, old: Any, new: Any) -> str:
    """In words, what is another setting now."""
    if key == "input" and isinstance(old, dict) and isinstance(new, dict):
        return _change_of_input(old, new)
    if key == EXACT:
        return "a function, a rule or an array that the settings name in the same words is another"
    return f"{key}: {_short(old, new)}, now {_short(new, old)}"


#: What a fingerprint of an input holds besides where it lies, and the words for it.
_OF_CONTENT = {"size": "size", "mtime_ns": "time", "files": "files", "shape": "shape", "dtype": "type"}


def _change_of_input(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Of two fingerprints of inputs that differ."""
    old, new = (f"{each.get('path', 'an array')}:{each.get('dataset', '')}".rstrip(":") for each in (before, now))
    if old != new:
        if os.path.basename(old) != os.path.basename(new):
            old, new = os.path.basename(old), os.path.basename(new)
        return f"the input was {old}, now it is {new}"
    if "path" in now and (changed := [word for key, word in _OF_CONTENT.items() if before.get(key) != now.get(key)]):
        return f"{os.path.basename(new)} has changed since: {', '.join(changed)}"
    return "the mask is another" if before.get("mask") != now.get("mask") else "the input holds other values"


def _short(value: Any, other: Any) -> str:
    """A setting in at most 120 characters, about where it begins to differ from another."""
    text, beside = ("not given" if each is None else str(each) for each in (value, other))
    if len(text) <= 120:
        return text
    at = max(0, len(os.path.commonprefix([text, beside])) - 40)
    return f"{'…' if at else ''}{text[at : at + 117]}{'…' if at + 117 < len(text) else ''}"
