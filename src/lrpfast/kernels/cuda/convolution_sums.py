"""The sums of a contraction over a plain convolution, by cuDNN: a plane for each term, which our epilogue finishes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..codes import INPUT_PARTS
from ..contraction_ops import Term
from . import cudnn
from .convolutions import Convolution, NotPlain, PlainConvolution
from .device_arrays import DeviceArrays
from .structs import BUFFER, CONTRACTION, INPUT, RESULT, TERM

#: Parts of the scratch memory begin at multiples of this many bytes.
ALIGN = 256
#: The largest number of batch sizes whose plans are remembered here.
MOST_SIZES = 64


class ConvolutionSums:
    """What cuDNN computes of a contraction.

    Parameters
    ----------
    parts : sequence of `contractions.Part`
        The terms, each with its accumulator and scale.
    sums : int
        The number of accumulators.
    columns : int
        Channels of the output, of all groups.
    sizes : sequence of int
        Values of each buffer for each sample.
    arrays : DeviceArrays
    locate : callable
        Where a buffer lies.
    rounded : bool
        Whether operands are rounded to TF32.
    dtype : numpy.dtype
    device : int

    Raises
    ------
    NotPlain
        cuDNN cannot compute these terms; the message says why.
    """

    def __init__(
        self,
        parts: Sequence[Any],
        sums: int,
        columns: int,
        sizes: Sequence[int],
        arrays: DeviceArrays,
        locate: Callable[[int], tuple[int, int]],
        rounded: bool,
        dtype: np.dtype,
        device: int,
    ) -> None:
        self._rounded, self._dtype, self._device = rounded, dtype, device
        self._plans: dict[int, list[cudnn.Plan] | str] = {}
        terms_of = [[t for t, p in enumerate(parts) if p.accumulator == a] for a in range(sums)]
        self._planes = max(map(len, terms_of))  # of each sum
        #: the term of each plane, None where a sum has fewer than others
        self._terms = [t for terms in terms_of for t in (*terms, *[None] * (self._planes - len(terms)))]
        out = parts[0].term.geometry.out
        self._plane_values = int(np.prod(out)) * columns  # for each sample
        if len(self._terms) > 1 and self._plane_values * dtype.itemsize % 16:
            raise NotPlain("several sums whose values for a sample are no multiple of 16 bytes")
        found: dict[int, PlainConvolution] = {}
        self._plain = []
        for part in parts:
            term: Term = part.term
            if id(term.geometry) not in found:
                assert term.geometry is not None and isinstance(term.weights, tuple)
                found[id(term.geometry)] = PlainConvolution(term.geometry, term.weights)
            self._plain.append(found[id(term.geometry)])
        self.convolutions: list[Convolution] = [p.convolution for p in self._plain]
        self._filters = [
            self._filter(part.term, part.scale, p, arrays) for part, p in zip(parts, self._plain, strict=True)
        ]
        self._sources = [locate(p.term.source)[0] for p in parts]
        self._source_sizes = [sizes[p.term.source] for p in parts]
        self._same = [(p.term.source, p.term.part) for p in parts]
        # a caller's array may begin at any value, and cuDNN's engines read 16 bytes at a time
        self._copied = [
            rounded or p.term.part != "x" or s in (INPUT, RESULT) for p, s in zip(parts, self._sources, strict=True)
        ]
        self._record = self._copies(parts, arrays, locate)

    def _filter(self, term: Term, scale: float, plain: PlainConvolution, arrays: DeviceArrays) -> int:
        assert isinstance(term.weights, tuple)
        weights = term.weights
        origin = None if term.origin is None else (term.origin, "filter", plain.arrangement)
        return arrays.arranged(weights, lambda: plain.filter(weights), self._rounded, term.sign, scale, origin)

    def _copies(self, parts: Sequence[Any], arrays: DeviceArrays, locate: Callable[[int], tuple[int, int]]) -> Any:
        """The record by which a kernel copies the terms' sources, their parts taken and rounded."""
        terms = np.zeros(len(parts), TERM)
        for record, part in zip(terms, parts, strict=True):
            record["source"] = np.array(locate(part.term.source), BUFFER)
            record["part"], record["round"] = INPUT_PARTS[part.term.part], self._rounded
        whole = np.zeros((), CONTRACTION)
        whole["terms_count"], whole["terms"] = len(terms), arrays.put(terms)
        return arrays.record(whole)

    def _plane(self, samples: int) -> int:
        """Bytes of a plane: planes follow one another without a gap."""
        return samples * self._plane_values * self._dtype.itemsize

    def _layout(self, samples: int) -> tuple[int, int, int]:
        """Where in the scratch memory a source's copy and cuDNN's workspace begin, and where the latter ends."""
        planes = _up(len(self._terms) * self._plane(samples))
        copies = (
            samples * n * self._dtype.itemsize for n, c in zip(self._source_sizes, self._copied, strict=True) if c
        )
        workspace = planes + _up(max(copies, default=0))
        needed = max(cudnn.workspace_bytes(c, samples, self._dtype) for c in self.convolutions)
        return planes, workspace, workspace + _up(needed)

    def scratch(self, samples: int) -> int:
        """Values of scratch memory for this number of samples."""
        return (self._layout(samples)[2] + ALIGN) // self._dtype.itemsize

    def refusal(self, samples: int) -> str | None:
        """Why cuDNN cannot convolve this number of samples, or None."""
        plans = self._plans_for(samples)
        return plans if isinstance(plans, str) else None

    def _plans_for(self, samples: int) -> list[cudnn.Plan] | str:
        """A plan for each term, or why there is none."""
        known = self._plans.get(samples)
        if known is not None:
            return known
        plans: list[cudnn.Plan] | str = []
        for convolution in self.convolutions:
            plan = cudnn.find_plan(self._device, convolution, samples, self._dtype, self._rounded)
            if isinstance(plan, str):
                plans = plan
                break
            assert isinstance(plans, list)
            plans.append(plan)
        if len(self._plans) >= MOST_SIZES:
            self._plans.clear()
        self._plans[samples] = plans
        return plans

    def launch(self, chunk: Any, plane_at: int) -> tuple[int, int]:
        """Queue the convolutions; returns the address of the planes, and how many there are of each sum.

        A single plane is where the result goes, ``plane_at``, unless that is a caller's array.
        """
        samples = chunk.samples
        scratch = _up(chunk.scratch)
        copy, workspace, _ = (scratch + at for at in self._layout(samples))
        planes = scratch
        if len(self._terms) == 1 and plane_at not in (INPUT, RESULT):
            planes = chunk.at(plane_at)
        plane, copied, plans = self._plane(samples), None, self._plans_for(samples)
        assert isinstance(plans, list)
        for n, t in enumerate(self._terms):
            if t is None:
                first = (planes + n * plane - chunk.work.data.ptr) // self._dtype.itemsize
                chunk.work[first : first + plane // self._dtype.itemsize].fill(0)
                continue
            source = chunk.at(self._sources[t])
            if self._copied[t]:
                if copied != self._same[t]:
                    values = samples * self._source_sizes[t]
                    chunk.launch("split_k_reduce", "rows_of_term", values, (self._record, np.int32(t), np.uint64(copy)))
                    copied = self._same[t]
                source = copy
            plans[t].run(self._device, source, self._filters[t], planes + n * plane, workspace)
        return planes, self._planes


def _up(nbytes: int) -> int:
    """The next multiple of ALIGN."""
    return -(-nbytes // ALIGN) * ALIGN
