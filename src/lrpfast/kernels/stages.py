"""Stages: operations in a row that run for a few samples at a time; what passes between them stays in the cache.

A dense layer's weights are read again for every micro-batch, so it asks for many samples; a convolution's are shared
by a sample's own rows, and values of many samples would go through memory between it and the next layer. So a
micro-batch has the samples that dense layers ask for, and other operations take some of them at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .memory_plan import Stage, touched, work_of
from .operation import Operation
from .program import Program

#: Rows of a sample that share weights which stay in the cache, and any weights, so that it need be no more samples.
FEW_ROWS, MANY_ROWS = 48, 288
#: Which part of the cache such weights take at most.
PART_OF_CACHE = 4


def stages_of(program: Program, cache: int, samples: int) -> tuple[Stage, ...]:
    """The stages of a program whose micro-batches have so many samples, for a cache of so many bytes."""
    operations = (*program.forward, *program.backward)
    itemsize = np.dtype(program.dtype).itemsize
    forward = len(program.forward)
    edges = {forward, *(forward + end for _, end in program.parts)}
    stages: list[Stage] = []
    begin = 0
    # one more, so that the last stage ends
    for at, operation in enumerate((*operations, None)):
        whole = operation is None or _asks_for_samples(operation, program.sizes, itemsize, cache)
        if whole or at in edges:
            stages += _stage(program, begin, at, cache // itemsize, samples)
            begin = at + 1 if whole else at
    return tuple(stages)


def _asks_for_samples(operation: Operation, sizes: Sequence[int], itemsize: int, cache: int) -> bool:
    """Whether an operation reads weights that a sample's own rows do not share enough."""
    if getattr(operation, "diagonal", False):
        return False
    for flop, rows in work_of(operation, sizes):
        weights = flop // (2 * max(1, rows)) * itemsize
        if rows < FEW_ROWS or (rows < MANY_ROWS and weights > cache // PART_OF_CACHE):
            return True
    return False


def _stage(program: Program, begin: int, end: int, values: int, samples: int) -> list[Stage]:
    """A stage of these operations, if there are several and fewer samples of them have so many values."""
    if end - begin < 2:
        return []
    buffers = {b for o in (*program.forward, *program.backward)[begin:end] for used in touched(o) for b in used}
    fits = max(1, values // max(1, sum(program.sizes[b] for b in buffers)))
    return [Stage(begin, end, fits)] if fits < samples else []
