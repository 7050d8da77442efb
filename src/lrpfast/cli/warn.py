"""Warnings in the words of the command line."""

from __future__ import annotations

import sys

from ..engine.growth import BALANCE


def print_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning without the line of code that Python shows; in place of `warnings.showwarning`."""
    print(f"lrpfast: warning: {str(message).replace(BALANCE, '--balance')}", file=sys.stderr)
