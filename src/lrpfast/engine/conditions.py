"""Relevance that flows through chosen neurons of hidden layers alone (concept relevance propagation).

Relevance is linear in what it starts from. So what flows through a layer's chosen neurons is the explanation that
starts at that layer, from its relevance with all other neurons' set to zero; and what flows past a layer is the whole,
less what flows through its neurons that are not chosen.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, RelevanceWarning, ShapeError
from ..kernels.arrays import is_tensor, to_host
from .explain_scope import check_layers

if TYPE_CHECKING:
    from .core import AnalyzerCore

Condition = Mapping[str, Any]


def as_conditions(conditions: Any) -> tuple[list[Condition], bool]:
    """A list of conditions, and whether there is a single one, not in a list."""
    single = isinstance(conditions, Mapping)
    several = [conditions] if single else conditions
    if not isinstance(several, (list, tuple)) or not several or not all(isinstance(c, Mapping) and c for c in several):
        raise InputError(
            'conditions must map layers to their neurons, as {"conv": 5}, or be a list of such mappings, not '
            f"{conditions!r:.80}"
        )
    return list(several), single


def chosen(selection: Any, shape: tuple[int, ...], layer: str) -> np.ndarray:
    """Which values of a layer's output a selection chooses: True there, in a shape that broadcasts to ``shape``.

    Integers, sets and slices choose channels, which lie on the last axis; a boolean array has the channels or the
    whole shape.
    """
    channels = shape[-1]
    result = np.zeros(channels, bool)
    if isinstance(selection, slice):
        result[selection] = True
        return result
    if isinstance(selection, (set, frozenset)):
        selection = sorted(selection)
    try:
        array = np.asarray(selection)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind == "b" and array.shape in ((channels,), shape):
        return array
    if array.dtype.kind not in "iu" or array.ndim > 1 or not array.size:
        raise InputError(
            f"conditions: {layer!r} has {channels} channels; choose them by an index, a list, set or slice of indices, "
            f"or a boolean array of shape ({channels},) or {shape}, not {selection!r:.80}"
        )
    if array.min() < -channels or array.max() >= channels:
        raise InputError(f"conditions: {layer!r} has channels 0 to {channels - 1}, not {selection!r:.80}")
    result[array] = True
    return result


def conditional(
    core: AnalyzerCore, x: Any, target: Any, conditions: Any, parallel: bool, out: Any = None
) -> np.ndarray:
    """`Analyzer.analyze` with conditions; shape (samples, *input) or, of a list, (samples, conditions, *input)."""
    if out is not None:
        raise InputError("out and conditions exclude each other")
    core = core.fixed(x)
    several, single = as_conditions(conditions)
    if core.layout.several or len(core.layout.outputs) > 1:
        raise InputError("conditions are for models of one input and one output")
    order: dict[str, Any] = {node.name: node for node in core.explained_model.nodes}
    names = list(order)
    layers_of = dict.fromkeys(name for condition in several for name in condition)
    check_layers(core.explained_model, layers_of)
    for layer in layers_of:
        if order[layer] is core.explained_model.nodes[0]:
            raise InputError(f"conditions: {layer!r} is the input; choose a hidden layer")
    masks = [
        {name: chosen(condition[name], order[name].shape, name) for name in names[::-1] if name in condition}
        for condition in several
    ]
    if is_tensor(x):
        raise InputError("conditions take NumPy arrays: x.numpy()")
    run = _Run(core, x, target)
    result = np.empty((len(x), len(several), *core.input_shape), core.settings.dtype)
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, condition in enumerate(masks):
        groups.setdefault(tuple(condition), []).append(i)
    for layers, members in groups.items():
        if parallel or len(layers) > 1:
            for i in members:
                result[:, i] = run.past(masks[i]) if parallel else run.through(masks[i])
        else:  # one forward pass for all of them
            result[:, members] = run.through_each(layers[0], [masks[i][layers[0]] for i in members])
    return result[:, 0] if single else result


class _Run:
    """The explanations of one batch, from the output and from hidden layers."""

    def __init__(self, core: AnalyzerCore, x: Any, target: Any) -> None:
        self._core, self._x, self._target = core, x, target
        explanation = core.explain(x, target, True)
        assert explanation.layers is not None
        self.relevance: np.ndarray = to_host(explanation.relevance)
        self.layers = {name: to_host(array) for name, array in explanation.layers.items()}

    def _explain(self, layer: str, relevance: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Relevance of the input and of the layers below, from that of a layer."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RelevanceWarning)  # of the whole explanation
            explanation = self._core.starting_at(layer).explain(self._x, relevance, True)
        return to_host(explanation.relevance), explanation.layers or {}

    def through_each(self, layer: str, masks: Sequence[np.ndarray]) -> np.ndarray:
        """(samples, masks, *input): through the chosen neurons of one layer."""
        starts = np.stack([self.layers[layer] * mask for mask in masks], 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RelevanceWarning)
            relevance: np.ndarray = to_host(self._core.starting_at(layer).analyze(self._x, starts))
        return relevance

    def through(self, masks: Mapping[str, np.ndarray]) -> np.ndarray:
        """Through the chosen neurons of every layer, the uppermost first."""
        layers, relevance = self.layers, self.relevance
        for name, mask in masks.items():
            if name not in layers:
                raise ShapeError(f"conditions: no path leads from {name!r} to {', '.join(masks)}")
            relevance, layers = self._explain(name, layers[name] * mask)
        return relevance

    def past(self, masks: Mapping[str, np.ndarray]) -> np.ndarray:
        """The whole, less what flows through neurons that are not chosen."""
        layers: dict[str, np.ndarray] = dict(self.layers)
        relevance: np.ndarray = self.relevance.copy()
        for name, mask in masks.items():
            removed, below = self._explain(name, layers[name] * ~mask)
            relevance -= removed
            for key, array in below.items():
                if key in layers and key != name:
                    layers[key] = layers[key] - to_host(array)
        return relevance
