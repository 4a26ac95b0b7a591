"""The page on crashes: its program, in front of two workers of which one is killed."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from stbass.testing import RedisServer, Worker
from tests.support.pages import Page, environment, run_in
from tests.support.site import ROOT

PAGE = Page.read("docs/survive-crashes.md")


@pytest.mark.slow
def test_a_process_goes_on_on_another_worker_and_books_nothing_twice(server: RedisServer, tmp_path: Path) -> None:
    PAGE.save(tmp_path)
    settings = {"STBASS_BROKER_URL": server.url, "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path)))}
    [trial] = PAGE.trials
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker("stbass.app", "bank", env=settings, include=["bank"], cwd=tmp_path))
            for _ in range(2)
        ]
        # Whether the program or the other worker is the first to say that the worker is lost is chance.
        (tmp_path / "program.py").write_text(trial.code or "")
        printed = run_in(tmp_path, "python program.py 2>/dev/null", environment(**settings))
        assert printed == trial.commands[0].output
        assert sorted(worker.running for worker in workers) == [False, True]
