"""A worker that has nothing to do is given the next message, and does not take it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import redis

from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend, keys
from stbass.backends.celery.envelope import delivery_tag
from stbass.errors import DeadlineExceeded, ProcessCancelled
from stbass.placement import PLACED_PAR
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP, Fleet, workers_on
from tests.support.agents import Give, Mark, left_in_circles, whoami
from tests.support.backends import registry_of
from tests.support.waiting import until

QUEUE = "anthropic"
AT = Placement(endpoint=QUEUE)


@contextlib.contextmanager
def made(*, lease: float = 60.0, **options: Any) -> Iterator[Fleet]:
    """A fleet of one worker. Leases are long: what is only found when one is over comes too late."""
    env = {"TEST_LEASE": str(lease), **options.pop("env", {})}
    with RedisServer() as server, workers_on(server, QUEUE, env=env, **options) as fleet:
        yield fleet


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    with made() as one:
        yield one


@contextlib.asynccontextmanager
async def backend_of(fleet: Fleet, lease: float = 60.0) -> AsyncIterator[CeleryBackend]:
    async with aclosing(CeleryBackend(fleet.app(), lease=lease, max_attempts=1)) as backend:
        assert (await backend.execute(Give("warm"), ProcessContext("warm", placement=AT))).is_ok
        yield backend


def life(server: RedisServer) -> str:
    [channel] = server.command("PUBSUB", "CHANNELS", "stbass:given:*")
    return str(channel).rpartition(":")[2]


def declare_idle(server: RedisServer, one: str) -> None:
    """Say of this worker, for a minute, that it has nothing to do."""
    server.command("ZADD", f"stbass:idle:{QUEUE}", 2**50, one)
    server.command("EXPIRE", f"stbass:idle:{QUEUE}", 60)
    server.command("SET", f"stbass:free:{one}", 1, "EX", 60)


def queued(server: RedisServer) -> int:
    """How many messages have been put into queues, up to now."""
    return int(server.command("INFO", "commandstats").get("cmdstat_lpush", {"calls": 0})["calls"])


def is_given(server: RedisServer, process_id: str) -> bool:
    names = server.command("KEYS", "stbass:given:*")
    return any(server.command("HEXISTS", name, delivery_tag(process_id)) for name in names)


class Sent:
    """A process that was given to the worker, which has been declared idle for it."""

    def __init__(self, backend: CeleryBackend, fleet: Fleet, process: Any, one: str | None = None) -> None:
        self.ctx = ProcessContext(process.name, placement=AT)
        self._server = fleet.server
        self._queued = queued(self._server)
        declare_idle(self._server, one or life(self._server))
        self.task = asyncio.create_task(backend.execute(process, self.ctx))

    async def given(self) -> Sent:
        """Return when it is."""
        await until(lambda: self.task.done() or is_given(self._server, self.ctx.process_id))
        if self.task.done():
            assert queued(self._server) == self._queued
        return self


# Who is given a message --------------------------------------------------------------------------


async def test_a_worker_that_has_just_ended_a_process_is_given_the_next_one(fleet: Fleet) -> None:
    async with backend_of(fleet) as backend:
        for _ in range(50):
            before = queued(fleet.server)
            ctx = ProcessContext("whoami", placement=AT)
            result = await backend.execute(whoami, ctx)
            assert result.value["id"] == ctx.process_id
            assert result.value["attempt"] == 1
            if queued(fleet.server) == before:
                break
        else:
            pytest.fail("of 50 processes sent one after the other none was given to the worker")
        # Nobody has to do more for it; and an idle worker is not idle for ever.
        await until(lambda: fleet.server.command("HLEN", "unacked") == 0)
        one = life(fleet.server)
        await until(lambda: not fleet.server.command("EXISTS", f"stbass:idle:{QUEUE}", f"stbass:free:{one}"))


class Script:
    """GIVE, and a program that listens as a worker does."""

    def __init__(self, server: RedisServer) -> None:
        self.client = redis.Redis.from_url(server.url, decode_responses=True)
        self.heard = self.client.pubsub(ignore_subscribe_messages=True)
        self._give: Any = self.client.register_script(keys.GIVE)

    def listen(self, life: str) -> None:
        self.heard.subscribe(f"stbass:given:0:{life}")
        self.heard.get_message(timeout=10)

    def idle(self, life: str, ago: float, *, free: bool = True) -> None:
        self.client.zadd("stbass:idle:q", {life: 2**50 - ago})
        if free:
            self.client.set(f"stbass:free:{life}", 1)

    def give(self, message: str = "[1]", *deadline: str) -> int:
        args = ["q", "q", "stbass:given:0:", "unacked", "unacked_index", "tag", message, *deadline]
        return int(self._give(args=args))

    def close(self) -> None:
        self.heard.close()
        self.client.close()


@pytest.fixture
def script(server: RedisServer) -> Iterator[Script]:
    server.command("FLUSHDB")
    made = Script(server)
    yield made
    made.close()


def test_a_message_is_given_to_the_worker_that_was_idle_last(script: Script) -> None:
    script.listen("second")
    script.idle("first", 0.5)
    script.idle("second", 0.1)
    # when
    assert script.give() == 1
    # then
    message: Any = script.heard.get_message(timeout=10)
    assert message["data"] == "[1]"
    assert script.client.hgetall("unacked") == {"tag": '[[1],"","q"]'}
    assert script.client.zrange("unacked_index", 0, -1) == ["tag"]
    assert script.client.zrange("stbass:idle:q", 0, -1) == ["first"]
    assert script.client.exists("q") == 0


def test_one_that_does_not_live_is_passed_over(script: Script) -> None:
    script.listen("alive")
    script.idle("alive", 0.5)
    script.idle("dead", 0.1)
    assert script.give() == 1
    message: Any = script.heard.get_message(timeout=10)
    assert message["channel"] == "stbass:given:0:alive"


@pytest.mark.parametrize(
    "why", ["nobody", "dead", "only watched", "busy since", "others wait", "too large", "overwritten"]
)
def test_else_it_goes_into_the_queue(script: Script, why: str) -> None:
    message = "x" * 70_000 if why == "too large" else "[1]"
    if why == "only watched":
        script.heard.psubscribe("*")
        script.heard.get_message(timeout=10)
    elif why not in ("nobody", "dead"):
        script.listen("worker")
    if why == "overwritten":
        script.client.set("stbass:idle:q", "somebody else's")
    elif why != "nobody":
        script.idle("worker", 1, free=why != "busy since")
    if why == "others wait":
        script.client.lpush("q", "[0]")
    # when
    assert script.give(message) == 0
    # then
    assert script.client.lrange("q", 0, 0) == [message]
    assert script.client.exists("unacked", "unacked_index") == 0


def test_its_deadline_counts_either_way(script: Script) -> None:
    script.listen("worker")
    script.idle("worker", 0.1)
    for number in (1, 0):
        assert script.give("[1]", "deadline", "5000") == number
        assert 4000 < int(script.client.pttl("deadline")) <= 5000
        script.client.delete("deadline")


@pytest.mark.parametrize("how", ["events", "threads"])
async def test_where_celery_wants_to_see_each_message_before_it_runs_nothing_is_given(how: str) -> None:
    options: dict[str, Any] = {"args": ["-E"]} if how == "events" else {"pool": "threads", "concurrency": 2}
    with made(**options) as fleet:
        async with backend_of(fleet) as backend:
            for number in range(5):
                result = await backend.execute(Give(number), ProcessContext("give", placement=AT))
                assert result.value == number
                assert fleet.server.command("EXISTS", f"stbass:idle:{QUEUE}") == 0


async def test_what_somebody_has_put_where_idle_workers_are_harms_nothing(fleet: Fleet) -> None:
    async with backend_of(fleet) as backend:
        fleet.server.command("SET", f"stbass:idle:{QUEUE}", "somebody else's")
        for number in range(3):
            result = await backend.execute(Give(number), ProcessContext("give", placement=AT))
            assert result.value == number


@pytest.mark.parametrize("queue", [QUEUE, "other"])
async def test_a_worker_of_one_place_that_was_given_one_neither_takes_nor_is_given_another(
    queue: str,
) -> None:
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
        with Worker(APP, QUEUE, "other", concurrency=1, env=env) as first:
            fleet = Fleet(server, {QUEUE: first})
            one = life(server)
            with Worker(APP, QUEUE, "other", concurrency=1, env=env) as second:
                async with backend_of(fleet) as backend:
                    for _ in range(5):
                        await until(lambda: server.command("HLEN", "unacked") == 0)
                        server.command("ZADD", "stbass:idle:other", 2**50, one)
                        long = await Sent(backend, fleet, Give(1, seconds=60), one).given()
                        # when: another one is sent, at once
                        ctx = ProcessContext("whoami", placement=Placement(endpoint=queue))
                        result = await asyncio.wait_for(backend.execute(whoami, ctx), 30)
                        # then
                        assert result.value["pid"] == second.pid
                        long.task.cancel()
                        await asyncio.wait((long.task,))


async def test_nothing_of_what_was_given_is_left_to_the_garbage_collector(fleet: Fleet) -> None:
    async with backend_of(fleet) as backend:

        async def left() -> int:
            result = await backend.execute(left_in_circles, ProcessContext("left", placement=AT))
            return int(result.value)

        await left()
        before = await left()
        for number in range(100):
            await (await Sent(backend, fleet, Give(number)).given()).task
        assert await left() - before < 100


async def test_what_a_worker_has_no_place_for_goes_back() -> None:
    """It took something itself at that moment."""
    with made(concurrency=1) as one:
        async with backend_of(one) as backend:
            long = await Sent(backend, one, Give(1, seconds=60)).given()
            mine = life(one.server)
            with Worker(APP, QUEUE, env=one.env) as second:
                sent = await Sent(backend, one, whoami, mine).given()
                assert (await asyncio.wait_for(sent.task, 30)).value["pid"] == second.pid
                long.task.cancel()
                await asyncio.wait((long.task,))
                await until(lambda: one.server.command("HLEN", "unacked") == 0)


# What goes wrong ---------------------------------------------------------------------------------


async def test_what_was_given_to_a_worker_that_dies_before_it_begins_goes_to_another_one(tmp_path: Path) -> None:
    with made(lease=2.0) as fleet:
        async with backend_of(fleet, lease=2.0) as backend:
            first = fleet.workers[QUEUE]
            first_pid = first.pid
            first.send_signal(signal.SIGSTOP)
            sent = await Sent(backend, fleet, whoami).given()
            with Worker(APP, QUEUE, env={**fleet.env, "TEST_LEASE": "2"}):
                first.kill()
                result = await asyncio.wait_for(sent.task, 60)
            # It had not begun: that was no attempt.
            assert result.value["attempt"] == 1
            assert result.value["pid"] != first_pid


async def test_what_was_given_on_a_connection_that_is_lost_is_asked_for(fleet: Fleet) -> None:
    async with backend_of(fleet) as backend:
        fleet.workers[QUEUE].send_signal(signal.SIGSTOP)
        sent = await Sent(backend, fleet, whoami).given()
        # when: the server drops what it was about to say
        fleet.server.command("CLIENT", "KILL", "TYPE", "pubsub")
        fleet.workers[QUEUE].send_signal(signal.SIGCONT)
        # then: long before a lease is over
        result = await asyncio.wait_for(sent.task, 30)
        assert result.value["attempt"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
async def test_what_was_given_to_a_worker_that_is_stopped_goes_to_another_one(
    number: signal.Signals, tmp_path: Path
) -> None:
    with made(env={"TEST_GRACE": "0.1"}) as fleet:
        async with backend_of(fleet) as backend:
            first = fleet.workers[QUEUE]
            log = tmp_path / "log"
            runs = await Sent(backend, fleet, Mark(str(log), seconds=3.0)).given()
            await until(log.exists)
            first.send_signal(signal.SIGSTOP)
            # given: one that runs, and one that it has not heard of
            waits = await Sent(backend, fleet, whoami).given()
            with Worker(APP, QUEUE, env={**fleet.env, "TEST_LEASE": "60"}):
                # when
                first.send_signal(number)
                first.send_signal(signal.SIGCONT)
                # then
                results = await asyncio.wait_for(asyncio.gather(runs.task, waits.task), 30)
                assert [result.is_ok for result in results] == [True, True]
            assert log.read_text().count("started") == 2
            await until(lambda: fleet.server.command("EXISTS", "unacked", QUEUE) == 0)


async def test_of_a_queue_that_the_worker_leaves_it_keeps_nothing(fleet: Fleet) -> None:
    control = fleet.app().control
    async with backend_of(fleet) as backend:
        assert control.cancel_consumer(QUEUE, reply=True, timeout=20, limit=1)
        # when: it is given one that was on its way
        sent = await Sent(backend, fleet, whoami).given()
        # then
        await until(lambda: fleet.server.command("LLEN", QUEUE) == 1)
        assert not sent.task.done()
        assert control.add_consumer(QUEUE, reply=True, timeout=20, limit=1)
        result = await asyncio.wait_for(sent.task, 30)
        assert result.value["attempt"] == 1


@pytest.mark.parametrize("garbage", ["", "[", "[1]", '{"properties": {"delivery_info": {}}}', "null", "\x00"])
async def test_what_is_no_message_is_set_aside(fleet: Fleet, garbage: str) -> None:
    async with backend_of(fleet) as backend:
        for _ in range(2):
            assert fleet.server.command("PUBLISH", f"stbass:given:0:{life(fleet.server)}", garbage) == 1
        await until(lambda: fleet.server.command("HGET", "stbass:refused:counts", "message") == "2")
        result = await (await Sent(backend, fleet, whoami).given()).task
        assert result.is_ok


async def test_a_message_that_was_given_twice_runs_once(fleet: Fleet, tmp_path: Path) -> None:
    async with backend_of(fleet) as backend:
        log = tmp_path / "log"
        sent = await Sent(backend, fleet, Mark(str(log), seconds=1.0)).given()
        [entry] = fleet.server.command("HVALS", "unacked")
        again = json.dumps(json.loads(entry)[0])
        fleet.server.command("PUBLISH", f"stbass:given:0:{life(fleet.server)}", again)
        assert (await sent.task).is_ok
        # and once more when it has ended
        fleet.server.command("PUBLISH", f"stbass:given:0:{life(fleet.server)}", again)
        assert (await backend.execute(Give(2), ProcessContext("give", placement=AT))).value == 2
        assert log.read_text().count("started") == 1
        await until(lambda: fleet.server.command("HLEN", "unacked") == 0)


# As any other ------------------------------------------------------------------------------------


async def test_its_deadline_holds(fleet: Fleet) -> None:
    async with backend_of(fleet) as backend:
        declare_idle(fleet.server, life(fleet.server))
        group = await PLACED_PAR((Give(1, seconds=30), AT), registry=registry_of(backend, QUEUE), deadline=0.5).run()
        [failure] = group.failures
        assert isinstance(failure.error, DeadlineExceeded)
        assert failure.error.phase == "running"


async def test_it_can_be_cancelled(fleet: Fleet, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with backend_of(fleet) as backend:
        sent = await Sent(backend, fleet, Mark(str(log))).given()
        await until(log.exists)
        sent.task.cancel()
        await until(lambda: "ended" in log.read_text())
        await until(lambda: fleet.server.command("HLEN", "unacked") == 0)


def _total(fleet: Fleet, app: Any) -> int:
    answers = app.control.inspect(timeout=20, limit=1).stats()
    return sum(sum(answer["total"].values()) for answer in answers.values())


async def test_celery_knows_of_it(fleet: Fleet, tmp_path: Path) -> None:
    app = fleet.app()
    ask: Callable[[], Any] = lambda: app.control.inspect(timeout=20, limit=1).active()  # noqa: E731
    log = tmp_path / "log"
    async with backend_of(fleet) as backend:
        before = await asyncio.to_thread(_total, fleet, app)
        assert (await (await Sent(backend, fleet, Give(1)).given()).task).value == 1
        began = time.time()
        sent = await Sent(backend, fleet, Mark(str(log))).given()
        await until(log.exists)

        async def active() -> list[Any]:
            return [task for tasks in (await asyncio.to_thread(ask)).values() for task in tasks]

        async with asyncio.timeout(30):
            while not (tasks := await active()):
                pass
        assert [(task["id"], task["name"]) for task in tasks] == [(sent.ctx.process_id, "Mark")]
        assert began - 1 < tasks[0]["time_start"] < time.time()
        assert await asyncio.to_thread(_total, fleet, app) == before + 2
        app.control.revoke(sent.ctx.process_id, terminate=True)
        result = await asyncio.wait_for(sent.task, 30)
        assert isinstance(result.failure.error, ProcessCancelled)
        assert "revoked" in str(result.failure.error)
        await until(lambda: fleet.server.command("HLEN", "unacked") == 0)
        assert await active() == []


async def test_one_that_celery_has_revoked_before_does_not_run(fleet: Fleet, tmp_path: Path) -> None:
    app = fleet.app()
    log = tmp_path / "log"
    async with backend_of(fleet) as backend:
        fleet.workers[QUEUE].send_signal(signal.SIGSTOP)
        sent = await Sent(backend, fleet, Mark(str(log))).given()
        [entry] = fleet.server.command("HVALS", "unacked")
        fleet.workers[QUEUE].send_signal(signal.SIGCONT)
        sent.task.cancel()
        # given: another of this kind, that has not been sent yet
        message = json.loads(entry)[0]
        message["headers"]["id"] = "revoked"
        assert await asyncio.to_thread(app.control.revoke, "revoked", reply=True, timeout=20, limit=1)
        began = log.read_text() if log.exists() else ""
        # when
        fleet.server.command("PUBLISH", f"stbass:given:0:{life(fleet.server)}", json.dumps(message))
        # then: Celery deals with it, as it does with every such task
        result = app.AsyncResult("revoked")
        await until(lambda: result.state == "REVOKED", timeout=20)
        assert (log.read_text() if log.exists() else "") == began
