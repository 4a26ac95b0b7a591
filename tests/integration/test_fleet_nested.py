"""What is placed inside of what was placed goes to its own endpoint, however few each worker runs at once."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest
import redis

from stbass import PAR, PAR_FOR, PLACED_PAR, SEQ, BackendRegistry, Chan, Placement
from stbass._process.context import changed
from stbass.backends.celery import CeleryBackend
from stbass.errors import DeadlineExceeded, WorkerLostError
from stbass.observe.events import Event, subscribe
from stbass.result import FailurePolicy
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP, Fleet, workers_on
from tests.support.agents import Give, Steps, noop
from tests.support.backends import registry_of
from tests.support.nested import (
    A,
    Add,
    B,
    C,
    Count,
    Descend,
    Double,
    Fails,
    Leaves,
    Waits,
    WaitsForFile,
    boom,
    descend_in_thread,
    looks,
    pid,
    waits_for_group,
    waits_for_what_it_started,
    where,
)
from tests.support.waiting import until

INCLUDE = ["tests.support.nested"]
LONG = 60.0
SLOW = pytest.mark.slow
FOR_EVER = "they may wait for each other for ever"


@pytest.fixture(scope="module", autouse=True)
def fleet(server: RedisServer) -> Iterator[Fleet]:
    """A worker for each of three endpoints, which runs one at a time."""
    with workers_on(server, "nest-a", "nest-b", "nest-c", include=INCLUDE, concurrency=1) as made:
        yield made


@pytest.fixture
def registry(backend: CeleryBackend) -> BackendRegistry:
    """Where every endpoint is a queue."""
    return registry_of(backend)


@pytest.fixture
async def pids(registry: BackendRegistry) -> dict[str, int]:
    """Which Python process serves which endpoint."""
    result = await PLACED_PAR((pid, A), (pid, B), (pid, C), registry=registry, deadline=LONG).run()
    return dict(zip("abc", result.value, strict=True))


def lines(path: Path) -> list[str]:
    """What has been noted."""
    return path.read_text().splitlines() if path.exists() else []


async def test_placements_inside_hold(registry: BackendRegistry, pids: dict[str, int]) -> None:
    tree = SEQ(where, PLACED_PAR((where, B), (SEQ(where, PLACED_PAR((where, C), where)), C), where))
    result = await PLACED_PAR((tree, A), registry=registry, deadline=LONG).run()
    a, b, c = (pids[name] for name in "abc")
    # What is not placed runs where the composition around it does.
    assert result.value == [[("nest-b", b), [("nest-c", c), (None, c)], (None, a)]]


async def test_a_placement_without_an_endpoint_stays(registry: BackendRegistry, pids: dict[str, int]) -> None:
    inner = PLACED_PAR((pid, Placement(model="opus")), (pid, Placement(config={"a": 1})))
    result = await PLACED_PAR((inner, A), registry=registry, deadline=LONG).run()
    assert result.value == [[pids["a"]] * 2]


@pytest.mark.parametrize("count", [1, 12])
async def test_a_worker_that_runs_one_at_a_time_runs_any_tree(registry: BackendRegistry, count: int) -> None:
    leaf = PLACED_PAR((where, A), (where, B), where)
    tree = SEQ(leaf, PLACED_PAR((PLACED_PAR((SEQ(leaf, noop, leaf), A), where), B), (PAR(leaf, leaf), A)), leaf)
    result = await PLACED_PAR(*[(tree, A), (tree, B)] * count, registry=registry, deadline=LONG).run()
    assert result.is_ok, [failure.detailed for failure in result.failures]
    assert {tuple(name for name, _ in one) for one in result.value} == {("nest-a", "nest-b", None)}


@pytest.mark.parametrize("count", [1, 8])
async def test_processes_that_wait_for_others_in_their_own_code(
    registry: BackendRegistry, pids: dict[str, int], count: int
) -> None:
    down = Descend(("nest-a", "nest-b", "nest-a", "nest-a"))
    result = await PLACED_PAR(*[(down, A)] * count, registry=registry, deadline=LONG).run()
    assert result.is_ok, [failure.detailed for failure in result.failures]
    endpoints = [("nest-a", "a"), ("nest-a", "a"), ("nest-b", "b"), ("nest-a", "a"), ("nest-a", "a")]
    assert [(name, process) for name, _, process in result.value[0]] == [(name, pids[it]) for name, it in endpoints]
    assert {parent for _, parent, _ in result.value[0]} == {"PLACED_PAR"}


async def test_sync_code_that_waits_lends_its_slot_too(registry: BackendRegistry, pids: dict[str, int]) -> None:
    result = await PLACED_PAR(*[(descend_in_thread, A)] * 3, registry=registry, deadline=LONG).run()
    assert result.value == [[("nest-a", pids["a"])]] * 3


@pytest.mark.parametrize("how", ["several at once", "result", "events"])
async def test_whatever_it_waits_for_in_its_own_code_has_its_slot(registry: BackendRegistry, how: str) -> None:
    one = waits_for_what_it_started(how)
    result = await PLACED_PAR((one, A), (one, A), registry=registry, deadline=LONG).run()
    assert result.value == [True, True]


async def test_a_group_that_it_attaches_to_has_its_slot(
    server: RedisServer, registry: BackendRegistry, tmp_path: Path
) -> None:
    known = {str(key) for key in server.command("KEYS", "stbass:group:*")}
    waiting = asyncio.ensure_future(PLACED_PAR((waits_for_group(str(tmp_path / "id")), A), registry=registry).run())
    [first] = await until(lambda: {str(key) for key in server.command("KEYS", "stbass:group:*")} - known)
    running = asyncio.ensure_future(PLACED_PAR((pid, A), (pid, A), registry=registry).run())
    [group] = await until(lambda: {str(key) for key in server.command("KEYS", "stbass:group:*")} - known - {first})
    (tmp_path / "new").write_text(group.rpartition(":")[2])
    (tmp_path / "new").rename(tmp_path / "id")
    async with asyncio.timeout(LONG):
        assert (await waiting).value == [2]
        assert (await running).is_ok


async def test_no_more_than_one_runs_at_a_time(registry: BackendRegistry, tmp_path: Path) -> None:
    log = tmp_path / "log"
    one = Waits(str(log), 0.02)
    tree = SEQ(one, PLACED_PAR((one, A), (SEQ(one, PLACED_PAR((one, A)), one), A)), one)
    result = await PLACED_PAR(*[(tree, A)] * 4, registry=registry, deadline=LONG).run()
    assert result.is_ok, [failure.detailed for failure in result.failures]
    seen = [line.split()[0] for line in lines(log)]
    assert seen == ["started", "ended"] * 4 * 6


async def test_those_who_want_their_slot_back_and_new_ones_take_turns(registry: BackendRegistry) -> None:
    # Two that lend and take back over and over do not keep others out, nor they them.
    again = SEQ(*[PLACED_PAR((noop, B)), noop] * 20)
    talking = [asyncio.ensure_future(PLACED_PAR((again, A), registry=registry, deadline=LONG).run()) for _ in range(2)]
    assert (await PLACED_PAR(*[(Give(1), A)] * 20, registry=registry, deadline=LONG).run()).is_ok
    assert all(one.is_ok for one in await asyncio.gather(*talking))


async def test_a_place_that_is_lent_is_free(server: RedisServer, backend: CeleryBackend, tmp_path: Path) -> None:
    async def free_at_a() -> int:
        [found] = [one for one in await backend.workers() if "nest-a" in one.queues]
        assert (found.slots, found.running) == (1, 1 - found.free)
        return found.free

    log, go = tmp_path / "log", tmp_path / "go"
    waits = WaitsForFile(str(log), str(go))
    running = asyncio.ensure_future(
        PLACED_PAR((SEQ(noop, PLACED_PAR((waits, B)), waits), A), registry=registry_of(backend), deadline=LONG).run()
    )
    await until(lambda: lines(log) == ["started"], timeout=30)
    async with asyncio.timeout(30):
        while await free_at_a() != 1:  # noqa: ASYNC110 - the fleet does not wake who looks
            await asyncio.sleep(0)
    # when it has its place back
    go.touch()
    await until(lambda: lines(log)[:2] == ["started", "ended"], timeout=30)
    assert (await running).is_ok
    again = asyncio.ensure_future(PLACED_PAR((Waits(str(log), 600.0), A), registry=registry_of(backend)).run())
    await until(lambda: "started Waits 1" in lines(log), timeout=30)
    assert await free_at_a() == 0
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)


# How it ends -----------------------------------------------------------------------------------------


def three_deep(bottom: Any, *, on_failure: FailurePolicy = FailurePolicy.HALT, beside: Any = noop) -> SEQ:
    """A composition at C in one at B in one at A."""
    third = PLACED_PAR((bottom, C), (beside, A), on_failure=on_failure)
    return SEQ(noop, PLACED_PAR((SEQ(noop, PLACED_PAR((third, C), on_failure=on_failure)), B), on_failure=on_failure))


def leaves(error: BaseException) -> list[BaseException]:
    """The errors in a group of groups."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for one in error.exceptions for leaf in leaves(one)]


