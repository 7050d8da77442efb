"""docs/performance.md from the readings of `report`: tables, pictures, and the notes that are written by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pictures
from cases import BESIDE, CASES, PEERS, Case
from limits import SPLIT_PRODUCTS, named
from timing import STEADY

NOTES = Path(__file__).with_name("performance_notes.md")
NAMES = {
    "lrpfast": "lrpfast", "zennit": "zennit", "captum": "captum", "innvestigate": "iNNvestigate",
    "forward": "PyTorch forward", "numpy": "NumPy", "gradient": "input × gradient in PyTorch",
    "compiled gradient": "the same, torch.compile",
}  # fmt: skip
MIB = 1 << 20
SET = "lrpfast's instruction set"

Found = dict[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; says so where there is nothing to show."""
    rows = list(rows)
    if not rows:
        return "*Not measured.*"
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def milliseconds(seconds: float) -> str:
    return number(1000 * seconds)


def ratio(value: float) -> str:
    return f"{number(value)}×" if value < 100 else f"{value:,.0f}×"


def mark(reached: bool) -> str:
    return "✓" if reached else "✗"


class Entry:
    """The readings of a case."""

    def __init__(self, entry: Found) -> None:
        self.entry = entry
        self.readings: dict[tuple[str, str], Found] = {(r["tool"], r["way"]): r for r in entry.get("readings", [])}

    def seconds(self, tool: str, way: str = "") -> float | None:
        """The median of a call."""
        reading = self.readings.get((tool, way))
        return median(reading["seconds"]) if reading else None

    def per_sample(self, tool: str, way: str = "") -> float | None:
        seconds = self.seconds(tool, way)
        return None if seconds is None else seconds / self.readings[tool, way]["samples"]

    def best(self, tool: str) -> float | None:
        """Seconds for a sample in the best of a tool's ways, its own conventions, new arrays."""
        ways = [w for t, w in self.readings if t == tool and (not w or w.endswith("a call")) and w != "1 a call"]
        return min((value for way in ways if (value := self.per_sample(tool, way)) is not None), default=None)

    def ours(self, peer: str) -> tuple[float | None, float | None]:
        """lrpfast's seconds under the peer's conventions, and under its own (zennit's)."""
        own = self.seconds("lrpfast")
        as_peer = self.seconds("lrpfast", f"as {peer}")
        return (own if as_peer is None else as_peer), own


def limit_cell(case: Case, entry: Entry, found: Found) -> str:
    """How near a case is to the machine's limit, and whether that was the target; with tiles, to theirs too."""
    target, own = case.target, entry.seconds("lrpfast")
    if own is None:
        return "–"
    if target.of == "seconds":
        assert target.limit is not None
        return f"{1e6 * own:.1f} µs (< {1e6 * target.limit:.0f} µs) {mark(own < target.limit)}"
    if target.of == "bandwidth":
        own = entry.seconds("lrpfast", "into an array") or own
        part = float(entry.entry["bytes"] / found["limits"][named("bandwidth", found["threads"])]) / own
    else:
        part = float(entry.entry["flops"] / found["limits"][named("float32 peak", found["threads"])]) / own
    text = f"{part:.0%}"
    products = found["limits"].get(named(SPLIT_PRODUCTS, found["threads"]))
    if products and target.of == "peak":
        text += f", {entry.entry['flops'] / products / own:.0%} of the tiles'"
    if target.limit is None:
        return text
    return f"{text} (≥ {target.limit:.0%}) {mark(part >= target.limit)}"


def tiles(found: Found) -> bool:
    """Whether the machine has tile registers and lrpfast used them."""
    return str(found["machine"][SET]).endswith("amx")


def title(found: Found) -> str:
    """A machine's name: its processor and the instruction set that lrpfast used."""
    machine = found["machine"]
    return f"{machine['processor']}, {machine[SET]}"


def peer_ratios(case: Case, entry: Entry, peer: str) -> list[tuple[str, float]]:
    """A peer's median over lrpfast's: under the same conventions, and others that count as well."""
    theirs = entry.seconds(peer)
    same, own = entry.ours(peer)
    if theirs is None or same is None or own is None:
        return []
    found = [("", theirs / same)]
    if case.sizes:  # the tool's best batch against ours
        best, mine = entry.best(peer), entry.best("lrpfast")
        if best and mine:
            found.append(("best batches ", best / mine))
    elif same != own:
        found.append(("own conventions ", theirs / own))
    return found


