"""Linear layers in one form: which source positions each output sees, through which weights.

A dense layer, a convolution and its transpose, a depthwise one, average pooling,
batch normalization and a sum are the same table with another contraction. An
`Operator` holds that table; ``plan_linear.py`` decides what to contract, ``linear_ops.py``
asks here for the weights and geometries.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..kernels.geometry import Axis, Geometry, Region
from ..lazy import lazy_property
from ..model.layers import (
    AdaptiveAveragePool,
    Add,
    Average,
    AveragePool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    DepthwiseConv,
    GlobalAveragePool,
    GlobalLogSumExp,
    GlobalMaxPool,
    Interpolate,
    Layer,
    LocallyConnected,
    MaxPool,
    Subtract,
    UpSample,
)
from ..model.layers.window import pads, trim
from ..rules import WEIGHT_PARTS
from .taps import Taps, slide

Fixed = tuple[int, ...]
#: Weight parts that kernels take by sign while they load weights.
_SIGNS = {"w+": 1, "w-": -1, "|w|": 2}


_ONE = Taps(1, np.zeros((1, 1), np.int64))


def _three(axes: list[Taps]) -> tuple[Taps, Taps, Taps]:
    return (*[_ONE] * (3 - len(axes)), *axes)  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Operator:
    """z = Σ_sources x · W + b for one layer and input shape.

    Attributes
    ----------
    kernels : tuple of arrays
        One for each source. Dense: (taps, groups, in, out) of one group; diagonal: (taps, C),
        or (taps, 1) for all channels alike; local: (positions, taps, 1, in, out).
    bias : array or None
        Shape (out channels,), or (rows, out channels).
    rows, out_rows, columns, out_columns : int
        Grid positions and channels of a source and of the output.
    taps : three Taps, or None where row m makes row m
    kind : {"dense", "diagonal", "local"}
    tf32 : bool
        Whether TF32 rounds its operands; as on a GPU, only convolutions and matrix products do.
    uniform : bool
        Whether all taps of all channels have the same weight, apart from factors: one is written for all.
    """

    kernels: tuple[np.ndarray, ...]
    bias: np.ndarray | None
    rows: int
    out_rows: int
    columns: int
    out_columns: int
    taps: tuple[Taps, Taps, Taps] | None = None
    kind: str = "dense"
    tf32: bool = True
    text: str = ""
    uniform: bool = False
    _cache: dict[Any, Geometry] = field(default_factory=dict, repr=False)

    @lazy_property
    def fan_in(self) -> np.ndarray:
        """How many inputs each output row's sums run over, shape (out_rows,) or (1,)."""
        depth = 1 if self.kind == "diagonal" else self.kernels[0].shape[-2]
        if self.taps is None:
            return np.array([depth * len(self.kernels)])
        a, b, c = ((t.index >= 0).sum(1) for t in self.taps)
        fan_in: np.ndarray = a[:, None, None] * b[:, None] * c * depth
        return fan_in.ravel()

    @lazy_property
    def multiplications(self) -> int:
        """Multiplications in one contraction, for one sample."""
        if self.taps is None:
            rows = self.rows if self.kind == "dense" else self.rows * self.columns
            return sum(rows * (k.size if self.kind == "dense" else 1) for k in self.kernels)
        total = self.out_rows * math.prod(t.index.shape[1] for t in self.taps)
        return int(total) * (self.out_columns if self.kind == "diagonal" else self._matrix_size)

    @property
    def _matrix_size(self) -> int:
        return math.prod(self.kernels[0].shape[-3:])

    # the two directions

    @lazy_property
    def _forward(self) -> tuple[Geometry, list[np.ndarray]]:
        assert self.taps is not None
        return self._geometry(self.taps, self.kind == "local")

    @lazy_property
    def _backward(self) -> tuple[Geometry, list[np.ndarray]]:
        """Sources see outputs: flipped taps, one region for each residue of a stride."""
        assert self.taps is not None
        if self.kind == "local":
            return self._local_backward()
        flip = Taps.gathered if self.uniform else Taps.transposed
        a, b, c = (flip(t) for t in self.taps)
        return self._geometry((a, b, c), False)

    def _geometry(self, taps: tuple[Taps, Taps, Taps], single: bool) -> tuple[Geometry, list[np.ndarray]]:
        """The geometry, and for each of its regions the kernel's taps (of a local one, its positions' taps)."""
        counts = [t.index.shape[1] for t in taps]
        patterns = []
        for t in taps:
            if single:
                patterns.append([(np.array([q]), np.arange(t.index.shape[1])) for q in range(len(t.index))])
            elif self.uniform:
                patterns.append([(np.arange(len(t.index)), np.arange(t.index.shape[1]))])
            else:
                patterns.append(t.patterns())
        regions, used = [], []
        for combination in itertools.product(*patterns):
            axes = []
            for t, (positions, which) in zip(taps, combination, strict=True):
                grid = np.ix_(positions, which)
                axes.append(Axis(positions, t.index[grid], None if t.factor is None else t.factor[grid]))
            a, b, c = (which for _, which in combination)
            flat = (a[:, None, None] * counts[1] + b[:, None]) * counts[2] + c
            if single:
                (p0, _), (p1, _), (p2, _) = combination
                row = (p0[0] * len(taps[1].index) + p1[0]) * len(taps[2].index) + p2[0]
                flat = row * math.prod(counts) + flat
            regions.append(Region((axes[0], axes[1], axes[2])))
            used.append(flat.ravel())
        source = tuple(t.n for t in taps)
        out = tuple(len(t.index) for t in taps)
        return Geometry(source, out, tuple(regions)), used  # type: ignore[arg-type]

    def _local_backward(self) -> tuple[Geometry, list[np.ndarray]]:
        """Every source position is a region: it meets other weights through every output that sees it."""
        assert self.taps is not None
        pairs = [t.users() for t in self.taps]
        counts = [t.index.shape[1] for t in self.taps]
        outs = [len(t.index) for t in self.taps]
        regions, used = [], []
        for p in itertools.product(*(range(t.n) for t in self.taps)):
            pairs_at = [pairs[axis][p[axis]] for axis in range(3)]
            axes = tuple(
                Axis(np.array([p[axis]]), pairs_at[axis][:, 0].reshape(1, -1).astype(np.int64)) for axis in range(3)
            )
            q0, q1, q2 = (s[:, 0] for s in pairs_at)
            t0, t1, t2 = (s[:, 1] for s in pairs_at)
            row = (q0[:, None, None] * outs[1] + q1[:, None]) * outs[2] + q2
            tap = (t0[:, None, None] * counts[1] + t1[:, None]) * counts[2] + t2
            regions.append(Region(axes))  # type: ignore[arg-type]
            used.append((row * math.prod(counts) + tap).ravel())
        source = tuple(t.n for t in self.taps)
        return Geometry(tuple(outs), source, tuple(regions)), used  # type: ignore[arg-type]

    def geometry(self, backward: bool, weight: str) -> Geometry | None:
        """The geometry of a contraction; factors as the weight part has them."""
        if self.taps is None:
            return None
        base, _ = self._backward if backward else self._forward
        if weight not in ("w^2", "1") or all(t.factor is None for t in self.taps):
            return base
        key = ("geometry", backward, weight)
        if key not in self._cache:
            power = np.square if weight == "w^2" else lambda f: (f != 0).astype(np.float64)
            regions = tuple(
                Region(tuple(Axis(a.positions, a.index, None if a.factor is None else power(a.factor)) for a in r.axes))  # type: ignore[arg-type]
                for r in base.regions
            )
            self._cache[key] = Geometry(base.source, base.out, regions)
        return self._cache[key]

    def layer_bias(self, part: str, gamma: float, dtype: np.dtype) -> np.ndarray:
        """A part of the bias, shape (out channels,) or (rows, out channels)."""
        assert self.bias is not None
        return WEIGHT_PARTS[part](self.bias.astype(dtype), gamma)

    def sign(self, part: str, of: str) -> int:
        """+1, -1 or 2 for a weight part that kernels take while they load weights (w⁺, w⁻, |w|), else 0."""
        return _SIGNS.get(part, 0) if of == "kernel" and self.kind != "diagonal" else 0

    def weights(
        self, source: int, part: str, of: str, gamma: float, dtype: np.dtype, backward: bool
    ) -> np.ndarray | tuple[np.ndarray, ...]:
        """A weight part as a `Term` takes it, the kernel's own array where it can be.

        ``of`` is "kernel", or "bias" for the bias written into every connection.
        """
        kernel = self.kernels[source]
        if of == "kernel":
            array = WEIGHT_PARTS[part](kernel.astype(dtype, copy=False), gamma)
        else:
            bias = self.layer_bias(part, gamma, dtype)
            if self.kind == "diagonal":
                array = np.broadcast_to(bias, (len(kernel), bias.shape[-1]))
            else:
                array = np.broadcast_to(self._spread_bias(bias, kernel), kernel.shape)
        if self.taps is None:
            if self.kind == "diagonal":
                return array
            matrix: np.ndarray = array[0, 0]
            return matrix.T if backward else matrix
        _, used = self._backward if backward else self._forward
        if self.uniform:
            return tuple(np.broadcast_to(array[:1], (len(which), 1)) for which in used)
        if self.kind == "diagonal":
            return tuple(array[which] for which in used)
        if self.kind == "local":
            array = array.reshape(-1, *array.shape[2:])
        if backward:
            array = array.swapaxes(-1, -2)
        parts = (array[which].swapaxes(0, 1) for which in used)  # (groups, taps, K, N)
        return tuple(t.reshape(t.shape[0], -1, t.shape[3]) for t in parts)

    def weight_taps(self, backward: bool) -> tuple[bytes, ...] | None:
        """Which taps' weights `weights` joins in each region; None where they are others at each position."""
        if self.kind == "local":
            return None
        if self.taps is None:
            return ()
        _, used = self._backward if backward else self._forward
        return tuple(which.tobytes() for which in used)

    def _spread_bias(self, bias: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        """The bias shaped to be broadcast over a kernel."""
        if self.kind == "local":
            per_row = np.broadcast_to(bias, (self.out_rows, self.out_columns))
            return per_row[:, None, None, None, :]
        return bias.reshape(1, kernel.shape[1], 1, kernel.shape[3])


def _rows(shape: Fixed) -> int:
    return math.prod(shape[:-1])


def _dense(layer: Dense, shapes: tuple[Fixed, ...], out: Fixed) -> Operator:
    kernel = layer.kernel[None, None]
    rows = _rows(shapes[0])
    text = f"{layer.kernel.shape[0]}→{layer.kernel.shape[1]}"
    return Operator((kernel,), layer.bias, rows, rows, shapes[0][-1], out[-1], text=text)


def _size(size: Fixed) -> str:
    return "×".join(map(str, size))


def _sliding(
    layer: Conv | DepthwiseConv | LocallyConnected | AveragePool | MaxPool, shape: Fixed, out: Fixed
) -> list[Taps]:
    dilations = (1,) * layer.rank if isinstance(layer, LocallyConnected) else layer.dilation
    taps = []
    for axis, (k, s, d) in enumerate(zip(layer.size, layer.strides, dilations, strict=True)):
        before, _ = pads(layer.padding, axis, shape[axis], k, s, d)
        taps.append(slide(shape[axis], out[axis], k, s, d, before))
    return taps


def _pointwise(layer: Conv) -> bool:
    """A convolution that is a dense layer on every position."""
    plain = all(n == 1 for n in (*layer.size, *layer.strides, layer.groups))
    return plain and (isinstance(layer.padding, str) or not any(map(any, layer.padding)))


def _conv(layer: Conv, shapes: tuple[Fixed, ...], out: Fixed) -> Operator:
    *_, depth, width = layer.kernel.shape
    kernel = layer.kernel.reshape(-1, depth, layer.groups, width // layer.groups).swapaxes(1, 2)
    taps = None if _pointwise(layer) else _three(_sliding(layer, shapes[0], out))
    grouped = f", {layer.groups} groups" if layer.groups > 1 else ""
    text = f"{_size(layer.size)}, {shapes[0][-1]}→{out[-1]}{grouped}"
    return Operator((kernel,), layer.bias, _rows(shapes[0]), _rows(out), shapes[0][-1], out[-1], taps, text=text)


def _conv_transpose(layer: ConvTranspose, shapes: tuple[Fixed, ...], out: Fixed) -> Operator:
    *_, width, depth = layer.kernel.shape
    kernel = layer.kernel.reshape(-1, width, layer.groups, depth // layer.groups).transpose(0, 2, 3, 1)
    taps = []
    for axis, (k, s, d) in enumerate(zip(layer.size, layer.strides, layer.dilation, strict=True)):
        n, m = shapes[0][axis], out[axis]
        taps.append(slide(m, n, k, s, d, trim(layer.padding, axis, n, m, k, s, d)).transposed())
    text = f"{_size(layer.size)}, {shapes[0][-1]}→{out[-1]}"
    rows, columns = _rows(shapes[0]), shapes[0][-1]
    return Operator((kernel,), layer.bias, rows, _rows(out), columns, out[-1], _three(taps), text=text)


def _depthwise(layer: DepthwiseConv, shapes: tuple[Fixed, ...], out: Fixed) -> Operator:
    *_, channels, multiplier = layer.kernel.shape
    kind = "diagonal" if multiplier == 1 else "dense"
    kernel = layer.kernel.reshape((-1, channels) if multiplier == 1 else (-1, channels, 1, multiplier))
    taps = _three(_sliding(layer, shapes[0], out))
    text = f"{_size(layer.size)} depthwise, {channels}→{out[-1]}"
    return Operator((kernel,), layer.bias, _rows(shapes[0]), _rows(out), channels, out[-1], taps, kind, text=text)


def _local(layer: LocallyConnected, shapes: tuple[Fixed, ...], out: Fixed) -> Operator:
    positions, _, width = layer.kernel.shape
    kernel = layer.kernel.reshape(positions, math.prod(layer.size), 1, shapes[0][-1], width)
    bias = layer.bias
    if bias is not None and bias.ndim > 1:
        bias = bias.reshape(positions, width)
    taps = _three(_sliding(layer, shapes[0], out))
    text = f"{_size(layer.size)} local, {shapes[0][-1]}→{width}"
    return Operator((kernel,), bias, _rows(shapes[0]), positions, shapes[0][-1], width, taps, "local", text=text)


def _mean(shape: Fixed, out: Fixed, taps: list[Taps], text: str) -> Operator:
    """Taps whose factors make a weighted mean."""
    one = np.ones((1, 1))
    rows, columns = _rows(shape), shape[-1]
    return Operator((one,), None, rows, _rows(out), columns, out[-1], _three(taps), "diagonal", False, text, True)


def _average(layer: AveragePool, shapes: tuple[Fixed, ...], out: Fixed) -> Operator:
    taps = []
    for t, k in zip(_sliding(layer, shapes[0], out), layer.size, strict=True):
        count = k if layer.count_include_pad else (t.index >= 0).sum(1, keepdims=True)
        taps.append(Taps(t.n, t.index, np.broadcast_to(1.0 / count, t.index.shape)))
    return _mean(shapes[0], out, taps, f"{_size(layer.size)} mean")


def _adaptive(layer: AdaptiveAveragePool, shapes: tuple[Fixed, ...], out: Fixed) -> Operator:
    taps = []
    for n, m in zip(shapes[0][:-1], out[:-1], strict=True):
        first = np.arange(m) * n // m
        last = -(-(np.arange(m) + 1) * n // m)
        index = first[:, None] + np.arange((last - first).max())
        inside = index < last[:, None]
        factor = np.broadcast_to(1.0 / (last - first)[:, None], index.shape)
        taps.append(Taps(n, np.where(inside, index, -1), np.where(inside, factor, 0.0)))
    return _mean(shapes[0], out, taps, f"mean to {_size(out[:-1])}")


def _global(layer: GlobalAveragePool, shapes: tuple[Fixed, ...], out: Fixed) -> Operator:
    taps = [Taps(n, np.arange(n)[None], np.full((1, n), 1.0 / n)) for n in shapes[0][:-1]]
    return _mean(shapes[0], (*(1,) * len(taps), out[-1]), taps, "mean")


def _interpolate(layer: Interpolate | UpSample, shapes: tuple[Fixed, ...], out: Fixed) -> Operator:
    spatial = shapes[0][:-1]
    matrices = layer.matrices(spatial) if isinstance(layer, UpSample) else layer.matrices
    taps = []
    for n, matrix in zip(spatial, matrices, strict=True):
        if matrix is None:
            taps.append(Taps(n, np.arange(n)[:, None], np.ones((n, 1))))
            continue
        order = np.argsort(matrix == 0, axis=1, kind="stable")[:, : max((matrix != 0).sum(1).max(), 1)]
        factor = np.take_along_axis(matrix, order, 1).astype(np.float64)
        taps.append(Taps(n, np.where(factor != 0, order, -1), factor))
    return _mean(shapes[0], out, taps, layer.describe())


def _batch_norm(layer: BatchNorm, shapes: tuple[Fixed, ...], out: Fixed) -> Operator:
    rows, columns = _rows(shapes[0]), out[-1]
    kernel = layer.factor()[None]
    return Operator(
        (kernel,), layer.offset(), rows, rows, columns, columns, None, "diagonal", False, f"{columns} channels"
    )


def _sum(weights: Callable[[int], tuple[float, ...]], text: str) -> Callable[..., Operator]:
    def build(layer: Layer, shapes: tuple[Fixed, ...], out: Fixed) -> Operator:
        size = math.prod(out)
        kernels = tuple(np.full((1, 1), w) for w in weights(len(shapes)))
        return Operator(kernels, None, 1, 1, size, size, None, "diagonal", False, text)

    return build


def windows(layer: MaxPool | GlobalMaxPool | GlobalLogSumExp, shape: Fixed, out: Fixed) -> Geometry:
    """The windows of a maximum, as one region."""
    if isinstance(layer, (GlobalMaxPool, GlobalLogSumExp)):
        taps = [Taps(n, np.arange(n)[None]) for n in shape[:-1]]
    else:
        taps = _sliding(layer, shape, out)
    three = _three(taps)
    a, b, c = (Axis(np.arange(len(t.index)), t.index) for t in three)
    source, outputs = (t.n for t in three), (len(t.index) for t in three)
    return Geometry(tuple(source), tuple(outputs), (Region((a, b, c)),))  # type: ignore[arg-type]


_OPERATORS: dict[type[Layer], Callable[..., Operator]] = {
    Dense: _dense,
    Conv: _conv,
    ConvTranspose: _conv_transpose,
    DepthwiseConv: _depthwise,
    LocallyConnected: _local,
    AveragePool: _average,
    AdaptiveAveragePool: _adaptive,
    GlobalAveragePool: _global,
    UpSample: _interpolate,
    Interpolate: _interpolate,
    BatchNorm: _batch_norm,
    Add: _sum(lambda n: (1.0,) * n, "sum"),
    Subtract: _sum(lambda n: (1.0, -1.0), "difference"),
    Average: _sum(lambda n: (1.0 / n,) * n, "mean"),
}


def operator(layer: Layer, shapes: tuple[Fixed, ...], out: Fixed) -> Operator | None:
    """The operator of a linear layer, None for any other; a sum's sources are stretched to its output first."""
    if isinstance(layer, UpSample) and layer.interpolation == "nearest":
        return None
    for cls in type(layer).__mro__:
        if cls in _OPERATORS:
            return _OPERATORS[cls](layer, shapes, out)
    return None
