"""Keras models: the chain of layers in a configuration, and where each file format keeps their weights."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import InputError, LrpfastError, ModelFormatError, UnsupportedLayerError
from ..model.graph import Model
from ..model.layers import Input, Layer, Shape
from . import hdf5
from .keras_layers import KerasLayer, Weight, convert, plain

if TYPE_CHECKING:
    import h5py

#: A config.json larger than this is not a model's description.
MAX_CONFIG_BYTES = 64 * 2**20
#: Class names of the containers whose chain of layers is read.
_SEQUENTIAL, _FUNCTIONAL = ("Sequential",), ("Functional", "Model")
#: Top-level packages in which Keras's own classes live.
_KERAS_PACKAGES = ("keras", "tf_keras", "keras_core", "tensorflow")


@contextlib.contextmanager
def guarded(source: str) -> Iterator[None]:
    """Name the source in every error, and make one of lrpfast's of whatever a damaged file provokes."""
    try:
        yield
    except UnsupportedLayerError as error:
        raise UnsupportedLayerError(f"{source}: {error}") from error
    except LrpfastError as error:
        raise ModelFormatError(f"{source}: {error}") from error
    except RecursionError as error:
        raise ModelFormatError(f"{source}: its configuration is nested too deep to be a model's") from error
    except MemoryError:
        raise
    except Exception as error:
        raise ModelFormatError(f"{source}: damaged or truncated ({type(error).__name__}: {error})") from error


# -- where the weights are --------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One layer in a container: its name, its class, and its place among those of its class."""

    name: str
    class_name: str
    ordinal: int
    of_class: int


class Store(Protocol):
    """Finds the weights of a container's layers."""

    def weights(self, entry: Entry) -> list[Weight]: ...

    def inside(self, entry: Entry) -> Store:
        """The store of a model nested as a layer."""
        ...


def _stored(dataset: h5py.Dataset) -> Weight:
    return Weight(hdf5.shape(dataset), functools.partial(hdf5.read, dataset))


class LegacyStore:
    """HDF5 of `model.save("x.h5")`: one group for each layer, named after it.

    A nested model has one group for all its layers, so that these are told
    apart by the names of the weights, which contain the layer's.
    """

    def __init__(self, group: h5py.Group, nested: Entry | None = None) -> None:
        self.group, self.nested = group, nested

    def weights(self, entry: Entry) -> list[Weight]:
        import h5py

        holder = self.nested or entry
        group = hdf5.subgroup(self.group, holder.name)
        names = hdf5.strings(group, "weight_names") if group is not None else None
        if group is None or names is None:
            raise ModelFormatError(f"the weights of layer {holder.name!r} ({holder.class_name}) are missing")
        if self.nested:
            names = [name for name in names if entry.name in name.split("/")[:-1]]
        found = [hdf5.child(group, name) for name in names]
        for name, dataset in zip(names, found, strict=True):
            if not isinstance(dataset, h5py.Dataset):
                raise ModelFormatError(f"the weight {name!r} of layer {entry.name!r} ({entry.class_name}) is missing")
        return [_stored(dataset) for dataset in found]

    def inside(self, entry: Entry) -> LegacyStore:
        return LegacyStore(self.group, self.nested or entry)


class ArchiveStore:
    """``model.weights.h5`` of a .keras archive.

    Groups are named after the layers' classes and counted: dense, dense_1, …
    Keras 2.13 and older also counts the names that it then does not use (dense,
    dense_2, dense_4), so that the k-th layer of a class is the k-th group of
    it, whatever its number. Newer versions of Keras 3 write the layer's name beside its arrays.
    """

    def __init__(self, group: h5py.Group) -> None:
        self.layers = hdf5.subgroup(group, "layers") or hdf5.subgroup(group, "_layer_checkpoint_dependencies")

    def _group(self, entry: Entry) -> h5py.Group:
        stem = _snake_case(entry.class_name)
        numbered: dict[int, h5py.Group] = {}
        for key in self.layers or ():
            match = re.fullmatch(re.escape(stem) + r"(?:_(\d{1,9}))?", key)
            group = hdf5.subgroup(self.layers, key) if match else None
            if group is None:
                continue
            variables = hdf5.subgroup(group, "vars")
            if variables is not None and hdf5.text(variables, "name") == entry.name:
                return group
            numbered[int(match[1] or 0)] = group
        if len(numbered) == entry.of_class:
            return numbered[sorted(numbered)[entry.ordinal]]
        if entry.ordinal not in numbered:
            raise ModelFormatError(f"the weights of layer {entry.name!r} ({entry.class_name}) are missing")
        return numbered[entry.ordinal]

    def weights(self, entry: Entry) -> list[Weight]:
        import h5py

        variables = hdf5.subgroup(self._group(entry), "vars")
        found = []
        while variables is not None and isinstance(dataset := hdf5.child(variables, str(len(found))), h5py.Dataset):
            found.append(_stored(dataset))
        return found

    def inside(self, entry: Entry) -> ArchiveStore:
        return ArchiveStore(self._group(entry))


