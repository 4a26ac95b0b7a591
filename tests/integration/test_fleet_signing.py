"""Signed fleets: what is not signed right is refused, and told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stbass import observe
from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.backends.celery.envelope import seal_cancellation
from stbass.backends.celery.refusals import COUNTS
from stbass.backends.celery.settings import EXECUTE, fleet_of
from stbass.backends.celery.sweep import Sweeper
from stbass.errors import ConfigurationError, SignatureError
from stbass.placement import PLACED_PAR
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP, Fleet, workers_on
from tests.support.agents import Fail, Give, Mark, Steps, Unregistered
from tests.support.backends import registry_of
from tests.support.waiting import until

KEY = "a-key-for-the-tests-of-sixteen-or-more"


@pytest.fixture(scope="module", autouse=True)
def fleet(server: RedisServer) -> Iterator[Fleet]:
    """A worker that has a signing key, and a backend that has the same."""
    with workers_on(server, "signed", env={"TEST_SIGNING_KEY": KEY}) as made:
        made.conf, made.options = {"stbass_signing_key": KEY}, {"queue": "signed"}
        yield made


async def test_the_right_key_works_both_ways(backend: CeleryBackend) -> None:
    assert (await backend.execute(Give((1, 2)), ProcessContext("give"))).value == (1, 2)
    failed = await backend.execute(Fail("c"), ProcessContext("fail"))
    assert isinstance(failed.failure.error, Unregistered)
    assert failed.failure.checkpoint == "c"


@pytest.mark.parametrize("key", [None, "another-key-of-sixteen-or-more-characters"])
async def test_a_producer_without_the_key_is_refused_and_told(
    server: RedisServer, backend: CeleryBackend, key: str | None
) -> None:
    stranger = CeleryBackend(make_app("tests", broker_url=server.url, stbass_signing_key=key), queue="signed")
    result = await stranger.execute(Give(1), ProcessContext("give"))
    assert isinstance(result.failure.error, SignatureError)
    assert KEY not in str(result.failure.error)
    await stranger.aclose()
    # The worker lives on.
    assert (await backend.execute(Give(2), ProcessContext("give"))).value == 2


async def test_an_altered_or_replayed_message_is_refused(server: RedisServer, backend: CeleryBackend) -> None:
    # A good message, caught in a queue that nobody consumes.
    app = make_app("tests", broker_url=server.url, stbass_signing_key=KEY)
    catching = CeleryBackend(app, queue="caught")
    waiting = asyncio.create_task(catching.execute(Give("original"), ProcessContext("give")))
    caught: str = await until(lambda: server.command("RPOP", "caught"))
    good = json.loads(caught)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await catching.aclose()

    def send(task_id: str, alter: str) -> None:
        message = json.loads(caught)
        message["headers"]["stbass"] = message["headers"]["stbass"].replace("original", alter)
        message["headers"]["id"] = task_id
        message["properties"]["delivery_tag"] = task_id
        message["properties"]["delivery_info"]["routing_key"] = "signed"
        server.command("LPUSH", "signed", json.dumps(message))

    cases = {"altered": (good["headers"]["id"] + "a", "forged"), "replayed": ("another-id", "original")}
    for task_id, alter in cases.values():
        send(task_id, alter)
        answer = app.AsyncResult(task_id)
        with pytest.raises(Exception, match=r"(?i)sign"):
            await asyncio.to_thread(answer.get, timeout=5)
        assert answer.state == "FAILURE"
    assert (await backend.execute(Give(3), ProcessContext("give"))).value == 3


async def test_a_forged_result_is_refused(server: RedisServer, backend: CeleryBackend) -> None:
    app = make_app("tests", broker_url=server.url, stbass_signing_key=KEY)
    lonely = CeleryBackend(app, queue="nobody", grace=0.1)
    ctx = ProcessContext("give")
    waiting = asyncio.create_task(lonely.execute(Give(1), ctx))
    channel = f"celery-task-meta-{ctx.process_id}"
    # Once the producer listens to the process's own channel, anybody could answer there.
    await until(lambda: server.command("PUBSUB", "NUMSUB", channel)[1])
    forged = {"task_id": ctx.process_id, "status": "SUCCESS", "result": 666, "traceback": None, "children": []}
    server.command("PUBLISH", channel, json.dumps(forged))
    async with asyncio.timeout(5):
        result = await waiting
    assert isinstance(result.failure.error, SignatureError)
    await lonely.aclose()


def test_a_short_key_is_refused_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_app("tests", stbass_signing_key="short")
    assert "short" not in str(caught.value).replace("too short", "")


async def test_garbage_does_not_disturb_the_worker(server: RedisServer, backend: CeleryBackend) -> None:
    for garbage in (b"\xff\xfe not a message", b"{}", b"[1,2", b'{"properties": {}}', b'{"a": ' * 500, b"null"):
        server.command("LPUSH", "signed", garbage)
    body = json.dumps([["not an envelope"], {}, {}])
    for headers in ({"task": EXECUTE, "id": "x"}, {"task": "os:system", "id": "y"}, {"id": "z"}, {}):
        message = {
            "body": body,
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": headers,
            "properties": {
                "delivery_tag": f"tag-{len(headers)}",
                "body_encoding": "utf-8",
                "delivery_info": {"exchange": "", "routing_key": "signed"},
                "correlation_id": "c",
            },
        }
        server.command("LPUSH", "signed", json.dumps(message))
    async with asyncio.timeout(10):
        assert (await backend.execute(Give(4), ProcessContext("give"))).value == 4


# What somebody writes who can write to Redis, and does not have the key -----------------------------


def _refused(server: RedisServer, kind: str) -> int:
    return int(server.command("HGET", COUNTS, kind) or 0)


async def test_a_forged_record_of_a_run_is_refused_and_counted(server: RedisServer, backend: CeleryBackend) -> None:
    ctx, before = ProcessContext("steps"), _refused(server, "run record")
    server.command("HSET", f"stbass:run:{ctx.process_id}", "attempt", 1, "most", 3, "checkpoint", "3", "deaths", 2)
    result = await backend.execute(Steps(4, 0.0), ctx)
    assert result.value == {"from": 0, "to": 4, "attempt": 1}
    await until(lambda: _refused(server, "run record") == before + 1)


@pytest.mark.parametrize("forged", [pytest.param(False, marks=pytest.mark.slow), True])
async def test_a_forged_checkpoint_is_refused_and_counted(forged: bool) -> None:
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_SIGNING_KEY": KEY}
        app = make_app("tests", broker_url=server.url, stbass_signing_key=KEY, stbass_lease=0.5)
        backend, ctx = CeleryBackend(app, queue="signed", lease=0.5), ProcessContext("steps")
        record = f"stbass:run:{ctx.process_id}"
        with Worker(APP, "signed", env={**env, "TEST_LEASE": "0.5"}) as worker:
            running = asyncio.create_task(backend.execute(Steps(6, 0.3), ctx))
            await until(lambda: server.command("HEXISTS", record, "checkpoint"), timeout=30)
            await asyncio.to_thread(worker.kill)
            if forged:
                server.command("HSET", record, "checkpoint", "5")
            await asyncio.to_thread(worker.restart)
            async with asyncio.timeout(60):
                value = (await running).value
        assert value["attempt"] == 2
        assert (value["from"] == 0) is forged
        if forged:
            await until(lambda: _refused(server, "checkpoint") == 1)
        await backend.aclose()


async def test_what_finds_a_lost_worker_refuses_a_forged_record(server: RedisServer) -> None:
    app = make_app("tests", broker_url=server.url, stbass_signing_key=KEY)
    server.command("HSET", "stbass:run:forged", "attempt", 1, "most", 1, "worker", "w", "queue", "signed")
    server.command("ZADD", "stbass:leases", 1, "forged")
    before = _refused(server, "run record")
    sweeper = Sweeper(fleet_of(app).settings, fleet_of(app).result_prefix, fleet_of(app).refusals)
    # It rests for a moment first: who lives shall renew their leases.
    await until(lambda: [sweeper.sweep(), server.command("ZSCORE", "stbass:leases", "forged")][1] is None, timeout=30)
    sweeper.close()
    assert server.command("EXISTS", "celery-task-meta-forged") == 0
    await until(lambda: _refused(server, "run record") > before)


async def test_a_forged_cancellation_is_refused_and_counted(server: RedisServer, backend: CeleryBackend) -> None:
    ctx, before = ProcessContext("steps"), _refused(server, "cancellation")
    server.command("SET", f"stbass:cancelled:{ctx.process_id}", "1")
    running = asyncio.create_task(backend.execute(Steps(6, 0.2), ctx))
    await until(lambda: server.command("EXISTS", f"stbass:run:{ctx.process_id}"), timeout=30)
    signed_for_another = seal_cancellation(["another"], backend.settings).replace(b"another", ctx.process_id.encode())
    for forged in (json.dumps([ctx.process_id]), signed_for_another):
        assert server.command("PUBLISH", "stbass:cancel:0", forged) == 1
    assert (await running).value["to"] == 6
    await until(lambda: _refused(server, "cancellation") == before + 3)


async def test_what_a_producer_cancels_is_cancelled(
    server: RedisServer, backend: CeleryBackend, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    running = asyncio.create_task(backend.execute(Mark(str(log)), ProcessContext("mark")))
    await until(log.exists, timeout=30)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await until(lambda: len(log.read_text().splitlines()) == 2, timeout=30)


async def test_a_forged_checkpoint_on_its_way_to_the_producer_is_refused(
    server: RedisServer, backend: CeleryBackend
) -> None:
    ctx, seen = ProcessContext("steps"), []
    before = _refused(server, "checkpoint")

    def listen(event: observe.Event) -> None:
        if event.kind == "checkpoint":
            seen.append(event.value)

    with observe.subscribe(listen):
        running = asyncio.create_task(backend.execute(Steps(4, 0.2), ctx))
        reply = await until(lambda: server.command("HGET", f"stbass:run:{ctx.process_id}", "reply"), timeout=30)
        server.command("PUBLISH", reply, json.dumps({"checkpoint": ctx.process_id, "value": 666}))
        assert (await running).is_ok
    assert seen == [1, 2, 3, 4]
    await until(lambda: _refused(server, "checkpoint") == before + 1)


async def test_a_forged_group_is_refused(server: RedisServer, backend: CeleryBackend) -> None:
    registry = registry_of(backend)
    result = await PLACED_PAR((Give(1), Placement(endpoint="signed")), registry=registry).run()
    group_id = result.group.id
    assert (await PLACED_PAR.attach(group_id, registry=registry)).value == [1]
    [(backend_id, kept)] = server.command("HGETALL", f"stbass:group:{group_id}").items()
    server.command("HSET", "stbass:group:another", backend_id, kept)
    with pytest.raises(SignatureError):
        await PLACED_PAR.attach("another", registry=registry)
    server.command("HSET", f"stbass:group:{group_id}", backend_id, json.dumps(json.loads(kept)[1]))
    with pytest.raises(SignatureError):
        await PLACED_PAR.attach(group_id, registry=registry)


@pytest.mark.parametrize("queue", ["signed", "unsigned"])
async def test_a_message_that_is_sent_again_is_refused_also_when_its_result_is_gone(
    server: RedisServer, fleet: Fleet, tmp_path: Path, queue: str
) -> None:
    log, ctx = tmp_path / "log", ProcessContext("mark")
    key = KEY if queue == "signed" else None
    backend = CeleryBackend(make_app("tests", broker_url=server.url, stbass_signing_key=key), queue=queue)
    before = _refused(server, "replay")
    with ExitStack() as stack:
        if queue == "unsigned":
            stack.enter_context(Worker(APP, queue, env=fleet.env))
        running = asyncio.create_task(backend.execute(Mark(str(log), 0.5), ctx))
        [entry] = await until(
            lambda: [raw for raw in server.command("HVALS", "unacked") if ctx.process_id in raw], timeout=30
        )
        assert (await running).is_ok
        await until(lambda: server.command("HLEN", "unacked") == 0)
        server.command("DEL", f"celery-task-meta-{ctx.process_id}")
        server.command("LPUSH", queue, json.dumps(json.loads(entry)[0]))
        await until(lambda: _refused(server, "replay") == before + 1, timeout=30)
        assert (await backend.execute(Give(1), ProcessContext("after"))).is_ok
    assert len(log.read_text().splitlines()) == 2
    assert server.command("EXISTS", f"celery-task-meta-{ctx.process_id}") == 0
    await backend.aclose()