async def test_a_failure_at_the_bottom_halts_all(registry: BackendRegistry, tmp_path: Path) -> None:
    log = tmp_path / "log"
    waits = Waits(str(log))
    result = await PLACED_PAR((three_deep(boom, beside=waits), A), waits, registry=registry, deadline=LONG).run()
    first, second = result.results
    assert [str(error) for error in leaves(first.failure.error)] == ["the bottom fell out"]
    assert type(leaves(first.failure.error)[0]) is LookupError
    assert not second.is_ok
    started = [line for line in lines(log) if line.startswith("started")]
    await until(lambda: len(lines(log)) == 2 * len(started), timeout=30)


async def test_a_failure_at_the_bottom_is_collected(registry: BackendRegistry) -> None:
    tree = three_deep(boom, on_failure=FailurePolicy.COLLECT)
    result = await PLACED_PAR(
        (tree, A), (where, B), on_failure=FailurePolicy.COLLECT, registry=registry, deadline=LONG
    ).run()
    assert [one.is_ok for one in result.results] == [False, True]
    assert [type(error) for error in leaves(result.failures[0].error)] == [LookupError]


async def test_the_deadline_at_the_top_ends_all(registry: BackendRegistry, tmp_path: Path) -> None:
    log = tmp_path / "log"
    await PLACED_PAR((three_deep(noop), A), registry=registry, deadline=LONG).run()
    began = time.monotonic()
    result = await PLACED_PAR((three_deep(Waits(str(log))), A), registry=registry, deadline=3.0).run()
    assert time.monotonic() - began < LONG / 2
    error = result.failures[0].error
    assert isinstance(error, DeadlineExceeded)
    assert error.deadline == 3.0
    await until(lambda: lines(log) == ["started Waits 1", "ended Waits 1"], timeout=30)


