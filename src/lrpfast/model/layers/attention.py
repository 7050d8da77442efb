"""Attention: products of two activations, the softmax between them, both in one, and rotary positions.

Rows are positions and columns channels. Axes before them, such as heads or windows, are axes of a sample on which
nothing happens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import InputError, ShapeError
from .base import Layer, Shape, as_array, finite, frozen, whole
from .merge import Merge

#: How far before and after its own position a query sees; None is as far as there is anything.
Window = tuple[int | None, int | None]


def _truth(value: Any, what: str, layer: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{layer}: {what} must be True or False, not {value!r}")
    return bool(value)


def _count(value: Any, what: str, layer: str) -> int:
    count = whole(value)
    if count is None or count < 1:
        raise InputError(f"{layer}: {what} must be a whole number of at least 1, not {value!r}")
    return count


def _mask(value: Any, layer: str) -> np.ndarray | None:
    """An array of truth values, which cannot be changed."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.dtype != bool:
        raise InputError(f"{layer}: mask must be an array of True (is seen) and False, not of {array.dtype}")
    return frozen(array)


def _window(value: Any, layer: str) -> Window | None:
    if value is None:
        return None
    sizes = value if isinstance(value, (tuple, list)) else (value,)
    numbers = tuple(None if n is None else whole(n) for n in sizes)
    wrong = any(given is not None and (n is None or n < 0) for n, given in zip(numbers, sizes, strict=True))
    if len(numbers) != 2 or wrong:
        raise InputError(f"{layer}: window must be a pair (before, after) of whole numbers or None, not {value!r}")
    return numbers[0], numbers[1]


def _fit(array: np.ndarray | None, what: str, shape: Shape, layer: str) -> None:
    """ShapeError unless an array can be stretched to the scores' shape."""
    if array is None:
        return
    pairs = zip(reversed(array.shape), reversed(shape), strict=False)
    if array.ndim > len(shape) or any(m is not None and n not in (1, m) for n, m in pairs):
        raise ShapeError(f"{layer}: {what} of shape {array.shape} does not fit scores of shape {shape}")


def _fit_input(shape: Shape, scores: Shape, layer: str) -> None:
    """ShapeError unless a mask that is an input can be stretched to the scores' shape."""
    pairs = zip(reversed(shape), reversed(scores), strict=False)
    if len(shape) > len(scores) or any(n not in (1, m) and None not in (n, m) for n, m in pairs):
        raise ShapeError(f"{layer}: a mask of shape {shape} does not fit scores of shape {scores}")


def between(window: Window, n: int, m: int) -> np.ndarray:
    """Which keys each query sees."""
    distance = np.arange(m) - np.arange(n)[:, None]
    before, after = window
    seen: np.ndarray = (distance >= (-n if before is None else -before)) & (distance <= (m if after is None else after))
    return seen


@dataclass(frozen=True, eq=False)
class MatMul(Merge):
    """The matrix product of two inputs: (…, n, k) @ (…, k, m) gives (…, n, m).

    The axes before the matrices are stretched as in NumPy.

    Parameters
    ----------
    transpose_a, transpose_b : bool
        Whether the last two axes of an input change places first.

    Raises
    ------
    InputError
        When a parameter is no truth value.
    ShapeError
        Of the model, when the inputs are no matrices that fit.

    Examples
    --------
    >>> graph = lrpfast.Graph()
    >>> a, b = graph.input((4, 5, 3)), graph.input((4, 6, 3))
    >>> graph.model(graph.add(lrpfast.layers.MatMul(transpose_b=True), a, b)).output_shape
    (4, 5, 6)
    """

    transpose_a: bool = False
    transpose_b: bool = False
    least: ClassVar[int] = 2
    most: ClassVar[int | None] = 2

    def __post_init__(self) -> None:
        for key in ("transpose_a", "transpose_b"):
            self._set(**{key: _truth(getattr(self, key), key, str(self))})

    def output_shape(self, *shapes: Shape) -> Shape:
        self.check_count(len(shapes))
        a, b = shapes
        if len(a) < 2 or len(b) < 2:
            raise ShapeError(f"{self}: it multiplies matrices, its inputs have shapes {a}, {b}")
        n, k = reversed(a[-2:]) if self.transpose_a else a[-2:]
        other, m = reversed(b[-2:]) if self.transpose_b else b[-2:]
        if k != other or k is None:
            raise ShapeError(f"{self}: its inputs have shapes {a}, {b}, which do not fit")
        return (*self._broadcast((a[:-2], b[:-2])), n, m)


