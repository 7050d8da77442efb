"""The Model of a Keras configuration: its inputs, its layers laid out, and what its outputs need of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...budget import check_layers
from ...errors import ModelFormatError, UnsupportedLayerError
from ...model import layers as L
from ...model.graph import Model
from ...model.layers import Shape
from ..input_shape import FIX_SIZE, InputShapes, naming_open_sizes, resolve_shapes
from ..obstacles import Obstacles
from ..untrusted import parse_json
from .config import (
    FUNCTIONAL,
    SEQUENTIAL,
    class_of,
    config_of,
    declared,
    ends,
    entries_of,
    is_input,
    major,
    name_of,
    shape_of,
)
from .custom import check_custom_objects
from .graph import LayerGraph
from .store import Entry, Store


def _uses(model: Mapping[str, Any]) -> tuple[int, int]:
    """How often the layers of a model are used together, where all calls are needed, and how many calls are written."""
    uses = written = 0
    for entry in entries_of(model):
        inside = _uses(entry) if class_of(entry) in SEQUENTIAL + FUNCTIONAL else (1, 0)
        calls = entry.get("inbound_nodes")
        count = max(1, len(calls)) if isinstance(calls, list) else 1
        uses += inside[0] * count
        written += inside[1] + count
    return uses, written


def build(
    text: str | bytes,
    store: Store,
    version: str | None,
    custom_objects: Any = None,
    input_shape: InputShapes | None = None,
) -> Model:
    """The Model of a Keras configuration.

    Parameters
    ----------
    text : str or bytes
        The configuration, JSON.
    store : Store
        Where the weights are.
    version : str or None
        The version of Keras that wrote it, if known.
    custom_objects, input_shape : mapping, optional
        See `lrpfast.load`.

    Raises
    ------
    LrpfastError
        When lrpfast does not read one of its layers, or it is no whole model.
    """
    document = parse_json(text, "its configuration")
    if not isinstance(document, Mapping):
        raise ModelFormatError(f"its configuration is a JSON {type(document).__name__}, not a model's description")
    builder = LayerGraph(major(version, document), check_custom_objects(custom_objects))
    builder.obstacles = Obstacles("layer")
    shapes = _input_shapes(document, store, input_shape or {})
    masks = {name_of(entry) for entry in entries_of(document) if config_of(entry).get("dtype") == "bool"}
    for name, shape in shapes.items():
        builder.add(L.Input(shape, "truth" if name in masks else "number", name=name), ())
    inputs = list(range(len(builder.nodes)))
    check_layers(*_uses(document))  # before any of it is laid out
    with naming_open_sizes(shapes):
        outputs = builder.container(document, store, inputs)
        builder.obstacles.check()
    if any(output < 0 for output in outputs):
        raise UnsupportedLayerError("an output of the model is a comparison, or a shape, which cannot be explained")
    if len(builder.nodes) == len(inputs):
        raise ModelFormatError("the model has no layers")

    needed = set(outputs)
    for i in range(len(builder.nodes) - 1, -1, -1):
        if i in needed:
            needed.update(builder.nodes[i][1])
    for i in inputs:
        if i not in needed:
            title = builder.nodes[i][0].name
            raise UnsupportedLayerError(
                f"layer {title!r} (InputLayer): no output depends on it, so that there is nothing to explain. Save the "
                "model without this input: keras.Model(inputs, outputs)"
            )
    number = {i: k for k, i in enumerate(sorted(needed))}
    nodes = [(builder.nodes[i][0], tuple(number[j] for j in builder.nodes[i][1])) for i in number]
    title = config_of(document).get("name")
    name = title if isinstance(title, str) else "model"
    return Model(nodes, name, [number[i] for i in outputs], class_of(document) in SEQUENTIAL)


def _input_shapes(model: Mapping[str, Any], store: Store, wanted: InputShapes) -> dict[str, Shape]:
    """The shapes of a model's inputs by their names, in its order."""
    found = _inputs(model, store)
    shapes: dict[str, Shape] = {}
    for (name, title), shape in zip(found, resolve_shapes({n: s for (n, _), s in found.items()}, wanted), strict=True):
        if shape is None:
            raise ModelFormatError(f"{title} does not say its input shape. {FIX_SIZE}")
        shapes[name] = shape
    return shapes


def _inputs(model: Mapping[str, Any], store: Store) -> dict[tuple[str, str], Shape | None]:
    """The shapes that a model's inputs are said to have, by the input's name and what errors call it."""
    entries = entries_of(model)
    if class_of(model) in SEQUENTIAL:
        head = entries[0]
        name = name_of(head) if is_input(head) else f"{name_of(head)}_input"
        title = f"layer {name_of(head)!r} ({class_of(head)}, 1 of {len(entries)})"
        return {(name, title): _sequential_shape(model, store)}
    inputs = {}
    for ref in ends(config_of(model), "input_layers"):
        entry = next((entry for entry in entries if name_of(entry) == ref.name), {})
        shape = declared(entry)
        if shape is None and len(entries) > 1:
            shape = shape_of(config_of(model).get("build_input_shape"))
        inputs[ref.name, f"layer {ref.name!r} (InputLayer)"] = shape
    return inputs


def _sequential_shape(model: Mapping[str, Any], store: Store) -> Shape | None:
    entries = entries_of(model)
    head = entries[0]
    kind, config = class_of(head), config_of(model)
    if kind in FUNCTIONAL + SEQUENTIAL:
        return next(iter(_inputs(head, store.inside(_entry_of_first(entries))).values()))
    builds = (config.get("build_input_shape"), head.get("build_config"), model.get("build_config"))
    build_shapes = [b.get("input_shape") if isinstance(b, Mapping) else b for b in builds]
    shape = declared(head)
    shape = shape if shape is not None else shape_of(*build_shapes)
    if shape is not None:
        return shape
    # an old model that was built by its first batch: a dense layer's kernel still tells
    stored = store.weights(_entry_of_first(entries)) if kind == "Dense" else []
    return stored[0].shape[:1] if stored else None


def _entry_of_first(entries: list[Mapping[str, Any]]) -> Entry:
    kind = str(entries[0].get("class_name"))
    return Entry(name_of(entries[0]), kind, 0, sum(str(entry.get("class_name")) == kind for entry in entries))
