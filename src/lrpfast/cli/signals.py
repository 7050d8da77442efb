"""What a batch system's signals do."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM, as a batch system sends it, end the run as Ctrl-C does: with nothing left behind.

    On Windows, where SIGTERM kills, Ctrl-Break does so.
    """

    def stop(signal_number: int, frame: Any) -> None:
        sys.exit(128 + signal_number)

    signal_number = signal.SIGTERM
    if sys.platform == "win32":
        signal_number = signal.SIGBREAK
    try:
        previous = signal.signal(signal_number, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal_number, previous)
