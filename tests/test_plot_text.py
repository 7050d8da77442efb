"""Tokens coloured by relevance: in a terminal, in a notebook and as a picture."""

import re

import numpy as np
import pytest

import lrpfast
from lrpfast import InputError, ShapeError
from lrpfast.plot import save, text

TOKENS = ["[CLS]", "un", "##believ", "##able", "film", "[SEP]"]
RELEVANCE = np.array([0.0, 1.0, 2.0, -4.0, 0.5, 0.0])


def without_colours(value):
    return re.sub(r"\x1b\[[0-9;]*m", "", value)


def test_the_marks_of_tokenizers_become_spaces():
    def first_line(tokens):
        return without_colours(text(tokens, np.zeros(len(tokens))).terminal()).split("\n", 1)[1]

    assert first_line(TOKENS) == "[CLS] unbelievable film [SEP]"
    assert first_line(["Hello", "Ġworld", ",", "Ġagain", "."]) == "Hello world, again."
    assert first_line(["▁Guten", "▁Tag", "Ċ", "▁heute"]) == "Guten Tag⏎\nheute"
    assert first_line(["two", "words", "a\tb"]) == "two words a·b"
    assert first_line(["##"]) == "##" and first_line(["Ġ"]) == "▁"


def test_colours_say_the_sign_and_the_size():
    shown = text(TOKENS, RELEVANCE).terminal()
    background = {word: tuple(map(int, rgb.split(";"))) for rgb, word in re.findall(
        r"\x1b\[48;2;(\d+;\d+;\d+);38[0-9;]*m([^\x1b]*)", shown)}  # fmt: skip
    assert background["[CLS]"] == (247, 247, 247)
    assert background["able"] == (67, 147, 195)  # the largest |R|: the end of the scale, against
    assert background["believ"][0] > background["believ"][2] and background["film"][0] > background["film"][2]
    assert background["film"][2] > background["un"][2] > background["believ"][2]  # the redder, the larger


def test_plain_text_names_each_relevance(monkeypatch):
    shown = text(TOKENS, RELEVANCE, labels=["review"], title="Why")
    assert shown.plain().splitlines() == [
        "Why",
        "review  ±4",
        "[CLS](+0) un(+1)believ(+2)able(-4) film(+0.5) [SEP](+0)",
    ]
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert str(shown) == shown.terminal() != shown.plain()
    monkeypatch.setenv("NO_COLOR", "1")
    assert str(shown) == shown.plain()


def test_lines_break_between_words():
    for width in (10, 17, 40):
        rows = without_colours(text(TOKENS * 3, np.tile(RELEVANCE, 3), width=width).terminal()).splitlines()[1:]
        assert all(0 < len(row) <= width for row in rows)
        joined = " ".join(rows) if width > 12 else "".join(rows)
        assert joined.replace(" ", "") == "[CLS]unbelievablefilm[SEP]" * 3
    assert "unbelievable" in without_colours(text(TOKENS, RELEVANCE, width=17).terminal())


def test_texts_of_different_lengths():
    batch = [["a", "b", "c"], ["d"]]
    padded = np.array([[1.0, -2.0, 3.0], [5.0, 0.0, 0.0]])
    ragged = [padded[0], padded[1, :1]]
    vectors = np.stack([padded, 2 * padded], -1)
    for relevance, factor in ((padded, 1), (ragged, 1), (vectors, 3), (padded.tolist(), 1)):
        shown = text(batch, relevance)
        assert [list(r) for r in shown.relevance] == [[factor, -2 * factor, 3 * factor], [5 * factor]]
        assert shown.ends == (3 * factor, 5 * factor)
    assert text(batch, padded, scale="shared").ends == (5, 5)
    assert text(batch, padded, scale="shared", percentile=50).ends == (2.5, 2.5)
    assert text(["x"], np.zeros(1)).ends == (0,) and "all 0" in text(["x"], np.zeros(1)).plain()
    np.testing.assert_array_equal(text(["a", "b"], np.ones((2, 4))).relevance[0], [4, 4])
    np.testing.assert_array_equal(text(["a", "b"], np.ones((1, 2, 4))).relevance[0], [4, 4])  # as `analyze` returns it


def test_an_explanation():
    model = lrpfast.from_layers([lrpfast.layers.Dense(np.eye(3))])
    explanation = lrpfast.Analyzer(model, "epsilon").explain(np.array([[1.0, 2.0, 3.0]]), target=1)
    assert text(["a", "b", "c"], explanation).relevance[0].round(3).tolist() == [0, 2, 0]


@pytest.mark.parametrize(
    ("error", "message", "tokens", "relevance", "options"),
    [
        (InputError, "tokens must be a sequence", "a film", np.ones(2), {}),
        (InputError, "text 0 must be a sequence of strings", ["a", 3], np.ones(2), {}),
        (InputError, "text 1 must be a sequence of strings", [["a"], []], np.ones((2, 1)), {}),
        (ShapeError, r"text 0 has 2 tokens, but relevance of shape \(1,\)", ["a", "b"], np.ones(1), {}),
        (ShapeError, "beyond the tokens must be 0", ["a", "b"], np.ones(3), {}),
        (ShapeError, "2 texts, but 3 relevances", [["a"], ["b"]], np.ones((3, 1)), {}),
        (InputError, "not finite at token 1", ["a", "b"], np.array([0, np.nan]), {}),
        (InputError, "width", ["a"], np.ones(1), {"width": 3}),
        (InputError, "scale", ["a"], np.ones(1), {"scale": "own"}),
        (InputError, "2 labels for 1 texts", ["a"], np.ones(1), {"labels": ["x", "y"]}),
    ],
)
def test_wrong_arguments(error, message, tokens, relevance, options):
    with pytest.raises(error, match=message):
        text(tokens, relevance, **options)


def test_a_notebook_shows_it():
    shown = text(["<b>", "&"], np.array([1.0, -1.0]), title="<i>")
    page = shown._repr_html_()
    assert "<b>&lt;i&gt;</b>" in page and "&lt;b&gt;</span>" in page and "&amp;</span>" in page
    assert 'title="+1"' in page and "rgb(214,96,77)" in page
    assert repr(shown) == "TokenText(1 text of 2 tokens)"


def test_the_picture(tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    shown = text([TOKENS, ["ok", "$x$"]], [RELEVANCE, np.ones(2)], title="Why", labels=["review", "other"])
    figure = shown.figure()
    (ax,) = figure.axes
    assert [t.get_text() for t in ax.texts] == [
        *("Why", "review  ±4", "[CLS]", "un", "believ", "able", "film", "[SEP]", "other  ±1", "ok", "$x$")
    ]
    assert len(ax.patches) == 8
    width, height = figure.get_size_inches() * 72
    assert all(
        p.get_x() >= 0 and p.get_x() + p.get_width() <= width and p.get_y() + p.get_height() <= height
        for p in ax.patches
    )
    for ending in ("png", "svg", "pdf"):
        save(shown, tmp_path / f"tokens.{ending}")
        assert (tmp_path / f"tokens.{ending}").stat().st_size > 500