def beside_ratio(entry: Entry, tool: str) -> list[tuple[str, float]]:
    """The forward pass, or input × gradient by whichever way of PyTorch's is faster, over lrpfast's time."""
    own = entry.seconds("lrpfast")
    names = ("gradient", "compiled gradient") if tool == "gradient" else (tool,)
    theirs = [seconds for seconds in map(entry.seconds, names) if seconds is not None]
    return [("", min(theirs) / own)] if theirs and own else []


def ratio_cell(case: Case, entry: Entry, tool: str, with_tiles: bool) -> str:
    """How many times as long a tool takes, and whether that reaches the target; the lowest ratio decides."""
    ratios = beside_ratio(entry, tool) if tool in BESIDE else peer_ratios(case, entry, tool)
    if not ratios:
        return "–"
    text = ", ".join(name + ratio(value) for name, value in ratios)
    least = case.target.least(tool, with_tiles)
    # for iNNvestigate, a case of several batch sizes speaks of the best
    counted = ratios[-1:] if case.sizes and tool == "innvestigate" else ratios
    if least is not None:
        text += f" (≥ {least:g}) {mark(min(value for _, value in counted) >= least)}"
    single = case.target.single.get(tool)
    alone, mine = entry.per_sample(tool, "1 a call"), entry.best("lrpfast")
    if single and alone and mine:
        text += f"; one at a time {ratio(alone / mine)} (≥ {single:g}) {mark(alone / mine >= single)}"
    return text


def targets(machines: Sequence[Found], tool: str) -> str:
    """How many times as long a tool takes, a column for each machine."""
    rows = []
    for case in CASES:
        entries = [Entry(found["models"].get(case.key, {})) for found in machines]
        cells = [ratio_cell(case, entry, tool, tiles(found)) for entry, found in zip(entries, machines, strict=True)]
        if set(cells) != {"–"}:
            rows.append([case.title, *cells])
    return table(["case", *map(title, machines)], rows)


def limit_cells(machines: Sequence[Found]) -> str:
    """How near each case is to its machine's limit."""
    rows = []
    for case in CASES:
        cells = []
        for found in machines:
            entry = Entry(found["models"].get(case.key, {}))
            cells.append(entry.entry.get("error") or limit_cell(case, entry, found))
        if set(cells) != {"–"}:
            rows.append([case.title, *cells])
    return table(["case", *map(title, machines)], rows)


