"""Readers: every format and layer of Keras, and every way a file can be wrong."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import sys
import types
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import lrpfast
from forward import forward
from lrpfast.errors import InputError, LrpfastError, ModelFormatError, ModelNotFoundError, UnsupportedLayerError
from lrpfast.model.builder import from_layers
from lrpfast.model.layers import Activation, Dense
from lrpfast.readers import from_keras, load

DATA = Path(__file__).parent / "data"
RANDOM = np.random.RandomState(0)
X = RANDOM.normal(0, 2, (7, 4))


# -- files made by hand ------------------------------------------------------


def layer(kind, name, **config):
    return {"class_name": kind, "config": {"name": name, **config}}


def dense(name, units, **config):
    return layer("Dense", name, units=units, activation=config.pop("activation", "linear"), **config)


def entry(shape=(None, 4)):
    return layer("InputLayer", "entry", batch_input_shape=list(shape))


def sequential(*layers, **config):
    return {"class_name": "Sequential", "config": {"name": "net", "layers": list(layers), **config}}


def functional(*layers, inputs=("entry",), outputs=None, keras=2):
    """Layers with "inbound": a list of names, or a list of such lists for a shared layer; default the one before."""
    listed, before = [], None
    for item in layers:
        name = item["config"]["name"]
        sources = item.pop("inbound", [before] if before else [])
        calls = sources if sources and isinstance(sources[0], list) else [sources] if sources else []
        if keras == 2:
            nodes = [[[source, 0, 0, {}] for source in call] for call in calls]
        else:
            tensors = [
                [
                    {"class_name": "__keras_tensor__", "config": {"shape": [], "keras_history": [source, 0, 0]}}
                    for source in call
                ]
                for call in calls
            ]
            nodes = [{"args": call if len(call) == 1 else [call], "kwargs": {"mask": None}} for call in tensors]
        if keras == 3:
            item = {**item, "config": {"trainable": True, **item["config"]}}
        listed.append({**item, "name": name, "inbound_nodes": nodes})
        before = name
    ends = [[name, 0, 0] for name in outputs or (before,)]
    config = {
        "name": "net",
        "layers": listed,
        "input_layers": [[name, 0, 0] for name in inputs],
        "output_layers": ends if keras == 2 or len(ends) > 1 else ends[0],
    }
    return {"class_name": "Functional", "config": config}


def arrays(*shapes):
    return [RANDOM.normal(0, 1, shape).astype("float32") for shape in shapes]


def write_h5(path, model, weights=None, version="2.14.0", group="model_weights", chunk=None, encode=False):
    """A legacy file; ``weights`` maps layer names to lists of arrays."""
    weights = weights or {}
    with h5py.File(path, "w") as file:
        text = json.dumps(model)
        file.attrs["model_config"] = np.bytes_(text) if encode else text
        if version is not None:
            file.attrs["keras_version"] = np.bytes_(version) if encode else version
        holder = file.create_group(group) if group else file
        holder.attrs["layer_names"] = [name.encode() for name in weights]
        for name, values in weights.items():
            names = [f"{name}/w{i}:0".encode() for i in range(len(values))]
            of_layer = holder.create_group(name)
            if chunk:
                for i in range(0, len(names), chunk):
                    of_layer.attrs[f"weight_names{i // chunk}"] = names[i : i + chunk]
            else:
                of_layer.attrs["weight_names"] = names
            for key, value in zip(names, values, strict=True):
                of_layer[key.decode()] = value
    return path


def write_keras(path, model, groups=None, version="3.15.1", container="layers", compression=zipfile.ZIP_STORED):
    """A .keras archive; ``groups`` maps paths of groups to (layer name or None, arrays)."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        for name, (named, values) in (groups or {}).items():
            variables = file.create_group(f"{container}/{name}/vars")
            if named:
                variables.attrs["name"] = named
            for i, value in enumerate(values):
                variables[str(i)] = value
    with zipfile.ZipFile(path, "w", compression) as archive:
        if version is not None:
            archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("config.json", model if isinstance(model, str) else json.dumps(model))
        archive.writestr("model.weights.h5", memory.getvalue())
    return path


def same(a, b):
    """Whether two models have the same layers and arrays."""
    assert [type(x) for x in a.layers] == [type(x) for x in b.layers]
    for one, other in zip(a.layers, b.layers, strict=True):
        assert one.name == other.name
        assert one.describe() == other.describe()
        for key in ("kernel", "bias"):
            assert np.array_equal(getattr(one, key, None), getattr(other, key, None))
    return True


# -- real files --------------------------------------------------------------


@pytest.mark.parametrize("case", ["mlp_relu", "mlp_tanh"])
def test_all_formats_of_a_real_model_are_equal_and_predict_what_keras_did(case):
    models = [load(DATA / f"{case}.{suffix}") for suffix in ("h5", "keras", "k3.keras")]
    with np.load(DATA / f"{case}.npz") as record:
        for model in models:
            assert same(model, models[0])
            np.testing.assert_allclose(forward(model, record["x"]), record["y"], rtol=2e-6, atol=1e-6)


def test_digits_and_seed_model():
    with np.load(DATA / "digits_mlp.npz") as record:
        np.testing.assert_allclose(
            forward(load(DATA / "digits_mlp.h5"), record["x"]), record["y"], rtol=1e-5, atol=2e-6
        )
        model = load(str(DATA / "digits_mlp.h5")).without_softmax()
        np.testing.assert_allclose(forward(model, record["x"]), record["y_wo_softmax"], rtol=1e-5, atol=2e-5)
    seed = json.loads((DATA / "seed.json").read_text())["model"]
    model = load(DATA / "seed_model.h5")
    assert [x.name for x in model.layers] == ["input_1", "dense"]
    np.testing.assert_allclose(model.layers[1].kernel, seed["kernel"], rtol=1e-6)
    np.testing.assert_allclose(model.layers[1].bias, seed["bias"], rtol=1e-6)


