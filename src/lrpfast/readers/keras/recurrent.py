"""Keras's recurrent layers: cells and their weights in every version's layout, states, directions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import ApproximationWarning, ModelFormatError, ShapeError
from ...model import layers as L
from ...model.layers import Layer, Shape
from ..recurrent import CELL, HIDDEN, SEQUENCE, Add, added, checked_steps, lay_out, masked_state, named, reordered
from .activations import activation
from .config import class_of, config_of, name_of
from .record import KerasLayer, Weight, plain
from .store import Entry, Path

#: Layers of one cell, and those cells.
_LAYERS = {"LSTM": "LSTM", "GRU": "GRU", "SimpleRNN": "SimpleRNN", "CuDNNLSTM": "LSTM", "CuDNNGRU": "GRU"}
CELLS = {"LSTMCell": "LSTM", "GRUCell": "GRU", "SimpleRNNCell": "SimpleRNN"}
_TYPES: dict[str, Any] = {"LSTM": L.LSTM, "GRU": L.GRU, "SimpleRNN": L.SimpleRNN}
#: Keras 1 stores three arrays for each gate, an LSTM's in the order i, c, f, o.
_KERAS_1_ORDER = {"LSTM": (0, 2, 1, 3), "GRU": (0, 1, 2), "SimpleRNN": (0,)}
_MERGES: dict[str, Callable[[], Layer]] = {
    "concat": lambda: L.Concat(-1), "sum": L.Add, "mul": L.Multiply, "ave": L.Average,
}  # fmt: skip

#: Every class that is read so.
RECURRENT = (*_LAYERS, "RNN", "Bidirectional")

# -- what the file says ---------------------------------------------------------


@dataclass(frozen=True)
class _Direction:
    """One recurrent layer: its settings, its cells one above the other, and where an archive keeps their weights."""

    layer: KerasLayer
    cells: tuple[KerasLayer, ...]
    paths: tuple[Path, ...]

    @property
    def results(self) -> int:
        """How many states there are."""
        return sum(len(_TYPES[_kind(cell)].states) for cell in self.cells)


def _kind(cell: KerasLayer) -> str:
    return _LAYERS.get(cell.class_name) or CELLS[cell.class_name]


def _inner(layer: KerasLayer, entry: Any, label: str) -> KerasLayer:
    """A layer or cell in another's configuration."""
    if not isinstance(entry, Mapping):
        raise ModelFormatError(f"{layer}: its configuration has no {label}")
    return replace(layer, class_name=class_of(entry), config=config_of(entry))


def _direction(layer: KerasLayer, begin: Path) -> _Direction:
    if layer.class_name in _LAYERS:
        return _Direction(layer, (layer,), ((*begin, "cell"),))
    cell = _inner(layer, plain(layer.config.get("cell")), "cell")
    cells: tuple[KerasLayer, ...] = (cell,)
    paths: tuple[Path, ...] = ((*begin, "cell"),)
    if cell.class_name == "StackedRNNCells":
        entries = [entry for entry in plain(cell.config.get("cells")) or () if isinstance(entry, Mapping)]
        cells = tuple(_inner(layer, entry, "cell") for entry in entries)
        kinds = [c.class_name for c in cells]
        paths = tuple(
            (*begin, "cell", "cells", Entry(name_of(entry), kind, kinds[:i].count(kind), kinds.count(kind)))
            for i, (entry, kind) in enumerate(zip(entries, kinds, strict=True))
        )
    for c in cells:
        if c.class_name not in CELLS:
            raise layer.unsupported(
                f"has a cell of class {c.class_name}, which lrpfast does not read",
                f"These work: {', '.join([*CELLS, 'StackedRNNCells'])}",
            )
    if not cells:
        raise ModelFormatError(f"{layer}: its StackedRNNCells has no cells")
    return _Direction(layer, cells, paths)


