"""Layers of many inputs and few outputs, whose time is the memory's: kernels that read and write each value once.

They have not been measured, so they are used only where LRPFAST_GPU_WIDE says so.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from ...errors import DeviceError
from ..contraction_ops import Contract, Redistribute
from .contractions import Contraction, Part
from .device_arrays import DeviceArrays
from .modules import AT_ONCE, MOST_FEW, THREADS
from .structs import POINTER

#: "tiles": such layers are matrix products like all others; "windows": by many_k.cu. Set by LRPFAST_GPU_WIDE.
CHOICE = os.environ.get("LRPFAST_GPU_WIDE", "tiles")
#: The least number of values on the wide side, and on it for one split of a sum.
LEAST_MANY, LEAST_SPLIT = 1024, 1024
#: The largest number of splits.
MOST_SPLITS = 32
#: many_k.cu: the warps of a block, and the blocks of a multiprocessor.
WARPS, BLOCKS = THREADS // 32, 2
#: The largest number of times that a block redistributes to AT_ONCE rows.
MOST_GROUPS = 16


def applies(operation: Contract | Redistribute) -> bool:
    """Whether a contraction is one for many_k.cu, and that is chosen.

    Its terms read the same buffer if it is wide; at most two sums, no geometry, at most `MOST_FEW` values on one side
    and `LEAST_MANY` on the other.

    Raises
    ------
    DeviceError
        If LRPFAST_GPU_WIDE is neither 'tiles' nor 'windows'.
    """
    if CHOICE not in ("tiles", "windows"):
        raise DeviceError(f"LRPFAST_GPU_WIDE={CHOICE!r} must be 'tiles' or 'windows'")
    terms = operation.terms
    if CHOICE == "tiles" or operation.diagonal or any(t.geometry is not None for t in terms):
        return False
    if max(t.accumulator for t in terms) > 1 or any(t.weights.ndim != 2 for t in terms):  # type: ignore[union-attr]
        return False
    shapes: set[tuple[int, ...]] = {t.weights.shape for t in terms}  # type: ignore[union-attr]
    if len(shapes) != 1:
        return False
    depth, columns = shapes.pop()
    if depth >= LEAST_MANY and columns <= MOST_FEW:
        return len({t.source for t in terms}) == 1
    return columns >= LEAST_MANY and depth <= MOST_FEW


class ManyK(Contraction):
    """A `Contract` or `Redistribute` by many_k.cu; `applies` says which."""

    def _pair_parts(self) -> list[Part] | None:
        return None

    def _library(self) -> bool:
        return False

    @property
    def at_once(self) -> int:
        """The rows that a thread has at a time."""
        return AT_ONCE[self.dtype.name] // self.sums

    @property
    def sums_to_planes(self) -> bool:
        """Whether the wide side is the one that is summed."""
        return self.columns <= MOST_FEW

    def _weights(self, record: np.ndarray, part: Part, field: str, arrays: DeviceArrays) -> None:
        term = part.term
        assert isinstance(term.weights, np.ndarray)  # `applies` has seen to it
        weights = term.weights if self.sums_to_planes else term.weights.T
        address, record["row_step"], record["column_step"] = arrays.windows(
            weights, self.round, term.sign, part.scale, term.origin
        )
        record[field] = arrays.put(np.array([address], POINTER))

    def _row_blocks(self, samples: int, rows_at_once: int) -> int:
        """The number of blocks that have so many rows of each shift."""
        return self.quad * -(-samples * self.rows // (self.quad * rows_at_once))

    def _splits(self, samples: int) -> int:
        blocks = self._row_blocks(samples, WARPS * self.at_once)
        most = min(max(self.depths) // LEAST_SPLIT, MOST_SPLITS)
        places = int(self.gpu.processors) * BLOCKS
        return min(range(1, most + 1), key=lambda s: math.ceil(blocks * s / places) / s + 0.01 * s)

    def scratch(self, samples: int) -> int:
        plane = samples * self.rows * self.width
        return self.sums * self._splits(samples) * plane if self.sums_to_planes else 0

    def launch(self, chunk: Any) -> None:
        if self.sums_to_planes:
            splits, planes = self._splits(chunk.samples), np.uint64(chunk.scratch)
            grid = (self._row_blocks(chunk.samples, WARPS * self.at_once), splits, 1)
            arguments = (self.record, np.int32(splits), planes)
            chunk.launch_grid("many_k", chunk.kind, f"many_k_{self.sums}", grid, arguments)
            elements = chunk.samples * self.rows * self.width
            reduction = (self.record, planes, np.int32(splits))
            chunk.launch("split_k_reduce", f"split_k_reduce_{self.sums}", -(-elements // 4), reduction)
            return
        columns = -(-(self.width + self.quad - 1) // (THREADS * self.quad))
        fits = self._row_blocks(chunk.samples, self.at_once) * columns // (self.gpu.processors * BLOCKS * 4)
        groups = max(1, min(MOST_GROUPS, fits))
        grid = (self._row_blocks(chunk.samples, self.at_once * groups), columns, 1)
        chunk.launch_grid("many_k", chunk.kind, f"small_k_{self.sums}", grid, (self.record, np.int32(groups)))