TRAPS = sorted(DATA.glob("keras_traps_*.*"))


@pytest.mark.parametrize("path", TRAPS, ids=lambda path: path.name[12:])
def test_naming_traps_of_real_files(path):
    version, kind = path.stem.split("_")[2:]
    with np.load(DATA / "keras_traps.npz") as record:
        x, y = record[f"x_{kind}"], record[f"{version}_{kind}"]
    model = load(path)
    np.testing.assert_allclose(forward(model, x), y, rtol=1e-5, atol=1e-6)
    names = {
        "sequential": ["zeta", "dense_1", "leak", "dropout", "alpha", "slopes", "dense", "dense_2"],
        "functional": ["flat", "b", "inner/a", "inner/elu", "inner/c", "folded", "shared", "dense_7", "last"],
    }[kind]
    assert [x.name for x in model.layers[1:]] == names


def test_there_are_traps_of_every_version():
    assert {path.stem.split("_")[2] for path in TRAPS} == {"2.13.1", "2.14.0", "3.0.5", "3.15.1"}


def test_content_decides_not_the_name(tmp_path):
    for source, name in (("mlp_relu.h5", "a.keras"), ("mlp_relu.keras", "b.h5"), ("mlp_relu.k3.keras", "c")):
        (tmp_path / name).write_bytes((DATA / source).read_bytes())
        assert same(load(tmp_path / name), load(DATA / source))
    model = load(DATA / "mlp_relu.h5")
    model.save(tmp_path / "d.npz")
    (tmp_path / "d.npz").rename(tmp_path / "d.h5")
    assert same(load(tmp_path / "d.h5"), model)


@pytest.mark.parametrize("offset", [512, 1024, 2048])
def test_weights_at_an_offset_where_hdf5_looks_for_its_signature(tmp_path, offset):
    """The weights of a .keras lie unpacked in the zip: at 2048 the whole archive passes for an HDF5 file."""
    model = sequential(entry(), dense("d", 2))
    groups = {"dense": (None, arrays((4, 2), (2,)))}

    def at(padding):
        write_keras(tmp_path / "m.keras", json.dumps(model) + " " * padding, groups, version=None)
        return (tmp_path / "m.keras").read_bytes().index(b"\x89HDF")

    padding = offset - at(0)
    if padding < 0:
        pytest.skip("the configuration alone is longer than that")
    assert at(padding) == offset
    assert load(tmp_path / "m.keras").output_shape == (2,)


# -- layers and activations --------------------------------------------------

