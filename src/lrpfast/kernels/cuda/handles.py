"""A library's handles, each used by one thread at a time, and whether the library can be used: looked up once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...errors import DeviceError

#: Rows, and columns, of the product by which `require_float32` finds TF32.
ROWS, COLUMNS = 256, 32


class Handles:
    """The handles of cuBLAS or cuDNN, for each device and stream: a handle's own memory may be in use on its stream.

    Parameters
    ----------
    create : callable
        ``create(stream)`` makes a handle of the current device that queues on the stream of this address.
    check : callable
        ``check(handle)`` raises DeviceError where results are not those of float32; called once for each device.
    """

    def __init__(self, create: Callable[[int], Any], check: Callable[[Any], None]) -> None:
        self._create, self._check = create, check
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Look for the library again, for tests."""
        self._free: dict[tuple[int, int], list[Any]] = {}  # that no call is using
        self._checked: set[int] = set()
        self._problem: str | None = None  # empty where there is none

    def problem(self) -> str | None:
        """Why the library cannot be used, or None; looked up once, on the current device."""
        if self._problem is None:
            import cupy

            try:
                with self.lend(cupy.cuda.runtime.getDevice()):
                    self._problem = ""
            except DeviceError:  # it works, but its results are wrong
                raise
            except Exception as error:  # of an import, of a library that is missing or does not fit the driver
                self._problem = first_line(error)
        return self._problem or None

    @contextlib.contextmanager
    def lend(self, device: int) -> Iterator[Any]:
        """A handle of the current device on the current stream that no other thread uses meanwhile."""
        import cupy

        stream = int(cupy.cuda.get_current_stream().ptr)
        with self._lock:
            free = self._free.setdefault((device, stream), [])
            handle = free.pop() if free else None
        if handle is None:
            handle = self._create(stream)
        try:
            if device not in self._checked:
                self._check(handle)
                self._checked.add(device)
            yield handle
        finally:
            with self._lock:
                free.append(handle)


def require_float32(library: str, operation: str, multiply: Callable[[int, int, int], None]) -> None:
    """Raise DeviceError unless a product of numbers that TF32 would round is exact; else something forces TF32.

    Parameters
    ----------
    library, operation : str
        For the message: "cuBLAS", "products".
    multiply : callable
        ``multiply(x, w, out)`` queues out (ROWS, COLUMNS) = x · w (COLUMNS, COLUMNS) by the addresses of the arrays.
    """
    import cupy

    x, w, out = (cupy.empty((rows, COLUMNS), np.float32) for rows in (ROWS, COLUMNS, ROWS))
    x.set(np.full(x.shape, 1 + 2.0**-12, np.float32))
    w.set(np.eye(COLUMNS, dtype=np.float32))
    multiply(x.data.ptr, w.data.ptr, out.data.ptr)
    if (out.get() != np.float32(1 + 2.0**-12)).any():
        raise DeviceError(
            f"{library} rounds float32 {operation} to TF32 on this machine though it is asked not to; "
            "is NVIDIA_TF32_OVERRIDE or a library set so?"
        )


def first_line(error: BaseException) -> str:
    """What an error says first, or its type."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
