"""Recurrent layers: every cell, direction, mask, state and rule against the unrolled oracle, on both backends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lrpfast
import oracle_recurrent as oracle
from lrpfast import layers, rules

CELLS = ("SimpleRNN", "LSTM", "GRU", "GRU before")
PRODUCTS = ("signal", "half", "prop", "abs")
BIASES = ("absorb", "ignore", "distribute", "share")


class Case:
    """A layer, its inputs and a relevance, drawn from a seed; ``oracle`` has what the oracle takes."""

    def __init__(self, cell, seed=0, units=3, features=2, steps=4, samples=2, **options):
        rng = np.random.default_rng(seed)
        self.kind, self.units, self.steps = cell.split()[0], units, steps
        blocks = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}[self.kind]

        def weights(*shape):
            return rng.normal(size=shape).astype(np.float32) * np.float32(0.8)

        self.p = {"kernel": weights(features, blocks * units), "recurrent_kernel": weights(units, blocks * units)}
        if self.kind == "GRU":
            self.p["reset_after"] = cell == "GRU"
        if options.pop("bias", True):
            rows = (2,) if cell == "GRU" and seed % 2 else ()
            self.p["bias"] = weights(*rows, blocks * units) / np.float32(4)
        for name in ("initial_h", "initial_c")[: 1 + (self.kind == "LSTM")]:
            if options.get("initial"):
                self.p[name] = weights(units)
        options.pop("initial", None)
        if self.kind != "LSTM":
            options.pop("return_state", None)
        functions = {"SimpleRNN": 1, "GRU": 2, "LSTM": 3}[self.kind]
        for name in ("cell_activation", "gate_activation", "output_activation")[functions:]:
            options.pop(name, None)
        self.p.update(options)
        self.x = weights(samples, steps, features).astype(np.float64)
        self.mask = None
        if options.get("takes_mask"):
            self.mask = rng.integers(0, 2, (samples, steps)).astype(np.float64)
        self.states = []
        if options.get("takes_state"):
            self.states = [weights(samples, units).astype(np.float64) for _ in range(1 + (self.kind == "LSTM"))]
        self.layer = getattr(layers, self.kind)(**{k: self.activation(v) for k, v in self.p.items()})
        self.inputs = [a for a in (self.x, self.mask, *self.states) if a is not None]
        graph = lrpfast.Graph()
        self.model = graph.model(graph.add(self.layer, *(graph.input(a.shape[1:]) for a in self.inputs)))
        self.relevance = weights(samples, *self.model.output_shape).astype(np.float64)

    @staticmethod
    def activation(value):
        return layers.Activation(*value) if isinstance(value, tuple) else value

    def of(self, sample):
        """What the oracle takes of one sample."""
        states = [a[sample] for a in self.states]
        return (self.x[sample], None if self.mask is None else self.mask[sample], *states)

    def predicted(self):
        return np.array([oracle.run(self.kind, self.p, *self.of(s))[0] for s in range(len(self.x))])

    def explained(self, rule, relevance=None):
        """Relevance of each input by the oracle, and its account of each sample."""
        relevance = self.relevance if relevance is None else relevance
        found, accounts = [], []
        for s in range(len(self.x)):
            x, mask, *states = self.of(s)
            account = oracle.Rule(**rule)
            found.append(oracle.explain(self.kind, self.p, account, x, relevance[s], mask, *states))
            accounts.append(account)
        of_x, of_h, of_c = (np.array([f[i] for f in found]) for i in range(3))
        masks = [] if self.mask is None else [np.zeros_like(self.mask)]
        return [of_x, *masks, *(of_h, of_c)[: len(self.states)]], accounts

    def actual(self, rule, precision="float64", **settings):
        single = self.inputs if len(self.inputs) > 1 else self.inputs[0]
        analyzer = lrpfast.Analyzer(self.model, rules.Recurrent(**rule), precision=precision, **settings)
        result = analyzer.analyze(single, self.relevance)
        return result if isinstance(result, list) else [result]


def close(actual, expected, within):
    """Within a part of the largest value of each sample."""
    for a, e in zip(actual, expected, strict=True):
        largest = np.abs(e).reshape(len(e), -1).max(1, initial=0).reshape(-1, *[1] * (e.ndim - 1))
        assert a.shape == e.shape and np.all(np.abs(a - e) <= within * largest + 1e-300)


def check(case, rule, precision="float64", within=1e-10, **settings):
    single = case.inputs if len(case.inputs) > 1 else case.inputs[0]
    predicted = case.model.predict(single, precision=precision, **settings)
    np.testing.assert_allclose(predicted, case.predicted(), rtol=0, atol=1e-13 if precision == "float64" else 3e-6)
    expected, _ = case.explained(rule)
    close(case.actual(rule, precision, **settings), expected, within)


quiet = pytest.mark.filterwarnings("ignore::lrpfast.RelevanceWarning")

CASES = st.fixed_dictionaries(
    {
        "cell": st.sampled_from(CELLS),
        "seed": st.integers(0, 99),
        "units": st.sampled_from([1, 2, 3, 9]),
        "features": st.sampled_from([1, 2, 5]),
        "steps": st.sampled_from([1, 2, 4, 7]),
        "samples": st.sampled_from([1, 2]),
        "bias": st.booleans(),
        "go_backwards": st.booleans(),
        "return_sequences": st.booleans(),
        "time_order": st.booleans(),
        "takes_mask": st.booleans(),
        "zero_masked": st.booleans(),
        "return_state": st.booleans(),
    }
)
FUNCTIONS = [("relu", {}), ("hard_sigmoid", {"slope": 0.2, "offset": 0.5}), ("linear", {}), ("softplus", {})]
#: Activations of one's own: of the candidate, of the gates, and of an LSTM's output.
OWN_FUNCTIONS = st.fixed_dictionaries(
    {},
    optional={
        "cell_activation": st.sampled_from(["tanh", "sigmoid", *FUNCTIONS]),
        "gate_activation": st.sampled_from(["sigmoid", "tanh", ("hard_sigmoid", {"slope": 0.25, "offset": 0.5})]),
        "output_activation": st.sampled_from(["linear", "tanh", "sigmoid"]),
    },
)
STATES = st.sampled_from([{}, {"initial": True}, {"takes_state": True}])
RULES = st.fixed_dictionaries(
    {
        "epsilon": st.sampled_from([0.05, 0.5]),
        "product": st.sampled_from(PRODUCTS),
        "bias": st.sampled_from(BIASES),
    }
)


@quiet
@settings(max_examples=200, deadline=None)
@given(CASES, STATES, OWN_FUNCTIONS, RULES)
def test_layers_are_as_the_unrolled_oracle(case, states, functions, rule):
    check(Case(**case, **states, **functions), rule)


@quiet
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("cell", CELLS)
def test_kernels_of_gpus_are_as_the_oracle(standin, cell, product):
    more = {"return_sequences": True, "takes_mask": True, "takes_state": True, "go_backwards": product == "half"}
    bias = BIASES[PRODUCTS.index(product)]
    rule = {"epsilon": 0.1, "product": product, "bias": bias}
    check(Case(cell, units=3, return_state=True, **more), rule, device="gpu")
    check(Case(cell, seed=1, units=35, steps=2, time_order=False), {**rule, "bias": "absorb"}, device="gpu")


@quiet
@pytest.mark.parametrize("cell", CELLS)
def test_float32_keeps_its_digits(cell):
    check(Case(cell, units=8, features=4, steps=60), {"epsilon": 0.1}, "float32", 2e-6)


@quiet
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f[0])
@pytest.mark.parametrize("cell", CELLS)
def test_activation_functions_of_ones_own(cell, function):
    more = {} if cell == "SimpleRNN" else {"gate_activation": ("hard_sigmoid", {"slope": 0.25, "offset": 0.5})}
    more |= {"output_activation": "linear"} if cell == "LSTM" else {}
    check(Case(cell, cell_activation=function, **more), {"epsilon": 0.1, "product": "half"})


@quiet
@pytest.mark.parametrize("cell", CELLS)
def test_results_are_the_same_bits_for_any_batch_and_threads(cell):
    case = Case(cell, units=5, features=3, steps=9, samples=53, return_sequences=True)
    analyzer = lrpfast.Analyzer(case.model, rules.Recurrent(0.1), threads=1)
    whole = analyzer.analyze(case.x, case.relevance)
    parts = [analyzer.analyze(case.x[i : i + 1], case.relevance[i : i + 1]) for i in range(0, 53, 13)]
    assert np.array_equal(whole[::13], np.concatenate(parts))
    for threads, memory in ((4, None), (2, 400_000)):
        other = lrpfast.Analyzer(case.model, rules.Recurrent(0.1), threads=threads, memory=memory)
        assert np.array_equal(whole, other.analyze(case.x, case.relevance))


@quiet
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("cell", CELLS)
def test_the_balance_of_every_step(cell, bias):
    case = Case(
        cell, initial=True, takes_mask=True, zero_masked=True, return_sequences=True, go_backwards=bias == "ignore"
    )
    rule = {"epsilon": 0.1, "bias": bias, "product": PRODUCTS[BIASES.index(bias)]}
    analyzer = lrpfast.Analyzer(case.model, rules.Recurrent(**rule), precision="float64")
    explanation = analyzer.explain(case.inputs, case.relevance)
    (balance,) = explanation.conservation
    assert np.abs(balance.rounding).max() < 1e-12 * np.abs(balance.incoming).max()
    steps, (_, accounts) = balance.steps, case.explained(rule)
    for name in ("bias", "stabilizer", "lost"):
        took = "lost" if name == "lost" else f"{name}_took"
        wanted = [[getattr(a, took).get(t, 0.0) for t in range(case.steps)] for a in accounts]
        np.testing.assert_allclose(getattr(steps, name), wanted, atol=1e-13)
    np.testing.assert_allclose(steps.outgoing, explanation.relevance[0].sum(2), atol=1e-13)
    np.testing.assert_allclose(steps.incoming, case.relevance.sum(2), atol=1e-13)
    carried = np.roll(steps.states, 1 if case.layer.go_backwards else -1, 1)
    carried[:, 0 if case.layer.go_backwards else -1] = 0
    gone = steps.outgoing + steps.states + steps.bias + steps.stabilizer + steps.lost
    np.testing.assert_allclose(steps.incoming + carried, gone, atol=1e-12)


def test_relevance_that_explodes_between_steps_is_warned_of():
    """It may vanish again before it reaches the input: the steps' own growth counts."""
    kernel, recurrent = np.array([[1.0], [-1.0]]), np.array([[1.0]])
    layer = layers.SimpleRNN(kernel, recurrent, np.array([-1.0]), cell_activation="linear")
    model = lrpfast.from_layers([layer], input_shape=(2, 2))
    x = np.array([[[1.0, 0.0], [0.0, 1.0 - 1e-4]]])
    x[0, 1, 0] = 2.0
    with pytest.warns(lrpfast.AmplificationWarning):
        lrpfast.Analyzer(model, rules.Recurrent(1e-9), precision="float64").explain(x, np.array([[1.0]]))


