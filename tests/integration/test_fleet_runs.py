"""Runs on the fleet, beyond what every backend's do: started here, followed from anywhere, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import stbass
from stbass import PLACED_PAR, BackendRegistry, Placement
from stbass._values.ids import new_id
from stbass.backends.celery import CeleryBackend, make_app
from stbass.backends.celery.run_keys import RECORD
from stbass.backends.celery.settings import read_settings
from stbass.backends.celery.worker.recorder import EventWriter, ProcessRecorder
from stbass.errors import (
    BackendUnavailableError,
    ChannelClosedError,
    NotConsumedError,
    NotTransportable,
    ProcessCancelled,
    ProcessRefused,
    SignatureError,
    StateLostError,
    WireError,
)
from stbass.observe import Event, subscribe
from stbass.runs import Run, RunEvent
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP, Fleet, workers_on
from tests.support.backends import registry_of
from tests.support.followed import OTHER, asking, counts, fails, gated, notes, registry_at, tree, waits
from tests.support.nested import pid
from tests.support.proxy import Proxy
from tests.support.waiting import until

INCLUDE = ["tests.support.followed"]
LONG = 60.0
SLOW = pytest.mark.slow
KEY = "a signing key of thirty-two bytes and more"


@pytest.fixture(scope="module")
def fleet(server: RedisServer) -> Iterator[Fleet]:
    """Two workers, for what has no endpoint and for what is placed elsewhere."""
    with workers_on(server, "runs", "other", include=INCLUDE) as made:
        yield made


@pytest.fixture
async def registry(fleet: Fleet) -> AsyncIterator[BackendRegistry]:
    """Where everything that has no endpoint goes to the queue ``runs``."""
    async with opened(fleet.server) as made:
        yield made


@asynccontextmanager
async def opened(server: RedisServer, **options: Any) -> AsyncIterator[BackendRegistry]:
    """A registry for a server."""
    made = registry_at(server.url, **options)
    [backend] = made.backends
    assert isinstance(backend, CeleryBackend)
    async with aclosing(backend), asyncio.timeout(2 * LONG):
        yield made


def worker_at(server: RedisServer, lease: float = 2.0, **env: str) -> Worker:
    """A worker of a server of its own."""
    settings = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": str(lease)}
    return Worker(APP, "runs", env={**settings, **env}, include=INCLUDE)


async def all_of(run: Run[Any], after: str | None = None) -> list[RunEvent]:
    return [event async for event in run.events(after)]


async def seen(run: Run[Any], condition: Callable[[RunEvent], bool]) -> RunEvent:
    """The first event of which that is true."""
    async with aclosing(run.events()) as events:  # type: ignore[type-var]
        async for event in events:
            if condition(event):
                return event
    raise AssertionError("the run has ended without it")


def outputs(events: list[RunEvent]) -> list[Any]:
    return [event.value for event in events if event.kind == "output"]


class Program:
    """``tests.support.followed`` in a Python process of its own."""

    def __init__(self, *args: str) -> None:
        self._args = args
        self.lines: list[Any] = []

    async def __aenter__(self) -> Program:
        pipe = asyncio.subprocess.PIPE
        code = "import asyncio, sys; from tests.support.followed import main; asyncio.run(main(*sys.argv[1:]))"
        command = [sys.executable, "-c", code, *self._args]
        self.process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def go(self) -> None:
        """Let it do what it waits to do."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    async def read(self, enough: Callable[[list[Any]], bool] = lambda _lines: False) -> list[Any]:
        """What it has said, to its end, or until that is enough."""
        assert self.process.stdout is not None
        while not enough(self.lines) and (line := await self.process.stdout.readline()):
            self.lines.append(json.loads(line))
        return self.lines


# Where it goes -----------------------------------------------------------------------------------


async def test_what_has_no_placement_goes_to_the_default_queue(registry: BackendRegistry, fleet: Fleet) -> None:
    run = await stbass.start(counts(1), registry=registry)
    result = await run.result()
    assert result.run is not None
    assert result.run.worker == fleet.workers["runs"].name
    placed = await stbass.start(counts(1), registry=registry, placement=OTHER)
    result = await placed.result()
    assert result.run is not None
    assert result.run.worker == fleet.workers["other"].name


