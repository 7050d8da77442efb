"""The graph of layers in a Keras configuration: containers, calls, and the order to compute them in."""

from __future__ import annotations

import contextlib
import functools
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...budget import check_layers
from ...errors import ModelFormatError, ShapeError, UnsupportedLayerError
from ...model import layers as L
from ...model.graph import Model
from ...model.layers import Layer, Shape
from ..channels_first import Builder, Tensor, Value
from ..input_shape import FIX_SIZE, InputShapes, naming_open_sizes, resolve_shapes
from ..obstacles import Obstacles
from ..untrusted import parse_json
from .arguments import Ref, replaced
from .config import (
    FUNCTIONAL,
    SEQUENTIAL,
    Call,
    calls_of,
    class_of,
    config_of,
    declared,
    ends,
    entries_of,
    first_number,
    is_input,
    is_operation,
    major,
    name_of,
    operations_of,
    shape_of,
)
from .custom import as_built_in, call_custom, check_custom_objects, custom_object
from .keras_1 import in_keras_2
from .layers import BACK, LAST, convert, naming
from .ops import operate
from .preprocessing import BUILDERS
from .record import KerasLayer
from .store import Entry, Store, WrappedStore
from .unknown import collecting
from .wrappers import WRAPPERS, over_time

# -- building -----------------------------------------------------------------

#: Layers through which a mask of time steps goes on; in Keras all others end it.
_CARRIES_MASK = (L.Dense, L.Activation, L.Identity, L.BatchNorm, L.LayerNorm, L.RMSNorm, L.Merge, L.Permute)
#: Layers laid out by `BUILDERS` that do so, too.
_MASKED_BUILDERS = ("GroupNormalization", "UnitNormalization", "TimeDistributed")
#: Classes that compute something else where there is a mask.
_USES_MASK = ("GlobalAveragePooling1D", "Softmax")


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


