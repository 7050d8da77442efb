"""Where the channels of a model's inputs lie, by what its layers do with them."""

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

#: They take channels last, so that what lies there is channels.
_WINDOWS = (AdaptiveAveragePool, AveragePool, Conv, ConvTranspose, DepthwiseConv, LocallyConnected, MaxPool)
#: They leave the axes where they are. Readers let some of them work on any axis: they are no sign of channels.
_KEEP = (Activation, BatchNorm, Crop, Identity, Interpolate, ReflectPad, Take, UpSample, ZeroPad)


def channels_first(nodes: Sequence[Node], index: int) -> bool | None:
    """Whether the channels are the first axis of the samples that enter at node ``at``, or the last.

    The first convolution or pooling that the input reaches tells, through layers that keep or
    permute its axes. None where there is no such layer, as in a dense network.
    """
    # for each node, the axes of the input that its axes are
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
