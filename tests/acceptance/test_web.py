"""examples/web over real HTTP: readers that are cut off, a web server that is killed, and a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from stbass.testing import RedisServer, Worker
from tests.support.site import ROOT, Site

pytest.importorskip("fastapi", reason="the example needs FastAPI")
pytest.importorskip("uvicorn", reason="the example needs uvicorn")

TEXT = "A report on the tides. It is written word by word, as a model would write it, and every reader sees all of it."

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """A fleet that writes reports."""
    with ExitStack() as stack:
        url = stack.enter_context(RedisServer()).url
        made = {"STBASS_BROKER_URL": url, "STBASS_RESULT_BACKEND": url}
        stack.enter_context(Worker("stbass.app", "reports", env=made, include=["examples.web.report"], cwd=ROOT))
        yield made


@pytest.fixture(scope="module")
def web(environment: dict[str, str]) -> Iterator[Site]:
    command = ("-m", "uvicorn", "examples.web.app:web", "--port", "{port}")
    made = Site(*command, ready="Uvicorn running on", environment=environment)
    made.start()
    yield made
    made.kill()


def test_a_reader_that_is_cut_off_misses_nothing(web: Site) -> None:
    topic, key = {"topic": "the tides"}, "order-42"
    assert web.ask("POST", "/runs", topic, Idempotency_Key=key) == (201, {"id": key})
    assert web.ask("POST", "/runs", topic, Idempotency_Key=key) == (200, {"id": key})
    status, told = web.ask("POST", "/runs", {"topic": "the moon"}, Idempotency_Key=key)
    assert status == 409
    assert "'report'" in told["detail"]
    # given a reader that is cut off in the middle
    seen: list[dict[str, Any]] = []
    following = web.follow(f"/runs/{key}/events")
    while sum(event["kind"] == "output" for event in seen) < 5:
        seen.append(next(following))
    following.close()  # type: ignore[attr-defined]
    # and a web server that is killed, and started anew
    web.kill()
    web.start()
    # when it connects again, as a browser does
    following = web.follow(f"/runs/{key}/events", seen[-1]["id"])
    while seen[-1]["path"] != "report/publish":
        seen.append(next(following))
    assert web.ask("GET", f"/runs/{key}")[1]["status"]["state"] == "running"
    # and says yes
    assert web.ask("POST", f"/runs/{key}/approval", {"approved": True}) == (204, None)
    seen += following
    # then it has seen everything, once and in order
    assert [event["id"] for event in seen] == [str(number + 1) for number in range(len(seen))]
    assert [event["sent"] for event in seen] == [(event["id"], event["kind"]) for event in seen]
    assert " ".join(event["value"] for event in seen if event["kind"] == "output") == TEXT
    assert (seen[-1]["kind"], seen[-1]["value"]) == ("ended", TEXT)
    # and so has whoever comes later
    assert list(web.follow(f"/runs/{key}/events")) == seen
    assert web.ask("GET", f"/runs/{key}")[1]["value"] == TEXT
    assert web.ask("POST", f"/runs/{key}/approval", {"approved": True})[0] == 409


def test_a_reader_can_say_no_and_stop_a_report(web: Site) -> None:
    _, told = web.ask("POST", "/runs", {"topic": "the sun"})
    for event in web.follow(f"/runs/{told['id']}/events"):
        if event["path"] == "report/publish" and event["kind"] == "started":
            web.ask("POST", f"/runs/{told['id']}/approval", {"approved": False})
    assert event["value"] == "It was not published."
    _, told = web.ask("POST", "/runs", {"topic": "the stars"})
    assert web.ask("DELETE", f"/runs/{told['id']}") == (204, None)
    assert [event["kind"] for event in web.follow(f"/runs/{told['id']}/events")][-1] == "ended"
    assert "cancelled" in web.ask("GET", f"/runs/{told['id']}")[1]["error"]


def test_wrong_requests_are_told(web: Site) -> None:
    assert web.ask("GET", "/runs/unknown")[0] == 404
    assert web.ask("DELETE", "/runs/unknown")[0] == 404
    assert web.ask("GET", "/runs/unknown/events")[0] == 404
    assert web.ask("POST", "/runs", {"topic": ""})[0] == 422
    assert web.ask("POST", "/runs", {"topic": "x"}, Idempotency_Key="x" * 201)[0] == 422
    _, told = web.ask("POST", "/runs", {"topic": "the wind"})
    connection, answer = web.open("GET", f"/runs/{told['id']}/events", Last_Event_ID="999")
    with closing(connection):
        assert "has never had an event" in answer.read().decode()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium: apt install chromium")
def test_the_page_in_a_browser(web: Site, tmp_path: Path) -> None:
    _, told = web.ask("POST", "/runs", {"topic": "the tides"})
    following = web.follow(f"/runs/{told['id']}/events")
    while next(following)["path"] != "report/publish":
        pass
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--timeout=8000", "--dump-dom", f"http://127.0.0.1:{web.port}/#{told['id']}"]
    page, until = "", time.monotonic() + 90
    while TEXT not in page and time.monotonic() < until:
        # The events go on, so the page is never done: it is looked at, at times before all of them have come.
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        page = re.sub(r"<script>.*?</script>", "", done.stdout, flags=re.DOTALL)
    assert TEXT in page, page
    assert "waits for you" in page
    assert re.search(r'<p class="row" id="ask">', page), "the reader is not asked"
