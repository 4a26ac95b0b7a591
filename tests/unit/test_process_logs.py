"""Which process a log record comes from."""

from __future__ import annotations

import asyncio
import logging

import pytest

from stbass import PAR, SEQ, LocalBackend, Placement, Process
from stbass._process.context import ProcessContext
from stbass.placement import PLACED_PAR
from tests.support.backends import registry_of

log = logging.getLogger("library.of.somebody")


@Process
async def agent(ctx: ProcessContext) -> str:
    log.warning("plain from %s", ctx.process_id)
    ctx.log.warning("own from %s", ctx.process_id)
    await asyncio.sleep(0)
    log.warning("plain from %s", ctx.process_id)
    return ctx.process_id


@Process
def blocks(ctx: ProcessContext) -> None:
    log.warning("plain from %s", ctx.process_id)
    ctx.log.warning("own from %s", ctx.process_id)


async def test_each_record_says_which_process_wrote_it(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"agent {number}" for number in range(20)]
    await PAR(*(agent.with_name(name) for name in names), blocks).run()
    for record in caplog.records:
        assert record.getMessage().endswith(record.stbass_process["id"])  # type: ignore[attr-defined]
    found = [record.stbass_process for record in caplog.records]  # type: ignore[attr-defined]
    assert len(found) == 62
    assert {one["process"] for one in found} == {*names, "blocks"}
    assert {one["attempt"] for one in found} == {1}
    assert len({one["run"] for one in found}) == 1


async def test_it_says_where_and_at_which_attempt(caplog: pytest.LogCaptureFixture) -> None:
    registry = registry_of(LocalBackend())
    await PLACED_PAR((agent, Placement(endpoint="anthropic")), registry=registry).run()
    record = caplog.records[0]
    assert record.stbass_process["endpoint"] == "anthropic"  # type: ignore[attr-defined]
    text = logging.Formatter("%(message)s [%(stbass_process)s]").format(record)
    assert "[process=agent id=" in text
    assert "attempt=1 endpoint=anthropic run=" in text


async def test_outside_of_a_process_there_is_nothing(caplog: pytest.LogCaptureFixture) -> None:
    await SEQ(agent).run()
    log.warning("outside")
    record = caplog.records[-1]
    assert record.stbass_process == {}  # type: ignore[attr-defined]
    assert logging.Formatter("%(message)s%(stbass_process)s").format(record) == "outside"


async def test_the_processes_own_logger_needs_no_context_and_names_the_caller(caplog: pytest.LogCaptureFixture) -> None:
    ctx = ProcessContext("alone")
    await asyncio.get_running_loop().run_in_executor(None, ctx.log.warning, "from %s", "elsewhere")
    ctx.log.info("not wanted")
    ctx.log.error("here", extra={"mine": 1})
    first, second = caplog.records
    assert first.stbass_process["process"] == "alone"  # type: ignore[attr-defined]
    assert (second.funcName, second.mine) == (  # type: ignore[attr-defined]
        "test_the_processes_own_logger_needs_no_context_and_names_the_caller",
        1,
    )


async def test_what_a_process_runs_itself_is_of_the_same_run(caplog: pytest.LogCaptureFixture) -> None:
    @Process
    async def outer(ctx: ProcessContext) -> None:
        ctx.log.warning("outer %s", ctx.process_id)
        await PAR(agent).run()

    await PAR(outer, agent).run()
    assert len({record.stbass_process["run"] for record in caplog.records}) == 1  # type: ignore[attr-defined]
    caplog.clear()
    await PAR(agent).run()
    await PAR(agent).run()
    assert len({record.stbass_process["run"] for record in caplog.records}) == 2  # type: ignore[attr-defined]
