"""The example for FastAPI: answers, failures, several workers, a client that goes away, the end."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from stbass.testing import FakeLLM, RedisServer, Worker
from tests.support.site import ROOT, Site
from tests.support.waiting import until

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install fastapi")

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def site(server: RedisServer) -> Iterator[Site]:
    """Two workers of uvicorn, in front of a worker of the fleet."""
    with FakeLLM(latency=0.1) as llm:
        env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url, "STBASS_LLM_URL": llm.url}
        command = ("-m", "uvicorn", "examples.fastapi_app:web", "--port", "{port}", "--workers", "2")
        made = Site(*command, ready="Application startup complete", environment=env)
        with Worker("celery_app", "anthropic", env=env, cwd=ROOT):
            try:
                made.start()
                yield made
            finally:
                made.kill()


def test_it_answers(site: Site) -> None:
    status, found = site.ask("GET", "/reason?prompt=why&steps=2")
    assert status == 200
    assert found["steps"] == 2
    assert "why (step 2)" in found["conclusion"]
    assert site.ask("GET", "/reason?steps=2")[0] == 422


async def test_a_client_that_goes_away_ends_what_it_has_asked_for(server: RedisServer, site: Site) -> None:
    with site.ask_and_go("/reason?prompt=x&steps=100000"):
        await until(lambda: server.command("ZCARD", "stbass:leases") == 1, timeout=30)
    # Long before its deadline, 30 s.
    await until(lambda: server.command("ZCARD", "stbass:leases") == 0, timeout=20)


def test_it_ends_in_order(site: Site) -> None:
    assert site.stop() in (0, -signal.SIGTERM)
    assert "Application shutdown complete" in site.log
    assert "Traceback" not in site.log
