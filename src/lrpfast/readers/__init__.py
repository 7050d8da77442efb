"""Model files and objects in, `Model` out: `load` decides by a file's content, never by its name."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..budget import budgeted, held_bytes
from ..errors import InputError, ModelFormatError, ModelNotFoundError
from ..model.graph import Model
from ..model.layers.base import whole
from .input_shape import InputShapes, check_input_shape, resolve_shapes
from .keras import KERAS_PACKAGES, check_custom_objects, from_keras, read_archive, read_h5
from .not_models import PICKLED_MODULE, kind_by_name, kind_of_directory, kind_of_file
from .onnx import from_onnx
from .sklearn import from_sklearn
from .torch import from_torch, is_exported, read_pt2
from .untrusted import check_names, count_member, guarded

__all__ = ["as_model", "from_keras", "from_onnx", "from_sklearn", "from_torch", "load"]

ACCEPTED = (
    "lrpfast.load reads Keras .h5 and .keras files, ONNX models, PyTorch's .pt2 (torch.export.save), and the .npz that "
    "Model.save writes"
)

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"
#: What follows the version that an ONNX file begins with: the producer, the graph, the operators' versions, …
_ONNX = frozenset(b"\x12\x1a\x22\x28\x32\x3a\x42\x72")


def load(
    path: str | os.PathLike[str],
    *,
    memory: int | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    input_shape: Any = None,
) -> Model:
    """The model in a file, whatever the file's name.

    Parameters
    ----------
    path : str or path-like
        A Keras model (legacy .h5, or .keras of Keras 2 and 3), an ONNX model, a PyTorch program (.pt2 of
        `torch.export.save`), or an .npz that `Model.save` wrote.
    memory : int, optional
        Bytes that reading the file may take, where that is more than the 64 MiB and 32 times the file's size
        that are the most otherwise. For files that you trust and whose arrays are packed very small; the environment
        variable ``LRPFAST_MODEL_MEMORY`` does the same.
    custom_objects : mapping, optional
        What to make of classes and activation functions of your own in a Keras model, by their names, and of a
        Lambda, by the layer's: a function that gets the layer's configuration and the list of its weights and
        returns a layer of `lrpfast.layers` (or several, one after the other; or a `lrpfast.layers.Block`, for a
        layer of several inputs); or the built-in class it derives from,
        as a class of `lrpfast.layers` or Keras's name of it. Of an activation function: Keras's name of the same
        function, or a function that returns a `lrpfast.layers.Activation`.
    input_shape : tuple of int, or mapping, optional
        One sample's shape, without the batch axis, where the file leaves sizes open: for example ``(3, 224, 224)``,
        or ``{"image": (3, 224, 224), "age": (1,)}`` for several inputs; None in it leaves a size as the file says.
        The file is read with these sizes, so that layers which need a fixed size can be read.

    Returns
    -------
    Model

    Raises
    ------
    ModelNotFoundError
        When there is nothing at ``path``.
    ModelFormatError
        When it is no model file, a damaged one, one that must be converted first, or one that takes far more memory
        than it holds; the message says how.
    UnsupportedLayerError
        When the model has a layer that lrpfast does not read; the message names it.
    MissingPackageError
        When it is an ONNX model or a PyTorch program, and the package onnx or torch is not installed.
    InputError
        When ``path`` is not a path, ``memory`` no number of bytes, or ``input_shape`` contradicts the file.

    Examples
    --------
    >>> lrpfast.from_layers([lrpfast.layers.Dense(np.ones((4, 2)))]).save("model.npz")
    >>> lrpfast.load("model.npz").input_shape
    (4,)

    A model with a convolution and a layer of your own, ``class Scale(keras.layers.Layer)`` with one weight:

    >>> def scale(config, weights):
    ...     n = len(weights[0])
    ...     return lrpfast.layers.BatchNorm(np.zeros(n), np.ones(n), gamma=weights[0], epsilon=0)
    >>> own = {"ConvDNA": lrpfast.layers.Conv, "Scale": scale}
    >>> lrpfast.load("model.npz", custom_objects=own).output_shape
    (2,)

    A network of convolutions takes images of any size; here it is read for one size:

    >>> conv = lrpfast.layers.Conv(np.ones((3, 3, 1, 2)))
    >>> lrpfast.from_layers([conv], input_shape=(None, None, 1)).save("open.npz")
    >>> lrpfast.load("open.npz", input_shape=(28, 28, 1)).output_shape
    (26, 26, 2)
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"load takes a path, not {type(path).__name__}; {_reader_of(path)}")
    if path == "":
        raise InputError("load takes a path, not empty text")
    if memory is not None and (whole(memory) is None or memory < 1):
        raise InputError(f"memory must be a number of bytes, not {memory!r}")
    shapes = check_input_shape(input_shape)
    path = Path(os.fsdecode(path))
    try:
        if path.is_dir():
            raise ModelFormatError(f"{path}: {kind_of_directory(path)}. {ACCEPTED}")
        if not path.exists():
            raise ModelNotFoundError(str(path), _similar(path))
        if not path.is_file():
            raise ModelFormatError(f"{path}: not a regular file. {ACCEPTED}")
        with open(path, "rb") as file:
            head = file.read(4096)
        file_bytes = held_bytes(path)
    except (OSError, ValueError) as error:  # no permission, a NUL in the name
        if isinstance(error, ModelFormatError):
            raise
        raise ModelFormatError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    with budgeted(file_bytes, memory):
        return _read(path, head, check_custom_objects(custom_objects), shapes)


