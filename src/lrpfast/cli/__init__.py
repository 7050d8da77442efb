"""The command ``lrpfast``: explain files, inspect models, list the rules."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence

from ..errors import LrpfastError
from .usage import UsageError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 if doctor finds errors, 2 for bad input, 130 for Ctrl-C."""
    _ready_streams()
    try:
        from .arguments import make_parser, with_negatives  # takes a moment, during which Ctrl-C may come
        from .warn import WarningPrinter

        argv = list(sys.argv[1:] if argv is None else argv)
        arguments = make_parser().parse_args(with_negatives(argv))
        arguments.argv = argv
        with warnings.catch_warnings():
            warnings.showwarning = WarningPrinter()
            code = arguments.run(arguments)
        sys.stdout.flush()
        return code or 0
    except SystemExit as stop:  # --help, --version, SIGTERM
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `lrpfast rules | head`: the rest of the output cannot be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (UsageError, LrpfastError) as error:
        message = _as_options(str(error))
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    except MemoryError:
        message = "out of memory"
    lines = [" ".join(line.split()) for line in message.splitlines()]  # a list of obstacles has several
    print("lrpfast: error: " + "\n".join(lines), file=sys.stderr)
    return 2


def _ready_streams() -> None:
    """Make printing safe, even if standard output or error is closed or cannot encode a character."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed (2>&-): the next file that is opened would receive the messages
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            while (null := os.open(os.devnull, os.O_RDWR)) < number:
                pass
            if null > number:
                os.close(null)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without → or γ shows ?


def _as_options(message: str) -> str:
    """An error message with command-line options in place of Python's keywords."""
    for python, option in _OPTIONS.items():
        message = message.replace(python, option)
    return message


#: Python's keywords in error messages, and the corresponding options.
_OPTIONS = {
    "shape=(height, width)": "--plot-shape HEIGHT,WIDTH",
    "channels_first=True or channels_first=False": "--plot-channels first or --plot-channels last",
    "mask and shape differ": "--plot-mask and --plot-shape differ",
    "mask must be a boolean grid": "--plot-mask must be a boolean grid",
    "mask is for": "--plot-mask is for",
    **{f"limit {verb}": f"--plot-limit {verb}" for verb in ("must", "is")},
    "percentile must": "--plot-percentile must",
    "origin is for": "--plot-origin is for",
    "kind='image' draws": "--plot-kind image draws",
    "channels_first is for": "--plot-channels is for",
    "Analyzer(…, mask_nan=True)": "--mask FILE or --mask-nan, and --fill-nan 0 puts a number in the place of NaN",
    "mask_nan=True": "--mask-nan",
    "mask= says": "--mask says",
    "select= of the data": "--select",
    "conditions= is for": "--condition is for",
    **{f"{name}= is for": f"--{name} is for" for name in ("cluster", "layers", "mask", "statistics")},
    "select= and fill_nan= are for": "--select and --fill-nan are for",
    "allow it with memory=": "allow it with --memory ",
    "precision='float64'": "--precision float64",
    "group_by, correct and quantiles": "--group-by, --correct-only and --quantiles",
    "statistics=True or a file's name": "--statistics FILE",
    "overwrite=True": "--force",
    "resume=False": "--restart",
    **{f"y_ref {verb}": f"--y-ref {verb}" for verb in ("must", "needs", "is for")},
    "add the batch axis: x[None]": "add a first axis of length 1",
}
