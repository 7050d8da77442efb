"""Keras's attention layers: projections, and lrpfast's `Attention` on their rows."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from ...errors import ShapeError
from ...model import layers as L
from ..arithmetic import multiply, power, total
from ..axis_ops import fixed
from ..channels_first import Builder, Tensor, Value
from ..conditions import is_condition, select
from .operation import Operation, is_value
from .record import KerasLayer

#: Names of the layers that an attention layer becomes, besides its own.
PARTS = ("query", "key", "value", "gate", "attention", "scores", "weights")
#: Where an archive keeps the weights of a layer's projections, in the order of their making.
_PROJECTIONS = ("query_dense", "key_dense", "gate_dense", "value_dense", "output_dense")


@dataclass(frozen=True)
class AttentionCall:
    """One call of an attention layer.

    Attributes
    ----------
    layer : KerasLayer
    builder : Builder
    mask_of : callable
        The mask of time steps that comes with a value, 1 where one counts; None where there is none.
    """

    layer: KerasLayer
    builder: Builder
    mask_of: Callable[[Value], Tensor | None]

    def add(self, layer: L.Layer, *inputs: Tensor, part: str = "") -> Tensor:
        """A layer on values as the file has them."""
        plain = [self.builder.plain(x) for x in inputs]
        node = self.builder.add(layer, *(x.node for x in plain), part=part)
        shape = tuple(self.builder.shapes[node])
        return replace(plain[0], node=node, shape=shape, order=tuple(range(len(shape))))

    def dense(self, x: Tensor, arrays: tuple[np.ndarray, np.ndarray | None], part: str) -> Tensor:
        """A dense layer with a kernel and a bias on the last axis; other axes of the kernel are the units."""
        kernel, bias = arrays
        units = kernel.reshape(kernel.shape[0], -1)
        return self.add(L.Dense(units, None if bias is None else bias.ravel()), x, part=part)

    def masks(self, attention_mask: Any, *step_masks: Any) -> tuple[list[Tensor], np.ndarray | None]:
        """Masks of queries and keys that the model computes, at most one, and one that is constant."""
        arrays: list[np.ndarray] = []
        values: dict[int, Tensor] = {}
        for mask, axes in ((attention_mask, 2), *((mask, 1) for mask in step_masks)):
            if mask is None:
                continue
            if is_value(mask):
                value = self.builder.plain(mask)
            elif is_condition(mask):
                value = self._numbers(mask)
            else:
                array = Operation(self.layer, self.builder).fitted(mask, max(axes, np.ndim(mask) - 1))
                arrays.append(array.astype(bool))
                continue
            values[value.node] = value
        shown = list(values.values())
        if len(shown) > 1:
            rank = max(len(value.shape) for value in shown)
            shown = [_reshape(self.builder, value, (1,) * (rank - len(value.shape)) + value.shape) for value in shown]
            shown = [self.builder.merge(L.Multiply(), shown)]
        return shown, functools.reduce(np.logical_and, arrays) if arrays else None

    def _numbers(self, condition: Any) -> Tensor:
        """A condition as a mask of 1 and 0."""
        result = select(self.builder, condition, np.array(1.0), np.array(0.0))
        assert is_value(result)
        return self.builder.plain(result)  # type: ignore[arg-type]

    def step_mask(self, mask: Any) -> Tensor | None:
        """A mask of time steps that the call is given, as a value."""
        return None if mask is None else self._numbers(mask) if is_condition(mask) else self.builder.plain(mask)


def _reshape(builder: Builder, x: Value, shape: Sequence[int | None]) -> Tensor:
    """The value in another shape, as the file has it."""
    return builder.plain(builder.reshape(x, cast("Sequence[int]", shape)))


# -- rows and heads ---------------------------------------------------------------


def _rows(builder: Builder, x: Value, axes: Sequence[int]) -> Tensor:
    """The value with the attended axes joined to one before its last; the others come first."""
    rank = len(x.shape)
    rest = [axis for axis in range(rank - 1) if axis not in axes]
    x = builder.transpose(x, [*rest, *axes, rank - 1])
    if len(axes) == 1:
        return builder.plain(x)
    joined = math.prod(fixed(x, axis) for axis in range(len(rest), rank - 1))
    return _reshape(builder, x, (*x.shape[: len(rest)], joined, x.shape[-1]))


def _back(builder: Builder, x: Tensor, like: Value, axes: Sequence[int]) -> Value:
    """`_rows`, undone for the output of a value's queries."""
    rank = len(like.shape)
    rest = [axis for axis in range(rank - 1) if axis not in axes]
    order = [*rest, *axes, rank - 1]
    if len(axes) != 1:
        x = _reshape(builder, x, (*(like.shape[axis] for axis in order[:-1]), x.shape[-1]))
    return builder.transpose(x, [order.index(axis) for axis in range(rank)])