@dataclass(frozen=True, eq=False)
class Softmax(Merge):
    """The softmax over the last axis of the scores (…, n, m), over those of the keys that a query sees.

    A key that is not seen has weight 0, and so has every key where a query sees none. The second input, where there is
    one, is a mask: not 0 where a key is seen; it is stretched as NumPy does.

    Parameters
    ----------
    mask : array of bool, optional
        True where a key is seen; stretched to the scores as NumPy does.
    window : pair of int or None, optional
        (before, after): query i sees the keys from i − before to i + after; None is no limit, so that (None, 0) is
        causal.

    Raises
    ------
    InputError
        When a parameter is something else.
    ShapeError
        Of the model, when the mask does not fit.

    Examples
    --------
    >>> layer = lrpfast.layers.Softmax(window=(None, 0))
    >>> lrpfast.from_layers([layer], input_shape=(2, 2)).predict(np.zeros((1, 2, 2))).tolist()
    [[[1.0, 0.0], [0.5, 0.5]]]
    """

    mask: np.ndarray | None = None
    window: Window | None = None
    most: ClassVar[int | None] = 2

    def __post_init__(self) -> None:
        self._set(mask=_mask(self.mask, str(self)), window=_window(self.window, str(self)))

    def output_shape(self, *shapes: Shape) -> Shape:
        self.check_count(len(shapes))
        scores = shapes[0]
        if len(scores) < (1 if self.window is None else 2):
            raise ShapeError(f"{self}: its scores have shape {scores}, which has no axes of queries and keys")
        _fit(self.mask, "mask", scores, str(self))
        if len(shapes) > 1:
            _fit_input(shapes[1], scores, str(self))
        return scores


