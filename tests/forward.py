"""A forward pass in float64 NumPy, written from the definitions alone: it uses no computation of the product."""

from __future__ import annotations

import math

import numpy as np

_erf = np.vectorize(math.erf, otypes=[float])


def _gelu(x, approximate):
    if approximate:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _relu(x, max_value, negative_slope, threshold):
    y = np.where(x > threshold, x, negative_slope * (x - threshold))
    return y if max_value is None else np.where(x > threshold, np.minimum(y, max_value), y)


def _elu(x, alpha):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _softplus(x):
    return np.logaddexp(x, 0)


def _softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


FUNCTIONS = {
    "relu": _relu,
    "leaky_relu": lambda x, negative_slope: np.where(x > 0, x, negative_slope * x),
    "prelu": lambda x, negative_slope: np.where(x > 0, x, negative_slope.astype(float) * x),
    "elu": _elu,
    "selu": lambda x: 1.0507009873554804934193349852946 * _elu(x, 1.6732632423543772848170429916717),
    "gelu": _gelu,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hard_sigmoid": lambda x, slope, offset: np.clip(slope * x + offset, 0, 1),
    "softplus": _softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "exponential": np.exp,
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "clip": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "celu": lambda x, alpha: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / alpha)),
    "shrink": lambda x, threshold, shift: np.where(np.abs(x) > threshold, x - np.sign(x) * shift, 0),
    "log_sigmoid": lambda x: -_softplus(-x),
    "power": lambda x, exponent: x**exponent,
    "hard_silu": lambda x: x * np.clip((x + 3) / 6, 0, 1),
    "log": np.log,
    "softmax": _softmax,
    "log_softmax": lambda x: np.log(_softmax(x)),
}


def forward(model, x):
    """The output of ``model`` for the samples ``x``."""
    x = np.asarray(x, float)
    values = []
    for node in model.nodes:
        layer, kind = node.layer, type(node.layer).__name__
        y = values[node.inputs[0]] if node.inputs else x
        function = None
        if kind == "Dense":
            y = y @ layer.kernel.astype(float)
            if layer.bias is not None:
                y = y + layer.bias.astype(float)
            function = layer.activation
        elif kind == "Activation":
            function = layer
        elif kind == "Flatten":
            y = y.reshape(len(y), -1)
        elif kind == "Reshape":
            y = y.reshape(len(y), *layer.shape)
        else:
            assert kind in ("Input", "Identity"), kind
        if function is not None:
            y = FUNCTIONS[function.function](y, **function.parameters)
        assert len(y.shape[1:]) == len(node.shape)
        assert all(n in (m, None) for n, m in zip(node.shape, y.shape[1:], strict=True))
        values.append(y)
    return values[-1]
