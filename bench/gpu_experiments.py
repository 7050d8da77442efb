"""What has not been measured on a GPU: each experiment a question, its variants beside what is in use and the peers.

    python bench/gpu_experiments.py                    everything, in some minutes
    python bench/gpu_experiments.py --only tiles       one experiment; may be given several times
    python bench/gpu_experiments.py --quick            tiny sizes
    python bench/gpu_experiments.py --standin          on the CPU, by the tests' stand-in for CuPy: tests this script

Every variant's relevance is compared with the CPU's before its time is told. Times are by CUDA events; variants, zennit
and PyTorch (whose convolutions are cuDNN's) take turns, and the limit is cuBLAS's rate or a copy's in the same run.
Prints a table and writes it to build/gpu_experiments.md and, with all figures, to build/gpu_experiments.json; exits
with 1 if a result was wrong. A variant that cannot run here (no cuDNN, no PyTorch) is skipped with the reason.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import gpu_check
from gpu_lines import BENCH, EXPERIMENTS, LXT, Options, Report, Step, reason

#: What an environment variable sets: lrpfast reads it once, so that here its value is put where lrpfast keeps it.
SWITCHES = {
    "LRPFAST_GPU_TILE": ("tiles", "CHOICE"),
    "LRPFAST_GPU_WIDE": ("many_k", "CHOICE"),
    "LRPFAST_GPU_CONVOLUTION": ("contractions", "CONVOLUTION"),
    "LRPFAST_GPU_FUSE": ("fuse", "FUSE"),
}
#: Not an environment variable: whether batches are replayed as CUDA graphs.
GRAPHS = "graphs"
#: Why a tile is not timed.
NO_LAUNCH = "no launch takes this tile: too few rows, or another device"
KERNELS = "lrpfast.kernels.cuda"


@dataclass(frozen=True)
class Variant:
    """A way to compute the same: switches, as environment variables, and a precision."""

    name: str
    precision: str = "float32"
    switches: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A question; the first variant is what is in use."""

    name: str
    question: str
    title: str
    network: Callable[[bool], Any]
    rule: str
    batch: int
    variants: tuple[Variant, ...]
    peers: tuple[str, ...] = ("zennit", "forward")
    single: bool = False
    streams: bool = False


def wide_network(small: bool) -> Any:
    """31,811 inputs to 8; small it is still wide enough for the kernels of wide layers."""
    import networks

    return networks.mlp(1031 if small else 31_811, 8, 8, 2)


def behind_another(small: bool) -> Any:
    """VGG16's conv3_2 behind a pointwise convolution: tiles for tensor cores do not take a network's input."""
    import networks

    size, channels, out = (12, 16, 132) if small else (56, 256, 256)
    builder = networks._Builder((size, size, 4), low=0.0)
    builder.conv(builder.conv(-1, channels, size=1), out, pad=1)
    return builder.network()


def tile_variants(precision: str) -> tuple[Variant, ...]:
    found = {"float32": ("lean", "large"), "tf32": ("lean", "large", "wgmma"), "3xtf32": ("large", "wgmma")}[precision]
    return tuple(
        Variant(f"{precision}, {name} tile", precision, {"LRPFAST_GPU_TILE": name}) for name in ("wide", *found)
    )


def experiments() -> list[Experiment]:
    """All, the quick ones first."""
    import networks

    made = {key: partial(networks.make, key) for key in ("cnn", "mlp_small", "resnet18", "vgg16")}
    windows = (Variant("tiles"), Variant("windows", switches={"LRPFAST_GPU_WIDE": "windows"}))
    graphs = (Variant("graphs"), Variant("no graphs", switches={GRAPHS: "0"}))
    fused = (Variant("fused"), Variant("not fused", switches={"LRPFAST_GPU_FUSE": "0"}))
    convolutions = tuple(
        Variant(f"{precision}, {name}", precision, {"LRPFAST_GPU_CONVOLUTION": name})
        for precision in ("float32", "tf32")
        for name in ("own", "cudnn")
    )
    split = (Variant("float32"), *tile_variants("3xtf32"))
    lone = {"peers": ("forward",), "single": True}
    found = [
        Experiment(
            "wide", "windows or tiles?", "MLP 31,811-8-8-2", wide_network, "epsilon", 8192, windows, streams=True
        )
    ]
    for precision in ("float32", "tf32"):
        question, variants = "which tile?", tile_variants(precision)
        found += [
            Experiment("tiles", question, "1×1, VGG16 conv3_2", behind_another, "z_plus", 16, variants, **lone),  # type: ignore[arg-type]
            Experiment("tiles", question, "VGG16", made["vgg16"], "epsilon_plus", 64, variants),
            Experiment("tiles", question, "VGG16", made["vgg16"], "alpha2_beta1", 64, variants),
        ]
    found += [
        Experiment("3xtf32", "3xTF32 or float32?", "1×1, VGG16 conv3_2", behind_another, "z_plus", 16, split, **lone),  # type: ignore[arg-type]
        Experiment("3xtf32", "3xTF32 or float32?", "VGG16", made["vgg16"], "epsilon_plus", 64, split),
    ]
    for title, key in (("VGG16", "vgg16"), ("ResNet18", "resnet18")):
        found.append(Experiment("cudnn", "cuDNN?", title, made[key], "epsilon_plus", 64, convolutions))
    for title, key, batch in (("MLP 2-100-100-2", "mlp_small", 64), ("CNN", "cnn", 16), ("ResNet18", "resnet18", 1)):
        found.append(Experiment("graphs", "one CUDA graph?", title, made[key], "epsilon", batch, graphs))
    found.append(Experiment("fuse", "light passes fused?", "ResNet18", made["resnet18"], "epsilon_plus", 16, fused))
    return found