class _Builder:
    """Lays containers out flat: nodes in forward order, with their shapes."""

    def __init__(self, keras: int, custom_objects: Mapping[str, Any]) -> None:
        self.keras, self.custom_objects = keras, custom_objects
        self.obstacles: Obstacles | None = None
        #: Lays out the layers that operations become; it appends to the same nodes.
        self.tensors = Builder()
        self.nodes, self.shapes = self.tensors.nodes, self.tensors.shapes
        self.calls: Counter[int] = Counter()  # of operations
        self.masks: dict[int, str] = {}  # nodes whose values carry a mask, and whose it is
        self.converted: dict[int, tuple[KerasLayer, tuple[Shape, ...], tuple[Layer, ...]]] = {}

    def add(self, layer: Layer, inputs: tuple[int, ...]) -> int:
        """Add one use of a layer; its number."""
        before, sources = self.nodes[inputs[0]] if inputs else (None, ())
        if (
            isinstance(layer, L.Permute)
            and isinstance(before, L.Permute)
            and (str(before.name).endswith(f"/{BACK}") and str(layer.name).endswith(f"/{LAST}"))
            and [before.axes[axis] for axis in layer.axes] == sorted(layer.axes)
        ):
            return sources[0]  # there and back
        self.shapes.append(layer.output_shape(*(self.shapes[i] for i in inputs)))
        self.nodes.append((layer, inputs))
        return len(self.nodes) - 1

    def use(self, key: int, layer: KerasLayer, inputs: list[int], masked: tuple[str, ...]) -> int:
        """Convert a layer, at its first use, and add it."""
        layer = in_keras_2(layer)
        custom = custom_object(layer, self.custom_objects)
        if isinstance(custom, (str, type)):
            layer = as_built_in(layer, custom)
        shapes = tuple(self.shapes[i] for i in inputs)
        masks = [*masked, *(self.masks[i] for i in inputs if i in self.masks)]
        if masks and layer.class_name in _USES_MASK:
            raise layer.unsupported(
                f"leaves out the time steps that {masks[0]!r} masks, which lrpfast does not follow",
                "Train the model without a mask",
            )
        if layer.class_name in BUILDERS:
            return self._composed(key, layer, inputs, masks)
        if key not in self.converted:
            own = custom is not None and not isinstance(custom, (str, type))
            with naming(layer):
                chain = call_custom(layer, custom) if own else convert(layer, shapes)
            self.converted[key] = (layer, shapes, chain)
        _, first, chain = self.converted[key]
        if [len(shape) for shape in shapes] != [len(shape) for shape in first]:
            raise layer.unsupported(
                f"is used on inputs of shape {', '.join(map(str, first))} and of {', '.join(map(str, shapes))}",
                "lrpfast reads shared layers whose inputs have the same number of axes",
            )
        with naming(layer):
            at = self.add(chain[0], tuple(inputs))
            for part in chain[1:]:
                at = self.add(part, (at,))
        if layer.class_name == "Embedding" and layer.get("mask_zero", False):
            self.masks[at] = layer.name
        elif masks and all(isinstance(part, _CARRIES_MASK) and not isinstance(part, L.Dot) for part in chain):
            self.masks[at] = masks[0]
        return at

    def _composed(self, key: int, layer: KerasLayer, inputs: list[int], masks: list[str]) -> int:
        """A layer that becomes several, by a function that lays them out."""
        expected = 2 if layer.class_name == "CustomScaleLayer" else 1
        if len(inputs) != expected:
            raise ModelFormatError(f"{layer}: it takes {expected} input(s), the model calls it with {len(inputs)}")
        with self._naming(key, layer):
            values = map(self._value, inputs)
            at = self.tensors.plain(BUILDERS[layer.class_name](layer, self.tensors, *values)).node
        if layer.class_name == "Masking":
            self.masks[at] = layer.name
        elif masks and layer.class_name in _MASKED_BUILDERS:
            self.masks[at] = masks[0]
        return at

    def operation(self, key: int, layer: KerasLayer, call: Call, inputs: list[int]) -> list[int]:
        """Lay out an operation's layers; the numbers of its results."""
        numbers = iter(inputs)
        args, kwargs = replaced([list(call.args), dict(call.kwargs)], lambda ref: self._value(next(numbers)))
        with self._naming(key, layer):
            results = [self.tensors.plain(value).node for value in operate(layer, self.tensors, args, kwargs)]
        return results

    def wrapper(self, key: int, layer: KerasLayer, store: WrappedStore, inputs: list[int],
                masked: tuple[str, ...]) -> list[int]:  # fmt: skip
        """Lay out the layer, or model, in a wrapper: once, or for each time step."""
        entry = layer.config.get("layer")
        if not isinstance(entry, Mapping) or len(inputs) != 1:
            raise ModelFormatError(f"{layer}: it holds one layer and takes one input, not {len(inputs)}")
        inner, kind = Entry(name_of(entry), str(entry.get("class_name")), 0, 1), class_of(entry)
        nested = kind in SEQUENTIAL + FUNCTIONAL
        title = replace(layer, class_name=kind, config=config_of(entry), stored=lambda: store.weights(inner))
        masks = masked or tuple(self.masks[i] for i in inputs if i in self.masks)
        if layer.class_name == "SpectralNormalization":  # its kernel is stored normalized
            return [self.use(key, title, inputs, masked)]
        shape = self.shapes[inputs[0]]
        if len(shape) < 2:
            raise ShapeError(f"{layer}: it needs an axis of time steps and one more, its input has {shape}")
        step = _Builder(self.keras, self.custom_objects)
        step.add(L.Input(shape[1:]), ())
        if nested:
            outputs = step.container(entry, store.inside(inner), [0], f"{layer.name}/", (), masks)
        else:
            outputs = [step.use(key, title, [0], masks)]
        numbers = {0: inputs[0]}
        with naming(layer):
            for i, (part, sources) in enumerate(step.nodes[1:], 1):
                at = tuple(numbers[j] for j in sources)
                for lifted in over_time(part, shape[0], *(step.shapes[j] for j in sources)):
                    at = (self.add(lifted, at),)
                (numbers[i],) = at
        for output in outputs:
            self.masks.update({numbers[output]: masks[0]} if masks else {})
        return [numbers[output] for output in outputs]

    def _value(self, i: int) -> Value:
        return Tensor(i, self.shapes[i], tuple(range(len(self.shapes[i]))))

    @contextlib.contextmanager
    def _naming(self, key: int, layer: KerasLayer) -> Iterator[None]:
        """Name the layers that are laid out after the file's: the last one as it, the others as its parts."""
        use, self.calls[key] = self.calls[key], self.calls[key] + 1
        name, begin = f"{layer.name}:{use}" if use else layer.name, len(self.nodes)
        self.tensors.scope = name
        with naming(layer):
            yield
        for i in range(begin, len(self.nodes)):
            part, inputs = self.nodes[i]
            kind = type(part).__name__.lower()
            title = name if i == len(self.nodes) - 1 else f"{name}/{kind}_{i - begin}"
            self.nodes[i] = replace(part, name=title), inputs

    # containers

    def container(self, model: Mapping[str, Any], store: Store, inputs: list[int], prefix: str = "",
                  keys: Sequence[str | None] = (), masked: tuple[str, ...] = ()) -> list[int]:  # fmt: skip
        """Lay out a model's layers on inputs that are there; the numbers of its outputs."""
        entries = entries_of(model)
        counts: Counter[str] = Counter()
        total = Counter(str(entry.get("class_name")) for entry in entries)
        slots = []
        for entry in entries:
            kind = str(entry.get("class_name"))
            slots.append(Entry(name_of(entry), kind, counts[kind], total[kind]))
            counts[kind] += 1
        kinds = [class_of(entry) for entry in entries]  # once: it looks at all calls of a layer
        scope = _Scope(self, entries, kinds, slots, store, prefix)
        if class_of(model) in SEQUENTIAL:
            if len(inputs) != 1:
                raise ModelFormatError(f"{scope.title} is Sequential and takes one input, not {len(inputs)}")
            for i, entry in enumerate(entries):
                inputs = inputs if is_input(entry) else scope.call(i, inputs, masked)
                masked = masked if is_input(entry) else ()
            return inputs
        return scope.functional(config_of(model), inputs, keys, masked)


