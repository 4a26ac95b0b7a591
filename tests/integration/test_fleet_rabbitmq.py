"""RabbitMQ as the broker, Redis for the results: what holds on Redis alone holds here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer

from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.backends.celery.refusals import COUNTS
from stbass.errors import BackendUnavailableError, DeadlineExceeded, NotConsumedError
from stbass.placement import PLACED_PAR
from stbass.result import FailurePolicy
from stbass.seq import SEQ
from stbass.testing import RedisServer, Worker
from stbass.testing.redis_server import free_port
from tests.integration.conftest import APP
from tests.support.agents import Fail, Give, Mark, Steps, Unregistered, noop
from tests.support.backends import registry_of
from tests.support.puppets import Puppet, Puppeteer
from tests.support.rabbitmq import RabbitMQ
from tests.support.waiting import until

COLLECT = FailurePolicy.COLLECT
LEASE = 1.0
LONG = 500_000
"""Longer than RabbitMQ lets headers be."""


class Fleet:
    """A producer, and workers of one queue."""

    def __init__(self, rabbitmq: RabbitMQ, server: RedisServer, queue: str) -> None:
        self.rabbitmq, self.server, self.queue = rabbitmq, server, queue
        self.backend = CeleryBackend(self.app(), queue=queue, lease=LEASE, max_attempts=10)
        self.registry = registry_of(self.backend)
        self.there = Placement(endpoint=queue)

    def app(self) -> Celery:
        return make_app("tests", broker_url=self.rabbitmq.url, result_backend=self.server.url, stbass_lease=LEASE)

    def worker(self, *, grace: float = 10.0, queue_type: str = "", **options: Any) -> Worker:
        env = {"STBASS_BROKER_URL": self.rabbitmq.url, "STBASS_RESULT_BACKEND": self.server.url}
        env |= {"TEST_LEASE": str(LEASE), "TEST_GRACE": str(grace), "TEST_QUEUE_TYPE": queue_type}
        return Worker(APP, self.queue, env=env, include=["tests.support.puppets"], **options)

    def placed(self, *processes: Any, **options: Any) -> Any:
        return PLACED_PAR(*[(one, self.there) for one in processes], registry=self.registry, **options)

    def waiting(self) -> tuple[int, int]:
        """Messages in the queue: those to be taken, and those that a worker has not acknowledged."""
        listed = self.rabbitmq.control("list_queues", "name", "messages_ready", "messages_unacknowledged")
        for line in listed.splitlines():
            name, ready, unacknowledged = line.split("\t")
            if name == self.queue:
                return int(ready), int(unacknowledged)
        return 0, 0


@pytest.fixture
async def fleet(rabbitmq: RabbitMQ, server: RedisServer, request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    made = Fleet(rabbitmq, server, request.node.name[:60])
    yield made
    await made.backend.aclose()


@asynccontextmanager
async def running(*workers: Worker) -> AsyncIterator[None]:
    """Start them at the same time, and kill them at the end."""
    try:
        await asyncio.gather(*(asyncio.to_thread(one.start) for one in workers))
        yield
    finally:
        for one in workers:
            one.kill()


async def test_what_is_placed_there_runs_fails_and_ends_at_its_deadline(fleet: Fleet, tmp_path: Any) -> None:
    async with running(fleet.worker()):
        assert await fleet.backend.health_check()
        late = tmp_path / "late"
        result = await fleet.placed(
            Give({"exact": (1, b"\x00"), "long": "x" * LONG}),
            Fail("seen"),
            Steps(3, 0.01),
            Mark(str(late)),
            Fail().optional(),
            on_failure=COLLECT,
            deadline=4.0,
        ).run()
        good, failed, steps, overdue, optional = result.results
        assert good.value == {"exact": (1, b"\x00"), "long": "x" * LONG}
        assert (type(failed.failure.error), failed.failure.checkpoint) == (Unregistered, "seen")
        assert steps.value == {"from": 0, "to": 3, "attempt": 1}
        assert isinstance(overdue.failure.error, DeadlineExceeded)
        assert overdue.failure.error.phase == "running"
        assert optional.is_fail
        # What nobody consumes says so; what waited past its deadline is not run.
        nowhere = PLACED_PAR(
            (Give(1), Placement(endpoint="nobody")),
            registry=registry_of(CeleryBackend(fleet.app())),
            on_failure=COLLECT,
            deadline=0.5,
        )
        [lonely] = (await nowhere.run()).results
        assert isinstance(lonely.failure.error, NotConsumedError)
        # The first failure cancels the rest.
        halted = tmp_path / "halted"
        assert not (await fleet.placed(Mark(str(halted)), Fail(seconds=0.5)).run()).is_ok
        await until(lambda: "ended" in halted.read_text())
        # So does cancelling whoever waits.
        cancelled = tmp_path / "cancelled"
        task = asyncio.create_task(fleet.placed(Mark(str(cancelled))).run())
        await until(cancelled.exists)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await until(lambda: "ended" in cancelled.read_text())
        await until(lambda: fleet.waiting() == (0, 0), timeout=30)


@pytest.mark.parametrize("queue_type", ["", "quorum"])
@pytest.mark.parametrize("count", [1, 6])
async def test_a_worker_that_runs_one_at_a_time_runs_any_tree(fleet: Fleet, count: int, queue_type: str) -> None:
    async with running(fleet.worker(concurrency=1, queue_type=queue_type)):
        leaf = PLACED_PAR((noop, fleet.there), (noop, fleet.there))
        tree = SEQ(noop, PLACED_PAR((SEQ(noop, leaf, noop), fleet.there)), leaf)
        result = await fleet.placed(*[tree] * count, deadline=60.0).run()
        assert result.is_ok, [failure.detailed for failure in result.failures]
        # And it goes on with what comes afterwards.
        assert (await fleet.placed(*[Give(n) for n in range(3)], deadline=60.0).run()).value == [0, 1, 2]


async def test_the_prefetch_count_of_a_running_consumer_can_be_changed(fleet: Fleet) -> None:
    # given a consumer whose prefetch count is for itself alone, as quorum queues demand
    chosen, held = random.Random(10), list[Any]()
    with fleet.app().connection_for_read() as connection, connection.channel() as channel:
        queue = Queue(fleet.queue, queue_arguments={"x-queue-type": "quorum"})(channel)
        queue.declare()
        for number in range(1000):
            connection.Producer().publish(number, routing_key=fleet.queue)
        channel.basic_qos(0, 2, False)
        with Consumer(channel, [queue], on_message=held.append):
            # when it is changed while messages are held, acknowledged and given back
            for wanted in [3, 7, 6, 2, 9, 1, 40, 2, *(chosen.randint(1, 12) for _ in range(40))]:
                ended = [held.pop(chosen.randrange(len(held))) for _ in range(chosen.randint(0, len(held)))]
                before, most = ended[: len(ended) // 2], max(len(held) + len(ended), wanted, 2)
                for message in before:
                    message.ack()
                channel.basic_qos(0, wanted, False)
                for message in ended[len(before) :]:
                    message.ack() if chosen.random() < 0.8 else message.requeue()
                # then so many are held, and never more than were held already
                while len(held) < max(wanted, 2):
                    connection.drain_events(timeout=30)
                with contextlib.suppress(TimeoutError):
                    while True:
                        connection.drain_events(timeout=0.02)
                assert len(held) <= most
        # and it is so after the consumer was ended, with all that was begun for it, and another one comes
        for message in held:
            message.ack()
        channel.basic_qos(0, 9, False)
        assert fleet.rabbitmq.control("list_consumers", "queue_name").split().count(fleet.queue) == 0
        with Consumer(channel, [queue], on_message=held.append):
            listed = fleet.rabbitmq.control("list_consumers", "queue_name", "prefetch_count").splitlines()
            assert sorted(line.split()[1] for line in listed if line.split()[0] == fleet.queue) == ["2", "7"]


async def test_of_a_killed_worker_everything_goes_to_another_one(fleet: Fleet, puppeteer: Puppeteer) -> None:
    first, second = fleet.worker(concurrency=20), fleet.worker(concurrency=40)
    async with running(first), asyncio.timeout(60):
        puppets = [Puppet(puppeteer.port).with_name(f"p{n}") for n in range(20)]
        waits = asyncio.create_task(fleet.placed(*puppets).run())
        hands = await puppeteer.wait_for(20)
        # A message is acknowledged when its process has ended, and no earlier.
        assert fleet.waiting() == (0, 20)
        hands[0].order("return", "before")
        await until(lambda: fleet.waiting() == (0, 19), timeout=30)
        async with running(second):
            os.kill(first.pid, signal.SIGKILL)
            again = await puppeteer.wait_for(19, lambda hand: hand.attempt == 2)
            assert {hand.name for hand in again} == {hand.name for hand in hands[1:]}
            for hand in again:
                hand.order("return", "after")
            result = await waits
            assert sorted(result.value) == ["after"] * 19 + ["before"]
            await until(lambda: fleet.waiting() == (0, 0), timeout=30)
    assert len(puppeteer.hands) == 39


@pytest.mark.slow
async def test_garbage_is_refused_and_the_worker_goes_on(fleet: Fleet) -> None:
    body, headers, properties = await _raw_message(fleet)
    sent = 0
    worker = fleet.worker()
    async with running(worker):
        with Connection(fleet.rabbitmq.url) as connection:
            producer = connection.Producer()

            def put(text: Any, about: Any, **options: Any) -> None:
                nonlocal sent
                sent += 1
                producer.publish(text, routing_key=fleet.queue, headers=about, **options)

            for wrong in ([1], {"a": 1}, "x" * 20_000, 2**62, -1, True, None):
                for name in ("id", "task", "stbass", "shadow", "group", "retries", "timelimit", "argsrepr", "origin"):
                    put(body, {**headers, name: wrong}, **properties)
                put(body, {"task": "stbass.execute", "id": wrong}, **properties)
                put({"task": wrong, "id": wrong, "args": [], "kwargs": {}}, {})
                put([[], {"stbass": wrong}, {}], {"task": "stbass.execute", "id": "x"})
            for text in (b"", b"{", b"\xff\xfe", b"\x80\x04\x95", b"[]", b"null", b"[[],{}]"):
                for kind in ("application/json", "application/x-python-serialize", "text/plain", "nonsense", ""):
                    put(text, headers, content_type=kind, content_encoding="utf-8")
                    put(text, {}, content_type=kind, content_encoding="binary")
        good = await asyncio.wait_for(fleet.backend.execute(Give("good"), ProcessContext("give")), 60)
        assert good.value == "good"
        await until(lambda: fleet.waiting() == (0, 0), timeout=30)
        assert worker.running
        refused = fleet.server.command("HGETALL", COUNTS)
        assert int(refused["message"]) > 40
        assert worker.log.count("refused a message in queue") == 1


async def _raw_message(fleet: Fleet) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """The message of a process, as it is in the queue."""
    task = asyncio.create_task(fleet.backend.execute(Give(1), ProcessContext("give")))
    with Connection(fleet.rabbitmq.url) as connection:
        queue = connection.SimpleQueue(fleet.queue)
        message = await asyncio.to_thread(queue.get, timeout=30)
        message.ack()
        queue.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    keep = ("content_type", "content_encoding")
    return message.body, dict(message.headers), {name: getattr(message, name) for name in keep}


# What takes its time ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "stopped", "connections closed"])
async def test_it_restarts_in_the_middle_and_nothing_is_lost_or_run_twice(
    fleet: Fleet, puppeteer: Puppeteer, how: str
) -> None:
    rabbitmq = fleet.rabbitmq
    worker, idle = fleet.worker(concurrency=20), fleet.worker(concurrency=20)
    async with running(worker), asyncio.timeout(100):
        first = [Puppet(puppeteer.port).with_name(f"first{n}") for n in range(20)]
        waits = asyncio.create_task(fleet.placed(*first, *(Give(n) for n in range(30))).run())
        hands = await puppeteer.wait_for(20)
        async with running(idle):
            if how == "connections closed":
                await asyncio.to_thread(rabbitmq.control, "close_all_connections", "for a test")
            else:
                await asyncio.to_thread(rabbitmq.kill if how == "killed" else rabbitmq.stop)
            # What is sent meanwhile waits, and goes out when it is there again.
            contexts = [ProcessContext(f"meanwhile {n}") for n in range(20)]
            parts = [asyncio.create_task(fleet.backend.execute(Give(one.process_name), one)) for one in contexts]
            if how != "connections closed":
                await asyncio.to_thread(rabbitmq.start)
            # They are many more than the first worker may take beside what it runs.
            for _, ended in zip(range(19), asyncio.as_completed(parts), strict=False):
                assert str((await ended).value).startswith("meanwhile")
            for hand in hands:
                hand.order("return", hand.name)
            result = await waits
            await asyncio.gather(*parts)
            assert result.value == [f"first{n}" for n in range(20)] + list(range(30))
            await until(lambda: fleet.waiting() == (0, 0), timeout=30)
            # Both take as much as before: 40 at once, of which each has 20.
            many = [Puppet(puppeteer.port).with_name(f"many{n}") for n in range(40)]
            waits = asyncio.create_task(fleet.placed(*many).run())
            again = await puppeteer.wait_for(40, lambda hand: hand.name.startswith("many"))
            for hand in again:
                hand.order("return", 1)
            assert sum((await waits).value) == 40
            await until(lambda: fleet.waiting() == (0, 0), timeout=30)
    assert len(puppeteer.hands) == 60
    assert {hand.attempt for hand in puppeteer.hands} == {1}


@pytest.mark.slow
async def test_a_process_may_run_longer_than_the_broker_waits_for_its_acknowledgement(
    fleet: Fleet, puppeteer: Puppeteer
) -> None:
    rabbitmq = fleet.rabbitmq
    default = rabbitmq.control("eval", "application:get_env(rabbit, consumer_timeout, 1800000).").strip()
    rabbitmq.control("eval", "application:set_env(rabbit, consumer_timeout, 1000).")
    worker = fleet.worker()
    try:
        async with running(worker), asyncio.timeout(100):
            waits = asyncio.create_task(fleet.placed(Puppet(puppeteer.port)).run())
            [hand] = await puppeteer.wait_for(1)
            # The broker closes the channel and hands the message out again, several times.
            await until(lambda: worker.log.count("acknowledgement on channel") >= 2, timeout=90)
            assert (await fleet.placed(Give("meanwhile")).run()).value == ["meanwhile"]
            hand.order("return", "late")
            assert (await waits).value == ["late"]
            await until(lambda: fleet.waiting() == (0, 0), timeout=30)
            assert worker.running
    finally:
        rabbitmq.control("eval", f"application:set_env(rabbit, consumer_timeout, {default}).")
    assert [hand.attempt for hand in puppeteer.hands] == [1]


@pytest.mark.slow
@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGQUIT]])
async def test_what_a_stopped_worker_runs_goes_to_another_one(
    fleet: Fleet, puppeteer: Puppeteer, signals: list[signal.Signals]
) -> None:
    first, second = fleet.worker(concurrency=20, grace=0.5), fleet.worker(concurrency=20)
    async with running(first), asyncio.timeout(100):
        waits = asyncio.create_task(fleet.placed(*[Puppet(puppeteer.port)] * 20).run())
        await puppeteer.wait_for(20)
        async with running(second):
            for one in signals:
                first.send_signal(one)
            again = await puppeteer.wait_for(20, lambda hand: hand.attempt == 2)
            for hand in again:
                hand.order("return", "after")
            assert (await waits).value == ["after"] * 20
            await until(lambda: fleet.waiting() == (0, 0), timeout=30)
    assert len(puppeteer.hands) == 40


async def test_a_broker_that_is_away_is_told_in_words(server: RedisServer) -> None:
    app = make_app("tests", broker_url=f"amqp://me:secret@127.0.0.1:{free_port()}//", result_backend=server.url)
    backend = CeleryBackend(app, queue="q")
    async with asyncio.timeout(30):
        assert not await backend.health_check()
        with pytest.raises(BackendUnavailableError) as caught:
            await backend.execute(Give(1), ProcessContext("give"))
    said = str(caught.value)
    assert "send process 'give': the broker at amqp://me:" in said
    assert "cannot be reached" in said
    assert "start it, or correct the URL" in said
    assert "secret" not in said
    await backend.aclose()
