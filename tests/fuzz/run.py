"""Fuzzes lrpfast's readers: files that are damaged or made up must give an lrpfast error, quickly and in little memory.

    python tests/fuzz/run.py --cases 100000                    all readers
    python tests/fuzz/run.py --reader onnx --seed 7
    python tests/fuzz/run.py --reader onnx --keep corpus.jsonl     also writes one small case for every outcome

A case is a seed file and a list of edits (`edits.py`). Cases run in a worker process with 1 GiB of memory and 2 s of
processor time each; edits that reach new lines of the reader, or a new outcome, are built upon (coverage guidance).
What is found (a crash, too much time or memory, a foreign exception, an error that does not name its file) is printed
with the case that shows it, shortened; the exit status is then 1. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import mmap
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import lrpfast  # noqa: E402
from fuzz import edits  # noqa: E402
from fuzz.readers import READERS, problem  # noqa: E402

MEMORY, SECONDS = 1 << 30, 2.0
BATCH = 500  # cases of one worker process
PACKAGE = str(Path(lrpfast.__file__).parent)
TRACED = tuple(f"{PACKAGE}/{part}" for part in ("readers", "batch/sources", "batch/cf", "batch/metadata", "model/npz"))


class Fuzzer:
    """One reader, the cases that are built upon, and what was found."""

    def __init__(self, reader: str, folder: Path) -> None:
        self.name, self.reader, self.folder = reader, READERS[reader], folder
        self.seeds = self.reader.make()
        self.kept: list[dict[str, Any]] = [{"seed": name, "edits": []} for name in self.seeds]
        self.lines: set[Any] = set()
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.found: dict[str, dict[str, Any]] = {}
        self.path = folder / "file.bin"

    def attempt(self, data: bytes) -> tuple[str, str | None]:
        """(what came of it, what is wrong with that or None)"""
        self.path.write_bytes(data)
        try:
            self.reader.attempt(self.path)
        except Exception as error:
            wrong = problem(error, self.path)
            return _place(error), wrong
        return "read", None

    def batch(self, seed: str, cases: int, current: mmap.mmap, report: Path) -> None:
        """In a worker: make and try cases; a line of the report for each that is worth it."""
        _limit(self.folder)
        random = Random(seed)
        traced = _Lines(self.lines)
        with open(report, "w") as out:
            for _ in range(cases):
                among = self.kept if random.random() < 0.7 else self.kept[: len(self.seeds)]
                # small files are read faster
                (case,) = random.choices(among, [1 / len(self.seeds[case["seed"]]) for case in among])
                case = dict(case)
                case["edits"] = list(case["edits"])
                _note(current, ["edit", case])
                try:
                    data = edits.made(self.seeds[case["seed"]], case["edits"], self.seeds)
                    for _ in range(random.choice((1, 1, 1, 2, 3))):
                        whole = all(map(edits.keeps_whole, case["edits"]))
                        case["edits"].append(edits.chosen(data, random, self.seeds, whole))
                        data = edits.made(data, case["edits"][-1:], self.seeds)
                except Exception:  # edits that do not go together
                    continue
                _note(current, ["try", case])
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                # tracing takes as long as reading does
                with traced if random.random() < 0.3 else contextlib.nullcontext():
                    outcome, wrong = self.attempt(data)
                signal.setitimer(signal.ITIMER_PROF, 0)
                if traced.new or wrong or outcome not in self.outcomes:
                    self.outcomes.setdefault(outcome, case)
                    out.write(json.dumps([case, outcome, wrong, sorted(traced.new)]) + "\n")
                    out.flush()
                    if len(case["edits"]) < 8:
                        self.kept.append(case)

    def run(self, seed: str, cases: int) -> int:
        """Cases in a worker process; how many were tried."""
        current, report = mmap.mmap(-1, 1 << 24), self.folder / "report"
        report.write_text("")
        child = os.fork()
        if not child:
            try:
                self.batch(seed, cases, current, report)
            except BaseException:
                traceback.print_exc()
                os._exit(3)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        for line in report.read_text().splitlines():
            case, outcome, wrong, new = json.loads(line)
            self.lines.update(map(tuple, new))
            self.outcomes.setdefault(outcome, case)
            if len(case["edits"]) < 8:
                self.kept.append(case)
            if wrong:
                self.note(f"{wrong[:12]} {outcome}", case, f"{wrong} [{outcome}]")
        if status:
            stage, case = json.loads(current[: current.find(b"\0")])
            number = os.WTERMSIG(status)
            kind = "takes over 2 s" if number == signal.SIGPROF else f"dies of signal {number}, status {status}"
            trace = (self.folder / "trace").read_text()
            if stage == "try":
                self.note(f"{kind}\n{trace}", case, f"{kind}\n{trace}")
            elif number != signal.SIGPROF:
                print(f"making a case {kind}: {json.dumps(case)[:300]}\n{trace}")
        return cases

    def note(self, key: str, case: dict[str, Any], wrong: str) -> None:
        """Print a finding, unless there was one like it."""
        if key not in self.found:
            self.found[key] = case
            print(f"  {wrong}\n    {json.dumps({'reader': self.name, **case})[:3000]}", flush=True)

    def shortened(self, case: dict[str, Any]) -> dict[str, Any]:
        """The case without the edits that its outcome does not need; crashes are not tried again."""

        def outcome(candidate: list[Any]) -> Any:
            with contextlib.suppress(Exception):
                return self.attempt(edits.made(self.seeds[case["seed"]], candidate, self.seeds))

        wanted, kept = outcome(case["edits"]), case["edits"]
        for edit in list(kept):
            fewer = [other for other in kept if other is not edit]
            if outcome(fewer) == wanted:
                kept = fewer
        return {**case, "edits": kept}


class _Lines:
    """The lines of the readers that run inside a ``with`` block, as far as they are new."""

    def __init__(self, known: set[Any]) -> None:
        self.known, self.new = known, set()

    def __enter__(self) -> None:
        self.new = set()
        sys.settrace(self._call)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        self.known |= self.new

    def _call(self, frame: Any, _: str, __: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(TRACED) else None

    def _line(self, frame: Any, event: str, _: Any) -> Any:
        place = (frame.f_code.co_filename, frame.f_lineno)
        if place not in self.known:
            self.new.add(place)
        return self._line


def _place(error: BaseException) -> str:
    """The kind of an error, and the line that raised its first cause."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(PACKAGE)]
    where = f" {frames[-1].filename.removeprefix(PACKAGE)}:{frames[-1].name}:{frames[-1].line}" if frames else ""
    return f"{type(error).__name__}{where}"


