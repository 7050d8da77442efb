"""Layers whose weights are drawn anew."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np

from .layers import Embedding, Layer, Linear


def _arrays(layer: Layer) -> dict[str, np.ndarray]:
    """The layer's weights by the names of its fields: of layers with a kernel, and of embeddings."""
    if not isinstance(layer, (Linear, Embedding)) and not hasattr(layer, "kernel"):
        return {}
    values = {field.name: getattr(layer, field.name) for field in fields(layer)}
    return {name: v for name, v in values.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"}


def has_weights(layer: Layer) -> bool:
    """Whether the layer has weights to be drawn."""
    return bool(_arrays(layer))


def randomized(layer: Layer, generator: np.random.Generator) -> Layer:
    """The layer with weights drawn from a normal distribution of the mean and standard deviation of its own."""
    changes: dict[str, Any] = {
        name: generator.normal(array.mean(), array.std(), array.shape).astype(array.dtype)
        for name, array in _arrays(layer).items()
    }
    return replace(layer, **changes) if changes else layer
