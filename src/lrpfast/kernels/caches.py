"""Sizes of the processor's caches, found at run time: blocks of work are made to fit them."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

#: Where the system does not say, in bytes by level: what the smaller processors of servers have.
USUAL = {1: 32 << 10, 2: 1 << 20, 3: 32 << 20}
#: What `block_bytes` keeps to: cores may share a second cache, and a virtual machine may say anything. Blocks
#: of 1 MiB were the fastest on cores with 2 MiB as well.
LEAST, MOST = 256 << 10, 1 << 20
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def _from_linux(level: int) -> int | None:
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            number, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            if number == str(level) and kind != "Instruction":
                return int(size[:-1]) * _UNITS[size[-1]] if size[-1] in _UNITS else int(size)
        except (OSError, ValueError, IndexError):
            continue
    return None


def _from_libc(level: int) -> int | None:
    if sys.platform == "win32":
        return None
    name = {1: "SC_LEVEL1_DCACHE_SIZE"}.get(level, f"SC_LEVEL{level}_CACHE_SIZE")
    try:
        return os.sysconf(name)
    except (ValueError, OSError):  # not every system has these names
        return None


@cache
def cache_bytes(level: int) -> int:
    """Bytes of a core's data cache of a level, or the usual size where the system does not say."""
    for size in (_from_linux(level), _from_libc(level)):
        if size is not None and size > 0:
            return size
    return USUAL[level]


def block_bytes() -> int:
    """What one core's blocks of work should fit in: its second cache, between `LEAST` and `MOST`."""
    return min(max(cache_bytes(2), LEAST), MOST)
