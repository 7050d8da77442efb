"""Transformers from files: predictions and relevance are those of LXT and zennit, however a file writes attention."""

import pytest

import lrpfast
from attention_figures import FILES, INPUTS, SETS, figures, inputs_of, load, near
from lrpfast import layers
from lrpfast.readers import channels_first

WRITTEN = [f for f in FILES if f.endswith((".pt2", ".onnx")) and "opset23" not in f and "anylength" not in f]


@pytest.mark.parametrize("file", FILES)
def test_figures(file, tmp_path):
    """Relevance of the inputs under every set of rules; float32 as far as its sums reach."""
    model = load(file, tmp_path)
    arrays, tolerance = figures(file)
    x = inputs_of(arrays)
    near(model.predict(x, precision="float64"), arrays["y"], tolerance)
    compared = 0
    for name, composite in SETS.items():
        parts = [arrays[key] for key in (f"{name}/{k}" for k in ("tokens", *INPUTS)) if key in arrays]
        if not parts:
            continue
        for precision, limit in (("float64", tolerance), ("float32", 1e-5)):
            analyzer = lrpfast.Analyzer(model, composite, target=arrays["target"], precision=precision)
            relevance = analyzer.analyze(x)
            for a, b in zip(relevance if isinstance(relevance, list) else [relevance], parts, strict=False):
                near(a, b, limit, f"{name}, {precision}")
        compared += 1
    assert compared >= 6


#: Of each model: what its figures of blocks and attention are called in a file of its own.
PARTS = {
    "attention_causal_written.pt2": {
        "q": "blocks.0.attn.unbind",
        "k": "blocks.0.attn.unbind_2",
        "v": "blocks.0.attn.unbind_4",
        "context": "blocks.0.attn.matmul_1",
        "last": "blocks.0.attn.o.linear_1",
    },
    "attention_cross.onnx": {
        "q": "node_MatMul_7",
        "k": "node_MatMul_9",
        "v": "node_MatMul_11",
        "context": "node_scaled_dot_product_attention",
    },
    "attention_gqa_rotary.onnx": {
        "block0": "x",
        "q": "node_MatMul_2",
        "k": "node_MatMul_10",
        "v": "node_MatMul_18",
        "context": "node_scaled_dot_product_attention",
        "last": "linear_3",
    },
    "attention_mha_weights.pt2": {"block0": "x", "q": "m_4", "k": "m_6", "v": "m_8", "context": "m_16", "last": "m_18"},
    "bert.onnx": {"block0": "node_layer_norm", "block1": "node_layer_norm_2", "last": "node_layer_norm_4"},
    "encoder_post.onnx": {"block0": "x", "last": "layer_norm_1"},
    "llama_hf.onnx": {"block0": "node_embedding", "block1": "node_add_345", "last": "node_add_608"},
    "keras_mha.keras": {
        "block0": "input_layer",
        "q": "multi_head_attention/query",
        "k": "multi_head_attention/key",
        "v": "multi_head_attention/value",
        "context": "multi_head_attention/attention",
        "last": "multi_head_attention",
    },
    "keras_encoder_causal.keras": {"block0": "input_layer_1", "last": "add_1"},
    "keras_text_masked.keras": {"block0": "embedding", "last": "layer_normalization_4"},
    "keras_vit_plus_operator.keras": {"block0": "conv2d", "last": "add_5"},
}


@pytest.mark.parametrize("file", PARTS)
def test_layers_have_the_figures_of_blocks_and_attention(file, tmp_path):
    model = load(file, tmp_path)
    arrays, tolerance = figures(file)
    for name in ("attn_lrp", "cp_lrp"):
        analyzer = lrpfast.Analyzer(model, SETS[name], target=arrays["target"], precision="float64")
        shown = analyzer.explain(inputs_of(arrays), layers=True).layers
        parts = {part: layer for part, layer in PARTS[file].items() if f"{name}/{part}" in arrays}
        assert parts
        for part, layer in parts.items():
            expected = arrays[f"{name}/{part}"]
            if part in ("q", "k", "v", "context"):  # (samples, heads, rows, channels)
                expected = expected.swapaxes(1, 2)
            near(shown[layer].reshape(len(expected), -1), expected.reshape(len(expected), -1), tolerance, part)


