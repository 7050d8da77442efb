"""Where the time of an explanation goes: each operation of a model's program by itself, on one thread.

    python bench/operations.py MODEL RULE [--samples 4] [--repeat 5] [--kinds]

MODEL is a network of networks.py, a model of torchvision (random weights, 224²), or a file that lrpfast reads. RULE
is one of `lrpfast_networks.zennit_composite`. Processor time, the least of some runs; each operation reads what a
whole run has left in its buffers. The last line compares the sum with the whole program. `--kinds` adds up operations
of one kind and shape.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import lrpfast
import networks
from lrpfast.kernels import _cpu
from lrpfast.kernels.contraction_ops import Contract, Redistribute
from lrpfast.kernels.interface import Start
from lrpfast.kernels.memory_plan import touched, work_of
from lrpfast.kernels.operation import row_of
from lrpfast.kernels.ops import InitRelevance, MaskRelevance
from lrpfast.kernels.program import Program
from lrpfast.kernels.zeros import zeros_read
from lrpfast_networks import analyzer, zennit_composite


@dataclass(frozen=True)
class Timed:
    """An operation: its name, its shape in words, milliseconds a sample, and floating-point operations a sample."""

    name: str
    shape: str
    milliseconds: float
    flops: int


def open_analyzer(model: str, rule: str) -> tuple[lrpfast.Analyzer, tuple[int, ...]]:
    """An analyzer on one thread, and the shape of a sample."""
    if model in networks.NETWORKS:
        network = networks.make(model)
        return analyzer(network, rule, threads=1), tuple(network.shape)
    if Path(model).exists():
        loaded = lrpfast.load(model)
    else:
        import torch
        import torchvision

        torch.manual_seed(0)
        module = getattr(torchvision.models, model)(weights=None).eval()
        loaded = lrpfast.from_torch(module, torch.zeros(1, 3, 224, 224))
    return lrpfast.Analyzer(loaded, zennit_composite(rule), threads=1), tuple(loaded.input_shape)


def least(run: Callable[[], Any], repeat: int) -> float:
    """Seconds of the processor's time, the least of some runs after one that is not counted."""
    run()
    times = []
    for _ in range(repeat):
        begin = time.process_time()
        run()
        times.append(time.process_time() - begin)
    return min(times)


def shape_of(operation: Any, sizes: Sequence[int]) -> str:
    """An operation's sizes in words."""
    if not isinstance(operation, (Contract, Redistribute)):
        reads, writes = touched(operation)
        return f"{max((sizes[b] for b in reads), default=0):,} → {max((sizes[b] for b in writes), default=0):,}"
    out = operation.out if isinstance(operation, Redistribute) else operation.outputs[0].buffer
    term, parts = operation.terms[0], []
    weights = term.weights if term.geometry is None else term.weights[0]
    groups = f"{len(weights)} groups of " if weights.ndim == 3 and len(weights) > 1 else ""
    kind = "channelwise" if operation.diagonal else ""
    parts = [kind, f"{operation.rows:,} × {sizes[out] // operation.rows:,}", f"k {groups}{weights.shape[-2]:,}"]
    if term.geometry is not None and len(term.geometry.regions) > 1:
        parts.append(f"{len(term.geometry.regions)} regions")
    if len(operation.terms) > 1:
        parts.append(f"{len(operation.terms)} terms")
    if getattr(operation, "divide", None) is not None:
        parts.append("divided")
    return ", ".join(part for part in parts if part)


class Stored:
    """A program whose buffers all have arrays, filled by one run."""

    def __init__(self, explainer: lrpfast.Analyzer, x: np.ndarray) -> None:
        backend = explainer._core._programs.backend
        program = explainer._core._programs._lowered().program
        kept = tuple(b for b in range(1, len(program.sizes)) if b != program.result)
        self.program, self.backend, self.x = program, backend, x
        operations = (*program.forward, *program.backward)
        self.zeros = dict(zip(map(id, operations), zeros_read(operations), strict=True))
        self.arrays = {b: np.zeros((len(x), program.sizes[b]), program.dtype) for b in kept}
        out = np.zeros((len(x), program.sizes[program.result or 0]), program.dtype)
        compiled = backend.compile(replace(program, keep=kept))
        assert compiled.run(x, out, threads=1, start=Start(), keep=self.arrays) is None
        if program.result is not None:
            self.arrays[program.result] = out
        self.arrays[0] = x

    def time(self, operation: Any, repeat: int) -> Timed:
        """An operation by itself."""
        reads, writes = touched(operation)
        out = min(writes)
        sizes, x = self.program.sizes, self.x
        if 0 not in reads:  # a program looks whether its input is finite, which may take longer than the operation
            sizes, x = (1, *sizes[1:]), np.zeros((len(x), 1), x.dtype)
        alone = Program(sizes, (operation,), (), out, None, self.program.dtype, self.program.operands)
        # by itself an operation does not show that what it reads is mostly zeros
        with mock.patch.object(_cpu, "zeros_read", lambda _: [self.zeros[id(operation)]]):
            compiled = self.backend.compile(replace(alone, keep=tuple((reads | writes) - {0, out})))
        keep = {b: self.arrays[b] for b in (reads | writes) - {0, out}}
        into = self.arrays[out].copy()
        seconds = least(lambda: compiled.run(x, into, threads=1, keep=keep), repeat)
        flops = sum(flop for flop, _ in work_of(operation, self.program.sizes))
        direction = " back" if operation in self.program.backward and isinstance(operation, Contract) else ""
        name = row_of(operation).kernel + direction
        return Timed(name, shape_of(operation, self.program.sizes), 1e3 * seconds / len(self.x), flops)


def merged(rows: Sequence[Timed]) -> list[Timed]:
    """Operations of one name and shape added up, the longest first."""
    sums: dict[tuple[str, str], list[Timed]] = {}
    for row in rows:
        sums.setdefault((row.name, row.shape), []).append(row)
    totals = [
        Timed(name, f"{len(same)} × [{shape}]", sum(r.milliseconds for r in same), sum(r.flops for r in same))
        for (name, shape), same in sums.items()
    ]
    return sorted(totals, key=lambda row: -row.milliseconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("rule")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--kinds", action="store_true", help="add up operations of one kind and shape")
    arguments = parser.parse_args()
    explainer, shape = open_analyzer(arguments.model, arguments.rule)
    x = np.random.default_rng(0).uniform(0, 1, (arguments.samples, *shape)).astype(np.float32)
    rows = x.reshape(len(x), -1)
    stored = Stored(explainer, rows)
    operations = (*stored.program.forward, *stored.program.backward)
    timed = [stored.time(o, arguments.repeat) for o in operations if not isinstance(o, (InitRelevance, MaskRelevance))]
    total = sum(row.milliseconds for row in timed)
    for row in merged(timed) if arguments.kinds else timed:
        rate = f"{row.flops / row.milliseconds / 1e6:7.1f} GFLOP/s" if row.flops else ""
        share = 100 * row.milliseconds / total
        print(f"{row.name:20} {row.shape:60} {row.milliseconds:8.3f} ms {share:5.1f} % {rate}")
    out = np.empty_like(x)
    whole = 1e3 * least(lambda: explainer.analyze(x, out=out), arguments.repeat) / len(x)
    print(f"all {total:.2f} ms a sample; the whole program {whole:.2f} ms")


if __name__ == "__main__":
    main()
