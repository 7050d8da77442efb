"""The layers of a model that lrpfast does not read, and what stands for their outputs."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...errors import UnsupportedLayerError
from ..obstacles import Obstacle
from .config import FUNCTIONAL, SEQUENTIAL, Call, config_of, is_operation
from .custom import custom_object
from .hub import CALLED
from .keras_1 import CLASSES as KERAS_1
from .keras_1 import in_keras_2
from .layers import CONVERTERS, unread_class
from .ops import OPERATIONS, operation_name, unknown_operation
from .preprocessing import BUILDERS
from .record import KerasLayer
from .recurrent import RECURRENT
from .wrappers import WRAPPERS

#: Every class of a layer that is read.
_KNOWN = {*CONVERTERS, *BUILDERS, *WRAPPERS, *RECURRENT, *CALLED, *KERAS_1}


#: Stands for the number of a value that is not read, so that the other layers are looked at all the same.
UNREAD = -1
#: More outputs than a layer has.
_OUTPUTS = 1 << 12
#: Classes that a user knows as layers which work otherwise than feed-forward ones: they come first.
_WELL_KNOWN = re.compile("LSTM|GRU|RNN|Attention|Bidirectional")


def _is_read(layer: KerasLayer, custom_objects: Mapping[str, Any]) -> bool:
    """Whether a layer is of a class, or an operation, that lrpfast reads."""
    if is_operation(layer.class_name):
        return operation_name(layer) in OPERATIONS
    return layer.class_name in _KNOWN or custom_object(layer, custom_objects) is not None


def _obstacle(layer: KerasLayer, error: UnsupportedLayerError) -> Obstacle:
    """A layer that is not read, and why."""
    kind = operation_name(layer) if is_operation(layer.class_name) else layer.class_name
    inner = layer.config.get("layer")
    if kind in WRAPPERS and isinstance(inner, Mapping):
        kind = f"{kind} of {inner.get('class_name')}"
    return Obstacle(kind, f"{layer.name!r} ({layer.position})", error, 0 if _WELL_KNOWN.search(kind) else 1)


def _check(layer: KerasLayer, call: Call | None, custom_objects: Mapping[str, Any]) -> None:
    """UnsupportedLayerError where the layer's class is not read, or is called in a way that is not."""
    nested = layer.class_name in SEQUENTIAL + FUNCTIONAL
    if not nested and not _is_read(layer, custom_objects):
        raise unknown_operation(layer) if is_operation(layer.class_name) else unread_class(layer)
    if call is not None and call.problem and (nested or layer.class_name in (*CONVERTERS, *RECURRENT)):
        remedy = "lrpfast reads layers that are called with other layers' outputs alone; build the model so, with the "
        raise layer.unsupported(call.problem, f"{remedy}same weights, and save that")


def collecting(call_layer: Callable[..., Sequence[int | None]]) -> Callable[..., Sequence[int | None]]:
    """Let a scope's `call` collect what is not read, where its builder has a list for it, and go on behind it."""

    @functools.wraps(call_layer)
    def collected(
        scope: Any, i: int, inputs: list[int], masked: Any, call: Call | None = None, *rest: Any
    ) -> Sequence[int | None]:
        obstacles, kind = scope.builder.obstacles, scope.kinds[i]
        name, config = scope.prefix + scope.slots[i].name, config_of(scope.entries[i])
        stored = functools.partial(scope.store.weights, scope.slots[i])
        layer = in_keras_2(KerasLayer(name, kind, config, scope.position(i), scope.builder.keras, stored))
        try:
            _check(layer, call, scope.builder.custom_objects)
            unread = UNREAD in inputs or any(mask.source == UNREAD for mask in masked)
            if unread and kind not in SEQUENTIAL + FUNCTIONAL:
                return [UNREAD] * _OUTPUTS
            return call_layer(scope, i, inputs, masked, call, *rest)
        except UnsupportedLayerError as error:
            if obstacles is None:
                raise
            obstacles.add(_obstacle(layer, error))
            return [UNREAD] * _OUTPUTS

    return collected
