"""The numbers that compiled kernels know names by.

`_cpu.pxd` has each class again, by the same names (compute.h has Part, Stabilizer and Function); `tests/test_ops.py`
compares them. CUDA's are written from here (`cuda/modules.py`).
"""

from __future__ import annotations

from enum import IntEnum


class Part(IntEnum):
    """What is taken of an element of x."""

    X = 0
    POSITIVE = 1
    NEGATIVE = 2
    ONE = 3
    X_MINUS_BOUND = 4
    ABSOLUTE = 5


class Stabilizer(IntEnum):
    """What is added to a denominator: a value of its sign, a value where it is zero, or a value everywhere."""

    SIGN = 0
    ZERO = 1
    UNSIGNED = 2


class StartMode(IntEnum):
    """How the starting relevance is chosen; see `Start`."""

    MAX = 0
    INDEX = 1
    PAIR = 2
    ARRAY = 3
    ALL = 4


class FaultCode(IntEnum):
    """What a run may find; of two at once the lower one is the cause."""

    FINE = 0
    INPUT_NOT_FINITE = 1
    INPUT_OUT_OF_RANGE = 2
    NOT_FINITE = 3


class Function(IntEnum):
    """Activation functions; from SOFTMAX on they are of a whole row of values, the others of one value at a time."""

    RELU = 0
    LEAKY_RELU = 1
    PRELU = 2
    ELU = 3
    SELU = 4
    GELU = 5
    SILU = 6
    TANH = 7
    SIGMOID = 8
    HARD_SIGMOID = 9
    SOFTPLUS = 10
    SOFTSIGN = 11
    EXPONENTIAL = 12
    MISH = 13
    CLIP = 14
    CELU = 15
    SHRINK = 16
    LOG_SIGMOID = 17
    POWER = 18
    HARD_SILU = 19
    LOG = 20
    SOFTMAX = 21
    LOG_SOFTMAX = 22


class Cell(IntEnum):
    """Cells of recurrent layers; of a GRU those that reset after and before the product with the weights."""

    SIMPLE = 0
    LSTM = 1
    GRU_AFTER = 2
    GRU_BEFORE = 3


class ProductShare(IntEnum):
    """What of a product of a gate and a signal goes to the gate: nothing, half, or in proportion to both.

    DERIVATIVE is no share: the whole layer hands on its derivative.
    """

    SIGNAL = 0
    HALF = 1
    PROP = 2
    ABS = 3
    DERIVATIVE = 4


class BiasShare(IntEnum):
    """What becomes of biases in a recurrent layer's sums; SHARE gives stabilizers to the inputs too."""

    ABSORB = 0
    IGNORE = 1
    DISTRIBUTE = 2
    SHARE = 3


ENUMS = (Part, Stabilizer, StartMode, FaultCode, Function, Cell, ProductShare, BiasShare)

#: Parts of a contraction's input, taken while it is loaded.
INPUT_PARTS = {"x": Part.X, "x+": Part.POSITIVE, "x-": Part.NEGATIVE, "|x|": Part.ABSOLUTE}
#: What a redistributed sum is multiplied by, element by element.
SHARE_PARTS = {**INPUT_PARTS, "1": Part.ONE, "x-low": Part.X_MINUS_BOUND, "x-high": Part.X_MINUS_BOUND}
#: Stabilizers by the name that rules have for them.
STABILIZERS = {"sign": Stabilizer.SIGN, "zero": Stabilizer.ZERO, "unsigned": Stabilizer.UNSIGNED}
#: Modes of `Start`.
START_MODES = {mode.name.lower(): mode for mode in StartMode}
#: Activation functions by the name that layers have for them.
FUNCTIONS = {function.name.lower(): function for function in Function}
#: Those of a whole row of values.
OF_ROWS = ("softmax", "log_softmax")
