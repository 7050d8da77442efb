"""What the README shows runs as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest

from pages import blocks, commands

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "README.md"

if not PAGE.exists() or "lrpfast" not in PAGE.read_text(encoding="utf-8"):
    pytest.skip("the README is not beside these tests", allow_module_level=True)

TEXT = PAGE.read_text(encoding="utf-8")


WORD = r"\[|[^\s\[]+"  # or the bracket before an array's first number


@pytest.fixture
def at_root(tmp_path, monkeypatch):
    """A folder where the README's relative paths hold, and its outputs do no harm."""
    (tmp_path / "tests").symlink_to(ROOT / "tests", target_is_directory=True)
    monkeypatch.chdir(tmp_path)


def test_python(at_root, capsys):
    names = {}
    for block in blocks(TEXT, "python"):
        exec(compile(block, "README.md", "exec"), names)
    shown = "".join(blocks(TEXT, "text"))
    printed = capsys.readouterr().out
    # all but the rounding of this machine: its column, and the last digits beside it
    figures = [re.findall(WORD, line) for line in shown.splitlines()]
    for ours, theirs in zip(figures, [re.findall(WORD, line) for line in printed.splitlines()], strict=True):
        for at, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if re.fullmatch(r"-?[\d.]+(e-?\d+)?", a) and len(ours) == 9:
                assert at == 7 or float(b) == pytest.approx(float(a), rel=1e-3)
            elif re.fullmatch(r"-?[\d.]+\]*", a) and not a.isdigit():  # an array, rounded to a tenth
                assert float(b.rstrip("]")) == pytest.approx(float(a.rstrip("]")), abs=0.11)
            else:
                assert a == b


def test_commands(at_root, capsys):
    np.save("x.npy", np.load(ROOT / "tests" / "data" / "digits_mlp.npz")["x"])
    ran = list(commands(TEXT, capsys))
    assert len(ran) == 3
    for _, printed, shown in ran:
        assert printed == shown
