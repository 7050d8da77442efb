"""Keras's configurations taken apart: containers, their layers, and how each layer is called."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import ModelFormatError, UnsupportedLayerError
from ...model.layers import Shape
from .arguments import Ref, is_array, is_constant, is_ref, parsed, refs
from .record import plain

#: Class names of the containers whose layers are read.
SEQUENTIAL, FUNCTIONAL = ("Sequential",), ("Functional", "Model")
#: Top-level packages in which Keras's own classes live.
KERAS_PACKAGES = ("keras", "tf_keras", "keras_core", "tensorflow")

#: Packages of layers that are read by their own names.
_HUB = ("keras_hub", "keras_nlp")
#: Operations whose configuration has a dtype, as those of layers have.
_CASTS = ("Cast", "ConvertToTensor", "SaturateCast", "Prod")
#: Layers that change images at random in training, and do nothing at inference.
RANDOM = (
    "AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter",
    "RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale",
    "RandomHeight", "RandomHue", "RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation",
    "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation", "RandomWidth", "RandomZoom",
)  # fmt: skip

# -- one entry of a configuration ---------------------------------------------


def config_of(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """A layer's own configuration; empty where there is none."""
    config = entry.get("config")
    return config if isinstance(config, Mapping) else {}


def name_of(entry: Mapping[str, Any]) -> str:
    """A layer's name; ModelFormatError where it has none."""
    name = entry.get("name") or config_of(entry).get("name")
    if not isinstance(name, str):
        raise ModelFormatError(f"a layer of class {entry.get('class_name')!r} has no name")
    return name


def _without_hub(name: str) -> str:
    package, _, title = name.rpartition(">")
    return title if package in _HUB else name


def class_of(entry: Mapping[str, Any]) -> str:
    """The class name; with its package (``pkg>Dense``) where it is not one of Keras's own layers."""
    name, registered = str(entry.get("class_name")), entry.get("registered_name")
    if isinstance(registered, str) and ">" in registered:
        return _without_hub(registered)
    path = str(entry["module"]).split(".") if "module" in entry else []
    if path and path[0] not in KERAS_PACKAGES:
        return _without_hub(name) if ">" in name else f"Custom>{name}"
    # keras.ops.add of Keras 3 is of class Add, too; where the file leaves out modules, its bare configuration tells
    nodes = entry.get("inbound_nodes")
    typed = {"trainable"} if name in _CASTS else {"trainable", "dtype"}
    bare = not path and not typed & config_of(entry).keys() and name not in (*SEQUENTIAL, *FUNCTIONAL)
    name = _without_hub(name)
    if "ops" in path or (bare and isinstance(nodes, list) and any(map(_is_keras_3, nodes))):
        return f"ops>{name}"
    return name


def shape_of(*candidates: Any) -> Shape | None:
    """The first batch shape among the candidates, without its batch axis."""
    for value in map(plain, candidates):
        if isinstance(value, (list, tuple)) and value and all(n is None or isinstance(n, int) for n in value):
            return tuple(value[1:])
    return None


def declared(entry: Mapping[str, Any]) -> Shape | None:
    """The input shape that a layer's configuration declares, without the batch axis."""
    config = config_of(entry)
    return shape_of(config.get("batch_shape"), config.get("batch_input_shape"))


def entries_of(model: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A container's layers, as listed; UnsupportedLayerError where its class is not read."""
    kind = class_of(model)
    if kind not in SEQUENTIAL + FUNCTIONAL:
        raise UnsupportedLayerError(
            f"the model is of class {model.get('class_name')!r}, lrpfast reads Sequential and functional models. "
            "Rebuild it as keras.Model(inputs, outputs), copy the weights with set_weights, and save that"
        )
    # Keras before 2.2.3 stored a Sequential as the bare list of its layers
    config = model.get("config")
    entries = config if kind in SEQUENTIAL and isinstance(config, list) else config_of(model).get("layers")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, Mapping) for entry in entries):
        raise ModelFormatError("its configuration lists no layers")
    return entries


def is_input(entry: Mapping[str, Any]) -> bool:
    """Whether the entry is an InputLayer."""
    return entry.get("class_name") == "InputLayer"


# -- calls of layers ----------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """One call of a layer: its inputs, masks beside them, constant states, and what lrpfast cannot follow in it."""

    inputs: tuple[Ref, ...]
    masks: tuple[Ref, ...] = ()
    problem: str | None = None
    #: Initial states of a recurrent layer that are arrays; those that other layers compute follow its inputs.
    states: tuple[Any, ...] = ()
    #: An operation's arguments by position and by name, as `arguments.parsed` returns them.
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def _refs(value: Any, key: str | None = None) -> Iterable[Ref | Any]:
    """The references in a structure of lists and dicts, in Keras's order; constants as they are."""
    value = plain(value)
    if is_ref(value) and not is_constant(value):
        yield Ref(value[0], value[1], value[2], key)
    elif isinstance(value, Mapping):
        history = plain(config_of(value).get("keras_history"))
        if history is not None:
            yield from _refs(history, key)
        else:
            for name in sorted(value):
                yield from _refs(value[name], name)
    elif isinstance(value, (list, tuple)) and not is_constant(value):
        for item in value:
            yield from _refs(item, key)
    elif value is not None:
        yield value


