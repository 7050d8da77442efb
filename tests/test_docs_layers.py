"""docs/layers.md is what docs/make_layers.py makes of the readers' tables."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "make_layers.py"

if not SCRIPT.exists():
    pytest.skip("the docs are not beside these tests", allow_module_level=True)


def test_the_page_is_the_readers():
    spec = importlib.util.spec_from_file_location("make_layers", SCRIPT)
    make_layers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_layers)
    page = make_layers.page()
    assert make_layers.PAGE.read_text(encoding="utf-8") == page, "run python docs/make_layers.py"
    for named in ("`Conv2DTranspose`", "`BatchNormalization`", "`conv{1,2,3}d`", "`MLPRegressor`", "`hard_silu`"):
        assert named in page
