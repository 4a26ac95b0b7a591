"""The example for FastAPI: answers, failures, several workers, a client that goes away, the end."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from stbass.testing import FakeLLM, RedisServer, Worker
from stbass.testing._guarded import GuardedProcess
from stbass.testing.redis_server import free_port
from tests.support.waiting import until

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install fastapi")
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def site(server: RedisServer) -> Iterator[tuple[int, GuardedProcess]]:
    """The port of two workers of uvicorn, in front of a worker of the fleet."""
    port = free_port()
    with FakeLLM(latency=0.1) as llm:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "STBASS_LLM_URL": llm.url}
        command = [sys.executable, "-m", "uvicorn", "examples.fastapi_app:web", "--port", str(port), "--workers", "2"]
        with Worker("celery_app", "anthropic", env=env, cwd=ROOT):
            uvicorn = GuardedProcess(
                command, name="uvicorn", env={**os.environ, **env, "PYTHONPATH": str(ROOT)}, cwd=ROOT
            )
            try:
                uvicorn.wait_for_log("Application startup complete", 60)
                until_it_listens(port, time.monotonic() + 30)
                yield port, uvicorn
            finally:
                uvicorn.kill()


def until_it_listens(port: int, until: float) -> None:
    """Its first worker has started; whether it takes connections is another matter."""
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=10):
                return
        except urllib.error.URLError:
            """Not yet."""
    raise AssertionError("it does not listen")


def get(port: int, query: str) -> tuple[int, object]:
    try:
        # A loopback URL of our own.
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/reason?{query}", timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_it_answers(site: tuple[int, GuardedProcess]) -> None:
    status, found = get(site[0], "prompt=why&steps=2")
    assert status == 200
    assert isinstance(found, dict)
    assert found["steps"] == 2
    assert "why (step 2)" in found["conclusion"]
    assert get(site[0], "steps=2")[0] == 422


async def test_a_client_that_goes_away_ends_what_it_has_asked_for(
    server: RedisServer, site: tuple[int, GuardedProcess]
) -> None:
    with socket.create_connection(("127.0.0.1", site[0]), 10) as client:
        client.sendall(b"GET /reason?prompt=x&steps=100000 HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: server.command("ZCARD", "stbass:leases") == 1, timeout=30)
    # Long before its deadline, 30 s.
    await until(lambda: server.command("ZCARD", "stbass:leases") == 0, timeout=20)


def test_it_ends_in_order(site: tuple[int, GuardedProcess]) -> None:
    site[1].send_signal(signal.SIGTERM)
    assert site[1].wait(60) in (0, -signal.SIGTERM)
    assert "Application shutdown complete" in site[1].log
    assert "Traceback" not in site[1].log
