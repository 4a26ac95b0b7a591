"""``stbass worker --metrics-port``: what Prometheus finds there, and what the dashboard asks it for."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import aclosing, closing
from pathlib import Path
from urllib.request import urlopen

import pytest

from stbass import PLACED_PAR, FailurePolicy, Placement
from stbass._values.limits import Limit
from stbass.backends.celery import CeleryBackend, make_app
from stbass.backends.celery.line import WaitingLine
from stbass.backends.celery.settings import fleet_of
from stbass.testing import RedisServer
from stbass.testing._guarded import GuardedProcess
from stbass.testing.redis_server import free_port
from tests.support.agents import Fail, meets_itself, noop
from tests.support.backends import registry_of
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "docs" / "grafana" / "stbass.json"
COUNTED = Placement(endpoint="counted")


@pytest.fixture
def port(server: RedisServer) -> Iterator[int]:
    """That of a worker's metrics."""
    port = free_port()
    command = [sys.executable, "-m", "stbass.cli", "worker", "-e", "counted", "--include", "tests.support.agents"]
    command += ["--metrics-port", str(port)]
    environment = {**os.environ, "STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
    process = GuardedProcess(command, name="stbass worker", env=environment, cwd=ROOT)
    try:
        process.wait_for_log(" ready.", 60)
        yield port
    finally:
        process.kill()


def scraped(port: int) -> dict[str, float]:
    """Each line that Prometheus reads."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: float(value) for line in lines if line and line[0] != "#" for name, _, value in [line.rpartition(" ")]
    }


async def test_a_worker_says_what_runs_what_ended_what_waits_and_what_was_refused(
    server: RedisServer, port: int
) -> None:
    # given what ended well, what failed, and a message that is none
    app = make_app("tests", broker_url=server.url, result_backend=server.url)
    async with aclosing(CeleryBackend(app)) as backend:
        pairs = [(noop, COUNTED)] * 3 + [(Fail(), COUNTED), (meets_itself, COUNTED)]
        await PLACED_PAR(*pairs, registry=registry_of(backend), on_failure=FailurePolicy.COLLECT).run()
    server.command("LPUSH", "counted", "no message")
    server.command("LPUSH", "counted", json.dumps({"properties": {"delivery_tag": "1", "delivery_info": {}}}))
    await until(lambda: any(name.startswith("stbass_messages_refused_total") for name in scraped(port)))
    # when it is asked
    found = scraped(port)
    # then all of it is there
    counts = {
        re.findall(r'(stbass_process|stbass_state)="([^"]*)"', name)[0][1]: value
        for name, value in found.items()
        if name.startswith("stbass_process_duration_seconds_count") and 'stbass_endpoint="counted"' in name
    }
    assert counts == {"noop": 3, "Fail": 1, "meets_itself": 1}
    # and a quantile tells a tenth of a second from a second, and a minute from an hour
    for metric in ("stbass_process_duration_seconds", "stbass_channel_wait_seconds"):
        ends = {float(end) for name in found for end in re.findall(rf'^{metric}_bucket{{.*le="([^"]*)"', name)}
        assert {0.01, 0.1, 1, 10, 60, 600, 3600} < ends
    waits = [name for name in found if name.startswith("stbass_channel_wait_seconds_count{")]
    assert any('stbass_process="meets_itself"' in name and 'stbass_direction="send"' in name for name in waits)
    waiting = [value for name, value in found.items() if name.startswith("stbass_queue_length{") and "counted" in name]
    assert waiting == [0]
    assert all(value == 0 for name, value in found.items() if name.startswith("stbass_process_running{"))
    # and whatever the dashboard asks for exists, but for lost workers: none was
    names = {re.match(r"\w+", name)[0] for name in found}  # type: ignore[index]
    asked = {name for text in expressions() for name in re.findall(r"\bstbass_\w+(?=[\[{)])", text)}
    assert asked - names == {"stbass_workers_lost_total"}


async def test_a_worker_says_what_waits_for_a_limit(server: RedisServer, port: int) -> None:
    def limited() -> list[float]:
        found = scraped(port).items()
        return [value for name, value in found if name.startswith("stbass_queue_limited{") and "counted" in name]

    assert limited() == [0]
    # given an endpoint that is stopped
    app = make_app("tests", broker_url=server.url, result_backend=server.url)
    fleet = fleet_of(app)
    with closing(WaitingLine(fleet.settings, fleet.result_prefix, app)) as line:
        line.limit("counted", Limit(running=0))
        async with aclosing(CeleryBackend(app)) as backend:
            # when processes come
            group = asyncio.create_task(PLACED_PAR(*[(noop, COUNTED)] * 3, registry=registry_of(backend)).run())
            await until(lambda: limited() == [3], timeout=30)
            # and it goes on
            line.limit("counted", Limit())
            assert (await group).is_ok
    assert limited() == [0]


def expressions() -> list[str]:
    """What the dashboard asks for, without the labels that it sums by."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [re.sub(r"by \([^)]*\)", "", target["expr"]) for panel in panels for target in panel["targets"]]


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "stbass.cli", "worker", "-e", "a", "--metrics-port", str(port)]
        process = GuardedProcess(command, name="stbass worker", env=dict(os.environ), cwd=ROOT)
        try:
            assert process.wait(60) == 3
        finally:
            process.kill()
    assert f"--metrics-port {port}: Address already in use; choose another port" in process.log
    assert "Traceback" not in process.log


def test_a_worker_whose_children_do_the_work_says_what_it_does_not_count(server: RedisServer) -> None:
    # given a worker whose processes run in child processes, which have counts of their own
    command = [sys.executable, "-m", "stbass.cli", "worker", "-e", "counted", "--include", "tests.support.agents"]
    command += ["--pool", "prefork", "-c", "1", "--metrics-port", str(port := free_port())]
    process = GuardedProcess(
        command, name="stbass worker", env={**os.environ, "STBASS_BROKER_URL": server.url}, cwd=ROOT
    )
    try:
        process.wait_for_log(" ready.", 60)
        # then it says so, and tells what it does know
        assert "metrics   of queues alone: with prefork" in process.log
        assert any(name.startswith("stbass_queue_length{") for name in scraped(port))
    finally:
        process.kill()
