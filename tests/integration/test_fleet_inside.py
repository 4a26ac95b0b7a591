"""How the fleet works inside: batches, leases, late acknowledgement, checkpoints, other brokers, other applications."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass.backends.celery import CeleryBackend, install, make_app
from stbass.backends.celery.settings import fleet_of
from stbass.errors import ConfigurationError, DeadlineExceeded, NotTransportable
from stbass.placement import PLACED_PAR
from stbass.result import FailurePolicy
from stbass.testing import RedisServer, Worker
from tests.integration.conftest import APP, Fleet, workers_on
from tests.support.agents import Block, Give, Mark, Steps, Swallow, noop
from tests.support.backends import registry_of
from tests.support.waiting import until

PLACE = Placement(endpoint="inside")


@pytest.fixture(scope="module", autouse=True)
def fleet(server: RedisServer) -> Iterator[Fleet]:
    """One worker whose leases are short."""
    with workers_on(server, "inside", env={"TEST_LEASE": "1.0"}, args=["-E"]) as made:
        made.options = {"queue": "inside", "lease": 1.0}
        yield made


def calls(server: RedisServer, command: str) -> int:
    """How often a command was called."""
    stats: dict[str, Any] = server.command("INFO", "commandstats")
    found = stats.get(f"cmdstat_{command}", {"calls": 0})
    return int(found["calls"])


async def test_many_processes_are_few_commands(server: RedisServer, backend: CeleryBackend) -> None:
    await backend.execute(noop, ProcessContext("warm"))
    commands = ("lpush", "subscribe", "evalsha", "brpop", "rpop")
    before = {command: calls(server, command) for command in commands}
    results = await asyncio.gather(*(backend.execute(noop, ProcessContext("noop")) for _ in range(1000)))
    assert all(result.is_ok for result in results)
    spent = {command: calls(server, command) - before[command] for command in commands}
    # Published in batches, heard of over one subscription, taken, claimed and stored in batches.
    assert spent["lpush"] <= 100
    # On a busy machine those that nobody has started within the grace are listened for too: all with one command.
    assert spent["subscribe"] <= 5
    assert spent["evalsha"] <= 200
    assert spent["brpop"] <= 100


async def test_one_subscription_for_everything(server: RedisServer, backend: CeleryBackend) -> None:
    running = [asyncio.create_task(backend.execute(Give(n, seconds=0.5), ProcessContext("give"))) for n in range(50)]
    await until(lambda: server.command("ZCARD", "stbass:leases") == 50)
    channels = server.command("PUBSUB", "CHANNELS", "stbass:reply:*")
    assert len(channels) == 1
    await asyncio.gather(*running)


async def test_a_message_is_acknowledged_after_its_result_is_stored(
    server: RedisServer, backend: CeleryBackend
) -> None:
    ctx = ProcessContext("give")
    running = asyncio.create_task(backend.execute(Give(1, seconds=0.5), ctx))
    await until(lambda: server.command("ZCARD", "stbass:leases"))
    assert server.command("HLEN", "unacked") == 1
    assert server.command("EXISTS", f"celery-task-meta-{ctx.process_id}") == 0
    await running
    assert server.command("EXISTS", f"celery-task-meta-{ctx.process_id}") == 1
    await until(lambda: server.command("HLEN", "unacked") == 0)
    assert server.command("ZCARD", "unacked_index") == 0


async def test_leases_are_renewed_for_all_in_one_command(server: RedisServer, backend: CeleryBackend) -> None:
    count = 100
    running = [asyncio.create_task(backend.execute(Steps(1, 2.5), ProcessContext("steps"))) for _ in range(count)]
    await until(lambda: server.command("ZCARD", "stbass:leases") == count)
    before = calls(server, "evalsha")
    results = await asyncio.gather(*running)
    # They ran for longer than two leases, and ran once.
    assert [result.value["attempt"] for result in results] == [1] * count
    # Leases are renewed three times a second; each process by itself would be hundreds.
    assert calls(server, "evalsha") - before < 80


async def test_a_checkpoint_is_in_redis_though_the_event_loop_is_blocked(
    server: RedisServer, backend: CeleryBackend
) -> None:
    ctx = ProcessContext("block")
    running = asyncio.create_task(backend.execute(Block(3.0), ctx))
    found = await until(lambda: server.command("HGET", f"stbass:run:{ctx.process_id}", "checkpoint"))
    assert json.loads(found) == "before"
    # The process goes on blocking, for longer than its lease, and keeps it.
    assert not running.done()
    assert (await running).value == 1


async def test_a_process_that_ignores_its_cancelling_is_given_up_after_the_grace(server: RedisServer) -> None:
    backend = CeleryBackend(make_app("tests", broker_url=server.url), queue="inside", grace=0.6)
    registry = registry_of(backend, "inside")
    started = time.monotonic()
    result = await PLACED_PAR(
        (Swallow(6.0), PLACE), on_failure=FailurePolicy.COLLECT, deadline=0.4, registry=registry
    ).run()
    assert time.monotonic() - started < 5.5
    error = result.failures[0].error
    assert isinstance(error, DeadlineExceeded)
    assert error.phase == "running"
    await backend.aclose()


async def test_the_size_limit_holds_both_ways(server: RedisServer) -> None:
    app = make_app("tests", broker_url=server.url, stbass_max_message_bytes=2048)
    backend = CeleryBackend(app, queue="inside")
    with pytest.raises(NotTransportable, match="2,048"):
        await backend.execute(Give("x" * 3000), ProcessContext("large"))
    await backend.aclose()


async def test_large_values_travel(backend: CeleryBackend) -> None:
    value = {"text": "é" * 300_000, "bytes": os.urandom(200_000)}
    assert (await backend.execute(Give(value), ProcessContext("large"))).value == value


async def test_events_of_tasks_are_sent_with_the_process_s_name(server: RedisServer, backend: CeleryBackend) -> None:
    app = make_app("tests", broker_url=server.url)
    seen: list[dict[str, Any]] = []
    receivers: list[Any] = []

    def capture() -> None:
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers={"*": seen.append})
            receivers.append(receiver)
            receiver.capture(limit=None, timeout=None, wakeup=False)

    listening = threading.Thread(target=capture)
    patterns = server.command("PUBSUB", "NUMPAT")
    listening.start()
    await until(lambda: server.command("PUBSUB", "NUMPAT") > patterns)
    ctx = ProcessContext("named-process")
    assert (await backend.execute(noop.with_name("named-process"), ctx)).is_ok
    mine = await until(
        lambda: [e for e in list(seen) if e.get("uuid") == ctx.process_id and e["type"] == "task-succeeded"]
    )
    received = next(e for e in list(seen) if e.get("uuid") == ctx.process_id and e["type"] == "task-received")
    # Who counts by name has one, whatever names processes are given; their own is among the arguments.
    assert received["name"] == "tests.support.agents:noop"
    assert "named-process" in received["args"]
    assert "inside" in received["args"]
    assert mine[0]["result"] == "None"
    assert {"task-received", "task-started", "task-succeeded"} <= {
        e["type"] for e in list(seen) if e.get("uuid") == ctx.process_id
    }
    receivers[0].should_stop = True
    await asyncio.to_thread(listening.join, 10)


async def test_an_existing_application_stays_as_it_is(tmp_path: Path) -> None:
    with RedisServer() as server:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
        with Worker("tests.support.existing_app", "own", "existing", env=env, pool="threads", concurrency=4):
            script = (
                "import asyncio\n"
                "from tests.support.existing_app import app, CHANGED, multiply\n"
                "from tests.support.agents import Give\n"
                "from stbass.backends.celery import CeleryBackend\n"
                "from stbass._process.context import ProcessContext\n"
                "async def main():\n"
                "    backend = CeleryBackend(app, queue='existing')\n"
                "    print((await backend.execute(Give((1, 2)), ProcessContext('give'))).value)\n"
                "    await backend.aclose()\n"
                "print(sorted(CHANGED), multiply.delay(6, 7).get(timeout=10))\n"
                "asyncio.run(main())\n"
            )
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", script],
                env={**os.environ, **env},
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
    assert done.stdout.splitlines() == ["[] 42", "(1, 2)"]


async def test_another_broker_works_too(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    for name in ("queue", "processed", "control"):
        (folder / name).mkdir(parents=True)
    with RedisServer() as server:
        env = {
            "STBASS_BROKER_URL": "filesystem://",
            "STBASS_RESULT_BACKEND": server.url,
            "TEST_BROKER_FOLDER": str(folder),
        }
        app = make_app(
            "tests",
            broker_url="filesystem://",
            result_backend=server.url,
            broker_transport_options=_folders(str(folder)),
        )
        backend = CeleryBackend(app, queue="files")
        with Worker(APP, "files", env=env):
            assert await backend.health_check()
            assert (await backend.execute(Give((1, 2)), ProcessContext("give"))).value == (1, 2)
            log = tmp_path / "log"
            # A filesystem is asked for messages once a second.
            ctx = ProcessContext("parent").child("mark", deadline_at=time.monotonic() + 3.0)
            result = await backend.execute(Mark(str(log)), ctx)
            assert isinstance(result.failure.error, DeadlineExceeded)
            assert "ended" in log.read_text()
        await backend.aclose()


def _folders(folder: str) -> dict[str, str]:
    return {
        "data_folder_in": f"{folder}/queue",
        "data_folder_out": f"{folder}/queue",
        "control_folder": f"{folder}/control",
    }


@pytest.mark.parametrize(
    ("conf", "named"),
    [
        ({"result_backend": "db+sqlite:///results.db"}, "result_backend"),
        ({"stbass_lease": 0}, "stbass_lease"),
        ({"stbass_lease": "long"}, "stbass_lease must be a number from 0.1 to 86400, got 'long'"),
        ({"stbass_lease": 1e308}, "stbass_lease must be a number from 0.1 to 86400, got 1e"),
        ({"stbass_lease": 10**400}, "stbass_lease must be a number from 0.1 to 86400, got 1000"),
        ({"stbass_lease": math.inf}, "stbass_lease"),
        ({"stbass_grace": math.nan}, "stbass_grace must be a number from 0 to 86400, got nan"),
        ({"stbass_grace": -1}, "stbass_grace"),
        ({"stbass_max_message_bytes": 1}, "stbass_max_message_bytes"),
        ({"stbass_max_message_bytes": math.inf}, "stbass_max_message_bytes must be a number from 1024 to 536870912"),
        ({"stbass_max_message_bytes": 2**40}, "stbass_max_message_bytes"),
        ({"result_expires": math.nan}, "result_expires must be a timedelta, or a number of seconds from 0"),
        ({"result_expires": -1}, "result_expires"),
        ({"result_expires": "a day"}, "result_expires"),
        ({"result_expires": True}, "result_expires"),
        ({"broker_transport_options": {"socket_timeout": 1e308}}, "must be a number from 0.001 to 1,000,000"),
        ({"broker_transport_options": {"max_connections": 1.5}}, "must be a whole number from 1 to 1,000,000"),
        ({"stbass_unknown": 1}, "stbass_unknown"),
        ({"include": "one.module"}, "include"),
        ({"broker_url": "sentinel://localhost:26379"}, "master"),
        ({"broker_url": "redis:/:secret@localhost/0"}, r"broker_url='redis:\*\*\*@localhost/0' is not a URL"),
        (
            {"result_backend": "redis//:secret@localhost/0"},
            r"'redis//:\*\*\*@localhost/0' is not a Redis",
        ),
    ],
)
def test_wrong_settings_are_refused_by_name(conf: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        make_app("tests", **conf)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["lease", "grace"])
@pytest.mark.parametrize("value", [0, -1, 1e308, 10**400, math.inf, math.nan, "5", None, True])
def test_durations_of_a_backend_are_refused_with_what_they_may_be(name: str, value: Any) -> None:
    least = {"lease": "0.1", "grace": "0.001"}[name]
    with pytest.raises(ConfigurationError, match=f"{name} must be a number of seconds from {least} to 86400") as caught:
        CeleryBackend(make_app("tests"), **{name: value})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["", " ", " a", "a ", "a,b", "a\0", "a\nb", "\u202e", "\udc80", "x" * 1001, 5, b"a"])
def test_names_that_no_worker_can_be_told_to_consume_are_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="a queue's name has at most 1,000 characters"):
        CeleryBackend(make_app("tests"), queue=name)


@pytest.mark.parametrize(
    ("expires", "seconds"), [(None, 0), (0, 0), (0.5, 1), (90, 90), ("90", 90), (timedelta(minutes=2), 120)]
)
def test_the_time_that_results_are_kept_is_what_celery_takes(expires: Any, seconds: int) -> None:
    assert fleet_of(make_app("tests", result_expires=expires)).settings.result_ttl == seconds


def test_an_application_without_results_is_refused() -> None:
    from celery import Celery

    app = install(Celery("plain", broker="redis://localhost"))
    with pytest.raises(ConfigurationError, match="result_backend"):
        # As its worker does before it takes anything.
        app.loader.import_default_modules()
    with pytest.raises(ConfigurationError, match="result_backend"):
        CeleryBackend(app)


def test_passwords_never_show() -> None:
    app = make_app("tests", broker_url="redis://user:hush@localhost:1/0", stbass_signing_key="k" * 40)
    backend = CeleryBackend(app, queue="q")
    for shown in (repr(backend), repr(fleet_of(app).settings), str(fleet_of(app).settings.backend)):
        assert "hush" not in shown
        assert "kkkk" not in shown


def test_importing_stbass_needs_neither_celery_nor_redis() -> None:
    code = "import sys, stbass, stbass.placement; print(sorted({'celery', 'redis', 'kombu'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[]"
