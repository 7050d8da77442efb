"""What the GPU can do at most, and how near lrpfast comes, beside zennit, captum and a plain forward pass.

Times are by CUDA events, with inputs and results on the GPU; tools take turns, and medians are compared. A time is
told only after the result was checked: against lrpfast on the CPU, and against the peers.
"""

from __future__ import annotations

import functools
import gc
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import gpu_peers
import lrpfast_networks
import networks
from cases import COMPARED, TOLERANCE, off
from gpu_lines import Options, Report, Step, reason
from lrpfast.kernels import memory_plan
from lrpfast.kernels.cuda import contractions, cublas, cudnn, fuse
from networks import Network
from timing import interleaved
from tool import Missing, Tool

#: Rounds of readings, and seconds after which a slow tool sits out some.
ROUNDS, SECONDS = 5, 2.0
#: Readings of a limit, after so many seconds of work: an idle GPU's clock is low.
REPEATS, WARM = 9, 0.3
#: Runs with the inputs' last bits changed, and how far TF32 may be off as a multiple of the largest change seen: where
#: an operand lies in the middle of two TF32 numbers, its last bit moves it by 2^-11. On VGG16 that makes one percent.
PROBES, SAFETY = 2, 3.0

#: Goals: zennit's and captum's time over ours, by precision, on VGG16; and a part of the measured limit.
RATIOS = {"float32": 3.0, "tf32": 6.0}
PART = 0.60

GIB = 1 << 30
PRECISIONS = ("float32", "tf32")


# Clocks.


@dataclass(frozen=True, eq=False)
class Events:
    """A clock for `timing.interleaved`: seconds of a call on the current stream, by CUDA events."""

    run: Callable[[], Any]

    def __call__(self, number: int = 1) -> float:
        import cupy

        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        begin.record()
        for _ in range(number):
            self.run()
        end.record()
        end.synchronize()
        return float(cupy.cuda.get_elapsed_time(begin, end)) / 1e3 / number


def median_of(run: Callable[[], Any], options: Options) -> float:
    """Seconds of a call, the GPU's clock being up."""
    clock = Events(run)
    warm = clock()
    while warm < WARM and not options.standin:
        warm += clock()
    return statistics.median(clock() for _ in range(1 if options.standin else REPEATS))


# The limits.


@functools.cache
def copies(options: Options) -> dict[str, float]:
    """Bytes a second: within the device (read and written), to it and from it, by pinned memory."""
    import cupy

    size = 1 << 18 if options.small else 1 << 28  # floats
    a, b = cupy.zeros(size, np.float32), cupy.empty(size, np.float32)

    def within() -> None:
        b[...] = a

    found = {"within the device": 8 * size / median_of(within, options)}
    size //= 4
    pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(4 * size), np.float32, size)
    pinned[:] = 1
    part = a[:size]
    stream = cupy.cuda.get_current_stream()
    found["to the device"] = 4 * size / median_of(lambda: part.set(pinned, stream=stream), options)
    found["from the device"] = 4 * size / median_of(lambda: part.get(out=pinned, blocking=False), options)
    return found


@functools.cache
def product_rate(options: Options, precision: str) -> float:
    """Floating-point operations a second of cuBLAS, float32 or TF32."""
    import cupy

    n = 64 if options.small else 4096
    rng = np.random.default_rng(0)  # products of equal numbers take less power, and so are faster
    a, b = (cupy.asarray(rng.standard_normal((n, n), dtype=np.float32)) for _ in range(2))
    out = cupy.empty((n, n), np.float32)
    device = cupy.cuda.runtime.getDevice()

    def run() -> None:
        with cublas.HANDLES.lend(device) as handle:
            cublas.gemm(
                handle, (n, n, n), a.data.ptr, (b.data.ptr, n, 1), out.data.ptr, np.dtype(np.float32),
                tf32=precision == "tf32",
            )  # fmt: skip

    return 2 * n**3 / median_of(run, options)


def told(options: Options, text: str) -> str:
    return f"stand-in: no claim ({text})" if options.standin else text