@contextmanager
def switched(switches: Mapping[str, str]) -> Iterator[None]:
    """The switches are set meanwhile. AttributeError or ImportError where this lrpfast has none of that name."""
    with ExitStack() as stack:
        for name, value in switches.items():
            if name == GRAPHS:
                replay = importlib.import_module(f"{KERNELS}.replay")
                if value == "0":
                    stack.enter_context(mock.patch.object(replay.CudaGraphCache, "find", lambda *_: None))
                continue
            module, attribute = SWITCHES[name]
            target = importlib.import_module(f"{KERNELS}.{module}")
            stack.enter_context(mock.patch.object(target, attribute, value))
        yield


def within(switches: Mapping[str, str], run: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        with switched(switches):
            return run()

    return call


@contextmanager
def launches() -> Iterator[set[str]]:
    """The names of the kernels that are launched meanwhile."""
    from lrpfast.kernels.cuda import modules

    found: set[str] = set()
    function = modules.function

    def noted(device: int, module: str, kind: str, name: str) -> Any:
        found.add(f"{name} ({kind})")
        return function(device, module, kind, name)

    with mock.patch.object(modules, "function", noted):
        yield found


def medians(calls: Mapping[str, Callable[[], Any]], options: Options) -> dict[str, float]:
    """Seconds of each call, the median of readings in turn."""
    import gpu_speed
    from timing import interleaved

    clocks = {name: gpu_speed.Events(call) for name, call in calls.items()}
    if options.standin:
        return {name: clock() for name, clock in clocks.items()}
    readings = interleaved(clocks, gpu_speed.ROUNDS, gpu_speed.SECONDS)
    return {name: statistics.median(values) for name, values in readings.items()}


def prepare_variants(
    it: Experiment, network: Any, x: Any, work: Any, options: Options, report: Report
) -> tuple[dict[str, Callable[[], Any]], dict[str, dict[str, Any]]]:
    """Calls of the variants that give right results, and what is known of each."""
    import gpu_speed
    import lrpfast

    calls: dict[str, Callable[[], Any]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for variant in it.variants:
        what = f"{it.title}, {gpu_speed.NAMES[it.rule]}, batch {len(x):,}: {variant.name}"
        try:
            with switched(variant.switches), launches() as kernels:
                mine = gpu_speed.ours(work, network, x, variant.precision, options.device)
                run = mine.run(len(x), len(x))
                run()
                # the CPU has no tensor cores: there 3xTF32's digits are float32's
                exact = "float32" if variant.precision == "3xtf32" else variant.precision
                apart = gpu_speed.checked(work, network, x, mine, exact)
        except (lrpfast.DeviceError, ImportError, AttributeError) as error:
            report.skip(what, reason(error))
            continue
        except Exception as error:
            report.fail(what, reason(error))
            continue
        tile = variant.switches.get("LRPFAST_GPU_TILE", "wide")
        if tile != "wide" and not any(name.startswith(tile) for name in kernels):
            report.skip(what, f"{NO_LAUNCH} ({tile})")
            continue
        calls[variant.name] = within(variant.switches, run)
        facts[variant.name] = {
            "what": what, "apart": apart, "kernels": sorted(kernels), "flops": gpu_speed.flops_of(mine) * len(x),
            "sample_bytes": mine.take(slice(0, 1)).nbytes, "precision": variant.precision,
        }  # fmt: skip
    return calls, facts


def run_experiment(it: Experiment, options: Options, report: Report) -> None:
    """A line for each variant."""
    import gpu_peers
    import gpu_speed

    work = gpu_speed.Workload(
        it.title, it.network, it.rule, (it.batch,), peers=it.peers, single=it.single, streams=it.streams
    )
    network = it.network(options.small)
    x = network.samples(3 if options.small else it.batch)
    opened = gpu_speed.open_peers(work, network, x, options)
    gpu_speed.compare_peers(work, network, x, opened, options)
    gpu_speed.clear()
    calls, facts = prepare_variants(it, network, x, work, options, report)
    if calls:
        tf32 = any(f["precision"] == "tf32" for f in facts.values())
        others, cannot = {}, dict(opened.missing)
        for name, tools in opened.tools.items():
            for precision in ("float32", "tf32") if tf32 else ("float32",):
                try:
                    call = tools[precision].run(len(x), len(x))
                    call()
                    others[f"{name}, {precision}"] = call
                except Exception as error:  # out of memory, say
                    cannot[name] = reason(error)
                    gpu_peers.forget(opened.device)
        seconds = medians({**calls, **others}, options)
        for name, known in facts.items():
            tell(it, name, known, seconds, next(iter(facts)), cannot, options, report)
    opened.tools.clear()
    gpu_speed.clear()
    gpu_peers.forget(opened.device)


def tell(
    it: Experiment, name: str, known: dict[str, Any], seconds: dict[str, float], first: str, cannot: dict[str, str],
    options: Options, report: Report,
) -> None:  # fmt: skip
    """A variant's line: its time, its part of the limit, and how many times as long the others take."""
    import gpu_speed

    mine, tf32 = seconds[name], "tf32" if known["precision"] == "tf32" else "float32"
    if it.streams:
        samples = known["flops"] and int(known["what"].split("batch ")[1].split(":")[0].replace(",", ""))
        rate, limit = 3 * samples * known["sample_bytes"] / mine, gpu_speed.copies(options)["within the device"]
        shown = [f"{mine * 1e3:,.2f} ms", f"{rate / 1e9:,.0f} GB/s, {rate / limit:.0%} of a copy's"]
    else:
        rate, limit = known["flops"] / mine, gpu_speed.product_rate(options, tf32)
        shown = [f"{mine * 1e3:,.2f} ms", f"{rate / 1e12:,.2f} TFLOP/s, {rate / limit:.0%} of cuBLAS's in {tf32}"]
    if name != first:
        shown.append(f"{seconds[first] / mine:.2f}x as fast as {first}")
    for peer in it.peers:
        key = f"{peer}, {tf32}"
        shown.append(f"{peer} {seconds[key] / mine:.2f}x" if key in seconds else f"{peer}: {cannot.get(peer, '–')}")
    report.ok(known.pop("what"), gpu_speed.told(options, "; ".join(shown)), median=mine, limit=limit, rate=rate,
              others=seconds, **known)  # fmt: skip


# The operations that are newer than the measurements: attention, recurrent layers, conditions.


def transformer(small: bool) -> tuple[Any, tuple[int, ...]]:
    """An encoder with a mean over tokens and a dense layer: 4 layers of width 256 and 4 heads, 128 tokens."""
    import torch

    width, layers, tokens = (16, 1, 5) if small else (256, 4, 128)

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            one = torch.nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
            self.encoder = torch.nn.TransformerEncoder(one, layers, enable_nested_tensor=False)
            self.head = torch.nn.Linear(width, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.encoder(x).mean(1))

    return Encoder().eval(), (tokens, width)


def recurrent(small: bool) -> tuple[Any, tuple[int, ...]]:
    """An LSTM of 64 units over 365 steps of 8 features."""
    import torch

    units, steps, features = (4, 5, 3) if small else (64, 365, 8)

    class Lstm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(features, units, batch_first=True)
            self.head = torch.nn.Linear(units, 2)

        def forward(self, x: Any) -> Any:
            return self.head(self.lstm(x)[0][:, -1])

    return Lstm().eval(), (steps, features)


def convolutional(small: bool) -> tuple[Any, tuple[int, ...]]:
    import torch

    channels, size = (4, 8) if small else (64, 56)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, channels, 3, padding=1), torch.nn.ReLU(),
        torch.nn.Conv2d(channels, channels, 3, padding=1), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(channels * size * size, 10),
    ).eval(), (3, size, size)  # fmt: skip


