"""Keras layers and graphs: what real files predict, and every setting and fault that a file can hold."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L
from lrpfast.errors import LrpfastError, ModelFormatError, UnsupportedLayerError
from lrpfast.readers import load
from lrpfast.readers.keras.config import RANDOM, first_number
from lrpfast.readers.keras.layers import CONVERTERS
from test_readers_keras import ACTIVATIONS, arrays, dense, entry, functional, layer, sequential, write_h5, write_keras

DATA = Path(__file__).parent / "data"
FILES = sorted(DATA.glob("keras_layers_*_*.*"))

# -- real files ---------------------------------------------------------------


def recorded(path):
    """Inputs and Keras's predictions, as lists."""
    stem = path.name.removeprefix("keras_layers_").rsplit(".", 1)[0]
    with np.load(DATA / "keras_layers.npz") as record:
        return [
            [
                record[f"{stem}_{letter}{i}"]
                for i in range(sum(key.startswith(f"{stem}_{letter}") for key in record.files))
            ]
            for letter in "xy"
        ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.removeprefix("keras_layers_"))
def test_real_files_predict_what_keras_does(path):
    inputs, expected = recorded(path)
    model = load(path)
    assert len(model.inputs) == len(inputs)
    outputs = model.predict(inputs if len(inputs) > 1 else inputs[0])
    outputs = outputs if isinstance(outputs, list) else [outputs]
    for i, result, expected_output in zip(model.outputs, outputs, expected, strict=True):
        assert result.shape == expected_output.shape, model.nodes[i]
        np.testing.assert_allclose(
            result,
            expected_output,
            rtol=0,
            atol=1e-5 * np.abs(expected_output).max() + 1e-7,
            err_msg=str(model.nodes[i]),
        )


def test_real_files_have_every_class_but_those_tried_by_hand():
    by_hand = {"ActivityRegularization", "AlphaDropout", "ELU", "GaussianDropout", "GaussianNoise", "Identity"}
    by_hand |= {f"AdaptiveAveragePooling{rank}D" for rank in (1, 2, 3)}
    by_hand |= {"LeakyReLU", "SpatialDropout3D", "StochasticDepth", "ThresholdedReLU"}  # test_readers_keras.py
    source = (DATA / "make_keras_layers.py").read_text()
    missing = {name for name in CONVERTERS if f"L.{name}(" not in source and f"L.{name}," not in source}
    assert missing - by_hand - {*RANDOM} <= {"Minimum"}  # all in RANDOM are the same Identity
    assert {path.name.split("_")[2] for path in FILES} == {"2.14.0", "3.15.1"}


def names(model):
    return [node.name for node in model.nodes]


@pytest.mark.parametrize("path", [path for path in FILES if "_merge." in path.name], ids=lambda path: path.name[13:])
def test_shared_and_nested_layers_are_the_same_objects(path):
    model = load(path)
    assert names(model)[:2] == ["b", "a"]
    node = {node.name: node for node in model.nodes}
    # inner calls one layer twice, and is called twice itself
    assert [node[f"inner/twice{use}"].layer for use in ("", ":1", ":2", ":3")] == [node["inner/twice"].layer] * 4
    assert node["shared"].layer is node["shared:1"].layer
    assert node["stack/deep/chain/one"].layer is node["stack/deep/chain/one:1"].layer
    assert [model.nodes[i].name for i in node["pairing/joined"].inputs] == ["inner/side", "stack/top:1"]
    assert [model.nodes[i].name for i in node["subtract"].inputs] == ["shared", "shared:1"]
    kernels = [node[name].layer.kernel for name in ("shared", "inner/twice", "stack/top")]
    assert all(k.shape == (4, 4) for k in kernels)


