"""The status of processes and components."""

from __future__ import annotations

import pytest

from stbass.dataflow.status import Status


def test_the_values_are_the_words_that_are_stored() -> None:
    assert [status.value for status in Status] == [
        "created",
        "init",
        "running",
        "waiting",
        "completed",
        "failed",
        "stopped",
    ]
    assert Status("waiting") is Status.WAITING
    assert f"{Status.RUNNING}" == "running"


@pytest.mark.parametrize("status", Status)
def test_what_has_ended_is_terminal(status: Status) -> None:
    assert status.is_terminal == (status in (Status.COMPLETED, Status.FAILED, Status.STOPPED))