class LiveStore:
    """A model in memory."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def weights(self, entry: Entry) -> list[Weight]:
        arrays = [hdf5.as_float(array, entry.name) for array in self.model.get_layer(entry.name).get_weights()]
        return [Weight(array.shape, functools.partial(lambda a: a, array)) for array in arrays]

    def inside(self, entry: Entry) -> LiveStore:
        return LiveStore(self.model.get_layer(entry.name))


def _snake_case(name: str) -> str:
    """As Keras names groups after classes: PReLU is p_re_lu."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


# -- the chain of layers in a configuration ---------------------------------


def _config(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    config = entry.get("config")
    return config if isinstance(config, Mapping) else {}


def _name(entry: Mapping[str, Any]) -> str:
    name = entry.get("name") or _config(entry).get("name")
    if not isinstance(name, str):
        raise ModelFormatError(f"a layer of class {entry.get('class_name')!r} has no name")
    return name


def _class(entry: Mapping[str, Any]) -> str:
    """The class name; with its package (``pkg>Dense``) where it is not Keras's own."""
    name, registered = str(entry.get("class_name")), entry.get("registered_name")
    if isinstance(registered, str) and ">" in registered:
        return registered
    if "module" in entry and str(entry["module"]).split(".")[0] not in _KERAS_PACKAGES:
        return name if ">" in name else f"Custom>{name}"
    return name


def _shape(*candidates: Any) -> Shape | None:
    """The first batch shape among the candidates, without its batch axis."""
    for value in map(plain, candidates):
        if isinstance(value, (list, tuple)) and value and all(n is None or isinstance(n, int) for n in value):
            return tuple(value[1:])
    return None


def _declared(entry: Mapping[str, Any]) -> Shape | None:
    config = _config(entry)
    return _shape(config.get("batch_shape"), config.get("batch_input_shape"))


def _references(value: Any) -> list[str]:
    """Names of the layers whose outputs appear in a layer's inbound nodes, in any of Keras's formats."""
    if isinstance(value, Mapping):
        history = _config(value).get("keras_history")
        if history is not None:
            return [str(history[0])]
        return [name for item in value.values() for name in _references(item)]
    if isinstance(value, (list, tuple)):
        if len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int) and isinstance(value[2], int):
            return [value[0], *_references(value[3:])]
        return [name for item in value for name in _references(item)]
    return []


