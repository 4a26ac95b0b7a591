"""Ordinary tasks as processes, and processes in Celery's canvas and under its schedules."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.result import AsyncResult

from stbass import PAR, SEQ, FailurePolicy, Process
from stbass.backends.celery import CeleryTaskProcess, install, signature
from stbass.errors import ConfigurationError, DeadlineExceeded, NotTransportable, RemoteError
from stbass.process import ProcessContext
from stbass.testing import RedisServer, Worker
from tests.support.canvas import both, dies_once, double, fails, kind_of, pair, slow, spread, two, where
from tests.support.canvas_app import make_shop
from tests.support.waiting import until

APP = "tests.support.canvas_app"
COLLECT = FailurePolicy.COLLECT


def env_of(server: RedisServer) -> dict[str, str]:
    return {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}


@pytest.fixture(scope="module", params=["asyncio", pytest.param("prefork", marks=pytest.mark.slow)])
def worker(server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Worker]:
    """A worker that runs one thing at a time."""
    with Worker(
        APP, "canvas", env=env_of(server), pool=request.param, concurrency=1, args=["--prefetch-multiplier=1"]
    ) as made:
        yield made


@pytest.fixture
def shop(server: RedisServer) -> Iterator[SimpleNamespace]:
    """The application in this program."""
    yield make_shop(server.url)
    # Celery's AsyncResult unsubscribes when it is collected, which it must be while the server is there.
    gc.collect()


async def got(result: AsyncResult) -> Any:
    # Here: Celery waits for a group only in the thread that has sent it.
    return result.get(timeout=60)


# A task as a process -----------------------------------------------------------------------------


async def test_tasks_stand_in_compositions(worker: Worker, shop: SimpleNamespace) -> None:
    add = CeleryTaskProcess(shop.add)
    assert add.name == "canvas.add"
    result = await PAR(add(1, 2), add(2), add(left=3, right=4).with_name("last")).run()
    assert result.value == [3, 12, 7]
    assert (await SEQ(double(4), add.with_arguments(right=5), double).run()).value == 26
    assert (await SEQ(add).run(1)).value == 11


async def test_a_task_that_fails_is_a_failure_with_its_exception(worker: Worker, shop: SimpleNamespace) -> None:
    result = await PAR(CeleryTaskProcess(shop.fail)("gone"), CeleryTaskProcess(shop.add)(1), on_failure=COLLECT).run()
    error = result.failures[0].error
    assert type(error) is LookupError
    assert error.args == ("gone",)
    assert "in fail" in error.__notes__[0]
    assert result.failures[0].process_name == "canvas.fail"
    assert result.results[1].value == 11


@pytest.mark.parametrize(
    "bind", [lambda add: add(1, 2, 3), lambda add: add(lft=1), lambda add: add(1, left=1)], ids=range(3)
)
def test_wrong_arguments_are_refused_when_bound(shop: SimpleNamespace, bind: Any) -> None:
    with pytest.raises(TypeError, match=r"canvas\.add.*left, right"):
        bind(CeleryTaskProcess(shop.add))


async def test_a_missing_argument_is_refused_before_anything_is_sent(
    server: RedisServer, shop: SimpleNamespace
) -> None:
    with pytest.raises(TypeError, match="needs `left`"):
        await PAR(CeleryTaskProcess(shop.add)).run()
    assert not server.command("LLEN", "canvas")


async def test_signatures_chains_and_chords_are_processes_too(worker: Worker, shop: SimpleNamespace) -> None:
    add, total = shop.add, shop.total
    chained = CeleryTaskProcess(chain(add.s(1), add.s(2)))
    counted = CeleryTaskProcess(chord([add.s(n, 1) for n in range(3)], total.s()))
    result = await PAR(CeleryTaskProcess(add.s(5))(1), chained(10), counted).run()
    assert result.value == [6, 13, 6]
    broken = await PAR(CeleryTaskProcess(chain(shop.fail.s("first"), add.s(2))), deadline=60).run()
    assert isinstance(broken.failures[0].error, LookupError)


async def test_many_tasks_are_waited_for_on_one_connection(
    server: RedisServer, worker: Worker, shop: SimpleNamespace
) -> None:
    tasks = CeleryTaskProcess(shop.add)
    running = asyncio.create_task(PAR(*(tasks(n) for n in range(100))).run())
    most = 0
    while not running.done():
        most = max(most, len(re.findall(r" sub=[1-9]", str(server.command("CLIENT", "LIST")))))
        await asyncio.wait([running], timeout=0.05)
    assert running.result().value == [n + 10 for n in range(100)]
    # The worker listens too, to what is its own, and Celery to what this program sends.
    assert most <= 8


async def test_a_task_that_is_taken_after_the_deadline_does_not_start(
    server: RedisServer, worker: Worker, shop: SimpleNamespace
) -> None:
    blocking = shop.dawdle.delay(1.5)
    result = await PAR(CeleryTaskProcess(shop.dawdle)(0.0), deadline=0.3).run()
    assert isinstance(result.failures[0].error, DeadlineExceeded)
    assert await got(blocking) == "done"
    assert (await PAR(CeleryTaskProcess(shop.add)(1)).run()).value == [11]


async def test_a_cancelled_task_is_revoked(server: RedisServer, worker: Worker, shop: SimpleNamespace) -> None:
    # The worker runs one and has taken another: it hears that the third is revoked before it takes it.
    before = [shop.dawdle.delay(2.0) for _ in range(2)]
    await until(lambda: server.command("LLEN", "canvas") == 0, timeout=30)
    waiting = asyncio.create_task(PAR(CeleryTaskProcess(shop.dawdle)(0.0, "canvas:ran")).run())
    await until(lambda: server.command("LLEN", "canvas") == 1, timeout=30)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert [await got(one) for one in before] == ["done"] * 2
    assert (await PAR(CeleryTaskProcess(shop.add)(1)).run()).value == [11]
    assert server.command("GET", "canvas:ran") is None


@pytest.mark.slow
async def test_results_elsewhere_than_in_redis_are_waited_for(tmp_path: Path) -> None:
    results = f"db+sqlite:///{tmp_path}/results.db"
    with RedisServer() as own:
        shop = make_shop(own.url, results)
        with Worker(APP, "canvas", env={**env_of(own), "TEST_RESULTS": results}, concurrency=1):
            add, fail = CeleryTaskProcess(shop.add), CeleryTaskProcess(shop.fail)
            # Before two make the tables at the same time.
            assert await got(shop.add.delay(0)) == 10
            result = await PAR(add(1), add(2), fail("no"), on_failure=COLLECT, deadline=60).run()
        gc.collect()
    assert [one.value for one in result.results[:2]] == [11, 12]
    assert isinstance(result.failures[0].error, LookupError)


@pytest.mark.parametrize("wrong", ["canvas.add", None, 3, double], ids=range(4))
def test_what_is_no_task_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="takes a Celery task"):
        CeleryTaskProcess(wrong)


async def test_what_has_no_result_to_wait_for_is_refused(shop: SimpleNamespace) -> None:
    with pytest.raises(ConfigurationError, match=r"canvas\.silent.*ignore_result"):
        CeleryTaskProcess(shop.silent)
    with pytest.raises(TypeError, match="PAR"):
        CeleryTaskProcess(group(shop.add.s(1), shop.add.s(2)))
    resultless = Celery("resultless", broker="redis://127.0.0.1:1/0", set_as_current=False)

    @resultless.task(name="no")
    def task() -> None: ...

    result = await PAR(CeleryTaskProcess(task)).run()
    assert "no result_backend" in str(result.failures[0].error)


async def test_arguments_that_cannot_travel_fail_alone(worker: Worker, shop: SimpleNamespace) -> None:
    add = CeleryTaskProcess(shop.add)
    result = await PAR(add(object()), add(1), on_failure=COLLECT).run()
    assert "object" in str(result.failures[0].error)
    assert result.results[1].value == 11


# A process in a canvas ---------------------------------------------------------------------------


async def test_processes_in_every_form_of_a_canvas(worker: Worker, shop: SimpleNamespace) -> None:
    add, total, app = shop.add, shop.total, shop.app
    assert await got(signature(double(4), app).delay()) == 8
    assert await got(chain(add.s(1), signature(double, app), add.s(100)).delay()) == 122
    assert await got(group(signature(double(n), app) for n in range(4)).delay()) == [0, 2, 4, 6]
    assert await got(chord([signature(double(n), app) for n in range(4)], total.s()).delay()) == 12
    assert await got(chord([add.s(n) for n in range(3)], signature(kind_of, app)).delay()) == ["list", "[10, 11, 12]"]
    assert await got(chain(add.s(1), signature(double(3), app).set(immutable=True)).delay()) == 6
    assert await got(signature(both, app).delay()) == [2, 4]
    assert await got(signature(SEQ(pair(1), kind_of), app).delay()) == ["tuple", "(1, 2)"]


async def test_values_that_json_does_not_have_arrive_exactly(worker: Worker, shop: SimpleNamespace) -> None:
    handed_on = chain(signature(pair(1), shop.app), signature(kind_of, shop.app)).delay()
    assert await got(handed_on) == ["tuple", "(1, 2)"]


async def test_placements_inside_of_it_hold_though_the_worker_runs_one_thing(
    worker: Worker, shop: SimpleNamespace
) -> None:
    if "prefork" in worker.log:
        pytest.skip("a stock pool of one place waits for itself, and says so: test_fleet_blocked.py")
    assert await got(signature(spread(10), shop.app).delay()) == [20, 22, 24]


async def test_it_goes_where_it_is_placed_and_knows_it(
    server: RedisServer, worker: Worker, shop: SimpleNamespace
) -> None:
    made = signature(where, shop.app)
    assert (made.options["queue"], made.options["shadow"]) == ("canvas", "where")
    assert signature(where, shop.app, queue="elsewhere").options["queue"] == "elsewhere"
    assert await got(made.delay()) == "opus @ canvas"


async def test_a_process_that_fails_breaks_the_chain(worker: Worker, shop: SimpleNamespace) -> None:
    broken = chain(signature(fails, shop.app), shop.add.s(1)).delay()
    with pytest.raises(Exception, match="KeyError: 'lost'") as caught:
        await got(broken)
    assert type(caught.value).__name__ == RemoteError.__name__


async def test_what_a_chain_hands_on_and_it_does_not_take_is_a_failure(worker: Worker, shop: SimpleNamespace) -> None:
    with pytest.raises(Exception, match="must be int, got a list"):
        await got(chain(signature(kind_of("x"), shop.app), signature(double, shop.app)).delay())


@pytest.mark.slow
async def test_it_goes_on_from_its_checkpoint_when_its_worker_dies(
    server: RedisServer, shop: SimpleNamespace, tmp_path: Path
) -> None:
    env = {**env_of(server), "TEST_LEASE": "1.0"}
    handle = signature(dies_once(str(tmp_path)), shop.app, queue="dying").delay()
    with Worker(APP, "dying", env=env) as first, Worker(APP, "dying", env=env) as second:
        assert await got(handle) == [2, "half"]
        assert first.running != second.running


@pytest.mark.slow
async def test_under_a_schedule_it_runs_regularly(server: RedisServer, tmp_path: Path) -> None:
    args = ["-B", "-s", str(tmp_path / "schedule")]
    env = {**env_of(server), "TEST_SCHEDULED": "canvas:notes"}
    with Worker(APP, "canvas", env=env, args=args):
        await until(lambda: int(str(server.command("GET", "canvas:notes") or 0)) >= 3, timeout=60)


@pytest.mark.slow
async def test_it_waits_for_the_limit_of_its_endpoint_and_the_canvas_goes_on(
    server: RedisServer, shop: SimpleNamespace
) -> None:
    with Worker(APP, "limited", env=env_of(server)):
        made = [signature(slow(n), shop.app, queue="limited") for n in range(4)]
        assert await got(chord(made, shop.total.s().set(queue="limited")).delay()) == 6
    assert server.command("GET", "canvas:most") == "1"


# Bad input ---------------------------------------------------------------------------------------


def test_what_cannot_be_a_signature_is_refused(shop: SimpleNamespace) -> None:
    with pytest.raises(TypeError, match="a process or a composition, got the function print"):
        signature(print, shop.app)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="two needs `left` and `right`"):
        signature(two, shop.app)
    with pytest.raises(ConfigurationError, match=r"install\(app\)"):
        signature(double(1), Celery("bare", set_as_current=False))

    @Process
    async def inside(ctx: ProcessContext) -> None: ...

    with pytest.raises(NotTransportable, match="inside"):
        signature(inside, shop.app)


@pytest.mark.parametrize("text", ["", "{}", "[]", 3, None, "x" * 1000, '{"name": "x", "process": {"~": "process"}}'])
async def test_what_no_signature_has_made_is_refused_and_harms_nobody(
    worker: Worker, shop: SimpleNamespace, text: Any
) -> None:
    with pytest.raises(Exception, match=r"signature\(\)|cannot be read|not one"):
        await got(shop.app.send_task("stbass.call", kwargs={"process": text}, queue="canvas"))
    assert await got(shop.add.delay(1)) == 11


async def test_a_fleet_that_signs_takes_what_it_has_signed_alone(server: RedisServer) -> None:
    signed = make_shop(server.url, key="0123456789abcdef0123")
    genuine = signature(double(4), signed.app, queue="signed")
    forged = dict(genuine.kwargs, process=genuine.kwargs["process"].replace("4", "5"))
    unsigned = install(Celery("u", broker=server.url, backend=server.url, set_as_current=False))
    with Worker(APP, "signed", env={**env_of(server), "TEST_SIGNING_KEY": "0123456789abcdef0123"}):
        assert await got(genuine.delay()) == 8
        for process in (forged["process"], signature(double(4), unsigned).kwargs["process"]):
            with pytest.raises(Exception, match="sign"):
                await got(signed.app.send_task("stbass.call", kwargs={"process": process}, queue="signed"))
        with pytest.raises(Exception, match="hands on"):
            first, then = (signature(one, signed.app, queue="signed") for one in (double(1), double))
            await got(chain(first, then).delay())
