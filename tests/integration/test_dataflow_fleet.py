"""Processes of components on a fleet: real workers, a real Redis."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from stbass import PLACED_PAR, Chan, Placement
from stbass.backends.celery import CeleryBackend
from stbass.dataflow import CeleryProcess, Component, Process, Status
from stbass.dataflow.distributed.fleet_host import FleetHost
from stbass.dataflow.distributed.fleet_line import CAPACITY, Line
from stbass.dataflow.distributed.groups import groups_of
from stbass.dataflow.distributed.plan import plan_of
from stbass.dataflow.state import SqliteStateBackend
from stbass.errors import (
    AdmissionError,
    ConfigurationError,
    InvalidProcessError,
    JobFinishedError,
    JobInUseError,
    NotTransportable,
    ProcessCancelled,
    ProcessRefused,
    WorkerLostError,
)
from stbass.testing import RedisServer, Worker
from stbass.transports.redis import RedisTransport
from tests.integration.conftest import APP, Fleet
from tests.support.backends import registry_of
from tests.support.dataflow import Add, Count, Endless, Join, Keep, wire
from tests.support.dataflow_fleet import (
    LEASE,
    Blocks,
    Heavy,
    Lags,
    Length,
    Marked,
    Options,
    Scale,
    Stops,
    Takes,
    Tells,
    Waits,
    job,
    squared,
)
from tests.support.dataflow_graphs import SHAPES, came_out, make
from tests.support.dataflow_remote import Sends, Wrong, demanding, is_satisfied
from tests.support.dataflow_stranger import Stranger
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
INCLUDE = tuple(f"tests.support.dataflow{which}" for which in ("", "_fleet", "_graphs", "_remote"))
SECONDS = 20


@pytest.fixture(scope="module")
def fleet(server: RedisServer) -> Iterator[Fleet]:
    """Workers on ``left`` and ``right`` that live as long as the module, and one for both of ``x`` and ``y``."""
    made = Fleet(server, {}, conf={"stbass_lease": LEASE}, options={"lease": LEASE})
    with worker(made, "left", slots=4), worker(made, "right", slots=4), worker(made, "x", "y", slots=2):
        yield made


def worker(fleet: Fleet, *queues: str, slots: int) -> Worker:
    env = {**fleet.env, "TEST_LEASE": str(LEASE), "TEST_GRACE": "0.5"}
    return Worker(APP, *queues, env=env, include=INCLUDE, concurrency=slots)


@pytest.fixture(autouse=True)
async def nothing_stays(fleet: Fleet, backend: CeleryBackend) -> AsyncIterator[None]:
    """After each test nothing runs on the fleet, and nothing of it is left in Redis but marks of what was withdrawn,
    and what living workers keep there."""
    yield
    await until(lambda: not fleet.server.command("ZCARD", "stbass:leases"), timeout=4 * LEASE)
    await backend.transport().aclose()
    kinds = ("stbass:worker:", "stbass:cancelled:", "stbass:swept", "unacked")
    left = {key for key in fleet.keys() if not key.startswith(kinds)}  # noqa: SIM118 - a method, not a dict
    for key in left:
        fleet.server.command("DEL", key)
    assert left == set()


def spread(components: list[Component]) -> dict[str, str]:
    """Each component beside none of those that it is connected to."""
    places = ("one@left", "right", "two@left", "two@right")
    return {one.name: places[index % len(places)] for index, one in enumerate(components)}


def on_fleet(
    backend: CeleryBackend,
    components: list[Component],
    *connections: tuple[str, str],
    maxsize: int = 64,
    **options: Any,
) -> CeleryProcess:
    connectors = [wire(source, target, maxsize=maxsize) for source, target in connections]
    options.setdefault("placement", spread(components))
    return CeleryProcess(components, connectors, backend=backend, **options)


def got(process: Process, name: str = "sink") -> list[Any]:
    sink = process.components[name]
    assert isinstance(sink, Keep)
    return sink.got


def lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


# The same as elsewhere ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_same_comes_out_as_on_one_event_loop(shape: str, backend: CeleryBackend) -> None:
    async with make(shape, 40, None) as process:
        await process.run()
        expected = came_out(shape, process)
    components, connections = SHAPES[shape](40)
    async with asyncio.timeout(SECONDS), on_fleet(backend, components, *connections, maxsize=4) as process:
        await process.run()
        assert json.loads(json.dumps(came_out(shape, process))) == json.loads(json.dumps(expected))
        assert process.status is Status.COMPLETED
        assert {one.status for one in process.components.values()} == {Status.COMPLETED}


async def test_what_a_demanding_model_asks_for(backend: CeleryBackend) -> None:
    components, connections, groups = demanding()
    placement = {name: {"one": "one@left", "two": "right"}[group] for name, group in groups.items()}
    # what cannot travel need not: it stays in one group; but what is there to see of it has to
    async with asyncio.timeout(SECONDS), on_fleet(backend, components, *connections, placement=placement) as process:
        await process.run()
        is_satisfied(process)


async def test_step_step_run_and_what_is_to_be_seen_meanwhile(backend: CeleryBackend) -> None:
    # given a fan-out and a join over three groups
    components: list[Component] = [
        Count(5, name="a"),
        Add(10, name="b"),
        Add(100, name="c"),
        Join(name="d"),
        Keep(name="sink"),
    ]
    process = on_fleet(
        backend, components, ("a.y", "b.x"), ("a.y", "c.x"), ("b.y", "d.a"), ("c.y", "d.b"), ("d.y", "sink.x")
    )
    async with asyncio.timeout(SECONDS), process:
        assert process.status is Status.INIT
        await process.step()
        assert got(process) == [(10, 100)]
        assert components[0].y == 0  # type: ignore[attr-defined]
        await process.step()
        assert got(process) == [(10, 100), (11, 101)]
        await process.run()
        assert got(process) == [(10 + number, 100 + number) for number in range(5)]
        with pytest.raises(JobFinishedError):
            await process.run()
    # a second time it starts afresh
    async with asyncio.timeout(SECONDS), process:
        assert got(process) == []
        await process.run()
        assert len(got(process)) == 5


async def test_parameters_functions_and_one_slot_for_all(backend: CeleryBackend) -> None:
    components = [Count(4, name="a"), Scale(name="b"), squared.component(name="c"), Keep(name="sink")]
    process = on_fleet(
        backend,
        components,
        ("a.y", "b.x"),
        ("b.y", "c.x"),
        ("c.y", "sink.x"),
        placement=dict.fromkeys(["a", "b", "c", "sink"], "left"),
        parameters={"factor": 3},
    )
    async with asyncio.timeout(SECONDS), process:
        [mine] = [one for one in await backend.workers() if "left" in one.queues]
        assert (mine.slots, mine.running) == (4, 1)
        await process.run()
    assert got(process) == [0, 9, 36, 81]


async def test_values_and_states_larger_than_a_message(fleet: Fleet, tmp_path: Path) -> None:
    small = CeleryBackend(fleet.app(stbass_lease=LEASE, stbass_max_message_bytes=20_000), lease=LEASE)
    process = on_fleet(
        small,
        [Count(4, name="a"), Heavy(100_000, name="b"), Length(name="c"), Keep(name="sink")],
        ("a.y", "b.x"),
        ("b.y", "c.x"),
        ("c.y", "sink.x"),
        state=SqliteStateBackend(tmp_path / "state.db"),
        checkpoint_every=0.01,
    )
    async with asyncio.timeout(SECONDS), process:
        await process.run()
    assert got(process) == [[str(number), 100_000] for number in range(4)]
    await small.aclose()


async def test_backpressure_reaches_across_workers(backend: CeleryBackend, tmp_path: Path) -> None:
    path = tmp_path / "made"
    lags = Lags(str(path), 6, name="b")
    process = on_fleet(backend, [Tells(str(path), name="a"), lags], ("a.y", "b.x"), maxsize=3)
    async with asyncio.timeout(SECONDS), process:
        # and the source, whose only consumer has had enough, ends too
        await process.run()
    assert process.status is Status.COMPLETED
    # at most what lies at the one end, what lies at the other, and what each of the two components holds
    assert 3 <= max(lags.ahead) <= 3 + 3 + 2


# Ends --------------------------------------------------------------------------------------------


async def test_a_stop_event_stops_all_groups(backend: CeleryBackend) -> None:
    components = [Endless(name="a"), Stops(20, name="b"), Keep(name="sink")]
    process = on_fleet(backend, components, ("a.y", "b.x"), ("b.y", "sink.x"))
    async with asyncio.timeout(SECONDS), process:
        await process.run()
        assert process.status is Status.STOPPED
        assert {one.status for one in components} == {Status.STOPPED}
        assert got(process) == list(range(len(got(process))))


async def test_cancel_is_pushed(backend: CeleryBackend, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = on_fleet(
        backend, [Endless(name="a"), Waits(str(log), name="b"), Keep(name="sink")], ("a.y", "b.x"), ("b.y", "sink.x")
    )
    async with asyncio.timeout(SECONDS), process:
        running = asyncio.create_task(process.run())
        await until(lambda: "b step" in lines(log))
        began = time.monotonic()
        process.cancel()
        with pytest.raises(ProcessCancelled):
            await running
        assert time.monotonic() - began < 10
        assert process.status is Status.STOPPED
        assert lines(log)[-1] == "b cancelled"
    assert lines(log)[-1] == "b destroy"


async def test_what_components_raise_arrives_and_ends_the_others_at_once(
    backend: CeleryBackend, tmp_path: Path
) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    components: list[Component] = [
        Count(100, name="a"),
        Marked(str(log), name="b", fail="step 7", after=str(other)),
        Waits(str(other), name="c"),
    ]
    process = on_fleet(backend, components, ("a.y", "b.x"), ("a.y", "c.x"))
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(SECONDS), process:
            began = time.monotonic()
            try:
                await process.run()
            finally:
                took = time.monotonic() - began
    assert took < 60
    [error] = caught.value.exceptions
    assert type(error).__name__ == "OurError"
    assert error.args == ("b step 7",)
    assert "component 'b', step 7" in error.__notes__
    assert process.status is Status.FAILED
    assert components[1].status is Status.FAILED
    assert components[2].status is Status.STOPPED
    assert lines(other)[2:] == ["c init", "c step", "c cancelled", "c destroy"]  # made twice: here, and there
    assert lines(log)[-1] == "b destroy"


@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [
        (Wrong(name="a"), TypeError, "component 'a', output 'y': expected int, got str"),
        (Sends("stranger", name="a"), NotTransportable, "component 'a', output 'y': a value cannot travel to 'b'"),
    ],
)
async def test_a_value_that_does_not_fit(
    source: Component, kind: type[Exception], text: str, backend: CeleryBackend
) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(SECONDS), on_fleet(backend, [source, Keep(name="b")], ("a.y", "b.x")) as process:
            await process.run()
    [error] = caught.value.exceptions
    assert isinstance(error, kind)
    assert str(error).startswith(text)


async def test_a_failure_in_init(backend: CeleryBackend, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = on_fleet(
        backend, [Count(3, name="a"), Marked(str(log), name="b", fail="init"), Keep(name="sink")],
        ("a.y", "b.x"), ("b.y", "sink.x"),
    )  # fmt: skip
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(SECONDS), process:
            raise AssertionError("not reached")
    assert [error.args for error in caught.value.exceptions] == [("b init",)]
    assert lines(log)[-1] == "b destroy"


# What cannot run ---------------------------------------------------------------------------------


async def test_a_worker_makes_no_components_of_modules_that_it_does_not_include(
    backend: CeleryBackend, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    process = on_fleet(
        backend, [Count(3, name="a"), Marked(str(log), name="b"), Stranger(name="sink")],
        ("a.y", "b.x"), ("b.y", "sink.x"),
    )  # fmt: skip
    made_here = lines(log)
    with pytest.raises(ProcessRefused, match=r"tests\.support\.dataflow_stranger.*STBASS_INCLUDE"):
        async with asyncio.timeout(SECONDS), process:
            raise AssertionError("not reached")
    # one that runs elsewhere may have been made there, but no more than that
    assert set(lines(log)) <= set(made_here)


async def test_what_cannot_travel_is_refused_before_anything_is_sent(backend: CeleryBackend) -> None:
    process = CeleryProcess([Takes(Options(), name="a")], [], placement={"a": "left"}, backend=backend)
    with pytest.raises(NotTransportable, match=r"arguments of component 'a'.*Options"):
        await process.init()
    await process.destroy()


async def test_wrong_arguments(backend: CeleryBackend) -> None:
    count = Count(1, name="a")
    with pytest.raises(InvalidProcessError, match="there is no component 'b'"):
        CeleryProcess([count], [], placement={"b": "left"}, backend=backend)
    with pytest.raises(InvalidProcessError, match="'group@', which names no endpoint"):
        CeleryProcess([count], [], placement={"a": "group@"}, backend=backend)
    with pytest.raises(TypeError, match="not both"):
        CeleryProcess([count], [], backend=backend, app="celery_app")
    with pytest.raises(TypeError, match="takes a CeleryBackend"):
        CeleryProcess([count], [], backend="redis://")  # type: ignore[arg-type]
    for seconds in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="admission_timeout"):
            CeleryProcess([count], [], backend=backend, admission_timeout=seconds)
    nowhere = CeleryProcess([Count(1, name="b"), Keep(name="k")], [wire("b.y", "k.x")], app="no_such_module_here")
    with pytest.raises(ConfigurationError, match="no Celery application at 'no_such_module_here'"):
        await nowhere.init()
    await nowhere.destroy()


# Admission ---------------------------------------------------------------------------------------


async def test_nobody_consumes_the_endpoint(backend: CeleryBackend, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = on_fleet(
        backend, [Count(3, name="a"), Marked(str(log), name="b"), Keep(name="sink")],
        ("a.y", "b.x"), ("b.y", "sink.x"), placement={"a": "left", "b": "right", "sink": "nowhere"},
    )  # fmt: skip
    began = time.monotonic()
    with pytest.raises(
        AdmissionError, match=r"No worker consumes the queue 'nowhere'.*stbass worker -e nowhere"
    ) as caught:
        async with process:
            raise AssertionError("not reached")
    assert time.monotonic() - began < 10
    assert caught.value.needed == {"left": 1, "right": 1, "nowhere": 1}
    assert caught.value.free == {"left": 4, "right": 4, "nowhere": 0}
    assert lines(log) == ["b made"]  # here


async def test_too_few_slots(backend: CeleryBackend) -> None:
    components: list[Component] = [Count(3, name="a"), *(Keep(name=f"k{n}") for n in range(5))]
    places = {"a": "right", **{f"k{n}": f"{n}@left" for n in range(5)}}
    process = on_fleet(backend, components, *(("a.y", f"k{n}.x") for n in range(5)), placement=places)
    with pytest.raises(AdmissionError, match="'left': 5 needed, 4 free") as caught:
        async with process:
            raise AssertionError("not reached")
    assert (caught.value.needed, caught.value.free) == ({"right": 1, "left": 5}, {"right": 4, "left": 4})


async def test_two_endpoints_with_the_same_worker(backend: CeleryBackend) -> None:
    components: list[Component] = [Count(3, name="a"), Keep(name="k"), Keep(name="l")]
    process = on_fleet(
        backend, components, ("a.y", "k.x"), ("a.y", "l.x"), placement={"a": "1@x", "k": "y", "l": "2@x"}
    )
    with pytest.raises(AdmissionError, match="'x', 'y' have the same workers, with 2 free together"):
        async with process:
            raise AssertionError("not reached")


async def test_two_that_compete_for_the_last_slots_never_wait_for_ever(fleet: Fleet, backend: CeleryBackend) -> None:
    # given two slots, and two processes that need both
    async def run(name: str) -> str:
        process = CeleryProcess(
            [Count(3, name="a"), Keep(name="k")], [wire("a.y", "k.x")], name=name,
            placement={"a": "1@x", "k": "2@x"}, backend=backend, admission_timeout=1.0,
        )  # fmt: skip
        try:
            async with process:
                await process.run()
        except AdmissionError as error:
            return f"{error.needed['x']} needed"
        return "done"

    for _ in range(3):
        async with asyncio.timeout(6):
            outcomes = await asyncio.gather(run("one"), run("two"))
        assert set(outcomes) <= {"done", "2 needed"}
    # and whoever comes next has all of the room
    async with asyncio.timeout(SECONDS):
        await until(lambda: not fleet.server.command("ZCARD", "stbass:leases"))
        assert await run("three") == "done"


async def test_groups_that_nobody_takes_in_time_are_withdrawn(
    fleet: Fleet, backend: CeleryBackend, tmp_path: Path
) -> None:
    # given a worker that has announced itself and takes nothing
    log = tmp_path / "log"
    async with worker(fleet, "stuck", slots=1) as stuck:
        await until(lambda: "ready" in stuck.log)
        stuck.send_signal(signal.SIGSTOP)
        process = on_fleet(
            backend, [Count(3, name="a"), Marked(str(log), name="b"), Keep(name="sink")],
            ("a.y", "b.x"), ("b.y", "sink.x"), placement={"a": "left", "b": "right", "sink": "stuck"},
            admission_timeout=0.7,
        )  # fmt: skip
        with pytest.raises(AdmissionError, match=r"After 0\.7 s no worker had taken group 'stuck'") as caught:
            async with process:
                raise AssertionError("not reached")
        assert caught.value.needed == {"left": 1, "right": 1, "stuck": 1}
        assert lines(log) == ["b made"]  # here, and nowhere else
        # and when the worker takes it after all, nothing comes of it
        stuck.send_signal(signal.SIGCONT)
        await until(lambda: not fleet.server.command("EXISTS", "stuck", "unacked"))
        assert lines(log) == ["b made"]


# Death -------------------------------------------------------------------------------------------


def fleet_job(backend: CeleryBackend, tmp_path: Path, **options: Any) -> CeleryProcess:
    return job(backend, tmp_path / "state.db", "Job_12345678", tmp_path / "log", **options)


async def well_on_its_way(tmp_path: Path) -> None:
    await until(lambda: len([line for line in lines(tmp_path / "log") if "committed" in line]) > 2)


async def test_a_worker_that_is_told_to_stop_ends_its_groups_in_order(
    fleet: Fleet, backend: CeleryBackend, tmp_path: Path
) -> None:
    places = {"source": "left", "middle": "going", "sink": "right"}
    with worker(fleet, "going", slots=1) as going:
        process = fleet_job(backend, tmp_path, places=places, n=150)
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.timeout(SECONDS), process:
                running = asyncio.create_task(process.run())
                await well_on_its_way(tmp_path)
                going.terminate()
                await running
        [error] = caught.value.exceptions
        assert isinstance(error, WorkerLostError)
        assert "is stopping" in str(error)
        assert lines(tmp_path / "log")[-1] == "middle destroy"
        assert await asyncio.to_thread(going.wait, 10.0) == 0
    # What waits for the next run of the job, and for the endpoint's next worker: see test_dataflow_fleet_faults.
    for key in fleet.keys():  # noqa: SIM118
        if key == "going" or key.startswith(("stbass:flow:", "stbass:run:")):
            fleet.server.command("DEL", key)


async def test_a_group_of_the_run_before_that_does_not_end_keeps_the_next_one_out(
    fleet: Fleet, backend: CeleryBackend, tmp_path: Path
) -> None:
    # given a producer that is gone, and a component that holds up its worker
    log = tmp_path / "log"

    def blocking(state: SqliteStateBackend) -> CeleryProcess:
        return on_fleet(
            backend, [Count(9, name="a"), Blocks(str(log), name="b", pause=4.0), Keep(name="sink")],
            ("a.y", "b.x"), ("b.y", "sink.x"),
            state=state, placement={"a": "left", "b": "blocked", "sink": "right"},
        )  # fmt: skip

    with worker(fleet, "blocked", slots=2) as blocked:
        first = blocking(SqliteStateBackend(tmp_path / "state.db", job_id="Job_12345678"))
        await first.init()
        running = asyncio.create_task(first.run())
        await until(lambda: "b step" in lines(log))
        await first.state.destroy()  # as its end would: the job is free
        second = blocking(SqliteStateBackend(tmp_path / "state.db", job_id="Job_12345678"))
        with pytest.raises(JobInUseError, match="group 'blocked' of the run before still runs on") as caught:
            async with asyncio.timeout(SECONDS):
                await second.init()
        await second.destroy()
        assert caught.value.holder == blocked.name
        with pytest.raises(ExceptionGroup):
            await running
        await first.destroy()
    fleet.server.command("DEL", "stbass:flow:Job_12345678")


def producer(fleet: Fleet, tmp_path: Path) -> subprocess.Popen[str]:
    arguments = [fleet.server.url, str(tmp_path / "state.db"), "Job_12345678", str(tmp_path / "log")]
    command = [sys.executable, "-m", "tests.support.dataflow_fleet", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


async def test_a_killed_producer_and_one_that_goes_on_at_once(
    fleet: Fleet, backend: CeleryBackend, tmp_path: Path
) -> None:
    with producer(fleet, tmp_path) as first:
        await well_on_its_way(tmp_path)
        first.kill()
        died = time.monotonic()
    # the groups of the first are still there; they are ended before the second begins
    async with asyncio.timeout(SECONDS), fleet_job(backend, tmp_path) as process:
        assert time.monotonic() - died < 15
        await process.run()
    assert got(process) == list(range(40))
    steps = [line for line in lines(tmp_path / "log") if line.startswith("middle step")]
    # nothing of the first was done after the second had begun
    assert "middle destroy" in lines(tmp_path / "log")[: lines(tmp_path / "log").index("middle init", 5)]
    assert steps[-1] == "middle step 40"


async def test_groups_whose_producer_was_killed_end_by_themselves(
    fleet: Fleet, backend: CeleryBackend, tmp_path: Path
) -> None:
    with producer(fleet, tmp_path) as first:
        await well_on_its_way(tmp_path)
        first.kill()
    await until(lambda: lines(tmp_path / "log")[-1] == "middle destroy", timeout=60)
    await until(lambda: not fleet.server.command("ZCARD", "stbass:leases"), timeout=60)
    channels = {key for key in fleet.keys() if key.startswith("stbass:chan:")}  # noqa: SIM118
    assert channels == set()
    async with asyncio.timeout(SECONDS), fleet_job(backend, tmp_path) as process:
        await process.run()
    assert got(process) == list(range(40))


@pytest.mark.parametrize("ends", ["full", "failed"])
async def test_a_group_ends_and_clears_away_whatever_it_does_when_its_producer_goes(
    ends: str, fleet: Fleet, backend: CeleryBackend
) -> None:
    # given a group on the fleet, and a producer that does not read what it reports
    producer, other = (RedisTransport(fleet.server.url, lease=LEASE) for _ in range(2))
    commands, reports = (Chan(bytes, name=name, capacity=CAPACITY, transport=producer) for name in ("c", "r"))
    [group] = groups_of([Keep(name="sink")], (), None)
    host = FleetHost("sink", plan_of(group, {}).decode(), {}, producer.here, 1000)
    placed = (host.with_channels(commands=commands, reports=reports), Placement(endpoint="right"))
    running = asyncio.create_task(PLACED_PAR(placed, registry=registry_of(backend)).run())
    assert await reports.recv() == b".+"
    line = Line(commands, 1000)
    line.post(b"m")
    assert await reports.recv() == b".m"
    base = f"stbass:chan:{{{reports.share()['link']['id']}}}"
    if ends == "full":
        for number in range(2 * CAPACITY):
            line.post(b"c%d views null" % number)
        await until(lambda: int(fleet.server.command("HGET", base, "offered")) >= CAPACITY)
    # when the producer is gone, and the group could say more; or fails before it has noticed
    late = Line(Chan.open(commands.share(), transport=other), 1000)
    await producer.aclose()
    if ends == "failed":
        late.post(b"?")
        await late.flush()
    # then it ends, and nothing of it is left
    async with asyncio.timeout(30):
        result = await running
    said = "whoever ran its process is gone" if ends == "full" else "which is nothing that there is"
    assert said in str(result.failures[0].error)
    assert {key for key in fleet.keys() if key.startswith("stbass:chan:")} == set()  # noqa: SIM118
    for key in fleet.keys():  # noqa: SIM118
        if key.startswith("stbass:group:"):
            fleet.server.command("DEL", key)
    await other.aclose()
