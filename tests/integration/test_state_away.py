"""Checkpoints while the state's server is away: it is waited for, and one that stays away does not end the run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stbass.dataflow import Component, IOController, Status
from stbass.errors import JobFinishedError, ProcessCancelled, StateUnavailable
from stbass.testing import RedisServer
from tests.support.dataflow import Keep, local
from tests.support.postgres_server import PostgresServer
from tests.support.state_backends import Kind
from tests.support.waiting import until

JOB = "Job_0123456789abcdef"


class Server:
    """A server of its own, which can be taken away and put back with what it holds."""

    def __init__(self, name: str, server: Any, kind: Kind) -> None:
        self.name, self._server, self.kind = name, server, kind

    def stop(self) -> None:
        self._server.kill() if self.name == "redis" else self._server.stop()

    def start(self) -> None:
        self._server.restart() if self.name == "redis" else self._server.start()


@pytest.fixture(params=["redis", "postgres"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "redis":
        with RedisServer(persistent=True) as redis:
            redis.command("CONFIG", "SET", "appendfsync", "always")
            yield Server("redis", redis, Kind("redis", redis.url))
    else:
        with PostgresServer() as postgres:
            yield Server("postgres", postgres, Kind("postgres", postgres.url()))


class Numbers(Component):
    """Counts until what it asks in each step says that it is enough."""

    io = IOController(outputs=["n"])

    def __init__(self, enough: Callable[[], bool], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = 0
        self.enough = enough

    async def step(self) -> None:
        await asyncio.sleep(0.002)  # a step that takes its time
        if self.enough():
            await self.io.close()
            return
        self.n = self.count
        self.count += 1

    async def checkpoint(self) -> Any:
        return {"count": self.count}

    async def restore(self, state: Any) -> None:
        self.count = state["count"]


async def test_a_server_that_is_away_at_a_checkpoint_is_waited_for(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    async with server.kind(job_id=JOB, timeout=60.0) as state:
        await state.acquire_job()
        await state.save_checkpoint(1, {"a": b"1"})
        server.stop()
        saving = asyncio.ensure_future(state.save_checkpoint(2, {"a": b"2"}))
        await until(lambda: "it is waited for, for up to 60 s" in caplog.text, timeout=30)
        server.start()
        await saving
        assert await state.load_checkpoint() == (2, {"a": b"2"})
    assert caplog.text.count("waited for") == 1
    assert caplog.text.count("can be used again") == 1


async def test_one_that_stays_away_longer_does_not_end_the_run(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    happened: list[str] = []

    def enough() -> bool:
        if not happened and numbers.count >= 5:
            server.stop()
            happened.append("away")
        elif happened == ["away"] and process.missed_checkpoints:
            server.start()
            happened.append(f"back at {numbers.count}")
        return len(happened) == 2 and numbers.count >= 20

    def made() -> Any:
        state = server.kind(job_id=JOB, timeout=0.3)
        parts = [Numbers(enough, name="numbers"), Keep(name="keep")]
        return local(parts, ("numbers.n", "keep.x"), state=state, checkpoint_every=0.05)

    process = made()
    numbers, keep = process.components["numbers"], process.components["keep"]
    async with process:
        await process.run()
        assert process.status is Status.COMPLETED
        first = process.missed_checkpoints[0]
    assert keep.got == list(range(numbers.count))
    assert isinstance(first, StateUnavailable)
    assert "cannot be reached" in str(first)
    assert "it has been tried for" in str(first)
    assert "is left out, the next one counts" in caplog.text
    with pytest.raises(JobFinishedError):
        await made().init()


async def test_a_run_whose_server_is_away_can_be_cancelled(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    def enough() -> bool:
        if numbers.count == 5:
            server.stop()
        return False

    state = server.kind(job_id=JOB, timeout=300.0)
    numbers = Numbers(enough, name="numbers")
    process = local([numbers, Keep(name="keep")], ("numbers.n", "keep.x"), state=state, checkpoint_every=0.05)
    async with asyncio.timeout(60):
        with pytest.raises(ProcessCancelled):
            async with process:
                running = asyncio.ensure_future(process.run())
                await until(lambda: "it is waited for" in caplog.text, timeout=30)
                process.cancel()
                await running
