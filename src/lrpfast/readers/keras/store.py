"""Where each of Keras's file formats, and a model in memory, keeps a layer's weights."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import ModelFormatError
from ...lazy import lazy_property
from .. import hdf5
from .record import Weight, snake_case

if TYPE_CHECKING:
    import h5py


@dataclass(frozen=True)
class Entry:
    """One layer in a container: its name, its class, and its position among those of its class."""

    name: str
    class_name: str
    ordinal: int
    of_class: int


#: Where an archive keeps what is inside a layer: names of groups, and cells of a class as it counts them.
Path = tuple["str | Entry", ...]


class Store(Protocol):
    """Finds the weights of a container's layers."""

    def weights(self, entry: Entry) -> list[Weight]: ...

    def cells(self, entry: Entry, paths: Sequence[Path]) -> list[Weight]:
        """The weights of a recurrent layer's cells."""
        ...

    def inside(self, entry: Entry) -> Store:
        """The store of a model nested as a layer."""
        ...

    def wrapped(self, entry: Entry) -> WrappedStore:
        """The store of the one layer, or model, inside a wrapper such as TimeDistributed."""
        ...


@dataclass(frozen=True)
class WrappedStore:
    """The one layer, or model, inside a wrapper, which may be a wrapper itself."""

    arrays: Callable[[], list[Weight]]
    model: Callable[[], Store]
    parts: Callable[[Entry, Sequence[Path]], list[Weight]]
    wrapper: Callable[[Entry], WrappedStore]

    def weights(self, entry: Entry) -> list[Weight]:
        return self.arrays()

    def cells(self, entry: Entry, paths: Sequence[Path]) -> list[Weight]:
        return self.parts(entry, paths)

    def inside(self, entry: Entry) -> Store:
        return self.model()

    def wrapped(self, entry: Entry) -> WrappedStore:
        return self.wrapper(entry)


def _wrapped(entry: Entry, arrays: Callable[[], list[Weight]], model: Callable[[], Store]) -> WrappedStore:
    """What a wrapper holds, in a store that lists all arrays of a layer, those of wrapped layers included."""

    def own() -> list[Weight]:
        return _without_power_vector(entry, arrays())

    return WrappedStore(own, model, lambda _, paths: own(), lambda inner: _wrapped(inner, own, model))


def _without_power_vector(entry: Entry, arrays: list[Weight]) -> list[Weight]:
    """The inner layer's arrays, which SpectralNormalization follows by a vector that only training uses."""
    return arrays[:-1] if entry.class_name == "SpectralNormalization" else arrays


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

        group, names = self._of_nested if self.nested else self._names(entry)
        if self.nested:
            names = [name for name in names if f"/{entry.name}/" in f"/{name}"]
        datasets = [hdf5.child(group, name) for name in names]
        for name, dataset in zip(names, datasets, strict=True):
            if not isinstance(dataset, h5py.Dataset):
                raise ModelFormatError(f"the weight {name!r} of layer {entry.name!r} ({entry.class_name}) is missing")
        return [_stored(dataset) for dataset in datasets]

    def cells(self, entry: Entry, paths: Sequence[Path]) -> list[Weight]:
        return self.weights(entry)

    @lazy_property
    def _of_nested(self) -> tuple[h5py.Group, list[str]]:
        assert self.nested is not None
        return self._names(self.nested)

    def _names(self, holder: Entry) -> tuple[h5py.Group, list[str]]:
        """A layer's group, and the names of its weights."""
        group = hdf5.subgroup(self.group, holder.name)
        names = hdf5.strings(group, "weight_names") if group is not None else None
        if group is None or names is None:
            raise ModelFormatError(f"the weights of layer {holder.name!r} ({holder.class_name}) are missing")
        return group, names

    def inside(self, entry: Entry) -> LegacyStore:
        return LegacyStore(self.group, self.nested or entry)

    def wrapped(self, entry: Entry) -> WrappedStore:
        return _wrapped(entry, functools.partial(self.weights, entry), lambda: self.inside(entry))