async def test_a_nearer_deadline_inside_ends_only_that(registry: BackendRegistry, tmp_path: Path) -> None:
    log = tmp_path / "log"
    inner = PLACED_PAR((Waits(str(log)), B), deadline=1.0, on_failure=FailurePolicy.COLLECT)
    result = await PLACED_PAR(
        (PAR(inner, where), A), on_failure=FailurePolicy.COLLECT, registry=registry, deadline=LONG
    ).run()
    [late] = leaves(result.failures[0].error)
    assert isinstance(late, DeadlineExceeded)
    assert late.deadline == 1.0
    await until(lambda: lines(log) == ["started Waits 1", "ended Waits 1"], timeout=30)


async def test_cancelling_at_the_top_ends_all(registry: BackendRegistry, tmp_path: Path) -> None:
    log = tmp_path / "log"
    tree = three_deep(Waits(str(log)))
    running = asyncio.ensure_future(PLACED_PAR((tree, A), registry=registry, deadline=LONG).run())
    await until(lambda: lines(log) == ["started Waits 1"], timeout=30)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: lines(log) == ["started Waits 1", "ended Waits 1"], timeout=30)
    # And nothing of it is left: each worker has its one slot back.
    for place in (A, B, C):
        assert (await PLACED_PAR((where, place), registry=registry, deadline=LONG).run()).is_ok


