"""The checklist for a machine with an NVIDIA GPU: right results, no memory errors, and the speed that was promised.

    python bench/gpu_check.py                      everything: under ten minutes on an H100
    python bench/gpu_check.py --quick              tiny sizes
    python bench/gpu_check.py --only speed         one section; may be given several times
    python bench/gpu_check.py --standin            on the CPU, through the tests' stand-in for CuPy: tests this script

Prints a table and writes it to build/gpu_check.md and, with all figures, to build/gpu_check.json. A line that fails
is noted, and the rest goes on; the exit status is 1 if any did. A goal of speed that is missed is no failure.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from gpu_lines import BENCH, LOST, MARK, SECTIONS, WHERE, Options, describe, reason, run_steps, say

ROOT = BENCH.parent
#: Seconds after which a section is ended, hung or not.
LIMIT = 600
#: Lines of other output that are shown of a process that died.
LAST_WORDS = 3
#: The tables' headings by the name of the files.
TITLES = {"gpu_check": "GPU check", "gpu_experiments": "GPU experiments"}

Line = dict[str, Any]


class Process:
    """A section in a process of its own: its records as they come, and how it ended."""

    def __init__(self, arguments: list[str], limit: float, prefix: tuple[str, ...] = ()) -> None:
        command = [*prefix, sys.executable, str(BENCH / "gpu_check.py"), *arguments]
        self.other: list[str] = []
        self.timed_out = False
        self.code = 0
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            start_new_session=True,
        )  # fmt: skip
        self._timer = threading.Timer(limit, self._end)
        self._timer.start()

    def _end(self) -> None:
        self.timed_out = True
        os.killpg(self._process.pid, signal.SIGKILL)

    def records(self) -> Iterator[dict[str, Any]]:
        """What the process says, until it ends."""
        assert self._process.stdout is not None
        try:
            for text in self._process.stdout:
                if text.startswith(MARK):
                    yield json.loads(text[len(MARK) :])
                elif text.strip():
                    self.other = [*self.other[1 - LAST_WORDS :], text.strip()]
            self.code = self._process.wait()
        finally:
            self._timer.cancel()
            if self._process.poll() is None:  # this process was interrupted: that one does not hear of it
                self._end()
                self._process.wait()

    def fate(self) -> str:
        """Why it ended early."""
        if self.timed_out:
            return "took too long and was ended"
        how = f"signal {-self.code}" if self.code < 0 else f"exit status {self.code}"
        return f"the process died ({how}): {' / '.join(self.other)}"


def run_section(options: Options, section: str, tell: Callable[[Line], None]) -> None:
    """All lines of a section; after a step that broke its process, a new one goes on with the next."""
    begin, after = time.monotonic(), -1
    every: set[tuple[str, ...]] = set()
    launched: set[tuple[str, ...]] = set()
    while True:
        left = LIMIT - (time.monotonic() - begin)
        process = Process(["--inside", section, "--after", str(after), *options.arguments()], max(1.0, left))
        under_way, started = None, time.monotonic()
        for record in process.records():
            if "line" in record:
                tell({"section": section, **record["line"]})
            elif "begin" in record:
                after, under_way, started = record["begin"], record["what"], time.monotonic()
            elif "end" in record:
                under_way = None
                launched |= {tuple(k) for k in record["launched"]}
            elif "kernels" in record:
                every = {tuple(k) for k in record["kernels"]}
        if under_way is not None or process.code not in (0, LOST):
            seconds = round(time.monotonic() - started, 2)
            what = under_way or "the process"
            tell({"section": section, "what": what, "result": process.fate(), "status": "FAIL", "seconds": seconds})
        if process.code == 0 or process.timed_out or (under_way is None and process.code != LOST):
            break
    if every:
        tell(coverage(section, every, launched))


def coverage(section: str, every: set[tuple[str, ...]], launched: set[tuple[str, ...]]) -> Line:
    """Whether each kernel of each module was launched."""
    missing = sorted(" ".join((kernel, kind)) for _, kind, kernel in every - launched)
    result = f"{len(every & launched)} of {len(every)}"
    result += f"; never: {', '.join(missing)}" if missing else ""
    status = "FAIL" if missing else "ok"
    return {
        "section": section, "what": "every kernel launched", "result": result, "status": status, "seconds": 0.0,
        "missing": missing,
    }  # fmt: skip


# The head of the table.


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def head(options: Options) -> dict[str, str]:
    """Machine, device and versions; the device's own words come from a process of its own."""
    import machine

    facts = {"date": datetime.datetime.now().astimezone().isoformat(" ", "seconds")}
    words = machine.describe() if sys.platform.startswith("linux") else {}
    shown = ("processor", "cores this process may use", "memory", "system")
    facts |= {key: words[key] for key in shown if key in words}
    commit = _output("git", "rev-parse", "--short", "HEAD")
    if commit:
        facts["commit"] = commit + (", with changes" if _output("git", "status", "--porcelain") else "")
    facts |= machine.versions()
    for package in ("torch", "zennit", "captum", "lxt", "transformers"):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = "not installed"
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    facts["driver"] = driver.splitlines()[0] if driver else "unknown: nvidia-smi does not say"
    process = Process(["--inside", "head", *options.arguments()], LIMIT)
    found = list(process.records())
    facts |= found[0]["facts"] if found else {options.device: process.fate()}
    if options.standin:
        facts["times"] = "of the stand-in for CuPy on this processor: no claim"
    return facts


