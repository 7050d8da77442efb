"""A dense classifier trained with NumPy alone, as Keras trains it: enough for these examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Parameters = list[tuple[np.ndarray, np.ndarray]]


def step_decay(rate: float = 0.01, drop: float = 0.5, every: int = 25) -> Callable[[int], float]:
    """The learning rate of each epoch: ``rate · drop^⌊(1 + epoch) / every⌋``, epochs counted from 0."""
    return lambda epoch: rate * drop ** ((1 + epoch) // every)


def train(
    x: np.ndarray,
    labels: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray],
    layers: Sequence[int],
    *,
    epochs: int = 100,
    batch_size: int = 128,
    learning_rate: Callable[[int], float] | None = None,
    momentum: float = 0.9,
    l2: float = 0.0,
    nonnegative_bias: bool = False,
    start: Parameters | None = None,
    rng: np.random.Generator | np.random.RandomState | None = None,
    on_epoch: Callable[[int, float, float], object] | None = None,
) -> Parameters:
    """Train a dense network with ReLU hidden layers and a softmax, and return its best epoch's kernels and biases.

    Stochastic gradient descent with Nesterov momentum μ on the softmax cross-entropy plus ``l2`` · Σ kernel²: with
    rate η and gradient g, v ← μ v − η g and w ← w + μ v − η g. Best is the smallest validation loss.

    Parameters
    ----------
    x, labels
        Inputs (samples, features), float32 or float64, which is also the arithmetic; the class of each, an integer.
    validation
        Inputs and labels that are not trained on.
    layers
        Outputs of each layer; the last is the number of classes.
    learning_rate
        From an epoch, counted from 0, to its rate; `step_decay` by default.
    nonnegative_bias
        Set negative biases to 0 after every step.
    start
        The first kernels (inputs, outputs) and biases; by default He's normal distribution and 0.
    rng
        Draws the first kernels and the order of the samples; ``default_rng(0)`` by default.
    on_epoch
        Called after each epoch with its number, counted from 1, its mean loss and its validation loss.

    Raises
    ------
    ValueError
        When labels are not integers from 0 to ``layers[-1] - 1``, or the loss is no longer finite.
    """
    for name, values in (("labels", labels), ("validation labels", validation[1])):
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= layers[-1]:
            raise ValueError(f"{name} have to be integers from 0 to {layers[-1] - 1}, as layers ends with {layers[-1]}")
    rng = rng or np.random.default_rng(0)
    rate = learning_rate or step_decay()
    sizes = [x.shape[1], *layers]
    if start is None:
        start = [(rng.normal(size=s) * np.sqrt(2 / s[0]), np.zeros(s[1])) for s in zip(sizes, sizes[1:], strict=False)]
    parameters = [tuple(np.array(part, x.dtype) for part in layer) for layer in start]
    velocities = [tuple(np.zeros_like(part) for part in layer) for layer in parameters]
    best, kept = np.inf, parameters
    for epoch in range(epochs):
        total, step, order = 0.0, rate(epoch), rng.permutation(len(x))
        for begin in range(0, len(x), batch_size):
            batch = order[begin : begin + batch_size]
            loss, gradients = _gradients(parameters, x[batch], labels[batch], l2)
            total += loss * len(batch)
            for values, speeds, slopes in zip(parameters, velocities, gradients, strict=True):
                for value, speed, slope in zip(values, speeds, slopes, strict=True):
                    speed *= momentum
                    speed -= step * slope
                    value += momentum * speed - step * slope
                if nonnegative_bias:
                    np.maximum(values[1], 0, out=values[1])
        # Keras puts the validation samples in an order of their own too, which the next epoch's order comes after
        rng.permutation(len(validation[0]))
        loss = _loss(parameters, *validation, l2)
        if not np.isfinite([total, loss]).all():
            raise ValueError(f"the loss is no longer finite in epoch {epoch + 1}: take a smaller learning rate")
        if loss < best:
            best, kept = loss, [tuple(part.copy() for part in layer) for layer in parameters]
        if on_epoch:
            on_epoch(epoch + 1, total / len(x), loss)
    return kept


def _activations(parameters: Parameters, x: np.ndarray) -> list[np.ndarray]:
    """What enters each layer, and last the logarithms of the softmax."""
    entering = [x]
    for kernel, bias in parameters[:-1]:
        entering.append(np.maximum(entering[-1] @ kernel + bias, 0))
    kernel, bias = parameters[-1]
    z = entering[-1] @ kernel + bias
    z -= z.max(1, keepdims=True)
    return [*entering, z - np.log(np.exp(z).sum(1, keepdims=True))]


def _loss(parameters: Parameters, x: np.ndarray, labels: np.ndarray, l2: float) -> float:
    return _cross_entropy(_activations(parameters, x)[-1], labels) + _penalty(parameters, l2)


def _cross_entropy(logarithms: np.ndarray, labels: np.ndarray) -> float:
    return float(-logarithms[np.arange(len(labels)), labels].mean())


def _penalty(parameters: Parameters, l2: float) -> float:
    return l2 * sum(float((kernel**2).sum()) for kernel, _ in parameters) if l2 else 0.0


def _gradients(parameters: Parameters, x: np.ndarray, labels: np.ndarray, l2: float) -> tuple[float, Parameters]:
    *entering, logarithms = _activations(parameters, x)
    slope = np.exp(logarithms)
    slope[np.arange(len(x)), labels] -= 1
    slope /= len(x)
    gradients: Parameters = []
    for (kernel, _), a in zip(reversed(parameters), reversed(entering), strict=True):
        gradients.append((a.T @ slope + 2 * l2 * kernel, slope.sum(0)))
        if len(gradients) < len(parameters):
            slope = (slope @ kernel.T) * (a > 0)
    return _cross_entropy(logarithms, labels) + _penalty(parameters, l2), gradients[::-1]
