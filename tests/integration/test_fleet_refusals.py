"""What comes in and does not fit is refused, set aside and counted, and behind that nothing ends or hangs for it."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import pickle
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import chain, combinations
from typing import Any
from uuid import uuid4

import pytest
import redis

from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend
from stbass.backends.celery.refusals import COUNTS, KEPT, REFUSED
from stbass.errors import SignatureError, WireError
from stbass.placement import PLACED_PAR, BackendRegistry
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP, Fleet
from tests.support.agents import Give, Steps, noop
from tests.support.waiting import until

# redis-py types its commands for both its clients at once.
Client = Any
HUGE = "x" * 200_000
KEY = "a key for the tests only, long enough"

ENVELOPES: dict[str, dict[str, Any]] = {
    "lease": {"lease": 1e308},
    "lease of a month": {"lease": 3e6},
    "no lease": {"lease": 0},
    "lease before": {"lease": -5},
    "lease as text": {"lease": "2"},
    "attempt 0": {"attempt": 0},
    "attempt": {"attempt": 10**18},
    "deadline": {"deadline": 1e308},
    "deadline before": {"deadline": -1},
    "given": {"given": 5},
    "given a bad form": {"given": [{"~": "nope"}]},
    "placement": {"placement": 5},
    "placement as text": {"placement": "x"},
    "resumed": {"resumed": {"~": "x"}},
    "max_attempts": {"max_attempts": 0},
    "max_attempts as text": {"max_attempts": "zzz"},
    "reply": {"reply": "stbass:cancel"},
    "reply as list": {"reply": []},
    "name": {"name": [1]},
    "half a name": {"name": "\ud800"},
    "a long name": {"name": HUGE},
    "parent": {"parent": HUGE},
    "queue": {"queue": "other"},
    "id": {"id": "another"},
    "process": {"process": {"~": "process", "r": "os:system"}},
    "process as text": {"process": "x"},
    "optional": {"is_optional": "yes"},
    "keepers": {"keepers": [5]},
    "many keepers": {"keepers": [{"name": "a", "id": "b", "attempt": 1, "worker": "c"}] * 101},
}
WRONG = ([1], {"a": 1}, HUGE, 1e308, -1, True, 0, "9999-12-31T23:59:59")
HEADERS = ("id", "task", "shadow", "root_id", "parent_id", "group", "eta", "expires", "timelimit", "retries", "stbass")
STAMPS = ("stamped_headers", "stamps")
PROPERTIES = ("delivery_info", "correlation_id", "reply_to", "priority", "body_encoding")


@pytest.fixture(scope="module", params=["asyncio", "threads"])
def refusing(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A fleet with one worker, which is not signed."""
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": "1"}
        # Celery lets nobody accept pickles as root, as tests may be run, unless it is told so.
        env |= {"TEST_ACCEPT": "json,pickle", "C_FORCE_ROOT": "1"}
        with Worker(APP, "q", env=env, pool=request.param, concurrency=8) as worker:
            yield Fleet(server, {"q": worker})


@pytest.fixture
async def backend(refusing: Fleet) -> AsyncIterator[CeleryBackend]:
    made = CeleryBackend(refusing.app(stbass_lease=1.0), queue="q", lease=1.0)
    yield made
    await made.aclose()


@pytest.fixture
def client(refusing: Fleet) -> Iterator[Client]:
    with redis.Redis.from_url(refusing.server.url, decode_responses=True) as made:
        made.delete(REFUSED, COUNTS)
        yield made


async def _message(client: Client, refusing: Fleet) -> dict[str, Any]:
    """A good message, as a producer sends it."""
    sender = CeleryBackend(refusing.app(), queue="aside", lease=1.0)
    sending = asyncio.create_task(sender.execute(noop, ProcessContext("noop")))
    raw = str(await until(lambda: client.lpop("aside")))
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await sender.aclose()
    found: dict[str, Any] = json.loads(raw.replace('"aside"', '"q"').replace('\\"aside\\"', '\\"q\\"'))
    return found


def _fresh(message: dict[str, Any], **envelope: Any) -> dict[str, Any]:
    made, task_id = copy.deepcopy(message), str(uuid4())
    inside = {**json.loads(made["headers"]["stbass"]), "id": task_id, **envelope}
    made["headers"].update(id=task_id, root_id=task_id, stbass=json.dumps(inside))
    made["properties"].update(delivery_tag=str(uuid4()), correlation_id=task_id)
    return made


def subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return chain.from_iterable(combinations(names, count) for count in range(len(names) + 1))


async def _good(backend: CeleryBackend) -> None:
    async with asyncio.timeout(10):
        assert (await backend.execute(Give("good"), ProcessContext("good"))).value == "good"


def _records(client: Client) -> list[dict[str, Any]]:
    return [json.loads(record) for record in client.lrange(REFUSED, 0, -1)]


async def test_every_field_of_a_message_is_checked(refusing: Fleet, backend: CeleryBackend, client: Client) -> None:
    # given a good message, and many of which one field each is what it cannot be
    good = await _message(client, refusing)
    bad = {name: _fresh(good, **fields) for name, fields in ENVELOPES.items()}
    for place, names in (("headers", HEADERS + STAMPS), ("properties", PROPERTIES)):
        for name in names:
            for number, value in enumerate(WRONG):
                message = _fresh(good)
                message[place][name] = value
                bad[f"{place} {name} {number}"] = message
    for name in ("body", "content-type", "content-encoding", "headers"):
        message = _fresh(good)
        message[name] = [1]
        bad[name] = message
    for others in subsets(("headers", "content-type", "content-encoding")):
        message = _fresh(good)
        for name in ("body", *others):
            del message[name]
        bad[f"no body, {others}"] = message
    message = _fresh(good)
    message["properties"]["body_encoding"] = "base64"
    message["body"] = "a"
    bad["a body that is not base64"] = message
    ordinary = _fresh(good)
    ordinary["headers"] = {"task": "tests.add", "id": [1], "lang": "py"}
    bad["an ordinary task"] = ordinary
    worker = refusing.workers["q"]
    pid = worker.pid
    shapes = (
        "[]",
        "[[1], {}]",
        "[[1], {}, {}, {}]",
        "{}",
        "[5, {}, {}]",
        "[[1], 5, {}]",
        "[[1], [], {}]",
        "[[NaN], {}]",
    )
    for body in (None, "", " ", "null", "5", " true", "NaN", '"args"', *shapes):
        scalar = _fresh(good)
        scalar["headers"]["task"] = "tests.add"
        scalar["body"] = body
        bad[f"arguments that are {body}"] = scalar
    for kind in ("application/data", "application/text", None, "text/plain", "application/x-yaml"):
        scalar = _fresh(good)
        scalar["headers"]["task"], scalar["content-type"] = "tests.add", kind
        scalar["body"] = base64.b64encode(b"[[1, 2], {}, {}]").decode()
        bad[f"of type {kind}"] = scalar
    for value in ([], 5, None, "args", [[1], {}], [5, {}, {}], {"args": 5}, {"args": [1], "kwargs": []}):
        pickled = _fresh(good)
        pickled["headers"]["task"], pickled["content-type"] = "tests.add", "application/x-python-serialize"
        pickled["body"] = base64.b64encode(pickle.dumps(value)).decode()
        bad[f"pickled {value}"] = pickled
        compressed = _fresh(good)
        compressed["headers"].update(task="tests.add", compression="application/x-gzip")
        compressed["body"] = base64.b64encode(zlib.compress(json.dumps(value).encode())).decode()
        bad[f"compressed {value}"] = compressed
    first_protocol: list[dict[str, Any]] = [{"expires": 0}, {"eta": {}}, {"stamped_headers": 5}, {"timelimit": [1]}]
    for number, said in enumerate(first_protocol):
        first = _fresh(good)
        first["headers"] = {}
        first["body"] = json.dumps({"task": "tests.add", "id": str(uuid4()), "args": [1, 2], "kwargs": {}, **said})
        bad[f"of Celery's first protocol {number}"] = first
    # when all of them are sent, and the good one as the last
    for message in bad.values():
        client.lpush("q", json.dumps(message))
    client.lpush("q", json.dumps(_fresh(good)))
    # then the worker lives on, and runs what is good
    await _good(backend)
    await until(lambda: client.llen("q") == 0 and client.hlen("unacked") == 0)
    await until(lambda: client.zcard("stbass:leases") == 0)
    assert (worker.running, worker.pid) == (True, pid)
    # and what was refused is set aside, beside the work, in batches, each with its count
    # (some wrong values of Celery's own are of the right type)
    await until(lambda: client.llen(REFUSED) > 70)
    refused = await until(
        lambda: records if len(records := _records(client)) == sum(map(int, client.hvals(COUNTS))) else []
    )
    assert all(set(record) == {"at", "kind", "queue", "id", "reason", "body"} for record in refused)
    assert max(len(record["body"]) for record in refused) < 8200
    assert {record["queue"] for record in refused} <= {"q", ""}
    # but a message that says what it is in both of Celery's protocols is good
    both = _fresh(good)
    both["headers"]["task"] = "tests.add"
    both["body"] = json.dumps({"args": [1, 2], "kwargs": {}})
    client.lpush("q", json.dumps(both))
    kept = await until(lambda: client.get(f"celery-task-meta-{both['headers']['id']}"))
    assert json.loads(kept)["result"] == 3
    logged = [line for line in worker.log.splitlines() if "refused a message" in line]
    assert 1 <= len([line for line in logged if "more of the kind are only counted" in line]) <= 3


