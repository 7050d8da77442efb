"""The scope of an explanation: the start layer, the reference value and the targets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import InputError, ShapeError
from ..kernels import Start
from ..model.canonize import Folds, canonize
from ..model.graph import Model, with_layers
from ..model.layers import Attention, Dense
from ..model.layers.base import whole
from ..model.write_out import written_out
from ..rules import Gradient, Pass, Rule
from ..rules.composites import Assignment
from ..suggest import unknown_name_message


def start_and_target(start: Any, target: Any) -> tuple[str | int | None, Any]:
    """The layer to explain, None for the output, and the target in it, None if none is given."""
    if isinstance(start, tuple):
        if len(start) != 2:
            raise InputError(f"start must be a layer, or a pair (layer, neuron), not {start!r}")
        if target is not None:
            raise InputError(
                f"start={start!r} names the neuron to explain, and so does target={target!r}: "
                f"give one of them, as start={start[0]!r}, target={start[1]!r}"
            )
        start, target = start
    if start is None:
        return None, target
    at = start if isinstance(start, str) else whole(start)
    if at is None:
        raise InputError(f"start must name a layer, or be a pair (layer, neuron), not {start!r}")
    return at, target


def explained_part(
    model: Model,
    assignment: Assignment,
    canonizes: bool,
    stripped: Sequence[str],
    start: Any,
    folds: Folds | None = None,
) -> tuple[Model, Assignment]:
    """The explained part of the model, which ends with the layer to explain, and the rules of its layers.

    A final activation is left out and batch normalization is folded before the model is cut, so that a layer is the
    same whether an explanation begins there or passes through it.
    """
    whole = model.without_output_activation(stripped)
    if canonizes:
        whole = canonize(whole, assignment.kept, folds)
    if start is None:
        return whole, assignment
    part, rules = whole.until(start), rules_of(assignment, whole.needed(start))
    bare = part.without_output_activation(stripped)
    return (bare if bare is part or _passes_to_change(part, bare, rules) else part), rules


def _passes_to_change(part: Model, bare: Model, rules: Assignment) -> bool:
    """Whether relevance passes unchanged from a part's output to the input of the activation that ``bare`` lacks.

    Only then may the explanation begin there and still explain the layer.
    """
    last = max(i for i, node in enumerate(part.nodes) if node.layer is not bare.nodes[i].layer)
    at, passing = part.outputs[0], rules.activations.get(last, Pass())
    between = [at]
    while at != last:
        at = part.nodes[at].inputs[0]
        between.append(at)
    if getattr(part.nodes[last].layer, "activation", None) is not None:
        between.pop()
    return all(isinstance(rule, Pass) for rule in (passing, *(rules.rules.get(i, Pass()) for i in between)))


def check_layers(explained: Model, names: Iterable[str]) -> None:
    """Raise InputError unless all of these are layers of the explained model."""
    layers = [node.name for node in explained.nodes]
    for name in names:
        if name not in layers:
            raise InputError(unknown_name_message("layer", name, layers, f"the layers are {', '.join(layers)}"))


def with_attention_for_gradients(model: Model, assignment: Assignment) -> tuple[Model, Assignment]:
    """The model with those attentions written out whose derivative is wanted: that of their products and softmax."""
    attentions = {
        i
        for i, node in enumerate(model.nodes)
        if isinstance(node.layer, Attention) and isinstance(assignment.rules[i], Gradient)
    }
    if not attentions:
        return model, assignment
    written, new = written_out(model, attentions)
    rules: dict[int, Rule] = dict.fromkeys(set(range(len(written.nodes))) - set(new), Gradient())
    rules |= {new[i]: rule for i, rule in assignment.rules.items()}
    activations = {new[i]: rule for i, rule in assignment.activations.items()}
    return written, Assignment(rules, activations, kept=frozenset(new[i] for i in assignment.kept))


def minus_reference(model: Model, y_ref: Any) -> Model:
    """The model with y_ref subtracted from its output's bias."""
    if len(model.outputs) > 1:
        raise InputError(f"y_ref is for models with one output, this one has {len(model.outputs)}")
    nodes = [(node.layer, node.inputs) for node in model.nodes]
    at = model.outputs[0]
    while nodes[at][0].identity and nodes[at][1]:
        at = nodes[at][1][0]
    layer = nodes[at][0]
    if not isinstance(layer, Dense) or layer.activation is not None:
        raise InputError(f"y_ref needs a linear Dense layer as output, not {layer} ({layer.describe()})")
    reference = np.asarray(y_ref)
    width = layer.kernel.shape[1]
    if reference.dtype.kind not in "fiu" or not np.isfinite(reference).all():
        raise InputError(f"y_ref must hold finite real numbers, not {y_ref!r}")
    if reference.shape not in ((), (1,), (width,)):
        raise ShapeError(f"y_ref must be one number or one per output ({width}), not of shape {reference.shape}")
    bias = np.zeros(width) if layer.bias is None else layer.bias
    nodes[at] = (replace(layer, bias=bias - np.broadcast_to(reference, (width,)).astype(np.float64)), nodes[at][1])
    return with_layers(model, nodes)


def rules_of(assignment: Assignment, indices: Sequence[int]) -> Assignment:
    """The rules of some of a model's nodes, by their positions in ``indices``."""
    return Assignment(
        {position: assignment.rules[i] for position, i in enumerate(indices) if i in assignment.rules},
        {position: assignment.activations[i] for position, i in enumerate(indices) if i in assignment.activations},
    )


def explained_targets(start: Start, output: np.ndarray) -> np.ndarray | None:
    """The output explained for each sample, if there is one."""
    samples = len(output)
    rows = output.reshape(samples, math.prod(output.shape[1:]))
    first, size = start.window or (0, rows.shape[1])
    if start.mode == "max":
        return rows[:, first : first + size].argmax(1) if samples else np.empty(0, np.int64)
    if start.mode == "index" and start.targets is not None:
        return np.broadcast_to(start.targets.ravel() - first, (samples,)).copy()
    if start.mode == "pair" and start.targets is not None:
        return np.broadcast_to(start.targets - first, (samples, 2)).copy()
    return None
