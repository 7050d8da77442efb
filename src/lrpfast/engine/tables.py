"""How much memory the tables of a layer take that say where its values come from: counted before they are made."""

from __future__ import annotations

import math

from ..budget import FREE_TABLES, Budget
from ..errors import InputError
from ..model.graph import Model
from ..model.layers import (
    AdaptiveAveragePool,
    Add,
    Attention,
    Average,
    AveragePool,
    Conv,
    ConvTranspose,
    Crop,
    DepthwiseConv,
    Dot,
    GlobalAveragePool,
    GlobalLogSumExp,
    GlobalMaxPool,
    Interpolate,
    Layer,
    LocallyConnected,
    MatMul,
    Maximum,
    MaxPool,
    Minimum,
    Multiply,
    Permute,
    ReflectPad,
    RepeatVector,
    Rotary,
    Softmax,
    Subtract,
    Take,
    UpSample,
    Where,
    ZeroPad,
)

#: A table has int64 entries.
_ENTRY = 8
_WINDOWS = (Conv, ConvTranspose, DepthwiseConv, LocallyConnected, AveragePool, MaxPool)
_MOVES = (Permute, ReflectPad, RepeatVector, ZeroPad)
_STRETCHES = (Add, Average, Maximum, Minimum, Multiply, Subtract, Where)

Fixed = tuple[int, ...]


def plan_budget(model: Model, memory: int | None, data: int) -> Budget:
    """What the tables of a model's plan may take: the more, the more weights it has and the larger the user's inputs.

    Parameters
    ----------
    model : Model
    memory : int or None
        Bytes that are allowed in any case.
    data : int
        Bytes of one sample, where the user's data say what size it is.
    """
    nbytes = sum({id(layer): layer.nbytes for layer in model.layers}.values()) + data
    return Budget(nbytes, FREE_TABLES, memory, InputError, "the model", "lrpfast.Analyzer(model, rule, memory={})")


def table_bytes(layer: Layer, shapes: tuple[Fixed, ...], out: Fixed) -> int:
    """Bytes of a layer's tables, forwards and backwards; large layers' to within a factor of about two."""
    return _ENTRY * _entries(layer, shapes, out)


def _entries(layer: Layer, shapes: tuple[Fixed, ...], out: Fixed) -> int:
    shape = shapes[0]
    if isinstance(layer, (Crop, Take)) or (isinstance(layer, UpSample) and layer.interpolation == "nearest"):
        return math.prod(out)
    if isinstance(layer, _MOVES):
        return math.prod(shape) + math.prod(out)
    if isinstance(layer, _STRETCHES):
        return sum(math.prod(out) for source in shapes if math.prod(source) != math.prod(out))
    if isinstance(layer, Dot):
        return sum(map(math.prod, shapes)) + math.prod(out)
    if isinstance(layer, MatMul):
        return sum(map(math.prod, shapes)) + 2 * math.prod((*out, 2))
    if isinstance(layer, Softmax):
        return math.prod(out)
    if isinstance(layer, Rotary):
        return 4 * math.prod(out)
    if isinstance(layer, Attention):
        return sum(a.size for a in (layer.mask, layer.bias) if a is not None) + math.prod(
            shapes[3] if shapes[3:] else ()
        )
    rows = math.prod(shape[:-1]) + math.prod(out[:-1])
    if isinstance(layer, _WINDOWS):
        size: Fixed = layer.size
        return rows + 2 * sum((n + m) * k for n, m, k in zip(shape, out, size, strict=False))
    if isinstance(layer, AdaptiveAveragePool):
        return rows + 2 * sum((n + m) * (-(-n // m) + 1) for n, m in zip(shape[:-1], out, strict=False))
    if isinstance(layer, (GlobalAveragePool, GlobalMaxPool)):
        return rows + 2 * sum(shape[:-1])
    if isinstance(layer, GlobalLogSumExp):
        return rows + 2 * sum(shape[:-1]) + 3 * math.prod(shape)
    if isinstance(layer, (Interpolate, UpSample)):
        return rows + 3 * sum(n * m for n, m in zip(shape[:-1], out, strict=False))
    return 0
