"""The networks as Keras models, and iNNvestigate's analyzers of them. Runs in iNNvestigate's environment only."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from conventions import INNVESTIGATE, THREADS
from networks import Network, Node
from tool import Missing

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def _layer(node: Node, layers: Any) -> Any:
    if node.kind == "dense":
        return layers.Dense(node.kernel.shape[1], activation="relu" if node.relu else None)
    if node.kind == "conv":
        size = node.kernel.shape[0]
        if node.pad not in (0, (size - 1) / 2) or (node.pad and node.stride > 1):
            raise Missing("Keras pads strided convolutions on the other side")
        padding = "same" if node.pad else "valid"
        activation = "relu" if node.relu else None
        return layers.Conv2D(node.kernel.shape[-1], size, node.stride, padding, activation=activation)
    if node.kind == "max_pool":
        return layers.MaxPooling2D(node.size, node.stride)
    if node.kind == "flatten":
        return layers.Flatten()
    raise Missing(f"{node.kind} is not compared with iNNvestigate: its conventions are others there")


def build(network: Network) -> Any:
    """The network, a chain of layers, as a Keras model."""
    import tensorflow as tf

    layers = tf.keras.layers
    model = tf.keras.Sequential([tf.keras.Input(network.shape), *(_layer(node, layers) for node in network.nodes)])
    model.set_weights([a for node in network.nodes if "kernel" in node.parameters for a in (node.kernel, node.bias)])
    return model


def analyzer(network: Network, rule: str) -> Callable[[np.ndarray], np.ndarray]:
    """iNNvestigate's explanation of a batch."""
    import innvestigate
    import tensorflow as tf

    if rule not in INNVESTIGATE:
        raise Missing(f"iNNvestigate is not compared under {rule}")
    tf.compat.v1.disable_eager_execution()  # iNNvestigate needs it
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    name, keywords = INNVESTIGATE[rule]
    explain: Callable[[np.ndarray], np.ndarray] = innvestigate.create_analyzer(name, build(network), **keywords).analyze
    return explain