async def test_what_has_no_placement_goes_to_the_queue_of_the_backend_itself(fleet: Fleet) -> None:
    async with aclosing(CeleryBackend(fleet.app(), queue="other")) as backend, asyncio.timeout(LONG):
        registry = registry_of(backend, "*")
        run = await stbass.start(counts(1), registry=registry)
        result = await (await stbass.find(run.id, registry=registry)).result()
        assert result.run is not None
        assert result.run.worker == fleet.workers["other"].name


async def test_parts_that_are_placed_elsewhere_are_told_in_order(registry: BackendRegistry, fleet: Fleet) -> None:
    run = await stbass.start(tree(), registry=registry)
    events = await all_of(run)
    assert [int(event.id) for event in events] == list(range(1, len(events) + 1))
    here, there = fleet.workers["runs"].name, fleet.workers["other"].name
    by_path: dict[str, list[tuple[str, str | None]]] = {}
    for event in events:
        by_path.setdefault(event.path, []).append((event.kind, event.worker))
    counted = [("output", there), ("checkpoint", there)]
    assert by_path == {
        "report": [("queued", None), ("started", here), ("ended", here)],
        "report/first": [("started", here), *[("output", here), ("checkpoint", here)] * 3, ("ended", here)],
        "report/PLACED_PAR": [("started", here), ("ended", here)],
        "report/PLACED_PAR/inner": [("queued", here), ("started", there), ("ended", there)],
        "report/PLACED_PAR/inner/counts": [("started", there), *counted * 2, ("ended", there)],
        "report/PLACED_PAR/inner/last": [("started", there), *counted, ("ended", there)],
        "report/PLACED_PAR/counts": [("queued", here), ("started", there), *counted, ("ended", there)],
    }
    assert await all_of(await stbass.find(run.id, registry=registry)) == events


async def test_a_run_of_this_program_is_told_what_its_parts_do_on_the_fleet(registry: BackendRegistry) -> None:
    [backend] = registry.backends
    here = BackendRegistry()
    here.register("other", backend)
    run = await stbass.start(tree(), registry=here)
    events = await all_of(run)
    found = [(event.path, event.value) for event in events if event.kind == "output"]
    assert [value for path, value in found if path == "report/PLACED_PAR/inner/counts"] == [0, 1]
    assert [value for path, value in found if path == "report/PLACED_PAR/counts"] == [0]
    ends = [event.path for event in events if event.kind == "ended"]
    assert sorted(ends) == sorted({*ends}), "an end is told twice"
    assert ends[-1] == "report"


async def test_nothing_is_written_of_what_nobody_started_as_a_run(registry: BackendRegistry, fleet: Fleet) -> None:
    script = read_settings(fleet.app().conf).keys.script(RECORD)
    digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()

    def has_been_called() -> bool:
        return bool(fleet.server.command("SCRIPT", "EXISTS", digest)[0])

    fleet.server.command("FLUSHALL")
    fleet.server.command("SCRIPT", "FLUSH")
    result = await PLACED_PAR((tree(), Placement(endpoint="runs")), registry=registry).run()
    assert result.is_ok
    assert not [key for key in fleet.keys() if "event" in key or "started" in key]  # noqa: SIM118
    assert not has_been_called()
    await (await stbass.start(tree(), registry=registry)).result()
    assert has_been_called()


async def test_a_thousand_outputs_cost_few_commands_and_three_followers_have_all(
    registry: BackendRegistry, fleet: Fleet
) -> None:
    def scripts() -> int:
        return int(fleet.server.command("INFO", "commandstats")["cmdstat_evalsha"]["calls"])

    before = scripts()
    run = await stbass.start(counts(1000, pause=0.001), registry=registry)
    followed = await asyncio.gather(*(all_of(run) for _ in range(3)))
    assert [outputs(events) for events in followed] == [list(range(1000))] * 3
    seconds = (followed[0][-1].at - followed[0][0].at).total_seconds()
    assert scripts() - before < 100 * seconds


