"""What docs/from_zennit.md and docs/from_captum.md show, run as it stands there."""

import re
import warnings
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("peer", ("zennit", "captum"))
def test_snippets(peer):
    page = DOCS / f"from_{peer}.md"
    if not page.exists():
        pytest.skip("the docs are not beside these tests")
    for package in ("torch", peer):
        pytest.importorskip(package, reason=f"{package} is not installed")
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers' own
        exec("\n".join(blocks), {})  # our own page
