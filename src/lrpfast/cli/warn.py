"""Warnings in the words of the command line."""

from __future__ import annotations

import re
import sys

#: What warnings about relevance advise in Python.
_LOOK = re.compile(r"explain\(x\[[^\]]*\]\)\.conservation")


def in_command(text: str, option: str = "lrpfast explain --balance") -> str:
    """A warning's text with the command's option in place of what Python has."""
    return _LOOK.sub(option, text)


class WarningPrinter:
    """Prints each warning once, without the line of code that Python shows; in place of `warnings.showwarning`."""

    def __init__(self) -> None:
        self._printed: set[str] = set()

    def __call__(self, message: Warning | str, *_: object, **__: object) -> None:
        text = in_command(str(message), "--balance")
        if text not in self._printed:
            self._printed.add(text)
            print(f"lrpfast: warning: {text}", file=sys.stderr)