#: Name, module, rule, batch, number of conditions.
OPERATIONS = (
    ("attention", transformer, "attn_lrp", 64, 0),
    ("recurrent", recurrent, "epsilon", 256, 0),
    ("conditions", convolutional, "epsilon", 16, 8),
)


def run_operation(
    name: str, make: Callable[[bool], Any], rule: str, batch: int, conditions: int, options: Options, report: Report
) -> None:
    """lrpfast's explanation beside PyTorch's forward pass and gradient."""
    import cupy

    import gpu_peers
    import gpu_speed
    import lrpfast
    from cases import TOLERANCE, off
    from tool import Missing

    try:
        device = gpu_peers.device_of(options.index, options.standin)
    except Missing as why:
        report.skip(name, str(why))
        return
    import torch

    torch.manual_seed(0)
    module, shape = make(options.small)
    batch = 2 if options.small else batch
    x = torch.randn(batch, *shape)
    model = lrpfast.from_torch(module, (x[:1],))
    more: dict[str, Any] = {}
    if conditions:
        layer = convolution_of(model)
        more["conditions"] = [{layer: c % (4 if options.small else 64)} for c in range(conditions)]
    analyzers = {d: lrpfast.Analyzer(model, rule, target=1, device=d) for d in (options.device, "cpu")}
    there = x.numpy() if conditions else cupy.asarray(x.numpy())  # the passes of conditions meet on the host
    with launches() as kernels:
        relevance = cupy.asnumpy(analyzers[options.device].analyze(there, **more))
    few = analyzers["cpu"].analyze(x[:2].numpy(), **more)
    apart = off(relevance[:2], few)
    if apart > TOLERANCE:
        report.fail(name, f"relevance is {apart:.1e} from the CPU's, allowed are {TOLERANCE:.0e}")
        return
    module, x = module.to(device), x.to(device)

    def forward() -> None:
        with torch.no_grad():
            module(x)

    def gradient() -> None:
        leaf = x.clone().requires_grad_(True)
        module(leaf)[:, 1].sum().backward()

    calls = {"lrpfast": lambda: analyzers[options.device].analyze(there, **more), "forward": forward}
    seconds = medians({**calls, "gradient": gpu_peers.with_tf32(gradient, False)}, options)
    mine = seconds["lrpfast"]
    shown = [f"{mine * 1e3:,.2f} ms", *(f"PyTorch's {k} {seconds[k] / mine:.2f}x" for k in ("forward", "gradient"))]
    what = f"{name}, {rule}, batch {batch:,}" + (f", {conditions} conditions" if conditions else "")
    report.ok(what, gpu_speed.told(options, "; ".join(shown)), median=seconds, apart=apart, kernels=sorted(kernels))


