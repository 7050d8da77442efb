"""Samples of different lengths: lists of arrays, run in groups of one shape, or padded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ..errors import InputError, SampleError, ShapeError
from ..kernels.arrays import as_array, as_tensors, is_tensor, module_of, to_host
from ..kernels.growth import Growth, RunGrowth
from ..model.graph import Model
from ..model.layers.base import fits
from ..model.node import Node
from .balance import FIELDS, Balance, Conservation, StepBalance
from .explanation import Explanation
from .growth import warn
from .inputs import as_real, is_array
from .padded_explanation import own_parts
from .padded_model import PaddedModel
from .padding import Padding, open_axes

#: An `AnalyzerCore`, whose module imports this one.
Core = Any
Shape = tuple[int, ...]


def _shape(item: Any) -> Shape | None:
    """The shape of one sample, None for what has none."""
    try:
        return tuple(getattr(item, "shape", None) or np.shape(item))
    except (TypeError, ValueError):
        return None


def _items(column: Any) -> Sequence[Any] | None:
    """The samples of a list, or of an array of objects; None for anything else."""
    if isinstance(column, np.ndarray) and column.dtype.kind == "O" and column.ndim == 1:
        return list(column)
    return column if isinstance(column, (list, tuple)) and len(column) else None


def by_name(names: Sequence[str], x: Any, argument: str = "inputs") -> list[Any]:
    """The values of a mapping from the inputs' names, in the model's order."""
    if not isinstance(x, Mapping) or set(x) != set(names):
        listing = ", ".join(map(repr, x)) if isinstance(x, Mapping) else type(x).__name__
        raise InputError(
            f"{argument} must have the keys {', '.join(map(repr, names))}, as the model's inputs, not {listing}"
        )
    return [x[name] for name in names]


def named(names: Sequence[str], relevance: Any) -> Any:
    """The relevance by the inputs' names, where the caller gave inputs so."""
    if not names:
        return relevance
    return dict(zip(names, relevance if len(names) > 1 else [relevance], strict=True))


def arranged(model: Model, x: Any) -> tuple[Any, Sequence[str], Sequences | None]:
    """Inputs in the model's order, their names if they came in a mapping, and what they are if shapes differ."""
    names: list[str] = []
    if isinstance(x, Mapping):
        names = [model.nodes[i].name for i in model.inputs]
        x = by_name(names, x)
        x = x if len(x) > 1 else x[0]
    return x, names, Sequences.of(model, x)


@dataclass(frozen=True)
class Group:
    """Samples that run together: their numbers, their inputs, and, where they are padded, the model and lengths."""

    members: list[int]
    inputs: Any
    padded: PaddedModel | None = None
    lengths: Sequence[int] = ()


