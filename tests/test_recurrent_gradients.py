"""The derivative of recurrent layers: beside explicit Jacobians, central differences and PyTorch's autograd."""

import numpy as np
import pytest
from hypothesis import given, settings

import lrpfast
import oracle_recurrent_gradients as oracle
from lrpfast import composites, layers
from lrpfast.layers import Activation
from test_gradients import OFF, differences
from test_recurrent import CASES, CELLS, FUNCTIONS, OWN_FUNCTIONS, STATES, Case, close


def expected(case):
    """The gradients of all inputs by the oracle; of a mask zeros."""
    found = []
    for s in range(len(case.x)):
        x, mask, *states = case.of(s)
        found.append(oracle.gradients(case.kind, case.p, x, case.relevance[s], mask, *states))
    of_x, of_h, of_c = (np.array([f[i] for f in found]) for i in range(3))
    masks = [] if case.mask is None else [np.zeros_like(case.mask)]
    return [of_x, *masks, *(of_h, of_c)[: len(case.states)]]


def actual(case, precision="float64", **options):
    single = case.inputs if len(case.inputs) > 1 else case.inputs[0]
    result = lrpfast.Analyzer(case.model, "gradient", precision=precision, **options).analyze(single, case.relevance)
    return result if isinstance(result, list) else [result]


def check(case, precision="float64", within=1e-10, **options):
    single = case.inputs if len(case.inputs) > 1 else case.inputs[0]
    predicted = lrpfast.Analyzer(case.model, "gradient", precision=precision, **options).explain(single).output
    np.testing.assert_allclose(predicted, case.predicted(), rtol=0, atol=1e-13 if precision == "float64" else 3e-6)
    close(actual(case, precision, **options), expected(case), within)


@settings(max_examples=200, deadline=None)
@given(CASES, STATES, OWN_FUNCTIONS)
def test_gradients_are_as_the_oracle(case, states, functions):
    check(Case(**case, **states, **functions))


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_on_gpus_are_as_the_oracle(standin, cell):
    more = {"return_sequences": True, "takes_mask": True, "takes_state": True}
    for i, functions in enumerate(FUNCTIONS):
        check(
            Case(cell, units=3, return_state=True, go_backwards=i == 1, cell_activation=functions, **more), device="gpu"
        )
    check(Case(cell, seed=1, units=35, steps=2, time_order=False, initial=True), device="gpu")
    check(Case(cell, units=5, takes_mask=True, zero_masked=True), "float32", 2e-6, device="gpu")


@pytest.mark.parametrize("cell", CELLS)
def test_float32_keeps_its_digits(cell):
    check(Case(cell, units=8, features=4, steps=60), "float32", 2e-6)


@pytest.mark.parametrize("mask", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 1]], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_masks(cell, mask):
    """Steps that do not count have a gradient of 0, and so has what begins before the first that does."""
    for more in ({}, {"return_sequences": True}, {"return_sequences": True, "zero_masked": True}):
        case = Case(cell, takes_mask=True, takes_state=True, **more)
        case.mask[:] = mask
        case.inputs[1] = case.mask
        check(case)
        assert not actual(case)[0][:, np.array(mask) == 0].any()


#: every function of one value, with parameters where it must have some
OF_ONE_VALUE = {
    "relu": {"max_value": 0.4, "negative_slope": 0.1, "threshold": 0.05},
    "leaky_relu": {"negative_slope": 0.2},
    "clip": {"low": -0.3, "high": 0.4},
    "power": {"exponent": 2.0},
    "shrink": {"threshold": 0.1, "shift": 0.05},
    **dict.fromkeys(("elu", "selu", "gelu", "silu", "tanh", "sigmoid", "hard_sigmoid", "softplus", "softsign"), {}),
    **dict.fromkeys(("exponential", "mish", "celu", "log_sigmoid", "hard_silu"), {}),
}


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("function", OF_ONE_VALUE)
def test_every_activation_by_differences(function, device, standin):
    own = Activation(function, OF_ONE_VALUE[function])
    for cell in CELLS:
        case = Case(cell, samples=1, steps=3, seed=2)
        functions = {"cell_activation": own} | ({} if cell == "SimpleRNN" else {"gate_activation": own})
        of_output = "linear" if function == "exponential" else own  # e^e^x overflows
        functions |= {"output_activation": of_output} if cell == "LSTM" else {}
        smaller = {name: np.float32(0.3) * case.p[name] for name in ("kernel", "recurrent_kernel")}
        model = lrpfast.from_layers([type(case.layer)(**{**case.p, **smaller, **functions})], input_shape=(3, 2))
        found = lrpfast.Analyzer(model, "gradient", precision="float64", device=device).analyze(case.x, case.relevance)
        wanted = differences(lambda x: (model.predict(x, precision="float64") * case.relevance).sum(1), case.x)  # noqa: B023
        assert np.abs(found - wanted).max() <= 10 * OFF * max(1, np.abs(wanted).max()), cell


