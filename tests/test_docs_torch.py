"""What docs/from_zennit.md, docs/from_captum.md and docs/from_lxt.md show, run as it stands there."""

import re
import warnings
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize(
    "peer, count, packages", (("zennit", 3, ["zennit"]), ("captum", 3, ["captum"]), ("lxt", 2, []))
)
def test_snippets(peer, count, packages):
    page = DOCS / f"from_{peer}.md"
    if not page.exists():
        pytest.skip("the docs are not beside these tests")
    for package in ("torch", *packages):
        pytest.importorskip(package, reason=f"{package} is not installed")
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == count
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers' own
        exec("\n".join(blocks), {})  # our own page
