"""How much memory a model may take while it is read and planned: a budget, counted before anything is made.

A small file can ask for any amount of memory: by compression, by one array used many times, by constants made of
nothing, by long paddings. What comes out is therefore held against what the file holds, over all of it together.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from .errors import InputError, LrpfastError, ModelFormatError

#: A model file may take so many bytes of memory in any case …
FREE_BYTES = 64 * 2**20
#: … and so many for each byte that it holds: its arrays and texts, all that is computed of them included.
RATIO = 32
#: A plan may take so many bytes for its tables in any case, and RATIO for each byte of the model's weights.
FREE_TABLES = 512 * 2**20
#: A model may have so many layers in any case, and RATIO for each that its file writes down.
FREE_LAYERS = 2048
#: An environment variable that raises every budget.
ENVIRONMENT = "LRPFAST_MODEL_MEMORY"


class Budget:
    """A number of bytes that reading or planning a model may use.

    Parameters
    ----------
    source_bytes : int
        Size of the file that is read, or of the weights that are planned.
    free : int
        Bytes that are allowed for a source of any size.
    memory : int, optional
        The caller's own limit, which counts where it is higher.
    error : type
        The exception for a request beyond the limit.
    owner, call : str
        For the error's text: the source, and the call whose ``memory`` raises the limit.

    Attributes
    ----------
    source_bytes, limit, used : int
    """

    def __init__(
        self,
        source_bytes: int,
        free: int = FREE_BYTES,
        memory: int | None = None,
        error: type[LrpfastError] = ModelFormatError,
        owner: str = "the file",
        call: str = "lrpfast.load(path, memory={})",
    ) -> None:
        self.source_bytes, self.used = source_bytes, 0
        self._files: set[Path] = set()
        self.limit = max(free + RATIO * source_bytes, memory or 0, _environment())
        self._error, self._owner, self._call = error, owner, call

    def take(self, size: int, name: str) -> None:
        """Count ``size`` bytes about to be taken; an error where they are too many."""
        size = max(size, 0)  # sizes of a file may be anything
        if self.used + size > self.limit:
            call = self._call.format(1 << (self.used + size).bit_length())
            history = f", {self.used:,} bytes were taken before it" if self.used else ""
            raise self._error(
                f"{name} takes {size:,} bytes{history}, and {self.limit:,} are the most for what {self._owner} holds "
                f"({self.source_bytes:,}). Where you trust it, {call} or {ENVIRONMENT} allow more"
            )
        self.used += size

    def hold(self, path: Path) -> None:
        """Count another file that belongs to this one, once."""
        if path not in self._files:
            self._files.add(path)
            size = held_bytes(path)
            self.source_bytes += size
            self.limit += RATIO * size


def _environment() -> int:
    text = os.environ.get(ENVIRONMENT, "").strip()
    if not text:
        return 0
    if not text.isdecimal() or len(text) > 18:
        raise InputError(f"{ENVIRONMENT} must be a number of bytes, as 8000000000, not {text[:40]!r}")
    return int(text)


_CURRENT: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextlib.contextmanager
def budgeted(source_bytes: int, memory: int | None = None) -> Iterator[Budget]:
    """Count what is read inside; a reader that another one calls goes on with its budget."""
    outer = _CURRENT.get()
    if outer is not None:
        yield outer
        return
    budget = Budget(source_bytes, memory=memory)
    token = _CURRENT.set(budget)
    try:
        yield budget
    finally:
        _CURRENT.reset(token)


def take(size: int, name: str) -> None:
    """Count bytes about to be taken for the file that is being read; objects in memory have no budget."""
    budget = _CURRENT.get()
    if budget is not None:
        budget.take(size, name)


def left() -> float:
    """How many bytes may still be taken."""
    budget = _CURRENT.get()
    return float("inf") if budget is None else budget.limit - budget.used


def also_holds(path: Path) -> None:
    """Let another file of the model count."""
    budget = _CURRENT.get()
    if budget is not None:
        budget.hold(path)


def held_bytes(path: Path) -> int:
    """How many bytes a file really holds: holes in it, which read as zeros, are left out."""
    size = path.stat().st_size
    data, hole = getattr(os, "SEEK_DATA", None), getattr(os, "SEEK_HOLE", None)
    if data is None or hole is None:  # Windows
        return size
    size_on_disk = at = 0
    with open(path, "rb") as file:
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, data)
            except OSError as error:
                if error.errno != errno.ENXIO:  # the file system does not say
                    return size
                break  # nothing but a hole is left
            at = os.lseek(file.fileno(), start, hole)
            size_on_disk += at - start
    return size_on_disk


def check_layers(count: int, written: int) -> None:
    """Refuse a model that makes far more layers than its file writes down: functions and models inside each other."""
    limit = FREE_LAYERS + RATIO * written
    if count > limit:
        number = f"{count:,}" if count < 10**12 else "more than 10^12"
        raise ModelFormatError(
            f"its layers, counted at every use, are {number}; the file writes down {written:,}, for which {limit:,} "
            "are the most"
        )
