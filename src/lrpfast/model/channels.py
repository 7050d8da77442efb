"""The axis of the channels in a model's inputs, by the layers that use them."""

from __future__ import annotations

from collections.abc import Sequence

from .layers import (
    Activation,
    AdaptiveAveragePool,
    AveragePool,
    BatchNorm,
    Conv,
    ConvTranspose,
    Crop,
    DepthwiseConv,
    Identity,
    Interpolate,
    LocallyConnected,
    MaxPool,
    Permute,
    ReflectPad,
    Take,
    UpSample,
    ZeroPad,
)
from .node import Node

#: Layers whose channels are the last axis.
_WINDOWS = (AdaptiveAveragePool, AveragePool, Conv, ConvTranspose, DepthwiseConv, LocallyConnected, MaxPool)
#: Layers that keep the axes. Readers use some of them on any axis, so they do not identify channels.
_KEEP = (Activation, BatchNorm, Crop, Identity, Interpolate, ReflectPad, Take, UpSample, ZeroPad)


def channels_first(nodes: Sequence[Node], index: int) -> bool | None:
    """Whether the channels are the first axis of the samples that enter at node ``at``, or the last.

    The first convolution or pooling decides, after layers that keep or permute the axes. None
    if there is no such layer, as in a dense network.
    """
    # for each node, the input's axis of each of its axes
    axes = {index: tuple(range(len(nodes[index].shape)))}
    for i, node in enumerate(nodes):
        input_axes = next((axes[j] for j in node.inputs if j in axes), None)
        if input_axes is None:
            continue
        if isinstance(node.layer, _WINDOWS):
            return {0: True, len(input_axes) - 1: False}.get(input_axes[-1])
        if isinstance(node.layer, Permute):
            axes[i] = tuple(input_axes[a] for a in node.layer.axes)
        elif isinstance(node.layer, _KEEP):
            axes[i] = input_axes
    return None