def _is_output(value: Any, event: RunEvent) -> bool:
    return event.kind == "output" and event.value == value


async def test_events_whose_answer_is_lost_are_written_once() -> None:
    # When the events of one process were written, or 1: they are there already.
    written, known = re.compile(rb"\*1\r\n:[0-9]{13}\r\n"), re.compile(rb"\*1\r\n:1\r\n")
    lost: list[bytes] = []
    told_again: list[bytes] = []

    async def lose(chunk: bytes) -> None:
        if written.search(chunk):
            lost.append(chunk)
            raise ConnectionResetError
        told_again.extend(known.findall(chunk))

    with RedisServer() as server:
        async with Proxy(server.port, before=lose) as proxy, opened(server) as registry:
            worker = worker_at(server, STBASS_BROKER_URL=proxy.url, STBASS_RESULT_BACKEND=proxy.url)
            await asyncio.to_thread(worker.start)
            try:
                run = await stbass.start(gated(60, 20), registry=registry)
                for last in (19, 39):
                    await seen(run, partial(_is_output, last))
                    await run.send("gate", last)
                events = await all_of(run)
            finally:
                worker.kill()
    assert len(lost) >= 3
    assert len(told_again) >= 3
    assert outputs(events) == list(range(60))
    assert [event.id for event in events] == [str(number + 1) for number in range(len(events))]


async def test_the_end_is_not_dated_before_what_was_told_last(registry: BackendRegistry, fleet: Fleet) -> None:
    # given a run whose latest entry is dated ahead of the server's clock, as one that follows another in no time may be
    run = await stbass.start(asking(), registry=registry)
    await seen(run, partial(_is_output, "please"))
    events, record = f"stbass:events:{run.id}", f"stbass:started:{run.id}"
    [(number, entry)] = fleet.server.command("XREVRANGE", events, "+", "-", "COUNT", 1)
    later = int(number.partition("-")[0]) + int(entry["n"])
    ahead = {**entry, "at": str(int(entry["at"]) + 60_000)}
    fleet.server.command("HINCRBY", record, "events", entry["n"])
    fleet.server.command("XADD", events, f"{later}-0", *[part for pair in ahead.items() for part in pair])
    # when it ends
    await run.send("answer", "here")
    told = await all_of(run)
    # then that is after it
    assert told[-1].kind == "ended"
    assert told[-1].at >= max(event.at for event in told)
    assert told[-1].at - told[0].at >= timedelta(seconds=59)


async def test_an_output_that_is_larger_than_a_message_may_be_is_refused(server: RedisServer) -> None:
    settings = read_settings(make_app("tests", broker_url=server.url, stbass_max_message_bytes=2048).conf)
    recorder = ProcessRecorder(EventWriter(settings, "life", b""), "run", "process", 1, b"")
    with pytest.raises(NotTransportable, match="2,048"):
        recorder.record(Event("output", "name", "inside", value="x" * 3000))
    assert recorder.take() is None


async def test_observers_of_a_placed_process_see_its_outputs(registry: BackendRegistry) -> None:
    events: list[Event] = []
    with subscribe(events.append):
        await PLACED_PAR((counts(2), OTHER), registry=registry).run()
        heard = [event.value for event in events if event.kind == "output"]
    assert heard == [0, 1]


async def test_what_is_kept_lives_as_long_as_the_result(registry: BackendRegistry, fleet: Fleet) -> None:
    run_id = new_id()
    run = await stbass.start(waits, registry=registry, id=run_id)
    await seen(run, lambda event: event.kind == "output")
    kept = [f"stbass:started:{run_id}", f"stbass:events:{run_id}"]
    for key in kept:
        assert fleet.server.command("TTL", key) > 86400
    await run.cancel()
    await run.result()
    for key in kept:
        assert 0 < fleet.server.command("TTL", key) <= 86400


