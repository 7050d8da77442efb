"""Peak resident memory of one call, from Linux's own account of this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

PROC = Path("/proc/self")
#: Whether the system gives that account, and lets the peak begin again.
AVAILABLE = (PROC / "clear_refs").exists()


def status() -> dict[str, int]:
    """Resident bytes now: VmRSS, its anonymous and file parts, and VmHWM, the most so far."""
    lines = (line.split() for line in (PROC / "status").read_text().splitlines())
    return {f[0].rstrip(":"): int(f[1]) << 10 for f in lines if f[0].rstrip(":") in ("VmHWM", "VmRSS", "RssAnon")}


def peak_of(run: Callable[[], Any]) -> dict[str, int]:
    """Bytes resident before the call, and at most during it, anonymous pages alone and with files' pages.

    The anonymous peak takes the files' pages to stay as they are during the call. A process does
    this once, at its first call of ``run``: memory that an allocator keeps would not count a second time.
    """
    (PROC / "clear_refs").write_text("5")  # VmHWM begins again, at what is resident now
    before = status()
    run()
    after = status()
    files = after["VmRSS"] - after["RssAnon"]
    return {
        "before": before["VmRSS"],
        "before_anonymous": before["RssAnon"],
        "peak": after["VmHWM"],
        "peak_anonymous": after["VmHWM"] - files,
    }
