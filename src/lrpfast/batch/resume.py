"""Checks of existing outputs before a run writes: other files, an unfinished run, and whether its rows are intact."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..errors import InputError
from ..table import counted
from .journal import ANEW, Journal
from .sinks import Sink
from .sinks.contents import check_replaced, has_room_beside

if TYPE_CHECKING:
    from .job import Job
    from .sources import Source

#: (first, stop, checksum) of rows of an output.
Sum = tuple[int, int, int]


def check_free(path: str, sink: Sink | None, overwrite: bool, results: Sequence[str]) -> None:
    """Raise InputError unless the existing file may be replaced; it must contain nothing but what the run writes.

    A sink whose array was named is told to add it to a file that does not have it.
    """
    if sink is not None and path in sink.outputs:
        if sink.may_add and has_room_beside(path, sink.described_names):
            sink.add()
            return
        names = " and ".join(map(repr, sink.arrays))
        whose = "its" if len(sink.arrays) == 1 else "their"
        lost = check_replaced(path, sink.arrays, f"{names} and {whose} coordinates")
    else:
        lost = check_replaced(path, results, "statistics")
    if not overwrite:
        listing = f", which removes {', '.join(lost)}" if lost else ""
        raise InputError(f"{path}: is there already; pass overwrite=True to replace it{listing}")


def remove_earlier(path: str, resume: bool, why: str | None) -> None:
    """Remove the journal of an unfinished run before a new one begins; InputError if the caller must decide.

    Parameters
    ----------
    path : str
    resume : bool
        Whether the caller wants to resume unfinished runs.
    why : str or None
        Why this run cannot resume it.
    """
    earlier = Journal(path, {})
    if os.path.exists(earlier.path):
        if resume:
            raise InputError(
                f"{path}: an unfinished run lies beside it, and that this run is the same cannot be told: {why}; {ANEW}"
            )
        earlier.remove()


def damaged(sink: Sink, frame: int, sums: Iterable[Sum]) -> list[Sum]:
    """The rows that have changed since an earlier run wrote them, with a warning.

    Raises
    ------
    InputError
        When more than rows is damaged.
    """
    if sink.frame() != frame:
        raise InputError(f"{sink.partial}: was changed since an unfinished run wrote it; {ANEW}")
    changed = [part for part in sums if sink.checksum(part[0], part[1]) != part[2]]
    if changed:
        count = sum(stop - first for first, stop, _ in changed)
        state = (
            "is no longer as an unfinished run wrote it, and is"
            if count == 1
            else ("are no longer as an unfinished run wrote them, and are")
        )
        text = f"{counted(count, 'sample')} {state} explained again"
        warnings.warn(f"{sink.path}: {text}", UserWarning, stacklevel=7)
    return changed


def write_again(sink: Sink, job: Job, data: Source, sums: Iterable[Sum]) -> None:
    """Explain rows of an earlier run again, and write them.

    Raises
    ------
    InputError
        When the results differ: the input may have changed, even if its modification time has not.
    """
    for first, stop, value in sorted(set(sums)):
        explained = job.explain(first, data.read(first, stop))
        if sink.write(first, explained.relevance, explained.beside) != value:
            raise InputError(
                f"{sink.path}: samples {first} to {stop - 1} had other relevances in the unfinished run, by the same "
                f"settings: the input, or what a package computes, has changed meanwhile; {ANEW}"
            )
    sink.flush()