async def test_channels_reach_through_all_levels(registry: BackendRegistry) -> None:
    numbers, doubled = Chan(int, name="numbers"), Chan(int, name="doubled")
    inside = PLACED_PAR((Double().with_channels(source=numbers, sink=doubled), C))
    tree = SEQ(noop, PLACED_PAR((inside, B)))
    adding = SEQ(noop, PLACED_PAR((Add().with_channels(source=doubled), A)))
    result = await PLACED_PAR(
        (tree, A), (adding, B), Count(20).with_channels(sink=numbers), registry=registry, deadline=LONG
    ).run()
    assert result.is_ok, [failure.detailed for failure in result.failures]
    assert result.value[:2] == [[[20]], [380]]


async def test_replicas_inside_go_where_they_are_placed(registry: BackendRegistry, pids: dict[str, int]) -> None:
    tree = PAR_FOR(3, changed(pid, placement=B))
    result = await PLACED_PAR((tree, A), registry=registry, deadline=LONG).run()
    assert result.value == [[pids["b"]] * 3]


# What is seen of it ------------------------------------------------------------------------------------


def told(seen: list[Event]) -> list[tuple[str, str]]:
    """What happened to whom, without what is said of waiting."""
    return sorted((event.path, event.kind) for event in seen if event.kind != "queued")


async def test_whoever_looks_at_the_top_sees_all_levels(registry: BackendRegistry, pids: dict[str, int]) -> None:
    bottom = PLACED_PAR((Steps(2, 0.01), C), (boom, A), on_failure=FailurePolicy.COLLECT)
    tree = SEQ(noop, PLACED_PAR((PAR(bottom.with_name("bottom"), noop), B)), on_failure=FailurePolicy.COLLECT)
    outcomes: dict[str, list[Event]] = {}
    for where_it_runs, registered in (("fleet", registry), ("here", BackendRegistry())):
        seen = outcomes[where_it_runs] = []
        composition = PLACED_PAR((tree.with_name("tree"), A), (looks, B), registry=registered, deadline=LONG)
        with subscribe(seen.append):
            await composition.with_name("top").run()
    assert told(outcomes["fleet"]) == told(outcomes["here"])
    path = "top/tree/PLACED_PAR/PAR/bottom/Steps"
    steps = {event.kind: event for event in outcomes["fleet"] if event.path == path}
    assert set(steps) == {"queued", "started", "progress", "checkpoint", "ended"}
    assert (steps["progress"].done, steps["progress"].total, steps["progress"].note) == (2.0, 2.0, "step 2")
    assert steps["checkpoint"].value == 2
    assert steps["ended"].result is not None
    assert steps["ended"].result.is_ok
    assert steps["ended"].worker
    assert steps["ended"].placement == C
    [failed] = [event for event in outcomes["fleet"] if event.name == "boom" and event.kind == "ended"]
    assert failed.result is not None
    assert type(failed.result.failure.error) is LookupError
    # In its own code a process has run a composition.
    assert ("top/looks/PLACED_PAR/where", "ended") in told(outcomes["fleet"])


async def test_nothing_is_told_to_who_does_not_look(server: RedisServer, registry: BackendRegistry) -> None:
    heard: list[Any] = []
    client = redis.Redis.from_url(server.url)
    with client.pubsub() as listener:
        listener.psubscribe("stbass:reply:*")
        assert listener.get_message(timeout=10)
        await PLACED_PAR((PAR(where, where), A), registry=registry, deadline=LONG).run()
        while message := listener.get_message(timeout=0.5):
            heard.append(message["data"])
    client.close()
    assert heard
    assert not any(b"told" in data for data in heard)


