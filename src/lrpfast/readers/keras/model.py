"""Keras models from .h5 files, .keras archives and memory."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError, ModelFormatError, UnsupportedLayerError
from ...model.graph import Model
from .. import hdf5
from ..input_shape import InputShapes, check_input_shape
from ..untrusted import guarded, member, parse_json
from .config import KERAS_PACKAGES
from .document import build
from .store import ArchiveStore, LegacyStore, LiveStore


def read_h5(path: Path, custom_objects: Any = None, input_shape: InputShapes | None = None) -> Model:
    """The Model in a legacy Keras HDF5 file.

    Parameters
    ----------
    path : Path
    custom_objects, input_shape : mapping, optional
        See `lrpfast.load`.

    Raises
    ------
    ModelFormatError
        When the file is damaged, or holds no whole Keras model.
    UnsupportedLayerError
        When it has a layer that lrpfast does not read.
    """
    with guarded(str(path)), hdf5.opened(path) as file:
        config = hdf5.text(file, "model_config")
        weights = hdf5.subgroup(file, "model_weights") or file
        if config is None:
            names = ("layers", "_layer_checkpoint_dependencies", "vars")
            if hdf5.strings(weights, "layer_names") is None and all(hdf5.child(file, name) is None for name in names):
                raise ModelFormatError(
                    "an HDF5 file, but not one that Keras wrote (no model_config, no layer weights). If it holds data, "
                    "Analyzer.stream and lrpfast explain read it"
                )
            raise ModelFormatError(
                "holds a model's weights without its layers. Convert it in Keras, where you build the model: "
                f'model.load_weights({str(path)!r}); model.save("model.keras")'
            )
        saved_by = hdf5.text(file, "backend") or hdf5.text(weights, "backend")
        if saved_by == "theano" and "Conv" in config:
            raise UnsupportedLayerError(
                "was saved by Keras's Theano backend, whose convolutions turn their kernels around. Load it in Keras "
                "with another backend, which turns them back, and save it anew: "
                f"keras.models.load_model({str(path)!r}).save(…)"
            )
        version = hdf5.text(file, "keras_version") or hdf5.text(weights, "keras_version")
        return build(config, LegacyStore(weights), version, custom_objects, input_shape)


def read_archive(path: Path, custom_objects: Any = None, input_shape: InputShapes | None = None) -> Model:
    """The Model in a .keras archive of Keras 2 or 3.

    Parameters
    ----------
    path : Path
    custom_objects, input_shape : mapping, optional
        See `lrpfast.load`.

    Raises
    ------
    ModelFormatError
        When the archive is damaged or a part of it is missing.
    UnsupportedLayerError
        When it has a layer that lrpfast does not read.
    """
    with guarded(str(path)), zipfile.ZipFile(path) as archive:
        config = member(archive, "config.json")
        version = None
        if "metadata.json" in archive.namelist():
            metadata = parse_json(member(archive, "metadata.json"), "metadata.json")
            version = str(metadata.get("keras_version")) if isinstance(metadata, Mapping) else None
        if "model.weights.h5" not in archive.namelist():
            raise ModelFormatError("a .keras archive without model.weights.h5; save the model with its weights")
        with hdf5.opened(member(archive, "model.weights.h5")) as file:
            return build(config, ArchiveStore(file), version, custom_objects, input_shape)


def from_keras(model: Any, *, custom_objects: Mapping[str, Any] | None = None, input_shape: Any = None) -> Model:
    """The Model of a Keras model in memory (Keras 2, tf.keras or Keras 3), without importing Keras.

    Parameters
    ----------
    model : keras.Model
        Sequential or functional, and built.
    custom_objects : mapping, optional
        What to make of classes of your own; see `lrpfast.load`.
    input_shape : tuple of int, or mapping, optional
        Sizes of one sample that the model leaves open; see `lrpfast.load`.

    Returns
    -------
    Model
        Holds copies of the weights; later training does not change it.

    Raises
    ------
    InputError
        When it is not a Keras model.
    UnsupportedLayerError
        When it has a layer that lrpfast does not read.
    ModelFormatError
        When it has no weights yet.

    Examples
    --------
    >>> import keras
    >>> model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])
    >>> lrpfast.from_keras(model).output_shape
    (2,)
    """
    bases = [] if isinstance(model, type) else type(model).__mro__
    own = [base for base in bases if base.__module__.split(".")[0] in KERAS_PACKAGES]
    if not any(base.__name__ == "Model" for base in own):
        kind = f"the class {model.__name__} itself" if isinstance(model, type) else type(model).__name__
        raise InputError(f"from_keras takes a Keras model, not {kind}; lrpfast.load(path) reads files")
    shapes = check_input_shape(input_shape)
    source = f"Keras model {getattr(model, 'name', '')!r}"
    with guarded(source):
        if not model.built:
            raise ModelFormatError("has no weights yet; call it once, or give it an Input layer")
        try:
            text = model.to_json()
        except NotImplementedError as error:  # Keras cannot describe a model whose call() is Python code
            raise UnsupportedLayerError(
                f"the model or one of its layers cannot be described by Keras: {error}"
            ) from error
        document = json.loads(text)
        package = sys.modules.get(own[0].__module__.split(".")[0])
        version = document.get("keras_version") or getattr(package, "__version__", None)
        return build(text, LiveStore(model), str(version), custom_objects, shapes)