def _directions(layer: KerasLayer) -> tuple[_Direction, ...]:
    """The layer, or the two in a Bidirectional."""
    if layer.class_name != "Bidirectional":
        return (_direction(layer, ()),)
    forward = _inner(layer, layer.config.get("layer"), "layer")
    if forward.class_name not in (*_LAYERS, "RNN"):
        raise layer.unsupported(
            f"goes through {forward.class_name} in two directions, which lrpfast does not read",
            f"These work: {', '.join([*_LAYERS, 'RNN'])}",
        )
    other = layer.config.get("backward_layer")
    if other is None:
        backwards = {**forward.config, "go_backwards": not forward.get("go_backwards", False)}
        backward = replace(forward, config=backwards)
    else:
        backward = _inner(layer, other, "backward_layer")
    return _direction(forward, ("forward_layer",)), _direction(backward, ("backward_layer",))


# -- weights ----------------------------------------------------------------------


def _from_cudnn(kernel: np.ndarray, gates: int, recurrent: bool) -> np.ndarray:
    """A kernel of CuDNNLSTM or CuDNNGRU, which stores each gate's block transposed."""
    blocks = np.split(kernel, gates, axis=1)
    return np.hstack([b.T if recurrent else b.T.reshape(b.shape, order="F") for b in blocks])


def _arrays(cell: KerasLayer, features: int, stored: list[Weight]) -> tuple[list[np.ndarray | None], int]:
    """Kernel, recurrent kernel and bias of a cell, and how many of the stored arrays these are."""
    kind, units = _kind(cell), cell.need("units", "output_dim")
    gates = _TYPES[kind].gates
    if cell.keras == 1:
        return _of_keras_1(cell, features, stored), 3 * gates
    expected: dict[str, tuple[int, ...]] = {
        "kernel": (features, gates * units),
        "recurrent_kernel": (units, gates * units),
    }
    cudnn = cell.class_name.startswith("CuDNN")
    if cudnn:
        expected["bias"] = (2 * gates * units,)
    elif cell.get("use_bias", True):
        expected["bias"] = (2, gates * units) if _resets_after(cell) else (gates * units,)
    arrays = replace(cell, stored=lambda: stored[: len(expected)]).arrays(**expected)
    if cudnn:
        kernel, recurrent, bias = arrays
        arrays = [_from_cudnn(kernel, gates, False), _from_cudnn(recurrent, gates, True)]
        arrays.append(bias.reshape(2, -1) if kind == "GRU" else added(*np.split(bias, 2)))
    return [*arrays, None][:3], len(expected)


def _of_keras_1(cell: KerasLayer, features: int, stored: list[Weight]) -> list[np.ndarray | None]:
    kind, units = _kind(cell), cell.need("output_dim", "units")
    order = _KERAS_1_ORDER[kind]
    shapes = {"W": (features, units), "U": (units, units), "b": (units,)}
    expected = {f"{name}_{i}": shape for i in range(len(order)) for name, shape in shapes.items()}
    arrays = replace(cell, stored=lambda: stored[: len(expected)]).arrays(**expected)
    return [reordered(np.concatenate(arrays[i::3], -1), order) for i in range(3)]


def _resets_after(cell: KerasLayer) -> bool:
    return _kind(cell) == "GRU" and (cell.class_name == "CuDNNGRU" or bool(cell.get("reset_after", False)))


def _function(cell: KerasLayer, names: Sequence[str], default: str) -> Any:
    """An activation in the configuration, under the first of the names that it has."""
    name = next((name for name in names if name in cell.config), None)
    value = cell.config[name] if name and not cell.class_name.startswith("CuDNN") else default
    return activation(replace(cell, config={**cell.config, "activation": value}), (None,))


def _layer(cell: KerasLayer, features: int, stored: list[Weight]) -> tuple[Any, int]:
    """A cell as a layer, and how many of the stored arrays it has."""
    kind = _kind(cell)
    (kernel, recurrent, bias), count = _arrays(cell, features, stored)
    settings: dict[str, Any] = {"cell_activation": _function(cell, ["activation"], "tanh")}
    if kind != "SimpleRNN":
        gates = ["recurrent_activation", "inner_activation"]  # Keras 2 and 3, Keras 1
        default = "sigmoid" if cell.keras >= 3 or cell.class_name.startswith("CuDNN") else "hard_sigmoid"
        settings["gate_activation"] = _function(cell, gates, default)
    if kind == "GRU":
        settings["reset_after"] = _resets_after(cell)
    return _TYPES[kind](kernel, recurrent, bias, **settings), count


