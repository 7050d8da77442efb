"""Numbers that others printed: the seed notebook's, iNNvestigate's, zennit's and captum's."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lrpfast
import oracle
import torch_peers
from lrpfast.model.canonize import canonize
from lrpfast.model.graph import Model
from tolerances import RECORD_FLOOR, RECORD_RUNS, RECORD_SAFETY, RECORD_SIZE, record_allows

DATA = Path(__file__).parent / "data"
SEED = json.loads((DATA / "seed.json").read_text())
#: R as the notebook printed it: the class's logit under TF32
START = np.float32(4.0242043)


def seed_inputs():
    return np.random.RandomState(42).rand(10000, 2)


@pytest.fixture(scope="module")
def seed_model():
    return lrpfast.load(DATA / "seed_model.h5")


def analyze(model, cell, **keywords):
    analyzer = lrpfast.create_analyzer(cell["analyzer"], lrpfast.model_wo_softmax(model), **cell["kwargs"], **keywords)
    return analyzer.analyze(seed_inputs()[2:3])


def cell_id(cell):
    if "rule" in cell:
        return cell["rule"].split(":")[0]
    return " ".join([cell["analyzer"], *(f"{k}={v}" for k, v in cell["kwargs"].items())])


# The notebook's library cells ran on an A100 under TF32. The printed digits are the shortest that tell a float32
# from its neighbours, so "digit for digit" is equality as float32.


@pytest.mark.parametrize("cell", SEED["library_cells_tf32"], ids=cell_id)
def test_library_cells_digit_for_digit(cell, seed_model):
    got = analyze(seed_model, cell, precision="tf32")
    assert got.dtype == np.float32
    assert [str(v) for v in got[0]] == [str(np.float32(v)) for v in cell["relevance"][0]]
    assert float(START - got.sum()) == cell["R_minus_sum"]


def test_prediction_under_tf32(seed_model):
    x = seed_inputs()[2:3]
    got = lrpfast.model_wo_softmax(seed_model).predict(x, precision="tf32")
    assert [str(v) for v in got[0]] == [str(np.float32(v)) for v in SEED["model"]["predicted"][0]]
    dense = next(layer for layer in seed_model.layers if hasattr(layer, "kernel"))
    residual = x.astype(np.float32) @ dense.kernel + dense.bias - got
    np.testing.assert_allclose(residual, SEED["model"]["x@W+b-predicted"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("cell", SEED["library_cells_float32"]["cells"], ids=cell_id)
def test_library_cells_in_float32(cell, seed_model):
    np.testing.assert_allclose(analyze(seed_model, cell), cell["relevance"], rtol=2e-6, atol=0)


def test_prediction_in_float32(seed_model):
    got = lrpfast.model_wo_softmax(seed_model).predict(seed_inputs()[2:3])
    np.testing.assert_allclose(got, SEED["library_cells_float32"]["predicted"], rtol=1e-6)


#: the notebook divides by z as it is: no stabilizer but where z = 0
BARE = lrpfast.rules.Stabilizer(1e-9, "zero")
MANUAL = [
    (lrpfast.rules.AlphaBeta(1, 0, stabilizer=BARE, bias="repeat"), 1e-12),
    (lrpfast.rules.AlphaBeta(1, 0, stabilizer=BARE), 1e-12),
    (lrpfast.rules.AlphaBeta(1, 0, stabilizer=BARE, bias="ignore"), 1e-12),
    (lrpfast.rules.WSquare(stabilizer=BARE), 1e-12),
    (lrpfast.rules.Zero(stabilizer=BARE, bias="ignore"), 1e-12),
    (lrpfast.rules.Zero(stabilizer=BARE), 1e-12),
    (lrpfast.rules.Zero(stabilizer=BARE, bias="ignore"), 1e-12),
    (lrpfast.rules.Epsilon(1e-7), 1e-12),
    (lrpfast.rules.Epsilon(1e-7, bias="ignore"), 1e-12),
    (lrpfast.rules.ZBox(-1, 1, stabilizer=BARE), 1e-7),  # printed with 8 digits
]


@pytest.mark.parametrize("at", range(len(MANUAL)), ids=lambda at: cell_id(SEED["manual_cells_float64"]["cells"][at]))
def test_manual_cells(at, seed_model):
    rule, tolerance = MANUAL[at]
    cell = SEED["manual_cells_float64"]["cells"][at]
    start = np.array([[0.0, np.float64(START)]])
    got = lrpfast.Analyzer(seed_model, rule, target=start, precision="float64").analyze(seed_inputs()[2:3])
    # one figure is misprinted: its cell's own residual disagrees with it by 1e-11, so the residual has to speak for it
    compared = [0] if cell["rule"].startswith("epsilon 1e-7, bias in the denominator") else [0, 1]
    np.testing.assert_allclose(got[0, compared], np.array(cell["relevance"])[compared], rtol=tolerance, atol=0)
    if "R_minus_sum" in cell:
        assert np.float64(START) - got.sum() == pytest.approx(cell["R_minus_sum"], rel=0, abs=1e-12)


def test_every_manual_cell_is_tried():
    assert len(MANUAL) == len(SEED["manual_cells_float64"]["cells"])


def test_distribute_gives_each_input_its_part_of_the_bias(seed_model):
    """The convention that the notebook has no cell for: bias / n to each input, and nothing is missing."""
    rule = lrpfast.rules.Zero(stabilizer=BARE, bias="distribute")
    got = lrpfast.Analyzer(seed_model, rule, target=1, precision="float64").analyze(seed_inputs()[2:3])[0]
    w, b = ([(layer.kernel, layer.bias) for layer in seed_model.layers if hasattr(layer, "kernel")])[0]
    x = seed_inputs()[2]
    np.testing.assert_allclose(got, x * np.float64(w[:, 1]) + np.float64(b[1]) / 2, rtol=1e-12)


# iNNvestigate's recorded explanations.

FILES = {
    "mlp_relu": ("mlp_relu.h5", "mlp_relu.keras", "mlp_relu.k3.keras"),
    "mlp_tanh": ("mlp_tanh.h5", "mlp_tanh.keras", "mlp_tanh.k3.keras"),
    "digits_mlp": ("digits_mlp.h5",),
}
RECORDS = [(name, key) for name in FILES for key in np.load(DATA / f"{name}.npz").files if "|" in key]

#: iNNvestigate adds this to a denominator, only where it is zero
SAFE = (1e-7, "zero")


def parse(key):
    """(analyzer, keywords, neuron_selection) of a recorded key ``NAME|KEYWORDS-AS-JSON``."""
    name, keywords = key.split("|")
    keywords = json.loads(keywords)
    if isinstance(keywords.get("input_layer_rule"), list):
        keywords["input_layer_rule"] = tuple(keywords["input_layer_rule"])
    return name, keywords, keywords.pop("neuron_selection", None)


def oracle_rules(name, keywords, count):
    """The analyzer in the oracle's terms, read from iNNvestigate 2.1.2's source: a rule per Dense layer."""

    def alpha_beta(alpha, beta, bias):
        return "alpha_beta", {"alpha": alpha, "beta": beta, "bias": bias, "stabilizer": SAFE}

    def box(low, high):
        return "z_box", {"low": low, "high": high, "stabilizer": SAFE}

    first = {
        None: None,
        "WSquare": ("w_square", {"stabilizer": SAFE}),
        "Flat": ("flat", {"stabilizer": SAFE}),
        "Bounded": box(-1, 1),
    }
    given = keywords.get("input_layer_rule")
    first_rule = box(*given) if isinstance(given, tuple) else first[given]
    if name == "lrp.z":
        rule = ("zero", {"stabilizer": SAFE})
    elif name == "lrp.epsilon":
        bias = "absorb" if keywords.get("bias", True) else "ignore"
        rule = ("epsilon", {"epsilon": keywords.get("epsilon", 1e-7), "bias": bias})
    elif name == "lrp.w_square":
        rule = first["WSquare"]
    elif name == "lrp.flat":
        rule = first["Flat"]
    elif name == "lrp.alpha_beta":
        rule = alpha_beta(keywords["alpha"], keywords["beta"], "full")
    elif name.startswith("lrp.alpha_"):
        rule = alpha_beta(int(name[10]), int(name[17]), "ignore" if name.endswith("IB") else "full")
    elif name == "lrp.z_plus":
        rule = alpha_beta(1, 0, "ignore")
    elif name == "lrp.z_plus_fast":
        rule = ("z_plus", {"split_input": False, "bias": "ignore", "stabilizer": SAFE})
    elif name.startswith("lrp.sequential_preset"):
        rule = ("epsilon", {"epsilon": 0.1})
        if "flat" in name:
            first_rule = first["Flat"]
    elif name.startswith("deep_taylor"):
        rule = alpha_beta(1, 0, "ignore")
        if name.endswith("bounded"):
            first_rule = box(keywords["low"], keywords["high"])
    return [first_rule or rule] + [rule] * (count - 1)


def oracle_target(name, selection):
    if selection is not None:
        return selection
    if name.startswith("deep_taylor"):  # explains the rectified output
        return lambda y: np.where(np.arange(y.shape[1]) == y.argmax(1)[:, None], np.maximum(y, 0), 0)
    return "max"


@pytest.mark.parametrize("name, key", RECORDS, ids=lambda v: v)
def test_recorded_explanations(name, key):
    record = np.load(DATA / f"{name}.npz")
    x, wanted = record["x"], np.float64(record[key])
    analyzer_name, keywords, selection = parse(key)
    results = []
    for file in FILES[name]:
        model = lrpfast.model_wo_softmax(lrpfast.load(DATA / file))
        analyzer = lrpfast.create_analyzer(analyzer_name, model, **keywords)
        results.append(analyzer.analyze(x, selection) if selection is not None else analyzer.analyze(x))
    assert all(r.tobytes() == results[0].tobytes() for r in results), "the file formats differ"
    got = results[0]
    assert got.dtype == np.float32 and got.shape == wanted.shape

    layers = [
        oracle.Dense(n.kernel, n.bias, n.activation.function if n.activation else None)
        for n in model.layers
        if hasattr(n, "kernel")
    ]
    rules = oracle_rules(analyzer_name, keywords, len(layers))
    target = oracle_target(analyzer_name, selection)
    largest = np.abs(wanted).max(1)
    doubtful = np.flatnonzero(np.abs(got - wanted).max(1) > 1e-5 * largest)
    if len(doubtful):  # what rounding alone may do there
        exact = oracle.explain(layers, rules, x[doubtful], target)
        allowed = record_allows(layers, rules, x[doubtful], target, exact)
        excess = np.abs(got - wanted)[doubtful] - allowed
        assert (excess <= 0).all(), (
            f"sample {doubtful[np.argmax(excess.max(1))]} is off by {np.abs(got - wanted).max()}"
        )


@pytest.mark.parametrize("name, key", RECORDS, ids=lambda v: v)
def test_the_oracle_meets_the_record(name, key):
    """Whoever checks lrpfast by the oracle must know that the oracle itself says what iNNvestigate says."""
    record = np.load(DATA / f"{name}.npz")
    some = slice(0, 24)
    analyzer_name, keywords, selection = parse(key)
    layers = [
        oracle.Dense(n.kernel, n.bias, n.activation.function if n.activation else None)
        for n in lrpfast.load(DATA / f"{name}.h5").layers
        if hasattr(n, "kernel")
    ]
    rules, target = oracle_rules(analyzer_name, keywords, len(layers)), oracle_target(analyzer_name, selection)
    exact = oracle.explain(layers, rules, record["x"][some], target)
    allowed = record_allows(layers, rules, record["x"][some], target, exact)
    assert (np.abs(exact - record[key][some]) <= allowed).all()


# Further calls of iNNvestigate on mlp_relu, recorded for this suite: the name "lrp" itself, and keywords.

FURTHER = np.load(DATA / "mlp_relu_lrp.npz")


@pytest.mark.parametrize("key", FURTHER.files)
def test_further_recorded_explanations(key):
    name, keywords, selection = parse(key)
    if isinstance(keywords.get("rule"), list) and isinstance(keywords["rule"][0], list):
        keywords["rule"] = [(lambda layer, text=text: text in layer.name, rule) for text, rule in keywords["rule"]]
    model = lrpfast.model_wo_softmax(lrpfast.load(DATA / "mlp_relu.h5"))
    x = np.load(DATA / "mlp_relu.npz")["x"]
    got = lrpfast.create_analyzer(name, model, **keywords).analyze(x, selection)
    largest = np.abs(FURTHER[key]).max(1, keepdims=True)
    assert (np.abs(got - FURTHER[key]) <= 1e-5 * largest).all()


@pytest.mark.parametrize("name", FILES)
def test_recorded_predictions(name):
    record = np.load(DATA / f"{name}.npz")
    for file in FILES[name]:
        model = lrpfast.load(DATA / file)
        np.testing.assert_allclose(model.predict(record["x"]), record["y"], rtol=2e-6, atol=2e-6)
        wo_softmax = lrpfast.model_wo_softmax(model).predict(record["x"])
        np.testing.assert_allclose(wo_softmax, record["y_wo_softmax"], rtol=1e-5, atol=3e-6)


# zennit 0.5.1 and captum 0.9 on a dense network, in float64 on float32 weights, from the value of class 0.

TORCH = np.load(DATA / "torch_mlp.npz")


@pytest.mark.parametrize("key", [k for k in TORCH.files if "|" in k])
def test_zennit_and_captum(key):
    weights = np.load(DATA / "torch_mlp.weights.npz")
    make = lrpfast.layers.Dense
    model = lrpfast.from_layers(
        [make(weights[f"{i}.weight"].T, weights[f"{i}.bias"], "relu" if i < 4 else None) for i in (0, 2, 4)]
    )
    np.testing.assert_allclose(model.predict(TORCH["x"], precision="float64"), TORCH["y"], rtol=0, atol=1e-14)
    rules = torch_peers.rules(key)
    composite = lrpfast.composites.Uniform(rules[1], first=rules[0]) if isinstance(rules, tuple) else rules
    wanted = TORCH[key]
    largest = np.abs(wanted).max(1, keepdims=True)
    for precision, tolerance in (("float64", 1e-13), ("float32", 1e-5)):
        got = lrpfast.Analyzer(model, composite, target=0, precision=precision).analyze(TORCH["x"])
        assert (np.abs(got - wanted) <= tolerance * largest).all()


# Convolutional and branched networks.

GRAPHS = {
    **{
        name: (f"{name}.h5", f"{name}.keras", f"{name}.k3.keras")
        for name in ("cnn", "cnn_bn_avg", "conv1d", "branch_concat", "resnet_add")
    },
    "digits_cnn": ("digits_cnn.h5",),
    "keras_norm": ("keras_norm.h5",),
}
GRAPH_RECORDS = [(name, key) for name in GRAPHS for key in np.load(DATA / f"{name}.npz").files if "|" in key]


@functools.cache
def graph_models(name):
    return [lrpfast.model_wo_softmax(lrpfast.load(DATA / file)) for file in GRAPHS[name]]


def largest(relevance):
    """Of each sample, as an array that broadcasts."""
    return np.abs(relevance).max(tuple(range(1, relevance.ndim)), keepdims=True)


def perturbed(model, rng):
    """The model with every weight off by one part in 2^23, float32's spacing, up or down."""
    made = {}  # a layer that is used twice stays one
    for layer in model.layers:
        arrays = {f: getattr(layer, f, None) for f in ("kernel", "bias", "gamma", "beta")}
        changed = {
            f: a.astype(float) * (1 + RECORD_SIZE * rng.choice([-1, 1], a.shape))
            for f, a in arrays.items()
            if isinstance(a, np.ndarray)
        }
        made[id(layer)] = replace(layer, **changed) if changed else layer
    return Model([(made[id(node.layer)], node.inputs) for node in model.nodes], model.name, model.outputs)