@quiet
def test_open_lengths_are_planned_for_each():
    case = Case("LSTM", steps=5)
    open_model = lrpfast.from_layers([case.layer, layers.Dense(np.ones((3, 1)))], input_shape=(None, 2))
    analyzer = lrpfast.Analyzer(open_model, rules.Epsilon(0.1), precision="float64")
    for steps in (1, 5):
        fixed = open_model.with_input_shape((steps, 2))
        expected = lrpfast.Analyzer(fixed, rules.Recurrent(0.1), precision="float64").analyze(case.x[:, :steps], 0)
        assert np.array_equal(analyzer.analyze(case.x[:, :steps], 0), expected)


def test_masks_of_sequences_and_tokens():
    graph = lrpfast.Graph()
    x, tokens = graph.input((3, 2)), graph.input(3)
    outputs = [
        graph.add(layers.StepMask(-1.0), x),
        graph.add(layers.StepMask(), tokens),
        graph.add(layers.Masking(-1.0), x),
    ]
    model = graph.model(*outputs)
    values = np.array([[[-1.0, -1.0], [-1.0, 2.0], [0.0, 0.0]]])
    of_x, of_tokens, masked = model.predict([values, np.array([[0.0, 5.0, 0.0]])])
    assert of_x.tolist() == [[0, 1, 1]] and of_tokens.tolist() == [[0, 1, 0]]
    assert masked.tolist() == [[[0, 0], [-1, 2], [0, 0]]]


