"""PyTorch tensors in, PyTorch tensors out."""

import numpy as np
import pytest

import lrpfast
import seeds
from lrpfast import layers

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra 'torch')")

RNG = seeds.generator(0)
MODEL = lrpfast.from_layers(
    [layers.Dense(RNG.normal(size=(5, 7)), RNG.normal(size=7), "relu"), layers.Dense(RNG.normal(size=(7, 3)))], (5,)
)
X = torch.from_numpy(RNG.normal(size=(4, 5)))


@pytest.fixture
def analyzer():
    return lrpfast.Analyzer(MODEL, "epsilon", precision="float64", device="cpu")


def test_relevance_is_a_tensor(analyzer):
    got = analyzer.analyze(X)
    assert isinstance(got, torch.Tensor) and got.dtype is torch.float64 and got.device.type == "cpu"
    assert (got.numpy() == analyzer.analyze(X.numpy())).all()
    assert isinstance(analyzer.analyze(X.numpy()), np.ndarray)


def test_predictions_are_tensors():
    got = MODEL.predict(X, precision="float64")
    assert isinstance(got, torch.Tensor) and (got.numpy() == MODEL.predict(X.numpy(), precision="float64")).all()


def test_explanations_hold_tensors(analyzer):
    got = analyzer.explain(X, layers=True)
    for tensor in (got.relevance, got.output, *got.layers.values()):
        assert isinstance(tensor, torch.Tensor)
    assert torch.equal(got.relevance, analyzer.analyze(X)) and "(4, 5)" in repr(got)


def test_a_gradient_is_left_aside(analyzer):
    x = X.clone().requires_grad_()
    got = analyzer.analyze(x)
    assert torch.equal(got, analyzer.analyze(X)) and not got.requires_grad and x.requires_grad


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float32, torch.int32))
def test_every_real_type(analyzer, dtype):
    x = (3 * X).to(dtype)
    assert torch.equal(analyzer.analyze(x), analyzer.analyze(x.double()))


def test_a_tensor_that_is_not_contiguous(analyzer):
    x = torch.stack([X, -X], -1)
    assert torch.equal(analyzer.analyze(x[..., 0]), analyzer.analyze(X))


def test_targets_may_be_tensors(analyzer):
    targets = torch.tensor([0, 2, 1, 1])
    assert torch.equal(analyzer.analyze(X, targets), torch.from_numpy(analyzer.analyze(X.numpy(), targets.numpy())))
    start = torch.eye(3, dtype=torch.float64)[targets].requires_grad_()
    assert torch.allclose(analyzer.analyze(X, start), analyzer.analyze(X, start.detach().numpy()))


def test_a_tensor_is_the_default_target(analyzer):
    targets = torch.tensor([0, 2, 1, 1])
    made = lrpfast.Analyzer(MODEL, "epsilon", target=targets, precision="float64", device="cpu")
    assert torch.equal(made.analyze(X), analyzer.analyze(X, targets))


def test_a_tensor_is_filled(analyzer):
    out = torch.zeros(4, 5, dtype=torch.float64)
    assert analyzer.analyze(X, out=out) is out
    assert torch.equal(out, analyzer.analyze(X))


def test_several_inputs_and_outputs():
    graph = lrpfast.Graph()
    a, b = graph.input((5,)), graph.input((5,))
    model = graph.model(graph.add(layers.Add(), a, b), graph.add(layers.Subtract(), a, b))
    y = model.predict([X, 2 * X], precision="float64")
    assert torch.equal(y[0], 3 * X) and torch.equal(y[1], -X)
    analyzer = lrpfast.Analyzer(model, "epsilon", target={0: 1}, precision="float64")
    got = analyzer.analyze([X, 2 * X])
    assert all(isinstance(r, torch.Tensor) for r in got)
    out = [torch.zeros(4, 5, dtype=torch.float64) for _ in range(2)]
    assert analyzer.analyze([X, 2 * X], out=out) is out and torch.equal(out[1], got[1])


def test_one_layer_alone():
    got = lrpfast.redistribute("epsilon", MODEL.layers[-1], torch.ones(2, 7), torch.ones(2, 3))
    assert isinstance(got, torch.Tensor) and got.shape == (2, 7)
