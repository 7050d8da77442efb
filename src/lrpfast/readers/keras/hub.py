"""Keras Hub's layers of transformers: encoders, decoders, and embeddings of tokens and positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
#: The same of a decoder; the middle two only where it looks at an encoder's sequence.
_DECODER = {
    "self_attention_layer": 8,
    "self_attention_layer_norm": 2,
    "cross_attention_layer": 8,
    "cross_attention_layer_norm": 2,
    "feedforward_intermediate_dense": 2,
    "feedforward_output_dense": 2,
    "feedforward_layer_norm": 2,
}
#: Names of the layers that a layer becomes, besides its own.
PARTS = (*attention.PARTS, *_DECODER, "self_attention_residual", "cross_attention_residual", "tokens")


def _part(layer: KerasLayer, class_name: str, config: Mapping[str, Any], stored: Sequence[Weight]) -> KerasLayer:
    """A layer inside the layer."""
    dtype = {"dtype": layer.config.get("dtype")}
    return replace(layer, class_name=class_name, config={**dtype, **config}, stored=lambda: stored)


@dataclass(frozen=True)
class _Transformer:
    """The blocks of an encoder or a decoder: residuals around a part, with normalization before or after."""

    call: AttentionCall
    parts: Mapping[str, Sequence[Weight]]
    size: int

    @property
    def first(self) -> bool:
        """Whether normalization comes first."""
        return bool(self.call.layer.get("normalize_first", False))

    def normalized(self, value: Tensor, name: str) -> Tensor:
        inner = _part(self.call.layer, "LayerNormalization", {}, self.parts[name])
        gamma, beta = inner.arrays(gamma=(self.size,), beta=(self.size,))
        epsilon = self.call.layer.get("layer_norm_epsilon", 1e-5)
        return self.call.add(L.LayerNorm(gamma, beta, epsilon), value, part=name)

    def dense(self, value: Tensor, name: str, units: int, function: Any) -> Tensor:
        inner = _part(self.call.layer, "Dense", {"activation": function}, self.parts[name])
        kernel, bias = inner.arrays(kernel=(value.shape[-1], units), bias=(units,))
        return self.call.add(L.Dense(kernel, bias, activation(inner, (*value.shape[:-1], units))), value, part=name)

    def attended(self, x: Tensor, name: str, value: Tensor | None = None, **arguments: Any) -> Tensor:
        """Attention to x itself, or to another sequence."""
        heads = self.call.layer.need("num_heads")
        rows = self.normalized(x, f"{name}_layer_norm") if self.first else x
        config = {"num_heads": heads, "key_dim": self.size // heads}
        inner = _part(self.call.layer, "MultiHeadAttention", config, self.parts[f"{name}_layer"])
        call = replace(self.call, layer=inner)
        attended = attention.multi_head(call, rows, rows if value is None else value, **arguments)
        x = self.call.add(L.Add(), self.call.builder.plain(attended), x, part=f"{name}_residual")
        return x if self.first else self.normalized(x, f"{name}_layer_norm")

    def fed_forward(self, x: Tensor) -> Tensor:
        """Two dense layers."""
        layer = self.call.layer
        rows = self.normalized(x, "feedforward_layer_norm") if self.first else x
        function = layer.config.get("activation")
        rows = self.dense(rows, "feedforward_intermediate_dense", layer.need("intermediate_dim"), function)
        rows = self.dense(rows, "feedforward_output_dense", self.size, None)
        x = self.call.add(L.Add(), rows, x)
        return x if self.first else self.normalized(x, "feedforward_layer_norm")


def _transformer(call: AttentionCall, x: Tensor, counts: Mapping[str, int]) -> _Transformer:
    """The parts of an encoder or a decoder, with so many arrays each."""
    stored = list(call.layer.stored())
    if len(stored) != sum(counts.values()):
        raise ModelFormatError(f"{call.layer}: expected {sum(counts.values())} arrays, found {len(stored)}")
    parts: dict[str, Sequence[Weight]] = {}
    for name, count in counts.items():
        parts[name], stored = stored[:count], stored[count:]
    return _Transformer(call, parts, fixed(x, len(x.shape) - 1))


def _hidden(call: AttentionCall, inputs: Any, padding_mask: Any) -> Tensor | None:
    return call.step_mask(padding_mask) if padding_mask is not None else call.mask_of(inputs)


def _encoder(call: AttentionCall, inputs: Any, padding_mask: Any = None, attention_mask: Any = None,
             training: Any = None, return_attention_scores: Any = False) -> Value:  # fmt: skip
    """Attention and two dense layers."""
    x = call.builder.plain(inputs)
    block, hidden = _transformer(call, x, _ENCODER), _hidden(call, inputs, padding_mask)
    return block.fed_forward(block.attended(x, "self_attention", value_mask=hidden, attention_mask=attention_mask))


def _decoder(
    call: AttentionCall, decoder_sequence: Any, encoder_sequence: Any = None, decoder_padding_mask: Any = None,
    decoder_attention_mask: Any = None, encoder_padding_mask: Any = None, encoder_attention_mask: Any = None,
    use_causal_mask: Any = True, training: Any = None, **caches: Any,
) -> Value:  # fmt: skip
    """Attention to what comes before, perhaps to an encoder's sequence, and two dense layers."""
    if any(value is not None for value in caches.values()):
        raise call.layer.unsupported("is called with a cache of keys and values", "Call it with the whole sequence")
    x = call.builder.plain(decoder_sequence)
    counts = {k: n for k, n in _DECODER.items() if encoder_sequence is not None or not k.startswith("cross")}
    block, hidden = _transformer(call, x, counts), _hidden(call, decoder_sequence, decoder_padding_mask)
    masks = {"value_mask": hidden, "attention_mask": decoder_attention_mask}
    x = block.attended(x, "self_attention", use_causal_mask=use_causal_mask, **masks)
    if encoder_sequence is not None:
        masks = {"value_mask": _hidden(call, encoder_sequence, encoder_padding_mask)}
        masks["attention_mask"] = encoder_attention_mask
        x = block.attended(x, "cross_attention", call.builder.plain(encoder_sequence), **masks)
    return block.fed_forward(x)


