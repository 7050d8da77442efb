"""Transformers beside LXT on the GPU: lxt_peer.py's cases, each in a process of its own, since LXT patches PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import gpu_experiments
import gpu_peers
import gpu_speed
import lrpfast
import lxt_peer
from cases import COMPARED, TOLERANCE, off
from gpu_lines import Options, Report, Skip, Step
from tool import Missing


def run(name: str, options: Options, report: Report) -> None:
    """A line: lrpfast beside PyTorch's forward pass, then beside LXT; relevances are compared with both before."""
    import cupy

    try:
        device = gpu_peers.device_of(options.index, options.standin)
        import lxt.efficient  # noqa: F401
        import transformers  # noqa: F401
    except (Missing, ImportError) as why:
        raise Skip(f"{why}; pip install lxt==2.1 transformers==4.52.4") from None
    here = lxt_peer.CASES[name]("cpu", options.small)
    target, x = lxt_peer.TARGETS[name], [value.numpy() for value in here.inputs]
    model = lrpfast.from_torch(here.module, tuple(here.inputs))

    def explain(where: str, values: list[Any]) -> Any:
        return analyzers[where].analyze(values if len(values) > 1 else values[0])

    analyzers = {d: lrpfast.Analyzer(model, here.rule, target=target, device=d) for d in (options.device, "cpu")}
    there = [cupy.asarray(value) for value in x]
    with gpu_experiments.launches() as kernels:
        found = explain(options.device, there)
    relevance = here.reduce(
        [cupy.asnumpy(r) for r in found] if isinstance(found, list | tuple) else cupy.asnumpy(found)
    )
    few = here.reduce(explain("cpu", [value[:COMPARED] for value in x]))
    apart = off(relevance[: len(few)], few)
    if apart > TOLERANCE:
        report.fail(here.title, f"relevance is {apart:.1e} from the CPU's, allowed are {TOLERANCE:.0e}")
        return
    case = lxt_peer.CASES[name](device, options.small)  # the same weights: made by the same seed, and moved
    lxt_peer.freeze(case)
    ours = partial(explain, options.device, there)
    forward = gpu_peers.with_tf32(without_grad(case.forward), False)
    plain = gpu_experiments.medians({"lrpfast": ours, "forward": forward}, options)
    case.patch()
    lxt_peer.freeze(case)
    differences = lxt_peer.compared(case, relevance)
    if np.median(differences) > lxt_peer.TOLERANCE:
        report.fail(here.title, f"relevance is {np.median(differences):.1e} of the largest from LXT's")
        return
    beside = gpu_experiments.medians({"lrpfast": ours, "LXT": gpu_peers.with_tf32(case.lxt, False)}, options)
    mine = beside["lrpfast"]
    shown = f"{mine * 1e3:,.2f} ms; LXT {beside['LXT'] / mine:.2f}x, "
    shown += f"{np.median(differences):.0e} apart; PyTorch's forward {plain['forward'] / plain['lrpfast']:.2f}x"
    report.ok(here.title, gpu_speed.told(options, shown), median={**plain, **beside}, apart=apart,
              from_lxt=differences.tolist(), kernels=sorted(kernels))  # fmt: skip


def without_grad(call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        import torch

        with torch.no_grad():
            return call()

    return run


def steps(name: str, options: Options) -> Iterator[Step]:
    """The step of a case."""
    yield f"LXT: {name}", lambda report: run(name, options, report)


vit, vit_gamma, bert, gpt2 = (partial(steps, name) for name in ("vit", "vit_gamma", "bert", "gpt2"))
