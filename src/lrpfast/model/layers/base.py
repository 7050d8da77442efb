"""The base of all layers: a name, an output shape, and shared checks."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from ...errors import InputError, ShapeError

#: A shape without the batch axis; None is an open size.
Shape = tuple[int | None, ...]


def whole(value: Any) -> int | None:
    """An integer of any type as int; None for anything else, including bool."""
    try:
        return None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        return None


def each(value: Any) -> tuple[Any, ...]:
    """The values of a sequence as a tuple; any other value as the only entry."""
    single = isinstance(value, str) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0
    return (value,) if single else tuple(value)


def finite(value: Any, name: str, layer: str) -> float:
    """A finite real number as a float; InputError for anything else, including bool."""
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not real or not np.isfinite(value):
        raise InputError(f"{layer}: {name} must be a finite number, not {value!r}")
    return float(value)


def known(shape: Shape) -> tuple[int, ...] | None:
    """A shape without open sizes; None for any other."""
    sizes = tuple(n for n in shape if n is not None)
    return sizes if len(sizes) == len(shape) else None


def fits(shape: Shape, expected: Shape) -> bool:
    """Whether a shape is the expected one, in which None is any size."""
    return len(shape) == len(expected) and all(n in (None, m) for n, m in zip(expected, shape, strict=True))


def as_shape(value: Any, name: str) -> Shape:
    """A shape from a number (one axis), or from a sequence of numbers of at least 1 and None."""
    sizes = each(value)
    numbers = tuple(map(whole, sizes))
    fits = all(size is None if n is None else n >= 1 for n, size in zip(numbers, sizes, strict=True))
    if value is None or not fits:
        raise ShapeError(f"{name}: shape must hold positive integers or None, not {value!r:.80}")
    return numbers


def frozen(array: np.ndarray) -> np.ndarray:
    """The same values in read-only memory; the array itself if its memory is read-only.

    This memory is a ``bytes`` object: its arrays cannot become writeable again, and can be shared without a copy.
    """
    memory: Any = array
    while isinstance(memory, np.ndarray):
        memory = memory.base
    own = isinstance(memory, bytes) and len(memory) == array.nbytes
    if own and array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.ndarray(array.shape, array.dtype, buffer=array.tobytes())


def as_array(value: Any, name: str, layer: str) -> np.ndarray:
    """``value`` as a read-only float32 or float64 array, copied if necessary; InputError for anything else."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{layer}: {name} must be an array of real numbers: {error}") from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"{layer}: {name} must hold real numbers, not dtype {array.dtype}")
    dtype = np.float64 if array.dtype.kind != "f" or array.dtype.itemsize >= 8 else np.float32
    array = frozen(np.asarray(array, dtype))
    if not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise InputError(f"{layer}: {name} is not finite at index {index} ({array[index]})")
    return array


def _frozen_again(value: Any) -> Any:
    """The value of a layer's field after pickling or deep-copying, which make arrays writeable."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return frozen(value)
    return tuple(map(_frozen_again, value)) if type(value) is tuple else value


def _is_default(value: Any, default: Any) -> bool:
    """Whether a field has its default, or the default for each axis."""
    if isinstance(value, tuple) and not isinstance(default, tuple):
        return bool(value) and all(_is_default(v, default) for v in value)
    return not isinstance(value, np.ndarray) and bool(value == default)


def _short(value: Any) -> str:
    """As ``repr``, with arrays by dtype and shape."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_short, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k!r}: {_short(v)}' for k, v in value.items())}}}"
    return value._argument() if isinstance(value, Layer) else repr(value)