# A worker is lost in the middle ----------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["redeliver", pytest.param("fail", marks=SLOW), pytest.param("cancelled", marks=SLOW)])
async def test_what_a_lost_worker_has_sent_does_not_run_on(server: RedisServer, tmp_path: Path, lost: str) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    middle = Placement(endpoint="nest-middle")
    fleet = Fleet(server, {})
    env = {**fleet.env, "TEST_LEASE": "1.0"}
    policy: Any = "fail" if lost == "fail" else "redeliver"
    backend = CeleryBackend(fleet.app(), lease=1.0, on_worker_lost=policy)
    async with aclosing(backend):
        # C has one slot: what the second attempt sends can only run when that of the first is gone.
        tree = SEQ(noop, PLACED_PAR((SEQ(noop, WaitsForFile(str(log), str(go))), C)))
        with Worker(APP, "nest-middle", env=env, include=INCLUDE, concurrency=1):
            running = asyncio.ensure_future(
                PLACED_PAR((tree, middle), registry=registry_of(backend), deadline=LONG).run()
            )
            await until(lambda: lines(log) == ["started"], timeout=30)
        if lost == "cancelled":
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        if lost == "fail":
            error = (await running).failures[0].error
            assert isinstance(error, WorkerLostError)
        else:
            with Worker(APP, "nest-middle", env=env, include=INCLUDE, concurrency=1):
                if lost == "redeliver":
                    await until(lambda: lines(log) == ["started", "cancelled", "started"], timeout=30)
                    go.touch()
                    assert (await running).value == [["done"]]
                else:
                    await until(lambda: len(lines(log)) == 2, timeout=30)
        await until(lambda: len(lines(log)) == (4 if lost == "redeliver" else 2), timeout=30)
    assert lines(log)[:2] == ["started", "cancelled"]
    assert lines(log)[2:] == (["started", "ended"] if lost == "redeliver" else [])


@pytest.mark.slow
async def test_what_is_still_queued_does_not_run_for_who_has_failed(server: RedisServer, tmp_path: Path) -> None:
    # given processes that have sent others to a queue which nobody consumes yet
    log, go, fleet = tmp_path / "log", tmp_path / "go", Fleet(server, {})
    later, middle = Placement(endpoint="nest-later"), Placement(endpoint="nest-lost")
    child = Waits(str(log), 0.0)
    sent = SEQ(noop, PLACED_PAR((child, later)))
    backend = CeleryBackend(fleet.app(), lease=1.0, on_worker_lost="fail")
    async with aclosing(backend):
        run = functools.partial(PLACED_PAR, on_failure=FailurePolicy.COLLECT, registry=registry_of(backend))
        halted = SEQ(noop, PLACED_PAR((child, later), (WaitsForFile(str(log), str(go)), B), (Fails(str(go)), C)))
        failing = asyncio.ensure_future(
            run((Leaves(child, "nest-later", str(go)), A), (halted, A), deadline=LONG).run()
        )
        cancelled = asyncio.ensure_future(run((sent, A), deadline=LONG).run())
        late = asyncio.ensure_future(run((sent, A), deadline=3.0).run())
        with Worker(APP, "nest-lost", env={**fleet.env, "TEST_LEASE": "1.0"}, include=INCLUDE) as worker:
            lost = asyncio.ensure_future(run((sent, middle), deadline=LONG).run())
            await until(lambda: server.command("LLEN", "nest-later") == 5, timeout=30)
            # when each of them ends in another way
            worker.kill()
        go.touch()
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        ended = [result for one in (failing, late, lost) for result in (await one).results]
        assert not any(result.is_ok for result in ended)
        assert isinstance(ended[-1].failure.error, WorkerLostError)
        # then nothing of what they have sent is run by a worker that comes later
        with Worker(APP, "nest-later", env=fleet.env, include=INCLUDE, concurrency=1):
            assert (await run((where, later), deadline=LONG).run()).is_ok
    assert [line for line in lines(log) if "Waits" in line] == []


# Where nothing can be lent ----------------------------------------------------------------------------


