"""z-box's bounds, in the shape of the layer that they are for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import RuleError
from ..model.graph import Model
from ..model.layers import Flatten, Input, Layer, Permute, Reshape
from ..model.layers.base import Shape, known
from ..model.layers.shape import only_moves
from .first_layer import ZBox
from .rule import Rule


def _fits(bound: np.ndarray, shape: Shape) -> bool:
    pairs = zip(reversed(bound.shape), reversed(shape), strict=False)
    return bound.ndim <= len(shape) and all(b in (1, n) for b, n in pairs)


def fit_bounds(rule: Rule, model: Model, index: int) -> Rule:
    """The rule with its z-box bounds in the shape of the layer's input, where it has any.

    Bounds may be scalar, or fit the layer's input or, where only reshapes lie
    between, the model's (per feature, or per channel on the last axis). Where axes are
    reordered between (images channels first), bounds of several axes are the model's.
    """
    if not isinstance(rule, ZBox):
        return rule
    at = model.nodes[index].inputs[0]
    shape = model.nodes[at].shape
    between: list[Layer] = []
    while model.nodes[at].inputs and only_moves(model.layers[at]):
        between.insert(0, model.layers[at])
        at = model.nodes[at].inputs[0]
    whole = model.nodes[at].shape
    sizes = known(whole)
    moved = any(isinstance(layer, Permute) for layer in between)
    fitted = {}
    for key in ("low", "high"):
        bound = getattr(rule, key)
        of_input = isinstance(model.layers[at], Input) and _fits(bound, whole)
        if bound.ndim and (not _fits(bound, shape) or (moved and bound.ndim > 1 and of_input)):
            opened = sizes is None and any(isinstance(layer, (Flatten, Reshape)) for layer in between)
            if not of_input or opened:
                raise RuleError(
                    f"{model.nodes[index]}: {key} of shape {bound.shape} does not fit its input of shape {shape}"
                )
            bound = bound.reshape((1,) * (len(whole) - bound.ndim) + bound.shape)
            if sizes is not None:
                bound = np.broadcast_to(bound, sizes)
            for layer in between:
                if isinstance(layer, Permute):
                    bound = bound.transpose(layer.axes)
                elif isinstance(layer, (Flatten, Reshape)):
                    bound = bound.reshape(layer.output_shape(bound.shape))
        fitted[key] = bound
    return replace(rule, **fitted)