@dataclass(frozen=True, eq=False)
class Layer:
    """Base of every layer.

    Parameters
    ----------
    name : str, optional
        A keyword of every layer: its name in the model, in errors and in rules. When None, the model chooses
        one, as Keras does: ``dense``, ``dense_1``, …

    Examples
    --------
    >>> layer = lrpfast.layers.Flatten(name="flat")
    >>> isinstance(layer, lrpfast.layers.Layer), str(layer), layer.output_shape((2, 3))
    (True, "Flatten 'flat'", (6,))
    """

    name: str | None = field(default=None, kw_only=True)

    #: Whether the layer changes values (Dropout, at inference, does not).
    identity: ClassVar[bool] = False

    def output_shape(self, shape: Shape) -> Shape:
        """The output shape for an input shape, both per sample; raises ShapeError."""
        return shape

    def _set(self, **values: Any) -> None:
        """Set fields to their validated values; for ``__post_init__`` only."""
        for key, value in values.items():
            object.__setattr__(self, key, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set(**{key: _frozen_again(value) for key, value in state.items()})

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # its own or the inherited one, so that `dataclass` writes none: that would print all weights
        type.__setattr__(cls, "__repr__", cls.__repr__)

    def __repr__(self) -> str:
        shown = [f"{key}={_short(value)}" for key, value in self._shown().items()]
        return f"{type(self).__name__}({', '.join([repr(self.name)] * bool(self.name) + shown)})"

    def _shown(self) -> dict[str, Any]:
        """The fields that differ from their defaults, without the name."""
        values = {f.name: (getattr(self, f.name, None), f.default) for f in fields(self) if f.name != "name"}
        return {key: value for key, (value, default) in values.items() if not _is_default(value, default)}

    def _argument(self) -> str:
        """The layer as an argument in another layer's ``repr``."""
        return repr(self)

    def __str__(self) -> str:
        return f"{type(self).__name__} {self.name!r}" if self.name else type(self).__name__

    def describe(self) -> str:
        """The layer's distinguishing parameters, for summaries."""
        return ""

    @property
    def nbytes(self) -> int:
        """The number of bytes of the layer's arrays."""
        arrays = (value if isinstance(value, tuple) else (value,) for value in vars(self).values())
        return sum(array.nbytes for several in arrays for array in several if isinstance(array, np.ndarray))


@dataclass(frozen=True, eq=False)
class Block(Layer):
    """A layer that is composed of other layers; derive your own layers from it.

    A model contains the parts, each with its own rule; see ``docs/extending.md``.

    Examples
    --------
    >>> class Twice(lrpfast.layers.Block):
    ...     def build(self, graph, x):
    ...         return graph.add(lrpfast.layers.Add(name=self.name), x, x)
    >>> lrpfast.from_layers([Twice()], input_shape=2).predict(np.array([[1.0, 2.0]])).tolist()
    [[2.0, 4.0]]
    """

    def build(self, graph: Any, *inputs: int) -> int:
        """Add the parts to a `Graph`, with ``inputs``; returns the result of the last one.

        Name the parts ``f"{self.name}/…"``, and the last one ``self.name``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define build(graph, *inputs)")


@dataclass(frozen=True, eq=False)
class Input(Layer):
    """An input of a model.

    Parameters
    ----------
    shape : int or tuple of int or None
        The shape of one sample, without the batch axis; None is an open size.
    kind : {"number", "truth"}
        "truth" is a mask: 1 or True where something is there, else 0. It gets no relevance, and neither does what is
        computed from masks alone; a product with such a value gives all relevance to its other factors.

    Raises
    ------
    ShapeError
        When ``shape`` has anything but numbers of at least 1 and None.
    InputError
        When ``kind`` is invalid.

    Examples
    --------
    >>> layers = [lrpfast.layers.Input((4,), name="pixels"), lrpfast.layers.Dense(np.ones((4, 2)))]
    >>> lrpfast.from_layers(layers).input_shape
    (4,)
    """

    shape: Shape
    kind: str = "number"
    identity: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._set(shape=as_shape(self.shape, str(self)))
        if self.kind not in ("number", "truth"):
            raise InputError(f"{self}: kind must be 'number' or 'truth', not {self.kind!r}")

    def output_shape(self, shape: Shape = ()) -> Shape:
        return self.shape


@dataclass(frozen=True, eq=False)
class Identity(Layer):
    """A layer that does nothing at inference, kept so that layer indices match the file.

    Parameters
    ----------
    kind : str
        The original layer: "Dropout", "GaussianNoise", …

    Examples
    --------
    >>> layer = lrpfast.layers.Identity("Dropout")
    >>> lrpfast.from_layers([layer], input_shape=2).predict(np.array([[1.0, 2.0]])).tolist()
    [[1.0, 2.0]]
    """

    kind: str = "Identity"
    identity: ClassVar[bool] = True

    def describe(self) -> str:
        return self.kind
