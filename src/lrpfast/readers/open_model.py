"""Models whose layers depend on sizes that the data decide: they are read anew for each size."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from ..errors import InputError, LrpfastError, ShapeError
from ..model.graph import Model
from ..model.layers import Shape
from ..model.layers.base import as_shape
from ..model.node import Node

Reader = Callable[[Sequence[Shape]], Model]

#: Sizes of which a file is read to see which layers it has.
SIZES = (6, 8, 16, 32, 64, 128, 224, 256)


@dataclass(frozen=True)
class _Derived:
    """A reader whose models are changed by a method of theirs."""

    reader: Reader
    method: str
    arguments: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...] = ()

    def __call__(self, shapes: Sequence[Shape]) -> Model:
        result: Model = getattr(self.reader(shapes), self.method)(*self.arguments, **dict(self.named))
        return result


def _sharing(model: Model, other: Model) -> Model:
    """The model with the layers of another one of its outline where they are equal, so that weights exist once."""
    if not OpenModel.fits(model, other):
        return model
    pairs = zip(model.nodes, other.nodes, strict=True)
    nodes = [(b.layer if _equal(a.layer, b.layer) else a.layer, a.inputs) for a, b in pairs]
    return Model(nodes, model.name, model.outputs)


def _equal(a: Any, b: Any) -> bool:
    """Whether two layers, or values of their fields, are equal."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if is_dataclass(a):
        return all(_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    return bool(a == b)


class OpenModel(Model):
    """A model that leaves sizes of its inputs to the data, and whose layers are others for other sizes.

    Its ``layers`` are those of one size. `with_input_shape`, and every analyzer, read the layers of the data's size.

    Parameters
    ----------
    first, second : Model
        Of two sizes, with layers of the same types and names.
    shapes : sequence of Shape
        Of the inputs, None for open sizes.
    reader : callable
        From the inputs' shapes to the model.
    """

    first: Model
    second: Model
    reader: Reader

    def __init__(self, first: Model, second: Model, shapes: Sequence[Shape], reader: Reader) -> None:
        nodes = [
            replace(a, shape=tuple(n if n == m else None for n, m in zip(a.shape, b.shape, strict=True)))
            for a, b in zip(first.nodes, second.nodes, strict=True)
        ]
        for i, shape in zip(first.inputs, shapes, strict=True):
            layer: Any = nodes[i].layer
            nodes[i] = replace(nodes[i], layer=replace(layer, shape=shape), shape=shape)
        self.__dict__.update(
            nodes=tuple(nodes), inputs=first.inputs, outputs=first.outputs, name=first.name, sequential=False
        )
        self.__dict__.update(first=first, second=_sharing(second, first), reader=reader)

    @staticmethod
    def fits(first: Model, second: Model) -> bool:
        """Whether two models have the same layers but for sizes."""

        def outline(model: Model) -> list[tuple[Any, ...]]:
            return [(n.name, type(n.layer), n.inputs, len(n.shape)) for n in model.nodes]

        return outline(first) == outline(second) and first.outputs == second.outputs

    def with_input_shape(self, *shapes: Sequence[int] | int) -> Model:
        """The same model for inputs of the given shapes, as `Model.with_input_shape`."""
        if len(shapes) != len(self.inputs):
            raise ShapeError(f"the model has {len(self.inputs)} inputs, not {len(shapes)}")
        sizes = []
        for i, shape in zip(self.inputs, shapes, strict=True):
            node: Node = self.nodes[i]
            size = as_shape(shape, str(node))
            if len(size) != len(node.shape) or any(
                n is None or m not in (None, n) for n, m in zip(size, node.shape, strict=True)
            ):
                raise ShapeError(f"{node} takes samples of shape {node.shape}, not {size}")
            sizes.append(size)
        return _sharing(self.reader(sizes), self.first)

    def _derived(self, method: str, *arguments: Any, **named: Any) -> OpenModel:
        first, second = (getattr(m, method)(*arguments, **named) for m in (self.first, self.second))
        shapes = {self.nodes[i].name: self.nodes[i].shape for i in self.inputs}
        reader = _Derived(self.reader, method, arguments, tuple(named.items()))
        return OpenModel(first, second, [shapes[first.nodes[i].name] for i in first.inputs], reader)

    def until(self, layer: str | int) -> Model:
        """The model that ends with a layer's output, as `Model.until`."""
        return self._derived("until", layer)

    def without_output_activation(self, functions: Collection[str]) -> Model:
        """The model without its outputs' final activations, as `Model.without_output_activation`."""
        return self._derived("without_output_activation", functions)

    def randomized(self, seed: int = 0, *, from_layer: str | int | None = None) -> Model:
        """The model with random weights, as `Model.randomized`."""
        return self._derived("randomized", seed, from_layer=from_layer)

    def save(self, path: str | os.PathLike[str]) -> None:
        """InputError: a file has the layers of one size."""
        raise InputError(
            f"the layers of model {self.name!r} depend on sizes that the data decide; a file has those of one size. "
            "Save model.with_input_shape(…), or keep the file that it was read from"
        )


def of_sizes(opened: Sequence[Shape], candidates: Iterable[Sequence[Shape]], reader: Reader) -> OpenModel | None:
    """The model of open sizes that a reader reads anew; None where the first two that it reads differ in their layers.

    Parameters
    ----------
    opened : sequence of Shape
        Of the inputs, None for open sizes.
    candidates : iterable
        The inputs' shapes for sizes to try, in this order.
    reader : callable
        From the inputs' shapes to the model.
    """
    models: list[Model] = []
    tried = set()
    for shapes in candidates:
        if tuple(shapes) in tried:
            continue
        tried.add(tuple(shapes))
        try:
            with warnings.catch_warnings():
                if models:  # what the first one warned of
                    warnings.simplefilter("ignore")
                models.append(reader(shapes))
        except LrpfastError:
            continue
        if len(models) == 2:
            break
    if len(models) < 2 or not OpenModel.fits(models[0], models[1]):
        return None
    return OpenModel(models[0], models[1], opened, reader)
