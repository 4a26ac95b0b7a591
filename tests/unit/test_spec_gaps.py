"""Statements of the specification that fall between the other test modules."""

from __future__ import annotations

from typing import Any

import pytest

from stbass import wire
from stbass._process.context import ProcessContext
from stbass.errors import RemoteError
from stbass.par import PAR
from stbass.placement import PLACED_PAR
from stbass.process import Process
from stbass.result import ProcessResult


@Process
async def nothing(ctx: ProcessContext) -> None:
    """Nothing."""


@pytest.mark.parametrize("kind", [PAR, PLACED_PAR])
def test_a_deadline_that_no_float_can_hold_is_refused_like_others(kind: Any) -> None:
    with pytest.raises(ValueError, match="deadline must be a finite number of seconds"):
        kind(nothing, deadline=10**400)


async def test_a_deadline_that_is_over_before_anything_starts_gives_everybody_a_result() -> None:
    result = await PAR(nothing, nothing.optional(), deadline=1e-12).run()
    assert len(result.results) == 2
    assert not result.is_ok


@pytest.mark.parametrize(("size", "kept"), [(10, True), (3000, False)])
def test_a_failure_that_is_too_large_keeps_a_checkpoint_that_is_not(size: int, kept: bool) -> None:
    checkpoint = "c" * size
    result = ProcessResult.fail(ValueError("x" * 5000), checkpoint=checkpoint)
    arrived = wire.load_result(wire.result_or_failure(result, limit=4096))
    assert isinstance(arrived.failure.error, RemoteError)
    assert arrived.failure.checkpoint == (checkpoint if kept else None)
