"""Signed fleets: what is not signed right is refused, and told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from stbass._process.context import ProcessContext
from stbass.backends.celery import CeleryBackend, make_app
from stbass.backends.celery.settings import EXECUTE
from stbass.errors import ConfigurationError, SignatureError
from stbass.testing import RedisServer
from tests.integration.conftest import Fleet, workers_on
from tests.support.agents import Fail, Give, Unregistered
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
