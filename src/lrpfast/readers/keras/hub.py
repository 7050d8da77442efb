"""Keras Hub's layers of transformers: encoders, and embeddings of tokens and positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import ModelFormatError
from ...model import layers as L
from ..axis_ops import affine, constant, fixed
from ..channels_first import Tensor, Value
from . import attention
from .activations import activation
from .attention import ATTENTION, AttentionCall
from .record import KerasLayer, Weight

#: Parts of an encoder, in the order in which their weights are stored, and how many arrays each has.
_ENCODER = {
    "self_attention_layer": 8,
    "self_attention_layer_norm": 2,
    "feedforward_layer_norm": 2,
    "feedforward_intermediate_dense": 2,
    "feedforward_output_dense": 2,
}
#: Names of the layers that a layer becomes, besides its own.
PARTS = (*attention.PARTS, *_ENCODER, "self_attention_residual", "tokens")


def _part(layer: KerasLayer, class_name: str, config: Mapping[str, Any], stored: Sequence[Weight]) -> KerasLayer:
    """A layer inside the layer."""
    dtype = {"dtype": layer.config.get("dtype")}
    return replace(layer, class_name=class_name, config={**dtype, **config}, stored=lambda: stored)


def _encoder(call: AttentionCall, inputs: Any, padding_mask: Any = None, attention_mask: Any = None,
             training: Any = None, return_attention_scores: Any = False) -> Value:  # fmt: skip
    """Attention and two dense layers, with residuals, and normalization before or after each."""
    layer, stored = call.layer, list(call.layer.stored())
    x = call.builder.plain(inputs)
    size, heads = fixed(x, len(x.shape) - 1), layer.need("num_heads")
    if len(stored) != sum(_ENCODER.values()):
        raise ModelFormatError(f"{layer}: expected {sum(_ENCODER.values())} arrays, found {len(stored)}")
    parts: dict[str, Sequence[Weight]] = {}
    for name, count in _ENCODER.items():
        parts[name], stored = stored[:count], stored[count:]

    def normalized(value: Tensor, name: str) -> Tensor:
        gamma, beta = _part(layer, "LayerNormalization", {}, parts[name]).arrays(gamma=(size,), beta=(size,))
        return call.add(L.LayerNorm(gamma, beta, layer.get("layer_norm_epsilon", 1e-5)), value, part=name)

    def dense(value: Tensor, name: str, units: int, function: Any) -> Tensor:
        inner = _part(layer, "Dense", {"activation": function}, parts[name])
        kernel, bias = inner.arrays(kernel=(value.shape[-1], units), bias=(units,))
        return call.add(L.Dense(kernel, bias, activation(inner, (*value.shape[:-1], units))), value, part=name)

    first = bool(layer.get("normalize_first", False))
    norms = ("self_attention_layer_norm", "feedforward_layer_norm")
    hidden = call.step_mask(padding_mask) if padding_mask is not None else call.mask_of(inputs)
    rows = normalized(x, norms[0]) if first else x
    config = {"num_heads": heads, "key_dim": size // heads}
    inner = replace(call, layer=_part(layer, "MultiHeadAttention", config, parts["self_attention_layer"]))
    attended = attention.multi_head(inner, rows, rows, value_mask=hidden, attention_mask=attention_mask)
    x = call.add(L.Add(), call.builder.plain(attended), x, part="self_attention_residual")
    x = x if first else normalized(x, norms[0])
    rows = normalized(x, norms[1]) if first else x
    rows = dense(rows, "feedforward_intermediate_dense", layer.need("intermediate_dim"), layer.config.get("activation"))
    rows = dense(rows, "feedforward_output_dense", size, None)
    x = call.add(L.Add(), rows, x)
    return x if first else normalized(x, norms[1])


def _positions(layer: KerasLayer, table: np.ndarray, steps: int) -> np.ndarray:
    """The first rows of a table, one for each step."""
    if steps > len(table):
        raise ModelFormatError(f"{layer}: it has {len(table)} positions, its input {steps}")
    return table[:steps]


def _token_and_position(call: AttentionCall, inputs: Any, start_index: Any = 0) -> Value:
    layer = call.layer
    _check_start(layer, start_index)
    words, size = layer.need("vocabulary_size"), layer.need("embedding_dim")
    stored = list(layer.stored())
    tied = layer.get("tie_weights", True)
    expected = {"tokens": (words, size), **({} if tied else {"reverse": (size, words)})}
    tokens, *_, table = replace(layer, stored=lambda: stored).arrays(**expected, positions=(None, size))
    ids = call.builder.plain(inputs)
    x = call.add(L.Embedding(tokens), ids, part="tokens")
    return affine(call.builder, x, 1.0, _positions(layer, table, fixed(x, len(x.shape) - 2)))


def _position(call: AttentionCall, inputs: Any, start_index: Any = 0) -> Value:
    """Rows of a table for every sample alike, whatever the input is."""
    _check_start(call.layer, start_index)
    steps, size = (fixed(inputs, len(inputs.shape) - i) for i in (2, 1))
    (table,) = call.layer.arrays(embeddings=(call.layer.need("sequence_length"), size))
    return constant(call.builder, inputs, _positions(call.layer, table, steps))


def _sine_position(call: AttentionCall, inputs: Any, start_index: Any = 0) -> Value:
    """Sines in even columns and cosines in odd ones, of angles that grow with the position."""
    _check_start(call.layer, start_index)
    steps, size = (fixed(inputs, len(inputs.shape) - i) for i in (2, 1))
    column = np.arange(size)
    speed = (1 / call.layer.get("max_wavelength", 10000)) ** (2 * (column // 2) / size)
    angles = np.arange(steps)[:, None] * speed
    return constant(call.builder, inputs, np.where(column % 2, np.cos(angles), np.sin(angles)))


def _check_start(layer: KerasLayer, start_index: Any) -> None:
    if start_index != 0:
        raise layer.unsupported(f"begins at position {start_index!r:.40}", "Positions that begin at 0 work")


#: Layers of which every argument of a call counts, and the function that lays one out.
CALLED: dict[str, Callable[..., Value]] = {
    **ATTENTION,
    "PositionEmbedding": _position,
    "SinePositionEncoding": _sine_position,
    "TokenAndPositionEmbedding": _token_and_position,
    "TransformerEncoder": _encoder,
}


def paths_of(kind: str, config: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Where an archive keeps the weights of a layer, in order; nothing for its own group."""
    if kind == "TransformerEncoder":
        projections = attention.paths_of("MultiHeadAttention", {})
        inner = [("self_attention_layer", *path) for path in projections]
        return [*inner, *((name,) for name in _ENCODER if name != "self_attention_layer")]
    if kind == "TokenAndPositionEmbedding":
        return [("token_embedding",), ("position_embedding",)]
    return attention.paths_of(kind, config) if kind in ATTENTION else [()]
