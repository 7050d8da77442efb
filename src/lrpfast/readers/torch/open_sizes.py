"""PyTorch programs whose layers depend on sizes that the program leaves open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ...budget import budgeted
from ...errors import LrpfastError
from ...model.graph import Model
from ...model.layers import Shape
from ..input_shape import InputShapes, names_cure, resolve_shapes
from ..open_model import SIZES, of_sizes
from .graph import build
from .nodes import CONVERTERS
from .records import TorchProgram
from .sizes import open_shape, symbol_of


def read(program: TorchProgram, input_shape: InputShapes | None = None) -> Model:
    """The Model of a program.

    Where layers depend on open sizes, as on the length of a text, it is read anew for each size of the data.

    Raises
    ------
    UnsupportedLayerError, ModelFormatError
        As of `build`.
    """
    try:
        return build(_copy(program), CONVERTERS, input_shape)
    except LrpfastError as error:
        if not names_cure(error):
            raise
        model = _of_open_sizes(program, input_shape or {})
        if model is None:
            raise
        return model


def _copy(program: TorchProgram) -> TorchProgram:
    """The program with a table of shapes of its own, which fixing sizes fills in."""
    return replace(program, shapes=dict(program.shapes))


@dataclass(frozen=True)
class _Reader:
    """Reads a program for one size."""

    program: TorchProgram
    memory: int

    def __call__(self, shapes: Sequence[Shape]) -> Model:
        with budgeted(self.memory):
            return build(_copy(self.program), CONVERTERS, dict(enumerate(shapes)))


def _of_open_sizes(program: TorchProgram, input_shape: InputShapes) -> Model | None:
    """The model of open sizes; None where two sizes do not give the same layers."""
    sizes = {name: open_shape(program.shapes.get(name)) for name in program.inputs}
    shapes = resolve_shapes(sizes, input_shape)
    if any(shape is None for shape in shapes):
        return None
    opened: Mapping[str, Shape] = dict(zip(program.inputs, shapes, strict=True))  # type: ignore[arg-type]
    reader = _Reader(program, sum(a.nbytes for a in program.constants.values()))
    fixed = ([_fixed(program, name, shape, n) for name, shape in opened.items()] for n in SIZES)
    return of_sizes([*opened.values()], (shapes for shapes in fixed if None not in shapes), reader)  # type: ignore[misc]


def _fixed(program: TorchProgram, name: str, shape: Shape, n: int) -> Shape | None:
    """The shape with n for its open sizes, or as near to it as the program allows; None where it is no plain symbol."""
    result: list[int] = []
    for size, expression in zip(shape, program.expressions.get(name, ())[1:], strict=False):
        symbol = None if size is not None else symbol_of(expression)
        if size is None and symbol is None:
            return None
        low, high = program.ranges.get(symbol, (None, None)) if symbol else (None, None)
        result.append(size if size is not None else max(low or 1, min(n, high or n)))
    return tuple(result) if len(result) == len(shape) else shape if None not in shape else None
