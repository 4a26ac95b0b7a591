"""Nothing that a process raises, returns, checkpoints or says ends its worker, or keeps its slot, lease or message."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from stbass._process.context import Composable, ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend
from stbass.backends.pools import ProcessPoolBackend, ThreadBackend
from stbass.errors import NotTransportable, WorkerLostError
from stbass.observe import events
from stbass.par import PAR
from stbass.placement import PLACED_PAR, BackendRegistry
from stbass.result import FailurePolicy, FailureReport, ProcessResult
from stbass.seq import SEQ
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP, Fleet
from tests.support.agents import Give, noop
from tests.support.poison import ERRORS, HALF, IN_THREADS, VALUES, CancelAll, Raise, Return, Tell, cancel_all, stop_loop
from tests.support.waiting import until

COLLECT = FailurePolicy.COLLECT
POOLS = ["asyncio", *(pytest.param(pool, marks=pytest.mark.slow) for pool in ("prefork", "threads", "solo"))]
ALL: list[Composable] = [
    *(Raise(kind).with_name(f"raise {kind}") for kind in ERRORS),
    *(Return(kind).with_name(f"return {kind}") for kind in VALUES),
    *(Tell(kind).with_name(f"tell {kind}") for kind in VALUES),
    *IN_THREADS,
    Raise("half an emoji").with_name(f"called {HALF}"),
    Return("a text").with_name(f"{HALF} is its name"),
    SEQ(PAR(Raise("SystemExit"), Give(1))).with_name("inside a composition"),
    PAR(*(Raise(kind) for kind in ERRORS if kind != "20 MiB")).with_name("all at once"),
]


@pytest.fixture(scope="module", params=POOLS)
def poisoned(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A fleet with one worker, of each pool, that has the processes which are hard to write about."""
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": "20"}
        options = {"pool": request.param, "concurrency": 4 if request.param != "asyncio" else 8}
        with Worker(APP, "q", env=env, include=["tests.support.poison"], args=["-E"], **options) as worker:
            yield Fleet(server, {"q": worker})


@pytest.fixture
async def everywhere(poisoned: Fleet) -> AsyncIterator[BackendRegistry]:
    backend = CeleryBackend(poisoned.app(), lease=20.0)
    made = BackendRegistry()
    made.register("q", backend)
    yield made
    await backend.aclose()


def _checked(results: list[ProcessResult]) -> None:
    """What holds of every result, wherever it was made."""
    for process, result in zip(ALL, results, strict=True):
        if result.is_ok:
            assert process.name.startswith("return") or HALF in process.name
            continue
        failure = result.failure
        for text in (failure.summary, failure.detailed, repr(failure), repr(result)):
            assert text.encode()
    report = FailureReport.of(results)
    assert (report.summary() + str(report.to_dict()) + "".join(report.recommendations())).encode()
    assert report.pattern_analysis()


async def test_what_a_process_raises_returns_and_says_ends_nothing_on_a_worker(
    poisoned: Fleet, everywhere: BackendRegistry
) -> None:
    worker = poisoned.workers["q"]
    pid = worker.pid
    seen: list[events.Event] = []
    place = Placement(endpoint="q")
    with events.subscribe(seen.append):
        async with asyncio.timeout(60):
            outcome = await PLACED_PAR(
                *((process, place) for process in ALL), on_failure=COLLECT, registry=everywhere
            ).run()
    _checked(list(outcome.results))
    # The plain ones arrive as they are: what can be written is.
    by_name = {process.name: result for process, result in zip(ALL, outcome.results, strict=True)}
    assert by_name["return a text"].value == HALF
    assert by_name["return a key"].value == {HALF: HALF}
    assert by_name["raise half an emoji"].failure.error.args == (f"the model said: {HALF}",)
    assert by_name["raise a note"].failure.error.__notes__ == [f"note {HALF}"]
    assert by_name["tell a text"].failure.checkpoint == HALF
    assert isinstance(by_name["return an object"].failure.error, NotTransportable)
    values = [result for name, result in by_name.items() if name.startswith("return ") and " by __" in name]
    assert len(values) == 12
    assert all(isinstance(result.failure.error, NotTransportable) for result in values)
    assert [result.run.attempt for result in outcome.results if result.run is not None] == [1] * len(ALL)
    # Nothing is left behind, and all slots serve the next ones.
    assert (worker.running, worker.pid) == (True, pid)
    await until(lambda: poisoned.server.command("ZCARD", "stbass:leases") == 0)
    await until(lambda: poisoned.server.command("HLEN", "unacked") == 0)
    async with asyncio.timeout(10):
        after = await PLACED_PAR(*((each, place) for each in (stop_loop, *[noop] * 16)), registry=everywhere).run()
    assert len(after.results) == 17
    assert "Traceback" not in "".join(line for line in worker.log.splitlines() if "CRITICAL" in line)


