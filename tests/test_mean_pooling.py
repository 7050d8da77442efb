"""Masked mean pooling as sentence-transformers write it, Σ y m / max(Σ m, 1e-9): a mean of constant weights."""

import warnings

import numpy as np
import pytest

import lrpfast
from lrpfast import layers as L  # noqa: N812

torch = pytest.importorskip("torch")
IDS, MASK = np.array([[5, 3, 1, 0, 0], [2, 7, 7, 4, 0]]), np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])


class Pooled(torch.nn.Module):
    """Hidden states of words, their masked mean, perhaps of length 1."""

    def __init__(self, constant, normalize):
        super().__init__()
        self.embedding, self.hidden = torch.nn.Embedding(20, 8), torch.nn.Linear(8, 6, bias=False)
        self.constant, self.normalize = constant, normalize

    def forward(self, ids, mask=None):
        if self.constant:
            mask = torch.tensor(MASK[:1]).expand(ids.shape[0], -1)
        states = torch.tanh(self.hidden(self.embedding(ids)))
        weights = mask.unsqueeze(-1).expand(states.size()).float()
        mean = torch.sum(states * weights, 1) / torch.clamp(weights.sum(1), min=1e-9)
        return torch.nn.functional.normalize(mean, p=2, dim=1) if self.normalize else mean


def module_of(constant, normalize):
    torch.manual_seed(1)
    return Pooled(constant, normalize).eval().double()


def arguments(constant):
    return (torch.tensor(IDS),) if constant else (torch.tensor(IDS), torch.tensor(MASK))


def read(module, constant, reader, path):
    if reader == "torch":
        return lrpfast.from_torch(module, arguments(constant))
    pytest.importorskip("onnx")
    names = ["ids", "mask"][: 1 if constant else 2]
    axes = {name: {0: "batch"} for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter that needs no onnxscript it warns, as of an old one
        torch.onnx.export(
            module, arguments(constant), path, dynamo=False, input_names=names, dynamic_axes=axes, opset_version=18
        )
    return lrpfast.load(path)


def expected(module, mask, target):
    """The model's output, and relevance of words: through the mean by shares, and through tanh as it is."""
    states = torch.tanh(module.hidden(module.embedding(torch.tensor(IDS)))).detach().numpy()
    weights = mask / mask.sum(1, keepdims=True)
    mean = (states * weights[:, :, None]).sum(1)
    start = np.zeros_like(mean)
    length = np.linalg.norm(mean, axis=1, keepdims=True) if module.normalize else 1
    start[:, target] = (mean / length)[:, target]
    # a norm is relevance's identity under LRP: each value keeps what it has
    return mean / length, states * weights[:, :, None] * (start / mean)[:, None, :]


@pytest.mark.parametrize("reader", ["torch", "onnx"])
@pytest.mark.parametrize("normalize", [False, True], ids=["mean", "of length 1"])
@pytest.mark.parametrize("constant", [False, True], ids=["mask given", "mask constant"])
def test_relevance_is_that_of_a_weighted_mean(constant, normalize, reader, tmp_path):
    module = module_of(constant, normalize)
    model = read(module, constant, reader, tmp_path / "model.onnx")
    mask = np.repeat(MASK[:1], 2, 0) if constant else MASK
    output, of_words = expected(module, mask, 4)
    x = IDS if constant else [IDS, MASK]
    analyzer = lrpfast.Analyzer(model, "attn_lrp", target=4, precision="float64", device="cpu")
    explanation = analyzer.explain(x, layers=True)
    np.testing.assert_allclose(explanation.output, output, rtol=0, atol=1e-12)
    np.testing.assert_allclose(model.predict(x, precision="float64"), output, rtol=0, atol=1e-12)
    relevance = explanation.relevance if constant else explanation.relevance[0]
    np.testing.assert_allclose(relevance, of_words.sum(2), rtol=0, atol=1e-10)
    assert not relevance[mask == 0].any()
    assert constant or not explanation.relevance[1].any()
    for balance in explanation.conservation:
        assert np.abs(balance.rounding).max() < 1e-12 and np.abs(balance.lost).max() < 1e-12


def test_both_readers_read_the_same(tmp_path):
    """F.normalize is one norm in both."""
    module = module_of(False, True)
    for reader in ("torch", "onnx"):
        model = read(module, False, reader, tmp_path / "model.onnx")
        assert isinstance(model.layers[-1], L.RMSNorm), reader
