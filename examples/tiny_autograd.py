"""Reverse-mode differentiation in NumPy and Adam: enough to train the small transformers of these examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


class Variable:
    """An array, and how its gradient becomes those of the variables that it was computed from."""

    def __init__(
        self,
        value: np.ndarray,
        parents: Sequence[Variable] = (),
        back: Callable[..., Sequence[np.ndarray]] | None = None,
    ) -> None:
        self.value, self.parents, self.back = np.asarray(value, float), tuple(parents), back
        self.gradient: np.ndarray | None = None

    def __add__(self, other: Variable | np.ndarray) -> Variable:
        other = other if isinstance(other, Variable) else Variable(other)
        shapes = self.value.shape, other.value.shape
        return Variable(self.value + other.value, (self, other), lambda g: [_shrunk(g, shape) for shape in shapes])

    def __mul__(self, factor: float) -> Variable:
        return Variable(self.value * factor, (self,), lambda g: [g * factor])

    def __matmul__(self, other: Variable) -> Variable:
        a, b = self.value, other.value

        def back(g: np.ndarray) -> list[np.ndarray]:
            return [_shrunk(g @ b.swapaxes(-1, -2), a.shape), _shrunk(a.swapaxes(-1, -2) @ g, b.shape)]

        return Variable(a @ b, (self, other), back)

    def reshape(self, *shape: int) -> Variable:
        return Variable(self.value.reshape(shape), (self,), lambda g: [g.reshape(self.value.shape)])

    def transpose(self, *axes: int) -> Variable:
        return Variable(self.value.transpose(axes), (self,), lambda g: [g.transpose(np.argsort(axes))])

    def roll(self, shift: tuple[int, ...], axes: tuple[int, ...]) -> Variable:
        return Variable(np.roll(self.value, shift, axes), (self,), lambda g: [np.roll(g, [-s for s in shift], axes)])

    def rows(self, index: np.ndarray) -> Variable:
        """Rows of a table, or places of the first axis."""

        def back(g: np.ndarray) -> list[np.ndarray]:
            result = np.zeros_like(self.value)
            np.add.at(result, index, g)
            return [result]

        return Variable(self.value[index], (self,), back)

    def relu(self) -> Variable:
        return Variable(np.maximum(self.value, 0), (self,), lambda g: [g * (self.value > 0)])

    def softmax(self) -> Variable:
        a = np.exp(self.value - self.value.max(-1, keepdims=True))
        a /= a.sum(-1, keepdims=True)
        return Variable(a, (self,), lambda g: [a * (g - (a * g).sum(-1, keepdims=True))])

    def norm(self, gamma: Variable, beta: Variable, epsilon: float = 1e-5) -> Variable:
        """Layer normalization over the last axis."""
        centred = self.value - self.value.mean(-1, keepdims=True)
        sigma = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
        y = centred / sigma

        def back(g: np.ndarray) -> list[np.ndarray]:
            t = g * gamma.value
            to_x = (t - t.mean(-1, keepdims=True) - y * (t * y).mean(-1, keepdims=True)) / sigma
            return [to_x, _shrunk(g * y, gamma.value.shape), _shrunk(g, beta.value.shape)]

        return Variable(y * gamma.value + beta.value, (self, gamma, beta), back)

    def backward(self, gradient: np.ndarray) -> None:
        """Fill in the gradients of all variables that this one was computed from."""
        order: list[Variable] = []
        pending: list[tuple[Variable, bool]] = [(self, False)]
        seen: set[int] = set()
        while pending:
            variable, complete = pending.pop()
            if complete:
                order.append(variable)
            elif id(variable) not in seen:
                seen.add(id(variable))
                pending.append((variable, True))
                pending.extend((parent, False) for parent in variable.parents)
        for variable in order:
            variable.gradient = None
        self.gradient = gradient
        for variable in reversed(order):
            if variable.back is not None and variable.gradient is not None:
                for parent, part in zip(variable.parents, variable.back(variable.gradient), strict=True):
                    parent.gradient = part if parent.gradient is None else parent.gradient + part


def _shrunk(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Summed over the axes along which an array of this shape was stretched."""
    gradient = gradient.sum(tuple(range(gradient.ndim - len(shape))))
    axes = tuple(axis for axis, n in enumerate(shape) if n == 1 and gradient.shape[axis] != 1)
    return gradient.sum(axes, keepdims=True) if axes else gradient


class Adam:
    """Adam (Kingma and Ba 2015) on named parameters, whose gradients are cut off at a length of 1."""

    def __init__(self, parameters: dict[str, Variable]) -> None:
        self.parameters, self.steps = parameters, 0
        self.moments = {name: [np.zeros_like(p.value), np.zeros_like(p.value)] for name, p in parameters.items()}

    def step(self, rate: float) -> None:
        self.steps += 1
        used = {name: p for name, p in self.parameters.items() if p.gradient is not None}
        length = max(1.0, float(np.sqrt(sum((p.gradient**2).sum() for p in used.values()))))
        for name, p in used.items():
            m, v = self.moments[name]
            g = p.gradient / length
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p.value = p.value - rate * (m / (1 - 0.9**self.steps)) / (np.sqrt(v / (1 - 0.999**self.steps)) + 1e-8)