def _walk(config: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The layers of a functional model in forward order; UnsupportedLayerError unless they are a chain."""
    by_name = {_name(entry): entry for entry in entries}
    outputs, inputs = _references(config.get("output_layers")), _references(config.get("input_layers"))
    for what, names in (("outputs", outputs), ("inputs", inputs)):
        if len(names) != 1:
            raise UnsupportedLayerError(
                f"the model has {len(names)} {what} ({', '.join(names)}), lrpfast reads models with one input and one "
                "output. Save one path: keras.Model(model.get_layer(INPUT).output, model.get_layer(OUTPUT).output)"
            )

    def refuse(entry: Mapping[str, Any], why: str) -> UnsupportedLayerError:
        place = f"{entries.index(entry) + 1} of {len(entries)}"
        return UnsupportedLayerError(
            f"layer {_name(entry)!r} ({_class(entry)}, {place}) {why}; lrpfast reads chains, where each layer feeds "
            "the next one. A part that is a chain can be saved alone: "
            "keras.Model(model.inputs, model.get_layer(NAME).output).save('part.keras')"
        )

    chain: list[Mapping[str, Any]] = []
    name, left = outputs[0], set(by_name)
    while True:
        if name not in by_name:
            raise ModelFormatError(f"layer {_name(chain[-1])!r} is fed by {name!r}" if chain else f"no layer {name!r}")
        entry = by_name[name]
        if name not in left:
            raise refuse(entry, "feeds itself")
        left.remove(name)
        chain.append(entry)
        if entry.get("class_name") == "InputLayer":
            break
        nodes = plain(entry.get("inbound_nodes")) or []
        if len(nodes) > 1:
            raise refuse(entry, f"is used {len(nodes)} times")
        sources = _references(nodes)
        if len(sources) != 1:
            raise refuse(entry, f"has {len(sources)} inputs ({', '.join(sources)})")
        name = sources[0]
    if left:
        stray = next(entry for entry in entries if _name(entry) in left)
        raise refuse(stray, "does not lie on the path from the input to the output")
    return chain[::-1]


@dataclass(frozen=True)
class _Chain:
    """A container's layers, nested ones laid out flat, and what it takes (None: it does not say)."""

    input_name: str
    input_shape: Shape | None
    layers: list[KerasLayer]


def _read_chain(model: Mapping[str, Any], store: Store, keras: int, prefix: str = "") -> _Chain:
    config, class_name = model.get("config"), _class(model)
    if class_name in _SEQUENTIAL:
        # Keras before 2.2.3 stored the bare list of layers
        entries = config if isinstance(config, list) else _config(model).get("layers")
    elif class_name in _FUNCTIONAL:
        entries = _config(model).get("layers")
    else:
        raise UnsupportedLayerError(
            f"the model is of class {model.get('class_name')!r}, lrpfast reads Sequential and functional models. "
            "Rebuild it as keras.Model(inputs, outputs), copy the weights with set_weights, and save that"
        )
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, Mapping) for entry in entries):
        raise ModelFormatError("its configuration lists no layers")
    ordered = entries if class_name in _SEQUENTIAL else _walk(_config(model), entries)

    classes = [str(entry.get("class_name")) for entry in entries]
    head, shape, layers = ordered[0], None, []
    for entry in ordered:
        index = next(i for i, other in enumerate(entries) if other is entry)
        name, kind = _name(entry), _class(entry)
        if kind == "InputLayer":
            continue
        place = Entry(name, classes[index], classes[:index].count(classes[index]), classes.count(classes[index]))
        if kind in _SEQUENTIAL + _FUNCTIONAL:
            inner = _read_chain(entry, store.inside(place), keras, f"{prefix}{name}/")
            layers += inner.layers
            shape = inner.input_shape if entry is head else shape
            continue
        where = f"{index + 1} of {len(entries)}" + (f" in {prefix[:-1]!r}" if prefix else "")
        layers.append(
            KerasLayer(prefix + name, kind, _config(entry), where, keras, functools.partial(store.weights, place))
        )
    declared = _declared(head)
    if declared is None:
        candidates = (_config(model), "build_input_shape"), (head.get("build_config"), "input_shape")
        candidates += ((model.get("build_config"), "input_shape"),)
        declared = _shape(*(where.get(key) for where, key in candidates if isinstance(where, Mapping)))
    named = _name(head) if head.get("class_name") == "InputLayer" else f"{_name(head)}_input"
    return _Chain(named, shape if declared is None else declared, layers)


def build(text: str | bytes, store: Store, version: str | None) -> Model:
    """The Model of a Keras configuration.

    Parameters
    ----------
    text : str or bytes
        The configuration, JSON.
    store : Store
        Where the weights are.
    version : str or None
        The version of Keras that wrote it, if known.

    Raises
    ------
    LrpfastError
        When it is no chain of layers that lrpfast reads.
    """
    document = json.loads(text)
    if not isinstance(document, Mapping):
        raise ModelFormatError(f"its configuration is a JSON {type(document).__name__}, not a model's description")
    chain = _read_chain(document, store, _major(version, document))
    if not chain.layers:
        raise ModelFormatError("the model has no layers")
    shape = chain.input_shape
    if shape is None:
        # an old Sequential model that was built by its first batch: a dense layer's kernel still tells
        first = chain.layers[0]
        if first.class_name != "Dense" or not (stored := first.stored()):
            raise ModelFormatError(
                f"{first} does not say its input shape; give the model an Input layer and save again"
            )
        shape = stored[0].shape[:1]
    layers: list[Layer] = [Input(shape, name=chain.input_name)]
    for layer in chain.layers:
        converted = convert(layer, shape)
        shape = converted.output_shape(shape)
        layers.append(converted)
    name = _config(document).get("name")
    nodes = [(layer, (i - 1,) if i else ()) for i, layer in enumerate(layers)]
    return Model(nodes, name if isinstance(name, str) else "model")