@SLOW
@pytest.mark.parametrize("run_id", ["order-42", "{*} y"])
async def test_an_id_is_free_again_when_the_result_has_expired(run_id: str) -> None:
    with RedisServer() as server, worker_at(server, TEST_RESULT_EXPIRES="1"):
        async with opened(server) as registry:
            run = await stbass.start(counts(1), registry=registry, id=run_id)
            await run.result()

            await until(lambda: not server.command("EXISTS", f"stbass:started:{run_id}"), timeout=30)
            with pytest.raises(LookupError):
                await stbass.find(run_id, registry=registry)
            again = await stbass.start(counts(2), registry=registry, id=run_id)
            assert again.is_new
            assert (await again.result()).value == 2
            with pytest.raises(ValueError, match="has never had an event '40'"):
                await all_of(again, "40")


@SLOW
async def test_keys_carry_the_prefix() -> None:
    with RedisServer() as server, worker_at(server, TEST_PREFIX="mine."):
        names = ("broker_transport_options", "result_backend_transport_options")
        options: dict[str, Any] = {name: {"global_keyprefix": "mine."} for name in names}
        app = make_app("tests", broker_url=server.url, task_default_queue="runs", **options)
        registry = BackendRegistry()
        async with aclosing(CeleryBackend(app)) as backend:
            registry.register("*", backend)
            run = await stbass.start(counts(2), registry=registry)
            assert outputs(await all_of(run)) == [0, 1]
        keys = str(server.command("KEYS", "*"))
        assert f"mine.stbass:started:{run.id}" in keys
        assert not [key for key in server.command("KEYS", "*") if not str(key).startswith("mine.")]


@SLOW
async def test_queues_and_results_on_two_servers() -> None:
    with RedisServer() as broker, RedisServer() as results:
        env = {"STBASS_BROKER_URL": broker.url, "STBASS_RESULT_BACKEND": results.url}
        app = make_app("tests", broker_url=broker.url, result_backend=results.url, task_default_queue="runs")
        registry = BackendRegistry()
        async with aclosing(CeleryBackend(app)) as backend:
            registry.register("*", backend)
            run = await stbass.start(counts(2), registry=registry, id="twice", deadline=LONG)
            # given one whose starter has died before it could send the message
            assert results.command("HDEL", "stbass:started:twice", "sent") == 1
            assert broker.command("DEL", "runs") == 1
            # when it is started again
            again = await stbass.start(counts(2), registry=registry, id="twice")
            assert not again.is_new
            # then it runs
            with Worker(APP, "runs", env=env, include=INCLUDE):
                assert outputs(await all_of(run)) == [0, 1]
                assert (await again.result()).value == 2
            assert results.command("HGET", "stbass:started:twice", "sent") == "1"


# Who dies meanwhile ------------------------------------------------------------------------------


@SLOW
async def test_twenty_programs_start_one_run_at_once(fleet: Fleet, registry: BackendRegistry, tmp_path: Path) -> None:
    log, run_id = tmp_path / "log", new_id()
    programs = [Program(fleet.server.url, "note", run_id, str(log)) for _ in range(20)]
    async with asyncio.timeout(240):
        for program in programs:
            await program.__aenter__()
        try:
            for program in programs:
                program.go()
            new = [(await program.read())[0] for program in programs]
        finally:
            for program in programs:
                await program.__aexit__()
        assert sorted(new) == [False] * 19 + [True]
        # Whoever has started it is gone; it goes on.
        run = await stbass.find(run_id, registry=registry)
        result = await run.result()
    assert log.read_text().splitlines() == [result.value]


