"""Warnings in the words of the command line."""

from __future__ import annotations

import sys

from ..engine.growth import BALANCE


class WarningPrinter:
    """Prints each warning once, without the line of code that Python shows; in place of `warnings.showwarning`."""

    def __init__(self) -> None:
        self._printed: set[str] = set()

    def __call__(self, message: Warning | str, *_: object, **__: object) -> None:
        text = str(message).replace(BALANCE, "--balance")
        if text not in self._printed:
            self._printed.add(text)
            print(f"lrpfast: warning: {text}", file=sys.stderr)
