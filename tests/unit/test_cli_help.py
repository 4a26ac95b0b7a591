"""What is said of every command: its examples and exit codes, on the page and in the help."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from stbass.cli.commands import cli
from stbass.cli.exits import Exit

ROOT = Path(__file__).parents[2]


def commands(group: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, *path, name)
        else:
            yield (*path, name), each


ALL = dict(commands(typer.main.get_command(cli)))


@pytest.mark.parametrize("path", sorted(ALL), ids=" ".join)
def test_every_command_has_an_example_that_it_accepts(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ALL[path]
    kind, _, example = (command.epilog or "").partition(": ")
    words = shlex.split(example.partition(" > ")[0])
    assert (kind, words[: len(path) + 1]) == ("Example", ["stbass", *path])
    (tmp_path / "model.yaml").touch()
    monkeypatch.chdir(tmp_path)
    command.make_context(path[-1], words[len(path) + 1 :])


def test_the_exit_codes_of_the_page_and_of_the_help_are_those_that_there_are() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == list(Exit)
    assert [int(code) for code in re.findall(r"\b(\d+) ", cli.info.epilog or "")] == list(Exit)


@pytest.mark.parametrize("name", ["status", "runs", "follow", "cancel", "attach", "limit", "run", "graph", "doctor"])
def test_what_programs_may_want_to_read_is_written_as_json(name: str) -> None:
    assert any("--json" in option.opts for option in ALL[(name,)].params)
