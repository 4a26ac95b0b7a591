"""Processes of components on a fleet whose workers and whose Redis die: signed, behind a password, again and again."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stbass.backends.celery import CeleryBackend, make_app
from stbass.dataflow import CeleryProcess, LocalProcess, ProcessBuilder, Status
from stbass.dataflow.spec.model import loads
from stbass.dataflow.state import SqliteStateBackend
from stbass.errors import BackendUnavailableError, JobFinishedError, SignatureError, StateLostError, WorkerLostError
from stbass.testing import RedisServer
from tests.integration.conftest import Fleet, workers_on
from tests.support.dataflow_fleet import LEASE
from tests.support.dataflow_orders import LIBRARY, expected, model, write_orders

ROOT = Path(__file__).parents[2]
PASSWORD = "open-sesame"
KEY = "a-key-for-the-tests-of-sixteen-or-more"
ENDPOINTS = ("desk", "shop", "bank")
PLACEMENT = {"orders": "desk", "sums": "desk", "multiply": "shop", "purse": "bank", "tithe": "bank"}
SECONDS = 30
INCLUDE = ["tests.support.dataflow_orders", LIBRARY]


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """A Redis with a password, and a worker for each endpoint, which all have a signing key."""
    with RedisServer(password=PASSWORD, persistent=True) as server:
        env = {"TEST_LEASE": str(LEASE), "TEST_GRACE": "0.5", "TEST_SIGNING_KEY": KEY}
        with workers_on(server, *ENDPOINTS, env=env, include=INCLUDE, concurrency=2) as made:
            yield made


def backend_of(fleet: Fleet) -> CeleryBackend:
    return CeleryBackend(fleet.app(stbass_lease=LEASE, stbass_signing_key=KEY), lease=LEASE)


class Watched(CeleryProcess):
    """Tells when a checkpoint is safe."""

    def watch(self) -> asyncio.Event:
        """Set at the next checkpoint."""
        self.safe = asyncio.Event()
        return self.safe

    async def _committed(self, n: int) -> None:
        await super()._committed(n)
        if hasattr(self, "safe"):
            self.safe.set()


def orders(backend: CeleryBackend, folder: Path, pause: float = 0.0) -> Watched:
    """The model of orders in three groups, as a job that lasts."""
    made = ProcessBuilder.build(loads(model(folder, pause=pause)))
    assert isinstance(made, LocalProcess)
    return Watched(
        made.components.values(),
        made.connectors.values(),
        name="orders",
        state=SqliteStateBackend(folder / "jobs.db", job_id="Job_orders00"),
        placement=PLACEMENT,
        backend=backend,
        checkpoint_every=0.05,
    )


async def announced(backend: CeleryBackend) -> None:
    """Return when the fleet knows of every worker, and none of them runs anything."""
    async with asyncio.timeout(10):
        while sum(not one.running for one in await backend.workers()) < len(ENDPOINTS):  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # what other processes do cannot wake us


@pytest.mark.slow
async def test_workers_killed_again_and_again_change_nothing_in_the_file(fleet: Fleet, tmp_path: Path) -> None:
    # given orders that take some seconds
    rows = 400
    write_orders(tmp_path / "orders.csv", rows)
    dice = random.Random(7)
    victims = list(ENDPOINTS)
    dice.shuffle(victims)
    backend = backend_of(fleet)
    runs = 0
    ended = noticed = 0.0

    def end() -> None:
        nonlocal ended
        ended = time.monotonic()
        assert victim is not None
        # one of them is told to end
        fleet.workers[victim].send_signal(signal.SIGTERM if runs == 2 else signal.SIGKILL)

    # when, in each run, another worker ends at some moment after a checkpoint
    async with asyncio.timeout(90):
        for victim in [*victims, None]:
            runs += 1
            await announced(backend)
            process = orders(backend, tmp_path, pause=0.01)
            try:
                async with process:
                    safe = process.watch()
                    running = asyncio.create_task(process.run())
                    if victim is not None:
                        await safe.wait()
                        asyncio.get_running_loop().call_later(dice.uniform(0.0, 0.7), end)
                    try:
                        await running
                    finally:
                        noticed = time.monotonic()
            except* WorkerLostError as group:
                lost = [one.worker for one in group.exceptions if isinstance(one, WorkerLostError)]
                assert (lost, process.status) == ([victim and fleet.workers[victim].name], Status.FAILED)
                assert noticed - ended < 2 * LEASE + 1
                assert victim is not None
                await asyncio.to_thread(fleet.workers[victim].wait, 10)
                await asyncio.to_thread(fleet.workers[victim].start)
            else:
                break
    # then the file is as if nothing had happened
    assert (runs, process.status) == (4, Status.COMPLETED)
    assert (tmp_path / "sums.csv").read_bytes() == expected(tmp_path / "orders.csv")
    with pytest.raises(JobFinishedError):
        await orders(backend, tmp_path).init()
    await backend.aclose()


@pytest.mark.slow
async def test_redis_restarts_with_its_data_during_a_run(fleet: Fleet, tmp_path: Path) -> None:
    write_orders(tmp_path / "orders.csv", 200)
    backend = backend_of(fleet)
    await announced(backend)
    process = orders(backend, tmp_path, pause=0.01)
    async with asyncio.timeout(SECONDS), process:
        safe = process.watch()
        running = asyncio.create_task(process.run())
        await safe.wait()
        await asyncio.to_thread(fleet.server.restart)
        await running
    assert (tmp_path / "sums.csv").read_bytes() == expected(tmp_path / "orders.csv")
    assert all(worker.running for worker in fleet.workers.values())
    await backend.aclose()


async def test_redis_restarts_empty_during_a_run(fleet: Fleet, tmp_path: Path) -> None:
    write_orders(tmp_path / "orders.csv", 200)
    backend = backend_of(fleet)
    await announced(backend)
    process = orders(backend, tmp_path, pause=0.01)
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(SECONDS), process:
            safe = process.watch()
            running = asyncio.create_task(process.run())
            await safe.wait()
            await asyncio.to_thread(fleet.server.restart, empty=True)
            await running
    # of one group or of several, as soon as it is noticed
    for error in caught.value.exceptions:
        assert isinstance(error, StateLostError)
        assert "restarted without its data" in str(error)
        assert PASSWORD not in f"{error!r} {getattr(error, '__notes__', '')}"
    assert process.status is Status.FAILED
    # and the job goes on when the workers have announced themselves anew
    await announced(backend)
    async with asyncio.timeout(SECONDS), orders(backend, tmp_path) as again:
        await again.run()
    assert (tmp_path / "sums.csv").read_bytes() == expected(tmp_path / "orders.csv")
    await backend.aclose()


@pytest.mark.parametrize(
    ("key", "password", "kind", "text"),
    [
        (None, PASSWORD, SignatureError, "is not signed.*STBASS_SIGNING_KEY"),
        ("some-other-key-of-sixteen-or-more", PASSWORD, SignatureError, "signature is wrong"),
        (KEY, "wrong-word", BackendUnavailableError, r"redis://:\*\*\*@.*does not accept the user"),
    ],
    ids=["no key", "another key", "another password"],
)
async def test_who_may_not_is_told_without_any_secret(
    fleet: Fleet,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    key: str | None,
    password: str,
    kind: type[Exception],
    text: str,
) -> None:
    write_orders(tmp_path / "orders.csv", 3)
    rightful = backend_of(fleet)
    await announced(rightful)
    url = fleet.server.url.replace(PASSWORD, password)
    app = make_app("tests", broker_url=url, stbass_lease=LEASE, stbass_signing_key=key)
    stranger = CeleryBackend(app, lease=LEASE)
    # when
    process = orders(stranger, tmp_path)
    with pytest.raises(kind, match=text) as caught:
        async with asyncio.timeout(SECONDS):
            await process.init()
    await stranger.aclose()
    # then
    said = f"{caught.value!r} {getattr(caught.value, '__notes__', '')} {process!r} {stranger!r} {caplog.text}"
    assert not [secret for secret in (PASSWORD, "wrong-word", KEY, "some-other-key") if secret in said]
    assert not (tmp_path / "sums.csv").exists()
    # and whoever may goes on
    async with asyncio.timeout(SECONDS), orders(rightful, tmp_path) as mine:
        await mine.run()
    assert (tmp_path / "sums.csv").read_bytes() == expected(tmp_path / "orders.csv")
    await rightful.aclose()


def test_on_the_command_line_that_is_one_line(fleet: Fleet, tmp_path: Path) -> None:
    write_orders(tmp_path / "orders.csv", 3)
    (tmp_path / "model.yaml").write_text(model(tmp_path, kind="CeleryProcess", args=f"placement: {PLACEMENT}"))
    known = {name: value for name, value in os.environ.items() if not name.startswith("STBASS_")}
    done = subprocess.run(
        [sys.executable, "-m", "stbass.cli", "process", "run", str(tmp_path / "model.yaml")],
        env={**known, **fleet.env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"stbass: the message \S+ in queue '\w+' is not signed, .*\n", done.stderr), done.stderr
