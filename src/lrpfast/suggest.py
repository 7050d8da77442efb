"""Suggestions for unknown names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def unknown_name_message(kind: str, name: Any, known: Iterable[str], where: str) -> str:
    """The message for an unknown name: the nearest known one, and ``where``, which lists all.

    Names that differ only in case and separators come first: "EpsilonPlus" means "epsilon_plus".
    """
    near = _nearest(name, list(known)) if isinstance(name, str) else None
    if near is None:
        return f"unknown {kind} {name!r}; {where}"
    return f"unknown {kind} {name!r}, did you mean {near!r}? {where[:1].upper()}{where[1:]}"


def _nearest(name: str, known: list[str]) -> str | None:
    import difflib

    for normalize in (str.casefold, _letters):
        by_form = {normalize(other): other for other in reversed(known)}  # of equal forms the first
        if normalize(name) in by_form:
            return by_form[normalize(name)]
    by_form = {other.casefold(): other for other in reversed(known)}
    matches = difflib.get_close_matches(name.casefold(), by_form, n=1)
    return by_form[matches[0]] if matches else None


def _letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
