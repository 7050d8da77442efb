"""A budget for the memory that reading and planning a model may take, charged before anything is allocated.

A small file can request any amount of memory: by compression, by one array used many times, by generated constants, by
long paddings. So all memory together is compared with the size of the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from .errors import InputError, LrpfastError, ModelFormatError

#: The number of bytes of memory that any model file may take …
FREE_BYTES = 64 * 2**20
#: … and the number for each byte of the file, for its arrays and texts and everything that is computed from them.
RATIO = 32
#: The number of bytes that any plan's tables may take, in addition to RATIO for each byte of the model's weights.
FREE_TABLES = 512 * 2**20
#: The number of layers that any model may have, in addition to RATIO for each layer in its file.
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
        """Charge ``size`` bytes before they are allocated; raises an error beyond the limit."""
        size = max(size, 0)  # a size in a file may be anything
        if self.used + size > self.limit:
            call = self._call.format(1 << (self.used + size).bit_length())
            history = f", {self.used:,} bytes were taken before it" if self.used else ""
            raise self._error(
                f"{name} takes {size:,} bytes{history}, and {self.limit:,} are the most for what {self._owner} holds "
                f"({self.source_bytes:,}). Where you trust it, {call} or {ENVIRONMENT} allow more"
            )
        self.used += size

    def hold(self, path: Path) -> None:
        """Add the size of another file of the model, once."""
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
    """Open a budget for the block; a reader that another reader calls continues with the latter's budget."""
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
    """Charge bytes to the budget of the file that is being read; objects in memory have no budget."""
    budget = _CURRENT.get()
    if budget is not None:
        budget.take(size, name)


def left() -> float:
    """The number of bytes that may still be taken."""
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
