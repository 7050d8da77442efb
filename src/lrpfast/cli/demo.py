"""``lrpfast demo``: an included model beside published figures."""

from __future__ import annotations

import argparse

from .signals import terminable


def run(arguments: argparse.Namespace) -> None:
    """Explain it and print the table."""
    from .. import demo

    with terminable():
        demo.run(arguments.output, arguments.threads)
