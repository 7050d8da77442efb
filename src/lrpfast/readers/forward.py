"""What a recurrent layer computes, in NumPy: to recognise one where a file writes its steps out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..model import layers as L

#: Of the largest value: how far what is written out may be off the layer, both in double precision.
_CLOSE = 1e-9

FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "linear": lambda z: z,
    "tanh": np.tanh,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "relu": lambda z: np.maximum(z, 0.0),
}


def _function(activation: L.Activation | None) -> Callable[[np.ndarray], np.ndarray]:
    return FUNCTIONS[activation.function if activation is not None else "linear"]


def forward(
    layer: Any, x: np.ndarray, states: Iterable[np.ndarray] = (), mask: np.ndarray | None = None
) -> tuple[np.ndarray, ...]:
    """The sequence (batch, steps, units) and the final states of a layer, for x (batch, steps, features).

    Only layers with the functions in `FUNCTIONS`; the sequence is in the order of the input's steps.
    """
    units, samples, steps = layer.units, len(x), x.shape[1]
    h, c = (*states, *2 * [np.zeros((samples, units))])[:2]
    sequence = np.zeros((samples, steps, units))
    for t in range(steps)[:: -1 if layer.go_backwards else 1]:
        new_h, new_c = _step(layer, x[:, t], h, c)
        counts = np.ones((samples, 1), bool) if mask is None else mask[:, t, None] != 0
        h, c = np.where(counts, new_h, h), np.where(counts, new_c, c)
        sequence[:, t] = h
    return (sequence, h, c)[: 1 + len(layer.states)]


def _step(layer: Any, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bias = np.zeros(layer.kernel.shape[1]) if layer.bias is None else layer.bias
    first, second = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
    ours = np.split(x @ np.float64(layer.kernel) + first, layer.gates, -1)
    theirs = np.split(h @ np.float64(layer.recurrent_kernel) + second, layer.gates, -1)
    cell = _function(layer.cell_activation)
    if isinstance(layer, L.SimpleRNN):
        return cell(ours[0] + theirs[0]), c
    gate = _function(layer.gate_activation)
    gates = [gate(a + b) for a, b in zip(ours, theirs, strict=True)]
    if isinstance(layer, L.LSTM):
        c = gates[1] * c + gates[0] * cell(ours[2] + theirs[2])
        return gates[3] * _function(layer.output_activation)(c), c
    z, r = gates[:2]
    if layer.reset_after:
        n = cell(ours[2] + r * theirs[2])
    else:
        n = cell(ours[2] + (r * h) @ np.float64(np.split(layer.recurrent_kernel, 3, 1)[2]) + np.split(second, 3)[2])
    return z * h + (1 - z) * n, c


def agrees(values: Any, expected: np.ndarray) -> bool:
    """Whether what a file computes is what a layer does."""
    array = np.asarray(values)
    return array.shape == expected.shape and bool(np.abs(array - expected).max() <= _CLOSE * np.abs(expected).max())
