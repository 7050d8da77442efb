"""Reference samples beside a slow loop, and attribution graphs beside conditions."""

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import lrpfast
from lrpfast import InputError, ShapeError
from lrpfast.batch import unfinished
from lrpfast.batch.references import TopSamples
from lrpfast.cli import main
from lrpfast.layers import Add, Conv, Dense, Flatten

DATA = Path(__file__).parent / "data"
MODEL = DATA / "digits_cnn.h5"
RECORDED = np.load(DATA / "references.npz")
pytestmark = pytest.mark.filterwarnings("ignore::lrpfast.errors.RelevanceWarning")


@pytest.fixture(scope="module")
def x():
    return np.load(DATA / "digits_cnn.npz")["x"][:120]


@pytest.fixture(scope="module")
def analyzer():
    return lrpfast.Analyzer(lrpfast.load(MODEL), "epsilon_plus")


def slow(values, of, k, members=None):
    """Indices, values and positions of every channel, one after the other."""
    members = np.arange(len(values)) if members is None else members
    flat = values.reshape(len(values), -1, values.shape[-1])
    results = []
    for channel in range(values.shape[-1]):
        of_channel = [
            flat[i, :, channel].sum(dtype=np.float64) if of == "sum" else float(flat[i, :, channel].max())
            for i in members.tolist()
        ]
        best = sorted(range(len(members)), key=lambda j: (-of_channel[j], members[j]))[:k]
        positions = [np.unravel_index(flat[members[j], :, channel].argmax(), values.shape[1:-1]) for j in best]
        results.append((members[best], [of_channel[j] for j in best], positions))
    return [np.array(part) for part in zip(*results, strict=True)]


@pytest.mark.parametrize("of", ["sum", "max"])
@pytest.mark.parametrize("by", ["relevance", "activation"])
@pytest.mark.parametrize("layer", ["conv2d_1", "dense"])
def test_references_are_those_of_a_loop(analyzer, x, layer, by, of):
    values = analyzer.explain(x, 3, layers=True).layers[layer]
    if by == "activation":
        values = analyzer.model.until(layer).predict(x)
    expected = slow(values, of, 7)
    found = analyzer.references(x, layer, 7, by=by, of=of, target=3, progress=False)
    for result, own in zip((found.indices, found.values, found.positions), expected, strict=True):
        np.testing.assert_array_equal(result, own.reshape(result.shape))
    assert found.positions.shape == (values.shape[-1], 7, values.ndim - 2) and found.groups is None
    again = lrpfast.Analyzer(analyzer.model, "epsilon_plus", threads=1).references(
        x, layer, 7, by=by, of=of, target=3, progress=False, batch_size=11
    )
    np.testing.assert_array_equal(found.values, again.values)
    np.testing.assert_array_equal(found.indices, again.indices)
    np.testing.assert_array_equal(found.positions, again.positions)


@pytest.mark.parametrize("key", [key for key in RECORDED.files if key.endswith("data")])
def test_figures_of_zennit_crp(key):
    """zennit-crp 0.6.0: the 8 best of 60 samples, under EpsilonPlusFlat; it leaves equal values in any order."""
    mode, of, normed, module, _ = key.split("|")
    analyzer = lrpfast.Analyzer(lrpfast.load(DATA / "torch_cnn.pt2"), "epsilon_plus_flat", precision="float64")
    found = analyzer.references(
        RECORDED["x"],
        {"2": "conv2d_1", "6": "linear"}[module],
        8,
        by={"RelMax": "relevance", "ActMax": "activation"}[mode],
        of=of,
        normalize="l1" if normed == "normed" else None,
        target=RECORDED["target"],
        progress=False,
    )
    values = RECORDED[key.replace("|data", "|rel")].T
    # it adds 1e-10 to the divisor
    np.testing.assert_allclose(found.values, values, rtol=1e-8 if normed == "normed" else 1e-12, atol=1e-15)
    gaps = np.abs(np.diff(values, axis=1)) > 1e-9
    edge = np.ones((len(values), 1), bool)
    distinct = np.hstack([edge, gaps]) & np.hstack([gaps, ~edge])  # the last may be as good as the next
    np.testing.assert_array_equal(found.indices[distinct], RECORDED[key].T[distinct])
    flat = found.positions[..., 0] * 6 + found.positions[..., 1] if module == "2" else np.zeros_like(found.indices)
    np.testing.assert_array_equal(flat[distinct], RECORDED[key.replace("|data", "|rf")].T[distinct])


