"""The page on dataflow, on Ray and on a fleet: with a Ray, a Redis and workers of our own."""

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
ON_RAY = [trial for trial in PAGE.trials if trial.section == "On Ray"]
FLEET, *ON_FLEET = [trial for trial in PAGE.trials if trial.section == "On the fleet"]


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


def test_on_a_fleet(tmp_path: Path) -> None:
    # Given the fleet that the page tells the reader to start, in a folder with the page's files
    PAGE.save(tmp_path)
    [command] = FLEET.commands
    with terminal(command, tmp_path) as settings:
        # When the rest of the section is done in another terminal, then it prints what the page says
        assert ON_FLEET
        for trial in ON_FLEET:
            run_trial(PAGE, trial, tmp_path, settings)
