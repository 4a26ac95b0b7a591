"""How a worker takes messages: of one queue, of several, and of queues with a list per priority."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue

from stbass._process.context import ProcessContext
from stbass._values.outcome import ProcessResult
from stbass.backends.celery import CeleryBackend, make_app
from stbass.backends.celery.app import TRANSPORT
from stbass.backends.celery.transport import TAKE
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP
from tests.support.agents import Give
from tests.support.proxy import Proxy
from tests.support.servers import on_every_server
from tests.support.waiting import until

LEASE = 1.0
PRIORITISED = "tests.support.prioritised_app"


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(program=getattr(request, "param", None)) as made:
        yield made


@pytest.fixture
async def fleet(server: RedisServer) -> AsyncIterator[Celery]:
    app = make_app("tests", broker_url=server.url, stbass_lease=LEASE)
    yield app
    await CeleryBackend(app).aclose()


def worker(server: RedisServer, *queues: str, app: str = APP, **more: Any) -> Worker:
    env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": str(LEASE)}
    return Worker(app, *queues, env={**env, **more.pop("env", {})}, **more)


def start(fleet: Celery, queue: str, value: object, seconds: float = 0.0) -> asyncio.Task[ProcessResult]:
    to = CeleryBackend(fleet, queue=queue, lease=LEASE)
    return asyncio.create_task(to.execute(Give(value, seconds=seconds), ProcessContext("give")))


@pytest.mark.parametrize("app", [APP, pytest.param(PRIORITISED, marks=pytest.mark.slow)])
async def test_a_message_for_a_worker_of_two_queues_that_dies_is_not_lost(
    server: RedisServer, fleet: Celery, app: str
) -> None:
    with worker(server, "a", "b", app=app) as one:
        assert (await start(fleet, "a", 0)).value == 0
        # It waits for messages; Redis tells it of some that it does not come to read.
        os.kill(one.pid, signal.SIGSTOP)
        sent = [start(fleet, queue, n) for n, queue in enumerate("abab")]
        await until(lambda: server.command("LLEN", "a") + server.command("LLEN", "b") == 4)
        one.kill()
        one.start()
        async with asyncio.timeout(20):
            assert [result.value for result in await asyncio.gather(*sent)] == [0, 1, 2, 3]
    assert (server.command("LLEN", "a"), server.command("LLEN", "b")) == (0, 0)


async def _killed_again_and_again(server: RedisServer, fleet: Celery, count: int, kills: int) -> None:
    workers = [worker(server, "a", "b", "c") for _ in range(2)]
    for one in workers:
        await asyncio.to_thread(one.start)
    try:
        sent = []
        for kill in range(kills):
            victim = workers[kill % 2]
            part = count // kills
            for n in range(part):
                sent.append(start(fleet, "abc"[n % 3], kill * part + n))
                if n == part // 2:
                    await asyncio.sleep(0)  # half of them are sent before the kill, half after it
                    os.kill(victim.pid, signal.SIGKILL)
            await asyncio.to_thread(victim.kill)
            await asyncio.to_thread(victim.start)
        async with asyncio.timeout(60):
            results = await asyncio.gather(*sent)
        values = Counter(result.value for result in results)
        assert values == Counter(range(len(sent)))
        await until(lambda: server.command("HLEN", "unacked") == 0, timeout=20)
        assert [server.command("LLEN", queue) for queue in "abc"] == [0, 0, 0]
    finally:
        for one in workers:
            one.kill()


async def test_a_worker_of_three_queues_is_killed_three_times(server: RedisServer, fleet: Celery) -> None:
    await _killed_again_and_again(server, fleet, 600, 3)


@pytest.mark.slow
@pytest.mark.timeout(600)
@on_every_server
async def test_a_worker_of_three_queues_is_killed_twenty_times_under_12000_messages(
    server: RedisServer, fleet: Celery
) -> None:
    await _killed_again_and_again(server, fleet, 12_000, 20)


@pytest.mark.slow
async def test_a_queue_is_added_and_cancelled_while_the_worker_waits(server: RedisServer, fleet: Celery) -> None:
    with worker(server, "a"):
        assert (await start(fleet, "a", 0)).value == 0
        waits = start(fleet, "late", 1)
        await until(lambda: server.command("LLEN", "late") == 1)
        assert fleet.control.add_consumer("late", reply=True, timeout=5)
        assert (await asyncio.wait_for(waits, 10)).value == 1
        began = time.monotonic()
        assert (await start(fleet, "late", 2)).value == 2
        assert time.monotonic() - began < 10
        assert fleet.control.cancel_consumer("late", reply=True, timeout=5)
        cancelled = start(fleet, "late", 3)
        # The other queue goes on, and what is asked for afterwards is answered first.
        assert [(await start(fleet, "a", n)).value for n in range(3)] == [0, 1, 2]
        assert server.command("LLEN", "late") == 1
        assert fleet.control.add_consumer("late", reply=True, timeout=5)
        assert (await asyncio.wait_for(cancelled, 10)).value == 3


@pytest.mark.slow
async def test_a_full_queue_does_not_hold_up_another(server: RedisServer, fleet: Celery) -> None:
    many = [start(fleet, "a", n) for n in range(1500)]
    few = [start(fleet, "b", n) for n in range(5)]
    await until(lambda: (server.command("LLEN", "a"), server.command("LLEN", "b")) == (1500, 5))
    with worker(server, "a", "b", concurrency=4):
        await asyncio.gather(*few)
        assert not all(task.done() for task in many)
        await asyncio.gather(*many)


async def test_no_more_is_taken_than_the_prefetch_limit_allows(server: RedisServer, fleet: Celery) -> None:
    most = 0

    with worker(server, "a", "b", concurrency=3):
        sent = [start(fleet, "ab"[n % 2], n, seconds=0.2) for n in range(24)]
        while not all(task.done() for task in sent):
            most = max(most, int(server.command("HLEN", "unacked")))
            await asyncio.sleep(0)
    # What has ended is removed from there a moment after the next ones were taken.
    assert 3 <= most <= 6


async def test_the_more_urgent_is_taken_first(server: RedisServer, tmp_path: Path) -> None:
    log = tmp_path / "log"
    app = make_app("tests", broker_url=server.url)
    app.conf.broker_transport_options = {"priority_steps": [0, 3, 6, 9]}
    for n, priority in enumerate((9, 6, 3, 0)):
        # With Redis, 0 is the most urgent.
        app.send_task("prioritised.note", (str(log), f"{n}"), queue="ab"[n % 2], priority=priority)
    with worker(server, "a", "b", app=PRIORITISED, concurrency=1, pool="solo"):
        await until(lambda: log.exists() and len(log.read_text().splitlines()) == 4)
    assert log.read_text().split() == ["3", "2", "1", "0"]


async def test_answers_to_control_commands_leave_nothing_behind(server: RedisServer, fleet: Celery) -> None:
    with worker(server, "a", "b"):
        # A worker says that it is ready a moment before it listens to control commands.
        await until(lambda: fleet.control.ping(timeout=1.0, limit=1), timeout=30)
        for _ in range(10):
            # One answer is enough; nothing of one call may hold up or swallow the answer to the next.
            assert len(await asyncio.to_thread(fleet.control.ping, timeout=5.0, limit=1)) == 1
    assert server.command("HLEN", "unacked") == 0


@pytest.mark.slow
async def test_an_idle_worker_of_many_queues_asks_little(server: RedisServer) -> None:
    def asked() -> int:
        # Not what the worker does beside: it announces itself, and looks for lost workers.
        stats = server.command("INFO", "commandstats")
        return sum(int(stats[name]["calls"]) for name in stats if name.split("_")[1] in ("exists", "blmove", "brpop"))

    with worker(server, *"abcdefgh", app=PRIORITISED, env={"TEST_LEASE": "10"}):
        before, seconds = asked(), 6
        await asyncio.sleep(seconds)  # nothing happens meanwhile, which is the point
        spent = asked() - before
    assert spent <= seconds / 2


async def test_waiting_for_the_next_message_costs_no_command_of_its_own(server: RedisServer, fleet: Celery) -> None:
    def calls() -> int:
        stats = server.command("INFO", "commandstats")
        return sum(int(stats[f"cmdstat_{name}"]["calls"]) for name in ("evalsha", "exists"))

    with worker(server, "a"):
        assert (await start(fleet, "a", "warm-up")).value == "warm-up"
        before, count = calls(), 50
        for n in range(count):
            assert (await start(fleet, "a", n)).value == n
        # Taken, claimed (which looks once for what is known of it), finished.
        assert calls() - before <= 4.5 * count


async def test_the_message_is_acknowledged_with_the_result(server: RedisServer, fleet: Celery) -> None:
    with worker(server, "a", "b"):
        for n in range(10):
            assert (await start(fleet, "ab"[n % 2], n)).value == n
            # The moment somebody hears of the result: a worker that dies now leaves nothing to be done again.
            assert (server.command("HLEN", "unacked"), server.command("ZCARD", "unacked_index")) == (0, 0)


@pytest.mark.parametrize("after", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_the_connection_is_cut_at_any_moment(server: RedisServer, after: bool) -> None:
    """Every message is delivered, and once, unless it was its acknowledgement that was cut off."""
    cuts = 0
    for at in range(1, 60, 4):
        async with Proxy(server.port, cut_at=("to client", at), after=after) as proxy:
            got, unsure = await asyncio.to_thread(_consume_through, proxy.url, server)
            cuts += proxy.cuts
        once = Counter(f"{queue}{n}" for queue in "ab" for n in range(4))
        assert not once - got, at
        assert set(got - once) <= unsure, at
        assert (server.command("HLEN", "unacked"), server.command("LLEN", "a")) == (0, 0), at
    assert cuts > 4


def test_what_was_asked_on_a_connection_that_is_lost_takes_nothing_when_it_arrives_late(server: RedisServer) -> None:
    with Connection(server.url) as direct, redis.Redis.from_url(server.url) as client:
        queue = direct.SimpleQueue("late")
        script = client.register_script(TAKE)

        def take(call: int, again: int) -> list[Any]:
            names = ["unacked", "unacked_index", "stbass:took:me"]
            found: Any = script(keys=["late"], args=[*names, 10, 1, call, again, "", "-", "late", 0, 1])
            return [entry for _, good, _ in found[1] for entry in good]

        # given that a call overtakes the one that it repeats
        assert take(1, again=1) == []
        queue.put("first")
        # when that arrives, then it takes nothing, for nobody would hear of it
        assert take(1, again=0) == []
        assert client.llen("late") == 1
        # and the same where the call that overtook it has found something
        assert len(take(2, again=1)) == 1
        queue.put("second")
        assert take(2, again=0) == []
        assert len(take(2, again=1)) == 1
        assert len(take(3, again=0)) == 1
        assert (client.llen("late"), client.hlen("unacked")) == (0, 2)
        queue.close()


def test_each_message_is_noted_with_a_time_of_its_own_in_the_order_of_the_queue(server: RedisServer) -> None:
    with Connection(server.url) as direct, redis.Redis.from_url(server.url) as client:
        queues = [direct.SimpleQueue(name) for name in "ab"]
        for number in range(300):
            queues[number % 2].put(number)
        waiting = [client.lrange(name, 0, -1)[::-1] for name in "ab"]
        names = ["unacked", "unacked_index", "stbass:took:me"]
        of_lists = [part for name in "ab" for part in ("-", name, 0, 1)]
        found: Any = client.register_script(TAKE)(keys=["a", "b"], args=[*names, 200, 1, 1, 0, "", *of_lists])
        taken = [raw for _, good, _ in found[1] for raw in good]
        assert taken == [*waiting[0][:100], *waiting[1][:100]]
        tags = [json.loads(raw)["properties"]["delivery_tag"] for raw in taken]
        noted = client.zrange("unacked_index", 0, -1, withscores=True)
        assert [tag.decode() for tag, _ in noted] == tags
        assert len({at for _, at in noted}) == len(tags)
        for queue in queues:
            queue.close()


async def test_what_was_taken_before_the_server_refused_is_asked_for_afterwards(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        refusing = asyncio.Event()

        async def cut_the_answer(chunk: bytes) -> None:
            if b"delivery_tag" in chunk and not refusing.is_set():
                client.execute_command("ACL", "SETUSER", "default", "-evalsha")
                refusing.set()
                raise ConnectionResetError("the answer is lost")

        def consume(url: str) -> list[str]:
            got: list[str] = []

            def receive(body: str, message: Any) -> None:
                got.append(body)
                message.ack()

            with (
                Connection(url, transport=TRANSPORT, transport_options={"priority_steps": [0]}) as connection,
                connection.Consumer([Queue("refused")], callbacks=[receive]),
            ):
                ends = time.monotonic() + 60
                while not got and time.monotonic() < ends:
                    with contextlib.suppress(TimeoutError):
                        connection.drain_events(timeout=1)
            return got

        async with Proxy(server.port, before=cut_the_answer) as proxy:
            with Connection(server.url) as direct:
                queue = direct.SimpleQueue("refused")
                queue.put("the message")
                queue.close()
            consuming = asyncio.create_task(asyncio.to_thread(consume, proxy.url))
            await asyncio.wait_for(refusing.wait(), 30)
            # The server refuses to tell what was taken.
            refused = client.info("stats")["total_error_replies"]
            await until(lambda: client.info("stats")["total_error_replies"] > refused, timeout=30)
            client.execute_command("ACL", "SETUSER", "default", "+@all")
            assert await consuming == ["the message"]


def _consume_through(url: str, server: RedisServer) -> tuple[Counter[str], set[str]]:
    got: Counter[str] = Counter()
    unsure: set[str] = set()

    def receive(body: str, message: Any) -> None:
        got[body] += 1
        try:
            message.ack()
        except BaseException:
            unsure.add(body)
            raise

    def put(numbers: tuple[int, ...]) -> None:
        for number in numbers:
            for queue in queues:
                queue.put(f"{queue.queue.name}{number}")

    with Connection(server.url) as direct:
        queues = [direct.SimpleQueue(name) for name in "ab"]
        put((0, 1))
        more, ends = True, time.monotonic() + 60
        while len(got) < 8 and time.monotonic() < ends:
            try:
                with (
                    Connection(url, transport=TRANSPORT, transport_options={"priority_steps": [0]}) as connection,
                    connection.Consumer([Queue(name) for name in "ab"], callbacks=[receive]),
                ):
                    while len(got) < 8 and time.monotonic() < ends:
                        if len(got) == 4 and more:
                            # It waits by then, and has waited before.
                            put((2, 3))
                            more = False
                        connection.drain_events(timeout=5)
            except connection.connection_errors:
                continue
        for queue in queues:
            queue.close()
    return got, unsure