# The table.


def row(line: Line) -> str:
    return (
        f"| {line['section']} | {line['what']} | {line['result']} | {line['status']} | {line['seconds']:.1f} |"
    ).replace("\n", " ")


HEADING = ("| section | what | result | status | seconds |", "|---|---|---|---|---|")


def totals(lines: list[Line]) -> str:
    """Lines by status, and goals by whether they are reached."""
    counts = {status: sum(line["status"] == status for line in lines) for status in ("ok", "FAIL", "skipped")}
    goals = [goal for line in lines for goal in line.get("goals", [])]
    reached = sum(goal["reached"] for goal in goals)
    text = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{text}; {reached} of {len(goals)} goals reached" if goals else text


def write(folder: Path, name: str, facts: dict[str, str], lines: list[Line]) -> None:
    """The table as markdown, and everything as JSON; rewritten after every section, so that an end leaves the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    text = [f"# {TITLES[name]}", "", *(f"- {key}: {value}" for key, value in facts.items()), "", totals(lines), ""]
    text += [*HEADING, *map(row, lines), ""]
    (folder / f"{name}.md").write_text("\n".join(text), encoding="utf-8")
    whole = json.dumps({"head": facts, "lines": lines}, indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(whole + "\n", encoding="utf-8")


def check(options: Options, sections: list[str], folder: Path, name: str = "gpu_check") -> int:
    """Everything, to the files of this name; the exit status."""
    begin = time.monotonic()
    facts = head(options)
    for key, value in facts.items():
        print(f"{key}: {value}")
    print("", *HEADING, sep="\n", flush=True)
    lines: list[Line] = []

    def tell(line: Line) -> None:
        lines.append(line)
        print(row(line), flush=True)

    for section in sections:
        try:
            run_section(options, section, tell)
        except Exception as error:  # of this script: the other sections still count
            tell({"section": section, "what": "", "result": reason(error), "status": "FAIL", "seconds": 0.0})
        write(folder, name, facts, lines)
    print(f"\n{totals(lines)}; {time.monotonic() - begin:.0f} s; {folder / f'{name}.md'}")
    return int(any(line["status"] == "FAIL" for line in lines))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--standin", action="store_true", help="the tests' stand-in for CuPy, on the CPU")
    parser.add_argument("--only", action="append", choices=list(SECTIONS), help="a section; may be repeated")
    parser.add_argument("--device", default="gpu:0", help="gpu:0, gpu:1, …")
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="folder of the files, build/ by default")
    # what this script tells the processes that it starts
    parser.add_argument("--inside", choices=["head", *WHERE], help=argparse.SUPPRESS)
    parser.add_argument("--experiment", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--after", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--plain-memory", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.device.removeprefix("gpu:").isdecimal():
        parser.error(f"--device must name one GPU, as 'gpu:0', not {given.device!r}")
    options = Options(given.device, given.quick, given.standin, given.plain_memory, tuple(given.experiment))
    if given.inside is None:
        return check(options, given.only or list(SECTIONS), given.output)
    if given.inside == "head":
        try:
            say(facts=describe(options))
        except Exception as error:
            say(facts={options.device: reason(error)})
    else:
        run_steps(options, given.inside, given.after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