def _read(direction: _Direction, features: int, stored: list[Weight]) -> list[Any]:
    """A direction's layers, one above the other; the arrays that they have are taken off the stored ones."""
    layers = []
    for cell in direction.cells:
        layer, count = _layer(cell, features, stored)
        del stored[:count]
        layers.append(layer)
        features = layer.units
    return layers


# -- nodes ------------------------------------------------------------------------


@dataclass(frozen=True)
class RecurrentLayer:
    """A recurrent layer of a file, read once for all of its calls."""

    layer: KerasLayer
    directions: tuple[_Direction, ...]
    cells: tuple[list[Any], ...]

    @property
    def sequences(self) -> int:
        """How many of its first outputs are sequences, which have the mask of its input."""
        if not self.directions[0].layer.get("return_sequences", False):
            return 0
        return 1 if self._merges or len(self.directions) == 1 else 2

    @property
    def _merges(self) -> bool:
        """Whether the two directions of a Bidirectional become one."""
        return len(self.directions) == 2 and self.layer.config.get("merge_mode", "concat") is not None

    def outputs(
        self, add: Add, shape: Shape, sequence: int, mask: int | None, states: Sequence[Any], used: set[int]
    ) -> list[int | None]:
        """The nodes of the layer's outputs; None for those that nothing uses.

        Parameters
        ----------
        add : Add
        shape : tuple
            Of the sequence.
        sequence : int
            Its node.
        mask : int or None
            The node of the mask.
        states : sequence of int or array
            The initial states; none are zeros.
        used : set of int
            The outputs that are used.
        """
        both = len(self.directions) == 2
        counts = [direction.results for direction in self.directions]
        if states and len(states) != sum(counts):
            raise ShapeError(f"{self.layer}: it has {sum(counts)} states, the model gives it {len(states)}")
        first = 1 if self._merges or not both else 2
        ends: list[int | None] = []
        finals: list[int | None] = []
        for i, count in enumerate(counts):
            own = states[sum(counts[:i]) : sum(counts[: i + 1])]
            begin = first + sum(counts[:i])
            wanted = {j - begin for j in used if begin <= j < begin + count}
            wants_output = bool(used & ({0} if first == 1 else {i}))
            part = ("forward", "backward")[i] if both else ""
            out, last = self._direction(add, i, part, shape, (sequence, mask), own, wants_output, wanted)
            ends.append(out)
            finals += last
        if self._merges and None not in ends:
            kind = _MERGES.get(str(self.layer.get("merge_mode", "concat")))
            if kind is None:
                mode = self.layer.config["merge_mode"]
                raise self.layer.unsupported(f"merges by {mode!r}", f"These work: {', '.join(_MERGES)}, None")
            ends = [add(kind(), *ends)]  # type: ignore[arg-type]
        ends = ends[:first]
        return [*ends, *finals] if self.directions[0].layer.get("return_state", False) else ends

    def _direction(
        self, add: Add, i: int, part: str, shape: Shape, inputs: tuple[int, int | None], states: Sequence[Any],
        wants_output: bool, wanted: Collection[int],
    ) -> tuple[int | None, list[int | None]]:  # fmt: skip
        """One direction: the node of its output, and those of its final states, where they are wanted."""
        direction, steps = self.directions[i], checked_steps(shape, str(self.layer))
        layer = direction.layer
        backwards, sequences = bool(layer.get("go_backwards", False)), bool(layer.get("return_sequences", False))
        zeros = self._zeros_where_masked(layer) and inputs[1] is not None
        if zeros and not sequences:
            raise layer.unsupported(
                "returns 0 where the last step is masked (zero_output_for_mask)", "Use return_sequences=True"
            )
        node, finals = inputs[0], list[int | None]()
        for n, cell in enumerate(self.cells[i]):
            top = n == len(self.cells[i]) - 1
            names = (HIDDEN, CELL)[: len(cell.states)]
            results = [name for k, name in enumerate(names) if len(finals) + k in wanted]
            flags: dict[str, Any] = {"go_backwards": backwards, "takes_mask": inputs[1] is not None}
            if top:
                flags |= {"zero_masked": zeros, "time_order": i == 1 or not backwards}
                results += [SEQUENCE if sequences else HIDDEN] if wants_output else []
            else:
                results.append(SEQUENCE)
            own, states = states[: len(names)], states[len(names) :]
            flags |= _initial(cell, own, str(layer))
            whole = replace(cell, **flags)
            title = "/".join(filter(None, [part, "" if len(self.cells[i]) == 1 else f"cell_{n}"]))
            at = [j for j in (node, inputs[1], *(own if whole.takes_state else ())) if j is not None]
            nodes = lay_out(named(add, title), whole, at, steps, list(dict.fromkeys(results))) if results else {}
            ends = dict(nodes)
            if inputs[1] is not None and own and len(finals) in wanted:
                begin = own[0] if whole.takes_state else whole.initial_h
                ends[HIDDEN] = masked_state(named(add, title), nodes[HIDDEN], inputs[1], begin)
            finals += [ends.get(name) if len(finals) + k in wanted else None for k, name in enumerate(names)]
            node = nodes.get(SEQUENCE if sequences or not top else HIDDEN, node)
        output = node if wants_output else None
        if output is not None and i == 1 and sequences and not backwards:
            if steps is None:  # Bidirectional turns the backward layer's sequence round, whichever way it goes
                raise layer.unsupported("reverses a sequence of an open number of steps", "Fix the number of steps")
            output = add(L.Take((np.arange(steps - 1, -1, -1),)), output, part="reversed")
        return output, finals

    def _zeros_where_masked(self, layer: KerasLayer) -> bool:
        if len(self.directions) == 2 and (layer.keras >= 3 or "time_major" in layer.config):
            return bool(layer.get("return_sequences", False))  # which Bidirectional of TensorFlow and Keras 3 sets
        return bool(layer.get("zero_output_for_mask", False))


