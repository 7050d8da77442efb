"""``lrpfast demo``: what a new user runs first."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import lrpfast
from lrpfast import cli, demo

SEED = json.loads((Path(__file__).parent / "data" / "seed.json").read_text())


@pytest.fixture(scope="module")
def cells():
    return demo.explain_cells(*demo.notebook(), demo.inputs())[0]


def test_the_packaged_figures_are_the_tests_figures():
    assert demo.notebook()[1] == SEED


def test_every_cell_is_explained_under_every_precision(cells):
    assert [c.label for c in cells][-1] == "lrp.epsilon, bias=False"
    assert len(cells) == len(SEED["library_cells_tf32"])
    for cell in cells:
        assert [cell.relevance[p].shape for p in demo.PRECISIONS] == [(10_000, 2)] * 3


def test_the_digits_are_the_notebooks(cells):
    assert all(cell.same for cell in cells)
    for cell, entry in zip(cells, SEED["library_cells_tf32"], strict=True):
        assert cell.table().count(str(entry["R_minus_sum"])) == 2  # the notebook's line and lrpfast's
    cells[0].residuals["tf32"] += np.float32(1e-6)
    assert not cells[0].same and "DIFFERS" in cells[0].table()
    cells[0].residuals["tf32"] -= np.float32(1e-6)


def test_where_the_rest_went_adds_up(cells):
    for cell in cells:
        parts = [float(v) for v in re.findall(r"-?\d+\.\d+(?=,|$)", cell.where)]
        assert sum(parts) == pytest.approx(cell.residual, abs=5e-7)
        has_bias = not (cell.name.endswith("_IB") or cell.parameters)
        assert ("bias 3.634342" in cell.where) == has_bias
        assert "TF32 rounding" in cell.where


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert max(map(len, printed.out.splitlines())) <= 100
    assert "9 of the notebook's 9 cells come out digit for digit" in printed.out
    assert re.search(r"270,000 explanations in \S+ s, [\d,]+ a second", printed.out)
    assert "lrpfast-demo.npz" in printed.out
    assert [p.name for p in tmp_path.iterdir()] == ["lrpfast-demo.npz"]
    with np.load("lrpfast-demo.npz", allow_pickle=False) as file:
        assert len(file.files) == 1 + 27
        model, x = demo.notebook()[0], file["inputs"]
        analyzer = lrpfast.create_analyzer("lrp.alpha_1_beta_0", model, input_layer_rule="WSquare", precision="float64")
        stored = file["lrp.alpha_1_beta_0, input_layer_rule=WSquare | float64"]
        assert stored.tobytes() == analyzer.analyze(x).tobytes()


def test_another_file_and_threads(tmp_path, capsys):
    assert cli.main(["demo", "-o", str(tmp_path / "d.npz"), "--threads", "1"]) == 0
    assert (tmp_path / "d.npz").exists() and "1 thread)" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["-o", "no/such/folder.npz"], ["--threads", "0"]])
def test_wrong_use(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("lrpfast: error: ") and printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
