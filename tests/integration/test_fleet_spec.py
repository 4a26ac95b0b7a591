"""What compositions, values, errors and names mean on a fleet, statement by statement of the specification."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend, make_app
from stbass.errors import (
    BackendUnavailableError,
    ConfigurationError,
    DeadlineExceeded,
    NotTransportable,
    ProcessCancelled,
    ProcessFailed,
    RemoteError,
)
from stbass.par import PAR
from stbass.placement import PLACED_PAR, BackendRegistry, LocalBackend
from stbass.replicator import PAR_FOR, SEQ_FOR
from stbass.result import FailurePolicy
from stbass.seq import SEQ
from stbass.testing import RedisServer, Worker
from stbass.wire import Opaque
from tests.integration.conftest import APP, Fleet
from tests.support.agents import (
    Colour,
    Describe,
    Exit,
    Fail,
    Flaky,
    Give,
    Large,
    Mark,
    Order,
    Point,
    Steps,
    Unregistered,
    exit_in_thread,
    hidden_error,
    hidden_value,
    noop,
    own_deadline,
    places,
    unsendable_checkpoint,
    whoami,
)
from tests.support.backends import registry_of
from tests.support.waiting import until

ANTHROPIC = Placement(endpoint="anthropic")
LOCAL = Placement(endpoint="local:8080")
COLLECT = FailurePolicy.COLLECT


@dataclass
class Local:
    """Known to the producer only: a worker does not import this module."""

    number: int


# Compositions ------------------------------------------------------------------------------------


async def test_the_nearest_deadline_counts_on_the_worker(fleet: Fleet, registry: BackendRegistry) -> None:
    inner = PAR(Give("kept"), Steps(1000, 0.05), on_failure=COLLECT, deadline=0.4)
    longer = SEQ(PAR(whoami, deadline=60))
    outer = PLACED_PAR((inner, ANTHROPIC), (longer, LOCAL), on_failure=COLLECT, deadline=20, registry=registry)
    started = time.monotonic()
    result = await outer.run()
    assert time.monotonic() - started < 15
    assert not result.is_ok
    error = result.results[0].failure.error
    assert isinstance(error, ExceptionGroup)
    [missed] = error.exceptions
    assert isinstance(missed, DeadlineExceeded)
    assert missed.deadline == 0.4
    # Its own minute is longer than what the producer has left.
    assert 15 < result.results[1].value[0]["remaining"] <= 20


async def test_the_deadline_of_the_producer_reaches_processes_inside_a_placed_composition(
    registry: BackendRegistry,
) -> None:
    tree = SEQ(Give(1), PAR(Give("kept"), Steps(1000, 0.05), deadline=60))
    started = time.monotonic()
    result = await PLACED_PAR((tree, ANTHROPIC), on_failure=COLLECT, deadline=0.5, registry=registry).run()
    assert time.monotonic() - started < 20
    error = result.failures[0].error
    assert isinstance(error, DeadlineExceeded)
    assert error.deadline == 0.5
    assert error.phase == "running"


async def test_a_composition_made_on_a_worker_keeps_its_own_deadline(registry: BackendRegistry) -> None:
    result = await PLACED_PAR((own_deadline, ANTHROPIC), deadline=20, registry=registry).run()
    oks, message = result.value[0]
    assert oks == [True, False]
    assert "0.3 s" in message


async def test_a_registry_stays_with_its_program(fleet: Fleet, registry: BackendRegistry) -> None:
    """On a worker every endpoint is a queue of its fleet."""
    here = BackendRegistry()
    here.register("*", LocalBackend())
    inside = PLACED_PAR((whoami, LOCAL), (noop, Placement(model="opus")), registry=here)
    result = await PLACED_PAR((inside, ANTHROPIC), (places, ANTHROPIC), registry=registry).run()
    assert result.is_ok, result.failures
    pid = fleet.workers["local:8080"].pid
    assert [value[0]["pid"] for value in result.value] == [pid, pid]
    assert [value[0]["placement"] for value in result.value] == [LOCAL, LOCAL]


async def test_a_retry_policy_sends_again(registry: BackendRegistry, tmp_path: Path) -> None:
    log = tmp_path / "log"
    policy = FailurePolicy.retry(3, backoff="constant", base_delay=0.01)
    flaky = Flaky(str(log), 2)
    result = await PLACED_PAR((flaky, ANTHROPIC), (Give(2), LOCAL), on_failure=policy, registry=registry).run()
    assert result.value == [3, 2]
    ids = [line.split()[0] for line in log.read_text().splitlines()]
    # Each is a message of its own, under its own id.
    assert len(set(ids)) == 3


async def test_a_retry_policy_that_is_used_up_halts(registry: BackendRegistry, tmp_path: Path) -> None:
    log, mark = tmp_path / "log", tmp_path / "mark"
    policy = FailurePolicy.retry(2, backoff="constant", base_delay=0.01)
    result = await PLACED_PAR(
        (Flaky(str(log), 9), ANTHROPIC), (Mark(str(mark)), LOCAL), on_failure=policy, registry=registry
    ).run()
    assert [type(item.failure.error) for item in result.results] == [ConnectionError, ProcessCancelled]
    assert len(log.read_text().splitlines()) == 2


@pytest.mark.parametrize("where", [ANTHROPIC, None])
async def test_optional_means_the_same_as_here(registry: BackendRegistry, where: Placement | None) -> None:
    members = [Fail().optional(), Give(3), Fail().optional().with_name("again")]
    pairs = [(process, where) if where else process for process in members]
    result = await PLACED_PAR(*pairs, registry=registry).run()
    assert result.is_ok
    assert result.value == [3]
    assert [failure.process_name for failure in result.failures] == ["Fail", "again"]
    assert all(isinstance(failure.error, Unregistered) for failure in result.failures)


async def test_an_optional_process_inside_a_placed_composition(registry: BackendRegistry) -> None:
    result = await PLACED_PAR((PAR(Fail().optional(), Give(1)), ANTHROPIC), registry=registry).run()
    assert result.value == [[1]]


async def test_an_optional_process_may_miss_the_deadline(registry: BackendRegistry) -> None:
    result = await PLACED_PAR(
        (Give(1, seconds=30).optional(), ANTHROPIC), (Give(2), LOCAL), deadline=0.4, registry=registry
    ).run()
    assert result.is_ok
    assert result.value == [2]
    assert isinstance(result.failures[0].error, DeadlineExceeded)


async def test_replicas_run_where_they_are_placed(fleet: Fleet, registry: BackendRegistry) -> None:
    made = PAR_FOR(4, lambda index, ctx: Give(index * index), on_failure=COLLECT)
    result = await PLACED_PAR((made, ANTHROPIC), (PAR_FOR(2, whoami), LOCAL), registry=registry).run()
    assert result.value[0] == [0, 1, 4, 9]
    assert [one["name"] for one in result.value[1]] == ["whoami[0]", "whoami[1]"]
    assert {one["pid"] for one in result.value[1]} == {fleet.workers["local:8080"].pid}


async def test_each_replica_goes_to_its_own_endpoint(fleet: Fleet, registry: BackendRegistry) -> None:
    placed = [PLACED_PAR((whoami, place)) for place in (ANTHROPIC, LOCAL)]
    result = await PAR_FOR(2, lambda index, ctx: placed[index], registry=registry).run()
    assert [value[0]["pid"] for value in result.value] == [
        fleet.workers["anthropic"].pid,
        fleet.workers["local:8080"].pid,
    ]


async def test_a_replicated_sequence_runs_on_a_worker(registry: BackendRegistry) -> None:
    made = SEQ_FOR(3, lambda index, ctx: Give(index))
    result = await PLACED_PAR((made, ANTHROPIC), registry=registry).run()
    assert result.value == [2]


async def test_a_placed_composition_that_fails_keeps_what_its_parts_said(registry: BackendRegistry) -> None:
    tree = PAR(Give(1), Fail("half"), Fail().with_name("other"), on_failure=COLLECT)
    result = await PLACED_PAR((tree, ANTHROPIC), (Give(2), LOCAL), on_failure=COLLECT, registry=registry).run()
    assert [item.is_ok for item in result.results] == [False, True]
    error = result.results[0].failure.error
    assert isinstance(error, ExceptionGroup)
    assert [type(one) for one in error.exceptions] == [Unregistered, Unregistered]
    assert result.results[0].failure.process_name == "PAR"


# Loops, threads, processes -----------------------------------------------------------------------


def test_run_sync_works_again_and_again(fleet: Fleet) -> None:
    registry = registry_of(CeleryBackend(fleet.app()))
    for number in range(3):
        result = PLACED_PAR((Give(number), ANTHROPIC), registry=registry).run_sync()
        assert result.value == [number]


def test_one_application_in_event_loops_of_several_threads(fleet: Fleet) -> None:
    registry = registry_of(CeleryBackend(fleet.app()))
    values: dict[int, Any] = {}

    def work(number: int) -> None:
        pairs = [(Give((number, index), seconds=0.05), ANTHROPIC) for index in range(20)]
        values[number] = PLACED_PAR(*pairs, registry=registry).run_sync().value

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert values == {number: [(number, index) for index in range(20)] for number in range(4)}


def test_a_forked_child_has_connections_of_its_own(fleet: Fleet) -> None:
    registry = registry_of(CeleryBackend(fleet.app()))
    composition = PLACED_PAR((Give("parent"), ANTHROPIC), registry=registry)
    assert composition.run_sync().value == ["parent"]
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def child() -> None:
        there.send(PLACED_PAR((Give("child"), LOCAL), registry=registry).run_sync().value)

    forked = context.Process(target=child)
    forked.start()
    try:
        assert here.poll(20)
        assert here.recv() == ["child"]
    finally:
        forked.join(10)
    assert forked.exitcode == 0
    assert composition.run_sync().value == ["parent"]


async def test_a_child_forked_in_a_running_event_loop(fleet: Fleet, backend: CeleryBackend) -> None:
    registry = registry_of(backend)
    running = asyncio.create_task(PLACED_PAR((Give("parent", seconds=0.5), ANTHROPIC), registry=registry).run())
    await until(lambda: fleet.server.command("ZCARD", "stbass:leases"))
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()

    def child() -> None:
        def work() -> None:
            there.send(PLACED_PAR((Give("child"), LOCAL), registry=registry).run_sync().value)

        # The event loop of the parent looks as if it ran here too: in a thread of its own it does not.
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(20)

    forked = context.Process(target=child)
    forked.start()
    assert await asyncio.to_thread(here.poll, 20)
    assert here.recv() == ["child"]
    await asyncio.to_thread(forked.join, 10)
    assert (await running).value == ["parent"]


# Values and errors -------------------------------------------------------------------------------


async def test_values_of_classes_known_at_both_ends_arrive_as_themselves(backend: CeleryBackend) -> None:
    sent = [Colour.RED, Point(1, 2), Order(item="tea"), {Colour.RED: Point(3)}]
    name, value = (await backend.execute(Describe(sent), ProcessContext("describe", placement=ANTHROPIC))).value
    assert value == sent
    assert [type(one) for one in value] == [type(one) for one in sent]
    name, value = (await backend.execute(Describe(sent[1]), ProcessContext("describe", placement=ANTHROPIC))).value
    assert name == "tests.support.agents:Point"


async def test_a_value_of_a_class_that_is_not_known_here_is_opaque(backend: CeleryBackend) -> None:
    assert "tests.support.only_there" not in sys.modules
    result = await backend.execute(hidden_value, ProcessContext("hidden", placement=ANTHROPIC))
    one, two = result.value
    assert isinstance(one, Opaque)
    assert one.type_name == "tests.support.only_there:Hidden"
    assert one.data == {"number": 7, "inside": (1, 2)}
    assert isinstance(two, Opaque)
    assert (two.type_name, two.data) == ("tests.support.only_there:HiddenColour", "RED")
    # And it is itself again where it is known.
    back = await backend.execute(Describe(one), ProcessContext("describe", placement=ANTHROPIC))
    assert back.value[0] == "tests.support.only_there:Hidden"
    assert back.value[1] == one


async def test_a_value_of_a_class_that_the_worker_does_not_know_is_opaque_there(backend: CeleryBackend) -> None:
    value = Local(5)
    result = await backend.execute(Describe(value), ProcessContext("describe", placement=ANTHROPIC))
    name, back = result.value
    assert name.endswith(":Opaque")
    assert back == value


async def test_an_error_of_a_class_that_is_not_known_here_names_its_type(backend: CeleryBackend) -> None:
    result = await backend.execute(hidden_error, ProcessContext("hidden", placement=ANTHROPIC))
    error = result.failure.error
    assert isinstance(error, RemoteError)
    assert error.type_name == "tests.support.only_there:HiddenError"
    assert "HiddenError" in str(error)
    assert "deep" in str(error)
    assert error.__notes__ == ["a note"]
    assert "HiddenError" in result.failure.traceback_str
    assert "agents.py" in result.failure.traceback_str


async def test_a_process_cannot_end_its_worker(fleet: Fleet, registry: BackendRegistry) -> None:
    pid = fleet.workers["anthropic"].pid
    exits = [Exit(), Exit(interrupts=True), exit_in_thread, SEQ(PAR(Exit(), Give(1)))]
    pairs = [(process, ANTHROPIC) for process in (*exits, Give("kept", seconds=0.5))]
    async with asyncio.timeout(10):
        result = await PLACED_PAR(*pairs, on_failure=COLLECT, registry=registry).run()
    assert [item.is_ok for item in result.results] == [False] * 4 + [True]
    error = result.results[0].failure.error
    assert isinstance(error, ProcessFailed)
    assert "SystemExit(3)" in str(error)
    assert result.results[0].failure.checkpoint == "last words"
    assert result.results[4].value == "kept"
    after = await PLACED_PAR((whoami, ANTHROPIC), registry=registry).run()
    assert after.value[0]["pid"] == pid


async def test_a_checkpoint_that_cannot_travel_is_a_failure_that_keeps_the_last_good_one(
    backend: CeleryBackend,
) -> None:
    result = await backend.execute(unsendable_checkpoint, ProcessContext("checks", placement=ANTHROPIC))
    assert isinstance(result.failure.error, NotTransportable)
    assert 'checkpoint["lock"][0]' in str(result.failure.error)
    assert result.failure.checkpoint == "good"


async def test_a_result_that_is_too_large_is_a_failure_that_says_so(backend: CeleryBackend) -> None:
    ctx = ProcessContext("large", parent="outer", placement=ANTHROPIC)
    result = await backend.execute(Large(17 * 2**20), ctx)
    assert isinstance(result.failure.error, NotTransportable)
    assert "16,777,216" in str(result.failure.error)
    assert result.failure.checkpoint == "made"
    assert result.failure.parent_process == "outer"
    assert result.failure.placement == ANTHROPIC
    assert result.failure.process_name == "large"
    # The worker is none the worse for it.
    assert (await backend.execute(Give(1), ProcessContext("give", placement=ANTHROPIC))).value == 1


async def test_a_failure_that_is_too_large_still_arrives(backend: CeleryBackend) -> None:
    result = await backend.execute(Large(17 * 2**20, fails=True), ProcessContext("large", placement=ANTHROPIC))
    assert isinstance(result.failure.error, RemoteError)
    assert result.failure.error.type_name == "builtins:ValueError"
    assert len(str(result.failure.error)) < 2000
    assert result.failure.checkpoint == "made"


# Names -------------------------------------------------------------------------------------------

ODD = [
    "with space",
    "ünï-цэ-日本",
    "q\"uo'te",
    "a/b",
    "a:b:c",
    "back\\slash",
    "per%cent",
    "star*",
    "{tag}",
    "a.b",
    "x" * 200,
]


@pytest.fixture(scope="module")
def odd_server() -> Iterator[RedisServer]:
    """A Redis with one worker for all the odd names."""
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
        with Worker(APP, *ODD, env=env):
            yield server


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_endpoint_is_a_queue_like_any_other(odd_server: RedisServer, name: str) -> None:
    backend = CeleryBackend(make_app("tests", broker_url=odd_server.url))
    registry = registry_of(backend)
    result = await PLACED_PAR((whoami, Placement(endpoint=name)), deadline=4, registry=registry).run()
    assert result.is_ok, result.failures
    assert result.value[0]["placement"] == Placement(endpoint=name)
    assert await CeleryBackend(make_app("tests", broker_url=odd_server.url), queue=name).health_check()
    await backend.aclose()


@pytest.mark.parametrize("name", ["a,b", "a\nb", "a\0b", "\ud800", " ", " a", "a "])
async def test_an_endpoint_that_no_worker_can_consume_is_refused(registry: BackendRegistry, name: str) -> None:
    registry.register(name, registry.get(ANTHROPIC))
    with pytest.raises(ConfigurationError, match="cannot be a queue"):
        await PLACED_PAR((noop, Placement(endpoint=name)), registry=registry).run()


@pytest.mark.parametrize("name", ["with space", "q\"uo'te", "a/b:c"])
async def test_one_worker_of_one_oddly_named_queue(name: str) -> None:
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
        with Worker(APP, name, env=env):
            backend = CeleryBackend(make_app("tests", broker_url=server.url), queue=name)
            results = await asyncio.gather(*(backend.execute(Give(n), ProcessContext("give")) for n in range(50)))
            assert [result.value for result in results] == list(range(50))
            await backend.aclose()


# Health ------------------------------------------------------------------------------------------


async def test_health_check_is_quick_though_redis_is_stopped() -> None:
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
        with Worker(APP, "health", env=env):
            warm = CeleryBackend(make_app("tests", broker_url=server.url), queue="health")
            assert await warm.health_check()
            cold = CeleryBackend(make_app("other", broker_url=server.url), queue="health")
            os.kill(server.pid, signal.SIGSTOP)
            try:
                for backend in (warm, cold):
                    started = time.monotonic()
                    assert not await backend.health_check()
                    assert time.monotonic() - started < 10
            finally:
                os.kill(server.pid, signal.SIGCONT)
            assert await warm.health_check()
            await warm.aclose()
            await cold.aclose()


# Deadlines at the edge ---------------------------------------------------------------------------


@pytest.mark.parametrize("deadline", [1e16, 1e300])
async def test_a_deadline_beyond_all_time_is_none(registry: BackendRegistry, deadline: float) -> None:
    result = await PLACED_PAR((Give(1), ANTHROPIC), deadline=deadline, registry=registry).run()
    assert result.value == [1]


async def test_a_deadline_that_is_over_before_it_begins(registry: BackendRegistry) -> None:
    result = await PLACED_PAR((Give(1), ANTHROPIC), noop, on_failure=COLLECT, deadline=1e-9, registry=registry).run()
    errors = [item.failure.error for item in result.results]
    assert [type(error) for error in errors] == [DeadlineExceeded] * 2
    assert "waiting for its turn" in str(errors[0])


async def test_a_stopped_redis_holds_nobody_beyond_deadline_and_grace() -> None:
    with RedisServer() as server:
        backend = CeleryBackend(make_app("tests", broker_url=server.url), grace=0.4)
        registry = registry_of(backend, "anthropic")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            result = await PLACED_PAR(
                (Give(1), ANTHROPIC), (noop, ANTHROPIC), on_failure=COLLECT, deadline=0.3, registry=registry
            ).run()
            assert time.monotonic() - started < 10
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert [type(item.failure.error) for item in result.results] == [DeadlineExceeded] * 2
        await backend.aclose()


async def test_a_redis_that_refuses_is_an_error_and_not_a_wait() -> None:
    with RedisServer() as server:
        server.command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-subscribe")
        url = server.url.replace("redis://", "redis://limited:secret@")
        backend = CeleryBackend(make_app("tests", broker_url=url))
        with pytest.raises(BackendUnavailableError, match="subscribe") as caught:
            async with asyncio.timeout(5):
                await backend.execute(noop, ProcessContext("noop", placement=ANTHROPIC))
        assert "secret" not in str(caught.value)
        await backend.aclose()


# Workers that are set up wrongly -----------------------------------------------------------------


def test_a_worker_without_the_module_says_which_setting_named_it(fleet: Fleet) -> None:
    command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "-Q", "x"]
    env = {**os.environ, **fleet.env, "STBASS_INCLUDE": "no.such.module"}
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode != 0
    assert "ConfigurationError: cannot import 'no.such.module'" in ended.stderr
    assert "STBASS_INCLUDE" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-e", ""], "--endpoint ''"),
        (["-e", "a,b"], "--endpoint 'a,b'"),
        (["-e", "a", "-l", "LOUD"], "--log-level 'LOUD'"),
        (["-e", "a", "-I", "no.such.module"], "--include 'no.such.module'"),
    ],
)
def test_the_worker_command_refuses_wrong_options_in_one_line(arguments: list[str], said: str) -> None:
    command = [sys.executable, "-m", "stbass.cli", "worker", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 3
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