class Sequences:
    """Samples whose shapes differ.

    Each has the numbers that it has alone. Of a model that leaves sizes open, samples of similar lengths are a group,
    padded at their ends, where ``padding.py`` finds that this changes nothing; elsewhere a group has one shape. A model
    of fixed sizes must have a mask among its inputs: samples are padded with zeros, which also hide them.

    Parameters
    ----------
    model : Model
    columns : list
        The samples of each input.
    """

    def __init__(self, model: Model, columns: Sequence[Sequence[Any]]) -> None:
        self.model = model
        nodes = [model.nodes[i] for i in model.inputs]
        counts = {node.name: len(column) for node, column in zip(nodes, columns, strict=True)}
        if len(set(counts.values())) > 1:
            listing = ", ".join(f"{name}: {count}" for name, count in counts.items())
            raise ShapeError(f"inputs must have as many samples each, not {listing}")
        self.count = len(columns[0])
        self.tensors = is_tensor([columns[0][0]])
        self.columns: list[list[Any]] = []
        for node, column in zip(nodes, columns, strict=True):
            prefix = f"input {node.name!r}: " if len(nodes) > 1 else ""
            self.columns.append([as_real(item, f"{prefix}sample {i}") for i, item in enumerate(column)])
            for i, item in enumerate(self.columns[-1]):
                if len(item.shape) != len(node.shape):
                    raise ShapeError(
                        f"{prefix}in a list of arrays each is one sample, of shape {node.shape}; sample {i} has shape "
                        f"{item.shape}"
                    )
        self.padded = not model.is_open
        if self.padded:
            self._check_padding()

    @classmethod
    def of(cls, model: Model, x: Any) -> Sequences | None:
        """What ``x`` is, if its samples differ in shape, or are shorter than the model's and can be padded."""
        several = len(model.inputs) > 1
        columns = x if several else [x]
        if not isinstance(columns, (list, tuple)) or len(columns) != len(model.inputs):
            return None
        lists = [_items(column) for column in columns]
        shapes = [None if items is None else [_shape(item) for item in items] for items in lists]
        for i, of_column in zip(model.inputs, shapes, strict=True):
            if of_column is None or None in of_column:
                continue
            one = of_column[0]
            expected = model.nodes[i].shape
            shorter = several and len(one or ()) == len(expected) and not fits(one or (), expected)
            if len(set(of_column)) > 1 or shorter:
                return cls(model, [x if items is None else items for x, items in zip(columns, lists, strict=True)])
        return None

    def _check_padding(self) -> None:
        nodes = [self.model.nodes[i] for i in self.model.inputs]
        masks = [node.layer.kind == "truth" for node in nodes]  # type: ignore[attr-defined]
        for node, column in zip(nodes, self.columns, strict=True):
            for i, item in enumerate(column):
                longer = any(n > m for n, m in zip(item.shape, node.shape, strict=True))
                if item.shape != node.shape and (longer or not any(masks)):
                    why = "is longer" if longer else "cannot be padded, since the model has no mask among its inputs"
                    raise ShapeError(
                        f"{node} takes samples of shape {node.shape}; sample {i} has shape {item.shape} and {why}. A "
                        "model for sequences of any length leaves this size open: Input((None, …)) in Keras, "
                        "dynamic_shapes in torch.export.export, dynamic_axes in torch.onnx.export"
                    )

    def groups(self, padding: Padding | None, compiled: Sequence[int]) -> Iterator[Group]:
        """The samples that run together, and their inputs.

        ``padding`` says how samples of an open model are padded, if they are, ``compiled`` for which lengths there are
        programs.
        """
        if self.padded:
            whole = range(self.count)
            yield Group(list(whole), self._inputs(whole, [node.shape for node in self._nodes()]))
            return
        rest: list[int] = list(range(self.count))
        if padding is not None and (axes := open_axes(self.model)) is not None:
            lengths = [self._length(i, axes) for i in rest]
            ends = padding.buckets(lengths, compiled)
            rest = []
            for end in sorted(set(ends)):
                members = [i for i in range(self.count) if ends[i] == end]
                group = self._bucket(padding, axes, members, [lengths[i] for i in members], end)
                if group is None:
                    rest += members
                else:
                    yield group
        members_of: dict[tuple[Shape, ...], list[int]] = {}
        for i in rest:
            members_of.setdefault(tuple(column[i].shape for column in self.columns), []).append(i)
        for shapes in sorted(members_of):
            yield Group(members_of[shapes], self._inputs(members_of[shapes], shapes))

    def _length(self, i: int, axes: Sequence[int]) -> int:
        """The length of a sample in all inputs; 0 where they differ, or where it does not fit the model."""
        shapes = [column[i].shape for column in self.columns]
        lengths = {shape[axis] for shape, axis in zip(shapes, axes, strict=True)}
        fitting = all(fits(shape, node.shape) for shape, node in zip(shapes, self._nodes(), strict=True))
        return lengths.pop() if len(lengths) == 1 and fitting else 0

    def _bucket(
        self, padding: Padding, axes: Sequence[int], members: list[int], lengths: Sequence[int], end: int
    ) -> Group | None:
        """Samples that are padded to one length; None where they have it, or padding would change numbers."""
        if min(lengths) in (0, 1, end):
            return None
        padded = padding.to(end, min(lengths)) or (
            padding.to(max(lengths), min(lengths)) if min(lengths) < max(lengths) < end else None
        )
        if padded is None:
            return None
        shapes: list[Shape] = [
            tuple(padded.length if k == axis else n for k, n in enumerate(self.columns[j][members[0]].shape))
            for j, axis in enumerate(axes)
        ]
        inputs = self._stacked_columns(members, shapes)
        inputs += [module_of(inputs[0]).asarray(mask) for mask in padded.mask_values(lengths)]
        return Group(members, inputs if len(inputs) > 1 else inputs[0], padded, lengths)

    def _nodes(self) -> list[Node]:
        return [self.model.nodes[i] for i in self.model.inputs]

    def _inputs(self, group: Sequence[int], shapes: Sequence[Any]) -> Any:
        inputs = self._stacked_columns(group, shapes)
        return inputs if len(inputs) > 1 else inputs[0]

    def _stacked_columns(self, group: Sequence[int], shapes: Sequence[Any]) -> list[Any]:
        """The inputs of some samples, padded with zeros to the shapes of each input."""
        return [_stacked([column[i] for i in group], shape) for column, shape in zip(self.columns, shapes, strict=True)]

    def target(self, target: Any, group: Sequence[int]) -> Any:
        """The target of some samples."""
        if isinstance(target, Mapping):
            return {key: self.target(value, group) for key, value in target.items()}
        rows = as_array(target) if is_array(target) else target
        if not isinstance(rows, list) and not getattr(rows, "ndim", 0):
            return target
        if len(rows) != self.count:
            raise ShapeError(f"target has {len(rows)} entries, one for each sample, and there are {self.count} samples")
        return [rows[i] for i in group] if isinstance(rows, list) else rows[list(group)]

    def join(self, parts: Sequence[tuple[Group, Any]]) -> Any:
        """The relevance of all samples, from that of the groups: a list of arrays, or a list of lists."""
        joined: list[list[Any]] = [[None] * self.count for _ in self.columns]
        for group, part in parts:
            arrays = part if isinstance(part, (list, tuple)) else [part]
            for j, array in enumerate(arrays[: len(self.columns)]):  # not of the masks that padding needs
                for i, row in zip(group.members, array, strict=True):
                    joined[j][i] = self._trimmed(i, j, row) if self.padded or group.padded else row
        result = [as_tensors(column) if self.tensors else column for column in joined]
        return result if len(result) > 1 else result[0]

    def _trimmed(self, i: int, j: int, row: Any) -> Any:
        """A sample's relevance without its padding, which must have none."""
        shape = self.columns[j][i].shape
        inner = row[(..., *map(slice, shape))]
        if np.count_nonzero(to_host(row)) > np.count_nonzero(to_host(inner)):
            raise InputError(
                f"sample {i} has shape {shape} and was padded to {tuple(row.shape)}, and the padding gets relevance: "
                "the model does not hide all of it by its masks. Give samples of the model's own size"
            )
        return inner

    def run(
        self,
        compute: Callable[[Group], Any],
        padding: Padding | None = None,
        compiled: Sequence[int] = (),
    ) -> list[tuple[Group, Any]]:
        """What a function makes of each group, as `groups`; errors name a sample by its number in the list."""
        parts = []
        for group in self.groups(padding, compiled):
            try:
                parts.append((group, compute(group)))
            except SampleError as error:
                at = group.members[error.sample]
                if group.padded is not None:  # its features are counted in what was padded
                    alone = Group([at], self._inputs([at], [column[at].shape for column in self.columns]))
                    try:
                        compute(alone)
                    except SampleError as own:
                        error = own
                raise SampleError(error.text, at, error.feature) from None
        return parts