def _major(version: str | None, document: Mapping[str, Any]) -> int:
    match = re.match(r"\s*(\d{1,4})\.", version or "")
    if match:
        return int(match[1])
    text = json.dumps(document)
    return 3 if '"batch_shape"' in text or '"keras_history"' in text else 2  # spellings new in Keras 3


# -- files and live models --------------------------------------------------


def read_h5(path: Path) -> Model:
    """The Model in a legacy Keras HDF5 file.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ModelFormatError
        When the file is damaged, or holds no whole Keras model.
    UnsupportedLayerError
        When it has a layer that lrpfast does not read.
    """
    import h5py

    with guarded(str(path)), h5py.File(path, "r") as file:
        config = hdf5.text(file, "model_config")
        weights = hdf5.subgroup(file, "model_weights") or file
        if config is None:
            names = ("layers", "_layer_checkpoint_dependencies")
            if hdf5.strings(weights, "layer_names") is None and all(hdf5.child(file, name) is None for name in names):
                raise ModelFormatError("an HDF5 file, but not one that Keras wrote (no model_config, no layer weights)")
            raise ModelFormatError(
                "holds a model's weights without its layers. Convert it in Keras, where you build the model: "
                f'model.load_weights({str(path)!r}); model.save("model.keras")'
            )
        version = hdf5.text(file, "keras_version") or hdf5.text(weights, "keras_version")
        return build(config, LegacyStore(weights), version)


def read_archive(path: Path) -> Model:
    """The Model in a .keras archive of Keras 2 or 3.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ModelFormatError
        When the archive is damaged or a part of it is missing.
    UnsupportedLayerError
        When it has a layer that lrpfast does not read.
    """
    import h5py

    with guarded(str(path)), zipfile.ZipFile(path) as archive:
        config = _member(archive, "config.json", MAX_CONFIG_BYTES)
        version = None
        if "metadata.json" in archive.namelist():
            metadata = json.loads(_member(archive, "metadata.json", MAX_CONFIG_BYTES))
            version = str(metadata.get("keras_version")) if isinstance(metadata, Mapping) else None
        if "model.weights.h5" not in archive.namelist():
            raise ModelFormatError("a .keras archive without model.weights.h5; save the model with its weights")
        with h5py.File(io.BytesIO(_member(archive, "model.weights.h5")), "r") as file:
            return build(config, ArchiveStore(file), version)


def _member(archive: zipfile.ZipFile, name: str, limit: int | None = None) -> bytes:
    """A member's bytes; refused when it says it is larger than it can honestly be."""
    info = archive.getinfo(name)
    allowed = limit if limit is not None else max(hdf5.FREE_BYTES, hdf5.MAX_RATIO * info.compress_size)
    if info.file_size > allowed:
        raise ModelFormatError(
            f"{name} in the archive unpacks to {info.file_size:,} bytes, at most {allowed:,} are read"
        )
    return archive.read(info)


def from_keras(model: Any) -> Model:
    """The Model of a Keras model in memory (Keras 2, tf.keras or Keras 3), without importing Keras.

    Parameters
    ----------
    model : keras.Model
        Sequential or functional, and built.

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
    """
    bases = [] if isinstance(model, type) else type(model).__mro__
    own = [base for base in bases if base.__module__.split(".")[0] in _KERAS_PACKAGES]
    if not any(base.__name__ == "Model" for base in own):
        what = f"the class {model.__name__} itself" if isinstance(model, type) else type(model).__name__
        raise InputError(f"from_keras takes a Keras model, not {what}; lrpfast.load(path) reads files")
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
        return build(text, LiveStore(model), str(version))
