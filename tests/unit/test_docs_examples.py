"""Pages that show parts of examples: what they show stands there, word for word; tests of the examples run it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n# (examples/[\w/]+\.py)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = sorted(page for page in (ROOT / "docs").glob("*.md") if BLOCK.search(page.read_text()))


@pytest.mark.parametrize("page", [page.name for page in PAGES])
def test_what_a_page_shows_stands_in_the_example(page: str) -> None:
    for name, shown in BLOCK.findall((ROOT / "docs" / page).read_text()):
        assert f"\n{shown}" in f"\n{(ROOT / name).read_text()}", f"{name} has changed:\n{shown}"


def test_the_pages_on_frameworks_show_their_examples() -> None:
    assert {page.stem for page in PAGES} >= {"django", "fastapi", "flask", "script"}
