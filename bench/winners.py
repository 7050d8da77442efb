"""Whether float32 chooses other winners of max poolings than float64: then relevance takes other paths, in any tool.

A window's two largest values may agree to the last digits. Which of them wins depends on the order of a convolution's
sums, and all relevance of the window goes to it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import lrpfast_networks
from networks import Network, Node


def _before(network: Network, node: Node) -> Network:
    """The network up to a pooling's input."""
    end = node.inputs[0] + 1
    return replace(network, nodes=network.nodes[:end], shapes=network.shapes[:end])


def _by_lrpfast(network: Network, x: np.ndarray, precision: str) -> np.ndarray:
    return np.asarray(lrpfast_networks.build(network).predict(x, precision=precision))


def _by_torch(network: Network, x: np.ndarray) -> np.ndarray:
    import torch

    from torch_networks import channels_first, channels_last, plain

    with torch.inference_mode():
        return np.asarray(channels_last(plain(network)(channels_first(x))))


def winners(node: Node, values: np.ndarray) -> np.ndarray:
    """The number of the largest value of each window of a pooling, the first of equal ones."""
    size, stride, pad = node.size, node.stride, node.pad
    padded = np.pad(values, [(0, 0), (pad, pad), (pad, pad), (0, 0)], constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))[:, ::stride, ::stride]
    return windows.reshape(*windows.shape[:-2], size * size).argmax(-1)


def changed(network: Network, x: np.ndarray, peer: str) -> int:
    """How many windows of x have another winner in lrpfast's or in the peer's float32 than in lrpfast's float64.

    Of peers that do not compute by PyTorch, only lrpfast's are known.
    """
    count = 0
    for node in network.nodes:
        if node.kind != "max_pool":
            continue
        part = _before(network, node)
        exact = winners(node, _by_lrpfast(part, x, "float64"))
        count += int((winners(node, _by_lrpfast(part, x, "float32")) != exact).sum())
        if peer in ("zennit", "captum"):
            count += int((winners(node, _by_torch(part, x)) != exact).sum())
    return count