def limits(options: Options) -> Iterator[Step]:
    """Copies and products."""

    def copying(report: Report) -> None:
        for what, rate in copies(options).items():
            report.ok(f"copies {what}", told(options, f"{rate / 1e9:,.1f} GB/s"), bytes_per_second=rate)

    def multiplying(report: Report) -> None:
        problem = cublas.HANDLES.problem()
        if problem is not None:
            report.skip("cuBLAS", problem)
            return
        for precision in ("float32", "tf32"):
            rate = product_rate(options, precision)
            result = told(options, f"{rate / 1e12:,.2f} TFLOP/s")
            report.ok(f"cuBLAS {precision}, 4096 cubed", result, flops_per_second=rate)

    yield "copies", copying
    yield "cuBLAS", multiplying


# The workloads.


@dataclass(frozen=True)
class Workload:
    """A network under a rule, in some batch sizes and precisions.

    ``single``: one layer as within a network, with inputs that are positive and its own output as relevance.
    ``streams``: the memory's speed is the limit. ``promised``: the goals over zennit and captum hold.
    ``convolution``: what computes convolutions, as LRPFAST_GPU_CONVOLUTION says it.
    ``fused``: light operations are parts of the contractions before them.
    """

    title: str
    network: Callable[[bool], Network]
    rule: str
    batches: tuple[int, ...]
    precisions: tuple[str, ...] = PRECISIONS
    peers: tuple[str, ...] = gpu_peers.NAMES
    single: bool = False
    streams: bool = False
    promised: bool = False
    convolution: str = "own"
    fused: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """For lrpfast's analyzer."""
        return {"target": "all", "input_range": (0, 1)} if self.single else {}


def one_convolution(small: bool, size: int, channels: int, out: int) -> Network:
    """One of VGG16's layers."""
    if small:
        size, channels, out = 6, 4, 6
    builder = networks._Builder((size, size, channels), low=0.0)
    builder.conv(-1, out, pad=1)
    return builder.network()


def one_dense(small: bool) -> Network:
    builder = networks._Builder((24 if small else 4096,))
    builder.dense(-1, 20 if small else 4096, relu=False)
    return builder.network()


NAMES = {"epsilon": "ε", "z_plus": "z⁺", "alpha2_beta1": "α2β1", "epsilon_plus": "EpsilonPlus"}


def workloads() -> list[Workload]:
    """All, the quick ones first."""
    some = [Workload("dense 4096x4096", one_dense, rule, (4096,)) for rule in ("epsilon", "z_plus", "alpha2_beta1")]
    for name, size, channels, out in (("conv1_2", 224, 64, 64), ("conv3_2", 56, 256, 256), ("conv5_1", 14, 512, 512)):
        network = functools.partial(one_convolution, size=size, channels=channels, out=out)
        # the peers start from one output only: a whole layer's relevance is not what they can be asked for
        some.append(Workload(f"VGG16 {name}", network, "z_plus", (16,), peers=("forward",), single=True))
    network = functools.partial(one_convolution, size=56, channels=256, out=256)
    for title, by in (("VGG16 conv3_2", "own"), ("VGG16 conv3_2 by im2col", "library")):
        some.append(Workload(title, network, "epsilon", (16,), peers=("forward",), single=True, convolution=by))
    mlp, wide = (functools.partial(networks.make, name) for name in ("mlp_large", "wide"))
    some.append(Workload("MLP 4096-1024-1024-10", mlp, "epsilon", (65_536,)))
    some.append(Workload("MLP 31,811-8-8-2", wide, "epsilon", (8192,), ("float32",), streams=True))
    for title, key, promised in (("ResNet18", "resnet18", False), ("VGG16", "vgg16", True)):
        for rule in ("epsilon_plus", "alpha2_beta1"):
            network = functools.partial(networks.make, key)
            batches = (2, 16, 64) if key == "resnet18" else (16, 64)  # two are replayed as a graph
            some.append(Workload(title, network, rule, batches, promised=promised))
    # beside the lines above, which have the peers' times
    residual = [w for w in some if w.title == "ResNet18"]
    apart = [replace(w, title=f"{w.title}, light passes apart", fused=False, peers=()) for w in residual]
    convolutional = [w for w in some if w.title.startswith(("VGG16", "ResNet")) and w.convolution == "own"]
    by_cudnn = [replace(w, title=f"{w.title} by cuDNN", convolution="cudnn", peers=()) for w in convolutional]
    return some + apart + by_cudnn


@dataclass(eq=False)
class Opened:
    """A workload's tools by precision, each with what it holds on the device."""

    tools: dict[str, dict[str, Tool]] = field(default_factory=dict)
    bases: dict[str, int] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"


