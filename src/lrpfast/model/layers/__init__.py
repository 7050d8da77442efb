"""Layers as frozen records: what a layer is, not how it is computed.

A layer holds its arrays (read-only, channels last, as Keras stores them) and says
which shape it makes of which shape. Forward passes live in ``kernels``,
relevance in ``rules`` and ``engine``.
"""

from .activation import FUNCTIONS, SOFTMAXES, Activation, Function, Parameters
from .attention import Attention, MatMul, Rotary, Softmax
from .base import Block, Identity, Input, Layer, Shape
from .linear import Conv, ConvTranspose, Dense, DepthwiseConv, Linear, LocallyConnected, SeparableConv
from .merge import Add, Average, Concat, Dot, Maximum, Merge, Minimum, Multiply, Subtract, Where
from .normalization import BatchNorm, LayerNorm, LocalResponseNorm, RMSNorm
from .pooling import AdaptiveAveragePool, AveragePool, GlobalAveragePool, GlobalLogSumExp, GlobalMaxPool, MaxPool
from .recurrent import GRU, LSTM, RNN, Masking, SimpleRNN, StepMask
from .resize import Interpolate, Take, UpSample
from .shape import Crop, Embedding, Flatten, Permute, ReflectPad, RepeatVector, Reshape, ZeroPad

__all__ = [
    "Activation",
    "AdaptiveAveragePool",
    "Add",
    "Attention",
    "Average",
    "AveragePool",
    "BatchNorm",
    "Block",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Crop",
    "Dense",
    "DepthwiseConv",
    "Dot",
    "Embedding",
    "FUNCTIONS",
    "Flatten",
    "Function",
    "GRU",
    "GlobalAveragePool",
    "GlobalLogSumExp",
    "GlobalMaxPool",
    "Identity",
    "Input",
    "Interpolate",
    "LSTM",
    "Layer",
    "LayerNorm",
    "Linear",
    "LocalResponseNorm",
    "LocallyConnected",
    "Masking",
    "MatMul",
    "MaxPool",
    "Maximum",
    "Merge",
    "Minimum",
    "Multiply",
    "Parameters",
    "Permute",
    "RMSNorm",
    "RNN",
    "ReflectPad",
    "RepeatVector",
    "Reshape",
    "Rotary",
    "SOFTMAXES",
    "SeparableConv",
    "Shape",
    "SimpleRNN",
    "Softmax",
    "StepMask",
    "Subtract",
    "Take",
    "UpSample",
    "Where",
    "ZeroPad",
]
