"""Light operations become parts of the contractions before them: fewer launches, and fewer passes over memory.

A residual network has, for every block, a sum forwards, and backwards the division by that sum, a share for each of its
inputs, a sum of relevances and the divisions of the layers below. All of these go value by value, so the kernel of the
contraction that comes before can do them while it has the values in registers. The arithmetic and its order stay the
same, and so do the bits.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ...errors import DeviceError
from ..contraction_ops import Branch, Contract, Divide, Output, Redistribute
from ..memory_plan import touched
from ..operation import Operation
from ..ops import Accumulate
from ..program import Program

#: "1": light operations are fused; "0": each is a launch of its own. Set by LRPFAST_GPU_FUSE.
FUSE = os.environ.get("LRPFAST_GPU_FUSE", "1")


def fuse(program: Program) -> Program:
    """The program with fewer operations, which computes the same."""
    if FUSE not in ("0", "1"):
        raise DeviceError(f"LRPFAST_GPU_FUSE={FUSE!r} must be '1' or '0'")
    # where the backward pass has several segments, these are ranges of its operations, and run in any order
    if FUSE == "0" or program.segments:
        return program
    fused = _Fusion(program)
    fused.sums_forwards()
    fused.sums_of_relevance()
    fused.divisions()
    fused.branches()
    kept = [[o for o in pass_ if o is not None] for pass_ in (fused.forward, fused.backward)]
    return replace(program, forward=tuple(kept[0]), backward=tuple(kept[1]))


class _Fusion:
    """A program while its operations are fused: those that are gone are None."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.forward: list[Operation | None] = list(program.forward)
        self.backward: list[Operation | None] = list(program.backward)
        result = () if program.result is None else (program.result,)
        self._outside = {0, program.output, *result, *program.keep}

    def _writers(self, operations: Iterable[Operation | None]) -> dict[int, list[int]]:
        """Which operations write each buffer."""
        found: dict[int, list[int]] = {}
        for at, operation in enumerate(operations):
            for buffer in () if operation is None else touched(operation)[1]:
                found.setdefault(buffer, []).append(at)
        return found

    def _readers(self) -> dict[int, int]:
        """How many operations read each buffer; what is asked for from outside is read there too."""
        found = dict.fromkeys(self._outside, 1)
        for operation in (*self.forward, *self.backward):
            for buffer in () if operation is None else touched(operation)[0]:
                found[buffer] = found.get(buffer, 0) + 1
        return found

    def _redistribution(self, buffer: int, writers: dict[int, list[int]]) -> tuple[int, Redistribute] | None:
        """The one operation that writes a relevance, if more can be made of it there."""
        at = writers.get(buffer, [])
        if len(at) != 1:
            return None
        operation = self.backward[at[0]]
        plain = isinstance(operation, Redistribute) and operation.divide is None and not operation.branches
        return (at[0], operation) if plain and isinstance(operation, Redistribute) else None

    def sums_forwards(self) -> None:
        """A sum of two layers' outputs, perhaps with a ReLU, is one more output of the later one."""
        writers = self._writers(self.forward)
        for i, operation in enumerate(self.forward):
            if not isinstance(operation, Contract) or not _adds(operation) or len(operation.terms) != 2:
                continue
            (out,) = operation.outputs
            places = [writers.get(t.source, [-1]) for t in operation.terms]  # -1 is the input
            if any(len(p) != 1 for p in places) or places[0] == places[1]:
                continue
            later = int(places[1] > places[0])
            at, source, other = places[later][0], operation.terms[later].source, operation.terms[1 - later].source
            before = self.forward[at] if at >= 0 else None
            if not isinstance(before, Contract) or len(before.outputs) >= MOST_OUTPUTS:
                continue
            of = next(o for o in before.outputs if o.buffer == source)
            if of.relu or of.zero or of.plus is not None:
                continue
            sizes = self._program.sizes
            if not sizes[source] == sizes[other] == sizes[out.buffer]:
                continue
            added = replace(of, buffer=out.buffer, relu=out.relu, zero=out.zero, plus=other)
            self.forward[at] = replace(before, outputs=(*before.outputs, added))
            self.forward[i] = None
            writers[out.buffer] = [at]
        self._drop_unread_outputs()

    def _drop_unread_outputs(self) -> None:
        """Outputs that only the sum read, as where nothing is explained."""
        readers = self._readers()
        for i, operation in enumerate(self.forward):
            if isinstance(operation, Contract) and any(o.plus is not None for o in operation.outputs):
                read: tuple[Output, ...] = tuple(o for o in operation.outputs if readers.get(o.buffer))
                self.forward[i] = replace(operation, outputs=read or operation.outputs[:1])

    def sums_of_relevance(self) -> None:
        """The sum of two layers' relevances is made by the later one."""
        readers, writers = self._readers(), self._writers(self.backward)
        for i, operation in enumerate(self.backward):
            if not isinstance(operation, Accumulate) or len(operation.sources) != 2:
                continue
            places = [writers.get(b, []) for b in operation.sources]
            if any(len(p) != 1 for p in places) or operation.out in operation.sources:
                continue
            later = int(places[1] > places[0])
            source, other = operation.sources[later], operation.sources[1 - later]
            found = self._redistribution(source, writers)
            if found is None or found[1].plus is not None or readers[source] != 1 or places[0] == places[1]:
                continue
            at, before = found
            self.backward[at] = replace(before, plus=other, out=operation.out)
            self.backward[i] = None
            writers[operation.out] = [at]

    def divisions(self) -> None:
        """What a layer divides by, where the layer above is not the operation just before."""
        readers, writers = self._readers(), self._writers(self.backward)
        written = {b for o in self.forward if o is not None for b in touched(o)[1]}
        for i, operation in enumerate(self.backward):
            if not isinstance(operation, Divide) or operation.out == operation.relevance:
                continue
            divisors = {b for b in (operation.z, operation.mask_z) if isinstance(b, int)}
            found = self._redistribution(operation.relevance, writers)
            if found is None or readers[operation.relevance] != 1 or not divisors <= written:
                continue
            at, before = found
            divide = replace(operation, relevance=operation.out)
            self.backward[at] = replace(before, out=operation.out, divide=divide)
            self.backward[i] = None
            writers[operation.out] = [at]

    def branches(self) -> None:
        """The shares of a sum's inputs are written by what computes the relevance that they are shares of."""
        writers = self._writers(self.backward)
        written = {b for o in self.forward if o is not None for b in touched(o)[1]} | {0}
        for i, operation in enumerate(self.backward):
            if not isinstance(operation, Redistribute) or operation.branches or operation.out in self._outside:
                continue
            reading = [
                j for j, o in enumerate(self.backward) if o is not None and operation.out in touched(o)[0] and j != i
            ]
            shares = [self.backward[j] for j in reading]
            if writers[operation.out] != [i] or not shares or not all(_shares_a_sum(o) for o in shares):
                continue
            made = tuple(_branch(o) for o in shares if isinstance(o, Redistribute))
            if len(made) > MOST_OUTPUTS or not all(touched_by(b) <= written for b in made):
                continue
            if any(operation.out in touched_by(b) for b in made):
                continue
            self.backward[i] = replace(operation, out=made[0].out, branches=made)
            for j, branch in zip(reading, made, strict=True):
                self.backward[j] = None
                writers[branch.out] = [i]