def written_out(case, steps):
    """The case's LSTM in layers of its own: a dense layer of [x, h] for each gate, products and sums."""
    n, graph = case.units, lrpfast.Graph()
    x = graph.input((steps, case.x.shape[2]))
    weights = np.concatenate([case.p["kernel"], case.p["recurrent_kernel"]])
    h = c = graph.add(layers.Flatten(), graph.add(layers.Dense(np.zeros((case.x.shape[2], n))), graph.add(
        layers.Crop(((0, steps - 1),)), x)))  # fmt: skip
    for step in range(steps):
        row = graph.add(layers.Flatten(), graph.add(layers.Crop(((step, steps - 1 - step),)), x))
        both = graph.add(layers.Concat(), row, h)
        gates = []
        for gate, function in enumerate(("sigmoid", "sigmoid", "tanh", "sigmoid")):
            columns = slice(gate * n, (gate + 1) * n)
            gates.append(graph.add(layers.Dense(weights[:, columns], case.p["bias"][columns], function), both))
        i, f, g, o = gates
        parts = [graph.add(layers.Multiply(), f, c), graph.add(layers.Multiply(), i, g)]
        c = graph.add(layers.Add(), *parts)
        h = graph.add(layers.Multiply(), o, graph.add(layers.Activation("tanh"), c))
    return graph.model(h)


