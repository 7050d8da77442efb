"""ONNX models in files, bytes and protobuf messages: read once, or anew for each size that the data decide."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...budget import Budget, budgeted, held_bytes
from ...errors import InputError, LrpfastError, ModelFormatError, UnsupportedLayerError
from ...model.graph import Model
from ...model.layers import Shape
from ..input_shape import InputShapeError, check_input_shape, names_cure, naming_open_sizes
from ..open_model import SIZES, OpenModel, of_sizes
from .file import File, read
from .model import build

#: Of errors about what is not the same for two sizes of the batch: two numbers stand for an open size then, too.
_OF_BATCH = re.compile("(depends? on|follows from) the batch")


def from_onnx(model: Any, *, input_shape: Any = None) -> Model:
    """The Model of an ONNX file, which takes and returns arrays as the file says: images channels first.

    Parameters
    ----------
    model : str, path-like, bytes or onnx.ModelProto
        Operators of the versions 7 to 28. The first axis of every input and output is the
        batch's, whatever size the file gives it.
    input_shape : tuple of int, or mapping, optional
        Sizes of one sample that the file leaves open; see `lrpfast.load`.

    Returns
    -------
    Model
        Where layers depend on sizes that the file leaves open, they are read anew for each size of the data.

    Raises
    ------
    ModelNotFoundError
        When there is nothing at the path.
    ModelFormatError
        When it is no ONNX model, or a damaged one.
    UnsupportedLayerError
        When it has an operator, or an attribute of one, that lrpfast does not read; the message names it.
    MissingPackageError
        When the package onnx is not installed.

    Examples
    --------
    >>> from onnx import parser
    >>> text = '<ir_version: 8, opset_import: ["": 17]> g (float[N, 2] x) => (float[N, 2] y) { y = Relu(x) }'
    >>> lrpfast.from_onnx(parser.parse_model(text)).predict(np.array([[-1.0, 2.0]])).tolist()
    [[0.0, 2.0]]
    """
    prefix = f"{os.fsdecode(model)}: " if isinstance(model, (str, os.PathLike)) else ""
    try:
        with budgeted(_file_size(model)) as budget:
            return _model(read(model, check_input_shape(input_shape)), budget)
    except InputShapeError as error:
        raise InputError(f"{prefix}{error}") from error
    except InputError:
        raise
    except LrpfastError as error:
        if (
            prefix
            and not str(error).startswith(prefix)
            and isinstance(error, (ModelFormatError, UnsupportedLayerError))
        ):
            raise type(error)(f"{prefix}{error}") from error
        raise
    except (MemoryError, RecursionError) as error:
        raise ModelFormatError(f"{prefix}reading it takes more memory than there is ({error})") from error


def _model(file: File, budget: Budget) -> Model:
    """The Model of a file; where layers depend on open sizes, as on the length of a text, an `OpenModel`."""
    for item in file.inputs:
        if item.batch and not item.problem:
            text = f"the input {item.name!r} has the batch on axis {item.batch}; lrpfast takes it first"
            warnings.warn(f"{text}: (samples, {', '.join(map(str, item.sample))})", stacklevel=3)
    try:
        with naming_open_sizes({item.name: item.sample for item in file.inputs}):
            return build(file)
    except LrpfastError as error:
        of_size = names_cure(error) or _OF_BATCH.search(str(error))
        model = _of_open_sizes(file, budget) if of_size else None
        if model is None:
            raise
        return model


@dataclass(frozen=True)
class _Reader:
    """Reads a graph for one size, within the budget of the file."""

    file: File
    source_bytes: int
    limit: int

    def __call__(self, shapes: Sequence[Shape]) -> Model:
        pairs = zip(self.file.inputs, shapes, strict=True)
        inputs = [replace(item, shape=(item.shape[0], *shape)) for item, shape in pairs]
        with budgeted(self.source_bytes, self.limit):
            return build(replace(self.file, inputs=inputs))


def _of_open_sizes(file: File, budget: Budget) -> OpenModel | None:
    """The model of open sizes; None where two sizes do not give the same layers."""
    if any(item.problem for item in file.inputs):
        return None
    opened = [item.sample for item in file.inputs]
    fixed = [[tuple(size if n is None else n for n in shape) for shape in opened] for size in SIZES]
    return of_sizes(opened, fixed, _Reader(file, budget.source_bytes, budget.limit))


def _file_size(model: Any) -> int:
    """How many bytes the model's file, or what stands for it, holds; 0 where there is none to read."""
    if isinstance(model, (bytes, bytearray, memoryview)):
        return len(model)
    if isinstance(model, (str, os.PathLike)):
        path = Path(os.fsdecode(model))
        try:
            return held_bytes(path) if path.is_file() else 0
        except OSError:
            return 0
    graph = getattr(model, "graph", None)  # not of the whole, which may be more than protobuf writes
    return sum(item.ByteSize() for item in (*graph.initializer, *graph.node)) if graph is not None else 0
