"""Processes in groups: the same as on one event loop, whatever the network between them does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from stbass.dataflow import Component, RayProcess, Status
from stbass.dataflow.distributed import group_side as remote
from stbass.dataflow.distributed.groups import groups_of
from stbass.dataflow.engine.edge import edges_of
from stbass.errors import (
    DataflowError,
    InvalidProcessError,
    MissingDependencyError,
    NotTransportable,
    ProcessCancelled,
    WorkerLostError,
)
from tests.support.dataflow import Count, Endless, Join, Keep, Lasting, wire
from tests.support.dataflow_here import HereProcess
from tests.support.dataflow_log import Log
from tests.support.dataflow_remote import (
    Given,
    Hears,
    Oops,
    Raises,
    RaisesAtInit,
    Sends,
    Silent,
    Sleeps,
    Stops,
    Stranger,
    Tells,
    Unmade,
    Where,
)

# How it ends otherwise ---------------------------------------------------------------------------


def here(components: Iterable[Component], *connections: tuple[str, str], **options: Any) -> HereProcess:
    """A process in groups, its connections as pairs of text."""
    return HereProcess(list(components), [wire(*ends) for ends in connections], **options)


async def test_a_failure_ends_the_others() -> None:
    process = here([Endless(name="a"), Raises(7, name="b"), Sleeps(name="c")], ("a.y", "b.x"), ("a.y", "c.x"))
    async with asyncio.timeout(10), process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run()
        (error,) = caught.value.exceptions
        assert type(error) is Oops
        assert error.__notes__ == ["component 'b', step 8"]
        assert process.status is Status.FAILED
        assert [str(process.components[name].status) for name in "bc"] == ["failed", "stopped"]
        # It may have seen that nobody takes its values any more before it was stopped.
        assert str(process.components["a"].status) in ("stopped", "completed")


async def test_a_failure_in_init(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = here([Endless(name="a"), RaisesAtInit(log, name="b"), Keep(name="c")], ("a.y", "b.x"), ("b.y", "c.x"))
    async with asyncio.timeout(10):
        with pytest.raises(ExceptionGroup) as caught:
            await process.init()
        await process.destroy()
    assert [type(error) for error in caught.value.exceptions] == [Oops]
    assert process.status is Status.FAILED
    assert [line.split()[1] for line in log.read_text().splitlines()] == ["init", "destroy"]


async def test_a_lost_group_ends_the_others(tmp_path: Path) -> None:
    with Log(tmp_path / "log") as log:
        process = here(
            [Endless(name="a"), Where(name="b"), Sleeps(log.path, name="c")],
            ("a.y", "b.x"),
            ("b.y", "c.x"),
            state=Lasting(),
        )
        async with asyncio.timeout(10), process:
            running = asyncio.ensure_future(process.run())
            await log.until("asleep")
            process.places["b"].die()
            with pytest.raises(ExceptionGroup) as caught:
                await running
            (error,) = caught.value.exceptions
            assert isinstance(error, WorkerLostError)
            assert process.status is Status.FAILED
            assert [str(process.components[name].status) for name in "abc"] == ["stopped", "failed", "stopped"]
        assert [what for _, what, _ in log.read()] == ["init", "asleep", "cancelled", "destroy"]


async def test_a_group_that_is_lost_when_it_had_ended_is_a_failure_too() -> None:
    process = here(
        [Count(2, name="a"), Keep(name="b"), Endless(name="c"), Sleeps(name="d")], ("a.y", "b.x"), ("c.y", "d.x")
    )
    async with asyncio.timeout(10), process:
        running = asyncio.ensure_future(process.run())
        await process.until("b", Status.COMPLETED)
        process.places["b"].die()
        with pytest.raises(ExceptionGroup) as caught:
            await running
        assert [type(error) for error in caught.value.exceptions] == [WorkerLostError]


async def test_a_group_that_is_lost_between_two_steps() -> None:
    process = here([Endless(name="a"), Keep(name="b")], ("a.y", "b.x"))
    async with asyncio.timeout(10), process:
        await process.step()
        process.places["b"].die()
        with pytest.raises(ExceptionGroup) as caught:
            await process.step()
        assert [type(error) for error in caught.value.exceptions] == [WorkerLostError]
        assert process.components["b"].got == [0]  # type: ignore[attr-defined]
        assert process.status is Status.FAILED


async def test_one_that_cannot_be_made_keeps_all_from_beginning(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = here([Count(2, name="a"), Where(log, name="b"), Unmade(name="c")], ("a.y", "b.x"), ("b.y", "c.x"))
    async with asyncio.timeout(10):
        with pytest.raises(LookupError, match="only here"):
            await process.init()
        assert process.status is Status.FAILED
        await process.destroy()
    assert not log.exists()


async def test_a_stop_event_in_one_group_stops_all() -> None:
    process = here([Endless(name="a"), Where(name="b"), Stops(name="sink")], ("a.y", "b.x"), ("b.y", "sink.x"))
    async with asyncio.timeout(10), process:
        await process.run()
        assert process.status is Status.STOPPED
        assert {str(one.status) for one in process.components.values()} == {"stopped"}


async def test_everybody_waits_for_somebody_else() -> None:
    process = here(
        [Endless(name="a"), Silent(name="b"), Join(name="join"), Keep(name="sink")],
        ("a.y", "b.x"),
        ("a.y", "join.a"),
        ("b.y", "join.b"),
        ("join.y", "sink.x"),
    )
    async with asyncio.timeout(10), process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run()
    (error,) = caught.value.exceptions
    assert isinstance(error, DataflowError)
    for waits in ("'a' waits for room at join.a", "'b' waits for x", "'join' waits for b", "'sink' waits for x"):
        assert waits in str(error)  # in the order in which the groups said so


async def test_who_waits_for_the_users_own_tasks_is_not_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "STUCK_AFTER", 0.001)
    process = here([Tells(2, name="a"), Hears(name="b"), Hears(name="c")])
    async with asyncio.timeout(10), process:
        await process.run()
        assert process.components["b"].heard == process.components["c"].heard == [0, 1]  # type: ignore[attr-defined]


async def test_one_component_is_ended_from_outside() -> None:
    process = here([Endless(name="a"), Where(name="b"), Keep(name="sink")], ("a.y", "b.x"), ("b.y", "sink.x"))
    async with asyncio.timeout(10), process:
        running = asyncio.ensure_future(process.run())
        await process.until("sink", Status.RUNNING)
        process.components["b"].cancel()
        await running
        assert [str(process.components[name].status) for name in ("a", "b", "sink")] == [
            "completed",
            "stopped",
            "completed",
        ]
        assert process.status is Status.COMPLETED


async def test_cancelled_from_outside_and_by_its_task() -> None:
    for cancel in ("process", "task"):
        process = here([Endless(name="a"), Sleeps(name="b")], ("a.y", "b.x"))
        async with asyncio.timeout(10), process:
            running = asyncio.ensure_future(process.run())
            await process.until("b", Status.RUNNING)
            if cancel == "process":
                process.cancel()
            else:
                running.cancel()
            with pytest.raises((ProcessCancelled, asyncio.CancelledError)) as caught:
                await running
            assert isinstance(caught.value, ProcessCancelled) == (cancel == "process")
            assert process.status is Status.STOPPED


# What travels ------------------------------------------------------------------------------------


def test_groups() -> None:
    parts = [Count(1, name="a"), Keep(name="b"), Keep(name="c")]
    edges = edges_of(parts, [wire("a.y", "b.x"), wire("a.y", "c.x")])
    found = groups_of(parts, edges, {"a": "g", "c": "g"})
    assert [(one.name, [part.name for part in one.components], len(one.edges)) for one in found] == [
        ("g", ["a", "c"], 2),
        ("b", ["b"], 1),
    ]
    with pytest.raises(InvalidProcessError) as caught:
        here(parts, placement={"a": "", "x": "g"})
    assert len(caught.value.findings) == 2
    with pytest.raises(TypeError, match="placement"):
        here(parts, placement=["a"])


async def test_what_cannot_travel_is_told_before_anything_begins() -> None:
    class Hidden(Keep):
        pass

    for component, text in (
        (Hidden(name="a"), "'a' cannot travel: its class .*<locals>.Hidden"),
        (Given(Stranger(), name="a"), "arguments of component 'a'.*Stranger"),
    ):
        process = HereProcess([component], [] if isinstance(component, Given) else [wire("b.y", "a.x")])
        if not isinstance(component, Given):
            process = here([component, Count(1, name="b")], ("b.y", "a.x"))
        with pytest.raises(NotTransportable, match=text):
            await process.init()
        await process.destroy()


async def test_a_value_that_cannot_travel_names_its_output() -> None:
    process = here([Sends("stranger", name="a"), Keep(name="b")], ("a.y", "b.x"))
    async with asyncio.timeout(10), process:
        with pytest.raises(ExceptionGroup) as caught:
            await process.run()
    (error,) = caught.value.exceptions
    assert isinstance(error, NotTransportable)
    assert "component 'a', output 'y'" in str(error)


async def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "stbass.dataflow.distributed.ray_cluster", raising=False)
    monkeypatch.delitem(sys.modules, "stbass.dataflow.distributed.ray_actor", raising=False)
    process = RayProcess([Count(1, name="a"), Keep(name="b")], [wire("a.y", "b.x")])
    with pytest.raises(MissingDependencyError, match=r"pip install 'stbass-celery\[ray\]'"):
        await process.init()
    await process.destroy()


@pytest.mark.parametrize("wrong", [0, -1, "1", True])
def test_seconds_of_admission(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="admission_timeout"):
        RayProcess([Count(1, name="a")], [], admission_timeout=wrong)
