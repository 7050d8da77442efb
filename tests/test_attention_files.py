"""Transformers from files: predictions and relevance are those of LXT and zennit, however a file writes attention."""

from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast import composites, layers, rules
from lrpfast.readers import channels_first

DATA = Path(__file__).parent / "data" / "attention"
FIGURES = np.load(DATA / "figures.npz")
FILES = sorted(path.name for path in DATA.iterdir() if path.suffix in (".pt2", ".onnx"))
GAMMA = composites.ByType({layers.Dense: rules.Gamma(0.05)})
SETS = {
    "attn_lrp": composites.AttnLRP(),
    "cp_lrp": composites.CPLRP(),
    "attn_lrp_signed": composites.AttnLRP(stabilizer=1e-6),
    "cp_lrp_signed": composites.CPLRP(stabilizer=1e-6),
    "attn_lrp_epsilon": composites.AttnLRP(0.01, stabilizer=1e-6),
    "gamma_attn": GAMMA | composites.AttnLRP(),
}


def figures(file):
    """The arrays of a file's model, by name; and how far off they may be."""
    name = file.split(".")[0].removesuffix("_opset23")
    arrays = {key.partition("/")[2]: FIGURES[key] for key in FIGURES.files if key.startswith(f"{name}/")}
    # llama computes its norm in float32; exporters round the constants of ONNX files to it
    return arrays, 1e-5 if name == "llama_hf" else 1e-10 if file.endswith(".pt2") else 1e-7


def inputs_of(arrays):
    values = [arrays[key] for key in ("x", "x0", "x1", "x2", "mask") if key in arrays]
    return values if len(values) > 1 else values[0]


def load(file):
    if file.endswith(".onnx"):
        pytest.importorskip("onnx")
    return lrpfast.load(DATA / file)


def near(a, b, tolerance):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-300))


@pytest.mark.parametrize("file", FILES)
def test_figures(file):
    model = load(file)
    arrays, tolerance = figures(file)
    x = inputs_of(arrays)
    near(model.predict(x, precision="float64"), arrays["y"], tolerance)
    compared = 0
    for name, composite in SETS.items():
        parts = [arrays[key] for key in (f"{name}/{k}" for k in ("tokens", "x", "x0", "x1", "x2")) if key in arrays]
        if not parts:
            continue
        relevance = lrpfast.Analyzer(model, composite, target=arrays["target"], precision="float64").analyze(x)
        for a, b in zip(relevance if isinstance(relevance, list) else [relevance], parts, strict=False):
            near(a, b, tolerance)
            compared += 1
    assert compared >= 3


@pytest.mark.parametrize("file", FILES)
def test_attention_as_one_layer_and_written_out(file, monkeypatch):
    """What a file writes out becomes `Attention`; as products and a softmax it has the same numbers."""
    fused = load(file)
    assert any(isinstance(layer, layers.Attention) for layer in fused.layers)
    assert not any(isinstance(layer, layers.MatMul) for layer in fused.layers)
    if "opset23" in file:
        return
    monkeypatch.setattr(channels_first, "fuse_attention", lambda nodes, shapes, outputs: (list(nodes), list(outputs)))
    written = load(file)
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


def test_masked_tokens_get_nothing():
    arrays, _ = figures("bert.onnx")
    relevance = lrpfast.Analyzer(load("bert.onnx"), "attn_lrp", target=arrays["target"]).analyze(inputs_of(arrays))
    tokens, mask = relevance
    assert (arrays["mask"] == 0).any() and not tokens[arrays["mask"] == 0].any() and not mask.any()