async def test_a_worker_that_cannot_go_on_ends_with_a_code_and_a_word() -> None:
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_LEASE": "1"}
        with Worker(APP, "q", env=env, include=["tests.support.poison"]) as worker:
            backend = CeleryBackend(Fleet(server, {}).app(), queue="q", lease=1.0, max_attempts=1)
            running = asyncio.create_task(backend.execute(cancel_all, ProcessContext("ends it")))
            await until(lambda: not worker.running, timeout=20)
            assert worker.exit_code == 1
            assert "ends with exit code 1" in worker.log
            async with asyncio.timeout(20):
                assert isinstance((await running).failure.error, WorkerLostError)
            await backend.aclose()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param([signal.SIGTERM], [], id="while it is stopped", marks=pytest.mark.slow),
        pytest.param([], [signal.SIGTERM], id="then SIGTERM"),
        pytest.param([], [signal.SIGQUIT], id="then SIGQUIT", marks=pytest.mark.slow),
    ],
)
async def test_its_code_tells_so_also_when_somebody_stops_it(
    before: list[signal.Signals], after: list[signal.Signals], tmp_path: Path
) -> None:
    when, started = tmp_path / "when", tmp_path / "started"
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "TEST_GRACE": "60"}
        with Worker(APP, "q", env=env, include=["tests.support.poison"]) as worker:
            async with aclosing(CeleryBackend(Fleet(server, {}).app(), queue="q", max_attempts=1)) as backend:
                process = CancelAll(str(when), str(started))
                running = asyncio.create_task(backend.execute(process, ProcessContext("ends it")))
                await until(started.exists, timeout=30)
                for number in before:
                    worker.send_signal(number)
                    await until(lambda: "shutdown (MainProcess)" in worker.log, timeout=30)
                when.touch()
                await until(lambda: "ends with exit code 1" in worker.log, timeout=30)
                for number in after:
                    worker.send_signal(number)
                await until(lambda: not worker.running, timeout=30)
                assert worker.exit_code == 1
                running.cancel()
                await asyncio.wait([running])


def _may_be_ctrl_c(process: Composable) -> bool:
    """Whether what is read of it in the main thread of a program raises what Ctrl-C would raise there."""
    return "KeyboardInterrupt by" in process.name


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ThreadBackend, ProcessPoolBackend])
async def test_nor_in_a_pool_here(kind: type[ThreadBackend]) -> None:
    async with kind(2) as backend:
        results = []
        for process in ALL:
            if _may_be_ctrl_c(process):
                results.append(ProcessResult.fail(ValueError()))
                continue
            async with asyncio.timeout(10):
                try:
                    results.append(await backend.execute(process, ProcessContext(process.name)))
                except asyncio.CancelledError:
                    assert process.name == "raise CancelledError"
                    results.append(ProcessResult.fail(ValueError()))
        _checked(results)
        assert (await backend.execute(noop, ProcessContext("after"))).is_ok


async def test_nor_on_the_event_loop_here() -> None:
    # SystemExit and KeyboardInterrupt end the program that runs them, as everywhere in Python.
    ending = ("raise SystemExit", "raise KeyboardInterrupt", "inside a composition", "all at once")
    chosen = [process for process in ALL if process.name not in ending and not _may_be_ctrl_c(process)]
    async with asyncio.timeout(30):
        outcome = await PAR(*chosen, on_failure=COLLECT).run()
        results = dict(zip((process.name for process in chosen), outcome.results, strict=True))
    _checked([results.get(process.name, ProcessResult.fail(ValueError())) for process in ALL])
    assert results["raise GeneratorExit"].is_fail
    assert results["raise a base exception"].is_fail
    async with asyncio.timeout(10):
        halted = await PAR(Give(1, seconds=5), Raise("no attribute can be read")).run()
    assert [result.is_fail for result in halted.results] == [True, True]
