"""The code of the page on MCP: every program prints what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pages import Page, Trial, run_trial

pytestmark = pytest.mark.slow

PAGE = Page.read("docs/mcp.md")


@pytest.mark.parametrize("trial", PAGE.trials, ids=lambda trial: trial.place)
def test_a_program_prints_what_the_page_says(trial: Trial, tmp_path: Path) -> None:
    run_trial(PAGE, trial, tmp_path)


def test_the_page_shows_each_part_at_work() -> None:
    sections = {trial.section for trial in PAGE.trials}
    assert sections == {"Connect", "Resources and prompts", "Sessions that last", "Failures"}