def graph_allows(model, make, x, exact, selection):
    """How far a record may be off the float64 explanation, as `tolerances.record_allows` has it for dense networks.

    The oracle is checked elsewhere against the same explanations in float64; here lrpfast itself, in float64, says
    what one float32 rounding of each weight and input does.
    """
    rng = np.random.default_rng(0)
    change = np.zeros_like(largest(exact))
    for _ in range(RECORD_RUNS):
        other = make(perturbed(model, rng), precision="float64")
        change = np.maximum(
            change, largest(run(other, x * (1 + RECORD_SIZE * rng.choice([-1, 1], x.shape)), selection) - exact)
        )
    return np.maximum(RECORD_FLOOR * largest(exact), RECORD_SAFETY * change)


def run(analyzer, x, selection):
    return analyzer.analyze(x) if selection is None else analyzer.analyze(x, selection)


@pytest.mark.parametrize("name, key", GRAPH_RECORDS, ids=lambda v: v)
def test_recorded_explanations_of_graphs(name, key):
    record = np.load(DATA / f"{name}.npz")
    x, wanted = record["x"], np.float64(record[key])
    analyzer_name, keywords, selection = parse(key)

    def make(model, **options):
        return lrpfast.create_analyzer(analyzer_name, model, **keywords, **options)

    results = [run(make(model), x, selection) for model in graph_models(name)]
    assert all(r.tobytes() == results[0].tobytes() for r in results), "the file formats differ"
    got = results[0]
    assert got.dtype == np.float32 and got.shape == wanted.shape
    doubtful = np.flatnonzero((np.abs(got - wanted) > RECORD_FLOOR * largest(wanted)).reshape(len(x), -1).any(1))
    if len(doubtful):
        model, some = graph_models(name)[0], np.float64(x[doubtful])
        exact = run(make(model, precision="float64"), some, selection)
        allowed = graph_allows(model, make, some, exact, selection)
        for values in (got, wanted):
            assert (np.abs(values[doubtful] - exact) <= allowed).all()


