"""The code of the page on dataflow: every program and command does what the page says. (Ray and the fleet: see
``tests/integration/test_docs_dataflow.py``.)
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pages import Page, Trial, fits, run_trial

PAGE = Page.read("docs/dataflow.md")
ELSEWHERE = ("On Ray", "On the fleet")
HERE = [trial for trial in PAGE.trials if trial.section not in ELSEWHERE]


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