@quiet
@pytest.mark.parametrize(("product", "to"), [("signal", "signal"), ("half", "each"), ("prop", "prop"), ("abs", "abs")])
def test_a_cell_that_is_written_out_has_the_same_relevance(product, to):
    """Products take what recurrent layers take."""
    case = Case("LSTM", steps=3, seed=4)
    epsilon = rules.Epsilon(0.1)
    by_type = {layers.Multiply: rules.Split(to=to, stabilizer=0.1), (layers.Dense, layers.Add): epsilon}
    model = written_out(case, case.steps)
    analyzer = lrpfast.Analyzer(model, lrpfast.composites.ByType(by_type), precision="float64")
    (expected,) = case.actual({"epsilon": 0.1, "product": product})
    np.testing.assert_allclose(analyzer.analyze(case.x, case.relevance), expected, atol=1e-13)


# Rules of composites.


def model_of(*more):
    case = Case("LSTM")
    return lrpfast.from_layers([case.layer, *more, layers.Dense(np.ones((3, 2)), np.ones(2))], input_shape=(4, 2))


def test_rules_by_name_reach_recurrent_layers():
    model = model_of()
    assigned = lrpfast.composites.from_name("epsilon", epsilon=0.1).assign(model)
    assert [rule.epsilon for rule in assigned.rules.values()] == [0.1, 0.1]
    assert lrpfast.composites.EpsilonPlus(0.2).assign(model).rules[1] == rules.Epsilon(0.2)
    with pytest.raises(lrpfast.RuleError, match="'z_plus' is no rule for a recurrent layer; it takes recurrent, eps"):
        lrpfast.Analyzer(model, "z_plus")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (rules.Epsilon(bias="repeat"), "bias='repeat' is no convention of recurrent layers"),
        (rules.Zero(stabilizer=rules.Stabilizer(1e-7, "zero")), "takes stabilizers of kind 'sign'"),
    ],
    ids=str,
)
def test_what_recurrent_layers_do_not_take(rule, message):
    with pytest.raises(lrpfast.RuleError, match=message):
        lrpfast.Analyzer(model_of(), rule)