def _stacked(items: Sequence[Any], shape: Sequence[int]) -> Any:
    """Samples as one array, padded at their ends to a shape."""
    missing = ([(0, m - n) for n, m in zip(item.shape, shape, strict=True)] for item in items)
    pairs = zip(items, missing, strict=True)
    padded = [module_of(item).pad(item, widths) if any(m for _, m in widths) else item for item, widths in pairs]
    return module_of(padded[0]).stack(padded)


def numbered(numbers: Sequence[int], notes: Sequence[tuple[int, RunGrowth]]) -> list[tuple[int, RunGrowth]]:
    """Notes of a group's growth, with the numbers of its samples in the caller's list."""
    result = []
    for first, run in notes:
        at = {name: first + getattr(run, name) for name in ("largest_sample", "smallest_sample", "first_zero")}
        inside = {name: numbers[i] if 0 <= i < len(numbers) else 0 for name, i in at.items()}
        result.append((0, replace(run, **inside)))
    return result


def analyze(core: Core, samples: Sequences, target: Any, out: Any, conditions: Any = None) -> Any:
    """`Analyzer.analyze` of samples of different lengths; returns as many arrays."""
    if out is not None:
        raise InputError("out is for samples of one shape: leave it out, and take the list that comes back")
    relevance, growth, explanations = explained(core, samples, target, conditions)
    warn(growth, explanations, core.settings.rectify)
    return relevance