@pytest.mark.parametrize("name", GRAPHS)
def test_recorded_predictions_of_graphs(name):
    record = np.load(DATA / f"{name}.npz")
    for file, wo_softmax in zip(GRAPHS[name], graph_models(name), strict=True):
        y = lrpfast.load(DATA / file).predict(record["x"])
        np.testing.assert_allclose(y, record["y"], rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(wo_softmax.predict(record["x"]), record["y_wo_softmax"], rtol=1e-5, atol=1e-5)


# zennit's and captum's, in float64 on float32 weights, from the value of class 0.


def conv(w, at, pad=0, strides=1, **keywords):
    """A convolution of PyTorch's weights (out, in, spatial…)."""
    kernel = w[f"{at}.weight"]
    kernel = kernel.transpose(*range(2, kernel.ndim), 1, 0)
    return lrpfast.layers.Conv(
        kernel, w.get(f"{at}.bias"), strides, [(pad, pad)] * (kernel.ndim - 2), name=f"conv_{at}", **keywords
    )


def linear(w, at, activation=None, flattened=None):
    """A dense layer, its inputs moved from channels first to channels last where it follows a Flatten."""
    kernel = w[f"{at}.weight"].T
    if flattened:
        kernel = np.moveaxis(kernel.reshape(*flattened, -1), 0, -2).reshape(kernel.shape)
    return lrpfast.layers.Dense(kernel, w[f"{at}.bias"], activation, name=f"linear_{at}")


def norm(w, at):
    mean, variance, gamma, beta = (w[f"{at}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    return lrpfast.layers.BatchNorm(mean, variance, gamma, beta, 1e-5, name=f"norm_{at}")


def torch_model(name):
    layers, w = lrpfast.layers, dict(np.load(DATA / f"torch_{name}.weights.npz"))

    def relu():
        return layers.Activation("relu")

    if name == "cnn":
        first = [conv(w, 0, 1), relu(), conv(w, 2, 0, 2), relu(), layers.MaxPool((2, 2)), layers.Flatten()]
        return lrpfast.from_layers([*first, linear(w, 6, "relu", (8, 3, 3)), linear(w, 8)], (14, 14, 3))
    if name == "cnn_bn":
        first = [conv(w, 0), norm(w, 1), relu(), layers.AveragePool((2, 2)), conv(w, 4), norm(w, 5), relu()]
        last = [layers.AdaptiveAveragePool((1, 1)), layers.Flatten(), linear(w, 9)]
        return lrpfast.from_layers([*first, *last], (12, 12, 3))
    if name == "conv1d":
        first = [conv(w, 0, dilation=2), relu(), layers.MaxPool(2), conv(w, 3, 1, groups=2), relu(), layers.Flatten()]
        return lrpfast.from_layers([*first, linear(w, 6, None, (6, 16))], (40, 3))
    graph = lrpfast.Graph()

    def chain(x, *parts):
        for part in parts:
            x = graph.add(part, x)
        return x

    def block(x, at, strides):
        a = chain(x, conv(w, f"{at}.0", 1, strides), norm(w, f"{at}.1"), relu())
        return chain(a, conv(w, f"{at}.3", 1), norm(w, f"{at}.4"))

    x = chain(graph.input((10, 10, 3)), conv(w, 0, 1), relu())
    x = chain(graph.add(layers.Add(), block(x, "2.a", 1), x), relu())
    short = chain(x, conv(w, "3.s.0", 0, 2), norm(w, "3.s.1"))
    x = chain(graph.add(layers.Add(), block(x, "3.a", 2), short), relu())
    return graph.model(chain(x, layers.AdaptiveAveragePool((1, 1)), layers.Flatten(), linear(w, 6)))


TORCH_GRAPHS = {name: np.load(DATA / f"torch_{name}.npz") for name in ("cnn", "cnn_bn", "conv1d", "resnet")}
TORCH_RECORDS = [(name, key) for name, record in TORCH_GRAPHS.items() for key in record.files if "|" in key]


@pytest.mark.parametrize("name, key", TORCH_RECORDS, ids=lambda v: v)
def test_zennit_and_captum_on_graphs(name, key):
    record, model, composite = TORCH_GRAPHS[name], torch_model(name), torch_peers.composite(key)
    x = np.moveaxis(record["x"], 1, -1)
    normed = any(isinstance(layer, lrpfast.layers.BatchNorm) for layer in model.layers)
    if normed and key.startswith("zennit"):
        composite, model = torch_peers.beside_merged(composite, key), torch_peers.as_zennit_merges(model)
    wanted = record[key]
    for precision, tolerance in (("float64", 1e-11), ("float32", None)):
        got = lrpfast.Analyzer(model, composite, target=0, precision=precision).analyze(x)
        off = np.abs(np.moveaxis(got, -1, 1) - wanted)
        if tolerance is not None:
            assert (off <= tolerance * largest(wanted)).all(), (off / largest(wanted)).max()
        else:  # sums that nearly cancel leave float32 with few digits: half of all samples have four
            assert np.median((off / np.maximum(largest(wanted), 1e-30)).max((*range(1, off.ndim),))) < 1e-4


@pytest.mark.parametrize("name", ("cnn_bn", "resnet"))
def test_what_zennit_leaves_of_batch_norm(name):
    """Folded without the rest that zennit leaves, z is off by half of eps per batch norm, and relevance accordingly."""
    record, model = TORCH_GRAPHS[name], torch_model(name)
    x = np.moveaxis(record["x"], 1, -1)
    key = "zennit|composite:epsilon_plus|{}"
    analyzer = lrpfast.Analyzer(model, torch_peers.composite(key), target=0, precision="float64")
    got = np.moveaxis(analyzer.analyze(x), -1, 1)
    off = (np.abs(got - record[key]) / largest(record[key])).max()
    assert 1e-6 < off < 1e-4


@pytest.mark.parametrize("name", TORCH_GRAPHS)
def test_predictions_of_torch_graphs(name):
    record, model = TORCH_GRAPHS[name], torch_model(name)
    x = np.moveaxis(record["x"], 1, -1)
    for made in (model, canonize(model)):
        np.testing.assert_allclose(made.predict(x, precision="float64"), record["y"], rtol=0, atol=1e-14)
