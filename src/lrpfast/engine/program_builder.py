"""A program while it is built: its operations in order, its buffers, and which buffer has each value of the plan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels import Backend
from ..kernels.contraction_ops import Contract, Divide, Output, Redistribute, Share, Term
from ..kernels.operation import Operation
from ..kernels.ops import Gather, Scatter
from ..kernels.program import Program
from ..rules import Stabilizer
from .plan import GroupPlan, Plan, Step
from .trace import GroupTrace, LayerTrace, StepsTrace

#: What a denominator of exactly 0 counts as: far below what rounds, far above where c · z loses digits.
SMALLEST = {"float32": 1e-24, "float64": 1e-200}


class ProgramBuilder:
    """Collects the operations of a program. Values are the plan's, buffers the program's.

    Parameters
    ----------
    plan : Plan
    dtype : str
        "float32" or "float64".
    operands : str
        What contractions multiply (`Program.operands`).
    backend : Backend or None
        None for a forward pass alone.
    trace : bool
        Whether the balance of relevance is wanted, and nothing may be fused that it looks at.
    stored : set of int
        Values that must have a buffer, and their relevance one.
    stored_relevance : set of int
        The buffers of their relevance, in which nothing else may be.

    Attributes
    ----------
    sizes : list of int
        Of each buffer, for one sample. Buffer 0 is the input.
    forward, backward : list of Operation
    buffers : dict
        The buffer of each value.
    present : int or None
        The buffer that has 1 where a feature is present and 0 where it is NaN.
    state : dict
        What a layer's forward pass leaves for its backward pass, by the layer's output value.
    sources, pre_activations, activations, denominators : dict
        Of each linear layer, by its output value: the buffers of its inputs, of its z (bias included), of the ReLU
        above it; and, by (output value, group), of z of a group's own.
    weight_parts : dict
        Parts of weights, each one array.
    traces : list of LayerTrace
    times_input : bool
        Whether gradients are multiplied by the input, which of an embedding is its output.
    copies_input : bool
        Whether the input is copied from buffer 0, which nothing else reads.
    """

    def __init__(
        self,
        plan: Plan,
        dtype: str,
        operands: str,
        backend: Backend | None,
        *,
        trace: bool,
        stored: frozenset[int] = frozenset(),
    ) -> None:
        self.plan, self.dtype, self.operands, self.backend, self.trace = plan, np.dtype(dtype), operands, backend, trace
        self.stored = stored
        self.stored_relevance: set[int] = set()
        self.explains = backend is not None
        self.inputs = [plan.values[i] for i in plan.model.inputs]
        self.outputs = [plan.values[i] for i in plan.model.outputs]
        self.sizes: list[int] = [sum(plan.sizes[v] for v in self.inputs)]
        self.forward: list[Operation] = []
        self.backward: list[Operation] = []
        self.present: int | None = None
        self.buffers: dict[int, int] = {}
        self.state: dict[int, Any] = {}
        self.sources: dict[int, list[int]] = {}
        self.pre_activations: dict[int, int] = {}
        self.activations: dict[int, int] = {}
        self.denominators: dict[tuple[int, int], int] = {}
        self.weight_parts: dict[tuple[Any, ...], Any] = {}
        self.traces: list[LayerTrace] = []
        self.times_input = False
        self.copies_input = False

    def buffer(self, size: int) -> int:
        """A new buffer's number."""
        self.sizes.append(size)
        return len(self.sizes) - 1

    def stretch(self, source: int, index: np.ndarray | None) -> int:
        """The source's values in another order or number, on the way forwards."""
        if index is None:
            return source
        out = self.buffer(len(index))
        self.forward.append(Gather(source, out, index))
        return out

    def shrink(self, source: int, index: np.ndarray | None, size: int) -> int:
        """What `stretch` did, undone with relevance: summed where a value was repeated."""
        if index is None:
            return source
        out = self.buffer(size)
        self.backward.append(Scatter(source, out, index))
        return out

    def permuted(self, source: int, shape: tuple[int, int]) -> int:
        """A matrix's transpose, on the way backwards."""
        index = np.arange(math.prod(shape), dtype=np.int64).reshape(shape).T.ravel()
        out = self.buffer(len(index))
        self.backward.append(Gather(source, out, index))
        return out

    def divided(
        self, r: int, z: int, size: int, stabilizer: Stabilizer, bias: np.ndarray | None = None
    ) -> tuple[int, GroupTrace]:
        """s = r / stabilized z, and what the balance needs of it."""
        s = self.buffer(size)
        self.backward.append(self.divide(r, z, s, stabilizer))
        return s, GroupTrace(GroupPlan(1.0, stabilizer, 0, None, "output", (), ()), s, z, None, bias)

    def divide(self, r: int, z: int | np.ndarray, out: int, stabilizer: Stabilizer) -> Divide:
        """s = r / stabilized z, as an operation that the caller places."""
        return Divide(r, z, out, float(self.dtype.type(stabilizer.value)), stabilizer.kind)

    def nonzero(self, z: int, size: int) -> int:
        """z with the smallest of numbers in place of 0, so that relevance that vanishes with z is not lost there."""
        out = self.buffer(size)
        one = Term(z, np.ones((1, 1), self.dtype))
        outputs = (Output(out, zero=SMALLEST[self.dtype.name]),)
        self.forward.append(Contract((one,), outputs, 1, diagonal=True, tf32=False))
        return out

    def elementwise(self, source: int, x: int, out: int, share: Share) -> Redistribute:
        """out = coefficient · part(x) ⊙ source, as an operation that the caller places."""
        one = Term(source, np.ones((1, 1), self.dtype))
        return Redistribute((one,), (share,), x, out, 1, diagonal=True, tf32=False)

    def note(
        self,
        step: Step,
        incoming: int,
        outgoing: Sequence[int],
        groups: tuple[GroupTrace, ...] = (),
        lost_at: np.ndarray | None = None,
        remainder: bool = False,
        steps: StepsTrace | None = None,
    ) -> None:
        """Keep what the balance of one layer is made of; a layer's last word counts."""
        if not self.trace:
            return
        if self.traces and self.traces[-1].step is step:
            del self.traces[-1]
        self.traces.append(LayerTrace(step, incoming, tuple(outgoing), groups, lost_at, remainder, steps))

    def traced_buffers(self) -> set[int]:
        """The buffers that the balance of relevance looks at."""
        buffers: set[int] = set()
        for t in self.traces:
            buffers |= {t.incoming, *t.outgoing, *([t.steps.account] if t.steps else [])}
            for g in t.groups:
                buffers |= {b for b in (g.s, g.z, g.mask_z) if isinstance(b, int)}
        return buffers

    def forward_program(self, output: int) -> Program:
        """The program of the forward pass alone."""
        return Program(tuple(self.sizes), tuple(self.forward), (), output, None, self.dtype.name, self.operands)