async def test_a_tag_that_is_no_text_stays_nowhere_and_keeps_nobody_from_what_is_lost(
    refusing: Fleet, backend: CeleryBackend, client: Client
) -> None:
    # given messages whose tags JSON would write in another way, or which are no text at all
    good = await _message(client, refusing)
    for tag in (b"\xff\xfe", b"a\xff", b"\\u00e9", "\u00e9".encode()):
        message = _fresh(good)
        raw = json.dumps(message).encode()
        client.lpush("q", raw.replace(message["properties"]["delivery_tag"].encode(), tag))
    await _good(backend)
    await until(lambda: client.llen("q") == 0 and client.hlen("unacked") == 0, timeout=30)
    # when such a tag stands among what was taken, beside a process that was taken by a worker that is gone
    lost = _fresh(good)
    with redis.Redis.from_url(refusing.server.url) as raw_client:
        raw_client.hset("unacked", b"\xff\xfe", b"garbage")
        raw_client.zadd("unacked_index", {b"\xff\xfe": 0})
        tag = lost["properties"]["delivery_tag"]
        raw_client.hset("unacked", tag, json.dumps([lost, "", "q"]))
        raw_client.zadd("unacked_index", {tag: 0})
    # then the process is run by another one
    await until(lambda: client.get(f"celery-task-meta-{lost['headers']['id']}"), timeout=30)
    assert "cannot look for lost workers" not in refusing.workers["q"].log
    with redis.Redis.from_url(refusing.server.url) as raw_client:
        raw_client.hdel("unacked", b"\xff\xfe")
        raw_client.zrem("unacked_index", b"\xff\xfe")


async def test_who_sent_what_is_refused_is_told(refusing: Fleet, backend: CeleryBackend, client: Client) -> None:
    good = await _message(client, refusing)
    waiting = asyncio.create_task(backend.execute(noop, ProcessContext("told", placement=Placement(endpoint="q"))))
    async with asyncio.timeout(10):
        assert (await waiting).is_ok
    message = _fresh(good, lease=1e308)
    client.lpush("q", json.dumps(message))
    raw = await until(lambda: client.get(f"celery-task-meta-{message['headers']['id']}"))
    assert "lease" in str(raw)
    assert json.loads(str(raw))["status"] == "FAILURE"
    # It is counted a moment later, and must not be counted in the next test.
    await until(lambda: client.hlen(COUNTS), timeout=30)


async def test_what_is_set_aside_is_bounded_and_counted(
    refusing: Fleet, backend: CeleryBackend, client: Client
) -> None:
    client.lpush("q", *(f"garbage {number}" for number in range(1500)))
    await _good(backend)
    await until(lambda: client.hget(COUNTS, "message") == "1500")
    assert client.llen(REFUSED) == KEPT


RAN: dict[str, Any] = {
    "elapsed": {"elapsed": 1e308},
    "elapsed as text": {"elapsed": "x"},
    "started": {"started": "9999-12-31T23:59:59+00:00", "elapsed": 5},
    "started without a zone": {"started": "2026-01-01T00:00:00"},
    "attempt": {"attempt": 10**18},
    "sent": {"sent": 5},
    "sent a bad form": {"sent": {"~": "x"}},
    "failure": {"failure": 5},
    "worker": {"worker": HUGE},
}


@pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
async def test_a_bad_result_ends_no_producer(refusing: Fleet, client: Client, key: str | None) -> None:
    # given processes that run, and somebody who writes results, replies and checkpoints
    backend = CeleryBackend(refusing.app(stbass_lease=1.0), queue="q", lease=1.0)
    suspicious = CeleryBackend(refusing.app(stbass_lease=1.0, stbass_signing_key=key), queue="q", lease=1.0)
    running = asyncio.create_task(backend.execute(Steps(4, 0.5), ProcessContext("runs")))
    kept = asyncio.create_task(suspicious.execute(Steps(4, 0.5), ProcessContext("kept")))
    await until(lambda: client.zcard("stbass:leases") >= (1 if key else 2))
    ids = client.zrange("stbass:leases", 0, -1)
    replies = {str(client.hget(f"stbass:run:{task_id}", "reply")) for task_id in ids}
    # when
    for reply in replies:
        for ran in RAN.values():
            for task_id in ("another", 5):
                meta = {"task_id": task_id, "status": "SUCCESS", "result": 1, "stbass": ran}
                client.publish(reply, json.dumps({"results": [meta]}))
        for garbage in ("{", "[]", '{"started": [["x", -1]]}', '{"ready": 5}', '{"done": 1e999}', b"\xff\xfe"):
            client.publish(reply, garbage)
    client.publish("stbass:cancel", "{")
    client.publish("stbass:cancel", b"\xff")
    # then both hear of their own
    async with asyncio.timeout(15):
        assert (await running).value["to"] == 4
        told = await kept
    if key is None:
        assert told.is_ok
    else:
        assert isinstance(told.failure.error, SignatureError)
    assert refusing.workers["q"].running
    await backend.aclose()
    await suspicious.aclose()


@pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
@pytest.mark.parametrize("name", RAN)
async def test_a_bad_result_that_is_kept_is_a_failure(
    refusing: Fleet, client: Client, name: str, key: str | None
) -> None:
    backend = CeleryBackend(refusing.app(stbass_signing_key=key), queue="nowhere", lease=1.0, grace=0.2)
    registry = BackendRegistry()
    registry.register("*", backend)
    ctx = ProcessContext("kept").child("kept", deadline_at=asyncio.get_running_loop().time() + 1.0)
    status = "FAILURE" if name == "failure" else "SUCCESS"
    meta = {"task_id": ctx.process_id, "status": status, "result": 1, "stbass": RAN[name]}
    client.set(f"celery-task-meta-{ctx.process_id}", json.dumps(meta))
    async with asyncio.timeout(5):
        result = await backend.execute(noop, ctx)
    assert isinstance(result.failure.error, WireError | SignatureError)
    await backend.aclose()


async def test_records_that_no_worker_wrote_stop_nobody(
    refusing: Fleet, backend: CeleryBackend, client: Client
) -> None:
    # given records of running processes, announcements and groups that are none
    now = int(client.time()[0]) * 1000
    client.hset("stbass:run:bad-attempt", mapping={"attempt": "x", "most": 1, "reply": "", "worker": "w"})
    client.hset("stbass:run:bad-most", mapping={"attempt": "1", "most": "?", "reply": "", "worker": "w"})
    client.hset("stbass:run:bad-reply", mapping={"attempt": "1", "most": 1, "reply": "stbass:cancel"})
    client.set("stbass:run:no-hash", "text")
    client.zadd(
        "stbass:leases", dict.fromkeys(["bad-attempt", "bad-most", "bad-reply", "no-hash", "none"], now - 10_000)
    )
    client.set("stbass:worker:bad", "{")
    client.set("stbass:worker:worse", '{"name": 5}')
    client.set("stbass:group:bad", '[{"id": 5}]')
    # then whoever looks after lost workers gets past them
    await until(lambda: client.zcard("stbass:leases") == 0, timeout=15)
    await _good(backend)
    assert {record["id"] for record in _records(client)} >= {"bad-attempt", "bad-reply"}
    # and the worker is seen, and the group is an error that says so
    assert await backend.health_check()
    client.hset("stbass:group:worse", "one", '{"envelopes": [{"id": 5}]}')
    client.hset(
        "stbass:group:worst",
        "one",
        '{"envelopes": [{"id": "x", "queue": "q", "name": "n", "lease": 1}], "places": [7]}',
    )
    for group_id in ("bad", "worse", "worst"):
        with pytest.raises(WireError, match=f"group {group_id} "):
            await backend.find_group(group_id)
    registry = BackendRegistry()
    registry.register("*", backend)
    assert len((await PLACED_PAR((noop, Placement(endpoint="q")), registry=registry).run()).results) == 1
    client.delete("stbass:run:no-hash", "stbass:worker:bad", "stbass:worker:worse")
