"""Recurrent layers: cells that go through a sequence step by step, and masks of its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import InputError, ShapeError
from .activation import SOFTMAXES, Activation, as_activation
from .base import Layer, Shape, as_array, finite
from .merge import Merge


@dataclass(frozen=True, eq=False)
class RNN(Merge):
    """Base of the recurrent layers: one cell that is applied to each step of a sequence (steps, features).

    Its inputs are the sequence, then, where ``takes_mask`` says so, a mask (steps,), and, where ``takes_state`` does,
    its initial states, (units,) each.

    Parameters
    ----------
    kernel : array, shape (features, gates · units)
        W, the gates side by side, as Keras stores it.
    recurrent_kernel : array, shape (units, gates · units)
        U.
    bias : array, shape (gates · units,), optional
        b.
    cell_activation : str or Activation, optional
        Of the candidate, and of an LSTM's output; None is linear. Of one unit at a time.
    go_backwards : bool
        Whether the cell begins with the last step.
    return_sequences : bool
        Whether the output has the state of every step, (steps, units), or of the last one alone, (units,).
    time_order : bool
        Whether the states of a sequence are in the order of the input's steps. False has them in the order in
        which they are computed: of Keras's layers with ``go_backwards``.
    takes_mask : bool
        Whether the second input says which steps count (not 0). A step that does not leaves the state as it is,
        and repeats the output before it (0 at first).
    zero_masked : bool
        Whether such a step's output is 0 instead: Keras's ``zero_output_for_mask``.
    takes_state : bool
        Whether the initial states are the last inputs.
    initial_h : array, shape (units,), optional
        Where the initial state is no input; zero when None.

    Examples
    --------
    >>> layer = lrpfast.layers.SimpleRNN(np.ones((3, 4)), np.zeros((4, 4)))
    >>> isinstance(layer, lrpfast.layers.RNN), layer.units
    (True, 4)
    """

    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray | None = None
    cell_activation: Any = "tanh"
    go_backwards: bool = False
    return_sequences: bool = False
    time_order: bool = True
    takes_mask: bool = False
    zero_masked: bool = False
    takes_state: bool = False
    initial_h: np.ndarray | None = None

    #: column blocks of the kernels, one for each gate and the candidate
    gates: ClassVar[int] = 1
    #: the initial states' fields
    states: ClassVar[tuple[str, ...]] = ("initial_h",)

    def __post_init__(self) -> None:
        kernel = as_array(self.kernel, "kernel", str(self))
        recurrent = as_array(self.recurrent_kernel, "recurrent_kernel", str(self))
        units = recurrent.shape[0] if recurrent.ndim == 2 else 0
        if not units or recurrent.shape != (units, self.gates * units):
            raise ShapeError(
                f"{self}: recurrent_kernel must have shape (units, {self.gates} · units), not {recurrent.shape}"
            )
        if kernel.ndim != 2 or not kernel.shape[0] or kernel.shape[1] != self.gates * units:
            raise ShapeError(f"{self}: kernel must have shape (features, {self.gates * units}), not {kernel.shape}")
        self._set(kernel=kernel, recurrent_kernel=recurrent)
        if self.bias is not None:
            self._set(bias=self._array("bias", self._bias_shape()))
        for name in self.states:
            if getattr(self, name) is not None:
                if self.takes_state:
                    raise InputError(f"{self}: {name} is an array where the initial state is no input (takes_state)")
                self._set(**{name: self._array(name, (units,))})
        for name in ("go_backwards", "return_sequences", "time_order", "takes_mask", "zero_masked", "takes_state"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise InputError(f"{self}: {name} is True or False, not {getattr(self, name)!r}")
            self._set(**{name: bool(getattr(self, name))})
        self._set_function("cell_activation")

    def _array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        array = as_array(getattr(self, name), name, str(self))
        if array.shape != shape:
            raise ShapeError(f"{self}: {name} has shape {array.shape}, the kernels ask for {shape}")
        return array

    def _bias_shape(self) -> tuple[int, ...]:
        return (self.gates * self.units,)

    def _set_function(self, name: str) -> None:
        """Check an activation function, which must be one of single values with numbers as parameters."""
        function = as_activation(getattr(self, name), str(self))
        if function is not None and function.function in (*SOFTMAXES, "prelu"):
            raise InputError(
                f"{self}: {name} must be a function of one unit at a time, the same for all, not {function.function}"
            )
        self._set(**{name: function})

    @property
    def units(self) -> int:
        """The number of units, H."""
        return int(self.recurrent_kernel.shape[0])

    @property
    def least(self) -> int:  # type: ignore[override]
        """How many inputs it takes."""
        return 1 + self.takes_mask + self.takes_state * len(self.states)

    @property
    def most(self) -> int | None:  # type: ignore[override]
        """How many inputs it takes."""
        return self.least

    @property
    def extra_rows(self) -> int:
        """Rows of the output after those of the steps."""
        return 0

    def output_shape(self, *shapes: Shape) -> Shape:
        self.check_count(len(shapes))
        sequence, rest = shapes[0], shapes[1:]
        if len(sequence) != 2 or sequence[1] != self.kernel.shape[0]:
            raise ShapeError(
                f"{self}: it takes sequences of {self.kernel.shape[0]} features, (steps, {self.kernel.shape[0]}), "
                f"its input has shape {sequence}"
            )
        if self.takes_mask:
            mask, rest = rest[0], rest[1:]
            if len(mask) != 1 or (None not in (mask[0], sequence[0]) and mask[0] != sequence[0]):
                raise ShapeError(
                    f"{self}: its mask must have shape ({sequence[0]},), a value for each step, not {mask}"
                )
        for shape in rest:
            if shape != (self.units,):
                raise ShapeError(f"{self}: an initial state must have shape ({self.units},), not {shape}")
        if not self.return_sequences:
            return (1 + self.extra_rows, self.units) if self.extra_rows else (self.units,)
        return (None if sequence[0] is None else sequence[0] + self.extra_rows, self.units)

    def describe(self) -> str:
        words = [self.cell_activation.describe() if self.cell_activation else "linear"]
        words += [word for word, flag in (("backwards", self.go_backwards), ("masked", self.takes_mask)) if flag]
        return ", ".join(words)


@dataclass(frozen=True, eq=False)
class SimpleRNN(RNN):
    """A fully connected recurrent layer: h_t = f(x_t W + h_(t−1) U + b).

    Parameters
    ----------
    kernel, recurrent_kernel : array, shapes (features, units) and (units, units)
    bias, cell_activation, go_backwards, return_sequences, time_order, takes_mask, zero_masked, takes_state, initial_h
        As in `RNN`.

    Examples
    --------
    >>> layer = lrpfast.layers.SimpleRNN(np.array([[1.0]]), np.array([[0.5]]), cell_activation=None)
    >>> lrpfast.from_layers([layer], input_shape=(3, 1)).predict(np.array([[[1.0], [2.0], [4.0]]])).tolist()
    [[5.25]]
    """


@dataclass(frozen=True, eq=False)
class GRU(RNN):
    """A gated recurrent unit: h_t = z h_(t−1) + (1 − z) n, with z, r = σ(x_t W + h_(t−1) U + b).

    The candidate is n = f(x_t W_n + b_n + r (h_(t−1) U_n + b′_n)), or, where ``reset_after`` is False,
    f(x_t W_n + (r h_(t−1)) U_n + b_n).

    Parameters
    ----------
    kernel, recurrent_kernel : array, shapes (features, 3 · units) and (units, 3 · units)
        Of z (update), r (reset) and n (candidate), in this order, as in Keras.
    bias : array, shape (3 · units,), or (2, 3 · units) where ``reset_after``, optional
        Two rows are the bias of the input and that of the state, b′.
    cell_activation : str or Activation, optional
        f.
    gate_activation : str or Activation, optional
        σ.
    reset_after : bool
        Whether r multiplies after the matrix product (Keras's default, PyTorch, ONNX's ``linear_before_reset``).
    go_backwards, return_sequences, time_order, takes_mask, zero_masked, takes_state, initial_h
        As in `RNN`.

    References
    ----------
    Cho et al. (2014), arXiv:1406.1078.

    Examples
    --------
    >>> layer = lrpfast.layers.GRU(np.ones((3, 12)), np.zeros((4, 12)), return_sequences=True)
    >>> layer.output_shape((None, 3))
    (None, 4)
    """

    gate_activation: Any = "sigmoid"
    reset_after: bool = True
    gates: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if not isinstance(self.reset_after, (bool, np.bool_)):
            raise InputError(f"{self}: reset_after is True or False, not {self.reset_after!r}")
        self._set(reset_after=bool(self.reset_after))
        super().__post_init__()
        self._set_function("gate_activation")

    def _bias_shape(self) -> tuple[int, ...]:
        one = super()._bias_shape()
        return (2, *one) if self.reset_after and self.bias is not None and np.ndim(self.bias) == 2 else one


@dataclass(frozen=True, eq=False)
class LSTM(RNN):
    """Long short-term memory: c_t = f c_(t−1) + i g and h_t = o tanh(c_t).

    i, f, o = σ(x_t W + h_(t−1) U + b) and g = tanh(x_t W_g + h_(t−1) U_g + b_g).

    Parameters
    ----------
    kernel, recurrent_kernel : array, shapes (features, 4 · units) and (units, 4 · units)
        Of i (input), f (forget), g (candidate) and o (output), in this order, as in Keras and PyTorch.
    bias : array, shape (4 · units,), optional
        The sum, where there are two.
    cell_activation : str or Activation, optional
        Of g, and of c in the output.
    gate_activation : str or Activation, optional
        σ.
    output_activation : str or Activation, optional
        Of c in the output, where it is not that of g: "linear" for none.
    initial_h, initial_c : array, shape (units,), optional
        Where the initial states are no inputs; zero when None.
    return_state : bool
        Whether the output has one more row, the last c: (steps + 1, units), or (2, units) without sequences.
    go_backwards, return_sequences, time_order, takes_mask, zero_masked, takes_state
        As in `RNN`; the initial states are h and c.

    References
    ----------
    Hochreiter and Schmidhuber (1997); Gers et al. (2000), for f.

    Examples
    --------
    >>> layer = lrpfast.layers.LSTM(np.ones((3, 16)), np.zeros((4, 16)), return_sequences=True)
    >>> lrpfast.from_layers([layer], input_shape=(365, 3)).output_shape
    (365, 4)
    """

    gate_activation: Any = "sigmoid"
    output_activation: Any = None
    initial_c: np.ndarray | None = None
    return_state: bool = False
    gates: ClassVar[int] = 4
    states: ClassVar[tuple[str, ...]] = ("initial_h", "initial_c")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.return_state, (bool, np.bool_)):
            raise InputError(f"{self}: return_state is True or False, not {self.return_state!r}")
        self._set(return_state=bool(self.return_state))
        self._set_function("gate_activation")
        if isinstance(self.output_activation, str) and self.output_activation == "linear":
            self._set(output_activation=Activation("linear"))
        elif self.output_activation is None:
            self._set(output_activation=self.cell_activation or Activation("linear"))
        elif not (isinstance(self.output_activation, Activation) and self.output_activation.function == "linear"):
            self._set_function("output_activation")

    @property
    def extra_rows(self) -> int:
        """Rows of the output after those of the steps."""
        return int(self.return_state)


@dataclass(frozen=True, eq=False)
class Masking(Layer):
    """Steps that hold nothing but one value become 0, as Keras's layer of that name does.

    That a recurrent layer leaves them out takes a `StepMask` of the same value, and ``takes_mask``.

    Parameters
    ----------
    value : float

    Examples
    --------
    >>> model = lrpfast.from_layers([lrpfast.layers.Masking(-1.0)], input_shape=(2, 2))
    >>> model.predict(np.array([[[-1.0, -1.0], [-1.0, 3.0]]])).tolist()
    [[[0.0, 0.0], [-1.0, 3.0]]]
    """

    value: float = 0.0

    def __post_init__(self) -> None:
        self._set(value=finite(self.value, "value", str(self)))

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) < 2:
            raise ShapeError(f"{self}: it takes sequences, (steps, features), not {shape}")
        return shape

    def describe(self) -> str:
        return f"{self.value:g}"


@dataclass(frozen=True, eq=False)
class StepMask(Masking):
    """1 for each step that holds another value than one, else 0: the mask of a recurrent layer.

    Of a sequence (steps, features) a step counts where any feature differs; of tokens (steps,), where the token
    does (Keras's ``mask_zero``). No relevance goes to it.

    Parameters
    ----------
    value : float

    Examples
    --------
    >>> graph = lrpfast.Graph()
    >>> x = graph.input((3, 1))
    >>> graph.model(graph.add(lrpfast.layers.StepMask(0.0), x)).predict(np.array([[[2.0], [0.0], [1.0]]])).tolist()
    [[1.0, 0.0, 1.0]]
    """

    def output_shape(self, shape: Shape) -> Shape:
        if not 1 <= len(shape) <= 2:
            raise ShapeError(f"{self}: it takes sequences, (steps, features), or tokens, (steps,), not {shape}")
        return shape[:1]
