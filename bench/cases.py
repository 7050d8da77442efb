"""What is compared: the cases of the targets table, and how each tool is opened and checked for them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

import networks
import peers
import winners
from innvestigate_peer import Innvestigate
from tool import Missing, Timer, Tool

#: The most that two tools' relevances of a sample may differ: the sum of differences over the sum of relevances, both
#: in absolute value. Float32 leaves 1e-7 to 1e-5; after many max poolings 5e-4, as single windows have two values
#: that agree to the last bit but one, and the tools see another winner (VGG16: lrpfast in float32 and in float64 differ
#: as much). Another formula is off by far more: ε = 0.11 instead of 0.1, a bias left out, or a whole bias instead of
#: its positive part move every network of this file by 0.025 or more.
TOLERANCE = 2e-3
#: Samples whose relevances are compared; at least half as many where float32 changes winners of max poolings.
COMPARED = 2

PEERS = ("zennit", "captum", "innvestigate")
#: What explains nothing, or something like ε = 0: timed beside the peers, not compared.
BESIDE = {
    "forward": peers.forward,
    "gradient": peers.gradient,
    "compiled gradient": partial(peers.gradient, compiled=True),
}


#: The least ratio on every machine; or on one with tile registers (x86-64-amx), and on one without.
Least = float | tuple[float | None, float | None]


@dataclass(frozen=True)
class Target:
    """What the project set out to reach.

    Attributes
    ----------
    limit : float, optional
        A part of the machine's ``of``: "peak" or "bandwidth"; or "seconds", not to be exceeded.
    ratios : dict
        A peer's time over lrpfast's, at least; also of "gradient" and "forward", see `BESIDE`.
    single : dict
        A peer's time for a sample, explained by itself, over lrpfast's for a sample of many.
    """

    limit: float | None = None
    of: str = "peak"
    ratios: dict[str, Least] = field(default_factory=dict)
    single: dict[str, float] = field(default_factory=dict)

    def least(self, tool: str, tiles: bool) -> float | None:
        """The least ratio of a tool's time over lrpfast's on a machine with or without tile registers."""
        value = self.ratios.get(tool)
        return value[not tiles] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Case:
    """A network, a rule and a number of samples, in one call; ``sizes`` are further numbers of samples a call."""

    key: str
    title: str
    network: str
    rule: str
    samples: int
    small: int
    target: Target
    sizes: tuple[int, ...] = ()

    def count(self, small: bool) -> int:
        return self.small if small else self.samples


def _images(network: str, title: str, samples: int, small: int, rules: dict[str, Target]) -> list[Case]:
    names = {"epsilon": "ε", "z_plus": "z⁺", "alpha2_beta1": "α2β1", "epsilon_plus": "EpsilonPlus"}
    return [
        Case(f"{network}-{rule}", f"{title}, {names[rule]}, batch {samples}", network, rule, samples, small, target)
        for rule, target in rules.items()
    ]


CASES: tuple[Case, ...] = (
    Case(
        "mlp_small-1", "MLP 2-100-100-2, ε, batch 1", "mlp_small", "epsilon", 1, 1,
        Target(15e-6, "seconds", {
            "zennit": (180, 150), "captum": 30, "innvestigate": 18, "gradient": (35, 30), "forward": 1,
        }),
    ),
    Case(
        "mlp_small-10000", "MLP 2-100-100-2, ε, batch 10,000", "mlp_small", "epsilon", 10_000, 20,
        Target(None, "peak", {
            "zennit": (12, 9), "captum": 12, "innvestigate": 1.6, "gradient": (2.5, 1.8), "forward": (1, None),
        }),
    ),
    Case(
        "mlp_large-epsilon", "MLP 4096-1024-1024-10, ε, batch 256", "mlp_large", "epsilon", 256, 8,
        Target(0.80, "peak", {
            "zennit": (4.5, 2.8), "captum": 4, "innvestigate": 1.8, "gradient": (2.0, 1.3), "forward": (1, None),
        }),
    ),
    Case(
        "mlp_large-z_plus", "MLP 4096-1024-1024-10, z⁺, inputs of both signs, batch 2,000", "mlp_large", "z_plus",
        2_000, 8, Target(0.75, "peak", {"zennit": (3, 1.7), "captum": 2.5, "innvestigate": 1.3}),
    ),
    Case(
        "wide-bounded", "Dense 31,811-8-8-2, α1β0 without bias, z-box first, 2,000 samples", "wide", "bounded",
        2_000, 40,
        Target(0.60, "bandwidth", {"zennit": 100, "captum": 50, "innvestigate": 5}, single={"innvestigate": 100}),
        sizes=(1, 50, 100, 250, 500),
    ),
    Case(
        "wide-epsilon", "Dense 31,811-8-8-2, ε, 512 samples, a new array each call", "wide", "epsilon", 512, 40,
        Target(0.60, "bandwidth", {"zennit": 25, "gradient": 5}),
    ),
    Case(
        "wide-z_plus", "Dense 31,811-8-8-2, z⁺, 512 samples, a new array each call", "wide", "z_plus", 512, 40,
        Target(0.60, "bandwidth", {"zennit": 25}),
    ),
    *_images("cnn", "CNN 28²", 256, 4, {
        "epsilon": Target(0.55, "peak", {
            "zennit": (9, 7), "captum": 7, "innvestigate": 1.5, "gradient": (3.5, 2.8), "forward": (1.5, 1),
        }),
        "z_plus": Target(0.55, "peak", {"zennit": 7, "captum": 7, "innvestigate": 1.7}),
        "alpha2_beta1": Target(0.55, "peak", {"zennit": (12, 9), "innvestigate": 2.2}),
    }),
    *_images("vgg16", "VGG16 224²", 8, 2, {
        "epsilon": Target(0.80, "peak", {
            "zennit": (6, 4.2), "captum": 4, "innvestigate": 1.7, "gradient": (2.2, 1.5), "forward": (1, None),
        }),
        "z_plus": Target(0.80, "peak", {"zennit": (6, 4), "captum": 4, "innvestigate": 1.8}),
    }),
    *_images("vgg16", "VGG16 224²", 4, 2, {
        "alpha2_beta1": Target(0.75, "peak", {"zennit": (6.5, 4.5), "innvestigate": 2.1}),
    }),
    *_images("resnet18", "ResNet18 224²", 8, 2, {
        "epsilon": Target(0.75, "peak", {"zennit": 4, "captum": 6}),
        "epsilon_plus": Target(0.75, "peak", {"zennit": 4, "captum": 6}),
        "alpha2_beta1": Target(0.75, "peak", {"zennit": 4.5}),
    }),
    *_images("mobilenet", "MobileNet 224²", 8, 2, {"epsilon": Target(None, "peak", {"zennit": 6})}),
)  # fmt: skip

#: Where a peer's conventions ask lrpfast for a part of more or less work than zennit's, it is timed under both.
ALIKE = 0.02

#: Singles of the wide case: samples that are explained one by one.
SINGLES = 200


@dataclass(frozen=True, eq=False)
class Timed:
    """One bar of a case: a tool, how many samples it explains in one call of ``timer``, and how."""

    tool: str
    way: str
    samples: int
    timer: Any  # seconds of a call; see tool.Timer


@dataclass(eq=False)
class Opened:
    """A case with its tools ready and compared."""

    case: Case
    x: np.ndarray
    flops: int
    tools: list[Tool | Innvestigate]
    timed: list[Timed]
    agreement: dict[str, float]
    undecided: dict[str, list[int]]
    missing: dict[str, str]
    versions: dict[str, str]


def each_off(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """How far the explanations of each sample are apart; see `TOLERANCE`."""
    a, b = (np.asarray(r, np.float64).reshape(len(r), -1) for r in (actual, expected))
    assert a.shape == b.shape, (actual.shape, expected.shape)
    distance: np.ndarray = np.abs(a - b).sum(1) / np.abs(b).sum(1)
    return distance


def off(actual: np.ndarray, expected: np.ndarray) -> float:
    """How far two explanations are apart, in the worst sample."""
    return float(each_off(actual, expected).max())


def open_peer(case: Case, peer: str, network: networks.Network, x: np.ndarray, small: bool) -> Tool | Innvestigate:
    """A peer, ready for a case; raises Missing."""
    if peer not in case.target.ratios:
        raise Missing("not a comparison of this case")
    if peer == "innvestigate":
        return Innvestigate(case.network, case.rule, len(x), small)
    return getattr(peers, peer)(network, case.rule, x)


def compared(
    case: Case, network: networks.Network, x: np.ndarray, tool: Tool | Innvestigate, ours: Tool
) -> tuple[float, list[int]]:
    """How far a peer's relevances are from lrpfast's under the same conventions; an error where that is too far.

    A sample that is too far is not judged if float32 chooses other winners of its max poolings than float64, in
    lrpfast or in the peer (`winners.changed`); the next sample takes its place. The numbers of these come second.
    """
    wanted = min(COMPARED, len(x))
    judged: list[float] = []
    undecided: list[int] = []
    for count in (wanted, len(x)):  # all of them only where some of the first are undecided
        if len(judged) == wanted:
            break
        differences = each_off(tool.of_first(count), ours.of_first(count))
        for i in range(len(judged) + len(undecided), count):
            if len(judged) == wanted:
                break
            if differences[i] > TOLERANCE and winners.changed(network, x[i : i + 1], tool.name):
                undecided.append(i)
                continue
            assert differences[i] <= TOLERANCE, f"{case.key}: {tool.name} and lrpfast differ by {differences[i]:.1e}"
            judged.append(float(differences[i]))
    assert 2 * len(judged) >= wanted, (
        f"{case.key}: float32 changes winners of max poolings in samples {undecided}, so {tool.name} cannot be judged"
    )
    return max(judged), undecided


def beside(case: Case, name: str, small: bool) -> bool:
    """Whether something of `BESIDE` has to do with a case; compiling takes longer than a small network's whole test."""
    return name == "forward" or (case.rule == "epsilon" and not (small and name == "compiled gradient"))


