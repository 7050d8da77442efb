"""Layers with several inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...errors import InputError, ShapeError
from .base import Layer, Shape, known, whole


@dataclass(frozen=True, eq=False)
class Merge(Layer):
    """Base of the layers with several inputs.

    Examples
    --------
    >>> isinstance(lrpfast.layers.Add(), lrpfast.layers.Merge)
    True
    """

    #: The numbers of inputs that the layer accepts.
    least: ClassVar[int] = 1
    most: ClassVar[int | None] = None

    def check_count(self, count: int) -> None:
        """Raise ShapeError unless the layer accepts this number of inputs."""
        if count < self.least or (self.most is not None and count > self.most):
            expected = f"{self.least}" if self.most == self.least else f"at least {self.least}"
            raise ShapeError(f"{self}: it takes {expected} inputs, not {count}")

    def output_shape(self, *shapes: Shape) -> Shape:
        return self._broadcast(shapes)

    def _broadcast(self, shapes: tuple[Shape, ...]) -> Shape:
        """The shape to which all inputs are broadcast, as in NumPy."""
        self.check_count(len(shapes))
        rank = max(map(len, shapes))
        out: list[int | None] = []
        for axis in range(-rank, 0):
            sizes = {shape[axis] for shape in shapes if len(shape) >= -axis} - {1}
            if len(sizes) > 1:
                raise ShapeError(f"{self}: its inputs have shapes {', '.join(map(str, shapes))}, which do not fit")
            out.append(sizes.pop() if sizes else 1)
        return tuple(out)


@dataclass(frozen=True, eq=False)
class Add(Merge):
    """The sum of all inputs, which are broadcast as in NumPy.

    Examples
    --------
    >>> graph = lrpfast.Graph()
    >>> a, b = graph.input(2), graph.input(2)
    >>> model = graph.model(graph.add(lrpfast.layers.Add(), a, b))
    >>> model.predict([np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])]).tolist()
    [[4.0, 6.0]]
    """


@dataclass(frozen=True, eq=False)
class Subtract(Merge):
    """The first input minus the second.

    Examples
    --------
    >>> graph = lrpfast.Graph()
    >>> a, b = graph.input(2), graph.input(2)
    >>> model = graph.model(graph.add(lrpfast.layers.Subtract(), a, b))
    >>> model.predict([np.array([[1.0, 2.0]]), np.array([[3.0, 3.0]])]).tolist()
    [[-2.0, -1.0]]
    """

    least: ClassVar[int] = 2
    most: ClassVar[int | None] = 2


@dataclass(frozen=True, eq=False)
class Average(Merge):
    """The mean of all inputs.

    Examples
    --------
    >>> graph = lrpfast.Graph()
    >>> a, b = graph.input(2), graph.input(2)
    >>> model = graph.model(graph.add(lrpfast.layers.Average(), a, b))
    >>> model.predict([np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])]).tolist()
    [[2.0, 3.0]]
    """


@dataclass(frozen=True, eq=False)
class Multiply(Merge):
    """The product of all inputs, element by element.

    Examples
    --------
    >>> graph = lrpfast.Graph()
    >>> a, b = graph.input(2), graph.input(2)
    >>> model = graph.model(graph.add(lrpfast.layers.Multiply(), a, b))
    >>> model.predict([np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])]).tolist()
    [[3.0, 8.0]]
    """


@dataclass(frozen=True, eq=False)
class Maximum(Merge):
    """The largest of all inputs, element by element.

    Examples
    --------
    >>> graph = lrpfast.Graph()
    >>> a, b = graph.input(2), graph.input(2)
    >>> model = graph.model(graph.add(lrpfast.layers.Maximum(), a, b))
    >>> model.predict([np.array([[1.0, 9.0]]), np.array([[3.0, 4.0]])]).tolist()
    [[3.0, 9.0]]
    """


@dataclass(frozen=True, eq=False)
class Minimum(Merge):
    """The smallest of all inputs, element by element.

    Examples
    --------
    >>> graph = lrpfast.Graph()
    >>> a, b = graph.input(2), graph.input(2)
    >>> model = graph.model(graph.add(lrpfast.layers.Minimum(), a, b))
    >>> model.predict([np.array([[1.0, 9.0]]), np.array([[3.0, 4.0]])]).tolist()
    [[1.0, 4.0]]
    """


@dataclass(frozen=True, eq=False)
class Where(Merge):
    """The second input where the first is above 0, the third elsewhere; inputs are broadcast as in NumPy.

    The selected values receive all relevance, the first input none.

    Parameters
    ----------
    or_equal : bool, optional
        Whether the second input is also selected where the first is exactly 0.

    Examples
    --------
    >>> graph = lrpfast.Graph()
    >>> x, a, b = graph.input(2), graph.input(2), graph.input(2)
    >>> model = graph.model(graph.add(lrpfast.layers.Where(), x, a, b))
    >>> model.predict([np.array([[-1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([[5.0, 6.0]])]).tolist()
    [[5.0, 4.0]]
    """

    or_equal: bool = False
    least: ClassVar[int] = 3
    most: ClassVar[int | None] = 3

    def describe(self) -> str:
        return "x >= 0" if self.or_equal else "x > 0"


@dataclass(frozen=True, eq=False)
class Concat(Merge):
    """The concatenation of all inputs along an axis.

    Parameters
    ----------
    axis : int
        The axis of one sample: 0 is the first after the batch axis; negative from the last.

    Examples
    --------
    >>> graph = lrpfast.Graph()
    >>> a, b = graph.input(2), graph.input(1)
    >>> model = graph.model(graph.add(lrpfast.layers.Concat(), a, b))
    >>> model.predict([np.array([[1.0, 2.0]]), np.array([[3.0]])]).tolist()
    [[1.0, 2.0, 3.0]]
    """

    axis: int = -1

    def __post_init__(self) -> None:
        axis = whole(self.axis)
        if axis is None:
            raise InputError(f"{self}: axis must be a whole number, not {self.axis!r}")
        self._set(axis=axis)

    def output_shape(self, *shapes: Shape) -> Shape:
        self.check_count(len(shapes))
        rank = len(shapes[0])
        if any(len(s) != rank for s in shapes) or not -rank <= self.axis < rank:
            raise ShapeError(f"{self}: it joins axis {self.axis}, its inputs have shapes {', '.join(map(str, shapes))}")
        concat_axis = self.axis % rank
        out: list[int | None] = []
        for axis in range(rank):
            sizes = tuple(s[axis] for s in shapes)
            if axis == concat_axis:
                joint_sizes = known(sizes)
                out.append(None if joint_sizes is None else sum(joint_sizes))
            elif len(set(sizes)) > 1:
                raise ShapeError(f"{self}: its inputs have shapes {', '.join(map(str, shapes))}, which do not fit")
            else:
                out.append(sizes[0])
        return tuple(out)

    def describe(self) -> str:
        return f"axis {self.axis}"


@dataclass(frozen=True, eq=False)
class Dot(Merge):
    """Products summed over an axis of each input; all other axes are kept, the first input's first.

    Parameters
    ----------
    axes : int or pair of int
        The axes of one sample, for the first and the second input: 0 is the first after the batch axis.
    normalize : bool
        Whether both inputs are first divided by their length along this axis.

    Examples
    --------
    >>> graph = lrpfast.Graph()
    >>> a, b = graph.input((4, 3)), graph.input((5, 3))
    >>> graph.model(graph.add(lrpfast.layers.Dot(axes=-1), a, b)).output_shape
    (4, 5)
    """

    axes: tuple[int, int] | int = -1
    normalize: bool = False
    least: ClassVar[int] = 2
    most: ClassVar[int | None] = 2

    def __post_init__(self) -> None:
        axes = tuple(map(whole, self.axes if isinstance(self.axes, (tuple, list)) else (self.axes, self.axes)))
        if len(axes) != 2 or None in axes:
            raise InputError(f"{self}: axes must be a whole number or a pair of them, not {self.axes!r}")
        self._set(axes=axes)

    def contracted(self, a: Shape, b: Shape) -> tuple[int, int]:
        """The two axes, counted from 0."""
        for shape, axis in zip((a, b), self.axes, strict=True):  # type: ignore[arg-type]
            if not -len(shape) <= axis < len(shape):
                raise ShapeError(f"{self}: it sums over axes {self.axes}, its inputs have shapes {a}, {b}")
        i, j = self.axes[0] % len(a), self.axes[1] % len(b)  # type: ignore[index]
        if a[i] != b[j] or a[i] is None:
            raise ShapeError(f"{self}: it sums over axes {self.axes}, its inputs have shapes {a}, {b}")
        return i, j

    def output_shape(self, *shapes: Shape) -> Shape:
        self.check_count(len(shapes))
        a, b = shapes
        i, j = self.contracted(a, b)
        out = (*a[:i], *a[i + 1 :], *b[:j], *b[j + 1 :])
        return out or (1,)

    def describe(self) -> str:
        return f"axes {self.axes}"
