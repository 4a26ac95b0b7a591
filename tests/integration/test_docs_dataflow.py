"""The code of the page on dataflow: every program and command does what the page says, here, on Ray and on a fleet."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.pages import Command, Page, Trial, environment, fits, run_trial

PAGE = Page.read("docs/dataflow.md")
ELSEWHERE = ("On Ray", "On the fleet")
HERE = [trial for trial in PAGE.trials if trial.section not in ELSEWHERE]
ON_RAY = [trial for trial in PAGE.trials if trial.section == "On Ray"]
FLEET, *ON_FLEET = [trial for trial in PAGE.trials if trial.section == "On the fleet"]


@pytest.mark.parametrize("trial", HERE, ids=lambda trial: trial.place)
def test_a_block_does_what_the_page_says(trial: Trial, tmp_path: Path) -> None:
    run_trial(PAGE, trial, tmp_path)


def test_the_page_has_blocks_in_every_section_that_shows_something() -> None:
    sections = {trial.section for trial in PAGE.trials}
    assert {"A first model", "State, and going on after a crash", *ELSEWHERE} <= sections
    assert all(command.output for trial in HERE if trial.code for command in trial.commands)


def test_what_a_block_may_print() -> None:
    assert fits("job Job_1a\n3 steps\n", "job Job_…\n3 steps\n")
    assert not fits("job Job_1a\n4 steps\n", "job Job_…\n3 steps\n")
    assert not fits("job\nJob_1a", "job…Job_1a")  # … is part of one line


@pytest.mark.slow
@pytest.mark.parametrize("trial", ON_RAY, ids=lambda trial: trial.place)
def test_on_ray(trial: Trial, tmp_path: Path) -> None:
    run_trial(PAGE, trial, tmp_path)


@contextmanager
def terminal(command: Command, folder: Path) -> Iterator[dict[str, str]]:
    """A terminal in which the command runs, and has printed what it should; gives the settings that it names."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {command.line}"],
        env=environment(PYTHONUNBUFFERED="1"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as started:
        assert started.stdout is not None
        try:
            printed = "".join(started.stdout.readline() for _ in command.output.splitlines())
            assert fits(printed, command.output), printed
            yield environment(**dict(re.findall(r"export (\w+)=(\S+)", printed)))
        finally:
            os.kill(started.pid, signal.SIGINT)
            rest = started.stdout.read()
    assert started.returncode == 0, rest


@pytest.mark.slow
def test_on_a_fleet(tmp_path: Path) -> None:
    # Given the fleet that the page tells the reader to start, in a folder with the page's files
    PAGE.save(tmp_path)
    # (in a folder of its own: what is written beside the programs shall not make its workers start anew)
    there = tmp_path / "fleet"
    there.mkdir()
    PAGE.save(there)
    [command] = FLEET.commands
    with terminal(command, there) as settings:
        # When the rest of the section is done in another terminal, then it prints what the page says
        assert ON_FLEET
        for trial in ON_FLEET:
            run_trial(PAGE, trial, tmp_path, settings)
