"""docs/onnx.md names the operators that are read, all of them and no others."""

import re
from pathlib import Path

import pytest

from lrpfast.readers.onnx.fold import FOLDED
from lrpfast.readers.onnx.model import known_operators

PAGE = Path(__file__).parents[1] / "docs" / "onnx.md"

if not PAGE.exists():
    pytest.skip("the docs are not beside these tests", allow_module_level=True)


def test_the_table_of_operators_is_the_readers():
    text = PAGE.read_text(encoding="utf-8")
    section = text[text.index("## Supported operators") : text.index("## The layers of the result")]
    rows = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    named = set(re.findall(r"\b[A-Z][A-Za-z0-9]+\b", rows))
    known = {name.rpartition(".")[2] for name in known_operators()}
    assert known - named == set(), "these are read, the page does not say so"
    operators = {schema.name for schema in pytest.importorskip("onnx").defs.get_all_schemas()}
    assert named & operators - known - set(FOLDED) == set(), "the page says that these are read"
