"""Transformers of torchvision, timm and Hugging Face, with random weights, through torch.export and through ONNX.

Those whose package is missing are skipped.
"""

import warnings

import numpy as np
import pytest

import lrpfast
from lrpfast import layers

torch = pytest.importorskip("torch")


def vit():
    vision = pytest.importorskip("torchvision.models")
    module = vision.VisionTransformer(16, 4, 2, 2, 16, 32, num_classes=5)
    torch.nn.init.normal_(module.heads.head.weight)  # which begins at zero
    return module, (torch.randn(2, 3, 16, 16),)


def vit_b_16():
    """The real one, at its own size."""
    vision = pytest.importorskip("torchvision.models")
    module = vision.vit_b_16(num_classes=5)
    torch.nn.init.normal_(module.heads.head.weight)
    return module, (torch.randn(1, 3, 224, 224),)


def swin():
    vision = pytest.importorskip("torchvision.models")
    module = vision.SwinTransformer([2, 2], 8, [2, 2], [2, 2], [4, 4], num_classes=5)
    return module, (torch.randn(2, 3, 32, 32),)


def swin_t():
    vision = pytest.importorskip("torchvision.models")
    return vision.swin_t(num_classes=5), (torch.randn(1, 3, 224, 224),)


def encoder():
    """PyTorch's own layers: before and after normalization, the batch second."""
    layer = torch.nn.TransformerEncoderLayer(16, 4, 32, activation="gelu", batch_first=True, norm_first=True)
    return torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (torch.randn(2, 6, 16),)


def decoder():
    return torch.nn.TransformerDecoderLayer(16, 4, 32, batch_first=True), (torch.randn(2, 6, 16), torch.randn(2, 5, 16))


def timm_vit():
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
    module = timm.models.vision_transformer.VisionTransformer(**sizes, init_values=0.1)
    for block in module.blocks:
        block.attn.fused_attn = False
    return module, (torch.randn(2, 3, 16, 16),)


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 40}


def text(config, model, **parameters):
    transformers = pytest.importorskip("transformers")
    settings = getattr(transformers, config)(**{**SMALL, "max_position_embeddings": 32, **parameters})
    module = getattr(transformers, model)(settings)
    ids = torch.randint(3, 40, (2, 6))
    return module, ids


class Logits(torch.nn.Module):
    """A model's logits, of tensors alone."""

    def __init__(self, module, names):
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *inputs):
        return self.module(**dict(zip(self.names, inputs, strict=True)), use_cache=False).logits


class Plain(Logits):
    def forward(self, *inputs):
        return self.module(**dict(zip(self.names, inputs, strict=True))).logits


def masked(config, model, **parameters):
    module, ids = text(config, model, **parameters)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    ids = torch.where(mask == 1, ids, torch.ones_like(ids))  # RoBERTa's padding is 1
    return Plain(module, ("input_ids", "attention_mask")), (ids, mask)


