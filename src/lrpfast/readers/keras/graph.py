"""The graph of layers in a Keras configuration: containers, calls, and the order to compute them in."""

from __future__ import annotations

import contextlib
import functools
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import ModelFormatError, ShapeError, UnsupportedLayerError
from ...model import layers as L
from ...model.layers import Layer, Shape
from ..channels_first import Builder, Tensor, Value
from ..obstacles import Obstacles
from ..recurrent import Add
from .arguments import Ref, replaced
from .attention import ATTENTION, AttentionCall, attend, masked_mean
from .config import (
    FUNCTIONAL,
    SEQUENTIAL,
    Call,
    calls_of,
    class_of,
    config_of,
    ends,
    entries_of,
    first_number,
    is_input,
    is_operation,
    name_of,
    operations_of,
)
from .custom import as_built_in, call_custom, custom_object
from .hub import CALLED, PARTS, paths_of
from .keras_1 import in_keras_2
from .layers import BACK, LAST, convert, naming
from .masks import Mask, joined, written_mask
from .operation import is_value
from .ops import operate
from .preprocessing import BUILDERS
from .record import KerasLayer, Weight
from .recurrent import RECURRENT, RecurrentLayer, read_recurrent
from .store import Entry, Path, Store, WrappedStore
from .unknown import collecting
from .wrappers import WRAPPERS, OverTime

# -- building -----------------------------------------------------------------

#: Layers through which a mask of time steps goes on; in Keras all others end it.
_CARRIES_MASK = (L.Dense, L.Activation, L.Identity, L.BatchNorm, L.LayerNorm, L.RMSNorm, L.Merge, L.Permute)
#: Layers laid out by `BUILDERS` that do so, too.
_MASKED_BUILDERS = ("GroupNormalization", "UnitNormalization", "TimeDistributed")
#: Classes that compute something else where there is a mask.
_USES_MASK = ("Softmax",)


