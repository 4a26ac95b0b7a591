"""One suite of runs, for every backend on this machine. The fleet runs the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stbass import LocalBackend
from stbass.backends.pools import ProcessPoolBackend, ThreadBackend
from stbass.testing import check_runs
from stbass.testing.runs import RUN_CHECKS

BACKENDS: dict[str, Callable[[], Any]] = {
    "local": LocalBackend,
    "threads": lambda: ThreadBackend(4),
    "processes": lambda: ProcessPoolBackend(2),
}
CHANNELS = [
    "an_end_ends_the_waiting",
    "channels_of_one_name_are_told_apart",
    "meetings_have_a_deadline",
    "people_meet_its_processes",
]


@pytest.mark.parametrize("check", RUN_CHECKS)
@pytest.mark.parametrize("backend", BACKENDS)
async def test_runs(backend: str, check: str) -> None:
    if backend != "local" and check in CHANNELS:
        pytest.skip("a channel in memory belongs to one event loop")
    await check_runs(BACKENDS[backend], only=[check])