def explained(
    core: Core, samples: Sequences, target: Any, conditions: Any = None, *, exact: bool = False
) -> tuple[Any, Growth, int]:
    """The relevance of samples of different lengths, its growth, and the number of explanations.

    Where not ``exact``, growth is that of a part of the features.
    """
    target = core.settings.target if target is None else target
    notes: list[tuple[int, RunGrowth]] = []
    explanations, conserving = 0, True

    def compute(group: Group) -> Any:
        nonlocal explanations, conserving
        own: list[Any] = []
        fixed = core.fixed(group.inputs) if group.padded is None else core.for_padded(group.padded)
        own_target = samples.target(target, group.members)
        relevance = fixed.analyze(group.inputs, own_target, notes=own, exact=exact, conditions=conditions)
        several = isinstance(group.inputs, list)
        first, one = (relevance[0], group.inputs[0]) if several else (relevance, group.inputs)
        explanations += math.prod(first.shape) // max(1, math.prod(one.shape[1:]))
        conserving = fixed.conserves
        notes.extend(numbered(group.members, own))
        return relevance

    # conditions name neurons of layers as long as the samples
    padded = (core.padding, core.padded_lengths) if conditions is None else ()
    parts = samples.run(compute, *padded)
    notes.sort(key=lambda note: note[1].first_zero)
    return samples.join(parts), Growth.of(notes, conserving), explanations


def explain(core: Core, samples: Sequences, target: Any, layers: bool) -> Explanation:
    """`Analyzer.explain` of samples of different lengths."""
    target = core.settings.target if target is None else target

    def compute(group: Group) -> Explanation:
        own = samples.target(target, group.members)
        fixed = core.fixed(group.inputs) if group.padded is None else core.for_padded(group.padded)
        explanation: Explanation = fixed.explain(group.inputs, own, layers, group.members)
        return explanation if group.padded is None else own_parts(explanation, group.padded, group.lengths)

    parts = samples.run(compute, core.padding, core.padded_lengths)
    explanations = [e for _, e in parts]
    order = _order(parts)
    targets = [e.target for e in explanations]
    inner = {name: _joined(order, [e.layers[name] for e in explanations]) for name in explanations[0].layers or ()}
    return Explanation(
        samples.join([(group, e.relevance) for group, e in parts]),
        joined_outputs([(group, e.output) for group, e in parts]),
        None if targets[0] is None else np.concatenate(targets)[order],
        _conservation([e.conservation for e in explanations], order),
        inner if layers else None,
        None if explanations[0].completeness is None else np.concatenate([e.completeness for e in explanations])[order],
    )


def joined_outputs(parts: Sequence[tuple[Group, Any]]) -> Any:
    """The outputs of all samples, from those of the groups; a list of several outputs."""
    order = _order(parts)
    if not isinstance(parts[0][1], list):
        return _joined(order, [output for _, output in parts])
    return [_joined(order, arrays) for arrays in zip(*(output for _, output in parts), strict=True)]


def _order(parts: Sequence[tuple[Group, Any]]) -> np.ndarray:
    """Where each sample is among those of the groups."""
    return np.argsort(np.concatenate([group.members for group, _ in parts]), kind="stable")


def _joined(order: np.ndarray, arrays: Sequence[Any]) -> Any:
    """Values of all samples in order: an array if they have one shape, else a list."""
    if any(isinstance(a, list) for a in arrays) or len({a.shape[1:] for a in arrays}) > 1:
        rows = [row for a in arrays for row in a]
        return [rows[i] for i in order]
    whole = module_of(as_array(arrays[0])).concatenate([as_array(a) for a in arrays])[order]
    return as_tensors(whole) if is_tensor(arrays[0]) else whole


def _conservation(reports: Sequence[Conservation], order: np.ndarray) -> Conservation:
    """The balance of all samples, in order; of a recurrent layer's steps NaN after a sample's last one."""
    balances = []
    for of_layer in zip(*reports, strict=True):
        figures = {
            key: np.concatenate([getattr(b, key) for b in of_layer])[order] for key in (*FIELDS, "amplification")
        }
        steps = None
        if of_layer[0].steps is not None:
            count = max(b.steps.incoming.shape[1] for b in of_layer)
            steps = StepBalance(
                **{
                    f.name: np.concatenate([_widened(getattr(b.steps, f.name), count) for b in of_layer])[order]
                    for f in fields(StepBalance)
                }
            )
        balances.append(Balance(of_layer[0].layer, of_layer[0].rule, steps=steps, **figures))
    return Conservation(balances, reports[0].note)


def _widened(steps: np.ndarray, count: int) -> np.ndarray:
    return np.pad(steps, [(0, 0), (0, count - steps.shape[1])], constant_values=np.nan)
