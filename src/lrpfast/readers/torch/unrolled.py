"""Recurrent modules that a program writes out step by step, as one operator again.

`run_decompositions()` takes nn.LSTM, nn.GRU and nn.RNN apart. Their nodes say of which module they are, and the
program has its weights by their names. So what a module computes is compared with what these weights compute, on random
numbers in double precision, and where it is the same, one operator stands for all its nodes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..forward import agrees, forward
from .cells import cell_of
from .fold import run
from .records import BATCH_SIZES, Op, Ref, TorchProgram, refs

#: The modules, and the operators that they are.
_MODULES = {f"torch.nn.modules.rnn.{name}": name.lower() for name in ("LSTM", "GRU", "RNN")}
#: A module of more weights than this is none.
_MOST_LAYERS = 64


def rolled_up(program: TorchProgram, constants: Mapping[str, Any]) -> TorchProgram:
    """The program with one operator for each recurrent module whose steps it writes out."""
    groups: dict[tuple[str, str], list[Op]] = {}
    for op in program.ops:
        if op.kind in _MODULES:
            groups.setdefault((op.module, _MODULES[op.kind]), []).append(op)
    for (module, kind), ops in groups.items():
        whole = _recognised(program, module, kind, ops, constants) if len(ops) > 1 else None
        if whole is not None:
            last, names = ops[-1], {op.name for op in ops}
            ops_left = [whole if op is last else op for op in program.ops if op is last or op.name not in names]
            program = replace(program, ops=ops_left)
    return program


def _weights(module: str, constants: Mapping[str, Any]) -> list[list[str]]:
    """The names of each layer's and direction's weights, in PyTorch's order."""
    names_of_all = []
    for i in range(_MOST_LAYERS):
        for suffix in ("", "_reverse"):
            names = []
            for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                path = f"{module}.{key}_l{i}{suffix}" if module else f"{key}_l{i}{suffix}"
                name = "p_" + re.sub(r"[^a-zA-Z0-9]", "_", path)
                names += [n for n in dict.fromkeys((name, name.lower())) if n in constants][:1]
            names_of_all += [names] if len(names) in (2, 4) else []
    return names_of_all


def _recognised(
    program: TorchProgram, module: str, kind: str, ops: Sequence[Op], constants: Mapping[str, Any]
) -> Op | None:
    """The operator that a module's nodes are; None where they are none."""
    weights = _weights(module, constants)
    own = {name for op in ops for name in op.outputs}
    outside = {name for op in ops for value in op.arguments.values() for name in refs(value)} - own - set(constants)
    used = {name for op in program.ops if op not in ops for v in op.arguments.values() for name in refs(v)}
    results = [name for op in ops for name in op.outputs if name in used or name in program.outputs]
    if not weights or len(outside) != 1 or not results or len(results) > 3:
        return None
    (source,) = outside
    shape = program.shapes.get(source, ())
    sizes = [n if isinstance(n, int) else BATCH_SIZES[0] for n in shape]
    both = any("_reverse" in name for names in weights for name in names)
    if len(sizes) != 3 or (both and len(weights) % 2) or len({len(names) for names in weights}) > 1:
        return None
    x = np.random.default_rng(0).normal(size=sizes)
    values = run(program, ops, {**constants, source: x})
    if values is None or any(name not in values for name in results):
        return None
    arrays = [[np.asarray(constants[name], np.float64) for name in names] for names in weights]
    names = [f"rnn_{f}" for f in ("tanh", "relu")] if kind == "rnn" else [kind]
    for name in names:
        for first in (True, False):
            expected = _computed(name, arrays, x if first else np.swapaxes(x, 0, 1), 1 + both)
            if expected is None:
                continue
            expected = (expected[0] if first else np.swapaxes(expected[0], 0, 1), *expected[1:])
            order = _matched([values[result] for result in results], expected)
            if order is not None:
                return _operator(name, ops[-1], source, weights, (both, first), results, order, len(expected))
    return None


def _computed(
    name: str, weights: Sequence[list[np.ndarray]], x: np.ndarray, ways: int
) -> tuple[np.ndarray, ...] | None:
    """The module's results for x (batch, steps, features): the sequence, and the final states of all layers."""
    finals: list[tuple[np.ndarray, ...]] = []
    for i in range(0, len(weights), ways):
        sequences = []
        for way in range(ways):
            if weights[i + way][0].shape[1] != x.shape[-1]:
                return None
            layer = replace(cell_of(name.removeprefix("rnn_"), weights[i + way]), go_backwards=way == 1)
            sequence, *states = forward(layer, x)
            sequences.append(sequence)
            finals.append(tuple(states))
        x = np.concatenate(sequences, -1)
    return x, *(np.stack(states) for states in zip(*finals, strict=True))


def _matched(values: Sequence[Any], expected: Sequence[np.ndarray]) -> list[int] | None:
    """Which of the expected results each value is; None where one is none, or two are the same."""
    order = []
    for value in values:
        matches = [i for i, result in enumerate(expected) if agrees(value, result)]
        order.append(matches[0] if matches else -1)
    return None if -1 in order or len(set(order)) < len(order) else order


def _operator(
    name: str, last: Op, source: str, weights: Sequence[Sequence[str]], flags: tuple[bool, bool],
    results: Sequence[str], order: Sequence[int], count: int,
) -> Op:  # fmt: skip
    both, first = flags
    arguments = {
        "input": Ref(source),
        "hx": None,
        "params": [Ref(key) for names in weights for key in names],
        "has_biases": len(weights[0]) == 4,
        "num_layers": len(weights) // (1 + both),
        "dropout": 0.0,
        "train": False,
        "bidirectional": both,
        "batch_first": first,
    }
    outputs = [results[order.index(i)] if i in order else f"{last.name}_result_{i}" for i in range(count)]
    return replace(last, target=f"aten.{name}.input", arguments=arguments, outputs=tuple(outputs))
