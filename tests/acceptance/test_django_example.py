"""examples/django: sync and async views, a run that writes into the database, clients that go away, the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from stbass.testing import RedisServer
from stbass.testing._guarded import GuardedProcess
from tests.support.site import ROOT, Site, gunicorn
from tests.support.waiting import until

pytest.importorskip("django", reason="the example needs Django")
pytest.importorskip("uvicorn", reason="the example needs uvicorn")
pytest.importorskip("gunicorn", reason="the example needs gunicorn")

PROJECT = ROOT / "examples" / "django"
TEXT = "All about tides, word by word, as a model would write it."

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def fleet(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A database, and a worker of the project's own application."""
    database = tmp_path_factory.mktemp("django") / "db.sqlite3"
    settings = {"REDIS_URL": server.url, "DATABASE": str(database)}
    env = {**os.environ, **settings, "PYTHONPATH": str(ROOT)}
    migrate = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
    done = subprocess.run(migrate, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "stbass", "worker", "-A", "reports_site", "-e", "reports"]
    worker = GuardedProcess(command, name="the worker", env=env, cwd=PROJECT)
    try:
        worker.wait_for_log(" ready.", 60)
        yield settings
    finally:
        worker.kill()


@pytest.fixture(scope="module")
def site(fleet: dict[str, str]) -> Iterator[Site]:
    """Two workers of uvicorn."""
    command = ("-m", "uvicorn", "reports_site.asgi:application", "--port", "{port}", "--workers", "2")
    made = Site(*command, ready="Application startup complete", environment=fleet, cwd=PROJECT)
    try:
        made.start()
        yield made
    finally:
        made.kill()


@pytest.mark.slow
def test_the_migrations_are_those_of_the_models(fleet: dict[str, str]) -> None:
    env = {**os.environ, **fleet, "PYTHONPATH": str(ROOT)}
    check = [sys.executable, "manage.py", "makemigrations", "--check", "--dry-run"]
    done = subprocess.run(check, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_views_wait_for_a_process(site: Site) -> None:
    assert site.ask("GET", "/titles/?topic=tides") == (200, {"title": "All about tides"})
    assert site.ask("GET", "/answers/?topic=moons") == (200, {"title": "All about moons"})


def test_a_report_is_written_into_the_database(site: Site) -> None:
    status, told = site.ask("POST", "/reports/", form={"topic": "tides"})
    assert status == 201
    path = f"/reports/{told['pk']}/"
    events = list(site.follow(f"{path}events/"))
    assert " ".join(event["value"] for event in events if event["kind"] == "output") == TEXT
    assert events[-1]["value"] == f"report {told['pk']}"
    # A browser that was cut off goes on where it was.
    assert list(site.follow(f"{path}events/", events[4]["id"])) == events[5:]
    assert site.ask("GET", path) == (200, {"topic": "tides", "text": TEXT, "length": 12})
    assert site.ask("GET", "/reports/999/events/")[0] == 404
    assert [site.ask("GET", f"/titles/{query}")[0] for query in ("", f"?topic={'x' * 101}")] == [400, 400]
    assert site.ask("POST", "/reports/", form={"topic": ""})[0] == 400
    connection, answer = site.open("GET", f"{path}events/", Last_Event_ID="999")
    with closing(connection):
        assert "has never had an event" in answer.read().decode()


def test_a_report_can_be_stopped(site: Site) -> None:
    _, told = site.ask("POST", "/reports/", form={"topic": "moons"})
    path = f"/reports/{told['pk']}/"
    assert site.ask("POST", f"{path}stop/")[0] == 204
    assert "cancelled" in list(site.follow(f"{path}events/"))[-1]["error"]
    assert site.ask("GET", path)[1]["text"] == ""


async def test_a_client_that_goes_away_ends_what_its_async_view_waits_for(server: RedisServer, site: Site) -> None:
    with site.ask_and_go("/answers/?topic=x&hard"):
        await until(lambda: server.command("ZCARD", "stbass:leases") == 1, timeout=30)
    # Long before it would be done, in 60 s.
    await until(lambda: server.command("ZCARD", "stbass:leases") == 0, timeout=30)


def test_it_ends_in_order(site: Site) -> None:
    assert site.stop() in (0, -signal.SIGTERM)
    assert "Traceback" not in site.log


@pytest.mark.slow
def test_the_same_views_under_wsgi(fleet: dict[str, str]) -> None:
    site = gunicorn("reports_site.wsgi", threads=4, environment=fleet, cwd=PROJECT)
    try:
        site.start()
        assert site.ask("GET", "/titles/?topic=tides") == (200, {"title": "All about tides"})
        assert site.ask("GET", "/answers/?topic=tides") == (200, {"title": "All about tides"})
        _, told = site.ask("POST", "/reports/", form={"topic": "tides"})
        assert list(site.follow(f"/reports/{told['pk']}/events/"))[-1]["error"] is None
        assert site.stop() == 0
        assert "Traceback" not in site.log
    finally:
        site.kill()
