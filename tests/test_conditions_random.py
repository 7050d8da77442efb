"""Random branched networks under random conditions, against the oracle."""

import numpy as np
import pytest

import cases
import lrpfast
import oracle_conditions
from lrpfast import ShapeError
from oracle_layers import Layer, Net, folded_into_before
from tolerances import Expected

RULES = [
    ("epsilon", {"epsilon": 0.1}),
    ("epsilon", {"epsilon": 0.1, "bias": "distribute"}),
    ("gamma", {}),
    ("alpha_beta", {}),
    ("z_plus", {"bias": "full"}),
    ("w_square", {}),
    ("flat", {}),
]
pytestmark = pytest.mark.filterwarnings("ignore::lrpfast.errors.RelevanceWarning")


def network(rng):
    """A random branched network of images, whose sizes may be 1; batch norms are not folded.

    The last node is a dense layer of two outputs above all nodes that nothing else uses.
    """
    height, width, channels = (int(n) for n in rng.integers(1, 4, 3))
    weights = cases.Weights(int(rng.integers(1 << 30)))
    nodes, depth = [(Layer("Input", {"shape": (height, width, channels)}),)], [channels]
    for _ in range(int(rng.integers(2, 7))):
        i, n = int(rng.integers(max(0, len(nodes) - 3), len(nodes))), 0
        kind = rng.choice(["conv", "conv", "relu", "norm", "add", "concat"])
        if kind in ("conv", "add"):
            n = int(rng.integers(1, 4)) if kind == "conv" else depth[i]
        like = [j for j in range(len(nodes)) if depth[j] == depth[i] and j != i]
        if kind == "add" and like:
            nodes.append((Layer("Add"), i, int(rng.choice(like))))
        elif kind == "concat" and len(nodes) > 1:
            other = int(rng.choice([j for j in range(len(nodes)) if j != i]))
            nodes.append((Layer("Concat"), i, other))
            n = depth[i] + depth[other]
        elif kind == "relu":
            nodes.append((Layer("Activation", {"function": "relu"}), i))
            n = depth[i]
        elif kind == "norm":
            nodes.append((batch_norm(weights, depth[i]), i))
            n = depth[i]
        else:
            n = n or 2
            size = int(rng.choice([1, 3]))
            options = {"padding": "same", "activation": str(rng.choice(["relu", "tanh", "linear"]))}
            kernel = weights.kernel(size, size, depth[i], n)
            nodes.append((Layer("Conv", {"kernel": kernel, "bias": weights.bias(n), **options}), i))
        depth.append(n)
    used = {j for _, *inputs in nodes for j in inputs}
    ends = [i for i in range(len(nodes)) if i not in used]
    if len(ends) > 1:
        nodes.append((Layer("Concat"), *ends))
        depth.append(sum(depth[i] for i in ends))
    size = height * width * depth[-1]
    nodes.append((Layer("Flatten"), len(nodes) - 1))
    nodes.append((Layer("Dense", {"kernel": weights.kernel(size, 2), "bias": weights.bias(2)}), len(nodes) - 1))
    return Net(nodes), [*depth, size, 2]


def batch_norm(weights, channels):
    parameters = {key: weights.bias(channels) for key in ("mean", "gamma", "beta")}
    return Layer("BatchNorm", {"variance": np.abs(weights.bias(channels)) + 0.5, **parameters})


def selection(rng, shape):
    """Neurons of a layer as a user names them, and the same as an array of truths."""
    channels = shape[-1]
    kind = rng.choice(["index", "negative", "list", "set", "slice", "channels", "neurons", "none"])
    truths = np.zeros(channels, bool)
    some = sorted({int(c) for c in rng.integers(0, channels, 2)})
    if kind in ("channels", "neurons", "none"):
        truths = rng.random(shape if kind == "neurons" else channels) < (0 if kind == "none" else 0.5)
        return truths, np.broadcast_to(truths, shape)
    if kind == "slice":
        truths[some[0] : some[-1]] = True
        return slice(some[0], some[-1]), np.broadcast_to(truths, shape)
    one = some[:1] if kind in ("index", "negative") else some
    truths[one] = True
    named = {"index": one[0], "negative": one[0] - channels, "list": some, "set": set(some)}[str(kind)]
    return named, np.broadcast_to(truths, shape)