def ours(
    work: Workload, network: Network, x: np.ndarray, precision: str, device: str, convention: str = "zennit"
) -> Tool:
    """lrpfast with its inputs on the GPU, or on the CPU."""
    analyzer = lrpfast_networks.analyzer(
        network, work.rule, convention, precision=precision, device=device, **work.options
    )
    if device == "cpu":
        return Tool("cpu", len(x), lambda part: x[part], analyzer.analyze)
    import cupy

    there = cupy.asarray(x)
    return Tool("lrpfast", len(x), lambda part: there[part], analyzer.analyze, lambda r: r.get())


def flops_of(tool: Tool) -> int:
    """Floating-point operations for a sample, of the program that runs."""
    analyzer = tool.explain.__self__  # type: ignore[attr-defined]
    return memory_plan.flops(analyzer._core._programs.main._program)


def pool() -> Any:
    import cupy

    return cupy.get_default_memory_pool()


def clear() -> None:
    """Let what is not used go: tools hold reference cycles."""
    gc.collect()
    pool().free_all_blocks()


def our_peak(run: Callable[[], Any], base: int) -> int:
    """Bytes that the pool takes from the device for a batch, weights and inputs among them."""
    pool().free_all_blocks()
    run()
    return int(pool().total_bytes()) - base


def open_peers(work: Workload, network: Network, x: np.ndarray, options: Options) -> Opened:
    it = Opened()
    try:
        it.device = gpu_peers.device_of(options.index, options.standin)
    except Missing as why:
        it.missing = {name: str(why) for name in work.peers}
        return it
    for name in work.peers:
        it.bases[name] = gpu_peers.allocated(it.device)
        try:
            made = gpu_peers.make(name, network, work.rule, x, it.device)
        except Missing as why:
            it.missing[name] = str(why)
            continue
        it.tools[name] = {p: gpu_peers.under_tf32(made, p == "tf32") for p in PRECISIONS}
    return it


def compare_peers(work: Workload, network: Network, x: np.ndarray, it: Opened, options: Options) -> dict[str, float]:
    """How far the peers are from lrpfast under their conventions, in float32; who is too far is not timed."""
    apart = {}
    few = x[:COMPARED]
    for name in [name for name in it.tools if name != "forward"]:
        relevance = ours(work, network, few, "float32", options.device, name).of_first(COMPARED)
        apart[name] = off(it.tools[name]["float32"].of_first(COMPARED), relevance)
        if apart[name] > TOLERANCE:
            it.missing[name] = f"not timed: its relevance is {apart[name]:.1e} from ours, allowed are {TOLERANCE:.0e}"
            del it.tools[name]
    return apart


def checked(work: Workload, network: Network, x: np.ndarray, mine: Tool, precision: str) -> float:
    """How far our relevance is from the CPU's; an error where that is too far."""
    few, relevance, allowed = x[:COMPARED], mine.of_first(COMPARED), TOLERANCE
    cpu = ours(work, network, few, precision, "cpu")
    exact = cpu.explain(few)
    if precision == "tf32":
        rng = np.random.default_rng(0)
        for _ in range(PROBES):
            probe = (few * (1 + 2.0**-23 * rng.choice([-1, 1], few.shape))).astype(np.float32)
            probe = probe.clip(network.low, network.high)
            allowed = max(allowed, SAFETY * off(cpu.explain(probe), exact))
    apart = off(relevance, exact)
    assert apart <= allowed, f"relevance is {apart:.1e} from the CPU's, allowed are {allowed:.1e}"
    return apart


def runs(mine: Tool, batch: int, precision: str, it: Opened) -> tuple[dict[str, Any], dict[str, str]]:
    """Calls of all tools that can do it, lrpfast's first, and why others cannot."""
    found, cannot = {"lrpfast": mine.run(batch, batch)}, dict(it.missing)
    found["lrpfast"]()
    for name, tools in it.tools.items():
        try:
            call = tools[precision].run(batch, batch)
            call()
            found[name] = call
        except Exception as error:  # out of memory, say
            cannot[name] = reason(error)
            gpu_peers.forget(it.device)
    return found, cannot


