"""A model's nodes: each use of a layer, its name, its inputs and its shape."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from ..errors import InputError
from .layers import Layer, Shape
from .layers.base import whole


@dataclass(frozen=True, eq=False)
class Node:
    """One use of a layer: its input nodes, its output's shape per sample, and its name in the model.

    The name is the layer's, with a number for a layer's second and later uses: ``shared``, ``shared:1``.
    """

    layer: Layer
    inputs: tuple[int, ...]
    shape: Shape
    name: str

    def __str__(self) -> str:
        return f"{type(self.layer).__name__} {self.name!r}"

    def __repr__(self) -> str:
        return f"Node({self.name!r}, {type(self.layer).__name__}, inputs={self.inputs}, shape={self.shape})"


def snake(layer: type[Layer]) -> str:
    """What Keras names a layer of that class: ``MaxPool`` is ``max_pool``, ``SimpleRNN`` is ``simple_rnn``."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", layer.__name__)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()


def with_names(layers: Sequence[Layer]) -> list[Layer]:
    """Name every unnamed layer as Keras does: dense, dense_1, … A layer that is used twice stays one layer."""
    for layer in layers:
        if layer.name is not None and not isinstance(layer.name, str):
            raise InputError(f"{type(layer).__name__}: name must be a text or None, not {layer.name!r}")
    distinct = list({id(layer): layer for layer in layers}.values())
    names = [layer.name for layer in distinct if layer.name]
    names_in_use = set(names)
    if len(names_in_use) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two layers are named {twice!r}; names must differ")
    result = {}
    counts: Counter[str] = Counter()  # the last number that was tried after each stem
    for layer in distinct:
        if not layer.name:
            stem = snake(type(layer))
            name = f"{stem}_{counts[stem]}" if counts[stem] else stem
            while name in names_in_use:
                counts[stem] += 1
                name = f"{stem}_{counts[stem]}"
            names_in_use.add(name)
            result[id(layer)] = replace(layer, name=name)
        else:
            result[id(layer)] = layer
    return [result[id(layer)] for layer in layers]


def indices(values: Iterable[Any], count: int) -> tuple[int, ...] | None:
    """The values as indices below ``count``; None if one of them is not an index."""
    numbers = tuple(map(whole, values))
    return None if any(i is None or not 0 <= i < count for i in numbers) else cast("tuple[int, ...]", numbers)


def check_pairs(nodes: Any) -> None:
    """Raise InputError unless ``nodes`` are pairs of a layer and the indices of its inputs."""
    for node in nodes if isinstance(nodes, (tuple, list)) else [nodes]:
        pair = isinstance(node, (tuple, list)) and len(node) == 2
        if not pair or not isinstance(node[0], Layer) or not isinstance(node[1], (tuple, list)):
            raise InputError(f"nodes must be pairs of a layer and the indices of its inputs, not {node!r:.80}")
