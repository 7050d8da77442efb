"""The networks of the benchmarks, described once: layers as names and float32 arrays, without any library.

`lrpfast_networks`, `torch_networks` and `keras_networks` build them. This file needs NumPy
alone, so that iNNvestigate's environment can read it too: the same seed gives the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Half of the negative side is lost in a ReLU: weights this large keep activations at one size (He et al. 2015).
HE = 2.0


@dataclass(frozen=True, eq=False)
class Node:
    """One layer: what it is, which nodes feed it (−1 is the network's input), and its parameters.

    ========================= =================================================================
    ``dense``                 kernel (in, out), bias, relu
    ``conv``                  kernel (spatial…, in, out), bias (or None), stride, pad, relu
    ``depthwise``             kernel (spatial…, in, 1), bias (or None), stride, pad, relu
    ``batch_norm``            mean, variance, gamma, beta, epsilon
    ``max_pool``              size, stride, pad
    ``relu``, ``add``, ``flatten``, ``global_average_pool``
    ========================= =================================================================

    ``pad`` zeros lie on either side of every spatial axis; channels are last.
    """

    kind: str
    inputs: tuple[int, ...]
    parameters: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.parameters[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True, eq=False)
class Network:
    """A network: ``shape`` is one sample's, ``low`` and ``high`` the range its inputs are drawn from."""

    shape: tuple[int, ...]
    nodes: tuple[Node, ...]
    shapes: tuple[tuple[int, ...], ...]
    low: float
    high: float

    def samples(self, count: int, seed: int = 1) -> np.ndarray:
        """Random inputs, evenly spread over the network's range."""
        values = np.random.default_rng(seed).random((count, *self.shape), dtype=np.float32)
        values *= np.float32(self.high - self.low)
        values += np.float32(self.low)
        return values


class _Builder:
    """Adds layers with random weights and keeps their shapes."""

    def __init__(self, shape: tuple[int, ...], low: float = -1.0, high: float = 1.0, seed: int = 0) -> None:
        self.shape, self.low, self.high = shape, low, high
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.shapes: list[tuple[int, ...]] = []

    def _normal(self, scale: float, shape: tuple[int, ...]) -> np.ndarray:
        values = self.rng.standard_normal(shape, dtype=np.float32)
        values *= np.float32(scale)
        return values

    def _add(self, kind: str, inputs: tuple[int, ...], shape: tuple[int, ...], **parameters: Any) -> int:
        self.nodes.append(Node(kind, inputs, parameters))
        self.shapes.append(shape)
        return len(self.nodes) - 1

    def _shape(self, at: int) -> tuple[int, ...]:
        return self.shape if at < 0 else self.shapes[at]

    def _slid(self, at: int, size: int, stride: int, pad: int) -> tuple[int, ...]:
        return tuple((n + 2 * pad - size) // stride + 1 for n in self._shape(at)[:-1])

    def dense(self, at: int, out: int, relu: bool = True) -> int:
        (n,) = self._shape(at)
        kernel = self._normal((HE / n) ** 0.5, (n, out))
        return self._add("dense", (at,), (out,), kernel=kernel, bias=self._normal(0.05, (out,)), relu=relu)

    def conv(
        self, at: int, out: int, size: int = 3, stride: int = 1, pad: int = 0, relu: bool = True, bias: bool = True
    ) -> int:
        *spatial, n = self._shape(at)
        kernel = self._normal((HE / (n * size ** len(spatial))) ** 0.5, (*(size,) * len(spatial), n, out))
        b = self._normal(0.05, (out,)) if bias else None
        shape = (*self._slid(at, size, stride, pad), out)
        return self._add("conv", (at,), shape, kernel=kernel, bias=b, stride=stride, pad=pad, relu=relu)

    def depthwise(self, at: int, size: int = 3, stride: int = 1, pad: int = 1) -> int:
        *spatial, n = self._shape(at)
        kernel = self._normal((HE / size ** len(spatial)) ** 0.5, (*(size,) * len(spatial), n, 1))
        shape = (*self._slid(at, size, stride, pad), n)
        return self._add("depthwise", (at,), shape, kernel=kernel, bias=None, stride=stride, pad=pad, relu=False)

    def batch_norm(self, at: int) -> int:
        """Statistics as after training: neither 0 and 1 nor all alike."""
        n = self._shape(at)[-1]
        return self._add(
            "batch_norm", (at,), self._shape(at), mean=self._normal(0.1, (n,)), beta=self._normal(0.1, (n,)),
            variance=self.rng.uniform(0.5, 1.5, n).astype(np.float32),
            gamma=self.rng.uniform(0.5, 1.5, n).astype(np.float32), epsilon=1e-5,
        )  # fmt: skip

    def max_pool(self, at: int, size: int = 2, stride: int = 2, pad: int = 0) -> int:
        shape = (*self._slid(at, size, stride, pad), self._shape(at)[-1])
        return self._add("max_pool", (at,), shape, size=size, stride=stride, pad=pad)

    def relu(self, at: int) -> int:
        return self._add("relu", (at,), self._shape(at))

    def add(self, a: int, b: int) -> int:
        return self._add("add", (a, b), self._shape(a))

    def flatten(self, at: int) -> int:
        return self._add("flatten", (at,), (int(np.prod(self._shape(at))),))

    def global_average_pool(self, at: int) -> int:
        return self._add("global_average_pool", (at,), self._shape(at)[-1:])

    def network(self) -> Network:
        return Network(self.shape, tuple(self.nodes), tuple(self.shapes), self.low, self.high)


def mlp(*sizes: int) -> Network:
    """Dense layers with ReLU between them."""
    b = _Builder(sizes[:1])
    at = -1
    for i, size in enumerate(sizes[1:], 2):
        at = b.dense(at, size, relu=i < len(sizes))
    return b.network()


def cnn(size: int, widths: tuple[int, int], hidden: int) -> Network:
    """Two convolutions, a pooling, two dense layers: images of digits, between 0 and 1."""
    b = _Builder((size, size, 1), low=0.0)
    at = b.max_pool(b.conv(b.conv(-1, widths[0]), widths[1]))
    b.dense(b.dense(b.flatten(at), hidden), 10, relu=False)
    return b.network()


def vgg16(size: int, width: int, hidden: int, classes: int) -> Network:
    """VGG16 (Simonyan and Zisserman 2015, configuration D) at ``width`` 64."""
    b = _Builder((size, size, 3))
    at = -1
    for factor, count in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
        for _ in range(count):
            at = b.conv(at, factor * width, pad=1)
        at = b.max_pool(at)
    b.dense(b.dense(b.dense(b.flatten(at), hidden), hidden), classes, relu=False)
    return b.network()


def resnet18(size: int, width: int, classes: int) -> Network:
    """ResNet18 (He et al. 2016) with its batch normalizations, at ``width`` 64."""
    b = _Builder((size, size, 3))

    def normed(at: int, out: int, kernel: int, stride: int) -> int:
        return b.batch_norm(b.conv(at, out, kernel, stride, kernel // 2, relu=False, bias=False))

    at = b.max_pool(b.relu(normed(-1, width, 7, 2)), 3, 2, 1)
    for factor in (1, 2, 4, 8):
        for first in (True, False):
            stride = 2 if first and factor > 1 else 1
            branch = normed(b.relu(normed(at, factor * width, 3, stride)), factor * width, 3, 1)
            short = normed(at, factor * width, 1, stride) if stride > 1 else at
            at = b.relu(b.add(branch, short))
    b.dense(b.global_average_pool(at), classes, relu=False)
    return b.network()


def mobilenet(size: int, width: int, classes: int) -> Network:
    """MobileNet (Howard et al. 2017) at ``width`` 32: a convolution of each channel, then one across channels."""
    b = _Builder((size, size, 3))
    at = b.relu(b.batch_norm(b.conv(-1, width, 3, 2, 1, relu=False, bias=False)))
    blocks = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *((16, 1),) * 5, (32, 2), (32, 1))
    for factor, stride in blocks:
        at = b.relu(b.batch_norm(b.depthwise(at, stride=stride)))
        at = b.relu(b.batch_norm(b.conv(at, factor * width, 1, relu=False, bias=False)))
    b.dense(b.global_average_pool(at), classes, relu=False)
    return b.network()


#: Networks by name: at full size, and small enough for a test.
NETWORKS: dict[str, tuple[Callable[[], Network], Callable[[], Network]]] = {
    "mlp_small": (lambda: mlp(2, 100, 100, 2), lambda: mlp(2, 100, 100, 2)),
    "mlp_large": (lambda: mlp(4096, 1024, 1024, 10), lambda: mlp(96, 64, 64, 10)),
    "wide": (lambda: mlp(31_811, 8, 8, 2), lambda: mlp(317, 8, 8, 2)),
    "cnn": (lambda: cnn(28, (32, 64), 128), lambda: cnn(12, (8, 12), 20)),
    "vgg16": (lambda: vgg16(224, 64, 4096, 1000), lambda: vgg16(32, 4, 32, 10)),
    "resnet18": (lambda: resnet18(224, 64, 1000), lambda: resnet18(32, 4, 10)),
    "mobilenet": (lambda: mobilenet(224, 32, 1000), lambda: mobilenet(32, 4, 10)),
}


def make(name: str, small: bool = False) -> Network:
    """A network of `NETWORKS`."""
    return NETWORKS[name][small]()
