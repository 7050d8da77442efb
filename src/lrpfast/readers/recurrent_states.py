"""Initial and final states of recurrent layers as tensors of files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ShapeError
from ..model import layers as L
from .batch_axis import BatchAxis
from .channels_first import Builder, Tensor, Value
from .recurrent import constant


def state_rows(builder: Builder, value: Value, rows: int) -> list[int]:
    """The nodes of the states in a tensor (directions, batch, units), or of such with the batch first."""
    t = builder.plain(value)
    if len(t.shape) != 2 or t.shape[0] != rows:
        raise ShapeError(f"its initial states have shape {t.shape} a sample; {rows} states are asked for")
    if rows == 1:
        return [builder.add(L.Flatten(), t.node, part="state")]
    crops = [builder.add(L.Crop(((i, rows - 1 - i),)), t.node, part="states") for i in range(rows)]
    return [builder.add(L.Flatten(), crop, part="state") for crop in crops]


def constant_row(builder: Builder, like: int, row: np.ndarray) -> int:
    """The node of a row that is the same for every sample; ``like`` is a node of as many values."""
    return builder.add(constant(row), like, part="constant")


def stacked_states(builder: Builder, nodes: Sequence[int], batch: BatchAxis) -> Tensor:
    """Final states (units,) as one tensor (directions, units) a sample."""
    units = builder.shapes[nodes[0]][0]
    rows = [builder.add(L.Reshape((1, units)), node, part="row") for node in nodes]  # type: ignore[arg-type]
    node = builder.add(L.Concat(0), *rows, part="states") if len(rows) > 1 else rows[0]
    return Tensor(node, (len(rows), units), (0, 1), batch)
