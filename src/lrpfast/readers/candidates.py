"""Recurrent layers that matrices and vectors may be the weights of."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..model import layers as L
from .recurrent import added, reordered

_CELLS = ("tanh", "relu", "linear")
#: lrpfast's and Keras's order of a GRU's gates, and PyTorch's.
_GRU_ORDERS = ((0, 1, 2), (1, 0, 2))
#: More vectors than this are biases of other layers.
_MOST_BIASES = 6


def candidates(kernel: np.ndarray, recurrent: np.ndarray, vectors: Sequence[np.ndarray]) -> Iterator[Any]:
    """The layers of a kernel and a recurrent kernel, with the vectors as biases, forwards."""
    units = len(recurrent)
    for kind in (L.SimpleRNN, L.GRU, L.LSTM):
        columns = kind.gates * units
        if kernel.shape[1] != columns or recurrent.shape[1] != columns:
            continue
        fitting = [v for v in vectors if len(v) == columns][:_MOST_BIASES]
        pairs = list(itertools.permutations(fitting, 2))
        # one alone is what Keras has, and what two of the same values are
        biases: list[Any] = [None, *fitting, *(added(v, v) for v in fitting)]
        biases += [added(a, b) for a, b in itertools.combinations(fitting, 2)]
        if kind is L.GRU:
            biases += [np.stack(pair) for pair in [*pairs, *((v, v) for v in fitting)]]
        for bias, cell in itertools.product(biases, _CELLS):
            if kind is not L.GRU:
                yield kind(kernel, recurrent, bias, cell)
                continue
            for order, after in itertools.product(_GRU_ORDERS, (True, False)):
                if after or np.ndim(bias) < 2:
                    weights = [None if a is None else reordered(a, order) for a in (kernel, recurrent, bias)]
                    yield L.GRU(*weights, cell, reset_after=after)  # type: ignore[arg-type, misc]
