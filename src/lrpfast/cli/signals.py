"""The signals of batch systems."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """End the run on SIGTERM, which batch systems send, in the same way as on Ctrl-C.

    On Windows, where SIGTERM kills a process, Ctrl-Break ends the run.
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
