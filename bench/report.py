"""Measures everything in one session and writes docs/performance.md.

    python bench/report.py                              all of it: half an hour on two cores
    python bench/report.py --quick                      fewer readings
    python bench/report.py --cases 'vgg16*' --parts models    a part; the rest is kept from the machine's file
    python bench/report.py --isa x86-64-v4              another instruction set, as a machine of its own
    python bench/report.py --from-json                  only write the document again
    python bench/report.py --smoke --json J --document D      small sizes: does it run? The figures mean nothing

Readings go to bench/results/PROCESSOR-INSTRUCTION-SET.json after every case, so that an interrupted run keeps what it
has. The document shows every file of that folder.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Callable
from datetime import datetime, timezone
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import busy
import document
import kernels
import limits
import machine
import memory
from cases import BESIDE, CASES, PEERS, Case, opened
from conventions import THREADS
from timing import Gauge, interleaved
from tool import Timer

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
TOOLS = ("lrpfast", *PEERS, *BESIDE)
PARTS = ("models", "batches", "busy", "memory", "kernels")

#: Cases of the plot of time per sample against batch size, and its batch sizes.
BATCHES = ("mlp_small-10000", "cnn-epsilon")
SIZES = (1, 4, 16, 64, 256, 1024, 4096, 10_000)


class Report:
    """The readings so far; ``session`` tells figures of one run from those of an earlier one."""

    def __init__(self, options: argparse.Namespace, unset: dict[str, str]) -> None:
        self.options = options
        self.small: bool = options.smoke
        self.tools = tuple(options.only.split(","))
        self.rounds, self.seconds = (1, 0.0) if self.small else (5, 2.0) if options.quick else (15, 6.0)
        self.found: dict[str, Any] = {part: {} for part in PARTS}
        self.path: Path = options.json or results_path()
        if self.path.exists():
            before = json.loads(self.path.read_text(encoding="utf-8"))
            if before["small"] == self.small:  # figures that mean nothing do not mix with others
                self.found.update(before)
        self.session = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        self.found.update(
            session=self.session, machine=machine.describe(), versions={**self.found.get("versions", {})},
            unset=unset, threads=THREADS, rounds=self.rounds, small=self.small, limits={},
        )  # fmt: skip
        self.found["versions"].update(machine.versions())
        self.gauge = None if self.small else Gauge(limits.quick_rate())

    def wanted(self, key: str) -> bool:
        return fnmatch(key, self.options.cases)

    def keep(self, part: str, key: str, entry: Any) -> None:
        """Take up an entry and write the file."""
        if self.gauge:  # how many readings of this entry were taken again, or kept all the same, for a slow machine
            entry = {**entry, "again": self.gauge.again, "kept": self.gauge.kept}
            self.gauge.again = self.gauge.kept = 0
        self.found[part][key] = entry
        write_json(self.path, self.found)

    def limits(self) -> None:
        """The machine's limits, the higher of this reading and an earlier one in the session."""
        for name, value in limits.measure(self.small).items():
            self.found["limits"][name] = max(value, self.found["limits"].get(name, 0.0))

    def attempt(self, part: str, case: Case, measure: Callable[[Case], Any]) -> None:
        """Measure a case, where it is wanted; tools whose results differ are not timed, and the entry says so."""
        if not self.wanted(case.key):
            return
        say(f"{part}: {case.title}")
        try:
            entry = measure(case)
        except AssertionError as error:
            say(f"  {error}")
            entry = {"error": str(error)}
        self.keep(part, case.key, {"session": self.session, **entry})

    def models(self) -> None:
        """Every case of the targets table, its tools taking turns."""
        for case in CASES:
            self.attempt("models", case, self._model)

    def _model(self, case: Case) -> dict[str, Any]:
        with opened(case, self.small, self.tools) as it:
            clocks = {f"{t.tool}|{t.way}": t.timer for t in it.timed}
            seconds = interleaved(clocks, self.rounds, self.seconds, self.gauge)
            self.found["versions"].update(it.versions)
            readings = [
                {"tool": t.tool, "way": t.way, "samples": t.samples, "seconds": seconds[f"{t.tool}|{t.way}"]}
                for t in it.timed
            ]
            size = {"flops": it.flops, "samples": len(it.x), "bytes": 2 * it.x.nbytes}
            found = {"agreement": it.agreement, "undecided": it.undecided, "missing": it.missing}
            return {**size, **found, "readings": readings}

    def batches(self) -> None:
        """Time against batch size."""
        for case in (case for case in CASES if case.key in BATCHES):
            self.attempt("batches", case, self._batches)

    def _batches(self, case: Case) -> dict[str, Any]:
        with opened(case, self.small, self.tools) as it:
            sizes = [size for size in SIZES if size <= len(it.x)]
            clocks = {f"{tool.name}|{n}": tool.timer(n, n) for tool in it.tools for n in sizes}
            return {"readings": interleaved(clocks, min(self.rounds, 7), self.seconds / 4, self.gauge)}

    def busy(self) -> None:
        """With and without two processes that spin."""
        for case in (case for case in CASES if case.key in busy.SHOWN):
            self.attempt("busy", case, lambda c: busy.measure(c, self.rounds, self.seconds, self.small, self.tools))

    def memory(self) -> None:
        """Peaks, every tool in a process of its own, and from file to file."""
        for case in CASES:
            if case.key not in memory.SHOWN or not self.wanted(case.key):
                continue
            say(f"memory: {case.title}")
            tools = {tool: memory.in_a_process(case, tool, self.small) for tool in memory.TOOLS if tool in self.tools}
            self.keep("memory", case.key, {"session": self.session, "tools": tools})
        if self.wanted("file") and memory.resident.AVAILABLE:
            say("memory: from file to file")
            samples = 50 if self.small else 20_000
            self.keep("memory", "file", memory.file_to_file(samples, self.options.folder, self.small))

    def kernels(self) -> None:
        """One layer at a time, beside NumPy with as many threads."""
        say("kernels")
        for case in kernels.cases():
            if not self.wanted(case.key):
                continue
            arrays = kernels.arrays(case, self.small)
            ours, flops = kernels.lrpfast_call(case, arrays)
            theirs = kernels.numpy_call(case, arrays)
            difference = kernels.difference(ours(), theirs())
            if not difference <= kernels.TOLERANCE[case.dtype]:
                self.keep("kernels", case.key, {"session": self.session, "error": f"differs by {difference:.1e}"})
                continue
            clocks: dict[str, Callable[[int], float]] = {"lrpfast": Timer(ours)}
            with kernels.numpy_threads(case.threads) as limited:
                if limited and not case.isa:
                    clocks["numpy"] = Timer(theirs)
                readings = interleaved(clocks, min(self.rounds, 7), self.seconds / 12, self.gauge)
            entry = {"session": self.session, "flops": flops, "difference": difference, "readings": readings}
            fields = {name: getattr(case, name) for name in ("rule", "layer", "dtype", "isa", "threads")}
            self.keep("kernels", case.key, {**entry, **fields})


