"""The default number of threads of a run."""

from __future__ import annotations

import os
from typing import Any

from ..errors import InputError
from ..model.layers.base import whole

VARIABLE = "LRPFAST_NUM_THREADS"

_set_count: int | None = None  # the number from set_num_threads
_default_count: int | None = None  # the number of cores of this process, looked up once


def _forget() -> None:
    global _default_count
    _default_count = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)  # a forked worker may be bound to other cores


def check_threads(threads: Any) -> int | None:
    """Check a thread count; None means `get_num_threads` at the time of the run."""
    if threads is None:
        return None
    count = whole(threads)
    if count is None or count < 1:
        raise InputError(f"threads must be a whole number of at least 1, or None for all cores, not {threads!r}")
    return count


def set_num_threads(threads: int | None) -> None:
    """Set the number of threads of runs without ``threads=``.

    Results do not depend on it.

    Parameters
    ----------
    threads : int or None
        None restores the default: the environment variable ``LRPFAST_NUM_THREADS`` or, if it is not set,
        all cores that this process may use.

    Raises
    ------
    InputError
        For anything but an integer of at least 1.

    Examples
    --------
    >>> lrpfast.set_num_threads(2)
    >>> lrpfast.get_num_threads()
    2
    >>> lrpfast.set_num_threads(None)
    """
    global _set_count
    _set_count = check_threads(threads)
    _forget()


def get_num_threads() -> int:
    """The number of threads of runs without ``threads=``.

    Raises
    ------
    InputError
        When ``LRPFAST_NUM_THREADS`` is not an integer of at least 1.

    Examples
    --------
    >>> lrpfast.get_num_threads() >= 1
    True
    """
    global _default_count
    count = _set_count or _default_count  # read once: another thread may change it meanwhile
    if count is None:
        count = _default_count = _from_environment() or _cores()
    return count


def _from_environment() -> int | None:
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{VARIABLE}={text!r} must be a whole number of at least 1")
    return int(text)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
