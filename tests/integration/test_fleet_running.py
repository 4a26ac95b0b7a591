"""Processes on real Celery workers: running, values, errors, references, groups."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from contextlib import aclosing

import pytest
from celery.result import AsyncResult, GroupResult

from stbass import observe
from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend
from stbass.backends.celery.envelope import Envelope
from stbass.channel import Chan
from stbass.errors import ConfigurationError, NotTransportable, ProcessRefused
from stbass.par import PAR
from stbass.placement import PLACED_PAR, BackendRegistry
from stbass.process import Process
from stbass.result import FailurePolicy
from stbass.seq import SEQ
from tests.integration.conftest import Fleet
from tests.support import agents
from tests.support.agents import (
    Fail,
    FailsItself,
    Give,
    Steps,
    Unregistered,
    left_in_circles,
    noop,
    sync_thread,
    unsendable,
    whoami,
)
from tests.support.backends import registry_of
from tests.support.talkers import SendLate, collect
from tests.support.waiting import until

ANTHROPIC = Placement(model="opus", endpoint="anthropic")
LOCAL = Placement(model="nomic", endpoint="local:8080")


def context(name: str, placement: Placement = ANTHROPIC) -> ProcessContext:
    return ProcessContext(name, placement=placement)


async def test_what_has_ended_is_not_kept_by_its_producer(fleet: Fleet) -> None:
    patient = CeleryBackend(fleet.app(**fleet.conf), **{**fleet.options, "grace": 30.0})
    async with aclosing(patient):
        ctx = context("noop")
        kept = weakref.ref(ctx)
        assert (await patient.execute(noop, ctx)).is_ok
        del ctx
        gc.collect()
        assert kept() is None


def test_the_garbage_collector_leaves_alone_what_a_producer_keeps_of_each_process() -> None:
    envelope = Envelope("an id", "anthropic", "noop", 10.0)
    assert not gc.is_tracked(envelope)
    assert not gc.is_tracked(envelope.keepers)


async def test_a_process_runs_on_the_worker_of_its_endpoint(fleet: Fleet, registry: BackendRegistry) -> None:
    composition = PLACED_PAR((whoami, ANTHROPIC), (whoami.with_name("other"), LOCAL), registry=registry)
    result = await composition.run()
    assert result.is_ok
    one, two = result.value
    assert (one["pid"], two["pid"]) == (fleet.workers["anthropic"].pid, fleet.workers["local:8080"].pid)
    assert (one["name"], two["name"]) == ("whoami", "other")
    assert (one["placement"], two["placement"]) == (ANTHROPIC, LOCAL)
    assert [item.run.worker for item in result.results if item.run] == [
        fleet.workers["anthropic"].name,
        fleet.workers["local:8080"].name,
    ]
    # One event loop per worker process.
    assert one["thread"] == "stbass-processes"


@pytest.mark.parametrize("process", [noop, sync_thread, Give("x"), Steps(2, 0.0), Fail("so far")])
async def test_what_has_ended_leaves_nothing_to_the_garbage_collector(
    backend: CeleryBackend, registry: BackendRegistry, process: Process
) -> None:
    left = 0
    # A new connection to Redis leaves some too. A busy worker makes some more of them, and then has them.
    for _ in range(6):
        await PLACED_PAR(*[(process, ANTHROPIC)] * 100, registry=registry, on_failure=FailurePolicy.COLLECT).run()
        left = (await backend.execute(left_in_circles, context("after"))).value
        if left < 100:
            break
    assert left < 100


async def test_a_timeline_says_which_worker_ran_what_and_how_long_it_waited(
    fleet: Fleet, registry: BackendRegistry
) -> None:
    result = await PLACED_PAR((whoami, ANTHROPIC), (noop, LOCAL), registry=registry, deadline=30).run()
    timeline = result.timeline()
    assert [(span.name, span.where, span.state) for span in timeline.spans] == [
        ("whoami", f"opus @ anthropic, worker {fleet.workers['anthropic'].name}", "done"),
        ("noop", f"nomic @ local:8080, worker {fleet.workers['local:8080'].name}", "done"),
    ]
    assert all(span.waited.total_seconds() > 0 for span in timeline.spans)
    assert timeline.deadline_at is not None


async def test_a_timeline_says_what_ran_inside_of_a_composition_on_a_worker(registry: BackendRegistry) -> None:
    # given a composition that runs as a whole on a worker, with a name and a time that no drawing can use as they are
    hostile = FailsItself().with_name("\ud83d" + "x" * 10_000).optional()
    inner = SEQ(noop, PAR(whoami, hostile))
    # when it has ended
    result = await PLACED_PAR((inner, ANTHROPIC), registry=registry).run()
    # then its members are there, and where they ran
    outer, first, both, who, own = result.timeline().spans
    worker = outer.where.partition(", ")[2]
    assert [span.name for span in (outer, first, both, who)] == ["SEQ", "SEQ/noop", "SEQ/PAR", "SEQ/PAR/whoami"]
    assert (own.name[:2], own.name[-2:], own.state) == ("…x", "x…", "failed")
    assert [span.where for span in (first, both, who)] == [worker] * 3
    assert outer.started_at is not None
    assert outer.started_at <= first.queued_at <= first.ended_at <= both.queued_at <= who.ended_at <= outer.ended_at


@pytest.mark.parametrize("together", [True, False])
async def test_a_timeline_says_what_waited_in_channels_on_a_worker(registry: BackendRegistry, together: bool) -> None:
    # given one that waits for what another sends after a while: in the memory of one worker, and over Redis
    numbers: Chan[int] = Chan(int, name="numbers")
    late, waits = SendLate(0.2).with_channels(out=numbers), collect.with_channels(inp=numbers)
    placed = [(PAR(late, waits), ANTHROPIC)] if together else [(late, LOCAL), (waits, ANTHROPIC)]
    # when both have ended
    result = await PLACED_PAR(*placed, registry=registry, deadline=30).run()
    # then what waited says so
    assert result.failures == []
    [span] = [span for span in result.timeline().spans if span.name.endswith("collect")]
    assert span.waits is not None
    longest = max(span.waits.longest, key=lambda wait: wait.seconds)
    assert (longest.channel, longest.direction) == ("numbers", "receive")
    assert 0.15 < longest.seconds <= span.ran.total_seconds()


async def test_of_very_many_inside_of_a_composition_those_that_failed_and_the_longest_travel(
    registry: BackendRegistry,
) -> None:
    inner = PAR(*[noop] * 600, Fail().optional())
    result = await PLACED_PAR((inner, ANTHROPIC), registry=registry).run()
    spans = result.timeline().spans
    assert (len(spans), spans[-1].state) == (501, "failed")


async def test_values_arrive_exact(backend: CeleryBackend) -> None:
    from datetime import datetime, timedelta, timezone
    from decimal import Decimal

    zone = timezone(timedelta(hours=5, minutes=30))
    value = {
        "tuple": (1, [2, {3}]),
        4: b"\x00\xff",
        "big": 2**100,
        "inf": float("inf"),
        "when": datetime(2026, 1, 2, 3, 4, 5, 6, zone),
        "exact": Decimal("0.10"),
    }
    result = await backend.execute(Give(value), context("give"))
    assert result.value == value
    assert type(result.value["tuple"]) is tuple
    assert result.value["when"].utcoffset() == timedelta(hours=5, minutes=30)


async def test_an_exception_arrives_as_itself(fleet: Fleet, backend: CeleryBackend) -> None:
    result = await backend.execute(Fail({"at": (1, 2)}), context("fails"))
    failure = result.failure
    assert type(failure.error) is Unregistered
    assert failure.error.args == (7,)
    assert failure.error.hint == "look again"
    assert failure.error.__notes__ == ["a note"]
    assert isinstance(failure.error.__cause__, LookupError)
    assert "the cause" in failure.traceback_str
    assert "agents.py" in failure.traceback_str
    assert failure.checkpoint == {"at": (1, 2)}
    assert failure.placement == ANTHROPIC
    assert failure.process_name == "fails"
    assert result.run is not None
    assert result.run.worker == fleet.workers["anthropic"].name


async def test_a_sync_process_runs_in_a_thread(backend: CeleryBackend) -> None:
    result = await backend.execute(sync_thread, context("sync"))
    assert result.value not in ("MainThread", "stbass-processes")


async def test_a_composition_travels_as_the_tree_of_its_parts(fleet: Fleet, backend: CeleryBackend) -> None:
    tree = SEQ(Give(2), PAR(whoami, Give(5), Fail().optional()))
    result = await backend.execute(tree, context("tree"))
    values = result.value
    assert values[1] == 5
    assert values[0]["pid"] == fleet.workers["anthropic"].pid


async def test_a_result_that_cannot_travel_is_a_failure_that_names_the_part(backend: CeleryBackend) -> None:
    result = await backend.execute(unsendable, context("unsendable"))
    assert isinstance(result.failure.error, NotTransportable)
    assert 'result["lock"][0]' in str(result.failure.error)


async def test_what_cannot_travel_is_refused_before_anything_is_sent(fleet: Fleet, registry: BackendRegistry) -> None:
    @Process
    async def local(ctx: ProcessContext) -> int:
        return 1

    before = fleet.server.command("INFO", "commandstats")
    composition = PLACED_PAR((noop, ANTHROPIC), (local, ANTHROPIC), registry=registry)
    with pytest.raises(NotTransportable, match="local"):
        await composition.run()
    lpushes = [line for line in str(before).splitlines() if "cmdstat_lpush:" in line]
    after = [
        line for line in str(fleet.server.command("INFO", "commandstats")).splitlines() if "cmdstat_lpush:" in line
    ]
    assert lpushes == after


async def test_the_worker_refuses_a_process_it_was_not_told_of(backend: CeleryBackend, fleet: Fleet) -> None:
    from tests.support import more_agents  # known here, not on the worker

    result = await backend.execute(more_agents.double, context("double"))
    error = result.failure.error
    assert isinstance(error, ProcessRefused)
    text = str(error)
    assert "tests.support.more_agents" in text
    assert "anthropic" in text
    assert "include" in text


async def test_no_endpoint_is_a_clear_error(backend: CeleryBackend) -> None:
    with pytest.raises(ConfigurationError, match="no endpoint"):
        await backend.execute(noop, ProcessContext("noop"))


async def test_it_is_a_real_celery_task(fleet: Fleet, backend: CeleryBackend) -> None:
    ctx = context("give")
    result = await backend.execute(Give({"a": [1, "b"]}), ctx)
    assert result.is_ok
    foreign = fleet.app()
    answer = AsyncResult(ctx.process_id, app=foreign)
    assert answer.state == "SUCCESS"
    assert await asyncio.to_thread(answer.get, timeout=5) == {"a": [1, "b"]}


async def test_foreign_code_can_wait_for_it(fleet: Fleet, backend: CeleryBackend) -> None:
    ctx = context("give")
    answer = AsyncResult(ctx.process_id, app=fleet.app())
    waiting = asyncio.create_task(asyncio.to_thread(answer.get, timeout=10))
    result = await backend.execute(Give("later", seconds=0.3), ctx)
    assert (await waiting, result.value) == ("later", "later")


async def test_a_failure_is_one_for_foreign_code_too(fleet: Fleet, backend: CeleryBackend) -> None:
    ctx = context("fails")
    await backend.execute(Fail(), ctx)
    answer = AsyncResult(ctx.process_id, app=fleet.app())
    assert answer.state == "FAILURE"
    with pytest.raises(Exception, match="7"):
        await asyncio.to_thread(answer.get, timeout=5)


async def test_inspect_shows_what_runs(fleet: Fleet, backend: CeleryBackend) -> None:
    started = asyncio.Event()
    with observe.subscribe(lambda event: started.set() if event.kind == "started" else None):
        running = asyncio.create_task(backend.execute(Give(1, seconds=30), context("seen")))
        async with asyncio.timeout(5):
            await started.wait()
        worker = fleet.workers["anthropic"].name
        inspect = fleet.app().control.inspect(timeout=20, destination=[worker])
        # The worker itself hears of it a moment after the producer, at the latest.
        await until(lambda: [task["name"] for task in inspect.active()[worker]] == ["seen"], timeout=30)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_group_is_a_saved_group_result(fleet: Fleet, registry: BackendRegistry) -> None:
    result = await PLACED_PAR((Give(1), ANTHROPIC), (Give(2), LOCAL), registry=registry).run()
    assert isinstance(result.group, GroupResult)
    group_id, app = result.group.id, fleet.app()
    # Celery's results belong to the thread that made them.
    values = await asyncio.to_thread(lambda: GroupResult.restore(group_id, app=app).get(timeout=5))
    assert values == [1, 2]


async def test_attach_waits_for_the_same_results(fleet: Fleet, registry: BackendRegistry) -> None:
    before = fleet.keys()
    composition = PLACED_PAR(
        (Give(1, seconds=0.5), ANTHROPIC),
        (Fail("half way", seconds=0.5).optional(), LOCAL),
        on_failure=FailurePolicy.COLLECT,
        registry=registry,
    )
    running = asyncio.create_task(composition.run())
    new = await until(lambda: [key for key in fleet.keys() - before if key.startswith("stbass:group:")])
    group_id = new[0].rpartition(":")[2]
    one = await PLACED_PAR.attach(group_id, registry=registry)
    two = await running
    assert [item.is_ok for item in one.results] == [item.is_ok for item in two.results] == [True, False]
    assert one.is_ok
    assert one.failures[0].checkpoint == "half way"
    # And again, long after the end.
    assert (await PLACED_PAR.attach(group_id, registry=registry)).value == two.value


async def test_attach_to_nothing_is_a_clear_error(registry: BackendRegistry) -> None:
    with pytest.raises(LookupError, match="no-such-group"):
        await PLACED_PAR.attach("no-such-group", registry=registry)


async def test_waiting_never_blocks_the_event_loop(registry: BackendRegistry) -> None:
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    ticking = asyncio.create_task(tick())
    result = await PLACED_PAR(*[(Give(n, seconds=0.3), ANTHROPIC) for n in range(200)], registry=registry).run()
    ticking.cancel()
    assert result.value == list(range(200))
    # Not a measurement (that is benchmark F5): a blocked loop would not have ticked at all.
    assert len(gaps) > 50


async def test_many_wait_at_once_on_one_worker_process(registry: BackendRegistry) -> None:
    count = 800
    started = time.monotonic()
    result = await PLACED_PAR(*[(Give(n, seconds=1.0), ANTHROPIC) for n in range(count)], registry=registry).run()
    assert result.value == list(range(count))
    # One after the other they would take more than ten minutes.
    assert time.monotonic() - started < 30


async def test_nothing_is_left_in_redis(fleet: Fleet, registry: BackendRegistry) -> None:
    before = fleet.keys()
    composition = PLACED_PAR(
        *[(Give(n), ANTHROPIC) for n in range(20)],
        (Fail("x"), LOCAL),
        on_failure=FailurePolicy.COLLECT,
        deadline=20,
        registry=registry,
    )
    await composition.run()
    # The group is kept as long as its results, for attach. A message is acknowledged a moment after its result.
    await until(lambda: {key for key in fleet.keys() - before if not key.startswith("stbass:group:")} == set())


async def test_progress_and_checkpoints_are_seen_live(registry: BackendRegistry, fleet: Fleet) -> None:
    events: list[observe.Event] = []
    with observe.subscribe(events.append):
        await PLACED_PAR((Steps(3, 0.05).with_name("steps"), ANTHROPIC), registry=registry).run()
    events = [event for event in events if event.name == "steps"]
    # Each once, its waiting too.
    told = [event.kind for event in events if event.kind not in ("progress", "checkpoint")]
    assert told == ["queued", "started", "ended"]
    progress = [(event.done, event.total, event.note) for event in events if event.kind == "progress"]
    assert progress == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]
    assert [event.value for event in events if event.kind == "checkpoint"] == [1, 2, 3]
    assert {event.worker for event in events[1:]} == {fleet.workers["anthropic"].name}


async def test_the_same_object_may_be_placed_twice(registry: BackendRegistry) -> None:
    give = Give(7)
    assert (await PLACED_PAR((give, ANTHROPIC), (give, ANTHROPIC), registry=registry).run()).value == [7, 7]


async def test_a_deadline_nests_across_the_fleet(registry: BackendRegistry) -> None:
    result = await PLACED_PAR((SEQ(whoami), ANTHROPIC), deadline=20, registry=registry).run()
    assert 15 < result.value[0]["remaining"] <= 20


async def test_health_check_knows_whether_anybody_consumes(fleet: Fleet) -> None:
    app = fleet.app()
    for queue, healthy in (("anthropic", True), ("nowhere", False), (None, True)):
        backend = CeleryBackend(app, queue=queue)
        started = time.monotonic()
        assert await backend.health_check() is healthy
        assert time.monotonic() - started < 10
        await backend.aclose()


async def test_the_limit_is_what_the_workers_announce(backend: CeleryBackend) -> None:
    assert backend.concurrency_limit is None
    assert await backend.health_check()
    assert backend.concurrency_limit == 2000


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"concurrency_limit": 0}, "concurrency_limit"),
        ({"lease": 0}, "lease"),
        ({"grace": float("nan")}, "grace"),
        ({"queue": ""}, "queue"),
        ({"on_worker_lost": "ignore"}, "on_worker_lost"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 2.0}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
    ],
)
async def test_wrong_arguments_are_refused_by_name(fleet: Fleet, arguments: dict[str, object], name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        CeleryBackend(fleet.app(), **arguments)  # type: ignore[arg-type]


async def test_a_backend_bounds_how_many_are_out_at_once(fleet: Fleet) -> None:
    most = 0
    out = 0

    def count(event: observe.Event) -> None:
        nonlocal most, out
        if event.name == "Give" and event.kind == "started":
            out += 1
        elif event.name == "Give" and event.kind == "ended":
            out -= 1
        most = max(most, out)

    limited = CeleryBackend(fleet.app(), concurrency_limit=3)
    registry = registry_of(limited, "anthropic")
    with observe.subscribe(count):
        result = await PLACED_PAR(*[(Give(n, seconds=0.05), ANTHROPIC) for n in range(10)], registry=registry).run()
    assert result.is_ok
    assert most == 3
    await limited.aclose()


def test_agents_are_known() -> None:
    assert agents.noop.name == "noop"