def as_model(model: Any) -> Model:
    """The Model of anything that a reader takes without further arguments: a path, or another library's model.

    Parameters
    ----------
    model : Model, path, keras.Model, onnx.ModelProto, scikit-learn estimator, or torch.export.ExportedProgram

    Raises
    ------
    InputError
        For anything else, such as a PyTorch module, which is traced with example inputs.
    LrpfastError
        As `load` and the readers.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, (str, os.PathLike)):
        return load(model)
    if not isinstance(model, type):
        packages = _packages(model)
        for package, read in _OBJECTS.items():
            if package in packages:
                return read(model)
    raise InputError(
        f"model must be an lrpfast Model, a path or a model of Keras, not {type(model).__name__}; "
        "see lrpfast.load, from_keras, from_onnx, from_sklearn, from_torch, from_layers"
    )


#: The readers of other libraries' objects, by the libraries' names.
_OBJECTS: dict[str, Callable[[Any], Model]] = {
    **dict.fromkeys(KERAS_PACKAGES, from_keras),
    **{"onnx": from_onnx, "sklearn": from_sklearn, "torch": from_torch},
}


def _packages(model: Any) -> set[str]:
    """The names of the libraries that define an object's class."""
    return {base.__module__.partition(".")[0] for base in type(model).__mro__}


def _reader_of(model: Any) -> str:
    """What takes an object in a path's place."""
    names = {package: read.__name__ for package, read in _OBJECTS.items()}
    readers = {names[package] for package in _packages(model) & set(names)}
    if len(readers) != 1 or isinstance(model, type):
        return "from_keras, from_onnx, from_sklearn and from_torch take models"
    (reader,) = readers
    return f"use lrpfast.{reader}(model{', example_inputs' if reader == 'from_torch' else ''})"


def _similar(path: Path) -> str:
    """A file beside one that does not exist, whose name is nearly the same."""
    import difflib

    try:
        names = [item.name for item in path.parent.iterdir()]
    except OSError:
        return f"there is no directory {path.parent} either" if not path.parent.exists() else ""
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.8)
    return f"did you mean {near[0]}?" if near else ""


def _read(path: Path, head: bytes, custom_objects: Mapping[str, Any], shapes: InputShapes) -> Model:
    if head.startswith(_ZIP):  # first: the HDF5 file stored in a .keras archive may lie at one of HDF5's offsets
        return _load_zip(path, custom_objects, shapes)
    if any(head.startswith(_HDF5, offset) for offset in (0, 512, 1024, 2048)):
        return read_h5(path, custom_objects, shapes)
    if len(head) > 2 and head[0] == 8 and 2 < head[1] < 64 and head[2] in _ONNX:
        try:
            return from_onnx(path, input_shape=shapes)
        except ModelFormatError as error:
            if (other := kind_by_name(path)) is None:
                raise
            raise ModelFormatError(f"{path}: {other}. {ACCEPTED}") from error
    raise ModelFormatError(f"{path}: {kind_of_file(path, head)}. {ACCEPTED}")


def _load_zip(path: Path, custom_objects: Mapping[str, Any], shapes: InputShapes) -> Model:
    with guarded(str(path)):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            check_names(names)
            if "header.npy" in names:
                for info in archive.infolist():
                    count_member(archive, info)
        if "header.npy" in names:
            from ..model.npz import read

            return _of_sizes(Model(*read(path)), shapes)
    if "config.json" in names:
        return read_archive(path, custom_objects, shapes)
    if is_exported(names):
        return read_pt2(path, shapes)
    if any(name.endswith("data.pkl") for name in names):
        kind = PICKLED_MODULE
    elif any(name.endswith("serialized_exported_program.json") for name in names):
        kind = (
            "an exported program as PyTorch before 2.8 saved it, with pickled weights. Save it anew with PyTorch 2.8 "
            "or later, or load it in PyTorch and give the program to lrpfast.from_torch"
        )
    else:
        kind = f"a zip archive, but not a model's (it holds {', '.join(names[:3]) or 'nothing'})"
    raise ModelFormatError(f"{path}: {kind}. {ACCEPTED}")


def _of_sizes(model: Model, shapes: InputShapes) -> Model:
    """The model with the caller's sizes where it leaves them open."""
    if not shapes:
        return model
    sizes = resolve_shapes({model.nodes[i].name: model.nodes[i].shape for i in model.inputs}, shapes)
    return model.with_input_shape(*sizes)  # type: ignore[arg-type]
