"""Pages of documentation as a reader uses them: files to save, programs and commands to run, and what they print.

In a page, a block of Python or YAML whose first line is a comment with a file's name is that file. Any other block of
Python is a program, and the block of text after it is what it prints. A block ``console`` is what a terminal shows:
lines that begin with ``$`` are commands (``>`` goes on with one), the others are what they print; ``…`` stands for
whatever may be another thing each time.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ROOT", "Command", "Page", "Trial", "environment", "fits", "run_in", "run_trial"]

ROOT = Path(__file__).parents[2]
_PART = re.compile(r"^## (?P<section>[^\n]+)$|^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"# ([\w.]+\.(?:py|yaml))\n")


@dataclass(frozen=True)
class Command:
    """What is typed, and what is printed then."""

    line: str
    output: str


@dataclass(frozen=True)
class Trial:
    """A block to try: a program, or commands that follow one another."""

    place: str
    section: str
    commands: tuple[Command, ...]
    code: str | None = None


@dataclass
class Page:
    """What a page has to save and to try."""

    files: dict[str, str] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)

    @classmethod
    def read(cls, path: str) -> Page:
        """The page at this path in the repository."""
        page, section, program = cls(), "", ""
        for part in _PART.finditer((ROOT / path).read_text()):
            kind, body = part["kind"], part["body"]
            if part["section"]:
                section = part["section"]
                continue
            place = f"{path} {len(page.trials)}, {section}"
            assert not program or kind == "text", f"{place}: a program without its output:\n{program}"
            if kind in ("python", "yaml") and (name := _NAME.match(body)):
                assert name[1] not in page.files, f"{place}: {name[1]} is there twice"
                page.files[name[1]] = body
            elif kind == "python":
                program = body
            elif kind == "text":
                assert program, f"{place}: output of no program"
                page.trials.append(Trial(place, section, (Command("python program.py", body),), program))
                program = ""
            else:
                assert kind == "console", f"{place}: nobody tries a block of {kind}"
                page.trials.append(Trial(place, section, _commands(body)))
        assert not program, f"{path}: a program without its output:\n{program}"
        return page

    def save(self, folder: Path) -> None:
        """Save the files there."""
        for name, text in self.files.items():
            (folder / name).write_text(text)


def _commands(body: str) -> tuple[Command, ...]:
    made: list[Command] = []
    for line in body.splitlines(keepends=True):
        if line.startswith("$ "):
            made.append(Command(line[2:], ""))
        elif line.startswith("> "):
            assert not made[-1].output
            made[-1] = Command(made[-1].line + line[2:], "")
        else:
            made[-1] = Command(made[-1].line, made[-1].output + line)
    return tuple(made)


def environment(**more: str) -> dict[str, str]:
    """That of a terminal in which this Python, and the repository, are found."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    mine = {name: value for name, value in os.environ.items() if not name.startswith("STBASS_")}
    return {**mine, "PATH": path, "PYTHONPATH": str(ROOT), **more}


def fits(printed: str, expected: str) -> bool:
    """Whether this may be printed where that is expected."""
    return re.fullmatch(".*".join(map(re.escape, expected.split("…"))), printed) is not None


def run_in(folder: Path, line: str, given: Mapping[str, str], seconds: float = 60) -> str:
    """What a command prints, in whatever way."""
    done = subprocess.run(
        ["bash", "-c", line],
        env=dict(given),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    return done.stdout


def run_trial(page: Page, trial: Trial, folder: Path, given: Mapping[str, str] | None = None) -> None:
    """Do what the block says, in a folder with the page's files, and see that it prints what the page says."""
    page.save(folder)
    if trial.code is not None:
        (folder / "program.py").write_text(trial.code)
    for command in trial.commands:
        printed = run_in(folder, command.line, environment() if given is None else given)
        assert fits(printed, command.output), f"$ {command.line}{printed}\n--- and not ---\n{command.output}"
