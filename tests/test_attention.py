"""Attention: figures of LXT and zennit, one layer against its parts, masks, gates, and random blocks."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cases
import lrpfast
import oracle_attention
from attention_figures import SETS
from lrpfast import composites, errors, rules
from lrpfast import layers as L  # noqa: N812
from oracle_layers import Layer, Net
from tolerances import Expected

AS_IT_IS = rules.Stabilizer(1e-6, "zero")
DATA = np.load(Path(__file__).parent / "data" / "attention.npz")


# Recorded figures.


def recorded_model(name, fused):
    """A model of the reference, put together from its weights, with one attention or with what it is written as."""
    w = {key.split("/")[-1]: DATA[key] for key in DATA.files if key.startswith(f"{name}/w/")}
    graph = lrpfast.Graph()
    if name == "attention_cross":
        inputs = [graph.input(shape) for shape in ((6, 16), (5, 12), (5, 10))]
        bias = w["in_proj_bias"].reshape(3, 16)
        q, k, v = (
            graph.add(L.Dense(w[f"{part}_proj_weight"].T, bias[i], name=part), inputs[i])
            for i, part in enumerate("qkv")
        )
        out = graph.add(L.Attention(4, scale=0.5, name="attention"), q, k, v)
        model = graph.model(graph.add(L.Dense(w["out_proj.weight"].T, w["out_proj.bias"]), out))
        return model if fused else lrpfast.write_out_attention(model)
    x = graph.input((6, 16))
    q, k, v = (graph.add(L.Dense(w[f"{part}.weight"].T, w[f"{part}.bias"], name=part), x) for part in "qkv")
    turned = []
    for a, heads, norm in ((q, 4, "qn"), (k, 2, "kn")):
        a = graph.add(L.RMSNorm(w[f"{norm}.weight"], epsilon=1e-5), graph.add(L.Reshape((6, heads, 4)), a))
        turned.append(graph.add(L.Rotary(w["cos"], w["sin"], 4), graph.add(L.Reshape((6, heads * 4)), a)))
    out = graph.add(L.Attention(4, 2, scale=0.5, window=(None, 0), name="attention"), *turned, v)
    model = graph.model(graph.add(L.Dense(w["o.weight"].T, w["o.bias"]), out))
    return model if fused else lrpfast.write_out_attention(model)


@pytest.mark.parametrize("fused", [True, False], ids=["one layer", "written out"])
@pytest.mark.parametrize("name", ["attention_gqa_rotary", "attention_cross"])
def test_recorded_figures(name, fused):
    """Of LXT, zennit and an independent implementation, in float64, to 1e-10; and of its own parts in float32."""
    model = recorded_model(name, fused)
    x = [DATA[key] for key in (f"{name}/x0", f"{name}/x1", f"{name}/x2") if key in DATA] or DATA[f"{name}/x"]
    np.testing.assert_allclose(model.predict(x, precision="float64"), DATA[f"{name}/y"], rtol=0, atol=1e-12)
    for key, composite in SETS.items():
        parts = [f"{name}/{key}/{part}" for part in ("x", "x0", "x1", "x2") if f"{name}/{key}/{part}" in DATA]
        if not parts:
            continue
        expected = [DATA[part] for part in parts]
        limit = 1e-10 * max(np.abs(a).max() for a in expected)
        for precision, times in (("float64", 1), ("float32", 1e4)):
            analyzer = lrpfast.Analyzer(model, composite, precision=precision)
            explanation = analyzer.explain(x, DATA[f"{name}/target"], layers=True)
            got = explanation.relevance if isinstance(x, list) else [explanation.relevance]
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=times * limit, err_msg=key)
        if key == "attn_lrp":
            for part in "qkv":
                heads = DATA[f"{name}/{key}/{part}"]
                rows = heads.transpose(0, 2, 1, 3).reshape(*heads.shape[:1], heads.shape[2], -1)
                np.testing.assert_allclose(explanation.layers[part], rows, rtol=0, atol=1e4 * limit)


# Random blocks.


@st.composite
def blocks(draw):
    """A pre-norm block of random sizes: (net, shapes of its attention, whether it is causal, ...)."""
    size = st.integers(1, 3)
    shared, group, d, e, n, m = (draw(size) for _ in range(6))
    m = draw(st.sampled_from([n, m]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    heads = shared * group
    parameters = {"heads": heads, "kv_heads": shared}
    if draw(st.booleans()):
        parameters["window"] = draw(st.sampled_from([(None, 0), (0, 1), (1, None), (0, 0)]))
    if draw(st.booleans()):
        parameters["mask"] = rng.random(draw(st.sampled_from([(m,), (n, m), (heads, 1, m)]))) < 0.7
    if draw(st.booleans()):
        parameters["bias"] = rng.normal(size=draw(st.sampled_from([(heads, n, m), (1, m)])))
    if draw(st.booleans()):
        parameters["softcap"] = 1.5
    return parameters, (n, heads * d), (m, shared * d), (m, shared * e), rng


#: Stabilizers by place, beyond the values that these blocks have, where there would be no digits to compare.
APART = {"stabilizer": (30.0, "unsigned"), "scores": (60.0, "unsigned"), "sums": (50.0, "unsigned"), "masks": True}


def inputs_of(rng, *shapes):
    return [rng.normal(size=(3, *shape)).astype(np.float32) for shape in shapes]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(blocks(), st.sampled_from([("attn", {}), ("attn", {"stabilizer": (1e-6, "zero")}), ("attn", APART), ("cp", {})]))
def test_random_blocks(block, rule):
    """Attention with projections, a residual sum and a norm, against explicit matrices; and against its parts."""
    parameters, *shapes, rng = block
    dense = [Layer("Dense", {"kernel": rng.normal(size=(s[1], s[1])), "bias": rng.normal(size=s[1])}) for s in shapes]
    width = shapes[2][1] // parameters["kv_heads"] * parameters["heads"]
    out = Layer("Dense", {"kernel": rng.normal(size=(width, shapes[0][1])), "bias": rng.normal(size=shapes[0][1])})
    net = Net(
        [
            *((Layer("Input", {"shape": shape}),) for shape in shapes),
            *((layer, i) for i, layer in enumerate(dense)),
            (Layer("Attention", parameters), 3, 4, 5),
            (out, 6),
            (Layer("Add"), 7, 0),
            (Layer("LayerNorm", {"gamma": 1 + rng.random(shapes[0][1]), "epsilon": 1e-5}), 8),
        ]
    )
    x = inputs_of(rng, *shapes)
    start = rng.normal(size=(3, *shapes[0]))
    weights = ("zero", {})
    expected = Expected(lambda ar: net.explain(net.rules(weights, {6: rule}), x, list(start.reshape(3, -1)), ar))
    composite = cases.composite({"n6": rule}, weights)
    for precision in ("float32", "float64"):
        arrays = [a.astype(precision) for a in x]
        got = lrpfast.Analyzer(cases.graph(net), composite, precision=precision).analyze(arrays, start)
        expected.check(cases.flat(got, 3), precision, str(parameters))


@st.composite
def transformers(draw):
    """A block of random parts: (its net, the node of attention, the inputs)."""
    size = st.integers(1, 3)
    shared, group, n, m = draw(size), draw(st.integers(1, 2)), draw(size), draw(size)
    cross, masked, rotated, pre, gated = (draw(st.booleans()) for _ in range(5))
    norm = draw(st.sampled_from(["LayerNorm", "RMSNorm"]))
    d, m = draw(st.sampled_from([2, 4] if rotated else [1, 2, 3])), m if cross else n
    heads, rng = shared * group, np.random.default_rng(draw(st.integers(0, 1000)))
    width = heads * d
    nodes = [(Layer("Input", {"shape": (n, width)}),)]
    shapes = [(n, width)]
    if cross:
        nodes.append((Layer("Input", {"shape": (m, width)}),))
        shapes.append((m, width))
    if masked:
        nodes.append((Layer("Input", {"shape": (m,)}),))
    seen = len(nodes) - 1

    def add(layer, *inputs):
        nodes.append((layer, *inputs))
        return len(nodes) - 1

    def dense(x, rows, columns, activation=None):
        kernel, bias = rng.normal(size=(rows, columns)) / np.sqrt(rows), 0.3 * rng.normal(size=columns)
        return add(Layer("Dense", {"kernel": kernel, "bias": bias, "activation": activation}), x)

    def normed(x):
        beta = {"beta": 0.3 * rng.normal(size=width)} if norm == "LayerNorm" else {}
        return add(Layer(norm, {"gamma": 1 + rng.random(width), "epsilon": 1e-3, **beta}), x)

    def turned(x, length):
        angles = rng.normal(size=(length, d))
        return add(Layer("Rotary", {"cos": np.cos(angles), "sin": np.sin(angles), "size": d}), x)

    x = normed(0) if pre else 0
    of_keys = 1 if cross else x
    q, k, v = dense(x, width, width), dense(of_keys, width, shared * d), dense(of_keys, width, shared * d)
    if rotated:
        q, k = turned(q, n), turned(k, m)
    parameters = {"heads": heads, "kv_heads": shared}
    if draw(st.booleans()):
        parameters["window"] = draw(st.sampled_from([(None, 0), (1, 1)]))
    attention = add(Layer("Attention", parameters), q, k, v, *([seen] if masked else []))
    x = add(Layer("Add"), 0, dense(attention, width, width))
    y = normed(x)
    x = x if pre else y
    if gated:
        y = add(Layer("Multiply"), dense(y, width, 4, "silu"), dense(y, width, 4))
    else:
        y = dense(y, width, 4, draw(st.sampled_from(["relu", "gelu"])))
    add(Layer("Add"), x, dense(y, 4, width))
    data = inputs_of(rng, *shapes)
    if masked:
        data.append((rng.random((3, m)) < 0.7).astype(np.float32))
    return Net(nodes), attention, data


@settings(max_examples=40, deadline=None, derandomize=True)
@given(transformers(), st.sampled_from([("attn", {}), ("attn", APART), ("cp", {})]))
def test_random_transformers(block, rule):
    """Cross attention, shared heads, rotary positions, masks, both norms before and after, gates: explicit matrices."""
    net, attention, x = block
    shape = net.nodes[0].layer.parameters["shape"]
    start = np.random.default_rng(0).normal(size=(3, *shape))
    weights = ("zero", {})
    expected = Expected(
        lambda ar: net.explain(net.rules(weights, {attention: rule}), x, list(start.reshape(3, -1)), ar)
    )
    composite = cases.composite({f"n{attention}": rule}, weights)
    for precision in ("float32", "float64"):
        arrays = [a.astype(precision) for a in x]
        analyzer = lrpfast.Analyzer(cases.graph(net), composite, precision=precision)
        got = analyzer.analyze(arrays if len(arrays) > 1 else arrays[0], start)
        expected.check(cases.flat(got if len(arrays) > 1 else [got], 3), precision, str(net.nodes[attention]))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(blocks(), st.sampled_from(["attn", "cp"]), st.sampled_from([1e-6, AS_IT_IS]))
def test_one_layer_and_its_parts_agree(block, name, stabilizer):
    parameters, *shapes, rng = block
    x = inputs_of(rng, *shapes)
    results = []
    composite = (composites.AttnLRP if name == "attn" else composites.CPLRP)(stabilizer=stabilizer)
    graph = lrpfast.Graph()
    whole = graph.model(graph.add(L.Attention(**parameters), *(graph.input(s) for s in shapes)))
    for model in (whole, lrpfast.write_out_attention(whole)):
        analyzer = lrpfast.Analyzer(model, composite, precision="float64")
        start = np.ones((3, *model.output_shape))
        results.append((model.predict(x, precision="float64"), analyzer.analyze(x, start)))
    (y, one), (z, other) = results
    np.testing.assert_allclose(y, z, rtol=0, atol=1e-12)
    for a, b in zip(one, other, strict=True):
        largest = max(np.abs(r).max() for r in other)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * max(largest, 1e-12))


@pytest.mark.parametrize("mask", [(3,), (2, 3), (4, 2, 3), (1, 2, 3), (5, 4, 2, 3), (5, 1, 1, 3)])
@pytest.mark.parametrize("shared", [4, 2, 1])
def test_masks_of_attention_that_is_written_out(mask, shared):
    """In windows, with a mask that is an input, of keys, of pairs, of heads; the layer is used twice."""
    rng = np.random.default_rng(0)
    graph = lrpfast.Graph()
    q, k, v = (graph.input(shape) for shape in ((5, 2, 8), (5, 3, 2 * shared), (5, 3, 3 * shared)))
    seen = graph.input(mask, "seen", "truth")
    layer = L.Attention(4, shared, mask=rng.random((5, 4, 2, 3)) < 0.9, name="a")
    once = graph.add(layer, q, k, v, seen)
    again = graph.add(layer, graph.add(L.Activation("tanh"), q), k, v, seen)
    model = graph.model(graph.add(L.Add(), once, again))
    written = lrpfast.write_out_attention(model)
    assert [node.name for node in written.nodes if isinstance(node.layer, L.Softmax)] == ["a/weights", "a:1/weights"]
    x = [rng.normal(size=(2, *shape)) for shape in model.input_shape[:3]] + [rng.random((2, *mask)) < 0.7]
    results = []
    for each in (model, written):
        analyzer = lrpfast.Analyzer(each, "attn_lrp", precision="float64")
        results.append([each.predict(x, precision="float64"), *analyzer.analyze(x, np.ones((2, *each.output_shape)))])
    largest = max(np.abs(b).max() for b in results[1])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * largest)


def test_what_cannot_be_written_out():
    with pytest.raises(errors.InputError, match="takes a Model, not str"):
        lrpfast.write_out_attention("model.onnx")
    graph = lrpfast.Graph()
    x = graph.input((None, 4))
    with pytest.raises(errors.ShapeError, match="with_input_shape"):
        lrpfast.write_out_attention(graph.model(graph.add(L.Attention(2), x, x, x)))
    plain = lrpfast.from_layers([L.Dense(np.eye(2))])
    assert lrpfast.write_out_attention(plain).digest() == plain.digest()


def test_the_same_bits_for_any_batch_and_threads():
    rng = np.random.default_rng(0)
    graph = lrpfast.Graph()
    x = graph.input((70, 12))
    model = graph.model(graph.add(L.Attention(3, window=(None, 0)), x, x, x))
    data = rng.normal(size=(5, 70, 12)).astype(np.float32)
    start = np.ones((5, 70, 12))
    whole = lrpfast.Analyzer(model, "attn_lrp", threads=1).analyze(data, start)
    for threads in (1, 2):
        analyzer = lrpfast.Analyzer(model, "attn_lrp", threads=threads)
        alone = np.concatenate([analyzer.analyze(data[i : i + 1], start[i : i + 1]) for i in range(5)])
        np.testing.assert_array_equal(alone, whole)
        np.testing.assert_array_equal(analyzer.analyze(data, start), whole)


# Masks.


@pytest.mark.parametrize("name", ["attn_lrp", "cp_lrp"])
@pytest.mark.parametrize("fused", [True, False])
def test_masked_tokens_get_nothing_and_change_nothing(name, fused):
    """Their relevance is exactly 0, and so is that of what comes after the explained position."""
    rng = np.random.default_rng(1)
    graph = lrpfast.Graph()
    x, mask = graph.input((5, 4)), graph.input(5, "mask", "truth")
    if fused:
        out = graph.add(L.Attention(2, window=(None, 0)), x, x, x, mask)
    else:
        scores = graph.add(L.MatMul(transpose_b=True), x, x)
        out = graph.add(L.MatMul(), graph.add(L.Softmax(window=(None, 0)), scores, mask), x)
    model = graph.model(out)
    data = rng.normal(size=(2, 5, 4))
    seen = np.array([[1, 0, 1, 1, 0], [0, 0, 1, 1, 1]], bool)
    analyzer = lrpfast.Analyzer(model, name, precision="float64")
    relevance, none = analyzer.analyze([data, seen], 3 * 4 + 1)
    assert not none.any() and np.isfinite(relevance).all() and relevance.any()
    assert not relevance[:, 4].any()
    assert not relevance[0, 1].any() and not relevance[1, :2].any()
    again = data.copy()
    again[~seen] = rng.normal(size=(~seen).sum() * 4).reshape(-1, 4)
    np.testing.assert_array_equal(analyzer.analyze([again, seen], 3 * 4 + 1)[0][seen], relevance[seen])
    empty = model.predict([data, np.zeros((2, 5))])
    assert not empty.any()


def test_a_mean_over_the_tokens_that_are_there():
    """All relevance of a product with what masks alone give goes to the other factor."""
    graph = lrpfast.Graph()
    x, mask = graph.input((3, 2)), graph.input((1, 3), "mask", "truth")
    count = graph.add(L.MatMul(transpose_b=True), mask, mask)
    share = graph.add(L.Multiply(), mask, graph.add(L.Activation("power", {"exponent": -1.0}), count))
    model = graph.model(graph.add(L.MatMul(), share, x))
    data, seen = np.array([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]), np.array([[[1, 0, 1]]])
    np.testing.assert_allclose(model.predict([data, seen]), [[[3.0, 4.0]]])
    for name in ("attn_lrp", "cp_lrp", "epsilon"):
        analyzer = lrpfast.Analyzer(model, name, precision="float64")
        relevance, none = analyzer.analyze([data, seen], np.ones((1, 1, 2)))
        assert not none.any()
        np.testing.assert_allclose(relevance, [[[1 / 6, 1 / 4], [0, 0], [5 / 6, 3 / 4]]], rtol=1e-5)


def test_gates():
    """Under CP all relevance of a gated product goes to the signal."""

    def gated(gate, signal):
        graph = lrpfast.Graph()
        a, b = graph.input(2, "a"), graph.input(2, "b")
        parts = [graph.add(layer, x) if layer else x for layer, x in ((gate, a), (signal, b))]
        return graph.model(graph.add(L.Multiply(), *parts))

    x, start = [np.ones((1, 2)), np.ones((1, 2))], np.ones((1, 2))
    silu, sigmoid, tanh = (L.Activation(f) for f in ("silu", "sigmoid", "tanh"))
    for gate, signal, shares in ((silu, None, (0, 1)), (sigmoid, tanh, (0, 1)), (tanh, tanh, (0.5, 0.5))):
        got = lrpfast.Analyzer(gated(gate, signal), "cp_lrp").analyze(x, start)
        assert [a[0, 0] for a in got] == list(shares)
        got = lrpfast.Analyzer(gated(gate, signal), "attn_lrp").analyze(x, start)
        assert [a[0, 0] for a in got] == [0.5, 0.5]


# The balance, and what does not fit.


def test_the_balance_adds_up():
    rng = np.random.default_rng(2)
    model = recorded_model("attention_gqa_rotary", True)
    for name, composite in SETS.items():
        report = lrpfast.Analyzer(model, composite, precision="float64").explain(rng.normal(size=(2, 6, 16)))
        for balance in report.conservation:
            assert np.abs(balance.rounding).max() < 1e-10, balance
        lost = report.conservation["attention"].lost
        assert (np.abs(lost).max() < 1e-12) == ("cp" in name)


def test_projections_are_found():
    """LXT's example leaves gamma out there, however attention is written."""
    for fused in (True, False):
        model = recorded_model("attention_gqa_rotary", fused)
        given_rules = composites.LXTViT().assign(model).rules
        by_name = {model.nodes[i].name: rule.name for i, rule in given_rules.items()}
        assert [by_name[name] for name in ("q", "k", "v", "dense")] == ["zero"] * 4
    dense = lrpfast.from_layers([L.Dense(np.eye(2))])
    assert [rule.name for rule in composites.LXTViT().assign(dense).rules.values()] == ["gamma"]


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: L.Attention(0), ["heads", "at least 1"]),
        (lambda: L.Attention(4, 3), ["kv_heads", "divide", "3"]),
        (lambda: L.Attention(window=3), ["window", "pair"]),
        (lambda: L.Attention(window=(-1, 0)), ["window", "-1"]),
        (lambda: L.Attention(mask=np.ones(3)), ["mask", "True", "float64"]),
        (lambda: L.Attention(softcap=0), ["softcap", "above 0"]),
        (lambda: L.Attention(2).output_shape((3, 5), (3, 4), (3, 4)), ["(3, 5)", "2 heads"]),
        (lambda: L.Attention().output_shape((3, 4), (3, 5), (3, 5)), ["4 and 5 channels"]),
        (lambda: L.Attention().output_shape((3, 4), (3, 4), (2, 4)), ["do not fit"]),
        (lambda: L.Attention(mask=np.ones(2, bool)).output_shape((3, 4), (3, 4), (3, 4)), ["mask", "(2,)"]),
        (lambda: L.Attention().output_shape((3, 4), (3, 4), (3, 4), (2,)), ["mask", "(2,)"]),
        (lambda: L.MatMul(1), ["transpose_a", "True or False"]),
        (lambda: L.MatMul().output_shape((2, 3), (2, 3)), ["(2, 3)", "do not fit"]),
        (lambda: L.Softmax(mask=[[True, False]]).output_shape((2, 3)), ["mask", "(1, 2)"]),
        (lambda: L.Rotary(np.ones((2, 3)), np.ones((2, 3)), 4), ["even"]),
        (lambda: L.Rotary(np.ones((2, 4)), np.ones((2, 4)), 4).output_shape((3, 4)), ["2 positions", "(3, 4)"]),
        (lambda: L.Input(3, "word"), ["kind", "'word'"]),
        (lambda: rules.Split(to="left"), ["split", "'left'", "'signal'"]),
        (lambda: lrpfast.redistribute(rules.Split(to=(2,)), L.Multiply(), [np.ones((1, 2))] * 2, np.ones((1, 2))),
         ["factor 2", "2, counted from 0"]),
    ],
)  # fmt: skip
def test_what_does_not_fit(make, words):
    with pytest.raises(errors.LrpfastError) as caught:
        make()
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_model_with_masks_is_saved(tmp_path):
    graph = lrpfast.Graph()
    x, mask = graph.input((3, 4)), graph.input(3, "mask", "truth")
    layer = L.Attention(2, window=(None, 0), mask=np.ones((3, 3), bool), bias=np.ones((1, 3)))
    model = graph.model(graph.add(layer, x, x, x, mask))
    model.save(tmp_path / "model.npz")
    again = lrpfast.load(tmp_path / "model.npz")
    data = [np.random.default_rng(0).normal(size=(2, 3, 4)), np.ones((2, 3))]
    np.testing.assert_array_equal(again.predict(data), model.predict(data))
    assert again.nodes[1].layer.kind == "truth" and again.digest() == model.digest()


def test_the_oracle_sees_what_the_window_says():
    seen = oracle_attention.seen_keys((3, 4), window=(1, 0))
    np.testing.assert_array_equal(seen, [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]])