def test_shared_biases_are_for_dense_and_recurrent_layers():
    model = lrpfast.from_layers([layers.Conv(np.ones((2, 1, 1)))], input_shape=(3, 1))
    with pytest.raises(lrpfast.RuleError, match="bias='share' is for recurrent and dense layers"):
        lrpfast.Analyzer(model, rules.Recurrent(bias="share"))
    with pytest.raises(lrpfast.RuleError, match="product='all' is unknown; choose from 'signal'"):
        rules.Recurrent(product="all")


@quiet
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_shared_biases_of_dense_layers_conserve_relevance(precision):
    rng = np.random.default_rng(5)
    layer = layers.Dense(rng.normal(size=(4, 3)), rng.normal(size=3))
    x, r = rng.normal(size=(2, 5, 4)), rng.normal(size=(2, 5, 3))
    shared = lrpfast.redistribute(rules.Recurrent(0.1, bias="share"), layer, x, r, precision=precision)
    z = x @ layer.kernel + layer.bias
    signed = np.where(z >= 0, 0.1, -0.1)
    s = r / (z + signed)
    expected = x * (s @ layer.kernel.T) + ((layer.bias + signed) * s).sum(-1, keepdims=True) / 4
    np.testing.assert_allclose(shared, expected, rtol=0, atol=1e-5 if precision == "float32" else 1e-13)
    np.testing.assert_allclose(shared.sum(-1), r.sum(-1), atol=1e-5 if precision == "float32" else 1e-13)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.LSTM(np.ones((2, 9)), np.ones((3, 12))), r"kernel must have shape \(features, 12\)"),
        (lambda: layers.LSTM(np.ones((2, 12)), np.ones((3, 9))), r"must have shape \(units, 4 · units\), not \(3, 9\)"),
        (lambda: layers.GRU(np.ones((2, 9)), np.ones((3, 9)), np.ones((2, 9)), reset_after=False), "bias has shape"),
        (lambda: layers.GRU(np.ones((2, 9)), np.ones((3, 9)), gate_activation="softmax"), "one unit at a time"),
        (lambda: layers.SimpleRNN(np.ones((2, 3)), np.ones((3, 3)), go_backwards=1), "go_backwards is True or False"),
        (
            lambda: layers.SimpleRNN(np.ones((2, 3)), np.ones((3, 3)), initial_h=np.ones(3), takes_state=True),
            "initial_h is an array where the initial state is no input",
        ),
        (
            lambda: lrpfast.from_layers([layers.SimpleRNN(np.ones((2, 3)), np.ones((3, 3)))], input_shape=(4, 5)),
            r"it takes sequences of 2 features, \(steps, 2\), its input has shape \(4, 5\)",
        ),
    ],
)
def test_layers_that_do_not_fit_say_so(make, message):
    with pytest.raises(lrpfast.LrpfastError, match=message):
        make()


@pytest.mark.parametrize(("product", "blocks"), [("signal", 5), ("half", 8)])
def test_the_plan_counts_the_products_of_all_steps(product, blocks):
    plan = lrpfast.Analyzer(model_of(), rules.Recurrent(product=product), target=0).plan()
    assert plan.contractions == 2 * 4 + 2 and plan.flops == 2 * 4 * 5 * 3 * blocks + 2 * 2 * 3 * 2
    assert "[x, h]·W each step" in str(plan)


def test_a_model_is_saved_and_read_again(tmp_path):
    model = model_of()
    model.save(tmp_path / "model.npz")
    assert lrpfast.load(tmp_path / "model.npz").digest() == model.digest()
