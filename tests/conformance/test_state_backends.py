"""One suite for every state backend, with real servers."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from stbass.dataflow.state.base import StateBackend
from stbass.dataflow.status import Status
from stbass.errors import ConfigurationError, JobInUseError, NotFoundError, NotInitialisedError, StateError
from tests.support.state_backends import KINDS, Kind, kind_of

JOB = "Job_0123456789abcdef"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    return kind_of(request.param, request, tmp_path)


PROCESS: dict[str, Any] = {
    "id": "p",
    "name": "p",
    "status": "created",
    "components": {"b": {"id": "b", "x": [1, 2.5, None, True]}, "a": {"id": "a", "text": "grüß \u0000 Gott"}},
    "connectors": {"b.out..a.in": {"id": "b.out..a.in", "mode": "pipeline"}},
    "parameters": {"k": {"deep": [{"er": "x" * 100_000}]}},
}


# Jobs --------------------------------------------------------------------------------------------


async def test_a_new_job_has_an_id_a_time_and_metadata(kind: Kind) -> None:
    async with kind(metadata={"owner": "me"}) as state:
        assert state.job_id.startswith("Job_")
        assert len(state.job_id) >= 12
        assert state.created_at.endswith("+00:00")
        assert state.metadata == {"owner": "me"}
        assert await state.job_status() is Status.CREATED
        assert await state.load_checkpoint() is None
        assert state.durable is (kind.name != "memory")


@pytest.mark.parametrize(
    "job_id", ["", "Job_1234567", "job_12345678", "Job_1234 5678", "Job_12345678\n", "Job_grüßgrüß"]
)
def test_a_job_id_is_checked(kind: Kind, job_id: str) -> None:
    with pytest.raises(ConfigurationError, match="8 or more"):
        kind(job_id=job_id)


async def test_a_job_is_found_again(durable: Kind) -> None:
    async with durable(job_id=JOB, metadata={"a": 1}) as first:
        await first.upsert_process(PROCESS, with_components=True)
        made = first.created_at
    async with durable(job_id=JOB) as second:
        assert second.created_at == made
        assert second.metadata == {"a": 1}
        assert await second.get_process("p") == PROCESS
    async with durable() as other:
        with pytest.raises(NotFoundError):
            await other.get_process("p")


async def test_a_new_job_begins_with_nothing(kind: Kind) -> None:
    async with kind(job_id=JOB, metadata={"a": 1}) as state:
        await state.acquire_job()
        await state.save_checkpoint(1, {"a": b"1"})
        await state.upsert_process(PROCESS)
        # when
        fresh = await state.new_job()
        # then
        assert fresh == state.job_id != JOB
        assert state.metadata == {"a": 1}
        assert await state.load_checkpoint() is None
        assert await state.job_status() is Status.CREATED
        await state.acquire_job()
    # between two times, too
    again = await state.new_job()
    async with state:
        assert state.job_id == again != fresh
        await state.acquire_job()


async def test_init_and_destroy_are_idempotent(kind: Kind) -> None:
    state = kind()
    await state.destroy()
    for _ in range(2):
        await asyncio.gather(state.init(), state.init())
        await state.upsert_process(PROCESS)
        await state.destroy()
        await state.destroy()
    with pytest.raises(NotInitialisedError, match="init"):
        await state.get_process("p")


# Processes, components, connectors ---------------------------------------------------------------


async def test_a_process_with_its_components(kind: Kind) -> None:
    async with kind() as state:
        await state.upsert_process(PROCESS, with_components=True)
        await state.upsert_process(PROCESS, with_components=True)
        assert await state.get_process("p") == PROCESS
        assert list((await state.get_process("p"))["components"]) == ["b", "a"]
        assert await state.get_component("a") == PROCESS["components"]["a"]
        assert await state.get_connector("b.out..a.in") == PROCESS["connectors"]["b.out..a.in"]
        assert await state.get_process_for_component("a") == PROCESS


async def test_a_process_without_its_components(kind: Kind) -> None:
    async with kind() as state:
        await state.upsert_process(PROCESS)
        found = await state.get_process("p")
        assert found["components"] == {"b": {}, "a": {}}
        with pytest.raises(NotFoundError):
            await state.get_component("a")
        # when one of them is stored by itself
        await state.upsert_component({"id": "a", "step": 1})
        await state.upsert_component({"id": "a", "step": 2})
        await state.upsert_connector({"id": "b.out..a.in"})
        await state.upsert_process(PROCESS)
        # then it is in the process
        found = await state.get_process("p")
        assert found["components"] == {"b": {}, "a": {"id": "a", "step": 2}}
        assert found["connectors"] == {"b.out..a.in": {"id": "b.out..a.in"}}


async def test_a_process_that_changes_its_components(kind: Kind) -> None:
    async with kind() as state:
        await state.upsert_process(PROCESS, with_components=True)
        await state.upsert_process({"id": "p", "components": {"c": {"id": "c"}}})
        assert (await state.get_process("p"))["components"] == {"c": {}}
        with pytest.raises(NotFoundError):
            await state.get_process_for_component("a")
        await state.upsert_process({"id": "q", "components": {"c": {}}})
        with pytest.raises(StateError, match="p, q"):
            await state.get_process_for_component("c")


async def test_what_is_unknown_is_not_found(kind: Kind) -> None:
    async with kind(job_id=JOB) as state:
        for call in (
            state.get_process("nobody"),
            state.get_component("nobody"),
            state.get_connector("nobody"),
            state.get_process_status("nobody"),
            state.update_process_status("nobody", Status.RUNNING),
            state.get_process_for_component("nobody"),
        ):
            with pytest.raises(NotFoundError, match=r"Job_0123456789abcdef.*'nobody'"):
                await call


async def test_statuses(kind: Kind) -> None:
    async with kind() as state:
        await state.upsert_process({"id": "p"})
        await state.upsert_process({"id": "q"})
        assert await state.get_process_status("p") is Status.CREATED
        for p, q, job in (
            (Status.INIT, Status.CREATED, Status.INIT),
            (Status.RUNNING, Status.WAITING, Status.RUNNING),
            (Status.COMPLETED, Status.CREATED, Status.RUNNING),
            (Status.COMPLETED, Status.FAILED, Status.FAILED),
            (Status.STOPPED, Status.RUNNING, Status.STOPPED),
            (Status.COMPLETED, Status.COMPLETED, Status.COMPLETED),
        ):
            await state.update_process_status("p", p)
            await state.update_process_status("q", q)
            assert await state.get_process_status("p") is p
            assert await state.job_status() is job
        # a process that is made anew in another run does not undo it
        await state.upsert_process({"id": "p", "status": "created"})
        assert (await state.get_process("p"))["status"] == "completed"
        assert await state.job_status() is Status.COMPLETED


def _loop() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": {1}}, r"\['x'\]\['a'\] is a builtins.set"),
        ([0, math.nan], r"\['x'\]\[1\] is nan"),
        ({1: 2}, "the key 1"),
        (b"bytes", "builtins.bytes"),
        ("\ud800", "half a character"),
        (_loop(), "contains itself"),
    ],
)
async def test_only_json_is_stored(kind: Kind, value: Any, told: str) -> None:
    async with kind() as state:
        with pytest.raises(StateError, match=told):
            await state.upsert_process({"id": "p", "x": value})
        with pytest.raises(StateError, match=told.replace(r"\['x'\]", "")):
            await state.upsert_component({"id": "p", "x": value})
        with pytest.raises(NotFoundError):
            await state.get_process("p")
    with pytest.raises(StateError, match=told):
        kind(metadata={"x": value})


@pytest.mark.parametrize("data", [{}, {"id": ""}, {"id": 3}, {"id": "a\0b"}, {"id": "\ud800"}, ["id"]])
async def test_an_id_is_needed(kind: Kind, data: Any) -> None:
    async with kind() as state:
        for call in (state.upsert_process(data), state.upsert_component(data), state.upsert_connector(data)):
            with pytest.raises(StateError):
                await call


# Checkpoints and the lock ------------------------------------------------------------------------


async def test_a_checkpoint_replaces_the_last_one(kind: Kind) -> None:
    async with kind() as state:
        await state.acquire_job()
        await state.save_checkpoint(1, {"a": b"one", "b": b"gone with the next"})
        await state.save_checkpoint(2, {"a": b"", "c": bytes(range(256)) * 20_000, "grüße.x/y": b"\0"})
        assert await state.load_checkpoint() == (
            2,
            {"a": b"", "c": bytes(range(256)) * 20_000, "grüße.x/y": b"\0"},
        )
        await state.save_checkpoint(2**62, {})
        assert await state.load_checkpoint() == (2**62, {})
        # many parts
        parts = {f"c{index}": str(index).encode() for index in range(3000)}
        await state.save_checkpoint(3, parts)
        assert await state.load_checkpoint() == (3, parts)


async def test_a_checkpoint_outlives_its_writer(durable: Kind) -> None:
    async with durable(job_id=JOB) as first:
        await first.acquire_job()
        await first.save_checkpoint(7, {"a": b"seven"})
    async with durable(job_id=JOB) as second:
        await second.acquire_job()
        assert await second.load_checkpoint() == (7, {"a": b"seven"})


async def test_a_checkpoint_needs_the_job(kind: Kind) -> None:
    async with kind() as state:
        with pytest.raises(StateError, match="acquire_job"):
            await state.save_checkpoint(1, {"a": b""})
        await state.acquire_job()
        for n, parts in ((1.0, {}), (True, {}), (1, {"a": "text"}), (1, {2: b""})):
            with pytest.raises(TypeError):
                await state.save_checkpoint(n, parts)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="-1"):
            await state.save_checkpoint(-1, {})
        assert await state.load_checkpoint() is None


async def test_one_run_has_the_job(durable: Kind) -> None:
    async with durable(job_id=JOB) as first, durable(job_id=JOB) as second, durable() as other:
        await first.acquire_job()
        await other.acquire_job()
        with pytest.raises(JobInUseError, match=r"Job_0123456789abcdef .* in use by process \d+ on ") as caught:
            await second.acquire_job()
        assert caught.value.job_id == JOB
        assert str(caught.value.holder).startswith("process ")
        with pytest.raises(StateError):
            await second.save_checkpoint(1, {})
        # when it is given up
        await first.release_job()
        await first.release_job()
        # then the other one gets it
        await second.acquire_job()
        await second.save_checkpoint(1, {"a": b"second"})
        with pytest.raises(JobInUseError):
            await first.acquire_job()
        with pytest.raises(StateError):
            await first.save_checkpoint(2, {})
        assert await first.load_checkpoint() == (1, {"a": b"second"})


async def test_a_job_is_not_had_twice_by_one_object(kind: Kind) -> None:
    async with kind() as state:
        await state.acquire_job()
        with pytest.raises(JobInUseError, match="process"):
            await state.acquire_job()
        await state.save_checkpoint(1, {})
        await state.release_job()
        await state.acquire_job()


async def test_of_many_that_want_the_job_one_gets_it(durable: Kind) -> None:
    """Also the tables or keys are made by only one of them."""
    states = [durable(job_id=JOB) for _ in range(6)]
    try:
        await asyncio.gather(*(state.init() for state in states))
        outcomes = await asyncio.gather(*(state.acquire_job() for state in states), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes if outcome is not None] == [JobInUseError] * 5
    finally:
        for state in states:
            await state.destroy()


async def test_calls_at_once(kind: Kind) -> None:
    async with kind() as state:
        await state.acquire_job()
        await asyncio.gather(*(state.upsert_component({"id": f"c{index}", "n": index}) for index in range(30)))
        found = await asyncio.gather(*(state.get_component(f"c{index}") for index in range(30)))
        assert [one["n"] for one in found] == list(range(30))


async def test_cancelled_at_any_moment_a_checkpoint_is_whole(kind: Kind) -> None:
    async with kind() as state:
        await state.acquire_job()
        await state.save_checkpoint(0, dict.fromkeys("abc", b"0" * 50000))
        for n in range(1, 40):
            task = asyncio.create_task(state.save_checkpoint(n, {name: str(n).encode() * 50_000 for name in "abc"}))
            for _ in range(n):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            found = await state.load_checkpoint()
            assert found is not None
            assert found[1] == {name: str(found[0]).encode() * 50_000 for name in "abc"}
        await state.save_checkpoint(100, {})
        assert await state.load_checkpoint() == (100, {})


async def test_it_says_what_it_is(kind: Kind) -> None:
    state = kind(job_id=JOB)
    assert isinstance(state, StateBackend)
    assert JOB in repr(state)
    assert "only-for-tests" not in repr(state)
    assert state.export()["args"]["job_id"] == JOB


# Of all jobs --------------------------------------------------------------------------------------


async def test_jobs_are_listed_and_those_that_nobody_has_deleted(kind: Kind) -> None:
    async with kind(job_id=JOB) as state:
        # given a job that has ended, and one that is held
        await state.upsert_process(PROCESS, with_components=True)
        await state.acquire_job()
        await state.save_checkpoint(1, {"a": b"1"})
        await state.update_process_status("p", Status.COMPLETED)
        await state.release_job()
        first = state.created_at
        held = await state.new_job()
        await state.upsert_process(PROCESS)
        await state.acquire_job()
        # then
        assert [(job.job_id, job.status) for job in await state.jobs()] == [
            (JOB, Status.COMPLETED),
            (held, Status.CREATED),
        ]
        assert (await state.jobs())[0].created_at == first
        # when one is deleted
        await state.delete_job(JOB)
        # then it is gone, the other stays, and is whose it was
        assert [job.job_id for job in await state.jobs()] == [held]
        with pytest.raises(NotFoundError, match=JOB):
            await state.delete_job(JOB)
        with pytest.raises(JobInUseError, match=held):
            await state.delete_job(held)
        await state.save_checkpoint(2, {"a": b"2"})
        assert await state.load_checkpoint() == (2, {"a": b"2"})
        with pytest.raises(ConfigurationError):
            await state.delete_job("*")


async def test_nothing_is_left_of_a_job_that_was_deleted(durable: Kind) -> None:
    async with durable(job_id=JOB) as state:
        await state.upsert_process(PROCESS, with_components=True)
        await state.acquire_job()
        await state.save_checkpoint(1, {"a": b"1"})
    # by an object that was never connected
    await durable().delete_job(JOB)
    assert await durable().jobs() == []
    async with durable(job_id=JOB) as again:
        assert await again.load_checkpoint() is None
        with pytest.raises(NotFoundError):
            await again.get_component("a")