FLOAT = {"class_name": "__numpy__", "config": {"value": 0.25, "dtype": "float32"}}
ACTIVATIONS = [
    ("linear", 2, None, {}),
    ("relu", 2, "relu", {}),
    ("relu6", 2, "relu", {"max_value": 6.0}),
    ("leaky_relu", 3, "leaky_relu", {"negative_slope": 0.2}),
    ("elu", 2, "elu", {"alpha": 1.0}),
    ("selu", 2, "selu", {}),
    ("gelu", 3, "gelu", {"approximate": False}),
    ("silu", 3, "silu", {}),
    ("swish", 2, "silu", {}),
    ("tanh", 2, "tanh", {}),
    ("sigmoid", 2, "sigmoid", {}),
    ("hard_sigmoid", 2, "hard_sigmoid", {"slope": 0.2}),
    ("hard_sigmoid", 3, "hard_sigmoid", {"slope": 1 / 6}),
    ("softplus", 2, "softplus", {}),
    ("softsign", 2, "softsign", {}),
    ("exponential", 2, "exponential", {}),
    ("mish", 3, "mish", {}),
    ("softmax", 2, "softmax", {}),
    ("log_softmax", 3, "log_softmax", {}),
    ("log_sigmoid", 3, "log_sigmoid", {}),
    ("celu", 3, "celu", {"alpha": 1.0}),
    ("hard_silu", 3, "hard_silu", {}),
    ("hard_swish", 3, "hard_silu", {}),
    ("sparse_sigmoid", 3, "hard_sigmoid", {"slope": 0.5}),
    ("hard_tanh", 3, "clip", {"low": -1.0, "high": 1.0}),
    ("hard_shrink", 3, "shrink", {"threshold": 0.5, "shift": 0.0}),
    ("soft_shrink", 3, "shrink", {"threshold": 0.5, "shift": 0.5}),
    ({"class_name": "function", "config": "tanh"}, 2, "tanh", {}),
    ({"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "function"}, 3, "relu", {}),
    (
        {"module": "keras.layers", "class_name": "LeakyReLU", "config": {"alpha": 0.3}},
        2,
        "leaky_relu",
        {"negative_slope": 0.3},
    ),
    ({"class_name": "ELU", "config": {"alpha": FLOAT}}, 3, "elu", {"alpha": 0.25}),
]


@pytest.mark.parametrize("value, keras, function, parameters", ACTIVATIONS)
def test_activations(tmp_path, value, keras, function, parameters):
    """As Dense(activation=) and as a layer of its own, in both major versions' definitions."""
    weights = {"d": arrays((4, 3), (3,)), "a": []}
    path = tmp_path / "m.h5"
    for config in (
        sequential(entry(), dense("d", 3, activation=value)),
        sequential(entry(), dense("d", 3), layer("Activation", "a", activation=value)),
    ):
        last = load(write_h5(path, config, weights, f"{keras}.0.0")).layers[-1]
        function_layer = last.activation if isinstance(last, Dense) else last if isinstance(last, Activation) else None
        if function is None:
            assert function_layer is None
        else:
            assert function_layer.function == function
            assert function_layer.parameters == {**Activation(function).parameters, **parameters}


PLAIN = {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}
FULL = {"max_value": 2.0, "negative_slope": 0.1, "threshold": 0.5}
LAYERS = [
    ("ReLU", {}, "relu", PLAIN),
    ("ReLU", FULL, "relu", FULL),
    ("ReLU", {"max_value": None, "negative_slope": None}, "relu", PLAIN),
    ("LeakyReLU", {}, "leaky_relu", {"negative_slope": 0.3}),
    ("LeakyReLU", {"alpha": 0.1}, "leaky_relu", {"negative_slope": 0.1}),
    ("LeakyReLU", {"alpha": {"type": "ndarray", "value": 0.125}}, "leaky_relu", {"negative_slope": 0.125}),
    ("LeakyReLU", {"negative_slope": 0.1}, "leaky_relu", {"negative_slope": 0.1}),
    ("ELU", {"alpha": 0.5}, "elu", {"alpha": 0.5}),
    ("ThresholdedReLU", {"theta": 0.7}, "relu", PLAIN | {"threshold": 0.7}),
    ("Softmax", {}, "softmax", {}),
    ("Softmax", {"axis": 1}, "softmax", {}),
    ("Softmax", {"axis": [-1]}, "softmax", {}),
]


@pytest.mark.parametrize("kind, config, function, parameters", LAYERS)
def test_activation_layers(tmp_path, kind, config, function, parameters):
    model = load(write_h5(tmp_path / "m.h5", sequential(entry(), layer(kind, "a", **config))))
    last = model.layers[-1]
    assert (last.name, last.function, dict(last.parameters)) == ("a", function, parameters)


def test_prelu(tmp_path):
    slope, shared = arrays((3, 4), (1, 4))
    model = sequential(entry((None, 3, 4)), layer("PReLU", "p", shared_axes=None), layer("PReLU", "q", shared_axes=[1]))
    read = load(write_h5(tmp_path / "m.h5", model, {"p": [slope], "q": [shared]}))
    x = RANDOM.normal(size=(2, 3, 4))
    y = np.where(x > 0, x, slope * x)
    np.testing.assert_allclose(forward(read, x), np.where(y > 0, y, shared * y))
    wrong = {"p": [slope], "q": [shared.T]}
    with pytest.raises(ModelFormatError, match=r"layer 'q' \(PReLU, 3 of 3\): its alpha has shape \(4, 1\).*\(1, 4\)"):
        load(write_h5(tmp_path / "m.h5", model, wrong))
    with pytest.raises(UnsupportedLayerError, match=r"'q'.*fixed shape"):
        load(write_h5(tmp_path / "m.h5", sequential(entry((None, None, 4)), model["config"]["layers"][2]), wrong))


NOTHING = ["Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AlphaDropout", "GaussianDropout",
           "GaussianNoise", "ActivityRegularization", "Identity"]  # fmt: skip


def test_layers_that_do_nothing_at_inference_keep_their_place(tmp_path):
    model = load(write_h5(tmp_path / "m.h5", sequential(entry(), *(layer(kind, kind.lower()) for kind in NOTHING))))
    assert [x.describe() for x in model.layers[1:]] == NOTHING
    assert all(x.identity for x in model.layers)
    assert np.array_equal(forward(model, X), X)


def test_flatten_reshape_and_dense_on_the_last_axis(tmp_path):
    kernel, bias, last = arrays((4, 2), (2,), (6, 3))
    model = sequential(
        entry((None, 12)),
        layer("Reshape", "r", target_shape=[3, -1]),
        dense("d", 2),
        layer("Flatten", "f", data_format="channels_last"),
        dense("e", 3, use_bias=False),
    )
    read = load(write_h5(tmp_path / "m.h5", model, {"d": [kernel, bias], "e": [last]}))
    assert [node.shape for node in read.nodes] == [(12,), (3, 4), (3, 2), (6,), (3,)]
    x = RANDOM.normal(size=(5, 12))
    expected = (x.reshape(5, 3, 4) @ kernel + bias).reshape(5, 6) @ last
    np.testing.assert_allclose(forward(read, x), expected, rtol=1e-6)


# -- containers and formats --------------------------------------------------


def two_layers(**first):
    return [dense("b", 3, activation="relu", **first), dense("a", 2)]


WEIGHTS = {"b": arrays((4, 3), (3,)), "a": arrays((3, 2), (2,))}
EXPECTED = np.maximum(X @ WEIGHTS["b"][0] + WEIGHTS["b"][1], 0) @ WEIGHTS["a"][0] + WEIGHTS["a"][1]


@pytest.mark.parametrize(
    "model",
    [
        sequential(entry(), *two_layers()),
        sequential(*two_layers(batch_input_shape=[None, 4])),
        sequential(*two_layers(batch_input_shape={"class_name": "__tuple__", "items": [None, 4]})),
        sequential(*two_layers(), build_input_shape=[None, 4]),
        sequential({**two_layers()[0], "build_config": {"input_shape": [None, 4]}}, two_layers()[1]),
        {**sequential(*two_layers()), "build_config": {"input_shape": [None, 4]}},
        sequential(*two_layers()),  # the first kernel tells
        {"class_name": "Sequential", "config": two_layers(batch_input_shape=[None, 4])},  # Keras 2.2.2
        sequential(layer("InputLayer", "entry", batch_shape=[None, 4]), *two_layers()),
        functional(entry(), *two_layers()),
        functional(entry(), *two_layers(), keras=3),
        {**functional(entry(), *two_layers()), "class_name": "Model"},
        functional(dense("a", 2) | {"inbound": ["b"]}, dense("b", 3, activation="relu") | {"inbound": ["entry"]},
                   entry() | {"inbound": []}, outputs=["a"]),  # in another order
    ],
)  # fmt: skip
def test_containers(tmp_path, model):
    read = load(write_h5(tmp_path / "m.h5", model, WEIGHTS))
    np.testing.assert_allclose(forward(read, X), EXPECTED, rtol=1e-5, atol=1e-5)
    assert read.input_shape == (4,)
    assert [x.name for x in read.layers[1:]] == ["b", "a"]


@pytest.mark.parametrize("options", [{"chunk": 1}, {"encode": True}, {"group": ""}, {"version": None}])
def test_legacy_h5_variants(tmp_path, options):
    read = load(write_h5(tmp_path / "m.h5", sequential(entry(), *two_layers()), WEIGHTS, **options))
    np.testing.assert_allclose(forward(read, X), EXPECTED, rtol=1e-5, atol=1e-5)


def test_keras_1_configuration(tmp_path):
    layers = [
        layer("Dense", "b", output_dim=3, activation="relu", bias=True, input_dim=4, batch_input_shape=[None, 4]),
        layer("Dropout", "o", p=0.5),
        layer("Dense", "a", output_dim=2, activation="linear", bias=False),
    ]
    weights = {"b": WEIGHTS["b"], "o": [], "a": WEIGHTS["a"][:1]}
    read = load(write_h5(tmp_path / "m.h5", {"class_name": "Sequential", "config": layers}, weights, "1.2.2"))
    np.testing.assert_allclose(forward(read, X) + WEIGHTS["a"][1], EXPECTED, rtol=1e-5, atol=1e-5)


GROUPS = {
    "by class": {"dense": (None, WEIGHTS["b"]), "dense_1": (None, WEIGHTS["a"])},
    "in twos": {"dense": (None, WEIGHTS["b"]), "dense_2": (None, WEIGHTS["a"])},
    "by name": {"dense_1": ("b", WEIGHTS["b"]), "dense": ("a", WEIGHTS["a"])},
    "others beside": {
        "dense": (None, WEIGHTS["b"]),
        "dense_1": (None, WEIGHTS["a"]),
        "dense_1x": (None, arrays((3, 2))),
        "dropout": (None, arrays((2,))),
    },
}


@pytest.mark.parametrize("container", ["layers", "_layer_checkpoint_dependencies"])
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_archive_group_names(tmp_path, groups, container):
    path = write_keras(tmp_path / "m.keras", sequential(entry(), *two_layers()), groups, container=container)
    np.testing.assert_allclose(forward(load(path), X), EXPECTED, rtol=1e-5, atol=1e-5)


def test_compressed_archive_and_no_metadata(tmp_path):
    groups = GROUPS["by class"]
    model = sequential(entry(), *two_layers())
    path = write_keras(tmp_path / "m.keras", model, groups, version=None, compression=zipfile.ZIP_DEFLATED)
    np.testing.assert_allclose(forward(load(path), X), EXPECTED, rtol=1e-5, atol=1e-5)
    for shape, slope in (("batch_input_shape", 0.2), ("batch_shape", 1 / 6)):  # the spelling tells Keras 2 from 3
        start = layer("InputLayer", "entry", **{shape: [None, 4]})
        model = sequential(start, layer("Activation", "h", activation="hard_sigmoid"))
        assert load(write_keras(path, model, version=None)).layers[-1].parameters["slope"] == slope


def test_nested_models_are_laid_out_flat(tmp_path):
    nested = {**sequential(entry((None, 4)), *two_layers()), "config": sequential(entry(), *two_layers())["config"]}
    nested["config"]["name"] = "inner"
    last = arrays((2, 5), (5,))
    names = [b"b/kernel:0", b"b/bias:0", b"a/kernel:0", b"a/bias:0"]
    path = write_h5(tmp_path / "m.h5", sequential(nested, dense("a", 5)), {"a": last})
    with h5py.File(path, "a") as file:
        inner = file["model_weights"].create_group("inner")
        inner.attrs["weight_names"] = names
        for name, value in zip(names, WEIGHTS["b"] + WEIGHTS["a"], strict=True):
            inner[name] = value
    read = load(path)
    assert [x.name for x in read.layers[1:]] == ["inner/b", "inner/a", "a"]
    np.testing.assert_allclose(forward(read, X), EXPECTED @ last[0] + last[1], rtol=1e-5, atol=1e-5)
    groups = {
        "sequential/layers/dense": (None, WEIGHTS["b"]),
        "sequential/layers/dense_1": (None, WEIGHTS["a"]),
        "dense": (None, last),
    }
    assert same(load(write_keras(tmp_path / "m.keras", sequential(nested, dense("a", 5)), groups)), read)


def test_half_precision_weights_are_widened(tmp_path):
    kernel = np.array([[1.5, -2.0], [0.25, 3.0], [0, 1], [2, 2]])
    brain = (kernel.astype("<f4").view("<u4") >> 16).astype("<u2").view("V2")
    for stored in (kernel.astype("<f2"), brain, kernel.astype(">f4"), kernel):
        path = write_h5(tmp_path / "m.h5", sequential(entry(), dense("d", 2, use_bias=False)), {"d": [stored]})
        read = load(path).layers[1].kernel
        assert np.array_equal(read, kernel)
        assert read.dtype == (np.float64 if stored.dtype == np.float64 else np.float32)


def test_training_configuration_is_never_looked_at(tmp_path):
    path = write_h5(tmp_path / "m.h5", sequential(entry(), *two_layers()), WEIGHTS)
    with h5py.File(path, "a") as file:
        file.attrs["training_config"] = "{not even JSON: custom_loss}"
        file["optimizer_weights/x"] = h5py.ExternalLink("/nowhere.h5", "/")
    assert load(path).output_shape == (2,)
    model = {**sequential(entry(), *two_layers()), "compile_config": {"loss": {"module": "mine", "class_name": "Evil"}}}
    assert load(write_keras(tmp_path / "m.keras", model, GROUPS["by class"])).output_shape == (2,)


# -- what is refused ---------------------------------------------------------


@pytest.mark.parametrize(
    "model, words",
    [
        (sequential(entry(), layer("Lambda", "odd", function=["code"])), ["'odd'", "Lambda", "2 of 2", "never runs"]),
        (
            sequential(entry(), layer("Conv9D", "c")),
            ["'c'", "Conv9D", "2 of 2", "docs/layers.md", "get_layer('c').input"],
        ),
        (sequential(entry(), layer("Masking", "m", mask_value=1.0)), ["'m'", "Masking", "mask_value=0"]),
        (sequential(entry(), layer("pkg>Dense", "d", units=3)), ["'d'", "pkg>Dense"]),
        (sequential(entry(), {**dense("d", 3), "module": None, "registered_name": "Dense"}), ["'d'", "Custom>Dense"]),
        (sequential(entry(), {**dense("d", 3), "module": "keras.layers", "registered_name": "p>Dense"}), ["p>Dense"]),
        (sequential(entry(), dense("b", 3, activation="glu")), ["'b'", "'glu'", "relu6", "LeakyReLU"]),
        (
            sequential(entry(), dense("b", 3, activation={"class_name": "__lambda__", "config": {"code": "x"}})),
            ["__lambda__"],
        ),
        (sequential(entry(), dense("b", 3, activation={"class_name": "function", "config": "p>mine"})), ["'p>mine'"]),
        (
            sequential(entry(), dense("b", 3, activation={"class_name": "PReLU", "config": {}})),
            ["'PReLU'", "as layers"],
        ),
        (sequential(entry(), dense("b", 3, activation="prelu")), ["'prelu'"]),
        (sequential(entry(), dense("b", 3, activation=[1])), ["[1]"]),
        (sequential(entry((None, 2, 3)), layer("Softmax", "s", axis=[1, 2])), ["'s'", "[1, 2]"]),
        (sequential(entry(), dense("b", 3, dtype={"config": {"name": "int8_from_float32"}})), ["'b'", "quantized"]),
        ({"class_name": "MyModel", "config": {}}, ["MyModel", "functional"]),
    ],
)
def test_unsupported_layers_are_named(tmp_path, model, words):
    for path in (
        write_h5(tmp_path / "m.h5", model, WEIGHTS),
        write_keras(tmp_path / "m.keras", model, {"dense": (None, WEIGHTS["b"])}),
    ):
        with pytest.raises(UnsupportedLayerError) as caught:
            load(path)
        for word in (*words, str(path)):
            assert word in str(caught.value)


@pytest.mark.parametrize(
    "model, weights, words",
    [
        (sequential(entry(), *two_layers()), {"b": WEIGHTS["b"]}, ["layer 'a' (Dense)", "missing"]),
        (sequential(entry(), dense("b", 3)), {"b": WEIGHTS["b"][:1]}, ["'b'", "2 of 2", "kernel, bias", "found 1"]),
        (sequential(entry(), dense("b", 5)), WEIGHTS, ["'b'", "kernel has shape (4, 3)", "(4, 5)"]),
        (sequential(entry((None, 9)), dense("b", 3)), WEIGHTS, ["'b'", "(4, 3)", "(9, 3)"]),
        (sequential(entry(), dense("b", 3)), {"b": [WEIGHTS["b"][0], arrays((4,))[0]]}, ["'b'", "bias has shape (4,)"]),
        (sequential(entry(), dense("b", 3)), {"b": [WEIGHTS["b"][0], np.array(b"text")]}, ["bias has shape ()"]),
        (
            sequential(entry(), dense("b", 3)),
            {"b": [np.ones((4, 3), int), arrays((3,))[0]]},
            ["int64", "floating-point"],
        ),
        (sequential(entry(), dense("b", 3)), {"b": [np.full((4, 3), np.nan), arrays((3,))[0]]}, ["'b'", "not finite"]),
        (sequential(entry(), layer("Dense", "b")), WEIGHTS, ["'b'", "no 'units'"]),
        (sequential(entry(), layer("ReLU", "r", max_value="six")), {}, ["'r'", "max_value"]),
        (sequential(entry(), layer("Reshape", "r", target_shape=[3])), {}, ["'r'", "(3,)", "(4,)"]),
        (sequential(entry(), layer("Reshape", "r")), {}, ["'r'", "no 'target_shape'"]),
        (sequential(entry((None,)), dense("b", 3)), WEIGHTS, ["'b'", "feature axis"]),
        (sequential(layer("ReLU", "r")), {}, ["'r'", "does not say its input shape"]),
        (sequential(entry(), dense("b", 3), dense("b", 3)), {"b": [np.ones((4, 3)), np.ones(3)]}, ["'b'"]),
        (sequential(entry()), {}, ["no layers"]),
        (sequential(), {}, ["no layers"]),
        (sequential(entry(), {"class_name": "Dense"}), {}, ["no name"]),
        ({"class_name": "Sequential"}, {}, ["no layers"]),
        ([1, 2], {}, ["JSON list"]),
        (functional(entry(), dense("b", 3) | {"inbound": ["ghost"]}), WEIGHTS, ["'b'", "'ghost'"]),
    ],
)
def test_damaged_models_name_the_layer(tmp_path, model, weights, words):
    path = write_h5(tmp_path / "m.h5", model, weights)
    with pytest.raises(ModelFormatError) as caught:
        load(path)
    for word in (*words, str(path)):
        assert word in str(caught.value), str(caught.value)


def test_archive_without_the_weights_of_a_layer(tmp_path):
    model = sequential(entry(), *two_layers())
    for groups in ({}, {"dense": (None, WEIGHTS["b"])}, {"dense_1": (None, WEIGHTS["a"])}):
        with pytest.raises(ModelFormatError, match=r"layer '[ab]' \(Dense"):
            load(write_keras(tmp_path / "m.keras", model, groups))
    for missing in ("config.json", "model.weights.h5"):
        path = write_keras(tmp_path / "m.keras", model, GROUPS["by class"])
        with zipfile.ZipFile(path) as whole, zipfile.ZipFile(tmp_path / "part.keras", "w") as part:
            for name in set(whole.namelist()) - {missing}:
                part.writestr(name, whole.read(name))
        with pytest.raises(ModelFormatError, match="part.keras"):
            load(tmp_path / "part.keras")


def test_files_that_are_no_models(tmp_path):
    for content, words in (
        (b"", "is empty"),
        ("Grüße, this is text\n".encode(), "text file.*Grüße"),
        (b"\n \n", "text file"),
        (b"\x00\x01\x02\x03\xff\xfe" * 9, "unknown kind.*00 01 02 03"),
        (b"\x80\x04\x95pickle", "pickle.*never opened"),
        (b"\x93NUMPY\x01\x00", "NumPy"),
        (b"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"PK\x03\x04 and no more", "truncated zip"),
        (b"\x89HDF\r\n\x1a\n", "truncated"),
    ):
        path = tmp_path / "model.h5"
        path.write_bytes(content)
        with pytest.raises(ModelFormatError, match=words) as caught:
            load(path)
        assert str(path) in str(caught.value)
    for member, words in (
        ("archive/data.pkl", "PyTorch"),
        ("m/models/model.json", "damaged or truncated"),
        ("notes.txt", "notes.txt"),
    ):
        with zipfile.ZipFile(tmp_path / "z.pt", "w") as archive:
            archive.writestr(member, b"x")
        with pytest.raises(ModelFormatError, match=words):
            load(tmp_path / "z.pt")


@pytest.mark.parametrize("name", ["mlp_relu.h5", "mlp_relu.keras", "mlp_relu.k3.keras"])
def test_truncated_and_scrambled_files_give_one_kind_of_error(tmp_path, name):
    whole = (DATA / name).read_bytes()
    path = tmp_path / "model"
    for part in (0.01, 0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(ModelFormatError, match="model"):
            load(path)
    random = np.random.RandomState(1)
    for _ in range(60):
        damaged = np.frombuffer(whole, np.uint8).copy()
        offsets = random.randint(0, len(damaged), 20)
        damaged[offsets] = random.randint(0, 256, 20)
        path.write_bytes(damaged.tobytes())
        try:
            load(path)  # damage in a weight's value, or in a part that is not read, goes unseen
        except LrpfastError as error:
            assert str(path) in str(error)


def test_missing_directories_and_wrong_types(tmp_path):
    with pytest.raises(ModelNotFoundError, match="ghost.h5"):
        load(tmp_path / "ghost.h5")
    with pytest.raises(FileNotFoundError) as caught:
        load(str(tmp_path / "ghost.h5"))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, str(tmp_path / "ghost.h5"))
    with pytest.raises(ModelFormatError, match="a directory, not a model"):
        load(tmp_path)
    for name in ("saved_model.pb", "keras_metadata.pb"):
        saved = tmp_path / name[:5]
        saved.mkdir()
        (saved / name).write_bytes(b"x")
        with pytest.raises(ModelFormatError, match=r'load_model\(".*"\)\.save\("model\.keras"\)'):
            load(saved)
    for wrong in (None, 3, b"bytes.h5", object(), ["m.h5"], from_layers([Dense([[1.0]])])):
        with pytest.raises(InputError, match=f"not {type(wrong).__name__}"):
            load(wrong)
    with pytest.raises(LrpfastError):
        load("nul\0.h5")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_pipe_is_refused_and_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    with pytest.raises(ModelFormatError, match="not a regular file"):
        load(tmp_path / "pipe.h5")


def test_weights_without_a_model(tmp_path):
    path = write_h5(tmp_path / "w.h5", {}, WEIGHTS, group="")
    with h5py.File(path, "a") as file:
        del file.attrs["model_config"]
    with pytest.raises(ModelFormatError, match=r'model\.load_weights\(.*\); model\.save\("model\.keras"\)'):
        load(path)
    for layer in ("layers/dense", "block/layers/dense"):  # the second of a model that is a class of one's own
        with h5py.File(tmp_path / "new.weights.h5", "w") as file:
            file[f"{layer}/vars/0"] = WEIGHTS["b"][0]
            file.create_group("vars")
        with pytest.raises(ModelFormatError, match=r"model\.load_weights"):
            load(tmp_path / "new.weights.h5")
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["temperature"] = [1.0]
    with pytest.raises(ModelFormatError, match="not one that Keras wrote"):
        load(tmp_path / "data.h5")


# -- untrusted files ---------------------------------------------------------


def replace_kernel(path, make):
    with h5py.File(path, "a") as file:
        group = file["model_weights/b/b"]
        del group["w0:0"]
        make(group)
    return path


@pytest.mark.parametrize("link", ["external", "soft", "group"])
def test_links_are_not_followed(tmp_path, link):
    other = write_h5(tmp_path / "other.h5", sequential(entry(), *two_layers()), WEIGHTS)
    path = write_h5(tmp_path / "m.h5", sequential(entry(), *two_layers()), WEIGHTS)

    def make(group):
        if link == "external":
            group["w0:0"] = h5py.ExternalLink(str(other), "/model_weights/b/b/w0:0")
        elif link == "soft":
            group["w0:0"] = h5py.SoftLink("/model_weights/a/a/w0:0")
        else:
            del group.file["model_weights/b"]
            group.file["model_weights/b"] = h5py.ExternalLink(str(other), "/model_weights/b")

    with pytest.raises(ModelFormatError, match="links are not followed"):
        load(replace_kernel(path, make))


def test_data_in_other_files_is_not_read(tmp_path):
    path = write_h5(tmp_path / "m.h5", sequential(entry(), *two_layers()), WEIGHTS)
    (tmp_path / "secret").write_bytes(bytes(48))
    outside = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
    replace_kernel(path, lambda group: group.create_dataset("w0:0", (4, 3), "f4", external=outside))
    with pytest.raises(ModelFormatError, match="another file"):
        load(path)

    def virtual(group):
        layout = h5py.VirtualLayout((4, 3), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (4, 3))
        group.create_virtual_dataset("w0:0", layout)

    with pytest.raises(ModelFormatError, match="another file"):
        load(replace_kernel(write_h5(path, sequential(entry(), *two_layers()), WEIGHTS), virtual))


@pytest.mark.parametrize("chunks", [None, (1, 4096)])
def test_declared_sizes_are_checked_before_memory_is_taken(tmp_path, chunks):
    n = 2**20  # 2**20 x 2**20 floats: 4 TiB declared, nothing stored
    path = write_h5(tmp_path / "m.h5", sequential(entry((None, n)), dense("b", n)), WEIGHTS)
    replace_kernel(path, lambda g: g.create_dataset("w0:0", (n, n), "f4", chunks=chunks))
    with h5py.File(path, "a") as file:
        del file["model_weights/b/b/w1:0"]
        file["model_weights/b/b/w1:0"] = np.zeros(n, "f4")
    with pytest.raises(ModelFormatError, match="declares 4,398,046,511,104 bytes"):
        load(path)


def test_a_bomb_of_compressed_zeros_is_refused(tmp_path):
    n = 4600
    path = write_h5(tmp_path / "m.h5", sequential(entry((None, n)), dense("b", n, use_bias=False)), {"b": arrays((1,))})
    replace_kernel(path, lambda g: g.create_dataset("w0:0", data=np.zeros((n, n), "f4"), compression="gzip"))
    with pytest.raises(ModelFormatError, match="w0:0 takes 85,"):
        load(path)
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(80 << 20))
    with pytest.raises(ModelFormatError, match=r"model\.weights\.h5 in the archive takes 83,886,080 bytes"):
        load(tmp_path / "m.keras")


def test_small_compressed_weights_are_read(tmp_path):
    path = write_h5(tmp_path / "m.h5", sequential(entry(), dense("b", 3)), WEIGHTS)
    replace_kernel(path, lambda g: g.create_dataset("w0:0", data=np.zeros((4, 3), "f4"), compression="gzip"))
    assert not load(path).layers[1].kernel.any()


def test_json_nested_too_deep(tmp_path):
    deep = "[" * 200_000 + "]" * 200_000
    with pytest.raises(ModelFormatError, match="nested too deep"):
        load(write_keras(tmp_path / "m.keras", deep))
    shallower = sys.getrecursionlimit() // 2
    inbound = json.loads("[" * shallower + "]" * shallower)
    model = functional(entry(), dense("b", 3))
    model["config"]["layers"][1]["inbound_nodes"] = inbound
    with pytest.raises(LrpfastError):
        load(write_keras(tmp_path / "m.keras", model, GROUPS["by class"]))
    with pytest.raises(ModelFormatError, match="damaged"):
        load(write_keras(tmp_path / "m.keras", "{not JSON"))


def test_npz_that_declares_more_than_it_holds(tmp_path):
    model = from_layers([Dense(np.ones((4, 3)))])
    model.save(tmp_path / "m.npz")
    with zipfile.ZipFile(tmp_path / "m.npz") as whole, zipfile.ZipFile(tmp_path / "bomb.npz", "w") as bomb:
        for name in whole.namelist():
            data = whole.read(name)
            if name == "array_0.npy":
                text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(117) + b"\n"
                data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(96)
            bomb.writestr(name, data)
    with pytest.raises(ModelFormatError, match="declares float64 values of shape"):
        load(tmp_path / "bomb.npz")


# -- live models -------------------------------------------------------------


class FakeLayer:
    def __init__(self, weights):
        self.weights = weights

    def get_weights(self):
        return self.weights


def fake_keras(config, weights, module="keras.src.engine.sequential", built=True):
    """An object with the part of a Keras model's interface that from_keras may use."""

    def get_layer(self, name):
        return FakeLayer(weights[name])

    base = type("Model", (), {"__module__": "keras.src.engine.training"})

    def to_json(self):
        if not config:
            raise NotImplementedError("no config")
        return json.dumps(config)

    body = {
        "__module__": module,
        "name": "net",
        "built": built,
        "get_layer": get_layer,
        "to_json": to_json,
    }
    return type("Sequential", (base,), body)()


def test_from_keras(monkeypatch):
    config = sequential(entry(), *two_layers())
    read = from_keras(fake_keras({**config, "keras_version": "2.14.0"}, WEIGHTS))
    np.testing.assert_allclose(forward(read, X), EXPECTED, rtol=1e-5, atol=1e-5)
    assert not np.shares_memory(read.layers[1].kernel, WEIGHTS["b"][0])
    mine = type("MyModel", (type(fake_keras(config, WEIGHTS)),), {"__module__": "__main__"})()
    assert same(from_keras(mine), read)
    hard = sequential(entry(), layer("Activation", "h", activation="hard_sigmoid"))
    for version, slope in (("2.15.0", 0.2), ("3.4.1", 1 / 6)):  # Keras 3 leaves its version out of to_json
        monkeypatch.setitem(sys.modules, "keras", types.SimpleNamespace(__version__=version))
        assert from_keras(fake_keras(hard, {})).layers[-1].parameters["slope"] == slope


def test_from_keras_refuses(tmp_path):
    config = sequential(entry(), *two_layers())
    with pytest.raises(ModelFormatError, match="'net'.*no weights yet"):
        from_keras(fake_keras(config, WEIGHTS, built=False))
    with pytest.raises(UnsupportedLayerError, match="no config"):
        from_keras(fake_keras(None, WEIGHTS))
    with pytest.raises(ModelFormatError, match="'net'.*'b'"):
        from_keras(fake_keras(config, {**WEIGHTS, "b": []}))
    for wrong in ("model.h5", None, np.ones(3), from_layers([Dense([[1.0]])]), type("Sequential", (), {})()):
        with pytest.raises(InputError, match=f"not {type(wrong).__name__}"):
            from_keras(wrong)
    with pytest.raises(InputError, match="class Sequential itself"):
        from_keras(type(fake_keras(config, WEIGHTS)))


def test_models_of_keras_and_paths_wherever_a_model_is_taken(tmp_path):
    """As iNNvestigate takes them: the notebook runs with its import exchanged."""
    config = sequential(entry(), *two_layers())
    live, model = fake_keras(config, WEIGHTS), from_keras(fake_keras(config, WEIGHTS))
    model.save(tmp_path / "model.npz")
    expected = lrpfast.create_analyzer("lrp.z", lrpfast.model_wo_softmax(model)).analyze(X)
    for other in (live, tmp_path / "model.npz", str(tmp_path / "model.npz")):
        assert same(lrpfast.model_wo_softmax(other), model.without_softmax())
        assert lrpfast.create_analyzer("lrp.z", other).analyze(X).tobytes() == expected.tobytes()
        until = {"until_layer_idx": 0, "until_layer_rule": "Flat"}
        analyzers = [lrpfast.create_analyzer("lrp.z", m, **until) for m in (other, model)]
        assert analyzers[0].analyze(X).tobytes() == analyzers[1].analyze(X).tobytes()
        one, two = lrpfast.Analyzer(other, "epsilon"), lrpfast.Analyzer(model, "epsilon")
        assert one.analyze(X).tobytes() == two.analyze(X).tobytes()


def test_an_ensemble_of_live_models_and_a_report(tmp_path):
    """What takes several models, or an analyzer, takes those of Keras."""
    config = sequential(entry(), *two_layers())
    others = {name: [-2 * array for array in arrays] for name, arrays in WEIGHTS.items()}
    live = {"a": fake_keras(config, WEIGHTS), "b": fake_keras(config, others)}
    done = lrpfast.Ensemble(live, "epsilon").stream(X, statistics=True, progress=False)
    each = [
        lrpfast.Analyzer(from_keras(model), "epsilon").analyze(X).mean(0, dtype=np.float64) for model in live.values()
    ]
    np.testing.assert_allclose(done.mean[0], np.mean(each, 0), rtol=1e-12)
    listed = lrpfast.Ensemble(list(live.values()), "epsilon").stream(X, statistics=True, progress=False)
    np.testing.assert_array_equal(listed.mean, done.mean)
    files = lrpfast.Analyzer(live["a"], "epsilon").stream(X, tmp_path / "r.npy", progress=False)
    assert files.record["model"] == "net"


# iNNvestigate's until_layer_idx: an index into Keras's model.layers, which has no Input in a Sequential.


def flat_until(model, index):
    """The names of the layers that have the rule of the layers up to an index."""
    keywords = {"rule": "Z", "until_layer_idx": index, "until_layer_rule": "Flat"}
    analyzer = lrpfast.create_analyzer("lrp", model, **keywords)
    return [step.name for step in analyzer.plan().steps if isinstance(step.rule, lrpfast.rules.Flat)]


def counted(path, last, make):
    shapes, names = [(4, 3), (3, 3), (3, 2)], ["a", "b", "c"]
    layers = [dense("a", 3), layer("Dropout", "drop", rate=0.5), dense("b", 3), dense("c", 2, activation=last)]
    write_h5(path, make(entry(), *layers), dict(zip(names, (arrays(s, s[1:]) for s in shapes), strict=True)))
    return lrpfast.load(path)


@pytest.mark.parametrize("saved", [False, True], ids=["loaded", "saved as npz"])
@pytest.mark.parametrize(
    "make, last, first",
    [
        (sequential, "linear", 0),  # Sequential.layers has no Input
        (sequential, "sigmoid", 0),
        (sequential, "softmax", 1),  # model_wo_softmax makes a functional model of it, whose layers have one
        (functional, "linear", 1),
        (functional, "softmax", 1),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_layers_are_counted_as_innvestigate_counts_them(make, last, first, saved, tmp_path):
    model = counted(tmp_path / "m.h5", last, make)
    if saved:
        model.save(tmp_path / "m.npz")
        assert lrpfast.load(tmp_path / "m.npz").digest() == model.digest()
        model = lrpfast.load(tmp_path / "m.npz")
    for names, index in (([], -1), (["a"], 0), (["a"], 1), (["a", "b"], 2), (["a", "b", "c"], 3)):
        if first + index >= 0:
            assert flat_until(model, first + index) == names
    if last == "softmax":
        bare = lrpfast.model_wo_softmax(model)
        assert not bare.sequential and flat_until(bare, 0) == [] and flat_until(bare, 1) == ["a"]
    with pytest.raises(lrpfast.RuleError, match="until_layer_idx must be"):
        flat_until(model, -1)


def test_what_is_made_of_a_sequential_model_is_counted_as_keras_counts_it(tmp_path):
    model = counted(tmp_path / "m.h5", "linear", sequential)
    assert model.sequential and lrpfast.model_wo_softmax(model).sequential  # nothing was left out
    assert model.with_input_shape((4,)).sequential and not model.until("b").sequential  # keras.Model(inputs, outputs)
    assert flat_until(model.with_input_shape((4,)), 0) == ["a"] and flat_until(model.until("b"), 0) == []
    assert not lrpfast.from_layers([lrpfast.layers.Dense(np.eye(2))]).sequential


@pytest.mark.parametrize("name, read", [("cnn.h5", False), ("mlp_relu.h5", True)])
def test_kernels_that_theano_turned_are_refused(name, read, tmp_path):
    path = tmp_path / name
    path.write_bytes((DATA / name).read_bytes())
    with h5py.File(path, "r+") as file:
        file.attrs["backend"] = "theano"
    if read:
        assert load(path).digest() == load(DATA / name).digest()
        return
    with pytest.raises(UnsupportedLayerError, match="saved by Keras's Theano backend"):
        load(path)