def test_channels_first_layers_stand_between_permutations_that_cancel():
    model = load(DATA / "keras_layers_2.14.0_first.keras")
    assert not [name for name in names(model) if name in ("c1/channels_first", "bn/channels_last", "mp/channels_last")]
    assert {"c1/channels_last", "sep/channels_last", "sep/depthwise", "sep"} <= set(names(model))
    assert "gap/channels_last" not in names(model)  # it takes what sep had before its own permutation
    node = {node.name: node for node in model.nodes}
    assert model.nodes[node["flat"].inputs[0]].name == "sep"


# -- one layer at a time ------------------------------------------------------


def one(tmp_path, kind, shape, weights=(), keras="2.14.0", **config):
    """The layers that one Keras layer becomes."""
    model = sequential(entry((None, *shape)), layer(kind, "x", **config))
    return list(load(write_h5(tmp_path / "m.h5", model, {"x": list(weights)}, keras)).layers[1:])


@pytest.mark.parametrize("rank", (1, 2, 3))
def test_adaptive_pooling(rank, tmp_path):
    """Window i of n values into m covers floor(i n / m) to ceil((i + 1) n / m)."""
    shape, size = (5, 7, 4)[:rank], (2, 3, 4)[:rank]
    (pool,) = one(tmp_path, f"AdaptiveAveragePooling{rank}D", (*shape, 3), output_size=list(size))
    x = np.random.default_rng(rank).normal(size=(2, *shape, 3))
    expected = x
    for axis, (n, m) in enumerate(zip(shape, size, strict=True), 1):
        parts = [expected.take(range(i * n // m, -(-(i + 1) * n // m)), axis).mean(axis) for i in range(m)]
        expected = np.stack(parts, axis)
    model = lrpfast.from_layers([pool], input_shape=(*shape, 3))
    np.testing.assert_allclose(model.predict(x, precision="float64"), expected, atol=1e-12)


def test_defaults_and_spellings(tmp_path):
    kernel, bias = arrays((3, 3, 4, 2), (2,))
    (conv,) = one(tmp_path, "Conv2D", (5, 5, 4), [kernel, bias], filters=2, kernel_size=3)
    assert (conv.strides, conv.dilation, conv.groups, conv.padding, conv.activation) == (
        (1, 1),
        (1, 1),
        1,
        "valid",
        None,
    )
    assert np.array_equal(conv.kernel, kernel)
    (pool,) = one(tmp_path, "MaxPooling2D", (5, 5, 4), pool_size=[3, 2], strides=None)
    assert (pool.size, pool.strides) == ((3, 2), (3, 2))
    wrapped = {"class_name": "__tuple__", "items": [1, 2]}
    (pool,) = one(tmp_path, "AveragePooling2D", (5, 5, 4), pool_size=2, strides=wrapped, padding="same")
    assert (pool.strides, pool.padding, pool.count_include_pad) == ((1, 2), "same", False)
    (pad,) = one(tmp_path, "ZeroPadding2D", (5, 5, 4), padding=[1, 2])
    assert pad.pairs == ((1, 1), (2, 2))
    (pad,) = one(tmp_path, "ZeroPadding1D", (5, 4), padding=[1, 2])
    assert pad.pairs == ((1, 2),)
    (crop,) = one(tmp_path, "Cropping3D", (5, 5, 5, 4), cropping=[[1, 0], [0, 2], [1, 1]])
    assert crop.pairs == ((1, 0), (0, 2), (1, 1))
    (up,) = one(tmp_path, "UpSampling1D", (5, 4), size=3)
    assert (up.size, up.interpolation) == ((3,), "nearest")
    (table,) = arrays((7, 3))
    (embedding,) = one(tmp_path, "Embedding", (6,), [table], input_dim=7, output_dim=3)
    assert np.array_equal(embedding.table, table)
    (move,) = one(tmp_path, "Permute", (5, 4, 3), dims=[3, 1, 2])
    assert move.axes == (2, 0, 1)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("axis", [2, -1, [2], 1, [-2]])
def test_batch_normalization(tmp_path, scale, center, axis):
    n = 4 if axis in (2, -1, [2]) else 5
    keys = [*(["gamma"] if scale else []), *(["beta"] if center else []), "mean", "variance"]
    values = dict(zip(keys, np.abs(arrays(*[(n,)] * len(keys))), strict=True))
    result = one(tmp_path, "BatchNormalization", (5, 4), values.values(), axis=axis, scale=scale, center=center)
    assert [part.name for part in result] == (["x"] if n == 4 else ["x/channels_last", "x", "x/channels_first"])
    norm = result[len(result) // 2]
    assert norm.epsilon == 1e-3
    for key in ("gamma", "beta", "mean", "variance"):
        assert np.array_equal(getattr(norm, key), values[key]) if key in values else getattr(norm, key) is None


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_a_softmax_is_over_the_last_axis_wherever_the_channels_are(tmp_path, function):
    kernel, bias = arrays((2, 3, 4), (4,))
    config = {"filters": 4, "kernel_size": [2], "data_format": "channels_first", "activation": function}
    result = one(tmp_path, "Conv1D", (3, 6), [kernel, bias], **config)
    assert [part.name for part in result] == ["x/channels_last", "x", "x/channels_first", f"x/{function}"]
    assert (result[1].activation, result[3].function) == (None, function)
    result = one(tmp_path, "Softmax", (3, 6), axis=1)
    assert [type(part) for part in result] == [L.Permute, L.Activation, L.Permute]


def test_layer_norm_flags(tmp_path):
    (gamma,) = arrays((5, 4))
    (norm,) = one(tmp_path, "LayerNormalization", (5, 4), [gamma], axis=[1, 2], center=False)
    assert (norm.axes, norm.beta, norm.epsilon) == (2, None, 1e-3)
    assert np.array_equal(norm.gamma, gamma)
    (norm,) = one(tmp_path, "RMSNormalization", (5, 4), arrays((4,)), keras="3.15.1", axis=-1)
    assert (type(norm), norm.axes, norm.epsilon) == (L.RMSNorm, 1, 1e-6)


GOOD = {"filters": 2, "kernel_size": [2]}
REFUSED = [
    ("Masking", (5, 4, 2), {"mask_value": -1.0}, ["Masking", "all values are -1.0"]),
    ("ConvLSTM1D", (5, 4, 2), {"filters": 3}, ["ConvLSTM1D", "part.keras", "docs/layers.md"]),
    ("Attention", (5, 4), {}, ["Attention"]),
    ("TFOpLambda", (4,), {"function": "nn.relu"}, ["TFOpLambda"]),
    ("LayerNormalization", (5, 4), {"axis": 1}, ["normalizes axis 1", "last axes of (5, 4)"]),
    ("LayerNormalization", (5, 4), {"axis": [2, 1]}, ["normalizes axis [2, 1]"]),
    ("LayerNormalization", (5, 4), {"rms_scaling": True}, ["rms_scaling", "RMSNormalization"]),
    ("BatchNormalization", (5, 4), {"axis": [1, 2]}, ["axes [1, 2] together"]),
    ("BatchNormalization", (5, 4), {"axis": 0}, ["axis 0", "the batch"]),
    ("BatchNormalization", (5, 4), {"axis": 3}, ["axis 3", "(batch, 5, 4)"]),
    ("BatchNormalization", (5, 4), {"renorm": True}, ["renormalization"]),
    ("UpSampling2D", (5, 4, 2), {"interpolation": "bicubic"}, ["'bicubic'", "nearest, bilinear"]),
    ("Softmax", (5, 4), {"axis": [1, 2]}, ["axis [1, 2]", "one axis"]),
    ("LocallyConnected1D", (5, 4), {**GOOD, "implementation": 4}, ["implementation 4", "1, 2 and 3"]),
    ("Conv1D", (5, 4), {**GOOD, "activation": "sparsemax"}, ["'sparsemax'"]),
    *(("Activation", (4,), {"activation": name}, [f"'{name}'"]) for name in ("power", "clip", "shrink", "prelu")),
    ("Concatenate", (5, 4), {"axis": 0}, ["axis 0", "the batch"]),
]


@pytest.mark.parametrize("kind, shape, config, words", REFUSED)
def test_what_is_refused_is_named(tmp_path, kind, shape, config, words):
    weights = arrays((2, 4, 2), (2,)) if kind == "Conv1D" else []
    with pytest.raises(UnsupportedLayerError) as caught:
        one(tmp_path, kind, shape, weights, **config)
    for word in ("layer 'x'", f"({kind}, 2 of 2)", *words):
        assert word in str(caught.value)


DAMAGED = [
    ("Conv1D", (5, 4), {}, "no 'filters'"),
    ("Conv1D", (5, 4), {"filters": 2}, "no 'kernel_size'"),
    ("Conv1D", (5, 4), {**GOOD, "kernel_size": 0}, "kernel_size"),
    ("Conv1D", (5, 4), {**GOOD, "kernel_size": [2, 2]}, "kernel_size"),
    ("Conv1D", (5, 4), {**GOOD, "strides": "two"}, "strides"),
    ("Conv1D", (5, 4), {**GOOD, "groups": 0}, "groups"),
    ("Conv1D", (5, 4), {**GOOD, "padding": "reflect"}, "padding"),
    ("Conv1D", (5, None), GOOD, "fixed size"),
    ("Conv1D", (1, 4), GOOD, "reaches over 2"),
    ("Conv1D", (5, 3), GOOD, "kernel has shape"),
    ("Conv1D", (4,), GOOD, "kernel has shape|spatial"),
    ("DepthwiseConv1D", (5, 4), {"kernel_size": [2], "depth_multiplier": 3}, "found 2|kernel has shape"),
    ("SeparableConv1D", (5, 4), GOOD, "depthwise_kernel, pointwise_kernel, bias"),
    ("LocallyConnected1D", (5, 4), GOOD, "kernel has shape"),
    ("LocallyConnected1D", (None, 4), GOOD, "fixed size"),
    ("LocallyConnected1D", (1, 4), GOOD, "does not fit"),
    ("LocallyConnected1D", (5, 4), {**GOOD, "implementation": 3}, "kernel has shape"),
    ("MaxPooling2D", (5, 4), {"pool_size": 2}, "2 spatial"),
    ("MaxPooling1D", (5, 4), {}, "no 'pool_size'"),
    ("GlobalAveragePooling2D", (5, 4), {}, "2 spatial"),
    ("ZeroPadding2D", (5, 4, 3), {"padding": [1, 2, 3]}, "padding"),
    ("Cropping1D", (5, 4), {"cropping": [3, 2]}, "nothing is left"),
    ("Permute", (5, 4), {"dims": [1, 3]}, "axes"),
    ("RepeatVector", (4,), {"n": 0}, "count"),
    ("RepeatVector", (5, 4), {"n": 2}, "repeats vectors"),
    ("Dot", (4,), {"axes": 1}, "1 inputs"),
    ("Subtract", (4,), {}, "takes 2 inputs"),
    ("Embedding", (4,), {"input_dim": 3}, "no 'output_dim'"),
    ("BatchNormalization", (5, 4), {}, "found 2"),
]


@pytest.mark.parametrize("kind, shape, config, words", DAMAGED)
def test_settings_that_do_not_fit_are_named(tmp_path, kind, shape, config, words):
    with pytest.raises(ModelFormatError, match=rf"layer 'x' \({kind}, 2 of 2\).*({words})"):
        one(tmp_path, kind, shape, arrays((2, 4, 2), (2,)), **config)


def test_a_locally_connected_kernel_is_not_spread_beyond_what_is_stored(tmp_path):
    config = {"filters": 1, "kernel_size": [10**9], "padding": "same", "implementation": 3}
    with pytest.raises(ModelFormatError, match="too small"):
        one(tmp_path, "LocallyConnected1D", (4, 1), arrays((4,), (4, 1)), **config)


# -- graphs by hand -----------------------------------------------------------


@pytest.fixture(params=[2, 3])
def keras(request):
    return request.param


def read(tmp_path, keras, *layers, weights=None, **options):
    model = functional(*(dict(item) for item in layers), keras=keras, **options)
    return load(write_h5(tmp_path / "m.h5", model, weights or {}, f"{keras}.0.0"))


B = {"b": arrays((4, 4), (4,))}


def test_branches_in_an_order_that_is_not_that_of_computation(tmp_path, keras):
    layers = (
        layer("Add", "add") | {"inbound": ["b", "r"]},
        layer("ReLU", "r") | {"inbound": ["entry"]},
        dense("b", 4) | {"inbound": ["r"]},
        entry() | {"inbound": []},
    )
    model = read(tmp_path, keras, *layers, weights=B, outputs=["add", "r"])
    assert names(model) == ["entry", "r", "b", "add"]
    assert [node.inputs for node in model.nodes] == [(), (0,), (1,), (2, 1)]
    assert model.outputs == (3, 1)


def test_a_shared_layer(tmp_path, keras):
    layers = (
        entry(),
        dense("b", 4) | {"inbound": [["entry"], ["b"]]},
        layer("Add", "add") | {"inbound": ["b", "entry"]},
    )
    model = functional(*layers, keras=keras)
    for item in model["config"]["layers"]:  # the sum takes the second use
        if item["name"] == "add":
            text = item["inbound_nodes"][0]
            reference = text[0] if keras == 2 else text["args"][0][0]["config"]["keras_history"]
            reference[1] = 1
    result = load(write_h5(tmp_path / "m.h5", model, B, f"{keras}.0.0"))
    assert [(node.name, node.inputs) for node in result.nodes] == [
        ("entry", ()), ("b", (0,)), ("b:1", (1,)), ("add", (2, 0))
    ]  # fmt: skip
    assert result.nodes[1].layer is result.nodes[2].layer


def test_layers_that_no_output_needs_are_left_out(tmp_path, keras):
    stray = layer("Lambda", "odd") | {"inbound": ["b"]}
    model = read(tmp_path, keras, entry(), dense("b", 4), stray, weights=B, outputs=["b"])
    assert names(model) == ["entry", "b"]


def test_inputs_in_the_order_that_the_model_says(tmp_path, keras):
    other = layer("InputLayer", "other", batch_input_shape=[None, 4]) | {"inbound": []}
    both = layer("Subtract", "s") | {"inbound": ["entry", "other"]}
    model = read(tmp_path, keras, entry(), other, both, inputs=["other", "entry"])
    assert names(model) == ["other", "entry", "s"]
    assert model.nodes[2].inputs == (1, 0)
    with pytest.raises(UnsupportedLayerError, match=r"'other' \(InputLayer\): no output depends on it"):
        read(tmp_path, keras, entry(), other, dense("b", 4) | {"inbound": ["entry"]}, weights=B,
             inputs=["other", "entry"])  # fmt: skip


def test_axes_and_several_inputs(tmp_path, keras):
    cases = (
        (layer("Concatenate", "m", axis=2), L.Concat, {"axis": 1}),
        (layer("Concatenate", "m", axis=-1), L.Concat, {"axis": 1}),
        (layer("Dot", "m", axes=[1, -2], normalize=True), L.Dot, {"axes": (0, 0), "normalize": True}),
        (layer("Dot", "m", axes=2), L.Dot, {"axes": (1, 1), "normalize": False}),
        (layer("Minimum", "m"), L.Minimum, {}),
    )
    for item, kind, attributes in cases:
        merged = read(tmp_path, keras, entry((None, 3, 4)), layer("ReLU", "r"), item | {"inbound": ["entry", "r"]})
        last = merged.layers[-1]
        assert type(last) is kind
        assert {key: getattr(last, key) for key in attributes} == attributes


@pytest.mark.parametrize(
    "layers, error, words",
    [
        ((entry(), dense("b", 4) | {"inbound": ["b"]}), ModelFormatError, ["'b'", "feeds itself"]),
        ((entry(), dense("b", 4) | {"inbound": []}), ModelFormatError, ["'b'", "nothing feeds it"]),
        ((entry(), dense("b", 4) | {"inbound": ["ghost"]}), ModelFormatError, ["'b'", "'ghost'", "no layer"]),
        ((entry(), dense("b", 4) | {"inbound": ["entry", "entry"]}), ModelFormatError, ["'b'", "one input"]),
        ((entry(), layer("Dot", "d", axes=1) | {"inbound": ["entry"] * 3}), ModelFormatError, ["'d'", "3 inputs"]),
        ((entry(), layer("Odd", "o") | {"inbound": ["entry", "entry"]}), UnsupportedLayerError, ["'o'", "Odd, 2 of 2"]),
        (
            (entry((None, 3, 4)), layer("Flatten", "f"), layer("Add", "a") | {"inbound": ["f", "entry"]}),
            ModelFormatError,
            ["'a'", "(12,), (3, 4)"],
        ),
    ],
)  # fmt: skip
def test_graphs_that_are_no_models(tmp_path, keras, layers, error, words):
    with pytest.raises(error) as caught:
        read(tmp_path, keras, *layers, weights=B)
    for word in words:
        assert word in str(caught.value)


def test_a_second_use_that_nothing_needs_is_not_looked_at(tmp_path, keras):
    layers = (
        entry(),
        layer("ReLU", "r") | {"inbound": [["entry"], ["g"]]},
        layer("Reshape", "g", target_shape=[2, 2]) | {"inbound": ["entry"]},
        layer("Flatten", "f") | {"inbound": ["r"]},
    )
    assert names(read(tmp_path, keras, *layers)) == ["entry", "r", "f"]


def test_missing_ends(tmp_path, keras):
    for key in ("input_layers", "output_layers"):
        model = functional(entry(), dense("b", 4), keras=keras)
        del model["config"][key]
        with pytest.raises(ModelFormatError, match=key):
            load(write_h5(tmp_path / "m.h5", model, B))
    with pytest.raises(ModelFormatError, match="no layer of it"):
        read(tmp_path, keras, entry(), dense("b", 4), weights=B, outputs=["ghost"])
    with pytest.raises(ModelFormatError, match=r"'ghost'.*does not say its input shape"):
        read(tmp_path, keras, entry(), dense("b", 4), weights=B, inputs=["ghost"])


def test_a_call_that_is_not_there(tmp_path):
    model = functional(entry(), dense("b", 4), layer("ReLU", "r"), outputs=["r"])
    model["config"]["layers"][2]["inbound_nodes"][0][0][1] = 7
    with pytest.raises(
        ModelFormatError, match=r"'r' \(ReLU, 3 of 3\) is fed by call 7 of 'b', which is called 1 times"
    ):
        load(write_h5(tmp_path / "m.h5", model, B))
    model["config"]["layers"][2]["inbound_nodes"][0][0][1:3] = [0, 2]
    with pytest.raises(ModelFormatError, match=r"'r' .* fed by output 2 of layer 'b'.*which has 1"):
        load(write_h5(tmp_path / "m.h5", model, B))


@pytest.mark.parametrize(
    "numbers, calls, guess, first",
    [({0}, 1, 1, 0), ({1}, 1, 0, 1), ({1, 2}, 2, 0, 1), ({0, 1}, 2, 1, 0), ({1}, 2, 1, 1), ({1}, 2, 0, 0)],
)
def test_calls_are_counted_from_where_the_file_counts_them(numbers, calls, guess, first):
    assert first_number(numbers, calls, guess) == first


# -- calls with more than inputs ----------------------------------------------


def call_with(keras, **kwargs):
    """entry -> b -> n (BatchNormalization), which is called with keyword arguments."""
    model = functional(entry(), dense("b", 4), layer("BatchNormalization", "n"), keras=keras)
    nodes = model["config"]["layers"][2]["inbound_nodes"]
    if keras == 2:
        nodes[0][0][3] = kwargs
    else:
        nodes[0]["kwargs"] = kwargs
    return model


WEIGHTS = {**B, "n": [np.ones(4)] * 4}


def test_calls_with_arguments(tmp_path, keras):
    path = tmp_path / "m.h5"
    for options in ({"training": False}, {"training": None}, {"mask": None}):
        assert names(load(write_h5(path, call_with(keras, **options), WEIGHTS))) == ["entry", "b", "n"]
    with pytest.raises(UnsupportedLayerError, match=r"'n' \(BatchNormalization, 3 of 3\) is called with training=True"):
        load(write_h5(path, call_with(keras, training=True), WEIGHTS))
    tensor = ["entry", 0, 0] if keras == 2 else {"class_name": "__keras_tensor__",
                                                  "config": {"keras_history": ["entry", 0, 0]}}  # fmt: skip
    with pytest.raises(UnsupportedLayerError, match="is called with 'entry' as 'scale'"):
        load(write_h5(path, call_with(keras, scale=tensor), WEIGHTS))


def test_constants_in_calls(tmp_path):
    model = functional(entry(), layer("Add", "a"))
    model["config"]["layers"][1]["inbound_nodes"][0].append(["_CONSTANT_VALUE", -1, 2.0, {}])
    with pytest.raises(UnsupportedLayerError, match=r"'a' \(Add, 2 of 2\) is called with the constant"):
        load(write_h5(tmp_path / "m.h5", model))
    model = functional(entry(), layer("Add", "a"), keras=3)
    model["config"]["layers"][1]["inbound_nodes"][0]["args"].append(1.0)
    with pytest.raises(UnsupportedLayerError, match=r"'a' \(Add, 2 of 2\) is called with the constant 1\.0"):
        load(write_h5(tmp_path / "m.h5", model, {}, "3.0.0"))


def test_an_operation_is_not_the_layer_of_its_name(tmp_path):
    """keras.ops.add is of class Add; what .h5 says of it has neither a module nor a dtype."""
    model = functional(entry(), dense("b", 4), layer("Add", "a") | {"inbound": ["b", "entry"]}, keras=3)
    bare = model["config"]["layers"][2]
    del bare["config"]["trainable"]
    with pytest.raises(UnsupportedLayerError, match=r"'a' \(ops>Add, 3 of 3\)"):
        load(write_h5(tmp_path / "m.h5", model, B, "3.15.1"))
    bare["module"] = "keras.src.ops.numpy"
    with pytest.raises(UnsupportedLayerError, match=r"'a' \(ops>Add, 3 of 3\)"):
        load(write_keras(tmp_path / "m.keras", model, {"dense": (None, B["b"])}))


# -- masks --------------------------------------------------------------------


@pytest.mark.parametrize(
    "between, last, fine",
    [
        ([], "GlobalAveragePooling1D", True),
        ([layer("LayerNormalization", "n", scale=False, center=False), layer("Dropout", "d")], "Softmax", False),
        ([layer("Flatten", "f")], "Softmax", True),
        ([layer("MaxPooling1D", "p", pool_size=2)], "GlobalAveragePooling1D", True),
        ([], "GlobalMaxPooling1D", True),
        ([], "Flatten", True),
    ],
)
def test_masks_that_a_layer_would_use(tmp_path, between, last, fine):
    words = layer("Embedding", "words", input_dim=5, output_dim=3, mask_zero=True)
    model = sequential(entry((None, 6)), words, *between, layer(last, "last"))
    path = write_h5(tmp_path / "m.h5", model, {"words": arrays((5, 3)), "n": []})
    if fine:
        assert load(path).layers[1].name == "words"
    else:
        with pytest.raises(UnsupportedLayerError, match=rf"'last' \({last}, . of .\).*'words' masks"):
            load(path)


# -- nested models ------------------------------------------------------------


def test_a_small_file_cannot_ask_for_any_number_of_layers(tmp_path):
    """Each model holds the one before twice: 2 ** 30 layers in a few kilobytes."""
    model = sequential(entry(), layer("ReLU", "r"), name="m0")
    for depth in range(30):
        inner = {**model, "name": f"m{depth}"}
        model = functional(entry(), inner | {"inbound": [["entry"], [f"m{depth}"]]}, outputs=[f"m{depth}"], keras=2)
        model["config"]["name"] = f"m{depth + 1}"
        model["config"]["output_layers"] = [[f"m{depth}", 2, 0]]
        model["config"]["layers"][1]["inbound_nodes"][1][0][1] = 1
    with pytest.raises(ModelFormatError, match="counted at every use, are 3,221,225,471"):
        load(write_h5(tmp_path / "m.h5", model))


def test_nested_models_are_called_with_what_they_take(tmp_path):
    inner = functional(entry(), layer("InputLayer", "more", batch_input_shape=[None, 4]) | {"inbound": []},
                       layer("Subtract", "s") | {"inbound": ["entry", "more"]}, inputs=["entry", "more"])  # fmt: skip
    inner["config"]["name"] = "inner"
    outer = functional(entry(), layer("ReLU", "r"), inner | {"name": "inner", "inbound": ["r", "entry"]})
    model = load(write_h5(tmp_path / "m.h5", outer))
    assert [(node.name, node.inputs) for node in model.nodes] == [("entry", ()), ("r", (0,)), ("inner/s", (1, 0))]
    call = outer["config"]["layers"][2]["inbound_nodes"][0]
    keyed = {"more": call[0], "entry": call[1]}  # Keras matches the keys with the inputs' names
    outer["config"]["layers"][2]["inbound_nodes"][0] = keyed
    assert load(write_h5(tmp_path / "m.h5", outer)).nodes[2].inputs == (0, 1)
    outer["config"]["layers"][2]["inbound_nodes"][0] = call[:1]
    with pytest.raises(ModelFormatError, match="the model 'inner' takes 2 inputs, it is called with 1"):
        load(write_h5(tmp_path / "m.h5", outer))


def test_random_damage_to_a_configuration_is_one_kind_of_error(tmp_path):
    source = DATA / "keras_layers_3.15.1_merge.keras"
    with zipfile.ZipFile(source) as archive:
        config, weights = archive.read("config.json").decode(), archive.read("model.weights.h5")
    random = np.random.RandomState(3)
    for _ in range(60):
        text = list(config)
        for i in random.randint(0, len(text), 3):
            text[i] = random.choice(list('0123[]{}",:-anull'))
        memory = io.BytesIO()
        with zipfile.ZipFile(memory, "w") as archive:
            archive.writestr("config.json", "".join(text))
            archive.writestr("model.weights.h5", weights)
        (tmp_path / "m.keras").write_bytes(memory.getvalue())
        try:
            load(tmp_path / "m.keras")
        except LrpfastError as error:
            assert "m.keras" in str(error)


def test_activations_within_convolutions(tmp_path):
    kernel, bias = arrays((2, 4, 3), (3,))
    for value, major, function, parameters in ACTIVATIONS:
        config = {**GOOD, "filters": 3, "activation": value}
        (conv,) = one(tmp_path, "Conv1D", (5, 4), [kernel, bias], f"{major}.0.0", **config)
        if function is None:
            assert conv.activation is None
        else:
            expected = {**L.Activation(function).parameters, **parameters}
            assert (conv.activation.function, conv.activation.parameters) == (function, expected)
