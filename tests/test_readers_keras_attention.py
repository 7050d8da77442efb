"""Keras's attention layers: predictions of both versions, and masks; `test_attention_files` has recorded relevance."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast.errors import ModelFormatError, UnsupportedLayerError
from lrpfast.readers import load
from test_readers_keras import entry, functional, layer, write_h5

DATA = Path(__file__).parent / "data"


def unzipped(path, tmp_path):
    if path.suffix != ".gz":
        return path
    (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    return tmp_path / path.stem


@pytest.mark.parametrize("version", (2, 3))
def test_every_class_predicts_what_keras_does(version, tmp_path):
    """Masks given, causal and implicit, attended axes, gates, shared heads, tanh scores."""
    model = load(unzipped(DATA / f"keras_attention_{version}.h5.gz", tmp_path))
    with np.load(DATA / f"keras_attention_{version}.npz") as record:
        inputs = [record[f"x{i}"] for i in range(5)]
        expected = {model.nodes[node].name: record[f"y{i}"] for i, node in enumerate(model.outputs)}
    assert len(expected) == (13 if version == 3 else 11)
    outputs = model.predict([x.astype(np.float32) for x in inputs])
    for result, (name, y) in zip(outputs, expected.items(), strict=True):
        np.testing.assert_allclose(result, y, rtol=0, atol=2e-6 * np.abs(y).max(), err_msg=name)
    names = {node.name for node in model.nodes}
    assert {"cross/query", "cross/key", "cross/value", "cross/attention", "cross"} <= names


@pytest.mark.parametrize("suffix", (".keras", ".h5.gz"))
def test_keras_hub(suffix, tmp_path):
    """Encoders, and embeddings of tokens and positions; Keras's padded queries see no key, lrpfast's the others."""
    model = load(unzipped(DATA / f"keras_attention_hub{suffix}", tmp_path))
    with np.load(DATA / "keras_attention_hub.npz") as record:
        ids, x, *expected = (record[key] for key in ("x0", "x1", "y0", "y1", "y2"))
    outputs = model.predict([ids.astype(np.float32), x])
    for i, (result, y) in enumerate(zip(outputs, expected, strict=True)):
        counted = ids != 0 if i == 0 else np.ones(y.shape[:2], bool)
        np.testing.assert_allclose(result[counted], y[counted], rtol=0, atol=2e-6 * np.abs(y).max())
    names = {node.name for node in model.nodes}
    assert {"post/query", "post/attention", "post/feedforward_output_dense", "post", "words/tokens"} <= names
    relevance = lrpfast.Analyzer(model, "attn_lrp", target={"post": 0}).analyze([ids, x])
    assert (relevance[0][ids == 0] == 0).all() and (relevance[0][:, 0] != 0).all()


def test_masks_that_operations_make_and_inputs_of_truths(tmp_path):
    """A comparison that is indexed hides keys, and so does an input of truths, which a product may take too."""
    model = load(unzipped(DATA / "keras_attention_mask.h5.gz", tmp_path))
    with np.load(DATA / "keras_attention_mask.npz") as record:
        ids, *expected = (record[key] for key in ("x0", "y0", "y1"))
    for result, y in zip(model.predict([ids.astype(np.float32), ids != 0]), expected, strict=True):
        np.testing.assert_allclose(result, y, rtol=0, atol=2e-6 * np.abs(y).max())
    target = {model.nodes[model.outputs[0]].name: 0}
    tokens, there = lrpfast.Analyzer(model, "attn_lrp", target=target).analyze([ids.astype(np.float32), ids != 0])
    assert (tokens[ids == 0] == 0).all() and (tokens[ids != 0] != 0).all() and (there == 0).all()


def call(name, kwargs, config=None):
    """A model with one MultiHeadAttention, called so."""
    model = functional(entry((None, 4, 6)), keras=3)
    tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": ["entry", 0, 0]}}
    settings = {"name": name, "num_heads": 2, "key_dim": 3, "use_bias": False, **(config or {})}
    model["config"]["layers"].append(
        {
            "class_name": "MultiHeadAttention",
            "config": settings,
            "name": name,
            "module": "keras.layers",
            "inbound_nodes": [{"args": [tensor, tensor], "kwargs": kwargs}],
        }  # fmt: skip
    )
    model["config"]["output_layers"] = [[name, 0, 0]]
    return model


WEIGHTS = [np.ones(shape, np.float32) for shape in ((6, 2, 3), (6, 2, 3), (6, 2, 3), (2, 3, 6))]


def test_a_constant_mask(tmp_path):
    mask = {"class_name": "__numpy__", "config": {"value": np.eye(4)[None].tolist(), "dtype": "bool"}}
    path = write_h5(tmp_path / "m.h5", call("mha", {"attention_mask": mask}), {"mha": WEIGHTS}, "3.15.1")
    x = np.random.default_rng(1).normal(size=(2, 4, 6))
    np.testing.assert_allclose(load(path).predict(x), np.repeat(x.sum(-1, keepdims=True) * 6, 6, -1), rtol=1e-5)


def test_what_is_not_read_is_named(tmp_path):
    path = write_h5(tmp_path / "m.h5", call("mha", {"training": True}), {"mha": WEIGHTS}, "3.15.1")
    with pytest.raises(UnsupportedLayerError, match=r"'mha' \(MultiHeadAttention, 2 of 2\) is called with training"):
        load(path)
    path = write_h5(tmp_path / "m.h5", call("mha", {"odd": 1}), {"mha": WEIGHTS}, "3.15.1")
    with pytest.raises(UnsupportedLayerError, match="'odd'"):
        load(path)
    path = write_h5(tmp_path / "m.h5", call("mha", {}), {"mha": WEIGHTS[:3]}, "3.15.1")
    with pytest.raises(ModelFormatError, match="expected 4 arrays"):
        load(path)
    alone = {
        "class_name": "Sequential",
        "config": {"name": "s", "layers": [entry((None, 4, 6)), layer("Attention", "a")]},
    }
    with pytest.raises(UnsupportedLayerError, match="functional model"):
        load(write_h5(tmp_path / "m.h5", json.loads(json.dumps(alone)), {}, "3.15.1"))


@pytest.mark.parametrize("suffix", (".keras", ".h5.gz"))
def test_keras_hub_decoders_and_rotary_positions(suffix, tmp_path):
    """Causal, with padding, with an encoder's sequence; positions of rows, of heads and of heads' rows."""
    model = load(unzipped(DATA / f"keras_attention_decoder{suffix}", tmp_path))
    with np.load(DATA / "keras_attention_decoder.npz") as record:
        xs, ys = [record[f"x{i}"] for i in range(4)], [record[f"y{i}"] for i in range(6)]
    for i, (result, y) in enumerate(zip(model.predict(xs), ys, strict=True)):
        counted = xs[0] != 0 if i == 2 else np.ones(y.shape[:2], bool)
        np.testing.assert_allclose(result[counted], y[counted], rtol=0, atol=2e-6 * np.abs(y).max(), err_msg=str(i))
    names = {node.name for node in model.nodes}
    assert {"gpt/query", "gpt/self_attention_residual", "crossed/cross_attention_residual", "gpt"} <= names
    relevance = lrpfast.Analyzer(model, "attn_lrp", target={"gpt": 17}).analyze(xs)  # of the third step
    assert (relevance[1][:, 3:] == 0).all() and (relevance[1][:, :3] != 0).any()


@pytest.mark.parametrize(
    "kind, kwargs, config, words",
    [
        ("RotaryEmbedding", {}, {"rope_type": "yarn"}, "rope_type 'yarn'"),
        ("RotaryEmbedding", {}, {"feature_axis": 1, "sequence_axis": 2}, "feature_axis 1"),
        ("RotaryEmbedding", {"start_index": 3}, {}, "begins at position 3"),
        ("RotaryEmbedding", {"positions": [0, 2, 4, 6]}, {}, "positions of its own"),
        (
            "TransformerDecoder",
            {"self_attention_cache": [0.0]},
            {"num_heads": 2, "intermediate_dim": 3},
            "a cache of keys and values",
        ),
    ],
)
def test_what_decoders_and_positions_cannot_is_named(tmp_path, kind, kwargs, config, words):
    model = functional(entry((None, 4, 6)), keras=3)
    tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": ["entry", 0, 0]}}
    inbound = [{"args": [tensor], "kwargs": kwargs}]
    item = {"class_name": kind, "module": "keras.layers", "config": {"name": "it", **config}, "name": "it"}
    item["inbound_nodes"] = inbound
    model["config"]["layers"].append(item)
    model["config"]["output_layers"] = ["it", 0, 0]
    with pytest.raises(UnsupportedLayerError, match=f"'it'.*{words}"):
        load(write_h5(tmp_path / "m.h5", model, {"it": []}, version="3.15.1"))