def _ways(case: Case, tool: Tool | Innvestigate) -> Iterator[Timed]:
    """All samples in one call, then each of the case's smaller batches."""
    yield Timed(tool.name, "", tool.samples, tool.timer())
    for size in case.sizes:
        samples = min(SINGLES, tool.samples) if size == 1 else tool.samples
        if size < tool.samples:
            yield Timed(tool.name, f"{size} a call", samples, tool.timer(samples, size))


def _flops(ours: Tool) -> int:
    """Floating-point operations for a sample, of what lrpfast plans."""
    flops: int = ours.explain.__self__.plan().flops  # type: ignore[attr-defined]
    return flops


@contextmanager
def opened(case: Case, small: bool = False, only: tuple[str, ...] = (*PEERS, *BESIDE)) -> Iterator[Opened]:
    """A case with lrpfast and the peers in ``only`` open, their results compared; closes them at the end."""
    network = networks.make(case.network, small)
    x = network.samples(case.count(small))
    ours = peers.lrpfast_tool(network, case.rule, x)
    timed = list(_ways(case, ours))
    it = Opened(case, x, _flops(ours) * len(x), [ours], timed, {}, {}, {}, {})
    if case.target.of == "bandwidth":
        out = np.zeros_like(x)
        timed.append(Timed("lrpfast", "into an array", len(x), Timer(lambda: ours.explain(x, out=out))))
    try:
        for peer in (p for p in PEERS if p in only and p in case.target.ratios):
            try:
                tool = open_peer(case, peer, network, x, small)
            except Missing as reason:
                it.missing[peer] = str(reason)
                continue
            it.tools.append(tool)
            same = ours if peer == "zennit" else peers.lrpfast_tool(network, case.rule, x, peer)
            it.agreement[peer], undecided = compared(case, network, x, tool, same)
            if undecided:
                it.undecided[peer] = undecided
            if abs(_flops(same) / _flops(ours) - 1) > ALIKE:
                timed.append(Timed("lrpfast", f"as {peer}", len(x), same.timer()))
            del same  # a large network's packed weights are gigabytes
            it.versions.update(getattr(tool, "versions", {}))
            timed.extend(_ways(case, tool))
        for name, open_tool in BESIDE.items():
            if name not in only or not beside(case, name, small):
                continue
            try:
                it.tools.append(open_tool(network, case.rule, x))
                timed.append(Timed(name, "", len(x), it.tools[-1].timer()))
            except Missing as reason:
                it.missing[name] = str(reason)
        yield it
    finally:
        for tool in it.tools:
            tool.close()
        timed.clear()
        it.tools.clear()
        gc.collect()  # hundreds of megabytes of weights in reference cycles
