"""Layers and models do not change: not through arrays they were made of, nor in copies, nor by assignment."""

import copy
import dataclasses
import pickle
import tracemalloc

import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L
from lrpfast.model.canonize import canonize

W = np.arange(6.0).reshape(2, 3)
PRELU = L.Activation("prelu", {"negative_slope": np.array([0.5, 0.25])})
#: One of every kind of place where a layer keeps arrays.
HOLDERS = [
    L.Dense(W, np.ones(3), "relu"),
    PRELU,
    L.Dense(np.eye(2), activation=PRELU),
    L.Interpolate((W, None)),
    L.Take(([1, 0], None)),
    L.SeparableConv(np.ones((3, 1, 1)), np.ones((1, 1, 2))),
]
COPIES = {
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda m: pickle.loads(pickle.dumps(m)),
    "pickle 5": lambda m: pickle.loads(pickle.dumps(m, 5)),
}


def arrays(value):
    """All arrays in a layer."""
    if isinstance(value, np.ndarray):
        return [value]
    if dataclasses.is_dataclass(value):
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    elif hasattr(value, "values"):
        value = list(value.values())
    return [a for v in value for a in arrays(v)] if isinstance(value, (list, tuple)) else []


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("layer", HOLDERS, ids=str)
def test_a_copy_s_arrays_cannot_be_written_to(layer, how):
    made = COPIES[how](layer)
    assert arrays(layer) and len(arrays(made)) == len(arrays(layer))
    for array, same in zip(arrays(made), arrays(layer), strict=True):
        np.testing.assert_array_equal(array, same)
        for a in (array, same):
            with pytest.raises(ValueError):
                a[...] = 0
            with pytest.raises(ValueError):
                a.setflags(write=True)


def test_parameters_cannot_be_changed():
    layer = L.Activation("leaky_relu", {"negative_slope": 0.5})
    with pytest.raises(TypeError):
        layer.parameters["negative_slope"] = 0.0
    assert copy.deepcopy(layer.parameters) == layer.parameters == {"negative_slope": 0.5}
    assert pickle.loads(pickle.dumps(layer.parameters)) == layer.parameters


@pytest.mark.parametrize("freeze", [False, True], ids=["writeable", "read-only"])
def test_the_users_own_arrays_are_copied(freeze):
    mine = {key: np.ones(shape) for key, shape in {"w": (2, 3), "d": (3, 1, 1), "p": (1, 1, 2)}.items()}
    for array in mine.values():
        array.setflags(write=not freeze)
    made = [L.Dense(mine["w"]), L.Interpolate((mine["w"],)), L.SeparableConv(mine["d"], mine["p"])]
    for array in mine.values():
        array.setflags(write=True)
        array[:] = 7
    assert all((array == 1).all() for layer in made for array in arrays(layer))


def test_weights_are_kept_once():
    kernel = np.full((1000, 1000), 0.001)
    tracemalloc.start()
    try:
        layer = L.Dense(kernel, activation="softmax")
        model = lrpfast.from_layers(
            [L.BatchNorm(np.zeros(1000), np.ones(1000)), layer, L.Dense(np.ones((1000, 1)))], 1000
        )
        assert tracemalloc.get_traced_memory()[0] < 1.2 * kernel.nbytes
    finally:
        tracemalloc.stop()
    logits = lrpfast.from_layers([layer]).without_softmax()
    named = dataclasses.replace(layer, name="other")
    for other in (model.layers[2], logits.layers[1], named, copy.copy(layer)):
        assert np.shares_memory(other.kernel, layer.kernel)
    assert not np.shares_memory(layer.kernel, kernel)
    folded = canonize(model)  # which makes one kernel, and keeps the other
    assert np.shares_memory(folded.layers[3].kernel, model.layers[3].kernel)


@pytest.mark.parametrize("key", ["nodes", "inputs", "outputs", "name", "layers", "anything"])
def test_a_model_s_attributes_cannot_be_set(key):
    model = lrpfast.from_layers([L.Dense(W)])
    with pytest.raises(AttributeError, match=f"Model.{key} cannot be set"):
        setattr(model, key, None)
    assert pickle.loads(pickle.dumps(model)).digest() == copy.deepcopy(model).digest() == model.digest()
