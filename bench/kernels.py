"""One layer under one rule: lrpfast's kernels, and NumPy doing the same matrix products.

NumPy's side unfolds convolutions into matrices (im2col), forms the rule's denominators with one product for
each part of x and W, and sends relevance back the same way: what a careful user would write.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

import lrpfast
from conventions import EPSILON
from lrpfast import layers, rules
from lrpfast.kernels.cpu import instruction_sets

STABILIZER = 1e-6
#: What two float32 sums of the same numbers may differ by, in the median sample (see `difference`).
TOLERANCE = {"float32": 1e-4, "float64": 1e-11}


@dataclass(frozen=True)
class Shape:
    """A layer: spatial ``size`` of its input, ``channels`` in, ``out``, a window ``kernel`` long, and its stride."""

    size: tuple[int, ...]
    channels: int
    out: int
    kernel: int
    stride: int
    depthwise: bool
    samples: int


#: Layers at full size and for a test.
LAYERS: dict[str, tuple[Shape, Shape]] = {
    "dense": (Shape((), 1024, 1024, 1, 1, False, 256), Shape((), 24, 16, 1, 1, False, 4)),
    "conv2d 3×3": (Shape((28, 28), 64, 64, 3, 1, False, 8), Shape((6, 6), 4, 5, 3, 1, False, 2)),
    "conv2d 3×3, stride 2": (Shape((57, 57), 64, 64, 3, 2, False, 8), Shape((7, 7), 4, 5, 3, 2, False, 2)),
    "depthwise 3×3": (Shape((56, 56), 128, 128, 3, 1, True, 8), Shape((6, 6), 4, 4, 3, 1, True, 2)),
    "conv1d 9": (Shape((1024,), 64, 64, 9, 1, False, 8), Shape((20,), 4, 5, 9, 1, False, 2)),
    "conv3d 3×3×3": (Shape((14, 14, 14), 32, 32, 3, 1, False, 4), Shape((5, 5, 5), 3, 4, 3, 1, False, 2)),
}

#: Rules with inputs of both signs, in lrpfast's terms.
RULES: dict[str, Callable[[], Any]] = {
    "epsilon": lambda: rules.Epsilon(EPSILON),
    "z_plus": lambda: rules.ZPlus(),
    "alpha2_beta1": lambda: rules.AlphaBeta(2, 1),
    "gamma": lambda: rules.Gamma(0.25),
    "w_square": lambda: rules.WSquare(),
    "flat": lambda: rules.Flat(),
    "z_box": lambda: rules.ZBox(-1, 1),
}


@dataclass(frozen=True)
class KernelCase:
    """A rule, a layer, a dtype, an instruction set ("" is the best one) and a number of threads."""

    rule: str
    layer: str
    dtype: str = "float32"
    isa: str = ""
    threads: int = 1

    @property
    def key(self) -> str:
        """The case in words; what is as usual is left out."""
        threads = f"{self.threads} threads" if self.threads > 1 else ""
        dtype = self.dtype if self.dtype != "float32" else ""
        return ", ".join(part for part in (self.rule, self.layer, dtype, threads, self.isa) if part)


def cases() -> list[KernelCase]:
    """Every rule on every layer; two of them on every dtype, instruction set and number of threads."""
    found = [KernelCase(rule, layer) for layer in LAYERS for rule in RULES]
    found += [
        KernelCase("alpha2_beta1", layer, dtype, isa, threads)
        for layer in ("dense", "conv2d 3×3")
        for dtype in ("float32", "float64")
        for threads in (1, 2)
        for isa in ("", *instruction_sets()[:-1])
        if (dtype, threads, isa) != ("float32", 1, "")
    ]
    return found


@dataclass(frozen=True, eq=False)
class Arrays:
    """A layer's inputs, weights and relevance."""

    shape: Shape
    x: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    relevance: np.ndarray