#: Outputs, and branches, of one operation.
MOST_OUTPUTS = 8


def touched_by(branch: Branch) -> set[int]:
    """The buffers that a branch reads."""
    divide = branch.divide
    divisors = () if divide is None else (divide.z, divide.mask_z)
    return {branch.x, *(b for b in divisors if isinstance(b, int))}


def _ones(operation: Contract | Redistribute) -> bool:
    """Whether every term goes value by value, with one weight for all values."""
    return operation.diagonal and all(
        t.geometry is None and t.part == "x" and not t.sign and np.size(t.weights) == 1 for t in operation.terms
    )


def _adds(operation: Contract) -> bool:
    """Whether it is a plain sum."""
    if not _ones(operation) or len(operation.outputs) != 1 or any(np.ravel(t.weights) != 1 for t in operation.terms):
        return False
    out = operation.outputs[0]
    plain = out.constant is None and tuple(out.coefficients) == (1.0,) and out.plus is None
    return plain and all(t.accumulator == 0 for t in operation.terms)


def _shares_a_sum(operation: Operation | None) -> bool:
    """Whether it is what a sum's layer does with relevance for one of its inputs."""
    if not isinstance(operation, Redistribute) or not _ones(operation) or operation.branches:
        return False
    (share, *more), single = operation.shares, len(operation.terms) == 1
    return single and not more and share.bound is None and operation.plus is None


def _branch(operation: Redistribute) -> Branch:
    """What it does, as a branch."""
    (term,), (share,) = operation.terms, operation.shares
    weight = float(np.ravel(np.asarray(term.weights))[0])
    return Branch(operation.x, operation.out, share.part, weight, share.coefficient, operation.divide)
