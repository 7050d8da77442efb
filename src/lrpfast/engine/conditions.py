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

from ..errors import InputError, ShapeError, VanishingWarning
from ..kernels.arrays import is_tensor, to_host
from ..kernels.growth import Growth
from .explain_scope import check_layers
from .growth import warn

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
        flow = run.past if parallel else run.through
        result[:, members] = flow(layers, [[masks[i][layer] for layer in layers] for i in members])
    return result[:, 0] if single else result


#: Of one condition, the chosen neurons of each layer.
Masks = Sequence[np.ndarray]


class _Run:
    """The explanations of one batch, from the output to hidden layers and on from these.

    Conditions on the same layers share everything but the backward passes from layer to layer; those that agree down to
    a layer share these too.
    """

    def __init__(self, core: AnalyzerCore, x: Any, target: Any) -> None:
        self._core, self._x, self._target = core, x, target
        self._shapes: dict[str, Any] = {node.name: node.shape for node in core.explained_model.nodes}
        self._relevance: dict[str, np.ndarray] = {}  # of layers, of the whole explanation

    def through(self, layers: Sequence[str], masks: Sequence[Masks]) -> np.ndarray:
        """(samples, conditions, *input): through the chosen neurons of every layer, the uppermost first."""
        top = layers[0]
        if top not in self._relevance:
            self._relevance[top] = self._of_whole(top)
        values, of_condition = self._relevance[top][:, None], [0] * len(masks)
        for depth, layer in enumerate(layers):
            parts: dict[tuple[bytes, ...], int] = {}  # what differs down to this layer
            keys = [tuple(mask.tobytes() for mask in condition[: depth + 1]) for condition in masks]
            starts = []
            for i, key in enumerate(keys):
                if key not in parts:
                    parts[key] = len(parts)
                    starts.append(values[:, of_condition[i]] * masks[i][depth])
            of_condition = [parts[key] for key in keys]
            below = layers[depth + 1] if depth + 1 < len(layers) else None
            if below is not None and not self._reaches(layer, below):
                raise ShapeError(f"conditions: no path leads from {below!r} to {', '.join(layers[: depth + 1])}")
            values = self._explain(layer, np.stack(starts, 1), below)
        return values[:, of_condition]

    def past(self, layers: Sequence[str], masks: Sequence[Masks]) -> np.ndarray:
        """(samples, conditions, *input): the whole, less what flows through neurons that are not chosen."""
        whole = np.empty((len(self._x), *self._core.input_shape), self._core.settings.dtype)
        of_layers: dict[str, list[np.ndarray]] = {layer: [] for layer in layers}
        notes: list[Any] = []
        chunks = self._core.hidden(self._x, self._target, layers, out=whole, notes=notes, activations=False)
        for _, relevance, _ in chunks:
            for layer in layers:
                of_layers[layer].append(relevance[layer])
        warn(Growth.of(notes, self._core.conserves), len(whole), self._core.settings.rectify)
        count = len(masks)
        result = np.repeat(whole[:, None], count, 1)
        values = {layer: np.repeat(np.concatenate(of_layers[layer])[:, None], count, 1) for layer in layers}
        for depth, layer in enumerate(layers):
            removed = values[layer] * ~np.stack([np.broadcast_to(m[depth], values[layer].shape[2:]) for m in masks])
            result -= self._explain(layer, removed, None)
            for below in layers[depth + 1 :]:
                if self._reaches(layer, below):
                    values[below] -= self._explain(layer, removed, below)
        return result

    def _of_whole(self, layer: str) -> np.ndarray:
        """Relevance of a layer in the whole explanation."""
        notes: list[Any] = []
        relevance = self._core.relevance_of(self._x, self._target, layer, notes)
        if relevance.ndim > 1 + len(self._shapes[layer]):
            raise InputError("conditions take one target per sample, not several")
        warn(Growth.of(notes, self._core.conserves), len(relevance), self._core.settings.rectify)
        return relevance

    def _reaches(self, layer: str, below: str) -> bool:
        """Whether a path leads down from a layer to another."""
        return below in (node.name for node in self._core.starting_at(layer).explained_model.nodes)

    def _explain(self, layer: str, starts: np.ndarray, below: str | None) -> np.ndarray:
        """Relevance of a lower layer, or of the input, from several of a layer: (samples, starts, …)."""
        core = self._core.starting_at(layer)
        if below is not None:
            return core.relevance_of(self._x, starts, below)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VanishingWarning)  # a neuron without relevance is nothing to warn of
            relevance: np.ndarray = to_host(core.analyze(self._x, starts))
        return relevance
