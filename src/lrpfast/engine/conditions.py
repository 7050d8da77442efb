"""Relevance that flows through chosen neurons of hidden layers alone (concept relevance propagation).

A condition is a mask on the relevance of each of its layers. All conditions of a call are one run of one program
(`lower_conditions`), which takes masks as data: one forward pass, and backward passes from layer to layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import InputError, ShapeError
from ..kernels import Passes, Start
from ..kernels.growth import RunGrowth
from .explain_scope import check_layers
from .hidden_layers import HiddenLayers
from .inputs import check_flag
from .lower_conditions import Chain, Conditional

Condition = Mapping[str, Any]
#: Of one condition: what each of its values lets through, uint8, of all values or of each channel.
Masks = dict[int, np.ndarray]


@dataclass(frozen=True)
class Conditions:
    """The conditions of one call, as the caller gives them.

    Attributes
    ----------
    several : list of mappings
    single : bool
        Whether there is a single one, not in a list.
    parallel : bool
        Whether relevance on paths around the layers counts too.
    """

    several: list[Condition]
    single: bool
    parallel: bool

    @property
    def texts(self) -> list[str]:
        """Each condition as text: ``conv=5,7; dense=2``."""
        return ["; ".join(f"{layer}={_text(neurons)}" for layer, neurons in c.items()) for c in self.several]


def as_conditions(conditions: Any, parallel: bool) -> Conditions:
    """The caller's conditions as one object; InputError for what no model has."""
    single = isinstance(conditions, Mapping)
    several = [conditions] if single else conditions
    if not isinstance(several, (list, tuple)) or not several or not all(isinstance(c, Mapping) and c for c in several):
        raise InputError(
            'conditions must map layers to their neurons, as {"conv": 5}, or be a list of such mappings, not '
            f"{conditions!r:.80}"
        )
    return Conditions(list(several), single, parallel)


def conditions_or_none(conditions: Any, parallel: Any) -> Conditions | None:
    """`as_conditions`; None where no conditions are given, which ``parallel`` must not be without."""
    parallel = check_flag(parallel, "parallel")
    if conditions is not None:
        return as_conditions(conditions, parallel)
    if parallel:
        raise InputError("parallel goes with conditions=, which say what relevance may flow through")
    return None


def _text(neurons: Any) -> str:
    """A selection as text; of a boolean array how many neurons it has."""
    if isinstance(neurons, slice):
        ends = ("" if end is None else str(end) for end in (neurons.start, neurons.stop, neurons.step))
        return ":".join(ends).removesuffix(":")
    array = np.asarray(sorted(neurons) if isinstance(neurons, (set, frozenset)) else neurons)
    if array.dtype.kind == "b":
        return (
            f"{int(array.sum())} of {array.size} by a mask"
            if array.ndim > 1
            else ",".join(map(str, np.flatnonzero(array)))
        )
    return ",".join(map(str, array.ravel().tolist()))


def chosen(selection: Any, shape: tuple[int, ...], layer: str) -> np.ndarray:
    """Which values of a layer's output a selection chooses: True there, in a shape that broadcasts to ``shape``.

    Integers, sets and slices choose channels, which lie on the last axis; a boolean array has the channels or the
    whole shape.
    """
    channels = shape[-1] if shape else 1
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


