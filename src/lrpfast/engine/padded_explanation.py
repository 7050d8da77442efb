"""What an explanation of padded samples has of each sample alone: relevance of its layers, and their balance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from ..kernels.arrays import module_of
from .balance import Conservation, StepBalance
from .explanation import Explanation
from .padded_layers import PaddedLayer
from .padded_model import PaddedModel


def own_parts(explanation: Explanation, padded: PaddedModel, lengths: Sequence[int]) -> Explanation:
    """An explanation by a padded model as one of the model that is explained; its inputs' relevance stays padded.

    Relevance of layers that are as long as the samples becomes a list of arrays.
    """
    layers = explanation.layers
    if layers is not None:
        layers = {layer.name: _own(layers[layer.source], layer, padded.length, lengths) for layer in padded.layers}
    balances = [
        balance if balance.steps is None else replace(balance, steps=_own_steps(balance.steps, padded.length, lengths))
        for balance in explanation.conservation
        if balance.layer not in padded.moves
    ]
    return replace(explanation, layers=layers, conservation=Conservation(balances, explanation.conservation.note))


def _own(relevance: Any, layer: PaddedLayer, padded: int, lengths: Sequence[int]) -> Any:
    """The relevance of a layer's output: an array if all samples have its shape, else a list."""
    if not layer.ragged:
        return relevance
    return [_of_sample(row, layer, padded, length) for row, length in zip(relevance, lengths, strict=True)]


def _of_sample(row: Any, layer: PaddedLayer, padded: int, length: int) -> Any:
    shape = tuple(n // padded * length if axis in layer.ragged else n for axis, n in enumerate(layer.shape))
    if layer.rows is None:
        return row[tuple(map(slice, shape))]
    whole = module_of(row).zeros(shape, row.dtype)
    index = [slice(n) for n in shape]
    computed = tuple(slice(None) if axis == layer.rows.axis else part for axis, part in enumerate(index))
    chosen: list[Any] = list(index)
    chosen[layer.rows.axis] = [length - 1] if layer.last else list(layer.rows.positions)
    whole[tuple(chosen)] = row[computed]
    return whole


def _own_steps(steps: StepBalance, padded: int, lengths: Sequence[int]) -> StepBalance:
    """The account of each sample's own steps, NaN after its last one."""
    count = steps.incoming.shape[1] // padded
    ends = [count * length for length in lengths]
    cut = {f.name: getattr(steps, f.name)[:, : max(ends)].copy() for f in fields(StepBalance)}
    for i, end in enumerate(ends):
        # what arrives at the last state passes the steps behind the sample's end
        cut["incoming"][i, end - 1] += steps.incoming[i, end:].sum()
        for figure in cut.values():
            figure[i, end:] = np.nan
    return StepBalance(**cut)
