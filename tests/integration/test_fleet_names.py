"""Two workers of one name: neither takes the place of the other, and both say so."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import msgspec
import pytest
import redis
from celery.app.control import DuplicateNodenameWarning

from stbass._process.context import ProcessContext
from stbass.backends.celery import CeleryBackend, make_app
from stbass.backends.celery.fleet_status import live_workers
from stbass.backends.celery.keys import WorkerInfo
from stbass.backends.celery.settings import fleet_of
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP
from tests.support.agents import Give, whoami
from tests.support.waiting import until

NAME = "same@here"


async def test_two_workers_of_one_name_are_told_apart(server: RedisServer) -> None:
    env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
    app = make_app("tests", broker_url=server.url)
    first, second = (Worker(APP, "q", env=env, concurrency=slots, name=NAME) for slots in (3, 5))
    async with aclosing(CeleryBackend(app, queue="q", concurrency_limit=50)) as backend:

        async def slots() -> list[int]:
            found = await backend.workers()
            assert {one.worker for one in found} <= {NAME}
            return sorted(one.slots for one in found)

        with first:
            assert await slots() == [3]
            assert "another worker is called" not in first.log
            with second:
                for worker, other in ((first, second), (second, first)):
                    told = f"another worker is called {NAME}: process {other.pid} on "
                    await until(lambda told=told, worker=worker: told in worker.log)  # type: ignore[misc]
                    assert worker.log.count("another worker is called") == 1
                assert await slots() == [3, 5]
                assert await backend.health_check()
                # Both run, and nothing runs twice.
                placed = [whoami.with_name(f"p{n}") for n in range(40)]
                done = await asyncio.gather(*(backend.execute(one, ProcessContext(one.name)) for one in placed))
                assert [result.value["attempt"] for result in done] == [1] * 40
                # What runs is counted once.
                running = [
                    asyncio.create_task(backend.execute(Give(1, seconds=600), ProcessContext(f"r{n}")))
                    for n in range(8)
                ]
                while sum(one.running for one in await backend.workers()) < 8:
                    """Not all have started."""
                assert all(one.free == 0 for one in await backend.workers())
                for task in running:
                    task.cancel()
                await asyncio.wait(running)
                with pytest.warns(DuplicateNodenameWarning):
                    await asyncio.to_thread(app.control.inspect(timeout=2).ping)
                # One that ends does not take back what the other has said.
                second.terminate(timeout=30)
                assert await slots() == [3]
            # One that was killed leaves nothing behind that would tell the next one of a namesake.
            first.kill()
            assert await slots() == []
            first.start()
            assert await slots() == [3]
            assert (await backend.execute(Give(2), ProcessContext("last"))).value == 2
            assert "another worker is called" not in first.log


async def test_a_worker_of_an_earlier_version_is_there_though_it_does_not_say_which_of_its_name_it_is(
    server: RedisServer,
) -> None:
    # given what such a worker announces, and answers
    app = make_app("tests", broker_url=server.url)
    names = fleet_of(app).settings.keys
    client = redis.Redis.from_url(server.url)

    def answer(asked: dict[str, bytes]) -> None:
        client.rpush(asked["data"].decode(), b'{"worker": "earlier@here"}')

    info = WorkerInfo("earlier@here", 1, ["q-earlier"], 4, [], "earlier-1")
    client.set(names.worker("earlier-1"), msgspec.json.encode(info), px=60_000)
    channels = (names.alive_channel("earlier-1"), names.queue_channel("q-earlier"))
    heard = client.pubsub()
    heard.subscribe(**dict.fromkeys(channels, answer))
    for _ in channels:
        heard.get_message(timeout=30)
    hearing = heard.run_in_thread(sleep_time=0.1)
    try:
        # then it is neither silent nor away
        found, answers = live_workers(client, names, patience=30.0)
        assert [one.trouble for one in found if one.name == "earlier@here"] == [None]
        assert "earlier@here" in {one.worker for one in answers}
        async with aclosing(CeleryBackend(app, queue="q-earlier")) as backend:
            assert await backend.health_check()
    finally:
        hearing.stop()
        hearing.join()
        client.delete(names.worker("earlier-1"))
        heard.close()
        client.close()