def convolution_of(model: Any) -> str:
    """The name of a model's last convolution."""
    return [node.name for node in model.nodes if type(node.layer).__name__ == "Conv"][-1]


def experiments_steps(options: Options) -> Iterator[Step]:
    """A step for each experiment that is asked for."""
    chosen = set(options.experiments) or set(NAMES)
    for it in experiments():
        if it.name in chosen:
            name = f"{it.name}: {it.question} {it.title}, {it.rule}, {it.variants[0].precision}"
            yield name, lambda report, it=it: run_experiment(it, options, report)
    for name, *rest in OPERATIONS:
        if "operations" in chosen:
            yield f"operations: {name}", lambda report, a=(name, *rest): run_operation(*a, options, report)


#: The experiments that --only takes.
NAMES = ("wide", "tiles", "3xtf32", "cudnn", "graphs", "fuse", "operations", "lxt")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--standin", action="store_true", help="the tests' stand-in for CuPy, on the CPU")
    parser.add_argument("--only", action="append", choices=NAMES, default=[], help="an experiment; may be repeated")
    parser.add_argument("--device", default="gpu:0", help="gpu:0, gpu:1, …")
    parser.add_argument("--output", type=Path, default=BENCH.parent / "build", help="folder of the files, build/")
    given = parser.parse_args()
    if not given.device.removeprefix("gpu:").isdecimal():
        parser.error(f"--device must name one GPU, as 'gpu:0', not {given.device!r}")
    options = Options(given.device, given.quick, given.standin, experiments=tuple(given.only))
    sections = ["limits", EXPERIMENTS, *(LXT if not given.only or "lxt" in given.only else ())]
    return gpu_check.check(options, sections, given.output, "gpu_experiments")


if __name__ == "__main__":
    sys.exit(main())
