"""The reference suite, the sanitizers, repeatability, and too little memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import cases
import lrpfast
from gpu_lines import BENCH, MARK, Options, Report, Skip, Step, reason
from gpu_networks import Chain, W, chains
from lrpfast.kernels.cuda import run
from oracle_layers import Layer, chain
from tolerances import Expected

ROOT = BENCH.parent
RULES = (("epsilon", {"epsilon": 0.1}), ("alpha_beta", {}))
NAMES = {"epsilon": "ε", "alpha_beta": "α2β1"}

# The reference suite.

#: Tests of printed digits: whether a GPU's sums give the very same is of interest, but no promise (DESIGN.md, 7).
DIGITS = "digit_for_digit or prediction_under_tf32"
#: What of the suite the stand-in runs.
FEW = "manual_cells or float32"
#: Seconds after which a process of a line is ended.
PATIENCE = 240


def _environment(options: Options) -> dict[str, str]:
    """For tests that leave the device open: "auto" is the one GPU that they see."""
    environment = dict(os.environ)
    if options.standin:
        environment["LRPFAST_TEST_DEVICE"] = "standin"
    else:
        seen = environment.get("CUDA_VISIBLE_DEVICES")
        environment["CUDA_VISIBLE_DEVICES"] = seen.split(",")[options.index] if seen else str(options.index)
    return environment


def _tests(options: Options, chosen: str) -> tuple[dict[str, int], list[str], str]:
    """How many tests passed, failed …, which failed, and the last line of pytest."""
    command = [sys.executable, "-m", "pytest", "tests/test_reference.py", "-q", "-rf", "-p", "no:cacheprovider"]
    command += ["--tb=no", "-k", chosen, "-o", "addopts=--import-mode=importlib"]
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(options), capture_output=True, text=True, timeout=PATIENCE
    )
    if "No module named pytest" in done.stderr:
        raise Skip("pytest is not installed")
    text = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", text[-1])}
    failed = [re.sub(r"^FAILED \S*::| - .*$", "", line) for line in text if line.startswith("FAILED ")]
    return counts, failed, text[-1]


def reference(options: Options) -> Iterator[Step]:
    """tests/test_reference.py on the GPU: what the notebook, iNNvestigate, zennit and captum printed."""

    def suite(report: Report) -> None:
        what = "recorded explanations"
        counts, failed, last = _tests(options, FEW if options.standin else f"not ({DIGITS})")
        wrong = not counts.get("passed") or any(counts.get(key) for key in ("failed", "error", "errors"))
        shown = f"{last}: {'; '.join(failed[:5])}" if wrong else f"{counts['passed']} tests passed"
        report.check(what, not wrong, shown, counts=counts, failures=failed)

    def digits(report: Report) -> None:
        counts, failed, last = _tests(options, DIGITS)
        if not counts:
            report.fail("the notebook's digits", last)
            return
        passed, others = counts.get("passed", 0), sum(counts.get(key, 0) for key in ("failed", "error", "errors"))
        result = f"{passed} of {passed + others} cells to the last digit, which only the CPU promises"
        report.ok("the notebook's digits", result, counts=counts, failures=failed)

    yield "recorded explanations", suite
    yield "the notebook's digits", digits


# The sanitizers.


def _sanitizer() -> str:
    """compute-sanitizer, of the path or of a CUDA toolkit."""
    found = shutil.which("compute-sanitizer")
    homes = [os.environ.get(key) for key in ("CUDA_HOME", "CUDA_PATH")] + ["/usr/local/cuda"]
    for home in filter(None, homes):
        path = Path(str(home)) / "bin" / "compute-sanitizer"
        found = found or (str(path) if path.exists() else None)
    if found is None:
        raise Skip("compute-sanitizer is not installed: neither in PATH nor in CUDA_HOME/bin")
    return found


def sanitizer(options: Options) -> Iterator[Step]:
    """memcheck and racecheck over the smallest selection of kernels, without a memory pool that hides overruns."""
    inner = ["--inside", "kernels", "--quick", "--device", options.device, "--plain-memory"]

    def step(report: Report, tool: str) -> None:
        if options.standin:
            raise Skip("the stand-in finds such errors by itself: every array ends at a page that cannot be read")
        command = [_sanitizer(), "--tool", tool, "--error-exitcode", "9"]
        command += ["--report-api-errors", "no"] if tool == "memcheck" else []  # CuPy asks what may fail, and looks
        command += [sys.executable, str(BENCH / "gpu_check.py")]
        try:
            done = subprocess.run([*command, *inner], capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            said = (error.stdout or b"").decode(errors="replace")
            result = f"ended after {PATIENCE} s with {said.count(MARK)} records, so not checked to the end"
            report.check(tool, "=========     at " not in said, result)
            return
        said = done.stdout + done.stderr
        summary = re.findall(r"=+ ((?:ERROR|RACECHECK) SUMMARY.*)", said)
        first = [line.strip("= ") for line in said.splitlines() if line.startswith("=========")][1:4]
        wrong = '"status": "FAIL"' in said  # of a kernel's result
        right = done.returncode == 0 and bool(summary) and not wrong
        result = summary[-1] if summary else f"exit status {done.returncode}, no summary"
        if not right:
            result += f"; {'; '.join(first)}" + ("; results are wrong" if wrong else "")
        report.check(tool, right, result)

    for tool in ("memcheck", "racecheck"):
        yield tool, lambda report, tool=tool: step(report, tool)


# The same numbers again.


def on_host(array: Any) -> np.ndarray:
    """A NumPy array of CuPy's, PyTorch's or NumPy's."""
    return array.get() if hasattr(array, "get") else np.asarray(array.cpu() if hasattr(array, "cpu") else array)


