"""Passes: which segments of a program's backward pass a run takes, for which target, with which mask of relevance."""

from __future__ import annotations

import numpy as np

from .ops import MaskRelevance
from .program import Program


class Passes:
    """Which segments of a program's backward pass run for each target, in order, and with which mask of relevance.

    A target's first segments may be left out where they ran with the same masks for the target before it: buffers that
    several segments use keep what is in them.

    Attributes
    ----------
    steps : int64 array, shape (passes, 3)
        The segment, and the first value and the number of values of its mask, which is repeated over the layer.
    first : int64 array, shape (targets + 1,)
        Where each target's passes begin in ``steps``.
    masks : uint8 array, shape (values,)
        1 where relevance goes on.
    """

    __slots__ = ("first", "masks", "steps")

    def __init__(self, steps: np.ndarray, first: np.ndarray, masks: np.ndarray) -> None:
        self.steps, self.first, self.masks = steps, first, masks

    def of(self, target: int) -> list[list[int]]:
        """The passes of one target: (segment, first value of the mask, its number of values)."""
        passes: list[list[int]] = self.steps[self.first[target] : self.first[target + 1]].tolist()
        return passes


def mask_sizes(program: Program) -> tuple[int, ...]:
    """Of each segment the size of the buffer that it masks; 0 where it masks none, or several of different sizes."""
    result = []
    for begin, end in program.parts:
        sizes = {program.sizes[o.source] for o in program.backward[begin:end] if isinstance(o, MaskRelevance)}
        result.append(sizes.pop() if len(sizes) == 1 else 0)
    return tuple(result)


def check_passes(passes: Passes | None, program: Program) -> None:
    """Raise ValueError unless every pass is a segment's, with a mask that fits the segment's layer."""
    if passes is None:
        if any(isinstance(o, MaskRelevance) for o in program.backward):
            raise ValueError("a program that masks relevance needs passes")
        return
    steps, first, masks = passes.steps, passes.first, passes.masks
    right = steps.ndim == 2 and steps.shape[1] == 3 and first.ndim == 1 and len(first) > 0 and masks.ndim == 1
    right = right and steps.dtype == first.dtype == np.int64 and masks.dtype == np.uint8
    if not (right and all(a.flags.c_contiguous for a in (steps, first, masks))):
        raise ValueError("passes are contiguous arrays of int64 (passes, 3) and (targets + 1,), and masks of uint8")
    if first[0] != 0 or first[-1] != len(steps) or (np.diff(first) < 0).any():
        raise ValueError("each target's passes begin where those before end")
    segments, at, size = steps.T
    if ((segments < 0) | (segments >= len(program.parts))).any():
        raise ValueError(f"a pass of none of {len(program.parts)} segments")
    layers = np.array(mask_sizes(program), np.int64)[segments]
    if ((size < 1) | (at < 0) | (at + size > len(masks)) | (layers % np.maximum(size, 1) != 0)).any():
        raise ValueError("a mask does not fit the values that it masks")
