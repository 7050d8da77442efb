"""Keras 1's convolutions and pooling, in Keras 2's words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .record import KerasLayer, Weight

#: Keras 1's names of settings, and Keras 2's.
_SETTINGS = {
    "nb_filter": "filters", "filter_length": "kernel_size", "border_mode": "padding", "subsample": "strides",
    "subsample_length": "strides", "atrous_rate": "dilation_rate", "bias": "use_bias", "pool_length": "pool_size",
    "stride": "strides",
}  # fmt: skip
CLASSES = {"Convolution1D": "Conv1D", "Convolution2D": "Conv2D", "Convolution3D": "Conv3D"}
CLASSES |= {"AtrousConvolution1D": "Conv1D", "AtrousConvolution2D": "Conv2D"}
_SIZES = ("nb_row", "nb_col"), ("kernel_dim1", "kernel_dim2", "kernel_dim3")


def in_keras_2(layer: KerasLayer) -> KerasLayer:
    """The layer as Keras 2 would have written it; itself where it is not one of Keras 1's."""
    config = layer.config
    if layer.class_name not in CLASSES and not {"dim_ordering", "border_mode"} & config.keys():
        return layer
    settings = {_SETTINGS.get(key, key): value for key, value in config.items()}
    for names in _SIZES:
        if names[0] in config:
            settings["kernel_size"] = [layer.need(name) for name in names]
    first = config.get("dim_ordering") == "th"
    settings["data_format"] = "channels_first" if first else "channels_last"
    if layer.class_name not in CLASSES:
        return replace(layer, config=settings)
    kind = CLASSES[layer.class_name]

    def stored() -> Sequence[Weight]:
        return [_kernel(weight, kind, first) if i == 0 else weight for i, weight in enumerate(layer.stored())]

    return replace(layer, class_name=kind, config=settings, stored=stored)


def _kernel(weight: Weight, kind: str, first: bool) -> Weight:
    """The kernel with its spatial axes first, then input and output channels."""
    shape = weight.shape
    if kind == "Conv1D" and len(shape) == 4:  # Keras 1 convolves rows of an image of one column
        return Weight((shape[0], *shape[2:]), lambda: weight.read().reshape(shape[0], *shape[2:]))
    if first and len(shape) > 3:  # output and input channels come first
        axes = (*range(2, len(shape)), 1, 0)
        return Weight(tuple(shape[a] for a in axes), lambda: np.transpose(weight.read(), axes))
    return weight