@SLOW
async def test_whoever_dies_every_follower_has_all_events_once_and_in_order() -> None:
    run_id, end, gate = new_id(), 2000, 400
    lines: list[Any] = []

    def are(number: int) -> Callable[[list[Any]], bool]:
        """Whether a follower has so many outputs, with those that were seen before it."""
        before = sum(kind == "output" for _, kind, _ in lines)
        return lambda new: before + sum(kind == "output" for _, kind, _ in new) >= number

    with RedisServer(persistent=True) as server, ExitStack() as stack:
        workers = [stack.enter_context(worker_at(server)) for _ in range(2)]
        async with asyncio.timeout(240), opened(server, lease=2.0) as registry:
            # Whoever has started it is killed at once.
            async with Program(server.url, "start", run_id, str(end), str(gate)) as starter:
                starter.go()
                assert await starter.read(bool) == [True]
            run = await stbass.find(run_id, registry=registry)
            whole = asyncio.ensure_future(all_of(await stbass.find(run_id, registry=registry)))
            # A follower that is killed goes on after the last event that it has seen.
            for number in (gate // 2, gate):
                async with Program(server.url, "follow", run_id, *(lines[-1][:1] if lines else [])) as follower:
                    lines += await follower.read(are(number))
            async with Program(server.url, "follow", run_id, *lines[-1][:1]) as follower:
                await run.send("gate", 1)
                await follower.read(are(gate + 100))
                # The worker that runs it is killed.
                status = await run.status()
                next(worker for worker in workers if worker.name == status.worker).kill()
                await follower.read(are(2 * gate))
                await run.send("gate", 2)
                await follower.read(are(2 * gate + 100))
                # Redis is killed, and comes back with its data.
                server.kill()
                server.restart()
                await follower.read(are(3 * gate))
                for number in (3, 4):
                    await run.send("gate", number)
                    await follower.read(are((number + 1) * gate))
                lines += await follower.read()
            events = await whole
            assert (await run.result()).value == end
    assert [value for _, kind, value in lines if kind == "output"] == list(range(end))
    assert outputs(events) == list(range(end))
    assert (
        [event.id for event in events] == [number for number, *_ in lines] == [str(n + 1) for n in range(len(events))]
    )
    retried = [event.attempt for event in events if event.kind == "retried"]
    assert retried == list(range(2, len(retried) + 2))
    assert retried


async def test_an_answer_meets_the_next_attempt_if_the_worker_dies() -> None:
    with RedisServer() as server, worker_at(server, lease=1.0) as worker:
        async with opened(server, lease=1.0) as registry:
            run = await stbass.start(asking(), registry=registry)
            await seen(run, lambda event: event.kind == "output")
            worker.restart()
            await run.send("answer", "yes", deadline=LONG)
            assert (await run.result()).value == ("yes", 2)
            kinds = [event.kind for event in await all_of(run)]
            assert kinds.count("retried") == 1


@SLOW
async def test_a_worker_that_stops_hands_its_run_on_without_a_gap() -> None:
    with RedisServer() as server, worker_at(server, TEST_GRACE="0.1") as worker:
        async with opened(server) as registry:
            run = await stbass.start(counts(600, pause=0.002), registry=registry)
            await seen(run, lambda event: event.value == 200)
            await asyncio.to_thread(worker.terminate, 30.0)
            with worker_at(server):
                assert outputs(await all_of(run)) == list(range(600))
            assert "retried" in [event.kind for event in await all_of(run)]


@SLOW
async def test_a_process_that_kills_its_workers_ends_the_run() -> None:
    with RedisServer() as server, worker_at(server, lease=1.0) as worker:
        async with opened(server, lease=1.0, on_worker_lost="fail") as registry:
            run = await stbass.start(waits, registry=registry)
            await seen(run, lambda event: event.kind == "output")
            worker.kill()
            events = await all_of(run)
            assert "died while it ran the process" in (events[-1].error or "")
            status = await run.status()
            assert status.state == "ended"
            assert status.ended_at is not None
            assert 0 < server.command("TTL", f"stbass:started:{run.id}") <= 86400
            assert await all_of(await stbass.find(run.id, registry=registry)) == events


async def test_a_server_that_forgets_a_run_under_way_is_told() -> None:
    with RedisServer() as server, worker_at(server, lease=1.0):
        async with opened(server, lease=1.0) as registry:
            run = await stbass.start(waits, registry=registry)
            await seen(run, lambda event: event.kind == "output")
            following = asyncio.ensure_future(all_of(run))
            await until(
                lambda: "stbass:event:" in str(server.command("PUBSUB", "CHANNELS", "stbass:event:*")), timeout=30
            )
            server.command("FLUSHALL")
            result = await run.result()
            assert isinstance(result.failure.error, StateLostError)
            last = (await following)[-1]
            assert last.kind == "ended"
            assert "has lost its data" in (last.error or "")
            with pytest.raises(LookupError, match="is known of run"):
                await run.status()
            with pytest.raises(LookupError):
                await stbass.find(run.id, registry=registry)


# How it ends -------------------------------------------------------------------------------------


async def test_a_deadline_that_passes_in_an_unserved_queue_is_an_end_for_all(fleet: Fleet) -> None:
    async with opened(fleet.server, grace=0.5) as registry:
        nowhere = Placement(endpoint="nowhere")
        run = await stbass.start(counts(1), registry=registry, placement=nowhere, deadline=0.3)
        other = await stbass.find(run.id, registry=registry)
        events, result = await asyncio.gather(all_of(other), run.result())
        assert isinstance(result.failure.error, NotConsumedError)
        assert [event.kind for event in events] == ["queued", "ended"]
        assert events[-1].error == result.failure.summary
        again = await stbass.start(counts(1), registry=registry, id=run.id)
        assert not again.is_new
        assert (await again.result()).failure.summary == result.failure.summary


async def test_what_is_cancelled_in_the_queue_ends_at_once_and_never_runs(
    registry: BackendRegistry, fleet: Fleet, tmp_path: Path
) -> None:
    later, log = Placement(endpoint="later"), tmp_path / "log"
    run = await stbass.start(notes(str(log)), registry=registry, placement=later)
    assert (await run.status()).state == "queued"
    await run.cancel()
    assert isinstance((await run.result()).failure.error, ProcessCancelled)
    assert (await run.status()).state == "ended"
    with Worker(APP, "later", env=fleet.env, include=INCLUDE):
        await (await stbass.start(counts(1), registry=registry, placement=later)).result()
    assert not log.exists()


async def test_what_the_worker_refuses_ends_the_run(registry: BackendRegistry, fleet: Fleet) -> None:
    run = await stbass.start(pid, registry=registry)
    events = await all_of(run)
    assert isinstance((await run.result()).failure.error, ProcessRefused)
    assert [event.kind for event in events] == ["queued", "ended"]
    assert 0 < fleet.server.command("TTL", f"stbass:started:{run.id}") <= 86400


async def test_a_failure_on_the_fleet_is_the_same_for_all(registry: BackendRegistry) -> None:
    run = await stbass.start(fails, registry=registry)
    first, second = await run.result(), await (await stbass.find(run.id, registry=registry)).result()
    assert isinstance(first.failure.error, LookupError)
    assert first.failure.summary == second.failure.summary == (await all_of(run))[-1].error


async def test_what_cannot_travel_is_refused_before_anything_is_sent(registry: BackendRegistry, fleet: Fleet) -> None:
    @stbass.Process
    async def local(ctx: Any, value: object = None) -> None: ...

    keys = fleet.keys()
    for process in (local, local(lambda: None)):
        with pytest.raises(NotTransportable):
            await stbass.start(process, registry=registry)
    assert fleet.keys() == keys


async def test_a_server_that_is_away_is_told() -> None:
    registry = registry_at("redis://127.0.0.1:1/0")
    with pytest.raises(BackendUnavailableError, match="start run 'x'"):
        await stbass.start(counts(1), registry=registry, id="x")
    with pytest.raises(BackendUnavailableError, match="look for run 'x'"):
        await stbass.find("x", registry=registry)


async def test_what_is_being_written_comes_before_the_result(server: RedisServer) -> None:
    # given a server that does not answer yet what it was asked to write
    settings = read_settings(make_app("tests", broker_url=server.url).conf)
    async with settings.backend.async_client() as client, asyncio.timeout(LONG):
        writer = EventWriter(settings, "life", b"celery-task-meta-")
        writer.open(client)
        server.command("CLIENT", "PAUSE", "1000", "WRITE")
        ProcessRecorder(writer, "run", "process", 1, b"").record(Event("output", "name", "inside", value=1))
        writing = asyncio.ensure_future(writer.flush())
        await asyncio.sleep(0)
        # then whoever is about to store a result knows that it is under way, until it is written
        behind = [writer.is_behind]
        await writing
        behind.append(writer.is_behind)
        assert behind == [True, False]


# Who writes there --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signed(fleet: Fleet) -> Iterator[RedisServer]:
    """A server whose fleet signs."""
    with RedisServer() as server, worker_at(server, TEST_SIGNING_KEY=KEY):
        yield server


@pytest.fixture
async def signing(signed: RedisServer) -> AsyncIterator[BackendRegistry]:
    app = make_app("tests", broker_url=signed.url, task_default_queue="runs", stbass_signing_key=KEY)
    registry = BackendRegistry()
    async with aclosing(CeleryBackend(app)) as backend, asyncio.timeout(2 * LONG):
        registry.register("*", backend)
        yield registry


async def test_a_fleet_that_signs_takes_no_events_of_others(signed: RedisServer, signing: BackendRegistry) -> None:
    run = await stbass.start(asking(), registry=signing)
    await seen(run, lambda event: event.kind == "output")
    assert (await run.status()).attempt == 1
    latest = int(signed.command("HINCRBY", f"stbass:started:{run.id}", "events", 1))
    told = '[[0,{"kind":"output","name":"asks","id":"x","path":"asks","value":"forged"}]]'
    entry = ["at", "1", "n", "1", "by", "x", "e", told]
    signed.command("XADD", f"stbass:events:{run.id}", f"{latest}-0", *entry)
    await run.send("answer", "yes")
    events = await all_of(run)
    assert outputs(events) == ["please"]
    [missed] = [event for event in events if event.kind == "missed"]
    assert (missed.id, missed.value) == (str(latest), 1)
    signed.command("HSET", f"stbass:started:{run.id}", "latest", '{"worker":"forged"}')
    assert (await run.status()).worker is None


@pytest.mark.parametrize("text", ["{}", '["' + "0" * 64 + '",{}]', "nonsense"])
async def test_a_fleet_that_signs_finds_no_runs_of_others(
    signed: RedisServer, signing: BackendRegistry, text: str
) -> None:
    run_id = new_id()
    signed.command("HSET", f"stbass:started:{run_id}", "process", "x", "kept", text)
    with pytest.raises(SignatureError):
        await stbass.find(run_id, registry=signing)
    with pytest.raises(SignatureError):
        await stbass.start(counts(1), registry=signing, id=run_id)


async def test_what_is_no_record_is_told(registry: BackendRegistry, fleet: Fleet) -> None:
    names = [f"{kind}-{new_id()}" for kind in ("hash", "text")]
    fleet.server.command("HSET", f"stbass:started:{names[0]}", "kept", "nonsense")
    fleet.server.command("SET", f"stbass:started:{names[1]}", "nonsense")
    for name in names:
        with pytest.raises(WireError, match=name):
            await stbass.find(name, registry=registry)
    with pytest.raises(WireError, match="hash"):
        await stbass.start(counts(1), registry=registry, id=names[0])
    with pytest.raises(BackendUnavailableError, match="WRONGTYPE"):
        await stbass.start(counts(1), registry=registry, id=names[1])


async def test_what_others_publish_harms_no_follower(registry: BackendRegistry, fleet: Fleet) -> None:
    run = await stbass.start(asking(), registry=registry)
    following = asyncio.ensure_future(all_of(run))
    await seen(run, lambda event: event.kind == "output")
    for text in ("", "nonsense", "\x95\x01\x02\x03", "[1]"):
        fleet.server.command("PUBLISH", f"stbass:event:0:{run.id}", text)
    await run.send("answer", "yes")
    assert outputs(await following) == ["please"]
    with pytest.raises(ChannelClosedError):
        await run.recv("answer")
