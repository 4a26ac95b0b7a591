"""The page on moving: the programs before and after, each in front of the workers that it is for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stbass.testing import RedisServer, Worker
from tests.support.pages import Page, Trial, environment, run_trial
from tests.support.site import ROOT

PAGE = Page.read("docs/move.md")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def settings(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A worker of the old application, on Celery's own pool, and one of stbass."""
    folder = tmp_path_factory.mktemp("move")
    PAGE.save(folder)
    env = {"STBASS_BROKER_URL": server.url, "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder)))}
    with ExitStack() as stack:
        stack.enter_context(Worker("old_tasks", "celery", pool="prefork", concurrency=4, env=env, cwd=folder))
        stack.enter_context(Worker("stbass.app", "pages", include=["page_agents"], env=env, cwd=folder))
        yield env


@pytest.mark.parametrize("trial", PAGE.trials, ids=lambda trial: trial.place)
def test_a_program_prints_what_the_page_says(trial: Trial, settings: dict[str, str], tmp_path: Path) -> None:
    run_trial(PAGE, trial, tmp_path, environment(**settings))


def test_before_and_after_print_the_same() -> None:
    printed = [trial.commands[0].output for trial in PAGE.trials]
    assert (printed[0], printed[2]) == (printed[1], printed[3])