class MeanPooled(torch.nn.Module):
    """As sentence-transformers do it: the mean of the states that the mask leaves, of length 1."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, ids, mask):
        states = self.module(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).expand(states.size()).to(states.dtype)
        mean = torch.sum(states * weights, 1) / torch.clamp(weights.sum(1), min=1e-9)
        return torch.nn.functional.normalize(mean, p=2, dim=1)


def sentences():
    module, inputs = masked("BertConfig", "BertModel")
    return MeanPooled(module.module), inputs


def causal(config, model, **parameters):
    module, ids = text(config, model, **parameters)
    return Logits(module, ("input_ids",)), (ids,)


MODELS = {
    "torchvision ViT": vit,
    "torchvision Swin": swin,
    "TransformerEncoder": encoder,
    "TransformerDecoderLayer": decoder,
    "timm ViT": timm_vit,
    "BERT": lambda: masked("BertConfig", "BertForSequenceClassification"),
    "DistilBERT": lambda: masked(
        "DistilBertConfig", "DistilBertForSequenceClassification", dim=16, hidden_dim=32, n_layers=2, n_heads=4
    ),
    "RoBERTa": lambda: masked("RobertaConfig", "RobertaForSequenceClassification", type_vocab_size=1),
    "BERT with mean pooling": lambda: sentences(),
    "GPT-2": lambda: causal("GPT2Config", "GPT2LMHeadModel", n_embd=16, n_layer=2, n_head=4, n_positions=32),
    "Llama": lambda: causal("LlamaConfig", "LlamaForCausalLM", num_key_value_heads=2),
    "Hugging Face ViT": lambda: vision_of_hugging_face(),
}


def vision_of_hugging_face():
    return vision("ViTConfig", "ViTForImageClassification")


OF_IMAGES = {key: value for key, value in SMALL.items() if key != "vocab_size"}


def vision(config, model, size=16, settings=OF_IMAGES, **parameters):
    transformers = pytest.importorskip("transformers")
    settings = getattr(transformers, config)(**{"image_size": 16, "patch_size": 4, **settings, **parameters})
    module = getattr(transformers, model)(settings)
    return Plain(module, ("pixel_values",)), (torch.randn(2, 3, size, size),)


class States(Logits):
    def forward(self, *inputs):
        return self.module(**dict(zip(self.names, inputs, strict=True))).last_hidden_state


def t5_encoder():
    module, inputs = masked("T5Config", "T5EncoderModel", d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4)
    return States(module.module, module.names), inputs


def standardized():
    timm = pytest.importorskip("timm")
    return timm.create_model("resnetv2_50x1_bit", num_classes=5), (torch.randn(2, 3, 32, 32),)


def patches():
    transformers = pytest.importorskip("transformers")
    settings = transformers.PatchTSTConfig(
        **{"num_input_channels": 3, "context_length": 16, "patch_length": 4, "stride": 4, "d_model": 16, "ffn_dim": 32},
        **{"num_attention_heads": 4, "num_hidden_layers": 2, "num_targets": 2},
    )
    module = transformers.PatchTSTForRegression(settings)

    class Regression(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, values):
            return self.module(past_values=values)[0]

    return Regression(), (torch.randn(2, 16, 3),)


RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
STAGES = {"hidden_sizes": [4, 8, 8, 8], "depths": [1] * 4, "num_attention_heads": [1, 2, 2, 2], "mlp_ratios": [2] * 4}
#: Those that compute constants by layers, positions for scores, or windows, beside attention.
OTHERS = {
    "BEiT": lambda: vision("BeitConfig", "BeitForImageClassification", use_relative_position_bias=True),
    "DINOv2 at another size": lambda: vision(
        "Dinov2Config", "Dinov2ForImageClassification", 24, {**OF_IMAGES, "mlp_ratio": 2}
    ),
    "PVT": lambda: vision("PvtConfig", "PvtForImageClassification", 64, STAGES, image_size=64),
    "DeBERTa": lambda: masked("DebertaConfig", "DebertaForSequenceClassification", **RELATIVE),
    "DeBERTa v2": lambda: masked(
        *("DebertaV2Config", "DebertaV2ForSequenceClassification"),
        **{**RELATIVE, "position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
    ),
    "T5's encoder": t5_encoder,
    "Phi-3": lambda: causal("Phi3Config", "Phi3ForCausalLM", num_key_value_heads=2, pad_token_id=0),
    "standardized weights": standardized,
    "PatchTST": patches,
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_through_torch_export(name):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, inputs = OTHERS[name]()
        module, inputs = module.double().eval(), tuple(x.double() if x.is_floating_point() else x for x in inputs)
        model = lrpfast.from_torch(module, inputs)
    with torch.no_grad():
        expected = module(*inputs).numpy()
    x = [value.numpy() for value in inputs]
    x = x if len(x) > 1 else x[0]
    y = model.predict(x, precision="float64")
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())  # some norms are in float32
    target = "max" if expected.ndim == 2 else 7
    relevance = lrpfast.Analyzer(model, "attn_lrp", target=target).analyze(x)
    relevance = relevance if isinstance(relevance, list) else [relevance]
    assert all(np.isfinite(part).all() for part in relevance) and relevance[0].any()


def made(name):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, inputs = MODELS[name]()
    module = module.double().eval()
    return module, tuple(x.double() if x.is_floating_point() else x for x in inputs)


def compare(model, module, inputs, tolerance):
    with torch.no_grad():
        expected = module(*inputs).numpy()
    x = [value.numpy() for value in inputs]
    y = model.predict(x if len(x) > 1 else x[0], precision="float64")
    np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    assert any(isinstance(layer, layers.Attention) for layer in model.layers)
    assert not any(isinstance(layer, layers.MatMul) for layer in model.layers)
    analyzer = lrpfast.Analyzer(model, "attn_lrp", target="max", precision="float64")
    relevance = analyzer.analyze(x if len(x) > 1 else x[0])
    relevance = relevance if isinstance(relevance, list) else [relevance]
    assert all(np.isfinite(part).all() for part in relevance) and relevance[0].any()
    return relevance


def tolerance_of(name):
    return 1e-5 if name == "Llama" else 1e-9  # its norm is computed in float32


@pytest.mark.parametrize("name", MODELS)
def test_through_torch_export(name):
    module, inputs = made(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = lrpfast.from_torch(module, inputs)
    relevance = compare(model, module, inputs, tolerance_of(name))
    if "BERT" in name:
        assert not relevance[0][1, 4:].any() and not relevance[1].any()


@pytest.mark.sweep
@pytest.mark.parametrize("make", [vit_b_16, swin_t])
def test_full_size(make):
    """At their own size, in float32: what PyTorch predicts, relevance that is finite, and a balance that adds up."""
    torch.manual_seed(0)
    module, (x,) = make()
    module = module.eval()
    model = lrpfast.from_torch(module, x)
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_allclose(model.predict(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    for name in ("cp_lrp", "attn_lrp"):
        explanation = lrpfast.Analyzer(model, name, target="max").explain(x)
        assert np.isfinite(explanation.relevance).all() and explanation.relevance.any()
        for balance in explanation.conservation:
            largest = max(np.abs(balance.incoming).max(), np.abs(balance.outgoing).max())
            assert np.abs(balance.rounding).max() <= 1e-4 * max(largest, 1.0), balance


@pytest.mark.parametrize("name", MODELS)
def test_through_onnx(name, tmp_path):
    pytest.importorskip("onnxscript")
    module, inputs = made(name)
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = tuple({0: batch} for _ in inputs)
    shapes = shapes if not isinstance(module, Logits) else (shapes,)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, inputs, dynamo=True, dynamic_shapes=shapes, verbose=False)
    program.save(str(tmp_path / "m.onnx"))
    compare(lrpfast.load(tmp_path / "m.onnx"), module, inputs, max(tolerance_of(name), 1e-6))
