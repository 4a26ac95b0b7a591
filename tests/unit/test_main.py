"""``python -m stbass``: where the packages of the command line are missing, one sentence says so."""

from __future__ import annotations

import runpy
import sys

import pytest


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a Python without it
    ours = ("stbass.cli", "stbass.__main__", "typer")
    for name in [name for name in sys.modules if name.startswith(ours)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)

    # when
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("stbass", run_name="__main__")

    # then
    assert ended.value.code == "stbass: the command line needs typer, which is not installed: pip install typer"
