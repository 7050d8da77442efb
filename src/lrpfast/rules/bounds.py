"""The bounds of z-box, in the shape of the layer's input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import RuleError
from ..model.graph import Model
from ..model.layers import Flatten, Input, Permute, Reshape
from ..model.layers.base import Shape, known
from ..model.layers.shape import only_moves
from .first_layer import ZBox
from .rule import Rule


def _fits(bound: np.ndarray, shape: Shape) -> bool:
    pairs = zip(reversed(bound.shape), reversed(shape), strict=False)
    return bound.ndim <= len(shape) and all(b in (1, n) for b, n in pairs)


def moved(model: Model, at: int) -> list[int]:
    """Node ``at`` and its predecessors, up to the first that does more than move values."""
    path = [at]
    while model.nodes[path[-1]].inputs and only_moves(model.nodes[path[-1]].layer):
        path.append(model.nodes[path[-1]].inputs[0])
    return path


def fit_bounds(rule: Rule, model: Model, index: int) -> Rule:
    """The rule; if it is a z-box, with bounds in the shape of the layer's input.

    Bounds may be scalar, or fit the layer's input or, if there are only reshapes in
    between, the model's (per feature, or per channel on the last axis). If axes are
    reordered in between (images channels first), bounds of several axes are the model's.
    """
    if not isinstance(rule, ZBox):
        return rule
    shape = model.nodes[model.nodes[index].inputs[0]].shape
    *movers, source = moved(model, model.nodes[index].inputs[0])
    layers = [model.nodes[i].layer for i in reversed(movers)]
    source_shape = model.nodes[source].shape
    sizes = known(source_shape)
    permuted = any(isinstance(layer, Permute) for layer in layers)
    bounds = {}
    for key in ("low", "high"):
        bound = getattr(rule, key)
        of_input = isinstance(model.nodes[source].layer, Input) and _fits(bound, source_shape)
        if bound.ndim and (not _fits(bound, shape) or (permuted and bound.ndim > 1 and of_input)):
            unknown_sizes = sizes is None and any(isinstance(layer, (Flatten, Reshape)) for layer in layers)
            if not of_input or unknown_sizes:
                raise RuleError(
                    f"{model.nodes[index]}: {key} of shape {bound.shape} does not fit its input of shape {shape}"
                )
            bound = bound.reshape((1,) * (len(source_shape) - bound.ndim) + bound.shape)
            if sizes is not None:
                bound = np.broadcast_to(bound, sizes)
            for layer in layers:
                if isinstance(layer, Permute):
                    bound = bound.transpose(layer.axes)
                elif isinstance(layer, (Flatten, Reshape)):
                    bound = bound.reshape(layer.output_shape(bound.shape))
        bounds[key] = bound
    return replace(rule, **bounds)