def _window(layer: KerasLayer, causal: bool) -> tuple[int | None, int | None] | None:
    """How far a query sees before and after itself."""
    reach = layer.get("sliding_window", None)
    before = None if reach is None else int(reach) - 1
    return (before, 0 if causal else before) if causal or reach is not None else None


def _projections(
    layer: KerasLayer, expected: Mapping[str, tuple[int | None, ...]]
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Kernels and biases by the projections' names; None for a bias that is not there."""
    biased, shapes = layer.get("use_bias", True), {}
    for name, shape in expected.items():
        shapes[name] = shape
        if biased:
            shapes[f"{name}_bias"] = shape[1:] if name != "output" else shape[2:]
    arrays = dict(zip(shapes, layer.arrays(**shapes), strict=True))
    return {name: (arrays[name], arrays.get(f"{name}_bias")) for name in expected}


def _heads(call: AttentionCall, query: Value, value: Value, key: Value, heads: tuple[int, int],
                sizes: tuple[int, int], outputs: tuple[int | None, ...], axes: Sequence[int], masks: Any,
                causal: bool) -> Value:  # fmt: skip
    """Heads of (key, value) sizes, on projections of the three inputs, and the projection of their outputs."""
    layer, (count, shared), (key_size, value_size) = call.layer, heads, sizes
    gated = bool(layer.get("use_gate", False))
    q, k, v = (_rows(call.builder, x, axes) for x in (query, key, value))
    arrays = _projections(
        layer,
        {
            "query": (q.shape[-1], count, key_size),
            "key": (k.shape[-1], shared, key_size),
            **({"gate": (q.shape[-1], count, value_size)} if gated else {}),
            "value": (v.shape[-1], shared, value_size),
            "output": (count, value_size, *outputs),
        },
    )
    rows = [call.dense(x, arrays[part], part) for x, part in ((q, "query"), (k, "key"), (v, "value"))]
    mask_inputs, mask = masks
    attention = L.Attention(count, shared, key_size**-0.5, _window(layer, causal), mask)
    result = call.add(attention, *rows, *mask_inputs, part="attention")
    if gated:
        gate = call.dense(q, arrays["gate"], "gate")
        gate = replace(gate, node=call.builder.add(L.Activation("sigmoid"), gate.node))
        result = call.builder.plain(multiply(call.builder, result, gate))
    kernel, bias = arrays["output"]
    units = kernel.shape[2:]
    result = call.dense(result, (kernel.reshape(count * value_size, -1), bias), "output")
    whole = _back(call.builder, result, query, axes)
    if len(units) > 1:
        whole = _reshape(call.builder, whole, (*whole.shape[:-1], *units))
    return whole


# -- the layers -------------------------------------------------------------------


def multi_head(
    call: AttentionCall, query: Any, value: Any, key: Any = None, query_mask: Any = None, value_mask: Any = None,
    key_mask: Any = None, attention_mask: Any = None, return_attention_scores: Any = False, training: Any = None,
    use_causal_mask: Any = False,
) -> Value:  # fmt: skip
    """A call of MultiHeadAttention, with Keras's arguments; masked queries get weights as all others do."""
    layer = call.layer
    keys = value if key is None else key
    heads, key_size = layer.need("num_heads"), layer.need("key_dim")
    value_size, units = layer.get("value_dim", key_size), layer.get("output_shape", None)
    rank = len(query.shape)
    stored = layer.get("attention_axes", None)
    axes = layer.axes("attention_axes", query.shape) if stored else list(range(rank - 1))
    outputs = (query.shape[-1],) if units is None else tuple(units if isinstance(units, (list, tuple)) else (units,))
    hidden = [value_mask or call.mask_of(value), key_mask or (None if key is None else call.mask_of(key))]
    masks = call.masks(attention_mask, *hidden)
    return _heads(
        call, query, value, keys, (heads, heads), (key_size, value_size), outputs, axes, masks, bool(use_causal_mask)
    )


def _grouped_query(call: AttentionCall, query: Any, value: Any, key: Any = None, query_mask: Any = None,
                   value_mask: Any = None, key_mask: Any = None, attention_mask: Any = None,
                   return_attention_scores: Any = False, training: Any = None,
                   use_causal_mask: Any = False) -> Value:  # fmt: skip
    layer = call.layer
    heads = layer.need("num_query_heads"), layer.need("num_key_value_heads")
    size = layer.need("head_dim")
    hidden = [value_mask or call.mask_of(value), key_mask or (None if key is None else call.mask_of(key))]
    masks, keys = call.masks(attention_mask, *hidden), value if key is None else key
    return _heads(call, query, value, keys, heads, (size, size), (query.shape[-1],), [0], masks, bool(use_causal_mask))


def _attention(call: AttentionCall, inputs: Any, mask: Any = None, training: Any = None,
               return_attention_scores: Any = False, use_causal_mask: Any = False) -> Value:  # fmt: skip
    """Luong's attention, without projections: scores are products, or sums through tanh."""
    layer = call.layer
    additive = layer.class_name == "AdditiveAttention"
    if not isinstance(inputs, list) or len(inputs) not in (2, 3):
        raise ShapeError(f"{layer}: it takes a list of a query, a value and perhaps a key")
    query, value = (call.builder.plain(x) for x in inputs[:2])
    key = call.builder.plain(inputs[2]) if len(inputs) > 2 else value
    given = mask if isinstance(mask, list) else [None, None]
    query_mask, value_mask = (
        call.mask_of(x) if m is None and mask is None else call.step_mask(m)
        for x, m in zip((query, value), given, strict=False)
    )
    masks, array = call.masks(None, value_mask)
    window = _window(layer, bool(use_causal_mask))
    concat = layer.get("score_mode", "dot") == "concat"
    if additive or concat:
        weights = call.add(L.Softmax(array, window), _sums(call, query, key, additive), *masks, part="weights")
        result = call.add(L.MatMul(), weights, value)
    else:
        scale = float(layer.arrays(scale=())[0]) if layer.get("use_scale", False) else 1.0
        result = call.add(L.Attention(1, 1, scale, window, array), query, key, value, *masks)
    if query_mask is not None:  # what masked queries get is 0
        steps = _reshape(call.builder, query_mask, (*query_mask.shape, 1))
        result = call.builder.merge(L.Multiply(), [result, steps])
    return result


def _sums(call: AttentionCall, query: Tensor, key: Tensor, additive: bool) -> Tensor:
    """The scores Σ w tanh(scale (q + k)): of `AdditiveAttention` with w a vector, else with numbers."""
    builder, layer, size = call.builder, call.layer, fixed(query, len(query.shape) - 1)
    weight, inner = np.ones(size), 1.0
    scaled = bool(layer.get("use_scale", additive))
    if additive and scaled:
        (weight,) = layer.arrays(scale=(size,))
    elif not additive:
        arrays = layer.arrays(**({"scale": ()} if scaled else {}), concat_score_weight=())
        inner = float(arrays[0]) if scaled else 1.0
        weight = np.full(size, float(arrays[-1]))
    q = _reshape(builder, query, (*query.shape[:-1], 1, size))
    k = _reshape(builder, key, (*key.shape[:-2], 1, *key.shape[-2:]))
    pairs: Value = builder.merge(L.Add(), [q, k])
    if inner != 1:
        pairs = multiply(builder, pairs, np.array(inner))
    scores = builder.dense(builder.each(L.Activation("tanh"), pairs), weight[:, None], None)
    return _reshape(builder, scores, scores.shape[:-1])


def masked_mean(call: AttentionCall, x: Value, mask: Tensor) -> Value:
    """GlobalAveragePooling1D over the steps that a mask counts."""
    builder, layer = call.builder, call.layer
    if layer.get("data_format", "channels_last") == "channels_first":
        x = builder.transpose(x, [1, 0])
    share = power(builder, total(builder, mask, [0], True), -1.0)
    weights = builder.plain(multiply(builder, mask, share))
    weights = _reshape(builder, weights, (1, fixed(weights, 0)))
    result = call.add(L.MatMul(), weights, builder.plain(x))
    if layer.get("keepdims", False):
        return builder.transpose(result, [1, 0]) if layer.get("data_format", "") == "channels_first" else result
    return builder.reshape(result, (fixed(result, 1),))


#: Every class of attention layers, and the function that lays one out.
ATTENTION: dict[str, Callable[..., Value]] = {
    "MultiHeadAttention": multi_head,
    "GroupedQueryAttention": _grouped_query,
    "GroupQueryAttention": _grouped_query,  # as Keras exports it
    "Attention": _attention,
    "AdditiveAttention": _attention,
}


def paths_of(layer_class: str, config: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Where an archive keeps the weights of a layer, in order; nothing for its own group."""
    if ATTENTION[layer_class] is _attention:
        return [()]
    return [(name,) for name in _PROJECTIONS if name != "gate_dense" or config.get("use_gate")]


def attend(
    call: AttentionCall, function: Callable[..., Value], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Value:
    """What a call of a layer returns that the function lays out.

    Raises
    ------
    UnsupportedLayerError
        When it is called in a way that lrpfast cannot follow.
    """
    if function is not _attention and len(args) == 1 and isinstance(args[0], list):
        args = args[0]  # as Keras 2 writes them
    given = {key: value for key, value in kwargs.items() if value is not None}
    try:
        bound = inspect.signature(function).bind(call, *args, **given)
    except TypeError as error:
        raise call.layer.unsupported(
            f"is called in a way that lrpfast does not follow ({error})", "Call it with other layers' outputs"
        ) from error
    if bound.arguments.get("training"):
        raise call.layer.unsupported("is called with training=True", "Leave it out")
    return function(*bound.args, **bound.kwargs)