def _limit(folder: Path) -> None:
    """Of this process from now on: its memory, and a signal that ends it, with a trace, when its time is over."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    trace = open(folder / "trace", "w")  # noqa: SIM115
    faulthandler.enable(trace)
    faulthandler.register(signal.SIGPROF, trace, chain=True)
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", RuntimeWarning)


def _note(current: mmap.mmap, what: Any) -> None:
    text = json.dumps(what).encode()[: len(current) - 1]
    current[: len(text) + 1] = text + b"\0"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reader", choices=READERS, action="append", help="may be given again (default: all)")
    parser.add_argument("--cases", type=int, default=20_000, help="for each reader (default: %(default)s)")
    parser.add_argument("--seed", default="0", help="of the random choices")
    parser.add_argument("--keep", type=Path, help="append a shortened case for every outcome to this file")
    options = parser.parse_args()
    failed = False
    for name in options.reader or READERS:
        with tempfile.TemporaryDirectory() as folder:
            fuzzer, start, tried = Fuzzer(name, Path(folder)), time.monotonic(), 0
            while tried < options.cases:
                tried += fuzzer.run(f"{options.seed} {name} {tried}", min(BATCH, options.cases - tried))
            print(
                f"{name}: {tried:,} cases in {time.monotonic() - start:.0f} s, {len(fuzzer.lines):,} lines, "
                f"{len(fuzzer.outcomes)} outcomes, {len(fuzzer.found)} findings",
                flush=True,
            )
            failed |= bool(fuzzer.found)
            if options.keep:
                with open(options.keep, "a") as file:
                    for case in fuzzer.outcomes.values():
                        file.write(json.dumps({"reader": name, **fuzzer.shortened(case)}) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