def _options(value: Any) -> list[Mapping[str, Any]]:
    """The keyword arguments that Keras 2 writes behind each reference."""
    if isinstance(value, Mapping):
        return [options for item in value.values() for options in _options(item)]
    if is_ref(value) or is_constant(value):
        return [value[3]] if len(value) > 3 and isinstance(value[3], Mapping) else []
    return [options for item in value for options in _options(item)] if isinstance(value, (list, tuple)) else []


def calls_of(entry: Mapping[str, Any]) -> list[Call]:
    """Every call of a layer, from any of Keras's formats."""
    calls = []
    nodes = plain(entry.get("inbound_nodes"))
    for node in nodes if isinstance(nodes, (list, tuple)) else ():
        if _is_keras_3(node):
            kwargs = plain(node.get("kwargs")) or {}
            options, values = [kwargs], list(_refs([node["args"], kwargs.get("inputs")]))
        else:
            options, values = _options(node), list(_refs(node))
        constants = [item for item in values if not isinstance(item, Ref)]
        problem = f"is called with the constant {constants[0]!r:.40}" if constants else None
        masks: list[Ref] = []
        states: list[Any] = []
        for key, value in ((key, value) for kwargs in options for key, value in kwargs.items()):
            named = [item for item in _refs(value) if isinstance(item, Ref)]
            names = [item.name for item in named]
            if key == "mask":
                masks += named
            elif key == "initial_state" and _is_keras_3(node):
                values += named
                items = parsed(value)
                states += [item for item in (items if isinstance(items, list) else [items]) if is_array(item)]
            elif key == "training" and value and not _random_by_default(entry, node):
                problem = "is called with training=True, so that it works as in training"
            elif names and key != "inputs":
                problem = f"is called with {names[0]!r} as {key!r}"
        inputs = tuple(item for item in values if isinstance(item, Ref))
        calls.append(Call(inputs, tuple(masks), problem, tuple(states)))
    return calls


def _random_by_default(entry: Mapping[str, Any], node: Any) -> bool:
    """Whether Keras 3 writes training=True of the layer, its default, though predict overrules it."""
    return _is_keras_3(node) and str(entry.get("class_name")) in (*RANDOM, "RandomCrop")


def is_operation(kind: str) -> bool:
    """Whether layers of this class are operations between layers: keras.ops of Keras 3, TensorFlow's of Keras 2."""
    return kind.startswith("ops>") or kind in ("TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer")


def operations_of(entry: Mapping[str, Any]) -> list[Call]:
    """Every call of an operation, with all its arguments; see `calls_of`."""
    calls = []
    nodes = entry.get("inbound_nodes")
    for node in nodes if isinstance(nodes, (list, tuple)) else ():
        if _is_keras_3(node):
            args, kwargs = parsed(plain(node["args"])), parsed(plain(node.get("kwargs")) or {})
        else:
            args, options = [parsed(node)], (_options(node) or [{}])[0]
            kwargs = {key: parsed(value) for key, value in options.items()}
        if not isinstance(args, list) or not isinstance(kwargs, Mapping):
            raise ModelFormatError(f"layer {name_of(entry)!r}: its call has no arguments")
        calls.append(Call(tuple(refs([args, kwargs])), args=tuple(args), kwargs=kwargs))
    return calls


def _is_keras_3(node: Any) -> bool:
    return isinstance(node, Mapping) and "args" in node


def first_number(numbers: set[int], calls: int, guess: int) -> int:
    """Whether references to a layer count its calls from 0 or from 1.

    Keras 2 counts the calls of a nested model from 1 (0 was its own making), Keras 3 does so among a
    model's outputs only. Every call in a file is referred to, so that mostly the numbers themselves tell.
    """
    return 0 if 0 in numbers else 1 if calls in numbers else guess


def ends(config: Mapping[str, Any], key: str) -> list[Ref]:
    """What a functional model names as its inputs or outputs."""
    refs = list(_refs(config.get(key)))
    if not refs or not all(isinstance(ref, Ref) for ref in refs):
        raise ModelFormatError(f"its configuration has no {key}")
    return refs


def major(version: str | None, document: Mapping[str, Any]) -> int:
    """Keras's major version, as the file says or as its spellings tell."""
    match = re.match(r"\s*(\d{1,4})\.", version or "")
    if match:
        return int(match[1])
    text = json.dumps(document)
    return 3 if '"batch_shape"' in text or '"keras_history"' in text else 2  # spellings new in Keras 3
