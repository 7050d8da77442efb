"""Programs, which backends run: operations over per-sample buffers.

The engine lowers a plan to operations; a backend compiles them once and runs them on micro-batches of samples. There
are two heavy operations (`contraction_ops`) and some twenty light ones (`ops`, which has the table of all).
"""

from __future__ import annotations

from dataclasses import dataclass

from .operation import Operation


@dataclass(frozen=True, eq=False)
class Program:
    """Operations in order, and the buffers they use.

    Attributes
    ----------
    sizes : tuple of int
        Elements of each buffer per sample. Buffer 0 is the input.
    forward, backward : tuple of Operation
        ``backward`` runs once for every target, after one ``forward``.
    segments : tuple of int
        Where each segment of ``backward`` ends, if a run says which of them it takes for which target (`Passes`). What
        several segments use, or the forward pass leaves, is in memory of its own.
    output : int
        The model's output.
    result : int or None
        The relevance of the input; None for a forward pass.
    dtype : {"float32", "float64"}
    operands : {"whole", "rounded", "split", "pairs"}
        What contractions multiply: float32 or float64 as it is; both operands rounded to TF32's 10 mantissa bits; or
        both as sums of two TF32 numbers ("split") or, where the processor has tile registers, of two bfloat16
        ("pairs"), three of whose four products are added (3xTF32, BF16x2).
    keep : tuple of int
        Buffers whose values the caller can request.
    input_range : (low, high) or None
        The valid range of inputs; others are an error.
    allow_nan : bool
        Whether NaN in the input marks masked features.
    """

    sizes: tuple[int, ...]
    forward: tuple[Operation, ...]
    backward: tuple[Operation, ...]
    output: int
    result: int | None
    dtype: str = "float32"
    operands: str = "whole"
    keep: tuple[int, ...] = ()
    input_range: tuple[float, float] | None = None
    allow_nan: bool = False
    segments: tuple[int, ...] = ()

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """Where each segment of ``backward`` begins and ends; a single one unless runs choose."""
        ends = self.segments or (len(self.backward),)
        return tuple(zip((0, *ends[:-1]), ends, strict=True))

    @property
    def tf32(self) -> bool:
        """Whether both operands of every contraction are rounded to 10 mantissa bits."""
        return self.operands == "rounded"
