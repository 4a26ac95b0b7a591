"""examples/flask with two workers of gunicorn: answers, a page that follows a run, clients that go away, the end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from stbass.testing import RedisServer, Worker
from tests.support.site import ROOT, Site, gunicorn
from tests.support.waiting import until

pytest.importorskip("flask", reason="the example needs Flask")
pytest.importorskip("gunicorn", reason="the example needs gunicorn")

TEXT = "A report on the tides. It is written word by word, as a model would write it, and every reader sees all of it."

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def fleet(server: RedisServer) -> Iterator[dict[str, str]]:
    """A worker that writes drafts."""
    env = {"STBASS_BROKER_URL": server.url, "STBASS_RESULT_BACKEND": server.url}
    with Worker("stbass.app", "reports", env=env, include=["examples.web.report"], cwd=ROOT):
        yield env


@pytest.fixture(scope="module")
def site(fleet: dict[str, str]) -> Iterator[Site]:
    made = gunicorn("--graceful-timeout", "2", "examples.flask.app:web", threads=8, environment=fleet)
    made.start()
    yield made
    made.kill()


def test_a_request_waits_for_its_draft(site: Site) -> None:
    assert site.ask("GET", "/drafts?topic=the+tides") == (200, {"text": TEXT})
    assert site.ask("GET", "/drafts")[0] == 400


def test_a_reader_that_is_cut_off_misses_nothing(site: Site) -> None:
    form, key = {"topic": "the tides"}, "order-42"
    assert site.ask("POST", "/runs", form=form, Idempotency_Key=key) == (201, {"id": key})
    assert site.ask("POST", "/runs", form=form, Idempotency_Key=key) == (200, {"id": key})
    status, told = site.ask("POST", "/runs", form={"topic": "the moon"}, Idempotency_Key=key)
    assert (status, "'draft'" in told["error"]) == (409, True)
    # given a reader that is cut off in the middle, by a server that is stopped and started anew
    seen: list[dict[str, Any]] = []
    following = site.follow(f"/runs/{key}/events")
    while sum(event["kind"] == "output" for event in seen) < 3:
        seen.append(next(following))
    assert site.stop() == 0
    following.close()  # type: ignore[attr-defined]
    assert "Traceback" not in site.log
    site.start()
    # then it has seen everything, once and in order, when it has connected again
    seen += site.follow(f"/runs/{key}/events", seen[-1]["id"])
    assert [event["id"] for event in seen] == [str(number + 1) for number in range(len(seen))]
    assert " ".join(event["value"] for event in seen if event["kind"] == "output") == TEXT
    assert (seen[-1]["kind"], seen[-1]["value"]) == ("ended", TEXT)
    assert list(site.follow(f"/runs/{key}/events")) == seen


async def test_a_run_goes_on_when_its_reader_goes_away_and_can_be_stopped(server: RedisServer, site: Site) -> None:
    def listeners() -> int:
        return str(server.command("CLIENT", "LIST", "TYPE", "pubsub")).count("id=")

    before = listeners()
    _, told = site.ask("POST", "/runs", form={"topic": "the moon"})
    with site.ask_and_go(f"/runs/{told['id']}/events"):
        pass
    assert list(site.follow(f"/runs/{told['id']}/events"))[-1]["error"] is None
    _, told = site.ask("POST", "/runs", form={"topic": "the sun"})
    assert site.ask("DELETE", f"/runs/{told['id']}") == (204, None)
    assert "cancelled" in list(site.follow(f"/runs/{told['id']}/events"))[-1]["error"]
    # Nothing is left of the requests: the connections of each were closed.
    await until(lambda: listeners() <= before, timeout=30)


def test_a_reader_is_written_to_while_nothing_happens(fleet: dict[str, str]) -> None:
    # given a run in whose queue no worker looks
    program = (
        "import asyncio, stbass; from examples.flask import app as example; example.KEEP_ALIVE = 0.1\n"
        "started = stbass.start(example.draft('x'), placement=example.WRITERS, registry=example.registry)\n"
        "lines = example.events(asyncio.run(started).id, None)\n"
        "print(next(lines).splitlines()[1]); print(next(lines).strip()); print(next(lines).strip()); lines.close()"
    )
    env = {**os.environ, **fleet, "PYTHONPATH": str(ROOT), "STBASS_KEY_PREFIX": "idle:"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (["event: queued", ": nothing new", ": nothing new"], "")


def test_wrong_requests_are_told(site: Site) -> None:
    assert site.ask("GET", "/runs/unknown/events")[0] == 404
    assert site.ask("DELETE", "/runs/unknown")[0] == 404
    assert site.ask("POST", "/runs", form={})[0] == 400
    assert site.ask("POST", "/runs", form={"topic": "x"}, Idempotency_Key="x" * 201)[0] == 400
    assert site.ask("POST", "/runs", form={"topic": "x" * 100_000})[0] == 413
    connection, answer = site.open("GET", "/runs/order-42/events", Last_Event_ID="999")
    with closing(connection):
        assert "has never had an event" in answer.read().decode()
    connection, answer = site.open("GET", "/")
    with closing(connection):
        assert "EventSource" in answer.read().decode()