@dataclass(frozen=True, eq=False)
class Attention(Merge):
    """Scaled dot-product attention on the rows that the projections give: softmax(scale · q kᵀ + bias) v for each head.

    The inputs are the queries (…, n, heads · d), the keys (…, m, kv_heads · d), the values (…, m, kv_heads · e), and
    perhaps a mask that is not 0 where a key is seen; the output is (…, n, heads · e). Head h has columns h · d to
    (h + 1) · d; query head h looks at key head h // (heads / kv_heads).

    Parameters
    ----------
    heads : int
    kv_heads : int, optional
        Of keys and values, which several heads may share: a divisor of ``heads``. ``heads`` when None.
    scale : float, optional
        1 / √d when None.
    window : pair of int or None, optional
        As of `Softmax`: (None, 0) is causal.
    mask : array of bool, optional
        True where a key is seen; stretched to the scores, (…, heads, n, m), as NumPy does. So is a mask that is an
        input: (m,) is one of keys.
    bias : array, optional
        Added to the scores; stretched likewise.
    softcap : float, optional
        Scores are c · tanh(scores / c) before the bias.

    Raises
    ------
    InputError
        When a parameter is something else.
    ShapeError
        Of the model, when the inputs, the mask or the bias do not fit.

    References
    ----------
    Vaswani et al. (2017); Ainslie et al. (2023) for shared heads.

    Examples
    --------
    >>> graph = lrpfast.Graph()
    >>> x = graph.input((5, 8))
    >>> graph.model(graph.add(lrpfast.layers.Attention(2, window=(None, 0)), x, x, x)).output_shape
    (5, 8)
    """

    heads: int = 1
    kv_heads: int | None = None
    scale: float | None = None
    window: Window | None = None
    mask: np.ndarray | None = None
    bias: np.ndarray | None = None
    softcap: float | None = None
    least: ClassVar[int] = 3
    most: ClassVar[int | None] = 4

    def __post_init__(self) -> None:
        heads = _count(self.heads, "heads", str(self))
        shared = heads if self.kv_heads is None else _count(self.kv_heads, "kv_heads", str(self))
        if heads % shared:
            raise InputError(f"{self}: kv_heads must divide heads={heads}, not {shared}")
        self._set(
            heads=heads, kv_heads=shared, window=_window(self.window, str(self)), mask=_mask(self.mask, str(self))
        )
        if self.bias is not None:
            self._set(bias=as_array(self.bias, "bias", str(self)))
        for key in ("scale", "softcap"):
            value = getattr(self, key)
            if value is not None:
                self._set(**{key: finite(value, key, str(self))})
        if self.softcap is not None and self.softcap <= 0:
            raise InputError(f"{self}: softcap must be above 0, not {self.softcap:g}")

    def head_scale(self, query: Shape) -> float:
        """What the products are multiplied by, for queries of a shape."""
        return 1 / math.sqrt(query[-1] // self.heads) if self.scale is None else self.scale  # type: ignore[operator]

    def output_shape(self, *shapes: Shape) -> Shape:
        self.check_count(len(shapes))
        query, key, value = shapes[:3]
        kv_heads: int = self.kv_heads  # type: ignore[assignment]
        text = f"{self}: its queries, keys and values have shapes {query}, {key}, {value}"
        if min(map(len, shapes[:3])) < 2:
            raise ShapeError(f"{text}, not (positions, channels)")
        for shape, heads in ((query, self.heads), (key, kv_heads), (value, kv_heads)):
            if shape[-1] is None or shape[-1] % heads:
                raise ShapeError(f"{text}, whose channels are not {heads} heads")
        if query[-1] // self.heads != key[-1] // kv_heads:  # type: ignore[operator]
            raise ShapeError(f"{text}: heads of {query[-1] // self.heads} and {key[-1] // kv_heads} channels")  # type: ignore[operator]
        if key[:-1] != value[:-1] or query[:-2] != key[:-2]:
            raise ShapeError(f"{text}, which do not fit")
        scores = (*query[:-2], self.heads, query[-2], key[-2])
        _fit(self.mask, "mask", scores, str(self))
        _fit(self.bias, "bias", scores, str(self))
        if len(shapes) > 3:
            _fit_input(shapes[3], scores, str(self))
        return (*query[:-1], self.heads * (value[-1] // kv_heads))  # type: ignore[operator]

    def describe(self) -> str:
        shared = "" if self.kv_heads == self.heads else f" on {self.kv_heads}"
        return f"{self.heads} heads{shared}"


@dataclass(frozen=True, eq=False)
class Rotary(Layer):
    """Rotary positions: each head's vector turned by angles that depend on its position.

    Of the first r channels x of a head in (…, n, heads · d), y = x cos + turned(x) sin; turned(x) is (−b, a) for the
    halves a and b of x, or (−x₁, x₀, −x₃, x₂, …). The other channels of a head stay as they are.

    Parameters
    ----------
    cos, sin : array, shape (n, r)
        Of each position and channel; r is even and at most d.
    size : int
        d, the channels of one head.
    interleaved : bool
        Whether neighbours are turned, not halves.

    Raises
    ------
    InputError
        When a parameter is something else.
    ShapeError
        When the arrays do not fit each other, or, of the model, its input.

    References
    ----------
    Su et al. (2021), RoFormer.

    Examples
    --------
    >>> layer = lrpfast.layers.Rotary(np.zeros((1, 2)), np.ones((1, 2)), size=2)
    >>> lrpfast.from_layers([layer], input_shape=(1, 2)).predict(np.array([[[1.0, 2.0]]])).tolist()
    [[[-2.0, 1.0]]]
    """

    cos: np.ndarray
    sin: np.ndarray
    size: int
    interleaved: bool = False

    def __post_init__(self) -> None:
        size = _count(self.size, "size", str(self))
        interleaved = _truth(self.interleaved, "interleaved", str(self))
        cos, sin = (as_array(getattr(self, key), key, str(self)) for key in ("cos", "sin"))
        if cos.ndim != 2 or cos.shape != sin.shape or 0 in cos.shape or cos.shape[1] % 2 or cos.shape[1] > size:
            raise ShapeError(
                f"{self}: cos and sin must have one shape (positions, an even number of channels, at most {size}), "
                f"not {cos.shape} and {sin.shape}"
            )
        self._set(cos=cos, sin=sin, size=size, interleaved=interleaved)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) < 2 or shape[-1] is None or shape[-1] % self.size:
            raise ShapeError(f"{self}: it turns heads of {self.size} channels, its input has shape {shape}")
        if shape[-2] != len(self.cos):
            raise ShapeError(f"{self}: it is for {len(self.cos)} positions, its input has shape {shape}")
        return shape

    def describe(self) -> str:
        return "neighbours" if self.interleaved else "halves"
