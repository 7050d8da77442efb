"""docs/extending.md: its code runs, and gives what the formulas say."""

import re
from pathlib import Path

import numpy as np
import pytest

import lrpfast

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"

if not PAGE.exists():
    pytest.skip("the docs are not beside these tests", allow_module_level=True)


@pytest.fixture(scope="module")
def names():
    """What the page's code defines, each block in the names of those before it."""
    found = []
    scope = {"__name__": "extending"}
    before = dict(lrpfast.rules.WEIGHT_PARTS)
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
        exec(code, scope)  # our own page
        found.append(dict(scope))
    yield found
    lrpfast.rules.WEIGHT_PARTS.clear()
    lrpfast.rules.WEIGHT_PARTS.update(before)


def test_a_rule_of_ones_own(names):
    rule, relevance = names[0]["WAbs"](), names[0]["relevance"]
    w, y = np.array([[1.0, -2.0], [3.0, 2.0]]), 2.0  # the second output: 1 · -2 + 2 · 2
    np.testing.assert_allclose(relevance, [[y / 2, y / 2]], rtol=1e-5)
    x, r = np.array([[0.0, 5.0]]), np.array([[1.0, 3.0]])
    got = lrpfast.redistribute(rule, lrpfast.layers.Dense(w), x, r)
    np.testing.assert_allclose(got, [[1 / 4 + 3 * 2 / 4, 3 / 4 + 3 * 2 / 4]], rtol=1e-5)


def test_a_rule_of_ones_own_on_a_convolution(names):
    rule = names[0]["WAbs"]()
    kernel = np.array([1.0, -3.0, 2.0]).reshape(3, 1, 1)
    layer = lrpfast.layers.Conv(kernel, padding="same")
    got = lrpfast.redistribute(rule, layer, np.ones((1, 2, 1)), np.array([[[1.0], [0.0]]]))
    np.testing.assert_allclose(got[0, :, 0], [3 / 5, 2 / 5], rtol=1e-5)  # taps inside the image only


def test_a_layer_of_ones_own(names):
    model = names[1]["model"]
    assert [node.name for node in model.nodes][1:] == ["residual/dense", "residual", "dense"]
    x = np.array([[1.0, -2.0, 0.5]])
    hidden = x + np.maximum(x + 1, 0)
    np.testing.assert_allclose(model.predict(x), hidden @ np.ones((3, 2)), rtol=1e-6)


def test_a_layer_added_twice_shares_its_parts(names):
    graph = lrpfast.Graph()
    block = names[1]["Residual"](np.eye(2), np.zeros(2), name="block")
    x = graph.input((2,))
    model = graph.model(graph.add(block, graph.add(block, x)))
    assert model.layers[1] is model.layers[3] and model.layers[2] is model.layers[4]
    assert [node.name for node in model.nodes][1:] == ["block/dense", "block", "block/dense:1", "block:1"]
    np.testing.assert_allclose(model.predict(np.array([[1.0, 2.0]])), [[4.0, 8.0]])
