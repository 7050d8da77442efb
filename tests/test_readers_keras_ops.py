"""Keras operations between layers, preprocessing, wrappers and classes of one's own, against what Keras predicts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L
from lrpfast.cli import main
from lrpfast.errors import InputError, ModelFormatError, UnsupportedLayerError
from lrpfast.readers import load
from test_readers_keras import arrays, entry, functional, layer, sequential, write_h5

DATA = Path(__file__).parent / "data"
FILES = sorted([*DATA.glob("keras_ops_*.keras"), *DATA.glob("keras_ops_*.h5.gz")])
CASES = ("normalization", "masking", "rescaling_only", "timedist_dense", "unitnorm", "ops_add", "ops_relu_mean")


def close(result, expected, title=""):
    assert result.shape == expected.shape, title
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-5 * np.abs(expected).max() + 1e-7, err_msg=title)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.removeprefix("keras_ops_"))
def test_real_files_predict_what_keras_does(path, tmp_path):
    stem = path.name.removeprefix("keras_ops_").removesuffix(".h5.gz").removesuffix(".keras")
    if path.suffix == ".gz":
        (tmp_path / "m.h5").write_bytes(gzip.decompress(path.read_bytes()))
        path = tmp_path / "m.h5"
    model = load(path)
    with np.load(DATA / "keras_ops.npz") as record:
        xs, ys = (
            [record[f"{stem}_{k}{i}"] for i in range(sum(key.startswith(f"{stem}_{k}") for key in record.files))]
            for k in "xy"
        )
    outputs = model.predict(xs if len(xs) > 1 else xs[0])
    for i, result, expected in zip(model.outputs, outputs, ys, strict=True):
        close(result, expected, str(model.nodes[i]))


@pytest.mark.filterwarnings("ignore::lrpfast.errors.VanishingWarning")
@pytest.mark.parametrize("name", CASES)
def test_cases_predict_and_conserve(name):
    model = load(DATA / f"keras_case_{name}.keras")
    with np.load(DATA / "keras_cases.npz") as record:
        x, y = record[f"{name}_x"], record[f"{name}_y"]
    close(model.predict(x), y)
    relevance = lrpfast.Analyzer(model, "epsilon").analyze(x)
    assert relevance.shape == x.shape
    assert np.isfinite(relevance).all()


def call(name, config=None, args=(), kwargs=None, module="keras.src.ops.numpy"):
    """A layer entry that is an operation of Keras 3."""
    tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": ["entry", 0, 0]}}
    filled = [tensor if arg == "x" else [tensor if a == "x" else a for a in arg] if isinstance(arg, list) else arg
              for arg in args]  # fmt: skip
    config = {"name": name.lower(), **(config or {})}
    return {
        "class_name": name, "config": config, "name": name.lower(), "module": module, "registered_name": name,
        "inbound_nodes": [{"args": filled, "kwargs": kwargs or {}}],
    }  # fmt: skip


def operation(tmp_path, shape, name, config=None, args=("x",), kwargs=None):
    model = functional(entry((None, *shape)), keras=3)
    model["config"]["layers"].append(call(name, config, args, kwargs))
    model["config"]["output_layers"] = [[name.lower(), 0, 0]]
    return load(write_h5(tmp_path / "m.h5", model, {}, "3.15.1"))


@pytest.mark.parametrize(
    "name, config, args, words",
    [
        ("Mean", {"axis": None}, ("x",), "reduces over all axes"),
        ("Mean", {"axis": 0}, ("x",), "axis 0"),
        ("Add", {}, ("x", [[1.0] * 6] * 3), "constant of shape|do not fit|broadcast"),
        ("Reshape", {"newshape": [2, -1]}, ("x",), "mixes samples"),
        ("Transpose", {"axes": [1, 0, 2]}, ("x",), "Keep the batch axis"),
        ("GetItem", {}, ("x", 0), "Keep the batch axis"),
        ("TrueDivide", {}, ("x", 0.0), "constant of 0"),
        ("Fft", {}, ("x",), "'fft', which lrpfast does not read.*These work: add"),
        ("Sum", {"axis": 1, "dtype": "int32"}, ("x",), "dtype='int32'"),
    ],
)
def test_operations_that_are_refused(tmp_path, name, config, args, words):
    with pytest.raises((UnsupportedLayerError, ModelFormatError), match=rf"'{name.lower()}' \(ops>{name}.*({words})"):
        operation(tmp_path, (4, 6), name, config, args)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "ReLU": ({"negative_slope": 0.1, "max_value": None, "threshold": 0.0}, lambda x: np.where(x > 0, x, 0.1 * x)),
    "Glu": ({"axis": -1}, lambda x: x[..., :3] * sigmoid(x[..., 3:])),
    "TanhShrink": ({}, lambda x: x - np.tanh(x)),
    "HardShrink": ({"threshold": 0.4}, lambda x: np.where(np.abs(x) > 0.4, x, 0)),
    "SoftShrink": ({"threshold": 0.4}, lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.4, 0)),
    "Logsumexp": ({"axis": 1, "keepdims": False}, lambda x: np.logaddexp.reduce(x, 1)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_that_are_operations(tmp_path, name):
    """`keras.activations.relu(x)` between layers is the operation ReLU; in an .h5 file, without its module."""
    config, function = ACTIVATIONS[name]
    model = operation(tmp_path, (4, 6), name, config)
    x = np.random.default_rng(0).normal(size=(3, 4, 6)).astype("float32")
    close(model.predict(x), function(x))
    if name == "Logsumexp":
        close(model.predict(1000 * x), np.logaddexp.reduce(1000 * x.astype(float), 1).astype("float32"))


def test_an_operation_and_its_parts_are_named_after_it(tmp_path):
    model = operation(tmp_path, (4, 6), "Min", {"axis": 1})
    assert [model.nodes[i].name for i in (0, -1)] == ["entry", "min"]
    assert model.nodes[1].name.startswith("min/")


def test_a_residual_conserves_relevance(tmp_path):
    model = load(DATA / "keras_case_ops_add.keras")
    x = np.random.default_rng(2).normal(size=(3, 6))
    result = lrpfast.Analyzer(model, "epsilon").analyze(x)
    assert np.isfinite(result).all() and np.abs(result).sum() > 0


def test_layers_of_keras_applications(tmp_path):
    """ConvNeXt's and InceptionResNetV2's own layers, which compute as their sources say."""
    (gamma,) = arrays((4,))
    model = functional(
        entry(),
        layer("LayerScale", "scale", projection_dim=4) | {"inbound": ["entry"]},
        layer("StochasticDepth", "depth") | {"inbound": ["scale"]},
        layer("CustomScaleLayer", "sum", scale=0.25) | {"inbound": ["entry", "depth"]},
    )
    x = np.random.default_rng(4).normal(size=(3, 4)).astype("float32")
    loaded = load(write_h5(tmp_path / "m.h5", model, {"scale": [gamma]}))
    close(loaded.predict(x), (x + 0.25 * gamma * x).astype("float32"))


def test_a_small_file_cannot_ask_for_any_memory(tmp_path):
    for name, config, args in (
        ("Tile", {"repeats": [1, 1_000_000_000, 1]}, ("x",)),
        ("Split", {"indices_or_sections": 100_000_000, "axis": 1}, ("x",)),
        ("Flip", {"axis": 1}, ("x",)),
        ("Normalize", {"axis": 1, "order": 2}, ("x",)),
    ):
        with pytest.raises((ModelFormatError, UnsupportedLayerError), match=f"'{name.lower()}'|memory|bytes"):
            operation(tmp_path, (4_000_000_000 if name != "Tile" else 4, 6), name, config, args)


# -- wrappers and masks -------------------------------------------------------


def test_what_a_wrapper_holds_is_refused_by_name(tmp_path):
    inner = layer("TimeDistributed", "inner", layer=layer("Mystery", "innermost"))
    model = sequential(entry((None, 5, 4, 3)), layer("TimeDistributed", "steps", layer=inner))
    with pytest.raises(UnsupportedLayerError, match=r"'steps' \(Mystery, 2 of 2\) is of a class that lrpfast does not"):
        load(write_h5(tmp_path / "m.h5", model, {"steps": []}))
    pooled = layer("MaxPooling3D", "pooled", pool_size=[2, 2, 2])
    model = sequential(entry((None, None, 2, 2, 2, 1)), layer("TimeDistributed", "steps", layer=pooled))
    path = write_h5(tmp_path / "m.h5", model, {"steps": []})
    with pytest.raises(UnsupportedLayerError, match=r"'steps'.*MaxPool to each time step.*input_shape"):
        load(path)
    x = np.arange(24, dtype="float32").reshape(1, 3, 2, 2, 2, 1)
    np.testing.assert_array_equal(load(path, input_shape=(3, 2, 2, 2, 1)).predict(x), x[:, :, -1:, -1:, -1:])


@pytest.mark.parametrize("steps", [1, 3])
def test_each_step_is_explained_as_by_itself(tmp_path, steps):
    weights = arrays((2, 2, 2, 2, 3), (3,))
    conv = layer("Conv3D", "conv", filters=3, kernel_size=[2, 2, 2], padding="same", activation="relu")
    single = load(write_h5(tmp_path / "1.h5", sequential(entry((None, 3, 2, 3, 2)), conv), {"conv": weights}))
    model = sequential(entry((None, steps, 3, 2, 3, 2)), layer("TimeDistributed", "steps", layer=conv))
    model = load(write_h5(tmp_path / "m.h5", model, {"steps": weights}))
    (x,) = arrays((4, steps, 3, 2, 3, 2))
    one = single.predict(x.reshape(-1, 3, 2, 3, 2))
    np.testing.assert_array_equal(model.predict(x), one.reshape(4, steps, *one.shape[1:]))
    for rule in (lrpfast.rules.Epsilon(0.1), lrpfast.rules.WSquare(), lrpfast.rules.ZPlus()):
        expected = lrpfast.Analyzer(single, rule, target=lambda y: y).analyze(x.reshape(-1, 3, 2, 3, 2))
        relevance = lrpfast.Analyzer(model, rule, target=lambda y: y).analyze(x)
        np.testing.assert_array_equal(relevance.reshape(expected.shape), expected)


def test_a_mask_goes_through_layers_that_carry_it(tmp_path):
    masked = [entry((None, 5, 4)), layer("Masking", "m", mask_value=0.0), layer("Activation", "a", activation="relu")]
    x = np.random.default_rng(4).normal(size=(1, 5, 4))
    x[:, 3:] = 0
    mean = load(write_h5(tmp_path / "m.h5", sequential(*masked, layer("GlobalAveragePooling1D", "p"))))
    close(mean.predict(x), np.maximum(x[:, :3], 0).mean(1))
    model = sequential(*masked, layer("Softmax", "p"))
    with pytest.raises(UnsupportedLayerError, match="'p'.*leaves out the time steps that 'm' masks"):
        load(write_h5(tmp_path / "m.h5", model))
    model = sequential(*masked, layer("Flatten", "f"), layer("Softmax", "s"))
    assert load(write_h5(tmp_path / "m.h5", model)).output_shape == (20,)
    model = load(write_h5(tmp_path / "m.h5", sequential(masked[0], layer("Masking", "m", mask_value=-9.0))))
    assert model.layers[1].value == -9


# -- classes of one's own -----------------------------------------------------


def own_dense(config, weights):
    return L.Dense(weights[0], weights[1], L.Activation(config["activation"]))


@pytest.mark.parametrize("value", ["Dense", L.Dense, own_dense])
@pytest.mark.parametrize("name", ["MyDense", "mine>MyDense"])
def test_a_class_of_ones_own(name, value):
    path = DATA / "keras_case_custom_sub.keras"
    with pytest.raises(UnsupportedLayerError, match=r"fit a Dense: .*custom_objects=\{'MyDense': 'Dense'\}"):
        load(path)
    model = load(path, custom_objects={name: value})
    own = model.nodes[1].layer
    assert (own.name, own.kernel.shape, own.activation.function) == ("my_dense", (6, 4), "relu")
    x = np.random.default_rng(3).normal(size=(4, 6)).astype("float32")
    expected = np.maximum(x @ own.kernel + own.bias, 0) @ model.nodes[2].layer.kernel + model.nodes[2].layer.bias
    close(model.predict(x), expected.astype("float32"))


def test_a_convolution_of_ones_own(tmp_path):
    kernel, bias = arrays((3, 4, 2), (2,))
    conv = layer("ConvDNA", "c", filters=2, kernel_size=[3], strides=[1], padding="valid", activation="relu")
    path = write_h5(tmp_path / "m.h5", sequential(entry((None, 8, 4)), conv), {"c": [kernel, bias]})
    with pytest.raises(UnsupportedLayerError, match="fit a Conv1D"):
        load(path)
    for value in (L.Conv, "Conv1D"):
        assert np.array_equal(load(path, custom_objects={"ConvDNA": value}).layers[1].kernel, kernel)


def test_a_lambda_by_its_name(tmp_path):
    path = write_h5(tmp_path / "m.h5", sequential(entry(), layer("Lambda", "halve", function=["code"])))
    with pytest.raises(UnsupportedLayerError, match=r"never runs.*custom_objects=\{'halve': f\}"):
        load(path)
    half = {"halve": lambda config, weights: L.BatchNorm(np.zeros(4), np.ones(4), np.full(4, 0.5), epsilon=0)}
    close(load(path, custom_objects=half).predict(np.ones((1, 4))), np.full((1, 4), 0.5))


def joined(kind, name, *sources, **config):
    return {**layer(kind, name, **config), "inbound": list(sources)}


def test_every_obstacle_is_named_at_once(tmp_path, capsys):
    """Unknown classes, settings that are not read and Python code; before and behind each other."""
    model = functional(
        entry((None, None, 4)),
        layer("PReLU", "open"),
        layer("Odd", "o1", units=3),
        layer("Lambda", "code", function=["code"]),
        joined("Odd", "o2", "open"),
        joined("StrangeAttention", "att", "open"),
        joined("Add", "sum", "code", "o2", "att"),
        layer("BatchNormalization", "bn", axis=[1, 2]),
    )
    weights = {"open": [np.ones((5, 4), np.float32)], "o1": [], "o2": [], "att": []}
    path = write_h5(tmp_path / "m.h5", model, weights)
    with pytest.raises(UnsupportedLayerError) as caught:
        load(path)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("m.h5: 5 layers are not read:")
    assert lines[1].startswith("- layer StrangeAttention 'att' (6 of 8)")  # a layer that a user knows
    assert lines[2].startswith("- layer PReLU 'open' (2 of 8): needs an input of fixed shape")
    assert lines[3].startswith("- 2 layers Odd 'o1' (3 of 8), 'o2' (5 of 8): is of a class that lrpfast does not read")
    assert lines[4].startswith("- layer Lambda 'code' (4 of 8): holds Python code")
    text = "\n".join(lines[5:])
    assert "custom_objects={class: f}" in text and "custom_objects={'code': f}" in text and "--input-shape" in text
    assert "'bn'" not in str(caught.value)  # what reaches it is not known

    assert main(["inspect", str(path)]) == 2
    assert capsys.readouterr().err.splitlines() == ["lrpfast: error: " + lines[0], *lines[1:]]
    own = {name: lambda config, weights: L.Identity("own") for name in ("Odd", "StrangeAttention", "code")}
    with pytest.raises(UnsupportedLayerError, match=r"layer 'bn' \(BatchNormalization, 8 of 8\) normalizes the axes"):
        load(path, custom_objects=own, input_shape=(5, 4))


def test_obstacles_in_models_inside_a_model(tmp_path):
    inner = {**sequential(entry((None, 4)), layer("Odd", "o1"), layer("Odd", "o2")), "name": "inner"}
    inner["config"]["name"] = "inner"
    path = write_h5(tmp_path / "m.h5", sequential(entry((None, 4)), inner, layer("Other", "p")))
    with pytest.raises(UnsupportedLayerError, match=r"2 layers Odd 'inner/o1' .*'inner/o2'.*\n.*Other 'p'"):
        load(path)


@pytest.mark.parametrize("value", [3, L.MaxPool, None, ["Dense"]])
def test_custom_objects_are_checked(value):
    with pytest.raises(InputError, match="custom_objects"):
        load(DATA / "keras_case_custom_sub.keras", custom_objects={"MyDense": value})
    with pytest.raises(InputError, match="must be a mapping"):
        load(DATA / "keras_case_custom_sub.keras", custom_objects=[1])


# -- Keras 1 ------------------------------------------------------------------


@pytest.mark.parametrize("ordering", ["tf", "th"])
def test_convolutions_of_keras_1(tmp_path, ordering):
    kernel, bias = arrays((3, 2, 4, 5), (5,))
    stored = kernel if ordering == "tf" else kernel.transpose(3, 2, 0, 1)
    shape = (6, 7, 4) if ordering == "tf" else (4, 6, 7)
    conv = layer("Convolution2D", "c", nb_filter=5, nb_row=3, nb_col=2, border_mode="same", subsample=[2, 1],
                 dim_ordering=ordering, activation="relu", bias=True)  # fmt: skip
    pool = layer("MaxPooling2D", "p", pool_size=[2, 2], strides=None, border_mode="valid", dim_ordering=ordering)
    path = write_h5(tmp_path / "m.h5", sequential(entry((None, *shape)), conv, pool), {"c": [stored, bias]}, "1.2.2")
    model = load(path)
    (layer_,) = [part for part in model.layers if isinstance(part, L.Conv)]
    assert np.array_equal(layer_.kernel, kernel)
    assert (layer_.strides, layer_.padding, layer_.activation.function) == ((2, 1), "same", "relu")
    assert model.output_shape == ((1, 3, 5) if ordering == "tf" else (5, 1, 3))


def test_a_one_dimensional_convolution_of_keras_1(tmp_path):
    kernel, bias = arrays((3, 1, 4, 5), (5,))
    conv = layer("Convolution1D", "c", nb_filter=5, filter_length=3, border_mode="valid", subsample_length=2)
    model = load(write_h5(tmp_path / "m.h5", sequential(entry((None, 9, 4)), conv), {"c": [kernel, bias]}, "1.2.2"))
    assert np.array_equal(model.layers[1].kernel, kernel[:, 0])
    assert (model.layers[1].strides, model.output_shape) == ((2,), (4, 5))


@pytest.mark.parametrize("version", ("2", "3"))
def test_conditions_logarithms_variances_and_reshapes_by_shape(version, tmp_path):
    (tmp_path / "m.h5").write_bytes(gzip.decompress((DATA / f"keras_choices_{version}.h5.gz").read_bytes()))
    with np.load(DATA / "keras_choices.npz") as record:
        x = record[f"{version}_x"]
        expected = [record[f"{version}_y{i}"] for i in range(sum(key.startswith(f"{version}_y") for key in record))]
    model = load(tmp_path / "m.h5")
    for i, result, y in zip(model.outputs, model.predict(x), expected, strict=True):
        close(result, y, str(model.nodes[i]))
        target = {model.nodes[i].name: 0}
        assert np.isfinite(lrpfast.Analyzer(model, "epsilon", target=target).analyze(x)).all()


@pytest.mark.parametrize("spelling", ("dict", "text"))
def test_operations_of_the_first_versions_of_tensorflow_2(spelling, tmp_path):
    """Layers of the class TensorFlowOpLayer; TF 2.0 and 2.1 write their nodes as the bytes of a message."""
    document = json.loads((DATA / "keras_tf_op_layer.json").read_text(encoding="utf-8"))[spelling]
    with np.load(DATA / "keras_choices.npz") as record:
        x, y = record["tf_x"], record["tf_y"]
    close(load(write_h5(tmp_path / "m.h5", document, {}, "2.3.0-tf")).predict(x), y)
    node = document["config"]["layers"][1]["config"]
    node["node_def"] = {"op": "Bincount"} if spelling == "dict" else node["node_def"][:7]
    with pytest.raises((UnsupportedLayerError, ModelFormatError), match="Bincount|node_def is damaged"):
        load(write_h5(tmp_path / "m.h5", document, {}, "2.3.0-tf"))


@pytest.mark.parametrize(
    "chain, words",
    [
        (("Shape", "Multiply"), "number of samples"),
        (("Greater", "Exp"), "comparison"),
        (("Greater", "Add"), "comparison"),
        (("Greater",), "output of the model is a comparison"),
    ],
)
def test_what_is_no_value_is_refused_where_a_value_is_needed(chain, words, tmp_path):
    document = json.loads((DATA / "keras_tf_op_layer.json").read_text(encoding="utf-8"))["dict"]
    layers, last = document["config"]["layers"][:1], "input_1"
    for op in chain:
        config = {"name": op, "node_def": {"op": {"Multiply": "Mul"}.get(op, op), "attr": {}}, "constants": {}}
        node = [[last, 0, 0, {}]]
        if op in ("Greater", "Multiply", "Add"):
            config["constants"] = {"1": 0.5}
        layers.append({"class_name": "TensorFlowOpLayer", "config": config, "name": op, "inbound_nodes": [node]})
        last = op
    document["config"] |= {"layers": layers, "output_layers": [[last, 0, 0]]}
    with pytest.raises(UnsupportedLayerError, match=words):
        load(write_h5(tmp_path / "m.h5", document, {}, "2.3.0-tf"))


def test_an_activation_of_ones_own_by_its_name(tmp_path):
    """As Keras 2 writes it, a name; and as Keras 3 does, a function, perhaps registered under a package."""
    spellings = ("twist", "mine>twist", {"module": "builtins", "class_name": "function", "config": "twist"})
    x = np.array([[-1.0, 0.5]])
    for i, spelling in enumerate(spellings):
        path = write_h5(
            tmp_path / f"{i}.h5", sequential(entry((None, 2)), layer("Activation", "a", activation=spelling))
        )
        with pytest.raises(UnsupportedLayerError, match="twist'.*custom_objects"):
            load(path)
        close(load(path, custom_objects={"twist": "tanh"}).predict(x), np.tanh(x))
        own = {"twist": lambda config, weights: L.Activation("elu", {"alpha": 0.5})}
        close(load(path, custom_objects=own).predict(x), np.where(x > 0, x, 0.5 * np.expm1(x)))
        with pytest.raises(ModelFormatError, match="must return a lrpfast.layers.Activation"):
            load(path, custom_objects={"twist": lambda config, weights: L.Identity()})


class Weighted(L.Block):
    """w * a + b, with a constructor of its own."""

    def __init__(self, weight):
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "name", None)

    def build(self, graph, a, b):
        n = len(self.weight)
        scaled = graph.add(
            L.BatchNorm(np.zeros(n), np.ones(n), self.weight, np.zeros(n), 0.0, name=f"{self.name}/w"), a
        )
        return graph.add(L.Add(name=self.name), scaled, b)


def test_a_class_of_two_inputs_is_a_block(tmp_path):
    """As mmsplice's GlobalAveragePooling1D_Mask0."""
    mine = {"class_name": "Mine", "config": {"name": "mine"}, "inbound": ["d", "entry"]}
    dense = layer("Dense", "d", units=4, activation="relu")
    model = functional(entry((None, 4)), dense, mine)
    kernel, bias, weight = arrays((4, 4), (4,), (4,))
    path = write_h5(tmp_path / "m.h5", model, {"d": [kernel, bias], "mine": [weight]})
    loaded = load(path, custom_objects={"Mine": lambda config, weights: Weighted(weights[0])})
    (x,) = arrays((3, 4))
    close(loaded.predict(x), np.maximum(x @ kernel + bias, 0) * weight + x)
    assert [layer.name for layer in loaded.layers][-2:] == ["mine/w", "mine"]