def _quartiles(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return f"{milliseconds(low)} to {milliseconds(high)}"


def medians(found: Found) -> str:
    """Milliseconds of a call."""
    tools = (*PEERS, *BESIDE)
    header = ["case", "lrpfast", "its middle half", *(NAMES[tool] for tool in tools), "difference"]
    rows = []
    for case in CASES:
        entry = Entry(found["models"].get(case.key, {}))
        own = entry.readings.get(("lrpfast", ""))
        if own is None:
            continue
        cells = [entry.seconds(tool) for tool in tools]
        apart = max(entry.entry["agreement"].values(), default=None)
        undecided = sorted({sample for found in entry.entry.get("undecided", {}).values() for sample in found})
        mark = f", not of sample {', '.join(map(str, undecided))}" if undecided else ""
        rows.append([
            case.title, milliseconds(median(own["seconds"])), _quartiles(own["seconds"]),
            *("–" if cell is None else milliseconds(cell) for cell in cells),
            "–" if apart is None else f"{apart:.0e}{mark}",
        ])  # fmt: skip
    return table(header, rows)


def ways(found: Found) -> str:
    """Cases that are explained in several ways: microseconds a sample."""
    parts = []
    for case in CASES:
        entry = Entry(found["models"].get(case.key, {}))
        if not case.sizes or not entry.readings:
            continue
        names = dict.fromkeys(way for _, way in entry.readings if not way.startswith("as "))
        tools = [tool for tool in ("lrpfast", *PEERS) if (tool, "") in entry.readings]
        rows = []
        for way in sorted(names, key=lambda w: ("call" in w, int(w.split()[0]) if "call" in w else 0)):
            cells = [entry.per_sample(tool, way) for tool in tools]
            rows.append([way or "all in one call", *("–" if c is None else number(1e6 * c) for c in cells)])
        parts.append(f"{case.title}, microseconds a sample:\n\n" + table(["", *(NAMES[t] for t in tools)], rows))
    return "\n\n".join(parts)


def conventions(found: Found) -> str:
    """lrpfast under other conventions than zennit's, where the time differs."""
    lines = []
    for case in CASES:
        entry = Entry(found["models"].get(case.key, {}))
        own = entry.seconds("lrpfast")
        for peer in PEERS:
            same = entry.seconds("lrpfast", f"as {peer}")
            if own and same:
                lines.append(f"- {case.title}: {milliseconds(same)} ms as {NAMES[peer]} has it, "
                             f"{milliseconds(own)} ms as zennit has it")  # fmt: skip
    head = "Where a peer's conventions ask lrpfast for another amount of work:"
    return "\n".join([head, "", *lines, ""]) if lines else ""


def memory(found: Found) -> str:
    """Peaks beside times."""
    rows = []
    for case in CASES:
        entry = Entry(found["models"].get(case.key, {}))
        for tool, peak in found["memory"].get(case.key, {}).get("tools", {}).items():
            if isinstance(peak, str):
                continue
            seconds = entry.seconds(tool)
            above = peak["peak_anonymous"] - peak["before_anonymous"]
            rows.append([
                case.title, NAMES[tool], "–" if seconds is None else milliseconds(seconds),
                *(f"{value / MIB:,.0f}" for value in (peak["peak"], peak["peak_anonymous"], above)),
            ])  # fmt: skip
    header = ["case", "tool", "median, ms", "peak, MiB", "of it anonymous, MiB", "the call's own, MiB"]
    text = table(header, rows)
    file = found["memory"].get("file")
    if file:
        text += (
            f"\n\n`lrpfast explain` on a file of {file['samples']:,} × {file['features']:,} float32 samples "
            f"({file['bytes'] / 1e9:.1f} GB), to a file: {file['anonymous'] / MIB:.0f} MiB of anonymous memory above "
            f"the {file['imported'] / MIB:.0f} MiB of the imports, {file['resident'] / MIB:.0f} MiB with the files' "
            f"own pages, {file['seconds']:.1f} s, most of it reading and writing."
        )
    return text


def busy(found: Found) -> str:
    """Medians without and with spinning processes."""
    rows = []
    for case in CASES:
        entry = found["busy"].get(case.key)
        for tool in entry["idle"] if entry and "idle" in entry else ():
            idle, loaded = median(entry["idle"][tool]), median(entry["busy"][tool])
            rows.append([case.title, NAMES[tool], milliseconds(idle), milliseconds(loaded), ratio(loaded / idle)])
    return table(["case", "tool", "idle, ms", "busy, ms", "slower by"], rows)


def kernels(found: Found) -> str:
    """lrpfast's rate on single layers, and NumPy's time over ours."""
    entries = [entry for entry in found["kernels"].values() if "readings" in entry]

    def cell(entry: Found | None) -> str:
        if entry is None:
            return "–"
        own = median(entry["readings"]["lrpfast"])
        peak = found["limits"].get(named(f"{entry['dtype']} peak", entry["threads"]))
        text = f"{entry['flops'] / own / 1e9:.0f}"
        if peak and not entry["isa"]:
            text += f" ({entry['flops'] / own / peak:.0%})"
        theirs = entry["readings"].get("numpy")
        return text + (f", {ratio(median(theirs) / own)}" if theirs else "")

    plain = [e for e in entries if (e["dtype"], e["isa"], e["threads"]) == ("float32", "", 1)]
    rules = list(dict.fromkeys(e["rule"] for e in plain))
    by_rule = {(e["layer"], e["rule"]): e for e in plain}
    rows = [
        [layer, *(cell(by_rule.get((layer, rule))) for rule in rules)] for layer in dict.fromkeys(k[0] for k in by_rule)
    ]
    text = "One thread, float32:\n\n" + table(["layer", *rules], rows)
    special = {(e["rule"], e["layer"]) for e in entries if e not in plain}
    rest = [e for e in entries if (e["rule"], e["layer"]) in special]
    sets = [isa for isa in dict.fromkeys(e["isa"] for e in rest) if isa]
    by_set = {(e["rule"], e["layer"], e["dtype"], e["threads"], e["isa"]): e for e in rest}
    rows = [
        [f"{k[0]}, {k[1]}", k[2], str(k[3]), *(cell(by_set.get((*k, isa))) for isa in (*sets, ""))]
        for k in sorted({key[:4] for key in by_set})
    ]
    return text + "\n\n" + table(["case", "dtype", "threads", *sets, "best"], rows)


def origin(found: Found) -> str:
    """Machine, versions, limits, and the session."""
    facts = [f"- {name}: {value}" for name, value in found["machine"].items() if value]
    facts += [f"- {found['note']}"] if "note" in found else []
    facts.append("- " + ", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    unset = found["unset"]
    shown = ", ".join(f"`{key}={value}`" for key, value in sorted(unset.items()))
    if "OPENBLAS_CORETYPE" not in unset:
        facts.append("- `OPENBLAS_CORETYPE` was not set")
    if shown:
        facts.append(f"- taken out of the environment for the run: {shown}")
    limits = [
        [name, f"{value / 1e9:,.0f} {'GFLOP/s' if 'peak' in name else 'GB/s'}"]
        for name, value in found["limits"].items()
    ]
    when = f"Date: {str(found['session']).split()[0]}."
    return "\n".join(facts) + "\n\n" + table(["limit", "measured"], limits) + "\n\n" + slowed(found) + when


def slowed(found: Found) -> str:
    """What was done about moments at which the machine was slow."""
    kept = sum(e.get("kept", 0) for part in ("models", "batches", "kernels") for e in found[part].values())
    return (
        f"The rate of multiply-adds is measured before and after each reading; a reading at less than {STEADY:.0%} of "
        f"the highest rate is repeated. {kept} readings stayed below it.\n\n"
    )


TEXT = """# Performance

`bench/report.py` writes this page from `bench/results/`, a file for each machine;
[bench/README.md](../bench/README.md) says how to repeat it.{warning}

{notes}

## Targets

Two threads, float32. Each column is a machine. A ratio is a tool's median over lrpfast's in the same run: how many
times as long it takes; in parentheses stands the target, which is higher on machines with tile registers
(x86-64-amx). Results are compared first, under each tool's own conventions; where these ask for less work than
zennit's, the ratio to lrpfast's time under zennit's counts too, and the lower one decides the mark.

### zennit

{zennit}

### Input × gradient in PyTorch

The faster of PyTorch's eager and compiled forms: what users of a ReLU network get for ε-LRP without any tool.

{gradient}

### A plain forward pass in PyTorch

{forward}

### captum and iNNvestigate

{captum}

{innvestigate}

### Part of the machine's limit

Floating-point operations of `Analyzer.plan()` over the measured peak of fused multiply-adds, over the median time;
where tile registers multiply, also over their peak for bfloat16 divided by the six products of a float32. For the
wide networks: bytes of input and relevance over the measured bandwidth, into an array that exists where that was
measured.

{limits}

![how many times as long the other tools take](images/performance_cases.png)

![time per sample against batch size](images/performance_batches.png)

{machines}"""

MACHINE = """## {title}

{origin}

### Times

Medians in milliseconds; the tools take turns, so that the machine's drift meets all alike. *Difference* is the largest
between lrpfast and a peer under the same conventions: Σ|difference| over Σ|relevance| of a sample. Samples
of which float32 chooses another winner of a max pooling than float64, in either tool, are named there and not judged.

{medians}

{ways}
{conventions}"""

#: Sections that not every machine's run has: the part of the readings, heading, and text.
SECTIONS = (
    ("memory", memory, "Memory",
     "Peak resident memory of a process while it explains once, weights and libraries included; and by how much its\n"
     "anonymous memory grows during the call, the result included."),
    ("busy", busy, "Busy cores",
     "The same calls with two processes beside them that keep both cores busy: twice as long is what fair shares of\n"
     "the cores come to."),
    ("kernels", kernels, "Kernels",
     "One layer forwards and backwards, inputs of both signs: GFLOP/s, in parentheses the part of the peak, and how\n"
     "many times as long NumPy takes for the same matrix products (convolutions unfolded) with as many threads."),
)  # fmt: skip


def machine_section(found: Found) -> str:
    """Everything that was measured on one machine."""
    text = MACHINE.format(
        title=title(found), origin=origin(found), medians=medians(found), ways=ways(found),
        conventions=conventions(found),
    )  # fmt: skip
    shown = [f"### {heading}\n\n{words}\n\n{show(found)}\n" for part, show, heading, words in SECTIONS if found[part]]
    return "\n".join([text.rstrip() + "\n", *shown])


def write(machines: Sequence[Found], path: Path) -> None:
    """The document, and its pictures in the folder ``images`` beside it, of the machine with the most readings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = path.parent / "images"
    images.mkdir(exist_ok=True)
    widest = max(machines, key=lambda found: _count(found["models"]))
    pictures.cases(widest, images / "performance_cases.png", title(widest))
    most = max(machines, key=lambda found: _count(found["batches"]))
    if most["batches"]:
        pictures.batches(most, images / "performance_batches.png", title(most))
    small = any(found["small"] for found in machines)
    warning = "\n\n**Small sizes, one reading: these figures mean nothing.**" if small else ""
    text = TEXT.format(
        warning=warning,
        notes=NOTES.read_text(encoding="utf-8").strip(),
        **{tool: targets(machines, tool) for tool in ("zennit", "gradient", "forward", "captum", "innvestigate")},
        limits=limit_cells(machines),
        machines="\n".join(map(machine_section, machines)),
    )
    path.write_text(text.rstrip() + "\n", encoding="utf-8")


def _count(part: Found) -> int:
    return sum(len(entry.get("readings", ())) for entry in part.values())