def arrays(case: KernelCase, small: bool) -> Arrays:
    """Random ones of the case's dtype; inputs between −1 and 1, relevance as inputs."""
    shape = LAYERS[case.layer][small]
    rng = np.random.default_rng(0)
    dtype = np.dtype(case.dtype)
    fan = shape.kernel ** len(shape.size) * (1 if shape.depthwise else shape.channels)
    window = (shape.kernel,) * len(shape.size)
    last = (shape.channels, 1) if shape.depthwise else (shape.channels, shape.out)
    kernel = rng.normal(scale=fan**-0.5, size=(*window, *last)).astype(dtype)
    outs = tuple((n - shape.kernel) // shape.stride + 1 for n in shape.size)
    x = rng.uniform(-1, 1, size=(shape.samples, *shape.size, shape.channels)).astype(dtype)
    relevance = rng.uniform(-1, 1, size=(shape.samples, *outs, shape.out)).astype(dtype)
    return Arrays(shape, x, kernel, rng.normal(scale=0.05, size=shape.out).astype(dtype), relevance)


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """LRPFAST_ISA for the analyzers that are made within; "" leaves the best."""
    before = os.environ.pop("LRPFAST_ISA", None)
    if name:
        os.environ["LRPFAST_ISA"] = name
    try:
        yield
    finally:
        os.environ.pop("LRPFAST_ISA", None)
        if before is not None:
            os.environ["LRPFAST_ISA"] = before


@contextmanager
def numpy_threads(count: int) -> Iterator[bool]:
    """NumPy's BLAS with that many threads; yields False where threadpoolctl, which sets them, is not installed."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield False
    else:
        with threadpool_limits(count, "blas"):
            yield True


def lrpfast_call(case: KernelCase, a: Arrays) -> tuple[Callable[[], np.ndarray], int]:
    """lrpfast's forward and backward pass of the layer, and its floating-point operations."""
    if not a.shape.size:
        layer: Any = layers.Dense(a.kernel, a.bias)
    elif a.shape.depthwise:
        layer = layers.DepthwiseConv(a.kernel, a.bias, a.shape.stride)
    else:
        layer = layers.Conv(a.kernel, a.bias, a.shape.stride)
    with instruction_set(case.isa):
        analyzer = lrpfast.Analyzer(
            lrpfast.from_layers([layer], a.x.shape[1:]), RULES[case.rule](), precision=case.dtype, threads=case.threads
        )
    return lambda: analyzer.analyze(a.x, target=a.relevance), analyzer.plan().flops * a.shape.samples


class NumpyLayer:
    """The layer's two products in NumPy, (x W) and (s Wᵀ), for any part of x and of W."""

    def __init__(self, a: Arrays) -> None:
        self.shape, self.x_shape = a.shape, a.x.shape
        self.outs = a.relevance.shape[1:-1]
        self.taps = tuple(np.ndindex(*(a.shape.kernel,) * len(a.shape.size)))

    def _window(self, tap: tuple[int, ...]) -> tuple[slice, ...]:
        stride = self.shape.stride
        return (slice(None), *(slice(t, t + stride * n, stride) for t, n in zip(tap, self.outs, strict=True)))

    def columns(self, x: np.ndarray) -> np.ndarray:
        """The input's windows: (taps, rows, channels) for depthwise, else (rows, taps · channels)."""
        if not self.shape.size:
            return x
        parts = [x[self._window(tap)].reshape(-1, self.shape.channels) for tap in self.taps]
        return np.stack(parts) if self.shape.depthwise else np.concatenate(parts, 1)

    def forward(self, columns: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        if self.shape.depthwise:
            return np.einsum("trc,tc->rc", columns, kernel.reshape(len(self.taps), -1))
        return columns @ kernel.reshape(-1, self.shape.out)

    def backward(self, s: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        """(s Wᵀ), summed over windows into the input's shape."""
        if not self.shape.size:
            return s @ kernel.T
        total = np.zeros(self.x_shape, s.dtype)
        channels = self.shape.channels
        if self.shape.depthwise:
            weights = kernel.reshape(len(self.taps), -1)
            pieces = (s * weights[i] for i in range(len(self.taps)))
        else:
            whole = s @ kernel.reshape(-1, self.shape.out).T
            pieces = (whole[:, i * channels : (i + 1) * channels] for i in range(len(self.taps)))
        for tap, piece in zip(self.taps, pieces, strict=True):
            total[self._window(tap)] += piece.reshape(len(total), *self.outs, channels)
        return total


def numpy_call(case: KernelCase, a: Arrays) -> Callable[[], np.ndarray]:
    """The rule in NumPy, with the products that lrpfast plans; parts of weights and constant sums are prepared."""
    layer, w, b, x = NumpyLayer(a), a.kernel, a.bias, a.x
    up, down = np.maximum(w, 0), np.minimum(w, 0)
    b_up, b_down = np.maximum(b, 0), np.minimum(b, 0)
    relevance = a.relevance.reshape(-1, a.shape.out)
    one = w.dtype.type(1)

    def divided(r: np.ndarray, z: np.ndarray, stabilizer: float = STABILIZER) -> np.ndarray:
        return r / (z + np.where(z >= 0, one * stabilizer, -one * stabilizer))

    def output() -> np.ndarray:
        """The layer's own output: an explanation has a forward pass, also where its rule needs none."""
        return layer.forward(layer.columns(x), w) + b

    def epsilon() -> np.ndarray:
        return x * layer.backward(divided(relevance, output(), EPSILON), w)

    def parts() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        x_up, x_down = np.maximum(x, 0), np.minimum(x, 0)
        return x_up, x_down, layer.columns(x_up), layer.columns(x_down)

    def z_plus() -> np.ndarray:
        output()
        x_up, x_down, c_up, c_down = parts()
        s = divided(relevance, layer.forward(c_up, up) + layer.forward(c_down, down) + b_up)
        return x_up * layer.backward(s, up) + x_down * layer.backward(s, down)

    def alpha2_beta1() -> np.ndarray:
        x_up, x_down, c_up, c_down = parts()
        s = 2 * divided(relevance, layer.forward(c_up, up) + layer.forward(c_down, down) + b_up)
        t = divided(relevance, layer.forward(c_up, down) + layer.forward(c_down, up) + b_down)
        positive = x_up * layer.backward(s, up) + x_down * layer.backward(s, down)
        return positive - x_up * layer.backward(t, down) - x_down * layer.backward(t, up)

    def gamma() -> np.ndarray:
        g = one * 0.25
        x_up, x_down, c_up, c_down = parts()
        agree = layer.forward(c_up, up) + layer.forward(c_down, down)
        oppose = layer.forward(c_up, down) + layer.forward(c_down, up)
        z = agree + oppose + b
        s = divided(np.where(z > 0, relevance, 0), (1 + g) * agree + oppose + b + g * b_up)
        t = divided(np.where(z < 0, relevance, 0), agree + (1 + g) * oppose + b + g * b_down)
        w_up, w_down = w + g * up, w + g * down
        above = x_up * layer.backward(s, w_up) + x_down * layer.backward(s, w_down)
        return above + x_up * layer.backward(t, w_down) + x_down * layer.backward(t, w_up)

    def constant(weights: np.ndarray) -> Callable[[], np.ndarray]:
        z = layer.forward(layer.columns(np.ones_like(x)), weights)

        def run() -> np.ndarray:
            output()
            return layer.backward(divided(relevance, z), weights)

        return run

    low, high = -one, one
    ones = layer.columns(np.ones_like(x))
    bounds = low * layer.forward(ones, up) + high * layer.forward(ones, down)

    def z_box() -> np.ndarray:
        s = divided(relevance, output() - b - bounds)
        return (x - low) * layer.backward(s, up) + (x - high) * layer.backward(s, down)

    made: dict[str, Callable[[], np.ndarray]] = {
        "epsilon": epsilon,
        "z_plus": z_plus,
        "alpha2_beta1": alpha2_beta1,
        "gamma": gamma,
        "w_square": constant(w * w),
        "flat": constant(np.ones_like(w)),
        "z_box": z_box,
    }
    return made[case.rule]


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of a sample relative to its largest relevance, in the median sample.

    Single denominators of one layer come near zero by chance, and then float32's last bits decide.
    """
    rows = (len(a), math.prod(a.shape[1:]))
    p, q = a.reshape(rows).astype(np.float64), b.reshape(rows).astype(np.float64)
    return float(np.median(np.abs(p - q).max(1) / np.abs(q).max(1)))