def timed(
    work: Workload, mine: Tool, base: int, batch: int, precision: str, it: Opened, options: Options
) -> tuple[str, dict[str, Any]]:
    """The line's result and its figures."""
    calls, cannot = runs(mine, batch, precision, it)
    clocks = {name: Events(call) for name, call in calls.items()}
    if options.standin:
        readings = {name: [clock()] for name, clock in clocks.items()}
    else:
        readings = interleaved(clocks, ROUNDS, SECONDS)
    seconds = {name: statistics.median(values) for name, values in readings.items()}
    flops = flops_of(mine) * batch
    if work.streams:  # inputs are read forward and backward, relevance is written
        moved = 3 * batch * mine.take(slice(0, 1)).nbytes
        rate, limit, unit, per = moved / seconds["lrpfast"], copies(options)["within the device"], 1e9, "GB/s"
    else:
        rate, limit, unit, per = flops / seconds["lrpfast"], product_rate(options, precision), 1e12, "TFLOP/s"
    taken = {"lrpfast": our_peak(calls["lrpfast"], base)}
    for name in [name for name in calls if name != "lrpfast"]:
        found = gpu_peers.peak(calls[name], it.bases[name], it.device)
        if found is not None:
            taken[name] = found
    ratios = {name: value / seconds["lrpfast"] for name, value in seconds.items() if name != "lrpfast"}
    goals = [] if options.standin else goals_of(work, precision, rate / limit, ratios, taken)
    shown = [f"{seconds['lrpfast'] * 1e3:,.2f} ms", f"{rate / unit:,.2f} {per}, {rate / limit:.0%} of the limit"]
    shown.append(f"{taken['lrpfast'] / GIB:.2f} GiB")
    for name in work.peers:
        memory = f", {taken[name] / GIB:.2f} GiB" if name in taken else ""
        shown.append(f"{name} {ratios[name]:.2f}x{memory}" if name in ratios else f"{name}: {cannot[name]}")
    shown += [f"goal {g['goal']}: {'reached' if g['reached'] else 'MISSED'}" for g in goals]
    figures = {
        "median": seconds, "readings": readings, "flops": flops, "rate": rate, "limit": limit, "peak_bytes": taken,
        "goals": goals,
    }  # fmt: skip
    return told(options, "; ".join(shown)), figures


def goals_of(
    work: Workload, precision: str, part: float, ratios: dict[str, float], taken: dict[str, int]
) -> list[dict[str, Any]]:
    """The goals that a line can tell of, and whether they are reached."""
    goals = [{"goal": f"{PART:.0%} of the limit", "reached": part >= PART}]
    for name in ("zennit", "captum"):
        if work.promised and name in ratios:
            least = RATIOS[precision]
            goals.append({"goal": f"{least:g}x {name}", "reached": ratios[name] >= least})
        if name in taken:
            goals.append({"goal": f"memory below {name}'s", "reached": taken["lrpfast"] < taken[name]})
    return goals


def run_workload(work: Workload, options: Options, report: Report) -> None:
    """All lines of a workload; our analyzers are open one at a time, so that the memory is that of one."""
    name = f"{work.title}, {NAMES[work.rule]}"
    if work.convolution == "cudnn" and cudnn.HANDLES.problem() is not None:
        report.skip(name, f"cuDNN cannot be used: {cudnn.HANDLES.problem()}")
        return
    network = work.network(options.small)
    batches = (3,) if options.small else work.batches
    x = network.samples(max(batches))
    it = open_peers(work, network, x, options)
    peers_apart = compare_peers(work, network, x, it, options)
    contractions.CONVOLUTION, fuse.FUSE = work.convolution, "1" if work.fused else "0"
    for precision in work.precisions:
        clear()
        base = int(pool().used_bytes())
        try:
            mine = ours(work, network, x, precision, options.device)
            apart = {"cpu": checked(work, network, x, mine, precision), **peers_apart}
            for batch in batches:
                result, figures = timed(work, mine, base, batch, precision, it, options)
                report.ok(f"{name}, batch {batch:,}, {precision}", result, apart=apart, **figures)
        except Exception as error:
            report.fail(f"{name}, {precision}", reason(error))
        mine = None
    it.tools.clear()
    clear()
    gpu_peers.forget(it.device)


def speed(options: Options) -> Iterator[Step]:
    """A step for each workload."""
    for turn, work in enumerate(workloads()):
        if options.standin and not work.single and (work.convolution == "cudnn" or not work.fused):
            continue  # of one layer it says as much there
        if options.standin and "MLP" not in work.title:  # tensor cores take long there
            work = replace(work, precisions=(PRECISIONS[turn % 2],))
        yield f"{work.title}, {NAMES[work.rule]}", lambda report, work=work: run_workload(work, options, report)
