"""Reading and writing at an offset of an open file, for which Windows has no calls.

On Windows, the file's own position moves, so only one thread at a time may use a source or a sink.
"""

from __future__ import annotations

import os
import sys
from io import FileIO

#: The largest number of bytes in one call: no system takes 2³¹ or more.
MOST = 1 << 30
#: Whether several threads may read a file at the same time.
CONCURRENT = sys.platform != "win32"


def read_at(file: FileIO, into: memoryview, offset: int) -> int:
    """Read bytes from an offset on; returns their number, which may be less than requested."""
    if sys.platform == "win32":
        file.seek(offset)
        return file.readinto(into[:MOST])
    return os.preadv(file.fileno(), [into[:MOST]], offset)


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all bytes at an offset."""
    while data:
        if sys.platform == "win32":
            os.lseek(descriptor, offset, os.SEEK_SET)
            count = os.write(descriptor, data[:MOST])
        else:
            count = os.pwrite(descriptor, data[:MOST], offset)
        data, offset = data[count:], offset + count
