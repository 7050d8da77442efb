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
    conventions = ("absorb", "ignore", "full", "distribute", "repeat")
    lines = text[text.index(f"| rule | {' | '.join(conventions)} |") :].splitlines()[2:6]
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