class Lines:
    """What a worker has written."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, line: str | None) -> None:
        self.seen.append(line or "")

    def warnings(self) -> list[str]:
        """Those that say who is in whose way."""
        return [line for line in self.seen if FOR_EVER in line]


@pytest.mark.parametrize("pool", ["prefork", *(pytest.param(pool, marks=SLOW) for pool in ("threads", "solo"))])
async def test_a_process_that_keeps_the_place_that_it_waits_for_is_named(server: RedisServer, pool: str) -> None:
    log, there, fleet = Lines(), Placement(endpoint="nest-stock"), Fleet(server, {})
    async with aclosing(CeleryBackend(fleet.app())) as backend:
        with Worker(APP, "nest-stock", env=fleet.env, include=INCLUDE, pool=pool, concurrency=1, on_line=log) as worker:
            tree = SEQ(noop, PLACED_PAR((noop.with_name("inner"), there))).with_name("outer")
            running = asyncio.ensure_future(PLACED_PAR((tree, there), registry=registry_of(backend)).run())
            await until(log.warnings, timeout=30)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    [warning] = log.warnings()
    for named in ("process 'outer' (", f"worker {worker.name} waits", "process 'inner' (", "queue 'nest-stock'"):
        assert named in warning


@pytest.mark.slow
async def test_one_that_keeps_the_place_which_the_run_that_it_waits_for_needs_is_named(server: RedisServer) -> None:
    log, there, fleet = Lines(), Placement(endpoint="nest-stock"), Fleet(server, {})
    async with aclosing(CeleryBackend(fleet.app())) as backend:
        with Worker(APP, "nest-stock", env=fleet.env, include=INCLUDE, pool="threads", concurrency=1, on_line=log):
            waits = PLACED_PAR((waits_for_what_it_started("result"), there), registry=registry_of(backend))
            running = asyncio.ensure_future(waits.run())
            await until(log.warnings, timeout=30)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    [warning] = log.warnings()
    assert "process 'waits_for_what_it_started' (" in warning
    assert "process 'pid' (" in warning


@pytest.mark.parametrize("hops", [2, pytest.param(4, marks=SLOW)])
async def test_it_is_named_through_several_hops(server: RedisServer, hops: int) -> None:
    # given workers of one place each, of which every second one keeps it, and processes that go from one to the next
    # and back to the first
    log, fleet = Lines(), Fleet(server, {})
    there = [Placement(endpoint=f"nest-hop-{number}") for number in range(hops)]
    tree: Any = noop.with_name("last")
    for number, place in reversed([*enumerate(there[1:], 1), (hops, there[0])]):
        tree = SEQ(noop, PLACED_PAR((tree, place))).with_name(f"hop {number - 1}")
    async with aclosing(CeleryBackend(fleet.app())) as backend:
        with ExitStack() as stack:
            workers = [
                stack.enter_context(
                    Worker(
                        APP,
                        str(place.endpoint),
                        env=fleet.env,
                        include=INCLUDE,
                        pool="asyncio" if number % 2 else "solo",
                        concurrency=1,
                        on_line=log,
                    )
                )
                for number, place in enumerate(there)
            ]
            running = asyncio.ensure_future(PLACED_PAR((tree, there[0]), registry=registry_of(backend)).run())
            await until(log.warnings, timeout=30)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
    # then the first and the last are named, which wait for each other, and nobody else
    [warning] = log.warnings()
    named = ("process 'hop 0' (", f"worker {workers[0].name} waits, through process 'hop {hops - 1}' (", "'last' (")
    for words in named:
        assert words in warning


@pytest.mark.slow
@pytest.mark.parametrize(("pool", "through"), [("prefork", None), ("asyncio", None), ("prefork", "nest-a")])
async def test_an_ordinary_task_that_keeps_the_place_is_named(
    server: RedisServer, fleet: Fleet, pool: str, through: str | None
) -> None:
    env = {**fleet.env, "TEST_ACKS_LATE": "1"}
    app = fleet.app()
    with Worker(APP, "nest-stock", env=env, include=INCLUDE, pool=pool, concurrency=1) as worker:
        teller = worker if through is None else fleet.workers[through]
        sent = app.send_task("tests.waits", ("nest-stock", 6.0, through), queue="nest-stock")
        assert await asyncio.to_thread(sent.get, timeout=60) in (["DeadlineExceeded"], ["ExceptionGroup"])
        await until(lambda: FOR_EVER in teller.log, timeout=30)
    [warning] = [line for line in teller.log.splitlines() if FOR_EVER in line]
    assert f"task 'tests.waits' ({sent.id}) on the worker" in warning
    assert "process 'noop' (" in warning


@pytest.mark.slow
async def test_whoever_can_wait_is_not_warned_of(server: RedisServer, tmp_path: Path) -> None:
    log, there, fleet = Lines(), Placement(endpoint="nest-stock"), Fleet(server, {})
    async with aclosing(CeleryBackend(fleet.app())) as backend:
        with (
            Worker(APP, "nest-stock", env=fleet.env, include=INCLUDE, pool="prefork", concurrency=1, on_line=log),
            Worker(APP, "nest-stock", env=fleet.env, include=INCLUDE, concurrency=2),
        ):
            tree = PLACED_PAR((Waits(str(tmp_path / "log"), 3.0), there))
            result = await PLACED_PAR((tree, there), registry=registry_of(backend), deadline=LONG).run()
    assert result.is_ok
    assert log.warnings() == []


# Whose registry it is ---------------------------------------------------------------------------------


async def test_an_application_can_say_where_its_endpoints_are(server: RedisServer, pids: dict[str, int]) -> None:
    fleet = Fleet(server, {})
    env = {**fleet.env, "TEST_REGISTRY": "tests.support.nested:registry"}
    async with aclosing(CeleryBackend(fleet.app(), queue="nest-own")) as backend:
        with Worker(APP, "nest-own", env=env, include=INCLUDE, concurrency=1):
            tree = PLACED_PAR((pid, A), (pid, B), (pid, C), pid)
            result = await PLACED_PAR((tree, A), registry=registry_of(backend), deadline=LONG).run()
    [[a, b, c, here]] = result.value
    assert (a, c) == (pids["a"], pids["c"])
    # There, B is the worker's own event loop.
    assert b == here


async def test_what_runs_in_the_worker_itself_has_the_slot_of_its_message(server: RedisServer, tmp_path: Path) -> None:
    log, fleet = tmp_path / "log", Fleet(server, {})
    env = {**fleet.env, "TEST_REGISTRY": "tests.support.nested:registry"}
    async with aclosing(CeleryBackend(fleet.app(), queue="nest-own")) as backend:
        with Worker(APP, "nest-own", env=env, include=INCLUDE, concurrency=1):
            one = Waits(str(log), 0.02)
            # There, B is the worker's own event loop.
            inside = SEQ(noop, PLACED_PAR((one, B)))
            result = await PLACED_PAR(*[(inside, A), (one, A)] * 6, registry=registry_of(backend), deadline=LONG).run()
    assert result.is_ok, [failure.detailed for failure in result.failures]
    assert [line.split()[0] for line in lines(log)] == ["started", "ended"] * 12


@pytest.fixture
async def prefork(server: RedisServer) -> AsyncIterator[Worker]:
    """A worker of Celery's own pool, with two Python processes."""
    with Worker(APP, "nest-fork", env=Fleet(server, {}).env, include=INCLUDE, pool="prefork", concurrency=2) as worker:
        yield worker


async def test_placements_inside_hold_on_a_prefork_worker(
    registry: BackendRegistry, prefork: Worker, pids: dict[str, int]
) -> None:
    there = Placement(endpoint="nest-fork")
    tree = SEQ(noop, PLACED_PAR((pid, A), (pid, there), pid))
    result = await PLACED_PAR((tree, there), registry=registry, deadline=LONG).run()
    [[a, other, own]] = result.value
    assert a == pids["a"]
    assert len({a, other, own}) == 3