def one_sample_needs(analyzer: Callable[[int], lrpfast.Analyzer], x: Any) -> int:
    """Bytes for a sample, as the error for too little memory says them."""
    try:
        analyzer(1).analyze(x)
    except lrpfast.InputError as error:
        return int(re.search(r"needs ([\d,]+)", str(error))[1].replace(",", ""))  # type: ignore[index]
    raise AssertionError("one byte of memory is enough?")


def _off(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, of the sample's largest value."""
    a, b = (v.reshape(len(v), -1).astype(np.float64) for v in (a, b))
    return float((np.abs(a - b).max(1) / np.maximum(np.abs(b).max(1), 1e-300)).max())


def repeated(options: Options, chain: Chain, rule: Any, expected: Expected, precision: str, report: Report) -> None:
    """A network, a rule and a precision: again, in other chunks, from other places, on the CPU."""
    import cupy

    name = f"{chain.name}, {NAMES[rule[0]]}, {precision}"
    x = chain.x.astype(np.float64 if precision == "float64" else np.float32)

    def analyzer(memory: int | None = None, device: str = options.device) -> lrpfast.Analyzer:
        return chain.analyzer(rule, precision, device, memory=memory)

    def right(got: Any, what: str) -> np.ndarray:
        got = on_host(got).reshape(len(x), -1)
        expected.check(got, precision, what)
        return got

    ours = analyzer()
    there = cupy.asarray(x)
    first = right(ours.analyze(there), "first")
    same = [right(ours.analyze(there), f"run {i}").tobytes() == first.tobytes() for i in (2, 3, 4)]
    same.append(right(analyzer().analyze(there), "another analyzer").tobytes() == first.tobytes())
    report.check(f"{name}: again", all(same), "the same bits" if all(same) else f"runs 2 to 4 and anew: {same}")

    least = one_sample_needs(analyzer, there)
    worst = [0.0]
    for samples in (1, 3, 7, len(x) // 2):
        other = right(analyzer(least * samples).analyze(there), f"memory for about {samples} samples")
        worst.append(_off(other, first))
    report.ok(f"{name}: in other chunks", f"within the tolerance, at most {max(worst):.1e} apart")

    results = {"host": right(ours.analyze(x), "from the host")}
    results["Fortran order"] = right(ours.analyze(np.asfortranarray(x)), "Fortran order")
    missing = ""
    try:
        results["torch"] = right(ours.analyze(torch_tensor(x, options)), "from PyTorch")
    except Skip as why:
        missing = f"; torch: {why}"
    alike = {key: bool(np.array_equal(got, first)) for key, got in results.items()}
    told = ", ".join(f"{key} {'the same bits' if v else 'other bits'}" for key, v in alike.items())
    report.check(f"{name}: host, CuPy, torch", all(alike.values()), told + missing)

    cpu = right(analyzer(device="cpu").analyze(x), "on the CPU")
    report.ok(f"{name}: CPU and GPU", f"both within the tolerance, {_off(first, cpu):.1e} apart")


def torch_tensor(x: np.ndarray, options: Options) -> Any:
    """x as PyTorch's, on the same GPU."""
    if options.standin:
        raise Skip("not with the stand-in")
    try:
        import torch
    except ImportError:
        raise Skip("not installed") from None
    except Exception as error:  # libraries of another CUDA, say
        raise Skip(reason(error)) from None
    if not torch.cuda.is_available():
        raise Skip("installed without CUDA")
    return torch.from_numpy(np.ascontiguousarray(x)).to(f"cuda:{options.index}")


def repeat(options: Options) -> Iterator[Step]:
    """Every network and rule, in every precision."""
    for one in chains(options):
        for rule in RULES:
            expected = one.expected(rule)
            for precision in ("float32", "tf32") if options.small else ("float32", "tf32", "float64"):

                def step(
                    report: Report, one: Chain = one, rule: Any = rule, expected: Expected = expected,
                    precision: str = precision,
                ) -> None:  # fmt: skip
                    repeated(options, one, rule, expected, precision, report)

                yield f"{one.name}, {NAMES[rule[0]]}, {precision}", step


# Too little memory.


class Taken:
    """Nearly all free memory of the device, until it is given back."""

    def __init__(self, options: Options, leave: int) -> None:
        import cupy

        self._pool, self._held, self._cupy = cupy.get_default_memory_pool(), [], cupy
        self._pool.free_all_blocks()
        self._standin = options.standin
        if self._standin:
            self._before = cupy.standin.CONFIG["memory"]
            cupy.standin.CONFIG["memory"] = self._pool.used_bytes() + leave
            return
        piece = cupy.cuda.runtime.memGetInfo()[0] - leave
        while piece >= 1 << 20:
            free = cupy.cuda.runtime.memGetInfo()[0]
            if free - piece < leave:
                piece //= 2
                continue
            try:
                self._held.append(cupy.cuda.Memory(piece))  # past the pool, which rounds and keeps
            except (cupy.cuda.memory.OutOfMemoryError, cupy.cuda.runtime.CUDARuntimeError):
                piece //= 2

    def __enter__(self) -> int:
        return int(self._cupy.cuda.runtime.memGetInfo()[0])

    def __exit__(self, *_: object) -> None:
        self._held.clear()
        if self._standin:
            self._cupy.standin.CONFIG["memory"] = self._before
        self._pool.free_all_blocks()


def shrunk(options: Options, report: Report, what: str, width: int, memory: int | None, must: bool) -> None:
    """A batch of which a quarter fits in the memory that is left, a second time; ``must``: it runs out on the way."""
    import cupy

    count = 1 << 11 if options.standin else 1 << 18
    net = chain((width,), W.dense(width, width, activation="relu"), W.dense(width, 5))
    wide = Chain("wide", net, (width,), count)
    expected, analyzer = wide.expected(RULES[0]), wide.analyzer(RULES[0], "float32", options.device, memory=memory)
    x, out = cupy.asarray(wide.x), cupy.empty((count, width), np.float32)
    analyzer.analyze(x, out=out)  # what libraries and modules take once is taken
    out[...] = 0
    shrink, times = run._Batch.shrink, []

    def counted(batch: Any) -> None:
        times.append(batch.capacity)
        shrink(batch)

    # a workspace holds the layers' outputs and relevances, which is more than inputs and a half of them
    leave = max(4 * width * count * 3 // 8, (1 if options.standin else 4 << 20))
    with mock.patch.object(run._Batch, "shrink", counted), Taken(options, leave) as free:
        analyzer.analyze(x, out=out)
    expected.check(out.get(), "float32", what)
    result = f"right, with {free:,} bytes free; the chunk was halved {len(times)} times"
    report.check(what, bool(times) or not must, result if times or not must else f"{result}: never too large?")


def impossible(options: Options, report: Report, what: str) -> None:
    """A sample that needs more memory than there is, and the same with room again."""
    import cupy

    size = 24 if options.standin else 768
    shape = (size, size, 8)
    net = chain(shape, W.conv((1, 1), 8, 8, activation="relu"), Layer("Flatten"))
    analyzer = lrpfast.Analyzer(cases.graph(net), cases.composite({}, RULES[0]), device=options.device)
    x = cupy.asarray(cases.values(shape, 1))
    out = cupy.empty(x.shape, np.float32)
    with Taken(options, 1 << (11 if options.standin else 22)) as free:
        try:
            analyzer.analyze(x, out=out)
            said = f"there was room for it in {free:,} bytes?"
        except MemoryError as error:
            said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    report.check(what, bool(re.search(r"needs [\d,]+ bytes", said)), said)
    after = analyzer.analyze(x, out=out).get()
    right = bool(np.isfinite(after).all() and after.any())
    report.check(f"{what}: afterwards it does", right, "right" if right else "zero or not finite")


def memory(options: Options) -> Iterator[Step]:
    """Batches for which there is no room at first, or none at all."""
    large = 1 << 40
    for what, width, budget, must in (
        ("nearly all memory taken: smaller chunks", 64, None, False),
        ("out of memory within a run: recovered", 64, large, True),
        ("the same for a batch that would be replayed", 16, None, False),  # so narrow that cuBLAS never takes it
    ):
        yield what, lambda r, w=what, n=width, b=budget, m=must: shrunk(options, r, w, n, b, m)
    what = "one sample that cannot fit"
    yield what, lambda report: impossible(options, report, what)