class ConditionalRuns(HiddenLayers):
    """Part of `AnalyzerCore`."""

    def _conditional(
        self, conditions: Conditions, start: Start, axes: tuple[int, ...]
    ) -> tuple[Any, int, Start, tuple[int, ...], list[int] | None]:
        """The compiled program of conditions, its output's buffer and start, the axis of conditions, and each's result.

        Conditions that agree have one result; None where each has its own, in order.
        """
        self._refuse_averages()
        if axes:
            raise InputError("conditions take one target per sample, not several")
        masks = [self._masks(condition, conditions.parallel) for condition in conditions.several]
        chains: tuple[Chain, ...] = tuple(sorted({tuple(mask) for mask in masks}))
        if conditions.parallel:  # layers that a condition does not name let everything through
            everything = np.ones(1, np.uint8)
            chains = (tuple(sorted({v for chain in chains for v in chain}, reverse=True)),)
            masks = [{v: mask.get(v, everything) for v in chains[0]} for mask in masks]
        program, compiled = self._programs.conditional(chains, conditions.parallel)
        passes, results = passes_of(program, masks)
        in_order = results == list(range(len(passes.first) - 1))
        count = () if conditions.single else (len(masks),)
        return compiled, program.program.output, start.with_passes(passes), count, None if in_order else results

    def deciding_conditions(self, conditions: Conditions) -> tuple[Any, ...]:
        """What relevance under conditions depends on: the masks of layers."""
        masks = (
            tuple((value, mask.tobytes()) for value, mask in self._masks(condition, conditions.parallel).items())
            for condition in conditions.several
        )
        return conditions.single, conditions.parallel, *masks

    def _masks(self, condition: Condition, parallel: bool) -> Masks:
        """A condition as masks of the plan's values, the uppermost first."""
        model, plan = self.explained_model, self.plan
        check_layers(model, condition)
        numbers = {node.name: i for i, node in enumerate(model.nodes)}
        inputs = {model.nodes[i].name for i in model.inputs}
        masks: Masks = {}
        layers: dict[int, str] = {}
        for layer, selection in condition.items():
            if layer in inputs:
                raise InputError(f"conditions: {layer!r} is the input; choose a hidden layer")
            node = self._layer(layer)
            shape: tuple[int, ...] = node.shape
            mask = chosen(selection, shape, layer)
            by_channel = mask.shape != shape and (node.rows is None or node.rows.axis < len(shape) - 1)
            if not by_channel:
                mask = np.broadcast_to(mask, shape)
                mask = (mask if node.rows is None else node.rows.of(mask)).ravel()
            other = masks.get(node.value)  # of another layer that has the same values
            if other is not None:
                size = plan.sizes[node.value]
                mask = np.resize(mask, size) & np.resize(other, size).astype(bool)
            masks[node.value] = np.ascontiguousarray(mask, np.uint8)
            layers[node.value] = max(layer, layers.get(node.value, layer), key=numbers.__getitem__)
        chain = sorted(masks, reverse=True)
        for above, below in () if parallel else itertools.pairwise(chain):
            if numbers[layers[below]] not in model.needed(layers[above]):
                names = ", ".join(layers[v] for v in chain[: chain.index(below)])
                raise ShapeError(f"conditions: no path leads from {layers[below]!r} to {names}")
        return {v: masks[v] for v in chain}


def passes_of(program: Conditional, conditions: Sequence[Masks]) -> tuple[Passes, list[int]]:
    """The passes of conditions, in an order in which they share the most, and which result each condition has."""
    kinds: dict[bytes, tuple[int, int]] = {}  # of masks: where each begins, and its size
    pieces: list[np.ndarray] = []
    total = 0
    routes: dict[tuple[tuple[int, int, int], ...], int] = {}
    of_condition = []
    for masks in conditions:
        route = []
        for segment, mask in zip(program.routes[tuple(masks)], masks.values(), strict=True):
            if segment is None:
                continue
            key = mask.tobytes()
            if key not in kinds:
                kinds[key] = total, mask.size
                pieces.append(mask)
                total += mask.size
            route.append((segment, *kinds[key]))
        of_condition.append(routes.setdefault(tuple(route), len(routes)))
    order = sorted(routes)
    place = {routes[route]: i for i, route in enumerate(order)}
    steps: list[tuple[int, int, int]] = []
    first = [0]
    for before, way in zip([(), *order], order, strict=False):
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, way, strict=False)))
        steps += way[same:]
        first.append(len(steps))
    passes = Passes(
        np.array(steps, np.int64).reshape(-1, 3),
        np.array(first, np.int64),
        np.concatenate(pieces or [np.ones(1, np.uint8)]),
    )
    return passes, [place[i] for i in of_condition]


def amplified_alone(notes: Sequence[tuple[int, RunGrowth]]) -> list[tuple[int, RunGrowth]]:
    """What runs under conditions noted of growth: a neuron without relevance is nothing to warn of."""
    return [(first, replace(run, vanished=0, zero=0, nothing=0, negative=0)) for first, run in notes]
