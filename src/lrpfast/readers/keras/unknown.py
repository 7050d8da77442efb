"""Every layer of a model that lrpfast does not read, for the error about the first of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .config import FUNCTIONAL, SEQUENTIAL, class_of, config_of, entries_of, is_input, is_operation, name_of
from .custom import custom_object
from .keras_1 import CLASSES as KERAS_1
from .layers import CONVERTERS
from .ops import OPERATIONS, operation_name
from .preprocessing import BUILDERS
from .record import KerasLayer
from .recurrent import RECURRENT
from .wrappers import WRAPPERS

#: Every class of a layer that is read.
_KNOWN = {*CONVERTERS, *BUILDERS, *WRAPPERS, *RECURRENT, *KERAS_1}


def other_unknown(document: Mapping[str, Any], keras: int, custom_objects: Mapping[str, Any]) -> str:
    """All layers of a model that lrpfast does not read, by their classes, where it has several."""
    unknown: dict[str, list[str]] = {}
    count = 0
    for entry in _all_entries(document):
        kind = class_of(entry)
        layer = KerasLayer(name_of(entry), kind, config_of(entry), "", keras, lambda: [])
        if is_input(entry) or custom_object(layer, custom_objects) is not None:
            continue
        title = operation_name(layer) if is_operation(kind) else kind
        known = title in OPERATIONS if is_operation(kind) else kind in _KNOWN
        if not known:
            unknown.setdefault(title, []).append(layer.name)
            count += 1
    if count < 2:
        return ""
    groups = [f"{kind} ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})" for kind, names in unknown.items()]
    return f". In all, lrpfast does not read {count} layers of the model: {', '.join(groups)}"


def _all_entries(model: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The layers of a model, and of the models and wrappers in it."""
    for entry in entries_of(model):
        inner = config_of(entry).get("layer")
        if class_of(entry) in SEQUENTIAL + FUNCTIONAL:
            yield from _all_entries(entry)
        elif class_of(entry) in WRAPPERS and isinstance(inner, Mapping):
            yield from _all_entries({"class_name": "Sequential", "config": {"layers": [inner]}})
        else:
            yield entry