class LayerGraph:
    """Lays containers out flat: nodes in forward order, with their shapes."""

    def __init__(self, keras: int, custom_objects: Mapping[str, Any]) -> None:
        self.keras, self.custom_objects = keras, custom_objects
        self.obstacles: Obstacles | None = None
        #: Lays out the layers that operations become; it appends to the same nodes.
        self.tensors = Builder()
        self.nodes, self.shapes = self.tensors.nodes, self.tensors.shapes
        #: What operations return that is no layer's value: conditions and sizes.
        self.others: list[Any] = []
        self.calls: Counter[int] = Counter()  # of operations
        self.masks: dict[int, Mask] = {}  # of the nodes whose values carry one
        self.recurrents: dict[int, RecurrentLayer] = {}
        self.step_masks: dict[Mask, int] = {}
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

    def add_block(self, block: L.Block, *inputs: int) -> int:
        """Add the parts of a user's own layer; the number of its result."""

        class Parts:
            """The graph, as a block sees it."""

            @staticmethod
            def add(layer: Layer, *inputs: int) -> int:
                return self.add_block(layer, *inputs) if isinstance(layer, L.Block) else self.add(layer, inputs)

        return block.build(Parts, *inputs)

    def use(self, key: int, layer: KerasLayer, inputs: list[int], masked: tuple[Mask, ...]) -> int:
        """Convert a layer, at its first use, and add it."""
        layer = in_keras_2(layer)
        custom = custom_object(layer, self.custom_objects)
        if isinstance(custom, (str, type)):
            layer = as_built_in(layer, custom)
        shapes = tuple(self.shapes[i] for i in inputs)
        masks = [*masked, *(self.masks[i] for i in inputs if i in self.masks)]
        if masks and layer.class_name == "GlobalAveragePooling1D":
            return self._masked_mean(key, layer, inputs[0], masks[0])
        if masks and layer.class_name in _USES_MASK:
            raise layer.unsupported(
                f"leaves out the time steps that {masks[0].name!r} masks, which lrpfast does not follow",
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
            ends = tuple(inputs)
            for part in chain:
                ends = (self.add_block(part, *ends) if isinstance(part, L.Block) else self.add(part, ends),)
            (at,) = ends
        if layer.class_name == "Embedding" and layer.get("mask_zero", False):
            self.masks[at] = Mask(layer.name, inputs[0])
        elif masks and all(isinstance(part, _CARRIES_MASK) and not isinstance(part, L.Dot) for part in chain):
            self.masks[at] = joined(masks, len(inputs))
        return at

    def _composed(self, key: int, layer: KerasLayer, inputs: list[int], masks: list[Mask]) -> int:
        """A layer that becomes several, by a function that lays them out."""
        expected = 2 if layer.class_name == "CustomScaleLayer" else 1
        if len(inputs) != expected:
            raise ModelFormatError(f"{layer}: it takes {expected} input(s), the model calls it with {len(inputs)}")
        with self._naming(key, layer):
            values = map(self._value, inputs)
            at = self.tensors.plain(BUILDERS[layer.class_name](layer, self.tensors, *values)).node
        if layer.class_name == "Masking":
            self.masks[at] = Mask(layer.name, inputs[0], layer.get("mask_value", 0.0))
        elif masks and layer.class_name in _MASKED_BUILDERS:
            self.masks[at] = masks[0]
        return at

    def operation(self, key: int, layer: KerasLayer, call: Call, inputs: list[int]) -> list[int]:
        """Lay out an operation's layers; the numbers of its results."""
        numbers = iter(inputs)
        args, kwargs = replaced([list(call.args), dict(call.kwargs)], lambda ref: self._argument(next(numbers)))
        with self._naming(key, layer):
            results = operate(layer, self.tensors, args, kwargs)
            return [self._number(result) for result in results]

    def attention(self, key: int, layer: KerasLayer, call: Call, inputs: list[int], masked: tuple[Mask, ...]) -> int:
        """Lay out an attention layer; the number of its result."""
        numbers = iter(inputs)
        args, kwargs = replaced([list(call.args), dict(call.kwargs)], lambda ref: self._argument(next(numbers)))
        with self._naming(key, layer):
            context = AttentionCall(layer, self.tensors, self._mask_of(layer, masked))
            value = attend(context, CALLED[layer.class_name], args, kwargs)
            at = self.tensors.plain(value).node
        if layer.class_name == "TokenAndPositionEmbedding" and layer.get("mask_zero", False):
            self.masks[at] = Mask(layer.name, inputs[0])
        elif inputs[0] in self.masks:  # that of the queries
            self.masks[at] = self.masks[inputs[0]]
        return at

    def _mask_of(self, layer: KerasLayer, masked: tuple[Mask, ...]) -> Callable[[Value], Tensor | None]:
        def mask_of(value: Value) -> Tensor | None:
            mask = self.masks.get(self.tensors.plain(value).node, masked[0] if masked else None)
            return None if mask is None else self.tensors.plain(self._value(self._step_mask(layer, mask)))

        return mask_of

    def _masked_mean(self, key: int, layer: KerasLayer, at: int, mask: Mask) -> int:
        with self._naming(key, layer):
            call = AttentionCall(layer, self.tensors, self._mask_of(layer, ()))
            steps = self.tensors.plain(self._value(self._step_mask(layer, mask)))
            return self.tensors.plain(masked_mean(call, self._value(at), steps)).node

    def _argument(self, i: int) -> Any:
        """What an operation takes: a node's value or, below -1, what another operation returned that is none."""
        return self._value(i) if i >= 0 else self.others[-2 - i]

    def _number(self, result: Any) -> int:
        if is_value(result):
            return self.tensors.plain(result).node
        self.others.append(result)
        return -1 - len(self.others)  # -1 is UNREAD

    def wrapper(self, layer: KerasLayer, store: WrappedStore, inputs: list[int], masked: tuple[Mask, ...]) -> list[int]:
        """Lay out the layer, or model, in a wrapper: once, or for each time step."""
        entry = layer.config.get("layer")
        if not isinstance(entry, Mapping) or len(inputs) != 1:
            raise ModelFormatError(f"{layer}: it holds one layer and takes one input, not {len(inputs)}")
        inner, kind = Entry(layer.name, str(entry.get("class_name")), 0, 1), class_of(entry)

        def inside(builder: LayerGraph, inputs: list[int], masked: tuple[Mask, ...]) -> list[int]:
            """The nodes of the wrapped layer's outputs."""
            scope = _Scope(builder, [entry], [kind], [inner], store, "", layer.position)
            return [at for at in scope.call(0, inputs, masked) if at is not None]

        if layer.class_name == "SpectralNormalization":  # its kernel is stored normalized
            return inside(self, inputs, masked)
        shape = self.shapes[inputs[0]]
        if len(shape) < 2:
            raise ShapeError(f"{layer}: it needs an axis of time steps and one more, its input has {shape}")
        masks = masked or tuple(self.masks[i] for i in inputs if i in self.masks)
        step = LayerGraph(self.keras, self.custom_objects)
        step.add(L.Input(shape[1:]), ())
        # what is inside gets one step of a mask, which says nothing about a sequence in it
        outputs = inside(step, [0], tuple(replace(mask, source=None) for mask in masks))
        with naming(layer):
            numbers = OverTime(self.add, shape[0], step.shapes, inputs[0]).all_of(step.nodes)
        for output in outputs:
            if masks:
                self.masks[numbers[output]] = masks[0]
            elif output in step.masks and self.keras < 3:  # a mask of two axes; Keras 3 has none here
                self.masks[numbers[output]] = Mask(layer.name, None)
        return [numbers[output] for output in outputs]

    def recurrent(
        self, key: int, layer: KerasLayer, stored: Callable[[Sequence[Path]], list[Weight]], inputs: list[int],
        states: tuple[Any, ...], masked: tuple[Mask, ...], used: set[int],
    ) -> list[int | None]:  # fmt: skip
        """Lay out a recurrent layer, whose inputs are a sequence and, where no constants are given, its states."""
        shape, masks = self.shapes[inputs[0]], [*masked, *(self.masks[i] for i in inputs[:1] if i in self.masks)]
        use, self.calls[key] = self.calls[key], self.calls[key] + 1
        name = f"{layer.name}:{use}" if use else layer.name

        with naming(layer):
            if key not in self.recurrents:
                self.recurrents[key] = read_recurrent(layer, shape, stored)
            mask = self._step_mask(layer, masks[0]) if masks else None
            read = self.recurrents[key]
            outputs = read.outputs(self._adder(name), shape, inputs[0], mask, states or inputs[1:], used)
        if masks:
            self.masks.update({at: masks[0] for at in outputs[: read.sequences] if at is not None})
        return outputs

    def _adder(self, title: str) -> Add:
        """Adds layers under a title, each with its part in it."""

        def add(layer: Layer, *inputs: int, part: str = "") -> int:
            return self.add(replace(layer, name="/".join(filter(None, [title, part]))), inputs)

        return add

    def _step_mask(self, layer: KerasLayer, mask: Mask) -> int:
        """The node of a mask."""
        if mask.source is None:
            raise layer.unsupported(
                f"leaves out the time steps that {mask.name!r} masks, which lrpfast does not follow",
                "These work: masks of one Masking, or of one Embedding with mask_zero",
            )
        if mask not in self.step_masks:
            self.step_masks[mask] = self.add(L.StepMask(mask.value, name=f"{mask.name}/mask"), (mask.source,))
        return self.step_masks[mask]

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
            own = part.name in [f"{name}/{title}" for title in PARTS] or not str(part.name).startswith(name)
            if own and i < len(self.nodes) - 1:
                continue
            kind = type(part).__name__.lower()
            title = name if i == len(self.nodes) - 1 else f"{name}/{kind}_{i - begin}"
            self.nodes[i] = replace(part, name=title), inputs

    # containers

    def container(self, model: Mapping[str, Any], store: Store, inputs: list[int], prefix: str = "",
                  keys: Sequence[str | None] = (), masked: tuple[Mask, ...] = ()) -> list[int]:  # fmt: skip
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
                if not is_input(entry):
                    inputs = [at for at in scope.call(i, inputs, masked) if at is not None]
                masked = masked if is_input(entry) else ()
            return inputs
        return scope.functional(config_of(model), inputs, keys, masked)


@dataclass(frozen=True)
class _Scope:
    """One container while it is laid out."""

    builder: LayerGraph
    entries: list[Mapping[str, Any]]
    kinds: list[str]
    slots: list[Entry]
    store: Store
    prefix: str
    within: str = ""  # the position of the wrapper whose layer this is

    @property
    def title(self) -> str:
        return f"the model {self.prefix[:-1]!r}" if self.prefix else "the model"

    def where(self, i: int) -> str:
        return f"layer {self.prefix + self.slots[i].name!r} ({self.kinds[i]}, {self.position(i)})"

    def position(self, i: int) -> str:
        if self.within:
            return self.within
        return f"{i + 1} of {len(self.entries)}" + (f" in {self.prefix[:-1]!r}" if self.prefix else "")

    @collecting
    def call(
        self, i: int, inputs: list[int], masked: tuple[Mask, ...], call: Call | None = None, used: Iterable[int] = (0,)
    ) -> Sequence[int | None]:
        """Call the i-th layer, the model that stands in its place, or the operation."""
        entry, slot, kind = self.entries[i], self.slots[i], self.kinds[i]
        name = self.prefix + slot.name
        if any(number < 0 for number in inputs) and not is_operation(kind) and kind not in CALLED:
            raise UnsupportedLayerError(
                f"{self.where(i)} takes the result of a comparison, or a shape, which only operations between layers do"
            )
        if kind in SEQUENTIAL + FUNCTIONAL:
            keys = [ref.key for ref in call.inputs] if call is not None else ()
            return self.builder.container(entry, self.store.inside(slot), inputs, f"{name}/", keys, masked)
        weights = functools.partial(self.store.weights, slot)
        custom = self.builder.custom_objects
        layer = KerasLayer(name, kind, config_of(entry), self.position(i), self.builder.keras, weights, custom)
        if kind in WRAPPERS:
            return self.builder.wrapper(layer, self.store.wrapped(slot), inputs, masked)
        if kind in CALLED:
            if call is None and kind in ATTENTION:
                raise layer.unsupported("is in a Sequential model, which gives it one input", "Use a functional model")
            call = call or Call((), args=(Ref("", 0, 0),))  # in a Sequential model
            slot = replace(slot, class_name=kind.replace("GroupQuery", "GroupedQuery"))  # Python's name of the class
            stored = functools.partial(self.store.cells, slot, paths_of(kind, layer.config))
            layer = replace(layer, stored=stored)
            return [self.builder.attention(id(entry), layer, call, inputs, masked)]
        if is_operation(kind) and call is not None:
            return self.builder.operation(id(entry), layer, call, inputs)
        custom = custom_object(layer, self.builder.custom_objects)
        if isinstance(custom, (str, type)):
            layer = as_built_in(layer, custom)
        if layer.class_name in RECURRENT and (custom is None or isinstance(custom, (str, type))):
            cells = functools.partial(self.store.cells, slot)
            states = call.states if call is not None else ()
            return self.builder.recurrent(id(entry), layer, cells, inputs, states, masked, set(used))
        return [self.builder.use(id(entry), layer, inputs, masked)]

    def functional(
        self, config: Mapping[str, Any], inputs: list[int], keys: Sequence[str | None], masked: tuple[Mask, ...]
    ) -> list[int]:
        calls = [
            [] if is_input(entry) else operations_of(entry) if is_operation(kind) or kind in CALLED else calls_of(entry)
            for entry, kind in zip(self.entries, self.kinds, strict=True)
        ]
        at = {slot.name: i for i, slot in enumerate(self.slots)}
        ins, outs = ends(config, "input_layers"), ends(config, "output_layers")
        number = self._numbering(calls, at, outs)

        operations = {self.slots[i].name: (kind, calls[i]) for i, kind in enumerate(self.kinds) if is_operation(kind)}

        def node_of(ref: Ref) -> int | None:
            """The node of a value that is laid out already."""
            i, call, tensor = number(ref, False, self.title)
            several = values.get((i, call), [])
            return several[tensor] if tensor < len(several) else None

        results = [number(ref, True, self.title) for ref in outs]
        needs = self._needs(calls, results, number)
        used: dict[tuple[int, int], set[int]] = {}
        for i, k, tensor in [*results, *(need for several in needs.values() for need in several)]:
            used.setdefault((i, k), set()).add(tensor)
        values: dict[tuple[int, int], list[Any]] = self._values_of_inputs(ins, at, inputs, keys)
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
                masks = tuple(written_mask(ref, operations, node_of) for ref in call.masks)
                masks = masks or (masked if carried & {need[:2] for need in needs[use]} else ())
                values[use] = list(self.call(i, arguments, masks, call, used[use]))
            for consumer in consumers.get(use, ()):
                missing[consumer] -= 1
                if not missing[consumer]:
                    heapq.heappush(ready, consumer)
        stuck = sorted(set(needs) - set(values))
        if stuck:
            raise ModelFormatError(f"{self.where(stuck[0][0])} feeds itself, directly or through other layers")
        return [self._output(values[result[:2]], result, self.title) for result in results]

    def _needs(
        self, calls: list[list[Call]], results: list[tuple[int, int, int]], number: Any
    ) -> dict[tuple[int, int], list[tuple[int, int, int]]]:
        """What the outputs need, each call once, and what each of these calls needs."""
        needs: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
        stack = [result[:2] for result in results]
        while stack:
            use = stack.pop()
            if use not in needs:
                i, k = use
                needs[use] = [number(ref, False, self.where(i)) for ref in calls[i][k].inputs] if calls[i] else []
                stack += [need[:2] for need in needs[use]]
        return needs

    def _values_of_inputs(
        self, ins: list[Ref], at: Mapping[str, int], inputs: list[int], keys: Sequence[str | None]
    ) -> dict[tuple[int, int], list[Any]]:
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

    def _output(self, values: list[Any], need: tuple[int, int, int], user: str) -> int:
        i, _, tensor = need
        if not 0 <= tensor < len(values):
            raise ModelFormatError(f"{user} is fed by output {tensor} of {self.where(i)}, which has {len(values)}")
        node: int = values[tensor]
        return node
