"""Contractions and redistributions as launches: the kernel, the tile and the splits of K, or a library's product.

One accumulator, or two whose terms read the same rows (such as w+ for one, w- for the other), are finished in the
kernel that computes them. Otherwise the sums go to planes of scratch memory, and another kernel finishes them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import DeviceError, InputError
from ..codes import INPUT_PARTS, SHARE_PARTS, STABILIZERS
from ..contraction_ops import Contract, Divide, Redistribute, Share, Term
from ..geometry import Geometry
from ..operation import row_of
from ..program import Program
from ..verify import MAX_SUMS
from . import cublas, cudnn, tiles
from .convolution_sums import ConvolutionSums
from .convolutions import NotPlain
from .device_arrays import DeviceArrays
from .structs import BRANCH, BUFFER, CONTRACTION, OUTPUT, POINTER, SHARE, TERM
from .tiles import Tile

#: The longest chain of multiply-adds in a sum: longer ones are split, because rounding errors grow along a chain.
LONGEST_CHAIN = 8192
#: For few tiles, K is split to occupy all processors: the least depth of a split, and the largest number of splits.
LEAST_DEPTH, MOST_SPLITS = 128, 32
#: The number of tiles for each processor from which on K is not split, and the cost of a split in tile times.
FULL, PLANE = 3, 0.02
#: Up to this number of columns, or depth, our kernels reach the memory's speed and fuse the epilogue.
NARROW = 16
#: Below this amount of work, a library call costs more than it saves, and cannot be part of a replayed graph.
LIBRARY_FLOPS = 1 << 27
#: "own": our kernel gathers while it multiplies; "cudnn": cuDNN computes plain convolutions; "library": a convolution's
#: rows are copied (im2col) and cuBLAS multiplies. Set by LRPFAST_GPU_CONVOLUTION.
CONVOLUTION = os.environ.get("LRPFAST_GPU_CONVOLUTION", "own")
#: The largest product of regions, groups and splits in one launch: a grid's third dimension.
MOST_PIECES = 65535
#: The largest number of rows for the tile of few rows.
FEW_ROWS = 32

#: where a buffer lies, and its size
Locate = Callable[[int], tuple[int, int]]


@dataclass(frozen=True)
class Part:
    """A term with scaled weights; perhaps paired with another of the same rows, for accumulator 1."""

    term: Term
    accumulator: int
    scale: float = 1.0
    other: Part | None = None


class Contraction:
    """A `Contract` or `Redistribute`, compiled for one device."""

    def __init__(
        self,
        operation: Contract | Redistribute,
        program: Program,
        arrays: DeviceArrays,
        locate: Locate,
        gpu: Any,
        check: bool,
    ) -> None:
        self.operation, self.gpu, self.dtype = operation, gpu, np.dtype(program.dtype)
        for term in operation.terms:
            if term.geometry is not None:
                arrays.geometry(term.geometry, operation)  # checked, so that the fields below are valid
        row_of(operation).check(operation, program.sizes)
        self.round = program.tf32 and operation.tf32
        self.split = program.operands == "split" and operation.tf32  # on tensor cores, into two TF32 numbers
        self.rows = operation.rows
        out = operation.out if isinstance(operation, Redistribute) else operation.outputs[0].buffer
        self.width = program.sizes[out] // self.rows
        self.geometry: Geometry | None = operation.terms[0].geometry
        self.diagonal = operation.diagonal
        first = operation.terms[0].weights
        first = first[0] if isinstance(first, tuple) else first
        self.groups = first.shape[0] if first.ndim == 3 else 1
        self.columns = self.width // self.groups
        shares = operation.shares if isinstance(operation, Redistribute) else ()
        self.parts, self.shares = self._merge_shares(shares)
        self.sums = 1 + max(p.accumulator for p in self.parts)
        pairs = self._pair_parts()
        self.fused = self.sums if self.sums == 1 or pairs else 0  # the accumulators that a tile's kernel can finish
        self.plane_at = locate(out)[0]  # a single plane can be there as well
        self.depths = [self._depth(p.term, program.sizes[p.term.source]) for p in self.parts]
        self.region_rows = [math.prod(len(a.positions) for a in r.axes) for r in self._regions()] or [self.rows]
        if len(self.region_rows) * self.groups > MOST_PIECES:
            raise InputError(
                f"a layer of {len(self.region_rows):,} tap patterns in {self.groups} groups is too much for a GPU, "
                f"which takes {MOST_PIECES:,} together; use device='cpu'"
            )
        self.library = self._library()
        #: by cuDNN, or None and why not, if it was asked for
        self.convolution, self.refusal = self._by_cudnn(program, arrays, locate)
        self.sources = [locate(p.term.source)[0] for p in self.parts]
        self.matrices = [
            arrays.matrix(_matrix(p.term), self.round, p.term.sign, p.scale, p.term.origin and (p.term.origin, 0, 0))
            for p in self.parts
            if self.library
        ]
        self.record = arrays.record(self._record(pairs or self.parts, program, arrays, locate, check))
        single = pairs and self.library  # each library product has one term
        self.singles = self.record
        if single:
            self.singles = arrays.record(self._record(self.parts, program, arrays, locate, check))
        self._tiles: dict[int, tuple[Tile, int]] = {}

    def __str__(self) -> str:
        size = "×".join(str(n) for n in (self.geometry.source if self.geometry else (1,)) if n > 1)
        direction = "forwards" if isinstance(self.operation, Contract) else "backwards"
        taps = max(1, _taps(self.geometry)) if self.geometry else 1
        channels = f"{max(self.depths) // taps * self.groups}→{self.width}"
        grouped = f", {self.groups} groups" if self.groups > 1 else ""
        return f"{channels} channels, {taps} taps{grouped}, on {size or 1}, {direction}"

    def _regions(self) -> tuple[Any, ...]:
        return () if self.geometry is None else self.geometry.regions

    def _depth(self, term: Term, size: int) -> int:
        if term.geometry is None:
            return size // self.rows
        return _taps(term.geometry) * (size // math.prod(term.geometry.source) // self.groups)

    def _merge_shares(self, shares: tuple[Share, ...]) -> tuple[list[Part], tuple[Share, ...]]:
        """Merge accumulators with the same factor that differ only in their coefficients, and scale their terms."""
        parts = [Part(t, t.accumulator) for t in self.operation.terms]
        sums = {t.accumulator for t in self.operation.terms}
        by_part: dict[tuple[Any, ...], list[Share]] = {}
        for share in shares:
            by_part.setdefault((share.part, id(share.bound)), []).append(share)
        distinct = len({s.accumulator for s in shares}) == len(shares) == len(sums)
        exact = not self.round or all(math.frexp(s.coefficient)[0] in (0.5, -0.5) for s in shares)
        if self.diagonal or len(by_part) == len(shares) or not distinct or not exact:
            return parts, shares
        new: dict[int, tuple[int, float]] = {}
        result = []
        for a, group in enumerate(by_part.values()):
            result.append(replace(group[0], accumulator=a, coefficient=1.0))
            new.update({s.accumulator: (a, s.coefficient) for s in group})
        parts = [Part(p.term, *new[p.accumulator]) for p in parts]
        return sorted(parts, key=lambda p: p.accumulator), tuple(result)

    def _pair_parts(self) -> list[Part] | None:
        """Pairs of terms of two accumulators that read the same rows."""
        if self.sums != 2 or self.diagonal:
            return None
        rest = list(self.parts)
        pairs = []
        while rest:
            p = rest.pop(0)
            for q in rest:
                same = (q.term.source, q.term.part) == (p.term.source, p.term.part)
                same = same and q.term.geometry is p.term.geometry and _laid_out_alike(q.term.weights, p.term.weights)
                if same and q.accumulator != p.accumulator:
                    rest.remove(q)
                    first, second = (p, q) if p.accumulator == 0 else (q, p)
                    pairs.append(replace(first, other=second))
                    break
            else:
                return None
        return pairs

    def _library(self) -> bool:
        """Whether cuBLAS can compute the sums: plain products that are neither narrow nor of small depth."""
        if CONVOLUTION not in ("own", "cudnn", "library"):
            raise DeviceError(f"LRPFAST_GPU_CONVOLUTION={CONVOLUTION!r} must be 'own', 'cudnn' or 'library'")
        if self.diagonal or self.split or not cublas.available():
            return False
        if {p.accumulator for p in self.parts} != set(range(self.sums)):
            return False  # a sum without terms is zero, which no product would write
        single_region = self.groups == 1 and all(
            len(p.term.geometry.regions) == 1 for p in self.parts if p.term.geometry
        )
        if self.geometry is not None and (CONVOLUTION != "library" or not single_region):
            return False
        return min(self.columns, *self.depths) > NARROW

    def _by_cudnn(
        self, program: Program, arrays: DeviceArrays, locate: Locate
    ) -> tuple[ConvolutionSums | None, str | None]:
        """What computes the sums by cuDNN, or why our own kernels do, where `CONVOLUTION` asks for cuDNN."""
        if CONVOLUTION != "cudnn" or self.geometry is None or self.diagonal:
            return None, None
        cudnn.demand()
        if self.split:
            return None, "3xTF32's products are lrpfast's own"
        if min(self.columns, *self.depths) <= NARROW:
            return None, f"so few channels that lrpfast's own kernels are bound by memory ({NARROW} or fewer)"
        try:
            sums = ConvolutionSums(
                *(self.parts, self.sums, self.width, program.sizes, arrays, locate),
                *(self.round, self.dtype, self.gpu.index),
            )
        except NotPlain as error:
            return None, str(error)
        reason = sums.refusal(1)
        return (sums, None) if reason is None else (None, f"cuDNN: {reason}")

    # the record

    def _record(
        self, parts: list[Part], program: Program, arrays: DeviceArrays, locate: Locate, check: bool
    ) -> np.ndarray:
        operation = self.operation
        record = np.zeros((), CONTRACTION)
        terms = np.zeros(len(parts), TERM)
        for i, part in enumerate(parts):
            self._term(terms[i : i + 1], part, program.sizes[part.term.source], arrays, locate)
        self.quads = bool(terms["quads"].all())
        record["quads"] = self.columns % self.quad == 0 and bool((terms["column_step"] == 1).all())
        record["terms_count"], record["terms"] = len(terms), arrays.put(terms)
        record["sums"], record["rows"], record["width"] = self.sums, self.rows, self.width
        record["columns"], record["groups"] = self.columns, self.groups
        record["check"], record["round"] = check, self.round
        record["geometry"] = arrays.geometry(self.geometry, operation) if self.geometry is not None else 0
        nowhere = np.array((0, 0), BUFFER)
        record["x"] = record["out"] = record["plus"] = nowhere
        if isinstance(operation, Contract):
            self._forward(record, operation, arrays, locate)
        else:
            self._backward(record, operation, arrays, locate)
        return record

    def _forward(self, record: np.ndarray, operation: Contract, arrays: DeviceArrays, locate: Locate) -> None:
        """Describe the epilogue of a forward contraction, which writes outputs."""
        outputs = np.zeros(len(operation.outputs), OUTPUT)
        for item, output in zip(outputs, operation.outputs, strict=True):
            item["buffer"], item["relu"], item["zero"] = locate(output.buffer), output.relu, output.zero
            if output.plus is not None:
                item["plus"] = locate(output.plus)
            item["constant"] = arrays.vector(output.constant)
            item["per_row"] = output.constant is not None and np.size(output.constant) > self.width
            item["coefficients"][: len(output.coefficients)] = output.coefficients
        record["outputs_count"], record["outputs"] = len(outputs), arrays.put(outputs)

    def _backward(self, record: np.ndarray, operation: Redistribute, arrays: DeviceArrays, locate: Locate) -> None:
        """Describe the epilogue of a redistribution, which writes relevance."""
        shares = np.zeros(len(self.shares), SHARE)
        for item, share in zip(shares, self.shares, strict=True):
            item["accumulator"], item["coefficient"] = share.accumulator, share.coefficient
            item["part"] = SHARE_PARTS[share.part]
            item["bound"] = arrays.vector(share.bound)
            item["step"] = share.bound is not None and np.size(share.bound) > 1
        record["shares_count"], record["shares"] = len(shares), arrays.put(shares)
        record["x"], record["out"] = locate(operation.x), locate(operation.out)
        _divide(record["divisor"], operation.divide, arrays, locate)
        if operation.plus is not None:
            record["plus"] = locate(operation.plus)
        branches = np.zeros(len(operation.branches), BRANCH)
        for item, branch in zip(branches, operation.branches, strict=True):
            item["x"], item["out"], item["part"] = locate(branch.x), locate(branch.out), SHARE_PARTS[branch.part]
            item["weight"], item["coefficient"] = branch.weight, branch.coefficient
            _divide(item["divisor"], branch.divide, arrays, locate)
        record["branches_count"], record["branches"] = len(branches), arrays.put(branches)

    def _term(self, record: np.ndarray, part: Part, size: int, arrays: DeviceArrays, locate: Locate) -> None:
        term = part.term
        record["source"] = np.array(locate(term.source), BUFFER)
        record["part"], record["round"] = INPUT_PARTS[term.part], self.round
        record["accumulator"] = part.accumulator
        source_rows = self.rows if term.geometry is None else math.prod(term.geometry.source)
        record["stride"] = size // source_rows
        record["channels"] = size // source_rows // self.groups
        record["quads"] = not (record["stride"] | record["channels"]) % self.quad and record["source"]["at"] >= 0
        if term.geometry is not None:
            record["geometry"] = arrays.geometry(term.geometry, self.operation)
        self._weights(record, part, "weights", arrays)
        if part.other is not None:
            self._weights(record, part.other, "others", arrays)

    def _weights(self, record: np.ndarray, part: Part, field: str, arrays: DeviceArrays) -> None:
        """Describe the weights of every region, in their layout, and the part of them that the term uses."""
        term = part.term
        matrices = term.weights if isinstance(term.weights, tuple) else (term.weights,)
        if self.diagonal:
            same_width = all(w.shape[1] == 1 for w in matrices)
            wide = [w if same_width or w.shape[1] == self.width else np.repeat(w, self.width, 1) for w in matrices]
            addresses = [arrays.vector(w, self.round) for w in wide]
            record["alike"] = same_width
        elif term.geometry is None:
            address, record["row_step"], record["column_step"] = arrays.matrix(
                matrices[0], self.round, term.sign, part.scale, term.origin
            )
            addresses = [address]
        else:
            origins = [None if term.origin is None else (term.origin, r) for r in range(len(matrices))]
            scaled = (self.round, term.sign, part.scale)
            addresses = [arrays.vector(w, *scaled, origin) for w, origin in zip(matrices, origins, strict=True)]
            record["row_step"], record["column_step"] = self.columns, 1
        record[field] = arrays.put(np.array(addresses, POINTER))

    # a chunk of samples

    @property
    def quad(self) -> int:
        """The number of values in 16 bytes."""
        return 16 // self.dtype.itemsize

    @property
    def kind(self) -> str:
        if self.dtype == np.float64:
            return "float64"
        if self.split:
            return "3xtf32"
        return "tensor" if self.round and self.gpu.tensor_cores else "float32"

    def tile(self, samples: int) -> tuple[Tile, int]:
        """(tile, splits) for this number of samples."""
        if samples not in self._tiles:
            self._tiles[samples] = self._choose_tile(samples)
        return self._tiles[samples]

    def _choose_tile(self, samples: int) -> tuple[Tile, int]:
        rows = samples * max(self.region_rows)
        name, sums = "wide", self.fused or 1
        if self.columns <= NARROW:
            name = "narrow"
        elif rows <= FEW_ROWS:
            name = "few"
        elif self.columns <= tiles.tile(self.kind, f"middle_{sums}").columns:
            name = "middle"
        tile = tiles.tile(self.kind, f"{name}_{sums}")
        pieces = len(self.region_rows) * self.groups
        if name == "wide":
            tile = tiles.trial_of(self.kind, sums, rows, self.columns, pieces, self.quads, self.gpu) or tile
        blocks = -(-rows // tile.rows) * -(-self.columns // tile.columns) * pieces
        depth = max(self.depths)
        splits = max(1, -(-depth // LONGEST_CHAIN))
        if blocks < FULL * self.gpu.processors:
            max_splits = max(splits, min(depth // LEAST_DEPTH, MOST_SPLITS))
            splits = min(range(splits, max_splits + 1), key=lambda s: self._turns(blocks, s))
        return tile, min(splits, MOST_PIECES // pieces)

    def _turns(self, blocks: int, splits: int) -> float:
        """The estimated time of these tiles: full turns of all processors, and each split's plane."""
        turns = -(-blocks * splits // int(self.gpu.processors))
        return turns / splits + PLANE * (splits - 1)

    def by_library(self, samples: int) -> bool:
        """Whether cuBLAS or cuDNN computes the sums of this number of samples."""
        if not self._is_large(samples):
            return False
        return self.library or (self.convolution is not None and self.convolution.refusal(samples) is None)

    def _is_large(self, samples: int) -> bool:
        """Whether this number of samples is work enough for a library's call."""
        return 2 * samples * self.rows * self.width * max(self.depths) >= LIBRARY_FLOPS

    def scratch(self, samples: int) -> int:
        """The number of elements of scratch memory for this number of samples."""
        plane = samples * self.rows * self.width
        if self.diagonal:
            return 0
        if self.library and self._is_large(samples):
            copies = [samples * self.rows * d for p, d in zip(self.parts, self.depths, strict=True) if self._copied(p)]
            return max(copies, default=0) + (self.sums * plane if self.sums > 1 else 0)
        splits = self.tile(samples)[-1]
        own = 0 if self.fused and splits == 1 else self.sums * splits * plane
        if self.convolution is not None and self._is_large(samples):  # of one of the two: no plan is made here
            return max(own, self.convolution.scratch(samples))
        return own

    def _copied(self, part: Part) -> bool:
        """Whether a library's product needs a copy of the term's rows as a matrix."""
        return self.round or part.term.geometry is not None or part.term.part != "x"

    def launch(self, chunk: Any) -> None:
        """Queue the kernels for a chunk on the current stream."""
        max_sums = next(n for n in (1, 2, MAX_SUMS) if n >= self.sums)  # the number of sums in the kernel
        if self.diagonal:
            rows = chunk.samples * max(self.region_rows) * self.width
            chunk.launch("channelwise", f"channelwise_{max_sums}", rows, (self.record,), y=len(self.region_rows))
            return
        if self.by_library(chunk.samples):
            if self.convolution is not None:
                planes, splits = self.convolution.launch(chunk, self.plane_at)
            else:
                planes, splits = self._products(chunk), 1
        else:
            tile, splits = self.tile(chunk.samples)
            fused = self.fused and splits == 1
            planes = 0 if fused else chunk.scratch
            grid = (
                -(-chunk.samples * max(self.region_rows) // tile.rows),
                -(-self.columns // tile.columns),
                len(self.region_rows) * self.groups * splits,
            )
            for a in range(1 if self.fused else self.sums):
                arguments = (self.record, np.int32(a), np.int32(splits), np.uint64(planes))
                chunk.launch_grid(tile.module, self.kind, tile.kernel, grid, arguments, tile.shared)
            if fused:
                return
        elements = chunk.samples * self.rows * self.width
        chunk.launch(
            "split_k_reduce",
            f"split_k_reduce_{max_sums}",
            -(-elements // 4),
            (self.record, np.uint64(planes), np.int32(splits)),
        )

    def _products(self, chunk: Any) -> int:
        """Compute the sums by cuBLAS; returns the address of their planes."""
        plane = chunk.samples * self.rows * self.width
        planes: int = chunk.at(self.plane_at) if self.sums == 1 else chunk.scratch
        copy = chunk.scratch + (self.sums * plane if self.sums > 1 else 0) * self.dtype.itemsize
        accumulators: set[int] = set()
        with cublas.HANDLES.lend(self.gpu.index) as handle:
            for t, part in enumerate(self.parts):
                source = chunk.at(self.sources[t])
                if self._copied(part):
                    values = chunk.samples * self.rows * self.depths[t]
                    chunk.launch("split_k_reduce", "rows_of_term", values, (self.singles, np.int32(t), np.uint64(copy)))
                    source = copy
                cublas.gemm(
                    handle,
                    (chunk.samples * self.rows, self.columns, self.depths[t]),
                    source,
                    self.matrices[t],
                    planes + part.accumulator * plane * self.dtype.itemsize,
                    self.dtype,
                    tf32=self.round,
                    add=part.accumulator in accumulators,
                )
                accumulators.add(part.accumulator)
        return planes


def _matrix(term: Term) -> np.ndarray:
    """The weights (K, N) of a term with one region and one group."""
    return term.weights[0][0] if isinstance(term.weights, tuple) else term.weights


def _divide(record: np.ndarray, divide: Divide | None, arrays: DeviceArrays, locate: Locate) -> None:
    """Describe a division."""
    if divide is None:
        return
    record["divides"], record["mask"] = 1, divide.mask
    record["stabilizer"], record["value"] = STABILIZERS[divide.kind], divide.stabilizer
    if isinstance(divide.z, int):
        record["z"] = locate(divide.z)
    else:
        record["constant"] = arrays.vector(divide.z)
    if divide.mask_z is not None:
        record["mask_z"] = locate(divide.mask_z)


def _taps(geometry: Geometry) -> int:
    """The largest number of taps of a region."""
    return max(int(math.prod(a.index.shape[1] for a in r.axes)) for r in geometry.regions)


def _laid_out_alike(one: Any, other: Any) -> bool:
    """Whether the weights of two terms have the same shapes and memory layouts."""
    if isinstance(one, tuple):
        return isinstance(other, tuple) and [w.shape for w in one] == [w.shape for w in other]
    return not isinstance(other, tuple) and (one.shape, one.strides) == (other.shape, other.strides)
