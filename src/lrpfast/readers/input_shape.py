"""``load(path, input_shape=…)``: sizes that a file leaves open, fixed before it is read."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import InputError, LrpfastError, ShapeError
from ..model.layers import Shape
from ..model.layers.base import as_shape, each

#: The cure that messages name where an open size is the obstacle.
FIX_SIZE = "Fix the size: lrpfast.load(path, input_shape=…), or --input-shape"

#: Numbers that stand for axes the file leaves open, where shapes are computed.
OPEN = ((6007, 6011), (5003, 5009), (4001, 4003), (3001, 3011))
_OPEN_NUMBER = re.compile(rf"\b({'|'.join(str(n) for pair in OPEN for n in pair)})\b")

#: What `load` takes as ``input_shape``, after `check_input_shape`: by the input's name, or by its index.
InputShapes = Mapping[str | int, Shape]


class InputShapeError(InputError):
    """The caller's ``input_shape``, not the file, is at fault."""


def check_input_shape(input_shape: Any) -> InputShapes:
    """One shape, several in the order of the inputs, or a mapping from names, as a mapping."""
    if input_shape is None:
        return {}
    if isinstance(input_shape, Mapping):
        items = dict(input_shape)
    else:
        sizes = each(input_shape)
        several = bool(sizes) and all(isinstance(size, Sequence) and not isinstance(size, str) for size in sizes)
        items = dict(enumerate(sizes)) if several else {0: sizes}
    try:
        return {name: as_shape(shape, "input_shape") for name, shape in items.items()}
    except ShapeError as error:
        raise InputError(f"{error}. It is one sample's shape, such as (3, 224, 224), or a mapping from names") from None


def resolve_shapes(inputs: Mapping[str, Shape | None], shapes: InputShapes) -> list[Shape | None]:
    """The shapes of a file's inputs, with the caller's sizes where the file leaves them open.

    Parameters
    ----------
    inputs : mapping
        One sample's shape by the input's name; None where the file says nothing of it.
    shapes : InputShapes

    Raises
    ------
    InputShapeError
        When a shape contradicts the file, or names no input of it.
    """
    names = list(inputs)
    by_name: dict[str, Shape] = {}
    for key, shape in shapes.items():
        name = names[key] if isinstance(key, int) and key < len(names) else key
        if name not in inputs:
            listed = ", ".join(f"{n!r} {_sizes(inputs[n])}" for n in names)
            wrong = f"has {len(shapes)} shapes" if isinstance(key, int) else f"names {key!r}"
            raise InputShapeError(f"input_shape {wrong}; the model's inputs are {listed}")
        by_name[str(name)] = shape
    if 0 in shapes and len(shapes) == 1 < len(names):
        listed = ", ".join(f"{n!r}: {_sizes(inputs[n])}" for n in names)
        raise InputShapeError(
            f"input_shape is one shape, the model has {len(names)} inputs; name each: {{{listed}}}, or on the command "
            f"line --input-shape {names[0]}=…"
        )
    return [_agreed(name, shape, by_name.get(name)) for name, shape in inputs.items()]


def _agreed(name: str, shape: Shape | None, other: Shape | None) -> Shape | None:
    if shape is None or other is None:
        return shape if other is None else other
    if len(shape) != len(other):
        batch = " (the batch axis is not part of it)" if len(other) == len(shape) + 1 else ""
        raise InputShapeError(
            f"input_shape has {len(other)} axes for input {name!r}: {_sizes(other)}; the file says {_sizes(shape)}"
            f"{batch}"
        )
    for axis, (n, m) in enumerate(zip(shape, other, strict=True)):
        if None not in (n, m) and n != m:
            raise InputShapeError(
                f"input_shape {_sizes(other)} has size {m} on axis {axis} of input {name!r}; the file fixes {n}, "
                f"{_sizes(shape)}"
            )
    return tuple(m if n is None else n for n, m in zip(shape, other, strict=True))


def _sizes(shape: Shape | None) -> str:
    if shape is None:
        return "of unknown shape"
    return f"({', '.join('open' if n is None else str(n) for n in shape)}{',' if len(shape) == 1 else ''})"


@contextlib.contextmanager
def naming_open_sizes(inputs: Mapping[str, Shape | None]) -> Iterator[None]:
    """In errors about shapes, name the inputs' open sizes, which may be the reason, and the cure."""
    try:
        yield
    except LrpfastError as error:
        opened = [f"{name!r} {_sizes(shape)}" for name, shape in inputs.items() if shape is None or None in shape]
        text, stands_in = _OPEN_NUMBER.subn("open", str(error))
        if not opened or not (stands_in or FIX_SIZE in text or _is_of_shapes(error)):
            raise
        if FIX_SIZE not in text:
            text = f"{text.rstrip('.')}. The file leaves sizes of {', '.join(opened)} open. {FIX_SIZE}"
        raise type(error)(text.replace(FIX_SIZE, _cure(inputs))) from error


def names_cure(error: LrpfastError) -> bool:
    """Whether an error says that sizes must be fixed."""
    return FIX_SIZE.split("(", 1)[0] in str(error)


def _cure(inputs: Mapping[str, Shape | None]) -> str:
    """`FIX_SIZE` with the shapes of those inputs that have an open size, for which n stands."""
    if any(shape is None for shape in inputs.values()):
        return FIX_SIZE
    opened = {name: shape or () for name, shape in inputs.items() if None in (shape or ())} or inputs
    shapes = {name: ["n" if size is None else str(size) for size in shape or ()] for name, shape in opened.items()}
    tuples = {name: f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})" for name, sizes in shapes.items()}
    if len(inputs) == 1:
        (argument,), (option,) = tuples.values(), (",".join(sizes) for sizes in shapes.values())
        return f"Fix the size: lrpfast.load(path, input_shape={argument}), or --input-shape {option}"
    argument = ", ".join(f"{name!r}: {text}" for name, text in tuples.items())
    options = " ".join(f"--input-shape {name}={','.join(sizes)}" for name, sizes in shapes.items())
    return f"Fix the size: lrpfast.load(path, input_shape={{{argument}}}), or {options}"


def _is_of_shapes(error: BaseException | None) -> bool:
    """Whether shapes, places beyond an end, or arithmetic with an open size are what went wrong."""
    while error is not None:
        if isinstance(error, (ShapeError, IndexError)) or (isinstance(error, TypeError) and "NoneType" in str(error)):
            return True
        error = error.__cause__
    return False
