"""What the benchmarks share: networks, a float64 reference in NumPy, and the peer's copy of a network."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import lrpfast

#: A layer as (kernel, bias); every layer but the last has a ReLU.
Network = list[tuple[np.ndarray, np.ndarray]]


def network(sizes: tuple[int, ...], seed: int = 0) -> Network:
    """Random layers whose outputs have size about 1."""
    rng = np.random.default_rng(seed)
    layers = []
    for n, m in zip(sizes, sizes[1:], strict=False):
        kernel = rng.normal(scale=n**-0.5, size=(n, m)).astype(np.float32)
        layers.append((kernel, rng.normal(scale=0.1, size=m).astype(np.float32)))
    return layers


def model(layers: Network) -> lrpfast.Model:
    """The network as lrpfast's model."""
    relu = lrpfast.layers.Activation("relu")
    last = len(layers) - 1
    return lrpfast.from_layers(
        [lrpfast.layers.Dense(w, b, activation=relu if i < last else None) for i, (w, b) in enumerate(layers)]
    )


def innvestigate_analyzer(name: str, layers: Network, **keywords: Any) -> Any:
    """iNNvestigate's analyzer of the same network; skips where it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    innvestigate = pytest.importorskip("innvestigate", reason="iNNvestigate is not installed; see bench/README.md")
    import tensorflow as tf

    tf.compat.v1.disable_eager_execution()  # iNNvestigate needs it
    last = len(layers) - 1
    keras_model = tf.keras.Sequential(
        [
            tf.keras.layers.Dense(w.shape[1], activation="relu" if i < last else None, input_shape=w.shape[:1])
            for i, (w, _) in enumerate(layers)
        ]
    )
    keras_model.set_weights([array for layer in layers for array in layer])
    return innvestigate.create_analyzer(name, keras_model, **keywords)


# The reference: each rule as its formula says, in float64


def forward(layers: Network, x: np.ndarray) -> list[np.ndarray]:
    """Inputs of every layer, and the output."""
    values = [x.astype(np.float64)]
    for i, (w, b) in enumerate(layers):
        z = values[-1] @ w.astype(np.float64) + b
        values.append(np.maximum(z, 0) if i < len(layers) - 1 else z)
    return values


def start(y: np.ndarray) -> np.ndarray:
    """Relevance of the largest output only."""
    return np.where(np.arange(y.shape[1]) == y.argmax(1)[:, None], y, 0.0)


def divided(relevance: np.ndarray, z: np.ndarray) -> np.ndarray:
    """R / z, with iNNvestigate's 1e-7 where z is 0."""
    return relevance / np.where(z == 0, 1e-7, z)


def reference_epsilon(layers: Network, x: np.ndarray, epsilon: float) -> np.ndarray:
    """The epsilon rule on every layer."""
    values = forward(layers, x)
    relevance = start(values[-1])
    for (w, b), a in zip(layers[::-1], values[-2::-1], strict=True):
        w = w.astype(np.float64)
        z = a @ w + b
        relevance = a * ((relevance / (z + np.where(z >= 0, epsilon, -epsilon))) @ w.T)
    return relevance


def reference_bounded(layers: Network, x: np.ndarray) -> np.ndarray:
    """Alpha 1, beta 0, bias ignored; z-box between -1 and 1 on the first layer."""
    values = forward(layers, x)
    relevance = start(values[-1])
    for (w, _), a in zip(layers[:0:-1], values[-2:0:-1], strict=True):
        positive = np.maximum(w, 0).astype(np.float64)  # a >= 0 behind a ReLU: no other sign makes a positive part
        relevance = a * (divided(relevance, a @ positive) @ positive.T)
    w = layers[0][0].astype(np.float64)
    up, down, a = np.maximum(w, 0), np.minimum(w, 0), values[0]
    s = divided(relevance, a @ w + up.sum(0) - down.sum(0))
    return a * (s @ w.T) + s @ up.T - s @ down.T


def assert_close(actual: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    """Every sample within a part of its largest relevance: what float32 gives, not what a wrong formula gives."""
    largest = np.abs(expected).max(1, keepdims=True)
    assert (np.abs(actual - expected) <= tolerance * largest + 1e-12).all()
