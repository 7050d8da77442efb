"""docs/quickstart.md and docs/composites.md run as they stand, and the table of composites is the code's."""

import re
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast import layers
from lrpfast.rules import innvestigate
from pages import blocks, commands

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

if not DOCS.exists():
    pytest.skip("the docs are not beside these tests", allow_module_level=True)


def read(page):
    return (DOCS / page).read_text(encoding="utf-8")


@pytest.fixture
def at_root(tmp_path, monkeypatch):
    """A folder where the pages' relative paths hold, and their outputs do no harm."""
    (tmp_path / "tests").symlink_to(ROOT / "tests", target_is_directory=True)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", ("quickstart.md", "composites.md", "concepts.md"))
def test_page(page, at_root, capsys):
    text, names = read(page), {}
    for block in blocks(text, "python"):
        if ".onnx" in block:
            pytest.importorskip("onnx")
        if "lrpfast.plot" in block:
            pytest.importorskip("matplotlib")
        exec(compile(block, page, "exec"), names)  # our own page
    assert capsys.readouterr().out == "".join(blocks(text, "text"))
    if page == "quickstart.md":
        ran = list(commands(text, capsys))
        assert len(ran) == 2
        for _, printed, shown in ran:
            assert printed == shown
        assert {path.name for path in Path().iterdir()} == {"tests", "six.npy", "digits.npy", "map.png", "network.png"}


ROWS = re.findall(r"^\| `([\w.\"]+(?:\(.*?\))?)` \| (`.*) \|$", read("composites.md"), re.MULTILINE)


@pytest.mark.parametrize("composite, cells", ROWS, ids=[row[0] for row in ROWS])
def test_table_of_composites(composite, cells):
    kernel = np.ones((3, 3, 4, 4))
    norm = layers.BatchNorm(np.zeros(4), np.ones(4))
    chain = [layers.Conv(kernel, activation="relu"), norm, layers.Conv(kernel), layers.AveragePool((2, 2))]
    model = lrpfast.from_layers([*chain, layers.Flatten(), layers.Dense(np.ones((16, 3)))], (8, 8, 4))
    named = composite.startswith('"')
    made = innvestigate.composite(composite.strip('"')) if named else eval(composite, vars(lrpfast.composites).copy())
    given = made.assign(model)
    first, batch_norm, conv, pool, _, dense = (rule.name for rule in given.rules.values())
    shown = [cell.strip("` ") for cell in cells.split("|")]
    last = "folded" if made.canonize else batch_norm
    assert shown == [first, conv, dense, pool, given.activations[1].name, last]


def test_every_preset_is_in_the_table():
    shown = {row[0].split("(")[0] for row in ROWS}
    assert {make.__name__ for make in lrpfast.composites.COMPOSITES.values()} < shown


def test_every_page_is_in_the_index():
    index = read("README.md")
    for page in DOCS.glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name
