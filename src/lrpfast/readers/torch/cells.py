"""Layers of the weights of PyTorch's recurrent cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...model import layers as L
from ..recurrent import added, reordered

#: PyTorch's GRU has r, z, n; lrpfast z, r, n.
_GRU_ORDER = (1, 0, 2)


def cell_of(kind: str, weights: Sequence[np.ndarray]) -> Any:
    """The layer of a cell's weights: W_ih, W_hh and, where there are biases, b_ih, b_hh."""
    kernel, recurrent = (np.asarray(w).T for w in weights[:2])
    biases = [np.asarray(b) for b in weights[2:]]
    if kind == "lstm":
        return L.LSTM(kernel, recurrent, added(*biases) if biases else None)
    if kind == "gru":
        both = reordered(np.stack(biases), _GRU_ORDER) if biases else None
        return L.GRU(reordered(kernel, _GRU_ORDER), reordered(recurrent, _GRU_ORDER), both)
    return L.SimpleRNN(kernel, recurrent, added(*biases) if biases else None, kind)
