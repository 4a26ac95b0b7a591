"""Messages and results that somebody wrote who means harm: nothing in them is imported, called or unpickled."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
from pathlib import Path
from typing import Any

import msgspec
import pytest
from celery import Celery
from pytest_celery import CeleryTestSetup

from stbass import wire
from stbass._process.context import ProcessContext
from stbass._values.endpoint import Placement
from stbass._values.ids import new_id
from stbass.backends.celery import CeleryBackend
from stbass.backends.celery.envelope import ENVELOPE_HEADER, Envelope
from stbass.backends.celery.settings import EXECUTE
from stbass.errors import ProcessRefused, RemoteError, WireError
from tests.support.agents import Give
from tests.support.puppets import Puppet, Puppeteer, imported

pytestmark = pytest.mark.acceptance

ANTHROPIC = Placement(endpoint="anthropic")
# Standard library, harmless, and imported by nothing else.
UNHEARD_OF = "this"


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.path}",)


async def _do_next(backend: CeleryBackend) -> None:
    """The worker lives on, and does the next one."""
    async with asyncio.timeout(10):
        assert (await backend.execute(Give("next"), ProcessContext("give", placement=ANTHROPIC))).value == "next"


def _forms(path: Path) -> dict[str, Any]:
    """Processes that nobody registered, as a message would name them."""
    touch = f"touch {path}"
    value = {"~": "process", "r": "tests.support.agents:Give"}
    return {
        "function": {"~": "process", "r": "os:system"},
        "class": {"~": "process", "r": "os:system", "a": [touch]},
        "popen": {"~": "process", "r": "subprocess:Popen", "a": [["touch", str(path)]]},
        "not imported": {"~": "process", "r": f"{UNHEARD_OF}:c"},
        "attribute": {"~": "process", "r": "tests.support.agents:os.system", "a": [touch]},
        "imported, not included": {"~": "process", "r": "celery.app.base:Celery", "a": []},
        "composition": {"~": "composition", "r": "os:system", "v": {"command": touch}},
        "error": {**value, "a": [{"~": "error", "c": "os:system", "m": touch, "a": [touch]}]},
        "enum": {**value, "a": [{"~": "enum", "c": "os:system", "v": touch}]},
        "unheard-of error": {**value, "a": [{"~": "error", "c": f"{UNHEARD_OF}:c", "m": "", "a": []}]},
    }


async def test_what_nobody_registered_is_never_imported_or_run(
    celery_setup: CeleryTestSetup, backend: CeleryBackend, tmp_path: Path
) -> None:
    app: Celery = celery_setup.app
    touched = tmp_path / "touched"
    # A registered process, and an argument of a class that is not known: it arrives as plain data.
    harmless = {"error", "enum", "unheard-of error"}
    for name, form in _forms(touched).items():
        task_id = new_id()
        envelope = Envelope(task_id, "anthropic", name, 10.0, msgspec.Raw(json.dumps(form).encode()))
        text = msgspec.json.encode(envelope).decode()
        answer = app.send_task(EXECUTE, task_id=task_id, queue="anthropic", headers={ENVELOPE_HEADER: text})
        if name in harmless:
            value = wire.loads(json.dumps(await asyncio.to_thread(answer.get, timeout=5)).encode())
            assert isinstance(value, (wire.Opaque, RemoteError)), name
        else:
            with pytest.raises((ProcessRefused, WireError), match=r"os:system|Popen|this:c|os\.system|Celery"):
                await asyncio.to_thread(answer.get, timeout=5)
    await _do_next(backend)
    assert not touched.exists()
    ctx = ProcessContext("imported", placement=ANTHROPIC)
    seen = await backend.execute(imported(UNHEARD_OF, "tests.support.puppets"), ctx)
    assert seen.value == ["tests.support.puppets"]


def _message(task: str, body: bytes, content_type: str, encoding: str) -> bytes:
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-type": content_type,
            "content-encoding": encoding,
            "headers": {"lang": "py", "task": task, "id": new_id(), "retries": 0, "root_id": None, "parent_id": None},
            "properties": {
                "correlation_id": new_id(),
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": "anthropic"},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": new_id(),
            },
        }
    ).encode()


async def test_a_pickle_is_never_read(celery_setup: CeleryTestSetup, backend: CeleryBackend, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    bomb = pickle.dumps([[Bomb(touched)], {}, {}])
    broker = celery_setup.broker.container.client
    for task in (EXECUTE, "tests.add", "os:system", "os.system"):
        for content_type in ("application/x-python-serialize", "application/pickle", "application/json"):
            for encoding in ("binary", "utf-8"):
                broker.lpush("anthropic", _message(task, bomb, content_type, encoding))
    await _do_next(backend)
    assert not touched.exists()
    # None of them stays behind, to come again.
    container = celery_setup.worker.container
    container.kill("SIGTERM")
    assert await asyncio.to_thread(container.wait, 15) == 0
    assert (broker.llen("anthropic"), broker.hlen("unacked")) == (0, 0)


async def test_a_pickled_result_is_never_read(
    celery_setup: CeleryTestSetup, backend: CeleryBackend, puppeteer: Puppeteer, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    results = celery_setup.backend.container.client
    ctx = ProcessContext("puppet", placement=ANTHROPIC)
    waiting = asyncio.create_task(backend.execute(Puppet(puppeteer.port), ctx))
    async with asyncio.timeout(10):
        hand = await puppeteer.named("puppet")
        [reply] = results.pubsub_channels("stbass:reply:*")
        for channel in (reply, f"celery-task-meta-{ctx.process_id}"):
            results.publish(channel, pickle.dumps(Bomb(touched)))
        hand.order("return", "the real one")
        assert (await waiting).value == "the real one"
    assert not touched.exists()