def results_path() -> Path:
    """The file of this machine and its instruction set."""
    words = f"{machine.processor()} {machine.isa()}".lower()
    words = re.sub(r"\((r|tm)\)|processor|\d+-core", "", words)
    return RESULTS / (re.sub(r"[^a-z0-9]+", "-", words).strip("-") + ".json")


def rounded(value: Any) -> Any:
    """A figure with five significant digits; the rest is noise."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def write_json(path: Path, found: dict[str, Any]) -> None:
    """Replace the file when the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    text = json.dumps(rounded(found), indent=1)
    text = re.sub(r"\[\s+([^][{}\"]+?)\s+\]", lambda numbers: f"[{' '.join(numbers[1].split())}]", text)  # a line each
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)


def say(text: str) -> None:
    """What is being measured, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def measure(options: argparse.Namespace, parts: list[str]) -> None:
    """Take the readings of some parts."""
    unset = machine.without_variables()
    if options.isa:  # read when lrpfast first needs a kernel
        os.environ["LRPFAST_ISA"] = options.isa
    report = Report(options, unset)
    report.rounds = options.rounds or report.rounds
    report.seconds = report.seconds if options.seconds is None else options.seconds
    begin = time.perf_counter()
    report.limits()
    for part in parts:
        getattr(report, part)()
    report.limits()
    report.found["seconds"] = time.perf_counter() - begin
    write_json(report.path, report.found)


def main() -> None:
    """Measure, then write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="*", metavar="PATTERN", help="only cases whose key fits, such as 'vgg16*'")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--only", default=",".join(TOOLS), help=f"some of the tools {','.join(TOOLS)}")
    parser.add_argument("--isa", help="lrpfast's instruction set; default: the best of this machine")
    parser.add_argument("--rounds", type=int, help="readings of each tool, at most")
    parser.add_argument("--seconds", type=float, help="time for each tool's readings in a case")
    parser.add_argument("--quick", action="store_true", help="fewer readings")
    parser.add_argument("--smoke", action="store_true", help="small sizes, one reading")
    parser.add_argument("--from-json", action="store_true", help="measure nothing")
    parser.add_argument("--json", type=Path, help="the only file to read and write; default: in bench/results")
    parser.add_argument("--document", type=Path, default=ROOT / "docs" / "performance.md")
    parser.add_argument("--folder", help="for files of 5 GB; default: the system's temporary folder")
    options = parser.parse_args()
    parts = options.parts.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"--parts takes some of {','.join(PARTS)}")
    if options.smoke and not options.json:
        parser.error("--smoke needs --json: its figures would replace this machine's")
    if not options.from_json:
        measure(options, parts)
    files = [options.json] if options.json else sorted(RESULTS.glob("*.json"))
    document.write([json.loads(path.read_text(encoding="utf-8")) for path in files], options.document)
    say(f"wrote {options.document}")


if __name__ == "__main__":
    main()