def _rotary(call: AttentionCall, inputs: Any, start_index: Any = 0, positions: Any = None) -> Value:
    """Channels turned in pairs of halves, by angles that grow with the position."""
    layer, x = call.layer, call.builder.plain(inputs)
    if positions is not None:
        raise layer.unsupported("gets positions of its own", "Positions that count up work")
    _check_start(layer, start_index)
    rank = len(x.shape) + 1
    sequence, feature = (int(layer.get(key, n)) % rank for key, n in (("sequence_axis", 1), ("feature_axis", -1)))
    kind = layer.get("rope_type", "linear")
    if feature != rank - 1 or not 0 < sequence < feature or kind not in ("linear", "dynamic"):
        raise layer.unsupported(
            f"has rope_type {kind!r}, sequence_axis {layer.get('sequence_axis', 1)} and feature_axis "
            f"{layer.get('feature_axis', -1)}",
            "These work: 'linear' and 'dynamic', with the features last",
        )
    steps, size = fixed(x, sequence - 1), fixed(x, rank - 2)
    speed = layer.get("max_wavelength", 10000) ** (
        -np.arange(0, size, 2) / (layer.get("denominator_dim", None) or size)
    )
    scale = layer.get("scaling_factor", 1.0) ** (size / max(1, size - 2) if kind == "dynamic" else 1)
    angles = np.tile(np.arange(steps)[:, None] * speed / scale, 2)
    turned = L.Rotary(np.cos(angles), np.sin(angles), size)
    if sequence == rank - 2:
        return call.add(turned, x)
    shape, n = [fixed(x, i) for i in range(rank - 1)], sequence - 1
    rows = call.builder.reshape(x, (*shape[: n + 1], math.prod(shape[n + 1 :])))  # heads beside each other
    return call.builder.reshape(call.add(turned, call.builder.plain(rows)), shape)


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
    "RotaryEmbedding": _rotary,
    "SinePositionEncoding": _sine_position,
    "TokenAndPositionEmbedding": _token_and_position,
    "TransformerDecoder": _decoder,
    "TransformerEncoder": _encoder,
}


def paths_of(kind: str, config: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Where an archive keeps the weights of a layer, in order; nothing for its own group."""
    if kind in ("TransformerDecoder", "TransformerEncoder"):
        projections = attention.paths_of("MultiHeadAttention", {})
        names = _ENCODER if kind == "TransformerEncoder" else _DECODER
        if not config.get("encoder_sequence_shape"):
            names = {name: n for name, n in names.items() if not name.startswith("cross")}
        return [(name, *path) for name, n in names.items() for path in (projections if n > 2 else [()])]
    if kind == "TokenAndPositionEmbedding":
        return [("token_embedding",), ("position_embedding",)]
    return attention.paths_of(kind, config) if kind in ATTENTION else [()]