@dataclass(frozen=True)
class _Scope:
    """One container while it is laid out."""

    builder: _Builder
    entries: list[Mapping[str, Any]]
    kinds: list[str]
    slots: list[Entry]
    store: Store
    prefix: str

    @property
    def title(self) -> str:
        return f"the model {self.prefix[:-1]!r}" if self.prefix else "the model"

    def where(self, i: int) -> str:
        return f"layer {self.prefix + self.slots[i].name!r} ({self.kinds[i]}, {self.position(i)})"

    def position(self, i: int) -> str:
        return f"{i + 1} of {len(self.entries)}" + (f" in {self.prefix[:-1]!r}" if self.prefix else "")

    @collecting
    def call(self, i: int, inputs: list[int], masked: tuple[str, ...], call: Call | None = None) -> list[int]:
        """Call the i-th layer, the model that stands in its place, or the operation."""
        entry, slot, kind = self.entries[i], self.slots[i], self.kinds[i]
        name = self.prefix + slot.name
        if kind in SEQUENTIAL + FUNCTIONAL:
            keys = [ref.key for ref in call.inputs] if call is not None else ()
            return self.builder.container(entry, self.store.inside(slot), inputs, f"{name}/", keys, masked)
        weights = functools.partial(self.store.weights, slot)
        layer = KerasLayer(name, kind, config_of(entry), self.position(i), self.builder.keras, weights)
        if kind in WRAPPERS:
            return self.builder.wrapper(id(entry), layer, self.store.wrapped(slot), inputs, masked)
        if is_operation(kind) and call is not None:
            return self.builder.operation(id(entry), layer, call, inputs)
        return [self.builder.use(id(entry), layer, inputs, masked)]

    def functional(
        self, config: Mapping[str, Any], inputs: list[int], keys: Sequence[str | None], masked: tuple[str, ...]
    ) -> list[int]:
        calls = [
            [] if is_input(entry) else operations_of(entry) if is_operation(kind) else calls_of(entry)
            for entry, kind in zip(self.entries, self.kinds, strict=True)
        ]
        at = {slot.name: i for i, slot in enumerate(self.slots)}
        ins, outs = ends(config, "input_layers"), ends(config, "output_layers")
        number = self._numbering(calls, at, outs)

        # what the outputs need, each call once, and what each of these calls needs
        needs: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        results = [number(ref, True, self.title) for ref in outs]
        stack = [result[:2] for result in results]
        while stack:
            use = stack.pop()
            if use not in needs:
                i, k = use
                needs[use] = [number(ref, False, self.where(i)) for ref in calls[i][k].inputs] if calls[i] else []
                stack += [need[:2] for need in needs[use]]

        values = self._values_of_inputs(ins, at, inputs, keys)
        carried = {use for use in needs if is_input(self.entries[use[0]])} if masked else set()
        # in the file's order, except where that is not the order of computation
        consumers: dict[tuple[int, int], list[tuple[int, int]]] = {}
        missing = {}
        for use, outputs in needs.items():
            sources = {need[:2] for need in outputs}
            missing[use] = len(sources)
            for source in sources:
                consumers.setdefault(source, []).append(use)
        ready = [use for use, count in missing.items() if not count]
        heapq.heapify(ready)
        while ready:
            use = heapq.heappop(ready)
            i, k = use
            if use not in values:
                call = calls[i][k]
                arguments = [self._output(values[need[:2]], need, self.where(i)) for need in needs[use]]
                masks = call.masks or (masked if carried & {need[:2] for need in needs[use]} else ())
                values[use] = self.call(i, arguments, masks, call)
            for consumer in consumers.get(use, ()):
                missing[consumer] -= 1
                if not missing[consumer]:
                    heapq.heappush(ready, consumer)
        stuck = sorted(set(needs) - set(values))
        if stuck:
            raise ModelFormatError(f"{self.where(stuck[0][0])} feeds itself, directly or through other layers")
        return [self._output(values[result[:2]], result, self.title) for result in results]

    def _values_of_inputs(
        self, ins: list[Ref], at: Mapping[str, int], inputs: list[int], keys: Sequence[str | None]
    ) -> dict[tuple[int, int], list[int]]:
        for ref in ins:
            if ref.name not in at or not is_input(self.entries[at[ref.name]]):
                raise ModelFormatError(f"{self.title} says that {ref.name!r} is an input; it has no such InputLayer")
        if len(ins) != len(inputs):
            raise ModelFormatError(f"{self.title} takes {len(ins)} inputs, it is called with {len(inputs)}")
        if keys and all(key is not None for key in keys):  # called with a dict
            by_key = dict(zip(keys, inputs, strict=True))
            labels = [ref.key if ref.key is not None else ref.name for ref in ins]
            if set(labels) == set(by_key):
                inputs = [by_key[label] for label in labels]
        return {(at[ref.name], 0): [value] for ref, value in zip(ins, inputs, strict=True)}

    def _numbering(self, calls: list[list[Call]], at: Mapping[str, int], outs: list[Ref]) -> Any:
        """A function that finds the call, and the output of it, that a reference means."""
        numbers: dict[tuple[str, bool], set[int]] = {}
        inner = [(ref, False) for of_layer in calls for call in of_layer for ref in call.inputs]
        for ref, outside in [*inner, *((ref, True) for ref in outs)]:
            numbers.setdefault((ref.name, outside), set()).add(ref.call)

        def number(ref: Ref, outside: bool, user: str) -> tuple[int, int, int]:
            if ref.name not in at:
                raise ModelFormatError(f"{user} is fed by {ref.name!r}, which is no layer of it")
            i = at[ref.name]
            kind, count = self.kinds[i], len(calls[i])
            if is_input(self.entries[i]):
                return i, 0, 0
            nested = kind in FUNCTIONAL + SEQUENTIAL
            guess = nested and (self.builder.keras < 3 or (outside and kind in FUNCTIONAL))
            if not count:
                raise ModelFormatError(f"{self.where(i)}: nothing feeds it")
            call = ref.call - first_number(numbers[ref.name, outside], count, int(guess))
            if not 0 <= call < count:
                raise ModelFormatError(
                    f"{user} is fed by call {ref.call} of {ref.name!r}, which is called {count} times"
                )
            return i, call, ref.tensor

        return number

    def _output(self, values: list[int], need: tuple[int, int, int], user: str) -> int:
        i, _, tensor = need
        if not 0 <= tensor < len(values):
            raise ModelFormatError(f"{user} is fed by output {tensor} of {self.where(i)}, which has {len(values)}")
        return values[tensor]


# -- the whole model ----------------------------------------------------------


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
    builder = _Builder(major(version, document), check_custom_objects(custom_objects))
    builder.obstacles = Obstacles("layer")
    shapes = _input_shapes(document, store, input_shape or {})
    for name, shape in shapes.items():
        builder.add(L.Input(shape, name=name), ())
    inputs = list(range(len(builder.nodes)))
    check_layers(*_uses(document))  # before any of it is laid out
    with naming_open_sizes(shapes):
        outputs = builder.container(document, store, inputs)
        builder.obstacles.check()
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