def _initial(cell: Any, states: Sequence[Any], label: str) -> dict[str, Any]:
    """The settings of initial states: all nodes, or all constants."""
    arrays = [state for state in states if isinstance(state, np.ndarray)]
    if not arrays:
        return {"takes_state": bool(states)}
    if len(arrays) < len(states):
        raise ShapeError(f"{label}: its initial states are constants and other layers' outputs")
    result = {}
    for name, array in zip(cell.states, arrays, strict=True):
        rows = array.reshape(-1, array.shape[-1]) if array.ndim else array
        if rows.shape[1:] != (cell.units,) or not (rows == rows[:1]).all():
            raise ShapeError(
                f"{label}: its initial state has shape {array.shape}; all samples need the same {cell.units} numbers"
            )
        result[name] = rows[0]
    return result


def read_recurrent(layer: KerasLayer, shape: Shape, stored: Callable[[Sequence[Path]], list[Weight]]) -> RecurrentLayer:
    """A recurrent layer, read from its configuration and its weights.

    Parameters
    ----------
    layer : KerasLayer
        Of a class in `RECURRENT`.
    shape : tuple
        Of the sequence.
    stored : callable
        Its weights, of the paths that an archive keeps them under.
    """
    directions = _directions(layer)
    checked_steps(shape, str(layer))
    features = shape[1]
    if features is None:
        raise ShapeError(f"{layer}: it needs an input with a last axis of fixed size, not {shape}")
    for direction in directions:
        settings = direction.layer
        if settings.get("time_major", False):
            raise settings.unsupported("has time_major, which puts steps before samples", "Use time_major=False")
        if settings.get("stateful", False):
            warnings.warn(
                f"{layer} is stateful: Keras begins a batch with the states that the batch before it left. lrpfast "
                "begins every sample with zeros, as Keras does after reset_states()",
                ApproximationWarning,
                stacklevel=2,
            )
    weights = stored([path for direction in directions for path in direction.paths])
    cells = tuple(_read(direction, features, weights) for direction in directions)
    if weights:
        raise ModelFormatError(f"{layer}: it stores {len(weights)} arrays more than its cells have")
    return RecurrentLayer(layer, directions, cells)