def random_conditions(rng, net, shapes):
    """Conditions on one to three layers each, as a user writes them, and as the oracle takes them."""
    ours, theirs = [], []
    for _ in range(4):
        layers = {int(i) for i in rng.integers(1, len(net.nodes) - 1, int(rng.integers(1, 4)))}
        pairs = {i: selection(rng, shapes[i]) for i in layers}
        ours.append({f"n{i}": named for i, (named, _) in pairs.items()})
        theirs.append({i: truths for i, (_, truths) in pairs.items()})
    return ours, theirs


def connected(net, chosen):
    """Whether each layer of a condition is below the one above it."""
    order = sorted(chosen, reverse=True)
    return all(oracle_conditions.reaches(net, *pair) for pair in zip(order, order[1:], strict=False))


@pytest.mark.parametrize("rule", RULES, ids=cases.case_id)
@pytest.mark.parametrize("seed", range(5))
def test_random_networks(seed, rule):
    rng = np.random.default_rng((seed, RULES.index(rule)))
    net, _ = network(rng)
    shape = net.nodes[0].layer.parameters["shape"]
    x = cases.values(shape, 3, seed=seed)
    shapes = net.values([np.ravel(x[0])]).shapes
    composite = lrpfast.composites.Composite(cases.composite({}, rule).entries, "own", canonize=False)
    analyzer = lrpfast.Analyzer(cases.graph(net), composite, precision="float64", device="cpu")
    rules = net.rules(rule)
    whole = Expected(lambda ar: net.explain(rules, x, 1, ar)).within("float64")[1]
    ours, theirs = random_conditions(rng, net, shapes)
    for parallel in (False, True):
        keep = []
        for condition, chosen in zip(ours, theirs, strict=True):
            if parallel or connected(net, chosen):
                keep.append((condition, chosen))
                continue
            with pytest.raises(ShapeError, match="no path"):
                analyzer.analyze(x, 1, conditions=condition)
        if not keep:
            continue
        got = analyzer.analyze(x, 1, conditions=[condition for condition, _ in keep], parallel=parallel)
        for k, (condition, chosen) in enumerate(keep):
            expected = Expected(lambda ar, c=chosen, p=parallel: oracle_conditions.explain(net, rules, x, 1, c, p, ar))
            exact, allowed = expected.within("float64")
            allowed = allowed + whole * (1 + len(chosen)) * parallel  # what is subtracted from the whole is off as well
            assert (np.abs(got[:, k].reshape(exact.shape) - exact) <= allowed).all(), (condition, parallel)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_folded_batch_norm(at, parallel):
    """The convolution, the batch norm folded into it and the ReLU above them put out the same layer's channels."""
    weights = cases.Weights(3)
    conv = Layer("Conv", {"kernel": weights.kernel(3, 3, 2, 3), "bias": weights.bias(3), "padding": "same"})
    norm, relu = batch_norm(weights, 3), Layer("Activation", {"function": "relu"})
    entry = (Layer("Input", {"shape": (3, 2, 2)}),)
    head = (Layer("Dense", {"kernel": weights.kernel(30, 2), "bias": weights.bias(2)}), 5)
    upper = [(relu, 2), (Layer("Concat"), 0, 3), (Layer("Flatten"), 4), head]
    net = Net([entry, (conv, 0), (norm, 1), *upper])
    folded = Net([entry, (folded_into_before(conv, norm), 0), (Layer("Identity"), 1), *upper])
    rule, x = ("epsilon", {"epsilon": 0.1}), cases.values((3, 2, 2), 3)
    analyzer = lrpfast.Analyzer(cases.graph(net), cases.composite({}, rule), precision="float64", device="cpu")
    for channels in ([0], [0, 2], []):
        truths = np.broadcast_to(np.isin(np.arange(3), channels), (3, 2, 3))
        expected = Expected(
            lambda ar, t=truths: oracle_conditions.explain(folded, folded.rules(rule), x, 1, {at: t}, parallel, ar)
        )
        exact, allowed = expected.within("float64")
        whole = Expected(lambda ar: folded.explain(folded.rules(rule), x, 1, ar)).within("float64")[1]
        got = analyzer.analyze(x, 1, conditions={f"n{at}": np.isin(np.arange(3), channels)}, parallel=parallel)
        assert (np.abs(got.reshape(exact.shape) - exact) <= allowed + 2 * whole * parallel).all()
