"""What objects say of themselves at a prompt, and as HTML in a notebook."""

from dataclasses import dataclass
from html.parser import HTMLParser

import numpy as np
import pytest

import lrpfast
from lrpfast import layers, table


class Reader(HTMLParser):
    """The rows of a page's tables, and all other text; fails where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.text, self.open = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        else:
            self.text.append(data)


def network(name="dense"):
    return lrpfast.from_layers([layers.Dense(np.eye(2), activation="relu", name=name), layers.Dense(np.ones((2, 1)))])


def test_html_is_the_text_s_table_and_escapes_names():
    model = network("<b>&amp;</b>")
    analyzer = lrpfast.Analyzer(model, "epsilon", device="cpu")
    explanation = analyzer.explain(np.ones((3, 2)))
    for shown in (model, analyzer, analyzer.plan(), explanation.conservation, explanation):
        page = shown._repr_html_()
        text = model.summary() if shown is model else str(analyzer.plan() if shown is analyzer else shown)
        assert "<b>" not in page
        read = Reader(page)
        assert any("<b>&amp;</b>" in cell for row in read.rows for cell in row)
        for cell in (cell for row in read.rows for cell in row):
            assert cell in text
        assert len({len(row) for row in read.rows}) == 1


def test_html_of_a_table():
    assert table.html([("a", "b"), ("x", "1")], "over", "<under>", right=1) == (
        '<p>over</p><table><thead><tr><th style="text-align: left">a</th><th style="text-align: right">b</th></tr>'
        '</thead><tbody><tr><td style="text-align: left">x</td><td style="text-align: right">1</td></tr></tbody>'
        "</table><p>&lt;under&gt;</p>"
    )


def test_reprs():
    model = network()
    analyzer = lrpfast.Analyzer(model, "epsilon", device="cpu")
    assert repr(model) == "<lrpfast.Model 'model': (2,) -> (1,), 3 layers>"
    assert repr(analyzer) == "<lrpfast.Analyzer of 'model': epsilon; float32, cpu>"
    explanation = analyzer.explain(np.ones((3, 2)), layers=True)
    first, *rest = repr(explanation).splitlines()
    assert first == "<lrpfast.Explanation: relevance (3, 2) float32, 3 layers>"
    assert rest == repr(explanation.conservation).splitlines()
    assert "Explanation: relevance (3, 2) float32, 3 layers" in Reader(explanation._repr_html_()).text[0]
    assert repr(analyzer.plan()) == str(analyzer.plan())
    assert f"<lrpfast.{Reader(analyzer._repr_html_()).text[0]}>" == repr(analyzer)
    sizes_open = lrpfast.from_layers([layers.Conv(np.ones((3, 1, 2)))], input_shape=(None, 1))
    analyzer = lrpfast.Analyzer(sizes_open, "epsilon")
    assert repr(analyzer) == "<lrpfast.Analyzer of 'model': float32, input sizes open>"
    assert f"<lrpfast.{Reader(analyzer._repr_html_()).text[0]}>" == repr(analyzer)


@pytest.mark.parametrize(
    "layer, text",
    [
        (
            layers.Dense(np.ones((300, 2)), np.ones(2), "relu", name="fc"),
            "Dense('fc', kernel=float64 (300, 2), bias=float64 (2,), activation='relu')",
        ),
        (layers.Conv(np.ones((3, 1, 2), np.float32), padding="same"), "Conv(kernel=float32 (3, 1, 2), padding='same')"),
        (layers.Flatten(), "Flatten()"),
        (
            layers.Activation("leaky_relu", {"negative_slope": 0.5}),
            "Activation(function='leaky_relu', parameters={'negative_slope': 0.5})",
        ),
        (
            layers.Dense(np.ones((1, 2)), activation=layers.Activation("prelu", {"negative_slope": np.ones(2)})),
            "Dense(kernel=float64 (1, 2), activation=Activation(function='prelu', "
            "parameters={'negative_slope': float64 (2,)}))",
        ),
        (layers.Interpolate((np.ones((4, 2)), None)), "Interpolate(matrices=(float64 (4, 2), None))"),
        (network().nodes[1], "Node('dense', Dense, inputs=(0,), shape=(2,))"),
        (lrpfast.Graph(), "<lrpfast.Graph: 0 layers, inputs none>"),
    ],
)
def test_reprs_of_layers_show_no_weights(layer, text):
    assert repr(layer) == text


def test_a_dataclass_of_ones_own_shows_no_weights():
    @dataclass(frozen=True, eq=False)
    class Twice(layers.Block):
        kernel: np.ndarray

    assert repr(Twice(np.ones((2, 3)), name="mine")) == "Twice('mine', kernel=float64 (2, 3))"


def test_reprs_of_data_sets():
    statistics = lrpfast.Statistics((2,), groups=["cat", "dog"], quantiles=True)
    statistics.update(0, np.ones((3, 2)), group=np.array([0, 1, -1]))
    assert repr(statistics) == "<lrpfast.Statistics of maps (2,): 2 samples in 2 groups, with quantiles>"
    assert repr(lrpfast.Statistics((4, 4))) == "<lrpfast.Statistics of maps (4, 4): 0 samples>"
    analyzer = lrpfast.Analyzer(network(), "epsilon", device="cpu")
    done = analyzer.stream(np.ones((5, 2)), lambda first, relevance: None, statistics=True, progress=False)
    told = repr(done)
    assert told.startswith("<lrpfast.Streamed: 5 samples in ")
    assert told.endswith(" s; relevance (5, 2) float32, statistics>")


def test_equality_and_hash_of_data_sets():
    """By identity: what they hold are arrays and counts of a run."""
    analyzer = lrpfast.Analyzer(network(), "epsilon", device="cpu")
    one, other = (analyzer.stream(np.ones((5, 2)), statistics=True, progress=False) for _ in range(2))
    for a, b in ((one, other), (one.statistics, other.statistics)):
        assert a == a and a != b and len({a, b, a}) == 2


def test_an_analyzer_s_repr_names_its_rules_with_their_parameters():
    def shown(analyzer):
        return repr(analyzer).removeprefix("<lrpfast.Analyzer of 'model': ").removesuffix("; float32, cpu>")

    rules, names = lrpfast.rules, lrpfast.composites
    own = {"a": rules.Gamma(0.1), "b": "flat", "c": "zero", "d": "z_plus", "e": "epsilon"}
    model = lrpfast.from_layers([layers.Dense(np.eye(2), name=name) for name in own])
    for rule, wanted in (
        (rules.Epsilon(0.3), "epsilon(epsilon=0.3)"),
        (names.EpsilonPlusFlat(), "epsilon_plus_flat: flat, epsilon"),
        (names.ByName(own), "by name: gamma(gamma=0.1), flat, zero, z_plus, …"),
    ):
        assert shown(lrpfast.Analyzer(model, rule, device="cpu")) == wanted
    named = lrpfast.create_analyzer("lrp.epsilon", model, epsilon=0.2, device="cpu")
    assert shown(named) == "lrp.epsilon: epsilon(epsilon=0.2)"
    nothing = lrpfast.from_layers([layers.Activation("relu")], input_shape=(2,))
    assert shown(lrpfast.Analyzer(nothing, "zero", device="cpu")) == "pass"


def test_balances():
    model = lrpfast.from_layers([layers.Dense([[1.0], [2.0]], [1.0], name="a"), layers.Dense([[1.0]], name="b")])
    report = lrpfast.Analyzer(model, "zero", precision="float64").explain(np.ones((3, 2))).conservation
    assert repr(report["a"]).startswith(
        "<lrpfast.Balance of 'a' under zero, mean of 3 samples: incoming 4, outgoing 3, bias 1, "
    )
    assert len(repr(report["a"])) < 250
    assert [b.layer for b in report] == ["b", "a"] and report[1] is report["a"] is report[-1]
    part = report[1:]
    assert isinstance(part, lrpfast.Conservation) and len(part) == 1 and part[0] is report["a"]
    assert "mean of 3 samples" in str(part) and "mean of 0 samples" in str(report[:0])
    columns = report.to_dict()
    assert columns["layer"].tolist() == ["b"] * 3 + ["a"] * 3 and columns["sample"].tolist() == [0, 1, 2] * 2
    assert columns["bias"][3:].tolist() == report["a"].bias.tolist() and columns["rounding"].dtype == np.float64
    assert all(len(column) == 0 for column in report[:0].to_dict().values())
    with pytest.raises(lrpfast.InputError, match="'dense'.*'b', 'a'"):
        report["dense"]


def test_notebooks_show_the_maps(monkeypatch):
    """An explanation, statistics and a stream with statistics have their picture inside; without matplotlib none."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    model = lrpfast.from_layers([layers.Dense(np.eye(4, 2))])
    analyzer, x = lrpfast.Analyzer(model, "epsilon"), np.ones((5, 4))
    done = analyzer.stream(x, statistics=True, group_by=["<i>"] * 4 + ["$b$"], progress=False)
    shown = [analyzer.explain(x), done.statistics, done]
    for thing in shown:
        text = thing._repr_html_()
        assert text.count('src="data:image/png;base64,') == 1 and "<i>" not in text
        Reader(text)
    images = lrpfast.Explanation(np.zeros((1, 9, 9, 7)), None, None, lrpfast.Conservation([]))
    unfinished = lrpfast.Statistics((2,))
    unfinished.update(256, np.ones((1, 2)))
    only_file = analyzer.stream(x, lambda first, relevance: None, progress=False)
    for thing in (images, unfinished, only_file):  # channels that may be either axis, samples that are missing
        assert "<img" not in thing._repr_html_()
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert all("<img" not in thing._repr_html_() for thing in shown)