class ArchiveStore:
    """``model.weights.h5`` of a .keras archive.

    Groups are named after the layers' classes and counted: dense, dense_1, …
    Keras 2.13 and older also counts the names that it then does not use (dense,
    dense_2, dense_4), so that the k-th layer of a class is the k-th group of
    it, whatever its number. Newer versions of Keras 3 write the layer's name beside its arrays.
    """

    def __init__(self, group: h5py.Group, keys: Sequence[str] = ("layers", "_layer_checkpoint_dependencies")) -> None:
        self.layers = next(filter(None, (hdf5.subgroup(group, key) for key in keys)), None)

        self._groups: dict[str, tuple[list[h5py.Group], dict[int, h5py.Group], dict[str, h5py.Group]]] = {}

    @lazy_property
    def _keys(self) -> dict[str, list[tuple[str, int]]]:
        """The groups' names and numbers, by their stems: sorted once, however many layers there are."""
        keys: dict[str, list[tuple[str, int]]] = {}
        for key in self.layers or ():
            keys.setdefault(key, []).append((key, 0))
            stem, _, number = key.rpartition("_")
            if re.fullmatch(r"\d{1,9}", number):
                keys.setdefault(stem, []).append((key, int(number)))
        return keys

    def _of_class(self, stem: str) -> tuple[list[h5py.Group], dict[int, h5py.Group], dict[str, h5py.Group]]:
        """A class's groups in order of their numbers, by them, and by the names of layers that are written in them."""
        if stem not in self._groups:
            numbered: dict[int, h5py.Group] = {}
            named: dict[str, h5py.Group] = {}
            for key, number in self._keys.get(stem, ()):
                group = hdf5.subgroup(self.layers, key)
                if group is not None:
                    numbered[number] = group
                    variables = hdf5.subgroup(group, "vars")
                    named.setdefault((hdf5.text(variables, "name") or "") if variables is not None else "", group)
            self._groups[stem] = [numbered[number] for number in sorted(numbered)], numbered, named
        return self._groups[stem]

    def _group(self, entry: Entry) -> h5py.Group:
        groups, numbered, named = self._of_class(snake_case(entry.class_name))
        if entry.name and entry.name in named:
            return named[entry.name]
        if len(groups) == entry.of_class:
            return groups[entry.ordinal]
        if entry.ordinal not in numbered:
            raise ModelFormatError(f"the weights of layer {entry.name!r} ({entry.class_name}) are missing")
        return numbered[entry.ordinal]

    def weights(self, entry: Entry) -> list[Weight]:
        return self._variables(self._group(entry))

    def cells(self, entry: Entry, paths: Sequence[Path]) -> list[Weight]:
        return self._cells(entry, self._group(entry), paths)

    def _cells(self, entry: Entry, holder: h5py.Group, paths: Sequence[Path]) -> list[Weight]:
        arrays = []
        for path in paths:
            group = holder
            for i, key in enumerate(path):
                inner = ArchiveStore(group, [str(key), f"_{key}"])
                following = path[i + 1] if i + 1 < len(path) else None
                if isinstance(following, Entry):
                    group = inner._group(following)
                    break
                if inner.layers is None:
                    where = "/".join(map(str, path))
                    raise ModelFormatError(
                        f"the weights of layer {entry.name!r} ({entry.class_name}) are missing: {where}"
                    )
                group = inner.layers
            arrays += self._variables(group)
        return arrays

    def _variables(self, group: h5py.Group) -> list[Weight]:
        import h5py

        variables = hdf5.subgroup(group, "vars")
        arrays: list[Any] = []
        while variables is not None and isinstance(dataset := hdf5.child(variables, str(len(arrays))), h5py.Dataset):
            arrays.append(_stored(dataset))
        return arrays

    def inside(self, entry: Entry) -> ArchiveStore:
        return ArchiveStore(self._group(entry))

    def wrapped(self, entry: Entry) -> WrappedStore:
        return self._wrapped(entry, self._group(entry))

    def _wrapped(self, entry: Entry, wrapper: h5py.Group) -> WrappedStore:
        group = hdf5.subgroup(wrapper, "layer")
        if group is None:
            raise ModelFormatError(f"the weights of the layer in {entry.name!r} ({entry.class_name}) are missing")
        return WrappedStore(
            lambda: self._variables(group),
            lambda: ArchiveStore(group),
            lambda inner, paths: self._cells(inner, group, paths),
            lambda inner: self._wrapped(inner, group),
        )


class LiveStore:
    """A model in memory."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def weights(self, entry: Entry) -> list[Weight]:
        arrays = self.model.get_layer(entry.name).get_weights()
        return [Weight(tuple(a.shape), functools.partial(hdf5.as_float, a, entry.name)) for a in arrays]

    def cells(self, entry: Entry, paths: Sequence[Path]) -> list[Weight]:
        return self.weights(entry)

    def inside(self, entry: Entry) -> LiveStore:
        return LiveStore(self.model.get_layer(entry.name))

    def wrapped(self, entry: Entry) -> WrappedStore:
        return self._wrapped(entry, self.model.get_layer(entry.name).layer, functools.partial(self.weights, entry))

    def _wrapped(self, entry: Entry, layer: Any, arrays: Callable[[], list[Weight]]) -> WrappedStore:
        of_list = _wrapped(entry, arrays, lambda: LiveStore(layer))
        return replace(of_list, wrapper=lambda inner: self._wrapped(inner, layer.layer, of_list.arrays))