def test_saturated_units_keep_their_digits():
    """tanh′ and σ′ of 30 are 3.5e-26 and 9.4e-14: nothing of them is left in 1 − tanh² or 1 − σ."""
    one = np.ones((1, 1))
    for function, wanted in (("tanh", 4 * np.exp(-60.0)), ("sigmoid", np.exp(-30.0))):
        layer = layers.SimpleRNN(one, one, np.array([30.0]), cell_activation=function)
        model = lrpfast.from_layers([layer], input_shape=(1, 1))
        found = lrpfast.Analyzer(model, "gradient", precision="float64").analyze(np.zeros((1, 1, 1)))
        assert found.item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_results_are_the_same_bits_for_any_batch_and_threads(cell):
    case = Case(cell, units=5, features=3, steps=9, samples=53, return_sequences=True)
    analyzer = lrpfast.Analyzer(case.model, "gradient", threads=1)
    whole = analyzer.analyze(case.x, case.relevance)
    parts = [analyzer.analyze(case.x[i : i + 1], case.relevance[i : i + 1]) for i in range(0, 53, 13)]
    assert np.array_equal(whole[::13], np.concatenate(parts))
    for threads, memory in ((4, None), (2, 400_000)):
        other = lrpfast.Analyzer(case.model, "gradient", threads=threads, memory=memory)
        assert np.array_equal(whole, other.analyze(case.x, case.relevance))


def network(steps=4):
    """Two bidirectional layers, one above the other, and two outputs."""
    graph = lrpfast.Graph()
    value = graph.input((steps, 2))
    for level, (cell, sequences) in enumerate((("LSTM", True), ("GRU", False))):
        features = value.shape[-1] if hasattr(value, "shape") else (2, 6)[level]
        sides = [Case(cell, features=features, seed=level * 2 + i, return_sequences=sequences, go_backwards=i == 1)
                 for i in range(2)]  # fmt: skip
        value = graph.add(layers.Concat(), *(graph.add(side.layer, value) for side in sides))
    return graph.model(graph.add(layers.Dense(np.linspace(-1, 1, 12).reshape(6, 2), activation="tanh"), value))


def test_stacked_and_bidirectional_layers_and_what_is_made_of_gradients():
    model, x = network(), np.random.default_rng(3).normal(size=(3, 4, 2))
    wanted = differences(lambda x: model.predict(x, precision="float64")[:, 1], x)
    gradient = lrpfast.Analyzer(model, "gradient", precision="float64").analyze(x, 1)
    assert np.abs(gradient - wanted).max() <= OFF
    product = lrpfast.Analyzer(model, "input_t_gradient", precision="float64").analyze(x, 1)
    assert np.array_equal(product, x * gradient)
    smooth = lrpfast.Analyzer(model, composites.SmoothGrad(3, 0.0), precision="float64").analyze(x, 1)
    np.testing.assert_allclose(smooth, gradient, atol=1e-14)
    integrated = lrpfast.Analyzer(model, "integrated_gradients", precision="float64").explain(x, 1)
    assert np.abs(integrated.completeness).max() < 1e-9
    names = [node.name for node in model.nodes]
    hidden = lrpfast.Analyzer(model, "gradient", precision="float64").explain(x, 1, layers=True)
    assert set(names) <= set(hidden.layers) and len(hidden.conservation) == 0
    plan = str(lrpfast.Analyzer(model, "gradient", target=0).plan())
    assert "derivative·Wᵀ" in plan and plan.count("[x, h]·W each step") == 4


