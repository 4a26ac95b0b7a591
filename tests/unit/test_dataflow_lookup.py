"""Names in files: what they lead to."""

from __future__ import annotations

from pathlib import Path

import pytest

from stbass.dataflow.spec.lookup import NotThere, find


def test_a_module_may_be_called_as_no_variable_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tutorials_of_mine").mkdir()
    (tmp_path / "tutorials_of_mine" / "004_first.py").write_text("class Y:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find("tutorials_of_mine.004_first.Y").__name__ == "Y"
    with pytest.raises(NotThere, match="not of the form"):
        find("tutorials_of_mine.004_first.4")