def test_a_layer_that_is_the_input_in_another_shape(x):
    """Its activations are the samples."""
    model = lrpfast.from_layers([Flatten(name="flat"), Dense(np.ones((64, 2)), name="out")], input_shape=(8, 8, 1))
    analyzer = lrpfast.Analyzer(model, "epsilon")
    for group in (None, "prediction"):
        found = analyzer.references(x, "flat", 3, by="activation", group_by=group, progress=False)
        values = found.values if group is None else found.values[0]
        np.testing.assert_allclose(values, np.sort(x.reshape(len(x), 64), 0)[::-1][:3].T)


def test_groups_and_shares(analyzer, x):
    labels = np.arange(len(x)) % 3
    target = np.arange(len(x)) % 10
    values = analyzer.explain(x, target, layers=True).layers["conv2d_1"]
    sums = values.sum((1, 2), dtype=np.float64)
    shares = sums / np.abs(sums).sum(1, keepdims=True)
    found = analyzer.references(
        x, "conv2d_1", 50, target=target, group_by=labels, normalize="l1", progress=False, batch_size=7
    )
    assert found.groups == [0, 1, 2] and found.indices.shape == (3, 16, 50)
    for g in range(3):
        members = np.flatnonzero(labels == g)  # 40 of them
        order = members[np.argsort(-shares[members], 0, kind="stable")].T
        np.testing.assert_array_equal(found.indices[g, :, :40], order)
        np.testing.assert_allclose(found.values[g, :, :40], np.take_along_axis(shares.T, order, 1), rtol=1e-6)
    assert (found.indices[:, :, 40:] == -1).all() and (found.positions[:, :, 40:] == -1).all()
    assert np.isnan(found.values[:, :, 40:]).all()
    assert "in 3 groups" in str(found) and "<table>" in found._repr_html_()
    predicted = analyzer.references(x, "dense", 2, by="activation", group_by="prediction", progress=False)
    classes = analyzer.model.predict(x).argmax(1)
    assert all((classes[found][found >= 0] == c).all() for c, found in enumerate(predicted.indices))


def test_ties_and_merges():
    """Of equal values the lowest index comes first, in whatever parts the samples come."""
    generator = np.random.default_rng(3)
    rows = generator.integers(0, 4, (700, 5, 6)).astype(np.float32)
    group = generator.integers(-1, 2, 700)
    options = {"k": 9, "of": "sum", "normalize": (), "groups": ["a", "b"]}
    whole = TopSamples((5, 6), **options)
    whole.update(0, rows, group)
    for g in (0, 1):
        expected = slow(rows, "sum", 9, np.flatnonzero(group == g))
        np.testing.assert_array_equal(whole.indices[g], expected[0])
        np.testing.assert_array_equal(whole.values[g], expected[1])
        np.testing.assert_array_equal(whole.results(True)["positions"][g], expected[2])
    parts = []
    for first, stop in ((300, 700), (0, 41), (41, 300)):
        parts.append(TopSamples((5, 6), **options))
        for start in range(first, stop, 29):
            parts[-1].update(start, rows[start : min(stop, start + 29)], group[start : min(stop, start + 29)])
    joined = TopSamples.from_state(parts[0].state())
    for part in parts[1:]:
        joined.merge(part)
    for name, array in joined.state().items():
        np.testing.assert_array_equal(array, whole.state()[name])


class Stop(Exception):
    pass