@pytest.mark.parametrize("file", FILES)
def test_written_out_attention_shows_its_weights(file, tmp_path):
    """The same prediction and relevance; the softmax's is that of the weights."""
    model = load(file, tmp_path)
    arrays, tolerance = figures(file)
    x = inputs_of(arrays)
    if model.is_open:
        model = model.with_input_shape(*(a.shape[1:] for a in x))
    written = lrpfast.write_out_attention(model)
    near(written.predict(x, precision="float64"), arrays["y"], tolerance)
    analyzers = [
        lrpfast.Analyzer(m, SETS["attn_lrp"], target=arrays["target"], precision="float64") for m in (model, written)
    ]
    one, other = (analyzer.explain(x, layers=True) for analyzer in analyzers)
    for name, relevance in one.layers.items():
        if name in other.layers and other.layers[name].shape == relevance.shape:
            near(other.layers[name], relevance, 1e-9, name)
    shown = [relevance for name, relevance in other.layers.items() if name.endswith("/weights")]
    assert len(shown) == sum(isinstance(layer, layers.Attention) for layer in model.layers)
    if "attn_lrp/attention" in arrays:
        near(shown[0], arrays["attn_lrp/attention"], tolerance)


@pytest.mark.parametrize("file", WRITTEN)
def test_attention_as_one_layer_and_written_out(file, monkeypatch, tmp_path):
    """What a file writes out becomes `Attention`; as products and a softmax it has the same numbers."""
    fused = load(file, tmp_path)
    assert any(isinstance(layer, layers.Attention) for layer in fused.layers)
    assert not any(isinstance(layer, layers.MatMul) for layer in fused.layers)
    monkeypatch.setattr(channels_first, "fuse_attention", lambda nodes, shapes, outputs: (list(nodes), list(outputs)))
    written = load(file, tmp_path)
    assert sum(isinstance(layer, layers.MatMul) for layer in written.layers) >= 2
    arrays, tolerance = figures(file)
    x = inputs_of(arrays)
    near(fused.predict(x, precision="float64"), written.predict(x, precision="float64"), tolerance)
    for name in ("attn_lrp", "cp_lrp"):
        results = []
        for model in (fused, written):
            analyzer = lrpfast.Analyzer(model, SETS[name], target=arrays["target"], precision="float64")
            relevance = analyzer.analyze(x)
            results.append(relevance if isinstance(relevance, list) else [relevance])
        for a, b in zip(*results, strict=True):
            near(a, b, 10 * tolerance)


@pytest.mark.parametrize("file", ["attention_gqa_rotary.onnx", "attention_gqa_rotary_opset23.onnx", "llama_hf.onnx"])
def test_repeated_heads_are_shared(file, tmp_path):
    heads = {(a.heads, a.kv_heads) for a in load(file, tmp_path).layers if isinstance(a, layers.Attention)}
    assert heads == {(4, 2)}


@pytest.mark.parametrize("file", ["bert.onnx", "keras_text_masked.keras"])
def test_masked_tokens_get_nothing(file, tmp_path):
    arrays, _ = figures(file)
    x = inputs_of(arrays)
    relevance = lrpfast.Analyzer(load(file, tmp_path), "attn_lrp", target=arrays["target"]).analyze(x)
    tokens, *masks = relevance if isinstance(relevance, list) else [relevance]
    there = arrays.get("mask", arrays["x"]) != 0
    assert not there.all() and not tokens[~there].any() and tokens[there].all()
    assert not any(mask.any() for mask in masks)