def test_words_through_a_recurrent_layer():
    """Embedding times gradient, summed over channels; padding is a mask."""
    rng = np.random.default_rng(1)
    table, case = rng.normal(size=(5, 2)), Case("LSTM", steps=3, takes_mask=True)
    graph = lrpfast.Graph()
    words = graph.input((3,))
    embedded = graph.add(layers.Embedding(table), words)
    lstm = graph.add(case.layer, embedded, graph.add(layers.StepMask(), words))
    model = graph.model(graph.add(layers.Dense(np.ones((3, 1))), lstm))
    x = np.array([[2, 4, 0], [1, 0, 0]])
    found = lrpfast.Analyzer(model, "input_t_gradient", precision="float64").analyze(x)
    for s in range(2):
        of_x, _, _ = oracle.gradients("LSTM", case.p, table[x[s]], np.ones(3), x[s] != 0)
        np.testing.assert_allclose(found[s], (of_x * table[x[s]]).sum(1), atol=1e-14)


def test_one_recurrent_layer_of_several_has_its_gradient():
    """A composite may give the derivative to one layer alone; the balance counts the difference as lost."""
    first, second = Case("GRU", return_sequences=True), Case("LSTM", features=3, seed=1)
    model = lrpfast.from_layers([first.layer, second.layer], input_shape=(4, 2))
    name = model.nodes[1].name
    own = composites.ByName({name: lrpfast.rules.Gradient()}) | composites.from_name("epsilon", epsilon=0.1)
    analyzer = lrpfast.Analyzer(model, own, precision="float64")
    x, r = first.x, second.relevance
    explanation = analyzer.explain(x, r)
    below, _ = Case.explained(_with_x(second, first.predicted()), {"epsilon": 0.1})
    wanted = [oracle.gradients("GRU", first.p, x[s], below[0][s])[0] for s in range(len(x))]
    np.testing.assert_allclose(explanation.relevance, np.array(wanted), atol=1e-12)
    balance = explanation.conservation[name]
    np.testing.assert_allclose(balance.lost, balance.incoming - balance.outgoing, atol=1e-12)
    assert balance.steps is None


def _with_x(case, x):
    case.x = x
    return case


def test_files_and_lists_of_sequences(tmp_path):
    """Sequences of different lengths, and a stream, give what single calls give."""
    case = Case("LSTM", steps=5)
    model = lrpfast.from_layers([case.layer, layers.Dense(np.ones((3, 1)))], input_shape=(None, 2))
    analyzer = lrpfast.Analyzer(model, "gradient", precision="float64")
    sequences = [case.x[0], case.x[1, :3], case.x[0, :1]]
    for found, x in zip(analyzer.analyze(sequences, 0), sequences, strict=True):
        np.testing.assert_allclose(found, analyzer.analyze(x[None], 0)[0], atol=1e-14)
    fixed = lrpfast.Analyzer(case.model, "gradient", target=0)
    fixed.stream(case.x, tmp_path / "r.npy")
    assert np.array_equal(np.load(tmp_path / "r.npy"), fixed.analyze(case.x))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_torch(kind):
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cells = getattr(torch.nn, kind)(3, 4, num_layers=2, bidirectional=True, batch_first=True)
            self.head = torch.nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.cells(x)[0][:, -1])

    module = Net().double().eval()
    x = torch.randn(3, 6, 3, dtype=torch.float64, requires_grad=True)
    module(x)[:, 1].sum().backward()
    model = lrpfast.from_torch(module, x.detach())
    got = lrpfast.Analyzer(model, "gradient", target=1, precision="float64").analyze(x.detach())
    assert (got - x.grad).abs().max() <= 1e-12 * x.grad.abs().max()


def test_a_derivative_that_is_not_finite_names_the_sample():
    """The derivative of the square root at 0."""
    layer = layers.SimpleRNN(np.ones((1, 1)), np.zeros((1, 1)), cell_activation=Activation("power", {"exponent": 0.5}))
    model = lrpfast.from_layers([layer], input_shape=(1, 1))
    analyzer = lrpfast.Analyzer(model, "gradient")
    assert analyzer.analyze(np.full((1, 1, 1), 4.0)).item() == pytest.approx(0.25)
    with pytest.raises(lrpfast.LrpfastError, match="sample 1"):
        analyzer.analyze(np.array([[[4.0]], [[0.0]]]))