@pytest.mark.parametrize("out", ["r.npz", "r.h5"])
def test_a_pass_that_was_stopped_goes_on(tmp_path, analyzer, x, out):
    np.save(tmp_path / "x.npy", x)
    options = {"k": 4, "batch_size": 13, "group_by": np.arange(len(x)) % 2}
    whole = analyzer.references(tmp_path / "x.npy", "conv2d_1", progress=False, **options)
    calls = []

    def stop(count):
        calls.append(count)
        if len(calls) == 3:
            raise Stop

    with pytest.raises(Stop):
        analyzer.references(tmp_path / "x.npy", "conv2d_1", out=tmp_path / out, progress=stop, **options)
    assert unfinished(str(tmp_path / out)) and not (tmp_path / out).exists()
    with pytest.raises(InputError, match="references: .*by sum of relevance, now .*by sum of activation"):
        analyzer.references(
            tmp_path / "x.npy", "conv2d_1", by="activation", out=tmp_path / out, progress=False, **options
        )
    counts = []
    found = analyzer.references(tmp_path / "x.npy", "conv2d_1", out=tmp_path / out, progress=counts.append, **options)
    assert sum(counts) < len(x) and not unfinished(str(tmp_path / out))
    for name in ("indices", "values", "positions"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
        source = f"{tmp_path / out}:{name}"
        with lrpfast.batch.open_source(source) as stored:
            np.testing.assert_array_equal(stored.read(0, 2), getattr(whole, name))
    with pytest.raises(InputError, match="there already"):
        analyzer.references(tmp_path / "x.npy", "conv2d_1", out=tmp_path / out, progress=False, **options)


def test_nothing_below_the_layer_is_explained(analyzer):
    """By relevance the backward pass ends at the layer; by activation there is none, the forward pass ends there."""
    programs = analyzer._core._programs
    values = dict(zip([n.name for n in analyzer.explained_model.nodes], programs._plan.values, strict=True))
    whole = programs.storing([values["dense"]], whole=True)[0].program
    stored = programs.storing([values["dense"]], whole=False)[0]
    assert 0 < len(stored.program.backward) < len(whole.backward)
    forward = stored.up_to(values["dense"], output=False)
    assert not forward.backward and 0 < len(forward.forward) < len(whole.forward)


def test_wrong_options(analyzer, x, tmp_path):
    for arguments, options, text in [
        (("conv",), {}, "unknown layer 'conv'"),
        ((3,), {}, "must be a layer's name"),
        (("input_1",), {}, "is an input"),
        (("dense", 0), {}, "k must be"),
        (("dense",), {"by": "gradient"}, "by must be"),
        (("dense",), {"of": "mean"}, "of must be"),
        (("dense",), {"normalize": "l2"}, "normalize must be"),
        (("dense",), {"out": tmp_path / "r.npy"}, "references are written to"),
        (("dense",), {"target": np.zeros((len(x), 2), int)}, "one target per sample"),
    ]:
        with pytest.raises(InputError, match=text):
            analyzer.references(x, *arguments, progress=False, **options)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def residual():
    rng = np.random.default_rng(8)
    graph = lrpfast.Graph()
    i = graph.input((5, 4, 2))
    a = graph.add(Conv(rng.normal(size=(3, 3, 2, 3)), padding="same", activation="relu", name="a"), i)
    b = graph.add(Conv(rng.normal(size=(3, 3, 3, 3)), padding="same", activation="relu", name="b"), a)
    c = graph.add(Add(name="c"), a, b)
    return graph.model(graph.add(Dense(rng.normal(size=(60, 2)), name="d"), graph.add(Flatten(), c)))


def test_the_edges_of_a_graph_are_conditional_relevance(residual):
    x = np.random.default_rng(9).normal(size=(1, 5, 4, 2))
    analyzer = lrpfast.Analyzer(residual, "epsilon", precision="float64", target=1)
    graph = analyzer.attribution_graph(x, "d", 1, width=(2, 3), layers=["b", "a"])
    root = graph.nodes[0]
    layers = analyzer.explain(x, layers=True).layers
    assert root[:2] == ("d", 1)
    np.testing.assert_allclose(root.relevance, layers["d"][0, 1], rtol=1e-12)
    below = layers  # all relevance begins at this channel
    sums = below["b"][0].sum((0, 1))
    best = np.argsort(-np.abs(sums))[:2]
    assert [e.to_channel for e in graph.edges[:2]] == best.tolist()
    np.testing.assert_allclose([e.relevance for e in graph.edges[:2]], sums[best], rtol=1e-12)
    for c in best.tolist():  # to the layer below, what flows through both channels, and past no other
        own = below["b"] * (np.arange(3) == c)
        lower = lrpfast.Analyzer(residual, "epsilon", precision="float64", start="b").explain(x, own, layers=True)
        through = [e for e in graph.edges if (e.layer, e.channel) == ("b", c)]
        assert len(through) == 3
        for edge in through:
            np.testing.assert_allclose(edge.relevance, lower.layers["a"][0, ..., edge.to_channel].sum(), rtol=1e-9)
    for node in graph.nodes[1:]:
        total = sum(e.relevance for e in graph.edges if (e.to_layer, e.to_channel) == node[:2])
        np.testing.assert_allclose(node.relevance, total, rtol=1e-9)
    assert "relevance of channel 1 of 'd'" in str(graph)
    networkx = pytest.importorskip("networkx")
    directed = graph.to_networkx()
    assert isinstance(directed, networkx.DiGraph) and directed.nodes["d", 1]["relevance"] == root.relevance
    assert directed.number_of_edges() == len(graph.edges) and directed.number_of_nodes() == len(graph.nodes)


def test_graphs_of_layers_with_weights_by_default(analyzer, x):
    graph = analyzer.attribution_graph(x[:1], "dense", 3, width=(3, 2))
    assert {n.layer for n in graph.nodes} == {"dense", "conv2d_1", "conv2d"}
    one = analyzer.attribution_graph(x[:1], "dense", -1, width=2)
    assert [e.layer for e in one.edges] == ["dense", "dense"]
    for arguments, options, error, text in [
        ((x[:2], "dense", 0), {}, ShapeError, "takes one sample"),
        ((x[:1], "dens", 0), {}, InputError, "unknown layer"),
        ((x[:1], "dense", 99), {}, InputError, "channels"),
        ((x[:1], "dense", [1]), {}, InputError, "channel must be"),
        ((x[:1], "dense", 0), {"width": 0}, InputError, "width must be"),
        ((x[:1], "conv2d", 0), {}, InputError, "no layer with weights is below"),
        ((x[:1], "dense", 0), {"layers": ["conv2d", "conv2d_1"]}, InputError, "from above to below"),
        ((x[:1], "dense", 0), {"layers": ["conv2d"]}, InputError, "one for each"),
    ]:
        with pytest.raises(error, match=text):
            analyzer.attribution_graph(*arguments, **options)


def test_pictures(analyzer, x):
    pytest.importorskip("matplotlib")
    found = analyzer.references(x[:5], "conv2d_1", 8, progress=False, group_by=np.arange(5) % 2)
    figure = lrpfast.plot.references(found, analyzer, x, [3, 5], group=1, samples=3)
    assert len(figure.axes) == 5  # the group has two samples; and the bar
    assert figure.axes[0].get_title().startswith(f"sample {found.indices[1, 3, 0]}: ")
    with pytest.raises(InputError, match="group must be one of 0, 1"):
        lrpfast.plot.references(found, analyzer, x)
    with pytest.raises(InputError, match="channels must be"):
        lrpfast.plot.references(found, analyzer, x, [16], group=0)


def test_the_command(tmp_path, capsys, x):
    np.save(tmp_path / "x.npy", x)
    arguments = ["references", str(MODEL), str(tmp_path / "x.npy"), "--layer", "dense", "-k", "5", "--rule", "z_plus"]
    assert not main([*arguments, "-o", str(tmp_path / "r.npz"), "--by", "activation"])
    found = lrpfast.Analyzer(lrpfast.load(MODEL), "z_plus").references(x, "dense", 5, by="activation", progress=False)
    with np.load(tmp_path / "r.npz") as file:
        np.testing.assert_array_equal(file["indices"], found.indices)
    assert str(found) in capsys.readouterr().out
    assert main([*arguments, "-o", str(tmp_path / "r.npz")])
    assert "there already" in capsys.readouterr().err
    assert main([*arguments, "--channels", "1"])
    assert "--plot" in capsys.readouterr().err
    pytest.importorskip("matplotlib")
    assert not main([*arguments, "--plot", str(tmp_path / "r.png"), "--channels", "1,3", "--columns", "2"])
    assert (tmp_path / "r.png").stat().st_size > 10_000


def test_the_command_for_one_of_several_outputs(tmp_path, capsys):
    rng, graph = np.random.default_rng(4), lrpfast.Graph()
    hidden = graph.add(lrpfast.layers.Dense(rng.normal(size=(6, 5)), activation="relu", name="h"), graph.input((6,)))
    ends = [
        graph.add(lrpfast.layers.Dense(rng.normal(size=(5, n)), name=name), hidden) for name, n in (("a", 3), ("b", 2))
    ]
    model, x = graph.model(*ends), rng.normal(size=(20, 6)).astype("float32")
    model.save(tmp_path / "two.npz")
    np.save(tmp_path / "x.npy", x)
    options = ["references", f"{tmp_path}/two.npz", f"{tmp_path}/x.npy", "--layer", "h", "-k", "3", "--quiet"]
    assert main([*options, "-o", f"{tmp_path}/r.npz"]) == 2
    assert "start='a'" in capsys.readouterr().err
    assert main([*options, "-o", f"{tmp_path}/r.npz", "--start", "b"]) == 0
    expected = lrpfast.Analyzer(model.until("b"), "epsilon").references(x, "h", 3, progress=False)
    with np.load(tmp_path / "r.npz") as file:
        np.testing.assert_array_equal(file["indices"], expected.indices)
        np.testing.assert_array_equal(file["values"], expected.values)


def test_the_command_of_graphs(tmp_path, capsys, x):
    np.save(tmp_path / "x.npy", x[:5])
    np.save(tmp_path / "targets.npy", np.arange(5))
    command = ["graph", str(MODEL), str(tmp_path / "x.npy"), "--layer", "dense", "--channel", "3", "--rule", "z_plus"]
    options = ["--width", "3,2", "--sample", "4", "--target", str(tmp_path / "targets.npy")]
    analyzer = lrpfast.Analyzer(lrpfast.load(MODEL), "z_plus")
    graph = analyzer.attribution_graph(x[4:5], "dense", 3, width=(3, 2), target=4)
    for name in ("g.json", "g.csv", "g.graphml"):
        assert not main([*command, *options, "-o", str(tmp_path / name)])
        assert str(graph) in capsys.readouterr().out
        assert main([*command, "-o", str(tmp_path / name)])
        assert "--force" in capsys.readouterr().err
    tables = json.loads((tmp_path / "g.json").read_text())
    assert [tuple(node.values()) for node in tables["nodes"]] == graph.nodes
    assert [tuple(edge.values()) for edge in tables["edges"]] == graph.edges
    with open(tmp_path / "g.csv", newline="") as file:
        rows = list(csv.reader(file))[2:]
    assert [(above, int(c), below, int(d), float(r)) for below, d, above, c, r in rows] == graph.edges
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    read = ElementTree.parse(tmp_path / "g.graphml").getroot().find("g:graph", space)
    assert [node.get("id") for node in read.findall("g:node", space)] == [f"{n.layer}:{n.channel}" for n in graph.nodes]
    assert [float(edge[0].text) for edge in read.findall("g:edge", space)] == [edge.relevance for edge in graph.edges]
    for wrong, message in (
        (["-o", "g.xml"], ".graphml"),
        (["--sample", "5"], "0 to 4"),
        (["--channel", "99"], "channels 0 to 31"),
        (["--layers", "conv2d,conv2d_1"], "from above to below"),
    ):
        assert main([*command, *wrong]) == 2
        assert message in capsys.readouterr().err


def test_graphml_is_read_by_networkx(tmp_path, residual):
    networkx = pytest.importorskip("networkx")
    x = np.random.default_rng(4).normal(size=(1, *residual.input_shape))
    layer = residual.layers[-1].name
    graph = lrpfast.Analyzer(residual, "epsilon").attribution_graph(x, layer, 1, width=2, layers=["c"])
    graph.save(tmp_path / "g.graphml")
    read = networkx.read_graphml(tmp_path / "g.graphml")
    assert list(read.nodes) == [f"{node.layer}:{node.channel}" for node in graph.nodes]
    assert [r for *_, r in read.edges(data="relevance")] == [edge.relevance for edge in graph.edges]
