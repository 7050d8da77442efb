"""The figures in docs/conventions.md are what lrpfast computes."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

import lrpfast

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "conventions.md"
ROW = re.compile(r"^\|[^|]*\| `([A-Z]\w*\(.*\))` \|([^|]+)\|([^|]+)\|([^|]+)\|([^|]+)\|$", re.MULTILINE)

if not PAGE.exists():
    pytest.skip("the docs are not beside these tests", allow_module_level=True)

SECTIONS = PAGE.read_text(encoding="utf-8").split("\n## ")
ROWS = [(section.startswith("Alpha-beta"), *match.groups()) for section in SECTIONS for match in ROW.finditer(section)]


def rule(expression):
    return eval(expression, {"__builtins__": {}}, vars(lrpfast.rules))  # our own page


@pytest.mark.parametrize("small, expression, first, second, total, missing", ROWS, ids=lambda v: str(v).strip())
def test_figures(small, expression, first, second, total, missing):
    if small:
        kernel, bias, x, target = np.array([[2.0], [-1.0]]), np.array([0.5]), np.array([[1.0, 1.0]]), 0
        model = lrpfast.from_layers([lrpfast.layers.Dense(kernel, bias)])
    else:
        model = lrpfast.load(Path(__file__).parent / "data" / "seed_model.h5")
        x, target = np.random.RandomState(42).rand(10000, 2)[2:3], 1
    explanation = lrpfast.Analyzer(model, rule(expression), precision="float64").explain(x, target)
    relevance = explanation.relevance[0]
    start = explanation.output[0, target]
    got = [*relevance, relevance.sum(), start - relevance.sum()]
    shown = [float(v.replace("−", "-")) for v in (first, second, total, missing)]
    np.testing.assert_allclose(got, shown, rtol=0, atol=6e-8)


def test_the_package_s_own_example():
    result = doctest.testmod(lrpfast)
    assert result.attempted and not result.failed


def test_there_are_figures():
    assert len(ROWS) == 13


def test_expressions_for_the_peers_rules():
    text = PAGE.read_text(encoding="utf-8")
    expressions = re.findall(r"^\| (?:iNNvestigate|zennit|captum) `[^|]*\| `(.*)` \|$", text, re.M)
    assert len(expressions) >= 7
    for expression in expressions:
        assert isinstance(rule(expression), lrpfast.rules.Rule)


def test_the_matrix_of_conventions_is_the_code_s():
    """docs/rules.md: which rule takes which convention, and the default."""
    text = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    conventions = ("absorb", "ignore", "full", "distribute", "repeat", "share")
    lines = text[text.index(f"| rule | {' | '.join(conventions)} |") :].splitlines()[2:7]
    seen = set()
    for line in lines:
        names, *marks = (cell.strip() for cell in line.strip("|").split("|"))
        marked = dict(zip(conventions, marks, strict=True))
        allowed = {b for b, mark in marked.items() if mark != "–"}
        default = [b for b, mark in marked.items() if mark in ("default", "only")]
        for name in re.findall(r"`(\w+)`", names):
            cls = getattr(lrpfast.rules, name)
            assert allowed == set(cls.conventions) and default == [cls.__dataclass_fields__["bias"].default], name
            seen.add(name)
    assert seen == {cls.__name__ for cls in lrpfast.rules.RULES.values() if cls.conventions}


def test_figures_beside_innvestigates():
    """The table of networks that iNNvestigate explains otherwise: our column, from the same networks."""
    layers = lrpfast.layers
    x = np.array([[3.0, 2.0]])

    def merged(layer):
        graph = lrpfast.Graph()
        inputs = graph.input((2,))
        branches = [graph.add(layers.Dense(w), inputs) for w in (np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]]))]
        return graph.model(graph.add(layer, *branches))

    def activated(function, **parameters):
        dense = layers.Dense(np.array([[1.0], [-2.0]]))
        return lrpfast.from_layers([dense, layers.Activation(function, parameters)])

    norm = layers.BatchNorm(np.array([1.5]), np.array([4.0]), np.array([3.0]), np.array([0.5]), 1e-3)
    normalized = lrpfast.from_layers([layers.Dense(np.array([[2.0]]), np.array([1.0])), norm])
    epsilon, z = "lrp.epsilon", "lrp.z"
    rows = {
        "Subtract": (merged(layers.Subtract()), x, epsilon, {}),
        "Multiply": (merged(layers.Multiply()), x, epsilon, {}),
        "Dense (1, −2), LeakyReLU": (activated("leaky_relu", negative_slope=0.1), x, epsilon, {}),
        "Dense (1, −2), ELU": (activated("elu"), x, epsilon, {}),
        "Dense 2x": (normalized, np.array([[3.0]]), z, {}),
        "the same": (normalized, np.array([[3.0]]), z, {"bn_layer_fuse_mode": "two_linear"}),
    }
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index("| network | y |") :].splitlines()[2:8]
    for line, (name, (model, inputs, analyzer, keywords)) in zip(table, rows.items(), strict=True):
        network, y, _, ours, _ = (cell.strip().replace("−", "-") for cell in line.strip("|").split("|"))
        assert network.startswith(name.replace("−", "-"))
        np.testing.assert_allclose(model.predict(inputs, precision="float64").ravel(), float(y), rtol=1e-6)
        got = lrpfast.create_analyzer(analyzer, model, precision="float64", **keywords).analyze(inputs)
        np.testing.assert_allclose(got[0], [float(v) for v in ours.split(",")], rtol=1e-6)


def test_our_side_of_the_page_for_those_who_come_from_innvestigate(monkeypatch):
    """The block that begins with "# ours" runs as it stands, from the repository's root."""
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / "from_innvestigate.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n# ours\n(.*?)^```$", text, re.M | re.S)
    exec(compile(block, "from_innvestigate.md", "exec"), {})


def test_the_glossary_names_files_that_are_there():
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| word")]
    files = [name for row in rows for name in re.findall(r"`([\w/]+(?:\.\w+|/))`", row.rsplit("|", 2)[1])]
    assert len(rows) > 40 and len(files) > 40
    missing = [name for name in files if not (ROOT / "src" / "lrpfast" / name).exists()]
    assert not missing
